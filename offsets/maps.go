package offsets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// ErrUncertain says that the ledger cannot be trusted about a copy: part of it is
// missing or contradicts itself.
var ErrUncertain = errors.New("the ledger is not certain")

// Ledger is what Maps waits for.
type Ledger interface {
	// CatchUp returns when everything that is in the ledger now has been applied;
	// at once if the cluster shows none.
	CatchUp(ctx context.Context) error
	// Exists says that the cluster has shown its ledger.
	Exists() bool
}

// Maps holds the maps of all copies of all ledgers. It is a [tail.Sink] of each
// ledger's tail, and safe for concurrent use.
type Maps struct {
	mu      sync.RWMutex
	ledgers map[string]Ledger // by cluster.id
	copies  map[ledger.CopyKey]*entry
	names   map[nameKey][]ledger.CopyKey
	into    map[ledger.End][]ledger.CopyKey // by destination
	faults  map[place]fault                 // the last that a page may be lost with
	topics  map[string]ledger.TopicID       // of the ledgers, by cluster.id
	next    map[place]int64                 // what is applied already ends here
	waived  map[place]int64                 // faults up to here count no more
	chained map[place]int64                 // below it chains were not followed up to what comes behind
	broken  map[chainAt]int64               // where a writer's chain was broken last
	writers map[string]map[int64]writerKind // replicators' producer ids, by cluster.id
	told    map[string]map[ProgressKey]Told // of positions of groups, by cluster.id
	records map[string]bool                 // clusters that record accesses themselves
	chains  map[[2]ledger.End]composition   // from the first to the second, as they were last asked for
}

// entry is one copy. Its Map is replaced, not changed, once it was handed out.
type entry struct {
	m      *Map
	shared bool // m was handed out
	// doubted is what was handed out in the place of m while there is a doubt about it,
	// nil if nothing was since m has changed.
	doubted *Map
	at      place
	// proved is the ledger offset of the last hop that continued the one before
	// it: nothing of the copy is missing below.
	proved int64
	writer ledger.WriterID // of that hop
	shaken shaken
	// last is the ledger offset of the last entry of it, -1 if there was none.
	last int64
	// strayed says that it has entries in two places: what was last cannot be told.
	// It is a fault of the place that is not its own.
	strayed   fault
	strayedTo place
}

// place is one partition of one ledger.
type place struct {
	cluster   string
	partition int32
}

// chainAt is a writer's chain in one partition of one ledger.
type chainAt struct {
	place
	writer ledger.WriterID
}

// shaken is why what was said of a copy's source offsets below one may be otherwise:
// a fault at a ledger offset.
type shaken struct {
	below  int64
	offset int64
	why    string
}

type fault struct {
	offset int64
	why    string
}

// nameKey finds copies by what people call an end of theirs; cluster is a name
// or a cluster.id.
type nameKey struct {
	destination    bool
	cluster, topic string
	partition      int32
}

var (
	_ tail.Sink    = (*Maps)(nil)
	_ tail.Resumer = (*Maps)(nil)
)

// NewMaps returns Maps that know of no copy.
func NewMaps() *Maps {
	return &Maps{
		ledgers: map[string]Ledger{}, copies: map[ledger.CopyKey]*entry{}, names: map[nameKey][]ledger.CopyKey{},
		into: map[ledger.End][]ledger.CopyKey{}, faults: map[place]fault{},
		topics: map[string]ledger.TopicID{}, next: map[place]int64{}, waived: map[place]int64{}, chained: map[place]int64{}, broken: map[chainAt]int64{},
		writers: map[string]map[int64]writerKind{}, told: map[string]map[ProgressKey]Told{}, records: map[string]bool{}, chains: map[[2]ledger.End]composition{},
	}
}

