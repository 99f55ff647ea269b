package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

// script applies commands to a state, one index after another.
type script struct {
	t     testing.TB
	state *State
	index uint64
}

func newScript(t testing.TB) *script { return &script{t: t, state: new(State)} }

// do applies a command through its encoding, as the log does, and checks that the
// state before it did not change.
func (s *script) do(c Command) (uint64, error) {
	s.t.Helper()
	b, err := encodeCommand(c)
	if err != nil {
		s.t.Fatal(err)
	}
	before := hashOf(s.t, s.state)
	s.index++
	next, out, err := machine{}.Apply(s.state, s.index, b)
	if err != nil {
		s.t.Fatalf("%s: %v", c.kind(), err)
	}
	if hashOf(s.t, s.state) != before {
		s.t.Fatalf("%s changed the state that it was applied to", c.kind())
	}
	var r result
	if err := json.Unmarshal(out, &r); err != nil {
		s.t.Fatal(err)
	}
	s.state = next
	if err := invariants(next); err != nil {
		s.t.Fatalf("after %s: %v", c.kind(), err)
	}
	return r.Number, r.Refusal.err()
}

func (s *script) must(c Command) uint64 {
	s.t.Helper()
	n, err := s.do(c)
	if err != nil {
		s.t.Fatalf("%s: %v", c.kind(), err)
	}
	return n
}

func (s *script) refused(c Command, want error) {
	s.t.Helper()
	before := s.state
	if _, err := s.do(c); !errors.Is(err, want) {
		s.t.Fatalf("%s: got %v, want %v", c.kind(), err, want)
	}
	if s.state != before {
		s.t.Fatalf("%s was refused and changed the state", c.kind())
	}
}

// node registers a node and begins its incarnation.
func (s *script) node(name string) uint64 {
	s.t.Helper()
	s.must(&SetMember{Name: name})
	return s.must(&BeginIncarnation{Node: name})
}

// flow declares a flow with topics, whose discovery is done by node.
func (s *script) flow(name, node string, topics map[string]int32) {
	s.t.Helper()
	s.must(&ApplyObjects{Put: []PutObject{{Key: "ReplicationFlow/" + name, Spec: json.RawMessage(`{}`)}}})
	s.place(node, Work{Kind: WorkFlow, Name: name})
	s.topics(name, topics)
}

func (s *script) topics(name string, topics map[string]int32) {
	s.t.Helper()
	c := &SetTopics{Flow: name, Epoch: s.state.Flows[name].Duty.Epoch}
	for _, topic := range sortedKeys(topics) {
		c.Put = append(c.Put, TopicSpec{Source: topic, SourceID: "id-" + topic, Destination: topic, Partitions: topics[topic]})
	}
	s.must(c)
}

func (s *script) place(node string, works ...Work) {
	s.t.Helper()
	c := new(Assign)
	for _, w := range works {
		c.Place = append(c.Place, Placement{Work: w, Node: node, Incarnation: s.state.Members[node].Incarnation})
	}
	s.must(c)
}

// assign does what the leader does until there is nothing left to assign.
func (s *script) assign(loads Loads, maxMoves int) {
	s.t.Helper()
	for range 100 {
		p := assign(s.state, loads, paceOf(maxMoves))
		if len(p.commands) == 0 {
			return
		}
		for _, c := range p.commands {
			s.must(c)
		}
	}
	s.t.Fatal("assign does not come to rest")
}

// release does what well-behaved owners do.
func (s *script) release() {
	s.t.Helper()
	for name, m := range s.state.Members {
		c := &Release{Node: name, Incarnation: m.Incarnation}
		for _, a := range s.state.AssignmentsOf(name, m.Incarnation) {
			if a.Releasing {
				c.Works = append(c.Works, OwnedWork{Work: a.Work, Epoch: a.Epoch})
			}
		}
		if len(c.Works) > 0 {
			s.must(c)
		}
	}
}

func (s *script) owner(w Work) Owner {
	s.t.Helper()
	o, ok := s.state.Owner(w)
	if !ok {
		s.t.Fatalf("there is no %s", w)
	}
	return o
}

func copyOf(flow, topic string, partition int32) Work {
	return Work{Kind: WorkCopy, Name: flow, Topic: topic, Partition: partition}
}

