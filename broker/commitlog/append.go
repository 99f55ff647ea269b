package commitlog

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// Origin says who made a batch, and so what is checked.
type Origin int8

const (
	// FromClient is a producer: everything is checked.
	FromClient Origin = iota
	// FromCoordinator is a coordinator of this cluster, writing on behalf of a
	// transaction (offset commits) or its own records: the producer's epoch and
	// transaction are checked, its sequence and the batch's size are not.
	FromCoordinator
)

// Appended is the outcome of an append.
type Appended struct {
	// BaseOffset is the offset of the first record, LastOffset of the last.
	BaseOffset, LastOffset int64
	// Duplicate says that nothing was written: the batch is one of its
	// producer's last five, and the offsets are those it has. It may not be
	// durable yet: wait for it as for a new one.
	Duplicate bool
}

// NextOffset is what to wait for: with it durable, so is the whole append.
func (a Appended) NextOffset() int64 { return a.LastOffset + 1 }

// Marker is the end of a transaction on one partition.
type Marker struct {
	ProducerID       int64
	ProducerEpoch    int16
	Commit           bool // false is an abort
	CoordinatorEpoch int32
}

// Guard proves that the coordinator was asked about a transaction after the last
// marker of its producer. The zero Guard proves nothing.
type Guard struct {
	valid      bool
	producerID int64
	epoch      int16
	marks      uint64
	fromZero   bool
}

// FromZero is the guard of a producer whose epoch rises with each transaction, so
// that its sequence begins at 0 with each: a partition that knows nothing of it
// takes no other first batch.
func (g Guard) FromZero() Guard {
	g.fromZero = true
	return g
}

// Append checks b, writes its offset and leader epoch into it, and appends it. It
// does not wait for the disk: see WaitDurable. b's memory is not kept; its base
// offset and leader epoch are changed. A leader epoch below the latest is
// ErrStaleLeaderEpoch, one above begins here.
func (l *Log) Append(b record.Batch, leaderEpoch int32, origin Origin) (Appended, error) {
	return l.append(b, leaderEpoch, origin, Guard{})
}

// AppendVerified is Append of a client's batch that may open a transaction:
// guard comes from BeginVerification, and the coordinator has since confirmed
// that this partition is in the producer's transaction.
func (l *Log) AppendVerified(b record.Batch, leaderEpoch int32, guard Guard) (Appended, error) {
	return l.append(b, leaderEpoch, FromClient, guard)
}

// BeginVerification says whether the producer has an open transaction here. If
// not, ask the coordinator whether it ought to, then call AppendVerified with
// the guard: a marker that was written meanwhile makes it worthless, so that a
// late batch cannot open a transaction that nobody will end (KIP-890).
func (l *Log) BeginVerification(producerID int64, epoch int16) (guard Guard, open bool) {
	l.writer.Lock()
	defer l.writer.Unlock()
	return l.state.producers.guard(producerID, epoch)
}

// Postpone notes that the coordinator could not be asked about b, which its
// producer will send again. What the producer has in flight behind b may not
// begin here before it: b would then be out of sequence for ever.
func (l *Log) Postpone(b record.Batch) {
	l.writer.Lock()
	defer l.writer.Unlock()
	l.state.producers.postpone(b, nowMillis())
}

func (l *Log) append(b record.Batch, leaderEpoch int32, origin Origin, guard Guard) (Appended, error) {
	if err := inspect(b, origin); err != nil {
		return Appended{}, err
	}
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return Appended{}, err
	}
	if err := l.readOnly(); err != nil {
		return Appended{}, err
	}
	if limit := l.cfg.MaxBatchBytes; origin == FromClient && len(b) > limit {
		return Appended{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), limit)
	}
	prior, duplicate, err := l.state.producers.check(b, origin, guard)
	if err != nil {
		return Appended{}, err
	}
	if duplicate {
		return Appended{BaseOffset: prior.baseOffset, LastOffset: prior.lastOffset, Duplicate: true}, nil
	}
	if l.cfg.VerifyTransactions && origin == FromClient && !l.state.producers.admits(b, guard) {
		return Appended{}, fmt.Errorf("%w: producer %d opens a transaction that was not verified", ErrInvalidTxnState, b.ProducerID())
	}
	return l.appendOwn(b, leaderEpoch)
}

// inspect checks what can be seen from the batch alone.
func inspect(b record.Batch, origin Origin) error {
	framed, rest, err := record.Next(b)
	if err != nil || len(rest) > 0 {
		return errors.Join(fmt.Errorf("%w: not exactly one batch", ErrInvalidBatch), err)
	}
	if err := framed.Check(); err != nil {
		return err
	}
	attr := b.Attributes()
	switch {
	case !b.Dense():
		return fmt.Errorf("%w: %d records for %d offsets", ErrInvalidBatch, b.Count(), int64(b.LastOffsetDelta())+1)
	case attr.Control():
		return fmt.Errorf("%w: control batch", ErrInvalidBatch)
	case attr.Transactional() && b.ProducerID() < 0:
		return fmt.Errorf("%w: transactional without a producer id", ErrInvalidBatch)
	case b.ProducerID() >= 0 && b.ProducerEpoch() < 0:
		return fmt.Errorf("%w: producer id without an epoch", ErrInvalidBatch)
	case origin == FromClient && b.ProducerID() >= 0 && b.BaseSequence() < 0:
		return fmt.Errorf("%w: producer id without a sequence", ErrInvalidBatch)
	}
	return nil
}

