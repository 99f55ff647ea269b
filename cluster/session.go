package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Session is one incarnation of this node as an owner of work. Its methods may be
// called concurrently.
//
// Whoever has it does the work in Assignments, under Context. When the context
// ends, all of it must stop; then Close, and Node.Session for the next life.
type Session struct {
	node        *Node
	incarnation uint64
	ctx         context.Context
	cancel      context.CancelCauseFunc
	assignments chan []Assignment
	closed      chan struct{}
	closeOnce   sync.Once

	meter meter // used by the heartbeats only

	mu       sync.Mutex
	tenure   tenure
	lease    *time.Timer // fires at the tenure's end
	reporter Reporter    // nil until there is one
	from     *State      // that was offered last, nil before the first
}

// Reporter says how a session's work is doing. Its methods are called
// concurrently, while the session is open.
type Reporter interface {
	// Works is the status of all work. It is asked for when somebody wants to know.
	Works() []WorkStatus
	// Rates yields how many bytes per second each copy moves, every
	// Config.StatusInterval.
	Rates(yield func(w Work, bytesPerSecond float64))
}

// Session begins a new incarnation of the node and returns its session. It waits
// for a leader until ctx ends. ErrSessionOpen if the node has one already.
func (n *Node) Session(ctx context.Context) (*Session, error) {
	s := &Session{
		node:        n,
		assignments: make(chan []Assignment, 1),
		closed:      make(chan struct{}),
	}
	n.mu.Lock()
	switch {
	case n.stopping:
		n.mu.Unlock()
		return nil, ErrStopped
	case n.session != nil:
		n.mu.Unlock()
		return nil, ErrSessionOpen
	}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	n.session = s // reserved: heartbeats ignore it while it has no incarnation
	n.mu.Unlock()

	began := time.Now()
	incarnation, err := n.beginIncarnation(ctx, &began)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil && n.stopping {
		err = ErrStopped
	}
	if err != nil {
		s.cancel(err)
		n.session = nil
		return nil, fmt.Errorf("begin incarnation: %w", err)
	}
	s.incarnation = incarnation
	s.mu.Lock()
	s.tenure = newTenure(&n.cfg, began)
	s.lease = time.AfterFunc(time.Until(s.tenure.until), func() { s.cancel(ErrLeaseLost) })
	s.mu.Unlock()
	poke(n.beatNow)
	poke(n.feedNow)
	return s, nil
}

// beginIncarnation proposes one until it is granted. began is when the last
// attempt was.
func (n *Node) beginIncarnation(ctx context.Context, began *time.Time) (uint64, error) {
	for {
		*began = time.Now()
		attempt, cancel := context.WithTimeout(ctx, n.cfg.SessionLease/2)
		r, err := n.propose(attempt, &BeginIncarnation{Node: n.cfg.Name})
		cancel()
		switch {
		case err == nil:
			return r.Number, nil
		case ctx.Err() != nil:
			return 0, errors.Join(context.Cause(ctx), err)
		case errors.Is(err, ErrStopped):
			return 0, err
		}
		// No leader, or not registered yet.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-n.stopped:
			return 0, ErrStopped
		case <-ctx.Done():
		}
	}
}

// Context ends when the session does; its cause is ErrLeaseLost,
// ErrIncarnationEnded, ErrRemoved or ErrStopped. Nothing may be written for its
// work after that.
func (s *Session) Context() context.Context { return s.ctx }

// Incarnation is the number that the fleet granted. It grows.
func (s *Session) Incarnation() uint64 { return s.incarnation }

// Assignments delivers all work of this session, first and whenever it changes;
// a reader that was slow gets the latest only. While the session lives nothing
// disappears from it but what has been released. The channel is never closed.
func (s *Session) Assignments() <-chan []Assignment { return s.assignments }

