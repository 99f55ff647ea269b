package lineage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// Apply stores a page and the position after it together, unless it is one that
// was stored before.
func (x *Index) Apply(pos tail.Position, p *ledger.Page) {
	x.lock()
	defer x.mu.Unlock()
	if x.Err() != nil {
		return
	}
	if err := x.apply(pos, p); err != nil {
		x.fail(fmt.Errorf("store ledger page %s: %w", pos, err))
	}
}

// Corrupt remembers the last damage of a ledger partition: answers that it may
// concern say so.
func (x *Index) Corrupt(pos tail.Position, err error) {
	if corrupt, ok := errors.AsType[*ledger.CorruptError](err); ok && corrupt.Foreign {
		return
	}
	if chain, ok := errors.AsType[*ledger.ChainError](err); ok && chain.Old() {
		return
	}
	offset := pos.Offset
	if gap, ok := errors.AsType[*tail.GapError](err); ok {
		offset = gap.Next - 1 // the last that is missing
	}
	x.lock()
	defer x.mu.Unlock()
	if x.Err() != nil {
		return
	}
	l, lerr := x.ledgerOf(pos.Cluster, pos.TopicID)
	if lerr == nil {
		lerr = x.note(l, pos.Partition, offset, err.Error())
	}
	if lerr != nil {
		x.fail(lerr)
	}
}

// note stores a damage at once: it is rare. mu is held.
func (x *Index) note(l *ledgerState, partition int32, offset int64, why string) error {
	if d, ok := l.damage[partition]; !ok || offset >= d.offset {
		l.damage[partition] = damage{offset, why}
	}
	if err := x.db.Set(key(l.no, kindDamage, u32(partition), u64(offset)), []byte(why), pebble.NoSync); err != nil {
		return fmt.Errorf("store damage: %w", err)
	}
	return nil
}

// page is one page on its way into the store.
type page struct {
	*Index
	l      *ledgerState
	pos    tail.Position
	batch  *pebble.Batch
	entry  int // index in the page
	writer ledger.WriterID
	chain  chainState // the writer's, after the page
	dirty  map[ledger.CopyKey]*copyState

	notices []notice // for streams, once it is stored
	folded  bool     // what it says happened long ago
	proof   int64    // the last offset of the ledger of which the page is the word
}

func (x *Index) apply(pos tail.Position, p *ledger.Page) error {
	l, err := x.ledgerOf(pos.Cluster, pos.TopicID)
	if err != nil {
		return err
	}
	if pos.Offset < l.next[pos.Partition] {
		return nil
	}
	// Hops of one copy may follow each other in a page and undo each other, so
	// the batch is read as well.
	pg := &page{Index: x, l: l, pos: pos, batch: x.db.NewIndexedBatch(), dirty: map[ledger.CopyKey]*copyState{}, proof: pos.Offset}
	defer pg.batch.Close()
	counts, err := pg.follow(p)
	if err != nil {
		return err
	}
	if counts {
		err = pg.addAll(p.Entries)
	}
	if err == nil {
		err = pg.store(pos.Offset + 1)
	}
	if err != nil {
		return err
	}
	x.feed.put(pg.notices)
	return x.flush()
}

func (p *page) addAll(entries []ledger.Entry) error {
	for i, e := range entries {
		p.entry = i
		if err := p.add(e); err != nil {
			return err
		}
	}
	return nil
}

// store stores what the page has come to, with where the ledger is to be read on.
func (p *page) store(next int64) error {
	for k, c := range p.dirty {
		if err := p.batch.Set(key(p.l.no, kindCopy, k[:]), c.encode(), nil); err != nil {
			return err
		}
	}
	if err := p.batch.Set(key(p.l.no, kindNext, u32(p.pos.Partition)), u64(next), nil); err != nil {
		return err
	}
	// Not synchronised: what a crash takes is read from the ledger again.
	if err := p.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	p.l.next[p.pos.Partition] = next
	return nil
}

