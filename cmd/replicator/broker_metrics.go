package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker"
)

// brokerStatus serves what supervisors and Prometheus ask of a broker, on an
// address of its own: /livez, /readyz and /metrics. It answers before the broker
// is there, which takes as long as recovery does.
type brokerStatus struct {
	broker   atomic.Pointer[broker.Broker]
	stopping atomic.Bool
}

// scrapeTimeout bounds what a scrape waits for coordinators.
const scrapeTimeout = 5 * time.Second

// serve answers on l until ctx ends.
func (s *brokerStatus) serve(ctx context.Context, l net.Listener, log *slog.Logger) error {
	server := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

func (s *brokerStatus) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if faults := s.faults(); len(faults) > 0 {
			http.Error(w, strings.Join(faults, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

// faults says why the broker is not ready.
func (s *brokerStatus) faults() []string {
	b := s.broker.Load()
	switch {
	case s.stopping.Load():
		return []string{"stopping"}
	case b == nil:
		return []string{"starting: the logs are being recovered"}
	}
	return b.Health()
}

var _ prometheus.Collector = (*brokerStatus)(nil)

// Describe implements [prometheus.Collector]: what is collected depends on the
// broker, so nothing is promised.
func (s *brokerStatus) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (s *brokerStatus) Collect(out chan<- prometheus.Metric) {
	ready := 0.0
	if len(s.faults()) == 0 {
		ready = 1
	}
	gauge(out, "ready", "1 if /readyz says so.", ready, nil)
	b := s.broker.Load()
	if b == nil {
		return
	}
	collectCounters(out, b.Metrics())
	for api, r := range b.Metrics().Requests() {
		collectRequests(out, api, r)
	}
	for name, l := range b.Listeners() {
		with := prometheus.Labels{"listener": name}
		gauge(out, "connections", "Connections that are open.", float64(l.Connections), with)
		if !l.CertificateEnd.IsZero() {
			gauge(out, "certificate_days_left", "Until the listener's certificate ends.", time.Until(l.CertificateEnd).Hours()/24, with)
		}
	}
	var all broker.Stored
	for topic, stored := range b.StoredByTopic() {
		gauge(out, "log_bytes", "Of the logs of a topic on disk.", float64(stored.Bytes), prometheus.Labels{"topic": topic})
		all.Topics++
		all.Partitions += stored.Partitions
		all.Offline += stored.Offline
		all.Full += stored.Full
		all.Uncleanable += stored.Uncleanable
	}
	gauge(out, "topics", "Topics.", float64(all.Topics), nil)
	gauge(out, "partitions", "Partitions.", float64(all.Partitions), nil)
	gauge(out, "offline_partitions", "Partitions whose log cannot be used.", float64(all.Offline), nil)
	gauge(out, "full_partitions", "Partitions that found the disk full and try again.", float64(all.Full), nil)
	gauge(out, "uncleanable_partitions", "Partitions that compaction has given up.", float64(all.Uncleanable), nil)

	if n, bytes, err := b.Orphans(); err == nil { // one that cannot be read is not counted as nothing
		gauge(out, "orphans", "Logs that were moved aside because the metadata does not know them.", float64(n), nil)
		gauge(out, "orphan_bytes", "Of those logs on disk.", float64(bytes), nil)
	}
	gauge(out, "coordinators_down", "Partitions of the coordinators' topics whose groups or transactions cannot be served.", float64(len(b.CoordinatorFaults())), nil)

	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	groups, transactions, err := b.Coordinated(ctx)
	if err != nil {
		return // being loaded: /readyz and the absence say so
	}
	for state, n := range groups {
		gauge(out, "groups", "Consumer groups by state.", float64(n), prometheus.Labels{"state": state})
	}
	for state, n := range transactions {
		gauge(out, "transactions", "Transactional ids by the state of their transaction.", float64(n), prometheus.Labels{"state": state})
	}
}

func collectCounters(out chan<- prometheus.Metric, m *broker.Metrics) {
	gauge(out, "fetches_parked", "Fetch requests that wait for records.", float64(m.FetchesParked.Load()), nil)
	for _, c := range []struct {
		name, help string
		value      *atomic.Int64
	}{
		{"connections_refused_total", "Connections closed for a limit.", &m.ConnectionsRefused},
		{"authentications_failed_total", "Connections closed because the client did not prove who it is.", &m.AuthenticationsFailed},
		{"sessions_ended_total", "Connections closed because what was proven does not hold any more.", &m.SessionsEnded},
		{"connections_cut_total", "Connections closed for memory that others waited for.", &m.ConnectionsCut},
		{"malformed_requests_total", "Connections closed for bytes that are no request.", &m.MalformedRequests},
		{"throttled_total", "Answers that told a client to wait for exceeding a quota.", &m.Throttled},
		{"produced_records_total", "Records appended by producers.", &m.ProducedRecords},
		{"produced_bytes_total", "Bytes of batches appended by producers.", &m.ProducedBytes},
		{"fetched_bytes_total", "Bytes of batches sent to consumers.", &m.FetchedBytes},
		{"logs_filled_up_total", "Times that a log found the disk full.", &m.LogsFilledUp},
		{"logs_failed_total", "Logs that went offline after a failed write.", &m.LogsFailed},
		{"compacted_bytes_total", "Bytes of segments that compaction replaced.", &m.CompactedBytes},
		{"compaction_freed_bytes_total", "What they had more than what replaced them.", &m.CompactionFreedBytes},
		{"provenance_entries_total", "Records of who produced and who fetched, written to the ledger.", &m.ProvenanceEntries},
		{"provenance_lost_total", "Such records that could not be written.", &m.ProvenanceLost},
	} {
		counter(out, c.name, c.help, float64(c.value.Load()), nil)
	}
}

func collectRequests(out chan<- prometheus.Metric, api string, r broker.RequestMetrics) {
	if r.Answered == 0 {
		return
	}
	with := prometheus.Labels{"api": api}
	counter(out, "request_bytes_total", "Bytes of requests.", float64(r.ReceivedBytes), with)
	buckets := make(map[float64]uint64, len(r.Within))
	for i, n := range r.Within {
		buckets[broker.LatencyBounds[i].Seconds()] = uint64(n)
	}
	out <- prometheus.MustNewConstHistogram(
		prometheus.NewDesc("waybill_broker_request_seconds", "From a request's last byte to its answer's first, waiting included.", nil, with),
		uint64(r.Answered), r.Took.Seconds(), buckets)
	for code, n := range r.Errors {
		counter(out, "request_errors_total", "Error codes in answers, once for each thing that one was for.", float64(n),
			prometheus.Labels{"api": api, "error": errorName(code)})
	}
}

func errorName(code int16) string {
	var known *kerr.Error
	if err := kerr.ErrorForCode(code); errors.As(err, &known) {
		return known.Message
	}
	return strconv.Itoa(int(code))
}

func gauge(out chan<- prometheus.Metric, name, help string, v float64, with prometheus.Labels) {
	metric(out, prometheus.GaugeValue, "waybill_broker_"+name, help, v, with)
}

func counter(out chan<- prometheus.Metric, name, help string, v float64, with prometheus.Labels) {
	metric(out, prometheus.CounterValue, "waybill_broker_"+name, help, v, with)
}
