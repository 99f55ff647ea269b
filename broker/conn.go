package broker

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/broker/guard"
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
// unless both are pipelined (Produce): such a one waits for the disk beside those
// before it, on a goroutine that the writer waits for. The reader sees a client that goes away
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
	awaited  atomic.Int64  // of those, the ones that were begun
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
	early       <-chan struct{} // closed when a pending that was called ahead has returned; nil if it was not
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

// cutShort ends the connection so that others have the memory that it holds.
func (c *conn) cutShort() {
	c.short.Store(true)
	c.nc.Close()
	c.gone()
}

// recoverPanic, deferred, makes a panic the end of this connection only.
func (c *conn) recoverPanic(err *error) {
	if v := recover(); v != nil {
		*err = guard.Of(v)
		c.log.Error("request panicked", guard.About(*err)...)
	}
}

func hostOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}
