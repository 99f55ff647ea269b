package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/internal/raftnode"
)

const (
	// readyEvery is how often a node that starts looks whether it has caught up.
	readyEvery = 100 * time.Millisecond
	// leaderSilence is how long a node may not have heard of its leader and still be
	// asked: two elections.
	leaderSilence = 5 * time.Second
	// workSilence is how long the loop that hands work on may stand still: it comes
	// round every workRound.
	workSilence = 20 * time.Second
	workRound   = 5 * time.Second
)

// readiness is how far a node has come since its start.
type readiness struct {
	applied  atomic.Bool // all that the fleet had agreed on before this node started
	begun    atomic.Bool // its ledgers were read and its work was begun, once
	stopping atomic.Bool
}

// catchUp waits until this node knows what the fleet knew when it started.
func (n *node) catchUp(ctx context.Context) {
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(ctx, leaderSilence)
		err := n.fleet.Barrier(bounded)
		cancel()
		if err == nil {
			n.readiness.applied.Store(true)
			return
		}
		pause(ctx, readyEvery)
	}
}

// ready says why this node should get no calls: it knows no leader, or it has not
// caught up since it started. What goes wrong later with a cluster or a copy is for
// status and alerts: other nodes would not fare better.
func (n *node) ready() error {
	if n.readiness.stopping.Load() {
		return errors.New("this node is stopping")
	}
	if err := raftReady(n.fleet.Raft()); err != nil {
		return err
	}
	if !n.readiness.applied.Load() {
		return errors.New("the fleet's state is not known up to now yet")
	}
	if n.readiness.begun.Load() {
		return nil
	}
	if err := n.ledgersRead(); err != nil {
		return err
	}
	if err := n.workBegun(); err != nil {
		return err
	}
	n.readiness.begun.Store(true)
	return nil
}

// raftReady says why calls to a node would fail that raft is in this state on.
func raftReady(s raftnode.Status) error {
	switch {
	case s.LogFull:
		return errors.New("the disk of this node's raft log is full: free some space in its data folder")
	case s.Leader == "":
		return errors.New("no raft leader")
	case !s.Leads && s.SinceContact > leaderSilence:
		return fmt.Errorf("nothing was heard of the raft leader for %s", s.SinceContact.Round(time.Second))
	}
	return nil
}

// ledgersRead says which ledger of a cluster that answers was not read once. One
// that does not answer is no reason to be of no use to the others.
func (n *node) ledgersRead() error {
	declared, err := n.fleet.State().Declared(flow.KindCluster)
	if err != nil {
		return err
	}
	states := n.ledgers.states()
	for _, o := range declared {
		id, asked, answers := n.directory.answers(o.Name())
		if !asked {
			return errors.New("not every cluster was asked who it is yet")
		}
		if s, known := states[id]; answers && (!known || s.Status == tail.Connecting) {
			return errors.New("not every ledger has been read once: see 'replicator status'") // which one is for those who may ask
		}
	}
	return nil
}

// answers says whether a cluster was asked who it is, and whether it answered last.
func (d *directory) answers(name string) (id string, asked, answers bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[name]
	if e == nil {
		return "", false, false
	}
	return e.id, e.asked || e.client == nil, e.err == nil && e.id != ""
}

// workBegun says whether all that the fleet wants of this node was begun.
func (n *node) workBegun() error {
	s := n.fleet.State()
	m, ok := s.Members[n.fleet.Name()]
	if !ok || m.Incarnation == 0 {
		return errors.New("this node may own no work yet")
	}
	for _, a := range s.AssignmentsOf(m.Name, m.Incarnation) {
		if !a.Releasing && !n.work.has(a) {
			return errors.New("not all work that this node is to do has begun")
		}
	}
	return nil
}

// has reports whether the present life was told of an assignment.
func (w *work) has(a cluster.Assignment) bool {
	l := w.life.Load()
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.Work.Kind == cluster.WorkCopy {
		return l.seen[a.Work] == a.Epoch
	}
	d := l.duties[a.Work]
	return d != nil && d.assignment.Epoch == a.Epoch
}

// alive is the sign of life that the supervisor's watchdog wants: raft's loop
// answers, and the loop that hands work on comes round.
func (n *node) alive(ctx context.Context) error {
	if err := n.raftAnswers.Ask(ctx, func() error { return n.fleet.Responds(context.WithoutCancel(ctx)) }); err != nil {
		return fmt.Errorf("raft: %w", err)
	}
	if err := n.work.progress.Check(workSilence); err != nil {
		return fmt.Errorf("work: %w", err)
	}
	return nil
}

// announce tells the supervisor how this node is: ready when it has caught up, then
// alive until ctx ends, and stopping when the node is to stop.
func (n *node) announce(ctx, wanted context.Context) error {
	defer context.AfterFunc(wanted, func() {
		n.readiness.stopping.Store(true)
		n.notifier.Stopping("moves its work to other nodes")
	})()
	last := ""
	for {
		err := n.ready()
		if err == nil || ctx.Err() != nil || wanted.Err() != nil {
			break
		}
		if err.Error() != last {
			last = err.Error()
			n.notifier.Status("starts: " + last)
		}
		pause(ctx, readyEvery)
	}
	if ctx.Err() != nil || wanted.Err() != nil {
		return nil
	}
	n.log.Info("ready: caught up with the fleet, ledgers read, work begun")
	n.notifier.Ready(n.serving())
	if err := n.notifier.Watch(ctx, n.alive); err != nil {
		return err
	}
	<-ctx.Done() // no watchdog may be wanted, but to be told of the end is
	return nil
}

func (n *node) serving() string {
	return fmt.Sprintf("node %s of fleet %s, API at %s", n.file.Name, n.file.Fleet, n.listener.Addr())
}

// reloads reads the node's file again with each SIGHUP until ctx ends: the users of
// the API are replaced. Everything else needs a restart, which is said.
func (n *node) reloads(ctx context.Context, read func() (nodeFile, []api.User, error)) error {
	if read == nil {
		return nil
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-hangup:
			n.notifier.Reloading()
			n.reload(read)
			n.notifier.Ready(n.serving())
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *node) reload(read func() (nodeFile, []api.User, error)) {
	f, users, err := read()
	if err != nil {
		n.log.Error("the configuration stays as it was", "error", err)
		return
	}
	n.users.Replace(users)
	n.secrets.replaceUsers(users)
	n.clean.again()
	n.log.Info("the users of the API were read again", "users", len(users))
	if !sameButUsers(n.file, f) {
		n.log.Warn("the file has other changes too, which need a restart")
	}
	inForce := n.file
	inForce.API.Users = f.API.Users
	n.inForce.Store(&inForce)
}
