package commitlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// history is what a script has done to a log, as its caller knows it: the batches
// it appended, and how much of them was acknowledged.
type history struct {
	batches []record.Batch // as stored, oldest first
	acked   int64          // WaitDurable has covered what is below
	start   int64          // DeleteRecordsBefore has returned
	cut     int64          // a truncation or reset to here was begun; -1 if not
}

var errPower = errors.New("the power is out")

// script runs a fixed history until it ends or the first error, which is that of
// the power cut. It opens and closes the log several times.
func script(fs vfs.FS) (h history, err error) {
	h.cut = -1
	l, err := Open(fs, testDir, small())
	if err != nil {
		return h, err
	}
	seq := map[int64]int32{}
	add := func(id int64, n int, txn bool, epoch int32) error {
		b := mustBatch(from{id, 0, seq[id], txn}, n)
		if _, err := l.Append(b, epoch, FromClient); err != nil {
			return err
		}
		seq[id] += int32(n)
		h.batches = append(h.batches, bytes.Clone(b))
		return nil
	}
	mark := func(id int64, commit bool) error {
		got, err := l.AppendMarker(Marker{id, 0, commit, 1}, 2)
		if err != nil {
			return err
		}
		stored, err := l.Read(got.BaseOffset, 1, l.EndOffset())
		if err != nil {
			return err
		}
		h.batches = append(h.batches, bytes.Clone(stored))
		return nil
	}
	sync := func() error {
		end := l.EndOffset()
		if err := l.WaitDurable(context.Background(), end); err != nil {
			return err
		}
		h.acked = end
		return nil
	}
	steps := []func() error{
		func() error { return add(1, 2, false, 0) }, sync,
		func() error { return add(1, 3, false, 0) },
		func() error { return add(2, 1, true, 1) }, sync,
		func() error { return add(3, 2, true, 2) },
		func() error { return add(1, 1, false, 2) },
		func() error { return add(2, 4, true, 2) },
		func() error { return mark(2, false) }, sync,
		func() error { return add(1, 5, false, 2) },
		func() error { return add(3, 2, true, 2) }, sync,
		func() error { return l.Close() },
		func() error { l, err = Open(fs, testDir, small()); return err },
		func() error { return add(3, 2, true, 2) },
		func() error { return mark(3, true) },
		func() error { return add(1, 6, false, 2) }, sync,
		func() error { return l.DeleteRecordsBefore(9) },
		func() error { h.start = 9; return add(1, 6, false, 2) },
		func() error { return add(1, 1, false, 2) },
		func() error { return add(4, 3, true, 2) }, sync,
		func() error { return add(1, 2, false, 2) },
		func() error { return mark(4, false) },
		func() error { return add(1, 2, false, 2) }, sync,
		func() error { return add(1, 9, false, 2) },
		func() error {
			h.cut = h.batches[len(h.batches)-2].BaseOffset() // the last two go
			h.acked = min(h.acked, h.cut)
			end, err := l.TruncateTo(h.cut)
			if err == nil && end != h.cut {
				return fmt.Errorf("truncated to %d, want %d", end, h.cut)
			}
			return err
		},
		func() error {
			h.batches, h.cut = h.batches[:len(h.batches)-2], -1
			seq[1] -= 11
			return add(1, 3, false, 2)
		}, sync,
		func() error { return add(1, 1, false, 2) },
		func() error { return l.Close() },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			if l != nil {
				_ = l.Close() // It is offline: there is nothing to save.
			}
			return h, err
		}
	}
	return h, nil
}

// check opens what a crash left and compares it with what the script knows.
func check(t *testing.T, fs vfs.FS, h history, what string) {
	t.Helper()
	l, err := Open(fs, testDir, small())
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	defer func() { must(t, l.Close()) }()
	if end := l.EndOffset(); end < h.acked {
		t.Fatalf("%s: the log ends at %d, acknowledged was %d", what, end, h.acked)
	}
	if start := l.StartOffset(); start < h.start {
		t.Fatalf("%s: the log starts at %d, deleted was up to %d", what, start, h.start)
	}
	if l.DurableOffset() != l.EndOffset() {
		t.Fatalf("%s: %d of %d is durable", what, l.DurableOffset(), l.EndOffset())
	}
	var want []byte
	for _, b := range h.batches {
		if b.NextOffset() > l.StartOffset() && b.NextOffset() <= l.EndOffset() {
			want = append(want, b...)
		}
	}
	got := readAll(t, l, l.StartOffset(), 500)
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: [%d,%d) reads %v, want %v", what, l.StartOffset(), l.EndOffset(), offsets(t, got), offsets(t, want))
	}
	must(t, l.Verify(t.Context()))
	checkProducers(t, l, h, what)
	// It goes on: the next batch is kept.
	got2 := add(t, l, nobody, 2)
	must(t, l.WaitDurable(t.Context(), got2.NextOffset()))
}

