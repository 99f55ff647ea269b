package api

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/lineage/export"
	"github.com/waybillhq/waybill/lineage/search"
)

// maxExportRows bounds one answer of an export.
const maxExportRows = 10_000

// deedRow is a production or an access as a row, or what is not known of those asked about,
// whose last is -1 for the end.
type deedRow struct {
	Cluster   string    `json:"cluster"`
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	First     int64     `json:"first"`
	Last      int64     `json:"last"`
	Offsets   int64     `json:"offsets"`
	Kind      string    `json:"kind"`
	Redacted  bool      `json:"redacted"`
	Principal string    `json:"principal"`
	ClientID  string    `json:"clientId"`
	Software  string    `json:"software"`
	Address   string    `json:"address"`
	Group     string    `json:"group"`
	FirstAt   time.Time `json:"firstAt"`
	At        time.Time `json:"at"`
	Why       string    `json:"why"`
	Basis     string    `json:"basis"`
}

// gapRow is offsets without a copy as a row, or what is not known of those asked about,
// whose last is -1 for the end.
type gapRow struct {
	Cluster            string `json:"cluster"`
	Topic              string `json:"topic"`
	Partition          int32  `json:"partition"`
	First              int64  `json:"first"`
	Last               int64  `json:"last"`
	Reason             string `json:"reason"`
	Why                string `json:"why"`
	Flow               string `json:"flow"`
	DestinationCluster string `json:"destinationCluster"`
	DestinationTopic   string `json:"destinationTopic"`
}

type exportInput struct {
	TopicPath
	Partition int32  `path:"partition" minimum:"0" maximum:"2147483647"`
	What      string `query:"what" enum:"accessed,produced,copies,gaps" default:"accessed"`
	From      int64  `query:"from" minimum:"0" doc:"First offset"`
	To        int64  `query:"to" minimum:"-1" default:"-1" doc:"Last offset; -1 is the end"`
	Principal string `query:"principal" doc:"Only this one's; for productions and accesses"`
	Direction string `query:"direction" enum:"both,up,down" doc:"Where the copies come from or go to; for copies, where both is the default"`
	Format    string `query:"format" enum:"csv,ndjson" default:"csv"`
	Limit     int    `query:"limit" minimum:"1" maximum:"10000" default:"10000"`
	Cursor    string `query:"cursor" doc:"Waybill-Next of the part before"`
}

type exportOutput struct {
	ContentType string `header:"Content-Type"`
	Next        string `header:"Waybill-Next" doc:"Cursor of the next part; absent: that was all"`
	Body        []byte
}

var exportTypes = map[string]string{export.CSV: "text/csv; charset=utf-8", export.NDJSON: "application/x-ndjson"}

