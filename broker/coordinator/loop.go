package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker/guard"
	"github.com/waybillhq/waybill/internal/record"
)

const (
	loadBytes = 1 << 20
	// maxAppend bounds one batch; more records become several.
	maxAppend = 256 << 10
)

// Loop is the goroutine of a shard and the log that its state follows from. A
// shard embeds it. Append, Rewrite, Careful, Fail and Failed belong to that
// goroutine; the rest is safe for concurrent use.
type Loop struct {
	topic     string
	partition int32
	log       Log

	inbox chan func()
	ready chan struct{} // closed when loaded
	done  chan struct{} // closed when leadership has ended

	careful bool
	// failure is why leadership has ended, nil if its context has; others read it
	// when done is closed.
	failure error
	// release is what stands before it may go when the log is durable up to
	// settled; 0 is nothing.
	settled, release int64
}

// NewLoop returns the loop of a partition that is about to be led.
func NewLoop(topic string, partition int32, log Log) *Loop {
	return &Loop{
		topic: topic, partition: partition, log: log, careful: true,
		inbox: make(chan func()), ready: make(chan struct{}), done: make(chan struct{}),
	}
}

func (l *Loop) loop() *Loop { return l }

// Partition is the one that is led.
func (l *Loop) Partition() int32 { return l.partition }

// Serve reads the log, giving every batch to replay, and then calls run, which
// calls [Loop.Loaded] and works on the [Loop.Inbox] until ctx ends or [Loop.Failed].
// It returns why leadership has ended: nil if ctx has. A panic of either ends it as
// [Loop.Fail] does.
func (l *Loop) Serve(ctx context.Context, replay func(record.Batch) error, run func(context.Context) error) error {
	defer close(l.done)
	if err := guard.Call(func() error { return l.load(ctx, replay) }); err != nil {
		if ctx.Err() == nil {
			l.failure = fmt.Errorf("load partition %d of %s: %w", l.partition, l.topic, err)
		}
		return l.failure
	}
	err := guard.Call(func() error { return run(ctx) })
	if l.failure == nil && (ctx.Err() == nil || guard.Is(err)) {
		l.failure = err
	}
	return l.failure
}

// Loaded lets requests in.
func (l *Loop) Loaded() { close(l.ready) }

// Inbox are the closures that requests have for the loop.
func (l *Loop) Inbox() <-chan func() { return l.inbox }

// Done is closed when leadership has ended.
func (l *Loop) Done() <-chan struct{} { return l.done }

// Ended is what whoever asks is told when Done is closed. A failure that wraps
// NOT_COORDINATOR says that somebody else leads.
func (l *Loop) Ended() error {
	if l.failure == nil || errors.Is(l.failure, kerr.NotCoordinator) {
		return kerr.NotCoordinator
	}
	return fmt.Errorf("%w: %w", kerr.CoordinatorNotAvailable, l.failure)
}