// checkProducers replays the surviving batches the plain way and compares
// sequences, epochs and transactions.
func checkProducers(t *testing.T, l *Log, h history, what string) {
	t.Helper()
	plain := &state{producers: newProducers(100), active: newActive(0, nil)}
	for _, b := range h.batches {
		if b.NextOffset() <= l.EndOffset() {
			must(t, plain.apply(b, 0, 0))
		}
	}
	want, got := plain.producers.states(), l.Producers()
	if len(got) != len(want) {
		t.Fatalf("%s: producers %+v, want %+v", what, got, want)
	}
	for i := range got {
		got[i].LastTimestamp = 0
		if got[i] != want[i] {
			t.Fatalf("%s: producer %+v, want %+v", what, got[i], want[i])
		}
	}
	wantAborted := overlapping([][]abortedTxn{plain.active.aborted}, l.StartOffset(), l.EndOffset())
	gotAborted := l.Aborted(l.StartOffset(), l.EndOffset())
	if fmt.Sprint(gotAborted) != fmt.Sprint(wantAborted) {
		t.Fatalf("%s: aborted %v, want %v", what, gotAborted, wantAborted)
	}
	if got, want := l.StableOffset(l.EndOffset()), plain.transactions().stable(l.EndOffset()); got != max(want, l.StartOffset()) {
		t.Fatalf("%s: stable %d, want %d", what, got, want)
	}
}

// TestPowerCutAtEveryStep cuts the power before each call that changes the disk,
// and looks at what several kinds of luck leave.
func TestPowerCutAtEveryStep(t *testing.T) {
	for step := 1; ; step++ {
		fs := vfs.NewMem()
		n, last := 0, ""
		fs.SetFault(func(op vfs.Op, name string) error {
			if op == vfs.OpRead || op == vfs.OpOpen {
				return nil
			}
			if n++; n >= step {
				if n == step {
					last = fmt.Sprintf("%s %s", op, name)
				}
				return errPower
			}
			return nil
		})
		h, err := script(fs)
		if err != nil && !errors.Is(err, errPower) && !errors.Is(err, ErrOffline) {
			t.Fatalf("step %d (%s): %v", step, last, err)
		}
		check(t, fs.Crash(nil), h, fmt.Sprintf("step %d (%s), all unsynced lost", step, last))
		for seed := range uint64(12) {
			rng := rand.New(rand.NewPCG(seed, uint64(step)))
			check(t, fs.Crash(rng), h, fmt.Sprintf("step %d (%s), seed %d", step, last, seed))
		}
		if err == nil {
			t.Logf("%d steps", step)
			return
		}
	}
}

// cutPower lets a number of calls through that change the disk, and none after
// them.
func cutPower(fsys *vfs.Mem, calls int) {
	fsys.SetFault(func(op vfs.Op, _ string) error {
		if op == vfs.OpRead || op == vfs.OpOpen {
			return nil
		}
		if calls--; calls < 0 {
			return errPower
		}
		return nil
	})
}

// TestPowerCutAtEveryStepOfATruncation cuts what was never synced: the recovery
// point must not call it durable.
func TestPowerCutAtEveryStepOfATruncation(t *testing.T) {
	for calls := 0; ; calls++ {
		fsys := vfs.NewMem()
		l := open(t, fsys, DefaultConfig())
		add(t, l, nobody, 1)
		must(t, l.WaitDurable(t.Context(), 1))
		add(t, l, nobody, 1)
		add(t, l, nobody, 1)
		cutPower(fsys, calls)
		_, cut := l.TruncateTo(2)
		fsys.SetFault(nil)
		for seed := range uint64(8) {
			after, err := Open(fsys.Crash(rand.New(rand.NewPCG(seed, uint64(calls)))), testDir, DefaultConfig())
			if err != nil {
				t.Fatalf("power cut after %d calls: %v", calls, err)
			}
			if end := after.EndOffset(); end < 1 {
				t.Fatalf("power cut after %d calls: the log ends at %d", calls, end)
			}
			must(t, after.Close())
		}
		if cut == nil {
			return
		}
	}
}

