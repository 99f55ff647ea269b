package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/waybillhq/waybill/lineage"
)

// LineageGraph answers about more than one event at a time.
type LineageGraph interface {
	// Copies lists where copies of a range of offsets lie.
	Copies(ctx context.Context, caller Caller, q lineage.RangeQuery) (*lineage.RangePage, error)
}

// RangeQuery picks offsets of a partition.
type RangeQuery struct {
	From int64 `query:"from" minimum:"0" doc:"First offset"`
	To   int64 `query:"to" minimum:"-1" default:"-1" doc:"Last offset; -1 is the end"`
}

func registerLineageGraph(h huma.API, l LineageGraph) {
	denied := []int{http.StatusForbidden, http.StatusNotFound}
	register(h, accountedOperation(http.MethodGet, "/api/v1/lineage/copies/{cluster}/{topic}/{partition}", "range-lineage", "Where copies of a range of offsets lie, up and down stream", denied...),
		func(ctx context.Context, in *struct {
			TopicPath
			RangeQuery
			PageQuery
			Partition int32             `path:"partition" minimum:"0" maximum:"2147483647"`
			Direction lineage.Direction `query:"direction" enum:"both,up,down" default:"both" doc:"both: to ancestors, and from each of them to all descendants"`
			Exact     bool              `query:"exact" doc:"A row for each run and each gap, where one copy's would be one"`
		},
		) (*rangeOutput, error) {
			at := in.address()
			at.Partition, at.Offset = in.Partition, in.From
			page, err := l.Copies(ctx, CallerOf(ctx), lineage.RangeQuery{At: at, Last: in.To, Way: in.Direction, Exact: in.Exact, Limit: in.Limit, Cursor: in.Cursor})
			if err != nil {
				return nil, err
			}
			return &rangeOutput{Body: page}, nil
		})
}

type rangeOutput struct{ Body *lineage.RangePage }
