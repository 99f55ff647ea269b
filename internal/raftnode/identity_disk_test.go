package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestPlanVoters(t *testing.T) {
	// A member is a letter and what it is: v votes, s does not, w never shall; then
	// - is gone, ? has not the whole log, ! leads.
	parse := func(text string) (all []candidate) {
		for _, m := range strings.Fields(text) {
			all = append(all, candidate{
				id: m[:1], voter: m[1] == 'v', worker: strings.Contains(m, "w"), leader: strings.Contains(m, "!"),
				gone: strings.Contains(m, "-"), ready: !strings.ContainsAny(m, "-?"),
			})
		}
		return all
	}
	for _, c := range []struct{ members, promote, demote string }{
		{"av!", "", ""},
		{"av! bs", "b", ""},
		{"av! bs?", "", ""},
		{"av! bs cs", "b", ""},
		{"av! bv cs", "c", ""},
		{"av! bv cv ds", "", ""},
		{"av! bv cv ds es", "d", ""},
		{"av! bv cv dv es", "e", ""},
		{"av! bw", "", ""},
		{"av! bw cs", "c", ""},
		{"av! bvw", "", "b"},
		{"av! bv cv-", "", ""},               // nobody to take its place
		{"av! bv cv- ds?", "", ""},           // nobody yet
		{"av! bv cv- ds", "d", ""},           // first one more
		{"av! bv cv- dv", "", "c"},           // then one less
		{"av! bv cs dv", "", ""},             // and it stays so when it is back
		{"av! bv cv dv", "", "d"},            // a fifth was removed
		{"av bv cv dv!", "", "c"},            // never the leader
		{"av! bv cv dv ev fv gv hs", "", ""}, // seven at most
		{"av! bv cv dv ev fv gv- hs", "h", ""},
		{"av! bv cv dv ev fv gv- hv", "", "g"},
	} {
		if promote, demote := planVoters(parse(c.members)); promote != c.promote || demote != c.demote {
			t.Errorf("%q: promote %q, demote %q; want %q, %q", c.members, promote, demote, c.promote, c.demote)
		}
	}
	for n, want := range []int{0, 1, 2, 3, 3, 5, 5, 7, 7, 7, 7} {
		if got := wantedVoters(n); got != want {
			t.Errorf("%d members that may vote: %d voters, want %d", n, got, want)
		}
	}
}

func TestVotesFollowTheMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		worker := g.config("w", "", nodes[0])
		worker.Worker = true
		nodes = append(nodes, g.start(worker), g.start(g.config("d", "", nodes[0])))
		g.await("five members", func() bool { return len(g.roles(nodes[4])) == 5 })
		if got := g.roles(nodes[0]); got["w"] != Worker || got["d"] != Standby {
			t.Errorf("roles are %v, want w a worker and d a standby", got)
		}
		g.apply(nodes[4], "from a standby")
		g.apply(nodes[3], "from a worker")

		// A voter dies: the standby takes its vote, and keeps it when it is back.
		victim := others(nodes[:3], leaderOf(nodes))[0]
		g.net.Isolate(victim.ID())
		g.await("the standby to vote instead", func() bool {
			got := g.roles(leaderOf(others(nodes, victim)))
			return got["d"] == Voter && got[victim.ID()] == Standby
		})
		g.net.Heal()
		g.apply(victim, "back")
		if err := nodes[4].Transfer(t.Context(), victim.ID()); !errors.Is(err, ErrRefused) {
			t.Errorf("transfer to a standby: got %v, want ErrRefused", err)
		}
		// A voter is removed: it votes again.
		if err := nodes[3].Remove(t.Context(), Removal{ID: "d"}); err != nil {
			t.Fatal(err)
		}
		g.await("the standby to vote again", func() bool { return g.voters(nodes[:3]...) == 3 })
	})
}

