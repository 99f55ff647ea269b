package offsets

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Map is everything that the ledger says about the offsets of one copy, folded
// into runs with a constant difference between source and destination.
//
//	start <= every mapped source offset < next
//
// Runs ascend on both sides. A Map is not safe for concurrent use; [Maps] hands
// out copies that nobody changes.
type Map struct {
	id     ledger.CopyID
	begin  *ledger.Begin // the last, nil if none was seen
	epoch  uint64
	start  int64
	tiles  tiles
	routes *routes // shared by all clones: only [Maps] reads it, of its own map
	faults []Fault
	// faulted counts faults, also those that are not kept.
	faulted int
	at      int64  // ledger offset to which a fault is due that shows now
	waived  int64  // ledger offset up to which faults are accepted, -1 if none are
	doubt   string // why the ledger may have lost what the copy did last
	shaken  shaken // what of it may be otherwise

	sourceEpoch      int32     // the source's leader epoch as of the last hop, -1
	destinationEpoch int32     // the destination's as of the last run, -1
	marked           bool      // the last run was written in a transaction, so a marker follows it
	ranAt            time.Time // of the hop that had the last run
	// unmarked says that a hole of one offset between runs need not be a marker: there
	// was a run without a transaction, or somebody else's record within one.
	unmarked bool
	notLocal bool // records were left out because they were not born at the source
	epochs   []SourceEpoch
}

// SourceEpoch says that a copy's source offsets from Start on, up to the next one,
// were appended by the leader of an epoch.
type SourceEpoch struct {
	Start int64
	Epoch int32
}

// maxEpochs bounds how far back leader epochs are known: a partition has a new one
// with each election.
const maxEpochs = 64

// Fault is something in the ledger that cannot be right. The source offsets that
// it touches translate to "unknown", unless it is waived.
type Fault struct {
	Source, Next int64 // source offsets, Next exclusive; equal if none are touched
	At           int64 // ledger offset, where the copy's map is of a ledger
	Why          string
}

// maxFaults bounds what a broken ledger can make a Map hold.
const maxFaults = 100

// NewMap is the map of a copy that the ledger has not mentioned.
func NewMap() *Map {
	return &Map{start: -1, waived: -1, tiles: newTiles(0), routes: &routes{}, sourceEpoch: -1, destinationEpoch: -1}
}

// ID is what the map is about; it is zero until a Begin was seen.
func (m *Map) ID() ledger.CopyID { return m.id }

// Began says whether the copy's Begin was seen.
func (m *Map) Began() bool { return m.begin != nil }

// Labels are the last Begin's, for people. It must not be changed.
func (m *Map) Labels() ledger.Begin {
	if m.begin == nil {
		return ledger.Begin{}
	}
	return *m.begin
}

// Epoch is the epoch below which entries of the copy are void.
func (m *Map) Epoch() uint64 { return m.epoch }

// Start is the source offset where the copy began, -1 if it has not.
func (m *Map) Start() int64 { return m.start }

// Next is the source offset to which the copy has come.
func (m *Map) Next() int64 { return m.tiles.last.source }

// DestinationNext is the offset after the last record that the copy wrote, -1
// if it wrote none.
func (m *Map) DestinationNext() int64 {
	if m.tiles.last.runEnd < 0 {
		return -1
	}
	return m.tiles.last.dest
}

// Doubt is why the ledger may have lost what the copy did last, "" if all is
// well. Translations are not exact then, and those at the end are unknown.
func (m *Map) Doubt() string { return m.doubt }

// doubtAt is why what the map says of a source offset may be otherwise, "" if it may not.
func (m *Map) doubtAt(source int64) string {
	if m.doubt == "" && source < m.shaken.below {
		return m.shaken.why
	}
	return m.doubt
}

// doubtThere is doubtAt of a destination offset.
func (m *Map) doubtThere(dest int64) string {
	first, copied := m.firstCopy(m.shaken.below)
	if m.shaken.below == 0 || copied && dest >= first {
		return m.doubt
	}
	return m.doubtAt(-1)
}

// Tiles is the number of runs and gaps that are held.
func (m *Map) Tiles() int { return m.tiles.size() }

// Faults lists what did not fit, oldest first; only the first hundred are kept.
func (m *Map) Faults() []Fault { return m.faults }

