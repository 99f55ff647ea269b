package commitlog

import (
	"cmp"
	"container/list"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/waybillhq/waybill/internal/record"
)

// batchesKept is how many batches of a producer can be recognised as duplicates;
// a client has at most as many in flight.
const batchesKept = 5

// producerBatch is what is remembered of an appended batch.
type producerBatch struct {
	firstSeq, lastSeq      int32
	baseOffset, lastOffset int64
}

// producer is one producer's state on this partition.
type producer struct {
	id               int64
	epoch            int16
	coordinatorEpoch int32           // of its last marker, -1 if there was none
	txnStart         int64           // first offset of its open transaction, -1
	open             *list.Element   // of producers.open, if it has one
	touched          int64           // local time of its last append, in ms
	marks            uint64          // changes with every marker
	last             int64           // last offset it wrote since the log was opened, -1
	batches          []producerBatch // of this epoch, oldest first
}

func (p *producer) lastSequence() int32 {
	if len(p.batches) == 0 {
		return -1
	}
	return p.batches[len(p.batches)-1].lastSeq
}

// ProducerState is what DescribeProducers tells of a producer.
type ProducerState struct {
	ProducerID       int64
	ProducerEpoch    int16
	LastSequence     int32 // -1 if it has appended nothing in this epoch
	LastTimestamp    int64 // milliseconds since 1970, time of the last append
	CoordinatorEpoch int32 // -1 if there was no marker
	TxnStart         int64 // -1 if no transaction is open
}

// postponed is where a producer begins whose first batch has to come again.
type postponed struct {
	epoch    int16
	sequence int32
	at       int64 // local time, in ms
}

// producers decides what a producer may append and remembers what it did. It
// does no I/O and knows no clock; the log's writer lock guards it.
type producers struct {
	byID map[int64]*producer
	// open has each *producer with an open transaction, which is not forgotten
	// before it ends, by first offset: opening and ending cost the same however
	// many are open.
	open  list.List
	limit int
	marks uint64
	// postponed has no producer that byID has. It is not kept over a restart,
	// which the batches in flight do not outlive either.
	postponed map[int64]postponed
}

func newProducers(limit int) *producers {
	return &producers{byID: map[int64]*producer{}, limit: limit, postponed: map[int64]postponed{}}
}

// check decides whether a data batch may be appended now. A duplicate is no
// error: prior is the batch that it repeats.
func (s *producers) check(b record.Batch, origin Origin, g Guard) (prior producerBatch, duplicate bool, err error) {
	p := s.byID[b.ProducerID()]
	if p == nil {
		return producerBatch{}, false, s.checkFirst(b, origin, g)
	}
	epoch := b.ProducerEpoch()
	if origin == FromClient && epoch == p.epoch {
		for _, old := range p.batches {
			if old.firstSeq == b.BaseSequence() && old.lastSeq == b.LastSequence() {
				return old, true, nil
			}
		}
	}
	if epoch < p.epoch {
		return producerBatch{}, false, fmt.Errorf("%w: producer %d writes with epoch %d, known is %d",
			ErrInvalidProducerEpoch, b.ProducerID(), epoch, p.epoch)
	}
	if origin == FromClient {
		want := int32(0)
		if epoch == p.epoch && len(p.batches) > 0 {
			want = record.AddSequence(p.lastSequence(), 1)
		}
		if b.BaseSequence() != want {
			return producerBatch{}, false, fmt.Errorf("%w: producer %d epoch %d sends %d, %d comes next",
				ErrOutOfOrderSequence, b.ProducerID(), epoch, b.BaseSequence(), want)
		}
	}
	if p.txnStart >= 0 && !b.Attributes().Transactional() {
		return producerBatch{}, false, fmt.Errorf("%w: producer %d sends plain data inside the transaction that began at %d",
			ErrInvalidTxnState, b.ProducerID(), p.txnStart)
	}
	return producerBatch{}, false, nil
}