func (g *group) roles(n *testNode) map[string]Role {
	g.t.Helper()
	roles := make(map[string]Role)
	if n == nil {
		return roles
	}
	all, err := n.Members(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	for _, m := range all {
		roles[m.ID] = m.Role
	}
	return roles
}

func TestRemovalThatLeavesNoMajorityIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		leader := leaderOf(nodes)
		rest := others(nodes, leader)
		g.net.Isolate(rest[0].ID())
		g.await("the leader to miss it", func() bool { return leader.silentFor(rest[0].place().server()) > 0 })
		// Whoever only asks, of whichever node, removes nobody.
		for _, n := range []*testNode{leader, rest[1]} {
			if err := n.Removable(t.Context(), Removal{ID: rest[1].ID()}); !errors.Is(err, ErrRefused) {
				t.Errorf("%s: the question is answered with %v, want ErrRefused", n.ID(), err)
			}
			if err := n.Removable(t.Context(), Removal{ID: rest[0].ID()}); err != nil {
				t.Errorf("%s: the dead one: %v", n.ID(), err)
			}
		}
		if g.voters(leader, rest[1]) != 3 {
			t.Error("a question removed a member")
		}
		// As a leader answers who does not know the question.
		if _, _, err := rest[1].atLeader(t.Context(), rest[1].raft, "later", []byte(`{}`)); !errors.Is(err, ErrNotMember) {
			t.Errorf("a question of a later version: got %v, want ErrNotMember", err)
		}
		g.removesTheDeadOnly(leader, rest[0], rest[1], leader)
	})
}

// removesTheDeadOnly asks some nodes to remove the live one of a leader's two followers,
// which is refused, and then the leader to remove the dead one.
func (g *group) removesTheDeadOnly(leader, dead, live *testNode, asked ...*testNode) {
	g.t.Helper()
	for _, n := range asked {
		err := n.Remove(g.t.Context(), Removal{ID: live.ID()})
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), dead.ID()+" is silent: remove that first") {
			g.t.Errorf("asked of %s: got %v, want ErrRefused that names %s", n.ID(), err, dead.ID())
		}
	}
	if err := leader.Remove(g.t.Context(), Removal{ID: dead.ID()}); err != nil {
		g.t.Errorf("remove the dead one: %v", err)
	}
	g.apply(leader, "goes on")
}

// The leader dies, and its successor, which has not been failed by anybody yet, is
// asked at once to remove the other one that lives.
func TestRemovalJustAfterAnElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		dead := leaderOf(nodes)
		rest := others(nodes, dead)
		g.net.Isolate(dead.ID())
		g.await("another leader", func() bool { return leaderOf(rest) != nil })
		next := leaderOf(rest)
		live := others(rest, next)[0]
		g.removesTheDeadOnly(next, dead, live, live, next)
	})
}

// A request of a leadership fails when the next one of the same node has begun.
func TestLateFailureOfALeadershipBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		leader := leaderOf(nodes)
		next, slow := others(nodes, leader)[0], others(nodes, leader)[1]
		at := slow.place().server()
		g.net.Cut(leader.ID(), slow.ID())
		g.await("the leader to miss it", func() bool { return leader.silentFor(at) > 0 })
		g.net.Heal() // what is being dialled stays in the dark
		for _, to := range []*testNode{next, leader} {
			if err := leader.Transfer(t.Context(), to.ID()); err != nil {
				t.Fatal(err)
			}
			g.await("it to lead", func() bool { return leaderOf(nodes) == to })
		}
		g.await("an answer", func() bool { return !leader.contacts.with(at, leader.raft.CurrentTerm()).asked.IsZero() })
		for late := time.After(2 * leader.cfg.RPCTimeout); ; {
			if silent := leader.silentFor(at); silent > 0 {
				t.Fatalf("it answers, and is taken for silent for %s", silent)
			}
			select {
			case <-time.After(retryDelay):
				continue
			case <-late:
			}
			return
		}
	})
}

