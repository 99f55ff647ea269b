package offsets

import (
	"cmp"
	"slices"
)

// GroupPlan is what a group would meet if it moved to the destination now.
type GroupPlan struct {
	Group            string `json:"group"`
	Share            bool   `json:"share,omitempty"` // it is a share group
	SourceState      string `json:"sourceState"`
	DestinationState string `json:"destinationState"`
	Partitions       int    `json:"partitions"`
	Exact            int    `json:"exact"`   // partitions whose position has an exact image
	Reread           int64  `json:"reread"`  // records that it would read again
	Skipped          int64  `json:"skipped"` // offsets that have no copy and would be passed over
	Pending          int    `json:"pending"` // partitions where the copy has not come so far
	Verdict          string `json:"verdict"` // one of the constants below
	// Otherwise counts partitions that are not exact for another reason than what a share
	// group has acknowledged out of order.
	Otherwise int `json:"-"`
	// Why lists the reasons against "ready", each once.
	Why []string `json:"why,omitempty"`
}

// The verdicts on a group, from best to worst.
const (
	HasMoved = "moved"     // is at the destination already, by its own commits
	Ready    = "ready"     // reads nothing again and skips nothing
	Pending  = "pending"   // will be, once the copy has caught up or the group is idle
	NotExact = "not-exact" // can move, with the counted effect
	Blocked  = "blocked"   // is not copied, or its position is unknown
)

// PlanGroups sums up rows by group, in the order of their names.
func PlanGroups(rows []Row) []GroupPlan {
	byName := map[string]*GroupPlan{}
	for _, row := range rows {
		p := byName[row.Group]
		if p == nil {
			p = &GroupPlan{Group: row.Group, Share: row.Share, SourceState: row.SourceState, DestinationState: row.DestinationState, Verdict: HasMoved}
			byName[row.Group] = p
		}
		p.add(row)
	}
	plans := make([]GroupPlan, 0, len(byName))
	for _, p := range byName {
		plans = append(plans, *p)
	}
	slices.SortStableFunc(plans, func(a, b GroupPlan) int { return cmp.Compare(a.Group, b.Group) })
	return plans
}

func (p *GroupPlan) add(row Row) {
	if row.Source.Topic != "" {
		p.Partitions++
	}
	p.Reread += row.Result.Reread
	p.Skipped += row.Result.Skipped
	if row.Result.Exact {
		p.Exact++
	}
	verdict := Ready
	switch {
	case row.Moved:
		verdict = HasMoved
	case row.Action == Leave, row.Result.Offset < 0 && row.Result.Why != Ahead && row.Result.Why != NothingCopied:
		verdict = Blocked
	case row.Result.Offset < 0:
		p.Pending++
		verdict = Pending
	case !row.Result.Exact:
		verdict = NotExact
		if !row.InOrder {
			p.Otherwise++
		}
	case row.Action == Wait:
		verdict = Pending
	}
	if rank(verdict) > rank(p.Verdict) {
		p.Verdict = verdict
	}
	if verdict == Ready || verdict == HasMoved {
		return
	}
	why := cmp.Or(row.Why, because(row.Result))
	if row.Source.Topic != "" {
		why = row.Source.String() + ": " + why
	}
	if !slices.Contains(p.Why, why) {
		p.Why = append(p.Why, why)
	}
}

func rank(verdict string) int {
	return slices.Index([]string{HasMoved, Ready, Pending, NotExact, Blocked}, verdict)
}
