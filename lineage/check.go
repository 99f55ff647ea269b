package lineage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// FindingKind is what a check found.
type FindingKind string

// The kinds of findings. A page that was moved shows twice: as removed from where
// it was and as reordered where it stands.
const (
	FoundRemoved       FindingKind = "removed"       // pages of a writer's chain are missing before this one
	FoundAltered       FindingKind = "altered"       // this page is not as it was written, or the one before it of its writer
	FoundReordered     FindingKind = "reordered"     // an older page of a writer follows a newer one
	FoundRepeated      FindingKind = "repeated"      // the page is there twice
	FoundForeign       FindingKind = "foreign"       // not written by a writer of this ledger
	FoundNewer         FindingKind = "newer"         // of a format that this version cannot read: not checked
	FoundContradiction FindingKind = "contradiction" // a hop does not begin where the one before it of its copy ended
	FoundExpired       FindingKind = "expired"       // the ledger does not begin at offset 0
	FoundCut           FindingKind = "cut"           // the ledger ends before an anchor
	FoundRewritten     FindingKind = "rewritten"     // it is not the one that an anchor was taken of
	FoundFolded        FindingKind = "folded"        // an anchor is of pages that were folded and are gone
)

// Finding is one thing that is not as a ledger should be.
type Finding struct {
	Partition int32       `json:"partition"` // of the ledger
	Offset    int64       `json:"offset"`    // where it shows
	At        *time.Time  `json:"at,omitempty"`
	Kind      FindingKind `json:"kind"`
	Writer    string      `json:"writer,omitempty"`
	Reason    string      `json:"reason"`
}

// CheckReport is what was checked of a ledger, and what was found.
type CheckReport struct {
	Cluster    string             `json:"cluster"`
	TopicID    string             `json:"topicId"`
	Partitions []CheckedPartition `json:"partitions"`
	Findings   []Finding          `json:"findings"`
	More       int                `json:"more,omitempty"` // findings that are not listed
	// Incomplete is why not all of the ledger was read, if it was not.
	Incomplete string `json:"incomplete,omitempty"`
}

// CheckedPartition is one partition of a ledger.
type CheckedPartition struct {
	Partition int32  `json:"partition"`
	Start     int64  `json:"start"`
	End       int64  `json:"end"` // all below was checked
	Pages     int64  `json:"pages"`
	Entries   int64  `json:"entries"`
	Unknown   int64  `json:"unknownEntries,omitempty"` // of kinds that this version does not know
	Bytes     int64  `json:"bytes"`
	Writers   int    `json:"writers"`
	Anchor    string `json:"anchor"`
	// Folded is what stands for the records below Start, if they were folded.
	Folded *FoldedPart `json:"folded,omitempty"`
}

// FoldedPart is what a fold says of itself: that it stands for all pages that were below
// an offset.
type FoldedPart struct {
	Next  int64     `json:"next"`
	Pages uint64    `json:"pages"`
	Sum   string    `json:"sum"` // of all of them, as an archive of the ledger comes to it
	At    time.Time `json:"at"`
	Node  string    `json:"node,omitempty"`
}

// maxFindings bounds what a broken ledger can make a report hold.
const maxFindings = 1000

// An Anchor is what the chains of a ledger partition had come to at an offset: a
// later check of the same ledger comes to the same there. It covers what chains
// alone cannot: the last page of each writer, and writers that are gone whole.
type Anchor struct {
	Partition int32
	Offset    int64
	Sum       [16]byte // of all chains' tails
}

func (a Anchor) String() string { return fmt.Sprintf("%d:%d:%x", a.Partition, a.Offset, a.Sum[:]) }

// ParseAnchor reads what [Anchor.String] wrote. It returns an error that wraps
// ErrInvalid.
func ParseAnchor(s string) (Anchor, error) {
	var a Anchor
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return a, fmt.Errorf("%w: %q is no anchor: PARTITION:OFFSET:SUM", ErrInvalid, s)
	}
	partition, err1 := strconv.ParseUint(parts[0], 10, 31)
	offset, err2 := strconv.ParseUint(parts[1], 10, 63)
	sum, err3 := hex.DecodeString(parts[2])
	if err := errors.Join(err1, err2, err3); err != nil || len(sum) != len(a.Sum) {
		return a, fmt.Errorf("%w: %q is no anchor: PARTITION:OFFSET:SUM", ErrInvalid, s)
	}
	a.Partition, a.Offset = int32(partition), int64(offset)
	copy(a.Sum[:], sum)
	return a, nil
}

// Checker follows the chains of a ledger, and the hops of each copy, over its
// records as they were read. It keeps a few dozen bytes for each writer and each
// copy. It is not safe for concurrent use.
type Checker struct {
	// Cluster is the cluster.id whose ledger it is, if it is known: pages that speak of
	// another as of their own are found.
	Cluster string

	partitions map[int32]*checked
	copies     map[ledger.CopyKey]*checkedCopy
	anchors    map[int32][]Anchor // to come, in order
	findings   []Finding
	more       int
}

