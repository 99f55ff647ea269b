package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/waybillhq/waybill/internal/filter"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// Copy is one copy to compare.
type Copy struct {
	ID                            ledger.CopyID
	SourceTopic, DestinationTopic string
	// Preserve says that the destination is a mirror topic, with the source's
	// offsets, to which nobody else writes.
	Preserve bool
}

// Entries answers from the ledger of the destination's cluster.
type Entries interface {
	// Extent is what the ledger says of a copy: it is about the source offsets from
	// start to next, and its records end before a destination offset. ok is false if
	// the ledger does not know the copy; doubt is why it may not know all of it.
	Extent(copy ledger.CopyKey) (start, next int64, doubt string, ok bool)
	// Hops are a copy's hops that end after a source offset, in order, at most limit.
	Hops(copy ledger.CopyKey, after int64, limit int) ([]*ledger.Hop, error)
	// Copied says whether any copy into a partition wrote an offset of it.
	Copied(into ledger.End, offset int64) (bool, error)
	// TakenBack says whether a copy into a partition wrote an offset of it of which
	// the ledger says since that the source has lost it.
	TakenBack(into ledger.End, offset int64) (bool, error)
	// Writer says whether a producer id of a cluster is a replicator's.
	Writer(cluster string, producerID int64) (bool, error)
	// Rules are those by which an epoch of a copy went, spec.records of its flow as
	// JSON; ok is false if the ledger has none.
	Rules(copy ledger.CopyKey, epoch uint64) (text string, ok bool, err error)
	// Aside is where records of a copy are that were put aside, one of which had a
	// source offset; nil if the ledger does not tell.
	Aside(copy ledger.CopyKey, offset int64) (*ledger.Quarantine, error)
	// Origin is where a record was copied from, and Stray says that a replicator without
	// transactions wrote it twice, as far as the ledger of the record's own cluster tells.
	Origin(at ledger.End, offset int64) (o ledger.Origin, ok bool)
	Stray(at ledger.End, offset int64) bool
	// ReadLedger returns when all that is in a cluster's ledger at the call is known;
	// exists is false if the cluster shows none. It may take as long as ctx does.
	ReadLedger(ctx context.Context, cluster string) (exists bool, err error)
}

// comparison compares one copy hop by hop.
type comparison struct {
	copy                 Copy
	entries              Entries
	local                *localLedger
	source, destination  *cursor
	aside                func(*ledger.Quarantine) *cursor
	filters              map[uint64]*filter.Filter // by epoch, nil where the ledger does not tell
	held                 *quarantined              // the last that was looked up
	sourceCompacts       bool
	destinationCompacts  bool
	sourceMirrors        bool  // the source topic is, or was, a mirror topic
	sourceRead           bool  // all that the source's ledger told when the gap was met is known
	framed               int64 // batches are compared as they are from this offset on
	keep                 int   // differences in words, of one hop
	small                bool  // a batch that is too large for the cursors may be opened in another comparison
	tooLarge             bool  // there was one
	tally                Tally
	sourceForm, destForm []byte
}

// hop compares what one hop says from source offset from on. dest is where the
// destination was compared up to, -1 if it was not; that of the end is returned. Of a
// small comparison the error may be errTooLarge: then another one has to do it.
func (c *comparison) hop(ctx context.Context, h *ledger.Hop, from, dest int64) (Tally, int64, error) {
	c.tally, c.tooLarge, c.framed = Tally{}, false, from
	if h.From > from {
		c.differ(Difference{Kind: Unaccounted, Source: from, Destination: -1, Count: h.From - from, What: "the ledger says nothing about them", Changed: ChangedLedger})
	}
	runs, gaps := h.Runs, h.Gaps
	for len(runs)+len(gaps) > 0 {
		if len(gaps) == 0 || len(runs) > 0 && runs[0].Source < gaps[0].Source {
			r, ok := behind(runs[0], from)
			runs = runs[1:]
			if !ok {
				continue
			}
			if dest >= 0 {
				if err := c.between(ctx, dest, r.Destination); err != nil {
					return Tally{}, 0, err
				}
			}
			if err := c.run(ctx, r); err != nil {
				return Tally{}, 0, err
			}
			dest = r.Destination + r.Count
			continue
		}
		g := gaps[0]
		gaps = gaps[1:]
		if skip := from - g.Source; skip > 0 {
			g.Source, g.Count = g.Source+skip, g.Count-skip
		}
		if g.Count <= 0 {
			continue
		}
		if err := c.gap(ctx, h.Epoch, g); err != nil {
			return Tally{}, 0, err
		}
		if c.copy.Preserve {
			if err := c.between(ctx, g.Source, g.Source+g.Count); err != nil {
				return Tally{}, 0, err
			}
			dest = g.Source + g.Count
		}
	}
	if c.tooLarge && c.small {
		return Tally{}, 0, errTooLarge
	}
	if c.exact() && len(h.Runs)+len(h.Gaps) > 0 {
		if err := c.frames(ctx, h.Next); err != nil {
			return Tally{}, 0, err
		}
	}
	return c.tally, dest, nil
}