// Release says that works have been stopped for good: nothing more will be
// written for them at these epochs. ErrIncarnationEnded if that is moot.
func (s *Session) Release(ctx context.Context, works ...Assignment) error {
	for part := range slices.Chunk(works, maxWorks) {
		c := &Release{Node: s.node.cfg.Name, Incarnation: s.incarnation}
		for _, a := range part {
			c.Works = append(c.Works, OwnedWork{Work: a.Work, Epoch: a.Epoch})
		}
		if _, err := s.node.Propose(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// RegisterLane registers a lane under this session's incarnation. It must follow
// InitProducerId and precede the lane's use.
func (s *Session) RegisterLane(ctx context.Context, l Lane) error {
	l.Node, l.Incarnation = s.node.cfg.Name, s.incarnation
	_, err := s.node.Propose(ctx, &RegisterLane{Lane: l})
	return err
}

// CloseLanes takes lanes off with which this session has finished, so that
// nobody needs to fence them.
func (s *Session) CloseLanes(ctx context.Context, ids ...string) error {
	_, err := s.node.Propose(ctx, &CloseLanes{Node: s.node.cfg.Name, Incarnation: s.incarnation, IDs: ids})
	return err
}

// Report says who knows how the work is doing.
func (s *Session) Report(r Reporter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reporter = r
}

func (s *Session) reports() Reporter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reporter
}

// loads returns the loads of copies that have changed since they were asked for
// last, or all of them.
func (s *Session) loads(now time.Time, all bool) []topicLoads {
	r := s.reports()
	if r == nil {
		return nil
	}
	s.meter.look(now, r.Rates)
	return s.meter.changes(all)
}

// ownWorks is how this node's work is doing.
func (n *Node) ownWorks() ownWorks {
	s := n.openSession()
	if s == nil {
		return ownWorks{}
	}
	own := ownWorks{Incarnation: s.incarnation}
	if r := s.reports(); r != nil {
		own.Works = r.Works()
	}
	return own
}

// Close ends the incarnation, if it has not ended: the caller has stopped all
// work. Lanes that have not been closed are left to be fenced. The node may begin
// another session then, even if Close returns an error: the leader ends the
// incarnation sooner or later.
func (s *Session) Close(ctx context.Context) error {
	var err error
	s.closeOnce.Do(func() {
		// A session that was lost is left to the leader, or to the next one: there
		// may be nobody to tell.
		if s.ctx.Err() == nil {
			_, err = s.node.Propose(ctx, &EndIncarnation{Node: s.node.cfg.Name, Incarnation: s.incarnation, Reason: "closed"})
		}
		s.cancel(ErrIncarnationEnded)
		close(s.closed)
		n := s.node
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.session == s {
			n.session = nil
		}
		s.stopLease()
	})
	return err
}

func (s *Session) stopLease() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease != nil {
		s.lease.Stop()
	}
}

// renew extends the lease after a heartbeat, sent at the given time, was answered.
func (s *Session) renew(sent time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() == nil && s.lease != nil {
		s.tenure.renew(sent)
		s.lease.Reset(time.Until(s.tenure.until))
	}
}

// offer hands the assignments of a state to the reader of Assignments, if they have
// changed, in place of those that it has not taken yet. Only feed calls it. What
// happens to others' work costs next to nothing.
func (s *Session) offer(state *State) {
	before := s.from
	s.from = state
	if before != nil && !otherWork(before, state, s.node.cfg.Name, s.incarnation) {
		return
	}
	select {
	case <-s.assignments:
	default:
	}
	s.assignments <- state.AssignmentsOf(s.node.cfg.Name, s.incarnation)
}

// openSession returns the session, if there is one with an incarnation.
func (n *Node) openSession() *Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.session == nil || n.session.incarnation == 0 {
		return nil
	}
	return n.session
}

// poke wakes the reader of c, which has room for one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// endSession ends the open session, and lets no other begin.
func (n *Node) endSession(cause error) {
	n.mu.Lock()
	n.stopping = true
	s := n.session
	n.mu.Unlock()
	if s != nil {
		s.cancel(cause)
		s.stopLease()
	}
}

// feed follows the state: it ends the session when its incarnation has ended, and
// offers it its work.
func (n *Node) feed(ctx context.Context) error {
	for {
		state, _, newer := n.replica.Watch()
		if s := n.openSession(); s != nil {
			if state.Ended(n.cfg.Name, s.incarnation) {
				s.cancel(ErrIncarnationEnded)
			} else {
				s.offer(state)
			}
		}
		select {
		case <-newer:
		case <-n.feedNow: // a session has begun
		case <-ctx.Done():
			return nil
		}
	}
}

// drain has the node's work moved and ends its incarnation, as far as that
// succeeds within DrainTimeout.
func (n *Node) drain(ctx context.Context) {
	n.mu.Lock()
	n.stopping = true
	n.mu.Unlock()
	s := n.openSession()
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DrainTimeout)
	defer cancel()
	if s.ctx.Err() == nil {
		if err := n.moveAway(ctx, s); err != nil {
			n.log.Warn("move work away before stopping", "error", err)
		}
	}
	s.cancel(ErrStopped)
	if _, err := n.propose(ctx, &EndIncarnation{Node: n.cfg.Name, Incarnation: s.incarnation, Reason: "stopped"}); err != nil {
		n.log.Warn("end incarnation before stopping", "error", err)
	}
}

// moveAway asks for the work of a session to be moved and waits until it has
// moved, or the session is over.
func (n *Node) moveAway(ctx context.Context, s *Session) error {
	if _, err := n.propose(ctx, &StopMember{Node: n.cfg.Name, Incarnation: s.incarnation}); err != nil {
		return err
	}
	for {
		state, _, newer := n.replica.Watch()
		if state.movedAway(n.cfg.Name, s.incarnation) {
			return nil
		}
		select {
		case <-newer:
		case <-s.closed:
			return nil
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
