package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/verify"
)

// nodeMetrics are what a node measures, as OpenTelemetry instruments that
// Prometheus scrapes. Names follow Prometheus' habits: base units, _total.
type nodeMetrics struct {
	handler http.Handler
}

// newNodeMetrics registers everything. The functions are asked at each scrape.
func newNodeMetrics(node string, copies func() []mirror.CopyStatus, counters func() *mirror.Metrics, raft func() (leader bool, revision uint64), verified func() []*verify.Report) (*nodeMetrics, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)).Meter("waybill")
	m := &nodeMetrics{handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}
	if err := registerCopies(meter, copies); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if err := registerMirror(meter, counters); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if err := registerRaft(meter, node, raft); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if err := registerVerifications(meter, verified); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return m, nil
}

// registerCopies sums the copies of this node up by flow and topic.
func registerCopies(meter metric.Meter, copies func() []mirror.CopyStatus) error {
	lag, err1 := meter.Int64ObservableGauge("waybill_flow_lag_records", metric.WithDescription("Source offsets that are not copied yet."))
	behind, err2 := meter.Float64ObservableGauge("waybill_flow_lag", metric.WithUnit("s"), metric.WithDescription("For how long the oldest of them has been there, by this node's clock."))
	exposed, err4 := meter.Float64ObservableGauge("waybill_flow_rpo", metric.WithUnit("s"), metric.WithDescription("What the source acknowledged during this time would be missing if it were lost now; no value while the source has not answered."))
	owned, err3 := meter.Int64ObservableGauge("waybill_flow_copies", metric.WithDescription("Partitions that this node copies, by state."))
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			return err
		}
	}
	type key struct{ flow, topic, state string }
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		lags, ages, exposures, counts := map[key]int64{}, map[key]float64{}, map[key]float64{}, map[key]int64{}
		for _, c := range copies() {
			k := key{flow: c.Flow, topic: c.SourceTopic}
			lags[k] += max(0, c.LagRecords)
			ages[k] = max(ages[k], c.Lag.Seconds())
			if c.Exposure >= 0 {
				exposures[k] = max(exposures[k], c.Exposure.Seconds())
			}
			counts[key{c.Flow, c.SourceTopic, string(c.State)}]++
		}
		with := func(k key, more ...attribute.KeyValue) metric.MeasurementOption {
			return metric.WithAttributes(append(more, attribute.String("flow", k.flow), attribute.String("topic", k.topic))...)
		}
		for k := range lags {
			o.ObserveInt64(lag, lags[k], with(k))
			o.ObserveFloat64(behind, ages[k], with(k))
		}
		for k, s := range exposures {
			o.ObserveFloat64(exposed, s, with(k))
		}
		for k, n := range counts {
			o.ObserveInt64(owned, n, with(k, attribute.String("state", k.state)))
		}
		return nil
	}, lag, behind, exposed, owned)
	return err
}