// exported describes an answer that is a table.
func exported(op huma.Operation, types ...string) huma.Operation {
	content := map[string]*huma.MediaType{}
	for _, t := range types {
		content[t] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	op.Responses = map[string]*huma.Response{"200": {Content: content}}
	return op
}

func registerExport(h huma.API, l Lineage) {
	denied := []int{http.StatusForbidden, http.StatusNotFound}
	register(h, exported(accountedOperation(http.MethodGet, "/api/v1/lineage/export/{cluster}/{topic}/{partition}", "export-lineage", "Productions, accesses, copies or gaps of a partition as CSV or NDJSON", denied...), "text/csv", "application/x-ndjson"),
		func(ctx context.Context, in *exportInput) (*exportOutput, error) {
			copies, gaps := in.What == "copies", in.What == "gaps"
			switch {
			case in.Principal != "" && (copies || gaps):
				return nil, Errorf(http.StatusUnprocessableEntity, "%s have no principal: leave it out", in.What)
			case in.Direction != "" && !copies:
				return nil, Errorf(http.StatusUnprocessableEntity, "only copies have a direction: leave it out")
			}
			if err := cmp.Or(rangeFault(in.From, in.To), principalFault("query.principal", in.Principal)); err != nil {
				return nil, err
			}
			switch {
			case copies:
				return exportCopies(ctx, l, in)
			case gaps:
				return exportGaps(ctx, l, in)
			}
			return exportDeeds(ctx, l, in)
		})
	register(h, exported(accountedOperation(http.MethodGet, "/api/v1/lineage/openlineage/{cluster}/{topic}", "export-openlineage", "What a topic is copied from and to, as OpenLineage run events, one a line", denied...), "application/x-ndjson"),
		func(ctx context.Context, in *TopicPath) (*exportOutput, error) {
			events, err := l.OpenLineage(ctx, CallerOf(ctx), in.address())
			if err != nil {
				return nil, err
			}
			return table(export.NDJSON, events, "")
		})
	register(h, accountedOperation(http.MethodGet, "/api/v1/lineage/otlp/{cluster}/{topic}/{partition}/{offset}", "export-otlp", "The hops of one event as OpenTelemetry spans (OTLP/JSON), linked to the record's own trace if you may read it", denied...),
		func(ctx context.Context, in *struct {
			PositionPath
			LifeQuery
		},
		) (*tracesOutput, error) {
			traces, err := l.Spans(ctx, CallerOf(ctx), lineage.Address{Cluster: in.Cluster, Topic: in.Topic, Partition: in.Partition, Offset: in.Offset, TopicID: in.TopicID})
			if err != nil {
				return nil, err
			}
			return &tracesOutput{Body: traces}, nil
		})
	registerDigests(h, l)
	registerListExports(h, l)
}

// registerDigests is beside the exports: a POST, since a secret is no part of a URL.
func registerDigests(h huma.API, l Lineage) {
	op := exported(accountedOperation(http.MethodPost, "/api/v1/lineage/digests/{cluster}/{topic}/{partition}", "digest-records",
		"Keyed digests (HMAC-SHA-256) of the records of a range, which do not tell what is in them",
		http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusRequestEntityTooLarge), "text/csv", "application/x-ndjson")
	op.RequestBody = &huma.RequestBody{Required: true, Description: "The key: 16 to 4096 bytes. It is not kept"}
	register(h, op, func(ctx context.Context, in *struct {
		Cluster   string `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
		Topic     string `path:"topic"`
		Partition int32  `path:"partition" minimum:"0" maximum:"2147483647"`
		From      int64  `query:"from" minimum:"0" doc:"First offset; Waybill-Next of the part before"`
		To        int64  `query:"to" minimum:"-1" default:"-1" doc:"Last offset; -1 is the end"`
		Format    string `query:"format" enum:"csv,ndjson" default:"csv"`
		Limit     int    `query:"limit" minimum:"1" maximum:"10000" default:"10000"`
		RawBody   []byte `contentType:"application/octet-stream"`
	},
	) (*exportOutput, error) {
		rows, next, err := l.Digests(ctx, CallerOf(ctx), search.DigestQuery{
			Cluster: in.Cluster, Topic: in.Topic, Partition: in.Partition, From: in.From, To: in.To, Key: in.RawBody, Limit: in.Limit,
		})
		if err != nil {
			return nil, err
		}
		if next < 0 {
			return table(in.Format, rows, "")
		}
		return table(in.Format, rows, strconv.FormatInt(next, 10))
	})
}

type tracesOutput struct{ Body *export.Traces }

func table(format string, rows any, next string) (*exportOutput, error) {
	b, err := export.Write(format, rows)
	if err != nil {
		return nil, err
	}
	return &exportOutput{exportTypes[format], next, b}, nil
}

// exportDeeds has what the pages do not know on top of the limit.
func exportDeeds(ctx context.Context, l Lineage, in *exportInput) (*exportOutput, error) {
	q := lineage.DeedQuery{At: in.address(), Last: in.To, Produced: in.What == "produced", Principal: in.Principal}
	q.At.Partition, q.At.Offset = in.Partition, in.From
	rows, doubts, next, err := readPages(in.Limit, in.Cursor, func(limit int, cursor string) (rows []deedRow, doubts []string, next string, err error) {
		q.Limit, q.Cursor = limit, cursor
		page, err := l.Deeds(ctx, CallerOf(ctx), q)
		if err != nil {
			return nil, nil, "", err
		}
		for _, d := range page.Deeds {
			rows = append(rows, deedRow{
				in.Cluster, in.Topic, d.Partition, d.First, d.Last, d.Offsets, d.Kind, d.Redacted, d.Principal, d.ClientID, d.Software, d.Address, d.Group, d.FirstAt, d.At, "", d.Basis,
			})
		}
		return rows, page.Unknown, page.Next, nil
	})
	if err != nil {
		return nil, err
	}
	for _, why := range doubts {
		rows = append(rows, deedRow{Cluster: in.Cluster, Topic: in.Topic, Partition: in.Partition, First: in.From, Last: in.To, Kind: rowUnknown, Why: why})
	}
	return table(in.Format, rows, next)
}

// exportGaps reads pages until the limit is reached. What they do not know comes on top
// of it. Its cursor is the offset to go on from.
func exportGaps(ctx context.Context, l Lineage, in *exportInput) (*exportOutput, error) {
	at := in.address()
	at.Partition, at.Offset = in.Partition, in.From
	if in.Cursor != "" {
		from, err := strconv.ParseInt(in.Cursor, 10, 64)
		if err != nil || from < 0 {
			return nil, Errorf(http.StatusUnprocessableEntity, "cursor %.40q is not of an export of gaps", in.Cursor)
		}
		at.Offset = max(at.Offset, from)
	}
	last := in.To
	if last < 0 {
		last = math.MaxInt64 - 1
	}
	first, limit := at.Offset, min(in.Limit, maxExportRows)
	rows, doubts := []gapRow{}, []string{}
	for {
		page, err := l.Gaps(ctx, CallerOf(ctx), at, last)
		if err != nil {
			return nil, err
		}
		for _, g := range page.Gaps {
			rows = append(rows, gapRow{in.Cluster, in.Topic, in.Partition, g.Source, g.Source + g.Count - 1, g.Reason, g.Why, g.Flow, g.Cluster, g.Topic})
		}
		doubts, at.Offset = append(doubts, page.Unknown...), page.Next
		if page.Next > 0 && len(rows) < limit {
			continue
		}
		next, end := "", in.To
		if page.Next > 0 {
			next, end = strconv.FormatInt(page.Next, 10), page.Next-1
		}
		for _, why := range distinct(doubts) {
			rows = append(rows, gapRow{Cluster: in.Cluster, Topic: in.Topic, Partition: in.Partition, First: first, Last: end, Reason: rowUnknown, Why: why})
		}
		return table(in.Format, rows, next)
	}
}
