package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
)

// logCache is how many of the newest entries are kept in memory, for followers that lag
// a little.
const logCache = 512

// Node is one member of a raft group. Its methods may be called concurrently;
// those that talk to the group block until Run has started it.
type Node struct {
	cfg    Config
	log    *slog.Logger
	stores *stores
	port   *port
	client *http.Client
	fresh  bool // no state on disk when it was opened
	memory *memory
	room   *room
	// Of the leader: who answers, and a wish to look at who votes.
	contacts contacts
	look     chan struct{}
	// admission is held while a member is taken in or out: see WhileAbsent.
	admission sync.Mutex

	// With an authority of the group's own: what the node has of it, and what it asks
	// for it with.
	identity atomic.Pointer[identity]
	token    Token

	mu   sync.Mutex
	disk disk

	ready   chan struct{} // closed when raft is set
	probed  chan struct{} // closed when raft may talk: see probe
	doomed  chan error    // why the node must stop, at most one
	stopped chan struct{} // closed when Run is over
	once    sync.Once     // the stores and the port are closed once
	raft    *raft.Raft

	following atomic.Pointer[following]
}

// following is whom the node takes for the leader, and until when.
type following struct {
	leader string
	until  context.Context
	end    context.CancelFunc
}

// Open opens and verifies the node's stores and binds its address, but starts
// nothing. The caller must call Run or Close.
func Open(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Network == nil {
		cfg.Network = tcpNetwork{}
	}
	if cfg.Listen == "" {
		if err := cfg.solitary(); err != nil {
			return nil, err
		}
	}
	own := cfg.Credentials == nil
	if own {
		cfg.Credentials = &Credentials{own: true}
	} else if err := cfg.Credentials.CheckIdentity(cfg.ID); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger,
		ready: make(chan struct{}), probed: make(chan struct{}), stopped: make(chan struct{}), doomed: make(chan error, 1),
		look: make(chan struct{}, 1),
		room: newRoom(cfg.Dir, cfg.Logger),
	}
	n.follow("")
	var err error
	if n.stores, err = openStores(cfg.Dir, cfg.Logger); err != nil {
		return nil, err
	}
	err = n.openState()
	if err == nil && own {
		err = n.openIdentity()
	}
	if err == nil {
		n.port, err = openPort(cfg.Network, cfg.Listen, cfg.Advertise, cfg.Credentials, cfg.Logger)
	}
	if err != nil {
		return nil, errors.Join(err, n.stores.close())
	}
	n.port.meet = n.meet
	n.client = n.newClient()
	return n, nil
}

// openState begins the disk's next life, and a group if the node is to begin one.
func (n *Node) openState() error {
	exists, err := raft.HasExistingState(n.stores.log, n.stores.stable, n.stores.snapshots)
	if err != nil {
		return fmt.Errorf("look for raft's state: %w", err)
	}
	n.fresh = !exists
	if n.disk, err = openDisk(n.stores.stable); err != nil {
		return err
	}
	if n.memory, err = openMemory(n.stores.stable); err != nil {
		return err
	}
	if n.fresh && n.cfg.Bootstrap && n.disk.group == "" {
		return n.beginGroup()
	}
	return nil
}

// setGroup notes which group the directory belongs to, for all time.
func (n *Node) setGroup(id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if id == "" || n.disk.group == id {
		return nil
	}
	if n.disk.group != "" {
		return fmt.Errorf("%w: this node's directory belongs to group %s, not to group %s", ErrRefused, n.disk.group, id)
	}
	if err := n.stores.stable.Set([]byte(keyGroup), []byte(id)); err != nil {
		return fmt.Errorf("note the group: %w", err)
	}
	n.disk.group = id
	return nil
}

func (n *Node) diskNow() disk {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.disk
}

// Group is the id of the group that the node's directory belongs to: random, chosen
// when the group began. Empty while the node has not joined one.
func (n *Node) Group() string { return n.diskNow().group }

// Disk identifies the node's directory, as [Member.Disk] does.
func (n *Node) Disk() string { return n.diskNow().id }

// place is what raft's configuration has, or is to have, of this node.
func (n *Node) place() place {
	d := n.diskNow()
	return place{addr: n.port.advertise, disk: d.id, worker: n.worker()}
}

// worker reports whether the node never votes: its configuration or its certificate
// says so.
func (n *Node) worker() bool {
	i := n.identity.Load()
	return n.cfg.Worker || i != nil && isWorker(i.cert)
}

