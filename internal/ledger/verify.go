package ledger

import "fmt"

// ChainError says that a page does not follow its writer's previous page: one
// was removed, altered, repeated or moved. The page itself is readable.
type ChainError struct {
	Writer    WriterID
	Want, Got uint64 // sequence numbers
	Repeated  bool   // it is the very page that stands before it
	Reason    string
}

func (e *ChainError) Error() string {
	return fmt.Sprintf("broken ledger chain of writer %x at page %d: %s", e.Writer[:], e.Got, e.Reason)
}

// Old says that the page is one that was there before, so that nothing is
// missing because of it and nothing in it is new.
func (e *ChainError) Old() bool { return e.Got < e.Want }

// Tail is where a writer's chain ends, as far as a reader has followed it in
// one ledger partition. The zero Tail is the start of a chain.
type Tail struct {
	Next uint64   // sequence of the page to come
	Hash [32]byte // SHA-256 of the page before it
}

// Verify follows the chain over p. It returns the tail after p and, if p is not
// the page to come, a *ChainError. The tail goes on from p even then, so that a
// break is found once, except when p is an old page: those move nothing.
func (t Tail) Verify(p *Page) (Tail, error) {
	after := Tail{Next: p.Sequence + 1, Hash: p.Hash}
	broken := func(reason string) error { return &ChainError{p.Writer, t.Next, p.Sequence, after == t, reason} }
	switch {
	case p.Sequence < t.Next && after == t:
		return t, broken("the page is there twice")
	case p.Sequence < t.Next:
		return t, broken("an older page follows a newer one")
	case p.Sequence > t.Next:
		return after, broken(fmt.Sprintf("%d pages before it are missing", p.Sequence-t.Next))
	case p.Previous != t.Hash:
		return after, broken("the page before it is not the one that its writer wrote")
	}
	return after, nil
}

// Chains follows the chains of all writers of one ledger partition. It is not
// safe for concurrent use.
type Chains map[WriterID]Tail

// Verify follows p's chain and returns a *ChainError if p does not continue it.
func (c Chains) Verify(p *Page) error {
	after, err := c[p.Writer].Verify(p)
	c[p.Writer] = after
	return err
}

// Adopt takes p as it is, for a reader that began in the middle of the ledger:
// the chains of writers that it has not met are followed from here on.
func (c Chains) Adopt(p *Page) error {
	if _, met := c[p.Writer]; met {
		return c.Verify(p)
	}
	c[p.Writer] = Tail{Next: p.Sequence + 1, Hash: p.Hash}
	return nil
}
