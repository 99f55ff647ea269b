package commitlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

// gated is a file system whose data syncs wait for a permit, one each.
type gated struct {
	vfs.FS
	begun, permits chan struct{}
}

type gatedFile struct {
	vfs.File
	g *gated
}

func (g *gated) Create(name string) (vfs.File, error) {
	f, err := g.FS.Create(name)
	return gatedFile{f, g}, err
}

func (g *gated) Open(name string) (vfs.File, error) {
	f, err := g.FS.Open(name)
	return gatedFile{f, g}, err
}

func (f gatedFile) DataSync() error {
	f.g.begun <- struct{}{}
	<-f.g.permits
	return f.File.DataSync()
}

func TestWaitersShareASync(t *testing.T) {
	const waiters = 50
	g := &gated{FS: vfs.NewMem(), begun: make(chan struct{}), permits: make(chan struct{})}
	l, err := Open(g, testDir, DefaultConfig())
	must(t, err)
	done := make(chan error, waiters)
	wait := func() {
		end := add(t, l, nobody, 1).NextOffset()
		go func() { done <- l.WaitDurable(context.Background(), end) }()
	}
	wait()
	<-g.begun // The first has become the syncer.
	for range waiters - 1 {
		wait()
	}
	if got := l.DurableOffset(); got != 0 {
		t.Fatalf("durable %d before the sync, want 0", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.WaitDurable(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Fatalf("a cancelled wait: %v", err)
	}
	g.permits <- struct{}{}
	must(t, <-done)
	if got := l.DurableOffset(); got != 1 {
		t.Fatalf("durable %d after a sync that began with one batch, want 1", got)
	}
	<-g.begun
	g.permits <- struct{}{}
	for range waiters - 1 { // All of them, and no third sync.
		must(t, <-done)
	}
	must(t, l.WaitDurable(t.Context(), waiters))
	if err := l.WaitDurable(t.Context(), waiters+1); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Fatalf("wait past the end: %v, want ErrOffsetOutOfRange", err)
	}
	go func() {
		<-g.begun
		g.permits <- struct{}{} // of the recovery point
	}()
	must(t, l.Close())
}

func TestAFailedWriteTakesTheLogOffline(t *testing.T) {
	for _, c := range []struct {
		op     vfs.Op
		suffix string
	}{
		{vfs.OpWrite, logSuffix},
		{vfs.OpSync, logSuffix},
		{vfs.OpPreallocate, logSuffix},
		{vfs.OpWrite, recoveryName},
		{vfs.OpCreate, logSuffix},
		{vfs.OpRename, checkpointName + tmpSuffix},
		{vfs.OpWrite, snapshotSuffix},
		{vfs.OpTruncate, logSuffix},
	} {
		t.Run(fmt.Sprintf("%s %s", c.op, c.suffix), func(t *testing.T) {
			fsys := vfs.NewMem()
			l := open(t, fsys, small())
			var acked int64
			fsys.SetFault(func(op vfs.Op, name string) error {
				if acked > 5 && op == c.op && len(name) >= len(c.suffix) && name[len(name)-len(c.suffix):] == c.suffix {
					return syscall.EIO
				}
				return nil
			})
			var err error
			for i := 0; err == nil && i < 100; i++ {
				var got Appended
				if got, err = l.Append(batch(t, nobody, 2, 0), int32(i/10), FromClient); err == nil {
					if err = l.WaitDurable(t.Context(), got.NextOffset()); err == nil {
						acked = got.NextOffset()
					}
				}
			}
			if !errors.Is(err, ErrOffline) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("%v, want ErrOffline with its cause", err)
			}
			fsys.SetFault(nil) // The disk says that all is well again: too late.
			end := l.EndOffset()
			for name, err := range map[string]error{
				"append":   second(l.Append(batch(t, nobody, 1, 0), 99, FromClient)),
				"marker":   second(l.AppendMarker(Marker{}, 99)),
				"epoch":    l.AssignEpoch(99),
				"truncate": second(l.TruncateTo(0)),
				"reset":    l.Reset(0),
				"delete":   l.DeleteRecordsBefore(1),
			} {
				if !errors.Is(err, ErrOffline) {
					t.Errorf("%s: %v, want ErrOffline", name, err)
				}
			}
			if l.DurableOffset() < end {
				if err := l.WaitDurable(t.Context(), end); !errors.Is(err, ErrOffline) {
					t.Errorf("wait: %v, want ErrOffline", err)
				}
			}
			readAll(t, l, 0, 200)
			must(t, l.Close())

			l = open(t, fsys, small())
			if got := l.EndOffset(); got < acked {
				t.Fatalf("opened anew it ends at %d, acknowledged was %d", got, acked)
			}
			add(t, l, nobody, 1)
		})
	}
}

