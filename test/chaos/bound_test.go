//go:build chaos && unix

package chaos

import "time"

// faultKind is how copies go on after a fault: others take them over, they are handed
// over, or nobody can copy while it lasts.
type faultKind string

const (
	takeover faultKind = "takeover"
	handover faultKind = "handover"
	outage   faultKind = "outage"
)

// bound is how long a copy may pause, as docs/fleet.md has it, for a fault that lasted
// so long: it is printed beside what was measured. How busy the machine is decides that
// too, so it is no verdict on the fleet. Only a pause of many times the bound is: that
// fault was not survived.
func (k faultKind) bound(lasted time.Duration) time.Duration {
	switch k {
	case takeover:
		return 5 * time.Second // missed after 2 to 3 s, fenced, the ledger read
	case handover:
		return time.Second
	default:
		return lasted + 10*time.Second // then an election, ledgers to be read, and takeovers
	}
}

// generous is how many bounds a copy may pause before its fault counts as not survived.
const generous = 10

// survived says that a copy has gone on in time.
func survived(pause, bound time.Duration) bool { return pause <= generous*bound }

// against is a word on a pause, held against its bound.
func against(pause, bound time.Duration) string {
	switch {
	case pause <= bound:
		return "within"
	case survived(pause, bound):
		return "beyond"
	}
	return "LOST"
}
