package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// work decodes and handles requests in order. It does not stop for an ended
// context: what was read is handled, so that a client may send and leave.
func (c *conn) work(ctx context.Context, frames <-chan frame, answers chan<- answer, unanswered *sync.WaitGroup) error {
	pipelined := true
	var failed error
	for f := range frames {
		if failed != nil {
			c.release(f)
			c.done()
			continue
		}
		h := frameHeader(f.bytes)
		row := c.b.table[h.key]
		if row == nil || !row.pipelined || !pipelined {
			unanswered.Wait()
		}
		pipelined = row != nil && row.pipelined
		c.sitOut(ctx)
		r, p, err := c.handle(ctx, h, row, f.bytes)
		c.release(f)
		if err != nil {
			failed = err
			c.done()
			c.endReading() // and with that this loop
			continue
		}
		unanswered.Add(1)
		var early <-chan struct{}
		if c.awaited.Add(1) > 1 && row.pipelined {
			p, early = c.ahead(ctx, p)
		}
		answers <- answer{h.correlation, p, r, f.read, early}
	}
	return failed
}

// ahead has a request that is behind others wait for the disk beside them: else their
// syncs would follow one another, and who reads the one's partition wait for the other's.
// done is closed when nothing of it runs any more.
func (c *conn) ahead(ctx context.Context, p pending) (waits pending, done <-chan struct{}) {
	ended := make(chan struct{})
	var resp kmsg.Response
	var err error
	go func() {
		defer close(ended)
		defer c.recoverPanic(&err)
		resp, err = p(ctx)
	}()
	return func(context.Context) (kmsg.Response, error) {
		<-ended
		return resp, err
	}, ended
}

// handle answers one frame. An error is the end of the connection.
func (c *conn) handle(ctx context.Context, h header, row *api, frame []byte) (r *request, p pending, err error) {
	defer func() {
		if err != nil && r != nil {
			r.claim.release()
		}
	}()
	defer c.recoverPanic(&err)
	if row == nil {
		return nil, nil, fmt.Errorf("%w: unknown api key %d", errFrame, h.key)
	}
	r = &request{api: row, version: h.version, broker: c.b, conn: c, late: c.late}
	if h.version < row.min || h.version > row.max {
		if row.key == kmsg.ApiVersions {
			resp := c.b.unsupportedAPIVersions()
			return r, func(context.Context) (kmsg.Response, error) { return resp, nil }, nil
		}
		return r, nil, fmt.Errorf("%w: %s v%d is not supported", errFrame, apiName(row.key), h.version)
	}
	if err := c.admits(row.key); err != nil {
		return r, nil, err
	}
	body := row.handle.empty()
	body.SetVersion(h.version)
	clientID, err := r.decode(frame, body)
	if err != nil {
		return r, nil, err
	}
	c.client.ClientID = clientID
	if v, ok := body.(*kmsg.ApiVersionsRequest); ok {
		c.noteSoftware(v)
	}
	known := c.known.Load()
	if known == nil || *known != c.client {
		now := c.client
		known = &now
		c.known.Store(known)
	}
	r.client, r.body, r.size = known, body, len(frame)
	began := time.Now()
	p = row.handle.begin(c.b, ctx, r)
	r.throttleTime(time.Since(began))
	c.mute(r.throttle)
	return r, p, r.unpaid
}

// mute keeps the connection from being served for a time.
func (c *conn) mute(wait time.Duration) {
	if wait > 0 {
		c.muted.Store(time.Now().Add(wait).UnixNano())
	}
}

// sitOut waits while the connection is muted, or until the client has gone.
func (c *conn) sitOut(ctx context.Context) {
	until := c.muted.Load()
	if until == 0 {
		return
	}
	c.muted.Store(0)
	timer := time.NewTimer(time.Until(time.Unix(0, until)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
