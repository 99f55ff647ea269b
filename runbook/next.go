package runbook

import (
	"time"

	"github.com/waybillhq/waybill/flow"
)

// Action is one thing to do.
type Action string

// The actions. Those of the first group only change the execution.
const (
	DoNothing  Action = ""
	DoBegin    Action = "begin"
	DoTimeOut  Action = "timeOut"
	DoFinish   Action = "finish"
	DoSwitched Action = "switched"
	DoReport   Action = "report"

	DoPreflight     Action = "preflight"
	DoVerifyGroups  Action = "verifyGroups"
	DoVerifyRecords Action = "verifyRecords"
	DoReadLag       Action = "readLag"
	DoPlanFence     Action = "planFence"
	DoFence         Action = "fence"
	DoReadEnds      Action = "readEnds"
	DoReadFence     Action = "readFence"
	DoApplyGroups   Action = "applyGroups"
	DoPauseFlow     Action = "pauseFlow"
	DoResumeFlow    Action = "resumeFlow"
	DoUndoFence     Action = "undoFence"
	DoUndoSwitch    Action = "undoSwitch"
)

// Effect is what Next wants done, and for which step.
type Effect struct {
	Do   Action
	Step int
}

// Next returns the one thing to do now. It is pure: a new owner that asks gets the
// same answer. DoNothing means to ask again later, or never if the execution has
// ended.
func (x Execution) Next(now time.Time) Effect {
	switch x.State {
	case Running:
		return x.nextForward(now)
	case RollingBack:
		return x.nextBack(now)
	}
	return Effect{Do: DoNothing}
}

func (x *Execution) nextForward(now time.Time) Effect {
	if x.Current == len(x.Steps) {
		return Effect{Do: DoFinish}
	}
	s := &x.Steps[x.Current]
	do := func(a Action) Effect { return Effect{Do: a, Step: x.Current} }
	switch {
	case s.State == StepPending:
		return do(DoBegin)
	case !now.Before(s.Deadline):
		return do(DoTimeOut)
	case x.Recheck && x.fence() >= 0:
		return do(DoReadFence)
	}
	// A step is done again whose work needs the flow, after a switch paused it.
	for i := x.Current + 1; i < len(x.Steps); i++ {
		if x.Steps[i].Touched && x.Steps[i].Spec.Switch != nil {
			return Effect{Do: DoResumeFlow, Step: i}
		}
	}
	switch s.Spec.Verb() {
	case flow.VerbCheck:
		switch s.Spec.Check {
		case flow.CheckPreflight:
			return do(DoPreflight)
		case flow.CheckGroups:
			return do(DoVerifyGroups)
		case flow.CheckVerify:
			return do(DoVerifyRecords)
		}
	case flow.VerbWait:
		return do(DoReadLag)
	case flow.VerbApply:
		return do(DoApplyGroups)
	case flow.VerbReport:
		return do(DoReport)
	case flow.VerbFence:
		switch {
		case !s.Planned:
			return do(DoPlanFence)
		case !s.Acted:
			return do(DoFence)
		default:
			return do(DoReadEnds)
		}
	case flow.VerbSwitch:
		switch {
		case !s.Acted:
			return do(DoPauseFlow)
		case s.State != StepWaiting:
			return do(DoSwitched)
		}
	}
	return do(DoNothing) // a person is waited for
}

func (x *Execution) nextBack(now time.Time) Effect {
	i := x.touched()
	switch {
	case i < 0:
		return Effect{Do: DoFinish}
	case !now.Before(x.UndoBy):
		return Effect{Do: DoTimeOut, Step: i}
	case x.Steps[i].Spec.Fence != nil:
		return Effect{Do: DoUndoFence, Step: i}
	default:
		return Effect{Do: DoUndoSwitch, Step: i}
	}
}

// Description says in words what a step does and how it is undone.
type Description struct {
	Does string
	Undo string // "" if there is nothing to undo
}

// Describe says what a step does, for plans and reports.
func Describe(s *flow.Step) Description {
	switch s.Verb() {
	case flow.VerbCheck:
		return Description{Does: map[string]string{
			flow.CheckPreflight: "look whether this can work at all",
			flow.CheckGroups:    "see where each group stands on the destination",
			flow.CheckVerify:    "compare both sides' records",
		}[s.Check]}
	case flow.VerbWait:
		does := "wait for a lag of at most " + plural(s.Wait.LagRecords, "record")
		if s.Wait.StableFor > 0 {
			does += " for " + s.Wait.StableFor.String()
		}
		return Description{Does: does}
	case flow.VerbFence:
		return Description{
			Does: "deny writes at the source to " + list(s.Fence.Principals) + "; watch the log ends for " + s.Fence.Watch.String(),
			Undo: "remove the deny rules that the fence added",
		}
	case flow.VerbApply:
		return Description{Does: "commit the groups' offsets on the destination, all exact or none"}
	case flow.VerbGate:
		return Description{Does: "wait for " + plural(int64(s.Gate.Approvals), "approval")}
	case flow.VerbSwitch:
		d := Description{Does: "pause the flow", Undo: "resume the flow"}
		if s.Switch.Confirm {
			d.Does += ", and wait for confirmation that clients have moved"
		}
		return d
	case flow.VerbReport:
		return Description{Does: "close the evidence with its digest"}
	}
	return Description{Does: "nothing: the step is not valid"}
}
