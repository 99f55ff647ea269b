package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/waybillhq/waybill/offsets"
)

// Groups answers where consumer groups, and positions in general, lie on the
// other side of a flow. Errors of the clusters come back as they are.
type Groups interface {
	// Rows looks at each of the groups of a flow that a page has, in each partition, now.
	// Next is the cursor of the page behind, empty if there is none.
	Rows(ctx context.Context, flow string, page GroupPage) (rows []offsets.Row, next string, err error)
	// Move commits the positions of groups on the other side and has the fleet
	// remember which side they are on; all of those that are named, or none.
	Move(ctx context.Context, flow string, req GroupMove, by Person) ([]offsets.Row, error)
	// Translate answers for positions, in their order, each in the cluster named to
	// or in all.
	Translate(ctx context.Context, caller Caller, from []offsets.Where, to string) ([]Translations, error)
}

// GroupPage is which groups of a flow are looked at: those of a name, or all if none is given,
// in the order of their names.
type GroupPage struct {
	Names  []string
	Limit  int    // of groups; 0 is all
	Cursor string // next of the page before
}

// GroupMove is which groups change sides, and on what terms.
type GroupMove struct {
	// Return brings groups home that have moved to the destination.
	Return bool
	// Groups by name; none are all that can change sides, if a request says so.
	Groups       []string
	Inexact      bool
	DropMetadata bool
	// DryRun writes nothing.
	DryRun bool
}

// GroupRows is where the groups of a flow stand.
type GroupRows struct {
	Flow   string              `json:"flow"`
	Groups []offsets.GroupPlan `json:"groups" doc:"What each would meet if it moved now"`
	Rows   []offsets.Row       `json:"rows" doc:"By group, topic and partition"`
	Next   string              `json:"next,omitempty" doc:"Cursor of the next page; absent: there are no more groups"`
}

// mostGroups is how many groups a page has at most.
const mostGroups = 1000

// groupsInput is which groups are listed.
type groupsInput struct {
	FlowPath
	Groups []string `query:"group,explode" maxItems:"1000" doc:"Names; all if there are none. One that the flow does not follow is not found"`
	Limit  int      `query:"limit" minimum:"1" maximum:"1000" default:"1000" doc:"Groups in a page"`
	Cursor string   `query:"cursor" doc:"next of the page before"`
}

func groupRows(flow string, rows []offsets.Row, err error) (*groupsOutput, error) {
	if err != nil {
		return nil, err
	}
	if rows == nil {
		rows = []offsets.Row{}
	}
	return &groupsOutput{Body: GroupRows{Flow: flow, Groups: offsets.PlanGroups(rows), Rows: rows}}, nil
}

// moveInput is how groups are moved.
type moveInput struct {
	FlowPath
	Groups       []string `query:"group,explode" maxItems:"1000" doc:"Names; one that neither the source nor the flow knows is not found"`
	All          bool     `query:"all" doc:"All that have not changed sides, instead of names"`
	Inexact      bool     `query:"inexact" doc:"Also groups that read records again, or skip some, as the plan says"`
	DropMetadata bool     `query:"dropMetadata" doc:"Leave out the metadata of the groups' own commits"`
	DryRun       bool     `query:"dryRun" doc:"Say what would happen"`
	Reason       string   `query:"reason" doc:"Is remembered"`
}

// checkAll refuses a move that does not say which groups it is about: that it names none may
// well be a slip.
func (in *moveInput) checkAll() error {
	switch {
	case !in.All && len(in.Groups) == 0:
		return Errorf(http.StatusUnprocessableEntity, "no group is named").WithHint("name the groups (?group=NAME, once for each), or say ?all=true")
	case in.All && len(in.Groups) > 0:
		return Errorf(http.StatusUnprocessableEntity, "groups are named, and all of them are asked for").WithHint("leave out either 'group' or 'all'")
	}
	return nil
}

func registerGroups(h huma.API, g Groups) {
	register(h, operation(http.MethodGet, "/api/v1/flows/{flow}/groups", "list-groups", "Where a flow's consumer groups stand on both sides, and why", http.StatusNotFound),
		func(ctx context.Context, in *groupsInput) (*groupsOutput, error) {
			page := GroupPage{Names: in.Groups, Limit: min(max(in.Limit, 1), mostGroups), Cursor: in.Cursor}
			rows, next, err := g.Rows(ctx, in.Flow, page)
			out, err := groupRows(in.Flow, rows, err)
			if err == nil {
				out.Body.Next = next
			}
			return out, err
		})
	for _, back := range []bool{false, true} {
		path, id, summary := "/api/v1/flows/{flow}/groups/move", "move-groups", "Commit where groups go on at the destination, all or none, and remember that they have moved"
		if back {
			path, id, summary = "/api/v1/flows/{flow}/groups/return", "return-groups", "Commit where groups that have moved go on at the source, all or none, and follow them again"
		}
		register(h, adminOperation(http.MethodPost, path, id, summary, http.StatusNotFound, http.StatusConflict),
			func(ctx context.Context, in *moveInput) (*groupsOutput, error) {
				if err := in.checkAll(); err != nil {
					return nil, err
				}
				req := GroupMove{Return: back, Groups: in.Groups, Inexact: in.Inexact, DropMetadata: in.DropMetadata, DryRun: in.DryRun}
				rows, err := g.Move(ctx, in.Flow, req, Person{CallerOf(ctx).Name, in.Reason})
				return groupRows(in.Flow, rows, err)
			})
	}
	registerPositions(h, g)
}

type groupsOutput struct{ Body GroupRows }
