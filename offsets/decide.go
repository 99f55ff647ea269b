package offsets

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/waybillhq/waybill/flow"
)

// Mark is the commit metadata by which a flow knows its own commits again.
func Mark(flowName string) string { return "waybill:" + flowName }

// Commit is a committed position of a group in one partition.
type Commit struct {
	Offset   int64
	Metadata string
}

// ErrActive says that a group has members, so that nobody else may commit for it.
var ErrActive = errors.New("the group has members")

// Action is what becomes of one group in one partition.
type Action string

// The actions.
const (
	Write Action = "write" // commit the answer at the destination
	Keep  Action = "keep"  // it stands there already, or further on
	Wait  Action = "wait"  // not now: see Why
	Leave Action = "leave" // not ours to write: see Why
)

// Row is one group in one partition: where it stands, where that lies at the
// destination, and what becomes of it.
type Row struct {
	Group            string              `json:"group"`
	Source           flow.TopicPartition `json:"source"` // of no topic where no position of the group can be had
	Destination      flow.TopicPartition `json:"destination"`
	SourceOffset     int64               `json:"sourceOffset"`       // as committed, -1 if that cannot be had
	SourceLag        int64               `json:"sourceLag"`          // to the log end; -1 if not known
	SourceState      string              `json:"sourceState"`        // of the group
	DestinationState string              `json:"destinationState"`   // of the group, empty if there is none
	Present          int64               `json:"present"`            // committed at the destination, -1 if nothing
	Metadata         string              `json:"metadata,omitempty"` // of the source's commit
	Result           Result              `json:"result"`
	Because          string              `json:"because"` // why the result is what it is, in a sentence
	Action           Action              `json:"action"`
	Why              string              `json:"why,omitempty"` // of the action
	// Share says that it is a share group, and its positions are where it starts.
	Share bool `json:"share,omitempty"`
	// Moved says that the group has left the source: its position at the
	// destination is its own.
	Moved bool `json:"moved,omitempty"`
	// Written says that the answer was committed; of a move, that it was read back too.
	Written bool `json:"written"`
	// InOrder says that a share group's result is exact but for what it has acknowledged
	// out of order.
	InOrder bool `json:"-"`

	stands Commit // at the destination, where Present is not negative
	commit Commit // what Write commits there
	yields bool   // Write, but for another flow that sets the start
	alone  bool   // one copy alone leads there
	below  bool   // Keep, as the result is lower than what stands, and exact
	unread error  // why the group's positions cannot be had at one of the ends
}

// Name is what the row is about, for people.
func (r Row) Name() string {
	if r.Source.Topic == "" {
		return "group " + r.Group
	}
	return fmt.Sprintf("group %s, %s", r.Group, r.Source)
}

// Case is what [Decide] decides on.
type Case struct {
	Row    // filled up to Result
	Flow   string
	Stands *Commit // at the destination, nil if nothing
	End    *int64  // of the log there, nil if it is not known
	// Unfit is why the group can have no position at the destination; empty if it can.
	Unfit string
	// Adopted says that a flow's mark has taken the place of the metadata at the source.
	Adopted bool
	// Moved says that the group was found to have left the source before.
	Moved bool
	// Final is for the last application before a switch: only exact answers, of
	// positions that cannot go on, and a source that went back is followed.
	Final bool
	// Overwrite is an operator's word that what stands at the destination may
	// be replaced although the flow did not write it.
	Overwrite bool
	// Inexact is an operator's word that records may be read again, or skipped,
	// as the result says. Redeliver is only for what share groups have acknowledged out
	// of order.
	Inexact, Redeliver bool
	// Unmarked commits without the flow's mark, because the fleet remembers that the
	// group has moved; with the metadata of the source's commit, or with DropMetadata
	// with none.
	Unmarked, DropMetadata bool
	// Partners are the other flows that bring records to the same partition, and
	// reckon with this one's: what they have written is as good as our own.
	Partners []string
}

// ours says whether what stands at the destination is a flow's own writing.
func (c Case) ours() bool {
	if c.Stands == nil || c.Stands.Metadata == Mark(c.Flow) {
		return true
	}
	return slices.ContainsFunc(c.Partners, func(f string) bool { return c.Stands.Metadata == Mark(f) })
}

// first is the flow that is to set the start of a share group to which several lead: who
// has set it last, or if nobody has, the first of them by name.
func (c Case) first() string {
	switch {
	case !c.Share || c.Final:
		return c.Flow
	case c.Stands != nil && c.ours():
		return strings.TrimPrefix(c.Stands.Metadata, Mark(""))
	case c.Stands == nil:
		return slices.Min(append([]string{c.Flow}, c.Partners...))
	}
	return c.Flow
}

// beyond says whether what a flow has written lies behind the end of a log that was cut back
// since: whoever begins there begins where its own settings say.
func (c Case) beyond() bool {
	return !c.Final && !c.Overwrite && c.Stands != nil && c.End != nil && c.Stands.Offset > *c.End
}

