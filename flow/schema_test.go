package flow

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

const schemaFile = "../docs/schema/waybill-v1.schema.json"

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestSchemaHasEveryKey holds the schema and the Go types together: the same keys,
// the same required ones, the same defaults.
func TestSchemaHasEveryKey(t *testing.T) {
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Defs map[string]struct {
			Required   []string                   `json:"required"`
			Properties map[string]json.RawMessage `json:"properties"`
			Additional *bool                      `json:"additionalProperties"`
		} `json:"$defs"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&schema); err != nil {
		// $defs such as labels have another shape; they are not objects with keys.
		var typed *json.UnmarshalTypeError
		if !asError(err, &typed) {
			t.Fatal(err)
		}
	}
	for _, v := range []any{
		Metadata{},
		ClusterSpec{},
		TLS{},
		SASL{},
		FlowSpec{},
		TopicSelector{},
		Naming{},
		TopicCreate{},
		ConfigSync{},
		FlowPolicies{},
		GroupSelector{},
		Placement{},
		NodeSelector{},
		FlowLimits{},
		FlowVerify{},
		MirrorMaker2{},
		Records{},
		MaskRule{},
		RunbookSpec{},
		Step{},
		WaitStep{},
		FenceStep{},
		GateStep{},
		SwitchStep{},
		ReportStep{},
	} {
		name := reflect.TypeOf(v).Name()
		def, ok := schema.Defs[name]
		if !ok {
			t.Errorf("the schema has no %s", name)
			continue
		}
		var keys, required []string
		for _, f := range fieldsOf(reflect.ValueOf(v)) {
			keys = append(keys, f.key)
			if f.required {
				required = append(required, f.key)
			}
		}
		slices.Sort(keys)
		slices.Sort(required)
		slices.Sort(def.Required)
		if got := slices.Sorted(maps.Keys(def.Properties)); !slices.Equal(got, keys) {
			t.Errorf("%s: the schema has the keys %v, the type %v", name, got, keys)
		}
		if !slices.Equal(def.Required, required) {
			t.Errorf("%s: the schema requires %v, the type %v", name, def.Required, required)
		}
		if def.Additional == nil || *def.Additional {
			t.Errorf("%s: the schema lets unknown keys pass", name)
		}
		for key, property := range def.Properties {
			if !strings.Contains(string(property), "description") && !strings.Contains(string(property), "$ref") {
				t.Errorf("%s.%s has no description", name, key)
			}
		}
	}
	for path, value := range map[string]string{
		"FlowSpec.offsets": DefaultOffsets, "FlowSpec.start": string(DefaultStart), "ConfigSync.onDrift": DefaultOnDrift,
		"FlowPolicies.onDelete": DefaultOnDelete, "FlowPolicies.deleteAfter": DefaultDeleteAfter.String(), "FlowPolicies.onRecreate": DefaultOnRecreate,
		"FlowPolicies.onGap": DefaultOnGap, "FlowPolicies.onTruncate": DefaultOnTruncate, "FlowPolicies.onLoss": DefaultOnLoss,
		"FlowPolicies.onRefusal": DefaultOnRefusal, "FlowPolicies.refusalAfter": DefaultRefusalAfter.String(),
		"Records.compression": CompressionPreserve, "Records.poison": PoisonStop, "MaskRule.in": MaskValue,
		"GroupSelector.interval": DefaultGroupInterval.String(), "FenceStep.watch": DefaultFenceWatch.String(),
		"Step.onFailure": FailureStop, "FlowVerify.from": DefaultVerifyFrom, "MirrorMaker2.offsetSyncs": DefaultOffsetSyncs,
		"FlowVerify.interval": DefaultVerifyInterval.String(), "FlowVerify.bytesPerSecond": DefaultVerifyBytesPerSecond.String(),
	} {
		name, key, _ := strings.Cut(path, ".")
		if property := string(schema.Defs[name].Properties[key]); !strings.Contains(property, `"default": "`+value+`"`) {
			t.Errorf("%s: the default is %s, the schema says %s", path, value, property)
		}
	}
}

func asError[T error](err error, target *T) bool {
	typed, ok := err.(T) //nolint:errorlint // the decoder returns it bare
	*target = typed
	return ok
}

func TestSchemaAcceptsWhatIsValid(t *testing.T) {
	schema := compileSchema(t)
	files, err := filepath.Glob("testdata/valid/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	runbooks, err := filepath.Glob("../deploy/runbooks/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, runbooks...) {
		objects, err := ReadFiles(nil, file)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			text, err := Encode(o)
			if err != nil {
				t.Fatal(err)
			}
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(value); err != nil {
				t.Errorf("%s, %s: %v", file, o.Key(), err)
			}
		}
	}
}

// TestSchemaRefuses gives it what an editor should underline, each fault alone.
func TestSchemaRefuses(t *testing.T) {
	schema := compileSchema(t)
	const cluster = "apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: a}\nspec: {bootstrapServers: [\"a:1\"]}\n"
	const replication = "apiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: a}\nspec: {source: b, destination: c, topics: {include: [x]}}\n"
	const runbook = "apiVersion: waybill/v1\nkind: Runbook\nmetadata: {name: a}\nspec: {flow: b, steps: [{id: x, check: preflight}]}\n"
	tests := []struct{ base, old, new string }{
		{cluster, "", ""},
		{cluster, "waybill/v1", "waybill/v2"},
		{cluster, "Cluster", "Flow"},
		{cluster, "name: a", "name: A_b"},
		{cluster, "name: a", "name: a, lables: {}"},
		{cluster, `["a:1"]`, "[]"},
		{cluster, `"a:1"`, `"https://a:1"`},
		{cluster, `["a:1"]`, `["a:1"], sasl: {mechanism: PLAIN, username: u, password: hunter2}`},
		{cluster, `["a:1"]`, `["a:1"], tls: {certFile: x}`},
		{cluster, `["a:1"]`, `["a:1"], tls: `},
		{replication, "", ""},
		{replication, "destination", "target"},
		{replication, "[x]", "[]"},
		{replication, "[x]}", "[x]}, offsets: keep"},
		{replication, "[x]", "[x], rename: {prefix: __x}"},
		{replication, "[x]}", "[x]}, groups: {include: [y], interval: ten}"},
		{replication, "[x]}", `[x]}, paused: "true"`},
		{replication, "[x]}", "[x]}, start: middle"},
		{replication, "[x]}", "[x]}, start: {timestamp: yesterday}"},
		{replication, "[x]}", "[x]}, start: {committed: g, timestamp: 2026-01-02T03:04:05Z}"},
		{replication, "[x]}", "[x]}, start: {}"},
		{replication, "[x]", "[x], create: {replicationFactor: all}"},
		{replication, "[x]", "[x], create: {configs: {message.timestamp.type: LogAppendTime}}"},
		{replication, "[x]", "[x], configs: {sync: yes}"},
		{replication, "[x]", "[x], configs: {onDrift: undo}"},
		{replication, "[x]}", "[x]}, policies: {onDelete: drop}"},
		{replication, "[x]}", "[x]}, policies: {deleteAfter: soon}"},
		{replication, "[x]}", "[x]}, policies: {onRecreate: splice}"},
		{replication, "[x]}", "[x]}, policies: {onGap: skip}"},
		{replication, "[x]}", "[x]}, limits: {lanes: 0}"},
		{replication, "[x]}", "[x]}, limits: {lanes: 65}"},
		{replication, "[x]}", "[x]}, policies: {onTruncate: ignore}"},
		{replication, "[x]}", "[x]}, policies: {onLoss: ignore}"},
		{replication, "[x]}", "[x]}, policies: {onRefusal: skip}"},
		{replication, "[x]}", "[x]}, records: {filter: ''}"},
		{replication, "[x]}", "[x]}, records: {mask: [{field: a}]}"},
		{replication, "[x]}", "[x]}, records: {mask: [{field: a, remove: true, replace: x}]}"},
		{replication, "[x]}", "[x]}, records: {mask: [{field: a, hash: hunter2}]}"},
		{replication, "[x]}", "[x]}, records: {compression: lzma}"},
		{replication, "[x]}", "[x]}, records: {quarantine: x}"},
		{replication, "[x]}", "[x]}, records: {poison: quarantine, quarantine: 'a b'}"},
		{runbook, "", ""},
		{runbook, "check: preflight", "check: doctor"},
		{runbook, ", check: preflight", ""},
		{runbook, "check: preflight", "check: preflight, report: {}"},
		{runbook, "check: preflight", "wait: {}"},
		{runbook, "check: preflight", "gate: {approvals: 0}"},
		{runbook, "check: preflight", "fence: {principals: [orders-app]}"},
	}
	for _, tt := range tests {
		text := strings.Replace(tt.base, tt.old, tt.new, 1)
		wantValid := tt.old == ""
		var value any
		if err := yaml.Load([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); (err == nil) != wantValid {
			t.Errorf("the schema on %q: got %v, want valid: %v", text, err, wantValid)
		}
		if _, err := Parse("x.yaml", strings.NewReader(text)); (err == nil) != wantValid {
			t.Errorf("Parse of %q: got %v, want valid: %v", text, err, wantValid)
		}
	}
}
