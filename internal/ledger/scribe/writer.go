package scribe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/ledger"
)

// ErrNoLedger says that the cluster has no ledger. Nothing was written.
var ErrNoLedger = errors.New("the cluster has no ledger")

// Config is what a Writer needs.
type Config struct {
	// Dial returns a client of the cluster with opts added. The Writer closes it.
	Dial func(opts ...kgo.Opt) (*kgo.Client, error)
	// Patience is how long a Write may take; 0 is 10 s.
	Patience time.Duration
}

// pageBytes is about how large a page is.
const pageBytes = 256 << 10

// Writer writes to one ledger. It is not safe for concurrent use.
type Writer struct {
	cfg    Config
	cl     *kgo.Client
	id     ledger.TopicID // of the ledger in which the chains are
	chains map[int32]*ledger.Chain
}

// New returns a Writer, which connects when it has something to write.
func New(cfg Config) *Writer {
	if cfg.Patience <= 0 {
		cfg.Patience = 10 * time.Second
	}
	return &Writer{cfg: cfg}
}

// Close gives up the connections.
func (w *Writer) Close() {
	if w.cl != nil {
		w.cl.Close()
		w.cl = nil
	}
	w.chains = nil
}

// Write writes entries about topics, in their order for each topic. If it returns an
// error some of them, or all, may be there; with [ErrNoLedger] none is.
func (w *Writer) Write(ctx context.Context, entries []ledger.Entry, topicOf func(ledger.Entry) ledger.TopicID) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Patience)
	defer cancel()
	partitions, err := w.open(ctx)
	if err != nil {
		return err
	}
	parts := map[int32][]ledger.Entry{}
	for _, e := range entries {
		n := PartitionOf(topicOf(e), partitions)
		parts[n] = append(parts[n], e)
	}
	var pages []*kgo.Record
	for n, some := range parts {
		chain := w.chains[n]
		if chain == nil {
			chain = ledger.NewChain(newID())
			w.chains[n] = chain
		}
		for len(some) > 0 {
			var page []byte
			page, some = chain.EncodeUpTo(some, pageBytes)
			pages = append(pages, &kgo.Record{Topic: ledger.Topic, Partition: n, Value: page})
		}
	}
	// A context does not end a send that is under way: closing the client does.
	stop := context.AfterFunc(ctx, w.cl.Close)
	err = w.cl.ProduceSync(ctx, pages...).FirstErr()
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		w.Close()
		return fmt.Errorf("write to the ledger: %w", err)
	}
	return nil
}

// open finds the ledger and says how many partitions it has.
func (w *Writer) open(ctx context.Context) (partitions int32, err error) {
	if w.cl == nil {
		// A page is sent once more only while it cannot be there twice: the producer is idempotent.
		w.cl, err = w.cfg.Dial(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()),
			kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0))
		if err != nil {
			return 0, fmt.Errorf("write to the ledger: %w", err)
		}
	}
	topics, err := kadm.NewClient(w.cl).ListTopics(ctx, ledger.Topic)
	if err != nil {
		w.Close()
		return 0, fmt.Errorf("look for the ledger: %w", err)
	}
	t, ok := topics[ledger.Topic]
	switch {
	case !ok, errors.Is(t.Err, kerr.UnknownTopicOrPartition):
		return 0, ErrNoLedger
	case t.Err != nil:
		return 0, fmt.Errorf("look for the ledger: %w", t.Err)
	}
	if id := ledger.TopicID(t.ID); w.chains == nil || id != w.id {
		w.id, w.chains = id, map[int32]*ledger.Chain{}
	}
	return int32(len(t.Partitions)), nil
}

// PartitionOf is the ledger partition, of n, for what happened to a topic. It may change
// with n: such entries stand for themselves.
func PartitionOf(id ledger.TopicID, n int32) int32 {
	h := fnv.New32a()
	_, _ = h.Write(id[:]) // never fails
	return int32(binary.BigEndian.Uint32(h.Sum(nil)) % uint32(max(1, n)))
}

// newID is a random UUID.
func newID() ledger.WriterID {
	var w ledger.WriterID
	_, _ = rand.Read(w[:]) // never fails
	w[6], w[8] = w[6]&0x0f|0x40, w[8]&0x3f|0x80
	return w
}
