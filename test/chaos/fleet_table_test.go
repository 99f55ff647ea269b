//go:build chaos && linux

package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// chosenFaults are those that the flag -only names, or all.
func chosenFaults(t *testing.T) []fleetFault {
	t.Helper()
	if *onlyFlag == "" {
		return fleetFaults
	}
	var chosen []fleetFault
	for name := range strings.SplitSeq(*onlyFlag, ",") {
		i := slices.IndexFunc(fleetFaults, func(f fleetFault) bool { return f.name == name })
		if i < 0 {
			t.Fatalf("there is no fault %q", name)
		}
		chosen = append(chosen, fleetFaults[i])
	}
	return chosen
}

// fleetRow is what has come of one fault.
type fleetRow struct {
	injected, skipped, survived int
	pause, bound                time.Duration // of any copy, where it was longest against its bound
}

// note takes one injection after which all copies went on.
func (r *fleetRow) note(pause, bound time.Duration) {
	if survived(pause, bound) {
		r.survived++
	}
	if r.bound == 0 || pause-bound > r.pause-r.bound {
		r.pause, r.bound = pause, bound
	}
}

// wrong is why a run has not shown that the fleet survives the fault: one that was never
// done is none that was survived.
func (r *fleetRow) wrong() string {
	switch {
	case r == nil || r.injected == 0:
		return "was never done"
	case r.survived < r.injected:
		return fmt.Sprintf("was done %d times and survived %d times; the longest pause was %s, the bound is %s", r.injected, r.survived, r.pause, r.bound)
	}
	return ""
}

// judge fails the run for faults that were not done or not survived.
func (c *fleetRun) judge(faults []fleetFault) {
	c.t.Helper()
	for _, f := range faults {
		if wrong := c.rows[f.name].wrong(); wrong != "" {
			c.t.Errorf("%s: %s", f.name, wrong)
		}
	}
}

// table prints what was done and what came of it.
func (c *fleetRun) table(faults []fleetFault) {
	var out strings.Builder
	fmt.Fprintf(&out, "%-42s %8s %7s %8s %10s %8s\n", "fault", "injected", "skipped", "survived", "longest", "bound")
	var all fleetRow
	for _, f := range faults {
		row := c.rows[f.name]
		if row == nil {
			continue // the run was cut short before it
		}
		all.injected, all.skipped, all.survived = all.injected+row.injected, all.skipped+row.skipped, all.survived+row.survived
		came := against(row.pause, row.bound)
		if row.wrong() != "" {
			came = "NOT SHOWN"
		}
		fmt.Fprintf(&out, "%-42s %8d %7d %8d %8.1f s %6.1f s  %s\n", f.name, row.injected, row.skipped, row.survived, row.pause.Seconds(), row.bound.Seconds(), came)
	}
	fmt.Fprintf(&out, "%-42s %8d %7d %8d\n", "all", all.injected, all.skipped, all.survived)
	if len(c.takeovers) > 0 {
		slices.Sort(c.takeovers)
		worst, bound := c.takeovers[len(c.takeovers)-1], takeover.bound(0)
		fmt.Fprintf(&out, "from kill -9 of its owner until a copy goes on, of %d copies: half within %.1f s, worst %.1f s, bound %.1f s: %s\n",
			len(c.takeovers), c.takeovers[len(c.takeovers)/2].Seconds(), worst.Seconds(), bound.Seconds(), against(worst, bound))
	}
	for _, what := range sortedTopics(c.notes) {
		fmt.Fprintf(&out, "%-42s %8d\n", what, c.notes[what])
	}
	fmt.Println(out.String())
}
