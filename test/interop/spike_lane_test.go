//go:build interop

package interop

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// TestSpikeLane asks one question about a lane at a time, each on a topic and a
// transactional id of its own.
func TestSpikeLane(t *testing.T) {
	questions := []struct {
		name string
		ask  func(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition)
	}{
		{"duplicates", duplicates},
		{"sequence-after-commit", sequenceAfterCommit},
		{"sequence-after-abort", sequenceAfterAbort},
		{"sequence-in-a-new-epoch", sequenceInNewEpoch},
		{"aborted-batch-again", abortedBatchAgain},
		{"late-batch-of-an-aborted-transaction", lateBatch},
		{"pipeline-with-a-refusal", pipelineWithRefusal},
		{"first-batch-refused", firstBatchRefused},
		{"without-add-partitions", withoutAddPartitions},
		{"mixed-requests", mixedRequests},
		{"markers", markers},
		{"own-reinit", ownReinit},
		{"reinit-after-being-fenced", reinitFenced},
		{"pid-collision", pidCollision},
		{"end-twice", endTwice},
		{"newest-versions", newestVersions},
	}
	onEach(t, nil, func(t *testing.T, b *apachekafka.Broker) {
		c := b.Cluster(apachekafka.Admin)
		for _, q := range questions {
			t.Run(q.name, func(t *testing.T) {
				createTopic(t, c, q.name, 2, map[string]string{"max.message.bytes": "100000"})
				q.ask(t, c, newLane(t, c, "lane-"+q.name), tp(q.name, 0))
			})
		}
	})
}

func tp(topic string, partition int32) flow.TopicPartition {
	return flow.TopicPartition{Topic: topic, Partition: partition}
}

// must fails the test at once on an error that no finding is about.
func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func three(t testing.TB, name string) record.Batch { return batch(t, name, 3, time.Now()) }

// transaction commits or aborts one transaction with one batch.
func transaction(t testing.TB, l *lane, p flow.TopicPartition, b record.Batch, commit bool) (base int64) {
	t.Helper()
	must(t, "add", l.add(t.Context(), p))
	base, err := l.produce(t.Context(), p, b)
	must(t, "produce", err)
	must(t, "end", l.end(t.Context(), commit))
	return base
}

func wantBase(t testing.TB, what string, got, want int64) {
	t.Helper()
	if got != want {
		t.Errorf("%s: acknowledged at offset %d, want %d", what, got, want)
	}
}

// duplicates: five batches back a repeated one is acknowledged where it was, not
// appended; further back it is refused.
func duplicates(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	must(t, "add", l.add(ctx, p))
	for i := range 6 {
		base, err := l.produce(ctx, p, l.stamped(p, three(t, "a")))
		must(t, "produce", err)
		wantBase(t, "batch", base, int64(3*i))
	}
	again := newClosedLane(t, c, l.id) // on another connection
	again.pid, again.epoch = l.pid, l.epoch
	base, err := again.produce(ctx, p, l.stampedAt(three(t, "other content"), 3))
	expect(t, "fifth batch from the end again, with other content", err, "NONE")
	wantBase(t, "repeated batch", base, 3)
	_, err = again.produce(ctx, p, l.stampedAt(three(t, "a"), 0))
	expect(t, "sixth batch from the end again", err, "OUT_OF_ORDER_SEQUENCE_NUMBER")
	_, err = again.produce(ctx, p, l.stampedAt(batch(t, "a", 2, time.Now()), 15))
	expect(t, "last sequence with another count", err, "OUT_OF_ORDER_SEQUENCE_NUMBER")
	must(t, "commit", l.end(ctx, true))
}

func sequenceAfterCommit(t *testing.T, _ *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	transaction(t, l, p, l.stamped(p, three(t, "a")), true)
	must(t, "add", l.add(ctx, p))
	base, err := l.produce(ctx, p, l.stamped(p, three(t, "b")))
	expect(t, "after a commit, the sequence goes on", err, "NONE")
	wantBase(t, "after one marker", base, 4)
	base, err = l.produce(ctx, p, l.stampedAt(three(t, "c"), 0))
	expect(t, "sequence 0 of the transaction before, with other content", err, "NONE")
	wantBase(t, "it is taken for the old one and dropped", base, 0)
	must(t, "commit", l.end(ctx, true))

	must(t, "add", l.add(ctx, p))
	_, err = l.produce(ctx, p, l.stampedAt(three(t, "d"), 7))
	expect(t, "a hole in the sequence", err, "OUT_OF_ORDER_SEQUENCE_NUMBER")
	must(t, "abort", l.end(ctx, false))
}

