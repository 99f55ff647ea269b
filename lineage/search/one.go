package search

import (
	"context"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/record"
)

// TraceAt is the trace context of one record; ok is false where it has none, the caller
// may not read the topic, the record is not there, or the cluster does not answer.
func (s *Searcher) TraceAt(ctx context.Context, caller Caller, cluster, topic string, partition int32, offset int64) (trace TraceContext, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limits.Time)
	defer cancel()
	c, err := s.open(ctx, caller, cluster, topic, acl.Read)
	if err != nil {
		return trace, false
	}
	release, err := s.slot()
	if err != nil {
		return trace, false
	}
	defer release()
	t, err := c.Topic(ctx, topic)
	if b := t.Partitions[partition]; err != nil || offset < b.Start || offset >= b.Stable {
		return trace, false
	}
	_, err = c.Read(ctx, Partition{topic, t.ID, partition}, offset, func(r *record.Record) bool {
		if r.Offset == offset {
			trace, ok = TraceOf(r)
		}
		return false
	})
	return trace, ok && err == nil
}
