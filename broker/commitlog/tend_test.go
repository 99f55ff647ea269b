package commitlog

import (
	"errors"
	"math"
	"syscall"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

func lax() Config {
	cfg := DefaultConfig()
	cfg.FlushMessages = 10
	return cfg
}

func TestALaxFlushPolicyAcknowledgesBeforeTheDisk(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, lax())
	now := time.Now()
	add(t, l, nobody, 4)
	must(t, l.WaitCommitted(t.Context(), 4))
	if got, durable := l.CommittedOffset(), l.DurableOffset(); got != 4 || durable != 0 {
		t.Fatalf("committed %d, durable %d, want 4 and 0", got, durable)
	}
	if got := open(t, fsys.Crash(nil), lax()).EndOffset(); got != 0 {
		t.Fatalf("after a power cut it ends at %d", got)
	}
	add(t, l, nobody, 6) // the tenth record
	must(t, l.WaitCommitted(t.Context(), 10))
	if got := l.DurableOffset(); got != 10 {
		t.Fatalf("durable %d after ten records, want 10", got)
	}
	add(t, l, nobody, 1)
	for _, c := range []struct {
		after   time.Duration
		durable int64
	}{{0, 10}, {59 * time.Second, 10}, {time.Minute, 11}} {
		must(t, l.Tend(t.Context(), now.Add(c.after)))
		if got := l.DurableOffset(); got != c.durable {
			t.Fatalf("after %v durable %d, want %d", c.after, got, c.durable)
		}
	}
	add(t, l, nobody, 1)
	must(t, l.WaitCommitted(t.Context(), 12))
	must(t, l.SetConfig(DefaultConfig()))
	if got, durable := l.CommittedOffset(), l.DurableOffset(); got != 12 || durable != 12 {
		t.Fatalf("strict again: committed %d, durable %d, want 12", got, durable)
	}
	if err := l.WaitCommitted(t.Context(), 13); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Fatalf("past the end: %v", err)
	}
	killed := open(t, fsys, lax())
	if got := killed.EndOffset(); got != 12 {
		t.Fatalf("after a kill it ends at %d", got)
	}
}

func TestALaxLogStopsAcknowledgingWhenASyncFails(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, lax())
	add(t, l, nobody, 3)
	must(t, l.WaitCommitted(t.Context(), 3))
	if l.CommittedOffset() != 3 {
		t.Fatal("not committed")
	}
	end := add(t, l, nobody, 20).NextOffset()
	fsys.FailNext(vfs.OpSync, logSuffix, 1, syscall.EIO)
	if err := l.WaitCommitted(t.Context(), end); !errors.Is(err, ErrOffline) {
		t.Fatalf("%v, want ErrOffline", err)
	}
	if err := l.WaitCommitted(t.Context(), end-15); !errors.Is(err, ErrOffline) {
		t.Fatalf("%v, want ErrOffline for everything behind", err)
	}
	if got := l.CommittedOffset(); got != 3 {
		t.Fatalf("committed %d, want the 3 that were", got)
	}
}

// long has many batches in its only segment and marks every few.
func long(t *testing.T, fsys vfs.FS) (*Log, Config) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.knownBytes, cfg.markBytes, cfg.IndexInterval = 2000, 3000, 300
	l := open(t, fsys, cfg)
	for i := range int32(60) {
		add(t, l, from{1, 0, i * 2, true}, 2)
		if i%9 == 8 {
			_, err := l.AppendMarker(Marker{ProducerID: 1, Commit: i%2 == 0}, 0)
			must(t, err)
		}
		must(t, l.Tend(t.Context(), time.Now()))
	}
	must(t, l.WaitDurable(t.Context(), l.EndOffset()))
	return l, cfg
}

// counting counts the bytes that are read of segments.
type counting struct {
	*vfs.Mem
	read int
}

func (c *counting) Open(name string) (vfs.File, error) {
	f, err := c.Mem.Open(name)
	return countingFile{f, c}, err
}

type countingFile struct {
	vfs.File
	c *counting
}

func (f countingFile) ReadAt(p []byte, off int64) (int, error) {
	f.c.read += len(p)
	return f.File.ReadAt(p, off)
}

