package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/internal/record"
)

const (
	loadBytes = 1 << 20
	// decodeLimit bounds a decompressed batch of our own topic.
	decodeLimit = 64 << 20
	// maxAppend bounds one batch of a checkpoint.
	maxAppend = 256 << 10
)

// entry is one transactional id of a shard.
type entry struct {
	txn Txn
	// next is the offset after the last record of this id: what was computed from
	// its state may be told when the log is durable up to there.
	next int64
	// settled is closed when the transaction that is ending has its markers.
	settled chan struct{}
}

// shard is the transactional ids of one partition. ids and failure are the
// leading goroutine's.
type shard struct {
	*Coordinator
	partition, epoch int32
	log              Log
	inbox            chan func()
	ready            chan struct{} // closed when loaded
	done             chan struct{} // closed when leadership has ended

	// enders write the markers of transactions that are ending; endCtx is theirs.
	enders *errgroup.Group
	endCtx context.Context

	ids     map[string]*entry
	failure error // why leadership has to end
	// next and release are of the last checkpoint: when the log is durable up to
	// next, what stands before release may go. A release of 0 is done.
	next, release int64
}

func newShard(c *Coordinator, partition, epoch int32, log Log) *shard {
	return &shard{
		Coordinator: c,
		partition:   partition,
		epoch:       epoch,
		log:         log,
		inbox:       make(chan func()),
		ready:       make(chan struct{}),
		done:        make(chan struct{}),
		ids:         map[string]*entry{},
	}
}

func (s *shard) lead(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		close(s.done)
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("load partition %d of %s: %w", s.partition, Topic, err)
	}
	ctx, stop := context.WithCancel(ctx)
	s.enders, s.endCtx = errgroup.WithContext(ctx)
	for _, e := range s.ids {
		if e.txn.State.preparing() {
			s.settle(e)
		}
	}
	close(s.ready)
	err := s.run()
	close(s.done)
	stop()
	return errors.Join(err, s.enders.Wait())
}

// run serves the shard until its context ends, the log fails, or an ender finds
// that somebody else leads.
func (s *shard) run() error {
	check := time.NewTicker(s.cfg.CheckInterval)
	defer check.Stop()
	for s.failure == nil {
		select {
		case <-s.endCtx.Done():
			return nil
		case f := <-s.inbox:
			f()
		case <-check.C:
			s.check(time.Now())
			if err := s.checkpoint(s.endCtx); err != nil {
				s.cfg.Log.Warn("transaction checkpoint is delayed", "partition", s.partition, "err", err)
			}
		}
	}
	return s.failure
}

// do runs f in the leading goroutine and returns what f returns.
func (s *shard) do(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	select {
	case s.inbox <- func() { result <- f() }:
		return <-result
	case <-s.done:
		return kerr.NotCoordinator
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait returns when what a request was computed from may be told.
func (s *shard) wait(ctx context.Context, next int64) error {
	if err := s.log.WaitDurable(ctx, next); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%w: wait until durable: %w", kerr.NotCoordinator, err)
	}
	return nil
}

// await waits for markers, but not for longer than patience.
func (s *shard) await(ctx context.Context, settled <-chan struct{}, patience time.Duration) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-settled:
	case <-t.C:
	case <-s.done:
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
	n, err := s.append([]record.Record{toRecord(next)})
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

// append writes records as one batch. A refusal concerns its request only;
// anything else ends the leadership.
func (s *shard) append(records []record.Record) (next int64, err error) {
	b, err := record.Encode(records, record.NoProducer(record.None))
	if err != nil {
		return 0, fmt.Errorf("encode records: %w", err)
	}
	next, err = s.log.Append(b)
	var refusal *kerr.Error
	switch {
	case err == nil:
		return next, nil
	case errors.As(err, &refusal):
		return 0, err
	}
	s.failure = fmt.Errorf("append to %s: %w", Topic, err)
	return 0, fmt.Errorf("%w: %w", kerr.CoordinatorNotAvailable, err)
}

// settle begins to write the markers of a transaction that is decided.
func (s *shard) settle(e *entry) {
	e.settled = make(chan struct{})
	t, next := e.txn, e.next
	s.enders.Go(func() error {
		err := s.writeMarkers(t, next)
		if err != nil || s.endCtx.Err() != nil {
			return err
		}
		err = s.do(s.endCtx, func() error {
			answer, err := s.step(e, time.Now(), Settled{})
			if err == nil {
				close(e.settled)
				e.settled = nil
			}
			return errors.Join(answer, err)
		})
		if err != nil && s.endCtx.Err() == nil && !errors.Is(err, kerr.NotCoordinator) {
			return fmt.Errorf("complete transaction of %q: %w", t.ID, err)
		}
		return nil
	})
}

// check aborts the transactions that have outlived their timeout, and forgets
// the ids that have been idle for long.
func (s *shard) check(now time.Time) {
	for id, e := range s.ids {
		if s.failure != nil {
			return
		}
		if d := e.txn.due(); !d.IsZero() && !now.Before(d) {
			s.cfg.Log.Info("transaction timed out", "transactional_id", id, "producer_id", e.txn.Producer.ID, "timeout", e.txn.Timeout)
			if _, err := s.step(e, now, Timeout{}); err != nil {
				return
			}
		}
		idle := e.txn.State != Ongoing && !e.txn.State.preparing()
		if idle && now.Sub(e.txn.Updated) >= s.cfg.IDExpiry {
			if _, err := s.append([]record.Record{tombstone(id, now)}); err != nil {
				return
			}
			delete(s.ids, id)
		}
	}
}

// load reads the partition from start to end.
func (s *shard) load(ctx context.Context) error {
	end := s.log.EndOffset()
	for at := s.log.StartOffset(); at < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		buf, err := s.log.Read(at, loadBytes)
		if err != nil {
			return fmt.Errorf("read at offset %d: %w", at, err)
		}
		was := at
		for len(buf) > 0 {
			b, rest, err := record.Next(buf)
			if errors.Is(err, record.ErrPartial) {
				break
			}
			if err != nil {
				return err
			}
			if err := s.replay(b); err != nil {
				return err
			}
			at, buf = b.NextOffset(), rest
		}
		if at <= was {
			return fmt.Errorf("read at offset %d: nothing below the end %d", at, end)
		}
	}
	return nil
}

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
	if s.release > 0 {
		soon, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		if s.log.WaitDurable(soon, s.next) != nil {
			return nil
		}
		if err := s.log.DeleteBefore(s.release); err != nil {
			return fmt.Errorf("let go of records before offset %d: %w", s.release, err)
		}
		s.release = 0
	}
	begin := s.log.EndOffset()
	if s.failure != nil || begin-max(s.next, s.log.StartOffset()) < int64(len(s.ids))+s.cfg.CheckpointRecords {
		return nil
	}
	s.next = begin
	var batch []record.Record
	var entries []*entry
	size := 0
	flush := func() error {
		next, err := s.append(batch)
		if err != nil {
			return err
		}
		for _, e := range entries {
			e.next = next
		}
		s.next, batch, entries, size = next, nil, nil, 0
		return nil
	}
	for _, e := range s.ids {
		r := toRecord(e.txn)
		if size+len(r.Value) > maxAppend && len(batch) > 0 {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, entries, size = append(batch, r), append(entries, e), size+len(r.Key)+len(r.Value)
	}
	if len(batch) > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	s.release = begin
	return nil
}
