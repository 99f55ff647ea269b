package export

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/lineage"
)

var t0 = time.UnixMilli(1_750_000_000_123).UTC()

func graph() *lineage.Graph {
	topic := func(cluster, name string) lineage.TopicNode {
		return lineage.TopicNode{Cluster: cluster, ClusterID: "id-" + cluster, Topic: name, TopicID: "topic-" + name}
	}
	return &lineage.Graph{
		Topics: []lineage.TopicNode{topic("us", "orders"), topic("eu", "us.orders"), {Redacted: true}, topic("ap", "orders")},
		Copies: []lineage.TopicCopy{
			{From: 0, To: 1, Flow: "us-eu", Fleet: "prod", Partitions: []lineage.PartitionCopy{
				{Records: 7, Bytes: 70, LastAt: t0}, {Records: 3, Bytes: 30, LastAt: t0.Add(time.Second)},
			}},
			{From: 0, To: 2},
			{From: 0, To: 3, Flow: "us-ap", Fleet: "prod", Partitions: []lineage.PartitionCopy{{Records: 0}}},
		},
	}
}

func TestOpenLineage(t *testing.T) {
	events := OpenLineage(graph(), func(id string) string { return map[string]string{"id-us": "us.example:9092"}[id] })
	if len(events) != 1 {
		t.Fatalf("got %d events, want one: a copy is redacted, of another nothing was copied", len(events))
	}
	got, err := json.MarshalIndent(events[0], "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "eventType": "RUNNING",
  "eventTime": "2025-06-15T15:06:41.123Z",
  "run": {
    "runId": "RUN"
  },
  "job": {
    "namespace": "waybill://prod",
    "name": "us-eu.orders",
    "facets": {
      "jobType": {
        "_producer": "https://github.com/waybillhq/waybill",
        "_schemaURL": "https://openlineage.io/spec/facets/2-0-4/JobTypeJobFacet.json#/$defs/JobTypeJobFacet",
        "processingType": "STREAMING",
        "integration": "WAYBILL",
        "jobType": "FLOW"
      }
    }
  },
  "inputs": [
    {
      "namespace": "kafka://us.example:9092",
      "name": "orders",
      "facets": {
        "symlinks": {
          "_producer": "https://github.com/waybillhq/waybill",
          "_schemaURL": "https://openlineage.io/spec/facets/1-0-1/SymlinksDatasetFacet.json#/$defs/SymlinksDatasetFacet",
          "identifiers": [
            {
              "namespace": "kafka-cluster://id-us",
              "name": "topic-orders",
              "type": "TOPIC"
            }
          ]
        }
      },
      "inputFacets": {
        "inputStatistics": {
          "_producer": "https://github.com/waybillhq/waybill",
          "_schemaURL": "https://openlineage.io/spec/facets/1-0-0/InputStatisticsInputDatasetFacet.json#/$defs/InputStatisticsInputDatasetFacet",
          "rowCount": 10
        }
      }
    }
  ],
  "outputs": [
    {
      "namespace": "kafka://id-eu",
      "name": "us.orders",
      "facets": {
        "symlinks": {
          "_producer": "https://github.com/waybillhq/waybill",
          "_schemaURL": "https://openlineage.io/spec/facets/1-0-1/SymlinksDatasetFacet.json#/$defs/SymlinksDatasetFacet",
          "identifiers": [
            {
              "namespace": "kafka-cluster://id-eu",
              "name": "topic-us.orders",
              "type": "TOPIC"
            }
          ]
        }
      },
      "outputFacets": {
        "outputStatistics": {
          "_producer": "https://github.com/waybillhq/waybill",
          "_schemaURL": "https://openlineage.io/spec/facets/1-0-2/OutputStatisticsOutputDatasetFacet.json#/$defs/OutputStatisticsOutputDatasetFacet",
          "rowCount": 10,
          "size": 100
        }
      }
    }
  ],
  "producer": "https://github.com/waybillhq/waybill",
  "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
}`
	if got := strings.Replace(string(got), events[0].Run.RunID, "RUN", 1); got != want {
		t.Errorf("got %s", got)
	}
	again, other := graph(), graph()
	again.Copies[0].Partitions[0].Records++
	other.Topics[1].TopicID = "another-life"
	server := func(string) string { return "" }
	if id := OpenLineage(again, server)[0].Run.RunID; id != events[0].Run.RunID {
		t.Errorf("another run after a record: %s", id)
	}
	if id := OpenLineage(other, server)[0].Run.RunID; id == events[0].Run.RunID {
		t.Error("another life of the topic is the same run")
	}
}

func answer() *lineage.Answer {
	node := func(cluster string, offset int64) lineage.Node {
		return lineage.Node{Cluster: cluster, ClusterID: "id-" + cluster, Topic: "orders", TopicID: "t-" + cluster, Partition: 3, Offset: offset}
	}
	first, second := t0.Add(time.Second), t0.Add(2*time.Second)
	return &lineage.Answer{
		Nodes: []lineage.Node{node("eu", 20), node("us", 10), node("ap", 30), {Redacted: true}},
		Edges: []lineage.Edge{
			{From: 0, To: 2, Flow: "eu-ap", Fleet: "prod", ReplicaNode: "r1", Epoch: 1 << 60, At: &second, Path: "raw"},
			{From: 1, To: 0, Flow: "us-eu", Fleet: "prod", ReplicaNode: "r2", Epoch: 7, At: &first, Path: "raw"},
			{From: 0, To: 3},
		},
	}
}

func TestSpans(t *testing.T) {
	made := &Creation{TraceID: [16]byte{0xab}, SpanID: [8]byte{0xcd}, Flags: 1}
	known := answer()
	known.Nodes[1].Produced = []lineage.Deed{{Kind: "produced", FirstAt: t0, At: t0}}
	traces := Spans(known, made, "v1")
	spans := traces.ResourceSpans[0].ScopeSpans[0].Spans
	if len(spans) != 2 {
		t.Fatalf("got %d spans, want two: a hop is redacted", len(spans))
	}
	second, first := spans[0], spans[1]
	if first.TraceID != second.TraceID || len(first.TraceID) != 32 || len(first.SpanID) != 16 || first.SpanID == second.SpanID || first.ParentSpanID != "" || second.ParentSpanID != first.SpanID {
		t.Errorf("not a chain in one trace: %+v %+v", first, second)
	}
	nanos := func(at time.Time) string { return strconv.FormatInt(at.UnixNano(), 10) }
	if first.StartTimeUnixNano != nanos(t0) || first.EndTimeUnixNano != nanos(t0.Add(time.Second)) || second.StartTimeUnixNano != first.EndTimeUnixNano {
		t.Errorf("the first from %s to %s, the second from %s", first.StartTimeUnixNano, first.EndTimeUnixNano, second.StartTimeUnixNano)
	}
	for _, s := range spans {
		if len(s.Links) != 1 || s.Links[0] != (Link{"ab" + strings.Repeat("0", 30), "cd" + strings.Repeat("0", 14), 1}) {
			t.Errorf("links %+v", s.Links)
		}
	}
	b, err := json.Marshal(traces)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"kind":4`, `{"key":"messaging.kafka.offset","value":{"intValue":"20"}}`, `{"key":"messaging.destination.partition.id","value":{"stringValue":"3"}}`,
		`{"key":"waybill.epoch","value":{"stringValue":"1152921504606846976"}}`, `{"key":"service.name","value":{"stringValue":"waybill"}}`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
	// Asked at another place, the ids are the same: they are of the event.
	turned := answer()
	turned.Nodes[0], turned.Nodes[1] = turned.Nodes[1], turned.Nodes[0]
	for i, e := range turned.Edges {
		turned.Edges[i].From, turned.Edges[i].To = []int{1, 0, 2, 3}[e.From], []int{1, 0, 2, 3}[e.To]
	}
	again := Spans(turned, nil, "v1").ResourceSpans[0].ScopeSpans[0].Spans
	if again[1].TraceID != first.TraceID || again[1].SpanID != first.SpanID || again[1].Links != nil || again[1].StartTimeUnixNano != again[1].EndTimeUnixNano {
		t.Errorf("got %+v, was %+v", again[1], first)
	}
}

