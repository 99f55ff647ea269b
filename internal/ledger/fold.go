package ledger

import (
	"encoding/binary"
	"time"
)

// Fold is what a hop has that stands for several hops of one epoch, which are not in
// the ledger any more.
type Fold struct {
	// Since is the time of the first of them; the hop's own is that of the last. RanAt
	// is that of the last that had runs.
	Since, RanAt time.Time
	// Unmarked says that a hole of one offset between runs need not be the marker of
	// a transaction.
	Unmarked bool
	// NotLocal says that records were left out because they were not born at the source,
	// be it of what was taken back since.
	NotLocal bool
	// Void says that all of it was taken back: the source has lost it since, or, if it is
	// Restated, a later epoch tells of it again (see [Begin.Restates]). The hop is no part of
	// what the copy consists of, and its records are at the destination still.
	Void, Restated bool
}

const (
	foldUnmarked = 1 << 0
	foldVoid     = 1 << 1
	foldRestated = 1 << 2
	foldNotLocal = 1 << 3
)

// A fold is written as a hop without digests, and with one bit of the paths.
func (e *Hop) appendFold(b []byte) []byte {
	b = appendTime(appendTime(e.appendHead(b), e.Fold.Since), e.Fold.RanAt)
	var flags byte
	if e.Fold.Unmarked {
		flags |= foldUnmarked
	}
	if e.Fold.NotLocal {
		flags |= foldNotLocal
	}
	if e.Fold.Void {
		flags |= foldVoid
	}
	if e.Fold.Restated {
		flags |= foldRestated
	}
	return e.appendTiles(append(b, flags))
}

func (e *Hop) readFold(r *reader) {
	e.readHead(r)
	e.Fold = &Fold{Since: r.time(), RanAt: r.time()}
	flags := r.byte()
	e.Fold.Unmarked, e.Fold.NotLocal = flags&foldUnmarked != 0, flags&foldNotLocal != 0
	e.Fold.Void, e.Fold.Restated = flags&foldVoid != 0, flags&foldRestated != 0
	e.readTiles(r)
	if e.Fold.Void && len(e.Runs) == 0 || e.Fold.Restated && !e.Fold.Void {
		r.fail("void without records, or restated and not void")
	}
}

// Tails are ends of writers' chains, as they were below a [Cut].
type Tails struct {
	Of []WriterTail
}

// WriterTail is where the chain of one writer ended.
type WriterTail struct {
	Writer WriterID
	Tail
}

const tailSize = len(WriterID{}) + 1 + len(Tail{}.Hash)

// Cut is the last entry of a fold: what its writer's pages say, this one and all before
// it, stands for everything in the ledger partition below Next. Without it they count for
// nothing.
type Cut struct {
	Next int64
	// Sum is the SHA-256, page after page, of the sum before and the page's hash, of all
	// pages that were ever below Next: Pages of them.
	Sum   [32]byte
	Pages uint64
	// Rule is by what rule hops were put together: who knows it comes to the same.
	Rule        uint64
	Fleet, Node string
	At          time.Time
}

// ofFold says that entries of the kind are in pages of folds only.
func (k kind) ofFold() bool { return k == kindFold || k == kindTails || k == kindCut }

func (*Tails) kind() kind { return kindTails }
func (*Cut) kind() kind   { return kindCut }

func (e *Tails) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(e.Of)))
	for _, t := range e.Of {
		b = binary.AppendUvarint(append(b, t.Writer[:]...), t.Next)
		b = append(b, t.Hash[:]...)
	}
	return b
}

func (e *Tails) read(r *reader) {
	for n := r.count(tailSize); n > 0 && r.bad == ""; n-- {
		var t WriterTail
		copy(t.Writer[:], r.take(len(t.Writer)))
		t.Next = r.uvarint()
		copy(t.Hash[:], r.take(len(t.Hash)))
		e.Of = append(e.Of, t)
	}
}

func (e *Cut) append(b []byte) []byte {
	b = binary.AppendVarint(b, e.Next)
	b = append(b, e.Sum[:]...)
	b = binary.AppendUvarint(binary.AppendUvarint(b, e.Pages), e.Rule)
	return appendTime(appendStrings(b, e.Fleet, e.Node), e.At)
}

func (e *Cut) read(r *reader) {
	e.Next = r.offset()
	copy(e.Sum[:], r.take(len(e.Sum)))
	e.Pages = r.uvarint()
	e.Rule = r.uvarint()
	r.strings(&e.Fleet, &e.Node)
	e.At = r.time()
}
