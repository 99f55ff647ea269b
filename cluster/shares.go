package cluster

import "slices"

// FlowPace is what a node tells of a flow with a bandwidth budget, of which it has copies.
type FlowPace struct {
	Flow string `json:"flow"`
	// Budget is the flow's on all nodes together, in bytes per second as all here.
	Budget int64 `json:"budget"`
	// Has is what this node keeps to, Wants what it would use.
	Has   int64 `json:"has"`
	Wants int64 `json:"wants"`
	// Copies are those of this node, FlowCopies those of all.
	Copies     int `json:"copies"`
	FlowCopies int `json:"flowCopies"`
}

// shares is how a leader shares the budgets of flows between nodes: by what each wants.
// What nobody uses goes to who does; nothing is given to one before another is known to
// keep to less, so that all together never have more than the budget. It has no clock and
// no I/O.
type shares map[string]map[string]*grant // by flow and node

// grant is what a node may have of a flow's budget.
type grant struct {
	FlowPace
	incarnation uint64
	beat        uint64 // of the last heartbeat that was heard
	given       int64  // with the last answer
	most        int64  // that it may keep to now, whichever answers have come
}

// hear answers what a node tells of its flows with what it is to keep to from now on.
// known says that every node has been heard that there is: who has told nothing then is of
// a version that goes by its copies.
func (s shares) hear(node string, incarnation, beat uint64, told []FlowPace, known bool) map[string]int64 {
	for flow, nodes := range s {
		if !slices.ContainsFunc(told, func(p FlowPace) bool { return p.Flow == flow }) {
			delete(nodes, node)
		}
		if len(nodes) == 0 {
			delete(s, flow)
		}
	}
	var answer map[string]int64
	for _, p := range told {
		if s[p.Flow] == nil {
			s[p.Flow] = map[string]*grant{}
		}
		g := s[p.Flow][node]
		if g == nil || g.incarnation != incarnation {
			g = &grant{incarnation: incarnation, given: p.Has}
			s[p.Flow][node] = g
		}
		if beat <= g.beat {
			continue // it was overtaken by a later one, and nobody waits for its answer
		}
		g.FlowPace, g.beat = p, beat
		if g.most = max(p.Has, g.given); p.Has == g.given {
			g.most = p.Has
		}
		if answer == nil {
			answer = map[string]int64{}
		}
		g.given = s.share(p.Flow, node, known)
		g.most = max(g.most, g.given)
		answer[p.Flow] = g.given
	}
	return answer
}

// share is what a node is to have of a flow's budget: its fair part, as far as the others
// leave it.
func (s shares) share(flow, node string, known bool) int64 {
	names := sortedKeys(s[flow])
	budget := s[flow][node].Budget
	for _, g := range s[flow] { // one of them may know of a change already
		budget = min(budget, g.Budget)
	}
	asks := make([]ask, 0, len(names)+1)
	silent, others := s[flow][node].FlowCopies, int64(0)
	for _, name := range names {
		g := s[flow][name]
		asks = append(asks, ask{g.Copies, g.Wants})
		silent -= g.Copies
		if name != node {
			others += g.most
		}
	}
	if silent > 0 {
		asks = append(asks, ask{silent, budget})
		if others += portion(budget, silent, s[flow][node].FlowCopies); !known {
			others = budget
		}
	}
	fair := fairShares(budget, asks)[slices.Index(names, node)]
	if left := max(0, budget-others); fair > left {
		return max(left, min(fair, s[flow][node].Has)) // what it has is not given to others
	}
	return fair
}

// forget forgets nodes whose incarnation is over.
func (s shares) forget(members map[string]Member) {
	for _, nodes := range s {
		for name, g := range nodes {
			if members[name].Incarnation != g.incarnation {
				delete(nodes, name)
			}
		}
	}
}

// ask is what somebody wants of a budget, and by how many copies it counts.
type ask struct {
	copies int
	wants  int64
}

// kept is the part of what it would have by its copies that everybody keeps, however
// little it wants: from there it shows that it wants more.
const kept = 8

func portion(budget int64, copies, all int) int64 {
	return int64(float64(budget) * float64(copies) / float64(max(all, copies, 1)))
}

// fairShares divides a budget: nobody gets more than it wants while another wants more than
// it gets, and those who want more than they get have it in proportion to their copies. What
// nobody wants is divided in that proportion too. The sum is never above the budget.
func fairShares(budget int64, asks []ask) []int64 {
	all := 0
	for _, a := range asks {
		all += max(1, a.copies)
	}
	out := make([]int64, len(asks))
	wants := make([]int64, len(asks))
	open := map[int]bool{}
	for i, a := range asks {
		wants[i] = max(a.wants, portion(budget, max(1, a.copies), kept*all))
		open[i] = true
	}
	left := budget
	for satisfied := true; satisfied && len(open) > 0; {
		satisfied = false
		copies, have := 0, left
		for i := range open {
			copies += max(1, asks[i].copies)
		}
		for i := range open {
			if wants[i] <= portion(have, max(1, asks[i].copies), copies) {
				out[i], left, satisfied = wants[i], left-wants[i], true
				delete(open, i)
			}
		}
		if !satisfied {
			for i := range open {
				out[i] = portion(have, max(1, asks[i].copies), copies)
			}
			return out
		}
	}
	for i, a := range asks { // nobody wants more
		out[i] += portion(left, max(1, a.copies), all)
	}
	return out
}
