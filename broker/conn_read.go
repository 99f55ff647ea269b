package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// read hands frames to the worker until the client closes its side. That the
// connection was closed on this side is no failure of its own: whoever did it,
// worker, writer or a stop, says why. The second context ends with the client or a
// stop, when nothing more is begun.
func (c *conn) read(ctx, present context.Context, frames chan<- frame) (err error) {
	defer c.recoverPanic(&err)
	for {
		if err := c.waitForFrame(); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || c.ending.Load() {
				return nil
			}
			return fmt.Errorf("read: %w", err)
		}
		f, err := c.readFrame(present)
		if err != nil && (errors.Is(err, net.ErrClosed) || (c.ending.Load() || present.Err() != nil) && !errors.Is(err, errFrame)) {
			return nil
		}
		if err != nil {
			c.endReading()
			return fmt.Errorf("read: %w", err)
		}
		c.busy.Add(1)
		select {
		case frames <- f:
		case <-ctx.Done():
			c.release(f)
			return nil
		}
	}
}

// waitForFrame returns when the next frame begins. A connection that is silent
// while nothing is under way is closed.
func (c *conn) waitForFrame() error {
	for {
		if err := c.nc.SetReadDeadline(time.Now().Add(c.b.cfg.Limits.IdleTimeout)); err != nil {
			return err
		}
		if c.ending.Load() {
			return io.EOF // looked at after the deadline of endReading was moved
		}
		_, err := c.frames.r.Peek(1)
		if errors.Is(err, os.ErrDeadlineExceeded) && c.busy.Load() > 0 {
			continue
		}
		return err
	}
}

func (c *conn) readFrame(ctx context.Context) (f frame, err error) {
	w := &frameRoom{c: c, ctx: ctx, f: &f}
	sized := frameReader{r: c.frames.r, limit: c.frames.limit, room: w.room, expect: w.expect}
	if f.bytes, err = sized.next(); err != nil {
		c.release(f)
		return frame{}, err
	}
	f.read = time.Now()
	return f, nil
}

// A frame that has begun goes on: it has stallTimeout for its next piece, and the
// time that the piece takes at slowestRate; all of it has frameTimeout, which is
// about when clients give up, and its time at honestRate. What it waits for the
// budget does not count. While that is exhausted it has framePatience.
const (
	stallTimeout  = 10 * time.Second
	slowestRate   = 64 << 10 // bytes a second
	frameTimeout  = 30 * time.Second
	honestRate    = 4 << 20
	framePatience = 10 * time.Second
)

// frameRoom gives one frame its memory, and time.
type frameRoom struct {
	c   *conn
	ctx context.Context
	f   *frame
	end time.Time // by which the frame must be there
}

// room makes a frame's memory larger, within the budget if it is a large one. A
// large frame of a client with a quota is begun when all before it are answered and
// what the client has to wait for them is over, so that who is throttled holds none.
func (w *frameRoom) room(key int16, have []byte, size int) ([]byte, error) {
	first := len(have) == 0
	if first && size >= budgetThreshold {
		if err := w.c.awaitTurn(w.ctx); err != nil {
			return nil, err
		}
	}
	if first {
		w.end = time.Now().Add(frameTimeout + time.Duration(size)*time.Second/honestRate)
	}
	if size < budgetThreshold {
		return make([]byte, size), nil
	}
	lendable := key == int16(kmsg.Produce) || key == mirrorwire.AppendKey
	if first {
		w.f.claim = w.c.b.inFlight.claim(int64(size), w.c.cutShort)
		if lendable && size <= 1<<mostLentBits && w.f.claim.takeWhole(int64(size)) {
			return w.lend(have, size), nil
		}
	}
	next := nextRoom(len(have), size)
	began := time.Now()
	if err := w.f.claim.hold(w.ctx, int64(next)); err != nil {
		return nil, err
	}
	w.end = w.end.Add(time.Since(began))
	if lendable && size <= 1<<mostLentBits {
		return w.lend(have, next), nil
	}
	return enlarged(have, size), nil
}

// lend returns lent memory of a size that begins with have.
func (w *frameRoom) lend(have []byte, size int) []byte {
	before := w.f.lent
	w.f.lent = lendFrame(size)
	copy(*w.f.lent, have)
	if before != nil {
		takeBackFrame(before)
	}
	return *w.f.lent
}

func (w *frameRoom) expect(n int) error {
	next := time.Now().Add(stallTimeout + time.Duration(n)*time.Second/slowestRate)
	if w.end.Before(next) {
		next = w.end
	}
	if err := w.c.nc.SetReadDeadline(next); err != nil {
		return err
	}
	if w.c.ending.Load() {
		return io.EOF // see waitForFrame
	}
	return nil
}

// awaitTurn returns when a client with a quota may send a large frame.
func (c *conn) awaitTurn(ctx context.Context) error {
	if q := c.b.quotas; !q.any() || !q.limited(c.known.Load()) {
		return nil
	}
	for c.busy.Load() > 0 {
		select {
		case <-c.answered:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.sitOut(ctx)
	return ctx.Err()
}

// release gives back what a frame holds. Nothing may refer to its bytes any more
// if they were lent: see [lendFrame].
func (c *conn) release(f frame) {
	if f.lent != nil {
		takeBackFrame(f.lent)
	}
	f.claim.release()
}
