package lineage

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/internal/ledger"
)

// hole is a stretch of a copy's source offsets, to exclusive, of which the ledger is
// silent or contradicts itself. Holes of a copy are apart.
type hole struct {
	from, to int64
	why      string
}

func readHole(k, v []byte) (hole, error) {
	if len(v) < 8 {
		return hole{}, errStored
	}
	return hole{last64(k), int64(binary.BigEndian.Uint64(v)), string(v[8:])}, nil
}

// holesIn are a copy's holes that touch the source offsets from x to y, exclusive, at most
// limit of them.
func holesIn(r pebble.Reader, c *copyState, x, y int64, limit int) (found []hole, err error) {
	prefix := key(c.ledger, kindHole, c.key[:])
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.SeekLT(append(append([]byte(nil), prefix...), u64(x+1)...)) || it.First(); ok && len(found) < limit; ok = it.Next() {
		h, err := readHole(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		if h.from >= y {
			break
		}
		if h.to > x {
			found = append(found, h)
		}
	}
	return found, nil
}

// hole says that the source offsets from x to y are unknown.
func (p *page) hole(c *copyState, x, y int64, why string) error {
	old, err := holesIn(p.batch, c, x-1, y+1, math.MaxInt)
	if err != nil {
		return err
	}
	for _, h := range old {
		x, y = min(x, h.from), max(y, h.to)
		if err := p.batch.Delete(key(c.ledger, kindHole, c.key[:], u64(h.from)), nil); err != nil {
			return err
		}
	}
	return p.batch.Set(key(c.ledger, kindHole, c.key[:], u64(x)), append(u64(y), why...), nil)
}

// cutHoles takes holes away from source offset x on; it says whether there were any.
func (p *page) cutHoles(c *copyState, x int64) (had bool, err error) {
	old, err := holesIn(p.batch, c, x, math.MaxInt64, math.MaxInt)
	if err != nil {
		return false, err
	}
	for _, h := range old {
		k := key(c.ledger, kindHole, c.key[:], u64(h.from))
		if h.from < x {
			err = p.batch.Set(k, append(u64(x), h.why...), nil)
		} else {
			err = p.batch.Delete(k, nil)
		}
		if err != nil {
			return false, err
		}
	}
	return len(old) > 0, nil
}

// blur makes the source offsets from x to y unknown, of which the copy has told already.
func (p *page) blur(c *copyState, x, y int64, why string) error {
	start, next := min(c.start, x), c.next
	gone, err := p.cut(c, x)
	if err != nil {
		return err
	}
	for _, h := range gone {
		if h.Next <= y {
			continue
		}
		kept := h.Clip(max(h.From, y), h.Next)
		c.count(kept, 1)
		if err := p.putHop(c, kept); err != nil {
			return err
		}
	}
	c.start, c.next = start, next
	if err := p.hole(c, x, y, why); err != nil {
		return err
	}
	c.destNext = -1
	return p.findDestNext(c)
}

// told says that a hop was told of already, word for word.
func (p *page) told(c *copyState, h *ledger.Hop) (bool, error) {
	v, closer, err := p.batch.Get(key(c.ledger, kindHop, c.key[:], u64(h.From)))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	same := string(v) == string(ledger.AppendEntry(nil, h))
	return same, closer.Close()
}
