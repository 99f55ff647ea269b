package group

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

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
	// settling have where the log must be durable before nothing of a topic that was
	// taken back can come again.
	settling map[string]int64
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

// some says whether there are any of which offsets may be left.
func (g *gone) some() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.topics) > 0
}

// pending says whether offsets of a topic may be left, or would be after a crash. left
// is the first; otherwise the log has to be durable up to next.
func (g *gone) pending(topic string) (next int64, left, pending bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, left = g.topics[topic]
	next, pending = g.settling[topic]
	return next, left, left || pending
}

// settled says that the log is durable up to an offset, for which a topic has waited.
func (g *gone) settled(topic string, next int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.settling[topic] <= next {
		delete(g.settling, topic)
	}
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

// done says that nothing is left of a topic before an offset, which holds for good when
// the log is durable up to next.
func (g *gone) done(topic string, end, next int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.topics[topic] == end {
		delete(g.topics, topic)
	}
	if next == 0 {
		return
	}
	if g.settling == nil {
		g.settling = map[string]int64{}
	}
	g.settling[topic] = max(g.settling[topic], next)
}

// Forget lets what any group has committed for topics be taken back. It is for topics
// that are deleted: the next topic of that name is another one, and its offsets mean
// other records. It is done by and by, also where a log refuses it for now, or a
// partition is being loaded or is down; [Coordinator.Forgotten] says when. It is not
// remembered beyond the life of the coordinator.
func (c *Coordinator) Forget(topics ...string) {
	for i := range c.gone {
		for _, topic := range topics {
			c.gone[i].add(topic)
		}
	}
}

// Forgetting says whether offsets of a topic may be left, or come again with a crash,
// after [Coordinator.Forget].
func (c *Coordinator) Forgetting(topic string) bool {
	for i := range c.gone {
		if _, _, pending := c.gone[i].pending(topic); pending {
			return true
		}
	}
	return false
}

// Forgotten waits until nothing is left of what was committed for a topic before
// [Coordinator.Forget], and that is durable; for partitions that are being loaded, too. It
// returns an error that wraps a *kerr.Error where a partition is down or its log
// refuses it, for now, or that of ctx; the other partitions have been waited for.
func (c *Coordinator) Forgotten(ctx context.Context, topic string) error {
	var missing error
	for i := range c.gone {
		if err := c.forgotten(ctx, int32(i), topic); err != nil && missing == nil {
			missing = fmt.Errorf("partition %d of %s: %w", i, Topic, err)
		}
	}
	return missing
}

func (c *Coordinator) forgotten(ctx context.Context, partition int32, topic string) error {
	g := &c.gone[partition]
	if _, _, pending := g.pending(topic); !pending {
		return nil
	}
	s, err := c.shards.Taken(partition)
	if err != nil {
		return err
	}
	err = s.Do(ctx, func() error { return s.forgetTopics(time.Now()) })
	next, left, _ := g.pending(topic)
	switch {
	case err != nil && left:
		return err
	case left:
		return kerr.CoordinatorNotAvailable // it was deleted again meanwhile
	}
	if err := s.Wait(ctx, next); err != nil {
		return err // a failure ends the leadership, and the next one reads what is left
	}
	g.settled(topic, next)
	return nil
}

// forgetTopics takes back the offsets of topics that are gone. With a log that refuses
// it, which the error says, the rest is for later.
func (s *shard) forgetTopics(now time.Time) error {
	for topic, end := range s.gone.take(s.EndOffset()) {
		var next int64
		for _, e := range s.groups {
			if err := s.forgetTopic(e, topic, end, now); err != nil {
				if s.forgetAt.IsZero() {
					s.cfg.Log.Warn("offsets of a deleted topic cannot be taken back yet", "topic", topic, "partition", s.Partition(), "err", err)
				}
				s.forgetAt = now.Add(forgetRest)
				return err
			}
			next = max(next, e.next)
		}
		s.gone.done(topic, end, next)
	}
	s.forgetAt = time.Time{}
	return nil
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
