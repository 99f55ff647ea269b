package api

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/waybillhq/waybill/lineage"
)

// What a row of an export of copies says.
const (
	rowCopied    = "copied"    // source offsets first to last are those at the destination, in order
	rowGap       = "gap"       // source offsets without a copy, and the reason
	rowRedacted  = "redacted"  // a copy of which one side, or both, may not be seen
	rowUnknown   = "unknown"   // of the offsets asked about: what cannot be said, and why
	rowTruncated = "truncated" // of the offsets asked about: what bound cut the rows off
)

// copyRow is what one copy did with a stretch of source offsets as a row. Rows of kind
// unknown and truncated have the partition and the offsets that were asked about for a source.
type copyRow struct {
	Kind                 string    `json:"kind"`
	SourceCluster        string    `json:"sourceCluster"`
	SourceTopic          string    `json:"sourceTopic"`
	SourceTopicID        string    `json:"sourceTopicId"`
	SourcePartition      int32     `json:"sourcePartition"`
	SourceFirst          int64     `json:"sourceFirst"`
	SourceLast           int64     `json:"sourceLast"`
	DestinationCluster   string    `json:"destinationCluster"`
	DestinationTopic     string    `json:"destinationTopic"`
	DestinationTopicID   string    `json:"destinationTopicId"`
	DestinationPartition int32     `json:"destinationPartition"`
	DestinationFirst     int64     `json:"destinationFirst"`
	DestinationLast      int64     `json:"destinationLast"`
	Hops                 int       `json:"hops"`
	Records              int64     `json:"records"`
	Reason               string    `json:"reason"`
	Why                  string    `json:"why"`
	Flow                 string    `json:"flow"`
	Fleet                string    `json:"fleet"`
	Node                 string    `json:"node"`
	Epoch                uint64    `json:"epoch"`
	Path                 string    `json:"path"`
	FirstAt              time.Time `json:"firstAt"`
	At                   time.Time `json:"at"`
}

// exportCopies reads pages until the limit is reached. What they do not know comes on top
// of it.
func exportCopies(ctx context.Context, l Lineage, in *exportInput) (*exportOutput, error) {
	q := lineage.RangeQuery{At: in.address(), Last: in.To, Way: lineage.Direction(in.Direction), Exact: true, Cursor: in.Cursor}
	q.At.Partition, q.At.Offset = in.Partition, in.From
	rows, limit := []copyRow{}, min(in.Limit, maxExportRows)
	for doubts := map[copyRow]int{}; ; {
		q.Limit = limit - len(rows)
		page, err := l.Copies(ctx, CallerOf(ctx), q)
		if err != nil {
			return nil, err
		}
		for i := range page.Rows {
			rows = append(rows, rowOfCopy(&page.Rows[i]))
		}
		rows = appendDoubts(rows, doubts, in, page)
		if q.Cursor = page.Next; q.Cursor == "" || len(rows) >= limit {
			return table(in.Format, rows, q.Cursor)
		}
	}
}

func rowOfCopy(r *lineage.RangeRow) copyRow {
	s, d := &r.Source, &r.Destination
	row := copyRow{
		rowCopied, s.Cluster, s.Topic, s.TopicID, s.Partition, s.First, s.Last, d.Cluster, d.Topic, d.TopicID, d.Partition, d.First, d.Last,
		r.Hops, r.Records, "", r.Why, r.Flow, r.Fleet, r.ReplicaNode, r.Epoch, r.Path, instant(r.FirstAt), instant(r.At),
	}
	switch {
	case s.Redacted || d.Redacted:
		row.Kind = rowRedacted
	case r.Records == 0:
		row.Kind = rowGap
		for _, reason := range slices.Sorted(maps.Keys(r.Gaps)) { // an exact row has one
			row.Reason = reason
		}
	}
	return row
}

// appendDoubts adds why the rows of a page may not be all of the truth. A doubt that is
// that of the page before, too, has one row; doubts says which.
func appendDoubts(rows []copyRow, doubts map[copyRow]int, in *exportInput, page *lineage.RangePage) []copyRow {
	add := func(kind, why string) {
		of := copyRow{Kind: kind, SourceCluster: in.Cluster, SourceTopic: in.Topic, SourcePartition: in.Partition, DestinationFirst: -1, DestinationLast: -1, Why: why}
		if i, ok := doubts[of]; ok && rows[i].SourceLast+1 >= page.First {
			rows[i].SourceLast = page.Last
			return
		}
		doubts[of] = len(rows)
		of.SourceFirst, of.SourceLast = page.First, page.Last
		rows = append(rows, of)
	}
	for _, why := range page.Unknown {
		add(rowUnknown, why)
	}
	if page.Truncated != "" {
		add(rowTruncated, page.Truncated)
	}
	return rows
}

func instant(at *time.Time) time.Time {
	if at == nil {
		return time.Time{}
	}
	return *at
}
