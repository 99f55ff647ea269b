package raftnode

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Both ends of a raft connection say who they are before raft says anything:
//
//	dialler  -> length u16 | hello as JSON
//	acceptor -> length u16 | helloAnswer as JSON
//
// So no vote and no acknowledgement reaches, or comes from, a disk that is not the
// one that the group counts on. Fields that one end does not know are ignored.
const maxHello = 4 << 10

// hello is what a dialler says.
type hello struct {
	Group string `json:"group,omitempty"`
	ID    string `json:"id"`
	Disk  string `json:"disk"`
	Life  uint64 `json:"life"`
	// Configuration is the index of the latest that the dialler has, 0 if none.
	Configuration uint64 `json:"configuration"`
	// To is the disk that it wants to talk to, and the life that it has heard of.
	To     string `json:"to"`
	ToLife uint64 `json:"toLife"`
	// Heard is what that disk has told the dialler before.
	Heard heard `json:"heard"`
	// Probe: the dialler only wants the answer.
	Probe bool `json:"probe,omitempty"`
}

// helloAnswer is what an acceptor answers.
type helloAnswer struct {
	ID   string `json:"id"`
	Life uint64 `json:"life"`
	// Refusal says why the connection is closed; Code is one of the codes below.
	Code    string `json:"code,omitempty"`
	Refusal string `json:"refusal,omitempty"`
	// Heard is what the dialler's disk has told the acceptor before.
	Heard heard `json:"heard"`
}

const (
	codeGroup   = "group"   // the dialler belongs to another group
	codeDisk    = "disk"    // another disk answers than the one that was looked for
	codeStale   = "stale"   // the dialler's disk was put back from a copy
	codeRemoved = "removed" // the dialler is no member any more
)

// heard is the most that a disk has promised to a peer: the highest term in which
// it voted or acknowledged, and up to where it acknowledged the log in that term.
// Neither goes back on a disk that has not been tampered with.
type heard struct {
	Term  uint64 `json:"term,omitempty"`
	Index uint64 `json:"index,omitempty"`
}

func (h heard) beyond(o heard) bool {
	return h.Term > o.Term || h.Term == o.Term && h.Index > o.Index
}

// standing is what a node knows when it meets another.
type standing struct {
	id    string
	disk  disk
	now   heard  // its own current term, and the end of its log
	index uint64 // of the latest configuration, 0 if it has none
	// members of that configuration, by id.
	members map[string]place
	// lives of disks, as far as they have been heard of.
	lives map[string]uint64
}

// errStale says what a node that is told so must do.
func errStale(format string, args ...any) error {
	return fmt.Errorf("%w: %s. Remove this node from the group, wipe its directory and let it join anew", ErrStaleDisk, fmt.Sprintf(format, args...))
}

// judge decides on a dialler. An error says that the acceptor's own disk cannot be
// trusted; else an empty code accepts.
func (s standing) judge(h hello) (code, reason string, own error) {
	if h.Group != "" && s.disk.group != "" && h.Group != s.disk.group {
		return codeGroup, fmt.Sprintf("%s belongs to group %s, %s to group %s", s.id, s.disk.group, h.ID, h.Group), nil
	}
	if h.To != s.disk.id {
		return codeDisk, fmt.Sprintf("%s looks for disk %s; the disk of %s is %s", h.ID, h.To, s.id, s.disk.id), nil
	}
	if h.ToLife > s.disk.life {
		return codeDisk, fmt.Sprintf("the disk of %s is in life %d", s.id, s.disk.life),
			errStale("%s knows this disk in life %d, it is in life %d", h.ID, h.ToLife, s.disk.life)
	}
	if h.Heard.beyond(s.now) {
		return codeDisk, fmt.Sprintf("the disk of %s has lost what it acknowledged", s.id),
			errStale("%s has acknowledgements of this disk up to term %d, entry %d; the disk is at term %d, entry %d",
				h.ID, h.Heard.Term, h.Heard.Index, s.now.Term, s.now.Index)
	}
	// A dialler with a later configuration knows better who is a member.
	if s.index == 0 || h.Configuration > s.index {
		return "", "", nil
	}
	at, ok := s.members[h.ID]
	switch {
	case !ok:
		return codeRemoved, h.ID + " is not a member of the group", nil
	case at.disk != h.Disk:
		return codeRemoved, fmt.Sprintf("%s is a member with disk %s, not with disk %s", h.ID, at.disk, h.Disk), nil
	case s.lives[h.Disk] > h.Life:
		return codeStale, fmt.Sprintf("%s knows the disk of %s in life %d, it is in life %d", s.id, h.ID, s.lives[h.Disk], h.Life), nil
	}
	return "", "", nil
}

// greet says hello on a connection and reads the answer.
func greet(ctx context.Context, c net.Conn, h hello) (helloAnswer, error) {
	var a helloAnswer
	defer deadline(ctx, c)()
	if err := writeHello(c, h); err != nil {
		return a, fmt.Errorf("say hello: %w", err)
	}
	if err := readHello(c, &a); err != nil {
		return a, fmt.Errorf("hello is not answered: %w", err)
	}
	return a, nil
}

// deadline bounds what happens on a connection by a context, until the returned
// function is called.
func deadline(ctx context.Context, c net.Conn) (reset func()) {
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			_ = c.SetDeadline(time.Time{})
		}
	}
}

func writeHello(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxHello {
		return fmt.Errorf("%d bytes, at most %d", len(b), maxHello)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

func readHello(r io.Reader, v any) error {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n == 0 || n > maxHello {
		return fmt.Errorf("a hello of %d bytes, at most %d", n, maxHello)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}

// ErrStaleDisk says that a node's directory is older than what it has promised to
// the group: it was put back from a copy.
var ErrStaleDisk = errors.New("the node's directory was put back from a copy")