// Apply folds one entry of the copy in. Entries of other kinds, and void ones,
// change nothing; it says whether the entry counted.
func (m *Map) Apply(e ledger.Entry) bool {
	switch e := e.(type) {
	case *ledger.Begin:
		return m.applyBegin(e)
	case *ledger.Hop:
		return m.applyHop(e)
	case *ledger.Retraction:
		return m.applyRetraction(e)
	}
	return false
}

func (m *Map) applyBegin(b *ledger.Begin) bool {
	if b.Epoch < m.epoch {
		return false
	}
	m.id, m.begin, m.epoch = b.Copy, b, b.Epoch
	m.marked = m.marked && !b.Restates() // what its last run was may be told otherwise
	if m.start < 0 {
		m.start, m.tiles = b.Resume, newTiles(b.Resume)
		return true
	}
	switch next := m.Next(); {
	case b.Resume < next && b.Restates():
		m.supersede(b.Resume)
	case b.Resume != next:
		m.hole(b.Resume, fmt.Sprintf("epoch %d began at offset %d, the ledger ends at %d", b.Epoch, b.Resume, next))
	}
	return true
}

// supersede takes back what is said of source offsets from x on and is about to be said
// again. Records that it was said of are copies all the same.
func (m *Map) supersede(x int64) {
	m.orphan(x)
	m.tiles.cut(x)
	m.start = min(m.start, x)
	m.sourceEpoch = m.forgetEpochs(x)
	m.forgetLeftOut()
}

// forgetLeftOut forgets that records were left out, if nothing is left of the copy.
func (m *Map) forgetLeftOut() {
	if m.start == m.Next() && len(m.routes.orphans) == 0 {
		m.notLocal = false
	}
}

// orphan remembers which destination offsets have copies of the source offsets from x
// on, for when the map does not say it any more.
func (m *Map) orphan(x int64) {
	for _, t := range m.tiles.fromSource(x) {
		if t.run() {
			m.routes.orphan(t.dest+max(0, x-t.source), t.destEnd())
		}
	}
}

func (m *Map) applyHop(h *ledger.Hop) bool {
	if h.Epoch < m.epoch || h.Check() != nil {
		return false
	}
	switch {
	case m.start < 0:
		m.start, m.tiles = h.From, newTiles(h.From)
		m.fault(h.From, h.From, "its first entry is not a begin")
	case h.Epoch > m.epoch:
		m.fault(h.From, h.From, fmt.Sprintf("epoch %d has no begin", h.Epoch))
	case h.Fold != nil && h.Fold.Void:
		m.keepVoid(h)
		return true
	}
	m.epoch = h.Epoch
	m.sourceEpoch = h.SourceLeaderEpoch
	if len(h.Runs) > 0 {
		m.destinationEpoch = h.DestinationLeaderEpoch
		m.marked = m.begin != nil && m.begin.Lane != "" && !m.begin.Plain()
		m.unmarked = m.unmarked || !m.marked || m.broken(h)
		m.ranAt = h.At
		if h.Fold != nil {
			m.ranAt = h.Fold.RanAt
		}
	}
	m.notLocal = m.notLocal || h.Fold != nil && h.Fold.NotLocal
	m.learnEpoch(h)
	from := m.Next()
	switch {
	case h.From > from:
		m.hole(h.From, fmt.Sprintf("a hop begins at offset %d, the one before it ended at %d", h.From, from))
	case h.From < from:
		m.blur(h.From, min(h.Next, from), fmt.Sprintf("two hops claim the offsets from %d", h.From))
	}
	for t, run := range hopTiles(h) {
		if skip := from - t.source; skip > 0 {
			skip = min(skip, t.count)
			t = tile{t.source + skip, t.count - skip, t.dest + skip, t.reason}
		}
		if t.run() && t.count > 0 && t.dest < m.tiles.last.dest {
			m.hole(t.end(), fmt.Sprintf("destination offset %d is below %d, where the copy stood", t.dest, m.tiles.last.dest))
			continue
		}
		if t.run() && t.count > 0 {
			m.routes.note(t.dest, h, run)
		}
		m.notLocal = m.notLocal || t.reason == ledger.NotLocal
		m.tiles.add(t)
	}
	return true
}