type checked struct {
	CheckedPartition
	chains ledger.Chains
	adopt  bool // it was not read from its beginning
	// opening has what was read of a partition that begins above 0, until it is known what
	// stands for the rest.
	opening *ledger.Opening
}

type checkedCopy struct {
	epoch uint64
	next  int64
}

// NewChecker starts a check that holds the ledger against anchors of an earlier one.
func NewChecker(anchors []Anchor) *Checker {
	c := &Checker{partitions: map[int32]*checked{}, copies: map[ledger.CopyKey]*checkedCopy{}, anchors: map[int32][]Anchor{}}
	for _, a := range anchors {
		c.anchors[a.Partition] = append(c.anchors[a.Partition], a)
	}
	for _, as := range c.anchors {
		slices.SortFunc(as, func(a, b Anchor) int { return int(min(max(a.Offset-b.Offset, -1), 1)) })
	}
	return c
}

// Begin says where a partition of the ledger starts. It comes before its records.
func (c *Checker) Begin(partition int32, start int64) {
	c.partitions[partition] = &checked{
		CheckedPartition: CheckedPartition{Partition: partition, Start: start, End: start}, chains: ledger.Chains{}, adopt: start > 0,
	}
	if start > 0 {
		c.partitions[partition].opening = ledger.NewOpening(start)
	}
}

func (c *Checker) found(f Finding) {
	if len(c.findings) == maxFindings {
		c.more++
		return
	}
	c.findings = append(c.findings, f)
}

// Record takes the next record of a partition.
func (c *Checker) Record(partition int32, offset int64, at time.Time, value []byte) {
	p := c.partitions[partition]
	if p.opening == nil {
		c.record(p, ledger.Stored{Offset: offset, At: at, Value: value})
		return
	}
	if opened := p.opening.Take(ledger.Stored{Offset: offset, At: at, Value: value}); opened != nil {
		c.open(p, opened)
	}
}

// open begins with a fold: there chains and copies go on.
func (c *Checker) open(p *checked, o *ledger.Opened) {
	p.opening, p.adopt, p.End = nil, false, o.Cut.Next
	p.Folded = &FoldedPart{Next: o.Cut.Next, Pages: o.Cut.Pages, Sum: hex.EncodeToString(o.Cut.Sum[:]), At: o.Cut.At, Node: o.Cut.Node}
	for as := c.anchors[p.Partition]; len(as) > 0 && as[0].Offset < o.Cut.Next; as = as[1:] {
		c.anchors[p.Partition] = as[1:]
		c.found(Finding{
			Partition: p.Partition, Offset: as[0].Offset, Kind: FoundFolded,
			Reason: fmt.Sprintf("the records below offset %d are folded and gone: what was there when the anchor was taken cannot be compared any more", o.Cut.Next),
		})
	}
	for r, page := range o.Pages() {
		p.chains.Follow(page)
		for _, e := range page.Entries {
			c.entry(Finding{Partition: p.Partition, Offset: r.Offset}, e)
		}
	}
	for _, r := range o.Rest {
		c.record(p, r)
	}
}

// giveUp is for a partition that begins above 0 without anything that stands for what was
// before.
func (c *Checker) giveUp(p *checked) {
	held := p.opening.Held()
	p.opening = nil
	c.found(Finding{Partition: p.Partition, Offset: 0, Kind: FoundExpired, Reason: fmt.Sprintf("records below offset %d do not exist", p.Start)})
	end := p.End
	for _, r := range held {
		c.record(p, r)
	}
	c.Passed(p.Partition, end)
}

// record is for the next record of which all before it is known.
func (c *Checker) record(p *checked, r ledger.Stored) {
	partition, offset, at, value := p.Partition, r.Offset, r.At, r.Value
	c.Passed(partition, offset)
	p.End = max(p.End, offset+1)
	p.Pages++
	p.Bytes += int64(len(value))
	f := Finding{Partition: partition, Offset: offset}
	if at = at.UTC(); !at.IsZero() {
		f.At = &at
	}
	page, err := ledger.Decode(value)
	if err != nil {
		f.Kind, f.Reason = FoundAltered, err.Error()
		if corrupt, ok := errors.AsType[*ledger.CorruptError](err); ok && corrupt.Foreign {
			f.Kind = FoundForeign
		}
		if errors.Is(err, ledger.ErrVersion) {
			f.Kind = FoundNewer
		}
		c.found(f)
		return
	}
	p.Entries += int64(len(page.Entries))
	p.Unknown += int64(page.Unknown)
	f.Writer = hex.EncodeToString(page.Writer[:])
	follow := p.chains.Verify
	if p.adopt {
		follow = p.chains.Adopt
	}
	if broken, ok := errors.AsType[*ledger.ChainError](follow(page)); ok {
		f.Kind, f.Reason = kindOf(broken), broken.Error()
		c.found(f)
		if broken.Old() {
			return
		}
	}
	if page.Fold {
		return // it repeats what was checked
	}
	for _, e := range page.Entries {
		if cluster := ofCluster(e); c.Cluster != "" && cluster != "" && cluster != c.Cluster {
			f.Kind, f.Reason = FoundForeign, fmt.Sprintf("a page of the ledger of cluster %s", cluster)
			c.found(f)
			return
		}
	}
	for _, e := range page.Entries {
		c.entry(f, e)
	}
}