func sequenceAfterAbort(t *testing.T, _ *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	transaction(t, l, p, l.stamped(p, three(t, "a")), false)
	must(t, "add", l.add(ctx, p))
	base, err := l.produce(ctx, p, l.stamped(p, three(t, "b")))
	expect(t, "after an abort in the same epoch, the sequence goes on", err, "NONE")
	wantBase(t, "after one marker", base, 4)
	must(t, "commit", l.end(ctx, true))
}

// abortedBatchAgain is the way to lose records: abort, and send the same again
// under the same epoch and sequence.
func abortedBatchAgain(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	b := l.stamped(p, three(t, "a"))
	transaction(t, l, p, b, false)
	base := transaction(t, l, p, b, true)
	wantBase(t, "acknowledged as the aborted one", base, 0)
	got, err := readCommitted(t.Context(), c, p)
	must(t, "read", err)
	if len(got) != 0 {
		t.Errorf("read %d records, want none: the batch was dropped as a duplicate of the aborted one", len(got))
	}
}

func sequenceInNewEpoch(t *testing.T, _ *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	transaction(t, l, p, l.stamped(p, three(t, "a")), true)
	_, err := l.open(ctx)
	must(t, "open", err)
	must(t, "add", l.add(ctx, p))
	_, err = l.produce(ctx, p, l.stampedAt(three(t, "b"), 3))
	expect(t, "in a new epoch, the sequence goes on", err, "OUT_OF_ORDER_SEQUENCE_NUMBER")
	_, err = l.produce(ctx, p, l.stampedAt(three(t, "b"), 0))
	expect(t, "in a new epoch, sequence 0", err, "NONE")
	must(t, "commit", l.end(ctx, true))
}

// lateBatch is why an unclear outcome wants a new epoch and not just an abort: a
// batch of the aborted transaction that was under way arrives in the next one.
func lateBatch(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	late := l.stampedAt(three(t, "late"), 0)
	must(t, "add", l.add(ctx, p))
	must(t, "abort", l.end(ctx, false))
	_, err := l.produce(ctx, p, late)
	expect(t, "late batch while no transaction is open, or its end is under way", err, "TRANSACTION_ABORTABLE", "NOT_ENOUGH_REPLICAS")

	must(t, "add", l.add(ctx, p))
	_, err = l.produce(ctx, p, late)
	expect(t, "late batch of the same epoch in the next transaction", err, "NONE")
	must(t, "commit", l.end(ctx, true))
	got, err := readCommitted(ctx, c, p)
	must(t, "read", err)
	if want := []string{"late-0", "late-1", "late-2"}; !slices.Equal(values(got), want) {
		t.Errorf("read %q, want %q: the same epoch lets it in", values(got), want)
	}

	late = l.stampedAt(three(t, "late"), 3)
	must(t, "add", l.add(ctx, p))
	must(t, "abort", l.end(ctx, false))
	_, err = l.open(ctx)
	must(t, "open", err)
	must(t, "add", l.add(ctx, p))
	_, err = l.produce(ctx, p, late)
	expect(t, "late batch of the epoch before in the next transaction", err, "INVALID_PRODUCER_EPOCH")
	_, err = l.produce(ctx, p, l.stamped(p, three(t, "b")))
	must(t, "produce", err)
	_, err = l.produce(ctx, p, late)
	expect(t, "late batch of the epoch before, after data of the new one", err, "INVALID_PRODUCER_EPOCH")
	must(t, "commit", l.end(ctx, true))
}

// pipelineWithRefusal sends requests without waiting; one in the middle is
// refused.
func pipelineWithRefusal(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	must(t, "add", l.add(ctx, p, tp(p.Topic, 1)))
	large, err := record.Encode([]record.Record{{Value: make([]byte, 200_000), Timestamp: time.Now().UnixMilli()}}, record.NoProducer(record.None))
	must(t, "encode", err)
	want := []string{"NONE", "MESSAGE_TOO_LARGE", "OUT_OF_ORDER_SEQUENCE_NUMBER", "OUT_OF_ORDER_SEQUENCE_NUMBER"}
	var calls []*kafka.Call
	other := tp(p.Topic, 1)
	for _, b := range []record.Batch{three(t, "a"), large, three(t, "b"), three(t, "c")} {
		calls = append(calls, l.send(ctx, map[flow.TopicPartition]record.Batch{
			p:     l.stamped(p, b),
			other: l.stamped(other, three(t, "other")),
		}))
	}
	for i, k := range calls {
		got, err := acks(ctx, k)
		must(t, "produce", err)
		expect(t, fmt.Sprintf("request %d, the partition with the refusal", i), got[p].Err, want[i])
		expect(t, fmt.Sprintf("request %d, the other partition", i), got[other].Err, "NONE")
	}
	expect(t, "abort", l.end(ctx, false), "NONE")
}