// doom ends Run with an error.
func (n *Node) doom(err error) {
	select {
	case n.doomed <- err:
	default:
	}
}

// solitary makes a group of one that nobody can reach. It has nobody to wait
// for, so it elects itself within 0.1 s.
func (c *Config) solitary() error {
	c.HeartbeatTimeout, c.LeaderLease = 50*time.Millisecond, 25*time.Millisecond
	ca, err := GenerateCA(c.ID, 365*24*time.Hour)
	if err != nil {
		return err
	}
	cert, key, err := ca.Issue(c.ID, 365*24*time.Hour)
	if err != nil {
		return err
	}
	if c.Credentials, err = ParseCredentials(ca.CertPEM, cert, key); err != nil {
		return err
	}
	c.Network = NewMemoryNetwork().Host(c.ID)
	c.Listen = net.JoinHostPort(c.ID, "0")
	c.Bootstrap = true
	return nil
}

// ID returns the node's name.
func (n *Node) ID() string { return n.cfg.ID }

// Addr returns the address that the node advertises.
func (n *Node) Addr() string { return n.port.advertise }

// Close frees what Open took. After Run it does nothing.
func (n *Node) Close() error {
	var err error
	n.once.Do(func() {
		n.port.close()
		err = n.stores.close()
		close(n.stopped)
	})
	return err
}

// Run takes part in the group until ctx ends; then it hands leadership over if
// it leads, and stops. It returns early, with an error, if a store is damaged
// or fails, if the replica halts, if Lead returns an error, if its token is refused
// (ErrRefused), and if the node must not take part any more: ErrStaleDisk, ErrRemoved,
// ErrDiverged.
func (n *Node) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := n.Enrol(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // stopped before it was a member
		}
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	// What raft needs outlives ctx, so that it can hand over.
	portCtx, closePort := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return n.port.run(portCtx) })
	g.Go(func() error {
		defer closePort()
		transport := transport{raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream:  raftStream{n.port.raft, n},
			MaxPool: 3,
			Timeout: n.cfg.RPCTimeout,
			Logger:  newHCLogger(n.log),
		}), n.memory, n.room, &n.contacts, n.leads}
		err := n.runRaft(ctx, transport)
		transport.CloseStreams()
		return errors.Join(err, transport.Close())
	})
	return g.Wait()
}

func (n *Node) runRaft(ctx context.Context, transport raft.Transport) error {
	r, err := n.start(transport)
	if err != nil {
		return err
	}
	n.raft = r
	close(n.ready)

	changes := make(chan raft.Observation, 16)
	observer := raft.NewObserver(changes, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	r.RegisterObserver(observer)
	defer r.DeregisterObserver(observer)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.observe(ctx, changes) })
	g.Go(func() error { n.probe(ctx); return nil })
	g.Go(func() error { n.room.tend(ctx); return nil })
	g.Go(func() error { return n.renewals(ctx) })
	strangers := n.newEnrolServer()
	g.Go(func() error {
		if err := strangers.Serve(n.port.enrol); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("serve nodes that want to join: %w", err)
		}
		return nil
	})
	server := n.newServer()
	g.Go(func() error {
		if err := server.Serve(n.port.peer); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("serve peers: %w", err)
		}
		return nil
	})
	g.Go(func() error { return n.join(ctx) })
	g.Go(func() error {
		select {
		case <-n.stores.failed:
			return n.stores.failure()
		case <-n.cfg.Replica.halted():
			return n.cfg.Replica.haltCause()
		case err := <-n.doomed:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error {
		err := n.runLeadership(ctx)
		if n.healthy() {
			n.handOver()
		}
		err = errors.Join(err, n.shutdown())
		return errors.Join(err, server.Close(), strangers.Close())
	})
	return g.Wait()
}

// start makes the raft instance, of a new group if the node is its first member.
func (n *Node) start(transport raft.Transport) (*raft.Raft, error) {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(n.cfg.ID)
	conf.HeartbeatTimeout = n.cfg.HeartbeatTimeout
	conf.ElectionTimeout = n.cfg.HeartbeatTimeout
	conf.LeaderLeaseTimeout = n.cfg.LeaderLease
	conf.CommitTimeout = min(conf.CommitTimeout, n.cfg.HeartbeatTimeout/10)
	conf.SnapshotThreshold = n.cfg.SnapshotThreshold
	conf.SnapshotInterval = n.cfg.SnapshotInterval
	conf.TrailingLogs = n.cfg.TrailingLogs
	conf.ShutdownOnRemove = false // Run decides when to stop
	conf.NoLegacyTelemetry = true
	conf.Logger = newHCLogger(n.log)
	s := n.stores
	if n.fresh && n.cfg.Bootstrap {
		first := raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: transport.LocalAddr()}}}
		if err := raft.BootstrapCluster(conf, s.log, s.stable, s.snapshots, transport, first); err != nil {
			return nil, fmt.Errorf("bootstrap group: %w", err)
		}
	}
	// The cache does not tell one error of a write from another: what looks at them is
	// beneath it.
	cached, err := raft.NewLogCache(logCache, roomLog{s.log, n.room})
	if err != nil {
		return nil, fmt.Errorf("make log cache: %w", err)
	}
	r, err := raft.NewRaft(conf, n.cfg.Replica.fsm(), cached, s.stable, s.snapshots, transport)
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", errors.Join(err, s.failure()))
	}
	s.started()
	return r, nil
}

