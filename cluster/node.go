package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// Node is one node of the fleet. Its methods may be called concurrently.
type Node struct {
	cfg     Config
	log     *slog.Logger
	replica *raftnode.Replica[*State]
	raft    *raftnode.Node
	leading atomic.Pointer[leader] // nil unless this node leads
	heardTo time.Time              // when leading became nil; only lead's
	beatNow chan struct{}          // asks for a heartbeat at once
	feedNow chan struct{}          // asks for the session to be fed
	stopped chan struct{}          // closed when Run is over
	// registered: the fleet has had it as a member. If it has not any more, a
	// heartbeat will say so.
	registered atomic.Bool
	removed    atomic.Bool // the fleet has removed it

	mu       sync.Mutex
	session  *Session // the open one, or nil
	stopping bool
}

// Open opens the node's stores and binds its address, but starts nothing. The
// caller must call Run or Close.
func Open(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg:     cfg,
		log:     cfg.Logger,
		replica: raftnode.NewReplica[*State](machine{cfg.words}),
		beatNow: make(chan struct{}, 1),
		feedNow: make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
	rc := raftnode.DefaultConfig()
	rc.ID, rc.Dir, rc.Listen, rc.Advertise = cfg.Name, cfg.Dir, cfg.Listen, cfg.Advertise
	rc.Credentials, rc.Network = cfg.Credentials, cfg.Network
	rc.Bootstrap, rc.Join = cfg.Bootstrap, cfg.Join
	rc.Token, rc.Worker, rc.Admit, rc.Joined = cfg.Token, cfg.Worker, n.admit, n.joined
	rc.Replica, rc.Lead, rc.Handler, rc.Logger = n.replica, n.lead, n.handler(), cfg.Logger
	rc.HeartbeatTimeout, rc.LeaderLease = cfg.ElectionTimeout, cfg.leaderLease()
	var err error
	if n.raft, err = raftnode.Open(rc); err != nil {
		return nil, fmt.Errorf("open raft node: %w", err)
	}
	return n, nil
}

// Close frees what Open took. After Run it does nothing.
func (n *Node) Close() error { return n.raft.Close() }

// Name returns the node's name.
func (n *Node) Name() string { return n.cfg.Name }

// Addr returns the address that peers dial.
func (n *Node) Addr() string { return n.raft.Addr() }

// Run takes part in the fleet until ctx ends. Then it asks for its work to be
// moved, waits until its session has released it (at most DrainTimeout), ends its
// incarnation, hands leadership over and returns. ErrRemoved says that the fleet
// has removed the node; other errors that it cannot go on, such as a damaged log.
func (n *Node) Run(ctx context.Context) error {
	defer close(n.stopped)
	defer n.endSession(ErrStopped)
	// Everything but the wait for ctx itself lives until the drain is over.
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, live := errgroup.WithContext(live)
	g.Go(func() error {
		defer stop()
		err := n.raft.Run(live)
		if errors.Is(err, ErrRemoved) {
			n.removed.Store(true)
			n.endSession(ErrRemoved)
		}
		return err
	})
	g.Go(func() error { return n.register(live) })
	g.Go(func() error { return n.beat(live) })
	g.Go(func() error { return n.feed(live) })
	g.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
			n.drain(live)
		case <-live.Done():
		}
		return nil
	})
	return g.Wait()
}