// TestKillAtEveryStep ends the process, but not the machine: everything written
// is there.
func TestKillAtEveryStep(t *testing.T) {
	for step := 1; ; step++ {
		fs := vfs.NewMem()
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
		h, err := script(fs)
		fs.SetFault(nil)
		// What the next start serves it has made durable: then the power goes.
		l := open(t, fs, small())
		h.acked = l.EndOffset()
		check(t, fs.Crash(nil), h, fmt.Sprintf("step %d, started and cut", step))
		must(t, l.Close())
		check(t, fs, h, fmt.Sprintf("step %d", step))
		if err == nil {
			return
		}
	}
}

// TestCrashWhileRecovering cuts the power again at every step of the recovery.
func TestCrashWhileRecovering(t *testing.T) {
	for _, at := range []int{40, 75, 110, 150, 190} {
		fs := vfs.NewMem()
		n := 0
		fs.SetFault(func(op vfs.Op, _ string) error {
			if n++; n >= at {
				return errPower
			}
			return nil
		})
		h, _ := script(fs)
		rng := rand.New(rand.NewPCG(uint64(at), 7))
		torn := fs.Crash(rng)
		for step := 1; ; step++ {
			again := torn.Crash(nil)
			n := 0
			again.SetFault(func(op vfs.Op, _ string) error {
				if n++; n >= step {
					return errPower
				}
				return nil
			})
			l, err := Open(again, testDir, small())
			if err == nil {
				_ = l.Close()
			}
			check(t, again.Crash(rng), h, fmt.Sprintf("crash at %d, recovery step %d", at, step))
			if err == nil {
				break
			}
		}
	}
}

func TestWhatWasCutStaysCut(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, DefaultConfig())
	add(t, l, nobody, 1)
	must(t, l.WaitDurable(t.Context(), 1))
	for range 2 { // Not acknowledged; the first will be torn, the second not.
		add(t, l, nobody, 1)
	}
	flip(t, fsys, fileName(0, logSuffix), (l.Size()*2/3-1)*8)
	killed := open(t, fsys, DefaultConfig())
	if got := killed.EndOffset(); got != 1 {
		t.Fatalf("end %d, want 1", got)
	}
	// The last byte of a batch is a zero, like what is preallocated.
	if got, want := killed.Recovered(), (Recovery{CutBytes: l.Size()*2/3 - 1}); got != want {
		t.Fatalf("recovered %+v, want %+v", got, want)
	}
	// A batch as long as the torn one ends where the other begins.
	add(t, killed, nobody, 1)
	must(t, killed.WaitDurable(t.Context(), 2))
	if got := open(t, fsys.Crash(nil), DefaultConfig()).EndOffset(); got != 2 {
		t.Fatalf("after another crash the log ends at %d, want 2", got)
	}
}

func TestReplicasSurviveACrash(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	for i, base := range []int64{0, 7, 20, 22} {
		b := batch(t, nobody, 2, 0)
		b.SetBaseOffset(base)
		b.SetLeaderEpoch(int32(i / 2))
		got, err := l.AppendReplicated(b, l.EndOffset())
		must(t, err)
		must(t, l.WaitDurable(t.Context(), got.NextOffset()))
	}
	l = open(t, fsys.Crash(nil), small())
	if got, want := offsets(t, readAll(t, l, 0, 1000)), []int64{0, 7, 20, 22}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("batches at %v, want %v", got, want)
	}
	if found, end := l.EpochEnd(0); found != 0 || end != 20 {
		t.Fatalf("epoch 0 ends at (%d, %d), want 20", found, end)
	}
}

func TestTheNewestRecoveryPointCounts(t *testing.T) {
	fsys := vfs.NewMem()
	must(t, fsys.MkdirAll(testDir))
	for i := range int64(5) {
		r, got, err := openRecoveryPoint(nil, fsys, testDir)
		must(t, err)
		if got.size != i {
			t.Fatalf("point %+v, want size %d", got, i)
		}
		must(t, r.advance(durablePoint{0, i + 1}))
		must(t, r.file.Close())
	}
	// A torn write of the newest leaves the one before.
	flip(t, fsys, recoveryName, (5%2*recoverySlot+recoveryLen-1)*8)
	r, got, err := openRecoveryPoint(nil, fsys, testDir)
	must(t, err)
	if got.size != 4 {
		t.Fatalf("point %+v, want size 4", got)
	}
	must(t, r.file.Close())
}
