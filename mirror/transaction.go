package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

const (
	// maxInFlight is Kafka's own bound: a broker remembers the last five batches
	// of a producer.
	maxInFlight = 5

	// requestBytes is what a request holds before the next one is begun. With
	// five in flight it keeps 20 MB on the wire: 1.6 Gbit/s at 100 ms.
	requestBytes = 4 << 20

	// transactionBytes ends a transaction before its time: readers of the
	// destination see nothing of it until then, and its hops are bounded.
	transactionBytes = 64 << 20

	// ackTimeout is how long a broker may wait for its replicas.
	ackTimeout = 10 * time.Second
)

// transaction is one transaction of a lane: what it holds and what is in flight.
type transaction struct {
	l    *lane
	view *view // of the destination, one for the whole transaction

	began time.Time
	// admission is how long the coordinator took to add the first partitions: before that
	// it writes the markers of the transaction before.
	admission time.Duration
	behind    bool // more was ready all the time than got through

	parts   []*part
	of      map[*copier]*part
	added   map[flow.TopicPartition]bool
	flights map[int32][]flight // by broker, in the order sent
	bytes   int64
	unclear bool // the commit has been asked for

	announcement *ledger.Writer
}

// part is what a transaction holds of one copy.
type part struct {
	c       *copier
	id      ledger.CopyID
	key     ledger.CopyKey
	begin   bool
	correct *correction // said with begin; nil: nothing was lost
	stalled string      // how long the copy had stood still, "" for nothing to tell
	held    string      // how long it does, of a copy that entered to say that and nothing else

	from, next int64 // source offsets
	fromEpoch  int32 // the source's leader epoch at from-1, -1 if not known
	chunks     []placed
	expect     int64 // least base offset of the next acknowledgement, 0: not known
	loose      bool  // what lies below that base offset need not be foreign
	wrote      bool
	begun      bool     // the ledger has its begin, ahead of its data
	sent       bool     // some of its data may be at the destination
	remnant    *remnant // what may be there from before; nil: nothing
	matched    bool     // the tail was looked into, and nothing was written since

	records, bytes, foreign int64
	doubled                 int64 // may be twice at the destination
	hopAt                   time.Time
	leaderEpoch             int32 // destination's
	fault                   error // the copy's own fault
}

// stands says that the copy does not go on: it entered to say so, and nothing has come since.
func (p *part) stands() bool { return p.held != "" && len(p.chunks) == 0 }

// flight is a produce request under way.
type flight struct {
	call    *kafka.Call
	entries map[flow.TopicPartition]entry
}

// entry is one batch in a request: number i of a part, or a ledger page.
type entry struct {
	part  *part // nil: ledger
	i     int
	count int64
}

func newTransaction(l *lane) *transaction {
	return &transaction{
		l: l, view: l.destination.view(), began: time.Now(),
		of: map[*copier]*part{}, added: map[flow.TopicPartition]bool{}, flights: map[int32][]flight{},
	}
}

// run collects what is ready until the commit interval is over, which begins when the
// coordinator has let it begin, or until the lane is asked to stop, and commits. After an
// error the transaction is not committed, except that it may be if unclear is set; its
// parts are the lane's to settle.
func (t *transaction) run(ctx, hard context.Context) error {
	deadline := time.NewTimer(t.l.interval)
	defer deadline.Stop()
	ready := t.l.takeReady()
	var idle time.Duration
	for {
		var err error
		admitted := t.admission > 0
		if ready, err = t.round(hard, ready); err != nil {
			return t.abandon(hard, err)
		}
		if !admitted && t.admission > 0 {
			deadline.Reset(t.l.interval)
		}
		over := t.bytes >= t.l.limit || ctx.Err() != nil || len(t.parts) == 0
		if len(ready) == 0 && !over {
			began := time.Now()
			select {
			case <-t.l.wake:
			case <-deadline.C:
				over = true
			case <-ctx.Done():
				over = true
			}
			idle += time.Since(began)
		} else {
			select {
			case <-deadline.C:
				over = true
			default:
			}
		}
		if over {
			break
		}
		ready = once(ready, t.l.takeReady())
	}
	t.behind = len(ready) > 0 && idle < time.Since(t.began)/10
	for _, c := range ready {
		t.l.ready(c)
	}
	if len(t.parts) == 0 {
		return nil
	}
	return t.finish(hard)
}

