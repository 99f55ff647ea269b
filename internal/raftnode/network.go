package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Network is where a node listens and dials.
type Network interface {
	Listen(addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// tcpNetwork is the Network of the operating system.
type tcpNetwork struct{}

func (tcpNetwork) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

func (tcpNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// MemoryNetwork connects nodes of one process without sockets, so that tests can
// run on a synthetic clock, and cuts them off from each other. Addresses are
// "host:port" with any host. The zero value is not usable.
type MemoryNetwork struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener // by host
	cut       map[[2]string]bool         // pairs of hosts, in order
	conns     map[*memoryConn]struct{}
}

// NewMemoryNetwork returns a network with no hosts and no cuts.
func NewMemoryNetwork() *MemoryNetwork {
	return &MemoryNetwork{
		listeners: make(map[string]*memoryListener),
		cut:       make(map[[2]string]bool),
		conns:     make(map[*memoryConn]struct{}),
	}
}

// Host returns the network as host sees it.
func (m *MemoryNetwork) Host(host string) Network { return memoryHost{m, host} }

// Isolate cuts host off from all others: connections break and new ones hang
// until their context ends, as behind a firewall that drops packets.
func (m *MemoryNetwork) Isolate(host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut[[2]string{host, ""}] = true
	for c := range m.conns {
		if (c.from == host) != (c.to == host) {
			c.closeLocked()
		}
	}
}

// Cut cuts the link between two hosts, in both directions.
func (m *MemoryNetwork) Cut(a, b string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut[pair(a, b)] = true
	for c := range m.conns {
		if pair(c.from, c.to) == pair(a, b) {
			c.closeLocked()
		}
	}
}

// Heal undoes every cut.
func (m *MemoryNetwork) Heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.cut)
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

func (m *MemoryNetwork) reachableLocked(a, b string) bool {
	return a == b || !m.cut[[2]string{a, ""}] && !m.cut[[2]string{b, ""}] && !m.cut[pair(a, b)]
}

type memoryHost struct {
	network *MemoryNetwork
	host    string
}

func (h memoryHost) Listen(addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	m := h.network
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listeners[host] != nil {
		return nil, fmt.Errorf("listen %s: address already in use", addr)
	}
	l := &memoryListener{network: m, host: host, addr: memoryAddr(addr), conns: make(chan net.Conn), done: make(chan struct{})}
	m.listeners[host] = l
	return l, nil
}

func (h memoryHost) Dial(ctx context.Context, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	m := h.network
	m.mu.Lock()
	if !m.reachableLocked(h.host, host) {
		m.mu.Unlock()
		<-ctx.Done()
		return nil, fmt.Errorf("dial %s: %w", addr, ctx.Err())
	}
	l := m.listeners[host]
	if l == nil {
		m.mu.Unlock()
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	near, far := net.Pipe()
	conn := &memoryConn{Conn: near, network: m, from: h.host, to: host}
	m.conns[conn] = struct{}{}
	m.mu.Unlock()
	select {
	case l.conns <- far:
		return conn, nil
	case <-l.done:
		err = errors.New("connection refused")
	case <-ctx.Done():
		err = ctx.Err()
	}
	conn.Close()
	return nil, fmt.Errorf("dial %s: %w", addr, err)
}

// memoryConn is the dialler's end of a connection; closing it closes both.
type memoryConn struct {
	net.Conn
	network  *MemoryNetwork
	from, to string
}

// Close implements net.Conn.
func (c *memoryConn) Close() error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	return c.closeLocked()
}

func (c *memoryConn) closeLocked() error {
	delete(c.network.conns, c)
	return c.Conn.Close()
}

type memoryListener struct {
	network *MemoryNetwork
	host    string
	addr    memoryAddr
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.network.mu.Lock()
		delete(l.network.listeners, l.host)
		l.network.mu.Unlock()
	})
	return nil
}

func (l *memoryListener) Addr() net.Addr { return l.addr }

type memoryAddr string

func (memoryAddr) Network() string  { return "memory" }
func (a memoryAddr) String() string { return string(a) }
