package raftnode

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

func TestDiffering(t *testing.T) {
	for name, c := range map[string]struct {
		reports map[string]digests
		want    []verdict
	}{
		"equal":                  {map[string]digests{"a": {7: "x"}, "b": {7: "x"}, "c": {7: "x"}}, nil},
		"one that lags":          {map[string]digests{"a": {7: "x", 3: "w"}, "b": {7: "x"}, "c": {3: "w"}}, nil},
		"nothing in common":      {map[string]digests{"a": {7: "x"}, "b": {6: "y"}}, nil},
		"one of three":           {map[string]digests{"a": {7: "x"}, "b": {7: "y"}, "c": {7: "x"}}, []verdict{{"b", 7, "y", "x", 2, 3}}},
		"the leader":             {map[string]digests{"a": {7: "y"}, "b": {7: "x"}, "c": {7: "x"}}, []verdict{{"a", 7, "y", "x", 2, 3}}},
		"one of two":             {map[string]digests{"a": {7: "x"}, "b": {7: "y"}}, []verdict{{"b", 7, "y", "x", 1, 2}}},
		"two of two, leader's":   {map[string]digests{"a": {7: "y"}, "b": {7: "x"}}, []verdict{{"b", 7, "x", "y", 1, 2}}},
		"at an earlier mark":     {map[string]digests{"a": {9: "z", 7: "x"}, "b": {9: "z"}, "c": {7: "y"}, "d": {7: "x"}}, []verdict{{"c", 7, "y", "x", 2, 3}}},
		"all different":          {map[string]digests{"a": {7: "x"}, "b": {7: "y"}, "c": {7: "z"}}, []verdict{{"b", 7, "y", "x", 1, 3}, {"c", 7, "z", "x", 1, 3}}},
		"the highest that tells": {map[string]digests{"a": {9: "z", 7: "x"}, "b": {9: "y", 7: "w"}, "c": {9: "z", 7: "x"}}, []verdict{{"b", 9, "y", "z", 2, 3}}},
	} {
		if got := differing(c.reports, "a"); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestDivergedMemberStops(t *testing.T) {
	for name, leads := range map[string]bool{"a follower": false, "the leader": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, NewMemoryNetwork())
				nodes := g.three()
				g.apply(nodes[0], "one")
				for _, n := range nodes {
					if err := n.Barrier(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				victim := leaderOf(nodes)
				if !leads {
					victim = others(nodes, victim)[0]
				}
				state, index := victim.replica.Current()
				victim.replica.publish(state+"!", index) // as a flipped bit in its memory would
				<-victim.done
				if !errors.Is(victim.err, ErrDiverged) {
					t.Errorf("Run ended with %v, want ErrDiverged", victim.err)
				}
				t.Log(victim.err)
				rest := others(nodes, victim)
				g.await("a leader", func() bool { return leaderOf(rest) != nil })
				g.apply(rest[0], "two")
				time.Sleep(3 * compareEvery)
				g.apply(rest[1], "three")
			})
		})
	}
}

// Only the leader has compared: another member's word stops nobody.
func TestVerdictOfAFollowerIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		g.apply(nodes[0], "one")
		rest := others(nodes, leaderOf(nodes))
		from, to := rest[0], rest[1]
		g.apply(to, "two")
		body, err := json.Marshal(verdict{ID: to.ID(), Index: to.replica.index(), Want: "another", Agree: 2, Of: 3})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := from.post(t.Context(), to.Addr(), "diverged", body); !errors.Is(err, errNotLeader) {
			t.Errorf("got %v, want errNotLeader", err)
		}
		g.apply(to, "three")
	})
}

// Members that are busy are compared at marks.
func TestMarksAreTheSameEverywhere(t *testing.T) {
	a, b := NewReplica(notes{}), NewReplica(notes{})
	for i := uint64(1); i < 10*markEvery; i += 3 {
		a.publish(fmt.Sprint(i), i)
		if i < 9*markEvery {
			b.publish(fmt.Sprint(i), i)
		}
	}
	da, err := a.digests()
	if err != nil {
		t.Fatal(err)
	}
	db, err := b.digests()
	if err != nil {
		t.Fatal(err)
	}
	common := 0
	for index, d := range da {
		if other, ok := db[index]; ok {
			common++
			if other != d {
				t.Errorf("at %d: %s and %s", index, d, other)
			}
		}
	}
	if common < keepMarks-1 || len(da) > keepMarks+1 {
		t.Errorf("%d digests in common of %d", common, len(da))
	}
}

// encodeHook is notes that calls hook when a state is encoded.
type encodeHook struct {
	notes
	hook func()
}

func (m encodeHook) Encode(s string) ([]byte, error) {
	m.hook()
	return m.notes.Encode(s)
}

// Encoding a large state takes long, and raft publishes meanwhile.
func TestStatesAreEncodedWithoutTheLock(t *testing.T) {
	var r *Replica[string]
	encoded := 0
	r = NewReplica(encodeHook{hook: func() {
		encoded++
		if !r.marks.mu.TryLock() {
			t.Error("nobody can publish a state while one is encoded")
			return
		}
		r.marks.mu.Unlock()
	}})
	for i := range uint64(3) {
		r.publish(fmt.Sprint(i), i*markEvery+1)
	}
	for range 2 {
		// Two marks, and the current state, which is the second of them.
		if d, err := r.digests(); err != nil || len(d) != 2 || encoded != 3 {
			t.Errorf("%d states encoded for %v (%v), want each once", encoded, d, err)
		}
	}
}
