package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Author is who asked for a command, and for what: what the audit trail keeps of
// a change. It holds no secrets.
type Author struct {
	User    string `json:"user"`
	Role    string `json:"role,omitempty"`
	Address string `json:"address,omitempty"` // that the call came from
	Node    string `json:"node,omitempty"`    // that was called
	// Time of the call, by the clock of that node.
	Time time.Time `json:"time"`
	// Operation of the API, and what it was about.
	Operation string    `json:"operation"`
	Target    string    `json:"target,omitempty"`
	Reason    string    `json:"reason,omitempty"` // in the caller's words
	Objects   []Touched `json:"objects,omitempty"`
	// More objects were touched than are told apart.
	More int `json:"more,omitempty"`
}

// Touched is an object that a command declares, changes or removes.
type Touched struct {
	Key    string `json:"key"`
	Action string `json:"action,omitempty"`
	// Diff is in short, for people.
	Diff []string `json:"diff,omitempty"`
	// Before and After are the object's revisions, 0 where there is none. They are
	// filled in when the command is applied.
	Before uint64 `json:"before,omitempty"`
	After  uint64 `json:"after,omitempty"`
}

// Stamp is who changed something, and when.
type Stamp struct {
	User      string    `json:"user"`
	Time      time.Time `json:"time"`
	Operation string    `json:"operation,omitempty"`
}

// Record is a change that was accepted.
type Record struct {
	// Seq counts the fleet's records, from 1.
	Seq uint64 `json:"seq"`
	// Revision is the raft index of the command, Command its kind.
	Revision uint64 `json:"revision"`
	Command  string `json:"command"`
	Author
	// Chain is the SHA-256 of the record before's Chain and of this record without
	// it, so that a record that was altered or taken out shows.
	Chain string `json:"chain"`
}

// link computes Chain.
func (r Record) link(before string) (string, error) {
	r.Chain = ""
	b, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte(before), b...))
	return hex.EncodeToString(sum[:]), nil
}

// Follows reports whether r is the record after before, which is nil for the
// first of a fleet.
func (r Record) Follows(before *Record) bool {
	var seq uint64
	var chain string
	if before != nil {
		seq, chain = before.Seq, before.Chain
	}
	want, err := r.link(chain)
	return err == nil && r.Seq == seq+1 && r.Chain == want
}

// maxTrail is how many records the state keeps. Nodes write them to files of
// their own; one that was away for more of them asks the others.
const maxTrail = 256

// Bounds of one record, so that the trail stays far below a snapshot's size.
const (
	maxAuthored  = 8 << 10 // bytes of JSON that a command's author may have
	maxTouched   = 40      // objects that are told apart
	maxDiffLines = 8
	maxDiffLine  = 120
	maxText      = 256
)

// Audited is a command and who asked for it. The change and its record are one
// step: neither is without the other.
type Audited struct {
	Author  Author
	Command Command
}

type encodedAudited struct {
	Author  Author          `json:"author"`
	Command json.RawMessage `json:"command"` // an envelope
}

// MarshalJSON implements json.Marshaler.
func (c *Audited) MarshalJSON() ([]byte, error) {
	if c.Command == nil {
		return json.Marshal(encodedAudited{Author: c.Author, Command: json.RawMessage("null")})
	}
	inner, err := encodeCommand(c.Command)
	if err != nil {
		return nil, err
	}
	return json.Marshal(encodedAudited{Author: c.Author, Command: inner})
}

// decode reads data, as strict as decodeKnown, which calls it: what it wraps is to be
// one of the same commands.
func (c *Audited) decode(data []byte, commands map[string]func() Command) error {
	var e encodedAudited
	if err := strictJSON(data, &e); err != nil {
		return err
	}
	var peek envelope
	if err := json.Unmarshal(e.Command, &peek); err == nil && peek.Kind == c.kind() {
		return errors.New("an audited command within another")
	}
	inner, err := decodeKnown(e.Command, commands)
	if err != nil {
		return err
	}
	c.Author, c.Command = e.Author, inner
	return nil
}

func (*Audited) kind() string { return "audited" }

func (c *Audited) repeatable() bool { return c.Command.repeatable() }

