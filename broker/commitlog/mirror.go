package commitlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// ErrReadOnly says that the log is a mirror: only [Log.AppendMirrored] adds to it.
var ErrReadOnly = errors.New("log is a mirror and takes no writes of its own cluster")

// ErrNotMirror says that the log is no mirror, or no longer one.
var ErrNotMirror = errors.New("log is no mirror")

// ErrWriterFenced says that a writer with a higher epoch was here.
var ErrWriterFenced = errors.New("writer is fenced")

// MirrorRole is what a log is with respect to mirroring.
type MirrorRole string

const (
	// Plain is a log that never was a mirror.
	Plain MirrorRole = ""
	// Mirroring is a log that holds a source's batches at the source's offsets.
	Mirroring MirrorRole = "mirroring"
	// Promoted is a log that was a mirror up to an offset and goes on by itself.
	Promoted MirrorRole = "promoted"
)

// Mirror is what a log knows of its being a mirror. It outlives truncation and
// Reset, in a file of its own (FORMAT.md), and every change is durable before it
// is acted upon.
type Mirror struct {
	Role MirrorRole `json:"role,omitempty"`
	// WriterEpoch is the highest epoch of a writer that was let in.
	WriterEpoch int64 `json:"writerEpoch"`
	// HighestEpoch is the highest leader epoch that the source's batches had,
	// those that were cut off again included; -1 if there was none. What this
	// broker reports as leader epoch is never below it.
	HighestEpoch int32 `json:"highestEpoch"`
	// PromotedAt is where the source's part ends, -1 before a promotion begins.
	PromotedAt int64 `json:"promotedAt"`
	// Ended are the transactions that the promotion aborted.
	Ended []OpenTxn `json:"ended,omitempty"`
	// Forget is the offset after the last of their markers: producers that wrote
	// only below it are unknown above. 0 until a promotion is complete.
	Forget int64 `json:"forget,omitempty"`
	// Before is what a log that was made a mirror had been, for CancelMirror.
	Before *Mirror `json:"before,omitempty"`
}

const (
	mirrorName  = "mirror"
	mirrorLimit = 64 << 20 // a million open transactions

	// maxSourceEpoch bounds what a source may claim, so that there is always an
	// epoch above.
	maxSourceEpoch = 1 << 30
)

// mirrorFile is the file's content.
type mirrorFile struct {
	Version int `json:"version"`
	Mirror
}

// encodeMirror is one line of JSON and one with its checksum, like a checkpoint.
func encodeMirror(m Mirror) ([]byte, error) {
	body, err := json.Marshal(mirrorFile{1, m})
	if err != nil {
		return nil, fmt.Errorf("encode mirror state: %w", err)
	}
	body = append(body, '\n')
	return fmt.Appendf(body, "%08x\n", crc32.Checksum(body, castagnoli)), nil
}

func decodeMirror(buf []byte) (Mirror, error) {
	var f mirrorFile
	at := len(buf) - checksumLine
	if at < 0 || string(buf[at:]) != fmt.Sprintf("%08x\n", crc32.Checksum(buf[:at], castagnoli)) {
		return Mirror{}, errors.New("checksum does not match")
	}
	if err := json.Unmarshal(buf[:at], &f); err != nil {
		return Mirror{}, fmt.Errorf("decode: %w", err)
	}
	if f.Version != 1 {
		return Mirror{}, fmt.Errorf("version %d is not known", f.Version)
	}
	switch f.Role {
	case Plain, Mirroring, Promoted:
		return f.Mirror, nil
	}
	return Mirror{}, fmt.Errorf("role %q is not known", f.Role)
}

// plain is the state of the logs, most of them, that have no such file.
var plain = Mirror{HighestEpoch: -1, PromotedAt: -1}

// readMirror returns a plain log's if there is no file.
func readMirror(fsys vfs.FS, dir string) (*Mirror, error) {
	buf, err := vfs.ReadFile(fsys, filepath.Join(dir, mirrorName), mirrorLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return &plain, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read mirror state: %w", err)
	}
	m, err := decodeMirror(buf)
	if err != nil {
		return nil, &CorruptError{File: mirrorName, Offset: -1, Reason: err.Error()}
	}
	return &m, nil
}

