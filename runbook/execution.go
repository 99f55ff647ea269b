package runbook

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybillhq/waybill/flow"
)

// State is where an execution stands.
type State string

// The states. The last three are ends.
const (
	Running     State = "running"
	Paused      State = "paused"      // by a person; what was done stays
	Stopped     State = "stopped"     // something failed; a person retries, rolls back or aborts
	RollingBack State = "rollingBack" // what was touched is being undone
	Completed   State = "completed"
	RolledBack  State = "rolledBack"
	Aborted     State = "aborted" // ended as it was; nothing was undone
)

// Ended reports whether nothing will happen any more.
func (s State) Ended() bool { return s == Completed || s == RolledBack || s == Aborted }

// StepState is where a step stands.
type StepState string

// The states of a step.
const (
	StepPending StepState = "pending"
	StepRunning StepState = "running"
	StepWaiting StepState = "waiting" // for a person
	StepDone    StepState = "done"
	StepFailed  StepState = "failed"
	StepUndone  StepState = "undone"
)

// version of the stored form.
const version = 1

// Execution is one run of a runbook. It is a value: [Step] returns a changed copy.
type Execution struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Runbook string    `json:"runbook"`
	Flow    string    `json:"flow"`
	State   State     `json:"state"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	// Node runs the execution, or ran it last.
	Node string `json:"node,omitempty"`
	// Problem is why the execution is stopped, or goes back.
	Problem string `json:"problem,omitempty"`
	// Current is the first step that is not done.
	Current int       `json:"current"`
	Steps   []StepRun `json:"steps"`
	// History is what happened to the execution as a whole, and who did it.
	History []Entry `json:"history,omitempty"`

	// Recheck: the fence must be seen again before anything else.
	Recheck bool `json:"recheck,omitempty"`
	// PausedAt is when it was paused, and UndoBy the time limit of the step that
	// is being undone.
	PausedAt time.Time `json:"pausedAt,omitzero"`
	UndoBy   time.Time `json:"undoBy,omitzero"`
}

// StepRun is a step and how far it got.
type StepRun struct {
	Spec     flow.Step `json:"spec"`
	State    StepState `json:"state"`
	Attempts int       `json:"attempts,omitempty"`
	Started  time.Time `json:"started,omitzero"` // of the last attempt
	Deadline time.Time `json:"deadline,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Problem  string    `json:"problem,omitempty"`
	Evidence []Entry   `json:"evidence,omitempty"`

	// Touched: it has changed, or was about to change, something outside.
	Touched bool `json:"touched,omitempty"`
	// Rules are what the fence adds; Planned: they are decided, and the first may
	// have been added.
	Rules   []string `json:"rules,omitempty"`
	Planned bool     `json:"planned,omitempty"`
	// Acted: the fence's rules are in place, or the flow is paused.
	Acted bool `json:"acted,omitempty"`
	// Ends is what the source's log ends were, and Since is when they, or the lag,
	// were first seen as wanted.
	Ends  string    `json:"ends,omitempty"`
	Since time.Time `json:"since,omitzero"`
	// Approvals are the people who approved or confirmed.
	Approvals []Approval `json:"approvals,omitempty"`
}

// Approval is one person's word.
type Approval struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Entry is one piece of evidence.
type Entry struct {
	At    time.Time `json:"at"`
	By    string    `json:"by"` // a principal, or "node NAME"
	Text  string    `json:"text"`
	Facts []Fact    `json:"facts,omitempty"`
}

// Fact is a measured value.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Bounds of the evidence, so that an execution stays small enough for the fleet's
// log: ten steps at their limits are about 1 MiB.
const (
	maxEntries = 40  // of a step or the history
	maxFacts   = 100 // of an entry; and of all together, short entries apart
	fewFacts   = 4   // of a short entry
	maxText    = 200 // bytes of a text, name or value
)

// New plans an execution of a valid runbook. Id is unique among executions;
// by is who starts it.
func New(id string, rb *flow.Runbook, by, reason string, now time.Time) (Execution, error) {
	if id == "" || by == "" {
		return Execution{}, errors.New("plan execution: id and starter are needed")
	}
	if err := (flow.Object{Kind: flow.KindRunbook, Runbook: rb}).Validate(); err != nil {
		return Execution{}, fmt.Errorf("plan execution: %w", err)
	}
	x := Execution{
		Version: version, ID: id, Runbook: rb.Metadata.Name, Flow: rb.Spec.Flow, State: Running, Started: now.UTC(),
	}
	for _, s := range rb.Spec.Steps {
		if s.Timeout == 0 {
			s.Timeout = flow.DefaultTimeout(s.Verb())
		}
		x.Steps = append(x.Steps, StepRun{Spec: s, State: StepPending})
	}
	x.note(now, by, withReason("started the runbook", reason))
	return x, nil
}

