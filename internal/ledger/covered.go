package ledger

// Covered finds out whether a reader who began at an offset would find what stands for all
// below it: it is an [Opening] that keeps no records. It is not safe for concurrent use.
type Covered struct {
	start int64
	sets  map[WriterID]*coveringSet
}

type coveringSet struct {
	tail   Tail
	first  int64 // offset of the first page
	broken bool
}

// NewCovered asks about what is below an offset.
func NewCovered(start int64) *Covered {
	return &Covered{start: start, sets: map[WriterID]*coveringSet{}}
}

// Take takes the next record from the offset on, in order. It returns true when a fold
// is complete that stands for everything below.
func (c *Covered) Take(offset int64, value []byte) bool {
	if !isFold(value) {
		return false
	}
	p, err := Decode(value)
	if err != nil {
		return false
	}
	set := c.sets[p.Writer]
	if set == nil {
		set = &coveringSet{first: offset}
		c.sets[p.Writer] = set
	}
	after, err := set.tail.Verify(p)
	set.tail, set.broken = after, set.broken || err != nil
	cut := p.Cut()
	return cut != nil && !set.broken && cut.Next >= c.start && cut.Next <= set.first
}
