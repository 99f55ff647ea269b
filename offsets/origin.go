package offsets

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// The ledger of a cluster says which producers there are replicators, and by which
// way the records came that they wrote: who copies from that cluster asks, so as
// not to carry records back to where they have been.

// routes are by which ways the records of one copy came, by destination offset. It
// holds where the way changes: nothing for records that were born at the source.
type routes struct {
	known   []way
	changes []change // by destination, ascending
	orphans []orphan // by destination, ascending and apart; never changed in place
}

// orphan is a stretch of destination offsets with copies of records that the source
// has lost since, or that a later epoch is to tell of. They are from there all the same.
type orphan struct{ from, next int64 }

// orphan adds destination offsets [from, next) to those of orphans.
func (rs *routes) orphan(from, next int64) {
	i := sort.Search(len(rs.orphans), func(i int) bool { return rs.orphans[i].next >= from })
	j := sort.Search(len(rs.orphans), func(j int) bool { return rs.orphans[j].from > next })
	if i < j {
		from, next = min(from, rs.orphans[i].from), max(next, rs.orphans[j-1].next)
	}
	rs.orphans = slices.Concat(rs.orphans[:i], []orphan{{from, next}}, rs.orphans[j:])
}

// lose forgets what lay at destination offsets from one on: they are lost, and what comes
// there next is something else.
func (rs *routes) lose(from int64) {
	n := sort.Search(len(rs.orphans), func(i int) bool { return rs.orphans[i].next > from })
	kept := rs.orphans[:n:n]
	if n < len(rs.orphans) && rs.orphans[n].from < from {
		kept = append(kept, orphan{rs.orphans[n].from, from})
	}
	rs.orphans = kept
}

// way is a route as a hop has it.
type way struct {
	route    ledger.Route
	untraced bool
}

// change says that records from a destination offset on came by a way: 0 for those
// born at the source, else one more than its index.
type change struct {
	dest int64
	way  int32
}

// note takes down by which way a run came that lies at or above all before it, or
// takes their place.
func (rs *routes) note(dest int64, h *ledger.Hop, run ledger.Run) {
	for len(rs.changes) > 0 && rs.changes[len(rs.changes)-1].dest >= dest {
		rs.changes = rs.changes[:len(rs.changes)-1]
	}
	w := rs.index(way{h.RouteOf(run), h.Untraced})
	if w != rs.at(dest) {
		rs.changes = append(rs.changes, change{dest, w})
	}
}

func (rs *routes) index(w way) int32 {
	if len(w.route) == 0 && !w.untraced {
		return 0
	}
	for i, k := range rs.known {
		if k.untraced == w.untraced && slices.Equal(k.route, w.route) {
			return int32(i + 1)
		}
	}
	rs.known = append(rs.known, w)
	return int32(len(rs.known))
}

// at is the way of what lies at a destination offset.
func (rs *routes) at(dest int64) int32 {
	if i := rs.after(dest); i > 0 {
		return rs.changes[i-1].way
	}
	return 0
}

// after is the index of the first change above a destination offset.
func (rs *routes) after(dest int64) int {
	return sort.Search(len(rs.changes), func(i int) bool { return rs.changes[i].dest > dest })
}

// origin is where the record at a destination offset is from, if the copy wrote it.
func (m *Map) origin(dest int64) (ledger.Origin, bool) {
	for _, t := range m.tiles.fromDest(dest) {
		if t.dest > dest || !m.Began() {
			break
		}
		return m.cameBy(dest, t.destEnd()), true
	}
	lost := m.routes.orphans
	if i := sort.Search(len(lost), func(i int) bool { return lost[i].next > dest }); i < len(lost) && lost[i].from <= dest {
		return m.cameBy(dest, lost[i].next), true
	}
	return ledger.Origin{}, false
}

// cameBy is by which way records came that the copy wrote from a destination offset
// on, up to next or to where the way changes.
func (m *Map) cameBy(dest, next int64) ledger.Origin {
	o := ledger.Origin{Next: next}
	if i := m.routes.after(dest); i < len(m.routes.changes) {
		o.Next = min(o.Next, m.routes.changes[i].dest)
	}
	if w := m.routes.at(dest); w > 0 {
		k := m.routes.known[w-1]
		o.Route, o.Untraced = slices.Clip(k.route), k.untraced
	}
	o.Route = append(o.Route, m.id.Source.Life())
	return o
}

