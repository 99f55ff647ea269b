package raftnode

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// What a stranger can hold open without a certificate: maxHandshakes for
// handshakeTimeout each, and maxStrangers requests to be enrolled. One more closes
// the oldest, which is not the one of a member: those take milliseconds.
const (
	handshakeTimeout = 5 * time.Second
	maxHandshakes    = 64
	maxStrangers     = 16
)

// port is a node's one listener. It authenticates connections and hands each to
// the protocol that it was opened for. It knows every connection, so that
// closing it closes them all.
type port struct {
	network     Network
	listener    net.Listener
	advertise   string
	credentials *Credentials
	log         *slog.Logger

	raft, peer, enrol *queue
	// meet decides whether raft may talk over a connection that was accepted.
	meet func(ctx context.Context, c *portConn) error

	handshakes, strangers *crowd

	mu     sync.Mutex
	closed bool
	conns  map[*portConn]struct{}
}

func openPort(network Network, listen, advertise string, c *Credentials, l *slog.Logger) (*port, error) {
	listener, err := network.Listen(listen)
	if err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	if advertise == "" {
		advertise = listener.Addr().String()
	}
	host, _, err := net.SplitHostPort(advertise)
	if err == nil && host == "" {
		err = errors.New("no host")
	} else if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		err = errors.New("others cannot dial it")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("address to advertise %q: %w", advertise, err), listener.Close())
	}
	return &port{
		network:     network,
		listener:    listener,
		advertise:   advertise,
		credentials: c,
		log:         l,
		raft:        newQueue(memoryAddr(advertise)),
		peer:        newQueue(memoryAddr(advertise)),
		enrol:       newQueue(memoryAddr(advertise)),
		handshakes:  newCrowd(maxHandshakes),
		strangers:   newCrowd(maxStrangers),
		conns:       make(map[*portConn]struct{}),
	}, nil
}

// run accepts until ctx ends, then closes everything.
func (p *port) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		p.close()
		return nil
	})
	g.Go(func() error { return p.accept(ctx, g) })
	return g.Wait()
}

func (p *port) accept(ctx context.Context, g *errgroup.Group) error {
	for {
		raw, err := p.listener.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			// Out of file descriptors, most likely: others may close theirs.
			p.log.Warn("accept from peers", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		leave := p.handshakes.enter(raw)
		g.Go(func() error {
			defer leave()
			if err := p.admit(ctx, raw); err != nil && !errors.Is(err, errProbed) && ctx.Err() == nil {
				p.log.Warn("refuse peer connection", "remote", raw.RemoteAddr().String(), "error", err)
			}
			return nil
		})
	}
}

// admit authenticates a connection and queues it for its protocol.
func (p *port) admit(ctx context.Context, raw net.Conn) error {
	conn := p.track(raw)
	if conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	secure := tls.Server(raw, p.credentials.server())
	if err := secure.HandshakeContext(ctx); err != nil {
		return errors.Join(fmt.Errorf("handshake: %w", err), conn.Close())
	}
	if err := p.credentials.Err(); err != nil { // connections are few, and this is urgent
		p.log.Warn("changed credentials are not in use", "error", err)
	}
	state := secure.ConnectionState()
	conn.Conn = secure
	if len(state.PeerCertificates) > 0 { // all but those who want to be enrolled must show one
		conn.cert = state.PeerCertificates[0]
	}
	to := p.peer
	switch state.NegotiatedProtocol {
	case protoRaft:
		if err := p.meet(ctx, conn); err != nil {
			return errors.Join(err, conn.Close())
		}
		to = p.raft
	case protoPeer:
	case protoEnrol:
		conn.leave = p.strangers.enter(raw)
		to = p.enrol
	default:
		return errors.Join(fmt.Errorf("protocol %q", state.NegotiatedProtocol), conn.Close())
	}
	return to.push(conn)
}

// dial opens an authenticated connection for proto. The peer's certificate must
// name id, unless that is empty.
func (p *port) dial(ctx context.Context, addr, proto, id string) (*portConn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("address of peer: %w", err)
	}
	raw, err := p.network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn := p.track(raw)
	if conn == nil {
		return nil, net.ErrClosed
	}
	secure := tls.Client(raw, p.credentials.client(host, proto))
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("handshake with %s: %w", addr, err), conn.Close())
	}
	conn.Conn, conn.cert = secure, secure.ConnectionState().PeerCertificates[0]
	if id != "" && !names(conn.cert, id) {
		return nil, errors.Join(fmt.Errorf("at %s answers %q, not %q", addr, conn.cert.Subject.CommonName, id), conn.Close())
	}
	return conn, nil
}

// track registers a connection, or closes it and returns nil when the port has
// been closed.
func (p *port) track(raw net.Conn) *portConn {
	c := &portConn{Conn: raw, raw: raw, port: p}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = raw.Close()
		return nil
	}
	p.conns[c] = struct{}{}
	return c
}

func (p *port) close() {
	_ = p.listener.Close()
	p.raft.shut()
	p.peer.shut()
	p.enrol.shut()
	p.mu.Lock()
	p.closed = true
	conns := p.conns
	p.conns = make(map[*portConn]struct{})
	p.mu.Unlock()
	for c := range conns {
		_ = c.raw.Close()
	}
}

// portConn is a connection of a port. It hides that it is a *tls.Conn from
// net/http, which would refuse a protocol it does not know.
type portConn struct {
	net.Conn
	raw   net.Conn
	port  *port
	cert  *x509.Certificate // of the peer; nil of a stranger
	leave func()            // of the crowd of strangers
}

// Close closes the connection without TLS's farewell, for which it would have to
// wait; all our protocols know the length of what they expect.
func (c *portConn) Close() error {
	c.port.mu.Lock()
	delete(c.port.conns, c)
	c.port.mu.Unlock()
	if c.leave != nil {
		c.leave()
	}
	return c.raw.Close()
}

// queue is the net.Listener of one protocol.
type queue struct {
	addr  net.Addr
	conns chan *portConn
	done  chan struct{}
	once  sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan *portConn), done: make(chan struct{})}
}

func (q *queue) push(c *portConn) error {
	select {
	case q.conns <- c:
		return nil
	case <-q.done:
		return c.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) shut()          { q.once.Do(func() { close(q.done) }) }
func (q *queue) Close() error   { q.shut(); return nil }
func (q *queue) Addr() net.Addr { return q.addr }

// crowd is a bounded number of connections: who is one too many has the oldest
// closed.
type crowd struct {
	mu   sync.Mutex
	most int
	in   []net.Conn // oldest first
}

func newCrowd(most int) *crowd { return &crowd{most: most} }

// enter adds a connection until leave is called.
func (c *crowd) enter(conn net.Conn) (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.in) == c.most {
		_ = c.in[0].Close()
		c.in = c.in[1:]
	}
	c.in = append(c.in, conn)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if i := slices.Index(c.in, conn); i >= 0 {
			c.in = slices.Delete(c.in, i, i+1)
		}
	}
}
