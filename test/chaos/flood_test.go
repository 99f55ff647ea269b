//go:build chaos && interop && unix

package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// stream is one topic of the flood.
type stream struct {
	topic string
	share float64 // of the bytes
	codec kgo.CompressionCodec
	txn   bool
	old   bool // its records are of 2020
	// linger is how long records are collected for a batch: what most of a load costs
	// all who handle it is the number of its batches, of a few records or of some twenty.
	linger time.Duration
}

// floodPartitions of each topic.
const floodPartitions = 4

// streams are topics with all codecs, half of them with records that are years
// old; a tenth of the bytes is written in transactions.
var streams = []stream{
	{"plain", 0.15, kgo.NoCompression(), false, false, 5 * time.Millisecond},
	{"plain-old", 0.15, kgo.NoCompression(), false, true, 25 * time.Millisecond},
	{"lz4", 0.15, kgo.Lz4Compression(), false, false, 5 * time.Millisecond},
	{"snappy-old", 0.15, kgo.SnappyCompression(), false, true, 25 * time.Millisecond},
	{"zstd-old", 0.15, kgo.ZstdCompression(), false, true, 25 * time.Millisecond},
	{"gzip", 0.15, kgo.GzipCompression(), false, false, 25 * time.Millisecond},
	{"txn", 0.05, kgo.Lz4Compression(), true, false, 5 * time.Millisecond},
	{"txn-old", 0.05, kgo.NoCompression(), true, true, 25 * time.Millisecond},
}

// value is the usual length of a value.
const value = 1024

// abortions of a hundred transactions are aborted.
const abortions = 20

// flood is producers that write at a steady rate and number what they write:
// in each partition the records that are to be seen count from 0, and those of
// transactions that are aborted are marked.
type flood struct {
	t      *testing.T
	stop   context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup
	acked  map[string]*[floodPartitions]atomic.Int64 // by topic: records that are to be seen, acknowledged or committed
	bytes  atomic.Int64                              // of keys and values, acknowledged, also of what was aborted
	aborts atomic.Int64                              // transactions
	txns   atomic.Int64                              // committed
	began  time.Time
	took   time.Duration
	failed atomic.Pointer[error]
}

func startFlood(t *testing.T, c *cluster, rate float64, rng *rand.Rand) *flood {
	t.Helper()
	f := &flood{t: t, acked: map[string]*[floodPartitions]atomic.Int64{}, began: time.Now()}
	f.ctx, f.stop = context.WithCancel(context.Background())
	t.Cleanup(f.end)
	ctx, cancel := within(t)
	defer cancel()
	adm := kadm.NewClient(c.open(t))
	forever := "-1"
	for _, s := range streams {
		_, err := adm.CreateTopic(ctx, floodPartitions, 1, map[string]*string{"retention.ms": &forever}, s.topic)
		must(t, err)
		f.acked[s.topic] = new([floodPartitions]atomic.Int64)
		opts := []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(s.codec), kgo.ProducerLinger(s.linger), kgo.MaxBufferedRecords(50_000), kgo.UnknownTopicRetries(50)}
		if s.txn {
			opts = append(opts, kgo.TransactionalID("flood-"+s.topic), kgo.TransactionTimeout(time.Minute))
		}
		w := &writer{stream: s, flood: f, client: c.open(t, opts...), rng: rand.New(rand.NewPCG(rng.Uint64(), 2))}
		w.pool = make([]byte, 1<<20)
		for i := range w.pool {
			if i/64%2 == 0 { // every other piece can be compressed
				w.pool[i] = byte(w.rng.Uint32())
			}
		}
		f.wg.Go(func() {
			if err := w.write(rate * s.share); err != nil {
				err = fmt.Errorf("the producer of %s: %w", s.topic, err)
				f.failed.CompareAndSwap(nil, &err)
			}
		})
	}
	return f
}

// end stops the producers, which finish what they have begun.
func (f *flood) end() {
	f.stop()
	f.wg.Wait()
	if f.took == 0 {
		f.took = time.Since(f.began)
	}
}

