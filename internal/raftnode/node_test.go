package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestGroupOverMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		for i, n := range nodes {
			g.apply(n, []string{"one", "two", "three"}[i])
		}
		for _, n := range nodes {
			if err := n.Barrier(t.Context()); err != nil {
				t.Fatalf("barrier on %s: %v", n.ID(), err)
			}
			if got, want := n.replica.State(), "one,two,three"; got != want {
				t.Errorf("%s holds %q, want %q", n.ID(), got, want)
			}
		}
		_, err := nodes[1].Apply(t.Context(), []byte("bad"))
		if !errors.Is(err, ErrRefused) {
			t.Errorf("a command that Check refuses: got %v, want ErrRefused", err)
		}
	})
}

func TestIsolatedLeaderIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		var ended atomic.Int32
		g.edit = func(c *Config) {
			c.Lead = func(ctx context.Context) error {
				<-ctx.Done()
				if errors.Is(context.Cause(ctx), ErrLeadershipLost) {
					ended.Add(1)
				}
				return nil
			}
		}
		nodes := g.three()
		g.apply(nodes[0], "before")
		old := leaderOf(nodes)
		rest := others(nodes, old)

		g.net.Isolate(old.ID())
		began := time.Now()
		g.await("a new leader", func() bool { return leaderOf(rest) != nil })
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("a new leader took %s", took)
		}
		g.await("the old leader's Lead to end", func() bool { return ended.Load() == 1 })
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := old.Apply(ctx, []byte("lost")); err == nil {
			t.Error("an isolated node applied a command")
		}
		g.apply(rest[0], "during")

		g.net.Heal()
		g.await("the old leader to catch up", func() bool { return old.replica.State() == "before,during" })
		g.apply(old, "after")
	})
}

// A member that was away for long takes part in the next commit as soon as it is back, though
// raft's pause between its attempts had grown to ten seconds.
func TestAMemberThatIsBackCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		g.apply(nodes[0], "before")
		leader := leaderOf(nodes)
		rest := others(nodes, leader)
		g.net.Isolate(rest[0].ID())
		for range 60 { // seconds
			g.apply(leader, "x")
			time.Sleep(time.Second)
		}
		g.net.Heal()
		g.await("heartbeats", func() bool { return leader.silentFor(rest[0].place().server()) == 0 })
		g.net.Isolate(rest[1].ID())
		began := time.Now()
		g.apply(leader, "with the one that was away")
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the commit took %s", took)
		}
	})
}

// Raft hears of no failure to replicate while the leader leads the member that is away.
func TestALeaderLeadsItsMembersInItsTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		g.apply(nodes[0], "x")
		leader := leaderOf(nodes)
		term, gone := leader.raft.CurrentTerm(), others(nodes, leader)[0]
		at := gone.place().server()
		if !leader.leads(at, term) || leader.leads(at, term+1) || leader.leads(at, term-1) || gone.leads(leader.place().server(), term) {
			t.Error("it is not the leader, and nobody else, who leads, in its term only")
		}
		g.net.Isolate(gone.ID())
		if err := leader.Remove(t.Context(), Removal{ID: gone.ID()}); err != nil {
			t.Fatal(err)
		}
		if leader.leads(at, term) {
			t.Error("a member that was removed is waited for")
		}
		g.net.Isolate(leader.ID())
		g.await("its leadership to end", func() bool { return !leader.leads(others(others(nodes, leader), gone)[0].place().server(), term) })
	})
}

func TestUnclearWhenLeadershipIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		leader := leaderOf(nodes)
		g.net.Isolate(leader.ID())
		_, err := leader.Apply(t.Context(), []byte("x"))
		if !errors.Is(err, ErrUnclear) {
			t.Errorf("got %v, want ErrUnclear", err)
		}
	})
}

func TestRemoveAndRejoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		leader := leaderOf(nodes)
		follower := others(nodes, leader)[0]
		// The leader removes itself: another one takes over and does it.
		if err := follower.Remove(t.Context(), Removal{ID: leader.ID()}); err != nil {
			t.Fatal(err)
		}
		rest := others(nodes, leader)
		for _, n := range rest {
			g.await("two members", func() bool {
				m, err := n.Members(t.Context())
				return err == nil && len(m) == 2
			})
		}
		g.apply(rest[0], "without")
		if err := rest[0].Remove(t.Context(), Removal{ID: "nobody"}); !errors.Is(err, ErrNotMember) {
			t.Errorf("remove a stranger: got %v, want ErrNotMember", err)
		}
		if err := leader.end(); err != nil {
			t.Errorf("the removed node ended with %v", err)
		}
		// Wiped, it may come back.
		back := g.start(g.config(leader.ID(), "", rest[0]))
		g.await("its state", func() bool { return strings.Contains(back.replica.State(), "without") })
		g.apply(back, "again")
	})
}

