package main

import (
	"flag"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/verify"
)

var updateMetrics = flag.Bool("update-metrics", false, "write testdata/node_metrics.txt anew")

// TestNodeMetrics: names, kinds, labels and values of what a node measures are what
// dashboards and alerts ask for.
func TestNodeMetrics(t *testing.T) {
	counters := &mirror.Metrics{}
	counters.Records.Add(7)
	counters.Bytes.Add(700)
	counters.Doubled.Add(1)
	reports := []*verify.Report{
		{Flow: "f", State: verify.Done, Ended: time.UnixMilli(1_700_000_000_500), Tally: verify.Tally{Records: 20, Different: 2}},
		{
			Flow: "g", State: verify.Running, Tally: verify.Tally{Records: 5},
			Previous: &verify.Report{Flow: "g", State: verify.Done, Ended: time.UnixMilli(1_600_000_000_000), Tally: verify.Tally{Records: 9, Different: 1}},
		},
		{Flow: "h", State: verify.Stopped},
	}
	copies := []mirror.CopyStatus{
		{Flow: "f", SourceTopic: "orders", State: mirror.Running, LagRecords: 3, Lag: 1500 * time.Millisecond, Exposure: 2 * time.Second},
		{Flow: "f", SourceTopic: "orders", Partition: 1, State: mirror.Failed, LagRecords: 4, Lag: time.Second, Exposure: -1},
		{Flow: "f", SourceTopic: "new", State: mirror.Running, LagRecords: -1, Exposure: -1},
	}
	m, err := newNodeMetrics("n1", func() []mirror.CopyStatus { return copies }, func() *mirror.Metrics { return counters }, func() (bool, uint64) { return true, 42 }, func() []*verify.Report { return reports })
	if err != nil {
		t.Fatal(err)
	}
	got := scrape(t, m)
	if *updateMetrics {
		if err := os.WriteFile("testdata/node_metrics.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/node_metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}

	// Between two lives of the node's work there is nothing to count, and that is no zero.
	m, err = newNodeMetrics("n1", func() []mirror.CopyStatus { return nil }, func() *mirror.Metrics { return nil }, func() (bool, uint64) { return false, 0 }, func() []*verify.Report { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if got := scrape(t, m); strings.Contains(got, "waybill_mirror_") || !strings.Contains(got, `waybill_raft_leader{node="n1"} 0`) {
		t.Errorf("without work:\n%s", got)
	}
}

// scrape is what a node exposes of its own.
func scrape(t *testing.T, m *nodeMetrics) string {
	w := httptest.NewRecorder()
	m.handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	var lines strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, "waybill_") {
			lines.WriteString(line)
		}
	}
	return lines.String()
}
