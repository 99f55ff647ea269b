package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// chain follows sums from line to line.
type chain struct {
	seq uint64
	sum string
	any bool // the next header may say any sum: what was before it is not known
}

// segment visits the entries of a segment until visit says that it is enough, and
// returns what is damaged among those. Behind damage it goes on with the sum that
// the damaged line claims, so that one fault is told once.
func (c *chain) segment(name string, b []byte, visit func(Entry) bool) (damage []Damage) {
	bad := func(at int, format string, args ...any) {
		damage = append(damage, Damage{name, at, fmt.Sprintf(format, args...)})
	}
	at := 0
	for len(b) > 0 {
		at++
		text, rest, whole := bytes.Cut(b, []byte("\n"))
		b = rest
		if !whole {
			bad(at, "the line has no end")
			c.any = true
			return damage
		}
		if at == 1 {
			var h header
			switch err := json.Unmarshal(text, &h); {
			case err != nil || h.Journal != 1:
				bad(at, "this is not the head of a journal of this version")
			case !c.any && h.Sum != c.sum:
				bad(at, "it does not follow the file before: lines are missing at its end, or another file between")
			}
			if h.Sum != "" || h.Journal == 1 {
				c.sum = h.Sum
			}
			c.any = false
			continue
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil || l.Seq == 0 || len(l.Entry) == 0 {
			bad(at, "this is not a line of a journal")
			c.any = true // the next line cannot be told from its sum
			continue
		}
		switch {
		case l.Seq <= c.seq:
			bad(at, "entry %d comes behind entry %d", l.Seq, c.seq)
		case !c.any && link(c.sum, l.Seq, l.Entry) != l.Sum:
			bad(at, "entry %d or what is before it is not what was written: its sum does not fit", l.Seq)
		}
		c.seq, c.sum, c.any = max(c.seq, l.Seq), l.Sum, false
		if !visit(Entry{l.Seq, l.Entry}) {
			return damage
		}
	}
	return damage
}