func hashOf(t testing.TB, s *State) [32]byte {
	t.Helper()
	h, err := s.Hash()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// invariants are those of State's documentation.
func invariants(s *State) (err error) {
	s.works(func(w Work, o Owner) {
		switch {
		case o.Node == "" && (o.Incarnation != 0 || o.Releasing):
			err = fmt.Errorf("%s: nobody owns it, yet %+v", w, o)
		case o.Node != "" && s.Ended(o.Node, o.Incarnation):
			err = fmt.Errorf("%s: owned by an ended incarnation, %+v", w, o)
		case o.Node != "" && !o.Releasing && !s.wanted(w):
			err = fmt.Errorf("%s: nobody wants it, and %+v is not asked to release it", w, o)
		}
	})
	return err
}

func TestTakeover(t *testing.T) {
	s := newScript(t)
	a1, b1 := s.node("a"), s.node("b")
	s.flow("orders", "a", map[string]int32{"t": 2})
	w := copyOf("orders", "t", 0)
	s.place("a", w)
	first := s.owner(w)
	s.must(&RegisterLane{Lane: Lane{ID: "l1", ClusterID: "dest", ProducerID: 7, Node: "a", Incarnation: a1}})
	s.must(&RegisterLane{Lane: Lane{ID: "l2", ClusterID: "other", Node: "a", Incarnation: a1}})
	s.must(&RegisterLane{Lane: Lane{ID: "l3", ClusterID: "dest", Node: "b", Incarnation: b1}})
	if got := s.state.LanesToFence("dest"); len(got) != 0 {
		t.Errorf("lanes to fence while all live: %v", got)
	}

	s.must(&EndIncarnation{Node: "a", Incarnation: a1})
	if o := s.owner(w); o.Node != "" || o.Last != "a" || o.Epoch != first.Epoch {
		t.Errorf("after a's end the owner is %+v", o)
	}
	if got := s.state.LanesToFence("dest"); len(got) != 1 || got[0].ID != "l1" {
		t.Errorf("lanes to fence: %v, want l1", got)
	}
	s.refused(&RegisterLane{Lane: Lane{ID: "l9", ClusterID: "dest", Node: "a", Incarnation: a1}}, ErrIncarnationEnded)
	s.refused(&RegisterLane{Lane: Lane{ID: "l1", ClusterID: "dest", Node: "b", Incarnation: b1}}, ErrConflict)
	s.refused(&Release{Node: "a", Incarnation: a1, Works: []OwnedWork{{w, first.Epoch}}}, ErrIncarnationEnded)
	s.refused(&StopMember{Node: "a", Incarnation: a1}, ErrIncarnationEnded)

	s.place("b", w)
	if o := s.owner(w); o.Node != "b" || o.Incarnation != b1 || o.Epoch <= first.Epoch {
		t.Errorf("b's ownership is %+v, after %+v", o, first)
	}
	s.must(&FencedLanes{IDs: []string{"l1", "l3", "gone"}})
	if _, ok := s.state.Lanes["l3"]; !ok || len(s.state.LanesToFence("dest")) != 0 {
		t.Errorf("after fencing l1 the lanes are %v", s.state.Lanes)
	}

	a2 := s.must(&BeginIncarnation{Node: "a"})
	if a2 <= a1 {
		t.Errorf("incarnation %d follows %d", a2, a1)
	}
	s.must(&EndIncarnation{Node: "a", Incarnation: a1}) // late: changes nothing
	if s.state.Ended("a", a2) {
		t.Error("the end of an earlier incarnation ended a later one")
	}
	// A restart that nobody has noticed ends the life before it.
	b2 := s.must(&BeginIncarnation{Node: "b"})
	if o := s.owner(w); o.Node != "" || !s.state.Ended("b", b1) || s.state.Ended("b", b2) {
		t.Errorf("after b's restart the owner is %+v", o)
	}
	s.must(&CloseLanes{Node: "b", Incarnation: b2, IDs: []string{"l3"}}) // not of this incarnation
	if got := s.state.LanesToFence("dest"); len(got) != 1 || got[0].ID != "l3" {
		t.Errorf("lanes to fence: %v, want l3", got)
	}
}

func TestPlannedMove(t *testing.T) {
	s := newScript(t)
	a, _ := s.node("a"), s.node("b")
	s.flow("orders", "a", map[string]int32{"t": 1})
	w := copyOf("orders", "t", 0)
	s.place("a", w)
	o := s.owner(w)
	s.must(&Assign{Release: []OwnedWork{{w, o.Epoch + 1}}})
	if s.owner(w).Releasing {
		t.Error("a release at another epoch was taken")
	}
	s.must(&Assign{Release: []OwnedWork{{w, o.Epoch}}})
	s.place("b", w)
	if got := s.owner(w); got.Node != "a" || !got.Releasing {
		t.Errorf("b was given what a has not released: %+v", got)
	}
	s.must(&Release{Node: "a", Incarnation: a, Works: []OwnedWork{{w, o.Epoch}}})
	s.place("b", w)
	if got := s.owner(w); got.Node != "b" || got.Epoch <= o.Epoch {
		t.Errorf("after the release: %+v", got)
	}
	s.must(&Release{Node: "a", Incarnation: a, Works: []OwnedWork{{w, o.Epoch}}}) // repeated
	if got := s.owner(w); got.Node != "b" {
		t.Errorf("a repeated release took b's work: %+v", got)
	}
	if s.state.Ended("a", a) {
		t.Error("a planned move ended an incarnation")
	}
}

func TestDeletedFlowWaitsForItsOwners(t *testing.T) {
	s := newScript(t)
	a, b := s.node("a"), s.node("b")
	s.flow("orders", "a", map[string]int32{"t": 2})
	s.place("b", copyOf("orders", "t", 1))
	duty, held := s.owner(Work{Kind: WorkFlow, Name: "orders"}), s.owner(copyOf("orders", "t", 1))
	s.must(&ApplyObjects{Delete: []string{"ReplicationFlow/orders"}})
	s.place("a", copyOf("orders", "t", 0))
	if _, ok := s.state.Owner(copyOf("orders", "t", 0)); ok && s.owner(copyOf("orders", "t", 0)).Node != "" {
		t.Error("a copy of a deleted flow was given away")
	}
	s.refused(&SetTopics{Flow: "orders", Epoch: duty.Epoch}, ErrNotFound)

	// It comes back before everybody has let go.
	s.must(&ApplyObjects{Put: []PutObject{{Key: "ReplicationFlow/orders", Spec: json.RawMessage(`{"a":1}`)}}})
	s.place("a", copyOf("orders", "t", 1), Work{Kind: WorkFlow, Name: "orders"})
	if got := s.owner(copyOf("orders", "t", 1)); got != (Owner{Node: "b", Incarnation: b, Epoch: held.Epoch, Releasing: true}) {
		t.Errorf("while b has it: %+v", got)
	}
	s.must(&Release{Node: "a", Incarnation: a, Works: []OwnedWork{{Work{Kind: WorkFlow, Name: "orders"}, duty.Epoch}}})
	s.place("a", Work{Kind: WorkFlow, Name: "orders"})
	s.topics("orders", map[string]int32{"t": 2})
	s.must(&Release{Node: "b", Incarnation: b, Works: []OwnedWork{{copyOf("orders", "t", 1), held.Epoch}}})
	s.place("a", copyOf("orders", "t", 1))
	if got := s.owner(copyOf("orders", "t", 1)); got.Node != "a" || got.Epoch <= held.Epoch {
		t.Errorf("after b let go: %+v", got)
	}

	s.must(&ApplyObjects{Delete: []string{"ReplicationFlow/orders"}})
	s.release()
	if len(s.state.Flows) != 0 {
		t.Errorf("flows that nobody works on stay: %v", s.state.Flows)
	}
	s.refused(&ApplyObjects{Delete: []string{"ReplicationFlow/orders"}}, ErrNotFound)
}

func TestDiscovery(t *testing.T) {
	s := newScript(t)
	a := s.node("a")
	s.flow("orders", "a", map[string]int32{"t": 3})
	for p := range int32(3) {
		s.place("a", copyOf("orders", "t", p))
	}
	epoch := s.state.Flows["orders"].Duty.Epoch
	releasing := func() (n int) {
		for _, o := range s.state.AssignmentsOf("a", a) {
			if o.Releasing {
				n++
			}
		}
		return n
	}
	set := func(edit func(*TopicSpec)) {
		t.Helper()
		spec := s.state.Flows["orders"].Topics["t"].TopicSpec
		edit(&spec)
		s.must(&SetTopics{Flow: "orders", Epoch: epoch, Put: []TopicSpec{spec}})
	}
	set(func(spec *TopicSpec) { spec.State, spec.Partitions = "ready", 5 })
	if got := releasing(); got != 0 || len(s.state.Flows["orders"].Topics["t"].Owners) != 5 {
		t.Errorf("more partitions: %d are being released", got)
	}
	set(func(spec *TopicSpec) { spec.Problem, spec.Blocked = "fenced elsewhere", true })
	if got := releasing(); got != 3 {
		t.Errorf("blocked: %d are being released, want 3", got)
	}
	s.release()
	s.assign(nil, 0)
	if got := len(s.state.AssignmentsOf("a", a)); got != 1 {
		t.Errorf("blocked: a has %d works, want the duty alone", got)
	}
	set(func(spec *TopicSpec) { spec.Problem, spec.Blocked = "", false })
	s.assign(nil, 0)
	if got := len(s.state.AssignmentsOf("a", a)); got != 6 || releasing() != 0 {
		t.Errorf("unblocked: a has %d works, want 6", got)
	}
	// Recreated with fewer partitions: another life, and two copies too many.
	set(func(spec *TopicSpec) { spec.SourceID, spec.Partitions = "id-t2", 3 })
	if got := releasing(); got != 5 {
		t.Errorf("recreated: %d are being released, want 5", got)
	}
	s.release()
	s.assign(nil, 0)
	all := s.state.AssignmentsOf("a", a)
	if len(all) != 4 || all[1].Topic.SourceID != "id-t2" {
		t.Errorf("recreated: a has %+v", all)
	}
	s.must(&SetTopics{Flow: "orders", Epoch: epoch, Remove: []string{"t", "unknown"}})
	s.release()
	if got := s.state.Flows["orders"].Topics; len(got) != 0 {
		t.Errorf("a topic that is gone stays: %v", got)
	}
	s.refused(&SetTopics{Flow: "orders", Epoch: epoch - 1}, ErrNotOwner)
	s.refused(&SetTopics{Flow: "orders", Epoch: epoch, Put: []TopicSpec{{Source: "x", Partitions: -1}}}, ErrInvalid)
}

func TestObjectsAreAppliedTogether(t *testing.T) {
	s := newScript(t)
	put := func(key, spec string) PutObject { return PutObject{Key: key, Spec: json.RawMessage(spec)} }
	none := s.state.ObjectsRevision
	r1 := s.must(&ApplyObjects{Put: []PutObject{put("Cluster/a", `{"x": "<&>"}`), put("Cluster/b", `{}`)}})
	s.refused(&ApplyObjects{Put: []PutObject{put("Cluster/c", `{}`)}, Expect: &none}, ErrConflict) // by somebody else who saw nothing either
	if got := s.must(&ApplyObjects{Put: []PutObject{put("Cluster/a", `{"x":"\u003c&>"}`)}}); got != r1 {
		t.Errorf("the same object again: revision %d, want %d", got, r1)
	}
	r2 := s.must(&ApplyObjects{Put: []PutObject{put("Cluster/b", `{"y":1}`)}, Delete: []string{"Cluster/a"}, Expect: &r1})
	if r2 <= r1 || len(s.state.Objects) != 1 || s.state.Objects["Cluster/b"].Revision != r2 {
		t.Errorf("at %d: %v", r2, s.state.Objects)
	}
	s.refused(&ApplyObjects{Put: []PutObject{put("Cluster/c", `{}`)}, Expect: &r1}, ErrConflict)
	s.refused(&ApplyObjects{Put: []PutObject{put("Cluster/c", `{}`)}, Delete: []string{"Cluster/a"}}, ErrNotFound)
	s.refused(&ApplyObjects{Put: []PutObject{put("nonsense", `{}`)}}, ErrInvalid)
}

func TestExecutionBelongsToItsOwner(t *testing.T) {
	s := newScript(t)
	a := s.node("a")
	s.node("b")
	w := Work{Kind: WorkRunbook, Name: "run-1"}
	r := s.must(&PutExecution{ID: "run-1", Runbook: "cutover", Data: json.RawMessage(`{"step":0}`)})
	s.refused(&PutExecution{ID: "run-1", Runbook: "cutover"}, ErrConflict)
	s.refused(&PutExecution{ID: "run-2", Expect: 5}, ErrNotFound)
	s.place("a", w)
	first := s.owner(w)
	r = s.must(&PutExecution{ID: "run-1", Runbook: "cutover", Expect: r, Epoch: first.Epoch, Data: json.RawMessage(`{"step":1}`)})
	s.must(&EndIncarnation{Node: "a", Incarnation: a})
	s.place("b", w)
	s.refused(&PutExecution{ID: "run-1", Runbook: "cutover", Expect: r, Epoch: first.Epoch, Data: json.RawMessage(`{"step":2}`)}, ErrNotOwner)
	r = s.must(&PutExecution{ID: "run-1", Runbook: "cutover", Expect: r, Data: json.RawMessage(`{"approved":true}`)}) // a person
	s.refused(&DeleteExecution{ID: "run-1"}, ErrConflict)
	s.must(&PutExecution{ID: "run-1", Runbook: "cutover", Expect: r, Epoch: s.owner(w).Epoch, Done: true})
	if o := s.owner(w); o.Node != "" {
		t.Errorf("done, and owned by %+v", o)
	}
	s.assign(nil, 0)
	if o := s.owner(w); o.Node != "" {
		t.Errorf("done, and given to %+v", o)
	}
	s.must(&DeleteExecution{ID: "run-1"})
	if len(s.state.Executions) != 0 {
		t.Errorf("deleted, and there: %v", s.state.Executions)
	}
}

func TestSmallCommands(t *testing.T) {
	s := newScript(t)
	s.must(&InitFleet{FleetID: "one"})
	s.must(&InitFleet{FleetID: "two"})
	if s.state.FleetID != "one" {
		t.Errorf("fleet id changed to %q", s.state.FleetID)
	}
	s.must(&PinLedger{ClusterID: "c", Ledger: Ledger{TopicID: "t1"}})
	s.must(&PinLedger{ClusterID: "c", Ledger: Ledger{TopicID: "t1", Start: []int64{5}}})
	s.refused(&PinLedger{ClusterID: "c", Ledger: Ledger{TopicID: "t2"}}, ErrConflict)
	s.refused(&WaiveDamage{ClusterID: "other", Waiver: Waiver{UpTo: 1}}, ErrNotFound)
	s.refused(&WaiveDamage{ClusterID: "c", Partition: -1}, ErrInvalid)
	s.must(&WaiveDamage{ClusterID: "c", Partition: 2, Waiver: Waiver{UpTo: 7, By: "ops"}})
	before := s.state.Ledgers["c"].Waived
	s.must(&WaiveDamage{ClusterID: "c", Partition: 2, Waiver: Waiver{UpTo: 9, By: "others"}})
	s.must(&WaiveDamage{ClusterID: "c", Partition: 2, Waiver: Waiver{UpTo: 8, By: "late"}})
	if got, want := s.state.Ledgers["c"].Waived[2], (Waiver{UpTo: 9, By: "others"}); got != want || before[2].UpTo != 7 {
		t.Errorf("waived is %+v, want %+v; an earlier state has %+v", got, want, before[2])
	}
	s.refused(&BeginIncarnation{Node: "x"}, ErrNotFound)
	s.refused(&DrainMember{Name: "x"}, ErrNotFound)
	s.refused(&InitFleet{}, ErrInvalid)
	s.refused(&SetMember{}, ErrInvalid)
	s.refused(&MoveGroup{Flow: "x"}, ErrNotFound)
	s.refused(&SetTopics{Flow: "x"}, ErrNotFound)
	a := s.node("a")
	s.flow("orders", "a", nil)
	s.must(&MoveGroup{Flow: "orders", Group: "g", Moved: true, Detail: "committed there"})
	if _, ok := s.state.Flows["orders"].MovedGroups["g"]; !ok {
		t.Error("the group has not moved")
	}
	s.must(&MoveGroup{Flow: "orders", Group: "g"})
	if len(s.state.Flows["orders"].MovedGroups) != 0 {
		t.Error("the group is not back")
	}
	s.must(&DrainMember{Name: "a", Draining: true})
	s.must(&SetMember{Name: "a", Rack: "z"})
	if m := s.state.Members["a"]; !m.Draining || m.Incarnation != a || m.Rack != "z" {
		t.Errorf("after SetMember: %+v", m)
	}
	s.must(&RemoveMember{Name: "a"})
	if _, ok := s.state.Members["a"]; ok || s.owner(Work{Kind: WorkFlow, Name: "orders"}).Node != "" {
		t.Error("a removed node is there, or owns something")
	}
}

// Another node may have the name of one that is being removed by the time that the
// removal's last command comes: it, and the token that has let it in, are left alone.
func TestARemovalIsOfOneDisk(t *testing.T) {
	for name, c := range map[string]struct {
		then      *SetMember // what comes between
		remove    RemoveMember
		member    string // the disk of who is left, "-" if nobody is
		lives     bool
		tokenLeft bool
	}{
		"as it was seen":                       {nil, RemoveMember{Name: "a", Disk: "1"}, "-", false, true},
		"of whoever has the name":              {nil, RemoveMember{Name: "a"}, "-", false, false},
		"of another disk":                      {nil, RemoveMember{Name: "a", Disk: "2"}, "1", true, false},
		"after another one has come":           {&SetMember{Name: "a", Disk: "2", Level: 2}, RemoveMember{Name: "a", Disk: "1"}, "2", false, true},
		"of the one that has come":             {&SetMember{Name: "a", Disk: "2", Level: 2}, RemoveMember{Name: "a", Disk: "2"}, "-", false, false},
		"that has told its disk again":         {&SetMember{Name: "a", Disk: "1", Level: 2}, RemoveMember{Name: "a", Disk: "2"}, "1", true, false},
		"that has told more, and not its disk": {&SetMember{Name: "a", Rack: "z", Level: 2}, RemoveMember{Name: "a", Disk: "2"}, "1", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			s.must(&SetMember{Name: "a", Level: 2})
			s.must(&SetMember{Name: "a", Disk: "1", Level: 2}) // all know what that is
			s.must(&BeginIncarnation{Node: "a"})
			s.must(&DrainMember{Name: "a", Draining: true})
			s.must(&CreateToken{ID: "t", Digest: "d", Expires: noon.Add(time.Hour), Now: noon})
			d := newDraft(s.state)
			d.tokens()["t"] = JoinToken{Digest: "d", Name: "a", Disk: "2"} // of who comes after a
			s.state = d.done()
			if c.then != nil {
				s.must(c.then)
			}
			s.must(&c.remove)
			m, there := s.state.Members["a"]
			if c.member == "-" == there || there && m.Disk != c.member {
				t.Errorf("left is %+v, want the one on disk %s", m, c.member)
			}
			if lives := m.Incarnation != 0; lives != c.lives || there && m.Draining != c.lives {
				t.Errorf("left is %+v; the old one's life and drain go on: want %v", m, c.lives)
			}
			if _, left := s.state.Tokens["t"]; left != c.tokenLeft {
				t.Errorf("the token of the node on disk 2 is left: %v, want %v", left, c.tokenLeft)
			}
		})
	}
}