func TestContacts(t *testing.T) {
	failed := errors.New("no answer")
	type request struct {
		at   raft.ServerAddress
		term uint64
		err  error
	}
	for name, c := range map[string]struct {
		requests        []request
		answers, silent bool
	}{
		"nothing was asked":                    {nil, false, false},
		"it answers":                           {[]request{{"b", 2, nil}}, true, false},
		"it does not":                          {[]request{{"b", 2, failed}}, false, true},
		"it does not any more":                 {[]request{{"b", 2, nil}, {"b", 2, failed}}, true, true},
		"it answers again":                     {[]request{{"b", 2, failed}, {"b", 2, nil}}, true, false},
		"a late failure":                       {[]request{{"b", 2, nil}, {"b", 1, failed}}, true, false},
		"a late answer":                        {[]request{{"b", 2, failed}, {"b", 1, nil}}, false, true},
		"only in the term before":              {[]request{{"b", 1, failed}}, false, false},
		"in the term before, another in this":  {[]request{{"b", 1, nil}, {"c", 2, nil}}, false, false},
		"another at its name, on another disk": {[]request{{"b#2", 2, failed}, {"b", 2, nil}}, true, false},
	} {
		var all contacts
		for _, r := range c.requests {
			all.note(r.at, r.term, time.Now(), r.err)
		}
		if with := all.with("b", 2); with.asked.IsZero() == c.answers || with.silent.IsZero() == c.silent {
			t.Errorf("%s: %+v; want that it answers %v, is silent %v", name, with, c.answers, c.silent)
		}
	}
}

func TestWhoMayBeRemoved(t *testing.T) {
	servers := func(votes string) (all []raft.Server) { // v votes, n does not
		for i, vote := range votes {
			s := raft.Server{ID: raft.ServerID(rune('a' + i)), Suffrage: raft.Voter}
			if vote == 'n' {
				s.Suffrage = raft.Nonvoter
			}
			all = append(all, s)
		}
		return all
	}
	for name, c := range map[string]struct {
		votes, id, silent string
		force             bool
		want              error
	}{
		"one of three":                        {"vvv", "b", "", false, nil},
		"the dead one of three":               {"vvv", "b", "b", false, nil},
		"one of three, another is dead":       {"vvv", "b", "c", false, ErrRefused},
		"that by force":                       {"vvv", "b", "c", true, nil},
		"one of five, two are dead":           {"vvvvv", "a", "bc", false, ErrRefused},
		"one of five, one is dead":            {"vvvvv", "a", "b", false, nil},
		"one without a vote, others are dead": {"vvvn", "d", "bc", false, nil},
		"who is no member":                    {"vvv", "x", "", false, ErrNotMember},
		"who is no member, by force":          {"vvv", "x", "", true, ErrNotMember},
		"the last":                            {"v", "a", "", false, ErrRefused},
		"the last by force":                   {"v", "a", "", true, ErrRefused},
	} {
		m := memberRequest{ID: c.id, Force: c.force}
		if err := removable(servers(c.votes), m, func(s raft.Server) bool { return !strings.Contains(c.silent, string(s.ID)) }); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// three disks: nodes a, b and c with directories.
func (g *group) disks() (nodes []*testNode, dirs []string) {
	g.t.Helper()
	for range 3 {
		dirs = append(dirs, g.t.TempDir())
	}
	a := g.start(g.config("a", dirs[0], nil))
	nodes = []*testNode{a, g.start(g.config("b", dirs[1], a)), g.start(g.config("c", dirs[2], a))}
	g.await("three voters everywhere", func() bool { return g.voters(nodes...) == 3 })
	return nodes, dirs
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
		t.Fatal(err)
	}
}

// A directory that was put back is found by those who have heard more of the disk,
// although it was never closed in between; and before it takes part in anything.
func TestDirectoryPutBackIsFound(t *testing.T) {
	for name, restartBetween := range map[string]bool{"of this life": false, "of an earlier life": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, NewMemoryNetwork())
				nodes, dirs := g.disks()
				b := nodes[1]
				if leaderOf(nodes) == b {
					if err := b.Transfer(t.Context(), "a"); err != nil {
						t.Fatal(err)
					}
					g.await("another leader", func() bool { l := leaderOf(nodes); return l != nil && l != b })
				}
				g.apply(nodes[0], "one")
				if err := b.Barrier(t.Context()); err != nil {
					t.Fatal(err)
				}
				copied := filepath.Join(t.TempDir(), "copy")
				copyDir(t, dirs[1], copied)
				g.apply(nodes[0], "two")
				if err := b.Barrier(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := b.end(); err != nil {
					t.Fatal(err)
				}
				if restartBetween {
					for range 2 {
						again := g.start(g.config("b", dirs[1], nodes[0]))
						g.await("its new life in the others' notes", func() bool {
							ours, _ := nodes[0].memory.of(again.disk.id)
							theirs, _ := nodes[2].memory.of(again.disk.id)
							return ours == again.disk.life && theirs == again.disk.life
						})
						if err := again.end(); err != nil {
							t.Fatal(err)
						}
					}
					// Nobody remembers what it acknowledged, the life is enough.
					for _, n := range nodes {
						n.memory.mu.Lock()
						n.memory.heard = make(map[string]heard)
						n.memory.mu.Unlock()
					}
				}
				copyDir(t, copied, dirs[1])
				stale := g.start(g.config("b", dirs[1], nodes[0]))
				<-stale.done
				if !errors.Is(stale.err, ErrStaleDisk) {
					t.Fatalf("Run ended with %v, want ErrStaleDisk", stale.err)
				}
				t.Log(stale.err)

				// The remedy that the error names.
				if err := nodes[0].Remove(t.Context(), Removal{ID: "b"}); err != nil {
					t.Fatal(err)
				}
				if err := os.RemoveAll(dirs[1]); err != nil {
					t.Fatal(err)
				}
				back := g.start(g.config("b", dirs[1], nodes[0]))
				g.await("a vote for the new disk", func() bool { return g.voters(nodes[0], back, nodes[2]) == 3 })
				g.apply(back, "three")
			})
		})
	}
}

func TestWipedDirectoryIsAnotherDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes, dirs := g.disks()
		g.apply(nodes[0], "one")
		if err := nodes[1].end(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dirs[1]); err != nil {
			t.Fatal(err)
		}
		logged := new(recorder)
		c := g.config("b", dirs[1], nodes[0])
		c.Logger = slog.New(slog.NewTextHandler(logged, nil))
		wiped := g.start(c)
		g.await("the reason in its log", func() bool {
			return strings.Contains(logged.String(), "another node has the name, or the directory was wiped. Remove the member first")
		})
		if got := wiped.raft.LastIndex(); got != 0 {
			t.Errorf("the group has written up to entry %d to a disk that is no member", got)
		}
		g.apply(nodes[0], "two")
		if err := nodes[0].Remove(t.Context(), Removal{ID: "b"}); err != nil {
			t.Fatal(err)
		}
		g.await("the wiped node in its place", func() bool { return g.voters(nodes[0], wiped, nodes[2]) == 3 })
		g.apply(wiped, "three")
	})
}

// The first of two nodes with one name is the member; the second changes nothing.
func TestTwoNodesOfOneName(t *testing.T) {
	g := newGroup(t, nil)
	a := g.start(g.config("a", "", nil))
	b := g.start(g.config("b", t.TempDir(), a))
	g.await("two voters", func() bool { return g.voters(a, b) == 2 })
	g.apply(b, "one")
	before, members := a.Status(), g.roles(a)
	logged := new(recorder)
	c := g.config("b", t.TempDir(), a)
	c.Logger = slog.New(slog.NewTextHandler(logged, nil))
	second := g.start(c)
	g.await("the reason in its log", func() bool {
		return strings.Contains(logged.String(), "another node has the name, or the directory was wiped. Remove the member first")
	})
	if now := a.Status(); now.Term != before.Term || now.LastIndex != before.LastIndex || len(g.roles(a)) != len(members) {
		t.Errorf("%+v with members %v, was %+v with %v", now, g.roles(a), before, members)
	}
	if last := second.raft.LastIndex(); last != 0 {
		t.Errorf("the second has the log up to %d", last)
	}
	g.apply(b, "two")
}

