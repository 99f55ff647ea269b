package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Level is how bad a finding is.
type Level string

// The levels, from good to bad. Unknown is what could not be looked at.
const (
	OK      Level = "ok"
	Unknown Level = "unknown"
	Warning Level = "warning"
	Error   Level = "error"
)

var levels = []Level{OK, Unknown, Warning, Error}

// The checks.
const (
	DNS       = "dns"
	Reach     = "reachability"
	TLS       = "tls"
	SASL      = "sasl"
	Versions  = "versions"
	Rights    = "rights"
	Clock     = "clock"
	Disk      = "disk"
	Raft      = "raft"
	Identity  = "identity"
	Audit     = "audit"
	Secrets   = "secrets"
	Condition = "condition"
)

// Finding is one thing that was looked at.
type Finding struct {
	Check string `json:"check" doc:"What was looked at: dns, reachability, tls, sasl, versions, rights, clock, disk, raft, ..."`
	Where string `json:"where" doc:"The cluster, broker, flow, node or file"`
	Level Level  `json:"level" enum:"ok,unknown,warning,error"`
	Found string `json:"found"`
	ToDo  string `json:"toDo,omitempty" doc:"What the operator can do about it"`
}

func found(check, where string, level Level, format string, args ...any) Finding {
	return Finding{Check: check, Where: where, Level: level, Found: fmt.Sprintf(format, args...)}
}

func (f Finding) todo(format string, args ...any) Finding {
	f.ToDo = fmt.Sprintf(format, args...)
	return f
}

// Report is all that one machine has found.
type Report struct {
	Node     string    `json:"node,omitempty" doc:"That looked; empty if it was the command itself"`
	Version  string    `json:"version,omitempty" doc:"Of the program that looked"`
	Time     time.Time `json:"time"`
	Seconds  float64   `json:"seconds" doc:"That it took"`
	Findings []Finding `json:"findings"`
}

// Worst is the worst level of a report.
func (r Report) Worst() Level {
	worst := OK
	for _, f := range r.Findings {
		if slices.Index(levels, f.Level) > slices.Index(levels, worst) {
			worst = f.Level
		}
	}
	return worst
}

// Sort puts the worst first, and keeps what belongs together in its order.
func (r *Report) Sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(levels, b.Level), slices.Index(levels, a.Level))
	})
}