func (f *flood) err() error {
	if err := f.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// counts is what is acknowledged now.
func (f *flood) counts() map[string][floodPartitions]int64 {
	now := map[string][floodPartitions]int64{}
	for topic, counters := range f.acked {
		var n [floodPartitions]int64
		for p := range counters {
			n[p] = counters[p].Load()
		}
		now[topic] = n
	}
	return now
}

type writer struct {
	stream
	*flood
	client  *kgo.Client
	rng     *rand.Rand
	pool    []byte
	next    [floodPartitions]int64 // number of the next record that is to be seen
	aborted int64                  // records
	written int64                  // records, for the timestamps of old ones
}

// write writes bytesPerSecond until the flood ends: what a moment's delay has
// kept from being written is made up for.
func (w *writer) write(bytesPerSecond float64) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	began, sent := time.Now(), 0.0
	for w.ctx.Err() == nil {
		var records []*kgo.Record
		abort := w.txn && w.rng.IntN(100) < abortions
		for due := time.Since(began).Seconds() * bytesPerSecond; sent < due && len(records) < 2000; {
			r := w.record(abort)
			records = append(records, r)
			sent += float64(len(r.Key) + len(r.Value))
		}
		if len(records) > 0 {
			if err := w.send(records, abort); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
		}
	}
	return w.client.Flush(context.Background())
}

func (w *writer) send(records []*kgo.Record, abort bool) error {
	ctx := context.Background() // what was begun is finished: the source is not disturbed
	if !w.txn {
		for _, r := range records {
			w.client.Produce(ctx, r, func(r *kgo.Record, err error) {
				if err != nil {
					err = fmt.Errorf("the producer of %s: %w", w.topic, err)
					w.failed.CompareAndSwap(nil, &err)
					return
				}
				w.bytes.Add(int64(len(r.Key) + len(r.Value)))
				w.acked[w.topic][r.Partition].Add(1)
			})
		}
		return nil
	}
	if err := w.client.BeginTransaction(); err != nil {
		return err
	}
	if err := w.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return err
	}
	if err := w.client.EndTransaction(ctx, kgo.TransactionEndTry(!abort)); err != nil {
		return err
	}
	for _, r := range records {
		w.bytes.Add(int64(len(r.Key) + len(r.Value)))
		if !abort {
			w.acked[w.topic][r.Partition].Add(1)
		}
	}
	if abort {
		w.aborts.Add(1)
	} else {
		w.txns.Add(1)
	}
	return nil
}

// record is one that is to be seen, or one of a transaction that is aborted.
func (w *writer) record(abort bool) *kgo.Record {
	p := w.rng.Int32N(floodPartitions)
	number := w.next[p]
	if abort {
		w.aborted++
		number = -w.aborted
	} else {
		w.next[p]++
	}
	w.written++
	at := w.rng.IntN(len(w.pool) - value)
	id := binary.BigEndian.AppendUint64(nil, uint64(number))
	r := &kgo.Record{Topic: w.topic, Partition: p, Value: append(id, w.pool[at:at+value-8]...)}
	switch kind := w.rng.IntN(100); {
	case kind == 0: // a tombstone
		r.Key, r.Value = id, nil
	case kind == 1:
		r.Key, r.Value = id, []byte{}
	case kind < 50:
		r.Key = w.pool[at : at+w.rng.IntN(40)]
	}
	if w.rng.IntN(50) == 0 {
		r.Headers = []kgo.RecordHeader{{Key: "null"}, {Key: "id", Value: id}, {Key: "id", Value: []byte{}}}
	}
	if w.old {
		r.Timestamp = time.UnixMilli(1_577_836_800_000 + w.written) // 2020
	}
	return r
}

// numberOf is the number that a record was given: below 0 if its transaction was
// aborted.
func numberOf(r *kgo.Record) (int64, error) {
	id := r.Value
	if len(id) == 0 {
		id = r.Key
	}
	if len(id) < 8 {
		return 0, errors.New("a record that nobody has numbered")
	}
	return int64(binary.BigEndian.Uint64(id)), nil
}
