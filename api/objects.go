package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Objects are the declared clusters, flows and runbooks of the fleet.
type Objects interface {
	// List returns the objects of a kind, or all if kind is empty.
	List(ctx context.Context, kind string) (ObjectList, error)
	// Apply declares every object of a YAML stream, in one step: all or none.
	// With dryRun it only says what would change. If revision is not nil the fleet
	// must still be at it.
	Apply(ctx context.Context, yaml []byte, dryRun bool, revision *uint64) (Applied, error)
	// Delete removes an object.
	Delete(ctx context.Context, kind, name string) error
}

// ObjectList is a consistent reading of objects.
type ObjectList struct {
	Revision uint64   `json:"revision" doc:"Of the whole list; grows with each change"`
	Objects  []Object `json:"objects"`
}

// Object is a declared object.
type Object struct {
	Kind     string          `json:"kind"`
	Name     string          `json:"name"`
	Revision uint64          `json:"revision" doc:"Of the list when the object last changed"`
	Object   json.RawMessage `json:"object" doc:"As declared, defaults filled in"`
}

// Applied is what an apply did, or would do.
type Applied struct {
	Revision uint64   `json:"revision"`
	DryRun   bool     `json:"dryRun,omitempty"`
	Changes  []Change `json:"changes"`
	Notes    []string `json:"notes,omitempty" doc:"Of a dry run: what a flow would pick, and which topics would go in a circle"`
	Warnings []string `json:"warnings,omitempty" doc:"Of a dry run: what stands in a flow's way now"`
}

// Change is what happens to one object.
type Change struct {
	Kind   string   `json:"kind"`
	Name   string   `json:"name"`
	Action string   `json:"action" enum:"create,update,unchanged"`
	Diff   []string `json:"diff,omitempty" doc:"Lines that begin with +, - or ~"`
}

type objectPath struct {
	Kind string `path:"kind" enum:"Cluster,ReplicationFlow,Runbook"`
	Name string `path:"name"`
}

type applyInput struct {
	DryRun  bool   `query:"dryRun" doc:"Only say what would change"`
	IfMatch string `header:"If-Match" doc:"Apply only at this revision"`
	RawBody []byte `contentType:"application/yaml"`
}

// revision is the one that the caller wants to change, nil for any.
func (in *applyInput) revision() (*uint64, error) {
	if in.IfMatch == "" || in.IfMatch == "*" {
		return nil, nil
	}
	revision, err := strconv.ParseUint(strings.Trim(in.IfMatch, `"`), 10, 64)
	if err != nil {
		return nil, Errorf(http.StatusPreconditionFailed, "If-Match %s is not one revision", in.IfMatch).
			WithHint(`write a number, such as the ETag of GET /api/v1/objects: If-Match: "7"`)
	}
	return &revision, nil
}

func registerObjects(h huma.API, o Objects) {
	huma.Register(h, operation(http.MethodGet, "/api/v1/objects", "list-objects", "Declared objects"),
		func(ctx context.Context, in *struct {
			Kind string `query:"kind" enum:"Cluster,ReplicationFlow,Runbook"`
		},
		) (*listOutput, error) {
			list, err := o.List(ctx, in.Kind)
			return &listOutput{ETag: etag(list.Revision), Body: list}, err
		})
	huma.Register(h, operation(http.MethodGet, "/api/v1/objects/{kind}/{name}", "get-object", "One declared object", http.StatusNotFound),
		func(ctx context.Context, in *objectPath) (*objectOutput, error) {
			list, err := o.List(ctx, in.Kind)
			if err != nil {
				return nil, err
			}
			for _, obj := range list.Objects {
				if obj.Name == in.Name {
					return &objectOutput{ETag: etag(list.Revision), Body: obj}, nil
				}
			}
			return nil, Errorf(http.StatusNotFound, "there is no %s %q", in.Kind, in.Name)
		})
	declare := adminOperation(http.MethodPost, "/api/v1/apply", "apply", "Declare objects, all or none",
		http.StatusBadRequest, http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge)
	declare.MaxBodyBytes = MaxBody + 1 // the first size that is refused
	declare.BodyReadTimeout = bodyTimeout
	huma.Register(h, declare,
		func(ctx context.Context, in *applyInput) (*applyOutput, error) {
			revision, err := in.revision()
			if err != nil {
				return nil, err
			}
			applied, err := o.Apply(ctx, in.RawBody, in.DryRun, revision)
			if err != nil {
				return nil, err
			}
			return &applyOutput{ETag: etag(applied.Revision), Body: applied}, nil
		})
	huma.Register(h, adminOperation(http.MethodDelete, "/api/v1/objects/{kind}/{name}", "delete-object", "Remove an object", http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *objectPath) (*struct{}, error) {
			return nil, o.Delete(ctx, in.Kind, in.Name)
		})
}

type listOutput struct {
	ETag string `header:"ETag"`
	Body ObjectList
}

type objectOutput struct {
	ETag string `header:"ETag"`
	Body Object
}

type applyOutput struct {
	ETag string `header:"ETag"`
	Body Applied
}

func etag(revision uint64) string { return strconv.Quote(strconv.FormatUint(revision, 10)) }
