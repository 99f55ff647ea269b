package commitlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// sourceBatch is a batch as a source has it.
func sourceBatch(p from, n int, base int64, epoch int32) record.Batch {
	b := mustBatch(p, n)
	b.SetBaseOffset(base)
	b.SetLeaderEpoch(epoch)
	return b
}

func marker(t testing.TB, m Marker, base int64, epoch int32) record.Batch {
	t.Helper()
	b, err := encodeMarker(m, 1)
	must(t, err)
	b.SetBaseOffset(base)
	b.SetLeaderEpoch(epoch)
	return b
}

func mirrorLog(t *testing.T, fs vfs.FS) *Log {
	t.Helper()
	l := open(t, fs, small())
	must(t, l.BeginMirror(l.EndOffset(), l.LastEpoch(), false))
	return l
}

// plainAppend is an append that expects what is there.
func plainAppend(l *Log, writer int64, batches ...record.Batch) MirrorAppend {
	a := MirrorAppend{WriterEpoch: writer, ExpectedEnd: l.EndOffset(), ExpectedEpoch: l.LastEpoch(), TruncateTo: -1, StartOffset: -1}
	for _, b := range batches {
		a.Batches = append(a.Batches, b...)
	}
	return a
}

func TestAMirrorRefusesWhatDoesNotMatch(t *testing.T) {
	l := mirrorLog(t, vfs.NewMem())
	_, err := l.AppendMirrored(plainAppend(l, 5, sourceBatch(nobody, 3, 0, 7), sourceBatch(nobody, 2, 10, 8)))
	must(t, err)
	next := sourceBatch(nobody, 1, 12, 8)
	for name, c := range map[string]struct {
		change func(*MirrorAppend)
		want   error
	}{
		"older writer":            {func(a *MirrorAppend) { a.WriterEpoch = 4 }, ErrWriterFenced},
		"another end":             {func(a *MirrorAppend) { a.ExpectedEnd = 11 }, ErrUnexpectedEnd},
		"another epoch":           {func(a *MirrorAppend) { a.ExpectedEpoch = 7 }, ErrUnexpectedEnd},
		"epochs that go back":     {func(a *MirrorAppend) { a.Batches = sourceBatch(nobody, 1, 12, 7) }, ErrStaleLeaderEpoch},
		"an epoch without end":    {func(a *MirrorAppend) { a.Batches = sourceBatch(nobody, 1, 12, 1<<31-1) }, ErrInvalidBatch},
		"offsets that go back":    {func(a *MirrorAppend) { a.Batches = sourceBatch(nobody, 1, 11, 8) }, ErrInvalidBatch},
		"half a batch":            {func(a *MirrorAppend) { a.Batches = a.Batches[:len(a.Batches)-1] }, ErrInvalidBatch},
		"a truncation on the way": {func(a *MirrorAppend) { a.TruncateTo = 10 }, ErrInvalidBatch},
		"a truncation beyond":     {func(a *MirrorAppend) { a.TruncateTo, a.Batches = 13, nil }, ErrOffsetOutOfRange},
		"a gap behind the batch":  {func(a *MirrorAppend) { a.StartOffset = 13 }, ErrInvalidBatch},
		"the second is wrong": {func(a *MirrorAppend) {
			a.Batches = append(bytes.Clone(a.Batches), sourceBatch(nobody, 1, 12, 8)...)
		}, ErrInvalidBatch},
	} {
		a := plainAppend(l, 5, next)
		c.change(&a)
		if end, err := l.AppendMirrored(a); !errors.Is(err, c.want) || end != 12 {
			t.Errorf("%s: end %d, %v; want %v", name, end, err, c.want)
		}
	}
	flipped := bytes.Clone(next)
	flipped[len(flipped)-1] ^= 1
	var corrupt *record.CorruptError
	if _, err := l.AppendMirrored(plainAppend(l, 5, flipped)); !errors.As(err, &corrupt) {
		t.Errorf("a flipped bit: %v", err)
	}
	if l.EndOffset() != 12 || l.LastEpoch() != 8 {
		t.Errorf("after refusals the log ends at %d with epoch %d", l.EndOffset(), l.LastEpoch())
	}
	for name, write := range map[string]func() error{
		"a producer":    func() error { _, err := l.Append(mustBatch(nobody, 1), 20, FromClient); return err },
		"a coordinator": func() error { _, err := l.AppendMarker(Marker{ProducerID: 1}, 20); return err },
	} {
		if err := write(); !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: %v, want ErrReadOnly", name, err)
		}
	}
}

