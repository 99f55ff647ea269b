package commitlog

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Config is how one log behaves. The name in brackets is Kafka's.
type Config struct {
	// SegmentBytes is the size at which a new segment begins [segment.bytes].
	SegmentBytes int64
	// SegmentAge is how long after its first append a segment takes more
	// [segment.ms]. The time is this host's, not the records'.
	SegmentAge time.Duration
	// IndexInterval is about how many bytes of log one index entry stands for
	// [index.interval.bytes].
	IndexInterval int64
	// MaxBatchBytes bounds what a client may append [max.message.bytes].
	MaxBatchBytes int
	// RetentionAge is how long after its newest timestamp a segment is kept
	// [retention.ms]; negative is for ever.
	RetentionAge time.Duration
	// RetentionBytes is the size beyond which old segments go
	// [retention.bytes]; negative is no limit.
	RetentionBytes int64
	// ProducerExpiry is how long the state of a producer outlives its last
	// append [producer.id.expiration.ms].
	ProducerExpiry time.Duration
	// MaxProducers bounds the producers remembered: beyond it the idlest
	// without an open transaction are forgotten. A hostile client can invent
	// producer ids.
	MaxProducers int
	// VerifyTransactions refuses a client's batch that would open a transaction
	// unless it comes with a guard of BeginVerification (KIP-890).
	VerifyTransactions bool
	// Syncs, if not nil, bounds how many syncs run at once over all logs that
	// share it: each holds an operating system thread.
	Syncs *SyncGate
}

// DefaultConfig has Kafka's defaults.
func DefaultConfig() Config {
	return Config{
		SegmentBytes:   1 << 30,
		SegmentAge:     7 * 24 * time.Hour,
		IndexInterval:  4096,
		MaxBatchBytes:  1<<20 + 12, // one record of 1 MiB with its overhead
		RetentionAge:   7 * 24 * time.Hour,
		RetentionBytes: -1,
		ProducerExpiry: 24 * time.Hour,
		MaxProducers:   100_000, // about 40 MB
	}
}

// Validate says what a log cannot work with.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	// Positions in an index are 32 bits wide.
	check(c.SegmentBytes > 0 && c.SegmentBytes <= math.MaxInt32, "segment size %d is not in 1..%d", c.SegmentBytes, math.MaxInt32)
	check(c.SegmentAge > 0, "segment age %v is not positive", c.SegmentAge)
	check(c.IndexInterval > 0, "index interval %d is not positive", c.IndexInterval)
	check(c.MaxBatchBytes > 0, "largest batch %d is not positive", c.MaxBatchBytes)
	check(c.ProducerExpiry > 0, "producer expiry %v is not positive", c.ProducerExpiry)
	check(c.MaxProducers > 0, "producer limit %d is not positive", c.MaxProducers)
	return errors.Join(errs...)
}

// SyncGate bounds concurrent syncs.
type SyncGate struct{ slots chan struct{} }

// NewSyncGate lets n syncs run at once; n is at least 1.
func NewSyncGate(n int) *SyncGate { return &SyncGate{make(chan struct{}, max(n, 1))} }

func (g *SyncGate) run(sync func() error) error {
	if g == nil {
		return sync()
	}
	g.slots <- struct{}{}
	defer func() { <-g.slots }()
	return sync()
}
