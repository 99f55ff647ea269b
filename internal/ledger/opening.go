package ledger

import (
	"iter"
	"slices"
	"time"
)

// Stored is one record of a ledger partition.
type Stored struct {
	Offset int64
	At     time.Time
	Value  []byte
}

// Opening is how to read a ledger partition whose first records are gone: what stands
// for them is behind records that came while it was written. An Opening takes records
// from the log start on, in order, and holds them back until it has all of a fold. It is
// not safe for concurrent use.
type Opening struct {
	start int64
	held  []Stored
	sets  map[WriterID]*openSet
}

// openSet is a fold of which not all was seen.
type openSet struct {
	tail  Tail
	pages []int // in held
}

// Opened is what a ledger partition begins with.
type Opened struct {
	Cut *Cut
	// Fold is the records that stand for all below Cut.Next, Rest is those behind it, as
	// far as they were read; the fold is among them.
	Fold, Rest []Stored
}

// NewOpening is for a ledger partition that begins at an offset.
func NewOpening(start int64) *Opening {
	return &Opening{start: start, sets: map[WriterID]*openSet{}}
}

// Take takes the next record. It returns what the partition begins with, once it is
// known, else nil.
func (o *Opening) Take(r Stored) *Opened {
	o.held = append(o.held, r)
	if !isFold(r.Value) {
		return nil
	}
	p, err := Decode(r.Value)
	if err != nil {
		return nil // whoever reads it says so
	}
	set := o.sets[p.Writer]
	if set == nil {
		set = &openSet{}
		o.sets[p.Writer] = set
	}
	after, err := set.tail.Verify(p)
	if err != nil {
		set.pages = nil // what is missing will not come
		set.tail = Tail{Next: after.Next}
		return nil
	}
	set.tail = after
	set.pages = append(set.pages, len(o.held)-1)
	cut := p.Cut()
	if cut == nil || cut.Next < o.start || cut.Next > o.held[set.pages[0]].Offset || len(set.pages) != int(p.Sequence)+1 {
		return nil
	}
	found := &Opened{Cut: cut}
	for _, i := range set.pages {
		found.Fold = append(found.Fold, o.held[i])
	}
	first, _ := slices.BinarySearchFunc(o.held, cut.Next, func(r Stored, next int64) int { return int(min(max(r.Offset-next, -1), 1)) })
	found.Rest = o.held[first:]
	return found
}

// Held is what was taken, for who gives up waiting.
func (o *Opening) Held() []Stored { return o.held }

// Pages are those of the fold, in order, each decoded when its turn comes: together they
// may be large.
func (o *Opened) Pages() iter.Seq2[Stored, *Page] {
	return func(yield func(Stored, *Page) bool) {
		for _, r := range o.Fold {
			if p, err := Decode(r.Value); err != nil || !yield(r, p) {
				return // it was decoded before: there is no error
			}
		}
	}
}

// Follow adds the ends of chains that a fold's page has.
func (c Chains) Follow(p *Page) {
	for _, e := range p.Entries {
		if tails, ok := e.(*Tails); ok {
			for _, t := range tails.Of {
				c[t.Writer] = t.Tail
			}
		}
	}
}

// Cut is the entry that ends a fold, if the page has it.
func (p *Page) Cut() *Cut {
	if n := len(p.Entries); n > 0 {
		cut, _ := p.Entries[n-1].(*Cut)
		return cut
	}
	return nil
}
