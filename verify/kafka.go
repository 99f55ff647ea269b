package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/ledger"
)

// FetchBytes bounds a response of one partition, except for a single larger batch:
// over 50 ms of distance 2 MiB are 40 MB/s for each copy under way. Where a rate is
// set a response has less.
const FetchBytes = 2 << 20

// KafkaCluster is a [Cluster] over a client, which stays the caller's.
func KafkaCluster(cl *kgo.Client) Cluster {
	return &kafkaCluster{cl: cl, leaders: map[leaderKey]int32{}, settings: map[string]Settings{}}
}

type kafkaCluster struct {
	cl *kgo.Client

	mu       sync.Mutex
	leaders  map[leaderKey]int32
	settings map[string]Settings
}

type leaderKey struct {
	topic     string
	partition int32
}

func (k *kafkaCluster) Reader(topic string, id ledger.TopicID, partition int32) Reader {
	return &kafkaReader{k, topic, id, partition}
}

// Settings takes a topic whose settings it may not see for one that does not
// compact: what is missing then shows as missing.
func (k *kafkaCluster) Settings(ctx context.Context, topic string) (Settings, error) {
	k.mu.Lock()
	known, ok := k.settings[topic]
	k.mu.Unlock()
	if ok {
		return known, nil
	}
	configs, err := kadm.NewClient(k.cl).DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return Settings{}, fmt.Errorf("settings of topic %s: %w", topic, err)
	}
	var found Settings
	for _, c := range configs {
		if c.Err != nil && !errors.Is(c.Err, kerr.TopicAuthorizationFailed) && !errors.Is(c.Err, kerr.UnknownTopicOrPartition) {
			return Settings{}, fmt.Errorf("settings of topic %s: %w", topic, c.Err)
		}
		for _, v := range c.Configs {
			found.Compacts = found.Compacts || v.Key == "cleanup.policy" && strings.Contains(v.MaybeValue(), "compact")
			found.Mirror = found.Mirror || v.Key == "mirror.source" && v.MaybeValue() != ""
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.settings[topic] = found
	return found, nil
}

// leader of a partition, as of the last look.
func (k *kafkaCluster) leader(ctx context.Context, at leaderKey) (int32, error) {
	k.mu.Lock()
	id, ok := k.leaders[at]
	k.mu.Unlock()
	if ok {
		return id, nil
	}
	meta, err := kadm.NewClient(k.cl).Metadata(ctx, at.topic)
	if err != nil {
		return 0, fmt.Errorf("look up topic %s: %w", at.topic, err)
	}
	topic := meta.Topics[at.topic]
	if topic.Err != nil {
		return 0, fmt.Errorf("look up topic %s: %w", at.topic, topic.Err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for n, p := range topic.Partitions {
		if p.Err == nil {
			k.leaders[leaderKey{at.topic, n}] = p.Leader
		}
	}
	if id, ok = k.leaders[at]; !ok {
		return 0, fmt.Errorf("%s/%d: %w", at.topic, at.partition, kerr.LeaderNotAvailable)
	}
	return id, nil
}

func (k *kafkaCluster) forget(at leaderKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.leaders, at)
}

// kafkaReader reads with raw Fetch requests (v4 on, by topic id from v13 on), so
// that batches come as they are.
type kafkaReader struct {
	cluster   *kafkaCluster
	topic     string
	id        ledger.TopicID
	partition int32
}

// emptyTries is how often an answer without a batch is asked for again where there
// should be one: a broker under load may say nothing within its time.
const (
	emptyTries = 3
	fetchWait  = 500 * time.Millisecond
)

func (r *kafkaReader) Fetch(ctx context.Context, offset int64, limit int) (Answer, error) {
	at := leaderKey{r.topic, r.partition}
	for try := 1; ; try++ {
		leader, err := r.cluster.leader(ctx, at)
		if err != nil {
			return Answer{}, err
		}
		resp, err := r.request(offset, int32(limit)).RequestWith(ctx, r.cluster.cl.Broker(int(leader)))
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err != nil {
			r.cluster.forget(at)
			return Answer{}, fmt.Errorf("fetch %s/%d at offset %d: %w", r.topic, r.partition, offset, err)
		}
		if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
			return Answer{}, fmt.Errorf("fetch %s/%d at offset %d: the broker answers for no or another partition", r.topic, r.partition, offset)
		}
		p := resp.Topics[0].Partitions[0]
		switch err := kerr.ErrorForCode(p.ErrorCode); {
		case errors.Is(err, kerr.OffsetOutOfRange):
			return r.Bounds(ctx)
		case err != nil:
			r.cluster.forget(at)
			return Answer{}, fmt.Errorf("fetch %s/%d at offset %d: %w", r.topic, r.partition, offset, err)
		}
		a := Answer{Start: p.LogStartOffset, Stable: p.LastStableOffset, End: p.HighWatermark, Records: p.RecordBatches}
		for _, t := range p.AbortedTransactions {
			a.Aborted = append(a.Aborted, Aborted{t.ProducerID, t.FirstOffset})
		}
		if len(a.Records) > 0 || offset >= a.Stable || try == emptyTries {
			return a, nil
		}
	}
}

func (r *kafkaReader) request(offset int64, limit int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID = -1
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = int32(fetchWait.Milliseconds()), 1, limit
	req.IsolationLevel = 1 // read_committed
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = r.topic, r.id
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = r.partition, offset, limit, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func (r *kafkaReader) Bounds(ctx context.Context) (a Answer, err error) {
	at := leaderKey{r.topic, r.partition}
	leader, err := r.cluster.leader(ctx, at)
	if err != nil {
		return Answer{}, err
	}
	const first, last = -2, -1
	for _, ask := range []struct {
		into      *int64
		timestamp int64
		isolation int8
	}{{&a.Start, first, 0}, {&a.Stable, last, 1}, {&a.End, last, 0}} {
		if *ask.into, err = r.list(ctx, leader, ask.timestamp, ask.isolation); err != nil {
			r.cluster.forget(at)
			return Answer{}, fmt.Errorf("bounds of %s/%d: %w", r.topic, r.partition, err)
		}
	}
	return a, nil
}

// list asks for one offset of the partition (ListOffsets).
func (r *kafkaReader) list(ctx context.Context, leader int32, timestamp int64, isolation int8) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, isolation
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = r.topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = r.partition, timestamp
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, r.cluster.cl.Broker(int(leader)))
	if err != nil {
		return 0, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, kerr.UnknownTopicOrPartition
	}
	got := resp.Topics[0].Partitions[0]
	return got.Offset, kerr.ErrorForCode(got.ErrorCode)
}