func (ms *Maps) register(cluster string, w *ledger.Writer) {
	if w.Cluster != cluster {
		return // of another cluster, where this ledger says nothing
	}
	if ms.writers[cluster] == nil {
		ms.writers[cluster] = map[int64]writerKind{}
	}
	kind := transactionalWriter
	if w.Plain() {
		kind = plainWriter
	}
	ms.writers[cluster][w.ProducerID] = kind
}

// Replicator says whether a cluster's ledger, as far as it has been read, has a
// producer id as a replicator's, and whether as one that writes without transactions.
func (ms *Maps) Replicator(cluster string, producerID int64) (known, plain bool) {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	kind := ms.writers[cluster][producerID]
	return kind != 0, kind == plainWriter
}

// writerKind is how a replicator's producer writes; 0: it is none.
type writerKind uint8

const (
	transactionalWriter writerKind = iota + 1
	plainWriter
)

// Origin is where the record at an offset of a partition is from, if a hop that has
// been read tells. Where two copies claim to have written it nothing is said.
func (ms *Maps) Origin(at ledger.End, offset int64) (ledger.Origin, bool) {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	var found ledger.Origin
	claims := 0
	for _, key := range ms.into[at] {
		if o, ok := ms.copies[key].m.origin(offset); ok {
			found = o
			claims++
		}
	}
	return found, claims == 1
}

// Stray says that no hop tells of a record, though every copy into its partition has
// one behind it: a replicator without transactions has written the record again, or
// it was somebody else's.
func (ms *Maps) Stray(at ledger.End, offset int64) bool {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	for _, key := range ms.into[at] {
		m := ms.copies[key].m
		if _, ok := m.origin(offset); ok || m.DestinationNext() <= offset {
			return false
		}
	}
	return len(ms.into[at]) > 0
}

// ReadLedger waits until everything that is in a cluster's ledger now was applied,
// and says whether the cluster shows one. It returns an error that wraps
// [ErrUncertain] if any of it may be lost: a producer that it does not have may be
// a replicator's, then.
func (ms *Maps) ReadLedger(ctx context.Context, cluster string) (exists bool, err error) {
	if err := ms.CatchUp(ctx, cluster); err != nil {
		return false, err
	}
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	for at, f := range ms.faults {
		if at.cluster == cluster && f.offset > ms.waivedAt(at) {
			return false, fmt.Errorf("%w: %s", ErrUncertain, f.why)
		}
	}
	l := ms.ledgers[cluster]
	return l != nil && l.Exists(), nil
}

// Arrival is a way by which the records of a topic reach a cluster, as the ledger
// there has it.
type Arrival struct {
	Fleet, Flow string
	Source      string // what is copied there, as cluster/topic
	Destination string // topic
	Through     bool   // the records had been copied into Source before
	Since       time.Time
}

// Arrivals lists the ways by which records of a topic reach a cluster, each once
// however many partitions it has. Who wrote it last has it.
func (ms *Maps) Arrivals(of ledger.Life, cluster string) []Arrival {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	var all []Arrival
	for _, c := range ms.copies {
		id, b := c.m.ID(), c.m.Labels()
		direct := id.Source.Life() == of
		through := slices.ContainsFunc(c.m.routes.known, func(w way) bool { return w.route.Through(of) })
		if !c.m.Began() || id.Destination.Cluster != cluster || !direct && !through {
			continue
		}
		a := Arrival{Fleet: b.Fleet, Flow: b.Flow, Source: b.SourceCluster + "/" + b.SourceTopic, Destination: b.DestinationTopic, Through: !direct}
		i := slices.IndexFunc(all, func(have Arrival) bool {
			have.Since = time.Time{}
			return have == a
		})
		if a.Since = b.At; i < 0 {
			all = append(all, a)
		} else if all[i].Since.Before(b.At) {
			all[i].Since = b.At
		}
	}
	slices.SortStableFunc(all, func(a, b Arrival) int {
		return cmp.Or(strings.Compare(a.Fleet, b.Fleet), strings.Compare(a.Flow, b.Flow), strings.Compare(a.Destination, b.Destination), strings.Compare(a.Source, b.Source))
	})
	return all
}
