package mirror

import (
	"sync/atomic"
	"time"
)

// State is what a copy is doing.
type State string

// The states of a copy.
const (
	// Starting: it looks for its position and has not fetched yet.
	Starting State = "starting"
	// Running: it copies, or has nothing to copy.
	Running State = "running"
	// Waiting: something is in the way that passes by itself; it tries again.
	Waiting State = "waiting"
	// Failed: a person has to do what Fix says. Except where going on would
	// splice or skip, it tries again from time to time and recovers by itself.
	Failed State = "failed"
	// Paused: somebody has paused its mirror topic at the destination. It goes on when
	// that is let go on.
	Paused State = "paused"
)

// CopyStatus is one copy as an operator sees it.
type CopyStatus struct {
	Flow             string `json:"flow"`
	SourceTopic      string `json:"sourceTopic"`
	DestinationTopic string `json:"destinationTopic"`
	Partition        int32  `json:"partition"`
	Epoch            uint64 `json:"epoch"`

	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"`
	Fix    string `json:"fix,omitempty"`

	// Position is the source offset that comes next: everything below it is
	// committed at the destination or declared as a gap. -1: not known yet.
	Position int64 `json:"position"`
	// SourceEnd is the source's high watermark, SourceStable its last stable
	// offset: what lies between belongs to open transactions and cannot be copied
	// yet. SourceStart is the source's first offset. -1: not known yet.
	SourceEnd    int64 `json:"sourceEnd"`
	SourceStable int64 `json:"sourceStable"`
	SourceStart  int64 `json:"sourceStart"`
	// LagRecords is SourceEnd - Position, never negative.
	LagRecords int64 `json:"lagRecords"`
	// Lag is how long ago the source's end first was beyond Position; 0 when
	// nothing is missing. It is measured here and not taken from records, whose
	// timestamps say when somebody claims that something happened.
	Lag time.Duration `json:"lagNanoseconds"`
	// LagBytes is LagRecords at the mean size of what was copied; -1: not known.
	LagBytes int64 `json:"lagBytes"`
	// CatchUp is when Position will be at SourceEnd, by the rates that CatchUpBasis
	// names; 0 when it is, -1: not known, or never at these rates.
	CatchUp      time.Duration `json:"catchUpNanoseconds"`
	CatchUpBasis string        `json:"catchUpBasis,omitempty"`
	// Exposure is for how long records may have been acknowledged at the source
	// without being at the destination: what a loss of the source would cost now.
	// -1: not known, the source has not answered yet.
	Exposure time.Duration `json:"exposureNanoseconds"`

	// Records and Bytes were committed, ForeignRecords found between them in the
	// destination, since this node took the copy over.
	Records        int64 `json:"records"`
	Bytes          int64 `json:"bytes"`
	ForeignRecords int64 `json:"foreignRecords"`
	// MayBeDoubled are records that a copy without transactions found behind its last
	// hop, or meanwhile, and could not match with the source's: if they are its own
	// they are there twice.
	MayBeDoubled int64 `json:"mayBeDoubled"`
	// Rates over the last ten seconds.
	RecordsPerSecond float64 `json:"recordsPerSecond"`
	BytesPerSecond   float64 `json:"bytesPerSecond"`
	// LastCommit is when a transaction of this copy was last committed.
	LastCommit time.Time `json:"lastCommit,omitzero"`
}

// lagClock tells how long a position has been behind an end: it remembers when
// each of some ends was first seen.
type lagClock struct {
	seen []endSeen // ends and times ascend
	step time.Duration
}

// endSeen are the ends that were first seen within a step from at; end is the
// last of them.
type endSeen struct {
	end int64
	at  time.Time
}

const (
	// maxEnds bounds what is remembered. When it is reached neighbours are joined
	// and steps become twice as long, so a lag is at most a thirtieth too long.
	maxEnds  = 64
	lagFirst = 100 * time.Millisecond
)

func (l *lagClock) observe(end int64, at time.Time) {
	if len(l.seen) == 0 {
		l.step = lagFirst
		l.seen = append(l.seen, endSeen{end, at})
		return
	}
	last := &l.seen[len(l.seen)-1]
	switch {
	case end <= last.end:
		return
	case at.Sub(last.at) < l.step:
		last.end = end
		return
	case len(l.seen) == maxEnds:
		for i := range maxEnds / 2 {
			l.seen[i] = endSeen{l.seen[2*i+1].end, l.seen[2*i].at}
		}
		l.seen = l.seen[:maxEnds/2]
		l.step *= 2
	}
	l.seen = append(l.seen, endSeen{end, at})
}

// reach forgets the ends that a position has come to.
func (l *lagClock) reach(position int64) {
	i := 0
	for i < len(l.seen) && l.seen[i].end <= position {
		i++
	}
	l.seen = append(l.seen[:0], l.seen[i:]...)
}

func (l *lagClock) lag(now time.Time) time.Duration {
	if len(l.seen) == 0 {
		return 0
	}
	return now.Sub(l.seen[0].at)
}

// meter counts over the last ten seconds, in buckets of one second.
type meter struct {
	buckets [rateSeconds]int64
	at      int64 // second of the newest bucket
	first   time.Time
}

const rateSeconds = 10

func (m *meter) turn(now time.Time) {
	s := now.Unix()
	for ; m.at < s; m.at++ {
		if s-m.at > rateSeconds {
			m.at = s - rateSeconds
		}
		m.buckets[(m.at+1)%rateSeconds] = 0
	}
}

func (m *meter) add(n int64, now time.Time) {
	if m.first.IsZero() {
		m.first = now
	}
	m.turn(now)
	m.buckets[m.at%rateSeconds] += n
}

func (m *meter) perSecond(now time.Time) float64 {
	m.turn(now)
	var sum int64
	for _, n := range m.buckets {
		sum += n
	}
	// One that has begun less than ten seconds ago knows less of them.
	return float64(sum) / min(max(now.Sub(m.first).Seconds(), 1), rateSeconds)
}

// Metrics counts what a Manager has done. All fields may be read at any time.
type Metrics struct {
	Records        atomic.Int64 // committed
	Bytes          atomic.Int64 // of committed batches as written
	RawBatches     atomic.Int64 // produced as bytes; aborted ones count too
	EncodedBatches atomic.Int64 // produced by the record path; aborted ones count too
	Quarantined    atomic.Int64 // records put into quarantine; aborted ones count too
	GapOffsets     atomic.Int64 // source offsets declared as gaps and committed
	Doubled        atomic.Int64 // records that may be there twice, see CopyStatus.MayBeDoubled
	Matched        atomic.Int64 // records that were found at the destination, and not written again
	Foreign        atomic.Int64 // destination offsets that are not ours, found between ours
	Commits        atomic.Int64 // transactions committed
	Aborts         atomic.Int64 // transactions given up, whatever became of them
	Unclear        atomic.Int64 // of these, with a commit that was not answered
	LaneOpens      atomic.Int64 // InitProducerId and registration
	LanesFenced    atomic.Int64 // lanes of ended incarnations fenced by this node
	Fetches        atomic.Int64 // answered fetch requests
	Appends        atomic.Int64 // requests to mirror topics
	Truncations    atomic.Int64 // of mirrors, where the source had lost records
	Recovered      atomic.Int64 // source offsets found in mirrors that the ledger did not know
	CommitNanos    atomic.Int64 // time from the last acknowledged batch to the answered commit
}
