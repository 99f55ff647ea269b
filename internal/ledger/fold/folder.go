package fold

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Rule is by what rule this version puts hops together. It is raised with any change of
// what comes out, so that a fold by another rule is not taken for a forged one.
const Rule = 1

// RefusedError says why a ledger partition cannot be folded.
type RefusedError struct {
	Offset int64 // of the ledger, where it shows
	Why    string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the ledger cannot be folded: offset %d: %s", e.Offset, e.Why)
}

// Folder reads one ledger partition and keeps what stands for it: some five bytes for
// each run, as a map of offsets does. It is not safe for concurrent use.
type Folder struct {
	cluster string
	next    int64
	chains  ledger.Chains
	sum     [32]byte
	pages   uint64
	refused *RefusedError

	copies  map[ledger.CopyKey]*copied
	writers map[producer]*ledger.Writer
	events  []*ledger.Event
	deeds   map[deedKey]*deed
}

type producer struct {
	cluster string
	id      int64
}

// New is for a partition of the ledger of a cluster, by cluster.id.
func New(cluster string) *Folder {
	return &Folder{
		cluster: cluster, chains: ledger.Chains{}, copies: map[ledger.CopyKey]*copied{},
		writers: map[producer]*ledger.Writer{}, deeds: map[deedKey]*deed{},
	}
}

// Open begins with a fold in place of the records below it. It comes first.
func (f *Folder) Open(o *ledger.Opened) error {
	for r, p := range o.Pages() {
		f.chains.Follow(p)
		for _, e := range p.Entries {
			if err := f.entry(e); err != nil {
				return f.refuse(r.Offset, err.Error())
			}
		}
	}
	f.next, f.sum, f.pages = o.Cut.Next, o.Cut.Sum, o.Cut.Pages
	return nil
}

func (f *Folder) refuse(offset int64, why string) error {
	if f.refused == nil {
		f.refused = &RefusedError{offset, why}
	}
	return f.refused
}

// Record takes the next record. Its error is a *[RefusedError], and then stays.
func (f *Folder) Record(offset int64, value []byte) error {
	if f.refused != nil {
		return f.refused
	}
	f.next = offset + 1
	p, err := ledger.Decode(value)
	if corrupt, ok := errors.AsType[*ledger.CorruptError](err); ok && corrupt.Foreign {
		return nil // no page: nobody has said anything
	}
	if err == nil {
		err = f.chains.Verify(p)
	}
	if err != nil {
		return f.refuse(offset, err.Error())
	}
	f.sum = sha256.Sum256(append(f.sum[:], p.Hash[:]...))
	f.pages++
	switch {
	case p.Fold:
		return nil // it was heard before
	case p.Unknown > 0:
		return f.refuse(offset, "it has entries that this version does not know")
	}
	for _, e := range p.Entries {
		if err := f.entry(e); err != nil {
			return f.refuse(offset, err.Error())
		}
	}
	return nil
}

// Passed says that everything below an offset was read.
func (f *Folder) Passed(next int64) { f.next = max(f.next, next) }

// Next is the offset below which everything was read.
func (f *Folder) Next() int64 { return f.next }

var errForeign = errors.New("it speaks of another cluster")

func (f *Folder) entry(e ledger.Entry) error {
	switch e := e.(type) {
	case *ledger.Begin:
		if e.Copy.Destination.Cluster != f.cluster {
			return errForeign
		}
		return f.copy(e.Copy.Key()).begin(e)
	case *ledger.Hop:
		return f.copy(e.Copy).hop(e)
	case *ledger.Retraction:
		return f.copy(e.Copy).retraction(e)
	case *ledger.Rules:
		f.copy(e.Copy).rules(e)
	case *ledger.Quarantine:
		f.copy(e.Copy).quarantine(e)
	case *ledger.Writer:
		if e.Cluster != f.cluster {
			return errForeign
		}
		f.writers[producer{e.Cluster, e.ProducerID}] = e
	case *ledger.Event:
		f.events = append(f.events, e)
	case *ledger.Production:
		f.produced(e)
	case *ledger.Access:
		f.accessed(e)
	case *ledger.Progress:
		f.progressed(e)
	case *ledger.Tails, *ledger.Cut:
		// Of the fold with which the partition begins: the chains and Open have them.
	default:
		return fmt.Errorf("it has an entry that this version does not know how to fold: %T", e)
	}
	return nil
}