// once is both lists, each copier once. A copier that still has more can have
// become ready again meanwhile, and a request holds one batch of a partition: the
// second would be appended, but its answer not told from the first's.
func once(have, more []*copier) []*copier {
	if len(more) == 0 {
		return have
	}
	seen := make(map[*copier]bool, len(have)+len(more))
	for _, c := range have {
		seen[c] = true
	}
	for _, c := range more {
		if !seen[c] {
			seen[c] = true
			have = append(have, c)
		}
	}
	return have
}

// round takes one chunk of each ready copier and sends them. It returns those
// that have more.
func (t *transaction) round(ctx context.Context, ready []*copier) (more []*copier, err error) {
	var batches []outgoingBatch
	defer func() {
		for i := range batches {
			batches[i].release()
		}
	}()
	var fresh []flow.TopicPartition
	for _, c := range ready {
		p := t.of[c]
		if p == nil {
			if p = c.enter(); p == nil {
				continue
			}
			t.of[c] = p
			t.parts = append(t.parts, p)
		}
		q, ok, again := c.take()
		if !ok {
			continue
		}
		if again {
			more = append(more, c)
		}
		if q.from != p.next {
			q.release()
			return nil, t.blame(p, fmt.Errorf("%v: what was fetched goes on at offset %d, the copy is at %d", c.source(), q.from, p.next))
		}
		if p.remnant != nil && q.batch != nil && q.aside == nil {
			pieces, rest := p.remnant.split(&q.chunk, t.l.MaxDecode)
			if len(pieces) > 0 {
				q.release()
				t.found(p, pieces)
				if len(rest) > 0 {
					c.putBack(rest)
				}
				if len(rest) > 0 && !again {
					more = append(more, c)
				}
				continue
			}
		}
		p.next = q.next
		p.chunks = append(p.chunks, placed{chunk: q.chunk})
		if q.batch == nil {
			continue
		}
		tp := c.destination()
		if q.aside != nil {
			if tp, err = c.quarantine(t.view); err != nil {
				q.release()
				t.l.destination.wantRefresh()
				return nil, t.blame(p, err)
			}
		}
		if !t.added[tp] {
			fresh = append(fresh, tp)
			t.added[tp] = true
		}
		batches = append(batches, outgoingBatch{tp: tp, queued: q, part: p, i: len(p.chunks) - 1})
	}
	if t.l.plain {
		if err := t.declare(ctx, batches); err != nil {
			return nil, err
		}
	}
	if len(fresh) > 0 {
		if err := t.l.reach(beforeAdd); err != nil {
			return nil, err
		}
		if err := t.add(ctx, fresh); err != nil {
			return nil, err
		}
		if err := t.l.reach(afterAdd); err != nil {
			return nil, err
		}
	}
	return more, t.send(ctx, batches)
}

// found takes note of what a copy has at the destination from before.
func (t *transaction) found(p *part, pieces []placed) {
	for _, k := range pieces {
		n := k.records()
		p.chunks = append(p.chunks, k)
		p.next, p.expect = k.next, max(p.expect, k.base+n)
		p.records += n
		t.l.metrics.Matched.Add(n)
	}
	p.wrote, p.leaderEpoch = true, -1
}

func (t *transaction) add(ctx context.Context, tps []flow.TopicPartition) error {
	t.l.open = true
	began := time.Now()
	err := t.l.session.add(ctx, t.l.pid, t.l.epoch, tps)
	if t.admission == 0 {
		t.admission = time.Since(began)
	}
	var faults partitionErrors
	if errors.As(err, &faults) {
		for _, p := range t.parts {
			if err := faults[p.c.destination()]; err != nil {
				p.fault = fmt.Errorf("add %v to transaction: %w", p.c.destination(), err)
			}
		}
	}
	return err
}

// outgoingBatch is a batch on its way to its leader.
type outgoingBatch struct {
	tp flow.TopicPartition
	queued
	part *part
	i    int
}

