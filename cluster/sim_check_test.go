package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// simChecker sees everything that a simulation does and holds it against what the
// fleet promises. It shares no code with what it checks, but for the state's own
// questions.
type simChecker struct {
	sim      *sim
	latest   uint64            // the last command that anybody has applied
	commands map[uint64][]byte // by index
	results  map[uint64][]byte // by index
	hashes   map[uint64][32]byte
	acked    map[uint64][]byte
	epochs   map[Work]uint64 // the highest of each work
	released map[Work]uint64 // the last epoch that its owner gave back
	steps    map[string]int  // of executions
	clocks   time.Duration   // when a clock last jumped
	changes  int             // of owners
	homeless map[Work]time.Duration
	worst    time.Duration // between the end of an owner's incarnation and the next owner
}

func newSimChecker(s *sim) *simChecker {
	return &simChecker{
		sim: s, commands: make(map[uint64][]byte), results: make(map[uint64][]byte), hashes: make(map[uint64][32]byte),
		acked: make(map[uint64][]byte), epochs: make(map[Work]uint64), released: make(map[Work]uint64), steps: make(map[string]int),
		homeless: make(map[Work]time.Duration), clocks: -time.Hour,
	}
}

// hashEvery is how many commands lie between two at which states are compared.
const hashEvery = 8

// applied hears that a node has applied a command.
func (c *simChecker) applied(n *simNode, index uint64, data []byte, before, after *State, out []byte) {
	if index > c.latest {
		c.latest = index
		c.commands[index], c.results[index] = data, out
		c.first(n, index, data, before, after)
	} else if !bytes.Equal(c.commands[index], data) {
		c.sim.fail("entry %d is another command on %s", index, n.name)
	} else if !bytes.Equal(c.results[index], out) {
		c.sim.fail("entry %d has another result on %s: %s, was %s", index, n.name, out, c.results[index])
	}
	if index%hashEvery == 0 {
		c.compare(n, index, after)
	}
}

// compare holds a node's state against those of others at the same revision.
func (c *simChecker) compare(n *simNode, index uint64, s *State) {
	got, err := s.Hash()
	if err != nil {
		c.sim.fail("hash of %s: %v", n.name, err)
		return
	}
	want, ok := c.hashes[index]
	if !ok {
		c.hashes[index] = got
	} else if got != want {
		c.sim.fail("at revision %d the state of %s is not that of others", index, n.name)
	}
}

func (c *simChecker) result(index uint64) []byte { return c.results[index] }

// acknowledged hears that a proposal has returned without error.
func (c *simChecker) acknowledged(n *simNode, index uint64, data []byte) {
	c.sim.count["commands acknowledged"]++
	c.acked[index] = data
	if got, ok := c.commands[index]; !ok || !bytes.Equal(got, data) {
		c.sim.fail("%s was told that entry %d is its command, which is not there", n.name, index)
	}
}

// first looks at what a command has changed.
func (c *simChecker) first(n *simNode, index uint64, data []byte, before, after *State) {
	command, err := decodeCommand(data)
	if err != nil {
		c.sim.fail("entry %d: %v", index, err)
		return
	}
	if c.sim.tracing {
		c.sim.say(n, "applies %d: %s", index, simText(command))
	}
	if err := invariants(after); err != nil {
		c.sim.fail("after entry %d: %v", index, err)
	}
	switch command := command.(type) {
	case *Release:
		for _, w := range command.Works {
			if o, ok := before.Owner(w.Work); ok && o.Node == command.Node && o.Incarnation == command.Incarnation && o.Epoch == w.Epoch {
				c.released[w.Work] = w.Epoch
			}
		}
	case *EndIncarnation:
		if command.Reason == "silent" && !before.Ended(command.Node, command.Incarnation) {
			c.silent(command)
		}
	case *PutExecution:
		c.execution(command, before, after)
	}
	c.owners(before, after)
}

// silent holds the end of an incarnation against the promise that a node which is
// cut off stops before others have its work. A node that stood still, and clocks
// that jump, can break it: then fences alone keep writers apart. A clock that is
// set back keeps what waits for it waiting for as long.
func (c *simChecker) silent(e *EndIncarnation) {
	n := c.sim.byName(e.Node)
	const enough = 6 * time.Second
	if n == nil || !n.up || n.paused || c.sim.now-n.disturbed < enough || c.sim.now-c.clocks < simJump+enough {
		return
	}
	c.sim.count["leases held against the clock"]++
	if s := n.session; s != nil && s.incarnation == e.Incarnation && !s.over {
		c.sim.fail("the incarnation %d of %s ended while its session went on", e.Incarnation, e.Node)
	}
}

