package replica

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

func open(t *testing.T, fs vfs.FS, epoch int32) *Partition {
	t.Helper()
	p, err := Open(fs, "log", Identity{Topic: "t", Partition: 3}, epoch, commitlog.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func appendOne(t *testing.T, p *Partition) int64 {
	t.Helper()
	b, err := record.Encode([]record.Record{{Timestamp: 1, Value: []byte("v")}}, record.NoProducer(record.None))
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Append(b, commitlog.FromClient)
	if err != nil {
		t.Fatal(err)
	}
	return a.NextOffset()
}

func TestOnlyWhatIsOnDiskIsBelowTheHighWatermark(t *testing.T) {
	fs := vfs.NewMem()
	p := open(t, fs, 1)
	end := appendOne(t, p)
	if hw := p.HighWatermark(); hw != 0 || p.EndOffset() != end {
		t.Fatalf("high watermark %d, end %d before a sync", hw, p.EndOffset())
	}
	if err := p.WaitCommitted(t.Context(), end); err != nil {
		t.Fatal(err)
	}
	if hw, stable := p.HighWatermark(), p.LastStable(); hw != end || stable != end {
		t.Fatalf("high watermark %d, last stable %d, want %d", hw, stable, end)
	}
	appendOne(t, p) // is not synced
	after := open(t, fs.Crash(rand.New(rand.NewPCG(1, 1))), 2)
	if after.HighWatermark() < end || after.HighWatermark() != after.EndOffset() {
		t.Errorf("after a crash: high watermark %d, end %d", after.HighWatermark(), after.EndOffset())
	}
}

func TestEpochs(t *testing.T) {
	fs := vfs.NewMem()
	p := open(t, fs, 3)
	end := appendOne(t, p)
	if err := p.WaitCommitted(t.Context(), end); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, fs, 5)
	for _, c := range []struct {
		epoch int32
		want  error
	}{{-1, nil}, {5, nil}, {4, ErrFencedEpoch}, {6, ErrUnknownEpoch}} {
		if err := p.CheckEpoch(c.epoch); !errors.Is(err, c.want) {
			t.Errorf("epoch %d: %v, want %v", c.epoch, err, c.want)
		}
	}
	for _, c := range []struct {
		epoch, found int32
		end          int64
	}{{5, 5, 1}, {3, 3, 1}, {4, 3, 1}, {6, -1, -1}} {
		if found, end := p.EpochEnd(c.epoch); found != c.found || end != c.end {
			t.Errorf("end of epoch %d: %d at %d, want %d at %d", c.epoch, found, end, c.found, c.end)
		}
	}
}

func TestAWaiterIsWokenByACommitAndByAClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, vfs.NewMem(), 1)
		w := NewWaiter(1)
		p.Watch(w)
		end := appendOne(t, p)
		select {
		case <-w.C():
			t.Fatal("woken by an append that is not committed")
		default:
		}
		if err := p.WaitCommitted(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		<-w.C()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		<-w.C()
		w.Stop()
		if len(p.waiters) != 0 {
			t.Error("a stopped waiter stays")
		}
	})
}

func TestTheFlusherCommitsForThoseWhoDoNotWait(t *testing.T) {
	p := open(t, vfs.NewMem(), 1)
	w := NewWaiter(1)
	p.Watch(w)
	f := NewFlusher(2)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	end := appendOne(t, p)
	f.Add(p, end)
	select {
	case <-w.C():
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was committed")
	}
	if p.HighWatermark() != end {
		t.Errorf("high watermark %d, want %d", p.HighWatermark(), end)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestADamagedLogIsOfflineNotEmpty(t *testing.T) {
	fs := vfs.NewMem()
	p := open(t, fs, 1)
	end := appendOne(t, p)
	if err := p.WaitCommitted(t.Context(), end); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Open("log/00000000000000000000.log")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, record.HeaderSize+2); err != nil {
		t.Fatal(err)
	}
	p, err = Open(fs, "log", Identity{Topic: "t"}, 2, commitlog.DefaultConfig())
	var corrupt *commitlog.CorruptError
	if !errors.As(err, &corrupt) || p == nil || !errors.Is(p.Offline(), ErrOffline) {
		t.Fatalf("open: %v", err)
	}
	if _, err := p.Append(nil, commitlog.FromClient); !errors.Is(err, ErrOffline) {
		t.Errorf("append: %v", err)
	}
	if _, err := p.Read(0, 100, 1); !errors.Is(err, ErrOffline) {
		t.Errorf("read: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
