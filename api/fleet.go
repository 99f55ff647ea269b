package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// Fleet changes what the nodes of the fleet may do. How they are is part of the
// [Status].
type Fleet interface {
	// Drain says whether a node is to own nothing. It returns at once; its work
	// moves as it is released. The last node that may be given work is refused
	// unless force is set: its copies would stop.
	Drain(ctx context.Context, node string, draining, force bool, by Person) error
}

func registerFleet(h huma.API, f Fleet) {
	drain := func(draining bool) func(context.Context, *drainInput) (*struct{}, error) {
		return func(ctx context.Context, in *drainInput) (*struct{}, error) {
			return nil, f.Drain(ctx, in.Node, draining, in.Force, Person{CallerOf(ctx).Name, in.Reason})
		}
	}
	register(h, adminOperation(http.MethodPost, "/api/v1/fleet/nodes/{node}/drain", "drain-node", "Move all work of a node to others, for maintenance", http.StatusNotFound, http.StatusConflict), drain(true))
	register(h, adminOperation(http.MethodPost, "/api/v1/fleet/nodes/{node}/undrain", "undrain-node", "Let a drained node be given work again", http.StatusNotFound, http.StatusConflict), drain(false))
}

type drainInput struct {
	Node   string `path:"node"`
	Force  bool   `query:"force" doc:"Drain the last node too, though nobody can take its work"`
	Reason string `query:"reason" doc:"Stands in the audit trail"`
}