func (p *page) add(e ledger.Entry) error {
	switch e := e.(type) {
	case *ledger.Begin:
		return p.begin(e)
	case *ledger.Hop:
		return p.hop(e)
	case *ledger.Retraction:
		return p.retraction(e)
	case *ledger.Rules:
		return p.rules(e)
	case *ledger.Quarantine:
		return p.quarantine(e)
	case *ledger.Writer:
		return p.batch.Set(key(p.l.no, kindWriter, u64(e.ProducerID)), ledger.AppendEntry(nil, e), nil)
	case *ledger.Tails:
		return p.tails(e)
	case *ledger.Production:
		if err := p.client(0, e.TopicID, e.Offsets(), &e.Client, "", e.FirstAt, e.At); err != nil {
			return err
		}
		p.tellDeed(e, e.Place)
		return p.run(kindProduction, &e.Place, e, e.At.UnixMilli())
	case *ledger.Access:
		if err := p.client(e.Kind, e.TopicID, e.Offsets(), &e.Client, e.Group, e.FirstAt, e.At); err != nil {
			return err
		}
		p.tellDeed(e, e.Place)
		return p.run(kindAccess, &e.Place, e, e.At.UnixMilli())
	case *ledger.Progress:
		var read int64 // as far as it is known
		if e.Kind == ledger.Advanced {
			read = e.Offsets()
			p.tellDeed(e, e.Place)
		}
		if err := p.client(ledger.Committed, e.TopicID, read, &ledger.Client{}, e.Group, e.FirstAt, e.At); err != nil {
			return err
		}
		spoken := e.At
		if e.Kind == ledger.Gone { // which may be found out long after another life has begun
			spoken = e.FirstAt
		}
		return p.run(kindProgress, &e.Place, e, spoken.UnixMilli())
	}
	return nil
}

// copy is the state of a copy, for change; nil if it is another ledger's. All entries of
// a copy are in one partition of one ledger.
func (p *page) copy(k ledger.CopyKey) *copyState {
	c := p.copies[k]
	if c != nil && c.ledger != p.l.no {
		if c.begin != nil { // which was in the ledger of the copy's destination
			return nil
		}
		c = nil // what there was of it was in the wrong one
	}
	if c == nil {
		c = &copyState{ledger: p.l.no, partition: p.pos.Partition, key: k, start: -1, destNext: -1, proved: -1}
		p.copies[k] = c
	}
	p.dirty[k] = c
	if c.partition != p.pos.Partition {
		c.strayed = fmt.Sprintf("it has entries of the copy in partition %d and in partition %d", c.partition, p.pos.Partition)
		return nil
	}
	return c
}

func (p *page) begin(b *ledger.Begin) error {
	c := p.copy(b.Copy.Key())
	if c == nil {
		return nil
	}
	if b.Epoch < c.epoch {
		if b.Resume < c.start {
			c.startWhy = fmt.Sprintf("epoch %d stands behind epoch %d, and began before it", b.Epoch, c.epoch)
		}
		return nil
	}
	switch {
	case c.start < 0:
		c.start, c.next, c.proved, c.writer = b.Resume, b.Resume, p.proof, p.writer
	case b.Resume != c.next:
		if err := p.resume(c, b); err != nil {
			return err
		}
	}
	c.epoch = b.Epoch
	c.begin, c.beginEpoch = b, b.Epoch
	p.label(c)
	if c.began = true; c.nameless {
		c.nameless = false
		p.l.nameless--
	}
	return p.batch.Set(key(p.l.no, kindBegin, c.key[:], u64(int64(b.Epoch))), ledger.AppendEntry(nil, b), nil)
}

// resume is for an epoch that begins elsewhere than the copy stood: what had moved it is
// missing, or its writer tells again what came too late for it to read.
func (p *page) resume(c *copyState, b *ledger.Begin) error {
	why := fmt.Sprintf("epoch %d began at source offset %d, the hops before it ended at %d", b.Epoch, b.Resume, c.next)
	from := c.next
	if b.Resume > from || !b.Restates() {
		c.shake(max(from, b.Resume), why)
	}
	if b.Resume < from {
		_, err := p.cut(c, b.Resume)
		if err == nil {
			_, err = p.cutHoles(c, b.Resume)
		}
		return err
	}
	c.next = b.Resume
	return p.hole(c, from, b.Resume, why)
}

func (p *page) hop(h *ledger.Hop) error {
	c := p.copy(h.Copy)
	if c == nil || h.Epoch < c.epoch {
		return nil
	}
	why := ""
	switch {
	case c.start < 0:
		c.start, c.next = h.From, h.From
		c.startWhy = "the begin of the copy is missing"
		c.nameless = true
		p.l.nameless++
	case h.Epoch > c.epoch:
		why = fmt.Sprintf("the begin of epoch %d is missing", h.Epoch)
	}
	c.epoch = h.Epoch
	switch {
	case h.Fold != nil && h.Fold.Restated:
		return nil // what is told again counts
	case h.Fold != nil && h.Fold.Void:
		return p.keepLost(c, []*ledger.Hop{h})
	}
	from := c.next
	switch {
	case h.From > from:
		why = fmt.Sprintf("a hop begins at source offset %d, the one before it ended at %d", h.From, from)
		if err := p.hole(c, from, h.From, why); err != nil {
			return err
		}
	case h.From < from:
		if same, err := p.told(c, h); err != nil || same {
			return err
		}
		why = fmt.Sprintf("two hops speak of source offsets from %d on", h.From)
		if err := p.blur(c, h.From, min(h.Next, from), why); err != nil {
			return err
		}
		if h.Next <= from {
			c.shake(from, why)
			return nil
		}
		h = h.Clip(from, h.Next)
	}
	p.prove(c, h, why)
	c.next, c.lastAt = h.Next, h.At.UnixMilli()
	if len(h.Runs) > 0 && h.Runs[0].Destination < c.destNext {
		why := fmt.Sprintf("a hop goes to destination offset %d, the one before it ended at %d", h.Runs[0].Destination, c.destNext)
		c.shake(h.Next, why)
		return p.hole(c, h.From, h.Next, why)
	}
	c.bytes += h.Bytes
	c.count(h, 1)
	p.tellHop(c, h)
	return p.putHop(c, h)
}

