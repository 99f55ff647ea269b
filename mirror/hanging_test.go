package mirror

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/kafka"
)

// An open transaction at the source holds its copy back (read_committed): the copy
// says whose it is, and goes on when it has ended.
func TestATransactionThatHangsIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 10)
	n := w.node("a", func(c *Config) { c.HangingAfter, c.StallNoted = 50*time.Millisecond, 50*time.Millisecond })
	n.Assign(w.copies(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	cl, err := kafka.NewClient(w.west.Cluster, "txn", kgo.TransactionalID("slow-app"), kgo.TransactionTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("10")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.west.produce(t, "orders", 0, 11, 20)
	eventually(t, "it is named", func() bool {
		s := n.only()
		return s.State == Running && s.Position == 10 && strings.Contains(s.Reason, "producer id") &&
			strings.Contains(s.Reason, "slow-app") && strings.Contains(s.Reason, "since offset 10") && strings.Contains(s.Fix, "--start-offset 10")
	})
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	w.east.expect(t, "orders", 0, 20)
	if w.stallsAre(t, "slow-app") != 1 {
		t.Error("the ledger does not tell once of what held the copy back")
	}
	eventually(t, "nothing is amiss", func() bool { s := n.only(); return s.State == Running && s.Reason == "" })
}

// A transaction that its coordinator has forgotten never ends by itself (KAFKA-12671):
// the copy says so, and waits. Whoever aborts it lets the copy go on, and then the
// ledger tells of it.
func TestATransactionThatNobodyWillEndIsNamed(t *testing.T) {
	t.Parallel()
	forgets := newLiar(t, nil, func(_ kmsg.Request, resp kmsg.Response) {
		if resp, ok := resp.(*kmsg.ListTransactionsResponse); ok {
			resp.TransactionStates = nil
		}
	})
	w := newWorldBehind(t, nil, map[string]*liar{"west": forgets})
	w.bundledOnly("west", "east")
	w.create(t, "orders", 1)
	n := w.node("a", func(c *Config) { c.HangingAfter, c.StallNoted = 50*time.Millisecond, 50*time.Millisecond })
	n.Assign(w.copies(1, 1, "orders"))
	w.transact(t, "lost-app", nil, "aborted")
	w.west.produce(t, "orders", 0, 0, 10)
	eventually(t, "it is named", func() bool {
		s := n.only()
		return s.State == Running && s.Position <= 0 && strings.Contains(s.Reason, "since offset 0") && strings.Contains(s.Reason, "nobody will end it") &&
			strings.Contains(s.Fix, "kafka-transactions.sh abort --topic orders --partition 0 --start-offset 0")
	})
	w.west.abortByHand(t, "orders", 0)
	w.east.expect(t, "orders", 0, 10)
	eventually(t, "nothing is amiss", func() bool { s := n.only(); return s.State == Running && s.Reason == "" })
	if w.stallsAre(t, "nobody will end it") != 1 {
		t.Error("the ledger does not tell once of what held the copy back")
	}
}

// abortByHand does what the command does that the status names: it writes the marker
// that the coordinator does not.
func (s *site) abortByHand(t *testing.T, topic string, partition int32) {
	t.Helper()
	var ask kadm.TopicsSet
	ask.Add(topic, partition)
	open, err := s.admin.DescribeProducers(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	var markers []kadm.TxnMarkers
	open.EachPartition(func(p kadm.DescribedProducersPartition) {
		for _, producer := range p.ActiveProducers {
			if producer.CurrentTxnStartOffset < 0 {
				continue
			}
			var of kadm.TopicsSet
			of.Add(topic, partition)
			markers = append(markers, kadm.TxnMarkers{ProducerID: producer.ProducerID, ProducerEpoch: int16(producer.ProducerEpoch), CoordinatorEpoch: -1, Topics: of})
		}
	})
	written, err := s.admin.WriteTxnMarkers(t.Context(), markers...)
	if err != nil || len(written) != 1 {
		t.Fatalf("%d markers written: %v", len(written), err)
	}
}
