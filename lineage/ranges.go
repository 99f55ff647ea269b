package lineage

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/internal/ledger"
)

// RangeQuery asks where copies of the offsets from At.Offset to Last of one
// partition lie.
type RangeQuery struct {
	At   Address
	Last int64 // inclusive; below 0 is the end, as far as the ledgers know it
	Way  Direction
	// Exact wants a row for each run and each gap. Without it, what a copy did with
	// source offsets that follow each other is one row.
	Exact  bool
	Limit  int    // rows; 0 and above the limit for deeds: that limit
	Cursor string // RangePage.Next of the page before
}

// RangePage is where copies of some of the offsets lie that were asked about.
type RangePage struct {
	Rows []RangeRow `json:"rows"`
	// First and Last are the offsets, of those asked about, that the rows are of.
	First int64  `json:"first" doc:"Of the offsets asked about, that these rows are of"`
	Last  int64  `json:"last" doc:"Inclusive; below first: there are none"`
	Next  string `json:"next,omitempty" doc:"Cursor of the next page; absent: there are no more"`
	// Unknown lists what cannot be said, and why.
	Unknown   []string `json:"unknown,omitempty"`
	Truncated string   `json:"truncated,omitempty" doc:"What bound cut these rows off, if one did"`
}

// RangeRow is what one copy did with a stretch of source offsets. Where a side is
// redacted so is all but that the copy exists, and the whole stretch of its other side.
type RangeRow struct {
	Source      Stretch `json:"source"`
	Destination Stretch `json:"destination" doc:"first is -1 if nothing of it was copied"`
	Hops        int     `json:"hops" doc:"From the partition asked about to the farther one of the two"`

	Records int64            `json:"records" doc:"Copied; 0 where a side is redacted"`
	Gaps    map[string]int64 `json:"gaps,omitempty" doc:"Source offsets without a copy, by reason: those of the gaps, or pending, before-start, ended, unknown"`
	Why     string           `json:"why,omitempty"`

	Flow        string     `json:"flow,omitempty"`
	Fleet       string     `json:"fleet,omitempty"`
	ReplicaNode string     `json:"node,omitempty" doc:"Of the fleet, that copied it"`
	Epoch       uint64     `json:"epoch,omitempty"`
	Path        string     `json:"path,omitempty" doc:"raw, re-encoded or altered"`
	Folded      bool       `json:"folded,omitempty" doc:"Hops were folded: it was copied at some time from firstAt to at"`
	FirstAt     *time.Time `json:"firstAt,omitempty"`
	At          *time.Time `json:"at,omitempty" doc:"When the last of it was copied"`
}

// Stretch is offsets of a partition. Between the first and the last there may be
// others, which are not of the row.
type Stretch struct {
	Redacted    bool   `json:"redacted,omitempty"`
	Cluster     string `json:"cluster,omitempty"`
	ClusterID   string `json:"clusterId,omitempty"`
	Topic       string `json:"topic,omitempty"`
	TopicID     string `json:"topicId,omitempty"`
	EarlierLife bool   `json:"earlierLife,omitempty"`
	Partition   int32  `json:"partition"`
	First       int64  `json:"first" doc:"-1: none, or redacted"`
	Last        int64  `json:"last" doc:"Inclusive"`
}

// shrink is how much smaller a range is tried next, of which one walk would have to
// look at too much.
const shrink = 4

// Copies lists where copies of a range of offsets lie, up and down stream over any
// number of hops. Each page is about as many of the offsets as fit into it; what is
// copied while pages are read may be missing from later ones. Errors are those of
// Event.
func (x *Index) Copies(ctx context.Context, caller Caller, q RangeQuery) (*RangePage, error) {
	v := x.viewer(ctx, caller)
	if q.Last >= 0 && q.Last < q.At.Offset {
		return nil, fmt.Errorf("copies of a range: %w: it ends at offset %d, before it begins at %d", ErrInvalid, q.Last, q.At.Offset)
	}
	if q.Way = cmp.Or(q.Way, Both); !slices.Contains([]Direction{Both, Upstream, Downstream}, q.Way) {
		return nil, fmt.Errorf("copies of a range: %w: direction %q is none of both, up and down", ErrInvalid, q.Way)
	}
	l, err := v.find(q.At)
	if err != nil {
		return nil, fmt.Errorf("copies of a range: %w", err)
	}
	start := place{topicKey: l.topicKey, partition: q.At.Partition}.end()
	asked := span{q.At.Offset, x.known(start)}
	if q.Last >= 0 {
		asked.next = min(q.Last, math.MaxInt64-1) + 1
	}
	if known := x.known(start); asked.next > known && x.cfg.Live != nil && !l.earlier {
		switch end, err := v.logEnd(l, q.At.Partition); {
		case errors.Is(err, ErrNotFound):
			return nil, fmt.Errorf("copies of a range: %w", err)
		case err == nil: // of what is not there nothing is pending
			asked.next = min(asked.next, max(known, end))
		}
	}
	at, err := readRangeCursor(q.Cursor, asked)
	if err != nil {
		return nil, fmt.Errorf("copies of a range: %w", err)
	}
	page, err := v.rangePage(q, start, asked, at)
	if err != nil {
		return nil, fmt.Errorf("copies of a range: %w", err)
	}
	return page, nil
}

