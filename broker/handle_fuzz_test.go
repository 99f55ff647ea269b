package broker

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

// FuzzHandle takes frames of an authenticated client through decoding, handler
// and encoding of a whole broker: none may panic.
func FuzzHandle(f *testing.F) {
	for _, row := range apis() {
		f.Add(frameOf(row.key.Request(), row.max)[frameLengthSize:])
		f.Add(frameOf(row.key.Request(), row.min)[frameLengthSize:])
	}
	cfg := DefaultConfig()
	cfg.Dir, cfg.FS = "data", vfs.NewMem()
	cfg.Listeners[0].Addr = "127.0.0.1:0"
	cfg.OffsetsPartitions, cfg.TransactionsPartitions = 1, 1
	cfg.Authorizer, cfg.SuperUsers = true, []string{"User:fuzz"}
	b, err := New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Error(err)
		}
	})
	gone, leave := context.WithCancel(context.Background())
	leave() // nothing may wait for a client that has left
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < minFrame || len(raw) > 16<<10 {
			return
		}
		h := frameHeader(raw)
		c := &conn{b: b, log: slog.New(slog.DiscardHandler), client: Client{Principal: "User:fuzz", Host: "127.0.0.1", Listener: cfg.Listeners[0].Name}}
		p, err := c.handle(gone, h, b.table[h.key], raw)
		if errors.Is(err, errPanic) {
			t.Fatal("handler panicked")
		}
		if err != nil {
			return
		}
		if resp, err := p(gone); err == nil && resp != nil {
			appendResponse(nil, h.correlation, resp)
		}
	})
}
