package broker

import (
	"context"
	"encoding/binary"
	"io"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestPipelinedRequestsWaitForTheDiskSideBySide has the first of three requests wait
// until the others have what they wait for. Answers come in the order of the requests.
func TestPipelinedRequestsWaitForTheDiskSideBySide(t *testing.T) {
	synced := make(chan struct{}, 2)
	n := 0
	b := startPrepared(t, nil, func(b *Broker) {
		b.table = maps.Clone(b.table) // one for all brokers
		row := *b.table[kmsg.Produce.Int16()]
		row.handle = begins(func(_ *Broker, _ context.Context, _ *request, q *kmsg.ProduceRequest) pending {
			n++
			first := n == 1
			return func(ctx context.Context) (kmsg.Response, error) {
				if !first {
					synced <- struct{}{}
					return q.ResponseKind(), nil
				}
				for range cap(synced) {
					select {
					case <-synced:
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				return q.ResponseKind(), nil
			}
		})
		b.table[kmsg.Produce.Int16()] = &row
	})
	nc := dial(t, b.Addr("plain"))
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 8, -1, 1000
	to := kmsg.NewRequestFormatter(kmsg.FormatterClientID("test"))
	for correlation := range int32(3) {
		if _, err := nc.Write(to.AppendRequest(nil, req, correlation)); err != nil {
			t.Fatal(err)
		}
	}
	for want := range uint32(3) {
		var head [8]byte
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			t.Fatalf("answer %d: %v", want, err)
		}
		if got := binary.BigEndian.Uint32(head[4:]); got != want {
			t.Fatalf("the answer to request %d comes where that to %d is due", got, want)
		}
		if _, err := io.CopyN(io.Discard, nc, int64(binary.BigEndian.Uint32(head[:4]))-4); err != nil {
			t.Fatal(err)
		}
	}
}
