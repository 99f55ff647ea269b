package mirror

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// An open transaction at the source holds its copy back (read_committed): the copy
// and the ledger say whose it is, and the copy goes on when it has ended.
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
	eventually(t, "the ledger tells while it hangs", func() bool { return w.stallsAre(t, "stands", "slow-app") > 0 })
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	w.east.expect(t, "orders", 0, 20)
	if w.stallsAre(t, "has stood", "slow-app") != 1 || w.stallsAre(t, "stands", "slow-app") != 1 {
		t.Error("the ledger does not tell once of what holds the copy back, and once of what held it back")
	}
	eventually(t, "nothing is amiss", func() bool { s := n.only(); return s.State == Running && s.Reason == "" })
}

// A transaction that its coordinator has forgotten never ends by itself (KAFKA-12671):
// the copy and the ledger say so, and the copy waits. Whoever aborts it lets the copy go on,
// and then the ledger tells of that.
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
	eventually(t, "the ledger tells while it hangs", func() bool { return w.stallsAre(t, "stands", "nobody will end it") > 0 })
	w.west.abortByHand(t, "orders", 0)
	w.east.expect(t, "orders", 0, 10)
	eventually(t, "nothing is amiss", func() bool { s := n.only(); return s.State == Running && s.Reason == "" })
	if w.stallsAre(t, "has stood", "nobody will end it") != 1 || w.stallsAre(t, "stands", "nobody will end it") != 1 {
		t.Error("the ledger does not tell once of what holds the copy back, and once of what held it back")
	}
}

// TestALedgerIsToldOnceOfWhatHoldsACopyUp and that it is over, whenever that is.
func TestALedgerIsToldOnceOfWhatHoldsACopyUp(t *testing.T) {
	holds := func() *copier {
		c := runningCopier(t, "orders")
		c.beginDue, c.stallNoted, c.hangingAfter = false, time.Minute, time.Second
		c.end, c.stable, c.stableAt = c.committed+10, c.committed, time.Now().Add(-30*time.Second)
		c.heldBy("producer id 7")
		if p := c.enter(); p != nil {
			t.Fatalf("after half a minute it enters a transaction, to tell %q", p.held)
		}
		c.stableAt, c.stall.since = c.stableAt.Add(-time.Minute), c.stall.since.Add(-time.Minute)
		c.heldBy("producer id 7")
		return c
	}
	tells := func(p *part) (what []ledger.EventKind) {
		l := &lane{}
		for _, e := range (&transaction{l: l}).entriesOf(p, time.Now()) {
			if e, ok := e.(*ledger.Event); ok && strings.Contains(e.Text, "producer id 7") {
				what = append(what, e.What)
			}
		}
		return what
	}
	goesOn := func(c *copier) {
		c.push(c.currentGeneration(), []chunk{gapChunk(c.fetchNext, c.fetchNext+5, ledger.Compacted, 1)}, c.fetchNext+5, nil)
	}
	take := func(c *copier, p *part) {
		q, _, _ := c.take()
		p.next, p.chunks = q.next, append(p.chunks, placed{chunk: q.chunk})
	}

	c := holds()
	p := c.enter()
	if p == nil || !slices.Equal(tells(p), []ledger.EventKind{ledger.CopyHeld}) {
		t.Fatalf("after a minute and a half it tells %+v", p)
	}
	at := c.committed
	c.settle(at, -1, nil) // that transaction failed
	if p = c.enter(); p == nil {
		t.Fatal("what was not told is not told again")
	}
	c.commit(p, time.Now())
	c.heldBy("producer id 7")
	if again := c.enter(); again != nil || c.committed != at || !c.lastCommit.IsZero() {
		t.Errorf("it enters again (%v), is at %d, has committed at %v", again != nil, c.committed, c.lastCommit)
	}
	goesOn(c)
	p = c.enter()
	take(c, p)
	if got := tells(p); !slices.Equal(got, []ledger.EventKind{ledger.CopyStalled}) {
		t.Errorf("when it goes on it tells %v", got)
	}
	c.commit(p, time.Now())
	if c.stall != (stall{}) {
		t.Errorf("when it has gone on, it is in %+v", c.stall)
	}

	c = holds() // it goes on in the transaction that was to tell that it does not
	p = c.enter()
	goesOn(c)
	take(c, p)
	if got := tells(p); !slices.Equal(got, []ledger.EventKind{ledger.CopyStalled}) {
		t.Errorf("when it goes on meanwhile it tells %v", got)
	}
	c.commit(p, time.Now())
	if c.stall != (stall{}) {
		t.Errorf("when it has gone on meanwhile, it is in %+v", c.stall)
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