// saveMirror makes a new state durable and then the log's. A failed write takes
// the log offline, a full disk leaves it as it was.
func (l *Log) saveMirror(m Mirror) error {
	buf, err := encodeMirror(m)
	if err == nil {
		err = replaceFile(l.fs, l.dir, mirrorName, buf)
	}
	if err != nil {
		return l.refuse(fmt.Errorf("write mirror state: %w", err))
	}
	l.state.mirror = &m
	l.publish()
	return nil
}

// Mirror is the log's state as a mirror. Its slice must not be changed.
func (l *Log) Mirror() Mirror { return *l.view.Load().mirror }

// LastEpoch is the leader epoch of the last record, one that was deleted from the
// log's start included; -1 if none is known.
func (l *Log) LastEpoch() int32 {
	v := l.view.Load()
	return v.epochs.cutFrom(v.end()).latest()
}

// readOnly refuses what this cluster itself would write into a mirror. The caller
// holds writer.
func (l *Log) readOnly() error {
	if l.state.mirror.Role == Mirroring {
		return ErrReadOnly
	}
	return nil
}

// MirrorAppend is one compare-and-append: who writes, what he expects to find, and
// what is to be done. Everything happens, in the order of the fields, or nothing.
type MirrorAppend struct {
	// WriterEpoch is the writer's. A higher one than before is remembered, and
	// fences all lower ones, also when the rest is then refused.
	WriterEpoch int64
	// ExpectedEnd is the log's end, and ExpectedEpoch its latest leader epoch, -1
	// if there is none.
	ExpectedEnd   int64
	ExpectedEpoch int32

	// TruncateTo cuts what the source no longer has; -1 does not. A batch that
	// has records on both sides goes as a whole, so that the end may be lower:
	// therefore no batches come along.
	TruncateTo int64
	// StartOffset is the source's, or -1. Above the end it empties the log, which
	// then begins there: what lies between the source itself does not have. At or
	// below the end it is for DeleteRecordsBefore, when the batches are durable.
	StartOffset int64
	// Batches are whole batches as the source has them.
	Batches []byte
}

// AppendMirrored appends batches as they are, at their own offsets and with the
// source's leader epochs. It refuses with ErrNotMirror, ErrWriterFenced,
// ErrUnexpectedEnd (another end or epoch than expected), ErrStaleLeaderEpoch (the
// batches' epochs contradict what is there), ErrOffsetOutOfRange (truncation
// outside the log), ErrInvalidBatch or a *record.CorruptError, and has then changed
// nothing but the writer epoch. It returns the log's new end, which is durable
// when WaitDurable says so.
func (l *Log) AppendMirrored(a MirrorAppend) (end int64, err error) {
	list, invalid := a.split() // which takes long, so before the lock; the writer's epoch counts all the same
	l.writer.Lock()
	defer l.writer.Unlock()
	end = l.state.active.next
	if err := l.writable(); err != nil {
		return end, err
	}
	m := *l.state.mirror
	switch {
	case m.Role != Mirroring || m.PromotedAt >= 0:
		return end, ErrNotMirror
	case a.WriterEpoch < m.WriterEpoch:
		return end, fmt.Errorf("%w: it has epoch %d, the present one is %d", ErrWriterFenced, a.WriterEpoch, m.WriterEpoch)
	case a.WriterEpoch > m.WriterEpoch:
		m.WriterEpoch = a.WriterEpoch
		if err := l.saveMirror(m); err != nil {
			return end, err
		}
	}
	if invalid != nil {
		return end, invalid
	}
	if err := l.checkMirrored(a, list); err != nil {
		return end, err
	}
	if len(list) > 0 {
		if highest := list[len(list)-1].LeaderEpoch(); highest > m.HighestEpoch {
			m.HighestEpoch = highest
			if err := l.saveMirror(m); err != nil {
				return end, err
			}
		}
	}
	return l.applyMirrored(a, list)
}