// AppendMarker ends a producer's transaction with a control batch. It raises the
// producer's epoch to the marker's; a lower one is ErrInvalidProducerEpoch. With
// no transaction open it writes the marker all the same, so it may be repeated.
func (l *Log) AppendMarker(m Marker, leaderEpoch int32) (Appended, error) {
	if m.ProducerID < 0 || m.ProducerEpoch < 0 {
		return Appended{}, fmt.Errorf("%w: marker without a producer", ErrInvalidBatch)
	}
	b, err := encodeMarker(m, nowMillis())
	if err != nil {
		return Appended{}, err
	}
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return Appended{}, err
	}
	if err := l.readOnly(); err != nil {
		return Appended{}, err
	}
	if err := l.state.producers.checkMarker(m); err != nil {
		return Appended{}, err
	}
	return l.appendOwn(b, leaderEpoch)
}

// appendOwn gives a batch the next offsets and this leader's epoch, and writes it.
func (l *Log) appendOwn(b record.Batch, leaderEpoch int32) (Appended, error) {
	st := l.state
	base := st.active.next
	if base > math.MaxInt64-int64(b.LastOffsetDelta())-1 {
		return Appended{}, fmt.Errorf("%w: no offsets are left", ErrInvalidBatch)
	}
	if int64(len(b)) > l.cfg.SegmentBytes {
		return Appended{}, fmt.Errorf("%w: %d bytes do not fit a segment of %d", ErrTooLarge, len(b), l.cfg.SegmentBytes)
	}
	if err := l.assign(leaderEpoch); err != nil {
		return Appended{}, err
	}
	b.SetBaseOffset(base)
	b.SetLeaderEpoch(leaderEpoch)
	if err := l.makeRoom(b); err != nil {
		return Appended{}, err
	}
	if err := l.write(b, []record.Batch{b}); err != nil {
		return Appended{}, err
	}
	return Appended{BaseOffset: base, LastOffset: b.LastOffset()}, nil
}

// AppendReplicated appends whole batches as they are, offsets and leader epochs
// included: those of a leader to its follower (a mirror has AppendMirrored).
// Offsets may skip but never go back, nor may leader epochs. The log must end at
// expectedEnd (ErrUnexpectedEnd otherwise), and the bytes where a batch does. All of
// them are appended or none, but for a disk that fills up at the border of two
// segments: beside ErrFull, EndOffset says what was. Producers' state follows the
// batches and is not checked.
func (l *Log) AppendReplicated(batches []byte, expectedEnd int64) (Appended, error) {
	list, err := split(batches, expectedEnd)
	if err != nil {
		return Appended{}, err
	}
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return Appended{}, err
	}
	if end := l.state.active.next; end != expectedEnd {
		return Appended{}, fmt.Errorf("%w: it ends at %d, not %d", ErrUnexpectedEnd, end, expectedEnd)
	}
	if err := l.appendList(batches, list); err != nil {
		return Appended{}, err
	}
	return Appended{BaseOffset: list[0].BaseOffset(), LastOffset: list[len(list)-1].LastOffset()}, nil
}

// appendList appends batches as they are, list, whose bytes are batches.
func (l *Log) appendList(batches []byte, list []record.Batch) error {
	if err := l.admit(list); err != nil {
		return err
	}
	for rest := list; len(rest) > 0; {
		if err := l.makeRoom(rest[0]); err != nil {
			return err
		}
		n, size := l.state.active.fits(rest, l.cfg.SegmentBytes)
		if err := l.write(batches[:size], rest[:n]); err != nil {
			return err
		}
		batches, rest = batches[size:], rest[n:]
	}
	return nil
}

// split takes batches apart and checks what can be seen from them alone.
func split(buf []byte, next int64) ([]record.Batch, error) {
	var list []record.Batch
	for len(buf) > 0 {
		b, rest, err := record.Next(buf)
		if err != nil {
			return nil, errors.Join(ErrInvalidBatch, err)
		}
		if err := b.Check(); err != nil {
			return nil, err
		}
		if b.BaseOffset() < next || b.NextOffset() < 0 {
			return nil, fmt.Errorf("%w: offset %d, want %d or more", ErrInvalidBatch, b.BaseOffset(), next)
		}
		if b.Attributes().Control() {
			if _, err := decodeMarker(b); err != nil && !errors.Is(err, errNoMarker) {
				return nil, errors.Join(ErrInvalidBatch, err)
			}
		}
		if len(b) > math.MaxInt32 {
			return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b))
		}
		list, buf, next = append(list, b), rest, b.NextOffset()
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no batch", ErrInvalidBatch)
	}
	return list, nil
}

