package runbook

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// seen is what the executor's own events have in common.
type seen struct {
	at time.Time
	by string // "node NAME"
}

// The executor's events.
type (
	takenOver struct{ seen } // another node goes on
	begun     struct{ seen } // the current step
	timedOut  struct{ seen } // the current step, or the undoing of one
	finished  struct{ seen } // all steps, or all undoing
	trouble   struct {       // an action could not be done; it is tried again
		seen
		text string
	}
	checked struct { // a check, or apply
		seen
		result Result
	}
	lagSeen struct {
		seen
		records int64
	}
	fencePlanned struct {
		seen
		rules []string
	}
	fenceApplied struct{ seen }
	endsSeen     struct { // while a fence is proved
		seen
		ends Ends
	}
	fenceSeen struct { // when a fence is looked at again
		seen
		missing []string
		ends    Ends
	}
	flowPaused  struct{ seen }
	flowResumed struct { // because an earlier step is done again
		seen
		step int
	}
	switchDone struct{ seen } // confirmed, and the fence held
	reported   struct {
		seen
		digest string
	}
	undone struct { // what a step touched
		seen
		step int
	}
)

func (e takenOver) apply(x *Execution) error {
	if x.State.Ended() {
		return refuse("the execution is %s", x.State)
	}
	x.Node = strings.TrimPrefix(e.by, "node ")
	x.note(e.at, e.by, "runs the runbook from here on")
	x.Recheck = x.fence() >= 0
	if s := x.running(); s != nil && s.Spec.Wait != nil {
		s.Since = time.Time{} // nobody watched
	}
	return nil
}

// running is the current step if it has begun and the execution runs.
func (x *Execution) running() *StepRun {
	if x.State != Running || x.Current == len(x.Steps) || x.Steps[x.Current].State == StepPending {
		return nil
	}
	return &x.Steps[x.Current]
}

// step is running, or an error: the outcome came too late.
func (x *Execution) step() (*StepRun, error) {
	if s := x.running(); s != nil {
		return s, nil
	}
	return nil, refuse("no step is running: the execution is %s", x.State)
}

func (e begun) apply(x *Execution) error {
	if x.State != Running || x.Current == len(x.Steps) || x.Steps[x.Current].State != StepPending {
		return refuse("no step can begin: the execution is %s", x.State)
	}
	s := &x.Steps[x.Current]
	s.State, s.Started, s.Attempts = StepRunning, e.at.UTC(), s.Attempts+1
	s.Deadline = e.at.UTC().Add(s.Spec.Timeout.Std())
	if s.Spec.Gate != nil {
		s.State = StepWaiting
	}
	// From here on it may be changing things: what it will do is decided by then
	// for a fence, and is always the same for a switch.
	s.Touched = s.Touched || s.Spec.Switch != nil
	return nil
}

func (e timedOut) apply(x *Execution) error {
	if x.State == RollingBack {
		x.State = Stopped
		x.Problem = clip("the way back took longer than " + undoTimeout.String() + ": " + x.Problem)
		x.note(e.at, e.by, "stopped on the way back: "+x.Problem)
		return nil
	}
	s, err := x.step()
	if err != nil {
		return err
	}
	why := "took longer than " + s.Spec.Timeout.String()
	if s.Problem != "" {
		why += ": " + s.Problem
	}
	x.fail(e.at, e.by, why)
	return nil
}

func (e finished) apply(x *Execution) error {
	switch {
	case x.State == RollingBack && x.touched() < 0:
		x.State = RolledBack
	case x.State == Running && x.Current == len(x.Steps):
		x.State, x.Problem = Completed, ""
	default:
		return refuse("the execution is %s", x.State)
	}
	x.Ended, x.UndoBy = e.at.UTC(), time.Time{}
	x.note(e.at, e.by, string(x.State))
	return nil
}

func (e trouble) apply(x *Execution) error {
	if x.State == RollingBack {
		if problem := clip(e.text); problem != x.Problem {
			x.Problem = problem
			x.note(e.at, e.by, "cannot undo yet: "+e.text)
		}
		return nil
	}
	s, err := x.step()
	if err != nil {
		return err
	}
	if problem := clip(e.text); problem != s.Problem {
		s.Problem = problem
		s.note(e.at, e.by, "is tried again: "+e.text)
	}
	return nil
}

func (e checked) apply(x *Execution) error {
	s, err := x.step()
	if err != nil {
		return err
	}
	s.note(e.at, e.by, e.result.Summary, e.result.Facts...)
	if !e.result.OK {
		x.fail(e.at, e.by, e.result.Summary)
		return nil
	}
	x.done(e.at)
	return nil
}

func (e lagSeen) apply(x *Execution) error {
	s, err := x.step()
	if err != nil {
		return err
	}
	most := s.Spec.Wait.LagRecords
	fact := Fact{"lag", fmt.Sprintf("%d records", e.records)}
	switch {
	case e.records > most && (!s.Since.IsZero() || s.Problem == ""):
		s.Since, s.Problem = time.Time{}, fmt.Sprintf("the lag is above %d records", most)
		s.note(e.at, e.by, s.Problem, fact)
	case e.records > most:
	case s.Since.IsZero():
		s.Since, s.Problem = e.at.UTC(), ""
		s.note(e.at, e.by, fmt.Sprintf("the lag is at most %d records", most), fact)
	}
	if !s.Since.IsZero() && e.at.Sub(s.Since) >= s.Spec.Wait.StableFor.Std() {
		s.note(e.at, e.by, "waited", fact)
		x.done(e.at)
	}
	return nil
}

