package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
)

const root = "../../"

// pages are what people read besides the help.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files := []string{root + "README.md", root + "ARCHITECTURE.md", root + "CONTRIBUTING.md", root + "CHANGELOG.md"}
	for _, pattern := range []string{"docs/*.md", "deploy/runbooks/*.yaml"} {
		more, err := filepath.Glob(root + pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	texts := map[string]string{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[strings.TrimPrefix(file, root)] = string(b)
	}
	return texts
}

var (
	// A line of a code block, of a comment, or of an example.
	commandLine = regexp.MustCompile(`(?m)^[ \t#]*(?:\$ )?(?:[^\n|]*\| *)?(?:go run \./cmd/|bin/)?replicator +([a-z-][^\n]*)$`)
	inlineCode  = regexp.MustCompile("`replicator ([^`\n]+)`")
	quoted      = regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
)

// commandsIn finds the command lines of a text. Those in prose, which do not
// stand in code, are not meant to be typed.
func commandsIn(text string) (found []string) {
	for _, m := range commandLine.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(m[0], " ") || strings.HasPrefix(m[0], "\t") || strings.HasPrefix(m[0], "#") {
			found = append(found, m[1])
		}
	}
	for _, m := range inlineCode.FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

// words splits a command line as a shell does, up to a comment, pipe or
// redirection.
func words(line string) (args []string) {
	for _, w := range quoted.FindAllString(line, -1) {
		if strings.HasPrefix(w, "#") || w == "|" || w == ">" || w == "<" {
			break
		}
		args = append(args, strings.Trim(w, `"'`))
	}
	return args
}

// understood says why cobra would not take a command line.
func understood(line string) error {
	cmd, rest, err := newRoot().Find(words(line))
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	args := cmd.Flags().Args()
	if cmd.HasSubCommands() && len(args) > 0 {
		return fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	}
	if err := cmd.ValidateArgs(args); err != nil && len(args) > 0 { // `replicator apply` alone names the verb
		return err
	}
	return nil
}

func TestCommandLinesInTheDocumentationAreUnderstood(t *testing.T) {
	for name, text := range pages(t) {
		for _, line := range commandsIn(text) {
			if err := understood(strings.TrimPrefix(line, "help ")); err != nil {
				t.Errorf("%s: replicator %s: %v", name, line, err)
			}
		}
	}
	each(newRoot(), func(cmd *cobra.Command) {
		for _, line := range commandsIn(cmd.Example) {
			if err := understood(line); err != nil {
				t.Errorf("help of %s: replicator %s: %v", cmd.CommandPath(), line, err)
			}
		}
		if cmd.Example != "" && len(commandsIn(cmd.Example)) != strings.Count(cmd.Example, "replicator ") {
			t.Errorf("help of %s: not every example is a command line:\n%s", cmd.CommandPath(), cmd.Example)
		}
	})
}

// TestCommandLinesAreFound keeps the search from finding nothing.
func TestCommandLinesAreFound(t *testing.T) {
	text := "Run `replicator broker --dir x` first, replicator bogus is prose.\n\n    echo a | replicator produce t -b h:1   # writes\n    $ replicator status\n#   replicator apply -f x.yaml\nreplicator prose\n    go run ./cmd/replicator demo     # it\n"
	want := []string{"produce t -b h:1   # writes", "status", "apply -f x.yaml", "demo     # it", "broker --dir x"}
	if got := commandsIn(text); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, wrong := range []string{"bogus", "status --bogus", "topic lsit", "apply x", "groups list --flow"} {
		if understood(wrong) == nil {
			t.Errorf("replicator %s is taken for right", wrong)
		}
	}
	if got := words(`runbook approve x --reason "all green" > r.md # now`); !slices.Equal(got, []string{"runbook", "approve", "x", "--reason", "all green"}) {
		t.Errorf("got %q", got)
	}
}

func TestEveryVerbIsDocumented(t *testing.T) {
	var all strings.Builder
	for _, text := range pages(t) {
		all.WriteString(text)
	}
	each(newRoot(), func(cmd *cobra.Command) {
		if cmd.Runnable() && !cmd.HasSubCommands() && cmd.Name() != "version" && !strings.Contains(all.String(), cmd.CommandPath()) {
			t.Errorf("%q is in no page", cmd.CommandPath())
		}
	})
}

func TestLinksOfTheDocumentationLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#: ]+)(?:#[^)]*)?\)`)
	for name, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// yamlBlocks are the ```yaml blocks of a page.
func yamlBlocks(t *testing.T, page string) []string {
	t.Helper()
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(pages(t)[page], -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) == 0 {
		t.Fatalf("%s has no YAML in it", page)
	}
	return blocks
}

// keysOf are the paths of all keys that a configuration can have.
func keysOf(typ reflect.Type, prefix string, into map[string]bool) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			keysOf(f.Type, prefix, into)
			continue
		}
		if key, _, _ := strings.Cut(f.Tag.Get("json"), ","); key != "" && key != "-" {
			into[prefix+key] = true
			keysOf(f.Type, prefix+key+".", into)
		}
	}
}

// setKeys are the paths of the keys that a decoded value has: an optional one
// that is zero counts as left out.
func setKeys(v reflect.Value, prefix string, into map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			setKeys(v.Elem(), prefix, into)
		}
	case reflect.Slice:
		for i := range v.Len() {
			setKeys(v.Index(i), prefix, into)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.Anonymous {
				setKeys(v.Field(i), prefix, into)
				continue
			}
			key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if key == "" || key == "-" {
				continue
			}
			if !v.Field(i).IsZero() {
				into[prefix+key] = true
			}
			setKeys(v.Field(i), prefix+key+".", into)
		}
	}
}