// idle says whether a group in this state has no members. A group that is not
// listed at all has none.
func idle(state string) bool { return state == "" || state == "Empty" || state == "Dead" }

// writtenByFlow says whether a flow wrote a position, and not its group.
func writtenByFlow(c Commit) bool { return strings.HasPrefix(c.Metadata, Mark("")) }

// Decide says what becomes of one group in one partition.
func Decide(c Case) Row {
	row := c.Row
	row.Present = -1
	if c.Stands != nil {
		row.Present, row.stands = c.Stands.Offset, *c.Stands
	}
	row.commit = Commit{row.Result.Offset, Mark(c.Flow)}
	if c.Unmarked {
		row.commit.Metadata = c.carried()
	}
	row.Moved = !c.Overwrite && (c.Moved || c.Stands != nil && !writtenByFlow(*c.Stands))
	row.Because = row.Result.explain(row.SourceOffset)
	row.Action, row.Why = decide(c, row)
	if row.Action == Write && c.beyond() && row.Result.Offset < 0 {
		row.commit.Offset = *c.End
	}
	row.below = row.Action == Keep && row.Present > row.Result.Offset && row.Result.Exact && row.alone
	if first := c.first(); row.Action == Write && first != c.Flow {
		row.Action, row.Why, row.yields = Keep, fmt.Sprintf("flow %s sets where the share group starts", first), true
	}
	return row
}

// carried is the metadata that an unmarked commit has.
func (c Case) carried() string {
	switch {
	case c.DropMetadata:
		return ""
	case c.Adopted && c.Stands != nil && c.Stands.Offset == c.Result.Offset && !writtenByFlow(*c.Stands):
		// It was brought there before. A mark has taken its place where it comes from.
		return c.Stands.Metadata
	}
	return c.Metadata
}

func decide(c Case, row Row) (Action, string) {
	ours := c.ours()
	r := row.Result
	switch {
	case c.Unfit != "":
		return Leave, c.Unfit
	case c.Overwrite:
	case c.Moved:
		return Leave, "the group has moved to the destination"
	case !ours && writtenByFlow(*c.Stands):
		return Leave, fmt.Sprintf("flow %s writes the group's position", strings.TrimPrefix(c.Stands.Metadata, Mark("")))
	case !ours:
		return Leave, fmt.Sprintf("the group has moved: it committed offset %d at the destination itself", row.Present)
	}
	switch {
	case !idle(row.DestinationState):
		return Wait, "the group is active at the destination: " + row.DestinationState
	case r.Offset < 0 && r.Why == NoCopy:
		return Leave, r.Note
	case c.beyond():
		return Write, fmt.Sprintf("offset %d stands there, and the log was cut back to %d", row.Present, *c.End)
	case r.Offset < 0:
		return Wait, because(r)
	case c.Final && !r.Exact && !c.Inexact && !(c.Redeliver && row.InOrder):
		return Wait, "not exact: " + because(r)
	case c.Final && !idle(row.SourceState) && row.SourceLag != 0:
		return Wait, fmt.Sprintf("the group is active at the source and has %d records to read", row.SourceLag)
	case row.stands == row.commit && c.Stands != nil, row.Present == r.Offset && ours && !c.Final:
		return Keep, ""
	case row.Present > r.Offset && !c.Final:
		return Keep, fmt.Sprintf("offset %d is below %d, which stands: the source group went back, or the destination has records again that it had lost; 'groups move' follows it", r.Offset, row.Present)
	case !r.Exact:
		return Write, "not exact: " + because(r)
	}
	return Write, ""
}

// unfit is why a group can have no position at the destination, as far as can be seen. It
// is empty if the group can.
func unfit(g Group, v view) string {
	if err := v.unreadThere[g.Name]; err != nil {
		return "at the destination: " + err.Error()
	}
	if g.Share && v.noShares != "" {
		return v.noShares
	}
	switch other, ok := v.there[g.Name]; {
	case ok && other.Share && !g.Share:
		return "the destination has a share group of that name"
	case ok && g.Share && !other.Share:
		return "the destination has a group of that name that is no share group"
	}
	return ""
}

// again reckons with how many offsets from a position on a share group has dealt with, out of
// order: no request tells which. Markers of transactions are among them; what are records
// is delivered again.
func (r Result) again(acked int64, known bool) Result {
	var note string
	switch {
	case r.Offset < 0 || known && acked <= 0:
		return r
	case !known:
		note = "what the share group has acknowledged from there on, out of order, is delivered again; how much that is the source does not tell now"
	default:
		r.Reread += acked
		note = fmt.Sprintf("the share group has acknowledged up to %d records from there on, out of order: they are delivered again", acked)
	}
	if r.Note != "" {
		note = r.Note + "; " + note
	}
	r.Note = note
	r.Exact = false
	return r
}

// because says a result's case in a few words.
func because(r Result) string {
	if r.Note == "" {
		return string(r.Why)
	}
	return string(r.Why) + ": " + r.Note
}