func (e fencePlanned) apply(x *Execution) error {
	s, err := x.step()
	if err != nil {
		return err
	}
	// Rules of an earlier attempt may be in place already, so they are not seen as
	// new; they are ours all the same.
	for _, rule := range e.rules {
		if !slices.Contains(s.Rules, rule) {
			s.Rules = append(slices.Clip(s.Rules), rule)
		}
	}
	s.Touched, s.Planned, s.Problem = true, true, ""
	facts := make([]Fact, len(s.Rules))
	for i, rule := range s.Rules {
		facts[i] = Fact{"rule", rule}
	}
	s.note(e.at, e.by, fmt.Sprintf("adds %d rules at the source", len(s.Rules)), facts...)
	return nil
}

func (e fenceApplied) apply(x *Execution) error {
	s, err := x.step()
	if err != nil {
		return err
	}
	s.Acted, s.Problem = true, ""
	s.note(e.at, e.by, "the rules are in place")
	return nil
}

func (e endsSeen) apply(x *Execution) error {
	s, err := x.step()
	if err != nil {
		return err
	}
	switch digest := e.ends.Digest(); {
	case s.Ends == "":
		s.note(e.at, e.by, "watches the log ends", e.ends.facts()...)
		s.Ends, s.Since = digest, e.at.UTC()
	case s.Ends != digest:
		s.note(e.at, e.by, "the log ends moved; watches anew", e.ends.facts()...)
		s.Ends, s.Since, s.Problem = digest, e.at.UTC(), "somebody still writes at the source"
	}
	if s.Since.IsZero() { // after a pause
		s.Since = e.at.UTC()
	}
	if watched := e.at.Sub(s.Since); watched >= s.Spec.Fence.Watch.Std() {
		s.note(e.at, e.by, fmt.Sprintf("the log ends stood still for %s", watched.Round(time.Millisecond)), e.ends.facts()...)
		x.done(e.at)
		x.Recheck = false // it was just seen
	}
	return nil
}

// fenceSeen decides what becomes of an execution whose fence does not hold: do it
// again, or stop if clients may be moving already.
func (e fenceSeen) apply(x *Execution) error {
	i := x.fence()
	if i < 0 || x.State != Running {
		return refuse("no fence stands")
	}
	x.Recheck = false
	var why string
	switch fence := &x.Steps[i]; {
	case len(e.missing) > 0:
		why = fmt.Sprintf("%d of its %d rules are gone", len(e.missing), len(fence.Rules))
	case e.ends.Digest() != fence.Ends:
		why = "the source's log ends have moved"
	default:
		return nil
	}
	facts := e.ends.facts()
	for _, rule := range e.missing {
		facts = append(facts, Fact{"missing", rule})
	}
	x.Steps[i].note(e.at, e.by, "the fence does not hold: "+why, facts...)
	if s := x.running(); s != nil && s.Spec.Switch != nil && s.Acted {
		x.fail(e.at, e.by, "the fence does not hold: "+why)
		return nil
	}
	x.note(e.at, e.by, "goes back to step "+x.Steps[i].Spec.ID+": the fence does not hold: "+why)
	for j := i; j <= min(x.Current, len(x.Steps)-1); j++ {
		x.Steps[j].reset()
	}
	x.Current = i
	return nil
}

func (e flowPaused) apply(x *Execution) error {
	s, err := x.step()
	if err != nil {
		return err
	}
	s.Acted, s.Problem = true, ""
	s.note(e.at, e.by, "paused the flow; clients may move")
	if s.Spec.Switch.Confirm {
		s.State = StepWaiting
		return nil
	}
	x.Recheck = x.fence() >= 0
	return nil
}

func (e flowResumed) apply(x *Execution) error {
	if _, err := x.step(); err != nil {
		return err
	}
	s := &x.Steps[e.step]
	s.Touched = false
	s.note(e.at, e.by, "resumed the flow, because step "+x.Steps[x.Current].Spec.ID+" is done again")
	return nil
}

func (e switchDone) apply(x *Execution) error {
	s, err := x.step()
	if err != nil {
		return err
	}
	if s.Spec.Switch == nil || !s.Acted {
		return refuse("step %s is no switch, or the flow is not paused", s.Spec.ID)
	}
	x.done(e.at)
	return nil
}

// touched is the last step that has changed something outside which stands; -1 if
// there is none.
func (x *Execution) touched() int {
	for i, s := range slices.Backward(x.Steps) {
		if s.Touched {
			return i
		}
	}
	return -1
}

func (e reported) apply(x *Execution) error {
	s, err := x.step()
	if err != nil {
		return err
	}
	s.note(e.at, e.by, "reported", Fact{"sha256 of the evidence before this", e.digest})
	x.done(e.at)
	return nil
}

func (e undone) apply(x *Execution) error {
	if x.State != RollingBack {
		return refuse("the execution is %s", x.State)
	}
	s := &x.Steps[e.step]
	s.note(e.at, e.by, "undone: "+Describe(&s.Spec).Undo)
	s.State, s.Touched, s.Acted, s.Planned, s.Rules = StepUndone, false, false, false, nil
	x.UndoBy = e.at.UTC().Add(undoTimeout)
	return nil
}
