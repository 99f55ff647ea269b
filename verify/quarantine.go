package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// quarantined is what one entry of the ledger says was put aside, as it is in the
// quarantine topic.
type quarantined struct {
	entry *ledger.Quarantine
	gone  bool // the topic does not have it any more, or may not be read
	sums  map[int64]aside
}

// aside is one record in quarantine, of a source offset.
type aside struct {
	content string
	sum     [sha256.Size]byte // of the record's canonical form, or of the batch
}

// inQuarantine looks up what is said to be in quarantine.
func (c *comparison) inQuarantine(ctx context.Context, h head, left int64) (opinion, error) {
	q, err := c.entries.Aside(c.copy.ID.Key(), h.offset)
	if err != nil || q == nil {
		return unknowable(1, Unchecked{Why: QuarantineUnknown}), err
	}
	if c.held == nil || *c.held.entry != *q {
		if c.held, err = c.lookUp(ctx, q); err != nil {
			return opinion{}, err
		}
	}
	if c.held.gone {
		return unknowable(1, Unchecked{Why: QuarantineGone}), nil
	}
	if a, ok := c.held.sums[h.BaseOffset()]; ok && a.content == record.ContentBatch {
		n := max(1, min(h.next-h.offset, left))
		if a.sum != sha256.Sum256(h.Batch) {
			return refuted(n, Different, "the batch in quarantine is not the source's"), nil
		}
		return holds(n), nil
	}
	if h = c.source.open(h); h.record == nil {
		return c.closed(h), nil
	}
	a, ok := c.held.sums[h.offset]
	switch {
	case !ok:
		return refuted(1, Missing, "the ledger says it is in quarantine, and topic %s does not have it", q.Topic), nil
	case a.sum != sha256.Sum256(h.record.AppendCanonical(c.sourceForm[:0])):
		return refuted(1, Different, "the record in quarantine is not the source's"), nil
	}
	return holds(1), nil
}

// lookUp reads what an entry says was put aside.
func (c *comparison) lookUp(ctx context.Context, q *ledger.Quarantine) (*quarantined, error) {
	held := &quarantined{entry: q, sums: map[int64]aside{}}
	cur, end := c.aside(q), q.Offset+q.Records
	shown, err := cur.shows(ctx, end)
	for at := q.Offset; err == nil; {
		if !shown {
			return nil, errHeld
		}
		if held.gone = cur.start > q.Offset; held.gone {
			return held, nil
		}
		h, ok, e := cur.head(ctx, at)
		if err = e; err != nil || !ok || h.offset >= end {
			break
		}
		if h = cur.open(h); h.record == nil {
			c.tooLarge = c.tooLarge || h.tooLarge
			at = h.next
			continue
		}
		if offset, a, ok := c.asideOf(h.record); ok {
			held.sums[offset] = a
		}
		at = h.offset + 1
	}
	if errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.TopicAuthorizationFailed) {
		held.gone, err = true, nil
	}
	if err != nil {
		return nil, &endError{"destination", err}
	}
	return held, nil
}

// ownHeaders is how many headers a record in quarantine has beside those that it had.
const ownHeaders = 7

// asideOf is what a record in quarantine was at the source; ok is false if it is not of
// this copy.
func (c *comparison) asideOf(r *record.Record) (offset int64, a aside, ok bool) {
	n := len(r.Headers) - ownHeaders
	if n < 0 {
		return 0, aside{}, false
	}
	told := map[string]string{}
	for _, h := range r.Headers[n:] {
		told[h.Key] = string(h.Value)
	}
	offset, err1 := strconv.ParseInt(told[record.HeaderSourceOffset], 10, 64)
	timestamp, err2 := strconv.ParseInt(told[record.HeaderSourceTimestamp], 10, 64)
	from := c.copy.ID.Source
	if errors.Join(err1, err2) != nil || told[record.HeaderSourceCluster] != from.Cluster || told[record.HeaderSourceTopic] != c.copy.SourceTopic ||
		told[record.HeaderSourcePartition] != strconv.Itoa(int(from.Partition)) {
		return 0, aside{}, false
	}
	a.content = told[record.HeaderQuarantineContent]
	if a.content == record.ContentBatch {
		a.sum = sha256.Sum256(r.Value)
		return offset, a, true
	}
	was := record.Record{Timestamp: timestamp, Key: r.Key, Value: r.Value, Headers: r.Headers[:n]}
	a.sum = sha256.Sum256(was.AppendCanonical(nil))
	return offset, a, true
}
