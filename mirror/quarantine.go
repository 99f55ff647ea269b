package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// poison is a record that cannot be copied, as it is at the source, and why.
type poison struct {
	record.Record
	why string
}

// putAside is what a chunk's batch is if it goes to the quarantine topic.
type putAside struct {
	why     string // of the first record
	content string
}

var (
	errNullKey = errors.New("it has no key, and the destination topic is compacted")
	errTooOld  = errors.New("it is older than message.timestamp.before.max.ms of the destination topic allows")
	errTooNew  = errors.New("it is further ahead than message.timestamp.after.max.ms of the destination topic allows")
)

// refusal says why a broker of the destination would refuse a record, as far as
// the topic's settings tell.
func (l *limits) refusal(r *record.Record) error {
	switch {
	case l.compacted && r.Key == nil:
		return errNullKey
	case l.appendTime || l.now == 0 || r.Timestamp < 0: // -1: none
		return nil
	case l.before > 0 && r.Timestamp < l.now-l.before:
		return fmt.Errorf("%w: %d ms since 1970", errTooOld, r.Timestamp)
	case l.after > 0 && r.Timestamp > l.now+l.after:
		return fmt.Errorf("%w: %d ms since 1970", errTooNew, r.Timestamp)
	}
	return nil
}

// maxWhy bounds a reason, which may quote what a record says.
const maxWhy = 500

func shortened(why string) string {
	if len(why) > maxWhy {
		why = why[:maxWhy] + "..."
	}
	return strings.ToValidUTF8(why, "?")
}

// asideChunk is a chunk of [s.from, next) whose batch goes to the quarantine topic.
func (s *sieve) asideChunk(list []poison, next int64) (chunk, error) {
	records := make([]record.Record, 0, len(list))
	named := slices.Clone(s.filtered)
	for _, p := range list {
		r := p.Record
		r.Headers = slices.Concat(r.Headers, s.lim.home.headers(r.Offset, r.Timestamp), asideHeaders(record.ContentRecord, p.why))
		records = append(records, r)
		named = append(named, ledger.Gap{Source: r.Offset, Count: 1, Reason: ledger.Quarantined})
	}
	slices.SortStableFunc(named, func(a, b ledger.Gap) int { return int(max(-1, min(1, a.Source-b.Source))) })
	c, err := asideOf(records, s.b.codec, s.b.LeaderEpoch(), s.from, next, putAside{shortened(list[0].why), record.ContentRecord})
	c.tile(nil, named)
	return c, err
}

func asideHeaders(content, why string) []record.Header {
	return []record.Header{{Key: record.HeaderQuarantineReason, Value: []byte(shortened(why))}, {Key: record.HeaderQuarantineContent, Value: []byte(content)}}
}

func asideOf(records []record.Record, codec record.Codec, leaderEpoch int32, from, next int64, a putAside) (chunk, error) {
	if codec > record.Zstd {
		codec = record.None
	}
	batch, err := record.Encode(records, record.NoProducer(codec))
	if err != nil {
		return chunk{}, &BatchError{from, "cannot be put into quarantine", err}
	}
	return chunk{from: from, next: next, batch: batch, leaderEpoch: leaderEpoch, own: len(batch), aside: &a}, nil
}

// putBatchAside puts a batch that cannot be taken apart into quarantine, as the
// value of one record, or stops at it. A checksum must have been wrong twice: what
// was damaged on its way comes whole the next time. And the batch's header must
// agree with itself about how many offsets it has: a gap of too many would hide
// what lies behind it.
func putBatchAside(b record.Batch, from, next int64, lim limits, why error) ([]chunk, error) {
	if b.Count() != b.LastOffsetDelta()+1 {
		return nil, &BatchError{b.BaseOffset(), fmt.Sprintf("it claims %d records at offsets up to %d", b.Count(), b.LastOffset()), fmt.Errorf("%w: %w", errNotAside, why)}
	}
	if !lim.rules.aside() || errors.Is(why, errCorrupt) && lim.suspect != b.BaseOffset() {
		return nil, why
	}
	r := record.Record{
		Offset: b.BaseOffset(), Timestamp: b.MaxTimestamp(), Value: slices.Clone(b),
		Headers: slices.Concat(lim.home.headers(b.BaseOffset(), b.MaxTimestamp()), asideHeaders(record.ContentBatch, why.Error())),
	}
	c, err := asideOf([]record.Record{r}, b.Attributes().Codec(), b.LeaderEpoch(), from, next, putAside{shortened(why.Error()), record.ContentBatch})
	if err != nil {
		return nil, err
	}
	c.gaps = appendGap(nil, from, next, ledger.Quarantined)
	return []chunk{c}, nil
}

// errNoQuarantine says that there is nowhere to put records aside.
var errNoQuarantine = errors.New("the quarantine topic does not exist")

// quarantine is the partition of the quarantine topic that takes what a copy puts
// aside: always the same, so that it stays in order.
func (c *copier) quarantine(v *view) (flow.TopicPartition, error) {
	topic := c.a.Spec.Spec.Records.Quarantine
	t := v.topic(topic)
	if t.err != nil || len(t.partitions) == 0 {
		return flow.TopicPartition{}, fmt.Errorf("%w: %s: %w", errNoQuarantine, topic, orElse(t.err, kerr.UnknownTopicOrPartition))
	}
	return flow.TopicPartition{Topic: topic, Partition: c.a.Partition % int32(len(t.partitions))}, nil
}

// quarantineBytes is what a batch in quarantine may have: what was too large for
// its own topic must fit, and a broker takes requests of 100 MiB.
const quarantineBytes = 64 << 20

// ensureQuarantine creates the quarantine topic of a flow if it is not there. It
// keeps what it has, and stamps its own time, so that no time of a record is
// refused.
func ensureQuarantine(ctx context.Context, destination *peer, topic string) error {
	v, err := readView(ctx, destination.client, []string{topic})
	if err != nil {
		return fmt.Errorf("cluster %s: look for the quarantine topic: %w", destination.cluster.Metadata.Name, err)
	}
	switch have := v.topic(topic); {
	case have.err == nil, errors.Is(have.err, kerr.LeaderNotAvailable):
		return nil
	case !errors.Is(have.err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("cluster %s: quarantine topic %s: %w", destination.cluster.Metadata.Name, topic, have.err)
	}
	replicas := int16(min(len(v.brokers), ledgerReplicas))
	configs := ledgerConfigs(replicas)
	configs[keyMaxMessageBytes] = kadm.StringPtr(strconv.Itoa(quarantineBytes))
	configs[keyTimestampType] = kadm.StringPtr("LogAppendTime")
	_, err = kadm.NewClient(destination.client).CreateTopic(ctx, 1, replicas, configs, topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("cluster %s: create the quarantine topic %s: %w", destination.cluster.Metadata.Name, topic, err)
	}
	return nil
}
