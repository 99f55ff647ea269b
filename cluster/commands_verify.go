package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// Verification is a comparison of both sides of a flow, carried out by the owner of
// the flow's duty. What Request, Copies and Found mean is its affair.
type Verification struct {
	ID      string          `json:"id"`
	By      string          `json:"by,omitempty"` // a person; empty if the flow's declaration asks for it
	Request json.RawMessage `json:"request,omitempty"`
	Started time.Time       `json:"started"`
	// Ended is zero while it runs.
	Ended   time.Time `json:"ended,omitzero"`
	Stopped bool      `json:"stopped,omitempty"` // ended by a person
	// Begun: Copies has all copies of this verification.
	Begun bool `json:"begun,omitempty"`
	// Copies is the progress by key of the copy. What an earlier verification has
	// left stays until this one replaces or removes it.
	Copies map[string]json.RawMessage `json:"copies,omitempty"`
	// Problem is what keeps it from going on now.
	Problem string `json:"problem,omitempty"`
	// Found is the result of the verification before this one.
	Found json.RawMessage `json:"found,omitempty"`
}

// Running reports whether it is to go on.
func (v *Verification) Running() bool { return v != nil && v.Ended.IsZero() }

// StartVerification asks the owner of a flow's duty to compare both sides.
type StartVerification struct {
	Flow    string          `json:"flow"`
	ID      string          `json:"id"`
	By      string          `json:"by,omitempty"`
	Request json.RawMessage `json:"request,omitempty"`
	At      time.Time       `json:"at"`
	// Found is what the verification that it follows has found, for those who ask
	// while this one runs.
	Found json.RawMessage `json:"found,omitempty"`
	// Epoch, if not 0, is that of the duty's owner, who starts what the declaration
	// asks for. A person gives none.
	Epoch uint64 `json:"epoch,omitempty"`
}

func (*StartVerification) kind() string     { return "verification.start" }
func (*StartVerification) repeatable() bool { return true }

func (c *StartVerification) apply(d *draft, _ uint64) (uint64, error) {
	f := d.flow(c.Flow)
	switch {
	case f == nil || f.Leaving:
		return 0, fmt.Errorf("flow %q: %w", c.Flow, ErrNotFound)
	case c.ID == "" || c.At.IsZero():
		return 0, fmt.Errorf("verification without an id or a time: %w", ErrInvalid)
	case c.Epoch != 0 && (f.Duty.Node == "" || f.Duty.Epoch != c.Epoch):
		return 0, fmt.Errorf("duty of flow %q at epoch %d: %w", c.Flow, c.Epoch, ErrNotOwner)
	}
	old := f.Verification
	if old != nil && old.ID == c.ID {
		return 0, nil
	}
	// What a person asks for takes the place of what the declaration does.
	if old.Running() && (old.By != "" || c.By == "") {
		return 0, fmt.Errorf("verification %s of flow %q is running: %w", old.ID, c.Flow, ErrConflict)
	}
	request, err1 := canonical(c.Request)
	found, err2 := canonical(c.Found)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("verification %q: %w", c.ID, ErrInvalid)
	}
	v := &Verification{ID: c.ID, By: c.By, Request: request, Started: c.At.UTC(), Found: found}
	if old != nil {
		v.Copies = old.Copies
	}
	f.Verification = v
	return 0, nil
}

// PutVerification is the owner's: progress of some copies, and the end. A command
// has at most raftnode.MaxCommand bytes: many copies come in several.
type PutVerification struct {
	Flow   string                     `json:"flow"`
	ID     string                     `json:"id"`
	Epoch  uint64                     `json:"epoch"`
	Copies map[string]json.RawMessage `json:"copies,omitempty"`
	Remove []string                   `json:"remove,omitempty"` // keys of copies
	Begun  bool                       `json:"begun,omitempty"`
	// Problem replaces what was said before.
	Problem string `json:"problem,omitempty"`
	// Ended, if not zero, is when it was done.
	Ended time.Time `json:"ended,omitzero"`
}

func (*PutVerification) kind() string     { return "verification.put" }
func (*PutVerification) repeatable() bool { return true }

func (c *PutVerification) apply(d *draft, _ uint64) (uint64, error) {
	f := d.flow(c.Flow)
	switch {
	case f == nil:
		return 0, fmt.Errorf("flow %q: %w", c.Flow, ErrNotFound)
	case f.Duty.Node == "" || f.Duty.Epoch != c.Epoch:
		return 0, fmt.Errorf("duty of flow %q at epoch %d: %w", c.Flow, c.Epoch, ErrNotOwner)
	case f.Verification == nil || f.Verification.ID != c.ID:
		return 0, fmt.Errorf("verification %q of flow %q: %w", c.ID, c.Flow, ErrNotFound)
	case !f.Verification.Running():
		if f.Verification.Ended.Equal(c.Ended) && !c.Ended.IsZero() {
			return 0, nil // said already
		}
		return 0, fmt.Errorf("verification %q of flow %q has ended: %w", c.ID, c.Flow, ErrConflict)
	}
	v := *f.Verification
	if v.Copies = maps.Clone(v.Copies); v.Copies == nil && len(c.Copies) > 0 {
		v.Copies = make(map[string]json.RawMessage)
	}
	for key, data := range c.Copies {
		stored, err := canonical(data)
		if err != nil {
			return 0, fmt.Errorf("progress of copy %s: %w: %w", key, ErrInvalid, err)
		}
		v.Copies[key] = stored
	}
	for _, key := range c.Remove {
		delete(v.Copies, key)
	}
	v.Begun, v.Problem = v.Begun || c.Begun, c.Problem
	if !c.Ended.IsZero() {
		v.Ended = c.Ended.UTC()
	}
	f.Verification = &v
	return 0, nil
}

// StopVerification is a person's: the verification ends where it is.
type StopVerification struct {
	Flow string    `json:"flow"`
	ID   string    `json:"id"`
	At   time.Time `json:"at"`
}

func (*StopVerification) kind() string     { return "verification.stop" }
func (*StopVerification) repeatable() bool { return true }

func (c *StopVerification) apply(d *draft, _ uint64) (uint64, error) {
	f := d.flow(c.Flow)
	if f == nil || f.Verification == nil || f.Verification.ID != c.ID {
		return 0, fmt.Errorf("verification %q of flow %q: %w", c.ID, c.Flow, ErrNotFound)
	}
	if c.At.IsZero() {
		return 0, fmt.Errorf("end of verification %q without a time: %w", c.ID, ErrInvalid)
	}
	if f.Verification.Running() {
		v := *f.Verification
		v.Ended, v.Stopped = c.At.UTC(), true
		f.Verification = &v
	}
	return 0, nil
}