// send stamps batches and sends each to the leader of its partition, in as few
// requests as their size allows: a request holds one batch of a partition.
func (t *transaction) send(ctx context.Context, batches []outgoingBatch) error {
	requests := map[int32]*requestBuilder{}
	for i := range batches {
		b := &batches[i]
		leader, epoch, err := t.view.leader(b.tp.Topic, b.tp.Partition)
		if err != nil {
			t.l.destination.wantRefresh()
			return t.blame(b.part, err)
		}
		r := requests[leader]
		if r != nil && r.has(b.tp) { // several copies put records aside
			if err := t.dispatch(ctx, leader, r); err != nil {
				return err
			}
			r = nil
		}
		if r == nil {
			r = newRequestBuilder()
			requests[leader] = r
		}
		count := int64(b.batch.Count())
		t.stamp(b.batch, b.tp, count)
		switch {
		case b.aside != nil:
			t.l.metrics.Quarantined.Add(count)
		case b.path == ledger.Raw:
			t.l.metrics.RawBatches.Add(1)
		default:
			t.l.metrics.EncodedBatches.Add(1)
		}
		r.add(b.tp, b.batch, entry{b.part, b.i, count})
		if b.aside == nil {
			if b.part.leaderEpoch = epoch; t.l.plain {
				b.part.leaderEpoch = -1 // no leader checks it, so another one's may be true
			}
			b.part.bytes += int64(len(b.batch))
		}
		t.bytes += int64(len(b.batch))
		if r.size >= requestBytes {
			if err := t.dispatch(ctx, leader, r); err != nil {
				return err
			}
			delete(requests, leader)
		}
	}
	for leader, r := range requests {
		if err := t.dispatch(ctx, leader, r); err != nil {
			return err
		}
	}
	// The socket has its copy: the memory is not ours to keep.
	for i := range batches {
		c := &batches[i].part.chunks[batches[i].i]
		if c.aside == nil {
			c.size = len(c.batch)
		} else {
			c.asideTo, c.asideRecords = batches[i].tp, int64(c.batch.Count())
		}
		c.batch = nil
	}
	return nil
}

// stamp makes a batch the lane's: its producer id, epoch and next sequence.
func (t *transaction) stamp(b record.Batch, tp flow.TopicPartition, count int64) {
	seq := t.l.sequence[tp]
	t.l.sequence[tp] = record.AddSequence(seq, int32(count))
	b.SetBaseOffset(0)
	b.SetLeaderEpoch(-1)
	b.Restamp(record.Stamp{ProducerID: t.l.pid, ProducerEpoch: t.l.epoch, BaseSequence: seq, Attributes: outgoing(b.Attributes(), !t.l.plain)})
}

// dispatch sends a request, after the oldest in flight to that broker if there
// are as many as there may be.
func (t *transaction) dispatch(ctx context.Context, broker int32, r *requestBuilder) error {
	for len(t.flights[broker]) >= maxInFlight {
		if err := t.land(ctx, broker); err != nil {
			return err
		}
	}
	conn, err := t.l.connection(ctx, broker, t.view)
	if err != nil {
		t.l.destination.wantRefresh()
		return t.blameAll(r.entries, err)
	}
	bounded, cancel := context.WithTimeout(ctx, 2*ackTimeout)
	defer cancel()
	for _, e := range r.entries {
		if e.part != nil {
			e.part.sent = true
		}
	}
	id := t.l.id
	if t.l.plain {
		id = ""
	}
	call := conn.SendProduce(bounded, r.request(id))
	t.flights[broker] = append(t.flights[broker], flight{call, r.entries})
	return nil
}

// land waits for the oldest request in flight to a broker and checks what was
// acknowledged.
func (t *transaction) land(ctx context.Context, broker int32) error {
	f := t.flights[broker][0]
	t.flights[broker] = t.flights[broker][1:]
	answer, err := f.call.Wait(ctx)
	if err != nil {
		t.l.destination.wantRefresh()
		return t.blameAll(f.entries, err)
	}
	resp := answer.(*kmsg.ProduceResponse)
	t.l.destination.throttle.note(resp.ThrottleMillis)
	for _, topic := range resp.Topics {
		for i := range topic.Partitions {
			p := &topic.Partitions[i]
			tp := flow.TopicPartition{Topic: topic.Topic, Partition: p.Partition}
			e, ok := f.entries[tp]
			if !ok {
				continue
			}
			delete(f.entries, tp)
			if ackErr := t.acknowledge(tp, e, p); ackErr != nil && err == nil {
				err = ackErr
			}
		}
	}
	if len(f.entries) > 0 && err == nil {
		err = t.blameAll(f.entries, errors.New("produce: the answer leaves partitions out"))
	}
	return err
}

