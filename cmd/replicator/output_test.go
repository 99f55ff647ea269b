package main

import (
	"math"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestOutputFormats(t *testing.T) {
	type row struct {
		Name string `json:"name"`
		N    int64  `json:"size"`
	}
	rows := []row{{"a", 1}, {"b: c", 1 << 60}}
	draw := func(t *table) {
		t.row("NAME", "N")
		for _, r := range rows {
			t.row(r.Name, r.N)
		}
	}
	for format, want := range map[string]string{
		"table": "NAME  N\na     1\nb: c  1152921504606846976\n",
		"json":  "[\n  {\n    \"name\": \"a\",\n    \"size\": 1\n  },\n  {\n    \"name\": \"b: c\",\n    \"size\": 1152921504606846976\n  }\n]\n",
		"jsonl": "{\"name\":\"a\",\"size\":1}\n{\"name\":\"b: c\",\"size\":1152921504606846976}\n",
		"yaml":  "- name: a\n  size: 1\n- name: 'b: c'\n  size: 1152921504606846976\n",
	} {
		var b strings.Builder
		if err := (&output{format}).print(&b, rows, draw); err != nil || b.String() != want {
			t.Errorf("%s: got %v\n%s\nwant\n%s", format, err, &b, want)
		}
	}
	var b strings.Builder
	if err := (&output{"jsonl"}).print(&b, rows[0], draw); err != nil || b.String() != "{\"name\":\"a\",\"size\":1}\n" {
		t.Errorf("one object: got %v %s", err, &b)
	}
	if err := (&output{"xml"}).print(&b, rows, draw); err == nil {
		t.Error("a format that nobody knows: want an error")
	}
}

func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 7: "7", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567",
		-1: "-1", -999: "-999", -1000: "-1,000", -123456: "-123,456",
		math.MaxInt64: "9,223,372,036,854,775,807", math.MinInt64: "-9,223,372,036,854,775,808",
	} {
		if got := count(n); got != want {
			t.Errorf("count: got %s, want %s", got, want)
		}
	}
	for got, want := range map[string]string{
		known(-1): "?", known(1000): "1000", records(-1): "?", records(1000): "1,000", seconds(-1): "?", seconds(0.25): "0.2 s", seconds(61): "61.0 s",
		several(0, "fault"): "0 faults", several(1, "fault"): "1 fault", several(2, "fault"): "2 faults", or(""): "-", or("x"): "x", yes(true): "yes", yes(false): "no",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestHelpShowsTheWordsOfAChoice and not that each is a format.
func TestHelpShowsTheWordsOfAChoice(t *testing.T) {
	var kind string
	cmd := &cobra.Command{}
	cmd.Flags().Var(&choice{&kind, []string{"accessed", "produced"}}, "kind", "what to list")
	if got := cmd.Flags().FlagUsages(); !strings.Contains(got, "--kind accessed|produced ") {
		t.Errorf("got %q", got)
	}
}

// What strangers have chosen does not get to do things to an operator's terminal.
func TestTablesObeyNobody(t *testing.T) {
	var b strings.Builder
	tab := newTable(&b)
	tab.row("token \x1b[2J", "next\nline", 7)
	tab.line("two\nlines \x07\u009b1m")
	if err := tab.close(); err != nil {
		t.Fatal(err)
	}
	if want := `token \x1b[2J  next\nline  7` + "\ntwo\n" + `lines \a\u009b1m` + "\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}
