package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// LineageFolds puts the oldest part of a ledger together.
type LineageFolds interface {
	// Fold needs Alter on the cluster. It takes as long as reading the whole ledger
	// twice, and stops with ctx; done again, it begins anew or goes on.
	Fold(ctx context.Context, caller Caller, cluster string, req FoldRequest) (*FoldReport, error)
}

// FoldRequest is how to fold a ledger.
type FoldRequest struct {
	// Before, if not zero: only what older folds stand for may go.
	Before time.Time
	Delete bool
	DryRun bool
}

// FoldReport is what a fold has done, or would do.
type FoldReport struct {
	Cluster    string            `json:"cluster"`
	TopicID    string            `json:"topicId"`
	DryRun     bool              `json:"dryRun,omitempty" doc:"Nothing was written"`
	Partitions []FoldedPartition `json:"partitions"`
}

// FoldedPartition is a partition of a ledger.
type FoldedPartition struct {
	Partition int32 `json:"partition"`
	Start     int64 `json:"start" doc:"First offset that is there"`
	Below     int64 `json:"below" doc:"Up to where a fold that is proved stands for what is there; start: nothing may go"`
	Pages     int   `json:"pages" doc:"Between the two"`
	Bytes     int64 `json:"bytes" doc:"Of those pages"`
	FoldPages int   `json:"foldPages" doc:"Of the fold; if nothing may go, of one that is kept for later"`
	FoldBytes int64 `json:"foldBytes" doc:"Of those pages"`
	Wrote     bool  `json:"wrote" doc:"A fold was written, or would be; else there was one, or nothing to fold"`
	Deleted   bool  `json:"deleted" doc:"What lies below is gone"`
}

func registerFolds(h huma.API, l LineageFolds) {
	register(h, adminOperation(http.MethodPost, "/api/v1/lineage/fold/{cluster}", "fold-ledger", "Put the oldest part of a ledger together, prove that nothing is lost with it, and delete it if asked to", http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *struct {
			Cluster string    `path:"cluster" doc:"Name of a declared cluster"`
			Before  time.Time `query:"before" doc:"RFC 3339; only what a fold stands for that was there by then may go. Without it: all that there is now"`
			Delete  bool      `query:"delete" doc:"Delete what may go"`
			DryRun  bool      `query:"dryRun" doc:"Read and prove, and say what would be done; write nothing"`
			Reason  string    `query:"reason" doc:"Is remembered"`
		},
		) (*foldOutput, error) {
			r, err := l.Fold(ctx, CallerOf(ctx), in.Cluster, FoldRequest{Before: in.Before, Delete: in.Delete, DryRun: in.DryRun})
			if err != nil {
				return nil, err
			}
			return &foldOutput{Body: r}, nil
		})
}

type foldOutput struct{ Body *FoldReport }
