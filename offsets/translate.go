package offsets

import (
	"fmt"
	"math"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Why says how an answer came about.
type Why string

// The cases of a translation, and of an answer there is none (Offset -1).
const (
	Copied        Why = "copied"         // the record at the offset has a copy: here it is
	InGap         Why = "in-gap"         // it has none: this is the next one that has
	AtEnd         Why = "at-end"         // everything was read: after the last copy
	NothingCopied Why = "nothing-copied" // no record has a copy yet: where the first will be, or later
	BeforeStart   Why = "before-start"   // before the copy began: its first record
	Interleaved   Why = "interleaved"    // several writers mix: the lowest offset that skips nothing
	Expired       Why = "expired"        // the copy is gone by now: the log start

	Ahead   Why = "ahead"   // not yet copied: ask again (-1)
	Lost    Why = "lost"    // the copy lies past the end of the log (-1)
	Unknown Why = "unknown" // the ledger is silent or contradicts itself (-1)
	NoCopy  Why = "no-copy" // the partition is not copied (-1)
	Invalid Why = "invalid" // the offset is negative (-1)
)

// Result is where a position in one partition lies in another. A position is
// the next offset to read, as a group commits it.
type Result struct {
	Offset int64 `json:"offset"` // -1 if there is no answer
	// Exact says that a reader who goes on at Offset reads every record that it
	// has not read, and none that it has.
	Exact bool `json:"exact"`
	// Reread is the number of records that are read a second time.
	Reread int64 `json:"reread"`
	// Skipped is the number of offsets right behind the position that have no
	// copy although they may have been read (not asked for, quarantined).
	Skipped int64  `json:"skipped"`
	Why     Why    `json:"why"`
	Note    string `json:"note,omitempty"` // for people
}

// Bounds are what is known of the log where an answer lies; -1 is not known.
type Bounds struct {
	Start, End int64 // log start, and high watermark as of after the ledger was read
	// Floor is the last stable offset as of before the ledger was read, so that
	// whatever the ledger did not show then lies at or above it.
	Floor int64
}

// AnyBounds is for callers that do not know them.
var AnyBounds = Bounds{-1, -1, -1}

// Route is what connects two partitions: the copy from the one where a position
// is known to the one where it is wanted, the copy back, or both (active-active).
// Either may be nil.
type Route struct {
	There, Back *Map
	// Others are further copies into the partition where the answer lies.
	Others []*Map
	// Thirds are partitions that are copied into both, as in a mesh.
	Thirds []Third
}

// Third is the copies of a third partition into the one where a position is known
// and into the one where it is wanted.
type Third struct{ Here, There *Map }

// Translate answers where position x lies on the other side.
func (r Route) Translate(x int64, there Bounds) Result {
	if x < 0 {
		return none(Invalid, "offset is negative")
	}
	var res Result
	switch {
	case r.There != nil && r.Back != nil:
		res = r.both(x)
	case r.There != nil:
		res = r.There.forward(x)
	case r.Back != nil:
		res = r.Back.backward(x)
	default:
		return none(NoCopy, "no copy connects the two partitions")
	}
	if res.Why == NothingCopied && res.Offset < 0 {
		if there.Floor < 0 {
			return res
		}
		res.Offset, res.Exact = there.Floor, res.Skipped == 0
	}
	if res.Offset >= 0 {
		res = r.withThirds(x, res)
	}
	if doubt := r.doubt(); doubt != "" {
		if res.Why == AtEnd || res.Why == NothingCopied || res.Why == Ahead {
			return none(Unknown, doubt)
		}
		res.Exact, res.Note = false, doubt
	}
	if res.Offset < 0 {
		return res
	}
	if there.Start > res.Offset {
		res.Note = fmt.Sprintf("the copy was at offset %d, the log begins at %d", res.Offset, there.Start)
		res.Offset, res.Exact, res.Why = there.Start, false, Expired
	}
	if there.End >= 0 && res.Offset > there.End {
		return none(Lost, fmt.Sprintf("the copy was at offset %d, the log ends at %d", res.Offset, there.End))
	}
	if other := r.interleaved(); other != nil && res.Exact {
		l := other.Labels()
		res.Exact, res.Why = false, Interleaved
		res.Note = fmt.Sprintf("flow %s writes the same partition", l.Flow)
	}
	return res
}

// withThirds lowers an answer so that it skips nothing that came to both sides from
// a third and is unread here.
func (r Route) withThirds(x int64, res Result) Result {
	lowest, unread := res.Offset, make([]int64, len(r.Thirds))
	for i, t := range r.Thirds {
		var why string
		if unread[i], why = t.Here.unreadSource(x); why != "" {
			return none(Unknown, why)
		}
		if first, ok := t.There.firstCopy(unread[i]); ok {
			lowest = min(lowest, first)
		}
	}
	if lowest == res.Offset {
		return res
	}
	res.Exact, res.Why, res.Note = false, Interleaved, "records of a third side mix with these"
	res.Offset, res.Reread = lowest, 0
	if r.There != nil {
		res.Reread += r.There.readBefore(x, lowest)
	}
	if r.Back != nil {
		res.Reread += r.Back.readFrom(lowest, x)
	}
	for i, t := range r.Thirds {
		res.Reread += t.There.readBefore(unread[i], lowest)
	}
	return res
}

// doubt is why one of the copies is uncertain, "" if none is.
func (r Route) doubt() string {
	for _, m := range []*Map{r.There, r.Back} {
		if m != nil && m.doubt != "" {
			return m.doubt
		}
	}
	return ""
}

func none(why Why, note string) Result { return Result{Offset: -1, Why: why, Note: note} }

// forward translates a source position, for a destination that nobody else
// copies back.
func (m *Map) forward(x int64) Result {
	if !m.Began() {
		return none(Unknown, "the ledger has no begin of this copy")
	}
	if x > m.Next() {
		return none(Ahead, fmt.Sprintf("copied up to offset %d", m.Next()))
	}
	res := Result{Why: Copied, Exact: true}
	if x < m.start {
		res.Why, res.Skipped, res.Exact = BeforeStart, m.start-x, false
		res.Note = fmt.Sprintf("the copy began at offset %d", m.start)
	}
	for _, t := range m.tiles.fromSource(x) {
		past := max(0, x-t.source)
		switch {
		case t.run():
			res.Offset = t.dest + past
			return res
		case t.reason == unknown:
			return none(Unknown, m.whyUnknown(max(x, t.source)))
		case t.reason == ledger.NotAsked || t.reason == ledger.Quarantined:
			res.Skipped += t.count - past
			res.Exact = false
		}
		if res.Why == Copied {
			res.Why, res.Note = InGap, t.reason.String()
		}
	}
	res.Offset = m.DestinationNext()
	switch {
	case res.Offset < 0 && res.Why != BeforeStart:
		res.Why = NothingCopied
	case res.Why == Copied:
		res.Why = AtEnd
	}
	if res.Offset < 0 {
		res.Why, res.Exact = NothingCopied, false
	}
	return res
}

// empty says whether nothing can be read at the source offsets of a gap.
func empty(r ledger.Reason) bool {
	switch r {
	case ledger.Compacted, ledger.Aborted, ledger.Control, ledger.Expired:
		return true
	}
	return false
}

// backward translates a destination position: to the first source offset that
// has something to read and no copy below y.
func (m *Map) backward(y int64) Result {
	if !m.Began() {
		return none(Unknown, "the ledger has no begin of this copy")
	}
	res := Result{Exact: true, Why: Copied}
	after := m.start // what was read ends here
	for e, t := range m.tiles.fromDest(y) {
		if t.dest < y {
			res.Offset = t.source + y - t.dest
			return res
		}
		after = max(after, e.runEnd)
		break
	}
	if y >= m.tiles.last.dest {
		after, res.Why = max(after, m.tiles.last.runEnd), AtEnd
	}
	return m.nextToRead(after, res)
}

// nextToRead goes on from a source offset over gaps where nothing can be read.
func (m *Map) nextToRead(x int64, res Result) Result {
	for _, t := range m.tiles.fromSource(x) {
		switch {
		case t.reason == unknown:
			return none(Unknown, m.whyUnknown(max(x, t.source)))
		case t.run():
			res.Offset = max(x, t.source)
			return res
		case !empty(t.reason):
			// It was never at the destination, so it is yet to be read here.
			res.Offset, res.Why, res.Note = max(x, t.source), InGap, t.reason.String()
			return res
		}
	}
	res.Offset = max(x, m.Next())
	return res
}

// both translates between two partitions that are copied to each other, where
// records of both sides mix and no exact image need exist: the lowest offset
// that has an unread record, or the end.
func (r Route) both(x int64) Result {
	res := r.There.forward(x)
	if res.Why == Ahead || res.Why == Unknown {
		return res
	}
	// Records that were born there and came here at or after x are unread, and
	// so are those that have not come here yet.
	born, why := r.Back.unreadSource(x)
	if why != "" {
		return none(Unknown, why)
	}
	born = r.There.pastCopies(born)
	copied := int64(math.MaxInt64)
	if first, ok := r.There.firstCopy(x); ok {
		copied = first
	}
	if copied <= born {
		res.Offset = copied
	} else {
		res.Offset = born
	}
	res.Reread = r.There.readBefore(x, res.Offset) + r.Back.readFrom(res.Offset, x)
	res.Exact = res.Reread == 0 && res.Skipped == 0
	if res.Reread > 0 {
		res.Why, res.Note = Interleaved, "records of both sides mix"
	} else if res.Why == NothingCopied {
		res.Why = AtEnd
	}
	return res
}

// unreadSource is the lowest source offset of a copy whose record is not among
// the destination offsets below y. Records that came from the destination are
// not counted: they are the other copy's. Nor are those that a filter keeps on
// their side: a reader here was never to see them.
func (m *Map) unreadSource(y int64) (x int64, why string) {
	if !m.Began() {
		return 0, "the ledger has no begin of the copy back"
	}
	x = m.start
	for e, t := range m.tiles.fromDest(y) {
		if t.dest < y {
			return t.source + y - t.dest, ""
		}
		x = max(x, e.runEnd)
		break
	}
	if y >= m.tiles.last.dest {
		x = max(x, m.tiles.last.runEnd)
	}
	for _, t := range m.tiles.fromSource(x) {
		switch {
		case t.reason == unknown:
			return 0, m.whyUnknown(max(x, t.source))
		case t.run() || !empty(t.reason) && t.reason != ledger.Returned && t.reason != ledger.NotLocal && t.reason != ledger.Doubled && t.reason != ledger.Filtered:
			return max(x, t.source), ""
		}
	}
	return max(x, m.Next()), ""
}

// firstCopy is the destination of the first copied record at or after x.
func (m *Map) firstCopy(x int64) (int64, bool) {
	for _, t := range m.tiles.fromSource(x) {
		if t.run() {
			return t.dest + max(0, x-t.source), true
		}
	}
	return 0, false
}

// pastCopies is the first destination offset at or above y that the copy did not
// write: what it wrote was not born there.
func (m *Map) pastCopies(y int64) int64 {
	for _, t := range m.tiles.fromDest(y) {
		if t.run() {
			if t.dest > y {
				break
			}
			y = t.destEnd()
		}
	}
	return y
}

// readBefore counts records below source offset x whose copies lie at or above
// destination offset y.
func (m *Map) readBefore(x, y int64) int64 {
	var n int64
	for _, t := range m.tiles.fromDest(y) {
		if t.source >= x {
			break
		}
		if t.run() {
			from := t.source + max(0, y-t.dest)
			n += max(0, min(t.end(), x)-from)
		}
	}
	return n
}

// readFrom counts records at or above source offset x whose copies lie below
// destination offset y.
func (m *Map) readFrom(x, y int64) int64 {
	var n int64
	for _, t := range m.tiles.fromSource(x) {
		if t.run() {
			if t.dest >= y {
				break
			}
			from := t.dest + max(0, x-t.source)
			n += max(0, min(t.destEnd(), y)-from)
		}
	}
	return n
}

// interleaved is another copy whose records lie among ours, nil if none is.
func (r Route) interleaved() *Map {
	if r.There == nil {
		return nil
	}
	lo, ok := r.There.firstCopy(0)
	if !ok {
		return nil
	}
	for _, o := range r.Others {
		if from, ok := o.firstCopy(0); ok && from < r.There.DestinationNext() && lo < o.DestinationNext() {
			return o
		}
	}
	return nil
}