// known is behind the last offset of a partition that a ledger says anything of.
func (x *Index) known(e ledger.End) (next int64) {
	from, into := x.copiesAt(e)
	for _, c := range from {
		next = max(next, c.next)
	}
	for _, c := range into {
		next = max(next, c.destNext)
	}
	return next
}

// rangePage tells of as many offsets as fit into a page, of a single one as many rows.
func (v *viewer) rangePage(q RangeQuery, start ledger.End, asked span, at rangeCursor) (*RangePage, error) {
	page := &RangePage{Rows: []RangeRow{}, First: at.offset, Last: at.offset - 1}
	if at.offset >= asked.next {
		return page, nil
	}
	limit := bounded(q.Limit, v.x.cfg.Limits.Deeds)
	known := max(1, v.x.known(start)-at.offset)
	for length := min(at.length, asked.next-at.offset); ; length = max(1, min(length, known)/shrink) {
		f := v.x.family(v.ctx, q.Way)
		err := f.walk(start, span{at.offset, at.offset + length})
		enough := errors.Is(err, errEnough)
		if err != nil && !enough {
			return nil, err
		}
		if enough && length > 1 {
			continue
		}
		rows, err := v.rangeRows(f, q.Exact)
		if err != nil {
			return nil, err
		}
		if len(rows) > limit && length > 1 {
			continue
		}
		if page.Truncated = f.cut; enough {
			page.Truncated = fmt.Sprintf("after %d looks at the index", v.x.cfg.Limits.Looks)
		}
		page.Last, page.Unknown = at.offset+length-1, v.rangeDoubts(f)
		rows = rows[min(at.skip, len(rows)):]
		next := rangeCursor{offset: at.offset + length, length: math.MaxInt64}
		if length < known {
			next.length = 2 * min(length, math.MaxInt64/2)
		}
		if len(rows) > limit {
			rows, next = rows[:limit], rangeCursor{at.offset, 1, at.skip + limit}
		}
		if page.Rows = append(page.Rows, rows...); next.offset < asked.next {
			page.Next = next.String()
		}
		return page, nil
	}
}

// rangeDoubts are why the copies that a walk followed may not be all of the truth.
func (v *viewer) rangeDoubts(f *family) (why []string) {
	for _, l := range f.links {
		doubt, err := v.x.doubt(&l.copyState)
		if err != nil {
			doubt = err.Error()
		}
		if doubt == "" {
			continue
		}
		if !(v.topic(f.places[l.from].life) && v.topic(f.places[l.to].life)) {
			doubt = whyHidden
		}
		why = append(why, doubt)
	}
	why = append(why, v.unnamed()...)
	slices.Sort(why)
	return slices.Compact(why)
}

// rangeRows is what a walk has found as its caller may see it. What is redacted
// comes last, and in an order that depends on nothing that is hidden.
func (v *viewer) rangeRows(f *family, exact bool) ([]RangeRow, error) {
	var rows, redacted []RangeRow
	for i := range f.links {
		l := &f.links[i]
		if len(l.pieces) == 0 {
			continue
		}
		from, to := &f.places[l.from], &f.places[l.to]
		hops := max(from.hops, to.hops)
		if !v.topic(from.life) || !v.topic(to.life) {
			redacted = append(redacted, v.hiddenRow(l, from, to, hops))
			continue
		}
		slices.SortFunc(l.pieces, func(a, b piece) int { return cmp.Compare(a.first, b.first) })
		for pieces := l.pieces; len(pieces) > 0; {
			n := rowLength(pieces, exact)
			row, err := v.x.rangeRow(l, pieces[:n], from, to)
			if err != nil {
				return nil, err
			}
			row.Hops = hops
			rows, pieces = append(rows, row), pieces[n:]
		}
	}
	slices.SortStableFunc(redacted, func(a, b RangeRow) int {
		return cmp.Or(cmp.Compare(a.Hops, b.Hops), compareStretches(&a.Source, &b.Source), compareStretches(&a.Destination, &b.Destination))
	})
	return append(rows, redacted...), nil
}

func compareStretches(a, b *Stretch) int {
	return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.TopicID, b.TopicID),
		cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// hiddenRow says that a copy exists between two places of which the caller may not
