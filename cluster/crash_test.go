package cluster

import (
	"context"
	"errors"
	"net"
	"sync"
)

// cord is a TCP network that can be pulled out: from then on the node is as good
// as killed for its peers.
type cord struct {
	mu     sync.Mutex
	pulled bool
	open   []interface{ Close() error }
}

func (c *cord) Listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return cordListener{l, c}, c.hold(l)
}

func (c *cord) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn, c.hold(conn)
}

func (c *cord) hold(x interface{ Close() error }) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pulled {
		_ = x.Close()
		return errors.New("the cord is pulled")
	}
	c.open = append(c.open, x)
	return nil
}

func (c *cord) pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulled = true
	for _, x := range c.open {
		_ = x.Close()
	}
}

type cordListener struct {
	net.Listener
	cord *cord
}

func (l cordListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn, l.cord.hold(conn)
}
