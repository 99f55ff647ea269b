package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// Ledgers are the ledgers of the declared clusters. How they are doing is part
// of the [Status].
type Ledgers interface {
	// Waive says that a person has looked at the damage of a ledger partition, the
	// last of which is at offset, and takes it on himself.
	Waive(ctx context.Context, cluster string, partition int32, offset int64, by Person) error
}

func registerLedgers(h huma.API, l Ledgers) {
	register(h, adminOperation(http.MethodPost, "/api/v1/ledgers/{cluster}/{partition}/{offset}/waive", "waive-damage", "Say that what may be lost of a ledger partition does not matter", http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *struct {
			Cluster   string `path:"cluster"`
			Partition int32  `path:"partition" minimum:"0" maximum:"2147483647"`
			Offset    int64  `path:"offset" minimum:"0" doc:"Of the doubt, as the status has it: later damage is not meant"`
			Reason    string `query:"reason" doc:"Is remembered"`
		},
		) (*struct{}, error) {
			return nil, l.Waive(ctx, in.Cluster, in.Partition, in.Offset, Person{CallerOf(ctx).Name, in.Reason})
		})
}
