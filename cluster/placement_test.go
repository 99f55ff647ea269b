package cluster

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
)

// place is where a node of a test is.
type place struct {
	region, rack string
	labels       map[string]string
}

func placed(t *testing.T, nodes map[string]place) *script {
	t.Helper()
	s := newScript(t)
	for _, name := range sortedKeys(nodes) {
		p := nodes[name]
		s.must(&SetMember{Name: name, Region: p.region, Rack: p.rack, Labels: p.labels})
		s.must(&BeginIncarnation{Node: name})
	}
	return s
}

// declared applies a flow into a cluster that is somewhere, and gives it a topic
// once somebody has its duty.
func (s *script) declared(name, cluster, placement string, partitions int32) {
	s.t.Helper()
	s.must(&ApplyObjects{Put: []PutObject{
		{Key: "Cluster/dst-" + name, Spec: json.RawMessage(`{"spec":` + cluster + `}`)},
		{Key: "ReplicationFlow/" + name, Spec: json.RawMessage(fmt.Sprintf(`{"spec":{"destination":"dst-%s"%s}}`, name, placement))},
	}})
	s.settle(nil, 100)
	if s.owner(Work{Kind: WorkFlow, Name: name}).Node != "" {
		s.topics(name, map[string]int32{"t": partitions})
		s.settle(nil, 100)
	}
}

// of counts the copies of a flow by node.
func (s *script) of(flow string) map[string]int {
	n := make(map[string]int)
	s.state.works(func(w Work, o Owner) {
		if w.Kind == WorkCopy && w.Name == flow && o.Node != "" {
			n[o.Node]++
		}
	})
	return n
}

