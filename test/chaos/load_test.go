//go:build chaos && unix

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// load is producers at work, one for each topic.
type load struct {
	t    *testing.T
	stop context.CancelFunc
	ctx  context.Context
	wg   sync.WaitGroup

	mu    sync.Mutex
	acked map[string]bool // values of records that were acknowledged, or committed
}

func newLoad(t *testing.T) *load {
	l := &load{t: t, acked: map[string]bool{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// writing is one producer's topic and how it writes.
type writing struct {
	topic      string
	partitions *atomic.Int32
	txn        bool
	codec      kgo.CompressionCodec
	rng        *rand.Rand
}

func (l *load) begin(b *broker, w writing) {
	l.wg.Go(func() {
		for n := 0; l.ctx.Err() == nil; n++ {
			// A producer whose transaction has gone wrong is made anew.
			if err := l.produce(b, w, &n); err != nil && l.ctx.Err() == nil {
				select {
				case <-time.After(200 * time.Millisecond):
				case <-l.ctx.Done():
				}
			}
		}
	})
}

// record is the n-th of a topic: with and without key, value and headers.
func (w *writing) record(n int) *kgo.Record {
	r := &kgo.Record{Topic: w.topic, Partition: w.rng.Int32N(w.partitions.Load()), Value: fmt.Appendf(nil, "%s %d %x", w.topic, n, make([]byte, w.rng.IntN(100)))}
	if w.rng.IntN(3) > 0 {
		r.Key = fmt.Appendf(nil, "key-%d", w.rng.IntN(50))
	}
	switch w.rng.IntN(10) {
	case 0:
		r.Headers = []kgo.RecordHeader{{Key: "null"}, {Key: "n", Value: fmt.Append(nil, n)}, {Key: "n", Value: []byte{}}}
	case 1:
		r.Timestamp = time.UnixMilli(1_500_000_000_000 + int64(n))
	}
	return r
}

// marked are records without a value of their own: a tombstone and an empty one.
// They cannot be told apart later, so they are not counted as acknowledged.
func (w *writing) marked(r *kgo.Record) *kgo.Record {
	switch w.rng.IntN(20) {
	case 0:
		r.Value = nil
	case 1:
		r.Value = []byte{}
	}
	return r
}

func (l *load) produce(b *broker, w writing, n *int) error {
	opts := []kgo.Opt{
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(w.codec), kgo.ProducerLinger(3 * time.Millisecond),
		kgo.ProducerBatchMaxBytes(int32(2000 + w.rng.IntN(100_000))), kgo.MetadataMinAge(100 * time.Millisecond), kgo.MetadataMaxAge(time.Second),
	}
	if w.txn {
		opts = append(opts, kgo.TransactionalID("load-"+w.topic), kgo.TransactionTimeout(20*time.Second))
	}
	cl, err := b.client(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	for l.ctx.Err() == nil {
		if w.txn {
			if err := cl.BeginTransaction(); err != nil {
				return err
			}
		}
		var records []*kgo.Record
		for range 1 + w.rng.IntN(40) {
			*n++
			records = append(records, w.marked(w.record(*n)))
		}
		// What was begun is finished, if the broker comes back in time.
		limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := produceWithin(limit, cl, records)
		commit := w.rng.IntN(4) > 0
		if w.txn && err == nil {
			err = cl.EndTransaction(limit, kgo.TransactionEndTry(commit))
		}
		cancel()
		if err != nil {
			return err
		}
		if !w.txn || commit {
			l.note(records)
		}
		select {
		case <-time.After(time.Duration(20+w.rng.IntN(60)) * time.Millisecond):
		case <-l.ctx.Done():
		}
	}
	return nil
}

// produceWithin gives up when the context ends, which a client that has sent
// something does not do: the caller closes it then.
func produceWithin(ctx context.Context, cl *kgo.Client, records []*kgo.Record) error {
	done := make(chan error, 1)
	go func() { done <- cl.ProduceSync(ctx, records...).FirstErr() }() // ends with the client
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *load) note(records []*kgo.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range records {
		if len(r.Value) > 0 {
			l.acked[string(r.Value)] = true
		}
	}
}
