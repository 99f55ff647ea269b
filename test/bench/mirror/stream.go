package main

import (
	"context"
	"crypto/tls"
	"io"
	"net"
)

// stream sends as many bytes as a cell's batches have, or takes what comes, for
// the relay.
func stream(ctx context.Context, l net.Listener, c cell, send bool) error {
	context.AfterFunc(ctx, func() { l.Close() })
	if c.TLS {
		cert, err := certificate()
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	}
	conn, err := l.Accept()
	if err != nil {
		return nil // closed
	}
	defer conn.Close()
	if !send {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
		return err
	}
	batch, err := c.batch()
	if err != nil {
		return err
	}
	piece := make([]byte, 0, 256<<10+len(batch))
	for len(piece) < 256<<10 {
		piece = append(piece, batch...)
	}
	for left := c.records() / int64(c.Batch) * int64(len(batch)); left > 0; {
		n, err := conn.Write(piece[:min(int64(len(piece)), left)])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}