// observe keeps following up to date. An observation only says that there is
// something to see: one that was dropped is made up for by the next.
func (n *Node) observe(ctx context.Context, changes <-chan raft.Observation) error {
	for {
		if _, leader := n.raft.LeaderWithID(); string(leader) != n.following.Load().leader {
			n.follow(string(leader))
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *Node) follow(leader string) {
	f := &following{leader: leader}
	f.until, f.end = context.WithCancel(context.Background())
	if old := n.following.Swap(f); old != nil {
		old.end()
	}
}

// Following returns the id of the leader, or "" if none is known, and a context
// that ends when that changes.
func (n *Node) Following() (leader string, until context.Context) {
	f := n.following.Load()
	return f.leader, f.until
}

// runLeadership runs Lead whenever the node leads, until ctx ends.
func (n *Node) runLeadership(ctx context.Context) error {
	var stop func() error
	defer func() {
		if stop != nil {
			_ = stop()
		}
	}()
	failed := make(chan error, 1)
	for {
		select {
		case leads := <-n.raft.LeaderCh():
			// The channel keeps only the latest change: a second true means that
			// leadership was lost in between.
			if stop != nil {
				if err := stop(); err != nil {
					return err
				}
				stop = nil
			}
			if leads {
				stop = n.lead(ctx, failed)
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// lead runs Lead in a goroutine until the returned function stops it. An error
// that is Lead's own goes to failed as soon as it happens.
func (n *Node) lead(ctx context.Context, failed chan<- error) (stop func() error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var g errgroup.Group
	g.Go(func() error { n.steward(ctx); return nil })
	g.Go(func() error {
		if err := n.raft.Barrier(0).Error(); err != nil || n.cfg.Lead == nil {
			return nil // leadership was lost again: LeaderCh says so
		}
		err := n.cfg.Lead(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		err = fmt.Errorf("lead the group: %w", err)
		failed <- err
		return err
	})
	return func() error {
		cancel(ErrLeadershipLost)
		return g.Wait()
	}
}

func (n *Node) healthy() bool {
	return n.stores.failure() == nil && n.cfg.Replica.haltCause() == nil
}

// handOver gives leadership to another member, if there is one. It can fail when
// the others lag; the group then elects one after HeartbeatTimeout.
func (n *Node) handOver() {
	if n.raft.State() != raft.Leader || n.otherVoters() == 0 {
		return
	}
	if err := n.raft.LeadershipTransfer().Error(); err != nil {
		n.log.Warn("hand leadership over before stopping", "error", err)
	}
}

func (n *Node) otherVoters() (count int) {
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter && string(s.ID) != n.cfg.ID {
			count++
		}
	}
	return count
}

// shutdown stops raft and waits for its goroutines.
func (n *Node) shutdown() error {
	if err := n.raft.Shutdown().Error(); err != nil {
		return fmt.Errorf("stop raft: %w", err)
	}
	return nil
}

// wait returns the raft instance once it runs.
func (n *Node) wait(ctx context.Context) (*raft.Raft, error) {
	select {
	case <-n.stopped:
		return nil, ErrStopped
	default:
	}
	select {
	case <-n.ready:
		return n.raft, nil
	case <-n.stopped:
		return nil, ErrStopped
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
