//go:build unix

package scenarios

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/lineage"
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
	if a, err := n.call(http.MethodGet, "/api/v1/audit?operation=search-events&limit=1", adminToken, ""); err != nil || !strings.Contains(string(a.body), `"target":"lineage/search/`) {
		t.Errorf("not in the audit trail: %v %s", err, a)
	}
}