// endError says at which end something failed.
type endError struct {
	end string
	err error
}

func (e *endError) Error() string { return e.end + ": " + e.err.Error() }

func (e *endError) Unwrap() error { return e.err }

// errTooLarge says that a hop has a batch that only one comparison at a time opens.
var errTooLarge = errors.New("a batch takes more memory than each comparison has")

// behind is the part of a run from a source offset on. The digest is of the whole.
func behind(r ledger.Run, from int64) (ledger.Run, bool) {
	if skip := from - r.Source; skip > 0 {
		r.Source, r.Destination, r.Count, r.Digest = r.Source+skip, r.Destination+skip, r.Count-skip, 0
	}
	return r, r.Count > 0
}

// run compares the records of one run, side by side.
func (c *comparison) run(ctx context.Context, r ledger.Run) error {
	before := c.tally.Different
	listed := len(c.tally.First)
	source, dest := newSeal(r, r.Source), newSeal(r, r.Destination)
	source.holes, dest.holes = c.copy.Preserve, c.copy.Preserve
	var empty []stretch // that neither side has records in
	for i := int64(0); i < r.Count; {
		s, sok, err := c.source.head(ctx, r.Source+i)
		if err != nil {
			return &endError{"source", err}
		}
		if n := min(c.source.start-r.Source, r.Count) - i; n > 0 {
			c.tally.notComparable(ExpiredAtSource, n)
			i += n
			continue
		}
		d, dok, err := c.destination.head(ctx, r.Destination+i)
		if err != nil {
			return &endError{"destination", err}
		}
		if n := min(c.destination.start-r.Destination, r.Count) - i; n > 0 {
			c.tally.notComparable(ExpiredAtDestination, n)
			i += n
			continue
		}
		si, di := r.Count, r.Count
		if sok {
			si = min(si, s.offset-r.Source)
		}
		if dok {
			di = min(di, d.offset-r.Destination)
		}
		switch {
		case si == i && di == i:
			i += c.both(r, i, s, d, source, dest)
		case si > i && di > i:
			n := min(si, di) - i
			empty = append(empty, stretch{i, n})
			i += n
		case si > i:
			n := min(dest.alone(c.destination, d), si-i)
			c.sourceless(r, i, n)
			i += n
		default:
			n := min(source.alone(c.source, s), di-i)
			c.missing(r, i, n)
			i += n
		}
	}
	c.absent(r, empty, source, dest)
	c.judge(r, source, dest, c.tally.Different-before, listed)
	return nil
}

// stretch is a place in a run, and how many offsets from there on.
type stretch struct{ at, count int64 }

// stretch is how many records in a row can be told to be there without looking at
// each.
func (c *cursor) stretch(h head) int64 {
	if h.record == nil {
		return h.next - h.offset
	}
	return 1
}

// absent is about offsets of a run at which neither side has a record. A copy that
// preserves offsets has batches with the holes that compaction had left in them: where
// the digest of one side says that it is as it was copied, so are its holes.
func (c *comparison) absent(r ledger.Run, empty []stretch, source, dest *seal) {
	copied := c.copy.Preserve && (source.asCopied(r) || dest.asCopied(r))
	for _, e := range empty {
		switch {
		case copied:
			c.tally.gap(ledger.Compacted, e.count)
		case c.sourceCompacts && (c.destinationCompacts || c.copy.Preserve):
			c.tally.notComparable(CompactedOnBothSides, e.count)
		default:
			c.differ(Difference{Kind: Lost, Source: r.Source + e.at, Destination: r.Destination + e.at, Count: e.count, What: "neither side has a record"})
		}
	}
}