// checkFirst decides about a batch of a producer that was never seen, or whose
// state has expired: any sequence begins here, unless a lower one has to come.
func (s *producers) checkFirst(b record.Batch, origin Origin, g Guard) error {
	limit := int32(math.MaxInt32)
	if p, ok := s.postponed[b.ProducerID()]; ok && p.epoch == b.ProducerEpoch() {
		limit = p.sequence
	}
	if g.fromZero {
		limit = 0
	}
	if origin == FromClient && b.BaseSequence() > limit {
		return fmt.Errorf("%w: producer %d epoch %d begins with %d, %d has to come first",
			ErrOutOfOrderSequence, b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), limit)
	}
	return nil
}

// postpone notes that b has to come before what follows it.
func (s *producers) postpone(b record.Batch, now int64) {
	id, epoch, sequence := b.ProducerID(), b.ProducerEpoch(), b.BaseSequence()
	old, ok := s.postponed[id]
	switch {
	case s.byID[id] != nil, sequence < 0:
		return
	case ok && (epoch < old.epoch || epoch == old.epoch && sequence >= old.sequence):
		return
	case !ok && len(s.postponed) >= s.limit:
		return // A client has invented producers: they may wait for each other.
	}
	s.postponed[id] = postponed{epoch: epoch, sequence: sequence, at: now}
}

// checkMarker decides whether a marker may be appended now.
func (s *producers) checkMarker(m Marker) error {
	p := s.byID[m.ProducerID]
	switch {
	case p == nil:
		return nil
	case m.ProducerEpoch < p.epoch:
		return fmt.Errorf("%w: marker for producer %d has epoch %d, known is %d",
			ErrInvalidProducerEpoch, m.ProducerID, m.ProducerEpoch, p.epoch)
	case m.CoordinatorEpoch < p.coordinatorEpoch:
		return fmt.Errorf("%w: marker for producer %d has coordinator epoch %d, known is %d",
			ErrCoordinatorFenced, m.ProducerID, m.CoordinatorEpoch, p.coordinatorEpoch)
	}
	return nil
}

// get returns a producer's state, made if need be.
func (s *producers) get(id int64, epoch int16, last, now int64) *producer {
	p := s.byID[id]
	if p == nil {
		if idle := len(s.byID) - s.open.Len(); len(s.byID) >= s.limit && idle > s.limit/10 {
			s.evict()
		}
		p = &producer{id: id, epoch: epoch, coordinatorEpoch: -1, txnStart: -1, last: -1}
		s.byID[id] = p
		delete(s.postponed, id)
	}
	if p.epoch != epoch {
		p.epoch, p.batches = epoch, nil
	}
	p.touched, p.last = max(p.touched, now), last
	return p
}

// add records a data batch that is now in the log. It checks nothing: a replica
// takes what its leader had.
func (s *producers) add(b record.Batch, now int64) {
	if b.ProducerID() < 0 {
		return
	}
	p := s.get(b.ProducerID(), b.ProducerEpoch(), b.LastOffset(), now)
	if b.BaseSequence() >= 0 {
		if len(p.batches) == batchesKept {
			p.batches = append(p.batches[:0], p.batches[1:]...)
		}
		p.batches = append(p.batches, producerBatch{b.BaseSequence(), b.LastSequence(), b.BaseOffset(), b.LastOffset()})
	}
	if b.Attributes().Transactional() && p.txnStart < 0 {
		p.txnStart = b.BaseOffset()
		p.open = s.open.PushBack(p)
	}
}

// mark records a marker that is now in the log, and returns where the
// transaction that it ends began, or -1 if none was open.
func (s *producers) mark(m Marker, offset, now int64) (first int64) {
	p := s.get(m.ProducerID, m.ProducerEpoch, offset, now)
	s.marks++
	p.marks = s.marks
	p.coordinatorEpoch = m.CoordinatorEpoch
	if p.open != nil {
		s.open.Remove(p.open)
	}
	first, p.txnStart, p.open = p.txnStart, -1, nil
	return first
}

