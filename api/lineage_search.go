package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/waybillhq/waybill/lineage/search"
)

// SearchInput says what to look for.
type SearchInput struct {
	Cluster string `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
	Topic   string `path:"topic"`
	PageQuery
	Since       time.Time `query:"since" doc:"RFC 3339; looks from the first record on that is stamped then or later"`
	Until       time.Time `query:"until" doc:"RFC 3339; looks up to the first record that is stamped then or later"`
	Key         string    `query:"key" maxLength:"16384" doc:"Events with exactly this key"`
	KeyBase64   string    `query:"keyBase64" maxLength:"32768" doc:"The same, of bytes: standard base64"`
	TraceID     string    `query:"traceId" maxLength:"512" doc:"Events whose traceparent header is of this W3C trace: 32 hex digits, or a whole traceparent"`
	Partition   int32     `query:"partition" minimum:"-1" maximum:"2147483647" default:"-1" doc:"Only this one; -1: all"`
	Partitioner string    `query:"partitioner" enum:"murmur2" doc:"Only the partition to which this one sends the key: that of Kafka's Java client"`
}

func (in *SearchInput) query() (search.Query, error) {
	q := search.Query{
		Cluster: in.Cluster, Topic: in.Topic, Since: in.Since, Until: in.Until,
		Partition: in.Partition, Partitioner: in.Partitioner, Limit: in.Limit, Cursor: in.Cursor,
	}
	var err error
	switch {
	case in.Key != "" && in.KeyBase64 != "":
		return q, Errorf(http.StatusUnprocessableEntity, "key and keyBase64 are two ways to write one key: give one of them")
	case in.Key != "":
		q.Key = []byte(in.Key)
	case in.KeyBase64 != "":
		if q.Key, err = base64.StdEncoding.DecodeString(in.KeyBase64); err != nil {
			return q, Errorf(http.StatusUnprocessableEntity, "keyBase64: %v", err)
		}
	}
	if in.TraceID != "" {
		if q.TraceID, err = search.ParseTraceID(in.TraceID); err != nil {
			return q, Errorf(http.StatusUnprocessableEntity, "%v", err)
		}
	}
	return q, nil
}

func registerSearch(h huma.API, l Lineage) {
	register(h, accountedOperation(http.MethodGet, "/api/v1/lineage/search/{cluster}/{topic}", "search-events",
		"Events of a topic by time, by key or by W3C trace id: bounded scans that say what they looked through",
		http.StatusForbidden, http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *SearchInput) (*searchOutput, error) {
			q, err := in.query()
			if err != nil {
				return nil, err
			}
			page, err := l.Search(ctx, CallerOf(ctx), q)
			if err != nil {
				return nil, err
			}
			return &searchOutput{Body: page}, nil
		})
}

type searchOutput struct{ Body *search.Page }
