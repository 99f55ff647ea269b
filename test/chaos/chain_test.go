//go:build chaos && unix

package chaos

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// link is a page's place in its writer's chain, read from the page's bytes as the
// format draws them.
type link struct {
	writer   [16]byte
	sequence uint64
	previous [sha256.Size]byte
}

// linkOf reads the head of a page: magic and version, writer, sequence, hash of the
// page before.
func linkOf(page []byte) (l link, err error) {
	rest, ok := bytes.CutPrefix(page, []byte{'W', 'L', 1})
	if !ok || len(rest) < len(l.writer) {
		return l, errors.New("this is no page of version 1")
	}
	rest = rest[copy(l.writer[:], rest):]
	sequence, n := binary.Uvarint(rest)
	if n <= 0 || len(rest) < n+len(l.previous) {
		return l, errors.New("the page ends in its head")
	}
	l.sequence = sequence
	copy(l.previous[:], rest[n:])
	return l, nil
}

// chains are the ends of all writers' chains in one partition of a ledger: the
// sequence number that comes next, and the hash that it must name.
type chains map[[16]byte]link

// follow checks that a page goes on with its writer's chain. Where pages are in no
// transaction, one that was sent again may be there twice, one after the other.
func (c chains) follow(page []byte, mayRepeat bool) error {
	l, err := linkOf(page)
	if err != nil {
		return err
	}
	due := c[l.writer]
	hash := sha256.Sum256(page)
	switch {
	case mayRepeat && l.sequence+1 == due.sequence && hash == due.previous:
		return nil
	case l.sequence != due.sequence:
		return fmt.Errorf("page %d of writer %x stands where its page %d is due", l.sequence, l.writer, due.sequence)
	case l.previous != due.previous:
		return fmt.Errorf("page %d of writer %x names another page before it than the one that is there", l.sequence, l.writer)
	}
	c[l.writer] = link{writer: l.writer, sequence: l.sequence + 1, previous: hash}
	return nil
}