// Encode returns the stored form.
func (x Execution) Encode() ([]byte, error) {
	b, err := json.Marshal(x)
	if err != nil {
		return nil, fmt.Errorf("encode execution %s: %w", x.ID, err)
	}
	return b, nil
}

// Decode reads the stored form. It refuses one that a newer version wrote.
func Decode(b []byte) (Execution, error) {
	var x Execution
	if err := json.Unmarshal(b, &x); err != nil {
		return Execution{}, fmt.Errorf("decode execution: %w", err)
	}
	if x.Version != version {
		return Execution{}, fmt.Errorf("decode execution %s: version %d is not known", x.ID, x.Version)
	}
	if x.Current < 0 || x.Current > len(x.Steps) {
		return Execution{}, fmt.Errorf("decode execution %s: step %d of %d", x.ID, x.Current, len(x.Steps))
	}
	return x, nil
}

// Waiting says what the execution waits for a person to do; "" if it does not.
func (x Execution) Waiting() string {
	switch {
	case x.State == Paused:
		return "resume, rollback or abort"
	case x.State == Stopped && x.switched():
		return "retry or abort"
	case x.State == Stopped:
		return "retry, rollback or abort"
	case x.State != Running || x.Current == len(x.Steps):
		return ""
	}
	s := x.Steps[x.Current]
	switch {
	case s.State != StepWaiting:
		return ""
	case s.Spec.Gate != nil:
		return fmt.Sprintf("approve %s: %d of %d", s.Spec.ID, len(s.Approvals), s.Spec.Gate.Approvals)
	default:
		return "confirm " + s.Spec.ID
	}
}

// switched reports whether clients have moved.
func (x *Execution) switched() bool {
	return slices.ContainsFunc(x.Steps, func(s StepRun) bool { return s.Spec.Switch != nil && s.State == StepDone })
}

// fence is the index of the last fence that is done and stands, or -1.
func (x *Execution) fence() int {
	if x.switched() {
		return -1
	}
	for i := min(x.Current, len(x.Steps)) - 1; i >= 0; i-- {
		if x.Steps[i].Spec.Fence != nil && x.Steps[i].State == StepDone {
			return i
		}
	}
	return -1
}

// clone copies what Step changes; entries themselves are never changed.
func (x Execution) clone() Execution {
	x.Steps = slices.Clone(x.Steps)
	x.History = slices.Clip(x.History)
	for i := range x.Steps {
		s := &x.Steps[i]
		s.Evidence, s.Approvals = slices.Clip(s.Evidence), slices.Clip(s.Approvals)
	}
	return x
}

func (x *Execution) note(at time.Time, by, text string, facts ...Fact) {
	x.History = appendEntry(x.History, at, by, text, facts)
}

func (s *StepRun) note(at time.Time, by, text string, facts ...Fact) {
	s.Evidence = appendEntry(s.Evidence, at, by, text, facts)
}

// appendEntry keeps the first entries and the latest; the one in the middle counts
// those that were left out. Long lists of facts are kept in the latest entries.
func appendEntry(entries []Entry, at time.Time, by, text string, facts []Fact) []Entry {
	e := Entry{At: at.UTC(), By: by, Text: clip(text)}
	for i, f := range facts {
		if i == maxFacts {
			e.Facts = append(e.Facts, Fact{"left out", fmt.Sprintf("%d more", len(facts)-maxFacts)})
			break
		}
		e.Facts = append(e.Facts, Fact{clip(f.Name), clip(f.Value)})
	}
	entries = slices.Clone(entries)
	if len(entries) == maxEntries {
		const middle = maxEntries / 2
		left := 2
		if _, err := fmt.Sscanf(entries[middle].Text, leftOut, &left); err == nil {
			left++
		}
		entries[middle] = Entry{At: entries[middle].At, By: entries[middle].By, Text: fmt.Sprintf(leftOut, left)}
		entries = slices.Delete(entries, middle+1, middle+2)
	}
	entries = append(entries, e)
	total := 0
	for i, e := range slices.Backward(entries) {
		if n := len(e.Facts); n > fewFacts && total+n > maxFacts && i < len(entries)-1 {
			entries[i].Facts = []Fact{{"left out", fmt.Sprintf("%d facts; later ones follow", n)}}
		}
		total += len(entries[i].Facts)
	}
	return entries
}

const leftOut = "%d entries are left out here"

func clip(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "…"
	}
	return s
}

func withReason(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + ": " + reason
}
