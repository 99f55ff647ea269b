package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// principalRow is what a principal did to one topic, by one client, as a row. One of kind
// unknown is of all that was asked about.
type principalRow struct {
	Cluster     string    `json:"cluster"`
	Principal   string    `json:"principal"`
	Topic       string    `json:"topic"`
	TopicID     string    `json:"topicId"`
	EarlierLife bool      `json:"earlierLife"`
	Kind        string    `json:"kind"`
	Redacted    bool      `json:"redacted"`
	ClientID    string    `json:"clientId"`
	Software    string    `json:"software"`
	Address     string    `json:"address"`
	Group       string    `json:"group"`
	Offsets     int64     `json:"offsets"`
	FirstAt     time.Time `json:"firstAt"`
	At          time.Time `json:"at"`
	Why         string    `json:"why"`
}

// What a row of a search says; and rowUnknown.
const (
	rowEvent   = "event"   // one that was found
	rowScanned = "scanned" // offsets that were looked through
)

// searchRow is an event that was found as a row, or what was looked through, or could not be.
type searchRow struct {
	Kind      string    `json:"kind"`
	Cluster   string    `json:"cluster"`
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	First     int64     `json:"first"`
	Last      int64     `json:"last"`
	Time      time.Time `json:"time"`
	Records   int64     `json:"records"`
	Bytes     int64     `json:"bytes"`
	Why       string    `json:"why"`
}

func registerListExports(h huma.API, l Lineage) {
	denied := []int{http.StatusForbidden, http.StatusNotFound}
	register(h, exported(accountedOperation(http.MethodGet, "/api/v1/lineage/principals/{cluster}/{principal}/export", "export-principal", "What a principal produced and read in a cluster, by topic, as CSV or NDJSON", denied...), "text/csv", "application/x-ndjson"),
		func(ctx context.Context, in *principalExportInput) (*exportOutput, error) {
			if err := principalFault("path.principal", in.Principal); err != nil {
				return nil, err
			}
			return exportPrincipal(ctx, l, in)
		})
	register(h, exported(accountedOperation(http.MethodGet, "/api/v1/lineage/search/{cluster}/{topic}/export", "export-search",
		"What a search finds, and what it looked through, as CSV or NDJSON: the limit is of events", append(denied, http.StatusConflict)...), "text/csv", "application/x-ndjson"),
		func(ctx context.Context, in *struct {
			SearchInput
			Format string `query:"format" enum:"csv,ndjson" default:"csv"`
		},
		) (*exportOutput, error) {
			return exportSearch(ctx, l, &in.SearchInput, in.Format)
		})
}

type principalExportInput struct {
	Cluster   string `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
	Principal string `path:"principal" doc:"Such as User:billing"`
	Format    string `query:"format" enum:"csv,ndjson" default:"csv"`
	Limit     int    `query:"limit" minimum:"1" maximum:"10000" default:"10000"`
	Cursor    string `query:"cursor" doc:"Waybill-Next of the part before"`
}

// exportPrincipal has what the pages do not know on top of the limit.
func exportPrincipal(ctx context.Context, l Lineage, in *principalExportInput) (*exportOutput, error) {
	rows, doubts, next, err := readPages(in.Limit, in.Cursor, func(limit int, cursor string) (rows []principalRow, doubts []string, next string, err error) {
		page, err := l.Principal(ctx, CallerOf(ctx), in.Cluster, in.Principal, limit, cursor)
		if err != nil {
			return nil, nil, "", err
		}
		for i := range page.Topics {
			t, c := &page.Topics[i], &page.Topics[i].Client
			rows = append(rows, principalRow{
				in.Cluster, in.Principal, t.Topic, t.TopicID, t.EarlierLife, c.Kind, t.Redacted, c.ClientID, c.Software, c.Address, c.Group, c.Offsets, c.FirstAt, c.At, "",
			})
		}
		return rows, page.Unknown, page.Next, nil
	})
	if err != nil {
		return nil, err
	}
	for _, why := range doubts {
		rows = append(rows, principalRow{Cluster: in.Cluster, Principal: in.Principal, Kind: rowUnknown, Why: why})
	}
	return table(in.Format, rows, next)
}

// readPages reads pages up to a limit of rows. It returns the rows, what the pages do not
// know, each once, and where the next page begins, "" if there is none.
func readPages[R any](limit int, cursor string, read func(limit int, cursor string) (rows []R, doubts []string, next string, err error)) (rows []R, doubts []string, next string, err error) {
	rows, next, limit = []R{}, cursor, min(limit, maxExportRows)
	for {
		more, unknown, after, err := read(limit-len(rows), next)
		if err != nil {
			return nil, nil, "", err
		}
		rows, doubts, next = append(rows, more...), append(doubts, unknown...), after
		if next == "" || len(rows) >= limit {
			return rows, distinct(doubts), next, nil
		}
	}
}

// exportSearch is one page of a search, which is bounded by what it reads: so it may have
// no event and yet a next one.
func exportSearch(ctx context.Context, l Lineage, in *SearchInput, format string) (*exportOutput, error) {
	q, err := in.query()
	if err != nil {
		return nil, err
	}
	page, err := l.Search(ctx, CallerOf(ctx), q)
	if err != nil {
		return nil, err
	}
	rows := []searchRow{}
	for _, e := range page.Events {
		rows = append(rows, searchRow{Kind: rowEvent, Cluster: e.Cluster, Topic: e.Topic, Partition: e.Partition, First: e.Offset, Last: e.Offset, Time: e.Time, Records: 1})
	}
	for _, s := range page.Scanned {
		rows = append(rows, searchRow{Kind: rowScanned, Cluster: in.Cluster, Topic: in.Topic, Partition: s.Partition, First: s.From, Last: s.To - 1, Records: s.Records, Bytes: s.Bytes})
	}
	for _, why := range page.Unknown {
		rows = append(rows, searchRow{Kind: rowUnknown, Cluster: in.Cluster, Topic: in.Topic, Partition: in.Partition, First: -1, Last: -1, Why: why})
	}
	return table(format, rows, page.Next)
}

// distinct sorts what several pages do not know, each once.
func distinct(doubts []string) []string {
	slices.Sort(doubts)
	return slices.Compact(doubts)
}
