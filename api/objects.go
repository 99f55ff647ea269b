package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

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
	// Put declares one object, which the YAML must be. If revision is not nil the
	// object must still be at it; 0: there must be none.
	Put(ctx context.Context, kind, name string, yaml []byte, revision *uint64) (Object, error)
	// Delete removes an object. If revision is not nil it must still be at it.
	Delete(ctx context.Context, kind, name string, revision *uint64) error
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
	IfMatch string `header:"If-Match" doc:"Apply only while the list of all objects is at this revision"`
	RawBody []byte `contentType:"application/yaml"`
}

type putInput struct {
	ObjectPath
	IfMatch     string `header:"If-Match" doc:"Only while the object is at this revision"`
	IfNoneMatch string `header:"If-None-Match" enum:"*" doc:"Only if there is no such object"`
	RawBody     []byte `contentType:"application/yaml"`
}

// precondition is the revision that a caller wants to change, nil for any.
func precondition(ifMatch string) (*uint64, error) {
	if ifMatch == "" || ifMatch == "*" {
		return nil, nil
	}
	revision, err := strconv.ParseUint(strings.Trim(ifMatch, `"`), 10, 64)
	if err != nil {
		return nil, Errorf(http.StatusPreconditionFailed, "If-Match %s is not one revision", ifMatch).
			WithHint(`write a number, such as the ETag of what you have read: If-Match: "7"`)
	}
	return &revision, nil
}

// precondition is 0 where there must be no object.
func (in *putInput) precondition() (*uint64, error) {
	if in.IfNoneMatch == "*" {
		if in.IfMatch != "" {
			return nil, Errorf(http.StatusUnprocessableEntity, "If-Match and If-None-Match together can never hold")
		}
		return new(uint64), nil
	}
	return precondition(in.IfMatch)
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
			revision, err := precondition(in.IfMatch)
			if err != nil {
				return nil, err
			}
			if in.DryRun {
				CallOf(ctx).Recorded() // nothing happens that there could be a record of
			}
			applied, err := o.Apply(ctx, in.RawBody, in.DryRun, revision)
			if err != nil {
				return nil, err
			}
			return &applyOutput{ETag: etag(applied.Revision), Body: applied}, nil
		})
	register(h, adminOperation(http.MethodPut, one, "put-object", "Declare one object",
		http.StatusBadRequest, http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge),
		func(ctx context.Context, in *putInput) (*objectOutput, error) {
			revision, err := in.precondition()
			if err != nil {
				return nil, err
			}
			obj, err := o.Put(ctx, in.Kind, in.Name, in.RawBody, revision)
			if err != nil {
				return nil, err
			}
			return &objectOutput{ETag: etag(obj.Revision), Body: obj}, nil
		})
	register(h, adminOperation(http.MethodDelete, one, "delete-object", "Remove an object", http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed),
		func(ctx context.Context, in *struct {
			ObjectPath
			IfMatch string `header:"If-Match" doc:"Only while the object is at this revision"`
		},
		) (*struct{}, error) {
			revision, err := precondition(in.IfMatch)
			if err != nil {
				return nil, err
			}
			return nil, o.Delete(ctx, in.Kind, in.Name, revision)
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