func (c *Audited) apply(d *draft, index uint64) (uint64, error) {
	a := c.Author
	if b, err := json.Marshal(a); err != nil || len(b) > maxAuthored {
		return 0, fmt.Errorf("author of %d bytes, at most %d: %w", len(b), maxAuthored, ErrInvalid)
	}
	a.Time = a.Time.UTC()
	a.Objects = slices.Clone(a.Objects)
	for i, o := range a.Objects {
		a.Objects[i].Before = d.Objects[o.Key].Revision
	}
	declared := d.ObjectsRevision
	number, err := c.Command.apply(d, index)
	if err != nil {
		return 0, err
	}
	for i, o := range a.Objects {
		a.Objects[i].After = d.Objects[o.Key].Revision
	}
	if d.ObjectsRevision != declared {
		d.stamp(index, &Stamp{User: a.User, Time: a.Time, Operation: a.Operation})
	}
	return number, d.record(Record{Revision: index, Command: c.Command.kind(), Author: a})
}

// stamp says who made the change of the objects at index.
func (d *draft) stamp(index uint64, by *Stamp) {
	d.ObjectsChanged = by
	for key, o := range d.Objects {
		if o.Revision == index {
			o.Changed = by
			d.objects()[key] = o
		}
	}
}

// record appends to the trail.
func (d *draft) record(r Record) error {
	before := ""
	if n := len(d.Trail); n > 0 {
		r.Seq, before = d.Trail[n-1].Seq, d.Trail[n-1].Chain
	}
	r.Seq++
	var err error
	if r.Chain, err = r.link(before); err != nil {
		return fmt.Errorf("record: %w: %w", ErrInvalid, err)
	}
	kept := d.Trail[max(0, len(d.Trail)-maxTrail+1):]
	d.Trail = append(slices.Clone(kept), r)
	return nil
}

// bounded cuts an author down to what a record may hold, and says where.
func (a Author) bounded() Author {
	a.User, a.Role, a.Address, a.Node = cut(a.User, maxText), cut(a.Role, maxText), cut(a.Address, maxText), cut(a.Node, maxText)
	a.Operation, a.Target, a.Reason = cut(a.Operation, maxText), cut(a.Target, maxText), cut(a.Reason, maxText)
	objects := a.Objects
	a.Objects = nil
	room := maxAuthored - 3<<10 // what the fields above take at most
	for n, o := range objects {
		t := Touched{Key: cut(o.Key, maxText), Action: cut(o.Action, maxText)}
		for i, line := range o.Diff {
			if i == maxDiffLines-1 && len(o.Diff) > maxDiffLines {
				t.Diff = append(t.Diff, fmt.Sprintf("... %d more", len(o.Diff)-i))
				break
			}
			t.Diff = append(t.Diff, cut(line, maxDiffLine))
		}
		size := jsonSize(t)
		if size > room {
			t.Diff = nil
			size = jsonSize(t)
		}
		if size > room || len(a.Objects) == maxTouched {
			a.More += len(objects) - n
			break
		}
		a.Objects, room = append(a.Objects, t), room-size
	}
	return a
}

func jsonSize(v any) int {
	b, err := json.Marshal(v)
	if err != nil {
		return maxAuthored
	}
	return len(b) + 1
}

// cut shortens s until it takes at most that many bytes as JSON.
func cut(s string, most int) string {
	s = strings.ToValidUTF8(s, "?")
	if 6*len(s) <= most { // no character takes more than six bytes for each of its own
		return s
	}
	size, fits := 0, 0
	for i, r := range s {
		size += jsonSize(string(r)) - 3 // quotes and comma
		switch {
		case size > most:
			return s[:fits] + "..."
		case size <= most-3:
			fits = i + utf8.RuneLen(r)
		}
	}
	return s
}

// audited is c with its author, if ctx is that of somebody's call.
func (n *Node) audited(ctx context.Context, c Command) Command {
	if n.cfg.Author == nil {
		return c
	}
	a := n.cfg.Author(ctx)
	if a == nil {
		return c
	}
	return &Audited{Author: a.bounded(), Command: c}
}

// TrailAfter returns the records behind seq that the state still has, and whether
// there is none missing between.
func (s *State) TrailAfter(seq uint64) (records []Record, whole bool) {
	i, _ := slices.BinarySearchFunc(s.Trail, seq+1, func(r Record, seq uint64) int {
		return int(int64(r.Seq) - int64(seq))
	})
	records = s.Trail[i:]
	return records, len(records) == 0 || records[0].Seq == seq+1
}
