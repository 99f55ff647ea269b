package cluster

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

func TestChangesOfCommands(t *testing.T) {
	f := newSettledFleet(t, 200)
	mine := f.state.AssignmentsOf("node-000", 7)
	copyOf := mine[slices.IndexFunc(mine, func(a Assignment) bool { return a.Work.Kind == WorkCopy })]
	duty := f.state.Flows["flow-0000"].Duty
	topic := f.state.Flows["flow-0000"].Topics["some.topic-00003"].TopicSpec
	topic.Blocked = true
	var blocked []Work
	for p := range topic.Partitions {
		blocked = append(blocked, Work{Kind: WorkCopy, Name: "flow-0000", Topic: topic.Source, Partition: p})
	}
	for name, c := range map[string]struct {
		command Command
		want    changes
		matters bool // to assign
	}{
		"a lane":         {&RegisterLane{Lane: Lane{ID: "waybill.x", ClusterID: "c", Node: "node-000", Incarnation: 7}}, changes{}, false},
		"a ledger":       {&PinLedger{ClusterID: "c", Ledger: Ledger{TopicID: "x"}}, changes{}, false},
		"a group":        {&MoveGroup{Flow: "flow-0000", Group: "g", Moved: true}, changes{}, false},
		"a copy":         {&Assign{Release: []OwnedWork{{copyOf.Work, copyOf.Epoch}}}, changes{works: []Work{copyOf.Work}}, true},
		"nothing":        {&Assign{Release: []OwnedWork{{copyOf.Work, copyOf.Epoch + 1}}}, changes{}, false},
		"a topic":        {&SetTopics{Flow: "flow-0000", Epoch: duty.Epoch, Put: []TopicSpec{topic}}, changes{works: blocked}, true},
		"an object":      {&ApplyObjects{Put: []PutObject{{"Cluster/c", []byte(`{}`)}}}, changes{objects: []string{"Cluster/c"}}, true},
		"a new flow":     {&ApplyObjects{Put: []PutObject{{"ReplicationFlow/z", []byte(`{}`)}}}, changes{objects: []string{"ReplicationFlow/z"}, works: []Work{{Kind: WorkFlow, Name: "z"}}}, true},
		"a node":         {&DrainMember{Name: "node-002", Draining: true}, changes{members: []string{"node-002"}}, true},
		"a runbook":      {&PutExecution{ID: "x", Runbook: "r", Data: []byte(`1`)}, changes{works: []Work{{Kind: WorkRunbook, Name: "x"}}}, true},
		"an incarnation": {&EndIncarnation{Node: "node-000", Incarnation: 7}, changes{members: []string{"node-000"}, works: worksOf(mine)}, true},
	} {
		next, r := f.state.apply(f.index+1, c.command)
		if r.Refusal != nil {
			t.Errorf("%s: %v", name, r.Refusal)
			continue
		}
		slices.SortFunc(c.want.works, Work.compare)
		got := changesBetween(f.state, next)
		if !reflect.DeepEqual(got, c.want) || got.assignment() != c.matters {
			t.Errorf("%s: got %+v (matters to the assignment: %v), want %+v", name, got, got.assignment(), c.want)
		}
		if back := changesBetween(next, f.state); !reflect.DeepEqual(back, c.want) {
			t.Errorf("%s, back: got %+v, want %+v", name, back, c.want)
		}
	}
}

func worksOf(all []Assignment) (works []Work) {
	for _, a := range all {
		works = append(works, a.Work)
	}
	return works
}

// Whatever commands lie between two states, and whether they share anything or not:
// a node that learns of changes only knows its work as well as one that looks
// through all.
func TestChangesTellEveryNodeItsWork(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	f := newSettledFleet(t, 200)
	told := make(map[string][]Assignment)
	for n := range 3 {
		name := fmt.Sprint("node-00", n)
		told[name] = f.state.AssignmentsOf(name, 7)
	}
	seen := f.state
	for step := range 300 {
		f.index++
		f.state, _ = f.state.apply(f.index, randomCommand(rng, f.state))
		if rng.IntN(3) > 0 {
			continue // a reader that skips states
		}
		later := f.state
		if rng.IntN(10) == 0 {
			b, err := later.encode()
			if err != nil {
				t.Fatal(err)
			}
			if later, err = decodeState(b); err != nil {
				t.Fatal(err)
			}
		}
		for name, had := range told {
			has := later.AssignmentsOf(name, 7)
			if differ := !slices.Equal(had, has); differ && !otherWork(seen, later, name, 7) {
				t.Fatalf("step %d: the work of %s has changed, and the changes do not say so: %+v", step, name, changesBetween(seen, later))
			}
			told[name] = has
		}
		seen = later
	}
}

// randomCommand is one that touches work, and may be refused.
func randomCommand(rng *rand.Rand, s *State) Command {
	var all []Assignment
	for _, name := range sortedKeys(s.Members) {
		all = append(all, s.AssignmentsOf(name, 7)...)
	}
	flows := sortedKeys(s.Flows)
	var works []OwnedWork
	for range 1 + rng.IntN(5) {
		if len(all) > 0 {
			a := all[rng.IntN(len(all))]
			works = append(works, OwnedWork{a.Work, a.Epoch})
		}
	}
	node := fmt.Sprint("node-00", rng.IntN(3))
	switch rng.IntN(6) {
	case 0:
		return &Assign{Release: works}
	case 1:
		return &Release{Node: node, Incarnation: 7, Works: works}
	case 2:
		c := new(Assign)
		for name, f := range s.Flows {
			for topic, t := range f.Topics {
				for p := range t.Owners {
					c.Place = append(c.Place, Placement{Work{WorkCopy, name, topic, int32(p)}, node, 7})
				}
			}
		}
		return c
	case 3:
		f := flows[rng.IntN(len(flows))]
		topic := TopicSpec{Source: fmt.Sprintf("some.topic-%05d", rng.IntN(12)), Partitions: 1 + rng.Int32N(25), Blocked: rng.IntN(8) == 0}
		return &SetTopics{Flow: f, Epoch: s.Flows[f].Duty.Epoch, Put: []TopicSpec{topic}}
	case 4:
		return &MoveGroup{Flow: flows[0], Group: fmt.Sprint(rng.IntN(3)), Moved: rng.IntN(2) == 0}
	default:
		return &DrainMember{Name: node, Draining: rng.IntN(2) == 0}
	}
}
