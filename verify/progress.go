package verify

import (
	"fmt"
	"time"
)

// Progress is how far the comparison of one copy has come. Source offsets from From
// to Next were compared:
//
//	From <= Next <= Until
type Progress struct {
	Run              string `json:"run"`  // the verification that this is of
	Copy             string `json:"copy"` // its key: another life of a topic is another copy
	SourceTopic      string `json:"sourceTopic"`
	DestinationTopic string `json:"destinationTopic"`
	Partition        int32  `json:"partition"`
	From             int64  `json:"from" doc:"Source offset at which the comparison began"`
	Next             int64  `json:"next" doc:"Source offset up to which both sides were compared"`
	Until            int64  `json:"until" doc:"Up to which the copy had come when the comparison began"`
	Destination      int64  `json:"destination" doc:"Destination offset up to which it was compared; -1 if none was"`
	Done             bool   `json:"done"`
	Problem          string `json:"problem,omitempty" doc:"Why not all of it was compared"`
	Doubt            string `json:"doubt,omitempty" doc:"Why the ledger may not know all of the copy"`
	Tally
}

// Bounds of what a verification keeps in words.
const (
	keepOfCopy = 10
	keepOfRun  = 200
)

// Begin is the progress of a copy that is to be compared from a source offset on;
// the ledger says up to where.
func Begin(run string, c Copy, from int64, entries Entries) Progress {
	p := Progress{
		Run: run, Copy: c.ID.Key().String(), SourceTopic: c.SourceTopic, DestinationTopic: c.DestinationTopic,
		Partition: c.ID.Source.Partition, Destination: -1,
	}
	start, next, doubt, ok := entries.Extent(c.ID.Key())
	if ok {
		p.From, p.Until, p.Doubt = max(start, min(from, next)), next, doubt
	}
	p.Next = p.From
	p.Done = p.Next >= p.Until
	return p
}

// Continue is the progress of a copy that is to be compared from where an earlier
// comparison of it ended. What the destination has between the two belongs to this
// one, unless the ledger has forgotten or taken back where the earlier one ended.
func Continue(run string, c Copy, earlier Progress, entries Entries) Progress {
	p := Begin(run, c, earlier.Next, entries)
	if p.From == earlier.Next {
		p.Destination = earlier.Destination
	}
	return p
}

// State is how a verification stands.
type State string

// The states of a verification.
const (
	Running State = "running"
	Done    State = "done"
	Stopped State = "stopped" // by a person
)

// Verdict is what a verification has found.
type Verdict string

// The verdicts.
const (
	// Open: it is still running, and nothing was found yet.
	Open Verdict = "open"
	// Equal: all that was copied is equal on both sides.
	Equal Verdict = "equal"
	// EqualWhereComparable: what both sides still have is equal; there is more that
	// one of them does not have any more.
	EqualWhereComparable Verdict = "equal-where-comparable"
	// Differs: there are differences.
	Differs Verdict = "different"
	// Incomplete: no difference was found, but not all was compared that should be.
	Incomplete Verdict = "incomplete"
)

// Request is what to compare, and how.
type Request struct {
	Topics         []string `json:"topics,omitempty" doc:"Patterns of source topics; all of the flow's if empty"`
	From           string   `json:"from,omitempty" doc:"start (all that was copied; the default), verified (from where the last verification of each partition ended), or a time (RFC 3339) of the source's records"`
	BytesPerSecond int64    `json:"bytesPerSecond,omitempty" minimum:"0" doc:"Read at most so much from both sides together; 0: no limit"`
}

// Report is a verification of a flow as it stands.
type Report struct {
	ID         string    `json:"id"`
	Flow       string    `json:"flow"`
	State      State     `json:"state" enum:"running,done,stopped"`
	Verdict    Verdict   `json:"verdict" enum:"open,equal,equal-where-comparable,different,incomplete"`
	By         string    `json:"by" doc:"Who asked for it; empty if the flow's declaration does"`
	Request    Request   `json:"request"`
	Started    time.Time `json:"started"`
	Ended      time.Time `json:"ended,omitzero"`
	Problem    string    `json:"problem,omitempty" doc:"What keeps it from going on, now"`
	Copies     int       `json:"copies" doc:"Partitions to compare"`
	CopiesDone int       `json:"copiesDone"`
	Incomplete int       `json:"incomplete" doc:"Partitions of which not all could be compared"`
	Offsets    int64     `json:"offsets" doc:"Source offsets to account for"`
	Compared   int64     `json:"compared" doc:"Those that are accounted for"`
	ETASeconds float64   `json:"etaSeconds" doc:"Until it ends; -1 if not known"`
	ETABasis   string    `json:"etaBasis,omitempty"`
	Tally
	Partitions []Progress `json:"partitions,omitempty"`
	// Previous is the verification before this one, without its partitions.
	Previous *Report `json:"previous,omitempty"`
}

// Sum fills in what follows from the progress of the copies.
func (r *Report) Sum(all []Progress, now time.Time) {
	for i := range all {
		p := &all[i]
		r.Copies++
		r.Offsets += p.Until - p.From
		r.Compared += p.Next - p.From
		if p.Done {
			r.CopiesDone++
		}
		if p.Problem != "" || p.Doubt != "" {
			r.Incomplete++
		}
		r.add(&p.Tally, keepOfRun)
	}
	r.Verdict = r.verdict()
	r.ETASeconds = -1
	elapsed := now.Sub(r.Started).Seconds()
	switch left := r.Offsets - r.Compared; {
	case r.State != Running:
		r.ETASeconds = 0
	case r.Compared > 0 && elapsed > 0:
		perSecond := float64(r.Compared) / elapsed
		r.ETASeconds = float64(left) / perSecond
		r.ETABasis = fmt.Sprintf("%d offsets are left, %.0f a second were compared since it began", left, perSecond)
	}
}

func (r *Report) verdict() Verdict {
	switch {
	case r.Different > 0:
		return Differs
	case r.State == Running:
		return Open
	case r.Incomplete > 0 || r.CopiesDone < r.Copies:
		return Incomplete
	case len(r.NotComparable) > 0 || r.GapsUnchecked > 0:
		return EqualWhereComparable
	}
	return Equal
}
