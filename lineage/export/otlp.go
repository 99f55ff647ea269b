package export

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/waybillhq/waybill/lineage"
)

// Traces is OTLP's TracesData in its JSON encoding (OpenTelemetry protocol, "JSON
// Protobuf Encoding"): ids in hex, 64-bit numbers as texts, enums as numbers.
type Traces struct {
	ResourceSpans []ResourceSpans `json:"resourceSpans"`
}

// ResourceSpans are the spans of one resource: this program.
type ResourceSpans struct {
	Resource   Resource     `json:"resource"`
	ScopeSpans []ScopeSpans `json:"scopeSpans"`
}

// Resource says who tells.
type Resource struct {
	Attributes []Attribute `json:"attributes"`
}

// ScopeSpans are the spans of one part of it.
type ScopeSpans struct {
	Scope Scope  `json:"scope"`
	Spans []Span `json:"spans"`
}

// Scope names that part.
type Scope struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// Span is one copying of an event.
type Span struct {
	TraceID           string      `json:"traceId"`
	SpanID            string      `json:"spanId"`
	ParentSpanID      string      `json:"parentSpanId,omitempty"`
	Name              string      `json:"name"`
	Kind              int         `json:"kind"`
	StartTimeUnixNano string      `json:"startTimeUnixNano"`
	EndTimeUnixNano   string      `json:"endTimeUnixNano"`
	Attributes        []Attribute `json:"attributes"`
	Links             []Link      `json:"links,omitempty"`
}

// Link leads to a span of another trace.
type Link struct {
	TraceID string `json:"traceId"`
	SpanID  string `json:"spanId"`
	Flags   uint32 `json:"flags,omitempty"`
}

// Attribute is a key and a value.
type Attribute struct {
	Key   string `json:"key"`
	Value Value  `json:"value"`
}

// Value is OTLP's AnyValue: one of its fields is set.
type Value struct {
	StringValue *string `json:"stringValue,omitempty"`
	IntValue    *string `json:"intValue,omitempty"`
}

// Creation is what the record itself says of where it is from.
type Creation struct {
	TraceID [16]byte // of its traceparent; zero if it has none
	SpanID  [8]byte
	Flags   byte
}

// spanKindProducer: a copy is a message that is sent on.
const spanKindProducer = 4

// Spans returns a span for each hop of an event that is not redacted, all in one trace
// of their own whose ids are the same each time. A hop's parent is the hop that brought
// the event to where it was copied from; it begins when that one ended, the first when
// the event was produced. Where that is not known it begins when it ends: a record's own
// timestamp may be anything. made is what the record says, nil if it could not be read: its own trace, which copying leaves untouched, is linked to and
// not continued (OpenTelemetry's conventions for messaging).
func Spans(a *lineage.Answer, made *Creation, version string) *Traces {
	spans := []Span{}
	into := map[int]lineage.Edge{}
	for _, e := range a.Edges {
		if told(a, e) {
			if _, ok := into[e.To]; !ok {
				into[e.To] = e
			}
		}
	}
	trace := traceID(a, into)
	for _, e := range a.Edges {
		if told(a, e) {
			spans = append(spans, span(a, e, into, made, trace))
		}
	}
	return &Traces{[]ResourceSpans{{
		Resource:   Resource{[]Attribute{text("service.name", "waybill")}},
		ScopeSpans: []ScopeSpans{{Scope{"waybill.lineage", version}, spans}},
	}}}
}

// told says whether the caller may know of a hop.
func told(a *lineage.Answer, e lineage.Edge) bool {
	return e.At != nil && !a.Nodes[e.From].Redacted && !a.Nodes[e.To].Redacted
}

// traceID is made of the place where the event is from, as far as the answer shows it.
func traceID(a *lineage.Answer, into map[int]lineage.Edge) string {
	root := 0
	for range a.Nodes { // a loop of flows has no first place
		e, ok := into[root]
		if !ok {
			break
		}
		root = e.From
	}
	sum := sha256.Sum256([]byte("trace\x00" + place(a.Nodes[root])))
	return hex.EncodeToString(sum[:16])
}

func spanID(a *lineage.Answer, e lineage.Edge) string {
	sum := sha256.Sum256([]byte("hop\x00" + place(a.Nodes[e.From]) + "\x00" + place(a.Nodes[e.To])))
	return hex.EncodeToString(sum[:8])
}

func place(n lineage.Node) string {
	return fmt.Sprintf("%s/%s/%d/%d", n.ClusterID, n.TopicID, n.Partition, n.Offset)
}

func span(a *lineage.Answer, e lineage.Edge, into map[int]lineage.Edge, made *Creation, trace string) Span {
	from, to := a.Nodes[e.From], a.Nodes[e.To]
	begin, end := *e.At, *e.At
	s := Span{TraceID: trace, SpanID: spanID(a, e), Name: "send " + to.Topic, Kind: spanKindProducer}
	before, ok := into[e.From]
	switch {
	case ok:
		s.ParentSpanID, begin = spanID(a, before), *before.At
	default:
		for _, d := range from.Produced {
			if !d.FirstAt.IsZero() && d.FirstAt.Before(begin) {
				begin = d.FirstAt
			}
		}
	}
	if begin.After(end) {
		begin = end
	}
	s.StartTimeUnixNano, s.EndTimeUnixNano = strconv.FormatInt(begin.UnixNano(), 10), strconv.FormatInt(end.UnixNano(), 10)
	s.Attributes = []Attribute{
		text("messaging.system", "kafka"), text("messaging.operation.name", "send"), text("messaging.operation.type", "send"),
		text("messaging.destination.name", to.Topic), text("messaging.destination.partition.id", strconv.Itoa(int(to.Partition))),
		number("messaging.kafka.offset", to.Offset),
		text("waybill.source.cluster", from.Cluster), text("waybill.source.cluster.id", from.ClusterID), text("waybill.source.topic", from.Topic),
		number("waybill.source.partition", int64(from.Partition)), number("waybill.source.offset", from.Offset),
		text("waybill.destination.cluster", to.Cluster), text("waybill.destination.cluster.id", to.ClusterID),
		text("waybill.flow", e.Flow), text("waybill.fleet", e.Fleet), text("waybill.node", e.ReplicaNode),
		text("waybill.epoch", strconv.FormatUint(e.Epoch, 10)), text("waybill.path", e.Path),
	}
	if made != nil && made.TraceID != [16]byte{} {
		s.Links = []Link{{hex.EncodeToString(made.TraceID[:]), hex.EncodeToString(made.SpanID[:]), uint32(made.Flags)}}
	}
	return s
}

func text(key, value string) Attribute { return Attribute{key, Value{StringValue: &value}} }

func number(key string, value int64) Attribute {
	s := strconv.FormatInt(value, 10)
	return Attribute{key, Value{IntValue: &s}}
}
