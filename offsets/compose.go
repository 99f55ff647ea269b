package offsets

import (
	"cmp"
	"math"
	"slices"

	"github.com/waybillhq/waybill/internal/ledger"
)

// maxChain bounds how many copies a record is followed over: longer rings have not
// been seen.
const maxChain = 6

// compose is the map of what went by one copy and then by the next, as if there were
// a copy from the first one's source to the second one's destination. It costs a walk
// over both.
func compose(first, second *Map) *Map {
	m := NewMap()
	m.id = ledger.CopyID{Source: first.id.Source, Destination: second.id.Destination}
	if !first.Began() || !second.Began() {
		return m
	}
	begin := *first.begin
	begin.Copy = m.id
	m.begin, m.start, m.tiles = &begin, first.start, newTiles(first.start)
	m.notLocal = first.notLocal || second.notLocal
	m.waived = 0      // faults of a composition are of ledger offset 0 if they are accepted
	m.unmarked = true // records lie between that did not come by the first copy
	m.doubt = cmp.Or(first.doubt, second.doubt)
	if m.shaken = first.shaken; second.shaken.below > 0 {
		m.shaken = shaken{math.MaxInt64, second.shaken.offset, second.shaken.why}
	}
	for _, t := range first.tiles.from(0) {
		if !t.run() {
			m.addGap(t.source, t.count, t.reason, first, t.source)
			continue
		}
		if at := second.through(m, t); at < t.end() {
			break // what comes behind it has not gone on yet
		}
	}
	return m
}

// through adds to a composed map where the records of a run of the copy before have
// gone on to, and returns the source offset of the first that has not.
func (m *Map) through(to *Map, run tile) int64 {
	at := run.source
	if before := min(m.start, run.destEnd()) - run.dest; before > 0 {
		to.addGap(at, before, ledger.NotAsked, m, 0)
		at += before
	}
	for _, t := range m.tiles.fromSource(run.dest + at - run.source) {
		from := run.dest + at - run.source
		if at == run.end() || t.source > from {
			break
		}
		n := min(t.end()-from, run.end()-at)
		if t.run() {
			to.tiles.add(tile{source: at, count: n, dest: t.dest + from - t.source})
		} else {
			to.addGap(at, n, t.reason, m, from)
		}
		at += n
	}
	return at
}

// addGap adds a gap of a copy of which the map is composed, where it is at an offset,
// with why it is unknown.
func (m *Map) addGap(source, count int64, reason ledger.Reason, of *Map, offset int64) {
	m.tiles.add(tile{source: source, count: count, reason: reason})
	if reason == unknown {
		m.at = math.MaxInt64
		if of.whyNotAccepted(offset, offset+count, of.waived) == "" {
			m.at = 0
		}
		m.fault(source, source+count, of.labels()+": the ledger is not certain")
	}
}

func (m *Map) labels() string {
	l := m.Labels()
	return l.SourceCluster + "/" + l.SourceTopic + " to " + l.DestinationCluster + "/" + l.DestinationTopic
}

// chain is what went from one partition to another over others, as in a ring: the
// shortest way that there is, nil if there is none or nothing goes that way. ms.mu is
// held for writing.
func (ms *Maps) chain(from, to ledger.End) *Map {
	type step struct {
		at   ledger.End
		next *step // towards to
		by   ledger.CopyKey
	}
	seen := map[ledger.End]bool{to: true}
	for queue, depth := []*step{{at: to}}, 0; len(queue) > 0 && depth < maxChain; depth++ {
		var further []*step
		for _, s := range queue {
			for _, key := range ms.into[s.at] {
				source := ms.copies[key].m.ID().Source
				if seen[source] {
					continue
				}
				seen[source] = true
				further = append(further, &step{source, s, key})
			}
		}
		for _, s := range further {
			if s.at != from {
				continue
			}
			var hops []*Map
			for ; s.at != to; s = s.next {
				hops = append(hops, ms.view(s.by))
			}
			return ms.composed([2]ledger.End{from, to}, hops)
		}
		queue = further
	}
	return nil
}

// composition is what was made of maps. A view that is handed out again is unchanged.
type composition struct {
	of []*Map
	m  *Map // nil if nothing goes that way
}

// composed composes maps one after the other, once for all positions that are asked
// for until one of them changes. ms.mu is held for writing.
func (ms *Maps) composed(ends [2]ledger.End, hops []*Map) *Map {
	if c, ok := ms.chains[ends]; ok && slices.Equal(c.of, hops) {
		return c.m
	}
	m := hops[0]
	for _, next := range hops[1:] {
		m = compose(m, next)
	}
	if _, carried := m.firstCopy(0); !carried && m.notLocal {
		m = nil // each copies only what was born at its source
	}
	ms.chains[ends] = composition{hops, m}
	return m
}
