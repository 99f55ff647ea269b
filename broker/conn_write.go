package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// write waits for answers in order and sends them. After a failure it goes on
// to take answers, so that the worker is not held up, and sends none.
func (c *conn) write(ctx context.Context, answers <-chan answer, unanswered *sync.WaitGroup) error {
	var failed error
	for a := range answers {
		r := a.request
		if failed == nil {
			if failed = c.send(ctx, a); failed != nil {
				c.nc.Close()
				c.gone()
			}
		}
		if a.early != nil {
			<-a.early
		}
		c.awaited.Add(-1)
		r.claim.release()
		c.done()
		unanswered.Done()
	}
	return failed
}

func (c *conn) send(ctx context.Context, a answer) (err error) {
	defer c.recoverPanic(&err)
	defer func() {
		if cap(c.out) > keptBuffer {
			c.out = nil
		}
	}()
	records, err := c.encode(ctx, a)
	if records != nil {
		defer records.release()
		return errors.Join(err, c.stream(records, a.correlation))
	}
	return errors.Join(err, c.writeAll(c.out, false))
}

// encode waits for an answer and leaves it in the buffer, but for one with records.
// A slow client has no more of it in memory than that.
func (c *conn) encode(ctx context.Context, a answer) (*fetchAnswer, error) {
	c.out = c.out[:0]
	resp, err := a.pending(ctx)
	r := a.request
	c.b.metrics.answered(r, resp, time.Since(a.read))
	if resp == nil {
		return nil, err
	}
	if r.throttle > 0 {
		c.b.metrics.Throttled.Add(1)
	}
	c.mute(r.throttle) // which the end of the request may have added
	if t, ok := resp.(kmsg.SetThrottleResponse); ok {
		t.SetThrottle(int32(r.throttle.Milliseconds()))
	}
	if f, ok := resp.(*fetchAnswer); ok {
		return f, err
	}
	c.out = appendResponse(c.out, a.correlation, resp)
	if r.body = nil; len(c.out) < spendStep {
		r.claim.release()
	} else {
		r.claim.settle(int64(cap(c.out)))
	}
	return nil, err
}

// writeAll writes all of p. The client has the write timeout for each megabyte.
func (c *conn) writeAll(p []byte, more bool) error {
	for len(p) > 0 {
		if err := c.extendWrite(); err != nil {
			return err
		}
		write := c.nc.Write
		if more {
			write = func(p []byte) (int, error) { return writeMore(c.nc, p) }
		}
		n, err := write(p[:min(len(p), deadlineStep)])
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		p = p[n:]
	}
	return nil
}

// extendWrite gives the client the write timeout from now on.
func (c *conn) extendWrite() error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.b.cfg.Limits.WriteTimeout)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// done says that a request is answered, or will not be.
func (c *conn) done() {
	if c.busy.Add(-1) == 0 {
		select {
		case c.answered <- struct{}{}:
		default: // nobody has looked since the last time
		}
	}
}
