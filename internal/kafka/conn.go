package kafka

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
)

// ErrUnanswered says that a request was written, wholly or in part, and that no
// answer to it came: whether the broker did what it asks is not known. Nothing
// in this package sends such a request again.
var ErrUnanswered = errors.New("no answer: whether the broker did it is not known")

// ErrNotSent says that no byte of a request reached the socket.
var ErrNotSent = errors.New("request was not sent")

// VersionError says that a broker and this program share no version of a
// request.
type VersionError struct {
	Key      int16
	Min, Max int16 // what the broker speaks; Max is -1 if it does not know the request
	Want     int16 // the newest that this program asked for
}

func (e *VersionError) Error() string {
	if e.Max < 0 {
		return fmt.Sprintf("broker does not know %s requests", nameOf(e.Key))
	}
	return fmt.Sprintf("broker speaks %s versions %d to %d, this needs at most %d", nameOf(e.Key), e.Min, e.Max, e.Want)
}

const (
	// requestTimeout is how long an answer may take when the caller's context
	// has no deadline. It is above the 30 s that brokers give themselves
	// (request.timeout.ms), so that theirs is the answer that counts.
	requestTimeout = 40 * time.Second

	// maxResponse bounds a frame that a broker may announce. The largest honest
	// one is a fetch of one batch of the largest message that Kafka takes by
	// default for a request (socket.request.max.bytes, 100 MiB).
	maxResponse = 128 << 20

	// eagerResponse is how much of an announced frame is allocated before its
	// bytes have come. Fetches of a mirror stay below it.
	eagerResponse = 16 << 20
)

// Conn is one connection to one broker: authenticated, with versions agreed,
// and pipelined. Requests are answered in the order in which they were sent.
//
// A Conn is safe for concurrent use. It never retries and never reconnects:
// after its first fault every call fails, those that were under way with
// [ErrUnanswered], later ones with [ErrNotSent]. It owns one goroutine, which
// reads; [Conn.Close] ends it and waits for it.
type Conn struct {
	clientID  string
	formatter *kmsg.RequestFormatter
	raw       net.Conn
	versions  map[int16][2]int16

	writeMu sync.Mutex // serialises writing, so that answers come in the order of calls
	corr    int32
	scratch []byte // head of the request that is being written

	mu      sync.Mutex
	calls   []*Call // sent and not answered, in order
	fault   error   // what broke the connection
	arrived chan struct{}
	done    chan struct{} // closed when broken
	reader  sync.WaitGroup

	// memory, if set, gives the memory that a response is read into.
	memory func(size int) []byte

	renewAt time.Time // somewhat before the broker ends the session (KIP-368), zero if never
}

// Dial connects to the broker at addr of cluster c, with its TLS and SASL. The
// context bounds the handshake only. The caller closes the connection.
func Dial(ctx context.Context, c *flow.Cluster, addr, clientID string) (*Conn, error) {
	raw, err := dialer(c)(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	conn := newConn(raw, clientID)
	if err := conn.handshake(ctx, c.Spec.SASL, addr); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", addr, err), conn.Close())
	}
	return conn, nil
}

func newConn(raw net.Conn, clientID string) *Conn {
	c := &Conn{
		clientID:  clientID,
		formatter: kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)),
		raw:       raw,
		versions:  map[int16][2]int16{kmsg.ApiVersions.Int16(): {0, 3}},
		arrived:   make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
	c.reader.Go(c.read)
	return c
}

// Close breaks the connection and waits until its goroutine has ended. Calls
// under way end with [ErrUnanswered].
func (c *Conn) Close() error {
	c.fail(net.ErrClosed)
	c.reader.Wait()
	return nil
}

// ReadInto makes memory give the memory of each response, at least size bytes: see
// [Call.Memory]. It is called before the first request.
func (c *Conn) ReadInto(memory func(size int) []byte) { c.memory = memory }

// Broken is closed when the connection can no longer be used.
func (c *Conn) Broken() <-chan struct{} { return c.done }

// Usable says whether a new piece of work should begin on this connection: it is
// not broken, and the broker will not end its session soon.
func (c *Conn) Usable() bool {
	select {
	case <-c.done:
		return false
	default:
		return c.renewAt.IsZero() || time.Now().Before(c.renewAt)
	}
}

