package runbook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config is how an [Executor] works.
type Config struct {
	ID    string // of the execution
	Node  string // the node's name, for the evidence
	Store Store
	Do    Actions
	Log   *slog.Logger
	// Poll is the time between two looks: at the lag, at the log ends, at what
	// people said, and before something is tried again. 0 is [DefaultPoll].
	Poll time.Duration
}

// DefaultPoll makes a drain end at most 0.5 s late. It costs two requests to the
// source's brokers each time while a step waits, and none else.
const DefaultPoll = 500 * time.Millisecond

// Executor runs one execution, for as long as this node owns it.
type Executor struct {
	c  Config
	by string

	x        Execution
	revision uint64
}

// NewExecutor returns an executor that has not begun.
func NewExecutor(c Config) *Executor {
	if c.Poll == 0 {
		c.Poll = DefaultPoll
	}
	return &Executor{c: c, by: "node " + c.Node}
}

// Run carries the execution on until it ends, and returns nil then. It returns
// the cause of ctx when ownership ends, an error that wraps [ErrNotOwner] when the
// store says so first, and [ErrNotFound] if the execution is gone. It may be called
// once.
func (e *Executor) Run(ctx context.Context) error {
	for took := false; ; {
		pause, err := e.round(ctx, &took)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrNotOwner) || errors.Is(err, ErrNotFound):
			return err
		case err != nil:
			e.c.Log.Warn("runbook cannot go on now", "execution", e.c.ID, "err", err)
			pause = true
		case e.x.State.Ended():
			return nil
		}
		if pause {
			sleep(ctx, e.c.Poll) // the next round sees whether ctx has ended
		}
	}
}

// round does one thing. pause says that there is nothing to do until later.
func (e *Executor) round(ctx context.Context, took *bool) (pause bool, err error) {
	if e.x, e.revision, err = load(ctx, e.c.Store, e.c.ID); err != nil {
		return true, err
	}
	if e.x.State.Ended() {
		return false, nil
	}
	if !*took {
		if err := e.record(ctx, takenOver{e.seen()}); err != nil {
			return true, err
		}
		*took = true
		return false, nil
	}
	effect := e.x.Next(time.Now())
	if effect.Do == DoNothing {
		return true, nil
	}
	event, err := e.perform(ctx, effect)
	if ctx.Err() != nil {
		// Whether it was done is not known, so nothing is recorded: the next owner
		// does it again.
		return false, ctx.Err()
	}
	if err != nil {
		e.c.Log.Info("runbook action is tried again", "execution", e.c.ID, "action", effect.Do, "err", err)
		return true, e.record(ctx, trouble{e.seen(), err.Error()})
	}
	before := e.x.Current
	if err := e.record(ctx, event); err != nil {
		return false, err
	}
	polls := effect.Do == DoReadLag || effect.Do == DoReadEnds
	return polls && e.x.Current == before && e.x.State == Running, nil
}

func (e *Executor) seen() seen { return seen{time.Now(), e.by} }

// record stores what an event makes of the execution. If a person's event came
// between, the event is given to what the execution has become; one that does not
// fit it any more is dropped.
func (e *Executor) record(ctx context.Context, event Event) error {
	for {
		next, err := Step(e.x, event)
		if errors.Is(err, ErrRefused) {
			e.c.Log.Info("runbook event came too late", "execution", e.c.ID, "err", err)
			return nil
		}
		if err != nil {
			return err
		}
		same, err := equal(e.x, next)
		if same || err != nil {
			return err
		}
		revision, err := save(ctx, e.c.Store, next, e.revision)
		if err == nil {
			e.x, e.revision = next, revision
			return nil
		}
		if !errors.Is(err, ErrConflict) || !sleep(ctx, conflictPause) {
			return err
		}
		if e.x, e.revision, err = load(ctx, e.c.Store, e.c.ID); err != nil {
			return err
		}
	}
}

// equal spares the fleet's log an entry that says nothing new.
func equal(a, b Execution) (bool, error) {
	x, err := a.Encode()
	if err != nil {
		return false, err
	}
	y, err := b.Encode()
	return bytes.Equal(x, y), err
}

// perform does what the effect wants and returns the event of its outcome. Its
// errors are those of actions that could not be done.
func (e *Executor) perform(ctx context.Context, effect Effect) (Event, error) {
	if event := e.internal(effect); event != nil {
		return event, nil
	}
	do, flow, s := e.c.Do, e.x.Flow, &e.x.Steps[effect.Step]
	limit := e.x.UndoBy
	if e.x.State == Running {
		limit = e.x.Steps[e.x.Current].Deadline
	}
	ctx, cancel := context.WithDeadline(ctx, limit)
	defer cancel()
	var event Event
	var err error
	check := func(result Result, failed error) {
		err = failed
		event = checked{e.seen(), result}
	}
	switch effect.Do {
	case DoReport:
		var report []byte
		report, err = e.x.Encode()
		event = reported{e.seen(), digest(report)}
	case DoPreflight:
		check(do.Preflight(ctx, flow))
	case DoVerifyGroups:
		check(do.VerifyGroups(ctx, flow))
	case DoVerifyRecords:
		check(do.VerifyRecords(ctx, flow))
	case DoApplyGroups:
		check(do.ApplyGroupOffsets(ctx, flow))
	case DoReadLag:
		var records int64
		records, err = do.Lag(ctx, flow)
		event = lagSeen{e.seen(), records}
	case DoPlanFence:
		var rules []string
		rules, err = do.PlanFence(ctx, flow, s.Spec.Fence.Principals)
		event = fencePlanned{e.seen(), rules}
	case DoFence:
		err = do.Fence(ctx, flow, s.Rules)
		event = fenceApplied{e.seen()}
	case DoReadEnds:
		var ends Ends
		ends, err = do.SourceEnds(ctx, flow)
		event = endsSeen{e.seen(), ends}
	case DoReadFence:
		event, err = e.readFence(ctx)
	case DoPauseFlow:
		err = do.PauseFlow(ctx, flow)
		event = flowPaused{e.seen()}
	case DoResumeFlow:
		err = do.ResumeFlow(ctx, flow)
		event = flowResumed{e.seen(), effect.Step}
	case DoUndoFence:
		err = do.Unfence(ctx, flow, s.Rules)
		event = undone{e.seen(), effect.Step}
	case DoUndoSwitch:
		err = do.ResumeFlow(ctx, flow)
		event = undone{e.seen(), effect.Step}
	default:
		return nil, fmt.Errorf("action %q is not known", effect.Do)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", effect.Do, err)
	}
	return event, nil
}

// internal is the event of an effect that needs nothing from outside; nil for the
// others.
func (e *Executor) internal(effect Effect) Event {
	switch effect.Do {
	case DoBegin:
		return begun{e.seen()}
	case DoTimeOut:
		return timedOut{e.seen()}
	case DoFinish:
		return finished{e.seen()}
	case DoSwitched:
		return switchDone{e.seen()}
	}
	return nil
}

func (e *Executor) readFence(ctx context.Context) (Event, error) {
	fence := &e.x.Steps[e.x.fence()]
	missing, err := e.c.Do.MissingRules(ctx, e.x.Flow, fence.Rules)
	if err != nil {
		return nil, err
	}
	ends, err := e.c.Do.SourceEnds(ctx, e.x.Flow)
	return fenceSeen{e.seen(), missing, ends}, err
}
