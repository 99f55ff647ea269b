package main

import (
	"os"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/api"
)

func TestValidate(t *testing.T) {
	for _, name := range []string{"right", "faults", "relations"} {
		got := replicator(t, "", "validate", "-f", "testdata/"+name+".yaml")
		if want := map[string]int{"right": exitOK, "faults": exitInvalid, "relations": exitInvalid}[name]; got.code != want {
			t.Errorf("%s: got %d, want %d", name, got.code, want)
		}
		golden(t, name+".txt", got.stdout+got.stderr)
	}
}

func TestValidateReadsStandardInputAndFolders(t *testing.T) {
	text, err := os.ReadFile("testdata/right.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := replicator(t, "", "validate", "-f", "testdata/right.yaml")
	if got := replicator(t, string(text), "validate", "-f", "-"); got != want {
		t.Errorf("standard input: got %+v, want %+v", got, want)
	}
	dir := t.TempDir()
	for i, object := range strings.Split(string(text), "---\n") {
		if err := os.WriteFile(dir+"/"+string(rune('a'+i))+".yaml", []byte(object), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := replicator(t, "", "validate", "-f", dir); got != want {
		t.Errorf("folder: got %+v, want %+v", got, want)
	}
	if got := replicator(t, "", "validate", "-f", t.TempDir()); got.code != exitInvalid || !strings.Contains(got.stderr, "has no .yaml file") {
		t.Errorf("empty folder: got %+v", got)
	}
}

func TestValidateOfAPart(t *testing.T) {
	const flowAlone = `{apiVersion: waybill/v1, kind: ReplicationFlow, metadata: {name: us-eu}, spec: {source: us, destination: eu, topics: {include: [orders]}}}`
	const us = `{apiVersion: waybill/v1, kind: Cluster, metadata: {name: us}, spec: {bootstrapServers: ["127.0.0.1:9092"]}}`
	for _, c := range []struct {
		name, stdin string
		args        []string
		code        int
		says        string
	}{
		{name: "the runbook that is shipped", args: []string{"-f", "../../deploy/runbooks"}, code: exitOK, says: "not among them, so not looked at: ReplicationFlow/orders;"},
		{name: "a flow alone", stdin: flowAlone, args: []string{"-f", "-"}, code: exitOK, says: "not looked at: Cluster/eu, Cluster/us;"},
		{name: "a flow with one of its clusters", stdin: us + "\n---\n" + flowAlone, args: []string{"-f", "-"}, code: exitInvalid, says: `spec.destination: there is no Cluster "eu"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := replicator(t, c.stdin, append([]string{"validate"}, c.args...)...)
			if got.code != c.code || !strings.Contains(got.stdout+got.stderr, c.says) {
				t.Errorf("got %+v, want %d and %q", got, c.code, c.says)
			}
		})
	}
}

func TestChangesAreCountedAndDrawn(t *testing.T) {
	a := api.Applied{Revision: 12, Changes: []api.Change{
		{Kind: "Cluster", Name: "us", Action: "create"},
		{Kind: "Cluster", Name: "eu", Action: "unchanged"},
		{Kind: "ReplicationFlow", Name: "us-eu", Action: "update", Diff: []string{"~ spec.paused: false -> true"}},
	}, Warnings: []string{"look out"}, Notes: []string{"see here"}}
	if got := changes(a); got != 2 {
		t.Errorf("got %d changes, want 2", got)
	}
	var b strings.Builder
	tab := newTable(&b)
	drawChanges(tab, a, "would be ")
	if err := tab.close(); err != nil {
		t.Fatal(err)
	}
	want := `Cluster/us would be created
Cluster/eu unchanged
ReplicationFlow/us-eu would be changed
  ~ spec.paused: false -> true
see here
warning: look out
revision 12
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}

func TestKindsAsPeopleTypeThem(t *testing.T) {
	for word, want := range map[string]string{
		"cluster": "Cluster", "Clusters": "Cluster", "flow": "ReplicationFlow", "FLOWS": "ReplicationFlow",
		"ReplicationFlow": "ReplicationFlow", "replicationflows": "ReplicationFlow", "runbook": "Runbook", "runbooks": "Runbook",
	} {
		if got, err := kindOf(word); got != want || err != nil {
			t.Errorf("%s: got %q %v, want %s", word, got, err, want)
		}
	}
	if _, err := kindOf("topic"); err == nil {
		t.Error("topic is no kind")
	}
}