// Do runs f in the loop's goroutine and returns what f returns. A panic of f ends the
// leadership: what it has left half done is in memory only.
func (l *Loop) Do(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	select {
	case l.inbox <- func() { result <- l.guarded(f) }:
		return <-result
	case <-l.done:
		return l.Ended()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Loop) guarded(f func() error) error {
	err := guard.Call(f)
	if guard.Is(err) {
		l.Fail(err)
		err = fmt.Errorf("%w: %w", kerr.CoordinatorNotAvailable, err)
	}
	return err
}

// Wait returns when what a request was computed from may be told: the log is
// durable up to next. 0 is at once. A log that cannot be made durable ends the
// leadership.
func (l *Loop) Wait(ctx context.Context, next int64) error {
	if next == 0 {
		return nil
	}
	err := l.log.WaitDurable(ctx, next)
	if err == nil || ctx.Err() != nil {
		return err
	}
	err = fmt.Errorf("wait until durable: %w", err)
	_ = l.Do(ctx, func() error { l.Fail(err); return nil })
	return fmt.Errorf("%w: %w", kerr.NotCoordinator, err)
}

// Fail ends the leadership after the closure that is running: memory is not what
// the log says, or the log cannot be written.
func (l *Loop) Fail(err error) {
	if l.failure == nil {
		l.failure = err
	}
}

// Failed is why leadership has to end, nil if it has not.
func (l *Loop) Failed() error { return l.failure }

// Careful says that the log may refuse the next append: it has refused the last,
// or has had none yet.
func (l *Loop) Careful() bool { return l.careful }

// EndOffset is that of the next append.
func (l *Loop) EndOffset() int64 { return l.log.EndOffset() }

// Append appends records in as few batches as may be, and returns the offset of
// each and that after the last. With an error nothing was written, or the
// leadership ends.
func (l *Loop) Append(records []record.Record, stamp record.Stamp) (at []int64, next int64, err error) {
	at, next, err = l.Rewrite(records, stamp)
	if err != nil && len(at) > 0 {
		// The log has what memory has not.
		l.Fail(fmt.Errorf("append the rest of a change to %s: %w", l.topic, err))
	}
	return at, next, err
}

// Rewrite is Append of what the log says already: beside an error it returns the
// offsets of those that were written, which do no harm.
func (l *Loop) Rewrite(records []record.Record, stamp record.Stamp) (at []int64, next int64, err error) {
	at = make([]int64, 0, len(records))
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) && (n == 0 || size < maxAppend) {
			size += len(records[n].Key) + len(records[n].Value)
			n++
		}
		b, err := record.Encode(records[:n], stamp)
		if err != nil {
			return at, next, fmt.Errorf("encode records: %w", err)
		}
		base, end, err := l.log.Append(b)
		if err := l.Outcome(err); err != nil {
			return at, next, err
		}
		for i := range n {
			at = append(at, base+int64(i))
		}
		next, records = end, records[n:]
	}
	return at, next, nil
}

// Outcome takes in how an append to the log has ended that the shard has made
// itself, and returns the error for whoever asked for it: a refusal as it is; any
// other ends the leadership.
func (l *Loop) Outcome(err error) error {
	l.careful = err != nil
	if err == nil {
		return nil
	}
	var refusal *kerr.Error
	if errors.As(err, &refusal) && l.failure == nil {
		return err
	}
	l.Fail(fmt.Errorf("append to %s: %w", l.topic, err))
	return fmt.Errorf("%w: %w", kerr.CoordinatorNotAvailable, err)
}

// CheckpointDue says whether the log has grown by slack since an offset, and may
// be written anew: what was to be let go of the last time is gone, and the log
// takes appends.
func (l *Loop) CheckpointDue(ctx context.Context, since, slack int64) (bool, error) {
	if l.release > 0 {
		if !l.durable(ctx, l.settled) {
			return false, nil
		}
		if err := l.log.DeleteBefore(l.release); err != nil {
			return false, fmt.Errorf("let go of records before offset %d: %w", l.release, err)
		}
		l.release = 0
	}
	grown := l.log.EndOffset() - max(since, l.log.StartOffset())
	return !l.careful && l.failure == nil && grown >= slack, nil
}

// Release lets go of what stands before an offset when the log is durable up to
// settled, at the next [Loop.CheckpointDue].
func (l *Loop) Release(before, settled int64) { l.release, l.settled = before, settled }

// StartOffset is the log's first.
func (l *Loop) StartOffset() int64 { return l.log.StartOffset() }

// durable says whether the log is durable up to next, without waiting to speak
// of.
func (l *Loop) durable(ctx context.Context, next int64) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	return l.log.WaitDurable(ctx, next) == nil
}

// load reads the partition from start to end.
func (l *Loop) load(ctx context.Context, replay func(record.Batch) error) error {
	end := l.log.EndOffset()
	read := func(at int64) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		buf, err := l.log.Read(at, loadBytes)
		if err != nil {
			return nil, fmt.Errorf("read at offset %d: %w", at, err)
		}
		return buf, nil
	}
	for b, err := range record.Scan(l.log.StartOffset(), end, read) {
		if err != nil {
			return err
		}
		if err := replay(b); err != nil {
			return err
		}
	}
	return nil
}
