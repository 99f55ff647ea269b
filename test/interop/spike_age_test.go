//go:build interop

package interop

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// shortLives lets brokers forget producers in about a second, and transactional
// ids in about two.
var shortLives = map[string]string{
	"producer.id.expiration.ms":                                  "1000",
	"producer.id.expiration.check.interval.ms":                   "100",
	"transactional.id.expiration.ms":                             "2000",
	"transaction.remove.expired.transaction.cleanup.interval.ms": "100",
}

// TestSpikeOldRecords: brokers forget a producer by the timestamps of its
// records. Outside of transactions that doubles records of 2018; inside of them
// nothing is doubled and no zombie gets in.
func TestSpikeOldRecords(t *testing.T) {
	onEach(t, shortLives, func(t *testing.T, b *apachekafka.Broker) {
		ctx := t.Context()
		c := b.Cluster(apachekafka.Admin)
		adm := kadm.NewClient(newClient(t, c))
		old := func(name string) record.Batch { return batch(t, name, 3, longAgo) }

		createTopic(t, c, "old", 2, nil)
		p, q := tp("old", 0), tp("old", 1)
		conn := dial(t, c)
		bare := old("bare")
		bare.Restamp(record.Stamp{ProducerID: 4000, ProducerEpoch: 0, BaseSequence: 0})
		send := func() (int64, error) {
			got, err := acks(ctx, conn.Send(ctx, produceRequest(nil, map[flow.TopicPartition]record.Batch{q: bare}), maxProduce))
			must(t, "produce", err)
			return got[q].Base, got[q].Err
		}
		_, err := send()
		must(t, "produce", err)
		awaitForgotten(t, adm, q, 4000)
		base, err := send()
		expect(t, "idempotent batch of 2018, sent again when the broker has forgotten its producer", err, "NONE")
		wantBase(t, "it is doubled", base, 3)

		a := newLane(t, c, "old")
		must(t, "add", a.add(ctx, p))
		_, err = a.produce(ctx, p, a.stamped(p, old("a")))
		must(t, "produce", err)
		awaitForgotten(t, adm, q, 4000) // the broker has looked for whom to forget
		base, err = a.produce(ctx, p, a.stampedAt(old("a"), 0))
		expect(t, "transactional batch of 2018, sent again after that", err, "NONE")
		wantBase(t, "it is not doubled", base, 0)
		must(t, "commit", a.end(ctx, true))
		awaitForgotten(t, adm, p, a.pid)

		late := a.stampedAt(old("a"), 0)
		for _, v := range []int16{8, 11} {
			a.produceVersion = v
			_, err = a.produce(ctx, p, late)
			expect(t, "the same again when its transaction is long complete and forgotten", err, "INVALID_TXN_STATE", "TRANSACTION_ABORTABLE")
		}
		must(t, "add", a.add(ctx, p))
		base, err = a.produce(ctx, p, late)
		expect(t, "the same again in the next transaction of its epoch", err, "NONE")
		wantBase(t, "it is doubled: an epoch protects only from others", base, 4)
		must(t, "abort", a.end(ctx, false))

		successor := newLane(t, c, a.id)
		awaitForgotten(t, adm, p, a.pid)
		_, err = a.produce(ctx, p, late)
		expect(t, "fenced owner, when the partition has forgotten both", err, "INVALID_PRODUCER_EPOCH")
		must(t, "add", successor.add(ctx, p))
		_, err = a.produce(ctx, p, late)
		expect(t, "fenced owner, when its successor has the partition in a transaction", err, "INVALID_PRODUCER_EPOCH")
		must(t, "commit", successor.end(ctx, true))
	})
}

