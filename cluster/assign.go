package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// The assignment of work to nodes, as a pure function: assign looks at a state and
// at what copies move, and says what the leader should propose. The same input
// gives the same answer on every node.
//
//	where   A flow's nodes are those that it is pinned to (its placement), of them
//	        those in the region of its destination if there is one, of them those in
//	        its rack while they have no more than their share.
//	how     Work that nobody has goes back to the node that had it last, if that one
//	much    has room, else to the one with the least. Weight is what a copy moves and
//	        one unit for being there.
//	when    Work leaves nodes that may not have it: at once where nobody waits for it
//	        or its node is about to end, else a few copies at a time. Beyond that copies
//	        move only while two nodes are further apart than a tolerance, and then
//	        those that close the gap with the fewest moves.
//
// What is not mentioned stays: nothing moves because a topic, a flow or a node has
// come. What it is measured against is in assign_bound_test.go.

// idleWeight is the work that a copy makes whatever it moves (its fetches, its
// share of a session, memory), as bytes per second. Weights are in units of it,
// so without any load balancing is by count.
const idleWeight = 256 << 10

// maxWorks bounds the works of one command, of some 350 bytes at most, so that it
// stays below raftnode.MaxCommand.
const maxWorks = 1000

// pace is how much may move for the sake of balance and of maintenance.
type pace struct {
	// moving is how many copies may be on the move at once; no move is begun while
	// that many are.
	moving int
	// balancing is how many moves may be begun that only balance or nearness asks
	// for.
	balancing int
	// tolerance is how far apart two nodes may be before a copy moves, as a share of
	// what a node has on average.
	tolerance float64
}

// plan is what is to be done about a state.
type plan struct {
	// commands are to be proposed one after the other. Each stands for itself: what
	// no longer fits when it is applied is left out of it.
	commands []*Assign
	// balancing is how many of the moves only balance or nearness asks for.
	balancing int
	// moving is how many copies are on the move, with those that the plan begins.
	moving int
}

// assign decides where work goes. The zero pace moves nothing that its node may
// keep.
func assign(s *State, loads Loads, p pace) plan { return make(wheres).assign(s, loads, p) }

func (known wheres) assign(s *State, loads Loads, p pace) plan {
	a := newAssigner(s, loads, p, known)
	for _, kind := range workKinds {
		a.place(kind)
	}
	a.expel()
	a.balance()
	return a.plan()
}

// workKinds are the kinds of work in the order in which they are placed.
var workKinds = []WorkKind{WorkRunbook, WorkFlow, WorkCopy}

// unplaced reports whether there is work that nobody does although somebody
// could.
func (s *State) unplaced() bool {
	for _, pool := range newAssigner(s, Loads{}, pace{}, make(wheres)).pool {
		if len(pool) > 0 {
			return true
		}
	}
	return false
}

// Unplaceable says why no node may run a flow now; "" if one may.
func (s *State) Unplaceable(name string) string {
	w, _ := whereOf(s, name)
	var match []string
	for _, m := range s.Members {
		if w.allows(m) {
			if m.usable() {
				return ""
			}
			match = append(match, m.Name)
		}
	}
	var labels []string
	for _, key := range sortedKeys(w.nodes.MatchLabels) {
		labels = append(labels, key+"="+w.nodes.MatchLabels[key])
	}
	slices.Sort(match)
	switch {
	case len(labels) == 0:
		return "no node may be given work: all are gone, drained or stopping"
	case len(match) == 0:
		return "no node has the labels that the flow is pinned to: " + strings.Join(labels, ", ")
	}
	return fmt.Sprintf("the flow is pinned to %s, and the nodes that have that (%s) are gone, drained or stopping", strings.Join(labels, ", "), strings.Join(match, ", "))
}

// Wants reports whether there are copies that nobody makes and that only this node, which
// has no life as an owner now, could be given of those that are there. What it had in an
// earlier life is nobody's. All other work can wait until it comes by itself.
func (s *State) Wants(node string) bool {
	me, member := s.Members[node]
	if !member || me.Draining {
		return false
	}
	var others []Member
	for name, m := range s.Members {
		if name != node && m.usable() {
			others = append(others, m)
		}
	}
	for name, f := range s.Flows {
		if f.stands(node) {
			if w, _ := whereOf(s, name); w.allows(me) && !slices.ContainsFunc(others, w.allows) {
				return true
			}
		}
	}
	return false
}

// stands reports whether a flow has a copy that is wanted and that nobody makes but,
// maybe, a node.
func (f *Flow) stands(but string) bool {
	for _, t := range f.Topics {
		wanted := !f.Leaving && !t.Leaving && !t.Blocked
		if wanted && slices.ContainsFunc(t.Owners[:t.Partitions], func(o Owner) bool { return o.Node == "" || o.Node == but }) {
			return true
		}
	}
	return false
}

// movedAway reports whether an incarnation that stops has none of its work any
// more and others have it: a leader that goes before it has placed what it gave
// back leaves that to its successor, who first waits for everybody.
func (s *State) movedAway(node string, incarnation uint64) bool {
	return s.owned(node, incarnation) == 0 && !s.unplaced()
}

// plan cuts the decisions into commands.
func (a *assigner) plan() plan {
	p := plan{balancing: a.begun, moving: a.moving}
	place, release := a.change.Place, a.change.Release
	for len(place)+len(release) > 0 {
		c := new(Assign)
		n := min(len(place), maxWorks)
		c.Place, place = place[:n:n], place[n:]
		n = min(len(release), maxWorks-n)
		c.Release, release = release[:n:n], release[n:]
		p.commands = append(p.commands, c)
	}
	return p
}