// execution: each step follows the one before, by whoever owns it.
func (c *simChecker) execution(p *PutExecution, before, after *State) {
	e := after.Executions[p.ID]
	if e == nil || e == before.Executions[p.ID] {
		return
	}
	var data simProgress
	if err := json.Unmarshal(e.Data, &data); err != nil {
		c.sim.fail("execution %s: %v", p.ID, err)
		return
	}
	if want := c.steps[p.ID] + 1; data.Step != want {
		c.sim.fail("execution %s goes to step %d, want %d", p.ID, data.Step, want)
	}
	c.steps[p.ID] = data.Step
}

// owners holds every change of an owner against the rules: work changes hands only
// through nobody's, and epochs grow.
func (c *simChecker) owners(before, after *State) {
	was := make(map[Work]Owner)
	before.works(func(w Work, o Owner) { was[w] = o })
	after.works(func(w Work, o Owner) {
		old := was[w]
		delete(was, w)
		if o.Node == old.Node && o.Incarnation == old.Incarnation && o.Epoch == old.Epoch {
			return
		}
		c.handed(w, old, o, after)
	})
	for w, old := range was { // gone
		delete(c.homeless, w)
		if old.Node != "" && !after.Ended(old.Node, old.Incarnation) && c.released[w] < old.Epoch {
			c.sim.fail("%s was forgotten while %s has it", w, old.Node)
		}
	}
}

func (c *simChecker) handed(w Work, old, o Owner, after *State) {
	if o.Node == "" {
		if old.Node != "" && !after.Ended(old.Node, old.Incarnation) && c.released[w] < old.Epoch && (w.Kind != WorkRunbook || !after.Executions[w.Name].Done) {
			c.sim.fail("%s was taken from %s, which has not released it", w, old.Node)
		}
		if old.Node != "" && after.Ended(old.Node, old.Incarnation) {
			c.homeless[w] = c.sim.now
		}
		return
	}
	c.changes++
	if since, ok := c.homeless[w]; ok {
		c.worst = max(c.worst, c.sim.now-since)
		delete(c.homeless, w)
	}
	if old.Node != "" {
		c.sim.fail("%s went to %s while %s had it", w, o.Node, old.Node)
	}
	if o.Epoch <= c.epochs[w] {
		c.sim.fail("%s went to %s at epoch %d, there was %d", w, o.Node, o.Epoch, c.epochs[w])
	}
	c.epochs[w] = o.Epoch
}

// unwell says what is not as it should be in a fleet to which nothing happens, or
// "".
func (c *simChecker) unwell() string {
	s := c.sim
	var state *State
	for _, n := range s.nodes {
		if n == s.gone {
			continue
		}
		state = n.state
		switch {
		case n.session == nil || n.session.over || n.session.incarnation == 0:
			return n.name + " has no session"
		case s.gone != nil && !state.Ended(s.gone.name, state.Members[s.gone.name].Incarnation):
			return s.gone.name + " is taken for alive"
		case n.revision != c.latest || n.raft.commit != n.applied:
			return fmt.Sprintf("%s is at revision %d of %d", n.name, n.revision, c.latest)
		case !n.state.Members[n.name].usable():
			return n.name + " gets no work"
		}
	}
	var fault string
	state.works(func(w Work, o Owner) {
		switch l := s.dst.logs[w]; {
		case !state.wanted(w):
			if o.Node != "" && (w.Kind != WorkRunbook || o.Releasing) {
				fault = w.String() + " is not wanted, and " + o.Node + " has it"
			}
		case o.Node == "" || o.Releasing:
			fault = w.String() + " has no owner, or is on the move"
		case w.Kind == WorkCopy && (l == nil || l.last.epoch != o.Epoch || s.now-l.at > 3*time.Second):
			fault = w.String() + " is not being copied by " + o.Node
		}
	})
	return fault
}

// final holds the end against everything that was acknowledged.
func (c *simChecker) final() {
	for _, n := range c.sim.nodes {
		c.compare(n, n.revision, n.state)
		for index, data := range c.acked {
			if int(index) > len(n.raft.log) || !bytes.Equal(n.raft.log[index-1].data, data) {
				c.sim.fail("%s does not have entry %d, which was acknowledged", n.name, index)
				return
			}
		}
	}
}