// TestSpikeForgottenLane: a lane that was idle for longer than
// transactional.id.expiration.ms is forgotten; so is its fence, but not what
// keeps its owner out.
func TestSpikeForgottenLane(t *testing.T) {
	onEach(t, shortLives, func(t *testing.T, b *apachekafka.Broker) {
		ctx := t.Context()
		c := b.Cluster(apachekafka.Admin)
		createTopic(t, c, "idle", 1, nil)
		p := tp("idle", 0)
		a := newLane(t, c, "idle")
		transaction(t, a, p, a.stamped(p, three(t, "a")), true)
		adm := kadm.NewClient(newClient(t, c))
		must(t, "wait until the lane is forgotten", poll(ctx, func() (bool, error) {
			got, err := adm.DescribeTransactions(ctx, a.id)
			return got[a.id].Err != nil, err
		}))
		_, err := a.produce(ctx, p, a.stampedAt(three(t, "z"), 3))
		expect(t, "forgotten owner: produce", err, "INVALID_PRODUCER_ID_MAPPING")
		expect(t, "forgotten owner: AddPartitionsToTxn", a.add(ctx, p), "INVALID_PRODUCER_ID_MAPPING")
		expect(t, "forgotten owner: EndTxn", a.end(ctx, true), "INVALID_PRODUCER_ID_MAPPING")

		next := newLane(t, c, a.id)
		t.Logf("forgotten owner has id %d epoch %d, its successor id %d epoch %d", a.pid, a.epoch, next.pid, next.epoch)
		if next.pid == a.pid {
			t.Error("the successor has the same producer id, want another")
		}
		_, err = a.produce(ctx, p, a.stampedAt(three(t, "z"), 3))
		expect(t, "with a successor: produce", err, "INVALID_PRODUCER_ID_MAPPING")
		expect(t, "with a successor: AddPartitionsToTxn", a.add(ctx, p), "INVALID_PRODUCER_ID_MAPPING")
		must(t, "add", next.add(ctx, p))
		_, err = a.produce(ctx, p, a.stampedAt(three(t, "z"), 3))
		expect(t, "with a successor that has the partition in a transaction: produce", err, "INVALID_PRODUCER_ID_MAPPING")
		expect(t, "with a successor: EndTxn", a.end(ctx, true), "INVALID_PRODUCER_ID_MAPPING")
		expect(t, "with a successor: InitProducerId with own id and epoch", a.init(ctx, a.pid, a.epoch), "PRODUCER_FENCED")
		must(t, "abort", next.end(ctx, false))
	})
}

// TestSpikeWithoutVerification shows what a destination is worth that does not
// verify transactions (KIP-890; brokers before 3.6, or switched off).
func TestSpikeWithoutVerification(t *testing.T) {
	onEach(t, map[string]string{"transaction.partition.verification.enable": "false"}, func(t *testing.T, b *apachekafka.Broker) {
		ctx := t.Context()
		c := b.Cluster(apachekafka.Admin)
		createTopic(t, c, "unverified", 2, nil)
		p, q := tp("unverified", 0), tp("unverified", 1)
		a := newLane(t, c, "unverified")
		transaction(t, a, p, a.stamped(p, three(t, "a")), true)
		fence := newLane(t, c, a.id) // no transaction was open: no marker
		must(t, "settled", poll(ctx, func() (bool, error) { return endOffset(t, a.conn, p, 1) == 4, nil }))
		_, err := a.produce(ctx, p, a.stamped(p, three(t, "z")))
		expect(t, "fenced owner, lane idle when it was fenced: produce", err, "NONE")
		if stable, end := endOffset(t, a.conn, p, 1), endOffset(t, a.conn, p, 0); stable != 4 || end != 7 {
			t.Errorf("read_committed ends at %d of %d, want 4 of 7: a transaction that nobody will end", stable, end)
		}

		must(t, "add", fence.add(ctx, q))
		_, err = fence.produce(ctx, q, fence.stamped(q, three(t, "b")))
		must(t, "produce", err)
		newLane(t, c, a.id) // a transaction was open: its marker carries a new epoch
		_, err = fence.produce(ctx, q, fence.stamped(q, three(t, "z")))
		expect(t, "fenced owner, partition in a transaction when it was fenced: produce", err, "INVALID_PRODUCER_EPOCH")
	})
}

// awaitForgotten waits until the leader of q has no state of a producer.
func awaitForgotten(t testing.TB, adm *kadm.Client, q flow.TopicPartition, pid int64) {
	t.Helper()
	set := kadm.TopicsSet{}
	set.Add(q.Topic, q.Partition)
	must(t, "wait until a producer is forgotten", poll(t.Context(), func() (bool, error) {
		got, err := adm.DescribeProducers(t.Context(), set)
		if err != nil {
			return false, unlessOneOf(err, kerr.NotLeaderForPartition)
		}
		for _, topic := range got {
			for _, partition := range topic.Partitions {
				for _, producer := range partition.ActiveProducers {
					if producer.ProducerID == pid {
						return false, nil
					}
				}
			}
		}
		return true, nil
	}))
}