func TestAWriterEpochFencesThoughItsAppendIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*MirrorAppend)
		want   error
	}{
		"another end":            {func(a *MirrorAppend) { a.ExpectedEnd, a.Batches = 4, nil }, ErrUnexpectedEnd},
		"batches before the end": {func(a *MirrorAppend) { a.ExpectedEnd = 4 }, ErrInvalidBatch},
		"half a batch":           {func(a *MirrorAppend) { a.Batches = a.Batches[:len(a.Batches)-1] }, ErrInvalidBatch},
	} {
		fs := vfs.NewMem()
		l := mirrorLog(t, fs)
		a := plainAppend(l, 9, sourceBatch(nobody, 1, 0, 0))
		c.change(&a)
		if _, err := l.AppendMirrored(a); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		l = open(t, fs.Crash(nil), small())
		if _, err := l.AppendMirrored(plainAppend(l, 8, sourceBatch(nobody, 1, 0, 0))); !errors.Is(err, ErrWriterFenced) {
			t.Errorf("%s: the older writer after a power cut: %v", name, err)
		}
		if m := l.Mirror(); m.WriterEpoch != 9 {
			t.Errorf("%s: writer epoch %d, want 9", name, m.WriterEpoch)
		}
	}
}

func TestASourceThatStartsLaterLeavesAGap(t *testing.T) {
	fs := vfs.NewMem()
	l := mirrorLog(t, fs)
	_, err := l.AppendMirrored(plainAppend(l, 1, sourceBatch(nobody, 3, 0, 4)))
	must(t, err)
	a := plainAppend(l, 1, sourceBatch(nobody, 2, 50, 5))
	a.StartOffset = 50
	end, err := l.AppendMirrored(a)
	must(t, err)
	must(t, l.WaitDurable(t.Context(), end))
	l = open(t, fs.Crash(nil), small())
	if l.StartOffset() != 50 || l.EndOffset() != 52 || l.LastEpoch() != 5 {
		t.Errorf("[%d,%d) with epoch %d, want [50,52) with 5", l.StartOffset(), l.EndOffset(), l.LastEpoch())
	}
	if m := l.Mirror(); m.Role != Mirroring || m.HighestEpoch != 5 {
		t.Errorf("mirror %+v", m)
	}
}

// TestDeletingAllRecordsKeepsTheirEpoch: what is older than the records that were
// deleted last is not the source's next.
func TestDeletingAllRecordsKeepsTheirEpoch(t *testing.T) {
	fs := vfs.NewMem()
	l := mirrorLog(t, fs)
	_, err := l.AppendMirrored(plainAppend(l, 1, sourceBatch(nobody, 3, 0, 4), sourceBatch(nobody, 2, 3, 7)))
	must(t, err)
	must(t, l.DeleteRecordsBefore(5))
	for _, l := range []*Log{l, open(t, fs.Crash(nil), small())} {
		if l.StartOffset() != 5 || l.LastEpoch() != 7 {
			t.Fatalf("it starts at %d with epoch %d, want 5 with 7", l.StartOffset(), l.LastEpoch())
		}
		if _, err := l.AppendMirrored(plainAppend(l, 1, sourceBatch(nobody, 1, 5, 6))); !errors.Is(err, ErrStaleLeaderEpoch) {
			t.Errorf("an older epoch than that of the records that were deleted: %v", err)
		}
		if found, end := l.EpochEnd(5); found != 5 || end != 5 {
			t.Errorf("epoch 5 is (%d, %d), want (5, 5)", found, end)
		}
	}
	_, err = l.AppendMirrored(plainAppend(l, 1, sourceBatch(nobody, 2, 5, 7), sourceBatch(nobody, 1, 7, 8)))
	must(t, err)
	must(t, l.WaitDurable(t.Context(), 8))
	fs = fs.Crash(nil)
	l = open(t, fs, small())
	if l.EndOffset() != 8 || l.LastEpoch() != 8 || l.EpochAt(5) != 7 {
		t.Errorf("it ends at %d with epoch %d, and has %d at 5", l.EndOffset(), l.LastEpoch(), l.EpochAt(5))
	}
	must(t, l.Verify(t.Context()))
	cut := plainAppend(l, 1)
	cut.TruncateTo = 5
	_, err = l.AppendMirrored(cut)
	must(t, err)
	if l.EndOffset() != 5 || l.LastEpoch() != -1 {
		t.Errorf("cut to its start it ends at %d with epoch %d, want 5 with none", l.EndOffset(), l.LastEpoch())
	}
}

