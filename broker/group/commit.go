package group

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/record"
)

// CommitRequest is what a member of a group, or a consumer that assigns
// partitions itself (generation -1, no member), has read.
type CommitRequest struct {
	Group, MemberID, InstanceID string
	Generation                  int32 // or the epoch of a member of the consumer protocol
	// KnowsEpochs says that the client understands the errors of the consumer
	// protocol (from OffsetCommit 9 on).
	KnowsEpochs bool
	Client      Client
	Offsets     []Offset
}

// Commit stores offsets and returns when they are durable.
func (c *Coordinator) Commit(ctx context.Context, r CommitRequest) error {
	s, err := c.shardOfAny(r.Group)
	if err != nil {
		return err
	}
	var done []Commit
	var next int64
	err = s.Do(ctx, func() error {
		now := time.Now()
		e, err := s.committer(&r, now, false)
		if err != nil || len(r.Offsets) == 0 {
			return err
		}
		at, err := s.append(e, offsetRecords(&r, now), record.NoProducer(record.None))
		if err != nil {
			s.forget(e)
			return err
		}
		for i, o := range r.Offsets {
			previous, _ := e.offsets.commit(position{Offset: o, committedAt: now.UnixMilli(), logOffset: at[i]})
			done = append(done, Commit{r.Client, r.Group, previous, o})
		}
		next = e.next
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.Wait(ctx, next); err != nil {
		return err
	}
	c.committed(done)
	return nil
}

// CommitInTransaction stores offsets that become valid when the producer's
// transaction is committed, and returns when they are durable. It calls verify,
// which asks the transaction's coordinator whether this group's partition of
// [Topic] is in the producer's ongoing transaction, unless it knows.
func (c *Coordinator) CommitInTransaction(ctx context.Context, r CommitRequest, producerID int64, producerEpoch int16, verify func(context.Context) error) error {
	s, err := c.shard(r.Group)
	if err != nil {
		return err
	}
	var v *verification
	err = s.Do(ctx, func() error {
		if t := s.open[producerID]; t == nil || t.epoch != producerEpoch {
			v = s.beginVerification(producerID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if v != nil {
		err = verify(ctx)
	}
	var next int64
	// Whoever has left: the verification has to end.
	ended := s.Do(context.WithoutCancel(ctx), func() error {
		if v != nil {
			s.endVerification(producerID, v)
		}
		if err != nil {
			return err
		}
		if t := s.open[producerID]; v == nil && (t == nil || t.epoch != producerEpoch) || v != nil && v.stale {
			// The transaction has ended meanwhile. To append now would open one
			// that nobody ends.
			return kerr.InvalidTxnState
		}
		next, err = s.commitHeld(&r, producerID, producerEpoch)
		return err
	})
	if ended != nil {
		return ended
	}
	return s.Wait(ctx, next)
}

// commitHeld appends offsets as part of a transaction.
func (s *shard) commitHeld(r *CommitRequest, producerID int64, producerEpoch int16) (next int64, err error) {
	now := time.Now()
	e, err := s.committer(r, now, true)
	if err != nil || len(r.Offsets) == 0 {
		return 0, err
	}
	stamp := record.NoProducer(record.None)
	stamp.ProducerID, stamp.ProducerEpoch = producerID, producerEpoch
	stamp.Attributes = stamp.Attributes.WithTransactional(true)
	at, err := s.append(e, offsetRecords(r, now), stamp)
	if err != nil {
		s.forget(e)
		return 0, err
	}
	for i, o := range r.Offsets {
		s.hold(e, producerID, producerEpoch, position{Offset: o, committedAt: now.UnixMilli(), logOffset: at[i], by: r.Client})
	}
	return e.next, nil
}

// committer finds the group that r commits to and checks that it may. A group
// that does not exist begins with a commit from outside any generation.
func (s *shard) committer(r *CommitRequest, now time.Time, transactional bool) (*entry, error) {
	e := s.get(r.Group)
	if e == nil {
		switch {
		case r.Generation >= 0 && r.KnowsEpochs:
			return nil, kerr.GroupIDNotFound
		case r.Generation >= 0:
			return nil, kerr.IllegalGeneration
		}
		if len(r.Offsets) == 0 {
			return nil, nil
		}
		return s.create(r.Group, now), nil
	}
	err := e.group.CheckCommit(now, r.MemberID, r.InstanceID, r.Generation, transactional)
	if g, ok := e.group.(*Consumer); ok && !transactional && !r.KnowsEpochs && g.expectsEpochs(r.MemberID) {
		return nil, kerr.UnsupportedVersion
	}
	return e, err
}

func offsetRecords(r *CommitRequest, now time.Time) []record.Record {
	records := make([]record.Record, len(r.Offsets))
	for i, o := range r.Offsets {
		records[i] = offsetRecord(r.Group, o, now)
	}
	return records
}

func (s *shard) beginVerification(producerID int64) *verification {
	v := s.verifying[producerID]
	if v == nil {
		v = new(verification)
		s.verifying[producerID] = v
	}
	v.askers++
	return v
}

func (s *shard) endVerification(producerID int64, v *verification) {
	v.askers--
	if v.askers == 0 && s.verifying[producerID] == v {
		delete(s.verifying, producerID)
	}
}

// EndTransaction appends the end of a transaction to a partition of [Topic], and
// returns when it is durable. What the transaction committed becomes valid with
// it. It may be repeated.
func (c *Coordinator) EndTransaction(ctx context.Context, partition int32, m Marker) error {
	s, err := c.shards.Led(partition)
	if err != nil {
		return err
	}
	var done []Commit
	var next int64
	err = s.Do(ctx, func() error {
		n, err := s.log.AppendMarker(m)
		if err := s.Outcome(err); err != nil {
			return err
		}
		next = n
		t := s.open[m.ProducerID]
		done = s.endTransaction(m.ProducerID, m.Commit)
		if t != nil {
			for name := range t.groups {
				if e := s.groups[name]; e != nil {
					e.next = n
					s.forget(e)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.Wait(ctx, next); err != nil {
		return err
	}
	c.committed(done)
	return nil
}

func (c *Coordinator) committed(done []Commit) {
	if c.cfg.OnCommit != nil && len(done) > 0 {
		c.cfg.OnCommit(done)
	}
}