// sourceless is about records of a run that only the destination has.
func (c *comparison) sourceless(r ledger.Run, i, n int64) {
	if c.sourceCompacts {
		c.tally.notComparable(CompactedAtSource, n)
		return
	}
	what := "the source has no record there"
	if at := r.Source + i; at >= c.source.stable {
		what = fmt.Sprintf("the source ends at offset %d", c.source.stable)
	}
	c.differ(Difference{Kind: Phantom, Source: r.Source + i, Destination: r.Destination + i, Count: n, What: what})
}

// missing is about records of a run that only the source has.
func (c *comparison) missing(r ledger.Run, i, n int64) {
	if c.destinationCompacts && !c.copy.Preserve {
		c.tally.notComparable(CompactedAtDestination, n)
		return
	}
	what := "the destination has no record there"
	if at := r.Destination + i; at >= c.destination.stable {
		what = fmt.Sprintf("the destination ends at offset %d", c.destination.stable)
	}
	c.differ(Difference{Kind: Missing, Source: r.Source + i, Destination: r.Destination + i, Count: n, What: what})
}

// both compares what both sides have at place i of a run, and says for how many
// records that was done.
func (c *comparison) both(r ledger.Run, i int64, s, d head, source, dest *seal) int64 {
	left := r.Count - i
	if n := s.next - s.offset; r.Path != ledger.Altered && s.record == nil && d.record == nil && n <= left && sameBatch(s.piece, d.piece) {
		source.batch(s.piece)
		dest.batch(d.piece)
		c.count(s.piece, n)
		return n
	}
	s, d = c.source.open(s), c.destination.open(d)
	source.batch(s.piece)
	dest.batch(d.piece)
	if s.record == nil || d.record == nil {
		n := min(s.next-s.offset, d.next-d.offset, left)
		c.unreadable(r, i, n, s.piece, d.piece)
		return n
	}
	if r.Path == ledger.Altered { // both are there; what the copy must be, the digest alone knows
		dest.record(d.record.AppendCanonical(c.destForm[:0]))
		c.tally.notComparable(AlteredByTheFlow, 1)
		return 1
	}
	c.sourceForm = s.record.AppendCanonical(c.sourceForm[:0])
	c.destForm = d.record.AppendCanonical(c.destForm[:0])
	source.record(c.sourceForm)
	dest.record(c.destForm)
	c.count(s.piece, 1)
	if bytes.Equal(c.sourceForm, c.destForm) {
		return 1
	}
	theirs := *d.record
	if d.Attributes().LogAppendTime() && !c.copy.Preserve {
		theirs.Timestamp = s.record.Timestamp
		if c.destForm = theirs.AppendCanonical(c.destForm[:0]); bytes.Equal(c.sourceForm, c.destForm) {
			c.tally.OwnTimes++
			return 1
		}
	}
	c.differ(Difference{Kind: Different, Source: s.offset, Destination: d.offset, Count: 1, What: whatDiffers(s.record, &theirs)})
	return 1
}

// unreadable is about records at least one of whose batches cannot be taken apart.
func (c *comparison) unreadable(r ledger.Run, i, n int64, s, d *piece) {
	found := Difference{Kind: Damaged, Source: r.Source + i, Destination: r.Destination + i, Count: n}
	switch {
	case s.damage != nil && d.damage != nil:
		found.What, found.Changed = fmt.Sprintf("source: %v; destination: %v", s.damage, d.damage), ChangedBoth
	case s.damage != nil:
		found.What, found.Changed = fmt.Sprintf("source: %v", s.damage), ChangedSource
	case d.damage != nil:
		found.What, found.Changed = fmt.Sprintf("destination: %v", d.damage), ChangedDestination
	default:
		c.tooLarge = true
		c.tally.notComparable(TooLargeToDecode, n)
		return
	}
	c.differ(found)
}

// count is about records that were read on both sides.
func (c *comparison) count(p *piece, n int64) {
	c.tally.Records += n
	if !p.counted {
		p.counted = true
		c.tally.Bytes += int64(len(p.Batch))
	}
}

