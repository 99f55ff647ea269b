package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

func TestTokensOfTheState(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	redeem := func(id, name, disk string, after time.Duration) *RedeemToken {
		return &RedeemToken{ID: id, Digest: "digest of " + id, Name: name, Disk: disk, Now: now.Add(after)}
	}
	fresh := func() *script {
		s := newScript(t)
		for _, id := range []string{"t", "u"} {
			s.must(&CreateToken{ID: id, Digest: "digest of " + id, Worker: id == "u", Expires: now.Add(time.Hour), Now: now})
		}
		return s
	}
	for name, c := range map[string]struct {
		before  []Command
		command *RedeemToken
		want    error
		text    string
	}{
		"good":                       {nil, redeem("t", "b", "1", 0), nil, ""},
		"unknown":                    {nil, redeem("x", "b", "1", 0), ErrNotFound, "no such join token"},
		"wrong secret":               {nil, &RedeemToken{ID: "t", Digest: "x", Name: "b", Disk: "1", Now: now}, ErrNotFound, "no such join token"},
		"too late":                   {nil, redeem("t", "b", "1", time.Hour+1), ErrConflict, "ended at 2026-05-01T13:00:00Z"},
		"taken back":                 {[]Command{&DeleteToken{ID: "t"}}, redeem("t", "b", "1", 0), ErrNotFound, "taken back"},
		"again by the same":          {[]Command{redeem("t", "b", "1", 0)}, redeem("t", "b", "1", 2*time.Hour), nil, ""},
		"again by another":           {[]Command{redeem("t", "b", "1", 0)}, redeem("t", "c", "2", 0), ErrConflict, `has been used, by node "b"`},
		"again from a wiped disk":    {[]Command{redeem("t", "b", "1", 0)}, redeem("t", "b", "2", 0), ErrConflict, `has been used, by node "b"`},
		"two with one name":          {[]Command{redeem("t", "b", "1", 0)}, redeem("u", "b", "2", 0), ErrConflict, "two cannot have one name"},
		"the name of a member":       {[]Command{&SetMember{Name: "b"}}, redeem("t", "b", "1", 0), ErrConflict, `"b" is a member`},
		"in place of one that left":  {[]Command{redeem("t", "b", "1", 0), &SetMember{Name: "b"}, &RemoveMember{Name: "b"}}, redeem("u", "b", "2", 0), nil, ""},
		"the clock went back":        {[]Command{redeem("t", "b", "1", 0)}, redeem("t", "c", "2", -time.Hour), ErrConflict, "has been used"},
		"the clock went far forward": {nil, redeem("t", "b", "1", 1e6*time.Hour), ErrConflict, "ended"},
		"nobody":                     {nil, redeem("t", "", "1", 0), ErrInvalid, "without name"},
	} {
		t.Run(name, func(t *testing.T) {
			s := fresh()
			for _, b := range c.before {
				s.must(b)
			}
			before := hashOf(t, s.state)
			_, res := s.state.apply(s.index+1, c.command)
			if err := res.Refusal.err(); !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.text)
			}
			if c.want != nil && hashOf(t, s.state) != before {
				t.Error("a refusal has changed the state")
			}
		})
	}
	// Old ones are forgotten, and there is a bound.
	s := fresh()
	s.must(&CreateToken{ID: "v", Digest: "d", Expires: now.Add(50 * time.Hour), Now: now.Add(26 * time.Hour)})
	if len(s.state.Tokens) != 1 {
		t.Errorf("tokens are %v, want only v", s.state.Tokens)
	}
	for i := range maxTokens - 1 {
		s.must(&CreateToken{ID: fmt.Sprint("x", i), Digest: "d", Expires: now.Add(50 * time.Hour), Now: now.Add(26 * time.Hour)})
	}
	s.refused(&CreateToken{ID: "one more", Digest: "d", Expires: now.Add(50 * time.Hour), Now: now.Add(26 * time.Hour)}, ErrConflict)
}

func TestJoinByToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		var mu sync.Mutex
		var refused []string
		f.edit = func(c *Config) {
			c.Credentials = nil
			c.JoinRefused = func(by Author, why error) {
				mu.Lock()
				defer mu.Unlock()
				refused = append(refused, fmt.Sprintf("%q %s %s from %s at %s: %v", by.User, by.Operation, by.Target, by.Address, by.Node, why))
			}
		}
		a := f.start(f.config("a", nil))
		token := func(n *testNode, worker bool) string {
			text, _, _, err := n.NewJoinToken(t.Context(), time.Hour, worker)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		join := func(name, token string, at *testNode) *testNode {
			c := f.config(name, at)
			c.Token = token
			return f.start(c)
		}
		f.await("a leader", func() bool { return a.State().FleetID != "" })
		used := token(a, false)
		b := join("b", used, a)
		f.await("b", func() bool { return a.State().Members["b"].Incarnation != 0 })
		if a.State().FleetID != b.GroupID() {
			t.Errorf("the fleet's id is %q, its raft group's %q", a.State().FleetID, b.GroupID())
		}
		c := join("c", token(b, false), b)
		f.await("c", func() bool { return a.State().Members["c"].Incarnation != 0 })
		f.sameState([]*testNode{a, b, c})

		d := join("d", used, a)
		<-d.done
		if !errors.Is(d.err, raftnode.ErrRefused) || !strings.Contains(d.err.Error(), `has been used, by node "b"`) {
			t.Errorf("a used token: Run ended with %v, want ErrRefused", d.err)
		}
		mu.Lock()
		if len(refused) != 1 || !strings.HasPrefix(refused[0], `"token `) || !strings.Contains(refused[0], `" join-fleet fleet/nodes/d from pipe at a: `) || !strings.Contains(refused[0], `used, by node "b"`) {
			t.Errorf("told of refusals: %q", refused)
		}
		refused = nil
		mu.Unlock()
		unknown, err := a.raft.NewToken()
		if err != nil {
			t.Fatal(err)
		}
		e := join("e", unknown.String(), a)
		<-e.done
		mu.Lock()
		if len(refused) != 1 || !strings.HasPrefix(refused[0], `"" join-fleet fleet/nodes/e from pipe at a: token `+unknown.ID+": this fleet has no such") {
			t.Errorf("told of one whom nobody knows: %q", refused)
		}
		mu.Unlock()
		disk := func(name string) string {
			all, err := a.Survey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return all[slices.IndexFunc(all, func(m MemberStatus) bool { return m.ID == name })].Disk
		}
		first := Removal{ID: "c", Disk: disk("c")}
		// Removed, its name and a new token are all that a node needs to come back.
		if err := a.Remove(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		<-c.done
		if !errors.Is(c.err, ErrRemoved) {
			t.Errorf("the removed node ended with %v", c.err)
		}
		back := join("c", token(b, false), a)
		f.await("c again", func() bool { return a.State().Members["c"].Incarnation != 0 })
		f.sameState([]*testNode{a, b, back})

		// The same removal again, of one that is not there any more.
		for _, n := range []*testNode{a, b} {
			for _, force := range []bool{false, true} {
				first.Force = force
				if err := n.Remove(t.Context(), first); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "it is another node of that name") {
					t.Errorf("the removal repeated at %s, force %v: got %v, want ErrConflict", n.Name(), force, err)
				}
			}
		}
		if m := a.State().Members["c"]; m.Draining || m.Incarnation == 0 {
			t.Errorf("what was to be left alone is %+v", m)
		}

		var joins []string
		for _, r := range a.State().Trail {
			if r.Operation != "join-fleet" || !strings.HasPrefix(r.User, "token ") || r.Command != "token.redeem" || r.Time.IsZero() || len(r.Objects) != 1 {
				t.Errorf("the trail has %+v", r)
				continue
			}
			joins = append(joins, fmt.Sprintf("%s from %s at %s", r.Target, r.Address, r.Node))
			if r.Target == "fleet/nodes/c" && len(joins) == 3 && !slices.Equal(r.Objects[0].Diff, []string{"+ disk: " + disk("c")}) {
				t.Errorf("which node has joined is told as %+v", r.Objects)
			}
		}
		if want := []string{"fleet/nodes/b from pipe at a", "fleet/nodes/c from pipe at b", "fleet/nodes/c from pipe at a"}; !slices.Equal(joins, want) {
			t.Errorf("joins in the trail: %q, want %q", joins, want)
		}
	})
}