// Version is the newest version of a request that the broker speaks and that is
// at most limit, or a *VersionError.
func (c *Conn) Version(key, limit int16) (int16, error) {
	r, ok := c.versions[key]
	if !ok {
		return 0, &VersionError{Key: key, Max: -1, Want: limit}
	}
	if r[0] > limit {
		return 0, &VersionError{Key: key, Min: r[0], Max: r[1], Want: limit}
	}
	return min(limit, r[1]), nil
}

// Call is one request under way.
type Call struct {
	key      int16
	corr     int32
	empty    kmsg.Response // what the answer is read into
	flexible bool          // response header
	deadline time.Time

	done   chan struct{}
	resp   kmsg.Response
	memory []byte
	err    error
}

// Size is the length in bytes of an answer on the wire.
func (k *Call) Size() int {
	<-k.done
	return len(k.memory)
}

// Memory is what the byte fields of an answer share, as [Conn.ReadInto] got it, at
// its full capacity. The caller of a call that was answered may use it again when
// nothing of the answer is needed any more.
func (k *Call) Memory() []byte {
	<-k.done
	return k.memory[:cap(k.memory)]
}

// Done is closed when the call has its answer or its error.
func (k *Call) Done() <-chan struct{} { return k.done }

// Wait returns the answer. An end of the context gives the call up, with
// [ErrUnanswered], and leaves the connection usable. Response errors inside the
// answer are the caller's to read.
func (k *Call) Wait(ctx context.Context) (kmsg.Response, error) {
	select {
	case <-k.done:
		return k.resp, k.err
	default:
	}
	select {
	case <-k.done:
		return k.resp, k.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w: %w", nameOf(k.key), ErrUnanswered, context.Cause(ctx))
	}
}

// Request sends req at the newest version up to limit that the broker speaks,
// and waits for the answer.
func (c *Conn) Request(ctx context.Context, req kmsg.Request, limit int16) (kmsg.Response, error) {
	return c.Send(ctx, req, limit).Wait(ctx)
}

// Send writes req, at the newest version up to limit that the broker speaks, and
// returns without waiting for the answer. It blocks while the socket is full.
// The context's deadline is that of the answer.
func (c *Conn) Send(ctx context.Context, req kmsg.Request, limit int16) *Call {
	v, err := c.Version(req.Key(), min(limit, req.MaxVersion()))
	if err != nil {
		return failed(req.Key(), err)
	}
	req.SetVersion(v)
	k := c.newCall(ctx, req.ResponseKind())
	// Only ApiVersions keeps the old response header in its flexible versions.
	k.flexible = req.IsFlexible() && k.key != kmsg.ApiVersions.Int16()
	c.write(k, func(corr int32) net.Buffers {
		s, ok := req.(Splicer)
		if !ok {
			c.scratch = c.formatter.AppendRequest(c.scratch[:0], req, corr)
			return net.Buffers{c.scratch}
		}
		var bufs net.Buffers
		bufs, c.scratch = c.encodeSpliced(s, corr, c.scratch[:0])
		return bufs
	})
	return k
}

func (c *Conn) newCall(ctx context.Context, empty kmsg.Response) *Call {
	k := &Call{key: empty.Key(), empty: empty, done: make(chan struct{}), deadline: time.Now().Add(requestTimeout)}
	if d, ok := ctx.Deadline(); ok {
		k.deadline = d
	}
	return k
}

func failed(key int16, err error) *Call {
	k := &Call{key: key, done: make(chan struct{})}
	k.finish(nil, fmt.Errorf("%s: %w", nameOf(key), err))
	return k
}

func (k *Call) finish(resp kmsg.Response, err error) {
	k.resp, k.err = resp, err
	close(k.done)
}

// write puts a request on the socket. When it returns the socket holds its own
// copy of every buffer, or is closed: the caller may use them again.
func (c *Conn) write(k *Call, build func(corr int32) net.Buffers) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.corr++
	k.corr = c.corr
	if err := c.enqueue(k); err != nil {
		k.finish(nil, fmt.Errorf("%s: %w: %w", nameOf(k.key), ErrNotSent, err))
		return
	}
	bufs := build(k.corr)
	// The error of a closed socket shows in the write.
	_ = c.raw.SetWriteDeadline(k.deadline)
	if _, err := bufs.WriteTo(c.raw); err != nil {
		c.fail(fmt.Errorf("write: %w", err)) // finishes k too
	}
}

