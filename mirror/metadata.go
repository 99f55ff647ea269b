package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// view is what a cluster said about some topics at one moment. It is immutable.
type view struct {
	cluster string           // cluster.id, "" where the broker tells none
	brokers map[int32]string // address by broker id
	topics  map[string]topicView
}

type topicView struct {
	id         ledger.TopicID // zero where the broker knows no topic ids
	err        error
	partitions []partitionView
}

type partitionView struct {
	leader, epoch int32 // leader -1: none
	err           error
}

// topic finds a topic; asked for one that the view was not made for, it answers
// UNKNOWN_TOPIC_OR_PARTITION too.
func (v *view) topic(name string) topicView {
	if t, ok := v.topics[name]; ok {
		return t
	}
	return topicView{err: kerr.UnknownTopicOrPartition}
}

// leader is the broker that leads a partition, and the epoch of its leadership.
func (v *view) leader(topic string, partition int32) (broker, epoch int32, err error) {
	t := v.topic(topic)
	switch {
	case t.err != nil:
		return -1, -1, fmt.Errorf("topic %s: %w", topic, t.err)
	case int(partition) >= len(t.partitions):
		return -1, -1, fmt.Errorf("topic %s has %d partitions, so no partition %d: %w", topic, len(t.partitions), partition, kerr.UnknownTopicOrPartition)
	}
	p := t.partitions[partition]
	if _, known := v.brokers[p.leader]; p.leader < 0 || !known {
		return -1, p.epoch, fmt.Errorf("%s/%d: %w", topic, partition, kerr.LeaderNotAvailable)
	}
	return p.leader, p.epoch, nil
}

// peer is one end of a flow: a cluster, a client of it, and its latest view.
type peer struct {
	cluster *flow.Cluster
	client  *kgo.Client
	id      string // cluster.id

	current atomic.Pointer[view]
	mu      sync.Mutex
	stale   bool
	asked   time.Time // when the view was last found to be true
	poke    func()    // tells the flow that a refresh is wanted

	throttle throttle
}

func (p *peer) view() *view { return p.current.Load() }

// wantRefresh says that the view has been found wrong.
func (p *peer) wantRefresh() {
	p.markStale()
	p.poke()
}

// markStale is wantRefresh for the flow's own loop.
func (p *peer) markStale() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stale = true
}

func (p *peer) isStale(maxAge time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	age := time.Since(p.asked)
	return p.view() == nil || p.stale && age > minRefresh || age > maxAge
}

// minRefresh bounds how often a wrong view is asked for again: an election takes
// a while, and each question is about every topic of the flow.
const minRefresh = 100 * time.Millisecond

// refresh reads the view anew. One that says what the last one said is the last one:
// nobody need look at ten thousand partitions again. An address may have become another cluster's: what
// that one says is not taken over.
func (p *peer) refresh(ctx context.Context, topics []string) error {
	p.mu.Lock()
	p.stale = false
	p.mu.Unlock()
	v, err := readView(ctx, p.client, topics)
	if err != nil {
		return fmt.Errorf("cluster %s: %w", p.cluster.Metadata.Name, err)
	}
	if p.id != "" && v.cluster != p.id {
		return fmt.Errorf("cluster %s: %w: cluster.id is %q, it was %q", p.cluster.Metadata.Name, kafka.ErrWrongCluster, v.cluster, p.id)
	}
	if old := p.view(); old == nil || !old.same(v) {
		p.current.Store(v)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Now()
	return nil
}

// lookedAt is when the view was last read, whether or not it said something new.
func (p *peer) lookedAt() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func readView(ctx context.Context, client *kgo.Client, topics []string) (*view, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = make([]kmsg.MetadataRequestTopic, 0, len(topics))
	for _, t := range topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(t)
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	return viewOf(resp), nil
}

// same says that two views say the same.
func (v *view) same(w *view) bool {
	return v.cluster == w.cluster && maps.Equal(v.brokers, w.brokers) && maps.EqualFunc(v.topics, w.topics, func(a, b topicView) bool {
		return a.id == b.id && errors.Is(a.err, b.err) && slices.Equal(a.partitions, b.partitions)
	})
}

func viewOf(resp *kmsg.MetadataResponse) *view {
	v := &view{brokers: map[int32]string{}, topics: map[string]topicView{}}
	if resp.ClusterID != nil {
		v.cluster = *resp.ClusterID
	}
	for _, b := range resp.Brokers {
		v.brokers[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	for _, t := range resp.Topics {
		if t.Topic == nil {
			continue
		}
		tv := topicView{id: t.TopicID, err: kerr.ErrorForCode(t.ErrorCode), partitions: make([]partitionView, len(t.Partitions))}
		for i := range tv.partitions {
			tv.partitions[i] = partitionView{leader: -1, epoch: -1, err: kerr.LeaderNotAvailable}
		}
		for _, p := range t.Partitions {
			if p.Partition < 0 || int(p.Partition) >= len(tv.partitions) {
				continue // a partition list with holes: those in range count
			}
			tv.partitions[p.Partition] = partitionView{leader: p.Leader, epoch: p.LeaderEpoch, err: kerr.ErrorForCode(p.ErrorCode)}
		}
		v.topics[*t.Topic] = tv
	}
	return v
}
