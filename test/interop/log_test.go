//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// fetched is what one raw fetch returns.
type fetched struct {
	Batches         []record.Batch
	HighWatermark   int64
	LastStable      int64
	Aborted         []kmsg.FetchResponseTopicPartitionAbortedTransaction
	PartialAtTheEnd bool
}

// fetch reads raw batches of tp from an offset on, at most maxBytes of them.
func fetch(ctx context.Context, conn *kafka.Conn, tp flow.TopicPartition, from int64, committed bool, maxBytes int32) (*fetched, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 0, 0, maxBytes, -1
	if committed {
		req.IsolationLevel = 1
	}
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = tp.Partition, from, maxBytes
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.Partitions = tp.Topic, []kmsg.FetchRequestTopicPartition{p}
	req.Topics = []kmsg.FetchRequestTopic{topic}
	resp, err := conn.Request(ctx, req, maxFetch)
	if err != nil {
		return nil, err
	}
	answer := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", tp, err)
	}
	got := answer.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", tp, err)
	}
	out := &fetched{HighWatermark: got.HighWatermark, LastStable: got.LastStableOffset, Aborted: got.AbortedTransactions}
	for rest := got.RecordBatches; len(rest) > 0; {
		var b record.Batch
		if b, rest, err = record.Next(rest); errors.Is(err, record.ErrPartial) {
			out.PartialAtTheEnd = true
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("fetch %s: %w", tp, err)
		}
		if err := b.Check(); err != nil {
			return nil, fmt.Errorf("fetch %s: %w", tp, err)
		}
		out.Batches = append(out.Batches, b)
	}
	return out, nil
}

// fetchAll reads every raw batch of tp, as the log has them.
func fetchAll(ctx context.Context, conn *kafka.Conn, tp flow.TopicPartition) ([]record.Batch, error) {
	var all []record.Batch
	for next := int64(0); ; {
		got, err := fetch(ctx, conn, tp, next, false, 8<<20)
		if err != nil {
			return nil, err
		}
		all = append(all, got.Batches...)
		if len(got.Batches) > 0 {
			next = got.Batches[len(got.Batches)-1].NextOffset()
		}
		if next >= got.HighWatermark {
			return all, nil
		}
	}
}

// readCommitted is an independent reader's view: all records of tp that a
// read_committed consumer gets, up to what is the high watermark now. It waits
// for transactions that are open below it.
func readCommitted(ctx context.Context, c *flow.Cluster, tp flow.TopicPartition) ([]*kgo.Record, error) {
	cl, err := kafka.NewClient(c, "interop-reader",
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{tp.Topic: {tp.Partition: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, tp.Topic)
	if err != nil {
		return nil, fmt.Errorf("end of %s: %w", tp, err)
	}
	end, _ := ends.Lookup(tp.Topic, tp.Partition)
	if end.Err != nil {
		return nil, fmt.Errorf("end of %s: %w", tp, end.Err)
	}
	var records []*kgo.Record
	for next := int64(0); next < end.Offset; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, fmt.Errorf("read %s at %d of %d: %w", tp, next, end.Offset, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if !r.Attrs.IsControl() {
				records = append(records, r)
			}
		})
	}
	return records, nil
}

// createTopic makes a topic and returns its id.
func createTopic(t testing.TB, c *flow.Cluster, topic string, partitions int32, configs map[string]string) ledger.TopicID {
	t.Helper()
	adm := kadm.NewClient(newClient(t, c))
	pairs := map[string]*string{}
	for k, v := range configs {
		pairs[k] = &v
	}
	created, err := adm.CreateTopic(t.Context(), partitions, 1, pairs, topic)
	id := created.ID
	if errors.Is(err, kerr.TopicAlreadyExists) {
		// The cluster is the test's own: the client asked again after an answer that
		// came late.
		var details kadm.TopicDetails
		details, err = adm.ListTopics(t.Context(), topic)
		id = details[topic].ID
	}
	if err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
	// The broker reports its leader before it is ready to lead.
	conn := dial(t, c)
	for i := range partitions {
		must(t, "create topic "+topic, poll(t.Context(), func() (bool, error) {
			_, err := fetch(t.Context(), conn, tp(topic, i), 0, false, 1)
			return err == nil, unlessOneOf(err, kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition)
		}))
	}
	return ledger.TopicID(id)
}

func newClient(t testing.TB, c *flow.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kafka.NewClient(c, "interop", opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func dial(t testing.TB, c *flow.Cluster) *kafka.Conn {
	t.Helper()
	conn, err := kafka.Dial(t.Context(), c, c.Spec.BootstrapServers[0], "interop")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // never fails
	return conn
}

// newLane is a lane that is open, for the time of a test.
func newLane(t testing.TB, c *flow.Cluster, id string) *lane {
	t.Helper()
	l := newClosedLane(t, c, id)
	if _, err := l.open(t.Context()); err != nil {
		t.Fatalf("open lane %s: %v", id, err)
	}
	return l
}

func newClosedLane(t testing.TB, c *flow.Cluster, id string) *lane {
	t.Helper()
	l, err := dialLane(t.Context(), c, id)
	if err != nil {
		t.Fatalf("dial lane %s: %v", id, err)
	}
	t.Cleanup(func() { _ = l.conn.Close() }) // never fails
	return l
}

// batch is one uncompressed batch of n records with a value each.
func batch(t testing.TB, name string, n int, at time.Time) record.Batch {
	t.Helper()
	var records []record.Record
	for i := range n {
		records = append(records, record.Record{Timestamp: at.UnixMilli() + int64(i), Value: fmt.Appendf(nil, "%s-%d", name, i)})
	}
	b, err := record.Encode(records, record.NoProducer(record.None))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// values are the values of records, as strings.
func values(records []*kgo.Record) []string {
	out := make([]string, 0, len(records))
	for _, r := range records {
		out = append(out, string(r.Value))
	}
	return out
}