// see one, or either, and of the one that he may see which offsets it is about.
func (v *viewer) hiddenRow(l *link, from, to *relative, hops int) RangeRow {
	var source, dest spans
	for _, p := range l.pieces {
		source.add(p.span)
		if p.copied() {
			dest.add(span{p.dest, p.dest + p.next - p.first})
		}
	}
	side := func(r *relative, s spans) Stretch {
		if !v.topic(r.life) {
			return Stretch{Redacted: true, First: -1, Last: -1}
		}
		return stretch(r, s.hull())
	}
	return RangeRow{Source: side(from, source), Destination: side(to, dest), Hops: hops}
}

func stretch(r *relative, s span) Stretch {
	out := Stretch{
		Cluster: r.life.clusterName, ClusterID: r.end.Cluster, Topic: r.life.name, TopicID: r.end.TopicID.String(), EarlierLife: r.life.earlier,
		Partition: r.end.Partition, First: -1, Last: -1,
	}
	if !s.empty() {
		out.First, out.Last = s.first, s.next-1
	}
	return out
}

// rowLength is how many of a copy's pieces, in order, are one row: those of one owner
// and one path that follow each other and, if rows are to be exact, of one difference
// or one reason.
func rowLength(pieces []piece, exact bool) int {
	path := pieces[0].path
	for i := 1; i < len(pieces); i++ {
		a, b := &pieces[i-1], &pieces[i]
		switch {
		case a.next != b.first || (a.hop == nil) != (b.hop == nil):
			return i
		case a.hop != nil && (a.hop.Epoch != b.hop.Epoch || (a.hop.Fold == nil) != (b.hop.Fold == nil) || path != 0 && b.path != 0 && path != b.path):
			return i
		case (a.hop == nil || exact) && a.reason != b.reason:
			return i
		case exact && a.copied() && b.dest != a.dest+a.next-a.first:
			return i
		}
		path = cmp.Or(path, b.path)
	}
	return len(pieces)
}

// rangeRow sums up pieces of one copy that are one row.
func (x *Index) rangeRow(l *link, pieces []piece, from, to *relative) (RangeRow, error) {
	source, dest := span{pieces[0].first, pieces[len(pieces)-1].next}, span{math.MaxInt64, 0}
	row := RangeRow{}
	for i := range pieces {
		p := &pieces[i]
		if n := p.next - p.first; p.copied() {
			row.Records += n
			row.Path = pathName(p.path)
			dest = span{min(dest.first, p.dest), max(dest.next, p.dest+n)}
		} else {
			if row.Gaps == nil {
				row.Gaps = map[string]int64{}
			}
			row.Gaps[p.reason] += n
			row.Why = p.why
		}
		if at := p.when(); !at.IsZero() {
			first := cmp.Or(since(p.hop), &at)
			if row.FirstAt == nil || first.Before(*row.FirstAt) {
				row.FirstAt = first
			}
			if row.At == nil || at.After(*row.At) {
				row.At = &at
			}
		}
	}
	row.Source, row.Destination = stretch(from, source), stretch(to, dest)
	b := l.begin
	if h := pieces[0].hop; h != nil {
		var err error
		if b, err = x.beginOf(&l.copyState, h.Epoch); err != nil {
			return row, err
		}
		row.ReplicaNode, row.Epoch, row.Folded = b.Node, h.Epoch, h.Fold != nil
	}
	row.Flow, row.Fleet = b.Flow, b.Fleet
	return row, nil
}

// beginOf is the Begin of an epoch of a copy, or its last one if that was lost: its
// labels do.
func (x *Index) beginOf(c *copyState, epoch uint64) (*ledger.Begin, error) {
	if c.began && c.beginEpoch == epoch {
		return c.begin, nil
	}
	b, err := readBack[*ledger.Begin](x.db.Get(key(c.ledger, kindBegin, c.key[:], u64(int64(epoch)))))
	if errors.Is(err, pebble.ErrNotFound) {
		return c.begin, nil
	}
	return b, err
}

// rangeCursor is where a page goes on: at an offset, of which some rows may have
// been given, with how many offsets to try.
type rangeCursor struct {
	offset, length int64
	skip           int
}

func (c rangeCursor) String() string {
	return cursorText(binary.AppendVarint(binary.AppendVarint(binary.AppendVarint(nil, c.offset), c.length), int64(c.skip)))
}

func readRangeCursor(text string, asked span) (rangeCursor, error) {
	c := rangeCursor{offset: asked.first, length: math.MaxInt64}
	if text == "" {
		return c, nil
	}
	b, err := cursorBytes(text)
	if err != nil {
		return c, err
	}
	var skip int64
	for _, f := range []*int64{&c.offset, &c.length, &skip} {
		v, n := binary.Varint(b)
		if n <= 0 {
			return c, fmt.Errorf("%w: %q is no cursor of this list", ErrInvalid, text)
		}
		*f, b = v, b[n:]
	}
	if c.offset < asked.first || c.length < 1 || skip < 0 || skip > math.MaxInt32 || len(b) > 0 {
		return c, fmt.Errorf("%w: %q is no cursor of this range", ErrInvalid, text)
	}
	c.skip = int(skip)
	return c, nil
}
