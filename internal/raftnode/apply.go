package raftnode

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/raft"
)

// MaxCommand is the largest command that is accepted, in bytes. Larger ones
// would hold up raft's heartbeats.
const MaxCommand = 512 << 10

// Applied is the outcome of a command.
type Applied struct {
	// Index is the command's place in the log: it grows with every command and is
	// the same on all members.
	Index uint64
	// Result is what the Machine's Apply returned.
	Result []byte
}

// retryDelay is the pause before asking again for a leader.
const retryDelay = 25 * time.Millisecond

// Apply has the group apply a command, and returns when this node's replica has
// applied it too. It waits for a leader as long as ctx lasts, so ctx should have
// a deadline. Errors to branch on: ErrRefused, ErrNoLeader and ErrStopped mean
// that the command was not applied, ErrUnclear that it may have been.
func (n *Node) Apply(ctx context.Context, command []byte) (Applied, error) {
	if len(command) > MaxCommand {
		return Applied{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(command), MaxCommand)
	}
	r, err := n.wait(ctx)
	if err != nil {
		return Applied{}, err
	}
	a, err := retry(ctx, func() (Applied, error) {
		if r.State() == raft.Leader {
			return n.applyHere(r, command)
		}
		return n.applyAtLeader(ctx, r, command)
	})
	if err != nil {
		return Applied{}, err
	}
	if err := n.cfg.Replica.wait(ctx, a.Index); err != nil {
		return a, fmt.Errorf("applied at index %d, but not on this node yet: %w", a.Index, err)
	}
	return a, nil
}

// ApplyLeading is Apply for what this node has decided as the leader: it is applied
// while it leads, or not at all. ErrNoLeader says that it does not lead.
func (n *Node) ApplyLeading(ctx context.Context, command []byte) (Applied, error) {
	if len(command) > MaxCommand {
		return Applied{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(command), MaxCommand)
	}
	r, err := n.wait(ctx)
	if err != nil {
		return Applied{}, err
	}
	a, err := n.applyHere(r, command)
	if errors.Is(err, errNotLeader) {
		err = fmt.Errorf("%w: %w", ErrNoLeader, err)
	}
	return a, err
}

// Barrier returns when this node's replica holds everything that the group had
// acknowledged before the call: what is read after it is linearizable.
func (n *Node) Barrier(ctx context.Context) error {
	r, err := n.wait(ctx)
	if err != nil {
		return err
	}
	index, err := retry(ctx, func() (uint64, error) {
		if r.State() == raft.Leader {
			return n.barrierHere(r)
		}
		return n.barrierAtLeader(ctx, r)
	})
	if err != nil {
		return fmt.Errorf("read barrier: %w", err)
	}
	return n.cfg.Replica.wait(ctx, index)
}

// VerifyLeader returns nil if this node leads. The raft library counts answers of members
// without a vote and those that were under way, too, so a majority of the voters may have
// answered it for the last time up to LeaderLease before the call; nobody else is elected for
// HeartbeatTimeout from that on.
func (n *Node) VerifyLeader(ctx context.Context) error {
	r, err := n.wait(ctx)
	if err != nil {
		return err
	}
	if err := n.answerOf(ctx, r, func() raft.Future { return r.VerifyLeader() }); err != nil {
		return fmt.Errorf("verify leadership: %w", err)
	}
	return nil
}

// answerOf returns what raft answers to a question that it takes into a queue, or that
// the node stops: what is in the queue by then is answered by nobody, and nor is what is
// put there later.
func (n *Node) answerOf(ctx context.Context, r *raft.Raft, ask func() raft.Future) error {
	if r.State() == raft.Shutdown {
		return ErrStopped
	}
	answer := make(chan error, 1)
	go func() { answer <- ask().Error() }()
	select {
	case err := <-answer:
		return err
	case <-n.stopped:
		return ErrStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// SinceContact returns how long ago this node heard its leader; of a node that
// leads, the leader before it. It is long for one that never heard any.
func (n *Node) SinceContact() time.Duration {
	select {
	case <-n.ready:
		return time.Since(n.raft.LastContact())
	default:
		return math.MaxInt64
	}
}

// Responds returns nil when raft's loop has answered a request, whatever it says.
// It does not return while the loop hangs, on a disk for example.
func (n *Node) Responds(ctx context.Context) error {
	r, err := n.wait(ctx)
	if err != nil {
		return err
	}
	err = n.answerOf(ctx, r, func() raft.Future { return r.VerifyLeader() })
	if errors.Is(err, ErrStopped) || ctx.Err() != nil {
		return err
	}
	return nil // that it does not lead is an answer
}

// errNotLeader says that nothing happened because this node does not lead, or
// that the one that was asked does not.
var errNotLeader = errors.New("not the leader")

// retry calls f until it finds a leader or ctx ends.
func retry[T any](ctx context.Context, f func() (T, error)) (T, error) {
	for {
		v, err := f()
		if !errors.Is(err, errNotLeader) {
			return v, err
		}
		select {
		case <-time.After(retryDelay):
		case <-ctx.Done():
			return v, errors.Join(fmt.Errorf("%w: %w", ErrNoLeader, err), context.Cause(ctx))
		}
	}
}

// applyHere applies on the leader. It does not take a context: it returns when
// the command is committed or leadership is lost, which takes LeaderLease.
func (n *Node) applyHere(r *raft.Raft, command []byte) (Applied, error) {
	if err := n.cfg.Replica.check(command); err != nil {
		return Applied{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	f := r.Apply(command, n.cfg.RPCTimeout)
	if err := f.Error(); err != nil {
		return Applied{}, classify(err)
	}
	switch response := f.Response().(type) {
	case []byte:
		return Applied{Index: f.Index(), Result: response}, nil
	case error: // the replica has halted
		return Applied{}, fmt.Errorf("%w: %w", ErrUnclear, response)
	default:
		return Applied{}, fmt.Errorf("%w: response of type %T", ErrUnclear, response)
	}
}

// barrierHere returns the index of the last command before the barrier. All that
// was acknowledged before is at or below it, and the barrier's commit shows that
// this node still led.
func (n *Node) barrierHere(r *raft.Raft) (uint64, error) {
	if err := r.Barrier(n.cfg.RPCTimeout).Error(); err != nil {
		if err = classify(err); errors.Is(err, ErrUnclear) {
			err = errNotLeader // a barrier may be tried again
		}
		return 0, err
	}
	return n.cfg.Replica.index(), nil
}

// classify says what an error of raft means for the command.
func classify(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", errNotLeader, err) // never appended
	case errors.Is(err, raft.ErrRaftShutdown):
		// Also answered to commands that were appended and not yet committed.
		return fmt.Errorf("%w: %w: %w", ErrUnclear, ErrStopped, err)
	default: // leadership lost, or the log could not be written
		return fmt.Errorf("%w: %w", ErrUnclear, err)
	}
}
