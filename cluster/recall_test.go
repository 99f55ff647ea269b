package cluster

import (
	"errors"
	"strings"
	"testing"
)

// A restored fleet takes up what was found at a cluster, once, and nothing that is its
// own; and a fleet with a member of an older version does not use the command.
func TestLanesThatWereForgotten(t *testing.T) {
	s := newScript(t)
	a := s.node("a")
	lane := func(id, node string, incarnation uint64) Lane {
		return Lane{ID: id, ClusterID: "dst", ProducerID: 7, Node: node, Incarnation: incarnation}
	}
	s.must(&RegisterLane{Lane: lane("known", "a", a)})
	if s.state.Forgotten("dst") {
		t.Error("a fleet that was not restored has forgotten lanes")
	}
	s.refused(&RecallLanes{ClusterID: "dst", Done: true}, ErrInvalid)

	s.state = s.state.restored("new", 1<<32)
	s.index = 1 << 32
	again := s.node("a")
	s.must(&RegisterLane{Lane: lane("own", "a", again)})
	if !s.state.Forgotten("dst") || !s.state.Forgotten("other") {
		t.Error("nothing is forgotten after a restore")
	}
	fence := func(want string) {
		t.Helper()
		var ids []string
		for _, l := range s.state.LanesToFence("dst") {
			ids = append(ids, l.ID)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("lanes to fence: %s, want %s", got, want)
		}
	}
	fence("known")
	s.refused(&RecallLanes{Done: true}, ErrInvalid)
	s.refused(&RecallLanes{ClusterID: "dst", Lanes: []Lane{lane("", "a", a)}}, ErrInvalid)
	s.refused(&RecallLanes{ClusterID: "dst", Lanes: []Lane{lane("x", "a", a), {ID: "y", ClusterID: "other"}}}, ErrInvalid)
	fence("known")

	known := lane("known", "a", a)
	known.ProducerID = 8 // what is in the state stays
	s.must(&RecallLanes{ClusterID: "dst", Lanes: []Lane{known, lane("late", "a", a+1), lane("own", "a", again), lane("opening", "a", again)}})
	fence("known late")
	if !s.state.Forgotten("dst") || s.state.Lanes["known"].ProducerID != 7 || s.state.Lanes["opening"].ID != "" {
		t.Errorf("after the first part: %+v", s.state.Lanes)
	}
	s.must(&RecallLanes{ClusterID: "dst", Lanes: []Lane{lane("later", "b", a+2)}, Done: true})
	fence("known late later")
	if s.state.Forgotten("dst") || !s.state.Forgotten("other") {
		t.Errorf("recalled at dst: %v", s.state.Recalled)
	}
	s.must(&FencedLanes{IDs: []string{"known", "late", "later"}})
	s.must(&RecallLanes{ClusterID: "dst", Lanes: []Lane{lane("late", "a", a+1)}, Done: true}) // of another node that looked, late
	fence("")

	// Another restore forgets again.
	next := s.state.restored("newer", 1<<33)
	if next.RestoredAt != 1<<33 || !next.Forgotten("dst") {
		t.Errorf("restored at %d, recalled %v", next.RestoredAt, next.Recalled)
	}

	b, err := encodeCommand(&RecallLanes{ClusterID: "dst", Done: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := (machine{}).Check(&State{Level: 1, Members: map[string]Member{"old": {Level: 1}, "new": {Level: 2}}}, b); err == nil || !strings.Contains(err.Error(), "old (version") {
		t.Errorf("with a member of an older version: got %v", err)
	}
	if err := (machine{}).Check(&State{Level: 2}, b); err != nil {
		t.Error(err)
	}
	before := &vocabulary{level: 1, commands: map[string]func() Command{}}
	if _, err := before.decode(b); !errors.Is(err, errUnknownCommand) {
		t.Errorf("an older version reads it: %v", err)
	}
}