func (p *page) putHop(c *copyState, h *ledger.Hop) error {
	if len(h.Runs) > 0 {
		c.destNext = h.DestinationNext()
		if err := p.batch.Set(key(p.l.no, kindByDest, c.key[:], u64(h.Runs[0].Destination)), u64(h.From), nil); err != nil {
			return err
		}
	}
	return p.batch.Set(key(p.l.no, kindHop, c.key[:], u64(h.From)), ledger.AppendEntry(nil, h), nil)
}

func (p *page) retraction(r *ledger.Retraction) error {
	c := p.copy(r.Copy)
	if c == nil || r.Epoch < c.epoch || c.start < 0 {
		return nil
	}
	if r.Epoch > c.epoch {
		c.shake(c.next, fmt.Sprintf("the begin of epoch %d is missing", r.Epoch))
	}
	c.epoch = r.Epoch
	p.tellRetraction(c, r)
	if r.Source > c.next {
		why := fmt.Sprintf("a retraction goes on from source offset %d, the hops before it ended at %d", r.Source, c.next)
		c.shake(r.Source, why)
		if err := p.hole(c, c.next, r.Source, why); err != nil {
			return err
		}
		c.next = r.Source
	}
	gone, err := p.cut(c, r.Source)
	if err != nil {
		return err
	}
	holes, err := p.cutHoles(c, r.Source)
	if err != nil {
		return err
	}
	if r.Lost == ledger.LostAtSource {
		if holes { // what came of those is at the destination still
			c.shake(0, "what was taken back was not known")
		}
		return p.keepLost(c, gone)
	}
	if err := p.cutLost(c, r.Destination); err != nil {
		return err
	}
	return p.disown(c, r)
}

// disown makes unknown what a copy's hops still say of destination offsets that a
// retraction tells to be lost.
func (p *page) disown(c *copyState, r *ledger.Retraction) error {
	if c.destNext <= r.Destination {
		return nil
	}
	lost := int64(-1)
	_, err := p.last(key(p.l.no, kindHop, c.key[:]), func(h *ledger.Hop) bool {
		for i := len(h.Runs) - 1; i >= 0; i-- {
			run := h.Runs[i]
			if run.Destination+run.Count <= r.Destination {
				return false
			}
			lost = run.Source + max(0, r.Destination-run.Destination)
		}
		return true
	})
	if err != nil || lost < 0 {
		return err
	}
	return p.blur(c, lost, c.next, fmt.Sprintf("destination offsets from %d on were lost", r.Destination))
}

// cut takes away what a copy's hops say of source offsets from x on, and returns it,
// the last first.
func (p *page) cut(c *copyState, x int64) (gone []*ledger.Hop, err error) {
	hops, err := p.last(key(p.l.no, kindHop, c.key[:]), func(h *ledger.Hop) bool { return h.Next > x })
	if err != nil {
		return nil, err
	}
	c.destNext = -1
	for _, h := range hops {
		c.count(h, -1)
		if err := p.batch.Delete(key(p.l.no, kindHop, c.key[:], u64(h.From)), nil); err != nil {
			return nil, err
		}
		if len(h.Runs) > 0 {
			if err := p.batch.Delete(key(p.l.no, kindByDest, c.key[:], u64(h.Runs[0].Destination)), nil); err != nil {
				return nil, err
			}
		}
		if h.From < x {
			kept := h.Clip(h.From, x)
			c.count(kept, 1)
			if err := p.putHop(c, kept); err != nil {
				return nil, err
			}
		}
		gone = append(gone, h.Clip(max(h.From, x), h.Next))
	}
	c.next = min(c.next, x)
	c.start = min(c.start, x)
	return gone, errors.Join(p.cutAside(c, x), p.findDestNext(c))
}