// TestAnEpochThatACrashLeftIsNotTheLast: the epoch is on disk before its batch.
func TestAnEpochThatACrashLeftIsNotTheLast(t *testing.T) {
	fs := vfs.NewMem()
	l := mirrorLog(t, fs)
	_, err := l.AppendMirrored(plainAppend(l, 1, sourceBatch(nobody, 3, 0, 4)))
	must(t, err)
	must(t, l.WaitDurable(t.Context(), 3))
	_, err = l.AppendMirrored(plainAppend(l, 1, sourceBatch(nobody, 1, 3, 7)))
	must(t, err)
	l = open(t, fs.Crash(nil), small())
	must(t, l.DeleteRecordsBefore(3))
	if l.EndOffset() != 3 || l.LatestEpoch() != 7 || l.LastEpoch() != 4 {
		t.Fatalf("it ends at %d with epoch %d on disk and %d in records, want 3, 7 and 4", l.EndOffset(), l.LatestEpoch(), l.LastEpoch())
	}
	_, err = l.AppendMirrored(plainAppend(l, 1, sourceBatch(nobody, 1, 3, 6)))
	must(t, err)
}

// mirrorSource is a source partition in the model: what it has now.
type mirrorSource struct {
	batches []record.Batch
	epoch   int32
	n       int
}

func (s *mirrorSource) end() int64 {
	if len(s.batches) == 0 {
		return 0
	}
	return s.batches[len(s.batches)-1].NextOffset()
}

func (s *mirrorSource) produce(rng *rand.Rand) {
	s.n++
	// Every batch is another, so that two histories differ in their bytes; a hole
	// now and then is what compaction left.
	base := s.end() + int64(rng.IntN(5)/4*2)
	s.batches = append(s.batches, sourceBatch(from{int64(1000 + s.n), 0, 0, false}, 1+rng.IntN(3), base, s.epoch))
}

// truncate is an unclean election: the new leader lacks the last batches.
func (s *mirrorSource) truncate(rng *rand.Rand) {
	s.batches = slices.Clip(s.batches[:len(s.batches)-rng.IntN(min(3, len(s.batches)+1))])
	s.epoch++
}

// endOf answers OffsetForLeaderEpoch.
func (s *mirrorSource) endOf(epoch int32) (found int32, end int64) {
	found = -1
	for _, b := range s.batches {
		if b.LeaderEpoch() <= epoch {
			found, end = b.LeaderEpoch(), b.NextOffset()
		}
	}
	return found, end
}

// mirrorRequest is what a writer sends now, knowing the mirror's end and epoch.
func (s *mirrorSource) request(writer, end int64, epoch int32, rng *rand.Rand) (MirrorAppend, bool) {
	a := MirrorAppend{WriterEpoch: writer, ExpectedEnd: end, ExpectedEpoch: epoch, TruncateTo: -1, StartOffset: -1}
	if found, until := s.endOf(epoch); epoch >= 0 && (found < epoch || until < end) {
		a.TruncateTo = min(until, end)
		if a.TruncateTo == end { // The epoch is gone, its records too: one batch at a time.
			a.TruncateTo = end - 1
		}
		return a, true
	}
	limit := 100 + rng.IntN(600)
	for _, b := range s.batches {
		if b.BaseOffset() >= end && len(a.Batches) < limit {
			a.Batches = append(a.Batches, b...)
		}
	}
	return a, len(a.Batches) > 0
}

