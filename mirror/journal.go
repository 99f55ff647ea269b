package mirror

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// journal writes to a destination's ledger without a transaction, for data that is
// at the destination already. Its producer is idempotent, so a page that is sent
// again after a lost answer is there once; it does not give up before it is closed.
// A journal is safe for concurrent use.
type journal struct {
	destination *peer
	clientID    string

	mu     sync.Mutex
	closed bool
	client *kgo.Client
	writer ledger.WriterID
	chains map[int32]*ledger.Chain
}

func newJournal(destination *peer, clientID string) *journal {
	j := &journal{destination: destination, clientID: clientID}
	j.renew()
	return j
}

// connect makes the client, which connects when it is needed. j.mu is held.
func (j *journal) connect() (err error) {
	if j.client == nil && !j.closed {
		j.client, err = kafka.NewClient(j.destination.cluster, j.clientID,
			kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()),
			kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0))
	}
	if j.closed {
		return kgo.ErrClientClosed
	}
	return err
}

// renew begins new chains: a page that may not have been written has broken the old
// ones. j.mu is held, or nobody else has j yet.
func (j *journal) renew() {
	j.writer, j.chains = ledger.WriterID(uuid.New()), map[int32]*ledger.Chain{}
}

// close drops what has no answer yet; that it may have been written all the same is
// found out by whoever reads the ledger next.
func (j *journal) close() {
	j.mu.Lock()
	client := j.client
	j.closed, j.client = true, nil
	j.mu.Unlock()
	if client != nil {
		client.Close()
	}
}

// place is the ledger partition of a copy.
func (j *journal) place(id ledger.CopyID) (int32, error) {
	topic := j.destination.view().topic(ledger.Topic)
	n := int32(len(topic.partitions))
	if topic.err != nil || n == 0 {
		j.destination.wantRefresh()
		return 0, fmt.Errorf("topic %s: %w", ledger.Topic, orElse(topic.err, kerr.UnknownTopicOrPartition))
	}
	// All entries of a copy are in one partition, even if somebody adds some.
	return ledger.PartitionOf(id, min(n, ledgerPartitions)), nil
}

// send writes entries as the next page of a ledger partition and calls done, in
// another goroutine, when they are there or cannot be.
func (j *journal) send(at int32, entries []ledger.Entry, done func(error)) {
	for _, e := range entries {
		if h, ok := e.(*ledger.Hop); ok {
			if err := h.Check(); err != nil {
				go done(err)
				return
			}
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.connect(); err != nil {
		go done(fmt.Errorf("%w: %w", errLedger, err))
		return
	}
	writer, chain := j.writer, j.chains[at]
	if chain == nil {
		chain = ledger.NewChain(writer)
		j.chains[at] = chain
	}
	rec := &kgo.Record{Topic: ledger.Topic, Partition: at, Timestamp: time.Now(), Value: chain.Encode(entries)}
	j.client.Produce(context.Background(), rec, func(_ *kgo.Record, err error) {
		if err != nil {
			j.mu.Lock()
			if j.writer == writer {
				j.renew()
			}
			j.mu.Unlock()
			err = fmt.Errorf("%w: %w", errLedger, err)
		}
		done(err)
	})
}

// write sends the entries of one copy and waits until they are there.
func (j *journal) write(ctx context.Context, id ledger.CopyID, entries ...ledger.Entry) error {
	at, err := j.place(id)
	if err != nil {
		return fmt.Errorf("%w: %w", errLedger, err)
	}
	for _, page := range appendEntries(nil, entries) {
		answer := make(chan error, 1)
		j.send(at, page, func(err error) { answer <- err })
		select {
		case err := <-answer:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errLedger, ctx.Err())
		}
	}
	return nil
}