func TestAStartReadsWhatIsNotKnown(t *testing.T) {
	fsys := vfs.NewMem()
	l, cfg := long(t, fsys)
	want, size, producers, aborted := readAll(t, l, 0, 1000), l.Size(), l.Producers(), l.Aborted(0, math.MaxInt64)
	before := l.state.Known
	if before == nil || before.Size >= size {
		t.Fatalf("known %+v of %d bytes", before, size)
	}
	check := func(what string, fsys *counting, least, most int64) {
		t.Helper()
		fsys.read = 0
		l, err := Open(fsys, testDir, cfg)
		must(t, err)
		defer func() { must(t, l.Close()) }()
		if got := l.view.Load().active.unchecked.to; got < least || got > most {
			t.Errorf("%s: %d bytes were not read, want %d to %d", what, got, least, most)
		}
		if got := readAll(t, l, 0, 1000); string(got) != string(want) {
			t.Errorf("%s: it reads differently", what)
		}
		if l.view.Load().active.unchecked.covers(0, size) {
			t.Errorf("%s: reading has not checked everything", what)
		}
		gotProducers := l.Producers()
		gotProducers[0].LastTimestamp = producers[0].LastTimestamp
		if gotProducers[0] != producers[0] {
			t.Errorf("%s: producers %+v, want %+v", what, gotProducers, producers)
		}
		if got := l.Aborted(0, math.MaxInt64); len(got) != len(aborted) || got[len(got)-1] != aborted[len(aborted)-1] {
			t.Errorf("%s: aborted %v, want %v", what, got, aborted)
		}
		must(t, l.Verify(t.Context()))
		add(t, l, from{1, 0, 120, true}, 1)
	}
	check("power cut", &counting{Mem: fsys.Crash(nil)}, before.Size, before.Size)
	for _, name := range []string{fileName(0, offsetSuffix), fileName(0, abortedSuffix), fileName(before.Next, snapshotSuffix)} {
		damaged := fsys.Crash(nil)
		must(t, damaged.Remove(testDir+"/"+name))
		check("without "+name, &counting{Mem: damaged}, 0, 0)
	}
	must(t, l.Close())
	check("clean stop", &counting{Mem: fsys}, size, size)
}

func TestDamageThatAStartHasNotSeenIsNotServed(t *testing.T) {
	fsys := vfs.NewMem()
	l, cfg := long(t, fsys)
	must(t, l.Close())
	flip(t, fsys, fileName(0, logSuffix), (record.HeaderSize+5)*8)
	l = open(t, fsys, cfg)
	var corrupt *CorruptError
	if _, err := l.Read(0, 1000, l.EndOffset()); !errors.As(err, &corrupt) {
		t.Fatalf("read: %v, want CorruptError", err)
	}
	if _, err := l.Range(0, 1000, l.EndOffset()); !errors.As(err, &corrupt) {
		t.Fatalf("range: %v, want CorruptError", err)
	}
	if _, err := l.Read(10, 1000, l.EndOffset()); err != nil {
		t.Fatalf("what is not damaged: %v", err)
	}
	r, err := l.Range(10, 1000, l.EndOffset())
	must(t, err)
	r.Release()
}

// TestPowerCutAtEveryStepOfAMark looks at what a mark leaves.
func TestPowerCutAtEveryStepOfAMark(t *testing.T) {
	for step := 1; ; step++ {
		fsys := vfs.NewMem()
		l, cfg := long(t, fsys)
		seq := int32(120)
		for l.Size()-l.state.Known.Size < cfg.markBytes {
			add(t, l, from{1, 0, seq, true}, 2)
			seq += 2
		}
		must(t, l.WaitDurable(t.Context(), l.EndOffset()))
		want := readAll(t, l, 0, 1000)
		n := 0
		fsys.SetFault(func(op vfs.Op, _ string) error {
			if n++; op != vfs.OpRead && op != vfs.OpOpen && n >= step {
				return errPower
			}
			return nil
		})
		err := l.Tend(t.Context(), time.Now())
		fsys.SetFault(nil)
		for _, after := range []*vfs.Mem{fsys.Crash(nil), fsys} {
			again := open(t, after, cfg)
			if got := readAll(t, again, 0, 1000); string(got) != string(want) {
				t.Fatalf("step %d: it reads differently", step)
			}
			must(t, again.Verify(t.Context()))
			must(t, again.Close())
		}
		if err == nil {
			return
		}
		if step > 100 {
			t.Fatal(err)
		}
	}
}
