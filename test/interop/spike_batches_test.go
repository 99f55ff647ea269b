//go:build interop

package interop

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// TestSpikeBatches copies raw batches from one cluster into another, both ways
// between the versions: every codec, many partitions in one lane, several requests
// under way, hops in the same transaction.
func TestSpikeBatches(t *testing.T) {
	all := versions()
	first := apachekafka.Start(t, apachekafka.Config{Version: all[0]})
	second := apachekafka.Start(t, apachekafka.Config{Version: all[len(all)-1]})
	t.Run(first.Version+" to "+second.Version, func(t *testing.T) { copyRaw(t, first, second) })
	t.Run(second.Version+" to "+first.Version, func(t *testing.T) { copyRaw(t, second, first) })
}

func copyRaw(t *testing.T, from, to *apachekafka.Broker) {
	const partitions = 3
	ctx := t.Context()
	source, dest := from.Cluster(apachekafka.Admin), to.Cluster(apachekafka.Admin)
	createTopic(t, source, "from", partitions, nil)
	fill(t, source, "from", partitions, 4)
	createTopic(t, dest, "to", partitions, nil)
	createTopic(t, dest, ledger.Topic, ledgerPartitions, nil)

	conn := dial(t, source)
	logs := make([][]record.Batch, partitions)
	codecs := map[record.Codec]int{}
	for p := range logs {
		var err error
		logs[p], err = fetchAll(ctx, conn, tp("from", int32(p)))
		must(t, "fetch source", err)
		for _, b := range logs[p] {
			codecs[b.Attributes().Codec()]++
		}
	}
	if len(codecs) != 5 {
		t.Fatalf("the source has batches of the codecs %v, want all five", codecs)
	}

	l := newLane(t, dest, "raw")
	book := tp(ledger.Topic, 0)
	must(t, "add", l.add(ctx, book, tp("to", 0), tp("to", 1), tp("to", 2)))
	// Requests under way, one batch of each partition in each; by the product's
	// own writer, at Produce v8.
	var calls []*kafka.Call
	most := len(slices.MaxFunc(logs, func(a, b []record.Batch) int { return cmp.Compare(len(a), len(b)) }))
	for i := range most { // the producer may have cut one partition's records into more batches than another's
		req := &kafka.Produce{TransactionalID: l.id, Timeout: 10 * time.Second, Topics: []kafka.ProduceTopic{{Topic: "to"}}}
		for p := range logs {
			if i >= len(logs[p]) {
				continue
			}
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, kafka.ProducePartition{Partition: int32(p), Batch: l.stamped(tp("to", int32(p)), logs[p][i])})
		}
		calls = append(calls, l.conn.SendProduce(ctx, req))
	}
	expected := make([]int64, partitions)
	for i, k := range calls {
		got, err := acks(ctx, k)
		must(t, "produce", err)
		for p := range logs {
			if i >= len(logs[p]) {
				continue
			}
			a := got[tp("to", int32(p))]
			must(t, "produce", a.Err)
			wantBase(t, fmt.Sprintf("partition %d batch %d", p, i), a.Base, expected[p])
			expected[p] += int64(logs[p][i].Count())
		}
	}
	_, err := l.produce(ctx, book, l.stamped(book, batch(t, "hops", 1, time.Now())))
	must(t, "produce hops", err)

	sees := func(isolated bool) (records int) {
		t.Helper()
		for _, q := range []flow.TopicPartition{book, tp("to", 0), tp("to", 1), tp("to", 2)} {
			got, err := fetch(ctx, l.conn, q, 0, isolated, 8<<20)
			must(t, "fetch", err)
			if len(got.Batches) > 0 {
				records++
			}
		}
		return records
	}
	if committed, all := sees(true), sees(false); committed != 0 || all != 4 {
		t.Errorf("before the commit: read_committed sees %d of 4 partitions, read_uncommitted %d; want 0 and 4", committed, all)
	}
	must(t, "commit", l.end(ctx, true))
	must(t, "wait for markers", poll(ctx, func() (bool, error) { return sees(true) == 4, nil }))

	for p := range logs {
		copied, err := fetchAll(ctx, l.conn, tp("to", int32(p)))
		must(t, "fetch destination", err)
		if len(copied) != len(logs[p])+1 {
			t.Fatalf("partition %d: %d batches, want %d and a marker", p, len(copied), len(logs[p]))
		}
		for i, b := range logs[p] {
			c := copied[i]
			if !bytes.Equal(c.Records(), b.Records()) || c.RecordsCRC() != b.RecordsCRC() || c.MaxTimestamp() != b.MaxTimestamp() || c.BaseTimestamp() != b.BaseTimestamp() {
				t.Errorf("partition %d batch %d (%s) is not what the source has", p, i, b.Attributes().Codec())
			}
			if c.ProducerID() != l.pid || c.ProducerEpoch() != l.epoch || !c.Attributes().Transactional() {
				t.Errorf("partition %d batch %d: producer %d/%d, flags %x", p, i, c.ProducerID(), c.ProducerEpoch(), c.Attributes())
			}
		}
	}
}

