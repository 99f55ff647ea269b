package mirror

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// runningCopier is one that has begun at offset 0, without a lane that runs.
func runningCopier(t *testing.T, topic string) *copier {
	t.Helper()
	c := newCopier(Assignment{SourceTopic: topic, DestinationTopic: topic}, func() {}, &Metrics{})
	c.writer = &lane{readyList: newReadyList()}
	c.setID(ledger.CopyID{Source: ledger.End{Cluster: "west"}, Destination: ledger.End{Cluster: "east"}}, nil)
	c.begin(Position{}, limits{}, 0, nil, nil)
	return c
}

// TestAnOffsetIsQueuedOnce lets two fetchers answer for the same offset, as the
// old and the new leader of a source partition may.
func TestAnOffsetIsQueuedOnce(t *testing.T) {
	c := runningCopier(t, "orders")
	generation := c.currentGeneration()
	push := func(from, next int64) {
		c.push(generation, []chunk{gapChunk(from, next, ledger.Compacted, 1)}, next, nil)
	}
	push(0, 10)
	push(0, 10)
	push(10, 20)
	push(0, 30)
	var got []int64
	for _, q := range c.queue {
		got = append(got, q.from, q.next)
	}
	if want := []int64{0, 10, 10, 20}; !slices.Equal(got, want) || c.fetchNext != 20 {
		t.Errorf("queued %v and next is %d, want %v and 20", got, c.fetchNext, want)
	}
}

// TestATransactionTakesNoOffsetTwice gives a transaction a queue that goes back.
func TestATransactionTakesNoOffsetTwice(t *testing.T) {
	c := runningCopier(t, "orders")
	for range 2 {
		c.queue = append(c.queue, queued{chunk: gapChunk(0, 10, ledger.Compacted, 1)})
	}
	txn := newTransaction(&lane{destination: &peer{}})
	for _, wantErr := range []bool{false, true} {
		if _, err := txn.round(context.Background(), []*copier{c}); (err != nil) != wantErr {
			t.Errorf("error %v, want one: %v", err, wantErr)
		}
	}
}

// TestACopyThatStopsAsItEntersSaysNothing stops a copy after it has entered a
// transaction and before it has given it anything.
func TestACopyThatStopsAsItEntersSaysNothing(t *testing.T) {
	c := runningCopier(t, "orders")
	c.beginDue = false
	c.push(c.currentGeneration(), []chunk{gapChunk(0, 10, ledger.Compacted, 1)}, 10, nil)
	east := &peer{}
	east.current.Store(&view{topics: map[string]topicView{ledger.Topic: {partitions: make([]partitionView, 4)}}})
	txn := newTransaction(&lane{destination: east})
	p := c.enter()
	c.stop()
	if _, ok, _ := c.take(); ok {
		t.Error("a copy that stops still gives")
	}
	txn.parts = append(txn.parts, p)
	if err := txn.writeLedger(context.Background()); err != nil || len(txn.added) != 0 {
		t.Errorf("partitions %v and error %v, want none", txn.added, err)
	}
}

// TestARewindRemembersTheSourcesHistory fails a transaction: the next fetch from
// another leader must still be compared with what has been committed (KIP-320).
func TestARewindRemembersTheSourcesHistory(t *testing.T) {
	c := runningCopier(t, "orders")
	push := func(from, next int64, epoch int32) {
		c.push(c.currentGeneration(), []chunk{gapChunk(from, next, ledger.Compacted, epoch)}, next, nil)
	}
	run := func() *part {
		txn := newTransaction(&lane{destination: &peer{}})
		if _, err := txn.round(context.Background(), []*copier{c}); err != nil {
			t.Fatal(err)
		}
		return txn.parts[0]
	}
	push(0, 10, 5)
	c.commit(run(), time.Now())
	push(10, 20, 6)
	p := run()
	c.settle(p.from, p.fromEpoch, nil)
	if w, is, _ := c.want(nil, time.Now()); is != wants || w.offset != 10 || w.epoch != 5 || w.checked != -1 {
		t.Errorf("wants offset %d after epoch %d, want 10 after 5", w.offset, w.epoch)
	}
}