// TestTwoWritersAgainstAModel lets writers of several epochs send requests that
// arrive late, twice and in another order, while the source loses its tail and
// the mirror its power. Whatever happened, the newest writer ends with the
// source's bytes, and the epoch that is reported never goes back.
func TestTwoWritersAgainstAModel(t *testing.T) {
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 3))
		fs := vfs.NewMem()
		l := mirrorLog(t, fs)
		var src mirrorSource
		var late []MirrorAppend
		writer, highest := int64(1), int32(-1)
		for range 60 {
			switch rng.IntN(12) {
			case 0:
				src.truncate(rng)
			case 1:
				writer++
			case 2: // The power goes; what was acknowledged stays.
				durable := l.DurableOffset()
				fs = fs.Crash(rng)
				l = open(t, fs, small())
				if l.EndOffset() < durable {
					t.Fatalf("seed %d: it ends at %d, durable was %d", seed, l.EndOffset(), durable)
				}
			case 3:
				must(t, l.WaitDurable(context.Background(), l.EndOffset()))
			case 4, 5, 6:
				src.produce(rng)
			case 7, 8, 9: // A request is made now and arrives now, or later.
				a, some := src.request(writer-int64(rng.IntN(2)), l.EndOffset(), l.LastEpoch(), rng)
				if !some {
					continue
				}
				late = append(late, a)
				if rng.IntN(2) == 0 {
					arrive(t, l, a, seed)
				}
			default:
				if len(late) > 0 {
					arrive(t, l, late[rng.IntN(len(late))], seed)
				}
			}
			m := l.Mirror()
			if m.HighestEpoch < highest || m.HighestEpoch < l.LastEpoch() {
				t.Fatalf("seed %d: highest epoch %d after %d, the log has %d", seed, m.HighestEpoch, highest, l.LastEpoch())
			}
			highest = m.HighestEpoch
		}
		writer++
		for range 200 {
			a, some := src.request(writer, l.EndOffset(), l.LastEpoch(), rng)
			if !some {
				break
			}
			if _, err := l.AppendMirrored(a); err != nil {
				t.Fatalf("seed %d: the newest writer: %v", seed, err)
			}
			for _, a := range late { // Nothing that is late gets in any more.
				if _, err := l.AppendMirrored(a); !errors.Is(err, ErrWriterFenced) {
					t.Fatalf("seed %d: a late request: %v", seed, err)
				}
			}
		}
		var want []byte
		for _, b := range src.batches {
			want = append(want, b...)
		}
		if got := readAll(t, l, 0, 500); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: the mirror has %v, the source %v", seed, offsets(t, got), offsets(t, want))
		}
		must(t, l.Verify(t.Context()))
		must(t, l.Close())
	}
}

// arrive gives a request to the log: it is carried out as a whole, or not at all.
func arrive(t *testing.T, l *Log, a MirrorAppend, seed uint64) {
	t.Helper()
	m, end, epoch := l.Mirror(), l.EndOffset(), l.LastEpoch()
	_, err := l.AppendMirrored(a)
	fits := a.WriterEpoch >= m.WriterEpoch && a.ExpectedEnd == end && a.ExpectedEpoch == epoch
	if err == nil != fits {
		t.Fatalf("seed %d: %+v on end %d, epoch %d, writer %d: %v", seed, a, end, epoch, m.WriterEpoch, err)
	}
	if err != nil && (l.EndOffset() != end || l.LastEpoch() != epoch) {
		t.Fatalf("seed %d: refused, and the log went from %d to %d", seed, end, l.EndOffset())
	}
}

// promote takes a log through the whole promotion.
func promote(l *Log, epoch int32) error {
	if err := l.WaitDurable(context.Background(), l.EndOffset()); err != nil {
		return err
	}
	if err := l.FencePromotion(); err != nil {
		return err
	}
	end, err := l.EndTransactions(epoch)
	if err != nil {
		return err
	}
	if err := l.WaitDurable(context.Background(), end); err != nil {
		return err
	}
	return l.FinishPromotion()
}

