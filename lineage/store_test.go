package lineage

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestAFullDisk ends nobody: the index takes nothing more in, says so, answers from
// what it has, can be closed, and goes on from the ledgers when it is opened again.
func TestAFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	var full atomic.Bool
	disk := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
	conf := Config{Dir: "index", Authorizer: rights(nil), fsys: disk}
	x, f := openHere(t, conf)
	chain(f)
	full.Store(true)
	x.flushed = time.Time{} // it is time
	f.page('a', production('a', "User:shop", 1000, 1009))
	<-x.broken
	if err := x.Err(); !errors.Is(err, errDiskFull) {
		t.Fatalf("got %v", err)
	}
	if a, err := x.Event(t.Context(), alice, orders("a", 70)); err != nil || len(a.Nodes) == 0 {
		t.Errorf("an event that it has: %v %v", a, err)
	}
	next := f.next["id-a"]
	f.page('a', production('a', "User:shop", 1010, 1019))
	if got := x.Resume("id-a", ledger.TopicID{'L', 'a'}, map[int32]int64{0: 0})[0]; got > next {
		t.Errorf("a page was taken: it goes on at %d", got)
	}
	_ = x.Close() // the disk is full still

	full.Store(false)
	x, f = openHere(t, conf)
	if got := x.Resume("id-a", ledger.TopicID{'L', 'a'}, map[int32]int64{0: 0})[0]; got > next {
		t.Errorf("it goes on at %d, past what was not written", got)
	}
	chain(f)
	if a, err := x.Event(t.Context(), alice, orders("a", 70)); err != nil || len(a.Nodes) == 0 {
		t.Errorf("an event that was read again: %v %v", a, err)
	}
	if err := errors.Join(x.Err(), x.Close()); err != nil {
		t.Error(err)
	}
}

// openHere opens an index that the test itself closes.
func openHere(t *testing.T, cfg Config) (*Index, *feeder) {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	x, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return x, newFeeder(x)
}

// TestADiskThatFailsWithTheManifest ends nobody either: the store has no answer to
// that but to end the process.
func TestADiskThatFailsWithTheManifest(t *testing.T) {
	for name, opened := range map[string]bool{"when it is opened": false, "when it is flushed": true} {
		var broken atomic.Bool
		disk := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(op.Path, "MANIFEST") {
				return syscall.EIO
			}
			return nil
		}))
		conf := Config{Dir: "index", Authorizer: rights(nil), Log: slog.New(slog.DiscardHandler), fsys: disk}
		broken.Store(!opened)
		if !opened {
			if _, err := Open(conf); !errors.Is(err, syscall.EIO) {
				t.Errorf("%s: got %v", name, err)
			}
			continue
		}
		x, f := openHere(t, conf)
		chain(f)
		broken.Store(true)
		x.flushed = time.Time{} // it is time
		f.page('a', production('a', "User:shop", 1000, 1009))
		<-x.broken
		if err := x.Err(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: got %v", name, err)
		}
		if a, err := x.Event(t.Context(), alice, orders("a", 70)); err != nil || len(a.Nodes) == 0 {
			t.Errorf("%s: an event that it has: %v %v", name, a, err)
		}
		if err := x.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: closed with %v", name, err)
		}
	}
}

// TestADiskThatFailsIsNotWrittenToWithoutPause: the store itself tries again at once, for
// as long as the node runs.
func TestADiskThatFailsIsNotWrittenToWithoutPause(t *testing.T) {
	var broken atomic.Bool
	var tries atomic.Int64
	disk := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			tries.Add(1)
			return syscall.EIO
		}
		return nil
	}))
	x, f := openHere(t, Config{Dir: "index", Authorizer: rights(nil), fsys: disk})
	chain(f)
	broken.Store(true)
	x.flushed = time.Time{} // it is time
	f.page('a', production('a', "User:shop", 1000, 1009))
	<-x.broken
	for began := time.Now(); time.Since(began) < 2*retryInterval; time.Sleep(time.Millisecond) {
		if n := tries.Load(); n > 20 { // one a second, and some at first
			t.Fatalf("%d tries in %s", n, time.Since(began))
		}
	}
	if err := x.Err(); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
	if a, err := x.Event(t.Context(), alice, orders("a", 70)); err != nil || len(a.Nodes) == 0 {
		t.Errorf("an event that it has: %v %v", a, err)
	}
	_ = x.Close() // the disk fails still
}

// TestAStoreOfAnotherVersion is emptied, and read from the ledgers again.
func TestAStoreOfAnotherVersion(t *testing.T) {
	conf := Config{Dir: "index", Authorizer: rights(nil), fsys: vfs.NewMem()}
	x, f := openHere(t, conf)
	chain(f)
	if err := errors.Join(x.db.Delete(key(0, kindFormat), pebble.NoSync), x.Close()); err != nil {
		t.Fatal(err)
	}
	x, f = openHere(t, conf)
	if got := x.Resume("id-a", ledger.TopicID{'L', 'a'}, map[int32]int64{0: 0})[0]; got != 0 {
		t.Errorf("it goes on at %d", got)
	}
	chain(f)
	if a, err := x.Event(t.Context(), alice, orders("a", 70)); err != nil || len(a.Nodes) != 2 {
		t.Errorf("got %v %v", a, err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	x, _ = openHere(t, conf)
	if got := x.Resume("id-a", ledger.TopicID{'L', 'a'}, map[int32]int64{0: 0})[0]; got != 1 {
		t.Errorf("a store of this version goes on at %d", got)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}
