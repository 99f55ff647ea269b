package group

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/waybillhq/waybill/internal/record"
)

// decodeLimit bounds a decompressed batch of our own topic.
const decodeLimit = 64 << 20

// begin puts what was read to work.
func (s *shard) begin(now time.Time) {
	for _, e := range s.groups {
		if g, ok := e.group.(*Consumer); ok {
			g.loaded(now)
		}
		s.schedule(e)
		s.forget(e)
	}
	_ = s.forgetTopics(now) // a refusal is logged, and it is tried again
}

// replay applies a batch that is in the log.
func (s *shard) replay(b record.Batch) error {
	now := time.Now()
	records, err := b.Decode(decodeLimit)
	if err != nil {
		return err
	}
	if b.Attributes().Control() {
		for _, r := range records {
			if len(r.Key) >= 4 {
				s.endTransaction(b.ProducerID(), binary.BigEndian.Uint16(r.Key[2:]) == 1)
			}
		}
		return nil
	}
	for _, r := range records {
		l, known, err := readRecord(r)
		if err != nil {
			return fmt.Errorf("record at offset %d: %w", r.Offset, err)
		}
		if known {
			if err := s.apply(l, r, b, now); err != nil {
				return fmt.Errorf("record at offset %d: group %q: %w", r.Offset, l.name, err)
			}
		}
	}
	return nil
}

func (s *shard) apply(l loaded, r record.Record, b record.Batch, now time.Time) error {
	e := s.create(l.name, now)
	e.next = b.NextOffset()
	switch l.part.Kind {
	case 0:
		s.applyOffset(e, l, r, b)
	case partClassic:
		_, consumer := e.group.(*Consumer)
		switch {
		case l.group != nil:
			e.group, e.saved = restore(l.name, s.rules, l.group, now), true
		case !consumer:
			e.group, e.saved = New(l.name, s.rules, now), false
		}
	default:
		return s.applyPart(e, l.part, r, now)
	}
	return nil
}

func (s *shard) applyOffset(e *entry, l loaded, r record.Record, b record.Batch) {
	if l.offset == nil {
		e.offsets.remove(l.tp)
		return
	}
	p := position{
		Offset:      Offset{l.tp, l.offset.Offset, l.offset.LeaderEpoch, l.offset.Metadata},
		committedAt: l.offset.CommitTimestamp,
		logOffset:   r.Offset,
	}
	if b.Attributes().Transactional() {
		s.hold(e, b.ProducerID(), b.ProducerEpoch(), p)
	} else {
		e.offsets.commit(p)
	}
}

// applyPart reads a part of a group of the consumer protocol. The group is one
// from its first record that says something until its epoch is taken back.
func (s *shard) applyPart(e *entry, p Part, r record.Record, now time.Time) error {
	g, consumer := e.group.(*Consumer)
	switch {
	case !consumer && r.Value == nil, p.Kind == partPartitions:
		return nil
	case !consumer:
		g = NewConsumer(e.name, s.cfg.consumerRules(e.name), now)
		e.group, e.saved = g, true
	case p.Kind == partEpoch && r.Value == nil:
		e.group, e.saved = New(e.name, s.rules, now), false
		return nil
	}
	return g.replay(p, r, now)
}

// hold keeps an offset back until the transaction of its producer ends.
func (s *shard) hold(e *entry, producerID int64, epoch int16, p position) {
	t := s.open[producerID]
	if t == nil {
		t = &openTxn{first: p.logOffset, groups: map[string]struct{}{}}
		s.open[producerID] = t
	}
	t.epoch = epoch
	t.groups[e.name] = struct{}{}
	e.offsets.hold(producerID, p)
}

// endTransaction ends a producer's transaction in every group of the shard, and
// returns what it makes valid.
func (s *shard) endTransaction(producerID int64, commit bool) []Commit {
	t := s.open[producerID]
	delete(s.open, producerID)
	if v := s.verifying[producerID]; v != nil {
		v.stale = true
		delete(s.verifying, producerID)
	}
	if t == nil {
		return nil
	}
	var done []Commit
	for name := range t.groups {
		if e := s.groups[name]; e != nil {
			done = append(done, e.offsets.end(name, producerID, commit)...)
		}
	}
	return done
}
