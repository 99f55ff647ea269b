package group

import (
	"context"
	"iter"
	"math"
	"time"

	"github.com/waybillhq/waybill/internal/record"
)

// expire takes back offsets that have outlived their retention, and groups that
// have neither members nor offsets left. The offsets of a group with members stay
// (KIP-211), except those of topics that none of them reads any more; those of
// one that has lost its members count from then, and those of a group that never
// had any from their commit.
func (s *shard) expire(now time.Time, retention time.Duration) {
	for _, e := range s.groups {
		if s.Failed() != nil {
			return
		}
		var gone []record.Record
		var partitions []TopicPartition
		for tp := range e.expired(now, retention) {
			gone = append(gone, tombstone(offsetKey(e.name, tp), now))
			partitions = append(partitions, tp)
		}
		last := e.saved && e.idle() && len(gone) == len(e.offsets.committed) && len(e.offsets.pending) == 0
		if last {
			gone = append(gone, tombstonesOf(e.name, e.group, now)...)
		}
		if len(gone) == 0 {
			continue
		}
		if _, err := s.append(e, gone, record.NoProducer(record.None)); err != nil {
			return
		}
		for _, tp := range partitions {
			e.offsets.remove(tp)
		}
		if last {
			e.saved = false
			s.forget(e)
		}
	}
}

// expired are the partitions of a group whose offsets nobody has wanted for
// longer than retention.
func (e *entry) expired(now time.Time, retention time.Duration) iter.Seq[TopicPartition] {
	return func(yield func(TopicPartition) bool) {
		reads := map[string]bool{}
		if !e.group.empty() {
			var err error
			// What a group in the middle of a rebalance reads is not known.
			if reads, err = e.group.subscribed(); err != nil || e.group.State() != Stable {
				return
			}
		}
		emptySince, counts := e.group.emptySince()
		counts = counts && e.group.empty()
		for tp, p := range e.offsets.committed {
			since := time.UnixMilli(p.committedAt)
			if counts && emptySince.After(since) {
				since = emptySince
			}
			if !reads[tp.Topic] && now.Sub(since) >= retention && !e.offsets.unstable(tp) && !yield(tp) {
				return
			}
		}
	}
}

// checkpoint keeps the partition about as short as what it says. When it has
// grown, since the last time, by slack records more than it has live ones, all of
// these are written again, and what stood before is let go once they are durable.
// It stands in for log compaction, and bounds the time of a start.
//
// What an open transaction may move is not written again: the order of the two
// in the log decides between them. The log is kept from there on, until the
// transaction has ended and everything can be written once more.
func (s *shard) checkpoint(ctx context.Context, now time.Time, slack int64) error {
	if s.pinned && !s.openBefore(s.next) {
		s.next, s.pinned = 0, false
	}
	if s.gone.some() {
		return nil // they go by where offsets stand in the log
	}
	if due, err := s.CheckpointDue(ctx, s.next, s.live()+slack); !due {
		return err
	}
	begin := s.EndOffset()
	floor := begin
	s.next = begin
	for _, t := range s.open {
		floor = min(floor, t.first)
	}
	for _, e := range s.groups {
		kept, err := s.rewrite(e, now)
		if err != nil {
			return err // what stands before is kept, and what was written is not too much
		}
		floor = min(floor, kept)
		s.next = max(s.next, e.next)
	}
	s.pinned = floor < begin
	s.Release(floor, s.next)
	return nil
}

// openBefore says whether a transaction is open since before an offset.
func (s *shard) openBefore(offset int64) bool {
	for _, t := range s.open {
		if t.first < offset {
			return true
		}
	}
	return false
}

// rewrite appends what a group is, and returns the least offset of what it did
// not append.
func (s *shard) rewrite(e *entry, now time.Time) (kept int64, err error) {
	kept = math.MaxInt64
	var all []record.Record
	var partitions []TopicPartition
	if e.saved {
		all = append(all, recordsOf(e.name, e.group, e.group.parts(), now)...)
	}
	for _, tp := range e.offsets.partitions() {
		p := e.offsets.committed[tp]
		if e.offsets.unstable(tp) {
			kept = min(kept, p.logOffset)
			continue
		}
		all = append(all, offsetRecord(e.name, p.Offset, time.UnixMilli(p.committedAt)))
		partitions = append(partitions, tp)
	}
	at, next, err := s.Rewrite(all, record.NoProducer(record.None))
	if len(at) > 0 {
		e.next = next
	}
	before := len(all) - len(partitions)
	for i := before; i < len(at); i++ {
		tp := partitions[i-before]
		p := e.offsets.committed[tp]
		p.logOffset = at[i]
		e.offsets.committed[tp] = p
	}
	return kept, err
}

// live is how many records a checkpoint writes.
func (s *shard) live() int64 {
	var n int64
	for _, e := range s.groups {
		n += int64(len(e.group.parts()) + len(e.offsets.committed))
	}
	return n
}
