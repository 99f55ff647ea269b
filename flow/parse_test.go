package flow_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/flow"
)

var update = flag.Bool("update", false, "write the golden files anew")

func parseFile(t testing.TB, path string) []flow.Object {
	t.Helper()
	objects, err := flow.ReadFiles(nil, path)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func parse(t testing.TB, text string) []flow.Object {
	t.Helper()
	objects, err := flow.Parse("test.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// TestInvalid compares the listing of every file's faults with its golden file.
func TestInvalid(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(err, "no files")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			objects, err := flow.ReadFiles(nil, file)
			var problems flow.Problems
			if !errors.As(err, &problems) || objects != nil {
				t.Fatalf("got %v and %d objects, want Problems", err, len(objects))
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the listing shows a secret")
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			got := strings.ReplaceAll(err.Error(), "testdata/invalid/", "") + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestMinimalGetsDefaults(t *testing.T) {
	objects := parseFile(t, "testdata/valid/minimal.yaml")
	if len(objects) != 3 {
		t.Fatalf("got %d objects, want 3", len(objects))
	}
	f := objects[2]
	if got, want := f.Key(), "ReplicationFlow/orders"; got != want {
		t.Errorf("Key: got %s, want %s", got, want)
	}
	follow := true
	want := flow.FlowSpec{
		Source: "dc1", Destination: "dc2", Offsets: "translate", Start: "earliest", Delivery: "exactly-once", Origin: "any",
		Topics:   flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}, Configs: flow.ConfigSync{Sync: &follow, OnDrift: "report"}},
		Policies: flow.FlowPolicies{OnDelete: "keep", DeleteAfter: flow.Duration(24 * time.Hour), OnRecreate: "stop", OnGap: "continue", OnTruncate: "stop", OnLoss: "recopy", OnRefusal: "wait", RefusalAfter: flow.Duration(10 * time.Minute)},
	}
	if got := f.Flow.Spec; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := flow.Check(objects); len(got) != 0 {
		t.Errorf("Check: %v", got)
	}
}

func TestFull(t *testing.T) {
	objects := parseFile(t, "testdata/valid/full.yaml")
	if len(objects) != 4 {
		t.Fatalf("got %d objects, want 4", len(objects))
	}
	if got := flow.Check(objects); len(got) != 0 {
		t.Errorf("Check: %v", got)
	}
	if got, want := objects[0].Cluster.Spec.SASL.Password, flow.Secret("${file:/run/credentials/onprem}"); got != want {
		t.Errorf("password: got %s, want %s", got, want)
	}
	if objects[1].Cluster.Spec.TLS == nil {
		t.Error("tls: {} is lost")
	}
	if got, want := objects[2].Flow.Spec.Limits.BytesPerSecond, flow.Size(50<<20); got != want {
		t.Errorf("bytes per second: got %s, want %s", got, want)
	}
	if got, want := *objects[2].Flow.Spec.Verify, (flow.FlowVerify{Interval: flow.Duration(12 * time.Hour), BytesPerSecond: 10 << 20, From: "verified"}); got != want {
		t.Errorf("verify: got %+v, want %+v", got, want)
	}
	if got, want := *objects[2].Flow.Spec.MirrorMaker2, (flow.MirrorMaker2{SourceAlias: "on-prem", DestinationAlias: "cloud", OffsetSyncs: "destination"}); got != want {
		t.Errorf("mirrorMaker2: got %+v, want %+v", got, want)
	}
	steps := objects[3].Runbook.Spec.Steps
	verbs := ""
	for _, s := range steps {
		verbs += string(s.Verb()) + " "
	}
	if want := "check wait check gate fence wait apply check switch report "; verbs != want {
		t.Errorf("verbs: got %s, want %s", verbs, want)
	}
	if got, want := steps[4].Timeout, flow.DefaultTimeout(flow.VerbFence); got != want {
		t.Errorf("timeout: got %s, want %s", got, want)
	}
	if got, want := steps[1].Timeout, flow.Duration(48*time.Hour); got != want {
		t.Errorf("timeout: got %s, want %s", got, want)
	}
	if got, want := steps[0].OnFailure, flow.FailureStop; got != want {
		t.Errorf("onFailure: got %s, want %s", got, want)
	}
}

func TestTextsStayAsWritten(t *testing.T) {
	o := parseFile(t, "testdata/valid/literal.yaml")[0]
	if got, want := strings.Join(o.Flow.Spec.Topics.Include, " "), "0123 1_000 0x1F 1.10 yes true 12e03"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	want := map[string]string{
		"octal": "0123", "under": "1_000", "hex": "0x1F", "bool": "yes", "no": "off",
		"float": "1.10", "date": "2026-01-01", "nothing": "null", "empty": "",
	}
	if got := o.Metadata().Labels; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := o.Flow.Spec.Source; got != "1e3" {
		t.Errorf("got %s, want 1e3", got)
	}
}

// TestRoundTrips writes every valid object as YAML and JSON and reads it back.
func TestRoundTrips(t *testing.T) {
	objects, err := flow.ReadFiles(nil, "testdata/valid")
	if err != nil {
		t.Fatal(err)
	}
	text, err := flow.MarshalYAML(objects...)
	if err != nil {
		t.Fatal(err)
	}
	again := parse(t, string(text))
	if len(again) != len(objects) {
		t.Fatalf("got %d objects, want %d", len(again), len(objects))
	}
	for i, o := range objects {
		stored, err := flow.Encode(o)
		if err != nil {
			t.Fatal(err)
		}
		back, err := flow.Decode(stored)
		if err != nil {
			t.Fatalf("%s: %v\n%s", o.Key(), err, stored)
		}
		for _, other := range []flow.Object{again[i], back} {
			if changes := flow.Diff(&o, &other); len(changes) != 0 {
				t.Errorf("%s comes back changed: %v", o.Key(), changes)
			}
			bytesOf, err := flow.Encode(other)
			if err != nil || !bytes.Equal(bytesOf, stored) {
				t.Errorf("%s: got %s, %v, want %s", o.Key(), bytesOf, err, stored)
			}
		}
	}
}

func TestReadFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := flow.ReadFiles(nil, dir); err == nil || !strings.Contains(err.Error(), "has no .yaml file") {
		t.Errorf("an empty directory: got %v", err)
	}
	if _, err := flow.ReadFiles(nil, filepath.Join(dir, "absent.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent file: got %v", err)
	}
	cluster := func(name string) string {
		return "apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: " + name + "}\nspec: {bootstrapServers: [a:1]}\n"
	}
	write("b.yaml", cluster("b"))
	write("a.yml", cluster("a"))
	write(".hidden.yaml", "nonsense")
	write("notes.txt", "nonsense")
	got := ""
	objects, err := flow.ReadFiles(strings.NewReader(cluster("c")), dir, "-")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		got += o.Name()
	}
	if got != "abc" {
		t.Errorf("got %s, want abc", got)
	}
	bad := write("z.yaml", "kind: Cluster")
	_, err = flow.ReadFiles(strings.NewReader("kind: Runbook"), bad, "-")
	if err == nil || !strings.Contains(err.Error(), "stdin:1:1: apiVersion: is missing") || !strings.Contains(err.Error(), bad+":1:1: metadata: is missing") {
		t.Errorf("faults of two files: got %v", err)
	}
	big := write("big.yaml", "#"+strings.Repeat(" ", flow.MaxFile))
	if _, err := flow.ReadFiles(nil, big); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a large file: got %v", err)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	const good = `{"apiVersion":"waybill/v1","kind":"Cluster","metadata":{"name":"a"},"spec":{"bootstrapServers":["a:1"]}}`
	if _, err := flow.Decode([]byte(good)); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ in, want string }{
		{``, "is not JSON"},
		{`{`, "is not JSON"},
		{good + good, "more follows"},
		{strings.Repeat("[", 100), "nested deeper"},
		{strings.Replace(good, "v1", "v9", 1), `"waybill/v9" is not known`},
		{strings.Replace(good, `"name":"a"`, `"name":"a","labls":"b"`, 1), `metadata.labls: unknown key`},
		{strings.Replace(good, `"name":"a"`, `"name":"a","name":"b"`, 1), `metadata.name: is written twice`},
		{strings.Replace(good, `"a"`, `5`, 1), "is a number where a text is wanted"},
		{strings.Replace(good, `"a"`, `null`, 1), "has no value"},
		{strings.Replace(good, `"spec"`, `"status":{},"spec"`, 1), "status is written by the fleet"},
		{strings.Replace(good, `{"bootstrapServers"`, `{"sasl":{"mechanism":"SCRAM-SHA-256","username":"u","password":"hunter2"},"bootstrapServers"`, 1), "is not a reference to a secret"},
		{strings.Replace(good, `["a:1"]`, `["a:1"],"tls":{"caFile":true}`, 1), "spec.tls.caFile: is a boolean"},
	}
	for _, tt := range tests {
		_, err := flow.Decode([]byte(tt.in))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want %q", tt.in, err, tt.want)
		}
	}
}