// expire forgets producers whose last append is before the given time.
func (s *producers) expire(before int64) {
	maps.DeleteFunc(s.byID, func(_ int64, p *producer) bool { return p.txnStart < 0 && p.touched < before })
	maps.DeleteFunc(s.postponed, func(_ int64, p postponed) bool { return p.at < before })
}

// evict forgets the idlest of the producers without a transaction: a tenth of the
// limit, so that its cost is spread over as many appends. Where open transactions
// leave fewer idle ones than that, those may stay beyond the limit.
func (s *producers) evict() {
	var idle []int64
	for id, p := range s.byID {
		if p.txnStart < 0 {
			idle = append(idle, id)
		}
	}
	slices.SortFunc(idle, func(a, b int64) int {
		return cmp.Or(cmp.Compare(s.byID[a].touched, s.byID[b].touched), cmp.Compare(a, b))
	})
	for _, id := range idle[:s.limit/10+1] {
		delete(s.byID, id)
	}
}

// guard is the proof that begins a verification, and whether the producer has a
// transaction open in that epoch.
func (s *producers) guard(id int64, epoch int16) (g Guard, open bool) {
	g = Guard{valid: true, producerID: id, epoch: epoch}
	if p := s.byID[id]; p != nil {
		g.marks, open = p.marks, p.txnStart >= 0 && p.epoch == epoch
	}
	return g, open
}

// admits says whether a batch needs no verification, or g is one: no marker was
// written for the producer since it was made.
func (s *producers) admits(b record.Batch, g Guard) bool {
	now, open := s.guard(b.ProducerID(), b.ProducerEpoch())
	now.fromZero = g.fromZero
	return open || !b.Attributes().Transactional() || g == now
}

// overlay takes over, after a replay, what a newer snapshot (all below offset)
// knows and a replay cannot: when each producer had appended last, and which had
// expired by then.
func (s *producers) overlay(newer *producers, offset int64) {
	maps.DeleteFunc(s.byID, func(id int64, p *producer) bool {
		known := newer.byID[id]
		if known != nil && p.last < offset {
			p.touched = known.touched
		}
		return known == nil && p.last < offset && p.txnStart < 0
	})
}

// states describes all producers, sorted by id.
func (s *producers) states() []ProducerState {
	out := make([]ProducerState, 0, len(s.byID))
	for _, id := range slices.Sorted(maps.Keys(s.byID)) {
		p := s.byID[id]
		out = append(out, ProducerState{
			ProducerID: id, ProducerEpoch: p.epoch, LastSequence: p.lastSequence(),
			LastTimestamp: p.touched, CoordinatorEpoch: p.coordinatorEpoch, TxnStart: p.txnStart,
		})
	}
	return out
}

// undecided is the first offset of the oldest open transaction, MaxInt64 if none
// is open.
func (s *producers) undecided() int64 {
	if oldest := s.open.Front(); oldest != nil {
		return oldest.Value.(*producer).txnStart
	}
	return math.MaxInt64
}

// openTransactions are those without a marker, by first offset.
func (s *producers) openTransactions() []OpenTxn {
	var out []OpenTxn
	for e := s.open.Front(); e != nil; e = e.Next() {
		p := e.Value.(*producer)
		out = append(out, OpenTxn{ProducerID: p.id, ProducerEpoch: p.epoch, FirstOffset: p.txnStart})
	}
	return out
}

// restoreOpen finds the open transactions of a snapshot's producers.
func (s *producers) restoreOpen() {
	var open []*producer
	for _, p := range s.byID {
		if p.txnStart >= 0 {
			open = append(open, p)
		}
	}
	slices.SortFunc(open, func(a, b *producer) int { return cmp.Compare(a.txnStart, b.txnStart) })
	for _, p := range open {
		p.open = s.open.PushBack(p)
	}
}