// broken says that records which others wrote lie within a hop's transaction. Hops of
// one transaction are of one time.
func (m *Map) broken(h *ledger.Hop) bool {
	if h.Fold != nil {
		return h.Fold.Unmarked
	}
	if !h.At.Equal(m.ranAt) {
		return h.Broken(-1)
	}
	return h.Broken(m.DestinationNext())
}

// keepVoid takes a fold of what was taken back and lies at the destination still.
func (m *Map) keepVoid(h *ledger.Hop) {
	m.unmarked, m.notLocal = m.unmarked || h.Fold.Unmarked, m.notLocal || h.Fold.NotLocal
	for _, r := range h.Runs {
		m.routes.note(r.Destination, h, r)
		m.routes.orphan(r.Destination, r.Destination+r.Count)
	}
}

// hopTiles yields a hop's runs and gaps in the order of their source offsets, each
// run as it stands in the hop, too.
func hopTiles(h *ledger.Hop) iter.Seq2[tile, ledger.Run] {
	return func(yield func(tile, ledger.Run) bool) {
		runs, gaps := h.Runs, h.Gaps
		for len(runs)+len(gaps) > 0 {
			var t tile
			var run ledger.Run
			if len(gaps) == 0 || len(runs) > 0 && runs[0].Source < gaps[0].Source {
				run, runs = runs[0], runs[1:]
				t = tile{source: run.Source, count: run.Count, dest: run.Destination}
			} else {
				t = tile{source: gaps[0].Source, count: gaps[0].Count, reason: gaps[0].Reason}
				gaps = gaps[1:]
			}
			if !yield(t, run) {
				return
			}
		}
	}
}

func (m *Map) applyRetraction(r *ledger.Retraction) bool {
	if r.Epoch < m.epoch || m.start < 0 {
		return false
	}
	m.epoch = r.Epoch
	if r.Source > m.Next() {
		m.hole(r.Source, fmt.Sprintf("a retraction goes on from offset %d, the ledger ends at %d", r.Source, m.Next()))
	}
	if r.Lost == ledger.LostAtDestination {
		m.marked, m.unmarked = false, true // a marker may be lost, too
		m.routes.lose(r.Destination)
	} else {
		m.orphan(r.Source)
	}
	m.tiles.cut(r.Source)
	m.start = min(m.start, r.Source)
	m.sourceEpoch = m.forgetEpochs(r.Source)
	m.forgetLeftOut()
	// Whatever still claims a destination at or above the cut is lost as well.
	for _, t := range m.tiles.fromDest(r.Destination) {
		lost := t.source + max(0, r.Destination-t.dest)
		m.blur(lost, m.Next(), fmt.Sprintf("destination offsets from %d on were lost", r.Destination))
		break
	}
	return true
}

// learnEpoch remembers where a leader epoch of the source begins: a hop is of one.
func (m *Map) learnEpoch(h *ledger.Hop) {
	n := len(m.epochs)
	if h.SourceLeaderEpoch < 0 || n > 0 && m.epochs[n-1].Epoch >= h.SourceLeaderEpoch {
		return
	}
	if n == maxEpochs {
		m.epochs = append([]SourceEpoch(nil), m.epochs[maxEpochs/2:]...)
	}
	m.epochs = append(m.epochs, SourceEpoch{h.From, h.SourceLeaderEpoch})
}

// forgetEpochs takes away the epochs from source offset x on and returns that of
// x-1, -1 if it is not known.
func (m *Map) forgetEpochs(x int64) int32 {
	n := len(m.epochs)
	for n > 0 && m.epochs[n-1].Start >= x {
		n--
	}
	m.epochs = m.epochs[:n:n]
	if n == 0 {
		return -1
	}
	return m.epochs[n-1].Epoch
}

// Cut is where the copy would stand if what it says of source offsets from source
// on, and of destination offsets from destination on, were taken back: the source
// offset, and the destination offset after the last record before it, -1 if there
// is none.
func (m *Map) Cut(source, destination int64) (next, end int64) {
	next = min(source, m.Next())
	for _, t := range m.tiles.fromDest(destination) {
		next = min(next, t.source+max(0, destination-t.dest))
		break
	}
	c := m.clone()
	c.tiles.cut(next)
	return next, c.DestinationNext()
}

