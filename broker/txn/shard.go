package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/broker/coordinator"
	"github.com/waybillhq/waybill/broker/guard"
	"github.com/waybillhq/waybill/internal/record"
)

// decodeLimit bounds a decompressed batch of our own topic.
const decodeLimit = 64 << 20

// entry is one transactional id of a shard.
type entry struct {
	txn Txn
	// next is the offset after the last record of this id: what was computed from
	// its state may be told when the log is durable up to there.
	next int64
	// settled is closed when the transaction that is ending has its markers.
	settled chan struct{}
}

// shard is the transactional ids of one partition. ids and next are the leading
// goroutine's.
type shard struct {
	*coordinator.Loop
	*Coordinator
	epoch int32

	// enders write the markers of transactions that are ending; endCtx is theirs.
	enders *errgroup.Group
	endCtx context.Context

	ids  map[string]*entry
	next int64 // end of the last checkpoint
	// delayed says that it has been told that checkpoints are.
	delayed bool
}

func newShard(c *Coordinator, partition, epoch int32, log Log) *shard {
	return &shard{Loop: coordinator.NewLoop(Topic, partition, log), Coordinator: c, epoch: epoch, ids: map[string]*entry{}}
}

// run serves the shard until ctx ends, the log fails, or an ender finds that
// somebody else leads.
func (s *shard) run(ctx context.Context) (err error) {
	ctx, stop := context.WithCancel(ctx)
	s.enders, s.endCtx = errgroup.WithContext(ctx)
	defer func() {
		stop()
		err = errors.Join(err, s.enders.Wait())
	}()
	highest := NoProducer.ID
	for _, e := range s.ids {
		highest = max(highest, e.txn.Producer.ID, e.txn.NextID)
		if e.txn.State.preparing() {
			s.settle(e)
		}
	}
	// The store of ids may have been put back from a backup.
	if err := s.Coordinator.ids.PassProducerID(highest); err != nil {
		return err
	}
	s.passed.Store(s.Loop.Partition(), nil)
	s.Loaded()
	s.work()
	return s.Failed()
}

// work does what requests want and what time brings.
func (s *shard) work() {
	check := time.NewTicker(s.cfg.CheckInterval)
	defer check.Stop()
	for s.Failed() == nil {
		select {
		case <-s.endCtx.Done():
			return
		case f := <-s.Inbox():
			f()
		case <-check.C:
			s.check(time.Now())
			err := s.checkpoint(s.endCtx)
			if err != nil && !s.delayed {
				s.cfg.Log.Warn("transaction checkpoint is delayed", "partition", s.Loop.Partition(), "err", err)
			}
			s.delayed = err != nil
		}
	}
}

// await waits for markers, but not for longer than patience.
func (s *shard) await(ctx context.Context, settled <-chan struct{}, patience time.Duration) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-settled:
	case <-t.C:
	case <-s.Done():
	case <-ctx.Done():
	}
}

// step applies an event, records what it changes, and lets the markers be
// written if it ends a transaction. answer is the machine's, err the log's.
func (s *shard) step(e *entry, now time.Time, ev Event) (answer, err error) {
	next, changed, answer := e.txn.Step(now, ev)
	if !changed {
		return answer, nil
	}
	_, n, err := s.Append([]record.Record{toRecord(next)}, record.NoProducer(record.None))
	if err != nil {
		return nil, err
	}
	e.txn, e.next = next, n
	s.ids[next.ID] = e
	if next.State.preparing() {
		s.settle(e)
	}
	return answer, nil
}

// settle begins to write the markers of a transaction that is decided.
func (s *shard) settle(e *entry) {
	e.settled = make(chan struct{})
	t, next := e.txn, e.next
	s.enders.Go(func() (err error) {
		defer guard.Recover(&err)
		if err := s.writeMarkers(t, next); err != nil {
			return err
		}
		for retry := firstRetry; s.endCtx.Err() == nil; retry = min(2*retry, lastRetry) {
			var answer error
			err := s.Do(s.endCtx, func() (err error) {
				answer, err = s.step(e, time.Now(), Settled{})
				if errors.Join(answer, err) == nil {
					close(e.settled)
					e.settled = nil
				}
				return err
			})
			if answer != nil {
				return fmt.Errorf("complete transaction of %q: %w", t.ID, answer)
			}
			if err == nil {
				return nil
			}
			// The log has refused it, for now, or it ends the leadership.
			rest(s.endCtx, retry)
		}
		return nil
	})
}

// check aborts the transactions that have outlived their timeout, and forgets
// the ids that have been idle for long.
func (s *shard) check(now time.Time) {
	for id, e := range s.ids {
		if s.Failed() != nil {
			return
		}
		if d := e.txn.due(); !d.IsZero() && !now.Before(d) {
			was := e.txn
			if _, err := s.step(e, now, Timeout{}); err != nil {
				return // the next check tries again
			}
			s.cfg.Log.Info("transaction timed out", "transactional_id", id, "producer_id", was.Producer.ID, "timeout", was.Timeout)
		}
		idle := e.txn.State != Ongoing && !e.txn.State.preparing()
		if idle && now.Sub(e.txn.Updated) >= s.cfg.IDExpiry {
			if _, _, err := s.Append([]record.Record{tombstone(id, now)}, record.NoProducer(record.None)); err != nil {
				return
			}
			delete(s.ids, id)
		}
	}
}

// replay applies a batch that is in the log.
func (s *shard) replay(b record.Batch) error {
	records, err := b.Decode(decodeLimit)
	if err != nil {
		return err
	}
	for _, r := range records {
		t, live, err := fromRecord(r)
		if err != nil {
			return fmt.Errorf("record at offset %d: %w", r.Offset, err)
		}
		if live {
			s.ids[t.ID] = &entry{txn: t, next: b.NextOffset()}
		} else {
			delete(s.ids, t.ID)
		}
	}
	return nil
}

// checkpoint keeps the partition about as short as what it says. When it has
// grown, since the last time, by some slack more than it has live records, all of
// these are written again, and what stood before is let go once they are durable.
// It stands in for log compaction, and bounds the time of a start.
func (s *shard) checkpoint(ctx context.Context) error {
	if due, err := s.CheckpointDue(ctx, s.next, int64(len(s.ids))+s.cfg.CheckpointRecords); !due {
		return err
	}
	begin := s.EndOffset()
	s.next = begin
	var records []record.Record
	var entries []*entry
	for _, e := range s.ids {
		records, entries = append(records, toRecord(e.txn)), append(entries, e)
	}
	at, next, err := s.Rewrite(records, record.NoProducer(record.None))
	for i := range at {
		entries[i].next, s.next = next, next
	}
	if err != nil {
		return err // what stands before is kept, and what was written is not too much
	}
	s.Release(begin, s.next)
	return nil
}