// Attach says how to read the ledger of a cluster to its end, before
// [Maps.Position] and [Maps.CatchUp] are asked about it. A later call replaces it;
// nil takes it away.
func (ms *Maps) Attach(cluster string, l Ledger) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if l == nil {
		delete(ms.ledgers, cluster)
		return
	}
	ms.ledgers[cluster] = l
}

// Resume is from where ledger partitions are to be read on: a cluster's reader may be
// replaced by another. If the ledger is not the one that it was, or begins behind what was
// read of it, what came from it is forgotten first.
func (ms *Maps) Resume(cluster string, id ledger.TopicID, starts map[int32]int64) map[int32]int64 {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	was, known := ms.topics[cluster]
	stale := known && was != id
	for n, start := range starts {
		next := ms.next[place{cluster, n}]
		stale = stale || 0 < next && next < start
	}
	if stale {
		ms.forget(cluster)
	}
	ms.topics[cluster] = id
	from := map[int32]int64{}
	for n := range starts {
		at := place{cluster, n}
		ms.chained[at] = ms.next[at] // a new reader takes chains as it finds them
		from[n] = ms.next[at]
	}
	return from
}

// forget drops what came from a cluster's ledger. ms.mu is held.
func (ms *Maps) forget(cluster string) {
	gone := map[ledger.CopyKey]bool{}
	for key, c := range ms.copies {
		if c.at.cluster == cluster {
			gone[key] = true
			delete(ms.copies, key)
		}
	}
	isGone := func(key ledger.CopyKey) bool { return gone[key] }
	for k, keys := range ms.names {
		ms.names[k] = slices.DeleteFunc(keys, isGone)
	}
	for e, keys := range ms.into {
		ms.into[e] = slices.DeleteFunc(keys, isGone)
	}
	delete(ms.writers, cluster)
	delete(ms.told, cluster)
	delete(ms.records, cluster)
	clear(ms.chains)
	maps.DeleteFunc(ms.faults, func(at place, _ fault) bool { return at.cluster == cluster })
	maps.DeleteFunc(ms.broken, func(at chainAt, _ int64) bool { return at.cluster == cluster })
	maps.DeleteFunc(ms.next, func(at place, _ int64) bool { return at.cluster == cluster })
}

// Apply folds a page in, unless it is one that was applied before.
func (ms *Maps) Apply(pos tail.Position, p *ledger.Page) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	at := place{pos.Cluster, pos.Partition}
	if pos.Offset < ms.next[at] {
		return
	}
	ms.next[at] = pos.Offset + 1
	ms.take(pos, p)
}

// Fold takes a page of what stands for all below next.
func (ms *Maps) Fold(pos tail.Position, next int64, p *ledger.Page) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	at := place{pos.Cluster, pos.Partition}
	ms.next[at], ms.chained[at] = next, next
	pos.Offset = next - 1 // damage behind it is not healed by it
	ms.take(pos, p)
}

// take takes a page's entries in. ms.mu is held.
func (ms *Maps) take(pos tail.Position, p *ledger.Page) {
	for _, e := range p.Entries {
		switch e := e.(type) {
		case *ledger.Begin:
			ms.applyTo(e.Copy.Key(), pos, p.Writer, e)
		case *ledger.Hop:
			ms.applyTo(e.Copy, pos, p.Writer, e)
		case *ledger.Retraction:
			ms.applyTo(e.Copy, pos, p.Writer, e)
		case *ledger.Writer:
			ms.register(pos.Cluster, e)
		case *ledger.Progress:
			ms.progress(pos.Cluster, e)
		case *ledger.Access:
			ms.records[pos.Cluster] = true
		}
	}
}

