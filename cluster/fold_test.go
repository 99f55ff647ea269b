package cluster

import (
	"testing"
	"time"
)

// TestOneFoldsALedger: one node at a time, until it says that it is over or its incarnation
// ends; a node's own takes the place of what it could not end.
func TestOneFoldsALedger(t *testing.T) {
	s := newScript(t)
	a, b := s.node("a"), s.node("b")
	s.must(&PinLedger{ClusterID: "c", Ledger: Ledger{TopicID: "t"}})
	begin := func(id, node string, incarnation uint64) *BeginFold {
		return &BeginFold{ClusterID: "c", TopicID: "t", Folding: Folding{ID: id, Node: node, Incarnation: incarnation, By: "ops", Since: time.Unix(1, 0)}}
	}
	by := func() string {
		if f := s.state.Ledgers["c"].Folding; f != nil {
			return f.ID
		}
		return ""
	}
	s.refused(&BeginFold{ClusterID: "c", TopicID: "t", Folding: Folding{Node: "a", Incarnation: a}}, ErrInvalid)
	s.refused(&BeginFold{ClusterID: "x", TopicID: "t", Folding: begin("1", "a", a).Folding}, ErrNotFound)
	s.refused(&BeginFold{ClusterID: "c", TopicID: "other", Folding: begin("1", "a", a).Folding}, ErrInvalid)
	s.refused(begin("1", "a", a+1), ErrIncarnationEnded)

	s.must(begin("1", "a", a))
	before := s.state.Ledgers["c"]
	s.refused(begin("2", "b", b), ErrConflict)
	s.must(&EndFold{ClusterID: "c", ID: "2"})
	s.must(begin("3", "a", a))
	s.must(&EndFold{ClusterID: "c", ID: "1"}) // late
	if by() != "3" || before.Folding.ID != "1" {
		t.Errorf("%q folds, an earlier state has %+v", by(), before.Folding)
	}
	s.must(&EndFold{ClusterID: "c", ID: "3"})
	s.must(&EndFold{ClusterID: "c", ID: "3"})
	s.must(&EndFold{ClusterID: "x", ID: "3"})
	s.must(begin("4", "b", b))
	s.must(&EndIncarnation{Node: "b", Incarnation: b})
	s.must(begin("5", "a", a))
	if by() != "5" {
		t.Errorf("%q folds", by())
	}
}