// whyUnknownBefore is why the last record below a source offset is not known, "" if it is,
// or if what is not known is accepted.
func (m *Map) whyUnknownBefore(x, waived int64) (why string) {
	for _, t := range m.tiles.fromSource(0) {
		switch {
		case t.source >= x:
			return why
		case t.run():
			why = ""
		case t.reason == unknown:
			why = m.whyNotAccepted(t.source, min(t.end(), x), waived)
		}
	}
	return why
}

// hole declares the source offsets from where the map ends to x unknown.
func (m *Map) hole(x int64, why string) {
	from := m.Next()
	if x <= from {
		m.fault(x, x, why)
		return
	}
	m.tiles.add(tile{source: from, count: x - from, reason: unknown})
	m.fault(from, x, why)
}

// blur declares mapped source offsets [x, y) unknown, which were known before.
func (m *Map) blur(x, y int64, why string) {
	if x >= y {
		return
	}
	if x < m.start {
		y = max(y, m.start)
	}
	old := m.tiles.clone()
	m.tiles.cut(x)
	m.tiles.add(tile{source: m.Next(), count: y - m.Next(), reason: unknown})
	for _, t := range old.fromSource(y) {
		skip := max(0, y-t.source)
		m.tiles.add(tile{t.source + skip, t.count - skip, t.dest + skip, t.reason})
	}
	m.start = min(m.start, x)
	m.fault(x, y, why)
}

func (m *Map) fault(x, y int64, why string) {
	m.faulted++
	f := Fault{Source: x, Next: y, At: m.at, Why: why}
	if len(m.faults) < maxFaults {
		m.faults = append(m.faults, f)
		return
	}
	// The last stands for all that are too many: who accepts it accepts them.
	last := m.faults[maxFaults-1]
	m.faults = append(m.faults[:maxFaults-1:maxFaults-1], Fault{min(last.Source, x), max(last.Next, y), max(last.At, f.At), why})
}

// faultAt is the last fault that made a source offset unknown.
func (m *Map) faultAt(x int64) Fault {
	for _, f := range slices.Backward(m.faults) {
		if f.Source <= x && x < f.Next {
			return f
		}
	}
	return Fault{At: math.MaxInt64, Why: "the ledger says nothing about it"}
}

// whyUnknown is the fault that made a source offset unknown.
func (m *Map) whyUnknown(x int64) string { return m.faultAt(x).Why }

// accepted says that what is not known about a source offset is accepted as a loss.
func (m *Map) accepted(x int64) bool { return m.faultAt(x).At <= m.waived }

// whyNotAccepted is why something of source offsets that are not known is not accepted,
// "" if all is.
func (m *Map) whyNotAccepted(from, to, waived int64) string {
	for _, f := range slices.Backward(m.faults) {
		if f.Source < to && from < f.Next && f.At > waived {
			return f.Why
		}
	}
	if f := m.faultAt(from); f.At > waived {
		return f.Why
	}
	return ""
}

// gravest is the last fault because of which something is not known, false if there is none.
func (m *Map) gravest() (Fault, bool) {
	for _, f := range slices.Backward(m.faults) {
		if f.Source < f.Next || !m.Began() {
			return f, true
		}
	}
	return Fault{}, false
}

// Gap is a stretch of source offsets without a copy. Reason is "unknown" where
// the ledger is silent; Why says then why.
type Gap struct {
	Source int64  `json:"source"`
	Count  int64  `json:"count"`
	Reason string `json:"reason"`
	Why    string `json:"why,omitempty"`
}

// Gaps lists the gaps that touch the source offsets [from, to), at most limit.
func (m *Map) Gaps(from, to int64, limit int) []Gap {
	var gaps []Gap
	for _, t := range m.tiles.fromSource(from) {
		if t.source >= to || len(gaps) == limit {
			break
		}
		if t.run() {
			continue
		}
		g := Gap{Source: t.source, Count: t.count, Reason: t.reason.String()}
		if t.reason == unknown {
			g.Reason, g.Why = "unknown", m.whyUnknown(t.source)
		}
		gaps = append(gaps, g)
	}
	return gaps
}

// clone is a Map that later entries do not change.
func (m *Map) clone() *Map {
	c := *m
	c.tiles = m.tiles.clone()
	c.faults = m.faults[:len(m.faults):len(m.faults)]
	c.epochs = m.epochs[:len(m.epochs):len(m.epochs)]
	return &c
}
