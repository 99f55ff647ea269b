package cluster

import (
	"maps"
	"slices"
)

// draft is a State under change. What it hands out for writing has been copied
// from the state it began with, at most once.
type draft struct {
	State
	flows      map[string]bool
	topics     map[*Flow]map[string]bool
	executions map[string]bool
	copied     map[string]bool // names of the State's maps
}

func newDraft(s *State) *draft {
	return &draft{
		State:      *s,
		flows:      make(map[string]bool),
		topics:     make(map[*Flow]map[string]bool),
		executions: make(map[string]bool),
		copied:     make(map[string]bool),
	}
}

// done returns the new state.
func (d *draft) done() *State {
	s := d.State
	return &s
}

// writable makes a map of the draft safe to write to. name tells it from others.
func writable[V any](d *draft, name string, m *map[string]V) map[string]V {
	if !d.copied[name] {
		d.copied[name] = true
		if *m = maps.Clone(*m); *m == nil {
			*m = make(map[string]V)
		}
	}
	return *m
}

func (d *draft) objects() map[string]Object { return writable(d, "objects", &d.Objects) }
func (d *draft) members() map[string]Member { return writable(d, "members", &d.Members) }
func (d *draft) lanes() map[string]Lane     { return writable(d, "lanes", &d.Lanes) }
func (d *draft) ledgers() map[string]Ledger { return writable(d, "ledgers", &d.Ledgers) }
func (d *draft) recalled() map[string]bool  { return writable(d, "recalled", &d.Recalled) }
func (d *draft) tokens() map[string]JoinToken {
	return writable(d, "tokens", &d.Tokens)
}
func (d *draft) allFlows() map[string]*Flow { return writable(d, "flows", &d.Flows) }
func (d *draft) allExecutions() map[string]*Execution {
	return writable(d, "executions", &d.Executions)
}

// flow returns a flow to write to, or nil.
func (d *draft) flow(name string) *Flow {
	f := d.Flows[name]
	if f == nil || d.flows[name] {
		return f
	}
	c := *f
	c.Topics = maps.Clone(f.Topics)
	c.MovedGroups = maps.Clone(f.MovedGroups)
	d.allFlows()[name] = &c
	d.flows[name] = true
	return &c
}

// topic returns a topic of a flow, which must come from d.flow, to write to; or
// nil.
func (d *draft) topic(f *Flow, name string) *Topic {
	t := f.Topics[name]
	if t == nil || d.topics[f][name] {
		return t
	}
	c := *t
	c.Owners = slices.Clone(t.Owners)
	f.Topics[name] = &c
	if d.topics[f] == nil {
		d.topics[f] = make(map[string]bool)
	}
	d.topics[f][name] = true
	return &c
}

// execution returns an execution to write to, or nil.
func (d *draft) execution(id string) *Execution {
	e := d.Executions[id]
	if e == nil || d.executions[id] {
		return e
	}
	c := *e
	d.allExecutions()[id] = &c
	d.executions[id] = true
	return &c
}

// owner returns the owner of a piece of work to write to, or nil if there is no
// such work.
func (d *draft) owner(w Work) *Owner {
	if _, ok := d.Owner(w); !ok {
		return nil
	}
	switch w.Kind {
	case WorkFlow:
		return &d.flow(w.Name).Duty
	case WorkRunbook:
		return &d.execution(w.Name).Owner
	default:
		return &d.topic(d.flow(w.Name), w.Topic).Owners[w.Partition]
	}
}

// endIncarnation ends a member's incarnation, if it has one: its work is
// nobody's from here on.
func (d *draft) endIncarnation(name string) {
	m, ok := d.Members[name]
	if !ok || m.Incarnation == 0 {
		return
	}
	var works []Work
	d.works(func(w Work, o Owner) {
		if o.Node == name {
			works = append(works, w)
		}
	})
	for _, w := range works {
		d.owner(w).free()
	}
	m.Incarnation, m.Stopping = 0, false
	d.members()[name] = m
	d.sweep(works)
}

// sweep asks the owners of unwanted work to release it, and forgets flows and
// topics that are leaving once nobody has work of them. works are those whose
// owners or wants have changed.
func (d *draft) sweep(works []Work) {
	flows := make(map[string]map[string]bool) // flow -> topics
	for _, w := range works {
		if w.Kind == WorkRunbook {
			continue
		}
		if flows[w.Name] == nil {
			flows[w.Name] = make(map[string]bool)
		}
		if w.Kind == WorkCopy {
			flows[w.Name][w.Topic] = true
		}
	}
	for _, name := range sortedKeys(flows) {
		f := d.flow(name)
		if f == nil {
			continue
		}
		topics := sortedKeys(flows[name])
		if f.Leaving {
			topics = sortedKeys(f.Topics)
			f.Duty.Releasing = f.Duty.Node != ""
		}
		for _, topic := range topics {
			d.sweepTopic(name, f, topic)
		}
		if f.Leaving && f.Duty.Node == "" && len(f.Topics) == 0 {
			delete(d.allFlows(), name)
		}
	}
}

func (d *draft) sweepTopic(flow string, f *Flow, name string) {
	t := d.topic(f, name)
	if t == nil {
		return
	}
	for p := range t.Owners {
		if t.Owners[p].Node != "" && !d.wanted(Work{Kind: WorkCopy, Name: flow, Topic: name, Partition: int32(p)}) {
			t.Owners[p].Releasing = true
		}
	}
	keep := int(t.Partitions)
	if t.Leaving || f.Leaving {
		keep = 0
	}
	for len(t.Owners) > keep && t.Owners[len(t.Owners)-1].Node == "" {
		t.Owners = t.Owners[:len(t.Owners)-1]
	}
	if len(t.Owners) == 0 && (t.Leaving || f.Leaving) {
		delete(f.Topics, name)
	}
}
