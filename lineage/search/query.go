package search

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/record"
)

// Errors of searches.
var (
	// ErrDenied says that the caller may not do it, whether the topic exists or not.
	ErrDenied = errors.New("not authorized")
	// ErrNotFound says that the cluster has no such topic or partition.
	ErrNotFound = errors.New("not found")
	// ErrInvalid says that a query cannot be right.
	ErrInvalid = errors.New("query is not valid")
	// ErrBusy says that as many searches are under way as may be.
	ErrBusy = errors.New("busy")
)

// Query picks events of one topic. With neither a key nor a trace id it is for the
// first event at or after Since of each partition.
type Query struct {
	Cluster string // name or cluster.id
	Topic   string

	Key     []byte   // events with exactly this key; nil: whatever key
	TraceID [16]byte // events of this trace; zero: whatever trace

	// Since and Until bound what is looked through, by the records' own timestamps, to
	// the millisecond; zero is no bound. Until ends each partition at the first record
	// that is stamped then or later: one that is stamped before and came after it is
	// not looked at.
	Since, Until time.Time

	Partition int32 // only this one; -1: all
	// Partitioner, if given, picks the one partition to which it sends the key.
	Partitioner string

	Limit  int    // events of a page; 0 and above: [Limits.Events]
	Cursor string // Page.Next of the page before
}

// Murmur2 is the partitioner of Kafka's Java client for records with a key, and of
// most others' clients that want to agree with it.
const Murmur2 = "murmur2"

// MaxKey is the largest key that is searched for, in bytes.
const MaxKey = 16 << 10

// inRecords says that records have to be read.
func (q *Query) inRecords() bool { return q.Key != nil || q.TraceID != [16]byte{} }

func (q *Query) check() error {
	var wrong string
	switch {
	case q.Cluster == "" || q.Topic == "":
		wrong = "a cluster and a topic are needed"
	case q.Partition < -1:
		wrong = fmt.Sprintf("partition %d", q.Partition)
	case !q.inRecords() && q.Since.IsZero():
		wrong = "a key, a trace id or a time is needed"
	case !q.inRecords() && !q.Until.IsZero():
		wrong = "until goes with a key or a trace id: for a time alone the answer is the first event of each partition"
	case !q.inRecords() && q.Cursor != "":
		wrong = "the answer for a time alone has no second page"
	case !q.Since.IsZero() && q.Since.UnixMilli() < 0 || !q.Until.IsZero() && q.Until.UnixMilli() < 0:
		wrong = "times before 1970 are on no record"
	case !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until):
		wrong = "since is not before until"
	case len(q.Key) > MaxKey:
		wrong = fmt.Sprintf("a key of %d bytes: %d at the most", len(q.Key), MaxKey)
	case q.Partitioner != "" && q.Partitioner != Murmur2:
		wrong = fmt.Sprintf("partitioner %q is not known: murmur2 is", shown(q.Partitioner))
	case q.Partitioner != "" && q.Key == nil:
		wrong = "a partitioner goes with a key"
	case q.Partitioner != "" && q.Partition >= 0:
		wrong = "a partitioner picks the partition: do not give both"
	}
	if wrong != "" {
		return fmt.Errorf("%w: %s", ErrInvalid, wrong)
	}
	return nil
}

// partitions are those of a topic that the query is for, in order.
func (q *Query) partitions(all []int32) ([]int32, error) {
	one := q.Partition
	switch {
	case q.Partitioner == Murmur2:
		one = partitionOf(q.Key, len(all))
	case one < 0:
		return all, nil
	}
	if !slices.Contains(all, one) {
		return nil, fmt.Errorf("%w: partition %d of topic %s, which has %d", ErrNotFound, one, q.Topic, len(all))
	}
	return []int32{one}, nil
}

// partitionOf is where the default partitioner of Kafka's Java client sends a key.
func partitionOf(key []byte, n int) int32 {
	return int32(kgo.StickyKeyPartitioner(nil).ForTopic("").Partition(&kgo.Record{Key: key}, n))
}

// wants says whether a record is one that the query is for.
func (q *Query) wants(r *record.Record) bool {
	if !q.Since.IsZero() && r.Timestamp < q.Since.UnixMilli() || !q.Until.IsZero() && r.Timestamp >= q.Until.UnixMilli() {
		return false
	}
	if q.Key != nil && (r.Key == nil || !bytes.Equal(r.Key, q.Key)) {
		return false
	}
	if q.TraceID != [16]byte{} {
		c, ok := TraceOf(r)
		return ok && c.TraceID == q.TraceID
	}
	return true
}

// Page is what a part of a search found, and what it looked at for that.
type Page struct {
	Events  []Event   `json:"events"`
	Scanned []Scanned `json:"scanned" doc:"What this page looked through; nothing for a time alone, which the cluster's time index answers"`
	Next    string    `json:"next,omitempty" doc:"Cursor of the next page, which may be empty; absent: all was looked through"`
	Unknown []string  `json:"unknown,omitempty" doc:"What could not be looked at, and why"`
}

// Event is the address of an event that was found.
type Event struct {
	Cluster   string    `json:"cluster"`
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Time      time.Time `json:"time" doc:"The record's own timestamp"`
}

// Scanned is what was looked through of one partition.
type Scanned struct {
	Partition int32 `json:"partition"`
	From      int64 `json:"from" doc:"Offset"`
	To        int64 `json:"to" doc:"Offset behind the last one that was looked at"`
	Records   int64 `json:"records" doc:"Committed ones"`
	Bytes     int64 `json:"bytes" doc:"Of batches as they were read, compressed or not"`
}
