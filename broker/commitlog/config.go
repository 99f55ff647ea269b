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
	// SegmentJitter is the most by which that is shortened, by chance, so that
	// segments that began together do not end together [segment.jitter.ms].
	SegmentJitter time.Duration
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
	// FlushMessages is after how many records the log is synced at the latest
	// [flush.messages]. 1 is the strict policy: what is acknowledged is on disk.
	// With more, records are acknowledged when the operating system has them: a
	// killed process loses none, a power cut may lose those not synced yet.
	FlushMessages int64
	// FlushAge is how long after its append a record is synced at the latest
	// [flush.ms]; 0 is the strict policy. More than a minute is a minute.
	FlushAge time.Duration
	// Compact turns key compaction on [cleanup.policy].
	Compact bool
	// MinDirtyRatio is the part of the log that must be new for a compaction to
	// be worth it [min.cleanable.dirty.ratio].
	MinDirtyRatio float64
	// MinCompactionLag is how long a record is left alone at least
	// [min.compaction.lag.ms], MaxCompactionLag how long at most
	// [max.compaction.lag.ms].
	MinCompactionLag, MaxCompactionLag time.Duration
	// DeleteRetention is how long a tombstone, or the marker of a transaction
	// that has no records left, outlives the compaction that found it
	// [delete.retention.ms].
	DeleteRetention time.Duration
	// ProducerExpiry is how long the state of a producer outlives its last
	// append [producer.id.expiration.ms].
	ProducerExpiry time.Duration
	// MaxProducers bounds the producers remembered: beyond it the idlest
	// without an open transaction are forgotten, a tenth of it at once. A hostile
	// client can invent producer ids.
	MaxProducers int
	// VerifyTransactions refuses a client's batch that would open a transaction
	// unless it comes with a guard of BeginVerification (KIP-890).
	VerifyTransactions bool
	// Files, if not nil, bounds how many files are open over all logs that share
	// it. It is that of Open: a later change does nothing.
	Files *Files
	// Observe, if not nil, is told when the log fills up, fails or recovers.
	Observe Observer
	// Syncs, if not nil, bounds how many syncs run at once over all logs that
	// share it: each holds an operating system thread.
	Syncs *SyncGate

	// knownBytes is the size from which on a start does not read the active
	// segment again, markBytes how much may be appended before more of it is
	// known: what a start after a crash reads at most, about.
	knownBytes, markBytes int64
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

		FlushMessages:    1, // Kafka leaves it to the operating system
		FlushAge:         math.MaxInt64,
		MinDirtyRatio:    0.5,
		MaxCompactionLag: math.MaxInt64,
		DeleteRetention:  24 * time.Hour,

		knownBytes: 256 << 10,
		markBytes:  16 << 20,
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
	check(c.SegmentJitter >= 0, "segment jitter %v is negative", c.SegmentJitter)
	check(c.FlushMessages > 0, "flush after %d records is not positive", c.FlushMessages)
	check(c.FlushAge >= 0, "flush age %v is negative", c.FlushAge)
	check(c.MinDirtyRatio >= 0 && c.MinDirtyRatio <= 1, "dirty ratio %v is not in 0..1", c.MinDirtyRatio)
	check(c.MinCompactionLag >= 0 && c.MaxCompactionLag > 0, "compaction lags %v and %v", c.MinCompactionLag, c.MaxCompactionLag)
	check(c.DeleteRetention >= 0, "delete retention %v is negative", c.DeleteRetention)
	check(c.ProducerExpiry > 0, "producer expiry %v is not positive", c.ProducerExpiry)
	check(c.MaxProducers > 0, "producer limit %d is not positive", c.MaxProducers)
	return errors.Join(errs...)
}

// durable says whether the flush policy is the strict one.
func (c Config) durable() bool { return c.FlushMessages <= 1 || c.FlushAge <= 0 }

// segmentAge is how long a segment with this luck, in [0, 1), takes appends.
func (c Config) segmentAge(luck float64) time.Duration {
	age := c.SegmentAge
	if c.Compact {
		age = min(age, c.MaxCompactionLag)
	}
	return age - time.Duration(luck*float64(min(c.SegmentJitter, age)))
}

// mustCompact says whether what begins at a timestamp, in ms, has been left alone
// for too long; 0 is no timestamp.
func (c Config) mustCompact(first, now int64) bool {
	return c.Compact && first > 0 && now-first > c.MaxCompactionLag.Milliseconds()
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