func TestValidateAndEncodeRefuseHalfObjects(t *testing.T) {
	half := flow.Object{Kind: flow.KindRunbook, Cluster: &flow.Cluster{}}
	if _, err := flow.Encode(half); err == nil {
		t.Error("a runbook without its body is encoded")
	}
	empty := flow.Object{Kind: flow.KindCluster, Cluster: &flow.Cluster{}}
	err := empty.Validate()
	if err == nil || !strings.Contains(err.Error(), "spec.bootstrapServers: is empty") {
		t.Errorf("got %v", err)
	}
	if _, err := flow.MarshalYAML(half); err == nil {
		t.Error("a runbook without its body is printed")
	}
}

// FuzzParse wants no panic, and that what is accepted is valid, prints, and reads
// back as the same object, through YAML and through JSON.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/valid/*.yaml", "testdata/invalid/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		objects, err := flow.Parse("fuzz.yaml", bytes.NewReader(text))
		if err != nil {
			_ = err.Error()
			return
		}
		flow.Check(objects)
		for _, o := range objects {
			stored, err := flow.Encode(o)
			if err != nil {
				t.Fatalf("what was parsed is not valid: %v", err)
			}
			back, err := flow.Decode(stored)
			if err != nil {
				t.Fatalf("%s does not read back: %v", stored, err)
			}
			printed, err := flow.MarshalYAML(o)
			if err != nil {
				t.Fatal(err)
			}
			again, err := flow.Parse("again.yaml", bytes.NewReader(printed))
			if err != nil || len(again) != 1 {
				t.Fatalf("does not read back: %v\n%s", err, printed)
			}
			for _, other := range []flow.Object{back, again[0]} {
				if changes := flow.Diff(&o, &other); len(changes) != 0 {
					t.Fatalf("comes back changed: %v\n%s", changes, printed)
				}
			}
		}
	})
}

// TestShippedRunbooks parses what is shipped, next to the objects that it is
// about.
func TestShippedRunbooks(t *testing.T) {
	files, err := filepath.Glob("../deploy/runbooks/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(err, "no runbooks")
	}
	world := parse(t, clusters("dc1", "dc2")+flows(`orders: dc1>dc2 include: ["orders*"] ;, groups: {include: ["*"]}`))
	for _, file := range files {
		objects := parseFile(t, file)
		for _, p := range flow.Check(append(objects, world...)) {
			t.Error(p)
		}
		last := objects[0].Runbook.Spec.Steps
		if got := last[len(last)-1].Verb(); got != flow.VerbReport {
			t.Errorf("%s ends with %s, want a report", file, got)
		}
	}
}