// sameBatch says whether two sound batches that begin at the same place hold the
// same records, without taking them apart.
func sameBatch(a, b *piece) bool {
	x, y := a.Attributes(), b.Attributes()
	return a.damage == nil && b.damage == nil && a.Dense() && a.Count() == b.Count() && a.LastOffsetDelta() == b.LastOffsetDelta() &&
		x.Codec() == y.Codec() && x.LogAppendTime() == y.LogAppendTime() && a.BaseTimestamp() == b.BaseTimestamp() &&
		(!x.LogAppendTime() || a.MaxTimestamp() == b.MaxTimestamp()) && bytes.Equal(a.Records(), b.Records())
}

// between counts what the destination has outside of the runs of the copy.
func (c *comparison) between(ctx context.Context, from, to int64) error {
	for {
		h, ok, err := c.destination.head(ctx, from)
		if err != nil {
			return &endError{"destination", err}
		}
		if !ok || h.offset >= to {
			return nil
		}
		n := min(c.destination.stretch(h), to-h.offset)
		found := Difference{Kind: Phantom, Source: -1, Destination: h.offset, Count: n}
		switch {
		case h.damage != nil:
			found.Kind, found.What, found.Changed = Damaged, fmt.Sprintf("destination: %v", h.damage), ChangedDestination
			c.differ(found)
		case c.copy.Preserve:
			found.What = "the mirror topic has a record where the source has none"
			c.differ(found)
		default:
			who, err := c.author(h)
			if err != nil {
				return err
			}
			switch who {
			case others:
				c.tally.Foreign += n
			case takenBack:
				c.tally.TakenBack += n
			default:
				found.What = fmt.Sprintf("a replicator (producer id %d) wrote it and no hop says so", h.ProducerID())
				c.differ(found)
			}
		}
		from = h.offset + n
	}
}

// author is whose a record outside of the runs is.
type author int

const (
	nobodys   author = iota // a replicator's, without a word of it in the ledger
	others                  // another copy's, or that of a producer who is no replicator
	takenBack               // a copy of what the source has lost since
)

func (c *comparison) author(h head) (author, error) {
	into := c.copy.ID.Destination
	if writer, err := c.entries.Writer(into.Cluster, h.ProducerID()); err != nil || !writer {
		return others, err
	}
	if copied, err := c.entries.Copied(into, h.offset); err != nil || copied {
		return others, err
	}
	if lost, err := c.entries.TakenBack(into, h.offset); err != nil || lost {
		return takenBack, err
	}
	return nobodys, nil
}

// differ counts a difference, and keeps it in words while there is room. One that
// goes on where the last one ended is one with it, but for records of which each
// differs in its own way.
func (c *comparison) differ(d Difference) {
	c.tally.Different += d.Count
	d.SourceTopic, d.DestinationTopic, d.Partition = c.copy.SourceTopic, c.copy.DestinationTopic, c.copy.ID.Source.Partition
	if n := len(c.tally.First); n > 0 && c.tally.First[n-1].goesOn(d) {
		c.tally.First[n-1].Count += d.Count
		return
	}
	if len(c.tally.First) < c.keep {
		c.tally.First = append(c.tally.First, d)
	}
}

func (d *Difference) goesOn(next Difference) bool {
	follows := func(a, b int64) bool { return a < 0 && b < 0 || a >= 0 && a+d.Count == b }
	if d.Kind == Different || !follows(d.Source, next.Source) || !follows(d.Destination, next.Destination) || d.Source < 0 && d.Destination < 0 {
		return false
	}
	return d.Kind == next.Kind && d.What == next.What && d.Changed == next.Changed
}

// seal folds what one side has of a run, to hold it against the ledger's digest.
type seal struct {
	path   ledger.Path
	next   int64 // the offset that the fold has come to
	end    int64
	digest record.Digest
	last   *piece
	holes  bool // batches may have holes
	broken bool // what was folded is not what the digest is of
}

func newSeal(r ledger.Run, from int64) *seal {
	return &seal{path: r.Path, next: from, end: from + r.Count, broken: r.Digest == 0}
}

// batch folds a batch of a raw run. It may be told of the same one again.
func (s *seal) batch(p *piece) {
	if s.path != ledger.Raw || p == s.last {
		return
	}
	s.last = p
	if p.BaseOffset() != s.next || p.next > s.end || !p.Dense() && !s.holes {
		s.broken = true // its bounds are not those of the run's batches
		return
	}
	s.digest, s.next = s.digest.Join(p.section()), p.next
}

