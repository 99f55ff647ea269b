package broker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/broker/commitlog"
)

// Metrics are what a broker counts since it was made. Whoever exposes them reads
// them; everything is safe for concurrent use.
type Metrics struct {
	// Connections are open now; the others only grow.
	Connections           atomic.Int64
	ConnectionsRefused    atomic.Int64 // for a limit
	AuthenticationsFailed atomic.Int64
	SessionsEnded         atomic.Int64 // cut: expired, user deleted, certificate not good any more
	MalformedRequests     atomic.Int64 // each closed its connection
	ConnectionsCut        atomic.Int64 // for memory that others waited for

	ProducedRecords atomic.Int64 // acknowledged or not yet
	ProducedBytes   atomic.Int64 // of batches as stored
	FetchedBytes    atomic.Int64 // of batches as sent
	FetchesParked   atomic.Int64 // that wait now
	Throttled       atomic.Int64 // answers that told a client to wait, for a quota

	LogsFilledUp         atomic.Int64 // times that a log found the disk full
	LogsFailed           atomic.Int64 // logs that went offline after a failed write
	CompactedBytes       atomic.Int64 // of segments that compaction replaced
	CompactionFreedBytes atomic.Int64 // that they had more than what replaced them

	ProvenanceEntries atomic.Int64 // written to the ledger
	ProvenanceLost    atomic.Int64 // that could not be written

	requests map[kmsg.Key]*requestMetrics // immutable
}

// LatencyBounds are the upper bounds of the buckets of [RequestMetrics], in
// ascending order. What takes longer than the last is in none.
var LatencyBounds = []time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

type requestMetrics struct {
	count, nanoseconds atomic.Int64
	received           atomic.Int64
	buckets            [16]atomic.Int64 // of LatencyBounds, each without the ones before

	mu   sync.Mutex
	errs map[int16]int64
}

// RequestMetrics is what became of the requests of one API: how many were
// answered, and how long they took, from when they were read until their answer
// was ready. For those that wait, waiting is most of it.
type RequestMetrics struct {
	Answered int64
	Took     time.Duration // together
	// Within counts those that took no longer than each of LatencyBounds.
	Within        []int64
	ReceivedBytes int64 // of frames
	// Errors counts error codes in answers: each code of an answer once for every
	// topic, partition, group or other thing that it was for.
	Errors map[int16]int64
}

func newMetrics(table dispatchTable) *Metrics {
	m := &Metrics{requests: map[kmsg.Key]*requestMetrics{}}
	for key := range table {
		m.requests[kmsg.Key(key)] = &requestMetrics{errs: map[int16]int64{}}
	}
	return m
}

// answered counts an answer, nil for a request that has none.
func (m *Metrics) answered(r *request, resp kmsg.Response, took time.Duration) {
	a := m.requests[r.key]
	a.count.Add(1)
	a.nanoseconds.Add(int64(took))
	a.received.Add(int64(r.size))
	for i, bound := range LatencyBounds {
		if took <= bound {
			a.buckets[i].Add(1)
			break
		}
	}
	eachError(resp, func(code int16) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.errs[code]++
	})
}

func (a *requestMetrics) read() RequestMetrics {
	out := RequestMetrics{
		Answered: a.count.Load(), Took: time.Duration(a.nanoseconds.Load()), ReceivedBytes: a.received.Load(), Within: make([]int64, len(LatencyBounds)),
	}
	var sum int64
	for i := range out.Within {
		sum += a.buckets[i].Load()
		out.Within[i] = sum
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out.Errors = maps.Clone(a.errs)
	return out
}

// closed counts why a connection was closed.
func (m *Metrics) closed(err error) {
	switch {
	case errors.Is(err, errFrame):
		m.MalformedRequests.Add(1)
	case errors.Is(err, errShort):
		m.ConnectionsCut.Add(1)
	case errors.Is(err, auth.ErrFailed):
		m.AuthenticationsFailed.Add(1)
	}
}

// Requests yields the APIs by name, in the order of their keys.
func (m *Metrics) Requests() iter.Seq2[string, RequestMetrics] {
	return func(yield func(string, RequestMetrics) bool) {
		keys := make([]kmsg.Key, 0, len(m.requests))
		for key := range m.requests {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			if !yield(apiName(key), m.requests[key].read()) {
				return
			}
		}
	}
}

// Stored is what a broker holds at a moment.
type Stored struct {
	Topics, Partitions int
	// Offline are partitions that take no writes until the broker is started
	// again: their log could not be opened, or a write has failed.
	Offline int
	// Full are partitions that found the disk full and try again.
	Full int
	// Uncleanable are partitions that compaction has given up.
	Uncleanable int
	// Bytes of all logs.
	Bytes int64
	// OpenFiles of logs; segments are opened when they are used.
	OpenFiles int
}

// Stored counts what the broker holds. It looks at every partition.
func (b *Broker) Stored() Stored {
	s := Stored{OpenFiles: b.files.Open()}
	for _, t := range b.StoredByTopic() {
		s.Topics++
		s.Partitions += t.Partitions
		s.Bytes += t.Bytes
		s.Offline += t.Offline
		s.Full += t.Full
		s.Uncleanable += t.Uncleanable
	}
	return s
}

// StoredByTopic is [Broker.Stored] for each topic. Topics is 1 in all; files are
// not counted.
func (b *Broker) StoredByTopic() map[string]Stored {
	now := time.Now()
	set := b.topics.Load()
	all := make(map[string]Stored, len(set.byName))
	for name, t := range set.byName {
		s := Stored{Topics: 1, Partitions: len(t.partitions)}
		for _, p := range t.partitions {
			s.Bytes += p.Size()
			switch h, _ := p.Health(); h {
			case commitlog.Offline:
				s.Offline++
			case commitlog.Full:
				s.Full++
			}
			if d, _ := p.Dirt(now); d.Uncleanable != nil {
				s.Uncleanable++
			}
		}
		all[name] = s
	}
	return all
}

// ListenerState is a listener at a moment.
type ListenerState struct {
	Connections int64
	// CertificateEnd is when its own certificate ends; zero without TLS.
	CertificateEnd time.Time
}

// Listeners are the listeners by name.
func (b *Broker) Listeners() map[string]ListenerState {
	all := make(map[string]ListenerState, len(b.listeners))
	for name, ln := range b.listeners {
		s := ListenerState{Connections: ln.open.Load()}
		if ln.tls != nil {
			s.CertificateEnd = ln.tls.fresh(b.log).expires
		}
		all[name] = s
	}
	return all
}

// Coordinated counts groups and transactions by their state, without those of
// coordinators that are down ([Broker.CoordinatorFaults]). It fails while they are
// loaded.
func (b *Broker) Coordinated(ctx context.Context) (groups, transactions map[string]int, err error) {
	listed, err := b.coordinators.groups.List(ctx)
	if err != nil && !errors.Is(err, kerr.CoordinatorNotAvailable) {
		return nil, nil, fmt.Errorf("list groups: %w", err)
	}
	txns, err := b.coordinators.txns.List(ctx)
	if err != nil && !errors.Is(err, kerr.CoordinatorNotAvailable) {
		return nil, nil, fmt.Errorf("list transactions: %w", err)
	}
	groups, transactions = map[string]int{}, map[string]int{}
	for _, g := range listed {
		groups[string(g.State)]++
	}
	for i := range txns {
		transactions[txns[i].State.String()]++
	}
	return groups, transactions, nil
}

// Metrics are the broker's counters.
func (b *Broker) Metrics() *Metrics { return b.metrics }
