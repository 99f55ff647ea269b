package commitlog

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/internal/vfs"
)

var testNow = time.UnixMilli(2_000_000)

func TestRetentionPlan(t *testing.T) {
	seg := func(base, next, size, maxTime, lastAppend int64) *segment {
		return &segment{sealed: sealed{Base: base, Next: next, Size: size, MaxTime: maxTime, LastAppend: lastAppend}}
	}
	segments := []*segment{seg(0, 10, 100, 1000, 5000), seg(10, 20, 100, 3000, 5000), seg(20, 30, 100, 2000, 5000)}
	base := view{segments: segments, active: extent{base: 30, next: 35, size: 50, maxTime: 4000}}
	timeless := view{segments: []*segment{seg(0, 10, 100, -1, 5000)}, active: extent{base: 10, next: 10}}
	for name, c := range map[string]struct {
		v         view
		age       time.Duration
		bytes     int64
		now       int64
		watermark int64
		want      retention
	}{
		"nothing is old":               {base, time.Second, -1, 1500, 35, retention{start: 0}},
		"the oldest goes":              {base, time.Second, -1, 2500, 35, retention{start: 10}},
		"one that is young holds on":   {base, time.Second, -1, 3500, 35, retention{start: 10}},
		"all sealed":                   {base, time.Second, -1, 4500, 35, retention{start: 30}},
		"the active too":               {base, time.Second, -1, 5500, 35, retention{start: 35, roll: true}},
		"not above the watermark":      {base, time.Second, -1, 5500, 25, retention{start: 20}},
		"for ever":                     {base, -1, -1, 1 << 40, 35, retention{start: 0}},
		"by size":                      {base, -1, 200, 0, 35, retention{start: 10}},
		"by size, exactly":             {base, -1, 150, 0, 35, retention{start: 20}},
		"by size, never the active":    {base, -1, 0, 0, 35, retention{start: 30}},
		"no timestamps: the append's":  {timeless, time.Second, -1, 5500, 10, retention{start: 0}},
		"no timestamps, and old":       {timeless, time.Second, -1, 6500, 10, retention{start: 10}},
		"an empty active never rolls":  {view{active: extent{}}, time.Second, -1, 1 << 40, 0, retention{start: 0}},
		"zero age takes what is older": {base, 0, -1, 1001, 35, retention{start: 10}},
	} {
		cfg := Config{RetentionAge: c.age, RetentionBytes: c.bytes}
		if got := cfg.plan(&c.v, c.now, 5000, c.watermark); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestRetentionKeepsProducersAndOffsets(t *testing.T) {
	fsys := vfs.NewMem()
	cfg := small()
	cfg.RetentionAge = time.Second
	l := open(t, fsys, cfg)
	for i := range int32(30) {
		add(t, l, from{1, 0, i, false}, 1)
	}
	end := l.EndOffset()
	start, err := l.Retain(time.Now(), end)
	must(t, err)
	if start != end || l.EndOffset() != end || l.Size() != 0 {
		t.Fatalf("start %d, end %d, %d bytes, want all of %d gone", start, l.EndOffset(), l.Size(), end)
	}
	for range 2 {
		if n := len(sizes(t, fsys)); n > 5 {
			t.Errorf("files left: %v", sizes(t, fsys))
		}
		if _, err := l.Append(batch(t, from{1, 0, 99, false}, 1, 0), 0, FromClient); !errors.Is(err, ErrOutOfOrderSequence) {
			t.Fatalf("deleting data has reset the producer: %v", err)
		}
		must(t, l.Close())
		l = open(t, fsys, cfg)
		if l.StartOffset() != end || l.EndOffset() != end {
			t.Fatalf("opened anew: [%d,%d), want [%d,%d)", l.StartOffset(), l.EndOffset(), end, end)
		}
	}
	if got := add(t, l, from{1, 0, 30, false}, 1); got.BaseOffset != end {
		t.Fatalf("offset %d is used again, want %d", got.BaseOffset, end)
	}
}

func TestSegmentsRollByAgeAndProducersExpireByTheTimeOfTheAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := vfs.NewMem()
		cfg := DefaultConfig()
		cfg.SegmentAge, cfg.RetentionAge = time.Hour, -1
		l := open(t, fsys, cfg)
		add(t, l, from{1, 0, 0, false}, 1) // with timestamps of 1970
		add(t, l, from{2, 0, 0, true}, 1)
		time.Sleep(50 * time.Minute) // of a fake clock
		add(t, l, from{1, 0, 1, false}, 1)
		if n := l.view.Load().count(); n != 1 {
			t.Fatalf("%d segments after 50 minutes, want 1", n)
		}
		must(t, l.Close())
		l = open(t, fsys, cfg) // which knows the segment's age
		time.Sleep(11 * time.Minute)
		add(t, l, from{3, 0, 0, false}, 1)
		if n := l.view.Load().count(); n != 2 {
			t.Fatalf("%d segments after an hour, want 2", n)
		}
		time.Sleep(cfg.ProducerExpiry - 11*time.Minute)
		for _, want := range []int{3, 2} {
			_, err := l.Retain(time.Now(), l.EndOffset())
			must(t, err)
			if got := len(l.Producers()); got != want {
				t.Fatalf("%d producers, want %d", got, want)
			}
			must(t, l.Close())
			l = open(t, fsys, cfg)
			time.Sleep(time.Minute)
		}
		time.Sleep(2 * cfg.ProducerExpiry)
		_, err := l.Retain(time.Now(), l.EndOffset())
		must(t, err)
		if got := l.Producers(); len(got) != 1 || got[0].ProducerID != 2 {
			t.Fatalf("producers %+v, want only the one with a transaction", got)
		}
		must(t, l.Close())
	})
}