// register tells the fleet what the node says of itself, and again with its disk when all
// members know what that is: SetMember is how a fleet comes to know what they know.
func (n *Node) register(ctx context.Context) error {
	for n.Barrier(ctx) != nil { // what the fleet knows; a halted replica ends the node
		select {
		case <-time.After(200 * time.Millisecond):
		case <-n.stopped:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	known := n.State().Knows(LevelRemovals)
	if err := n.registerAs(ctx, known); err != nil || known {
		return err
	}
	for _, s := range n.Watch(ctx) {
		if s.Knows(LevelRemovals) {
			return n.registerAs(ctx, true)
		}
	}
	return nil
}

func (n *Node) registerAs(ctx context.Context, withDisk bool) error {
	want := SetMember{
		Name: n.cfg.Name, APIAddr: n.cfg.APIAddr, Version: n.cfg.Version,
		Region: n.cfg.Region, Rack: n.cfg.Rack, Labels: n.cfg.Labels,
		Level: n.cfg.words.orOurs().level,
	}
	if withDisk {
		want.Disk = n.raft.Disk()
	}
	for {
		_, err := n.propose(ctx, &want)
		if err == nil {
			n.registered.Store(true)
		}
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrTooOld) {
			return err
		}
		n.log.Warn("register with the fleet; trying again", "error", err)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// State returns what this node knows of the fleet's state. It may lag behind what
// others know; see Barrier.
func (n *Node) State() *State { return n.replica.State() }

// Current returns State and its revision.
func (n *Node) Current() (*State, uint64) { return n.replica.Current() }

// Barrier returns when State includes everything that any node had acknowledged
// before the call.
func (n *Node) Barrier(ctx context.Context) error { return n.raft.Barrier(ctx) }

// Watch yields the current state and then every newer one until ctx ends or the
// node stops. A slow reader skips states in between, never the latest.
func (n *Node) Watch(ctx context.Context) iter.Seq2[uint64, *State] {
	return func(yield func(uint64, *State) bool) {
		for {
			s, revision, newer := n.replica.Watch()
			if !yield(revision, s) {
				return
			}
			select {
			case <-newer:
			case <-n.stopped:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// Leader returns the name of the leader, or "" if this node knows of none.
func (n *Node) Leader() string { return n.raft.Leader() }

// Raft returns how raft stands on this node.
func (n *Node) Raft() raftnode.Status { return n.raft.Status() }

// Propose has the fleet apply a command, and returns when this node's State
// includes it. It waits for a leader until ctx ends, or ProposeTimeout if ctx has
// no deadline. A refusal by the state is one of the errors of this package. What
// somebody asked for (see Config.Author) is recorded with the change.
func (n *Node) Propose(ctx context.Context, c Command) (Result, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, n.cfg.ProposeTimeout)
		defer cancel()
	}
	return n.propose(ctx, n.audited(ctx, c))
}

func (n *Node) propose(ctx context.Context, c Command) (Result, error) {
	b, err := encodeCommand(c)
	if err != nil {
		return Result{}, err
	}
	for {
		applied, err := n.raft.Apply(ctx, b)
		if proposeAgain(c, err) {
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-ctx.Done():
			}
		}
		return resultOf(c, applied, err)
	}
}

// proposeLeading proposes what this node has decided as the leader, while it is. It
// must not reach a later leader: one that slept takes for silent whom it could not
// hear.
func (n *Node) proposeLeading(ctx context.Context, c Command) error {
	b, err := encodeCommand(c)
	if err != nil {
		return err
	}
	applied, err := n.raft.ApplyLeading(ctx, b)
	_, err = resultOf(c, applied, err)
	return err
}

// resultOf turns the outcome of a command into its result.
func resultOf(c Command, applied raftnode.Applied, err error) (Result, error) {
	if err != nil {
		return Result{}, fmt.Errorf("propose %s: %w", c.kind(), err)
	}
	var r result
	if err := json.Unmarshal(applied.Result, &r); err != nil {
		return Result{}, fmt.Errorf("result of %s: %w", c.kind(), err)
	}
	return Result{Revision: applied.Index, Number: r.Number}, r.Refusal.err()
}

// proposeAgain reports whether a command whose outcome is an error is to be proposed
// once more: it is not known whether it was applied, and twice is as good as once.
func proposeAgain(c Command, err error) bool {
	return errors.Is(err, ErrUnclear) && c.repeatable() && !errors.Is(err, ErrStopped)
}

// PeerClient returns an HTTP client for the other nodes' PeerHandlers. The host
// of a URL is a node's name: https://node-2/path. Requests should carry a context
// with a deadline.
func (n *Node) PeerClient() *http.Client { return n.raft.Client() }

// PeerIs reports whether a request to a PeerHandler comes from the node name.
func PeerIs(ctx context.Context, name string) bool { return raftnode.PeerIs(ctx, name) }

// Responds returns when raft's loop on this node has taken a request and answered
// it, whatever the answer: it is alive. A loop that hangs does not return it.
func (n *Node) Responds(ctx context.Context) error { return n.raft.Responds(ctx) }

// Drain sets whether a node is to own nothing, and returns at once; its work
// moves as it releases it.
func (n *Node) Drain(ctx context.Context, name string, draining bool) error {
	_, err := n.Propose(ctx, &DrainMember{Name: name, Draining: draining})
	return err
}

// noted is a command that changes nothing, and that all members know: where some do not
// know the one that is made for it, that which names a fleet that has its name.
func (n *Node) noted() Command {
	if n.State().Knows(LevelNotes) {
		return &Noted{}
	}
	return &InitFleet{FleetID: n.GroupID()}
}

// Transfer hands leadership to the node name, or to any other if it is empty. That is no
// command: once it is done, one that changes nothing carries the record of who asked.
func (n *Node) Transfer(ctx context.Context, name string) error {
	if n.raft.Status().Leader == "" { // just elected: the record is to say who it was
		if err := n.Barrier(ctx); err != nil {
			return err
		}
	}
	before := n.raft.Status().Leader
	if err := n.raft.Transfer(ctx, name); err != nil {
		return err
	}
	note, ok := n.audited(ctx, n.noted()).(*Audited)
	if !ok { // nobody's call
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.ProposeTimeout)
	defer cancel()
	err := n.Barrier(ctx) // until there is a leader, and this node knows it
	if err == nil {
		leader := n.raft.Status().Leader // Leader is told a moment later
		note.Author.Objects = []Touched{{Key: memberKey(leader), Action: "lead", Diff: []string{"- leader: " + before, "+ leader: " + leader}}}
		_, err = n.propose(ctx, note)
	}
	if err != nil {
		return fmt.Errorf("leadership was handed over, and the audit trail has not got it: %w", err)
	}
	return nil
}
