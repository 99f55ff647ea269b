package cluster

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// nextLevel is that of a version to come.
var nextLevel = ours.level + 1

// newFleetName is a command of a version to come.
type newFleetName struct {
	Name string `json:"name"`
}

func (*newFleetName) kind() string     { return "test.name" }
func (*newFleetName) repeatable() bool { return true }

func (c *newFleetName) apply(d *draft, _ uint64) (uint64, error) {
	d.members()["name"] = Member{Name: c.Name, Level: nextLevel}
	return 0, nil
}

// nextVersion knows a command more than this one.
func nextVersion() *vocabulary {
	known := maps.Clone(commands)
	known["test.name"] = func() Command { return new(newFleetName) }
	since := maps.Clone(ours.since)
	since["test.name"] = nextLevel
	return &vocabulary{level: nextLevel, commands: known, since: since}
}

// A fleet is upgraded node by node: what only the new version knows is refused, and
// halts nobody, until all are new; then an old binary is not let back in. It makes no
// difference whether somebody asked for it, so that it is wrapped for its record.
func TestRollingUpgrade(t *testing.T) {
	t.Run("plain", func(t *testing.T) { rollingUpgrade(t, nil) })
	t.Run("audited", func(t *testing.T) { rollingUpgrade(t, &Author{User: "ops", Operation: "name"}) })
}

func rollingUpgrade(t *testing.T, by *Author) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		dirs := map[string]string{"a": t.TempDir(), "b": t.TempDir(), "c": t.TempDir()}
		words := map[string]*vocabulary{}
		f.edit = func(c *Config) {
			c.Dir, c.words = dirs[c.Name], words[c.Name]
			c.Author = func(context.Context) *Author { return by }
		}
		a := f.start(f.config("a", nil))
		nodes := map[string]*testNode{"a": a, "b": f.start(f.config("b", a)), "c": f.start(f.config("c", a))}
		f.await("three members", func() bool { return len(a.State().Members) == 3 })
		f.await("three votes", func() bool { return voters(t, a) == 3 })

		for i, name := range []string{"a", "b", "c"} {
			if err := nodes[name].end(); err != nil {
				t.Fatal(err)
			}
			words[name] = nextVersion()
			nodes[name] = f.start(f.config(name, nodes["a"]))
			f.await("its new level", func() bool { return nodes[name].State().Members[name].Level == nextLevel })
			if knows := nodes[name].State().Knows(nextLevel); knows != (i == 2) {
				t.Errorf("with %d new nodes: all of three are said to know what is new: %v", i+1, knows)
			}
			_, err := nodes[name].Propose(t.Context(), &newFleetName{Name: "x"})
			switch {
			case i < 2 && (!errors.Is(err, raftnode.ErrRefused) || !strings.Contains(err.Error(), "upgrade it first") && !strings.Contains(err.Error(), "not known")):
				t.Errorf("with %d new nodes: got %v, want ErrRefused", i+1, err)
			case i == 2 && err != nil:
				t.Errorf("with all nodes new: %v", err)
			}
		}
		f.sameState([]*testNode{nodes["a"], nodes["b"], nodes["c"]})
		if records := len(askedFor(nodes["a"].State())); (records == 1) != (by != nil) {
			t.Errorf("%d records, asked for by %v", records, by)
		}

		if err := nodes["b"].end(); err != nil {
			t.Fatal(err)
		}
		words["b"] = nil
		old := f.start(f.config("b", nodes["a"]))
		<-old.done
		if !errors.Is(old.err, ErrTooOld) && !errors.Is(old.err, raftnode.ErrHalted) {
			t.Errorf("the old version ended with %v, want ErrTooOld or ErrHalted", old.err)
		}
	})
}

func voters(t *testing.T, n *testNode) (count int) {
	t.Helper()
	all, err := n.raft.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Role == raftnode.Voter {
			count++
		}
	}
	return count
}

// A wrapper may be newer than what it wraps, and the other way round.
func TestLevelOfAudited(t *testing.T) {
	words := &vocabulary{since: map[string]uint32{"audited": 2, "test.name": 3}}
	for want, c := range map[uint32]Command{
		1: new(DrainMember),
		2: &Audited{Command: new(DrainMember)},
		3: &Audited{Command: new(newFleetName)},
	} {
		if got := words.levelOf(c); got != want {
			t.Errorf("%s: got level %d, want %d", c.kind(), got, want)
		}
	}
}

// oldVersion knew no folds.
func oldVersion() *vocabulary {
	known := maps.Clone(commands)
	for kind := range ours.since {
		delete(known, kind)
	}
	return &vocabulary{level: 1, commands: known}
}

// No ledger is folded while a member cannot read one that was, and none that cannot comes
// back afterwards.
func TestFoldsNeedAllMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		dirs, words := map[string]string{"a": t.TempDir(), "b": t.TempDir()}, map[string]*vocabulary{"a": oldVersion(), "b": oldVersion()}
		f.edit = func(c *Config) { c.Dir, c.words = dirs[c.Name], words[c.Name] }
		a := f.start(f.config("a", nil))
		b := f.start(f.config("b", a))
		f.await("two members", func() bool { return len(a.State().Members) == 2 })
		f.await("two votes", func() bool { return voters(t, a) == 2 })
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
		words["a"] = nil
		a = f.start(f.config("a", b))
		f.await("its new level", func() bool { return a.State().Members["a"].Level == ours.level })
		f.await("its life", func() bool { return !a.State().Ended("a", a.State().Members["a"].Incarnation) })
		begin := func() error {
			s := a.State()
			_, err := a.Propose(t.Context(), &BeginFold{ClusterID: "c", TopicID: "t", Folding: Folding{ID: "1", Node: "a", Incarnation: s.Members["a"].Incarnation, Since: time.Unix(1, 0)}})
			return err
		}
		if _, err := a.Propose(t.Context(), &PinLedger{ClusterID: "c", Ledger: Ledger{TopicID: "t"}}); err != nil {
			t.Fatal(err)
		}
		if err := begin(); !errors.Is(err, raftnode.ErrRefused) || !strings.Contains(err.Error(), "upgrade it first") && !strings.Contains(err.Error(), "not known") {
			t.Errorf("with an old member: %v", err)
		}
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
		words["b"] = nil
		f.start(f.config("b", a))
		f.await("the fleet's new level", func() bool { return a.State().Level == ours.level })
		if err := begin(); err != nil || a.State().Ledgers["c"].Folding == nil {
			t.Errorf("with none: %v, %+v", err, a.State().Ledgers["c"])
		}
	})
}

// An old leader would not look at the disk, and remove whoever has the name.
func TestRemovalByDiskNeedsAllMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		words := map[string]*vocabulary{"a": oldVersion()}
		f.edit = func(c *Config) { c.Dir, c.words = t.TempDir(), words[c.Name] }
		a := f.start(f.config("a", nil))
		b := f.start(f.config("b", a))
		f.await("two members", func() bool { return len(b.State().Members) == 2 })
		err := b.Remove(t.Context(), Removal{ID: "b", Disk: "another"})
		if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "upgrade all nodes first") {
			t.Errorf("asked of a new node of a fleet with an old one: got %v, want ErrConflict", err)
		}
		if _, there := b.State().Members["b"]; !there {
			t.Error("the node was removed")
		}
	})
}
