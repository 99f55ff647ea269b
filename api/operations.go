package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/waybillhq/waybill/doctor"
)

// AllNodes means every node of the fleet, in place of a node's name.
const AllNodes = "*"

// Operations is what is asked of single nodes.
type Operations interface {
	// Doctor has a node look at what it rests on; the one that was asked if node is
	// empty, each if it is [AllNodes]. One that does not answer has a report that
	// says so.
	Doctor(ctx context.Context, node string) ([]doctor.Report, error)
	// Bundle is what somebody who cannot log in to a node needs to understand it,
	// as a tar.gz without secrets.
	Bundle(ctx context.Context, node string) (Bundle, error)
}

// Bundle is a file.
type Bundle struct {
	Name    string
	Content []byte
}

// Reports is what nodes have found.
type Reports struct {
	Reports []doctor.Report `json:"reports"`
}

// NodeQuery names a node.
type NodeQuery struct {
	Node string `query:"node" doc:"Name of a node; the one that is asked if empty"`
}

func registerOperations(h huma.API, o Operations) {
	register(h, adminRead("/api/v1/doctor", "doctor", "Look at what a node rests on: clusters, certificates, rights, clocks, disks, raft; node=* is every node", http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *NodeQuery) (*reportsOutput, error) {
			reports, err := o.Doctor(ctx, in.Node)
			if err != nil {
				return nil, err
			}
			return &reportsOutput{Body: Reports{reports}}, nil
		})
	bundle := adminRead("/api/v1/support-bundle", "support-bundle", "What is needed to understand a node from afar, as a tar.gz without secrets", http.StatusNotFound, http.StatusConflict)
	bundle.Responses = map[string]*huma.Response{"200": {Content: map[string]*huma.MediaType{"application/gzip": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}}
	register(h, bundle,
		func(ctx context.Context, in *NodeQuery) (*bundleOutput, error) {
			b, err := o.Bundle(ctx, in.Node)
			if err != nil {
				return nil, err
			}
			return &bundleOutput{ContentType: "application/gzip", Disposition: `attachment; filename="` + b.Name + `"`, Body: b.Content}, nil
		})
}

type reportsOutput struct{ Body Reports }

type bundleOutput struct {
	ContentType string `header:"Content-Type"`
	Disposition string `header:"Content-Disposition"`
	Body        []byte
}