// record folds a record of a run that was encoded again.
func (s *seal) record(form []byte) {
	if s.path == ledger.Raw {
		return
	}
	s.digest.CRC = crc32.Update(s.digest.CRC, castagnoli, form)
	s.next++
}

// alone folds what only this side has at a place of the run, and says for how many
// records that was done.
func (s *seal) alone(c *cursor, h head) int64 {
	s.batch(h.piece)
	if s.path != ledger.Raw {
		if h = c.open(h); h.record != nil {
			s.record(h.record.AppendCanonical(nil))
		}
	}
	return c.stretch(h)
}

// is says whether the side has what a digest is of. known is false if all of the
// run was not folded.
func (s *seal) is(digest uint32) (same, known bool) {
	return s.digest.CRC == digest, !s.broken && s.next == s.end
}

// asCopied says that the side has what the ledger says was copied.
func (s *seal) asCopied(r ledger.Run) bool {
	same, known := s.is(r.Digest)
	return same && known
}

// judge holds both sides of a run against the ledger's digest.
func (c *comparison) judge(r ledger.Run, source, dest *seal, differences int64, listed int) {
	c.tally.Runs++
	asSource, knownSource := source.is(r.Digest)
	asDest, knownDest := dest.is(r.Digest)
	if differences == 0 {
		switch {
		case r.Path == ledger.Altered && knownDest && asDest:
			c.tally.RunsConfirmed++
		case r.Path == ledger.Altered && knownDest:
			c.differ(Difference{
				Kind: Different, Source: r.Source, Destination: r.Destination, Count: r.Count, Changed: ChangedDestination,
				What: "the flow has altered the records, and the destination's are not what it wrote",
			})
		case !knownSource || !knownDest:
		case asSource && asDest:
			c.tally.RunsConfirmed++
		case !asSource && !asDest && source.digest == dest.digest:
			c.differ(Difference{
				Kind: Ledger, Source: r.Source, Destination: r.Destination, Count: r.Count, Changed: ChangedLedger,
				What: "both sides are equal, and neither is what the ledger says was copied",
			})
		}
		return
	}
	changed := ""
	switch {
	case knownSource && asSource && !(knownDest && asDest):
		changed = ChangedDestination
	case knownDest && asDest && !(knownSource && asSource):
		changed = ChangedSource
	case knownSource && knownDest && !asSource && !asDest:
		changed = ChangedBoth
	}
	for i := range c.tally.First[min(listed, len(c.tally.First)):] {
		if d := &c.tally.First[listed+i]; d.Changed == "" {
			d.Changed = changed
		}
	}
}

// whatDiffers says in words, without showing contents, in what two records differ.
func whatDiffers(s, d *record.Record) string {
	var what []string
	if s.Timestamp != d.Timestamp {
		what = append(what, fmt.Sprintf("timestamp: %d at the source, %d at the destination", s.Timestamp, d.Timestamp))
	}
	what = append(what, field("key", s.Key, d.Key)...)
	what = append(what, field("value", s.Value, d.Value)...)
	if len(s.Headers) != len(d.Headers) {
		what = append(what, fmt.Sprintf("headers: %d at the source, %d at the destination", len(s.Headers), len(d.Headers)))
		return strings.Join(what, "; ")
	}
	for i := range s.Headers {
		if s.Headers[i].Key != d.Headers[i].Key {
			what = append(what, fmt.Sprintf("key of header %d", i+1))
		}
		what = append(what, field(fmt.Sprintf("header %d", i+1), s.Headers[i].Value, d.Headers[i].Value)...)
	}
	return strings.Join(what, "; ")
}

func field(name string, s, d []byte) []string {
	if (s == nil) == (d == nil) && bytes.Equal(s, d) {
		return nil
	}
	if len(s) != len(d) || (s == nil) != (d == nil) {
		return []string{fmt.Sprintf("%s: %s at the source, %s at the destination", name, size(s), size(d))}
	}
	at := 0
	for s[at] == d[at] {
		at++
	}
	return []string{fmt.Sprintf("%s: byte %d of %d", name, at+1, len(s))}
}

func size(b []byte) string {
	switch {
	case b == nil:
		return "null"
	case len(b) == 0:
		return "empty"
	}
	return fmt.Sprintf("%d bytes", len(b))
}