// split takes the batches apart, which must begin at or above where the log will
// end.
func (a MirrorAppend) split() ([]record.Batch, error) {
	if len(a.Batches) == 0 {
		return nil, nil
	}
	if a.TruncateTo >= 0 {
		return nil, fmt.Errorf("%w: batches beside a truncation", ErrInvalidBatch)
	}
	next := a.ExpectedEnd
	if a.StartOffset > next {
		next = a.StartOffset
	}
	list, err := split(a.Batches, next)
	if err != nil {
		return nil, err
	}
	known := int32(-1)
	for _, b := range list {
		epoch := b.LeaderEpoch()
		if epoch < known || epoch > maxSourceEpoch {
			return nil, fmt.Errorf("%w: batch at %d has leader epoch %d after %d", ErrInvalidBatch, b.BaseOffset(), epoch, known)
		}
		known = epoch
	}
	return list, nil
}

// checkMirrored compares what a writer expects with what is there.
func (l *Log) checkMirrored(a MirrorAppend, list []record.Batch) error {
	st := l.state
	end, epoch := st.active.next, st.lastEpoch()
	if a.ExpectedEnd != end || a.ExpectedEpoch != epoch {
		return fmt.Errorf("%w: it ends at %d with leader epoch %d, not at %d with %d", ErrUnexpectedEnd, end, epoch, a.ExpectedEnd, a.ExpectedEpoch)
	}
	if a.TruncateTo >= 0 {
		if err := st.checkCut(a.TruncateTo); err != nil {
			return err
		}
	}
	if a.StartOffset > end {
		epoch = -1
	}
	if len(list) > 0 && list[0].LeaderEpoch() < epoch {
		return fmt.Errorf("%w: batch at %d has %d, what lies before it %d", ErrStaleLeaderEpoch, list[0].BaseOffset(), list[0].LeaderEpoch(), epoch)
	}
	return nil
}

// applyMirrored carries out what has been checked.
func (l *Log) applyMirrored(a MirrorAppend, list []record.Batch) (end int64, err error) {
	if a.TruncateTo >= 0 {
		if _, err := l.truncateTo(a.TruncateTo); err != nil {
			return l.state.active.next, err
		}
	}
	if a.StartOffset > l.state.active.next {
		if err := l.reset(a.StartOffset); err != nil {
			return l.state.active.next, err
		}
	}
	if len(list) > 0 {
		if err := l.appendList(a.Batches, list); err != nil {
			return l.state.active.next, err
		}
	}
	return l.state.active.next, nil
}

// CheckCut says with ErrOffsetOutOfRange why a mirror must not be cut to an offset:
// it lies outside of the log, or compaction, when the log was no mirror, has removed
// records for the sake of later ones that would go too. A key would be left without
// the value that the source has. A log may always be cut to its start.
func (l *Log) CheckCut(offset int64) error {
	l.writer.Lock()
	defer l.writer.Unlock()
	return l.state.checkCut(offset)
}

func (s *state) checkCut(offset int64) error {
	compacted := max(s.Learned, s.FirstDirty)
	switch {
	case offset < s.Start || offset > s.active.next:
		return fmt.Errorf("%w: cut to %d, the log has %d to %d", ErrOffsetOutOfRange, offset, s.Start, s.active.next)
	case offset > s.Start && offset < compacted:
		return fmt.Errorf("%w: cut to %d, compaction has removed older records for the sake of some up to %d: cut to the start, %d", ErrOffsetOutOfRange, offset, compacted, s.Start)
	}
	return nil
}

// BeginMirror makes the log a mirror that takes no other writes. expectedEnd and
// expectedEpoch are what the caller believes it holds: ErrUnexpectedEnd if it does
// not. sameSource says that the writers' epochs go on; otherwise they begin anew.
// A log that is a mirror already only keeps what it has.
func (l *Log) BeginMirror(expectedEnd int64, expectedEpoch int32, sameSource bool) error {
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	m := *l.state.mirror
	if m.Role == Mirroring && m.PromotedAt < 0 {
		return nil
	}
	if end, epoch := l.state.active.next, l.state.lastEpoch(); end != expectedEnd || epoch != expectedEpoch {
		return fmt.Errorf("%w: it ends at %d with leader epoch %d, not at %d with %d", ErrUnexpectedEnd, end, epoch, expectedEnd, expectedEpoch)
	}
	m.Before = nil
	next := Mirror{Role: Mirroring, HighestEpoch: max(m.HighestEpoch, l.state.Epochs.latest()), PromotedAt: -1, Before: &m}
	if sameSource {
		next.WriterEpoch = m.WriterEpoch
	}
	return l.saveMirror(next)
}