// firstBatchRefused: a partition that knows nothing of the producer takes any
// first sequence, so a refusal (by a leader that is not ready, say) does not stop
// the batches behind it.
func firstBatchRefused(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	must(t, "add", l.add(ctx, p))
	_, err := l.produce(ctx, p, l.stampedAt(three(t, "b"), 3))
	expect(t, "sequence 3 is the first that a partition hears of a producer", err, "NONE")
	_, err = l.produce(ctx, p, l.stampedAt(three(t, "a"), 0))
	expect(t, "then sequence 0", err, "OUT_OF_ORDER_SEQUENCE_NUMBER")
	expect(t, "abort", l.end(ctx, false), "NONE")
}

func withoutAddPartitions(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	refusal := map[int16]string{3: "INVALID_TXN_STATE", 8: "INVALID_TXN_STATE", 10: "INVALID_TXN_STATE", 11: "TRANSACTION_ABORTABLE"}
	for v, want := range refusal {
		l.produceVersion = v
		_, err := l.produce(ctx, p, l.stampedAt(three(t, "a"), 0))
		expect(t, fmt.Sprintf("produce v%d without a transaction", v), err, want)
	}
	must(t, "add other partition", l.add(ctx, tp(p.Topic, 1)))
	for v, want := range refusal {
		l.produceVersion = v
		_, err := l.produce(ctx, p, l.stampedAt(three(t, "a"), 0))
		expect(t, fmt.Sprintf("produce v%d to a partition that is not in the transaction", v), err, want)
	}
	expect(t, "abort", l.end(ctx, false), "NONE")
	_, err := l.open(ctx)
	must(t, "open", err)
	expect(t, "commit of nothing", l.end(ctx, true), "INVALID_TXN_STATE")
	l.produceVersion = 11
	wrong := "not-" + l.id
	resp, err := acks(ctx, l.conn.Send(ctx, produceRequest(&wrong, map[flow.TopicPartition]record.Batch{p: l.stampedAt(three(t, "a"), 0)}), 11))
	must(t, "produce", err)
	expect(t, "produce under another transactional id", resp[p].Err, "INVALID_PRODUCER_ID_MAPPING")
	resp, err = acks(ctx, l.conn.Send(ctx, produceRequest(nil, map[flow.TopicPartition]record.Batch{p: l.stampedAt(three(t, "a"), 0)}), 11))
	must(t, "produce", err)
	expect(t, "transactional batch in a request without a transactional id", resp[p].Err, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED")
}

// mixedRequests: what a request may hold besides a lane's own batches.
func mixedRequests(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	other := newLane(t, c, l.id+"-other")
	q := tp(p.Topic, 1)
	bare := func(seq int32) record.Batch {
		b := three(t, "bare")
		b.Restamp(record.Stamp{ProducerID: l.pid, ProducerEpoch: l.epoch, BaseSequence: seq})
		return b
	}
	must(t, "add", l.add(ctx, p, q))
	must(t, "add", other.add(ctx, q))
	_, err := l.produce(ctx, p, l.stamped(p, three(t, "a")))
	must(t, "produce", err)
	_, err = l.produce(ctx, p, bare(3))
	expect(t, "batch under the lane's id without the transactional bit, after one with it", err, "INVALID_TXN_STATE")

	// Nobody asks an intruder for more than the right to write to the topic.
	base, err := l.produce(ctx, q, bare(0))
	expect(t, "the same, before the lane has written to the partition", err, "NONE")
	wantBase(t, "an intruder is let in", base, 0)
	base, err = l.produce(ctx, q, l.stamped(q, three(t, "a")))
	expect(t, "the lane's own batch with the intruder's sequence", err, "NONE")
	wantBase(t, "it is taken for the intruder's and dropped", base, 0)

	both, err := acks(ctx, l.send(ctx, map[flow.TopicPartition]record.Batch{p: l.stamped(p, three(t, "b")), q: other.stamped(q, three(t, "b"))}))
	must(t, "produce", err)
	for at, got := range both {
		expect(t, fmt.Sprintf("batches of two lanes in one request, partition %d", at.Partition), got.Err, "INVALID_PRODUCER_ID_MAPPING")
	}
}

// markers: every partition that was added gets one marker, with data or without,
// which takes one offset and carries the epoch.
func markers(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	idle := tp(p.Topic, 1)
	must(t, "add", l.add(ctx, p, idle))
	_, err := l.produce(ctx, p, l.stamped(p, three(t, "a")))
	must(t, "produce", err)
	_, err = l.produce(ctx, p, l.stamped(p, three(t, "b")))
	must(t, "produce", err)
	must(t, "commit", l.end(ctx, true))
	_, err = l.open(ctx) // waits for the markers
	must(t, "open", err)
	for _, q := range []flow.TopicPartition{p, idle} {
		log, err := fetchAll(ctx, l.conn, q)
		must(t, "fetch", err)
		last := log[len(log)-1]
		if !last.Attributes().Control() || last.Count() != 1 || last.LastOffset() != last.BaseOffset() {
			t.Errorf("%s ends with a batch of %d records at %d to %d, want one marker", q, last.Count(), last.BaseOffset(), last.LastOffset())
		}
		t.Logf("%s: %d batches, marker at offset %d with producer epoch %d, the lane is at %d", q, len(log), last.BaseOffset(), last.ProducerEpoch(), l.epoch)
	}
}

// ownReinit is how a lane goes on after an unclear outcome: InitProducerId with
// the id and epoch that it has.
func ownReinit(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	pid, epoch := l.pid, l.epoch
	must(t, "init when idle", l.init(ctx, pid, epoch))
	t.Logf("idle: epoch %d -> %d, same id: %v", epoch, l.epoch, l.pid == pid)
	must(t, "init with the epoch before (its answer was lost)", l.init(ctx, pid, epoch))
	t.Logf("repeated: epoch %d", l.epoch)

	must(t, "add", l.add(ctx, p))
	_, err := l.produce(ctx, p, l.stamped(p, three(t, "a")))
	must(t, "produce", err)
	pid, epoch = l.pid, l.epoch
	var answers []string
	err = poll(ctx, func() (bool, error) {
		err := l.init(ctx, pid, epoch)
		answers = append(answers, code(err))
		return err == nil, unlessOneOf(err, kerr.ConcurrentTransactions)
	})
	expect(t, fmt.Sprintf("with a transaction open: epoch %d -> %d after %q", epoch, l.epoch, answers), err, "NONE", "PRODUCER_FENCED")
	if err != nil { // 3.9 takes the rightful owner for a fenced one
		_, err = l.open(ctx)
		must(t, "open", err)
	}
	transaction(t, l, p, l.stamped(p, three(t, "b")), true)
	pid, epoch = l.pid, l.epoch
	must(t, "add", l.add(ctx, p))
	_, err = l.produce(ctx, p, l.stamped(p, three(t, "c")))
	must(t, "produce", err)
	must(t, "abort", l.end(ctx, false))
	err = poll(ctx, func() (bool, error) {
		err := l.init(ctx, pid, epoch)
		return err == nil, unlessOneOf(err, kerr.ConcurrentTransactions)
	})
	expect(t, fmt.Sprintf("after an abort: epoch %d -> %d", epoch, l.epoch), err, "NONE")
	got, err := readCommitted(ctx, c, p)
	must(t, "read", err)
	if want := []string{"b-0", "b-1", "b-2"}; !slices.Equal(values(got), want) {
		t.Errorf("read %q, want %q", values(got), want)
	}
	log, err := fetchAll(ctx, l.conn, p)
	must(t, "fetch", err)
	for _, b := range log {
		t.Logf("offset %d epoch %d control %v", b.BaseOffset(), b.ProducerEpoch(), b.Attributes().Control())
	}
}

// reinitFenced: who was fenced learns it when it names the epoch that it has,
// and takes the lane back when it names none.
func reinitFenced(t *testing.T, c *flow.Cluster, a *lane, p flow.TopicPartition) {
	ctx := t.Context()
	transaction(t, a, p, a.stamped(p, three(t, "a")), true)
	b := newLane(t, c, a.id)
	t.Logf("a has epoch %d, b has %d", a.epoch, b.epoch)
	expect(t, "once fenced: init with own id and epoch", a.init(ctx, a.pid, a.epoch), "PRODUCER_FENCED")
	b = newLane(t, c, a.id)
	t.Logf("a has epoch %d, b has %d", a.epoch, b.epoch)
	expect(t, "twice fenced: init with own id and epoch", a.init(ctx, a.pid, a.epoch), "PRODUCER_FENCED")
	expect(t, "fenced: add", a.add(ctx, p), "PRODUCER_FENCED")
	expect(t, "fenced: end", a.end(ctx, true), "PRODUCER_FENCED")
	_, err := a.produce(ctx, p, a.stamped(p, three(t, "z")))
	expect(t, "fenced: produce", err, "INVALID_PRODUCER_EPOCH")
	must(t, "add by b", b.add(ctx, p))
	expect(t, "fenced: end while b has a transaction open", a.end(ctx, true), "PRODUCER_FENCED")
	_, err = a.produce(ctx, p, a.stampedAt(three(t, "z"), 3))
	expect(t, "fenced: produce while b has the partition in a transaction", err, "INVALID_PRODUCER_EPOCH")
	expect(t, "abort by b", b.end(ctx, false), "NONE")
	_, err = a.open(ctx)
	expect(t, "fenced: init without id and epoch", err, "NONE")
	expect(t, "and so b is fenced", b.add(ctx, p), "PRODUCER_FENCED")
}

// pidCollision: a batch passed on with its source's producer id, sequence and
// all, is acknowledged and dropped where that id has been seen.
func pidCollision(t *testing.T, c *flow.Cluster, _ *lane, p flow.TopicPartition) {
	ctx := t.Context()
	conn := dial(t, c)
	idempotent := func(name string, seq int32) record.Batch {
		b := three(t, name)
		b.Restamp(record.Stamp{ProducerID: 1000, ProducerEpoch: 0, BaseSequence: seq})
		return b
	}
	for i, name := range []string{"native", "foreign"} {
		for seq := range 5 {
			got, err := acks(ctx, conn.Send(ctx, produceRequest(nil, map[flow.TopicPartition]record.Batch{p: idempotent(name, int32(3*seq))}), maxProduce))
			must(t, "produce", err)
			expect(t, fmt.Sprintf("%s batch %d, at offset %d", name, seq, got[p].Base), got[p].Err, "NONE")
			wantBase(t, name, got[p].Base, int64(3*seq))
		}
		log, err := fetchAll(ctx, conn, p)
		must(t, "fetch", err)
		if len(log) != 5 {
			t.Errorf("%d batches after round %d, want 5", len(log), i)
		}
	}
}

func endTwice(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	transaction(t, l, p, l.stamped(p, three(t, "a")), true)
	expect(t, "commit again at once", l.end(ctx, true), "CONCURRENT_TRANSACTIONS", "NONE")
	_, err := readCommitted(ctx, c, p)
	must(t, "read", err)
	err = poll(ctx, func() (bool, error) {
		err = l.end(ctx, true)
		return err == nil, unlessOneOf(err, kerr.ConcurrentTransactions)
	})
	expect(t, "commit again when it is complete", err, "NONE")
	expect(t, "abort after the commit", l.end(ctx, false), "INVALID_TXN_STATE")
	transaction(t, l, p, l.stamped(p, three(t, "b")), false)
	expect(t, "commit after the abort", l.end(ctx, true), "INVALID_TXN_STATE", "CONCURRENT_TRANSACTIONS")
}

// newestVersions asks what changes for who takes the newest version of each.
func newestVersions(t *testing.T, c *flow.Cluster, l *lane, p flow.TopicPartition) {
	ctx := t.Context()
	for _, k := range []kmsg.Key{kmsg.Produce, kmsg.Fetch, kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.EndTxn, kmsg.TxnOffsetCommit} {
		v, err := l.conn.Version(k.Int16(), 1000)
		must(t, "version", err)
		t.Logf("%s: newest v%d", k.Name(), v)
	}
	must(t, "add", l.add(ctx, p))
	_, err := l.produce(ctx, p, l.stamped(p, three(t, "a")))
	must(t, "produce", err)
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = l.id, l.pid, l.epoch, true
	resp, err := l.conn.Request(ctx, req, 5)
	must(t, "end", err)
	end := resp.(*kmsg.EndTxnResponse)
	expect(t, fmt.Sprintf("EndTxn v%d at epoch %d answers id %d epoch %d", end.Version, l.epoch, end.ProducerID, end.ProducerEpoch), kerr.ErrorForCode(end.ErrorCode))
	expect(t, "add at the old epoch", l.add(ctx, p))
	expect(t, "abort", l.end(ctx, false))
}
