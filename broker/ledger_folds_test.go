package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestLedgerGoesWhereAFoldStandsForIt: of the broker's own ledger only that may be deleted
// for which a whole fold is there, behind it and not in a transaction.
func TestLedgerGoesWhereAFoldStandsForIt(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.Provenance = true })
	ctx := within(t, 30*time.Second)
	write := func(cl *kgo.Client, value []byte) {
		t.Helper()
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: ledgerTopic, Partition: 0, Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	cl := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	remove := func(offset int64) error {
		t.Helper()
		q := kmsg.NewDeleteRecordsRequestTopicPartition()
		q.Offset = offset
		_, err := b.deleteRecordsOf(b.asker(kmsg.DeleteRecords), ledgerTopic, q)
		return err
	}
	refused := func(what string, offset int64) {
		t.Helper()
		if err := remove(offset); !errors.Is(err, kerr.PolicyViolation) {
			t.Errorf("%s: %v", what, err)
		}
	}
	next := func() int64 {
		p, err := b.partition(ledgerTopic, 0)
		if err != nil {
			t.Fatal(err)
		}
		return p.HighWatermark()
	}
	fold := func(writer byte, next int64) (first, last []byte) {
		chain := ledger.NewFoldChain(ledger.WriterID{writer})
		return chain.Encode([]ledger.Entry{&ledger.Tails{}}), chain.Encode([]ledger.Entry{&ledger.Cut{Next: next, At: time.Unix(1, 0)}})
	}
	plain := ledger.NewChain(ledger.WriterID{1})
	for range 5 {
		write(cl, plain.Encode([]ledger.Entry{&ledger.Tails{}}))
	}
	if err := remove(0); err != nil {
		t.Errorf("nothing: %v", err)
	}
	refused("no fold", 3)
	refused("all", -1)
	if err := remove(next() + 1); !errors.Is(err, kerr.OffsetOutOfRange) {
		t.Errorf("beyond the end: %v", err)
	}

	cut := next()
	first, last := fold(2, cut)
	write(cl, first)
	refused("half a fold", cut)
	lane := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("forger"))
	if err := lane.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	write(lane, last)
	if err := lane.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	refused("a fold whose end was aborted", cut)
	_, alone := fold(3, cut)
	write(cl, alone)
	refused("the end of a fold", cut)
	_, late := fold(4, next()+3)
	write(cl, late)
	refused("a fold of what comes behind it", cut)

	write(cl, last)
	refused("more than a fold stands for", cut+1)
	if err := remove(cut - 2); err != nil {
		t.Errorf("less than a fold stands for: %v", err)
	}
	if err := remove(cut); err != nil {
		t.Errorf("what a fold stands for: %v", err)
	}
	p, err := b.partition(ledgerTopic, 0)
	if err != nil || p.StartOffset() != cut {
		t.Errorf("the ledger begins at %d, want %d, %v", p.StartOffset(), cut, err)
	}
	q := kmsg.NewDeleteRecordsRequestTopicPartition()
	if _, err := b.deleteRecordsOf(b.asker(kmsg.DeleteRecords), offsetsTopic, q); !errors.Is(err, kerr.InvalidTopicException) {
		t.Errorf("from another of the broker's own topics: %v", err)
	}
}