// TestPromotionOverPowerCuts cuts the power before each step of a promotion and
// repeats it.
func TestPromotionOverPowerCuts(t *testing.T) {
	for step := 1; ; step++ {
		fs := vfs.NewMem()
		l, err := Open(fs, testDir, small())
		must(t, err)
		must(t, l.BeginMirror(0, -1, false))
		_, err = l.AppendMirrored(plainAppend(l, 1,
			sourceBatch(from{1, 0, 0, true}, 2, 0, 3), sourceBatch(from{2, 0, 0, true}, 1, 2, 3),
			sourceBatch(from{3, 4, 7, false}, 1, 3, 3), marker(t, Marker{2, 0, true, 0}, 4, 3), sourceBatch(from{2, 0, 1, true}, 1, 5, 4)))
		must(t, err)
		must(t, l.WaitDurable(t.Context(), 6))
		n := 0
		fs.SetFault(func(op vfs.Op, _ string) error {
			if op == vfs.OpRead {
				return nil
			}
			if n++; n >= step {
				return errPower
			}
			return nil
		})
		failed := promote(l, 9)
		_ = l.Close() // It may be offline: there is nothing to save.
		for seed := range uint64(4) {
			after := fs.Crash(rand.New(rand.NewPCG(seed, uint64(step))))
			l := open(t, after, small())
			must(t, promote(l, 9))
			checkPromoted(t, l, step)
			must(t, l.Close())
			l = open(t, after.Crash(nil), small())
			checkPromoted(t, l, step)
			// A producer of this cluster that has the id of one of the source's is
			// another: neither a duplicate nor out of order.
			got, err := l.Append(mustBatch(from{3, 4, 7, false}, 1), 9, FromClient)
			if err != nil || got.Duplicate {
				t.Fatalf("step %d: a producer of the same id: %+v, %v", step, got, err)
			}
			must(t, l.Close())
		}
		if failed == nil {
			t.Logf("%d steps", step)
			return
		}
	}
}

func checkPromoted(t *testing.T, l *Log, step int) {
	t.Helper()
	m := l.Mirror()
	want := []OpenTxn{{1, 0, 0}, {2, 0, 5}}
	if m.Role != Promoted || m.PromotedAt != 6 || m.Forget != 8 || !slices.Equal(m.Ended, want) {
		t.Fatalf("step %d: %+v", step, m)
	}
	if p := l.Producers(); len(p) != 0 {
		t.Fatalf("step %d: producers %+v of the source are known", step, p)
	}
	if got := l.StableOffset(l.EndOffset()); l.EndOffset() != 8 || got != 8 {
		t.Fatalf("step %d: it ends at %d, stable %d", step, l.EndOffset(), got)
	}
	if got := fmt.Sprint(l.Aborted(0, 8)); got != "[{1 0 6} {2 5 7}]" {
		t.Fatalf("step %d: aborted %v", step, got)
	}
	if _, err := l.AppendMirrored(plainAppend(l, 99, sourceBatch(nobody, 1, 8, 9))); !errors.Is(err, ErrNotMirror) {
		t.Fatalf("step %d: a mirrored batch after the promotion: %v", step, err)
	}
}

func TestALogThatDidNotBecomeAMirrorIsWhatItWas(t *testing.T) {
	fs := vfs.NewMem()
	l := mirrorLog(t, fs)
	_, err := l.AppendMirrored(plainAppend(l, 3, sourceBatch(nobody, 2, 0, 5)))
	must(t, err)
	must(t, promote(l, 6))
	promoted := l.Mirror()
	if err := l.BeginMirror(1, 5, true); !errors.Is(err, ErrUnexpectedEnd) {
		t.Fatalf("begin at a wrong end: %v", err)
	}
	must(t, l.BeginMirror(2, 5, true))
	if m := l.Mirror(); m.WriterEpoch != 3 || m.HighestEpoch != 5 {
		t.Errorf("a mirror of the same source begins with %+v", m)
	}
	l = open(t, fs.Crash(nil), small())
	must(t, l.CancelMirror())
	if m := l.Mirror(); m.Role != promoted.Role || m.Forget != promoted.Forget {
		t.Errorf("after a cancel %+v, want %+v", m, promoted)
	}
	must(t, l.BeginMirror(2, 5, false))
	if m := l.Mirror(); m.WriterEpoch != 0 {
		t.Errorf("writers of another source begin at %d", m.WriterEpoch)
	}
}

func FuzzDecodeMirror(f *testing.F) {
	buf, err := encodeMirror(Mirror{Role: Promoted, WriterEpoch: 3, PromotedAt: 9, Ended: []OpenTxn{{1, 2, 3}}, Before: &plain})
	must(f, err)
	f.Add(buf)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeMirror(data)
		if err != nil {
			return
		}
		again, err := encodeMirror(m)
		must(t, err)
		if _, err := decodeMirror(again); err != nil {
			t.Fatalf("our own encoding: %v", err)
		}
	})
}
