package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/waybillhq/waybill/lineage"
)

// LineageGraph answers about more than one event at a time.
type LineageGraph interface {
	// Copies lists where copies of a range of offsets lie.
	Copies(ctx context.Context, caller Caller, q lineage.RangeQuery) (*lineage.RangePage, error)
	// Affected says what is downstream of a cluster, a topic or offsets of a partition.
	Affected(ctx context.Context, caller Caller, q lineage.AffectedQuery) (*lineage.Affected, error)
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
	registerAffected(h, l)
}

// registerAffected has a path for each of what may be asked about.
func registerAffected(h huma.API, l LineageGraph) {
	denied := []int{http.StatusForbidden, http.StatusNotFound}
	answer := func(ctx context.Context, q lineage.AffectedQuery) (*affectedOutput, error) {
		a, err := l.Affected(ctx, CallerOf(ctx), q)
		if err != nil {
			return nil, err
		}
		return &affectedOutput{Body: a}, nil
	}
	const path = "/api/v1/lineage/affected/{cluster}"
	register(h, accountedOperation(http.MethodGet, path, "affected-by-cluster", "What is downstream of a cluster: copies, readers, flows, runbooks", denied...),
		func(ctx context.Context, in *struct {
			Cluster string `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
		},
		) (*affectedOutput, error) {
			return answer(ctx, lineage.AffectedQuery{Cluster: in.Cluster, Partition: -1, Last: -1})
		})
	register(h, accountedOperation(http.MethodGet, path+"/{topic}", "affected-by-topic", "What is downstream of a topic: copies, readers, flows, runbooks", denied...),
		func(ctx context.Context, in *TopicPath) (*affectedOutput, error) {
			return answer(ctx, lineage.AffectedQuery{Cluster: in.Cluster, Topic: in.Topic, TopicID: in.TopicID, Partition: -1, Last: -1})
		})
	register(h, accountedOperation(http.MethodGet, path+"/{topic}/{partition}", "affected-by-offsets", "What is downstream of a partition or a range of its offsets: copies, readers, flows, runbooks", denied...),
		func(ctx context.Context, in *struct {
			TopicPath
			RangeQuery
			Partition int32 `path:"partition" minimum:"0" maximum:"2147483647"`
		},
		) (*affectedOutput, error) {
			return answer(ctx, lineage.AffectedQuery{Cluster: in.Cluster, Topic: in.Topic, TopicID: in.TopicID, Partition: in.Partition, From: in.From, Last: in.To})
		})
}

// PaceQuery says over how long rates are, and of what.
type PaceQuery struct {
	WindowSeconds int  `query:"windowSeconds" minimum:"1" maximum:"3600" default:"60" doc:"Over which rates are"`
	Partitions    bool `query:"partitions" doc:"Rates and lag of each partition, too"`
}

func (q *PaceQuery) pace() lineage.PaceQuery {
	return lineage.PaceQuery{Window: time.Duration(q.WindowSeconds) * time.Second, Partitions: q.Partitions}
}

type affectedOutput struct{ Body *lineage.Affected }

type rangeOutput struct{ Body *lineage.RangePage }
