package runbook

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybillhq/waybill/flow"
)

// ErrRefused is in the error of an event that does not fit the execution's state:
// an approval where nothing waits for one, a rollback after the switch.
var ErrRefused = errors.New("refused")

// Event is something that happened to an execution. The events of people are
// exported.
type Event interface {
	apply(x *Execution) error
}

// Step returns the execution after an event. It is pure; x is not changed. An
// error wraps [ErrRefused].
func Step(x Execution, e Event) (Execution, error) {
	next := x.clone()
	if err := e.apply(&next); err != nil {
		return x, fmt.Errorf("runbook %s, execution %s: %w", x.Runbook, x.ID, err)
	}
	return next, nil
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// Who is the person behind an event, why, and when.
type Who struct {
	By     string
	Reason string
	At     time.Time
}

func (w Who) check() error {
	if w.By == "" {
		return refuse("nobody is named")
	}
	return nil
}

// Approve is one person's approval of a gate.
type Approve struct {
	Who
	Step string // id of the gate
}

// Confirm says that clients have moved.
type Confirm struct {
	Who
	Step string // id of the switch
}

// Pause stops the execution before its next action; what was done stays, a fence
// too.
type Pause struct{ Who }

// Resume goes on after Pause.
type Resume struct{ Who }

// Retry tries again what failed.
type Retry struct{ Who }

// Rollback undoes what was touched, last step first.
type Rollback struct{ Who }

// Abort ends the execution as it is: nothing is undone, a fence stays.
type Abort struct{ Who }

func (e Approve) apply(x *Execution) error {
	s, err := x.waitingStep(e.Who, e.Step, "approval")
	if err != nil {
		return err
	}
	if s.Spec.Gate == nil {
		return refuse("step %s wants to be confirmed, not approved", e.Step)
	}
	if slices.ContainsFunc(s.Approvals, func(a Approval) bool { return a.By == e.By }) {
		return refuse("%s has approved step %s already; another person must", e.By, e.Step)
	}
	s.Approvals = append(s.Approvals, Approval{e.By, e.At.UTC(), clip(e.Reason)})
	s.note(e.At, e.By, withReason("approved", e.Reason))
	if len(s.Approvals) >= s.Spec.Gate.Approvals {
		x.done(e.At)
	}
	return nil
}

func (e Confirm) apply(x *Execution) error {
	s, err := x.waitingStep(e.Who, e.Step, "confirmation")
	if err != nil {
		return err
	}
	if s.Spec.Switch == nil {
		return refuse("step %s wants to be approved, not confirmed", e.Step)
	}
	s.Approvals = append(s.Approvals, Approval{e.By, e.At.UTC(), clip(e.Reason)})
	s.note(e.At, e.By, withReason("confirmed that clients have moved", e.Reason))
	s.State = StepRunning // once more: does the fence hold?
	x.Recheck = x.fence() >= 0
	return nil
}

func (x *Execution) waitingStep(w Who, id, what string) (*StepRun, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	if x.State != Running || x.Current == len(x.Steps) || x.Steps[x.Current].State != StepWaiting {
		return nil, refuse("no step waits for %s: the execution is %s", what, x.State)
	}
	s := &x.Steps[x.Current]
	if s.Spec.ID != id {
		return nil, refuse("step %q does not wait for %s; %s does", id, what, s.Spec.ID)
	}
	return s, nil
}

func (e Pause) apply(x *Execution) error {
	if x.State != Running {
		return refuse("only a running execution is paused, and this one is %s", x.State)
	}
	x.State, x.PausedAt = Paused, e.At.UTC()
	x.note(e.At, e.By, withReason("paused", e.Reason))
	return e.check()
}

func (e Resume) apply(x *Execution) error {
	if x.State != Paused {
		return refuse("the execution is %s, not paused", x.State)
	}
	if x.Current < len(x.Steps) && x.Steps[x.Current].State != StepPending {
		s := &x.Steps[x.Current]
		s.Deadline = s.Deadline.Add(e.At.Sub(x.PausedAt))
		s.Since = time.Time{} // nobody watched
	}
	x.State, x.PausedAt = Running, time.Time{}
	x.Recheck = x.fence() >= 0
	x.note(e.At, e.By, withReason("resumed", e.Reason))
	return e.check()
}

func (e Retry) apply(x *Execution) error {
	if x.State != Stopped || x.Current == len(x.Steps) {
		return refuse("the execution is %s, not stopped", x.State)
	}
	x.note(e.At, e.By, withReason("retried", e.Reason))
	if !x.UndoBy.IsZero() { // it stopped on its way back
		x.back(e.At)
		return e.check()
	}
	x.Steps[x.Current].reset()
	x.State, x.Problem = Running, ""
	x.Recheck = x.fence() >= 0
	return e.check()
}

func (e Rollback) apply(x *Execution) error {
	switch {
	case x.State != Running && x.State != Paused && x.State != Stopped:
		return refuse("the execution is %s", x.State)
	case x.switched():
		return refuse("clients have moved; the way back is a flow in the other direction")
	}
	x.note(e.At, e.By, withReason("rolled back", e.Reason))
	x.back(e.At)
	return e.check()
}

func (e Abort) apply(x *Execution) error {
	if x.State.Ended() {
		return refuse("the execution is %s already", x.State)
	}
	var left []Fact
	for _, s := range x.Steps {
		if s.Touched && s.State != StepUndone {
			left = append(left, Fact{"left in place by " + s.Spec.ID, Describe(&s.Spec).Undo})
		}
	}
	x.note(e.At, e.By, withReason("aborted; nothing was undone", e.Reason), left...)
	x.State, x.Ended = Aborted, e.At.UTC()
	return e.check()
}

// back begins, or goes on with, the way back.
func (x *Execution) back(at time.Time) {
	x.State, x.PausedAt, x.Recheck = RollingBack, time.Time{}, false
	x.UndoBy = at.UTC().Add(undoTimeout)
}

// undoTimeout is the time limit for undoing one step: rules reach every broker
// within seconds, the rest is for clusters that answer late.
const undoTimeout = 5 * time.Minute

// done ends the current step well.
func (x *Execution) done(at time.Time) {
	s := &x.Steps[x.Current]
	s.State, s.Ended, s.Problem = StepDone, at.UTC(), ""
	x.Current++
	x.Recheck = x.fence() >= 0
}

// fail ends the current step badly, and does what its declaration says.
func (x *Execution) fail(at time.Time, by, why string) {
	s := &x.Steps[x.Current]
	s.State, s.Ended, s.Problem = StepFailed, at.UTC(), clip(why)
	s.note(at, by, "failed: "+why)
	x.Problem, x.Recheck = clip("step "+s.Spec.ID+": "+why), false
	if s.Spec.OnFailure == flow.FailureRollback && !x.switched() {
		x.note(at, by, "goes back, as step "+s.Spec.ID+" says, because it failed: "+why)
		x.back(at)
		return
	}
	x.State = Stopped
	x.note(at, by, "stopped: step "+s.Spec.ID+" failed: "+why)
}

// reset makes a step pending again. What it touched, and by which rules, is not
// forgotten; nor is the evidence.
func (s *StepRun) reset() {
	s.State, s.Started, s.Deadline, s.Ended, s.Problem = StepPending, time.Time{}, time.Time{}, time.Time{}, ""
	s.Planned, s.Acted, s.Ends, s.Since, s.Approvals = false, false, "", time.Time{}, nil
}
