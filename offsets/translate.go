package offsets

import (
	"cmp"
	"fmt"
	"math"
	"slices"

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
	Waived        Why = "waived"         // unknown, which somebody accepts: the lowest offset that skips nothing

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

// explain says in a sentence why position x lies where the result says.
func (r Result) explain(x int64) string {
	note := ""
	if r.Note != "" {
		note = ": " + r.Note
	}
	switch r.Why {
	case Copied:
		return fmt.Sprintf("the record at offset %d is at offset %d there%s", x, r.Offset, note)
	case InGap:
		return fmt.Sprintf("offset %d has no copy (%s); the next record that has is at offset %d", x, r.Note, r.Offset)
	case AtEnd:
		return fmt.Sprintf("everything below offset %d was read; offset %d is behind the last copy%s", x, r.Offset, note)
	case NothingCopied:
		if r.Offset < 0 {
			return "no record has a copy yet"
		}
		return fmt.Sprintf("no record has a copy yet; the first will be at offset %d or behind it%s", r.Offset, note)
	case BeforeStart:
		return fmt.Sprintf("offset %d lies before the copy, whose first record is at offset %d%s", x, r.Offset, note)
	case Interleaved:
		return fmt.Sprintf("several writers mix, and offset %d is the lowest that skips nothing, with %d records read again%s", r.Offset, r.Reread, note)
	case Waived:
		return fmt.Sprintf("what became of the offsets from %d on is not known, which is accepted (%s); offset %d is the lowest that skips nothing, with at most %d records read again", x, r.Note, r.Offset, r.Reread)
	case Expired:
		return fmt.Sprintf("the copies from offset %d on are gone%s", x, note)
	}
	return because(r)
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
	// Shares are those of Others whose sources the same reader reads, too, and how far.
	Shares []Share
}

// Share is a further copy into a partition, and where a reader stands at its source.
type Share struct {
	Copy *Map
	At   int64
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
	if res.Offset >= 0 && len(r.Thirds)+len(r.Shares) > 0 {
		res = r.mix(x, res, there.Floor)
	}
	if doubt := r.doubt(x); doubt != "" {
		if res.Why == AtEnd || res.Why == NothingCopied || res.Why == Ahead {
			return none(Unknown, doubt)
		}
		res.Exact, res.Note = false, doubt
	}
	if res.Offset < 0 {
		return res
	}
	if m := r.There; m != nil && res.Why == AtEnd && m.marked && len(r.Others) == 0 && res.Offset == m.DestinationNext() && there.Floor == res.Offset+1 {
		// One offset lies between the last copy and the last stable offset: the marker
		// of its transaction. Nothing is skipped with it, and no lag remains.
		res.Offset = there.Floor
	}
	if there.Start > res.Offset {
		note := fmt.Sprintf("the copy was at offset %d, the log begins at %d", res.Offset, there.Start)
		if res.Why == Waived {
			note += "; what lay before is not known, which is accepted: " + res.Note
		}
		res.Note = note
		res.Offset, res.Exact, res.Why = there.Start, false, Expired
	}
	if there.End >= 0 && res.Offset > there.End {
		return none(Lost, fmt.Sprintf("the copy was at offset %d, the log ends at %d", res.Offset, there.End))
	}
	if other := r.mixed(); other != nil && res.Exact {
		res.Exact, res.Why = false, Interleaved
		res.Note = fmt.Sprintf("flow %s writes the same partition", other.Labels().Flow)
	}
	return res
}

// mix makes an answer one for a reader of several copies into the partition where it
// lies: the lowest offset that skips nothing of any, with what is read again of all.
func (r Route) mix(x int64, res Result, floor int64) Result {
	all := slices.Clone(r.Shares)
	waived := ""
	if res.Why == Waived {
		waived = res.Note
	}
	for _, t := range r.Thirds {
		unread, accepted, why := t.Here.unreadSource(x)
		if why != "" {
			return none(Unknown, why)
		}
		waived = cmp.Or(waived, accepted)
		all = append(all, Share{t.There, unread})
	}
	first, end := int64(math.MaxInt64), res.Offset
	if r.There == nil || r.Back != nil || res.Why == Waived {
		first = res.Offset
	} else if _, unread := r.There.firstCopy(x); unread {
		first = res.Offset
	}
	for i, s := range all {
		if i < len(r.Shares) {
			f := s.Copy.forward(s.At)
			if f.Offset < 0 && f.Why != NothingCopied {
				return none(f.Why, fmt.Sprintf("flow %s: %s", s.Copy.Labels().Flow, because(f)))
			}
			res.Skipped += f.Skipped
			if f.Why == Waived {
				first, waived = min(first, f.Offset), cmp.Or(waived, f.Note)
			}
		}
		if at, ok := s.Copy.firstCopy(s.At); ok {
			first = min(first, at)
		}
		// Behind floor another copy's records may lie that the ledger has not shown yet.
		end = max(end, min(s.Copy.DestinationNext(), floor))
	}
	if res.Offset = min(first, end); res.Why != Waived {
		res.Reread = 0
	}
	if r.There != nil {
		res.Reread += r.There.readBefore(x, res.Offset)
	}
	if r.Back != nil {
		res.Reread += r.Back.readFrom(res.Offset, x)
	}
	for i, s := range all {
		if i < len(r.Shares) {
			res.Reread += s.Copy.readBefore(s.At, res.Offset)
		} else {
			res.Reread += s.Copy.readOver(r.Thirds[i-len(r.Shares)].Here, s.At, res.Offset)
		}
	}
	res.Exact = res.Reread == 0 && res.Skipped == 0
	if waived != "" {
		res.Exact, res.Why, res.Note = false, Waived, waived
	} else if res.Reread > 0 {
		res.Why, res.Note = Interleaved, "records of several sides mix"
	}
	return res
}

// doubt is why one of the copies is uncertain about a position x, "" if none is.
func (r Route) doubt(x int64) string {
	var doubts []string
	if r.There != nil {
		doubts = append(doubts, r.There.doubtAt(x))
	}
	if r.Back != nil {
		doubts = append(doubts, r.Back.doubtThere(x))
	}
	for _, t := range r.Thirds {
		doubts = append(doubts, t.Here.doubtThere(x), t.There.doubtAt(-1))
	}
	for _, s := range r.Shares {
		doubts = append(doubts, s.Copy.doubtAt(s.At))
	}
	return cmp.Or(doubts...)
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
	for e, t := range m.tiles.fromSource(x) {
		past := max(0, x-t.source)
		switch {
		case t.run():
			res.Offset = t.dest + past
			return res
		case t.reason == unknown && !m.accepted(max(x, t.source)):
			return none(Unknown, m.whyUnknown(max(x, t.source)))
		case t.reason == unknown:
			// Its records lie behind those before it, if anywhere.
			res.Offset, res.Why, res.Exact, res.Note = e.dest, Waived, false, m.whyUnknown(max(x, t.source))
			res.Reread, res.Skipped = past, res.Skipped+t.count-past
			return res
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
		case t.reason == unknown && !m.accepted(max(x, t.source)):
			return none(Unknown, m.whyUnknown(max(x, t.source)))
		case t.reason == unknown:
			res.Offset, res.Why, res.Exact, res.Note = max(x, t.source), Waived, false, m.whyUnknown(max(x, t.source))
			res.Reread = t.end() - res.Offset
			return res
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
	born, waived, why := r.Back.unreadSource(x)
	if why != "" {
		return none(Unknown, why)
	}
	for from := int64(-1); from != born; {
		from = born
		born = r.There.pastCopies(born)
		for _, t := range r.Thirds {
			born = t.There.pastCopies(born) // see mix
		}
	}
	copied := int64(math.MaxInt64)
	if first, ok := r.There.firstCopy(x); res.Why == Waived {
		copied, waived = res.Offset, res.Note
	} else if ok {
		copied = first
	}
	if copied <= born {
		res.Offset = copied
	} else {
		res.Offset = born
	}
	res.Reread += r.There.readBefore(x, res.Offset) + r.Back.readFrom(res.Offset, x)
	res.Exact = res.Reread == 0 && res.Skipped == 0
	if waived != "" {
		res.Exact, res.Why, res.Note = false, Waived, waived
	} else if res.Reread > 0 {
		res.Why, res.Note = Interleaved, "records of both sides mix"
	} else if res.Why == NothingCopied {
		res.Why = AtEnd
	}
	return res
}

// unreadSource is the lowest source offset of a copy whose record is not among
// the destination offsets below y. Records that came from the destination are
// not counted: they are the other copy's. Nor are those that a filter keeps on
// their side: a reader here was never to see them. Where it is not known, why says so;
// waived says the same if that is accepted.
func (m *Map) unreadSource(y int64) (x int64, waived, why string) {
	if !m.Began() {
		return 0, "", "the ledger has no begin of the copy back"
	}
	x = m.start
	for e, t := range m.tiles.fromDest(y) {
		if t.dest < y {
			return t.source + y - t.dest, "", ""
		}
		x = max(x, e.runEnd)
		break
	}
	if y >= m.tiles.last.dest {
		x = max(x, m.tiles.last.runEnd)
	}
	for _, t := range m.tiles.fromSource(x) {
		switch {
		case t.reason == unknown && m.accepted(max(x, t.source)):
			return max(x, t.source), m.whyUnknown(max(x, t.source)), ""
		case t.reason == unknown:
			return 0, "", m.whyUnknown(max(x, t.source))
		case t.run() || !empty(t.reason) && t.reason != ledger.Returned && t.reason != ledger.NotLocal && t.reason != ledger.Doubled && t.reason != ledger.Filtered:
			return max(x, t.source), "", ""
		}
	}
	return max(x, m.Next()), "", ""
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
// write: what it wrote was not born there. The markers of its transactions are its own.
func (m *Map) pastCopies(y int64) int64 {
	for e, t := range m.tiles.fromDest(y) {
		if !t.run() {
			continue
		}
		if !m.unmarked && y == e.dest && e.runEnd >= 0 && t.dest == y+1 {
			y = t.dest // nothing but a marker fits between
		}
		if t.dest > y {
			break
		}
		y = t.destEnd()
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

// readOver is readBefore of those records only that came to another place, too: of
// what the cleaner removed before nothing was read there.
func (m *Map) readOver(here *Map, x, y int64) int64 {
	var n int64
	for _, t := range m.tiles.fromDest(y) {
		if t.source >= x {
			break
		}
		if t.run() {
			n += here.copied(t.source+max(0, y-t.dest), min(t.end(), x))
		}
	}
	return n
}

// copied counts the records in [from, to) that have copies.
func (m *Map) copied(from, to int64) int64 {
	var n int64
	for _, t := range m.tiles.fromSource(from) {
		if t.source >= to {
			break
		}
		if t.run() {
			n += min(t.end(), to) - max(t.source, from)
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

// Stranded is the number of offsets in [x, end), where a position is known, that may
// hold records which are not on the other side and do not come to it: nothing copies
// them there. It is -1 where end is not known. The markers of the copies' own
// transactions are not counted.
func (r Route) Stranded(x, end int64) int64 {
	if r.There != nil || r.Back == nil {
		return 0
	}
	if end < 0 {
		return -1
	}
	var n int64
	at, follows := x, int64(-1) // the first offset not looked at; where a run ended that a marker follows
	hole := func(to int64) {
		if to = min(to, end); to <= at {
			return
		}
		n += to - at
		if follows == at && !r.Back.unmarked {
			n--
		}
	}
	for e, t := range r.Back.tiles.fromDest(x) {
		if at == x && e.runEnd >= 0 && e.dest <= x {
			follows = e.dest
		}
		if t.run() {
			hole(t.dest)
			at, follows = max(at, t.destEnd()), t.destEnd()
		}
	}
	if d := r.Back.DestinationNext(); d >= 0 && d <= x {
		follows = d // x lies behind the last run
	}
	hole(end)
	return n
}

// Further are other copies into the partition where the answer lies, of which nothing
// is known of how far the reader has read them at their sources.
func (r Route) Further() (further []*Map) {
	if r.Back != nil && !r.Back.notLocal {
		return nil // what they bring goes on to where the position is known
	}
	for _, o := range r.Others {
		if !slices.ContainsFunc(r.Shares, func(s Share) bool { return s.Copy == o }) &&
			!slices.ContainsFunc(r.Thirds, func(t Third) bool { return t.There == o }) {
			further = append(further, o)
		}
	}
	return further
}

// mixed is one of Further whose records lie among ours, nil if none's do.
func (r Route) mixed() *Map {
	if r.There == nil {
		return nil
	}
	lo, ok := r.There.firstCopy(0)
	if !ok {
		return nil
	}
	for _, o := range r.Further() {
		if from, ok := o.firstCopy(0); ok && from < r.There.DestinationNext() && lo < o.DestinationNext() {
			return o
		}
	}
	return nil
}
