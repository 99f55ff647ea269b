package broker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/internal/mirrorwire"
)

const (
	// pipelineDepth is how many Produce requests of one connection may await
	// their sync; clients send five by default.
	pipelineDepth = 16
	readBuffer    = 4 << 10 // larger frames are read past it
	// budgetThreshold is the size from which a frame counts against
	// Limits.MaxInFlightBytes.
	budgetThreshold = 64 << 10
	// keptBuffer is the greatest write buffer that a connection keeps: there may
	// be ten thousand that are idle.
	keptBuffer = 8 << 10
)

// conn is one connection. Three goroutines share it while it is authenticated:
//
//	reader  frames off the socket            ─frames─▶ worker
//	worker  decodes, handles, in order       ─answers─▶ writer
//	writer  waits for durability, writes, in order
//
// The worker does not begin a request before all earlier ones are answered,
// unless both are pipelined (Produce). The reader sees a client that goes away
// and ends the context of whatever the worker is waiting for.
type conn struct {
	b      *Broker
	nc     net.Conn
	ln     *listener
	frames frameReader
	log    *slog.Logger

	client  Client                 // the worker's; set before it starts
	known   atomic.Pointer[Client] // what client was at the last request, as it stays
	session session                // likewise

	// ending is set when the broker stops, or will not have the client's next
	// request: what was read before is answered, and nothing more is read.
	ending atomic.Bool
	// busy counts requests that are not answered, so that an idle connection can
	// be told from one that waits.
	busy     atomic.Int64
	answered chan struct{} // has one when busy may have become 0
	short    atomic.Bool   // the connection is cut for a budget
	gone     func()        // ends what waits for the client or on its behalf
	// afford takes memory for a request; nil outside of pipeline.
	afford func(r *request, n int64) error
	out    []byte // the writer's buffer
	// late is closed when a stop does not wait any longer for what was asked.
	late chan struct{}
	// muted is until when the connection is not served, for exceeding a quota, in
	// nanoseconds since 1970.
	muted atomic.Int64
}

// frame is one request's bytes, the budget that they hold, if they do, and the lent
// memory that they are in, if they are.
type frame struct {
	bytes []byte
	claim *claim
	lent  *[]byte
	read  time.Time
}

type answer struct {
	correlation int32
	pending     pending
	request     *request
	read        time.Time
}

// serve runs the connection until the client leaves, misbehaves, or ctx ends.
// It returns nil when the client left in good order.
func (c *conn) serve(ctx context.Context) error {
	socket := c.nc // TLS wraps it later
	defer socket.Close()
	stop := context.AfterFunc(ctx, func() { socket.Close() })

	if err := c.open(ctx); err != nil {
		stop()
		return err
	}
	if !stop() {
		return nil // the broker stops: nothing was read yet
	}
	c.frames.limit = c.b.frameLimit
	if err := c.pipeline(ctx); !c.short.Load() {
		return err
	}
	return errShort
}

