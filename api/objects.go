package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Objects are the declared clusters, flows and runbooks of the fleet.
type Objects interface {
	// List returns the objects of a kind, or all if kind is empty.
	List(ctx context.Context, kind string) (ObjectList, error)
	// Apply declares every object of a YAML stream, in one step: all or none.
	// With dryRun it only says what would change. The precondition is about the list of
	// all objects.
	Apply(ctx context.Context, yaml []byte, dryRun bool, expect *Precondition) (Applied, error)
	// Put declares one object, which the YAML must be; the precondition is about it.
	Put(ctx context.Context, kind, name string, yaml []byte, expect *Precondition) (Object, error)
	// Delete removes an object; the precondition is about it.
	Delete(ctx context.Context, kind, name string, expect *Precondition) error
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
	Changed  *Changed        `json:"changed,omitempty" doc:"By whom last; absent if by nobody with a name"`
}

// Changed is who changed something, and when.
type Changed struct {
	User      string    `json:"user"`
	Time      time.Time `json:"time"`
	Operation string    `json:"operation,omitempty"`
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

// ObjectPath names an object.
type ObjectPath struct {
	Kind string `path:"kind" enum:"Cluster,ReplicationFlow,Runbook"`
	Name string `path:"name"`
}

type applyInput struct {
	DryRun  bool   `query:"dryRun" doc:"Only say what would change"`
	IfMatch string `header:"If-Match" doc:"Apply only while the list of all objects is at this revision, or at one of several"`
	RawBody []byte `contentType:"application/yaml"`
}

type putInput struct {
	ObjectPath
	IfMatch     string `header:"If-Match" doc:"Only while the object is at this revision, or at one of several; *: if there is one"`
	IfNoneMatch string `header:"If-None-Match" enum:"*" doc:"Only if there is no such object"`
	RawBody     []byte `contentType:"application/yaml"`
}

// precondition is that of the list, which is always there.
func (in *applyInput) precondition() (*Precondition, error) {
	p, err := ifMatch(in.IfMatch)
	if p != nil && p.Present {
		return nil, nil
	}
	return p, err
}

func (in *putInput) precondition() (*Precondition, error) {
	if in.IfNoneMatch == "*" {
		if in.IfMatch != "" {
			return nil, Errorf(http.StatusUnprocessableEntity, "If-Match and If-None-Match together can never hold")
		}
		return At(0), nil
	}
	return ifMatch(in.IfMatch)
}

func registerObjects(h huma.API, o Objects) {
	const one = "/api/v1/objects/{kind}/{name}"
	register(h, stateOperation("/api/v1/objects", "list-objects", "Declared objects"),
		func(ctx context.Context, in *struct {
			ReadQuery
			Kind string `query:"kind" enum:"Cluster,ReplicationFlow,Runbook"`
		},
		) (*listOutput, error) {
			list, err := o.List(ctx, in.Kind)
			return &listOutput{ETag: etag(list.Revision), Body: list}, err
		})
	register(h, stateOperation(one, "get-object", "One declared object; its ETag is its own revision", http.StatusNotFound),
		func(ctx context.Context, in *struct {
			ObjectPath
			ReadQuery
		},
		) (*objectOutput, error) {
			list, err := o.List(ctx, in.Kind)
			if err != nil {
				return nil, err
			}
			for _, obj := range list.Objects {
				if obj.Name == in.Name {
					return &objectOutput{ETag: etag(obj.Revision), Body: obj}, nil
				}
			}
			return nil, Errorf(http.StatusNotFound, "there is no %s %q", in.Kind, in.Name)
		})
	register(h, adminOperation(http.MethodPost, "/api/v1/apply", "apply", "Declare objects, all or none",
		http.StatusBadRequest, http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge),
		func(ctx context.Context, in *applyInput) (*applyOutput, error) {
			expect, err := in.precondition()
			if err != nil {
				return nil, err
			}
			if in.DryRun {
				CallOf(ctx).Recorded() // nothing happens that there could be a record of
			}
			applied, err := o.Apply(ctx, in.RawBody, in.DryRun, expect)
			if err != nil {
				return nil, err
			}
			return &applyOutput{ETag: etag(applied.Revision), Body: applied}, nil
		})
	register(h, adminOperation(http.MethodPut, one, "put-object", "Declare one object",
		http.StatusBadRequest, http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge),
		func(ctx context.Context, in *putInput) (*objectOutput, error) {
			expect, err := in.precondition()
			if err != nil {
				return nil, err
			}
			obj, err := o.Put(ctx, in.Kind, in.Name, in.RawBody, expect)
			if err != nil {
				return nil, err
			}
			return &objectOutput{ETag: etag(obj.Revision), Body: obj}, nil
		})
	register(h, adminOperation(http.MethodDelete, one, "delete-object", "Remove an object", http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed),
		func(ctx context.Context, in *struct {
			ObjectPath
			IfMatch string `header:"If-Match" doc:"Only while the object is at this revision, or at one of several; *: if there is one"`
		},
		) (*struct{}, error) {
			expect, err := ifMatch(in.IfMatch)
			if err != nil {
				return nil, err
			}
			return nil, o.Delete(ctx, in.Kind, in.Name, expect)
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
