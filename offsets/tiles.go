package offsets

import (
	"encoding/binary"
	"iter"
	"sort"

	"github.com/waybillhq/waybill/internal/ledger"
)

// unknown is the reason of a gap about which the ledger is silent: a page is
// missing, or two entries contradict each other.
const unknown ledger.Reason = 255

// tile is a stretch of source offsets that went one way: a run (reason 0), or
// a gap.
type tile struct {
	source, count int64
	dest          int64 // of a run
	reason        ledger.Reason
}

func (t tile) end() int64     { return t.source + t.count }
func (t tile) destEnd() int64 { return t.dest + t.count }
func (t tile) run() bool      { return t.reason == 0 }

// joins says whether u continues t so that both are one tile.
func (t tile) joins(u tile) bool {
	return t.reason == u.reason && (!t.run() || t.destEnd() == u.dest)
}

// edge is the state between two tiles, from which the next can be read.
type edge struct {
	source int64 // first offset of the next tile
	dest   int64 // end of the last run's destination, 0 if there was none
	runEnd int64 // source offset after the last run, -1 if there was none
}

func (e edge) after(t tile) edge {
	e.source = t.end()
	if t.run() {
		e.dest, e.runEnd = t.destEnd(), t.end()
	}
	return e
}

// block is blockSize tiles as bytes. A destination that is written by
// transactions has one tile for each of them, because its markers take offsets
// too: packed they cost about five bytes instead of 32.
type block struct {
	edge
	packed []byte
}

const blockSize = 128

// tiles is an ordered list of tiles without holes between them. The blocks are
// immutable and only ever appended to, so that a copy of the list shares them.
type tiles struct {
	blocks []block
	open   []tile
	first  edge // before the first open tile
	last   edge // after the last
}

func newTiles(start int64) tiles {
	e := edge{source: start, runEnd: -1}
	return tiles{first: e, last: e}
}

func (ts *tiles) add(t tile) {
	if t.count <= 0 {
		return
	}
	ts.last = ts.last.after(t)
	if n := len(ts.open); n > 0 && ts.open[n-1].joins(t) {
		ts.open[n-1].count += t.count
		return
	}
	ts.open = append(ts.open, t)
	if len(ts.open) == 2*blockSize {
		ts.seal()
	}
}

// seal packs the older half of the open tiles. The last tile stays open: it may
// still grow.
func (ts *tiles) seal() {
	b := block{edge: ts.first}
	e := ts.first
	for _, t := range ts.open[:blockSize] {
		b.packed = binary.AppendUvarint(append(b.packed, byte(t.reason)), uint64(t.count))
		if t.run() {
			b.packed = binary.AppendUvarint(b.packed, uint64(t.dest-e.dest))
		}
		e = e.after(t)
	}
	ts.blocks = append(ts.blocks, b)
	ts.open = append(make([]tile, 0, 2*blockSize), ts.open[blockSize:]...)
	ts.first = e
}

func (b block) each(yield func(edge, tile) bool) bool {
	e := b.edge
	for buf := b.packed; len(buf) > 0; {
		t := tile{source: e.source, reason: ledger.Reason(buf[0])}
		n, size := binary.Uvarint(buf[1:])
		t.count, buf = int64(n), buf[1+size:]
		if t.run() {
			d, size := binary.Uvarint(buf)
			t.dest, buf = e.dest+int64(d), buf[size:]
		}
		if !yield(e, t) {
			return false
		}
		e = e.after(t)
	}
	return true
}

// from yields the tiles from block i on (the open ones are block len(blocks)),
// each with the edge before it.
func (ts *tiles) from(i int) iter.Seq2[edge, tile] {
	return func(yield func(edge, tile) bool) {
		for ; i < len(ts.blocks); i++ {
			if !ts.blocks[i].each(yield) {
				return
			}
		}
		e := ts.first
		for _, t := range ts.open {
			if !yield(e, t) {
				return
			}
			e = e.after(t)
		}
	}
}

// edgeAt is the edge before block i.
func (ts *tiles) edgeAt(i int) edge {
	switch {
	case i < len(ts.blocks):
		return ts.blocks[i].edge
	case i == len(ts.blocks):
		return ts.first
	}
	return ts.last
}

// fromSource yields the tiles that end after a source offset; the first may
// begin before it.
func (ts *tiles) fromSource(x int64) iter.Seq2[edge, tile] {
	i := sort.Search(len(ts.blocks), func(i int) bool { return ts.edgeAt(i+1).source > x })
	return func(yield func(edge, tile) bool) {
		for e, t := range ts.from(i) {
			if t.end() > x && !yield(e, t) {
				return
			}
		}
	}
}

// fromDest yields the tiles from the first run on that ends after a destination
// offset.
func (ts *tiles) fromDest(y int64) iter.Seq2[edge, tile] {
	i := sort.Search(len(ts.blocks), func(i int) bool { return ts.edgeAt(i+1).dest > y })
	return func(yield func(edge, tile) bool) {
		met := false
		for e, t := range ts.from(i) {
			met = met || t.run() && t.destEnd() > y
			if met && !yield(e, t) {
				return
			}
		}
	}
}

// cut takes away everything from source offset x on.
func (ts *tiles) cut(x int64) {
	keep := sort.Search(len(ts.blocks), func(i int) bool { return ts.edgeAt(i+1).source > x })
	old := *ts
	ts.first = old.edgeAt(keep)
	ts.last = ts.first
	ts.blocks = old.blocks[:keep:keep]
	ts.open = nil
	for _, t := range old.from(keep) {
		if t.source >= x {
			break
		}
		t.count = min(t.count, x-t.source)
		ts.open = append(ts.open, t)
		ts.last = ts.last.after(t)
	}
	if ts.last.source > x || len(ts.open) == 0 && len(ts.blocks) == 0 {
		ts.first.source, ts.last.source = x, x
	}
}

// clone shares the blocks and copies the rest.
func (ts *tiles) clone() tiles {
	c := *ts
	c.blocks = ts.blocks[:len(ts.blocks):len(ts.blocks)]
	c.open = append([]tile(nil), ts.open...)
	return c
}

// size is the number of tiles.
func (ts *tiles) size() int { return len(ts.blocks)*blockSize + len(ts.open) }