// last reads the last hops with a prefix, the last first, as long as they are wanted.
func (p *page) last(prefix []byte, wanted func(*ledger.Hop) bool) (hops []*ledger.Hop, err error) {
	it, err := p.batch.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.Last(); ok; ok = it.Prev() {
		e, err := ledger.ReadEntry(it.Value())
		if err != nil {
			return nil, err
		}
		h, ok := e.(*ledger.Hop)
		if !ok {
			return nil, errStored
		}
		if !wanted(h) {
			break
		}
		hops = append(hops, h)
	}
	return hops, nil
}

// keepLost remembers hops whose source has lost what they copied: what is at the
// destination was not produced there. Each run is kept for itself: between the runs of a
// hop that told again what others had told there may be what was lost before.
func (p *page) keepLost(c *copyState, gone []*ledger.Hop) error {
	for _, h := range gone {
		for _, r := range h.Runs {
			k := key(p.l.no, kindLost, c.key[:], u64(r.Destination))
			if err := p.batch.Set(k, ledger.AppendEntry(nil, h.Clip(r.Source, r.Source+r.Count)), nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// cutLost forgets of them what the destination has lost, too, from an offset of it on.
func (p *page) cutLost(c *copyState, destination int64) error {
	prefix := key(p.l.no, kindLost, c.key[:])
	hops, err := p.last(prefix, func(h *ledger.Hop) bool {
		return h.DestinationNext() > destination
	})
	if err != nil {
		return err
	}
	for _, h := range hops {
		k := key(p.l.no, kindLost, c.key[:], u64(h.Runs[0].Destination))
		if err := p.batch.Delete(k, nil); err != nil {
			return err
		}
		end := h.SourceBelow(destination)
		if end == h.From {
			continue
		}
		if err := p.batch.Set(k, ledger.AppendEntry(nil, h.Clip(h.From, end)), nil); err != nil {
			return err
		}
	}
	return nil
}

// findDestNext sets where a copy's destination ends after a cut.
func (p *page) findDestNext(c *copyState) error {
	if c.destNext >= 0 {
		return nil
	}
	lo := key(p.l.no, kindByDest, c.key[:])
	it, err := p.batch.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: after(lo)})
	if err != nil {
		return err
	}
	found := it.Last()
	var from int64
	if found {
		from = last64(it.Value())
	}
	if err := it.Close(); err != nil || !found {
		return err
	}
	h, err := readBack[*ledger.Hop](p.batch.Get(key(p.l.no, kindHop, c.key[:], u64(from))))
	if err != nil {
		return err
	}
	c.destNext = h.DestinationNext()
	return nil
}

// run stores a production, an access or a progress, and that its topic was spoken of.
func (p *page) run(k keyKind, at *ledger.Place, e ledger.Entry, ms int64) error {
	if k == kindProgress {
		p.l.watched = true
	} else {
		p.l.tells = true
	}
	page := binary.BigEndian.AppendUint16(append(u32(p.pos.Partition), u64(p.pos.Offset)...), uint16(p.entry))
	kk := key(p.l.no, k, at.TopicID[:], u32(at.Partition), []byte{level(at.Last - at.First + 1)}, u64(at.First), page)
	if err := p.batch.Set(kk, ledger.AppendEntry(nil, e), nil); err != nil {
		return err
	}
	p.noteTopic(topicKey{p.l.cluster, at.TopicID}, at.Topic, ms)
	seen := p.topics[topicKey{p.l.cluster, at.TopicID}].seen
	return p.batch.Set(key(p.l.no, kindTopic, at.TopicID[:]), append(u64(seen), at.Topic...), nil)
}

// client sums up what one client did to one topic: to so many offsets more.
func (p *page) client(k ledger.AccessKind, topic ledger.TopicID, offsets int64, c *ledger.Client, group string, firstAt, lastAt time.Time) error {
	id := appendStrings(nil, group, c.Principal, c.ClientID)
	kk := key(p.l.no, kindClient, topic[:], []byte{byte(k)}, id)
	sum := clientSum{firstAt: firstAt.UnixMilli()}
	v, closer, err := p.batch.Get(kk)
	if err == nil {
		err = errors.Join(sum.decode(v), closer.Close())
	}
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return err
	}
	sum.firstAt = min(sum.firstAt, firstAt.UnixMilli()) // what is folded does not come in order of time
	sum.lastAt = max(sum.lastAt, lastAt.UnixMilli())
	sum.offsets += offsets
	sum.software, sum.address = c.Software, c.Address
	return p.batch.Set(kk, sum.encode(), nil)
}