func (s *script) want(what, flow string, want map[string]int) {
	s.t.Helper()
	if got := s.of(flow); !reflect.DeepEqual(got, want) {
		s.t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func pin(labels string) string {
	return `,"placement":{"nodes":{"matchLabels":` + labels + `}}`
}

func TestPinnedFlows(t *testing.T) {
	fast := map[string]string{"disk": "fast"}
	s := placed(t, map[string]place{"a": {}, "b": {labels: fast}, "c": {labels: fast}, "d": {region: "eu"}})
	s.declared("free", "{}", "", 8)
	s.declared("pinned", "{}", pin(`{"disk":"fast"}`), 6)
	s.want("pinned", "pinned", map[string]int{"b": 3, "c": 3})
	if o := s.owner(Work{Kind: WorkFlow, Name: "pinned"}); o.Node != "b" && o.Node != "c" {
		t.Errorf("the duty of a pinned flow is with %q", o.Node)
	}

	// A pin that nobody meets: nothing of the flow runs, all else goes on.
	s.declared("pinned", "{}", pin(`{"disk":"faster"}`), 6)
	s.want("nobody has the label", "pinned", map[string]int{})
	if o := s.owner(Work{Kind: WorkFlow, Name: "pinned"}); o.Node != "" {
		t.Errorf("the duty is with %q", o.Node)
	}
	if why := s.state.Unplaceable("pinned"); why == "" {
		t.Error("the state does not say why")
	}
	if why := s.state.Unplaceable("free"); why != "" {
		t.Errorf("the other flow: %s", why)
	}
	s.want("the other flow", "free", map[string]int{"a": 2, "b": 2, "c": 2, "d": 2})
	if s.state.unplaced() {
		t.Error("a node that stops would wait for what nobody may do")
	}

	// To one node, by name, and to a region.
	s.declared("pinned", "{}", pin(`{"node":"a"}`), 6)
	s.want("to a node", "pinned", map[string]int{"a": 6})
	s.declared("pinned", "{}", pin(`{"region":"eu"}`), 6)
	s.want("to a region", "pinned", map[string]int{"d": 6})
	s.declared("pinned", "{}", "", 6)
	s.settle(nil, 100)
	if n := counts(s.state); n["a"] < 3 || n["b"] < 3 || n["c"] < 3 || n["d"] < 3 {
		t.Errorf("free again: %v", n)
	}
}

// A changed pin moves a few copies at a time, and only those that are in the wrong
// place.
func TestAChangedPinMovesLittleAtATime(t *testing.T) {
	s := placed(t, map[string]place{"a": {labels: map[string]string{"new": "y"}}, "b": {}, "c": {labels: map[string]string{"new": "y"}}})
	s.declared("f", "{}", "", 12)
	before := owners(s.state)
	s.must(&ApplyObjects{Put: []PutObject{{Key: "ReplicationFlow/f", Spec: json.RawMessage(`{"spec":{"destination":"dst-f"` + pin(`{"new":"y"}`) + `}}`)}}})
	s.assign(nil, 2)
	if _, moving := releasing(s.state); moving != 2 {
		t.Errorf("%d copies are on the move, want 2", moving)
	}
	s.settle(nil, 2)
	s.want("pinned", "f", map[string]int{"a": 6, "c": 6})
	if n := moved(before, owners(s.state)); n != 4 {
		t.Errorf("%d copies moved, want the 4 of b", n)
	}
}

// releasing counts the works that are asked for, and the copies among them.
func releasing(s *State) (all, copies int) {
	s.works(func(w Work, o Owner) {
		if o.Releasing {
			all++
			if w.Kind == WorkCopy {
				copies++
			}
		}
	})
	return all, copies
}

func TestRacksComeFirstWhileBalanceHolds(t *testing.T) {
	s := placed(t, map[string]place{
		"a": {region: "eu", rack: "1"}, "b": {region: "eu", rack: "2"}, "c": {region: "eu", rack: "3"},
		"d": {region: "us", rack: "2"},
	})
	s.declared("f", `{"region":"eu","rack":"2"}`, "", 300)
	n := s.of("f")
	if n["d"] != 0 || n["b"] <= n["a"] || n["b"] <= n["c"] || n["b"]-min(n["a"], n["c"]) > 10 {
		t.Errorf("got %v: want none on d, and on b a little more than on a and c", n)
	}
	// A pin goes before nearness.
	s.declared("g", `{"region":"eu"}`, pin(`{"region":"us"}`), 3)
	s.want("a pin against nearness", "g", map[string]int{"d": 3})
}

func TestDrainingMovesLittleAtATime(t *testing.T) {
	s := fleet(t, "a", "b", "c")
	s.must(&DrainMember{Name: "a", Draining: true})
	s.assign(nil, 1)
	if _, n := releasing(s.state); n != 1 {
		t.Errorf("%d copies are on the move, want 1", n)
	}
	// One that stops is not waited for: its process ends.
	s.must(&StopMember{Node: "b", Incarnation: s.state.Members["b"].Incarnation})
	s.assign(nil, 1)
	if _, n := releasing(s.state); n != 5 {
		t.Errorf("%d copies are on the move, want the 4 of b and 1 of a", n)
	}
}

// A node that has just begun is wanted for copies that nobody makes or could be given.
func TestANodeIsWantedForWhatNobodyElseCanDo(t *testing.T) {
	s := placed(t, map[string]place{"a": {}, "b": {labels: map[string]string{"disk": "fast"}}, "c": {}})
	s.declared("free", "{}", "", 6)
	s.declared("pinned", "{}", pin(`{"disk":"fast"}`), 6)
	end := func(name string) {
		s.must(&EndIncarnation{Node: name, Incarnation: s.state.Members[name].Incarnation, Reason: "closed"})
	}
	want := func(what string, wanted ...string) {
		t.Helper()
		for name, m := range s.state.Members {
			if got := s.state.Wants(name); !m.usable() && got != slices.Contains(wanted, name) {
				t.Errorf("%s: %s is wanted: %v", what, name, got)
			}
		}
	}
	want("all is done")
	end("a")
	want("others can do what a did")
	s.settle(nil, 100)
	want("others do it")
	end("b")
	want("nobody may do what is pinned", "b")
	s.settle(nil, 100)
	want("that is all that nobody does", "b")
	s.must(&DrainMember{Name: "c", Draining: true})
	s.settle(nil, 100)
	want("the last one is drained", "a", "b")
	s.must(&DrainMember{Name: "a", Draining: true})
	want("a is to do nothing", "b")
	if s.state.Wants("nobody") {
		t.Error("who is no member is wanted")
	}

	// What a node did in a life that is over waits for it alone, ended or not.
	one := placed(t, map[string]place{"a": {}})
	one.declared("free", "{}", "", 1)
	if !one.state.Wants("a") {
		t.Error("the only one is not wanted")
	}
	one.must(&ApplyObjects{Delete: []string{"ReplicationFlow/free"}})
	if one.state.Wants("a") {
		t.Error("wanted for a flow that is deleted")
	}
}
