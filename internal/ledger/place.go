package ledger

import (
	"encoding/binary"
	"math"
)

// Place is offsets of one partition in the ledger's own cluster.
type Place struct {
	TopicID     TopicID
	Topic       string
	Partition   int32
	First, Last int64 // inclusive
	// Parts are what of the offsets is meant, in order and apart: where clients take
	// turns, each has many short stretches. None is all of them. The first part
	// begins at First, the last one ends at Last.
	Parts []Stretch
}

// Stretch is offsets without a hole, both inclusive.
type Stretch struct{ First, Last int64 }

// Offsets is how many offsets are meant.
func (p *Place) Offsets() int64 {
	if len(p.Parts) == 0 {
		return p.Last - p.First + 1
	}
	var n int64
	for _, s := range p.Parts {
		n += s.Last - s.First + 1
	}
	return n
}

// Touching is the place without the parts that have none of the offsets from first
// to last; ok is false if nothing is left of it. The parts that stay are whole.
func (p Place) Touching(first, last int64) (touching Place, ok bool) {
	if p.Last < first || p.First > last {
		return Place{}, false
	}
	if len(p.Parts) == 0 {
		return p, true
	}
	from, to := 0, len(p.Parts)
	for from < to && p.Parts[from].Last < first {
		from++
	}
	for from < to && p.Parts[to-1].First > last {
		to--
	}
	if from == to {
		return Place{}, false
	}
	p.Parts = p.Parts[from:to]
	p.First, p.Last = p.Parts[0].First, p.Parts[len(p.Parts)-1].Last
	return p, true
}

func (p *Place) append(b []byte) []byte {
	b = appendStrings(append(b, p.TopicID[:]...), p.Topic)
	b = binary.AppendVarint(b, int64(p.Partition))
	b = binary.AppendVarint(b, p.First)
	return binary.AppendVarint(b, p.Last-p.First)
}

func (p *Place) read(r *reader) {
	copy(p.TopicID[:], r.take(len(p.TopicID)))
	r.strings(&p.Topic)
	p.Partition = r.int32()
	p.First = r.varint()
	span := r.varint()
	if p.First < 0 || span < 0 || p.First > math.MaxInt64-1-span {
		r.fail("offsets from %d, %d more", p.First, span)
		return
	}
	p.Last = p.First + span
}

// Parts are the last field of an entry: each as the offsets between the one before
// it and its first, and how many follow that.
func (p *Place) appendParts(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p.Parts)))
	next := p.First
	for _, s := range p.Parts {
		b = binary.AppendUvarint(b, uint64(s.First-next))
		b = binary.AppendUvarint(b, uint64(s.Last-s.First))
		next = s.Last + 1
	}
	return b
}

func (p *Place) readParts(r *reader) {
	if r.bad != "" || len(r.buf) == 0 {
		return // written before there were parts
	}
	n := r.count(2)
	if n == 0 {
		return
	}
	parts := make([]Stretch, 0, n)
	for next := p.First; len(parts) < n && r.bad == ""; {
		skip, more := r.uvarint(), r.uvarint()
		left := uint64(p.Last - next + 1) // next is at the most Last+1
		if skip > left || more >= left-skip || (skip == 0) != (len(parts) == 0) {
			r.fail("part of %d offsets, %d after the one before", more, skip)
			return
		}
		s := Stretch{First: next + int64(skip)}
		s.Last = s.First + int64(more)
		parts, next = append(parts, s), s.Last+1
	}
	if r.bad == "" && parts[n-1].Last != p.Last {
		r.fail("parts end at %d, not at %d", parts[n-1].Last, p.Last)
	}
	p.Parts = parts
}
