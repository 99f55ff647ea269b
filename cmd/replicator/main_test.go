package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write the files in testdata anew")

// outcome is what a command line led to.
type outcome struct {
	code           int
	stdout, stderr string
}

// replicator runs a command line in this process.
func replicator(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	return replicatorUntil(t.Context(), strings.NewReader(stdin), args...)
}

func replicatorUntil(ctx context.Context, stdin io.Reader, args ...string) outcome {
	var out, errs bytes.Buffer
	code := run(ctx, args, stdin, &out, &errs)
	return outcome{code, out.String(), errs.String()}
}

// want compares a whole outcome; errors are those of standard error.
func (r outcome) want(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	if r.code != code || r.stdout != stdout || r.stderr != stderr {
		t.Errorf("got %d\n%s%s\nwant %d\n%s%s", r.code, r.stdout, r.stderr, code, stdout, stderr)
	}
}

// golden compares a text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := "testdata/" + name
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test -update writes it):\ngot\n%s\nwant\n%s", file, got, want)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	each(newRoot(), func(cmd *cobra.Command) {
		if cmd.Short == "" && cmd.Name() != "replicator" {
			t.Errorf("%s: no short help", cmd.CommandPath())
		}
		if strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short help ends in a full stop", cmd.CommandPath())
		}
		if cmd.Runnable() && cmd.RunE == nil {
			t.Errorf("%s: has no RunE, so that its errors could not be told from wrong use", cmd.CommandPath())
		}
		if cmd.Runnable() && cmd.Args == nil {
			t.Errorf("%s: takes any arguments", cmd.CommandPath())
		}
		for _, line := range strings.Split(cmd.Example, "\n") {
			if line != "" && !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example %q is not indented", cmd.CommandPath(), line)
			}
		}
		if parent := cmd.Parent(); parent != nil && parent.Parent() == nil && cmd.GroupID == "" && cmd.Runnable() {
			t.Errorf("%s: in no group", cmd.CommandPath())
		}
	})
}

func TestHelpNamesEveryVerb(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"help"}} {
		got := replicator(t, "", args...)
		if got.code != exitOK || got.stderr != "" {
			t.Fatalf("%v: got %+v", args, got)
		}
		for _, cmd := range newRoot().Commands() {
			if !strings.Contains(got.stdout, "\n  "+cmd.Name()+" ") && cmd.Name() != "exit-codes" {
				t.Errorf("replicator %v does not name %s", args, cmd.Name())
			}
		}
	}
	for _, verb := range []string{"topic", "groups", "lineage", "runbook"} {
		got := replicator(t, "", verb)
		if got.code != exitOK || !strings.Contains(got.stdout, "Available Commands:") {
			t.Errorf("%s alone: got %+v", verb, got)
		}
	}
}

func TestWrongUseExitsWith3AndNamesTheHelp(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"bogus", "unknown command \"bogus\" for \"replicator\"\n  see 'replicator --help'\n"},
		{"staus", "unknown command \"staus\" for \"replicator\"; did you mean status?\n  see 'replicator --help'\n"},
		{"topic lsit", "unknown command \"lsit\" for \"replicator topic\"; did you mean list?\n  see 'replicator topic --help'\n"},
		{"topic -b 127.0.0.1:1 lsit", "unknown command \"lsit\" for \"replicator topic\"; did you mean list?\n  see 'replicator topic --help'\n"},
		{"runbook start x", "unknown command \"start\" for \"replicator runbook\"\n  see 'replicator runbook --help'\n"},
		{"status --bogus", "unknown flag: --bogus\n  see 'replicator status --help'\n"},
		{"status now", "unknown command \"now\" for \"replicator status\"\n  see 'replicator status --help'\n"},
		{"groups list", "required flag(s) \"flow\" not set\n  see 'replicator groups list --help'\n"},
		{"serve", "required flag(s) \"config\" not set\n  see 'replicator serve --help'\n"},
		{"lineage event", "accepts 1 arg(s), received 0\n  see 'replicator lineage event --help'\n"},
		{"version -o xml", "invalid argument \"xml\" for \"-o, --output\" flag: choose one of table, json, jsonl, yaml\n  see 'replicator version --help'\n"},
		{"consume t -o table", "invalid argument \"table\" for \"-o, --output\" flag: choose one of jsonl, value\n  see 'replicator consume --help'\n"},
		{"runbook report r -o html", "invalid argument \"html\" for \"-o, --output\" flag: choose one of markdown, json\n  see 'replicator runbook report --help'\n"},
		{"demo -o yaml", "invalid argument \"yaml\" for \"-o, --output\" flag: choose one of text, json\n  see 'replicator demo --help'\n"},
		{"demo --exit --stay", "if any flags in the group [exit stay] are set none of the others can be; [exit stay] were all set\n  see 'replicator demo --help'\n"},
		{"broker --log-level loud", "invalid argument \"loud\" for \"--log-level\" flag: slog: level string \"loud\": unknown name\n  see 'replicator broker --help'\n"},
		{"broker", "say where to store: --dir FOLDER, or --config FILE\n"},
		{"get topic", "\"topic\" is not a kind: use cluster, flow or runbook\n"},
		{"delete flows", "accepts 2 arg(s), received 1\n  see 'replicator delete --help'\n"},
		{"lineage event us/orders/3", "\"us/orders/3\" is not an address: write CLUSTER/TOPIC/PARTITION/OFFSET\n"},
		{"lineage topic us", "\"us\" is not an address: write CLUSTER/TOPIC\n"},
		{"lineage gaps us/orders/3/", "\"us/orders/3/\" is not an address: write CLUSTER/TOPIC/PARTITION\n"},
		{"groups translate us//3/1", "\"us//3/1\" is not an address: write CLUSTER/TOPIC/PARTITION/OFFSET\n"},
		{"validate", "no file given: use -f FILE, -f FOLDER or -f -\n"},
		{"validate -f /nonexistent.yaml", "read declarations: stat /nonexistent.yaml: no such file or directory\n"},
		{"topic delete t -b 127.0.0.1:1", "delete topic t: its records are gone afterwards; add --yes if that is meant\n"},
	} {
		replicator(t, "", strings.Fields(c.args)...).want(t, exitInvalid, "", "replicator: "+c.want)
	}
}

func TestVersion(t *testing.T) {
	got := replicator(t, "", "version", "-o", "json")
	var b buildInfo
	if err := json.Unmarshal([]byte(got.stdout), &b); err != nil || got.code != exitOK {
		t.Fatalf("%v: %+v", err, got)
	}
	if b.Version != version || b.Go != runtime.Version() || b.OS != runtime.GOOS || b.Arch != runtime.GOARCH {
		t.Errorf("got %+v", b)
	}
	for _, args := range [][]string{{"version"}, {"--version"}} {
		if got := replicator(t, "", args...); got.code != exitOK || !strings.HasPrefix(got.stdout, "replicator ") || !strings.Contains(got.stdout, version) {
			t.Errorf("%v: got %+v", args, got)
		}
	}
}

func TestExitCodesAreExplained(t *testing.T) {
	got := replicator(t, "", "help", "exit-codes")
	if got.code != exitOK || !strings.Contains(got.stdout, exitCodesText) {
		t.Errorf("got %+v", got)
	}
}
