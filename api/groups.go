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
	// Rows looks at each group of a flow in each partition, now.
	Rows(ctx context.Context, flow string) ([]offsets.Row, error)
	// Translate answers for one position, in the cluster named to or in all.
	Translate(ctx context.Context, caller Caller, from offsets.Where, to string) ([]offsets.Translation, error)
}

// GroupRows is where the groups of a flow stand.
type GroupRows struct {
	Flow   string              `json:"flow"`
	Groups []offsets.GroupPlan `json:"groups" doc:"What each would meet if it moved now"`
	Rows   []offsets.Row       `json:"rows" doc:"By group, topic and partition"`
}

// Translations are the images of a position.
type Translations struct {
	From offsets.Where         `json:"from"`
	To   []offsets.Translation `json:"to"`
}

// PositionPath addresses a position, or the event that lies there.
type PositionPath struct {
	Cluster   string `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
	Topic     string `path:"topic"`
	Partition int32  `path:"partition" minimum:"0" maximum:"2147483647"`
	Offset    int64  `path:"offset" minimum:"0"`
}

func registerGroups(h huma.API, g Groups) {
	huma.Register(h, operation(http.MethodGet, "/api/v1/flows/{flow}/groups", "list-groups", "Where a flow's consumer groups stand on both sides, and why", http.StatusNotFound),
		func(ctx context.Context, in *struct {
			Flow string `path:"flow"`
		},
		) (*groupsOutput, error) {
			rows, err := g.Rows(ctx, in.Flow)
			if err != nil {
				return nil, err
			}
			if rows == nil {
				rows = []offsets.Row{}
			}
			return &groupsOutput{Body: GroupRows{Flow: in.Flow, Groups: offsets.PlanGroups(rows), Rows: rows}}, nil
		})
	huma.Register(h, operation(http.MethodGet, "/api/v1/offsets/{cluster}/{topic}/{partition}/{offset}", "translate-offset", "Where a position lies on the other side", http.StatusNotFound),
		func(ctx context.Context, in *struct {
			PositionPath
			To string `query:"to" doc:"Only in this cluster"`
		},
		) (*translationOutput, error) {
			from := offsets.Where{Cluster: in.Cluster, Topic: in.Topic, Partition: in.Partition, Offset: in.Offset}
			to, err := g.Translate(ctx, CallerOf(ctx), from, in.To)
			if err != nil {
				return nil, err
			}
			if to == nil {
				to = []offsets.Translation{}
			}
			return &translationOutput{Body: Translations{From: from, To: to}}, nil
		})
}

type groupsOutput struct{ Body GroupRows }

type translationOutput struct{ Body Translations }
