package group

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/waybillhq/waybill/internal/record"
)

// forgetRest is how long offsets that could not be taken back stay before that is
// tried again.
const forgetRest = time.Second

// gone are topics that were deleted and of which a partition of [Topic] may still have
// offsets. It outlives the partition's leaderships, not the broker.
type gone struct {
	told chan struct{} // has one when there may be a new one

	mu sync.Mutex
	// topics have where the log ended when its leader was told, -1 before that:
	// what stands behind it is of the next topic of that name.
	topics map[string]int64
}

func (g *gone) add(topic string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.topics == nil {
		g.topics = map[string]int64{}
	}
	g.topics[topic] = -1
	select {
	case g.told <- struct{}{}:
	default: // the leader has not looked since the last one
	}
}

// some says whether there are any.
func (g *gone) some() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.topics) > 0
}

// take returns all of them; a log that ends at end has nothing yet of what comes after
// those that are new.
func (g *gone) take(end int64) map[string]int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	for topic, at := range g.topics {
		if at < 0 {
			g.topics[topic] = end
		}
	}
	return maps.Clone(g.topics)
}

// done says that nothing is left of a topic before an offset.
func (g *gone) done(topic string, end int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.topics[topic] == end {
		delete(g.topics, topic)
	}
}

// ForgetTopic takes back what any group that is led here has committed for a topic. It
// is for topics that are deleted: the next topic of that name is another one, and its
// offsets mean other records. It returns when that is durable, or ctx ends: it is done
// all the same, also where a log refuses it for now, or a partition is being loaded or
// will be led again.
func (c *Coordinator) ForgetTopic(ctx context.Context, topic string) {
	shards := c.shards.Taken()
	for _, s := range shards {
		s.gone.add(topic)
	}
	for _, s := range shards {
		var next int64
		err := s.Do(ctx, func() error {
			next = s.forgetTopics(time.Now())
			return nil
		})
		if err == nil {
			_ = s.Wait(ctx, next) // a failure ends the leadership, and the next one reads what is left
		}
	}
}

// forgetTopics takes back the offsets of topics that are gone, and returns what has
// to be durable for that. With a log that refuses it the rest is for later.
func (s *shard) forgetTopics(now time.Time) (next int64) {
	for topic, end := range s.gone.take(s.EndOffset()) {
		for _, e := range s.groups {
			if err := s.forgetTopic(e, topic, end, now); err != nil {
				if s.forgetAt.IsZero() {
					s.cfg.Log.Warn("offsets of a deleted topic cannot be taken back yet", "topic", topic, "partition", s.Partition(), "err", err)
				}
				s.forgetAt = now.Add(forgetRest)
				return next
			}
			next = max(next, e.next)
		}
		s.gone.done(topic, end)
	}
	s.forgetAt = time.Time{}
	return next
}

// forgetTopic takes back the offsets of a group that stand before end in the log:
// later ones are of the next topic of that name.
func (s *shard) forgetTopic(e *entry, topic string, end int64, now time.Time) error {
	var gone []record.Record
	var partitions []TopicPartition
	for _, tp := range e.offsets.all() {
		if tp.Topic == topic && e.offsets.before(tp, end) {
			gone = append(gone, tombstone(offsetKey(e.name, tp), now))
			partitions = append(partitions, tp)
		}
	}
	if _, err := s.append(e, gone, record.NoProducer(record.None)); err != nil {
		return err
	}
	for _, tp := range partitions {
		e.offsets.remove(tp)
	}
	s.forget(e)
	return nil
}
