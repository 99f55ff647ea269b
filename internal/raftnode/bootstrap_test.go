package raftnode

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Members that do not answer at first, because they are starting too, are asked again.
func TestABeginnerAsksMoreThanOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, d := ownGroup(t)
		a := g.start(g.config("a", t.TempDir(), nil))
		c := g.config("b", t.TempDir(), a)
		c.Token = d.issue(t, a, false)
		b := g.start(c)
		g.await("two members", func() bool { return g.voters(a, b) >= 2 })
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
		lost := g.config("a", t.TempDir(), nil)
		lost.Join, lost.Replica = []string{"a:7", "b:7"}, NewReplica[string](notes{})
		g.net.Isolate("b")
		heal := time.AfterFunc(beginPatience-time.Second, g.net.Heal)
		defer heal.Stop()
		n, err := Open(lost)
		if !errors.Is(err, ErrGroupRuns) {
			t.Errorf("got %v, want ErrGroupRuns", err)
		}
		if err == nil {
			_ = n.Close()
		}
	})
}

// A node whose disk was lost, and whose file still says that it begins the group, does
// not begin a second one while a member of the first answers.
func TestABeginnerThatLostItsDisk(t *testing.T) {
	for name, own := range map[string]bool{"an authority of the group's own": true, "certificates from elsewhere": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, d := ownGroup(t)
				if !own {
					g.edit = nil
				}
				join := func(id string, first *testNode) Config {
					c := g.config(id, t.TempDir(), first)
					if own {
						c.Token = d.issue(t, first, false)
					}
					return c
				}
				// The same addresses from the first day on, when nobody answers yet, but for
				// one that waits to be let in.
				if !own {
					c := g.config("w", "", nil)
					c.Bootstrap, c.Join = false, []string{"a:7"}
					g.start(c)
				}
				first := g.config("a", t.TempDir(), nil)
				first.Join = []string{"nobody:7", "a:7", "w:7", "b:7"}
				a := g.start(first)
				b := g.start(join("b", a))
				g.await("two voters", func() bool { return g.voters(a, b) >= 2 })
				if err := a.end(); err != nil {
					t.Fatal(err)
				}

				again := g.start(first) // its own disk
				g.await("a again", func() bool { return g.voters(b, again) >= 2 })
				if again.Group() != b.Group() {
					t.Errorf("a belongs to group %s, b to %s", again.Group(), b.Group())
				}
				if err := again.end(); err != nil {
					t.Fatal(err)
				}
				lost := first
				lost.Dir, lost.Replica = t.TempDir(), NewReplica[string](notes{})
				for range 2 { // it leaves nothing that would let it in the next time
					n, err := Open(lost)
					if !errors.Is(err, ErrGroupRuns) || !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "the node at b:7 belongs to one") && !strings.Contains(err.Error(), "the node at w:7 belongs to one") {
						t.Errorf("got %v, want ErrGroupRuns", err)
					}
					if err == nil {
						_ = n.Close()
					}
				}
				lost.Join = nil
				if n, err := Open(lost); err != nil {
					t.Errorf("where nobody can be asked: %v", err)
				} else if err := n.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
