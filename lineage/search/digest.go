package search

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/record"
)

// DigestQuery asks for the digests of the records of a range.
type DigestQuery struct {
	Cluster, Topic string
	Partition      int32
	From, To       int64 // offsets; To inclusive, below 0 is the end
	// Key is the secret without which digests cannot be made, nor guesses at what they
	// are of be tried: at least MinDigestKey bytes.
	Key   []byte
	Limit int // rows; 0 and above: [Limits.Records]
}

// Bounds of a key for digests: that of SHA-256's strength, and of a file.
const (
	MinDigestKey = 16
	MaxDigestKey = 4096
)

// Digest is that of one record, or says that offsets from Offset to Last cannot be
// read.
//
// It is HMAC-SHA-256 (RFC 2104), in hex, over the record's canonical form, big endian,
// where bytes are a length i32 (-1: null) and so many bytes:
//
//	timestamp ms i64 │ key bytes │ value bytes │ headers: count i32, each key bytes, value bytes
//
// It is the same for equal records, wherever they lie.
type Digest struct {
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Last      int64     `json:"last"`
	Time      time.Time `json:"time"`
	Digest    string    `json:"digest"`
	Unknown   string    `json:"unknown"`
}

// Digests returns those of some records of the range, and the offset to go on from, -1
// if that was all. It needs Read on the topic. It is bounded as a page of a search is,
// and what an open transaction holds back is not part of it. Errors are those of Search.
func (s *Searcher) Digests(ctx context.Context, caller Caller, q DigestQuery) (rows []Digest, next int64, err error) {
	if rows, next, err = s.digests(ctx, caller, q); err != nil {
		return nil, 0, fmt.Errorf("digests of %s/%s/%d: %w", shown(q.Cluster), shown(q.Topic), q.Partition, err)
	}
	return rows, next, nil
}

func (s *Searcher) digests(ctx context.Context, caller Caller, q DigestQuery) ([]Digest, int64, error) {
	switch {
	case q.Cluster == "" || q.Topic == "" || q.Partition < 0 || q.From < 0 || q.To >= 0 && q.To < q.From:
		return nil, 0, fmt.Errorf("%w: a partition is needed, and offsets in order", ErrInvalid)
	case len(q.Key) < MinDigestKey || len(q.Key) > MaxDigestKey:
		return nil, 0, fmt.Errorf("%w: a key of %d bytes: from %d to %d", ErrInvalid, len(q.Key), MinDigestKey, MaxDigestKey)
	}
	cluster, err := s.open(ctx, caller, q.Cluster, q.Topic, acl.Read)
	if err != nil {
		return nil, 0, err
	}
	release, err := s.slot()
	if err != nil {
		return nil, 0, err
	}
	defer release()
	topic, err := cluster.Topic(ctx, q.Topic)
	if err != nil {
		return nil, 0, err
	}
	bounds, ok := topic.Partitions[q.Partition]
	if !ok {
		return nil, 0, fmt.Errorf("%w: partition %d of topic %s, which has %d", ErrNotFound, q.Partition, q.Topic, len(topic.Partitions))
	}
	end := bounds.Stable
	if q.To >= 0 && q.To < end {
		end = q.To + 1
	}
	return s.digest(ctx, cluster, &q, Partition{q.Topic, topic.ID, q.Partition}, max(q.From, bounds.Start), end)
}

// digest reads from next to end, or until the page is full.
func (s *Searcher) digest(ctx context.Context, c Cluster, q *DigestQuery, from Partition, next, end int64) (rows []Digest, goOn int64, err error) {
	limits := s.cfg.Limits
	if q.Limit > 0 && int64(q.Limit) < limits.Records {
		limits.Records = int64(q.Limit)
	}
	mac, until, bytes := hmac.New(sha256.New, q.Key), time.Now().Add(limits.Time), int64(0)
	var form []byte
	for next < end {
		if int64(len(rows)) >= limits.Records || bytes >= limits.Bytes || !time.Now().Before(until) {
			return rows, next, nil
		}
		stretch, err := c.Read(ctx, from, next, func(r *record.Record) bool {
			if r.Offset >= end {
				return false
			}
			form = r.AppendCanonical(form[:0])
			mac.Reset()
			_, _ = mac.Write(form) // a hash takes all
			rows = append(rows, Digest{Partition: q.Partition, Offset: r.Offset, Last: r.Offset, Time: time.UnixMilli(r.Timestamp).UTC(), Digest: hex.EncodeToString(mac.Sum(nil))})
			return int64(len(rows)) < limits.Records
		})
		if err != nil {
			return nil, 0, err
		}
		for _, u := range stretch.Unread {
			if u.First < min(stretch.Next, end) {
				rows = append(rows, Digest{Partition: q.Partition, Offset: u.First, Last: min(u.Next, end) - 1, Unknown: u.Err.Error()})
			}
		}
		bytes += stretch.Bytes
		if stretch.Next <= next {
			return nil, 0, fmt.Errorf("the cluster shows nothing at offset %d, and no end: try again", next)
		}
		next = stretch.Next
	}
	return rows, -1, nil
}
