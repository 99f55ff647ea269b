package broker

import (
	"errors"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/auth"
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

	ProducedRecords atomic.Int64 // acknowledged or not yet
	ProducedBytes   atomic.Int64 // of batches as stored
	FetchedBytes    atomic.Int64 // of batches as sent
	FetchesParked   atomic.Int64 // that wait now
	Throttled       atomic.Int64 // answers that told a client to wait, for a quota

	ProvenanceEntries atomic.Int64 // written to the ledger
	ProvenanceLost    atomic.Int64 // that could not be written

	requests map[kmsg.Key]*requestMetrics // immutable
}

type requestMetrics struct{ count, nanoseconds atomic.Int64 }

// RequestMetrics is what became of the requests of one API: how many were
// answered, and how long they took together, from when they were read until their
// answer was ready. For those that wait, waiting is most of it.
type RequestMetrics struct {
	Answered int64
	Took     time.Duration
}

func newMetrics(table dispatchTable) *Metrics {
	m := &Metrics{requests: map[kmsg.Key]*requestMetrics{}}
	for key := range table {
		m.requests[kmsg.Key(key)] = &requestMetrics{}
	}
	return m
}

func (m *Metrics) answered(key kmsg.Key, took time.Duration) {
	r := m.requests[key]
	r.count.Add(1)
	r.nanoseconds.Add(int64(took))
}

// closed counts why a connection was closed.
func (m *Metrics) closed(err error) {
	switch {
	case errors.Is(err, errFrame):
		m.MalformedRequests.Add(1)
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
			r := m.requests[key]
			if !yield(key.Name(), RequestMetrics{r.count.Load(), time.Duration(r.nanoseconds.Load())}) {
				return
			}
		}
	}
}

// Stored is what a broker holds at a moment.
type Stored struct {
	Topics, Partitions int
	// Offline are partitions whose log could not be opened.
	Offline int
	// Bytes of all logs.
	Bytes int64
}

// Stored counts what the broker holds. It looks at every partition.
func (b *Broker) Stored() Stored {
	set := b.topics.Load()
	s := Stored{Topics: len(set.byName)}
	for _, t := range set.byName {
		s.Partitions += len(t.partitions)
		for _, p := range t.partitions {
			s.Bytes += p.Size()
			if p.Offline() != nil {
				s.Offline++
			}
		}
	}
	return s
}

// Metrics are the broker's counters.
func (b *Broker) Metrics() *Metrics { return b.metrics }
