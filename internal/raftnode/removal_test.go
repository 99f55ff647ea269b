package raftnode

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
)

// A removal that names the disk is about the node that was seen there, and never about
// one that has its name by now.
func TestRemovalOfTheNodeThatWasSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		a := g.start(g.config("a", "", nil))
		b := g.start(g.config("b", "", a))
		c := g.start(g.config("c", "", a))
		g.await("three voters", func() bool { return g.voters(a, b, c) == 3 })
		seen := c.diskNow().id
		if err := b.Remove(t.Context(), Removal{ID: "c", Disk: seen}); err != nil {
			t.Fatal(err)
		}
		if err := c.end(); err != nil && !errors.Is(err, ErrRemoved) {
			t.Errorf("the removed node ended with %v", err)
		}
		next := g.start(g.config("c", "", a))
		g.await("another c", func() bool { return g.voters(a, b, next) == 3 })
		for _, n := range []*testNode{a, b, next} { // whether it leads or asks the leader
			for _, force := range []bool{false, true} {
				r := Removal{ID: "c", Disk: seen, Force: force}
				for what, err := range map[string]error{"asked": n.Removable(t.Context(), r), "done": n.Remove(t.Context(), r)} {
					if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "c is on disk "+next.diskNow().id+" now, not on "+seen) {
						t.Errorf("%s at %s, force %v: got %v", what, n.ID(), force, err)
					}
				}
			}
		}
		if got := g.voters(a, b, next); got != 3 {
			t.Fatalf("%d voters are left", got)
		}
		if err := a.Remove(t.Context(), Removal{ID: "c", Disk: next.diskNow().id}); err != nil {
			t.Error(err)
		}
	})
}
