package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// tap stands before one listener of the broker.
type tap struct {
	kept   *frames
	newest atomic.Int32 // version that answers to ApiVersions may claim
	l      net.Listener
	to     string // where the broker is to listen
}

// newTap listens, and finds a port for the broker, which has to be told of the tap
// before it listens itself.
func newTap(ctx context.Context, kept *frames, newest int16) (*tap, error) {
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	free, err := listen(ctx)
	if err != nil {
		l.Close()
		return nil, err
	}
	t := &tap{kept: kept, l: l, to: free.Addr().String()}
	t.newest.Store(int32(newest))
	return t, free.Close()
}

func listen(ctx context.Context) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
}

func (t *tap) addr() string { return t.l.Addr().String() }

// run passes connections on to the broker until the context ends.
func (t *tap) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { t.l.Close() })
	defer stop()
	var conns errgroup.Group
	for {
		client, err := t.l.Accept()
		if err != nil {
			_ = conns.Wait() // connections end as their ends want it
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		conns.Go(func() error { return t.relay(ctx, client) })
	}
}

// relay passes a connection on until one side ends it.
func (t *tap) relay(ctx context.Context, client net.Conn) error {
	defer client.Close()
	server, err := new(net.Dialer).DialContext(ctx, "tcp", t.to)
	if err != nil {
		return err
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
	defer stop()
	c := &tapped{tap: t, asked: map[int32]int16{}}
	var sides sync.WaitGroup
	side := func(to, from net.Conn, pass func(frame []byte) []byte) {
		sides.Go(func() {
			// Either side may end it at any time.
			_ = relayFrames(to, from, pass)
			to.Close()
			from.Close()
		})
	}
	side(server, client, c.request)
	side(client, server, c.response)
	sides.Wait()
	return nil
}

// mostFrame is what no frame of an honest client exceeds.
const mostFrame = 100 << 20

// relayFrames copies what pass makes of each frame. Both are without the length.
func relayFrames(to io.Writer, from io.Reader, pass func([]byte) []byte) error {
	in := bufio.NewReader(from)
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(head[:])
		if size > mostFrame {
			return fmt.Errorf("a frame of %d bytes", size)
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(in, frame); err != nil {
			return err
		}
		frame = pass(frame)
		if _, err := to.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
			return err
		}
	}
}

// tapped is one connection.
type tapped struct {
	*tap
	mu    sync.Mutex
	asked map[int32]int16 // ApiVersions requests without answer: correlation id to version
}

func (c *tapped) request(frame []byte) []byte {
	// Tokens of SASL outside of requests are of no kind that the broker speaks.
	c.kept.add(frame)
	if k, ok := kindOf(frame); ok && k.key == int16(kmsg.ApiVersions) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked[correlation(frame[4:])] = k.version
	}
	return frame
}

func (c *tapped) response(frame []byte) []byte {
	if len(frame) < 4 {
		return frame
	}
	id := correlation(frame)
	c.mu.Lock()
	version, ok := c.asked[id]
	delete(c.asked, id)
	c.mu.Unlock()
	if !ok {
		return frame
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.Version = version
	if err := resp.ReadFrom(frame[4:]); err != nil {
		return frame // a refusal of the version, in the form of version 0
	}
	for i := range resp.ApiKeys {
		k, newest := &resp.ApiKeys[i], int16(c.newest.Load())
		switch kmsg.Key(k.ApiKey) {
		case kmsg.SASLHandshake, kmsg.Metadata:
			newest++ // version 1 came with version 0 of SASLAuthenticate; or names the controller, which admin clients look for
		}
		k.MaxVersion = max(k.MinVersion, min(k.MaxVersion, newest))
	}
	return resp.AppendTo(kbin.AppendInt32(nil, id))
}

func correlation(b []byte) int32 { return int32(binary.BigEndian.Uint32(b)) }
