package cluster

import (
	"fmt"
	"maps"
	"time"
)

// JoinToken lets one node in. The fleet keeps the digest of its secret only.
type JoinToken struct {
	Digest string `json:"digest"`
	// Worker: who comes with it never votes.
	Worker  bool      `json:"worker,omitempty"`
	Expires time.Time `json:"expires"`
	// Name and Disk are those of the node that has used it, empty while none has.
	Name string `json:"name,omitempty"`
	Disk string `json:"disk,omitempty"`
}

// maxTokens bounds the tokens that are remembered; tokenMemory is for how long after
// their end, so that a late comer is told what is wrong.
const (
	maxTokens   = 256
	tokenMemory = 24 * time.Hour
)

// CreateToken notes a token. Expires and Now are by the clock of the node that was
// asked for it.
type CreateToken struct {
	ID      string    `json:"id"`
	Digest  string    `json:"digest"`
	Worker  bool      `json:"worker,omitempty"`
	Expires time.Time `json:"expires"`
	Now     time.Time `json:"now"`
}

func (*CreateToken) kind() string     { return "token.create" }
func (*CreateToken) repeatable() bool { return true }

func (c *CreateToken) apply(d *draft, _ uint64) (uint64, error) {
	if c.ID == "" || c.Digest == "" || !c.Expires.After(c.Now) {
		return 0, fmt.Errorf("token without id, digest or time: %w", ErrInvalid)
	}
	maps.DeleteFunc(d.tokens(), func(_ string, t JoinToken) bool { return c.Now.Sub(t.Expires) > tokenMemory })
	if old, ok := d.Tokens[c.ID]; ok && old.Digest != c.Digest {
		return 0, fmt.Errorf("token %s exists: %w", c.ID, ErrConflict)
	} else if ok {
		return 0, nil
	}
	if len(d.Tokens) >= maxTokens {
		return 0, fmt.Errorf("there are %d join tokens already; delete some: %w", len(d.Tokens), ErrConflict)
	}
	d.tokens()[c.ID] = JoinToken{Digest: c.Digest, Worker: c.Worker, Expires: c.Expires.UTC()}
	return 0, nil
}

// DeleteToken takes a token back.
type DeleteToken struct {
	ID string `json:"id"`
}

func (*DeleteToken) kind() string     { return "token.delete" }
func (*DeleteToken) repeatable() bool { return true }

func (c *DeleteToken) apply(d *draft, _ uint64) (uint64, error) {
	if _, ok := d.Tokens[c.ID]; !ok {
		return 0, fmt.Errorf("join token %s: %w", c.ID, ErrNotFound)
	}
	delete(d.tokens(), c.ID)
	return 0, nil
}

// RedeemToken lets the node Name on a disk in. Its number is 1 if it comes as a
// worker. Only the same node on the same disk may use a token again: it did not get
// the answer.
type RedeemToken struct {
	ID     string    `json:"id"`
	Digest string    `json:"digest"`
	Name   string    `json:"name"`
	Disk   string    `json:"disk"`
	Now    time.Time `json:"now"`
}

func (*RedeemToken) kind() string     { return "token.redeem" }
func (*RedeemToken) repeatable() bool { return true }

func (c *RedeemToken) apply(d *draft, _ uint64) (uint64, error) {
	if err := d.redeemable(c); err != nil {
		return 0, err
	}
	t := d.Tokens[c.ID]
	t.Name, t.Disk = c.Name, c.Disk
	d.tokens()[c.ID] = t
	if t.Worker {
		return 1, nil
	}
	return 0, nil
}

// redeemable says why a token does not let a node in.
func (s *State) redeemable(c *RedeemToken) error {
	t, ok := s.Tokens[c.ID]
	switch {
	case c.Name == "" || c.Disk == "":
		return refusedAs(ErrInvalid, "node without name or disk")
	case !ok || t.Digest != c.Digest:
		return refusedAs(ErrNotFound, "this fleet has no such join token: it was taken back, or ended more than a day ago")
	case t.Name == c.Name && t.Disk == c.Disk && !c.Now.After(t.Expires.Add(tokenMemory)):
		return nil
	case t.Name != "":
		return refusedAs(ErrConflict, "the join token has been used, by node %q", t.Name)
	case c.Now.After(t.Expires):
		return refusedAs(ErrConflict, "the join token ended at %s", t.Expires.Format(time.RFC3339))
	}
	if _, ok := s.Members[c.Name]; ok {
		return refusedAs(ErrConflict, "node %q is a member; if this one is to replace it, remove that one first", c.Name)
	}
	for _, other := range s.Tokens {
		if other.Name == c.Name && other.Disk != c.Disk {
			return refusedAs(ErrConflict, "another node has joined as %q; two cannot have one name, and to replace it, remove it first", c.Name)
		}
	}
	return nil
}