// CancelMirror undoes a BeginMirror that came to nothing: the log takes its own
// cluster's writes again.
func (l *Log) CancelMirror() error {
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	m := *l.state.mirror
	if m.Role != Mirroring || m.PromotedAt >= 0 {
		return nil
	}
	before := plain
	if m.Before != nil {
		before = *m.Before
	}
	before.HighestEpoch = max(before.HighestEpoch, m.HighestEpoch)
	return l.saveMirror(before)
}

// FencePromotion makes it durable where the source's part ends: nothing is
// mirrored any more, and nothing else is written yet. Everything that was mirrored
// must be durable (ErrUnexpectedEnd if not): a crash must not take back what lies
// below the promote offset. It may be repeated.
func (l *Log) FencePromotion() error {
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	m := *l.state.mirror
	end := l.state.active.next
	switch {
	case m.Role == Promoted || m.PromotedAt >= 0:
		return nil
	case m.Role != Mirroring:
		return ErrNotMirror
	case l.durable.offset() < end:
		return fmt.Errorf("%w: it is durable up to %d of %d", ErrUnexpectedEnd, l.durable.offset(), end)
	}
	m.PromotedAt, m.Ended, m.Before = end, l.state.producers.openTransactions(), nil
	return l.saveMirror(m)
}

// EndTransactions writes an abort marker at leaderEpoch for every transaction that
// the source left open, after FencePromotion, and returns the log's end. It may be
// repeated: those that have ended are not open.
func (l *Log) EndTransactions(leaderEpoch int32) (end int64, err error) {
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return 0, err
	}
	if m := l.state.mirror; m.Role != Mirroring || m.PromotedAt < 0 {
		return l.state.active.next, nil
	}
	for _, txn := range l.state.producers.openTransactions() {
		coordinator := max(0, l.state.producers.byID[txn.ProducerID].coordinatorEpoch)
		b, err := encodeMarker(Marker{txn.ProducerID, txn.ProducerEpoch, false, coordinator}, nowMillis())
		if err != nil {
			return 0, err
		}
		if _, err := l.appendOwn(b, leaderEpoch); err != nil {
			return 0, err
		}
	}
	return l.state.active.next, nil
}

// FinishPromotion makes the log writable, after the markers of EndTransactions are
// durable. The source's producers are forgotten: a producer of this cluster that
// has the id of one of them is another. It may be repeated.
func (l *Log) FinishPromotion() error {
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	m := *l.state.mirror
	end := l.state.active.next
	switch {
	case m.Role == Promoted:
		return nil
	case m.Role != Mirroring || m.PromotedAt < 0:
		return ErrNotMirror
	case l.durable.offset() < end || l.state.producers.open.Len() > 0:
		return fmt.Errorf("%w: its transactions have not ended", ErrUnexpectedEnd)
	}
	m.Role, m.Forget = Promoted, end
	if err := l.saveMirror(m); err != nil {
		return err
	}
	l.state.producers.forgetBelow(end)
	return nil
}

// forgetBelow forgets the producers that have written nothing at or above an
// offset since the log was opened, and have no transaction open.
func (s *producers) forgetBelow(offset int64) {
	for id, p := range s.byID {
		if p.txnStart < 0 && p.last < offset {
			delete(s.byID, id)
		}
	}
}

// lastEpoch is what LastEpoch says. An epoch that a crash has left without its batch does not count.
func (s *state) lastEpoch() int32 { return s.Epochs.cutFrom(s.active.next).latest() }

// forgetMirrored does after a replay what a promotion did when it happened. from is
// where the replay began: a snapshot from after the promotion has none of the
// source's producers, and one from before has only those.
func (s *state) forgetMirrored(from int64) {
	if m := s.mirror; from < m.Forget && m.Forget <= s.active.next {
		s.producers.forgetBelow(m.Forget)
	}
}
