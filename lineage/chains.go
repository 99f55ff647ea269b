package lineage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/internal/ledger"
)

// chainState is how far the index has followed a writer's chain. It is kept with what
// it has applied, so that a page that is there again counts for nothing also when the
// ledger is read on from its middle.
type chainState struct {
	ledger.Tail
	// broken is the ledger offset of the last page that did not continue the chain, -1
	// if all did.
	broken int64
	// elsewhere says that the writer spoke of copies into another cluster: its pages are
	// of another ledger.
	elsewhere bool
}

func (s *chainState) encode() []byte {
	b := binary.AppendUvarint(nil, s.Next)
	b = append(b, s.Hash[:]...)
	b = binary.AppendVarint(b, s.broken)
	if s.elsewhere {
		return append(b, 1)
	}
	return append(b, 0)
}

func (s *chainState) decode(b []byte) error {
	v, n := binary.Uvarint(b)
	if n <= 0 || len(b) < n+len(s.Hash) {
		return errStored
	}
	s.Next = v
	b = b[n+copy(s.Hash[:], b[n:]):]
	broken, n := binary.Varint(b)
	if n <= 0 || len(b) != n+1 {
		return errStored
	}
	s.broken, s.elsewhere = broken, b[n] == 1
	return nil
}

// follow holds a page against its writer's chain. It is false for a page of which
// nothing counts: an old one that is there again, or one of another ledger.
func (p *page) follow(in *ledger.Page) (counts bool, err error) {
	k := key(p.l.no, kindChain, u32(p.pos.Partition), in.Writer[:])
	s := chainState{broken: -1}
	v, closer, err := p.batch.Get(k)
	if err == nil {
		err = errors.Join(s.decode(v), closer.Close())
	}
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return false, err
	}
	after, broken := s.Verify(in)
	if chain, ok := errors.AsType[*ledger.ChainError](broken); ok {
		if chain.Old() {
			return false, nil
		}
		s.broken = p.pos.Offset
		if err := p.note(p.l, p.pos.Partition, p.pos.Offset, broken.Error()); err != nil {
			return false, err
		}
	}
	s.Tail = after
	s.elsewhere = s.elsewhere || p.ofAnother(in)
	p.writer, p.chain = in.Writer, s
	return !s.elsewhere, p.batch.Set(k, s.encode(), nil)
}

// ofAnother says that a page speaks of another cluster as a ledger does of its own.
func (p *page) ofAnother(in *ledger.Page) bool {
	for _, e := range in.Entries {
		if cluster := ofCluster(e); cluster != "" && cluster != p.l.cluster {
			return true
		}
	}
	return false
}

// ofCluster is the cluster.id whose ledger an entry is meant for, "" if it does not say.
func ofCluster(e ledger.Entry) string {
	switch e := e.(type) {
	case *ledger.Begin:
		return e.Copy.Destination.Cluster
	case *ledger.Writer:
		return e.Cluster
	}
	return ""
}

// prove notes that a hop at a page's place begins where a copy stood. Whether that shows
// that nothing is missing of what was said of it before: that is so if nothing of the
// ledger partition is, or if the hop and the one before it are from one unbroken chain,
// since a copy has one writer at a time. Otherwise what is missing may have taken back
// what the copy had done and told of it anew, up to the same offset.
func (p *page) prove(c *copyState, h *ledger.Hop, why string) {
	d, damaged := p.l.damage[p.pos.Partition]
	damaged = damaged && d.offset > c.proved
	if one := c.writer == p.writer && p.chain.broken <= c.proved; why == "" && damaged && !one {
		why = fmt.Sprintf("pages may be missing (partition %d, offset %d): %s", p.pos.Partition, d.offset, d.why)
	}
	if why != "" {
		c.shake(h.From, why)
	}
	c.proved, c.writer = p.proof, p.writer
}

// shake leaves in doubt what was said of source offsets below x.
func (c *copyState) shake(x int64, why string) {
	c.shakySource, c.shakyWhy = max(c.shakySource, x), why
}