func TestStateSurvivesItsEncoding(t *testing.T) {
	s := newScript(t)
	a := s.node("a")
	s.flow("orders", "a", map[string]int32{"t": 2})
	s.must(&PutExecution{ID: "run-1", Runbook: "r", Data: json.RawMessage(`{"html": "<b>"}`)})
	s.must(&RegisterLane{Lane: Lane{ID: "l", ClusterID: "c", Node: "a", Incarnation: a}})
	s.must(&StartVerification{Flow: "orders", ID: "v1", Request: json.RawMessage(`{"from": "<start>"}`), At: noon})
	s.must(&PutVerification{Flow: "orders", ID: "v1", Epoch: s.owner(duty).Epoch, Copies: map[string]json.RawMessage{"k": json.RawMessage(`{"next": 7}`)}, Ended: noon.Add(time.Second)})
	b, err := s.state.encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := decodeState(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, s.state) {
		t.Errorf("got %+v, want %+v", back, s.state)
	}
	if hashOf(t, back) != hashOf(t, s.state) {
		t.Error("hashes differ")
	}
	for _, bad := range []string{``, `{}`, `{"version":2,"state":{}}`, `{"version":1}`, `{"version":1,"state":{"news":1}}`, `{"version":1,"state":{"flows":{"f":null}}}`} {
		if _, err := decodeState([]byte(bad)); err == nil {
			t.Errorf("decoded %q", bad)
		}
	}
}

