// Wiretap stands between clients and one broker and keeps the requests that pass:
// up to a few different ones of each API key and version. What it writes seeds the
// tests that damage frames (see broker's TestDamagedFrames).
//
//	wiretap -listen 127.0.0.1:19092 -to 127.0.0.1:9092 -out broker/testdata/frames.gz
//
// It ends at SIGTERM or SIGINT; what the file held before is kept and added to.
// The broker must advertise the address that wiretap listens on. Requests of
// connections with TLS or SASL tokens outside of requests cannot be told apart and
// end the recording of that connection, not the connection.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
)

func main() {
	listen := flag.String("listen", "", "`host:port` that clients are told")
	to := flag.String("to", "", "`host:port` of the broker")
	out := flag.String("out", "", "`file` that keeps the requests")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *to, *out); err != nil {
		fmt.Fprintln(os.Stderr, "wiretap:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, to, out string) error {
	kept, err := readFrames(out)
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	var conns errgroup.Group
	for {
		client, err := l.Accept()
		if err != nil {
			break // closed: we are told to end
		}
		conns.Go(func() error {
			relay(ctx, kept, client, to)
			return nil
		})
	}
	_ = conns.Wait() // none returns an error
	fmt.Println(kept.summary())
	return writeFrames(out, kept)
}

// relay passes a connection on until one side ends it.
func relay(ctx context.Context, kept *frames, client net.Conn, to string) {
	defer client.Close()
	server, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		fmt.Fprintln(os.Stderr, "wiretap:", err)
		return
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
	defer stop()
	tap, record := io.Pipe()
	var sides sync.WaitGroup
	sides.Go(func() { kept.listen(tap) })
	sides.Go(func() {
		_, _ = io.Copy(io.MultiWriter(server, record), client) // either side may end it at any time
		record.Close()
		server.Close()
	})
	sides.Go(func() {
		_, _ = io.Copy(client, server)
		client.Close()
	})
	sides.Wait()
}

// listen takes frames off a connection until it ends or makes no sense.
func (f *frames) listen(r io.Reader) {
	in := bufio.NewReader(r)
	defer func() { _, _ = io.Copy(io.Discard, in) }() // the connection goes on
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		size := binary.BigEndian.Uint32(head[:])
		if size < minFrame || size > 100<<20 {
			return
		}
		if size > maxKept {
			if _, err := in.Discard(int(size)); err != nil {
				return
			}
			continue
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(in, frame); err != nil {
			return
		}
		f.add(frame)
	}
}