// admit makes durable what recovery must know before these batches are written:
// the leader epochs that begin with them, and that offsets skip.
func (l *Log) admit(list []record.Batch) error {
	st := l.state
	known, sparse, next := st.Epochs, st.Sparse, st.active.next
	for _, b := range list {
		if b.LeaderEpoch() < known.latest() {
			// An epoch in which this log led and wrote nothing does not count.
			known = known.cutFrom(next)
		}
		if b.LeaderEpoch() < known.latest() {
			return fmt.Errorf("%w: batch at %d has %d, the latest is %d", ErrStaleLeaderEpoch, b.BaseOffset(), b.LeaderEpoch(), known.latest())
		}
		if b.LeaderEpoch() > known.latest() {
			known = known.assign(b.LeaderEpoch(), b.BaseOffset())
		}
		sparse = sparse || b.BaseOffset() != next
		next = b.NextOffset()
	}
	if slices.Equal(known, st.Epochs) && sparse == st.Sparse {
		return nil
	}
	cp := st.checkpoint
	cp.Epochs, cp.Sparse = known, sparse
	return l.commit(cp)
}

// AssignEpoch makes it durable that a leader epoch begins at the log's end. A
// leader calls it before its first append; Append does when it was not. An epoch
// below the latest is ErrStaleLeaderEpoch.
func (l *Log) AssignEpoch(epoch int32) error {
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	if err := l.assign(epoch); err != nil {
		return err
	}
	l.publish()
	return nil
}

func (l *Log) assign(epoch int32) error {
	st := l.state
	latest := st.Epochs.latest()
	if epoch == latest {
		return nil
	}
	if epoch < latest {
		return fmt.Errorf("%w: %d, the latest is %d", ErrStaleLeaderEpoch, epoch, latest)
	}
	cp := st.checkpoint
	cp.Epochs = st.Epochs.assign(epoch, st.active.next)
	return l.commit(cp)
}

// makeRoom begins a new segment if the active one is full or old, or cannot
// count up to the batch's offsets.
func (l *Log) makeRoom(b record.Batch) error {
	a := l.state.active
	old := a.since > 0 && time.Duration(nowMillis()-a.since)*time.Millisecond >= l.cfg.segmentAge(a.luck)
	if n, _ := a.fits([]record.Batch{b}, l.cfg.SegmentBytes); n == 1 && !old {
		return nil
	}
	base := a.next
	if b.LastOffset()-base > math.MaxInt32 {
		base = b.BaseOffset()
	}
	return l.roll(base)
}

// roll seals the active segment and begins one at base. The order is such that
// whatever a crash leaves, only the last segment can have a torn tail: FORMAT.md
// goes through it. With ErrFull the active segment is still the same.
func (l *Log) roll(base int64) error {
	st := l.state
	known, err := st.active.seal(l.fs, l.dir, "")
	if err != nil {
		return l.refuse(err)
	}
	name := filepath.Join(l.dir, fileName(base, snapshotSuffix))
	if err := vfs.WriteNew(l.fs, name, st.producers.encode(base)); err != nil {
		return l.refuse(full(err))
	}
	f, err := createSegment(l.cfg.Files, l.fs, l.dir, base)
	if err != nil {
		return l.refuse(err)
	}
	cp := st.checkpoint
	cp.Sealed = append(slices.Clip(st.Sealed), known)
	cp.Active, cp.ActiveSince, cp.Known = base, 0, nil
	if err := writeCheckpoint(l.fs, l.dir, cp); err != nil {
		if errors.Is(err, ErrFull) { // What has no room in a checkpoint goes again.
			if gone := errors.Join(f.Close(), l.fs.Remove(f.name)); gone != nil {
				err = gone
			}
		}
		return l.refuse(err)
	}
	// The segment keeps its file, open as it may be; only its indexes are new.
	seg := newSegment(l.cfg.Files, l.fs, l.dir, known, st.active.aborted)
	seg.file, seg.unchecked = st.active.file, st.active.unchecked
	st.checkpoint = cp
	st.segments = append(slices.Clip(st.segments), seg)
	st.active = newActive(base, f)
	l.publish()
	l.durable.advance(known.Next)
	return nil
}

// write appends batches, whose bytes are buf, to the active segment. Bytes of a
// write that found the disk full lie behind the last batch: nobody reads them,
// and the next write takes their place.
func (l *Log) write(buf []byte, list []record.Batch) error {
	st := l.state
	if err := l.recovery.make(); err != nil {
		return l.refuse(err)
	}
	if err := st.active.grow(int64(len(buf)), l.cfg.SegmentBytes); err != nil {
		return l.refuse(full(err))
	}
	if _, err := st.active.file.WriteAt(buf, st.active.size); err != nil {
		return l.refuse(full(fmt.Errorf("write segment: %w", err)))
	}
	now := nowMillis()
	for _, b := range list {
		st.active.note(b, l.cfg.IndexInterval, now)
		if err := st.apply(b, now, l.watermark.Load()); err != nil {
			return l.fail(err) // The batch was decoded before: this is a defect.
		}
	}
	l.health.become(l.dir, Healthy, nil)
	l.publish()
	return nil
}