// TestSpansOfARing: an event that comes back to where it was ends.
func TestSpansOfARing(t *testing.T) {
	a := answer()
	a.Edges = append(a.Edges, lineage.Edge{From: 2, To: 1, Flow: "ap-us", At: a.Edges[0].At})
	if spans := Spans(a, nil, "").ResourceSpans[0].ScopeSpans[0].Spans; len(spans) != 3 {
		t.Errorf("got %d spans", len(spans))
	}
}

func TestWrite(t *testing.T) {
	type row struct {
		Name   string    `json:"name"`
		Count  int64     `json:"count,omitempty"`
		Hidden bool      `json:"redacted"`
		At     time.Time `json:"at"`
	}
	rows := []row{{`a,"b"`, 1, false, t0}, {"=HYPERLINK()", 0, true, time.Time{}}, {"-1", -1, false, t0}}
	got, err := Write(CSV, rows)
	want := "name,count,redacted,at\n\"a,\"\"b\"\"\",1,false,2025-06-15T15:06:40.123Z\n'=HYPERLINK(),0,true,\n'-1,-1,false,2025-06-15T15:06:40.123Z\n"
	if err != nil || string(got) != want {
		t.Errorf("got %v\n%s, want\n%s", err, got, want)
	}
	got, err = Write(NDJSON, rows)
	if lines := strings.Split(strings.TrimSpace(string(got)), "\n"); err != nil || len(lines) != 3 || lines[0] != `{"name":"a,\"b\"","count":1,"redacted":false,"at":"2025-06-15T15:06:40.123Z"}` {
		t.Errorf("got %v\n%s", err, got)
	}
	if got, err := Write(CSV, []row{}); err != nil || !slices.Equal(got, []byte("name,count,redacted,at\n")) {
		t.Errorf("got %v %q of no rows", err, got)
	}
}