// TestSpikeLedgerEnd has another lane's transaction open below a committed hop:
// the last stable offset hides the hop, the high watermark does not.
func TestSpikeLedgerEnd(t *testing.T) {
	onEach(t, map[string]string{
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "200",
	}, func(t *testing.T, b *apachekafka.Broker) {
		ctx := t.Context()
		c := b.Cluster(apachekafka.Admin)
		createTopic(t, c, ledger.Topic, 1, nil)
		book := tp(ledger.Topic, 0)
		slow := newClosedLane(t, c, "slow")
		slow.timeout = 2 * time.Second
		_, err := slow.open(ctx)
		must(t, "open", err)
		must(t, "add", slow.add(ctx, book))
		_, err = slow.produce(ctx, book, slow.stamped(book, batch(t, "open", 1, time.Now())))
		must(t, "produce", err)

		dead := newLane(t, c, "dead")
		transaction(t, dead, book, dead.stamped(book, batch(t, "last hop of the dead", 1, time.Now())), true)
		_, err = newClosedLane(t, c, "dead").open(ctx)
		must(t, "fence", err)

		ends := map[string]int64{}
		for name, isolation := range map[string]int8{"read_committed": 1, "read_uncommitted": 0} {
			ends[name] = endOffset(t, dead.conn, book, isolation)
		}
		t.Logf("the settled end is at %v", ends)
		if ends["read_committed"] != 0 || ends["read_uncommitted"] != 3 {
			t.Errorf("ends %v, want 0 read_committed and 3 read_uncommitted", ends)
		}
		began := time.Now()
		got, err := readCommitted(ctx, c, book)
		must(t, "read", err)
		t.Logf("read to the high watermark in %s: the transaction below it timed out after %s", time.Since(began).Round(time.Millisecond), slow.timeout)
		if v := values(got); len(v) != 1 || v[0] != "last hop of the dead-0" {
			t.Errorf("read %q, want the last hop", v)
		}
		// What the coordinator has ended is the lane's no more.
		expect(t, "after the timeout: EndTxn", slow.end(ctx, true), "PRODUCER_FENCED")
		expect(t, "after the timeout: AddPartitionsToTxn", slow.add(ctx, book), "PRODUCER_FENCED")
		_, err = slow.produce(ctx, book, slow.stamped(book, batch(t, "late", 1, time.Now())))
		expect(t, "after the timeout: produce", err, "INVALID_PRODUCER_EPOCH")
		epoch := slow.epoch
		err = slow.init(ctx, slow.pid, slow.epoch)
		expect(t, fmt.Sprintf("after the timeout: InitProducerId with own id and epoch %d -> %d", epoch, slow.epoch), err, map[string]string{"3": "PRODUCER_FENCED", "4": "NONE"}[b.Version[:1]])
	})
}

func endOffset(t testing.TB, conn *kafka.Conn, q flow.TopicPartition, isolation int8) int64 {
	t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	req.IsolationLevel = isolation
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = q.Partition, -1
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic, topic.Partitions = q.Topic, []kmsg.ListOffsetsRequestTopicPartition{p}
	req.Topics = []kmsg.ListOffsetsRequestTopic{topic}
	resp, err := conn.Request(t.Context(), req, 5)
	must(t, "list offsets", err)
	got := resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	must(t, "list offsets", kerr.ErrorForCode(got.ErrorCode))
	return got.Offset
}