// A node that was replaced under its name, and does not know, gets nowhere with
// its certificate.
func TestReplacedNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		nodes := g.three()
		g.apply(nodes[0], "one")
		old := others(nodes, leaderOf(nodes))[0]
		rest := others(nodes, old)
		g.net.Isolate(old.ID())
		leader := leaderOf(rest)
		if err := leader.Remove(t.Context(), Removal{ID: old.ID()}); err != nil {
			t.Fatal(err)
		}
		next := g.config(old.ID(), "", leader)
		next.Network, next.Listen = g.net.Host("elsewhere"), "elsewhere:7"
		back := g.start(next)
		g.await("three voters", func() bool { return g.voters(append(rest, back)...) == 3 })
		g.net.Heal()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		for _, n := range rest {
			_, _, err := old.post(ctx, n.Addr(), "apply", []byte("zombie"))
			for errors.Is(err, ErrUnclear) { // the connections of before are cut
				_, _, err = old.post(ctx, n.Addr(), "apply", []byte("zombie"))
			}
			if err == nil || !strings.Contains(err.Error(), "it has been replaced") && !errors.Is(err, errNotLeader) {
				t.Errorf("the replaced node asks %s: got %v", n.ID(), err)
			}
		}
		term := leader.Status().Term
		g.apply(back, "two")
		if got := leader.Status().Term; got != term || strings.Contains(leader.replica.State(), "zombie") {
			t.Errorf("term %d, was %d; state %q", got, term, leader.replica.State())
		}
	})
}

// The authority of one group is that of another too: files that a company signs.
func TestNodeOfAnotherGroupIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		a, dir := g.start(g.config("a", "", nil)), t.TempDir()
		g.apply(a, "one")
		other := g.start(g.config("b", dir, nil)) // begins a group of its own
		g.apply(other, "other")
		if err := other.end(); err != nil {
			t.Fatal(err)
		}
		logged := new(recorder)
		c := g.config("b", dir, a)
		c.Logger = slog.New(slog.NewTextHandler(logged, nil))
		before := a.Status()
		b := g.start(c)
		<-b.ready
		if _, err := b.greetAt(t.Context(), a.place(), false); err == nil || !strings.Contains(err.Error(), "belongs to group") {
			t.Errorf("hello: got %v", err)
		}
		if _, err := a.admitMember(t.Context(), memberRequest{ID: "b", Place: b.place().String(), Group: b.Group()}); !errors.Is(err, ErrRefused) {
			t.Errorf("join: got %v, want ErrRefused", err)
		}
		if got := g.roles(a); len(got) != 1 {
			t.Errorf("members are %v, want only a", got)
		}
		if now := a.Status(); now.Term != before.Term || now.LastIndex != before.LastIndex || a.replica.State() != "one" {
			t.Errorf("%+v with %q, was %+v: the other's node left something", now, a.replica.State(), before)
		}
	})
}

