package runbook

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Sentinels of a [Store].
var (
	// ErrConflict: the execution has another revision than the one that a change
	// was based on.
	ErrConflict = errors.New("execution has changed")
	// ErrNotFound: there is no such execution.
	ErrNotFound = errors.New("no such execution")
	// ErrNotOwner: another node runs the execution.
	ErrNotOwner = errors.New("execution is run by another node")
)

// Record is a stored execution.
type Record struct {
	ID       string
	Runbook  string // name of the declared runbook
	Data     []byte // [Execution.Encode]'s
	Done     bool   // it has ended, and needs no owner
	Revision uint64 // set by the store; 0 in a new one
}

// Store keeps executions by compare-and-set. Loads may be a little behind; a save
// that is based on an old revision is refused, so nothing is lost by it.
type Store interface {
	// Load returns ErrNotFound if there is none.
	Load(ctx context.Context, id string) (Record, error)
	// Save replaces the revision in r and returns the new one; revision 0 makes a
	// new execution. It returns ErrConflict if the stored revision is another,
	// ErrNotOwner if the caller runs the execution and no longer owns it. When it
	// returns nil, the change is durable.
	Save(ctx context.Context, r Record) (revision uint64, err error)
	// List returns all executions.
	List(ctx context.Context) ([]Record, error)
}

// ErrBusy is returned by [Start] for a flow that another execution is moving.
var ErrBusy = errors.New("another runbook runs on this flow")

// Start stores a new execution, so that a node will run it.
func Start(ctx context.Context, store Store, x Execution) error {
	all, err := store.List(ctx)
	if err != nil {
		return fmt.Errorf("start execution %s: %w", x.ID, err)
	}
	for _, r := range all {
		if r.Done {
			continue
		}
		other, err := Decode(r.Data)
		if err != nil {
			return fmt.Errorf("start execution %s: read execution %s: %w", x.ID, r.ID, err)
		}
		if other.Flow == x.Flow {
			return fmt.Errorf("start execution %s: %w: execution %s of runbook %s is %s", x.ID, ErrBusy, other.ID, other.Runbook, other.State)
		}
	}
	if _, err := save(ctx, store, x, 0); err != nil {
		return fmt.Errorf("start execution %s: %w", x.ID, err)
	}
	return nil
}

// Submit applies a person's event to a stored execution and returns what it made
// of it. Errors wrap [ErrRefused], [ErrNotFound] or the store's.
func Submit(ctx context.Context, store Store, id string, e Event) (Execution, error) {
	for {
		x, revision, err := load(ctx, store, id)
		if err != nil {
			return Execution{}, err
		}
		next, err := Step(x, e)
		if err != nil {
			return x, err
		}
		_, err = save(ctx, store, next, revision)
		if err == nil {
			return next, nil
		}
		// The executor stores often, or this node is a little behind: look again.
		if !errors.Is(err, ErrConflict) || !sleep(ctx, conflictPause) {
			return x, err
		}
	}
}

// conflictPause lets a node that is behind catch up: a round of heartbeats.
const conflictPause = 20 * time.Millisecond

// sleep waits; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func load(ctx context.Context, store Store, id string) (Execution, uint64, error) {
	r, err := store.Load(ctx, id)
	if err != nil {
		return Execution{}, 0, fmt.Errorf("load execution %s: %w", id, err)
	}
	x, err := Decode(r.Data)
	return x, r.Revision, err
}

func save(ctx context.Context, store Store, x Execution, revision uint64) (uint64, error) {
	data, err := x.Encode()
	if err != nil {
		return 0, err
	}
	revision, err = store.Save(ctx, Record{ID: x.ID, Runbook: x.Runbook, Data: data, Done: x.State.Ended(), Revision: revision})
	if err != nil {
		return 0, fmt.Errorf("save execution %s: %w", x.ID, err)
	}
	return revision, nil
}
