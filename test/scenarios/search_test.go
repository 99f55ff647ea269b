//go:build unix

package scenarios

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/lineage/export"
	"github.com/waybillhq/waybill/lineage/search"
)

const traced = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// An event is found by its time, its key and its trace, on both sides, page by page;
// its address leads to the rest of its story.
func TestEventsAreFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	n := w.nodes[0]
	w.us.createTopic("orders", 2)
	w.declare("orders")
	w.us.produce("orders", 2, 100)
	cl := w.us.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	must(t, cl.ProduceSync(w.us.ctx(), &kgo.Record{
		Topic: "orders", Partition: 1, Key: []byte("the-one"), Value: []byte("v"), Timestamp: time.UnixMilli(1_750_000_000_000),
		Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte(traced)}},
	}).FirstErr())
	w.running(2)
	w.exact("orders", 201)

	find := func(cluster, ask string) (found []string, scanned int64) {
		t.Helper()
		for cursor := ""; ; {
			var page search.Page
			must(t, n.get("/api/v1/lineage/search/"+cluster+"/orders?"+ask+cursor, &page))
			for _, e := range page.Events {
				found = append(found, fmt.Sprintf("%s/%d/%d", e.Cluster, e.Partition, e.Offset))
			}
			for _, s := range page.Scanned {
				scanned += s.Records
			}
			if page.Next == "" {
				return found, scanned
			}
			cursor = "&cursor=" + page.Next
		}
	}
	for _, cluster := range []string{"us", "eu"} {
		for ask, records := range map[string]int64{
			"key=the-one": 201, "traceId=4bf92f3577b34da6a3ce929d0e0e4736&since=2025-01-01T00:00:00Z": 1, "traceId=" + traced + "&partition=1": 101,
		} {
			got, scanned := find(cluster, ask)
			if len(got) != 1 || !strings.HasPrefix(got[0], cluster+"/1/") || scanned != records {
				t.Errorf("%s in %s: found %v in %d records", ask, cluster, got, scanned)
			}
		}
	}
	if got, _ := find("us", "since=2025-01-01T00:00:00Z"); !slices.Equal(got, []string{"us/1/100"}) {
		t.Errorf("by time: found %v", got)
	}
	if got, scanned := find("us", "key=key-1&limit=3&until=2024-01-01T00:00:00Z"); len(got) != 8 || scanned != 200 {
		t.Errorf("in pages: found %v in %d records", got, scanned)
	}
	for ask, status := range map[string]int{"orders?key=k&partition=9": 404, "nothing?key=k": 404, "orders": 422, "orders?key=k&cursor=x": 422} {
		a, err := n.call(http.MethodGet, "/api/v1/lineage/search/us/"+ask, adminToken, "")
		must(t, err)
		if a.status != status || a.problem(t).Detail == "" {
			t.Errorf("%s: got %s", ask, a)
		}
	}
	var a lineage.Answer
	must(t, n.get("/api/v1/lineage/events/us/orders/1/100", &a))
	if len(a.Nodes) != 2 || len(a.Edges) != 1 {
		t.Errorf("got %+v", a)
	}
	var traces export.Traces
	must(t, n.get("/api/v1/lineage/otlp/us/orders/1/100", &traces))
	if spans := traces.ResourceSpans[0].ScopeSpans[0].Spans; len(spans) != 1 || len(spans[0].Links) != 1 || spans[0].Links[0].TraceID != traced[3:35] {
		t.Errorf("got %+v", traces)
	}
	runs, err := n.call(http.MethodGet, "/api/v1/lineage/openlineage/eu/orders", adminToken, "")
	must(t, err)
	var run export.RunEvent
	if err := json.Unmarshal(runs.body, &run); err != nil || run.Inputs[0].Namespace != "kafka://"+w.us.address || run.Outputs[0].Namespace != "kafka://"+w.eu.address || run.Inputs[0].InputFacets.InputStatistics.RowCount != 201 {
		t.Errorf("got %v: %s", err, runs)
	}
	var digests [2][]string
	for i, cluster := range []string{"us", "eu"} {
		a, err := n.call(http.MethodPost, "/api/v1/lineage/digests/"+cluster+"/orders/1?format=ndjson", adminToken, "a key of 20 bytes at least")
		must(t, err)
		for line := range strings.Lines(string(a.body)) {
			var d search.Digest
			must(t, json.Unmarshal([]byte(line), &d))
			digests[i] = append(digests[i], d.Digest)
		}
	}
	if len(digests[0]) != 101 || !slices.Equal(digests[0], digests[1]) {
		t.Errorf("digests differ: %q", digests)
	}
	if a, err := n.call(http.MethodGet, "/api/v1/audit?operation=search-events&limit=1", adminToken, ""); err != nil || !strings.Contains(string(a.body), `"target":"lineage/search/`) {
		t.Errorf("not in the audit trail: %v %s", err, a)
	}
}

// A stream tells of what is copied as it happens, goes on after an id, and
// ends in words when its node stops.
func TestStreamTellsWhatHappens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	n := w.nodes[0]
	w.us.createTopic("orders", 1)
	w.declare("orders")
	w.us.produce("orders", 1, 10)
	w.running(1)
	w.exact("orders", 10)

	follow := func(after string) (next func() (id, kind string, e lineage.StreamEvent)) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		t.Cleanup(cancel)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.api+"/api/v1/lineage/stream/us?topic=orders&kind=copied", nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+adminToken)
		req.Header.Set("Last-Event-ID", after)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("got %s", resp.Status)
		}
		lines := bufio.NewScanner(resp.Body)
		return func() (id, kind string, e lineage.StreamEvent) {
			t.Helper()
			for lines.Scan() {
				name, value, _ := strings.Cut(lines.Text(), ": ")
				switch name {
				case "id":
					id = value
				case "event":
					kind = value
				case "data":
					must(t, json.Unmarshal([]byte(value), &e))
				case "":
					if kind != "" {
						return id, kind, e
					}
				}
			}
			t.Fatalf("the stream breaks off: %v", lines.Err())
			return "", "", e
		}
	}
	next := follow("")
	w.us.produce("orders", 1, 1)
	id, _, e := next()
	for e.Source.Last < 10 { // copies of before may come into the index only now
		id, _, e = next()
	}
	if e.Kind != "copied" || e.Destination.Cluster != "eu" || e.Flow != flowName || e.Records == 0 {
		t.Errorf("told of %+v", e)
	}
	w.us.produce("orders", 1, 1)
	second := follow(id)
	if _, _, e := second(); e.Kind != "copied" || e.Source.First != 11 {
		t.Errorf("after %s: %+v", id, e)
	}
	n.process.stop(t)
	for {
		if _, kind, _ := second(); kind == "end" {
			break
		}
	}
	n.start()
	eventually(t, 30*time.Second, "the node knows who may see what", func() error {
		var a lineage.Answer
		return n.get("/api/v1/lineage/events/us/orders/0/0", &a)
	})
	if _, _, e := follow(id)(); e.Kind != "missed" || e.Why == "" {
		t.Errorf("after an id of an earlier life: %+v", e)
	}
}
