//go:build chaos && unix

package chaos

import (
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands between everybody and one broker. It can hold answers back, so
// that what was asked for is done and nobody knows, and cut connections. With a
// tap it knows the requests and answers that pass, which TLS would hide.
type proxy struct {
	listener net.Listener
	target   string
	tap      *tap
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	open  chan struct{} // closed while answers pass
	delay time.Duration // of each piece of an answer
}

func newProxy(t *testing.T, target string) *proxy { return startProxy(t, target, nil) }

func startProxy(t *testing.T, target string, tapped *tap) *proxy {
	t.Helper()
	host, _, err := net.SplitHostPort(target)
	must(t, err)
	l, err := net.Listen("tcp", host+":0")
	must(t, err)
	p := &proxy{listener: l, target: target, tap: tapped, conns: map[net.Conn]bool{}, open: make(chan struct{})}
	close(p.open)
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// close ends it for good. It may be called again.
func (p *proxy) close() {
	_ = p.listener.Close()
	p.pass()
	p.cut()
	p.wg.Wait()
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	requests, answers := p.copy, p.copy
	if p.tap != nil {
		l := p.tap.connect()
		requests = func(to, from net.Conn, _ bool) { l.requests(to, from) }
		answers = func(to, from net.Conn, _ bool) { l.answers(to, from, p.gate) }
	}
	var wg sync.WaitGroup
	wg.Go(func() { requests(server, client, false) })
	wg.Go(func() { answers(client, server, true) })
	wg.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

func (p *proxy) copy(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if answers {
			p.gate()
		}
		if _, writeErr := to.Write(buf[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

// gate lets an answer through when answers pass.
func (p *proxy) gate() {
	p.mu.Lock()
	open, delay := p.open, p.delay
	p.mu.Unlock()
	<-open
	time.Sleep(delay)
}

// hold keeps answers back until pass.
func (p *proxy) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default:
	}
}

func (p *proxy) pass() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

// cut closes every connection; what was held back is lost.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) slow(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}