func TestSealingMakesDurable(t *testing.T) {
	l := open(t, vfs.NewMem(), small())
	for l.view.Load().count() == 1 {
		add(t, l, nobody, 3)
	}
	if got, want := l.DurableOffset(), l.EndOffset()-3; got != want {
		t.Fatalf("durable %d, want %d", got, want)
	}
	cp, err := readCheckpoint(l.fs, testDir)
	must(t, err)
	if len(cp.Sealed) != 1 || cp.Active != cp.Sealed[0].Next {
		t.Fatalf("checkpoint %+v, want one sealed segment", cp)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAppendersReadersAndJanitorsTogether(t *testing.T) {
	cfg := small()
	cfg.SegmentBytes, cfg.RetentionBytes, cfg.Syncs = 2000, 6000, NewSyncGate(1)
	l := open(t, vfs.NewMem(), cfg)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var appenders sync.WaitGroup
	for id := range int64(4) {
		appenders.Go(func() {
			for seq := int32(0); seq < 150; seq++ {
				got, err := l.Append(mustBatch(from{id, 0, seq, false}, 1), 0, FromClient)
				if err == nil {
					err = l.WaitDurable(ctx, got.NextOffset())
				}
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for at := int64(0); ctx.Err() == nil; {
				upTo := l.DurableOffset()
				buf, err := l.Read(at, 300, upTo)
				if errors.Is(err, ErrOffsetOutOfRange) {
					at = l.StartOffset() // Retention has overtaken it.
					continue
				}
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				for _, b := range splitAll(t, buf) {
					if b.BaseOffset() != at || b.Check() != nil || b.NextOffset() > upTo {
						t.Errorf("read at %d up to %d returned a batch of %d", at, upTo, b.BaseOffset())
						return
					}
					at = b.NextOffset()
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := l.Retain(testNow, l.DurableOffset()); err != nil {
				t.Errorf("retain: %v", err)
				return
			}
			l.StableOffset(l.DurableOffset())
			l.Aborted(0, l.EndOffset())
			if err := l.Verify(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("verify: %v", err)
				return
			}
		}
	})
	appenders.Wait()
	cancel()
	wg.Wait()
	if got := l.EndOffset(); got != 600 {
		t.Fatalf("end %d, want 600", got)
	}
	if start, err := l.Retain(testNow, 600); err != nil || start == 0 {
		t.Fatal("retention has deleted nothing")
	}
}

func BenchmarkAppendDurable(b *testing.B) {
	for _, waiters := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("waiters=%d", waiters), func(b *testing.B) {
			l, err := Open(vfs.OS{}, b.TempDir(), DefaultConfig())
			must(b, err)
			defer func() { must(b, l.Close()) }()
			batch := batch(b, nobody, 20, 0)
			b.SetBytes(int64(len(batch)))
			b.ResetTimer()
			var wg sync.WaitGroup
			for range waiters {
				wg.Go(func() {
					own := append(batch[:0:0], batch...)
					for range b.N/waiters + 1 {
						got, err := l.Append(own, 0, FromClient)
						if err == nil {
							err = l.WaitDurable(context.Background(), got.NextOffset())
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
