package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/waybillhq/waybill/verify"
)

// Verifications compares both sides of flows. A flow has one verification at a time;
// the last one stays until another begins.
type Verifications interface {
	Verification(ctx context.Context, flow string) (*verify.Report, error)
	// StartVerification takes the place of one that the flow's declaration has
	// begun; while a person's runs it is refused.
	StartVerification(ctx context.Context, flow string, req verify.Request, by string) (*verify.Report, error)
	// StopVerification ends the one that runs, if any.
	StopVerification(ctx context.Context, flow string) (*verify.Report, error)
}

// FlowPath names a flow.
type FlowPath struct {
	Flow string `path:"flow"`
}

func registerVerifications(h huma.API, v Verifications) {
	const path = "/api/v1/flows/{flow}/verification"
	register(h, stateOperation(path, "get-verification", "The comparison of both sides of a flow that runs, or the last one", http.StatusNotFound),
		func(ctx context.Context, in *struct {
			FlowPath
			ReadQuery
			Partitions bool `query:"partitions" doc:"Say how far each partition is"`
		},
		) (*verificationOutput, error) {
			return verification(in.Partitions)(v.Verification(ctx, in.Flow))
		})
	register(h, adminOperation(http.MethodPost, path, "start-verification", "Compare both sides of a flow", http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *struct {
			FlowPath
			Topics         []string `query:"topic,explode" doc:"Patterns of source topics; all of the flow's if there are none"`
			From           string   `query:"from" default:"start" doc:"start: all that was copied; verified: from where the last verification of each partition ended; or a time (RFC 3339) of the source's records"`
			BytesPerSecond int64    `query:"bytesPerSecond" minimum:"0" doc:"Read at most so much from both sides together; 0: no limit"`
		},
		) (*verificationOutput, error) {
			req := verify.Request{Topics: in.Topics, From: in.From, BytesPerSecond: in.BytesPerSecond}
			return verification(false)(v.StartVerification(ctx, in.Flow, req, CallerOf(ctx).Name))
		})
	register(h, adminOperation(http.MethodDelete, path, "stop-verification", "Stop it; what was compared stays known", http.StatusNotFound),
		func(ctx context.Context, in *FlowPath) (*verificationOutput, error) {
			return verification(false)(v.StopVerification(ctx, in.Flow))
		})
}

type verificationOutput struct{ Body *verify.Report }

// verification is a report with its partitions, or without those that have nothing
// to say.
func verification(partitions bool) func(*verify.Report, error) (*verificationOutput, error) {
	return func(r *verify.Report, err error) (*verificationOutput, error) {
		if err != nil {
			return nil, err
		}
		if !partitions {
			var keep []verify.Progress
			for _, p := range r.Partitions {
				if p.Problem != "" || p.Doubt != "" {
					keep = append(keep, p)
				}
			}
			r.Partitions = keep
		}
		return &verificationOutput{Body: r}, nil
	}
}
