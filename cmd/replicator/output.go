package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

// output is the -o flag: how a command prints what it found. Standard output
// carries the data and nothing else.
type output struct{ format string }

func (o *output) flag(cmd *cobra.Command) {
	formatFlag(cmd, &o.format, "table", "json", "jsonl", "yaml")
}

// formatFlag is an -o flag that takes one of a few words; the first is the
// default.
func formatFlag(cmd *cobra.Command, format *string, words ...string) {
	*format = words[0]
	cmd.Flags().VarP(&choice{format, words}, "output", "o", "output format")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // fails only if the flag is missing
}

// choice is the value of a flag that takes one of a few words.
type choice struct {
	value *string
	words []string
}

func (c *choice) String() string {
	if c.value == nil {
		return ""
	}
	return *c.value
}

func (c *choice) Set(word string) error {
	if !slices.Contains(c.words, word) {
		return fmt.Errorf("choose one of %s", strings.Join(c.words, ", "))
	}
	*c.value = word
	return nil
}

// Type is what --help shows for the value.
func (c *choice) Type() string { return strings.Join(c.words, "|") }

// print writes v as JSON or YAML, or lets draw make a table of it.
func (o *output) print(w io.Writer, v any, draw func(*table)) error {
	switch o.format {
	case "table":
		t := newTable(w)
		draw(t)
		return t.close()
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "jsonl":
		enc := json.NewEncoder(w)
		list := reflect.ValueOf(v)
		if list.Kind() != reflect.Slice {
			return enc.Encode(v)
		}
		for i := range list.Len() {
			if err := enc.Encode(list.Index(i).Interface()); err != nil {
				return err
			}
		}
		return nil
	case "yaml":
		return printYAML(w, v)
	}
	return fmt.Errorf("format %q is not known", o.format)
}

// printYAML goes through JSON, so that both formats have the same keys.
func printYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var plain any
	if err := yaml.Load(b, &plain); err != nil { // JSON is YAML
		return err
	}
	if b, err = yaml.Dump(plain, yaml.WithIndent(2)); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// table prints columns aligned. Errors of the writer are kept until close.
type table struct {
	w *tabwriter.Writer
}

func newTable(w io.Writer) *table { return &table{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)} }

func (t *table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, inert(fmt.Sprint(c), "\t"))
	}
	fmt.Fprintln(t.w)
}

func (t *table) line(s string) { fmt.Fprintln(t.w, inert(s, "\t\n")) }

// inert shows the control characters of a text, other than those to keep, as \x1b:
// strangers choose names of groups and what they are refused, and a terminal obeys.
func inert(s, keep string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) && !strings.ContainsRune(keep, r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func (t *table) close() error { return t.w.Flush() }

// count prints a number with its thousands apart.
func count(n int64) string {
	s := fmt.Sprint(n)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// or is s, or a dash where there is nothing to say.
func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// several is a number and what it counts, in the right form.
func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