func (t *transaction) acknowledge(tp flow.TopicPartition, e entry, p *kmsg.ProduceResponseTopicPartition) error {
	if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
		if kerr.IsRetriable(err) {
			t.l.destination.wantRefresh()
		}
		if p.ErrorMessage != nil {
			err = fmt.Errorf("%w (%s)", err, *p.ErrorMessage)
		}
		return t.blame(e.part, fmt.Errorf("produce to %v: %w", tp, err))
	}
	if e.part == nil {
		return nil
	}
	if c := &e.part.chunks[e.i]; c.aside != nil { // where others put theirs, too
		c.base = p.BaseOffset
		return nil
	}
	if p.BaseOffset < e.part.expect {
		return t.blame(e.part, fmt.Errorf("%v: %w: acknowledged at offset %d, expected %d or above", tp, errIntruder, p.BaseOffset, e.part.expect))
	}
	if e.part.expect > 0 && !e.part.loose {
		own := int64(1) // the commit marker of the transaction before
		if e.part.wrote || t.l.plain {
			own = 0
		}
		between := max(0, p.BaseOffset-e.part.expect-own)
		if e.part.matched { // a request from before may have come late
			e.part.doubled += between
		} else {
			e.part.foreign += between
		}
	}
	e.part.matched = false
	e.part.loose = false
	e.part.expect = p.BaseOffset + e.count
	e.part.wrote = true
	e.part.records += e.count
	e.part.chunks[e.i].base = p.BaseOffset
	return nil
}

// blame makes an error that of one copy, so that only that copy stands back, and
// ends the transaction. For a page of the ledger nobody is to blame.
func (t *transaction) blame(p *part, err error) error {
	if p != nil && p.fault == nil && !isFencing(err) {
		p.fault = err
	}
	return err
}

func (t *transaction) blameAll(entries map[flow.TopicPartition]entry, err error) error {
	for _, e := range entries {
		_ = t.blame(e.part, err) // err itself is returned, once
	}
	return err
}

// drain waits for everything in flight. After a fault it goes on, so that each
// copy learns its own.
func (t *transaction) drain(ctx context.Context) (first error) {
	for broker := range t.flights {
		for len(t.flights[broker]) > 0 {
			if err := t.land(ctx, broker); err != nil && first == nil {
				first = err
			}
		}
	}
	return first
}

// abandon ends a transaction that met a fault before its commit.
func (t *transaction) abandon(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(ctx, abandonTimeout)
	defer cancel()
	_ = t.drain(ctx) // err came first
	return err
}

// abandonTimeout is how long a failed transaction waits for the answers of what
// it has in flight; they only tell who else is at fault.
const abandonTimeout = 2 * time.Second

// finish writes the hops, after every acknowledgement, and commits.
func (t *transaction) finish(ctx context.Context) error {
	if err := t.drain(ctx); err != nil {
		return err
	}
	if err := t.l.reach(afterData); err != nil {
		return err
	}
	drained := time.Now()
	if err := t.writeLedger(ctx); err != nil {
		return t.abandon(ctx, fmt.Errorf("%w: %w", errLedger, err))
	}
	if err := t.drain(ctx); err != nil {
		return fmt.Errorf("%w: %w", errLedger, err)
	}
	if err := t.l.reach(afterHops); err != nil {
		return err
	}
	for _, p := range t.parts {
		if p.c.doomed() { // found out while the transaction was filling
			return fmt.Errorf("copy to %v must not go on", p.c.destination())
		}
	}
	if len(t.added) > 0 {
		t.unclear = true
		if err := t.l.session.commit(ctx, t.l.pid, t.l.epoch); err != nil {
			return err
		}
		if err := t.l.reach(afterEndSent); err != nil {
			return err
		}
	}
	t.committed(drained)
	return nil
}

func (t *transaction) committed(drained time.Time) {
	t.l.open = false
	now := time.Now()
	m := t.l.metrics
	m.Commits.Add(1)
	m.CommitNanos.Add(int64(now.Sub(drained)))
	for _, p := range t.parts {
		for _, c := range p.chunks {
			for _, g := range c.gaps {
				m.GapOffsets.Add(g.Count)
			}
		}
		p.c.commit(p, now)
	}
	t.l.interval = nextInterval(t.admission+now.Sub(drained), t.behind, t.l.CommitInterval, t.l.MaxCommitInterval)
}

// nextInterval is how long the next transaction collects data, after one that the
// coordinator took this long to begin and to commit: up to half of the time goes into that, and
// a fifth where more is to be copied than gets through. Who waits for a record then waits
// for all those before it, and they come sooner the fewer commits there are.
func nextInterval(cost time.Duration, behind bool, least, most time.Duration) time.Duration {
	if behind {
		cost *= 4
	}
	return min(max(least, cost), most)
}