// TestACopyThatHasToWaitCostsNothing: with as much in flight to a broker as may be, a copy
// for it waits until something lands, and keeps nobody awake.
func TestACopyThatHasToWaitCostsNothing(t *testing.T) {
	c := runningCopier(t, "orders")
	c.whole.on = true
	east := &peer{}
	east.current.Store(&view{brokers: map[int32]string{1: "x"}, topics: map[string]topicView{"orders": {partitions: []partitionView{{leader: 1}}}}})
	a := newAppender(DefaultConfig(), nil, east, &Metrics{}, slog.New(slog.DiscardHandler))
	a.links[1] = &link{flights: make([]*appendFlight, maxInFlight)}
	c.writer.(*lane).takeReady()
	c.writer = a
	c.push(c.currentGeneration(), []chunk{gapChunk(0, 10, ledger.Compacted, 1)}, 10, nil)
	<-a.wake
	a.sendAll(t.Context())
	a.settle()
	select {
	case <-a.wake:
		t.Error("the appender is woken though nothing can be sent")
	default:
	}
	if !slices.Contains(a.waiting, c) {
		t.Error("the copy does not wait for its turn")
	}
}

// A copy that preserves offsets is fetched a batch that nobody can read behind one that
// somebody can: that one is written, and the copy is tried again.
func TestWhatWasFetchedBeforeABadBatchIsWritten(t *testing.T) {
	c := runningCopier(t, "orders")
	c.whole.on = true
	c.push(c.currentGeneration(), []chunk{gapChunk(0, 10, ledger.Compacted, 1)}, 10, nil)
	c.fail(c.currentGeneration(), errCorrupt)
	s, ok := c.enterStretch()
	if !ok || s.end != 0 {
		t.Fatalf("it does not go on with what it has: %+v", s)
	}
	if q, ok, more := c.take(); !ok || more || q.next != 10 {
		t.Errorf("took %+v, %v, %v", q, ok, more)
	}
	c.leaveStretch(nil)
	if !c.prepare(time.Now().Add(time.Hour)) {
		t.Error("it is not tried again")
	}
}

// What a copy that stops has fetched is let go, whenever its transaction ends.
func TestACopyThatStopsHoldsNothing(t *testing.T) {
	for _, inTxn := range []bool{false, true} {
		b := newBuffers(16 * mib).join()
		c := runningCopier(t, "orders")
		k := gapChunk(0, 10, ledger.Compacted, 1)
		k.batch = make([]byte, 100)
		f := b.newFrame(100)
		c.push(c.currentGeneration(), []chunk{k}, 10, f)
		f.release()
		if c.inTxn = inTxn; inTxn {
			if c.stop() || b.holds() != 100 {
				t.Errorf("it stops in its transaction: %d are held", b.holds())
			}
			c.inTxn = false // which is committed
		}
		if !c.stop() || b.holds() != 0 {
			t.Errorf("in a transaction %v: it has stopped, and %d are held", inTxn, b.holds())
		}
	}
}

// A flow that ends while its destination is away leaves nothing behind that counts.
func TestAFlowThatHasEndedHoldsNothing(t *testing.T) {
	m := newBuffers(16 * mib)
	one, other := m.join(), m.join()
	f := one.newFrame(5 * mib)
	one.leave()
	if other.room() != 12*mib || m.own() != 8*mib {
		t.Errorf("%d bytes are free for the one that is left, its part is %d", other.room(), m.own())
	}
	f.release()
	if m.beyond != 0 || len(m.flows) != 1 || other.holds() != 0 {
		t.Errorf("after its frame came back: %+v", m)
	}
}