func (f *Folder) copy(k ledger.CopyKey) *copied {
	c := f.copies[k]
	if c == nil {
		c = &copied{next: -1, destNext: -1, begun: map[uint64]*begun{}}
		f.copies[k] = c
	}
	return c
}

// Entries is what stands for everything that was read.
func (f *Folder) Entries() iter.Seq[ledger.Entry] {
	return func(yield func(ledger.Entry) bool) {
		for _, k := range slices.SortedFunc(maps.Keys(f.copies), func(a, b ledger.CopyKey) int { return bytes.Compare(a[:], b[:]) }) {
			for e := range f.copies[k].entries() {
				if !yield(e) {
					return
				}
			}
		}
		byID := func(a, b producer) int { return cmp.Or(cmp.Compare(a.cluster, b.cluster), cmp.Compare(a.id, b.id)) }
		for _, w := range slices.SortedFunc(maps.Keys(f.writers), byID) {
			if !yield(f.writers[w]) {
				return
			}
		}
		for _, e := range f.events {
			if !yield(e) {
				return
			}
		}
		for _, k := range slices.SortedFunc(maps.Keys(f.deeds), deedKey.compare) {
			for e := range f.deeds[k].entries(k) {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// tailsAtOnce is how many chains one entry tells of.
const tailsAtOnce = 1000

// tails are the ends of all chains.
func (f *Folder) tails() iter.Seq[ledger.Entry] {
	return func(yield func(ledger.Entry) bool) {
		writers := slices.SortedFunc(maps.Keys(f.chains), func(a, b ledger.WriterID) int { return bytes.Compare(a[:], b[:]) })
		for some := range slices.Chunk(writers, tailsAtOnce) {
			e := &ledger.Tails{}
			for _, w := range some {
				e.Of = append(e.Of, ledger.WriterTail{Writer: w, Tail: f.chains[w]})
			}
			if !yield(e) {
				return
			}
		}
	}
}

// Author is who writes a fold.
type Author struct {
	Writer      ledger.WriterID
	Fleet, Node string
}

// pageBytes is about how large a page is.
const pageBytes = 256 << 10

// Pages is a fold as it is written: all of its pages, in order.
func (f *Folder) Pages(by Author, at time.Time) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		chain := ledger.NewFoldChain(by.Writer)
		var some []ledger.Entry
		var size int
		for _, part := range []iter.Seq[ledger.Entry]{f.Entries(), f.tails()} {
			for e := range part {
				some = append(some, e)
				if size += len(ledger.AppendEntry(nil, e)); size < pageBytes {
					continue
				}
				if !yield(chain.Encode(some)) {
					return
				}
				some, size = nil, 0
			}
		}
		cut := &ledger.Cut{Next: f.next, Sum: f.sum, Pages: f.pages, Rule: Rule, Fleet: by.Fleet, Node: by.Node, At: at.UTC().Truncate(time.Millisecond)}
		yield(chain.Encode(append(some, cut)))
	}
}

// Digest is of all that a fold says of what came before it.
type Digest struct {
	Cut ledger.Cut
	sum [32]byte
}

// DigestOf is that of a fold that was written.
func DigestOf(o *ledger.Opened) Digest {
	h := sha256.New()
	for _, p := range o.Pages() {
		for _, e := range p.Entries {
			if _, last := e.(*ledger.Cut); !last {
				_, _ = h.Write(ledger.AppendEntry(nil, e)) // never fails
			}
		}
	}
	return Digest{*o.Cut, [32]byte(h.Sum(nil))}
}

// Proves says whether a fold says what it should of what was read, which ends where the
// fold does. It returns an error if the fold is by a rule of another version.
func (f *Folder) Proves(d Digest) (bool, error) {
	if d.Cut.Rule != Rule {
		return false, fmt.Errorf("it was folded by rule %d, this version knows %d", d.Cut.Rule, Rule)
	}
	h := sha256.New()
	for _, part := range []iter.Seq[ledger.Entry]{f.Entries(), f.tails()} {
		for e := range part {
			_, _ = h.Write(ledger.AppendEntry(nil, e))
		}
	}
	return f.refused == nil && d.Cut.Next == f.next && d.Cut.Sum == f.sum && d.Cut.Pages == f.pages && d.sum == [32]byte(h.Sum(nil)), nil
}