func TestDeleteRecords(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	for range 20 {
		add(t, l, nobody, 3)
	}
	if err := l.DeleteRecordsBefore(61); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Fatalf("above the end: %v, want ErrOffsetOutOfRange", err)
	}
	for _, offset := range []int64{31, 10, 60} {
		want := max(l.StartOffset(), offset)
		must(t, l.DeleteRecordsBefore(offset))
		if cp, err := readCheckpoint(fsys, testDir); err != nil || cp.intents() {
			t.Fatalf("intents are left: %+v, %v", cp, err)
		}
		for range 2 {
			if got := l.StartOffset(); got != want {
				t.Fatalf("start %d, want %d", got, want)
			}
			if _, err := l.Read(want-1, 1, want); !errors.Is(err, ErrOffsetOutOfRange) {
				t.Fatalf("read below the start: %v, want ErrOffsetOutOfRange", err)
			}
			must(t, l.Close())
			l = open(t, fsys, small())
		}
	}
}

func TestTheStartIsNeverAboveADurableEnd(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	add(t, l, nobody, 3)
	must(t, l.DeleteRecordsBefore(3))
	l = open(t, fsys.Crash(nil), small())
	if l.StartOffset() != 3 || l.EndOffset() != 3 {
		t.Fatalf("[%d,%d), want [3,3)", l.StartOffset(), l.EndOffset())
	}
}

func TestTruncate(t *testing.T) {
	for _, c := range []struct{ to, end int64 }{{60, 60}, {59, 57}, {57, 57}, {40, 39}, {3, 3}, {1, 0}, {0, 0}} {
		fsys := vfs.NewMem()
		l := open(t, fsys, small())
		var want []byte
		for i := range int32(20) {
			b := batch(t, from{1, 0, i * 3, true}, 3, 0)
			_, err := l.Append(b, i/7, FromClient)
			must(t, err)
			if b.NextOffset() <= c.end {
				want = append(want, b...)
			}
		}
		_, err := l.AppendMarker(Marker{1, 0, false, 0}, 2)
		must(t, err)
		must(t, l.WaitDurable(t.Context(), 61))
		end, err := l.TruncateTo(c.to)
		must(t, err)
		if end != c.end || l.EndOffset() != end || l.DurableOffset() != end {
			t.Fatalf("truncated to %d: end %d, durable %d, want %d", c.to, end, l.DurableOffset(), c.end)
		}
		if got := readAll(t, l, 0, 300); !bytes.Equal(got, want) {
			t.Fatalf("truncated to %d: %d bytes, want %d", c.to, len(got), len(want))
		}
		if end > 0 && l.StableOffset(end) != 0 || len(l.Aborted(0, 100)) != 0 {
			t.Fatalf("truncated to %d: the transaction is not open again", c.to)
		}
		if got, want := l.LatestEpoch(), int32((end+2)/3-1)/7; end > 0 && got != want {
			t.Fatalf("truncated to %d: latest epoch %d, want %d", c.to, got, want)
		}
		// What follows is not mixed with what was there.
		got, err := l.Append(batch(t, from{1, 0, int32(end), true}, 2, 0), 9, FromClient)
		must(t, err)
		must(t, l.WaitDurable(t.Context(), got.NextOffset()))
		l = open(t, fsys.Crash(nil), small())
		if got := l.EndOffset(); got != end+2 {
			t.Fatalf("truncated to %d, appended, crashed: end %d, want %d", c.to, got, end+2)
		}
		must(t, l.Verify(t.Context()))
	}
}

func TestReset(t *testing.T) {
	for _, to := range []int64{0, 7, 60, 1000} {
		fsys := vfs.NewMem()
		l := open(t, fsys, small())
		for i := range int32(20) {
			add(t, l, from{1, 0, i * 3, true}, 3)
		}
		must(t, l.Reset(to))
		for range 2 {
			if l.StartOffset() != to || l.EndOffset() != to || l.LatestEpoch() != -1 || len(l.Producers()) != 0 || l.StableOffset(to) != to {
				t.Fatalf("reset to %d: [%d,%d), epoch %d, producers %v", to, l.StartOffset(), l.EndOffset(), l.LatestEpoch(), l.Producers())
			}
			must(t, l.Close())
			l = open(t, fsys, small())
		}
		if got := add(t, l, nobody, 1); got.BaseOffset != to {
			t.Fatalf("first offset %d, want %d", got.BaseOffset, to)
		}
	}
}

func TestPowerCutWhileResetting(t *testing.T) {
	for step := 1; ; step++ {
		fsys := vfs.NewMem()
		l := open(t, fsys, small())
		for i := range int32(10) {
			add(t, l, from{1, 0, i * 3, false}, 3)
		}
		must(t, l.WaitDurable(t.Context(), 30))
		n := 0
		fsys.SetFault(func(vfs.Op, string) error {
			if n++; n >= step {
				return errPower
			}
			return nil
		})
		err := l.Reset(100)
		fsys.SetFault(nil)
		after := open(t, fsys.Crash(nil), small())
		switch start, end := after.StartOffset(), after.EndOffset(); {
		case start == 100 && end == 100 && len(after.Producers()) == 0:
		case start == 0 && end == 30 && err != nil && len(after.Producers()) == 1:
		default:
			t.Fatalf("step %d: [%d,%d), reset said %v", step, start, end, err)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, ErrOffline) {
			t.Fatalf("step %d: %v, want ErrOffline", step, err)
		}
		fsys.RemoveAll(testDir)
	}
}

func TestRemove(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	add(t, l, nobody, 1)
	must(t, l.Remove())
	if names, err := fsys.ReadDir(testDir); err == nil {
		t.Fatalf("left: %v", names)
	}
}
