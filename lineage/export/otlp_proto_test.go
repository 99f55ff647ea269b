package export

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestSpansAreOTLP: what is exported is TracesData of the official protocol, with no
// field that it does not have, and says there what it is to say. OTLP's JSON is that of
// Protobuf, but for trace and span ids, which are in hex and not in base64.
func TestSpansAreOTLP(t *testing.T) {
	made := &Creation{TraceID: [16]byte{0xab, 15: 1}, SpanID: [8]byte{0xcd, 7: 2}, Flags: 1}
	b, err := json.Marshal(Spans(answer(), made, "v1"))
	if err != nil {
		t.Fatal(err)
	}
	traces, err := readOTLP(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(traces.ResourceSpans) != 1 || len(traces.ResourceSpans[0].ScopeSpans) != 1 {
		t.Fatalf("got %v", traces)
	}
	scope := traces.ResourceSpans[0].ScopeSpans[0]
	if len(scope.Spans) != 2 || scope.Scope.GetName() != "waybill.lineage" || scope.Scope.GetVersion() != "v1" {
		t.Fatalf("got %v", scope)
	}
	for i, s := range scope.Spans {
		ours := Spans(answer(), made, "v1").ResourceSpans[0].ScopeSpans[0].Spans[i]
		if hex.EncodeToString(s.TraceId) != ours.TraceID || len(s.TraceId) != 16 || hex.EncodeToString(s.SpanId) != ours.SpanID || len(s.SpanId) != 8 {
			t.Errorf("span %d: ids %x %x, want %s %s", i, s.TraceId, s.SpanId, ours.TraceID, ours.SpanID)
		}
		if s.Kind != tracepb.Span_SPAN_KIND_PRODUCER || s.StartTimeUnixNano == 0 || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("span %d: %v from %d to %d", i, s.Kind, s.StartTimeUnixNano, s.EndTimeUnixNano)
		}
		if len(s.Links) != 1 || [16]byte(s.Links[0].TraceId) != made.TraceID || [8]byte(s.Links[0].SpanId) != made.SpanID || s.Links[0].Flags != uint32(made.Flags) {
			t.Errorf("span %d: links %v", i, s.Links)
		}
		for _, a := range s.Attributes {
			if a.Value.GetValue() == nil {
				t.Errorf("span %d: %s has no value", i, a.Key)
			}
		}
	}
	second, first := scope.Spans[0], scope.Spans[1]
	if len(first.ParentSpanId) != 0 || !slices.Equal(second.ParentSpanId, first.SpanId) {
		t.Errorf("parents %x and %x of %x", first.ParentSpanId, second.ParentSpanId, first.SpanId)
	}
	// What is not OTLP is not taken for it.
	for from, to := range map[string]string{`"links"`: `"link"`, `"kind":4`: `"kind":"4"`, `"intValue":"20"`: `"intValue":"x"`, `"traceId":"`: `"traceId":"z`} {
		if _, err := readOTLP([]byte(strings.Replace(string(b), from, to, 1))); err == nil {
			t.Errorf("%s for %s is taken", to, from)
		}
	}
}

// readOTLP is the official reading of JSON, after ids were put from hex into base64.
func readOTLP(b []byte) (*tracepb.TracesData, error) {
	var tree any
	if err := json.Unmarshal(b, &tree); err != nil {
		return nil, err
	}
	if err := idsAsBytes(tree); err != nil {
		return nil, err
	}
	b, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	traces := &tracepb.TracesData{}
	return traces, protojson.UnmarshalOptions{DiscardUnknown: false}.Unmarshal(b, traces)
}

func idsAsBytes(tree any) error {
	switch tree := tree.(type) {
	case []any:
		for _, v := range tree {
			if err := idsAsBytes(v); err != nil {
				return err
			}
		}
	case map[string]any:
		for k, v := range tree {
			id, isText := v.(string)
			if isText && slices.Contains([]string{"traceId", "spanId", "parentSpanId"}, k) {
				raw, err := hex.DecodeString(id)
				if err != nil {
					return err
				}
				tree[k] = base64.StdEncoding.EncodeToString(raw)
			} else if err := idsAsBytes(v); err != nil {
				return err
			}
		}
	}
	return nil
}
