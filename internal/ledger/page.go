package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// Versions of the page format that this package writes: pages of a fold have one of
// their own, so that programs which know of none leave them alone.
const (
	Version     = 1
	FoldVersion = 2
)

var magic = []byte("WL")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrVersion says that a page was written by a newer format.
var ErrVersion = errors.New("ledger page of a newer version")

// CorruptError says that bytes are not a page of this version.
type CorruptError struct {
	Reason string
	// Foreign says that the bytes do not even claim to be a page, so that no
	// writer of the ledger made them: nothing of a chain is lost with them.
	Foreign bool
}

func (e *CorruptError) Error() string { return "corrupt ledger page: " + e.Reason }

// WriterID names the author of a chain of pages: one lane at one producer
// epoch, or one start of a broker. It is random (a UUID).
type WriterID [16]byte

// Link is a page's place in its writer's chain.
type Link struct {
	Writer   WriterID
	Sequence uint64   // from 0, without holes, per writer and ledger partition
	Previous [32]byte // SHA-256 of the previous page, zero at sequence 0
}

// Page is the value of one record of the ledger topic.
type Page struct {
	Link
	Entries []Entry
	// Fold says that the page is part of a fold: it repeats what pages before it say, for
	// those who come when these are gone. Who has read them passes over it.
	Fold bool
	// Unknown counts entries of kinds that this version does not know.
	Unknown int
	// Hash is the SHA-256 of the page's bytes, set by Decode.
	Hash [32]byte
}

// Chain writes the pages of one writer to one ledger partition. The zero Chain
// with a Writer set is a new one. It is not safe for concurrent use.
//
// A page that is encoded but never committed breaks the chain: a writer whose
// transaction aborts starts a new one, under a new WriterID.
type Chain struct {
	next Link
	fold bool
}

// NewChain starts a chain.
func NewChain(w WriterID) *Chain { return &Chain{next: Link{Writer: w}} }

// NewFoldChain starts the chain of a fold's pages.
func NewFoldChain(w WriterID) *Chain { return &Chain{next: Link{Writer: w}, fold: true} }

// ChainAt goes on with a chain from a place in it, such as one that a page had.
func ChainAt(l Link) *Chain { return &Chain{next: l} }

// Encode returns the next page of the chain.
func (c *Chain) Encode(entries []Entry) []byte {
	page, _ := c.EncodeUpTo(entries, math.MaxInt)
	return page
}

// EncodeUpTo returns the next page of the chain, of as many of the entries as
// take about limit bytes, at least one, and the entries that are left.
func (c *Chain) EncodeUpTo(entries []Entry, limit int) (page []byte, rest []Entry) {
	var all, body []byte
	rest = entries
	for len(rest) > 0 {
		body = rest[0].append(body[:0])
		if len(all) > 0 && len(all)+len(body) > limit {
			break
		}
		all = append(all, byte(rest[0].kind()))
		all = binary.AppendUvarint(all, uint64(len(body)))
		all = append(all, body...)
		rest = rest[1:]
	}
	b := append([]byte{}, magic...)
	version := byte(Version)
	if c.fold {
		version = FoldVersion
	}
	b = append(b, version)
	b = append(b, c.next.Writer[:]...)
	b = binary.AppendUvarint(b, c.next.Sequence)
	b = append(b, c.next.Previous[:]...)
	b = binary.AppendUvarint(b, uint64(len(entries)-len(rest)))
	b = append(b, all...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	c.next.Sequence++
	c.next.Previous = sha256.Sum256(b)
	return b, rest
}

// Decode reads a page. It returns a *CorruptError if the bytes are not one, and
// an error that wraps [ErrVersion] if they are one of a newer format.
func Decode(b []byte) (*Page, error) {
	const minPage = 2 + 1 + 16 + 1 + 32 + 1 + 4
	if !bytes.HasPrefix(b, magic) {
		return nil, &CorruptError{Reason: "not a page", Foreign: true}
	}
	if len(b) < minPage {
		return nil, &CorruptError{Reason: fmt.Sprintf("%d bytes, a page has %d or more", len(b), minPage)}
	}
	if v := b[2]; v != Version && v != FoldVersion {
		return nil, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, v, FoldVersion)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, &CorruptError{Reason: "checksum does not match"}
	}
	p := &Page{Hash: sha256.Sum256(b), Fold: b[2] == FoldVersion}
	r := &reader{buf: body[3:]}
	copy(p.Writer[:], r.take(len(p.Writer)))
	p.Sequence = r.uvarint()
	copy(p.Previous[:], r.take(len(p.Previous)))
	for n := r.count(2); n > 0 && r.bad == ""; n-- {
		k := kind(r.byte())
		if k.ofFold() && !p.Fold {
			r.fail("entry of kind %d outside a fold", k)
		}
		entry := &reader{buf: r.take(r.count(1))}
		entry.bad = r.bad
		e := readEntry(k, entry)
		switch {
		case entry.bad != "":
			r.fail("entry of kind %d: %s", k, entry.bad)
		case e == nil:
			p.Unknown++
		default:
			p.Entries = append(p.Entries, e)
		}
	}
	if r.bad == "" && len(r.buf) != 0 {
		r.bad = fmt.Sprintf("%d bytes after the last entry", len(r.buf))
	}
	if r.bad != "" {
		return nil, &CorruptError{Reason: r.bad}
	}
	return p, nil
}

// isFold says that bytes claim to be a page of a fold.
func isFold(b []byte) bool {
	return bytes.HasPrefix(b, append(magic[:len(magic):len(magic)], FoldVersion))
}

// readEntry returns nil for a kind that this version does not know. Bytes after
// an entry's known fields are fields of a later version, and left alone.
func readEntry(k kind, r *reader) Entry {
	var e interface {
		Entry
		read(*reader)
	}
	switch k {
	case kindBegin:
		e = new(Begin)
	case kindHop:
		e = new(Hop)
	case kindRetraction:
		e = new(Retraction)
	case kindWriter:
		e = new(Writer)
	case kindProduction:
		e = new(Production)
	case kindAccess:
		e = new(Access)
	case kindEvent:
		e = new(Event)
	case kindRules:
		e = new(Rules)
	case kindQuarantine:
		e = new(Quarantine)
	case kindProgress:
		e = new(Progress)
	case kindFold:
		h := new(Hop)
		h.readFold(r)
		return h
	case kindTails:
		e = new(Tails)
	case kindCut:
		e = new(Cut)
	default:
		return nil
	}
	e.read(r)
	return e
}

// AppendEntry appends one entry, by itself, to dst: for readers that keep entries
// in a store of their own.
func AppendEntry(dst []byte, e Entry) []byte { return e.append(append(dst, byte(e.kind()))) }

// ReadEntry reads what [AppendEntry] wrote. It returns a *CorruptError if the
// bytes are no entry of a kind that this version knows.
func ReadEntry(b []byte) (Entry, error) {
	r := &reader{buf: b}
	k := kind(r.byte())
	e := readEntry(k, r)
	if e == nil {
		r.fail("entry of kind %d", k)
	}
	if r.bad != "" {
		return nil, &CorruptError{Reason: r.bad}
	}
	return e, nil
}
