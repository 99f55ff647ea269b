package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/waybillhq/waybill/flow"
)

// ApplyObjects declares and removes objects in one step: all or none.
type ApplyObjects struct {
	Put []PutObject `json:"put,omitempty"`
	// Delete holds keys. One that is not there refuses the command.
	Delete []string `json:"delete,omitempty"`
	// Expect, if not nil, is the ObjectsRevision that there must be: 0 while nothing has been
	// declared yet.
	Expect *uint64 `json:"expect,omitempty"`
}

// PutObject is an object to declare.
type PutObject struct {
	Key  string          `json:"key"`
	Spec json.RawMessage `json:"spec"` // flow.Encode's
}

// NewApplyObjects makes the command that declares objects and removes those with
// the keys in remove. expect is the revision that they build on, nil for any.
func NewApplyObjects(put []flow.Object, remove []string, expect *uint64) (*ApplyObjects, error) {
	c := &ApplyObjects{Delete: remove, Expect: expect}
	for _, o := range put {
		spec, err := flow.Encode(o)
		if err != nil {
			return nil, err
		}
		c.Put = append(c.Put, PutObject{Key: o.Key(), Spec: spec})
	}
	return c, nil
}

func (*ApplyObjects) kind() string { return "objects.apply" }

// repeatable: an expected revision is gone the second time, and so is what was
// to be deleted.
func (c *ApplyObjects) repeatable() bool { return c.Expect == nil && len(c.Delete) == 0 }

func (c *ApplyObjects) apply(d *draft, index uint64) (uint64, error) {
	if c.Expect != nil && *c.Expect != d.ObjectsRevision {
		return 0, fmt.Errorf("objects are at revision %d, not %d: %w", d.ObjectsRevision, *c.Expect, ErrConflict)
	}
	changed := false
	for _, key := range c.Delete {
		if _, ok := d.Objects[key]; !ok {
			return 0, fmt.Errorf("%s: %w", key, ErrNotFound)
		}
		delete(d.objects(), key)
		changed = true
		if name, ok := strings.CutPrefix(key, string(flow.KindReplicationFlow)+"/"); ok {
			if f := d.flow(name); f != nil {
				f.Leaving = true
				d.sweep([]Work{{Kind: WorkFlow, Name: name}})
			}
		}
	}
	for _, o := range c.Put {
		if !strings.Contains(o.Key, "/") {
			return 0, fmt.Errorf("object key %q: %w", o.Key, ErrInvalid)
		}
		spec, err := canonical(o.Spec)
		if err != nil {
			return 0, fmt.Errorf("%s: %w: %w", o.Key, ErrInvalid, err)
		}
		if bytes.Equal(d.Objects[o.Key].Spec, spec) {
			continue
		}
		d.objects()[o.Key] = Object{Revision: index, Spec: spec}
		changed = true
		if name, ok := strings.CutPrefix(o.Key, string(flow.KindReplicationFlow)+"/"); ok {
			d.declareFlow(name)
		}
	}
	if changed {
		d.ObjectsRevision = index
	}
	return d.ObjectsRevision, nil
}

// declareFlow makes sure that a flow's work exists. A flow that comes back while
// its work is still being released gets it anew when it is.
func (d *draft) declareFlow(name string) {
	f := d.flow(name)
	if f == nil {
		d.allFlows()[name] = new(Flow)
		d.flows[name] = true
		return
	}
	if f.Leaving {
		f.Leaving = false
		for _, topic := range sortedKeys(f.Topics) {
			d.topic(f, topic).Leaving = true // until it is discovered again
		}
	}
}

// canonical is how a snapshot would bring JSON back.
func canonical(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	return json.Marshal(raw)
}

// SetTopics reports what the holder of a flow's duty has found. Topics that are
// not named stay as they are, so many topics can come in several commands, of a
// few hundred each: a command has at most raftnode.MaxCommand bytes.
type SetTopics struct {
	Flow string `json:"flow"`
	// Epoch is that of the duty, so that an earlier holder is refused.
	Epoch  uint64      `json:"epoch"`
	Put    []TopicSpec `json:"put,omitempty"`
	Remove []string    `json:"remove,omitempty"` // source topics
}

