package raftnode

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// smallDisk is a log whose disk may be full.
type smallDisk struct {
	raft.LogStore
	full *atomic.Bool
}

func (s smallDisk) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s smallDisk) StoreLogs(logs []*raft.Log) error {
	if s.full.Load() {
		return &os.PathError{Op: "write", Path: logFile, Err: syscall.ENOSPC}
	}
	return s.LogStore.StoreLogs(logs)
}

// A leader whose disk is full steps down, and stays out of elections, also if it is
// always the first to notice that nobody leads.
func TestAFullDiskDoesNotCampaign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, NewMemoryNetwork())
		var full atomic.Bool
		c := g.config("a", "", nil)
		c.HeartbeatTimeout, c.LeaderLease = 200*time.Millisecond, 100*time.Millisecond
		a := g.startOn(c, func(n *Node) {
			n.stores.log = smallDisk{n.stores.log, &full}
			n.room.try = func() error {
				if full.Load() {
					return syscall.ENOSPC
				}
				return nil
			}
		})
		g.edit = func(c *Config) { c.HeartbeatTimeout, c.LeaderLease = 5*time.Second, 2*time.Second }
		b, d := g.start(g.config("b", "", a)), g.start(g.config("d", "", a))
		g.await("three voters everywhere", func() bool { return g.voters(a, b, d) == 3 })
		g.apply(b, "one")
		if leaderOf([]*testNode{a, b, d}) != a {
			t.Fatal("the first node does not lead")
		}

		full.Store(true)
		// The command that finds the disk full may be lost, or not: its outcome is unclear.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.Apply(ctx, []byte("lost")); !errors.Is(err, ErrUnclear) {
			t.Errorf("a command on a full disk: got %v, want ErrUnclear", err)
		}
		if _, err := b.Apply(ctx, []byte("two")); err != nil {
			t.Fatalf("the others lead nobody after a minute: %v", err)
		}
		term := b.Status().Term
		time.Sleep(time.Minute)
		if !a.Status().LogFull || a.Status().Leads || b.Status().Term != term {
			t.Errorf("the full node: %+v; the term was %d and is %d", a.Status(), term, b.Status().Term)
		}

		full.Store(false)
		g.await("room again", func() bool { return !a.Status().LogFull })
		g.apply(a, "three")
		if a.replica.State() != b.replica.State() {
			t.Errorf("it has the state %q, the others %q", a.replica.State(), b.replica.State())
		}
		if err := leaderOf([]*testNode{b, d}).Transfer(t.Context(), "a"); err != nil {
			t.Errorf("hand over to the node that has room again: %v", err)
		}
	})
}

// A group of one has nobody else to lead it: it elects itself again and again while its
// disk is full, and says that it is. What was acknowledged stays, what was not is there
// once or not at all, and service returns by itself.
func TestAFullDiskOfALoneVoter(t *testing.T) {
	g, dir := newGroup(t, nil), t.TempDir()
	var full atomic.Bool
	a, err := g.openOn(g.config("a", dir, nil), func(n *Node) {
		n.stores.log = smallDisk{n.stores.log, &full}
		n.room.try = func() error {
			if full.Load() {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	g.apply(a, "one")
	term := a.Status().Term
	full.Store(true)
	if _, err := a.Apply(t.Context(), []byte("lost")); !errors.Is(err, ErrUnclear) {
		t.Errorf("the command that finds the disk full: got %v, want ErrUnclear", err)
	}
	g.await("it to elect itself again", func() bool { return a.Status().Term > term+1 })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := a.Apply(ctx, []byte("refused")); err == nil {
		t.Error("a command is acknowledged on a full disk")
	}
	if !a.Status().LogFull {
		t.Errorf("it does not say that its disk is full: %+v", a.Status())
	}
	survey, err := a.Survey(t.Context())
	if err != nil || len(survey) != 1 || !survey[0].LogFull || survey[0].Silent != nil {
		t.Errorf("a survey: %+v, %v", survey, err)
	}

	full.Store(false)
	g.await("room again", func() bool { return !a.Status().LogFull })
	g.apply(a, "two")
	if err := a.end(); err != nil {
		t.Fatal(err)
	}
	again, err := g.openOn(g.config("a", dir, nil), func(*Node) {})
	if err != nil {
		t.Fatal(err)
	}
	g.apply(again, "three")
	count := map[string]int{}
	for _, command := range strings.Split(again.replica.State(), ",") {
		count[command]++
	}
	for _, acknowledged := range []string{"one", "two", "three"} {
		if count[acknowledged] != 1 {
			t.Errorf("%s was acknowledged once and is there %d times: %q", acknowledged, count[acknowledged], again.replica.State())
		}
	}
	if count["lost"] > 1 || count["refused"] > 1 {
		t.Errorf("it has twice what was asked for once: %q", again.replica.State())
	}
}