// registerMirror exports the counters of the present life: they begin at zero
// with each incarnation, which Prometheus takes for a restart.
func registerMirror(meter metric.Meter, counters func() *mirror.Metrics) error {
	type counter struct {
		name, unit, help string
		value            func(*mirror.Metrics) int64
	}
	for _, c := range []counter{
		{"waybill_mirror_records", "", "Records copied and committed.", func(m *mirror.Metrics) int64 { return m.Records.Load() }},
		{"waybill_mirror_written", "By", "Batches copied and committed.", func(m *mirror.Metrics) int64 { return m.Bytes.Load() }},
		{"waybill_mirror_raw_batches", "", "Batches produced as bytes.", func(m *mirror.Metrics) int64 { return m.RawBatches.Load() }},
		{"waybill_mirror_quarantined_records", "", "Records that cannot be copied and were put into a quarantine topic.", func(m *mirror.Metrics) int64 { return m.Quarantined.Load() }},
		{"waybill_mirror_encoded_batches", "", "Batches that had to be encoded again.", func(m *mirror.Metrics) int64 { return m.EncodedBatches.Load() }},
		{"waybill_mirror_appends", "", "Requests to mirror topics.", func(m *mirror.Metrics) int64 { return m.Appends.Load() }},
		{"waybill_mirror_truncations", "", "Cuts of mirror topics whose source had lost records.", func(m *mirror.Metrics) int64 { return m.Truncations.Load() }},
		{"waybill_mirror_recovered_offsets", "", "Source offsets that were found in mirror topics and not in the ledger.", func(m *mirror.Metrics) int64 { return m.Recovered.Load() }},
		{"waybill_mirror_gap_offsets", "", "Source offsets without a copy, declared in the ledger.", func(m *mirror.Metrics) int64 { return m.GapOffsets.Load() }},
		{"waybill_mirror_foreign_offsets", "", "Destination offsets that others wrote between ours.", func(m *mirror.Metrics) int64 { return m.Foreign.Load() }},
		{"waybill_mirror_matched_records", "", "Records that were found at the destination without a hop, and not written again.", func(m *mirror.Metrics) int64 { return m.Matched.Load() }},
		{"waybill_mirror_doubled_records", "", "Records of at-least-once copies that may be at the destination twice.", func(m *mirror.Metrics) int64 { return m.Doubled.Load() }},
		{"waybill_mirror_commits", "", "Transactions committed.", func(m *mirror.Metrics) int64 { return m.Commits.Load() }},
		{"waybill_mirror_aborts", "", "Transactions given up.", func(m *mirror.Metrics) int64 { return m.Aborts.Load() }},
		{"waybill_mirror_unclear_commits", "", "Commits that were not answered.", func(m *mirror.Metrics) int64 { return m.Unclear.Load() }},
		{"waybill_mirror_lane_opens", "", "Lanes opened.", func(m *mirror.Metrics) int64 { return m.LaneOpens.Load() }},
		{"waybill_mirror_lanes_fenced", "", "Lanes of dead nodes fenced.", func(m *mirror.Metrics) int64 { return m.LanesFenced.Load() }},
		{"waybill_mirror_fetches", "", "Fetch requests answered.", func(m *mirror.Metrics) int64 { return m.Fetches.Load() }},
	} {
		_, err := meter.Int64ObservableCounter(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.help),
			metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
				if m := counters(); m != nil {
					o.Observe(c.value(m))
				}
				return nil
			}))
		if err != nil {
			return err
		}
	}
	return nil
}

// registerVerifications exports the comparisons of the flows whose duty is this
// node's. What one found counts until the next has ended.
func registerVerifications(meter metric.Meter, verified func() []*verify.Report) error {
	differences, err1 := meter.Int64ObservableGauge("waybill_verify_differences", metric.WithDescription("Records that the comparison of both sides found not to be as they should be."))
	records, err2 := meter.Int64ObservableGauge("waybill_verify_records", metric.WithDescription("Records that it has compared."))
	ended, err3 := meter.Float64ObservableGauge("waybill_verify_ended_time", metric.WithUnit("s"), metric.WithDescription("When the last one was done, since 1970; no value while there was none."))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, r := range verified() {
			flow := metric.WithAttributes(attribute.String("flow", r.Flow))
			found, last := r.Different, r
			if r.State == verify.Running && r.Previous != nil {
				found, last = max(found, r.Previous.Different), r.Previous
			}
			o.ObserveInt64(differences, found, flow)
			o.ObserveInt64(records, r.Records, flow)
			if last.State == verify.Done {
				o.ObserveFloat64(ended, float64(last.Ended.UnixMilli())/1000, flow)
			}
		}
		return nil
	}, differences, records, ended)
	return err
}

func registerRaft(meter metric.Meter, node string, raft func() (bool, uint64)) error {
	who := metric.WithAttributes(attribute.String("node", node))
	_, err1 := meter.Int64ObservableGauge("waybill_raft_leader", metric.WithDescription("1 on the node that leads."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			var v int64
			if leader, _ := raft(); leader {
				v = 1
			}
			o.Observe(v, who)
			return nil
		}))
	_, err2 := meter.Int64ObservableGauge("waybill_raft_revision", metric.WithDescription("Of the state that this node knows."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			_, revision := raft()
			o.Observe(int64(revision), who)
			return nil
		}))
	if err1 != nil {
		return err1
	}
	return err2
}