// MaxPartitions bounds the partitions of one topic.
const MaxPartitions = 100_000

func (*SetTopics) kind() string     { return "topics.set" }
func (*SetTopics) repeatable() bool { return true }

func (c *SetTopics) apply(d *draft, _ uint64) (uint64, error) {
	f := d.flow(c.Flow)
	if f == nil || f.Leaving {
		return 0, fmt.Errorf("flow %q: %w", c.Flow, ErrNotFound)
	}
	if f.Duty.Node == "" || f.Duty.Epoch != c.Epoch {
		return 0, fmt.Errorf("duty of flow %q at epoch %d: %w", c.Flow, c.Epoch, ErrNotOwner)
	}
	var touched []Work
	for _, spec := range c.Put {
		if spec.Source == "" || spec.Partitions < 0 || spec.Partitions > MaxPartitions {
			return 0, fmt.Errorf("topic %q with %d partitions: %w", spec.Source, spec.Partitions, ErrInvalid)
		}
		t := d.topic(f, spec.Source)
		if t == nil {
			t = new(Topic)
			if f.Topics == nil {
				f.Topics = make(map[string]*Topic)
			}
			f.Topics[spec.Source] = t
		}
		if !t.sameLife(spec) {
			for p := range t.Owners {
				t.Owners[p].Releasing = t.Owners[p].Node != ""
			}
		}
		t.TopicSpec, t.Leaving = spec, false
		for len(t.Owners) < int(spec.Partitions) {
			t.Owners = append(t.Owners, Owner{})
		}
		touched = append(touched, Work{Kind: WorkCopy, Name: c.Flow, Topic: spec.Source})
	}
	for _, topic := range c.Remove {
		if t := d.topic(f, topic); t != nil {
			t.Leaving = true
			touched = append(touched, Work{Kind: WorkCopy, Name: c.Flow, Topic: topic})
		}
	}
	d.sweep(touched)
	return 0, nil
}

// MoveGroup notes that a consumer group of a flow has moved to the destination,
// or, with Moved false, that it is back.
type MoveGroup struct {
	Flow   string `json:"flow"`
	Group  string `json:"group"`
	Moved  bool   `json:"moved"`
	Detail string `json:"detail,omitempty"`
}

func (*MoveGroup) kind() string     { return "group.move" }
func (*MoveGroup) repeatable() bool { return true }

func (c *MoveGroup) apply(d *draft, index uint64) (uint64, error) {
	f := d.flow(c.Flow)
	if f == nil {
		return 0, fmt.Errorf("flow %q: %w", c.Flow, ErrNotFound)
	}
	if !c.Moved {
		delete(f.MovedGroups, c.Group)
		return 0, nil
	}
	if f.MovedGroups == nil {
		f.MovedGroups = make(map[string]MovedGroup)
	}
	if _, ok := f.MovedGroups[c.Group]; !ok {
		f.MovedGroups[c.Group] = MovedGroup{Revision: index, Detail: c.Detail}
	}
	return 0, nil
}

// Assign is the leader's: it gives work that nobody has to nodes, and asks owners
// to release work. What no longer fits the state is left out, silently: the
// leader looks again.
type Assign struct {
	Place   []Placement `json:"place,omitempty"`
	Release []OwnedWork `json:"release,omitempty"`
}

// Placement gives a piece of work to an incarnation.
type Placement struct {
	Work        Work   `json:"work"`
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
}

// OwnedWork is a piece of work as it was owned at an epoch.
type OwnedWork struct {
	Work  Work   `json:"work"`
	Epoch uint64 `json:"epoch"`
}

func (*Assign) kind() string     { return "work.assign" }
func (*Assign) repeatable() bool { return true }