func kindOf(e *ledger.ChainError) FindingKind {
	switch {
	case e.Repeated:
		return FoundRepeated
	case e.Old():
		return FoundReordered
	case e.Got > e.Want:
		return FoundRemoved
	}
	return FoundAltered
}

// entry holds a hop against the one before it of its copy.
func (c *Checker) entry(f Finding, e ledger.Entry) {
	switch e := e.(type) {
	case *ledger.Begin:
		k := e.Copy.Key()
		if s := c.copies[k]; s == nil {
			c.copies[k] = &checkedCopy{e.Epoch, e.Resume}
		} else if e.Epoch >= s.epoch {
			s.epoch = e.Epoch
			if e.Restates() {
				s.next = min(s.next, e.Resume)
			}
		}
	case *ledger.Retraction:
		if s := c.copies[e.Copy]; s != nil && e.Epoch >= s.epoch {
			s.epoch, s.next = e.Epoch, min(s.next, e.Source)
		}
	case *ledger.Hop:
		if e.Fold != nil && e.Fold.Void {
			return
		}
		s := c.copies[e.Copy]
		if s == nil {
			c.copies[e.Copy] = &checkedCopy{e.Epoch, e.Next}
			return
		}
		if e.Epoch < s.epoch {
			return // void, as every reader takes it
		}
		if e.From != s.next {
			f.Kind = FoundContradiction
			f.Reason = fmt.Sprintf("a hop of copy %x begins at source offset %d, the one before it ended at %d", e.Copy[:], e.From, s.next)
			c.found(f)
		}
		s.epoch, s.next = e.Epoch, e.Next
	}
}

// Passed says that all of a partition below an offset was read.
func (c *Checker) Passed(partition int32, offset int64) {
	p := c.partitions[partition]
	p.End = max(p.End, offset)
	if p.opening != nil {
		return
	}
	for as := c.anchors[partition]; len(as) > 0 && as[0].Offset <= offset; as = as[1:] {
		c.anchors[partition] = as[1:]
		if got := p.anchor(); got.Sum != as[0].Sum {
			c.found(Finding{
				Partition: partition, Offset: as[0].Offset, Kind: FoundRewritten,
				Reason: "what the ledger says below this offset is not what it said when the anchor was taken",
			})
		}
	}
}

// anchor is what the chains have come to.
func (p *checked) anchor() Anchor {
	writers := make([]ledger.WriterID, 0, len(p.chains))
	for w := range p.chains {
		writers = append(writers, w)
	}
	slices.SortFunc(writers, func(a, b ledger.WriterID) int { return bytes.Compare(a[:], b[:]) })
	h := sha256.New()
	for _, w := range writers {
		t := p.chains[w]
		_, _ = h.Write(append(binary.BigEndian.AppendUint64(w[:], t.Next), t.Hash[:]...)) // never fails
	}
	return Anchor{p.Partition, p.End, [16]byte(h.Sum(nil))}
}

// Report ends the check.
func (c *Checker) Report() *CheckReport {
	r := &CheckReport{Partitions: []CheckedPartition{}}
	for _, p := range c.partitions {
		if p.opening != nil {
			c.giveUp(p)
		}
	}
	for n, as := range c.anchors {
		for _, a := range as {
			end := int64(0)
			if p := c.partitions[n]; p != nil {
				end = p.End
			}
			c.found(Finding{Partition: n, Offset: a.Offset, Kind: FoundCut, Reason: fmt.Sprintf("an anchor was taken at offset %d, the ledger ends at %d", a.Offset, end)})
		}
	}
	for _, p := range c.partitions {
		p.Writers = len(p.chains)
		p.Anchor = p.anchor().String()
		r.Partitions = append(r.Partitions, p.CheckedPartition)
	}
	slices.SortFunc(r.Partitions, func(a, b CheckedPartition) int { return int(a.Partition) - int(b.Partition) })
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return int(a.Partition) - int(b.Partition) })
	r.Findings, r.More = append([]Finding{}, c.findings...), c.more
	return r
}
