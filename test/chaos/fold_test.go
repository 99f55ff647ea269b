//go:build chaos && unix

package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/ledger"
)

// tile is a stretch of source offsets whose records lie at as many offsets of
// the destination.
type tile struct{ source, destination, count int64 }

// extend adds a tile to those before it, and joins it to the last one where it
// goes on.
func extend(tiles []tile, t tile) []tile {
	if n := len(tiles) - 1; n >= 0 {
		if last := &tiles[n]; last.source+last.count == t.source && last.destination+last.count == t.destination {
			last.count += t.count
			return tiles
		}
	}
	return append(tiles, t)
}

// fold is what the ledger says of one copy.
type fold struct {
	// lateIsVoid is for copies into mirror topics, whose hops are in no transaction
	// that a fence could end: what an older epoch writes after a begin does not count, nor
	// what came before it and too late for the new owner to read, who tells it again.
	// Elsewhere there must be no such thing.
	lateIsVoid bool

	epoch  uint64
	owners map[uint64]string // who has begun an epoch
	next   int64
	copied int64 // offsets with a copy
	left   int64 // offsets that are gaps
	tiles  []tile
	faults []string
}

func (f *fold) fault(format string, args ...any) {
	if len(f.faults) < 5 {
		f.faults = append(f.faults, fmt.Sprintf(format, args...))
	}
}

// foldLedger reads every page in the order of its partition. All of a copy is in
// one of them.
func foldLedger(t *testing.T, pages map[int32][]*kgo.Record, lateIsVoid bool) map[ledger.CopyKey]*fold {
	t.Helper()
	copies := map[ledger.CopyKey]*fold{}
	homes := map[ledger.CopyKey]int32{}
	of := func(key ledger.CopyKey, partition int32) *fold {
		if copies[key] == nil {
			copies[key], homes[key] = &fold{lateIsVoid: lateIsVoid}, partition
		}
		if homes[key] != partition {
			copies[key].fault("it has entries in ledger partitions %d and %d", homes[key], partition)
		}
		return copies[key]
	}
	for partition, records := range pages {
		chains := make(chains)
		for _, r := range records {
			if err := chains.follow(r.Value, lateIsVoid); err != nil {
				t.Errorf("ledger partition %d, offset %d: %v", partition, r.Offset, err)
			}
			page, err := ledger.Decode(r.Value)
			if err != nil {
				t.Errorf("ledger partition %d, offset %d: %v", partition, r.Offset, err)
				continue
			}
			for _, e := range page.Entries {
				switch e := e.(type) {
				case *ledger.Begin:
					of(e.Copy.Key(), partition).begin(e)
				case *ledger.Hop:
					of(e.Copy, partition).hop(e)
				case *ledger.Retraction:
					of(e.Copy, partition).fault("a retraction, of which nothing here is the cause")
				}
			}
		}
	}
	return copies
}

func (f *fold) begin(b *ledger.Begin) {
	f.own(b)
	if f.lateIsVoid && b.Epoch < f.epoch {
		return
	}
	switch {
	case b.Epoch < f.epoch:
		f.fault("epoch %d begins after epoch %d: its owner was not fenced", b.Epoch, f.epoch)
	case f.lateIsVoid && b.Epoch > f.epoch && b.Resume < f.next:
		f.forget(b.Resume)
	case b.Resume != f.next:
		f.fault("epoch %d begins at offset %d, the last one ended at %d", b.Epoch, b.Resume, f.next)
	}
	f.epoch = max(f.epoch, b.Epoch)
}

// own notes who has begun an epoch, which is one node and no other, late or not.
func (f *fold) own(b *ledger.Begin) {
	owner := b.Fleet + "/" + b.Node
	if first, ok := f.owners[b.Epoch]; ok && first != owner {
		f.fault("epoch %d of %s is begun by %s, too", b.Epoch, first, owner)
		return
	}
	if f.owners == nil {
		f.owners = make(map[uint64]string)
	}
	f.owners[b.Epoch] = owner
}

// forget takes back what is said of source offsets from x on.
func (f *fold) forget(x int64) {
	for n := len(f.tiles) - 1; n >= 0 && f.tiles[n].source+f.tiles[n].count > x; n-- {
		t := &f.tiles[n]
		kept := max(0, x-t.source)
		f.copied -= t.count - kept
		if t.count = kept; kept == 0 {
			f.tiles = f.tiles[:n]
		}
	}
	f.left, f.next = x-f.copied, x
}

func (f *fold) hop(h *ledger.Hop) {
	if f.lateIsVoid && h.Epoch < f.epoch {
		return
	}
	switch {
	case h.Epoch != f.epoch:
		f.fault("a hop of epoch %d in epoch %d", h.Epoch, f.epoch)
	case h.From != f.next:
		f.fault("a hop from offset %d where %d comes next", h.From, f.next)
	}
	var parts []tile // of gaps too
	for _, r := range h.Runs {
		parts = append(parts, tile{r.Source, r.Destination, r.Count})
		f.tiles, f.copied = extend(f.tiles, tile{r.Source, r.Destination, r.Count}), f.copied+r.Count
	}
	for _, g := range h.Gaps {
		parts, f.left = append(parts, tile{source: g.Source, count: g.Count}), f.left+g.Count
	}
	slices.SortFunc(parts, func(a, b tile) int { return cmp.Compare(a.source, b.source) })
	at := h.From
	for _, p := range parts {
		if p.source != at {
			f.fault("the hop [%d, %d) goes on at %d where %d comes next", h.From, h.Next, p.source, at)
		}
		at = p.source + p.count
	}
	if at != h.Next {
		f.fault("the hop [%d, %d) accounts for what is below %d", h.From, h.Next, at)
	}
	f.next = h.Next
}

// place is the index of the first tile that ends above an offset.
func (f *fold) place(offset int64) int {
	return sort.Search(len(f.tiles), func(i int) bool { return f.tiles[i].source+f.tiles[i].count > offset })
}

// holds says that the ledger has the whole of a tile.
func (f *fold) holds(t tile) bool {
	for i := f.place(t.source); t.count > 0; i++ {
		if i == len(f.tiles) || t.source < f.tiles[i].source || t.destination-t.source != f.tiles[i].destination-f.tiles[i].source {
			return false
		}
		n := min(t.count, f.tiles[i].source+f.tiles[i].count-t.source)
		t = tile{t.source + n, t.destination + n, t.count - n}
	}
	return true
}

// image is where the first record at or after an offset lies, if there is one.
func (f *fold) image(offset int64) (int64, bool) {
	i := f.place(offset)
	if i == len(f.tiles) {
		return 0, false
	}
	return f.tiles[i].destination + max(0, offset-f.tiles[i].source), true
}
