package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/waybillhq/waybill/broker/txn"
)

// versionsWith is Kafka's newest with some keys at lower versions.
func versionsWith(most map[int16]int16) *kversion.Versions {
	v := kversion.Stable()
	for key, version := range most {
		v.SetMaxKeyVersion(key, version)
	}
	return v
}

func (b *testBroker) producer(t *testing.T, id string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	return b.client(t, append([]kgo.Opt{kgo.TransactionalID(id), kgo.DefaultProduceTopic("orders")}, opts...)...)
}

func values(prefix string, n int) []*kgo.Record {
	var records []*kgo.Record
	for i := range n {
		records = append(records, &kgo.Record{Value: fmt.Appendf(nil, "%s%d", prefix, i)})
	}
	return records
}

func transact(t *testing.T, cl *kgo.Client, end kgo.TransactionEndTry, records ...*kgo.Record) error {
	t.Helper()
	ctx := within(t, 30*time.Second)
	if err := cl.BeginTransaction(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	return cl.EndTransaction(ctx, end)
}

// committedValues reads the topic's partition 0 to its last stable offset.
func (b *testBroker) committedValues(t *testing.T, topic string) []string {
	t.Helper()
	return b.readCommitted(t, topic, 0)
}

func TestTransactionsCommitAndAbort(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	cl := b.producer(t, "tx")
	if err := transact(t, cl, kgo.TryCommit, values("a", 3)...); err != nil {
		t.Fatal(err)
	}
	if err := transact(t, cl, kgo.TryAbort, values("b", 3)...); err != nil {
		t.Fatal(err)
	}
	if err := transact(t, cl, kgo.TryCommit, values("c", 2)...); err != nil {
		t.Fatal(err)
	}
	want := []string{"a0", "a1", "a2", "c0", "c1"}
	if got := b.committedValues(t, "orders"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// The same after a power cut: commits that were acknowledged stand.
	b = b.crash(t, 3)
	if got := b.committedValues(t, "orders"); !slices.Equal(got, want) {
		t.Errorf("after a crash: got %v, want %v", got, want)
	}
}

// TestManyTransactionsInARow would stumble over a coordinator that answers before
// its markers are written: every second transaction begins while the one before
// is being completed.
func TestManyTransactionsInARow(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	cl := b.producer(t, "tx")
	const n = 50
	begin := time.Now()
	for i := range n {
		if err := transact(t, cl, kgo.TryCommit, values(fmt.Sprintf("%d-", i), 1)...); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%v per transaction", time.Since(begin)/n)
	if got := len(b.committedValues(t, "orders")); got != n {
		t.Errorf("got %d records, want %d", got, n)
	}
}

func TestNewProducerFencesOldOne(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	ctx := within(t, 30*time.Second)
	old := b.producer(t, "tx")
	if err := old.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := old.ProduceSync(ctx, values("old", 2)...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := transact(t, b.producer(t, "tx"), kgo.TryCommit, values("new", 2)...); err != nil {
		t.Fatal(err)
	}
	err := old.ProduceSync(ctx, values("late", 1)...).FirstErr()
	if err == nil {
		err = old.EndTransaction(ctx, kgo.TryCommit)
	}
	if !errors.Is(err, kerr.ProducerFenced) && !errors.Is(err, kerr.InvalidProducerEpoch) && !errors.Is(err, kerr.InvalidTxnState) {
		t.Errorf("fenced producer: got %v", err)
	}
	want := []string{"new0", "new1"}
	if got := b.committedValues(t, "orders"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTransactionTimesOut(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	ctx := within(t, 30*time.Second)
	cl := b.producer(t, "tx", kgo.TransactionTimeout(3*time.Second))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, values("lost", 2)...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if got := b.committedValues(t, "orders"); len(got) != 0 {
		t.Errorf("open transaction is seen: %v", got)
	}
	adm := kadm.NewClient(b.client(t))
	waitUntil(t, func() bool {
		d, err := adm.DescribeTransactions(ctx, "tx")
		return err == nil && d["tx"].State == "CompleteAbort"
	})
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err == nil {
		t.Error("a transaction that timed out was committed")
	}
	end, err := adm.ListCommittedOffsets(ctx, "orders")
	if o, _ := end.Lookup("orders", 0); err != nil || o.Offset != 3 {
		t.Errorf("last stable offset: got %d, %v; want 3", o.Offset, err)
	}
}

// TestCrashInMidTransaction cuts the power while a transaction is open. What the
// next broker finds is open still, is seen by nobody, and ends with the next
// producer.
func TestCrashInMidTransaction(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	b.makeTopic(t, "in", 1, 10)
	ctx := within(t, 30*time.Second)
	cl := b.producer(t, "tx")
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, values("open", 3)...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	b.commitInTxn(t, cl, "tx", "g", "in", 5)

	b = b.crash(t, 7)
	adm := kadm.NewClient(b.client(t))
	d, err := adm.DescribeTransactions(ctx, "tx")
	if err != nil || d["tx"].State != "Ongoing" {
		t.Errorf("after the crash: got %+v, %v; want Ongoing", d["tx"], err)
	}
	if got := b.committedValues(t, "orders"); len(got) != 0 {
		t.Errorf("open transaction is seen: %v", got)
	}
	if err := transact(t, b.producer(t, "tx"), kgo.TryCommit, values("next", 1)...); err != nil {
		t.Fatal(err)
	}
	if got, want := b.committedValues(t, "orders"), []string{"next0"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if o, err := adm.FetchOffsets(ctx, "g"); err != nil || len(o) != 0 {
		t.Errorf("offsets of the aborted transaction: got %v, %v", o, err)
	}
}

// commitInTxn commits a group's position on partition 0 of a topic in a client's
// open transaction.
func (b *testBroker) commitInTxn(t *testing.T, cl *kgo.Client, id, group, topic string, at int64) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	producer, epoch, err := cl.ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = id, producer, epoch, group
	added, err := add.RequestWith(ctx, cl)
	if err != nil || added.ErrorCode != 0 {
		t.Fatalf("add offsets: %+v, %v", added, err)
	}
	q := kmsg.NewPtrTxnOffsetCommitRequest()
	q.TransactionalID, q.ProducerID, q.ProducerEpoch, q.Group, q.Generation = id, producer, epoch, group, -1
	qt := kmsg.NewTxnOffsetCommitRequestTopic()
	qt.Topic = topic
	p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	p.Offset = at
	qt.Partitions = append(qt.Partitions, p)
	q.Topics = append(q.Topics, qt)
	resp, err := q.RequestWith(ctx, cl)
	if err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("commit offsets: %+v, %v", resp, err)
	}
}

// TestConsumeTransformProduce runs the loop that transactions are for, with
// every third round aborted, and reads the outcome.
func TestConsumeTransformProduce(t *testing.T) {
	b := startBroker(t, nil)
	const n = 60
	b.makeTopic(t, "in", 2, n/2)
	b.makeTopic(t, "orders", 1, 0)
	ctx := within(t, 30*time.Second)
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(b.Addr("plain")), kgo.TransactionalID("etl"),
		kgo.ConsumerGroup("etl"), kgo.ConsumeTopics("in"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DefaultProduceTopic("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for round, done := 0, 0; done < n; round++ {
		fetches := s.PollRecords(ctx, 7)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.Begin(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) { s.Produce(ctx, &kgo.Record{Value: r.Value}, nil) })
		committed, err := s.End(ctx, kgo.TransactionEndTry(round%3 != 2))
		if err != nil {
			t.Fatal(err)
		}
		if committed {
			done += fetches.NumRecords()
		}
	}
	got := b.committedValues(t, "orders")
	slices.Sort(got)
	if len(slices.Compact(slices.Clone(got))) != n || len(got) != n {
		t.Errorf("got %d records, %d of them different; want %d", len(got), len(slices.Compact(got)), n)
	}
	o, err := kadm.NewClient(b.client(t)).FetchOffsets(ctx, "etl")
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(2) {
		if at, _ := o.Lookup("in", p); at.At != n/2 {
			t.Errorf("partition %d: committed %d, want %d", p, at.At, n/2)
		}
	}
}

// TestUnverifiedBatchIsRefused produces into a partition that is not in the
// transaction (KIP-890).
func TestUnverifiedBatchIsRefused(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 2, 0)
	cl := b.producer(t, "tx")
	if err := transact(t, cl, kgo.TryCommit, values("a", 1)...); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 30*time.Second)
	id, epoch, err := cl.ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	orders := txn.TopicPartition{Topic: "orders", Partition: 0}
	verify := func(epoch int16, version int16) error {
		return enlistError(b.coordinators.verify(ctx, "tx", txn.Producer{ID: id, Epoch: epoch}, orders), version)
	}
	if err := verify(epoch, produceAbortable-1); !errors.Is(err, kerr.InvalidTxnState) {
		t.Errorf("got %v, want INVALID_TXN_STATE", err)
	}
	if err := verify(epoch, produceAbortable); !errors.Is(err, kerr.TransactionAbortable) {
		t.Errorf("newer client: got %v, want TRANSACTION_ABORTABLE", err)
	}
	if err := verify(epoch-1, produceAbortable); !errors.Is(err, kerr.InvalidProducerEpoch) {
		t.Errorf("older epoch: got %v, want INVALID_PRODUCER_EPOCH", err)
	}
}
