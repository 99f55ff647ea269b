package commitlog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/waybillhq/waybill/internal/record"
)

// state is what a writer knows of the log. The writer lock guards it; readers see
// views of it.
type state struct {
	checkpoint
	segments  []*segment // sealed, oldest first; replaced, never changed in place
	active    *active
	producers *producers
	settled   settledTxns
	mirror    *Mirror // replaced, never changed in place
}

// apply takes a batch that is in the log into the producers' state and the
// transactions. The batch must be noted in the active segment too.
func (s *state) apply(b record.Batch, now, highWatermark int64) error {
	if !b.Attributes().Control() {
		s.producers.add(b, now)
		return nil
	}
	m, err := decodeMarker(b)
	if errors.Is(err, errNoMarker) {
		if b.Count() == 0 && b.ProducerID() >= 0 { // A marker whose transaction is gone: its epoch counts.
			s.producers.get(b.ProducerID(), b.ProducerEpoch(), b.LastOffset(), now)
		}
		return nil
	}
	if err != nil {
		return err
	}
	first := s.producers.mark(m, b.LastOffset(), now)
	if first < 0 {
		return nil
	}
	s.settled = s.settled.add(first, b.LastOffset(), highWatermark)
	if !m.Commit {
		s.active.aborted = append(s.active.aborted, abortedTxn{
			producerID: m.ProducerID, first: first, last: b.LastOffset(),
			stable: s.transactions().stable(b.NextOffset()),
		})
	}
	return nil
}

// view is the log at one moment, for readers. It does not change.
type view struct {
	segments []*segment
	active   extent
	aborted  []abortedTxn // of the active segment
	start    int64
	txns     transactions
	epochs   epochs
	sparse   bool // offsets may skip
	mirror   *Mirror
}

func (s *state) view() *view {
	return &view{
		segments: s.segments, active: s.active.extent(), aborted: s.active.aborted,
		start: s.Start, txns: s.transactions(), epochs: s.Epochs, sparse: s.Sparse, mirror: s.mirror,
	}
}

func (s *state) transactions() transactions {
	return transactions{undecided: s.producers.undecided(), settled: s.settled}
}

// checkEpoch compares a batch's leader epoch, which no checksum covers, with the
// checkpoint, in which an epoch stands before its first batch is written.
func checkEpoch(b record.Batch, known epochs, start int64) error {
	want := known.at(b.BaseOffset())
	if b.LeaderEpoch() == want || b.BaseOffset() < start {
		return nil
	}
	return &record.CorruptError{Offset: b.BaseOffset(), Reason: fmt.Sprintf("leader epoch %d, want %d", b.LeaderEpoch(), want)}
}

func (v *view) end() int64 { return v.active.next }

// count is the number of segments, the active one included.
func (v *view) count() int { return len(v.segments) + 1 }

func (v *view) extent(i int) extent {
	if i == len(v.segments) {
		return v.active
	}
	return v.segments[i].extent()
}

// segmentOf is the index of the segment that contains an offset, or in which it
// would be.
func (v *view) segmentOf(offset int64) int {
	after, _ := slices.BinarySearchFunc(v.segments, offset, func(s *segment, offset int64) int {
		if s.Next <= offset {
			return -1
		}
		return 1
	})
	return after
}

func (v *view) size() int64 {
	size := v.active.size
	for _, s := range v.segments {
		size += s.Size
	}
	return size
}