// Who names somebody that cannot lead is told who can.
func TestWhoCanLead(t *testing.T) {
	voter := func(id string) raft.Server { return raft.Server{ID: raft.ServerID(id), Suffrage: raft.Voter} }
	worker := raft.Server{ID: "w", Suffrage: raft.Nonvoter}
	all := []raft.Server{voter("c"), voter("a"), worker, voter("b")}
	for _, c := range []struct {
		servers []raft.Server
		id      string
		want    error
		text    string
	}{
		{all, "b", nil, ""},
		{all, "nobody", ErrNotMember, `"nobody"; those that can lead are b, c`},
		{all, "w", ErrRefused, "w has no vote; those that can lead are b, c"},
		{all[1:3], "nobody", ErrNotMember, "no other member than a, which leads, has a vote"},
	} {
		s, err := heir(c.servers, "a", c.id)
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) || err == nil && string(s.ID) != c.id {
			t.Errorf("%s: got %s, %v, want %v with %q", c.id, s.ID, err, c.want, c.text)
		}
	}
}

func TestTransferAndCleanShutdownKeepAvailability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		old := leaderOf(nodes)
		to := others(nodes, old)[0]
		if err := others(nodes, old)[1].Transfer(t.Context(), to.ID()); err != nil {
			t.Fatal(err)
		}
		g.await("the chosen leader", func() bool { return to.Status().Leads })
		g.apply(old, "handed over")

		began := time.Now()
		if err := to.end(); err != nil {
			t.Fatal(err)
		}
		g.apply(old, "still there")
		if took := time.Since(began); took > 450*time.Millisecond {
			t.Errorf("no leader for %s after a clean shutdown: it was not handed over", took)
		}
		if _, err := to.Apply(t.Context(), []byte("x")); !errors.Is(err, ErrStopped) {
			t.Errorf("apply on a stopped node: got %v, want ErrStopped", err)
		}
	})
}

func TestJoinOfUnreachableNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		a := g.start(g.config("a", "", nil))
		g.apply(a, "one")
		logged := new(recorder)
		c := g.config("b", "", a)
		c.Advertise = "elsewhere:7"
		c.Logger = slog.New(slog.NewTextHandler(logged, nil))
		g.start(c)
		g.await("the reason in the log", func() bool { return strings.Contains(logged.String(), "elsewhere:7") })
		g.apply(a, "two")
		if m, err := a.Members(t.Context()); err != nil || len(m) != 1 {
			t.Errorf("got members %v (%v), want only a", m, err)
		}
	})
}

func TestHaltedReplicaStopsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		a := g.start(g.config("a", "", nil))
		g.apply(a, "one")
		_, err := a.Apply(t.Context(), []byte("from the future"))
		if !errors.Is(err, ErrUnclear) {
			t.Errorf("apply: got %v, want ErrUnclear", err)
		}
		<-a.done
		if !errors.Is(a.err, ErrHalted) {
			t.Errorf("Run ended with %v, want ErrHalted", a.err)
		}
		if got := a.replica.State(); got != "one" {
			t.Errorf("state is %q, want the last that was understood", got)
		}
	})
}

func TestSolitaryNodeNeedsNoNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, nil)
		c := DefaultConfig()
		c.ID, c.Logger = "alone", slog.New(slog.DiscardHandler)
		n := g.start(c)
		g.apply(n, "one")
		if err := n.Barrier(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPeersTalkOverLoopback(t *testing.T) {
	g := newGroup(t, nil)
	g.edit = func(c *Config) {
		c.HeartbeatTimeout, c.LeaderLease = 2*time.Second, time.Second // a busy machine loses no leader
		c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !PeerIs(r.Context(), "b") || PeerIs(r.Context(), "a") {
				http.Error(w, "not b", http.StatusForbidden)
			}
		})
	}
	nodes := g.three()
	for i, n := range nodes {
		g.apply(n, []string{"one", "two", "three"}[i])
	}
	for id, want := range map[string]int{"b": http.StatusOK, "c": http.StatusForbidden} {
		var from *testNode
		for _, n := range nodes {
			if n.ID() == id {
				from = n
			}
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a/who", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := from.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s asks a: got %d, want %d", id, resp.StatusCode, want)
		}
	}
}

func TestLeadErrorStopsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		cause := errors.New("cannot lead")
		g.edit = func(c *Config) { c.Lead = func(context.Context) error { return cause } }
		n := g.start(g.config("a", "", nil))
		<-n.done
		if !errors.Is(n.err, cause) {
			t.Errorf("Run ended with %v, want %v", n.err, cause)
		}
	})
}

// Raft takes questions into its queue when it has stopped, too, and answers none: who asks
// while the node stops would never know, nor would who waits for him.
func TestAQuestionWhileTheNodeStopsIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		n := g.start(g.config("a", "", nil))
		g.await("a leader", func() bool { return n.VerifyLeader(t.Context()) == nil })
		if err := n.raft.Shutdown().Error(); err != nil { // as Run does, before it is over
			t.Fatal(err)
		}
		for range 32 { // whether it is taken into the queue is random
			for what, err := range map[string]error{"verify": n.VerifyLeader(t.Context()), "responds": n.Responds(t.Context()), "transfer": n.transferHere(memberRequest{})} {
				if !errors.Is(err, ErrStopped) && !errors.Is(err, raft.ErrRaftShutdown) {
					t.Fatalf("%s: got %v", what, err)
				}
			}
		}
	})
}