func (c *Conn) enqueue(k *Call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault != nil {
		return c.fault
	}
	c.calls = append(c.calls, k)
	select {
	case c.arrived <- struct{}{}:
	default:
	}
	return nil
}

// fail breaks the connection, once, and ends every call under way.
func (c *Conn) fail(cause error) {
	c.mu.Lock()
	if c.fault != nil {
		c.mu.Unlock()
		return
	}
	c.fault = cause
	calls := c.calls
	c.calls = nil
	close(c.done)
	c.mu.Unlock()

	_ = c.raw.Close() // the cause is the error that matters
	for _, k := range calls {
		k.finish(nil, fmt.Errorf("%s: %w: %w", nameOf(k.key), ErrUnanswered, cause))
	}
}

// read gives each response to the call that waits for it, until the connection
// breaks.
func (c *Conn) read() {
	in := bufio.NewReaderSize(c.raw, 64<<10)
	for {
		k := c.awaited()
		if k == nil {
			return
		}
		_ = c.raw.SetReadDeadline(k.deadline) // shows in the read
		frame, err := readFrame(in, c.memory)
		if err != nil {
			c.fail(fmt.Errorf("read: %w", err))
			return
		}
		resp, err := k.decode(frame)
		if err != nil {
			c.fail(fmt.Errorf("read: %w", err))
			return
		}
		if !c.dequeue(k) {
			return
		}
		k.memory = frame
		k.finish(resp, nil)
	}
}

// awaited is the call whose answer comes next; it waits until there is one and
// returns nil when the connection is broken.
func (c *Conn) awaited() *Call {
	for {
		c.mu.Lock()
		var k *Call
		if len(c.calls) > 0 {
			k = c.calls[0]
		}
		c.mu.Unlock()
		if k != nil {
			return k
		}
		select {
		case <-c.arrived:
		case <-c.done:
			return nil
		}
	}
}

// dequeue takes k off the queue; false says that fail has ended it already.
func (c *Conn) dequeue(k *Call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.calls) == 0 || c.calls[0] != k {
		return false
	}
	c.calls = slices.Delete(c.calls, 0, 1)
	return true
}

// readFrame reads one response with its length. It allocates no more than a
// part of what the length announces until the bytes are there. memory may be nil.
func readFrame(in io.Reader, memory func(size int) []byte) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	size := int32(binary.BigEndian.Uint32(head[:]))
	if size < 4 || size > maxResponse {
		return nil, fmt.Errorf("response of %d bytes", size)
	}
	var frame []byte
	if memory != nil && size <= eagerResponse {
		frame = memory(int(size))[:size]
	} else {
		frame = make([]byte, min(size, eagerResponse))
	}
	for n := int32(0); ; {
		m, err := io.ReadFull(in, frame[n:])
		if err != nil {
			return nil, fmt.Errorf("response of %d bytes: %w", size, err)
		}
		if n += int32(m); n == size {
			return frame, nil
		}
		frame = append(frame, make([]byte, min(size-n, n))...)
	}
}

// decode reads a response. Byte fields of the result share the frame's memory.
func (k *Call) decode(frame []byte) (kmsg.Response, error) {
	if len(frame) < 4 {
		return nil, errors.New("response without a correlation id")
	}
	if corr := int32(binary.BigEndian.Uint32(frame)); corr != k.corr {
		return nil, fmt.Errorf("response to request %d where %d is due", corr, k.corr)
	}
	body := frame[4:]
	if k.flexible {
		var err error
		if body, err = skipTags(body); err != nil {
			return nil, err
		}
	}
	resp := k.empty
	if k.key == kmsg.ApiVersions.Int16() && len(body) >= 2 && int16(binary.BigEndian.Uint16(body)) == unsupportedVersion {
		resp.SetVersion(0) // KIP-511: a broker answers what it does not know so
	}
	if err := resp.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("%s response: %w", nameOf(k.key), err)
	}
	return resp, nil
}

// skipTags passes over the tagged fields of a header (KIP-482).
func skipTags(b []byte) ([]byte, error) {
	bad := errors.New("tagged fields of a response header are not readable")
	count, n := binary.Uvarint(b)
	if n <= 0 {
		return nil, bad
	}
	b = b[n:]
	for ; count > 0; count-- {
		_, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, bad
		}
		b = b[n:]
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil, bad
		}
		b = b[uint64(n)+size:]
	}
	return b, nil
}