// open does all that happens before ordinary requests are taken: TLS and SASL,
// under one deadline.
func (c *conn) open(ctx context.Context) (err error) {
	defer c.recoverPanic(&err)
	if err := c.nc.SetDeadline(time.Now().Add(c.b.cfg.Limits.HandshakeTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	c.client = Client{Listener: c.ln.Name, Host: hostOf(c.nc.RemoteAddr()), Principal: anonymous}
	if c.ln.tls != nil {
		principal, err := c.startTLS(ctx)
		if err != nil {
			return fmt.Errorf("tls handshake: %w", err)
		}
		c.client.Principal = principal
	}
	c.frames = frameReader{r: bufio.NewReaderSize(c.nc, readBuffer), limit: unauthenticatedFrameLimit}
	if c.ln.Protocol.sasl() {
		if err := c.authenticate(ctx); err != nil {
			return err
		}
	}
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("clear deadline: %w", err)
	}
	return nil
}

func (c *conn) pipeline(ctx context.Context) error {
	c.late, c.answered = make(chan struct{}), make(chan struct{}, 1)
	frames := make(chan frame)
	answers := make(chan answer, pipelineDepth)
	var unanswered sync.WaitGroup

	// The end of the reader ends the worker, and that the writer. A failure to
	// write closes the socket, which ends the reader. Otherwise the socket is
	// closed when all that was asked is answered.
	group, groupCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	stop := context.AfterFunc(groupCtx, func() { c.nc.Close() })
	defer stop()
	clientCtx, gone := context.WithCancel(groupCtx)
	defer gone()
	c.gone, c.afford = gone, c.affords(clientCtx)
	// When the broker stops, the reader ends as if the client had sent its last
	// request; worker and writer end after it, at the latest after the drain.
	drained := context.AfterFunc(ctx, func() {
		c.endReading()
		gone()
		cut := time.AfterFunc(c.b.cfg.Limits.DrainTimeout, func() {
			close(c.late)
			c.nc.Close()
		})
		context.AfterFunc(groupCtx, func() { cut.Stop() })
	})
	defer drained()

	answered := make(chan struct{})
	group.Go(func() error {
		err := c.read(groupCtx, clientCtx, frames)
		gone()
		close(frames)
		<-answered
		return err
	})
	group.Go(func() error {
		defer close(answered)
		defer close(answers)
		err := c.work(clientCtx, frames, answers, &unanswered)
		unanswered.Wait()
		if c.ending.Load() {
			c.partInPeace()
		}
		return err
	})
	group.Go(func() error {
		return c.write(clientCtx, answers, &unanswered)
	})
	return group.Wait()
}

// endReading has the reader end as if the client had sent its last request.
func (c *conn) endReading() {
	c.ending.Store(true)
	_ = c.nc.SetReadDeadline(time.Now()) // a closed socket needs none
}

const (
	// partingLimit bounds the wait for a client that goes on sending.
	partingLimit = 500 * time.Millisecond
	// quietFor says that the socket holds no more requests.
	quietFor = 50 * time.Millisecond
)

// partInPeace ends a connection so that the client gets the answers that are on
// their way: closed over requests that nobody has read, a socket resets the
// connection and drops them (RFC 1122, 4.2.2.13). The reader has ended.
func (c *conn) partInPeace() {
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the client may be gone
	}
	unread := make([]byte, readBuffer)
	for end := time.Now().Add(partingLimit); time.Now().Before(end); {
		if c.nc.SetReadDeadline(time.Now().Add(quietFor)) != nil {
			return
		}
		if _, err := c.nc.Read(unread); err != nil {
			return
		}
	}
}

// read hands frames to the worker until the client closes its side. That the
// connection was closed on this side is no failure of its own: whoever did it,
// worker, writer or a stop, says why. The second context ends with the client or a
// stop, when nothing more is begun.
func (c *conn) read(ctx, present context.Context, frames chan<- frame) error {
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

// cutShort ends the connection so that others have the memory that it holds.
func (c *conn) cutShort() {
	c.short.Store(true)
	c.nc.Close()
	c.gone()
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

// done says that a request is answered, or will not be.
func (c *conn) done() {
	if c.busy.Add(-1) == 0 {
		select {
		case c.answered <- struct{}{}:
		default: // nobody has looked since the last time
		}
	}
}

// release gives back what a frame holds. Nothing may refer to its bytes any more
// if they were lent: see [lendFrame].
func (c *conn) release(f frame) {
	if f.lent != nil {
		takeBackFrame(f.lent)
	}
	f.claim.release()
}

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
		answers <- answer{h.correlation, p, r, f.read}
	}
	return failed
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
	body := newRequest(row.key)
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
	p = row.handle(c.b, ctx, r)
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

var errPanic = errors.New("request panicked")

// recoverPanic, deferred, makes a panic the end of this connection only.
func (c *conn) recoverPanic(err *error) {
	if v := recover(); v != nil {
		c.log.Error("request panicked", "panic", v, "stack", string(debug.Stack()))
		*err = errPanic
	}
}

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

func hostOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}