func (c *Assign) apply(d *draft, index uint64) (uint64, error) {
	for _, p := range c.Place {
		o, ok := d.Owner(p.Work)
		if !ok || o.Node != "" || o.Epoch >= index || !d.wanted(p.Work) {
			continue
		}
		if m := d.Members[p.Node]; !m.usable() || m.Incarnation != p.Incarnation {
			continue
		}
		*d.owner(p.Work) = Owner{Node: p.Node, Incarnation: p.Incarnation, Epoch: index}
	}
	for _, r := range c.Release {
		if o, ok := d.Owner(r.Work); ok && o.Node != "" && o.Epoch == r.Epoch {
			d.owner(r.Work).Releasing = true
		}
	}
	return 0, nil
}

// Release is the owner's: it has stopped doing the work and will not write any
// more for it. Work that it does not own at that epoch is left out.
type Release struct {
	Node        string      `json:"node"`
	Incarnation uint64      `json:"incarnation"`
	Works       []OwnedWork `json:"works"`
}

func (*Release) kind() string     { return "work.release" }
func (*Release) repeatable() bool { return true }

func (c *Release) apply(d *draft, _ uint64) (uint64, error) {
	if err := d.live(c.Node, c.Incarnation); err != nil {
		return 0, err
	}
	var freed []Work
	for _, w := range c.Works {
		o, ok := d.Owner(w.Work)
		if ok && o.Node == c.Node && o.Incarnation == c.Incarnation && o.Epoch == w.Epoch {
			d.owner(w.Work).free()
			d.owner(w.Work).Last = "" // it was to leave this node
			freed = append(freed, w.Work)
		}
	}
	d.sweep(freed)
	return 0, nil
}

// PutExecution stores a runbook's execution: a new one, or its next step.
type PutExecution struct {
	ID      string `json:"id"`
	Runbook string `json:"runbook"`
	// Expect is the revision that this follows; 0 makes a new execution.
	Expect uint64 `json:"expect,omitempty"`
	// Epoch, if not 0, is that of the owner who goes on with it: an earlier owner
	// is refused. A person who approves or aborts gives none.
	Epoch uint64          `json:"epoch,omitempty"`
	Data  json.RawMessage `json:"data,omitempty"`
	Done  bool            `json:"done,omitempty"`
}

func (*PutExecution) kind() string     { return "execution.put" }
func (*PutExecution) repeatable() bool { return false }

func (c *PutExecution) apply(d *draft, index uint64) (uint64, error) {
	if c.ID == "" {
		return 0, fmt.Errorf("execution without an id: %w", ErrInvalid)
	}
	e := d.execution(c.ID)
	switch {
	case e == nil && c.Expect != 0:
		return 0, fmt.Errorf("execution %q: %w", c.ID, ErrNotFound)
	case e == nil:
		e = new(Execution)
		d.allExecutions()[c.ID] = e
	case e.Revision != c.Expect:
		return 0, fmt.Errorf("execution %q is at revision %d, not %d: %w", c.ID, e.Revision, c.Expect, ErrConflict)
	case c.Epoch != 0 && (e.Owner.Node == "" || e.Owner.Epoch != c.Epoch):
		return 0, fmt.Errorf("execution %q at epoch %d: %w", c.ID, c.Epoch, ErrNotOwner)
	}
	data, err := canonical(c.Data)
	if err != nil {
		return 0, fmt.Errorf("execution %q: %w: %w", c.ID, ErrInvalid, err)
	}
	e.Runbook, e.Data, e.Done, e.Revision = c.Runbook, data, c.Done, index
	if c.Done {
		switch {
		case e.Owner.Node != "" && c.Epoch == e.Owner.Epoch:
			e.Owner.free() // it says so itself
		case e.Owner.Node != "":
			e.Owner.Releasing = true
		}
	}
	return index, nil
}

// DeleteExecution forgets an execution that is done and that nobody owns.
type DeleteExecution struct {
	ID string `json:"id"`
}

func (*DeleteExecution) kind() string     { return "execution.delete" }
func (*DeleteExecution) repeatable() bool { return true }

func (c *DeleteExecution) apply(d *draft, _ uint64) (uint64, error) {
	if e := d.Executions[c.ID]; e != nil {
		if !e.Done || e.Owner.Node != "" {
			return 0, fmt.Errorf("execution %q is not done: %w", c.ID, ErrConflict)
		}
		delete(d.allExecutions(), c.ID)
	}
	return 0, nil
}