func (ms *Maps) applyTo(key ledger.CopyKey, pos tail.Position, writer ledger.WriterID, e ledger.Entry) {
	at := place{pos.Cluster, pos.Partition}
	c := ms.copies[key]
	if c == nil {
		c = &entry{m: NewMap(), at: at, proved: -1, last: -1}
		ms.copies[key] = c
	}
	if c.shared {
		c.m, c.shared = c.m.clone(), false
	}
	c.doubted = nil
	before, known, fresh := c.m.faulted, c.m.Began(), c.m.start < 0
	if c.at != at {
		c.strayedTo, c.strayed = at, fault{pos.Offset, fmt.Sprintf("entries in ledger partition %d of %s and in %d of %s", c.at.partition, c.at.cluster, at.partition, at.cluster)}
		c.m.fault(c.m.Next(), c.m.Next(), c.strayed.why)
		return
	}
	c.m.at = pos.Offset
	if f, damaged := ms.faults[at]; damaged && f.offset > c.last {
		c.m.at = f.offset // what is missing here may have been there
	}
	c.last = pos.Offset
	if !c.m.Apply(e) {
		if from := beginning(e); from < c.m.start {
			c.shaken = shaken{c.m.start, pos.Offset, fmt.Sprintf("ledger partition %d, offset %d: an older entry comes later, of source offset %d", pos.Partition, pos.Offset, from)}
		}
		return
	}
	if f, damaged := ms.faults[at]; damaged && fresh {
		c.shaken = shaken{c.m.start, f.offset, f.why} // it may have begun before
	}
	_, hop := e.(*ledger.Hop)
	if sound := c.m.faulted == before; sound && (hop || !known) {
		ms.prove(c, pos.Offset, writer, e)
	}
	if r, ok := e.(*ledger.Retraction); ok {
		c.shaken.below = min(c.shaken.below, r.Source) // what comes now is told anew
	}
	if b, ok := e.(*ledger.Begin); ok {
		ms.name(key, b, known)
	}
}

// beginning is the first source offset of which an entry tells.
func beginning(e ledger.Entry) int64 {
	switch e := e.(type) {
	case *ledger.Begin:
		return e.Resume
	case *ledger.Hop:
		return e.From
	}
	return math.MaxInt64
}

// prove notes that an entry begins where the copy stood. That shows where it stands now,
// and that nothing is missing of what was said of it before if nothing of the ledger
// partition is, or if the entry and the one before it are from one unbroken chain, since a
// copy has one writer at a time. Otherwise what is missing may have taken back what the
// copy had done and told of it anew, up to the same offset. ms.mu is held.
func (ms *Maps) prove(c *entry, offset int64, writer ledger.WriterID, e ledger.Entry) {
	broken, ever := ms.broken[chainAt{c.at, writer}]
	one := c.writer == writer && ms.chained[c.at] <= c.proved && !(ever && broken > c.proved)
	h, hop := e.(*ledger.Hop)
	if f, damaged := ms.faults[c.at]; hop && damaged && f.offset > c.proved && c.proved >= 0 && !one {
		c.shaken = shaken{h.From, f.offset, f.why}
	}
	c.proved, c.writer = offset, writer
}

// name makes a copy findable by its ends and labels. Old labels stay.
func (ms *Maps) name(key ledger.CopyKey, b *ledger.Begin, known bool) {
	if !known {
		ms.into[b.Copy.Destination] = append(ms.into[b.Copy.Destination], key)
	}
	s, d := b.Copy.Source, b.Copy.Destination
	for _, k := range []nameKey{
		{false, b.SourceCluster, b.SourceTopic, s.Partition},
		{false, s.Cluster, b.SourceTopic, s.Partition},
		{true, b.DestinationCluster, b.DestinationTopic, d.Partition},
		{true, d.Cluster, b.DestinationTopic, d.Partition},
	} {
		if !slices.Contains(ms.names[k], key) {
			ms.names[k] = append(ms.names[k], key)
		}
	}
}

