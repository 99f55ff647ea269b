package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// mirrorTopics asks a source which of its topics are mirrors, or were: what they
// hold has another cluster's producer ids. It is safe for concurrent use.
type mirrorTopics struct {
	source   *peer
	clientID string

	mu   sync.Mutex
	conn *kafka.Conn
}

func (m *mirrorTopics) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		_ = m.conn.Close()
		m.conn = nil
	}
}

// maxDescribed bounds the topics of one request.
const maxDescribed = 500

// describe tells each provenance what part of its source partition is a mirror.
func (m *mirrorTopics) describe(ctx context.Context, all []*provenance) error {
	byTopic := map[ledger.TopicID][]*provenance{}
	for _, p := range all {
		byTopic[p.source.TopicID] = append(byTopic[p.source.TopicID], p)
	}
	ids := slices.Collect(maps.Keys(byTopic))
	for chunk := range slices.Chunk(ids, maxDescribed) {
		topics, err := m.ask(ctx, chunk)
		if err != nil {
			return fmt.Errorf("ask for mirror topics: %w", err)
		}
		for i := range topics {
			for _, p := range byTopic[topics[i].TopicID] {
				part, err := mirrorPartOf(&topics[i], p.source.Partition)
				if err != nil {
					return err
				}
				p.setMirror(part)
			}
		}
	}
	return nil
}

// ask is empty where the source has no mirror topics.
func (m *mirrorTopics) ask(ctx context.Context, ids []ledger.TopicID) ([]mirrorwire.DescribeResponseTopic, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.connect(ctx); err != nil {
		return nil, err
	}
	req := &mirrorwire.DescribeRequest{}
	for _, id := range ids {
		if id != (ledger.TopicID{}) { // who has mirror topics has topic ids
			req.Topics = append(req.Topics, mirrorwire.TopicRef{TopicID: id})
		}
	}
	resp, err := m.conn.Request(ctx, req, mirrorwire.MaxVersion)
	if _, without := errors.AsType[*kafka.VersionError](err); without {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return resp.(*mirrorwire.DescribeResponse).Topics, nil
}

// connect connects to whichever broker answers.
func (m *mirrorTopics) connect(ctx context.Context) error {
	if m.conn != nil && m.conn.Usable() {
		return nil
	}
	if m.conn != nil {
		_ = m.conn.Close()
		m.conn = nil
	}
	err := error(kerr.BrokerNotAvailable)
	for _, addr := range m.source.view().brokers {
		if m.conn, err = kafka.Dial(ctx, m.source.cluster, addr, m.clientID); err == nil {
			return nil
		}
		m.conn = nil
	}
	return err
}

// mirrorPartOf is the part of a partition that came from the mirror's source.
func mirrorPartOf(t *mirrorwire.DescribeResponseTopic, partition int32) (mirrorPart, error) {
	if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
		return mirrorPart{}, fmt.Errorf("topic %s: %w", ledger.TopicID(t.TopicID), err)
	}
	if t.State == mirrorwire.NoMirror {
		return mirrorPart{}, nil
	}
	part := mirrorPart{open: t.State != mirrorwire.Promoted}
	// Whoever made the mirror may have named its source in words of his own: then
	// only the hops tell.
	cluster, topic, _ := strings.Cut(t.Source, "/")
	if id, err := ledger.ParseTopicID(topic); err == nil {
		part.of = ledger.Life{Cluster: cluster, TopicID: id}
	}
	for _, p := range t.Partitions {
		if p.Partition != partition {
			continue
		}
		if part.until = p.PromotedAt; part.open {
			part.until = p.LogEnd
		}
		if part.until >= 0 {
			return part, nil
		}
	}
	return mirrorPart{}, fmt.Errorf("topic %s: the broker does not say how far partition %d is a mirror", t.Topic, partition)
}