func TestUnknownCommandHalts(t *testing.T) {
	for _, bad := range []string{
		``, `null`, `{}`, `{"v":1,"kind":"fleet.explode","data":{}}`, `{"v":2,"kind":"fleet.init","data":{}}`,
		`{"v":1,"kind":"fleet.init","data":{"fleetId":"x","also":1}}`, `{"v":1,"kind":"fleet.init","data":{},"also":1}`,
	} {
		s := new(State)
		if next, _, err := (machine{}).Apply(s, 1, []byte(bad)); !errors.Is(err, errUnknownCommand) || next != s {
			t.Errorf("%q: got %v, want errUnknownCommand", bad, err)
		}
		if err := (machine{}).Check(s, []byte(bad)); err == nil {
			t.Errorf("a leader takes %q", bad)
		}
	}
}

// Whatever is in the log, a node either does not understand it or applies it, and
// always in the same way.
func FuzzCommand(f *testing.F) {
	for _, c := range []Command{
		&InitFleet{FleetID: "x"},
		&ApplyObjects{Put: []PutObject{{Key: "ReplicationFlow/f", Spec: json.RawMessage(`{}`)}}, Delete: []string{"ReplicationFlow/orders"}},
		&SetMember{Name: "b"},
		&RemoveMember{Name: "a"},
		&RecallLanes{ClusterID: "c", Lanes: []Lane{{ID: "l", ClusterID: "c", Node: "a", Incarnation: 1}}, Done: true},
		&BeginIncarnation{Node: "a"},
		&SetTopics{Flow: "orders", Epoch: 4, Put: []TopicSpec{{Source: "t", Partitions: 1}}, Remove: []string{"t"}},
		&Assign{Place: []Placement{{Work: copyOf("orders", "t", 1), Node: "a", Incarnation: 2}}, Release: []OwnedWork{{copyOf("orders", "t", 0), 6}}},
		&Release{Node: "a", Incarnation: 2, Works: []OwnedWork{{copyOf("orders", "t", 0), 6}}},
		&PutExecution{ID: "run-1", Data: json.RawMessage(`[1]`)},
		&StartVerification{Flow: "orders", ID: "v1", At: noon},
		&PutVerification{Flow: "orders", ID: "v1", Epoch: 4, Copies: map[string]json.RawMessage{"k": json.RawMessage(`1`)}},
		&StopVerification{Flow: "orders", ID: "v1", At: noon},
		&RegisterLane{Lane: Lane{ID: "l", ClusterID: "c", Node: "a", Incarnation: 2}},
		&Audited{by("ops", Touched{Key: "ReplicationFlow/orders"}), &ApplyObjects{Delete: []string{"ReplicationFlow/orders"}}},
	} {
		b, err := encodeCommand(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newScript(t)
		s.node("a")
		s.flow("orders", "a", map[string]int32{"t": 2})
		s.place("a", copyOf("orders", "t", 0))
		before := hashOf(t, s.state)
		next, _, err := (machine{}).Apply(s.state, 100, b)
		again, _, _ := (machine{}).Apply(s.state, 100, b)
		if hashOf(t, s.state) != before {
			t.Fatal("the state before changed")
		}
		if err != nil {
			return
		}
		if err := invariants(next); err != nil {
			t.Fatal(err)
		}
		for name, m := range next.Members { // in an incarnation that both have
			if a, b := s.state.AssignmentsOf(name, m.Incarnation), next.AssignmentsOf(name, m.Incarnation); !otherWork(s.state, next, name, m.Incarnation) && !slices.Equal(a, b) {
				t.Fatalf("no other work, and %s has %v and then %v", name, a, b)
			}
		}
		if hashOf(t, next) != hashOf(t, again) {
			t.Fatal("the same command led to different states")
		}
	})
}
