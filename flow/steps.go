package flow

// Verb is what a step does.
type Verb string

// The verbs.
const (
	VerbCheck  Verb = "check"
	VerbWait   Verb = "wait"
	VerbFence  Verb = "fence"
	VerbApply  Verb = "apply"
	VerbGate   Verb = "gate"
	VerbSwitch Verb = "switch"
	VerbReport Verb = "report"
)

// What a check looks at.
const (
	// CheckPreflight is everything that can be known before anything is
	// changed: both clusters answer, the flow runs, rights suffice.
	CheckPreflight = "preflight"
	// CheckGroups is where each consumer group stands on the destination, and
	// what it would read again or skip there.
	CheckGroups = "groups"
	// CheckVerify compares both sides' records.
	CheckVerify = "verify"
)

// ApplyGroupOffsets commits the groups' translated offsets on the destination;
// it fails unless each of them is exact.
const ApplyGroupOffsets = "groupOffsets"

// What happens when a step fails.
const (
	FailureStop     = "stop"
	FailureRollback = "rollback"
)

// Step is one step of a runbook. Exactly one verb is set.
type Step struct {
	ID string `yaml:"id" json:"id"`

	Check  string      `yaml:"check,omitempty" json:"check,omitempty"` // preflight, groups or verify
	Wait   *WaitStep   `yaml:"wait,omitempty" json:"wait,omitempty"`
	Fence  *FenceStep  `yaml:"fence,omitempty" json:"fence,omitempty"`
	Apply  string      `yaml:"apply,omitempty" json:"apply,omitempty"` // groupOffsets
	Gate   *GateStep   `yaml:"gate,omitempty" json:"gate,omitempty"`
	Switch *SwitchStep `yaml:"switch,omitempty" json:"switch,omitempty"`
	Report *ReportStep `yaml:"report,omitempty" json:"report,omitempty"`

	// Timeout fails the step; a parsed step without one has the default of its
	// verb, see [DefaultTimeout].
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`
	// OnFailure is what happens when the step fails: [FailureStop] leaves the
	// runbook where it is, for a person to retry or roll back; [FailureRollback]
	// undoes what was done.
	OnFailure string `yaml:"onFailure,omitempty" json:"onFailure,omitempty"`
}

// WaitStep waits for the flow's lag to come down.
type WaitStep struct {
	LagRecords int64    `yaml:"lagRecords" json:"lagRecords"` // at most
	StableFor  Duration `yaml:"stableFor,omitempty" json:"stableFor,omitempty"`
}

// FenceStep denies writes to the flow's topics at the source by ACL, and proves
// it: the log ends must stand still for Watch.
type FenceStep struct {
	Principals []string `yaml:"principals" json:"principals"` // User:orders-app; "User:*" is everybody
	Watch      Duration `yaml:"watch,omitempty" json:"watch,omitempty"`
}

// GateStep waits for a person.
type GateStep struct {
	Approvals int `yaml:"approvals" json:"approvals"`
}

// SwitchStep is where clients move: pause the flow, then wait for a person to
// confirm, or go on at once when Confirm is false.
type SwitchStep struct {
	Confirm bool `yaml:"confirm,omitempty" json:"confirm,omitempty"`
}

// ReportStep ends a runbook with a report of all evidence.
type ReportStep struct{}

// Verbs returns the verbs that the step sets, in the order of [Step]'s fields; a
// valid step has exactly one.
func (s *Step) Verbs() []Verb {
	var out []Verb
	for _, v := range []struct {
		verb Verb
		set  bool
	}{
		{VerbCheck, s.Check != ""},
		{VerbWait, s.Wait != nil},
		{VerbFence, s.Fence != nil},
		{VerbApply, s.Apply != ""},
		{VerbGate, s.Gate != nil},
		{VerbSwitch, s.Switch != nil},
		{VerbReport, s.Report != nil},
	} {
		if v.set {
			out = append(out, v.verb)
		}
	}
	return out
}

// Verb is the step's verb; "" for a step that is not valid.
func (s *Step) Verb() Verb {
	if verbs := s.Verbs(); len(verbs) == 1 {
		return verbs[0]
	}
	return ""
}