func TestJudge(t *testing.T) {
	a := place{addr: "a:7", disk: "00000000000000aa"}
	b := place{addr: "b:7", disk: "00000000000000bb"}
	me := standing{
		id: "a", disk: disk{id: a.disk, life: 3, group: "g"}, now: heard{Term: 4, Index: 20}, index: 10,
		members: map[string]place{"a": a, "b": b}, lives: map[string]uint64{b.disk: 2},
	}
	good := hello{Group: "g", ID: "b", Disk: b.disk, Life: 2, Configuration: 10, To: a.disk, ToLife: 3, Heard: heard{Term: 4, Index: 20}}
	for name, c := range map[string]struct {
		change func(*hello, *standing)
		code   string
		stale  bool
	}{
		"as it is":                   {func(*hello, *standing) {}, "", false},
		"another group":              {func(h *hello, _ *standing) { h.Group = "h" }, codeGroup, false},
		"a group not known yet":      {func(h *hello, s *standing) { s.disk.group = "" }, "", false},
		"another disk wanted":        {func(h *hello, _ *standing) { h.To = b.disk }, codeDisk, false},
		"a later life of this":       {func(h *hello, _ *standing) { h.ToLife = 4 }, codeDisk, true},
		"an earlier life of this":    {func(h *hello, _ *standing) { h.ToLife = 2 }, "", false},
		"more was heard of this":     {func(h *hello, _ *standing) { h.Heard.Index = 21 }, codeDisk, true},
		"a later term was heard":     {func(h *hello, _ *standing) { h.Heard = heard{Term: 5} }, codeDisk, true},
		"an earlier term went on":    {func(h *hello, _ *standing) { h.Heard = heard{Term: 3, Index: 99} }, "", false},
		"a stranger":                 {func(h *hello, _ *standing) { h.ID = "c" }, codeRemoved, false},
		"a stranger who knows more":  {func(h *hello, _ *standing) { h.ID, h.Configuration = "c", 11 }, "", false},
		"another disk":               {func(h *hello, _ *standing) { h.Disk = a.disk }, codeRemoved, false},
		"a replacement we know not":  {func(h *hello, _ *standing) { h.Disk, h.Configuration = a.disk, 11 }, "", false},
		"an earlier life":            {func(h *hello, _ *standing) { h.Life = 1 }, codeStale, false},
		"a later life":               {func(h *hello, _ *standing) { h.Life = 7 }, "", false},
		"we have no configuration":   {func(h *hello, s *standing) { h.ID, s.index, s.members = "c", 0, nil }, "", false},
		"members of before places":   {func(h *hello, s *standing) { s.members = map[string]place{} }, codeRemoved, false},
		"a fresh node in our place":  {func(h *hello, _ *standing) { h.Configuration, h.Disk, h.Life = 0, a.disk, 1 }, codeRemoved, false},
		"the disk was heard as less": {func(h *hello, _ *standing) { h.Heard = heard{} }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			h, s := good, me
			c.change(&h, &s)
			code, reason, own := s.judge(h)
			if code != c.code || (code == "") != (reason == "") || errors.Is(own, ErrStaleDisk) != c.stale {
				t.Errorf("got %q (%s), %v; want %q, stale %v", code, reason, own, c.code, c.stale)
			}
		})
	}
}

func TestAcknowledged(t *testing.T) {
	req := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 7}
	for name, c := range map[string]struct {
		entries []*raft.Log
		resp    raft.AppendEntriesResponse
		want    heard
		ok      bool
	}{
		"entries":        {[]*raft.Log{{Index: 8}, {Index: 9}}, raft.AppendEntriesResponse{Success: true, Term: 3, LastLog: 12}, heard{3, 9}, true},
		"heartbeat":      {nil, raft.AppendEntriesResponse{Success: true, Term: 3, LastLog: 12}, heard{3, 7}, true},
		"refused":        {nil, raft.AppendEntriesResponse{Term: 3}, heard{}, false},
		"of a later one": {nil, raft.AppendEntriesResponse{Success: true, Term: 4}, heard{}, false},
	} {
		r := *req
		r.Entries = c.entries
		if got, ok := acknowledged(&r, &c.resp); got != c.want || ok != c.ok {
			t.Errorf("%s: got %+v, %v; want %+v, %v", name, got, ok, c.want, c.ok)
		}
	}
}

func FuzzParsePlace(f *testing.F) {
	for _, s := range []string{"a:7#0011223344556677", "a:7#0011223344556677.worker", "[::1]:7#0011223344556677.", "a:7", "#..", "a:7#x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePlace(raft.ServerAddress(s))
		if err == nil && (p.String() != s || p.check() != nil) {
			t.Fatalf("%q became %+v, %q", s, p, p)
		}
	})
}

func FuzzReadHello(f *testing.F) {
	var b strings.Builder
	if err := writeHello(&b, hello{ID: "a", Disk: "d", Life: 1}); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(b.String()))
	f.Add([]byte{0xff, 0xff, '{'})
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h hello
		if err := readHello(strings.NewReader(string(b)), &h); err == nil {
			_, _, _ = standing{}.judge(h) // must return
		}
	})
}

func TestCrowdLosesItsOldest(t *testing.T) {
	c := newCrowd(2)
	var closed []string
	conn := func(name string) *namedConn { return &namedConn{name: name, closed: &closed} }
	c.enter(conn("a"))
	leave := c.enter(conn("b"))
	leave()
	leave()
	for _, name := range []string{"c", "d", "e"} {
		c.enter(conn(name))
	}
	if want := []string{"a", "c"}; !slices.Equal(closed, want) {
		t.Errorf("closed %v, want %v", closed, want)
	}
}