// compareKeys wants every key to be set somewhere, or to stand in the text if it
// is one whose example is the zero value.
func compareKeys(t *testing.T, page string, all, set map[string]bool, text string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(all)) {
		key := path[strings.LastIndex(path, ".")+1:]
		if !set[path] && !regexp.MustCompile(`\b`+key+`: (false|0|\{\})`).MatchString(text) {
			t.Errorf("%s: no example of %s", page, path)
		}
	}
}

func TestTheBrokersFileIsDocumented(t *testing.T) {
	const page = "docs/broker.md"
	var f brokerFile
	text := yamlBlocks(t, page)[0]
	d, err := flow.ReadDocument(page, strings.NewReader(text), &f)
	if err != nil {
		t.Fatal(err)
	}
	if d.Err() != nil {
		t.Errorf("%v", d.Err())
	}
	all, set := map[string]bool{}, map[string]bool{}
	keysOf(reflect.TypeFor[brokerFile](), "", all)
	setKeys(reflect.ValueOf(f), "", set)
	compareKeys(t, page, all, set, text)

	// What is shown as a default is one. What has to differ, to be an example, does not count.
	want := broker.DefaultConfig()
	got := want
	f.into(&got)
	got.Dir, got.ClusterID, got.Listeners, got.Authorizer, got.SuperUsers, got.Tokens, got.ProvenanceExempt = "", "", want.Listeners, false, nil, nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s shows\n%+v, and the defaults are\n%+v", page, got, want)
	}
}

func TestTheNodesFileIsDocumented(t *testing.T) {
	const page = "docs/fleet.md"
	all, set := map[string]bool{}, map[string]bool{}
	keysOf(reflect.TypeFor[nodeFile](), "", all)
	blocks := yamlBlocks(t, page)
	for _, text := range blocks {
		var f nodeFile
		d, err := flow.ReadDocument(page, strings.NewReader(text), &f)
		if err != nil {
			t.Fatal(err)
		}
		if d.Err() != nil {
			t.Errorf("%v", d.Err())
		}
		setKeys(reflect.ValueOf(f), "", set)
	}
	compareKeys(t, page, all, set, strings.Join(blocks, "\n"))
}

func TestObjectsAreDocumented(t *testing.T) {
	all, set := map[string]bool{}, map[string]bool{}
	keysOf(reflect.TypeFor[flow.Cluster](), "Cluster.", all)
	keysOf(reflect.TypeFor[flow.ReplicationFlow](), "ReplicationFlow.", all)
	keysOf(reflect.TypeFor[flow.Runbook](), "Runbook.", all)
	delete(all, "ReplicationFlow.metadata.labels") // those of Cluster are enough
	delete(all, "ReplicationFlow.metadata.annotations")
	delete(all, "Runbook.metadata.labels")
	delete(all, "Runbook.metadata.annotations")
	var text strings.Builder
	var objects []flow.Object
	for _, page := range []string{"docs/flows.md", "docs/runbooks.md", "README.md"} {
		for _, block := range yamlBlocks(t, page) {
			parsed, err := flow.Parse(page, strings.NewReader(block))
			if err != nil {
				t.Fatal(err)
			}
			if page == "README.md" {
				if problems := flow.Check(parsed); len(problems) > 0 {
					t.Errorf("%v", problems)
				}
				continue
			}
			text.WriteString(block)
			objects = append(objects, parsed...)
		}
	}
	for _, o := range objects {
		for _, body := range []any{o.Cluster, o.Flow, o.Runbook} {
			setKeys(reflect.ValueOf(body), string(o.Kind)+".", set)
		}
	}
	compareKeys(t, "docs/flows.md and docs/runbooks.md", all, set, text.String())

	pages := pages(t)
	for path := range all {
		key, page := path[strings.Index(path, ".")+1:], "docs/flows.md"
		if strings.HasPrefix(path, "Runbook.") {
			page = "docs/runbooks.md"
		}
		if last := key[strings.LastIndex(key, ".")+1:]; !strings.Contains(pages[page], last) {
			t.Errorf("%s says nothing of %s", page, path)
		}
	}
}

func TestDefaultsOfObjectsAreDocumented(t *testing.T) {
	pages := pages(t)
	for _, want := range []string{
		"| `spec.offsets` |", "| `" + flow.DefaultOffsets + "` |", "| `" + string(flow.DefaultStart) + "` |", "| `" + flow.DefaultGroupInterval.String() + "` |",
	} {
		if !strings.Contains(pages["docs/flows.md"], want) {
			t.Errorf("docs/flows.md does not have %q", want)
		}
	}
	for verb, mark := range map[flow.Verb]string{
		flow.VerbCheck: "`check: verify`", flow.VerbWait: "`wait`", flow.VerbFence: "`fence`", flow.VerbApply: "`apply: groupOffsets`",
		flow.VerbGate: "`gate`", flow.VerbSwitch: "`switch`", flow.VerbReport: "`report`",
	} {
		row := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(mark) + ` .*$`).FindString(pages["docs/runbooks.md"])
		if limit := flow.DefaultTimeout(verb).String(); !strings.Contains(row, "| "+limit+" |") {
			t.Errorf("docs/runbooks.md: the row of %s does not have its limit %s: %q", mark, limit, row)
		}
	}
	if want := "`watch` (" + flow.DefaultFenceWatch.String() + ")"; !strings.Contains(pages["docs/runbooks.md"], want) {
		t.Errorf("docs/runbooks.md does not have %q", want)
	}
}
