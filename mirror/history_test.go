package mirror

import (
	"bytes"
	"context"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestBrokersThatRestart restarts both sides in turn while data flows.
func TestBrokersThatRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bundledOnly("west", "east")
	const partitions = 2
	w.create(t, "orders", partitions)
	n := w.node("a", nil)
	n.Assign(w.copies(1, partitions, "orders"))
	sent := 0
	produce := func() {
		for p := range int32(partitions) {
			w.west.produce(t, "orders", p, sent, sent+200)
		}
		sent += 200
	}
	produce()
	for _, name := range []string{"east", "west", "east"} {
		produce()
		w.restart(name)
		produce()
	}
	eventually(t, "caught up", func() bool { return n.caughtUp(partitions) })
	for p := range int32(partitions) {
		w.east.expect(t, "orders", p, sent)
	}
}

// TestAFlippedBitAtTheSourceIsNamed damages a stored batch between two good ones.
func TestAFlippedBitAtTheSourceIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bundledOnly("west", "east")
	w.create(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 10)
	w.west.client.Flush(t.Context())
	w.west.produce(t, "orders", 0, 123456, 123457) // the record to damage
	w.west.produce(t, "orders", 0, 11, 20)
	w.damage("west", []byte("123456"))
	n := w.node("a", nil)
	n.Assign(w.copies(1, 1, "orders"))
	eventually(t, "the copy has failed at the batch", func() bool {
		s := n.only()
		return s.State == Failed && s.Position == 10 && strings.Contains(s.Reason, "offset 10") && strings.Contains(s.Reason, "checksum")
	})
	w.east.expect(t, "orders", 0, 10)
	deleteBefore(t, w.west, "orders", 11)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	w.gapsAre(t, map[ledger.Reason]int64{ledger.Expired: 1})
}

// damage flips a bit of the first place where a site's store holds what.
func (w *world) damage(site string, what []byte) {
	w.t.Helper()
	fs := w.hosts[site].fs
	var visit func(dir string) bool
	visit = func(dir string) bool {
		names, err := fs.ReadDir(dir)
		if err != nil {
			return false
		}
		for _, name := range names {
			full := path.Join(dir, name)
			f, err := fs.Open(full)
			if err != nil {
				if visit(full) {
					return true
				}
				continue
			}
			size, _ := f.Size()
			content := make([]byte, size)
			_, _ = f.ReadAt(content, 0) // a short read finds nothing
			if at := bytes.Index(content, what); at >= 0 {
				if _, err := f.WriteAt([]byte{content[at] ^ 1}, int64(at)); err != nil {
					w.t.Fatal(err)
				}
				return true
			}
		}
		return false
	}
	if !visit("data") {
		w.t.Fatalf("no file of %s holds %q", site, what)
	}
}

// claims answers positions that the ledger does not have.
type claims struct {
	Positions
	at Position
}

func (c claims) Position(context.Context, string, ledger.CopyID) (Position, error) { return c.at, nil }

func TestACopyStopsWhereHistoryDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		at   Position
		want error
	}{
		"the source ends below the position":       {Position{Exists: true, Epoch: 1, Fleet: "test", Next: 1000, Destination: -1, SourceLeaderEpoch: -1, DestinationLeaderEpoch: -1}, errTruncated},
		"the source has other records there":       {Position{Exists: true, Epoch: 1, Fleet: "test", Next: 50, Destination: -1, SourceLeaderEpoch: 0, DestinationLeaderEpoch: -1}, errTruncated},
		"the destination ends below what it wrote": {Position{Exists: true, Epoch: 1, Fleet: "test", Next: 50, Destination: 60, SourceLeaderEpoch: -1, DestinationLeaderEpoch: -1}, errLost},
		"another fleet has the copy":               {Position{Exists: true, Epoch: 1, Fleet: "other", Next: 50, Destination: -1, SourceLeaderEpoch: -1, DestinationLeaderEpoch: -1}, errClaimed},
		"a newer epoch has begun":                  {Position{Exists: true, Epoch: 7, Fleet: "test", Next: 50, Destination: -1, SourceLeaderEpoch: -1, DestinationLeaderEpoch: -1}, errSuperseded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.create(t, "orders", 1)
			w.west.produce(t, "orders", 0, 0, 100)
			if c.at.SourceLeaderEpoch >= 0 {
				w.bundledOnly("west")
				w.restart("west") // a leader of a newer epoch
				w.west.produce(t, "orders", 0, 0, 1)
			}
			n := w.node("a", func(cfg *Config) { cfg.Positions = claims{at: c.at} })
			n.Assign(w.copies(2, 1, "orders"))
			eventually(t, "stopped", func() bool {
				s := n.only()
				return s.State == Failed && strings.Contains(s.Reason, c.want.Error()) && s.Fix != "" && s.Records == 0
			})
		})
	}
}

// TestPositionsThatFailAreAskedAgain has a copy taken over while the ledger cannot be
// read: the new owner waits for it, and goes on where the old one came to.
//
// Brooklin 2ecbba42, de637eed: a failed rewind to the checkpoint was passed over.
func TestPositionsThatFailAreAskedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 100)
	first := w.node("first", nil)
	first.Assign(w.copies(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return first.caughtUp(1) })
	first.Assign(nil)
	<-first.released
	w.west.produce(t, "orders", 0, 100, 150)
	var asked atomic.Int32
	second := w.node("second", func(cfg *Config) {
		cfg.Positions = positionsFunc(func(ctx context.Context, cluster string, id ledger.CopyID) (Position, error) {
			if asked.Add(1) < 4 {
				return Position{}, errTest
			}
			return w.Position(ctx, cluster, id)
		})
	})
	second.Assign(w.copies(2, 1, "orders"))
	eventually(t, "caught up again", func() bool { return second.caughtUp(1) })
	w.east.expect(t, "orders", 0, 150)
}

type positionsFunc func(context.Context, string, ledger.CopyID) (Position, error)

func (f positionsFunc) PositionBefore(ctx context.Context, cluster string, id ledger.CopyID, _, _ int64) (Position, error) {
	return f(ctx, cluster, id)
}

func (f positionsFunc) Position(ctx context.Context, cluster string, id ledger.CopyID) (Position, error) {
	return f(ctx, cluster, id)
}
