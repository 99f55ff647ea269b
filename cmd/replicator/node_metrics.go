package main

import (
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/verify"
)

// nodeMetrics are what a node measures, for Prometheus to scrape. Names follow
// Prometheus' habits: base units, _total.
type nodeMetrics struct {
	handler http.Handler

	// What is asked at each scrape.
	node     string
	copies   func() []mirror.CopyStatus
	counters func() *mirror.Metrics
	raft     func() (leader bool, revision uint64)
	verified func() []*verify.Report
}

var _ prometheus.Collector = (*nodeMetrics)(nil)

// newNodeMetrics registers everything. The functions are asked at each scrape.
func newNodeMetrics(node string, copies func() []mirror.CopyStatus, counters func() *mirror.Metrics, raft func() (leader bool, revision uint64), verified func() []*verify.Report) (*nodeMetrics, error) {
	m := &nodeMetrics{node: node, copies: copies, counters: counters, raft: raft, verified: verified}
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return m, nil
}

// Describe implements [prometheus.Collector]: flows come and go, so nothing is
// promised.
func (m *nodeMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (m *nodeMetrics) Collect(out chan<- prometheus.Metric) {
	collectCopies(out, m.copies())
	if c := m.counters(); c != nil {
		collectMirror(out, c)
	}
	collectVerifications(out, m.verified())

	leader, revision := m.raft()
	who, leads := prometheus.Labels{"node": m.node}, 0.0
	if leader {
		leads = 1
	}
	metric(out, prometheus.GaugeValue, "waybill_raft_leader", "1 on the node that leads.", leads, who)
	metric(out, prometheus.GaugeValue, "waybill_raft_revision", "Of the state that this node knows.", float64(revision), who)
}

// collectCopies sums the copies of this node up by flow and topic.
func collectCopies(out chan<- prometheus.Metric, copies []mirror.CopyStatus) {
	type key struct{ flow, topic, state string }
	lags, ages, exposures, counts := map[key]int64{}, map[key]float64{}, map[key]float64{}, map[key]int64{}
	for _, c := range copies {
		k := key{flow: c.Flow, topic: c.SourceTopic}
		lags[k] += max(0, c.LagRecords)
		ages[k] = max(ages[k], c.Lag.Seconds())
		if c.Exposure >= 0 {
			exposures[k] = max(exposures[k], c.Exposure.Seconds())
		}
		counts[key{c.Flow, c.SourceTopic, string(c.State)}]++
	}
	gauge := func(name, help string, v float64, k key) {
		with := prometheus.Labels{"flow": k.flow, "topic": k.topic}
		if k.state != "" {
			with["state"] = k.state
		}
		metric(out, prometheus.GaugeValue, "waybill_flow_"+name, help, v, with)
	}
	for k := range lags {
		gauge("lag_records", "Source offsets that are not copied yet.", float64(lags[k]), k)
		gauge("lag_seconds", "For how long the oldest of them has been there, by this node's clock.", ages[k], k)
	}
	for k, s := range exposures {
		gauge("rpo_seconds", "What the source acknowledged during this time would be missing if it were lost now; no value while the source has not answered.", s, k)
	}
	for k, n := range counts {
		gauge("copies", "Partitions that this node copies, by state.", float64(n), k)
	}
}

// collectMirror exports the counters of the present life: they begin at zero
// with each incarnation, which Prometheus takes for a restart.
func collectMirror(out chan<- prometheus.Metric, m *mirror.Metrics) {
	for _, c := range []struct {
		name, help string
		value      *atomic.Int64
	}{
		{"records_total", "Records copied and committed.", &m.Records},
		{"written_bytes_total", "Batches copied and committed.", &m.Bytes},
		{"raw_batches_total", "Batches produced as bytes.", &m.RawBatches},
		{"quarantined_records_total", "Records that cannot be copied and were put into a quarantine topic.", &m.Quarantined},
		{"encoded_batches_total", "Batches that had to be encoded again.", &m.EncodedBatches},
		{"appends_total", "Requests to mirror topics.", &m.Appends},
		{"truncations_total", "Cuts of mirror topics whose source had lost records.", &m.Truncations},
		{"recovered_offsets_total", "Source offsets that were found in mirror topics and not in the ledger.", &m.Recovered},
		{"gap_offsets_total", "Source offsets without a copy, declared in the ledger.", &m.GapOffsets},
		{"foreign_offsets_total", "Destination offsets that others wrote between ours.", &m.Foreign},
		{"matched_records_total", "Records that were found at the destination without a hop, and not written again.", &m.Matched},
		{"doubled_records_total", "Records of at-least-once copies that may be at the destination twice.", &m.Doubled},
		{"commits_total", "Transactions committed.", &m.Commits},
		{"aborts_total", "Transactions given up.", &m.Aborts},
		{"unclear_commits_total", "Commits that were not answered.", &m.Unclear},
		{"lane_opens_total", "Lanes opened.", &m.LaneOpens},
		{"lanes_fenced_total", "Lanes of dead nodes fenced.", &m.LanesFenced},
		{"fetches_total", "Fetch requests answered.", &m.Fetches},
	} {
		metric(out, prometheus.CounterValue, "waybill_mirror_"+c.name, c.help, float64(c.value.Load()), nil)
	}
}

// collectVerifications exports the comparisons of the flows whose duty is this
// node's. What one found counts until the next has ended.
func collectVerifications(out chan<- prometheus.Metric, reports []*verify.Report) {
	for _, r := range reports {
		flow := prometheus.Labels{"flow": r.Flow}
		found, last := r.Different, r
		if r.State == verify.Running && r.Previous != nil {
			found, last = max(found, r.Previous.Different), r.Previous
		}
		metric(out, prometheus.GaugeValue, "waybill_verify_differences", "Records that the comparison of both sides found not to be as they should be.", float64(found), flow)
		metric(out, prometheus.GaugeValue, "waybill_verify_records", "Records that it has compared.", float64(r.Records), flow)
		if last.State == verify.Done {
			metric(out, prometheus.GaugeValue, "waybill_verify_ended_time_seconds", "When the last one was done, since 1970; no value while there was none.", float64(last.Ended.UnixMilli())/1000, flow)
		}
	}
}

func metric(out chan<- prometheus.Metric, kind prometheus.ValueType, name, help string, v float64, with prometheus.Labels) {
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, with), kind, v)
}