// Who has handed leadership over is in the trail, and to whom.
func TestTransfersAreRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		f.edit = removalsBy
		nodes := f.three()
		ops := context.WithValue(t.Context(), userKey{}, "ops")
		var want []string
		for _, named := range []bool{true, false} {
			before := f.leader(nodes)
			rest := without(nodes, before)
			to := ""
			if named {
				to = rest[1].Name()
			}
			if err := rest[0].Transfer(ops, to); err != nil {
				t.Fatal(err)
			}
			after := f.leader(nodes)
			if after == before || named && after != rest[1] {
				t.Errorf("leadership went from %s to %s, asked for %q", before.Name(), after.Name(), to)
			}
			want = append(want, fmt.Sprintf("ops Node/%s lead [- leader: %s + leader: %s]", after.Name(), before.Name(), after.Name()))
		}
		f.sameState(nodes)
		var got []string
		for _, r := range askedFor(nodes[0].State()) {
			if r.Command != "fleet.noted" {
				t.Errorf("the record came with a command %s", r.Command)
			}
			got = append(got, fmt.Sprintf("%s %s %s %v", r.User, r.Objects[0].Key, r.Objects[0].Action, r.Objects[0].Diff))
		}
		if !slices.Equal(got, want) {
			t.Errorf("the trail has %q, want %q", got, want)
		}
		// One that is refused is not, and one that nobody asked for neither.
		for _, n := range nodes {
			if err := n.Transfer(ops, "nobody"); !errors.Is(err, raftnode.ErrNotMember) || !strings.Contains(err.Error(), `"nobody"; those that can lead are `) {
				t.Errorf("to nobody, asked of %s: got %v", n.Name(), err)
			}
		}
		if err := nodes[0].Transfer(t.Context(), ""); err != nil {
			t.Error(err)
		}
		if n := len(askedFor(nodes[0].State())); n != len(want) {
			t.Errorf("the trail has %d records, want %d", n, len(want))
		}
	})
}

// Who came with a certificate, which nobody was asked about, is in the trail, once; also
// while a member does not know the command that is made for that.
func TestJoinsWithCertificatesAreRecorded(t *testing.T) {
	for command, old := range map[string]bool{"fleet.noted": false, "fleet.init": true} {
		t.Run(command, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, raftnode.NewMemoryNetwork())
				dirs := map[string]string{"a": t.TempDir(), "b": t.TempDir(), "w": t.TempDir()}
				f.edit = func(c *Config) {
					c.Dir, c.Worker = dirs[c.Name], c.Name == "w"
					if old && c.Name == "a" {
						c.words = oldVersion()
					}
				}
				a := f.start(f.config("a", nil))
				f.await("its life", func() bool { return a.State().Members["a"].Incarnation != 0 })
				b := f.start(f.config("b", a))
				f.await("two votes", func() bool { return voters(t, a) == 2 })
				w := f.start(f.config("w", b))
				f.await("three members", func() bool { return len(a.State().Members) == 3 })
				if err := b.end(); err != nil {
					t.Fatal(err)
				}
				b = f.start(f.config("b", a)) // as a member, which it is
				f.await("it again", func() bool { return b.State().Members["b"].Incarnation != 0 })
				f.sameState([]*testNode{a, b, w})
				var got []string
				for _, r := range b.State().Trail {
					serial, ok := strings.CutPrefix(r.User, "certificate ")
					if !ok || len(serial) < 8 || r.Command != command || r.Operation != joinOperation || r.Address != "pipe" || r.Time.IsZero() {
						t.Errorf("the trail has %+v", r)
					}
					got = append(got, fmt.Sprintf("%s %v", r.Target, r.Objects[0].Diff))
				}
				want := []string{
					fmt.Sprintf("fleet/nodes/b [+ disk: %s]", b.raft.Disk()),
					fmt.Sprintf("fleet/nodes/w [+ disk: %s + worker: true]", w.raft.Disk()),
				}
				if !slices.Equal(got, want) {
					t.Errorf("the trail has %q, want %q", got, want)
				}
			})
		})
	}
}
