package group

import (
	"context"
	"time"

	"github.com/waybillhq/waybill/internal/record"
)

// forgetRest is how long offsets that could not be taken back stay before that is
// tried again.
const forgetRest = time.Second

// ForgetTopic takes back what any group that is led here has committed for a topic,
// and returns when that is durable. It is for topics that are deleted: the next
// topic of that name is another one, and its offsets mean other records. What a
// log refuses to take back is tried again later.
func (c *Coordinator) ForgetTopic(ctx context.Context, topic string) error {
	for _, s := range c.shards.Living() {
		var next int64
		err := s.Do(ctx, func() error {
			s.forgetting[topic] = s.EndOffset()
			next = s.forgetTopics(time.Now())
			return nil
		})
		if err != nil {
			return err
		}
		if err := s.Wait(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

// forgetTopics takes back the offsets of topics that are gone, and returns what has
// to be durable for that. With a log that refuses it the rest is for later.
func (s *shard) forgetTopics(now time.Time) (next int64) {
	for topic, end := range s.forgetting {
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
		delete(s.forgetting, topic)
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