// Corrupt notes where pages may be lost: copies of that ledger partition are
// uncertain until their next hop shows that they missed nothing.
func (ms *Maps) Corrupt(pos tail.Position, err error) {
	f := fault{pos.Offset, fmt.Sprintf("ledger partition %d, offset %d: %v", pos.Partition, pos.Offset, err)}
	if corrupt, ok := errors.AsType[*ledger.CorruptError](err); ok && corrupt.Foreign {
		return // nobody's page: nothing is lost with it
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	at := place{pos.Cluster, pos.Partition}
	if chain, ok := errors.AsType[*ledger.ChainError](err); ok {
		if chain.Old() {
			return
		}
		ms.broken[chainAt{at, chain.Writer}] = pos.Offset
	}
	if gap, ok := errors.AsType[*tail.GapError](err); ok {
		f.offset, ms.chained[at] = gap.Next-1, gap.Next
	}
	if f.offset >= ms.faults[at].offset {
		ms.faults[at] = f
	}
}

// Position is how far a copy has come.
type Position struct {
	// Exists says that the ledger knows the copy; if not, the rest means nothing.
	Exists bool
	// Plain says that whoever has begun it last wrote without transactions: there may
	// be records at the destination that no hop tells of.
	Plain bool
	Epoch uint64 // of its last Begin or hop
	Fleet string // that claimed it last, "" if that is not known, and was waived
	Next  int64  // source offset from which it goes on
	// Destination is the offset after the last record that it wrote, -1 if none.
	Destination int64
	// SourceLeaderEpoch is the source's as of the last hop, DestinationLeaderEpoch
	// the destination's as of the last record; -1 if not known.
	SourceLeaderEpoch, DestinationLeaderEpoch int32
	// Epochs are the source's, ascending; the oldest may be left out.
	Epochs []SourceEpoch
}

// Position reads the ledger of a cluster to its end and says how far a copy has
// come there. It returns an error that wraps [ErrUncertain] when the ledger may
// have lost what the copy did last; whoever copies must stop then. The ledger must
// have been made before: that there is none yet is an error.
func (ms *Maps) Position(ctx context.Context, cluster string, id ledger.CopyID) (Position, error) {
	return ms.PositionBefore(ctx, cluster, id, math.MaxInt64, math.MaxInt64)
}

// PositionBefore is [Maps.Position] as it would be if what the ledger says of
// source offsets from source on, and of destination offsets from destination on,
// were taken back.
func (ms *Maps) PositionBefore(ctx context.Context, cluster string, id ledger.CopyID, source, destination int64) (Position, error) {
	if err := ms.CatchUp(ctx, cluster); err != nil {
		return Position{}, fmt.Errorf("position of a copy: %w", err)
	}
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	if l := ms.ledgers[cluster]; l == nil || !l.Exists() {
		// A broker that has just started may not know the topic yet: that it shows
		// none does not mean that nothing has been copied.
		return Position{}, fmt.Errorf("position of a copy: cluster %s shows no ledger yet", cluster)
	}
	c := ms.copies[id.Key()]
	if c == nil {
		for at, f := range ms.faults {
			if at.cluster == cluster && f.offset > ms.waivedAt(at) {
				return Position{}, fmt.Errorf("position of a copy: %w: %s", ErrUncertain, f.why)
			}
		}
		return Position{}, nil
	}
	if why := ms.doubt(c); why != "" {
		return Position{}, fmt.Errorf("position of a copy: %w: %s", ErrUncertain, why)
	}
	plain, fleet := true, "" // if nobody knows any more
	if f, ok := c.m.gravest(); c.m.Began() {
		plain, fleet = c.m.begin.Plain(), c.m.begin.Fleet
	} else if !ok || f.At > ms.waivedAt(c.at) {
		return Position{}, fmt.Errorf("position of a copy: %w: its begin is missing", ErrUncertain)
	}
	p := Position{
		Exists: true, Plain: plain, Epoch: c.m.Epoch(), Fleet: fleet, Next: c.m.Next(), Destination: c.m.DestinationNext(),
		SourceLeaderEpoch: c.m.sourceEpoch, DestinationLeaderEpoch: c.m.destinationEpoch, Epochs: c.m.epochs[:len(c.m.epochs):len(c.m.epochs)],
	}
	if source < math.MaxInt64 || destination < math.MaxInt64 {
		p.Next, p.Destination = c.m.Cut(source, destination)
		if why := ms.doubtBefore(c, p.Next); why != "" {
			return Position{}, fmt.Errorf("position of a copy: %w below offset %d: %s", ErrUncertain, p.Next, why)
		}
		cut := Map{epochs: p.Epochs}
		p.SourceLeaderEpoch = cut.forgetEpochs(p.Next)
		p.Epochs = cut.epochs
	}
	return p, nil
}

// CatchUp waits until everything that is in a cluster's ledger now was applied.
func (ms *Maps) CatchUp(ctx context.Context, cluster string) error {
	ms.mu.RLock()
	l := ms.ledgers[cluster]
	ms.mu.RUnlock()
	if l == nil {
		return fmt.Errorf("the ledger of cluster %s is not read here", cluster)
	}
	return l.CatchUp(ctx)
}

// view is a copy's map as it is now, which nothing changes any more. ms.mu is held for writing.
func (ms *Maps) view(key ledger.CopyKey) *Map {
	c := ms.copies[key]
	if c == nil {
		return nil
	}
	why, sh, waived := ms.doubt(c), ms.shakenOf(c), int64(-1)
	if len(c.m.faults) > 0 {
		waived = ms.waivedAt(c.at)
	}
	if why != "" || sh.below > 0 || waived >= 0 {
		if c.doubted == nil || c.doubted.doubt != why || c.doubted.shaken != sh || c.doubted.waived != waived {
			c.doubted = c.m.clone()
			c.doubted.doubt, c.doubted.shaken, c.doubted.waived = why, sh, waived
		}
		return c.doubted // the same while nothing changes: what is composed of it is kept
	}
	c.shared = true
	return c.m
}

// Route is what connects the partition from with the partition to.
func (ms *Maps) Route(from, to ledger.End) Route {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.route(from, to)
}

func (ms *Maps) route(from, to ledger.End) Route {
	there := ledger.CopyID{Source: from, Destination: to}.Key()
	r := Route{There: ms.view(there), Back: ms.view(ledger.CopyID{Source: to, Destination: from}.Key())}
	switch {
	case r.There != nil && r.Back == nil:
		r.Back = ms.chain(to, from)
	case r.There == nil && r.Back != nil:
		r.There = ms.chain(from, to)
	}
	for _, key := range ms.into[to] {
		if key == there {
			continue
		}
		other := ms.view(key)
		r.Others = append(r.Others, other)
		if third := other.ID().Source; third != from {
			if here := ms.view(ledger.CopyID{Source: third, Destination: from}.Key()); here != nil {
				r.Thirds = append(r.Thirds, Third{here, other})
			}
		}
	}
	return r
}

// Copies lists the maps of all copies that the ledgers know, in no order.
func (ms *Maps) Copies() []*Map {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	all := make([]*Map, 0, len(ms.copies))
	for key := range ms.copies {
		all = append(all, ms.view(key))
	}
	return all
}

// Last is the last record of a copy and where it is at the destination, false if none
// has been copied, or if the ledger may have lost what came last.
func (ms *Maps) Last(id ledger.CopyID) (source, destination int64, ok bool) {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	c := ms.copies[id.Key()]
	if c == nil || c.m.tiles.last.runEnd < 0 || ms.doubt(c) != "" {
		return 0, 0, false
	}
	return c.m.tiles.last.runEnd - 1, c.m.tiles.last.dest - 1, true
}

// Copy is the map of one copy, nil if no ledger knows it.
func (ms *Maps) Copy(id ledger.CopyID) *Map {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.view(id.Key())
}

// attached says whether a cluster's ledger is read here.
func (ms *Maps) attached(cluster string) bool {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	return ms.ledgers[cluster] != nil
}
