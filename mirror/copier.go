package mirror

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// copier is one copy on this node: the queue between a fetcher and a writer, and
// what is known of its progress. A fetcher pushes staged chunks, the writer takes
// them and tells what became of them.
//
//	committed <= taken by the writer <= fetchNext
//
// While inTxn it belongs to its writer: nobody moves its position.
type copier struct {
	a       Assignment
	writer  writer
	metrics *Metrics
	changed func() // tells the flow that the copier needs its attention
	backoff backoff

	listed bool // in the writer's ready list; guarded by the writer

	mu         sync.Mutex // unlocked by unlock where the copy's wish may have changed
	wishing    wishing
	id         ledger.CopyID
	key        ledger.CopyKey
	state      State
	reason     string
	fix        string
	final      bool      // failed for good
	retryAt    time.Time // when Waiting or Failed
	trouble    trouble   // what keeps the source from answering, while Running
	stall      stall
	refusals   backoff   // of offsets that the source has
	notBefore  time.Time // no fetch until then
	origin     *provenance
	asking     bool   // where what comes next is from: no fetch until then
	generation uint64 // changes with every rewind: what was fetched before is void
	fetchNext  int64
	queue      []queued
	queuedSize int64
	inTxn      bool
	preparing  bool // being started
	stopping   bool
	beginDue   bool
	correct    *correction // to be said when the copy begins
	lostSource bool        // the source has lost what was copied
	intruded   bool        // the destination appended where the copy had written
	verify     bool        // check checksums on the raw path: the destination found one wrong
	careful    bool        // look at each record: the destination refused one
	damagedAt  int64       // offset of the batch whose checksum was wrong when it was last fetched, -1
	limits     limits
	whole      wholeCopy
	epoch      int32 // source leader epoch at fetchNext-1, -1 if not known
	checked    int32 // source leader epoch under which epoch was found in the log

	startAt int64 // where a copy without history begins, -1: not known yet

	committed int64 // -1: not known
	// committedEpoch is the source's leader epoch at committed-1, -1 if not known.
	committedEpoch int32
	destNext       int64    // least offset that the next batch can get, 0: not known
	destEpoch      int32    // the destination's leader epoch that had the last record, -1
	destGuarded    int32    // its leader epoch for which that was found to be so, -1
	destLoose      bool     // what lies between may be aborted batches of ours
	remnant        *remnant // of the destination, not matched yet; nil: nothing is to be matched
	matched        bool     // the destination was read to its end, and nothing was written since
	start, end     int64    // of the source, -1
	stable         int64
	stableAt       time.Time // when stable last moved, or was last known to be the end
	hangingAfter   time.Duration
	stallNoted     time.Duration
	holder         string // whose transaction holds the copy back, as of holderAt
	holderAt       int64  // stable
	lag            lagClock
	records        int64
	bytes          int64
	foreign        int64
	doubled        int64
	recordRate     meter
	byteRate       meter
	offsetRate     meter // of committed, gaps included
	endRate        meter // of end
	lastCommit     time.Time
	lastHop        time.Time
}

type queued struct {
	chunk
	frame *frame // nil if the chunk shares no response's memory
}

// roomFor bounds what one copy may have queued. With two full fetches of a busy
// partition there is always a batch ready while the next fetch is under way.
const roomFor = 4 << 20

func newCopier(a Assignment, changed func(), m *Metrics) *copier {
	return &copier{
		a: a, changed: changed, metrics: m, state: Starting, whole: wholeCopy{on: a.Offsets == flow.OffsetsPreserve},
		backoff: backoff{min: 100 * time.Millisecond, max: 15 * time.Second}, refusals: backoff{min: 100 * time.Millisecond, max: 15 * time.Second},
		startAt: -1, committed: -1, committedEpoch: -1, fetchNext: -1, start: -1, end: -1, stable: -1, epoch: -1, checked: -1, destEpoch: -1, destGuarded: -1, damagedAt: -1,
	}
}

func (c *copier) source() flow.TopicPartition {
	return flow.TopicPartition{Topic: c.a.SourceTopic, Partition: c.a.Partition}
}

func (c *copier) destination() flow.TopicPartition {
	return flow.TopicPartition{Topic: c.a.DestinationTopic, Partition: c.a.Partition}
}

// isSettled says that nothing about the copier will change before it says so: it
// runs, or has failed for good.
func (c *copier) isSettled() bool {
	c.mu.Lock()
	defer c.unlock()
	return !c.preparing && (c.state == Running || c.final)
}

// prepare says whether the copier is due to be started, and if so marks it as
// being started.
func (c *copier) prepare(now time.Time) bool {
	c.mu.Lock()
	defer c.unlock()
	if c.inTxn || c.preparing || c.stopping || c.final || c.state == Running || len(c.queue) > 0 || now.Before(c.retryAt) {
		return false
	}
	c.preparing = true
	return true
}

func (c *copier) setID(id ledger.CopyID, p *provenance) {
	c.mu.Lock()
	defer c.unlock()
	c.id, c.key, c.origin = id, id.Key(), p
}

// ask says that it is not known where the records at an offset are from, unless
// what was fetched is void; nothing is fetched until that is answered.
func (c *copier) ask(generation uint64, offset int64) (*provenance, bool) {
	c.mu.Lock()
	defer c.unlock()
	if c.generation != generation || c.state != Running || c.stopping || offset < c.fetchNext || offset > c.fetchNext && !c.whole.on {
		return nil, false
	}
	c.asking = true
	return c.origin, true
}

func (c *copier) resolved(generation uint64) {
	c.mu.Lock()
	defer c.unlock()
	if c.generation == generation && c.asking {
		c.asking, c.trouble = false, trouble{}
	}
}

// unresolved takes note of why a question has no answer yet; it is false if nobody
// waits for one any more.
func (c *copier) unresolved(generation uint64, why error) bool {
	c.mu.Lock()
	defer c.unlock()
	if c.generation != generation || !c.asking || c.stopping {
		return false
	}
	c.trouble = troubleOf(why)
	return true
}

// begin makes a prepared copier run from a position, which is zero for a copy
// without history. What lies between it and start is declared as not asked for,
// in the transaction that says that the copy has begun.
// So is correct, if anything was lost.
func (c *copier) begin(at Position, lim limits, start int64, correct *correction, behind *remnant) {
	c.mu.Lock()
	c.preparing = false
	c.limits = lim
	c.state, c.reason, c.fix = Running, "", ""
	c.beginDue = true
	if !at.Exists {
		at.SourceLeaderEpoch, at.DestinationLeaderEpoch = -1, -1
	}
	c.correct = correct
	c.destEpoch, c.destGuarded = at.DestinationLeaderEpoch, at.DestinationLeaderEpoch
	c.moveTo(at.Next, at.SourceLeaderEpoch)
	c.destNext = max(0, at.Destination)
	c.remnant, c.matched = nil, false
	if behind != nil {
		c.destNext, c.destLoose, c.matched = max(c.destNext, behind.end), false, true
		if len(behind.records) > 0 || behind.doubled > 0 {
			c.remnant = behind
		}
	}
	if start > at.Next {
		c.queue = append(c.queue, queued{chunk: gapChunk(at.Next, start, ledger.NotAsked, -1)})
		c.fetchNext = start
	}
	stopping := c.stopping
	c.unlock()
	if stopping {
		c.changed()
		return
	}
	c.writer.ready(c)
}

// postpone records why a start did not succeed.
func (c *copier) postpone(err error) {
	c.mu.Lock()
	defer c.unlock()
	c.preparing = false
	c.fault(err)
}

func (c *copier) currentGeneration() uint64 {
	c.mu.Lock()
	defer c.unlock()
	return c.generation
}

// moveTo drops what is queued and goes on from position; epoch is the source's
// leader epoch just before it, -1 if not known. c.mu is held.
func (c *copier) moveTo(position int64, epoch int32) {
	for i := range c.queue {
		c.queue[i].release()
	}
	c.queue, c.queuedSize, c.asking = nil, 0, false
	c.generation++
	c.committed, c.fetchNext = position, position
	c.destLoose = true // an aborted transaction leaves batches behind
	c.epoch, c.committedEpoch, c.checked = epoch, epoch, -1
}

func (q *queued) release() {
	q.frame.release()
	q.frame, q.batch = nil, nil
}

// confirm says that the source's log, under a leader epoch, still has what was
// fetched from it.
func (c *copier) confirm(generation uint64, leaderEpoch int32) {
	c.mu.Lock()
	defer c.unlock()
	if c.generation == generation {
		c.checked = leaderEpoch
	}
}

// sourceTrouble says that the source does not answer for now.
func (c *copier) sourceTrouble(err error) {
	c.mu.Lock()
	defer c.unlock()
	c.sourceInTheWay(err, time.Now().Add(c.backoff.min))
}

// contradicted says that the source refuses to be read at an offset that it says it has:
// once, because its log moved between the two answers, or for as long as it is broken.
func (c *copier) contradicted(err error) {
	c.mu.Lock()
	defer c.unlock()
	c.sourceInTheWay(err, time.Now().Add(c.refusals.next()))
}

// sourceInTheWay takes note of why nothing is fetched before a time. c.mu is held.
func (c *copier) sourceInTheWay(err error, until time.Time) {
	err = fmt.Errorf("source: %w", err)
	c.trouble, c.notBefore = troubleOf(err), until
	c.stall.meet(err, time.Now())
}

// watermarks takes note of the source's offsets.
func (c *copier) watermarks(start, end, stable int64, now time.Time) {
	c.mu.Lock()
	if start >= 0 {
		c.start = start
	}
	if c.whole.on {
		stable = end // open transactions hold nothing back
	}
	// In a session nothing is said of an idle partition, however long.
	if caughtUp := c.stable >= c.end; caughtUp || stable != c.stable || stable >= end {
		c.stableAt = now
	}
	if c.end >= 0 {
		c.endRate.add(max(0, end-c.end), now)
	}
	c.end, c.stable = end, stable
	c.trouble, c.notBefore, c.refusals.n = trouble{}, time.Time{}, 0
	if end > c.committed {
		c.lag.observe(end, now)
	} else {
		c.stall.progress()
	}
	due := c.noteStart()
	c.unlock()
	if due {
		c.writer.ready(c)
	}
}

// push queues chunks that were staged from a fetch of generation. While the source
// partition moves, its old leader and its new one may both answer a fetch of the
// same offset: what is queued already is not queued again.
func (c *copier) push(generation uint64, chunks []chunk, next int64, f *frame) {
	if len(chunks) == 0 {
		return
	}
	c.mu.Lock()
	if generation != c.generation || c.state != Running || chunks[0].from != c.fetchNext {
		c.unlock()
		return
	}
	for _, k := range chunks {
		q := queued{chunk: k}
		switch {
		case k.own > 0:
			q.frame = f.budget.newFrame(int64(k.own))
		case k.batch != nil:
			q.frame = f.retain()
		}
		c.epoch = k.leaderEpoch
		c.queue = append(c.queue, q)
		c.queuedSize += int64(len(k.batch))
	}
	c.fetchNext = next
	c.stall.begin(time.Now())
	c.unlock()
	c.writer.ready(c)
}

// enter puts the copier into a transaction, as its part of it; nil says that it
// has nothing to say there.
func (c *copier) enter() *part {
	c.mu.Lock()
	defer c.unlock()
	says := len(c.queue) > 0 || c.beginDue && c.state == Running
	if c.stopping || !says && !c.standsUntold(time.Now()) {
		return nil
	}
	c.inTxn = true
	held := ""
	if !says {
		held = c.stall.text(c.a.Partition, "stands")
	}
	return &part{c: c, stalled: c.stalled(), held: held, id: c.id, key: c.key, from: c.committed, next: c.committed, fromEpoch: c.committedEpoch, expect: c.destNext, loose: c.destLoose, begin: c.beginDue, correct: c.correct, hopAt: c.lastHop, remnant: c.remnant, matched: c.matched}
}

// take gives the writer the next chunk of a copier in its transaction; more says
// that the queue holds another one.
func (c *copier) take() (q queued, ok, more bool) {
	c.mu.Lock()
	defer c.unlock()
	if len(c.queue) == 0 || c.stopping {
		return queued{}, false, false
	}
	q, c.queue = c.queue[0], c.queue[1:]
	c.queuedSize -= int64(len(q.batch))
	return q, true, len(c.queue) > 0
}

// putBack gives the writer chunks first that it is to take next.
func (c *copier) putBack(chunks []chunk) {
	c.mu.Lock()
	defer c.unlock()
	if c.stopping {
		return
	}
	first := make([]queued, len(chunks))
	for i, k := range chunks {
		first[i] = queued{chunk: k}
		c.queuedSize += int64(len(k.batch))
	}
	c.queue = append(first, c.queue...)
}

// commit says that the transaction with part p is committed.
func (c *copier) commit(p *part, now time.Time) {
	if p.stands() {
		c.toldOfHold(p.hopAt)
		return
	}
	c.mu.Lock()
	c.offsetRate.add(p.next-p.from, now)
	c.committed = p.next
	if n := len(p.chunks); n > 0 {
		c.committedEpoch = p.chunks[n-1].leaderEpoch
	}
	if p.wrote {
		c.destNext, c.destLoose = p.expect, false
		c.destEpoch, c.destGuarded = p.leaderEpoch, p.leaderEpoch
	}
	if p.begin {
		c.beginDue, c.correct, c.lostSource, c.intruded = false, nil, false, false
	}
	c.records += p.records
	c.bytes += p.bytes
	c.foreign += p.foreign
	c.doubled += p.doubled
	if c.remnant != nil {
		c.doubled += c.remnant.doubled
		p.doubled += c.remnant.doubled
		c.remnant.doubled = 0
		if len(c.remnant.records) == 0 {
			c.remnant = nil
		}
	}
	c.matched = p.matched
	c.recordRate.add(p.records, now)
	c.byteRate.add(p.bytes, now)
	c.lastCommit, c.lastHop = now, p.hopAt
	c.lag.reach(c.committed)
	c.backoff.n = 0
	c.inTxn = false
	again, stopping := len(c.queue) > 0, c.stopping
	if c.stall = (stall{}); again {
		c.stall.begin(now)
	}
	c.unlock()
	c.metrics.Records.Add(p.records)
	c.metrics.Bytes.Add(p.bytes)
	c.metrics.Foreign.Add(p.foreign)
	c.metrics.Doubled.Add(p.doubled)
	if again && !stopping {
		c.writer.ready(c)
	}
	if stopping {
		c.changed()
	}
}

// settle ends a failed transaction: the copy goes on from position, before which
// the source's leader epoch was epoch, or, with a fault of its own, stands back.
func (c *copier) settle(position int64, epoch int32, fault error) {
	c.mu.Lock()
	c.moveTo(position, epoch)
	c.lag.reach(position)
	c.inTxn = false
	if fault != nil {
		c.fault(fault)
	}
	again := c.state == Running && c.beginDue
	c.unlock()
	if again {
		c.writer.ready(c)
	}
	c.changed()
}

// fail stops fetching for a fault that was found outside of a transaction. What
// is queued before it is still copied.
func (c *copier) fail(generation uint64, err error) {
	if errors.Is(err, errTruncated) {
		c.truncated(generation, err)
		return
	}
	c.mu.Lock()
	if c.generation == generation && c.state == Running {
		c.fault(err)
	}
	c.unlock()
	c.changed()
}

// stopsAtGap says that the flow wants the copy to stop where the source's log no
// longer has what comes next. A copy that begins finds the log as it is.
func (c *copier) stopsAtGap(offset int64) bool {
	c.mu.Lock()
	defer c.unlock()
	begins := offset == 0 && (c.start < 0 || c.start > 0)
	return c.a.Spec.Spec.Policies.OnGap == flow.GapStop && !begins
}

// fault records an error and when to try again. c.mu is held.
func (c *copier) fault(err error) {
	if errors.Is(err, errIntruder) && !c.intruded {
		// A log that was cut back looks like this, too: the start finds out.
		c.intruded = true
		err = fmt.Errorf("%w: %s", errSuspect, err.Error())
	}
	now := time.Now()
	err = c.hinder(err, now)
	v := classify(err)
	if c.whole.on && errors.Is(err, errTruncated) {
		v = verdict{rewind, ""} // a start cuts the mirror
	}
	c.reason, c.fix = err.Error(), cmp.Or(v.fix, kafka.Advice(err))
	switch be := (*BatchError)(nil); {
	case errors.Is(err, kerr.CorruptMessage):
		c.verify = true
	case errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.InvalidTimestamp):
		c.careful = true // staged again, it shows which record that is
	case errors.Is(err, errCorrupt) && errors.As(err, &be):
		c.damagedAt = be.Offset
	}
	wait := c.backoff.next()
	switch v.action {
	case rewind:
		c.state = Waiting
	case hold:
		c.state = Failed
		wait = max(wait, holdRetry)
	case rest:
		c.state = Paused
		wait = max(wait, holdRetry)
	case stop:
		c.state, c.final = Failed, true
	}
	c.retryAt = now.Add(wait)
}

// holdRetry is how often a failed copy looks whether it has been helped.
const holdRetry = 2 * time.Second

// stop makes the copier take nothing more, and says whether its last transaction is
// decided: then it holds nothing.
func (c *copier) stop() (idle bool) {
	c.mu.Lock()
	defer c.unlock()
	c.stopping = true
	if idle = !c.inTxn && !c.preparing; idle {
		c.moveTo(c.committed, c.committedEpoch)
	}
	return idle
}

// hasFailed says that something has gone wrong since the last commit.
func (c *copier) hasFailed() bool {
	c.mu.Lock()
	defer c.unlock()
	return c.backoff.n > 0
}

// doomed says that nothing more of the copy may be committed.
func (c *copier) doomed() bool {
	c.mu.Lock()
	defer c.unlock()
	return c.final
}

func (c *copier) status(now time.Time) CopyStatus {
	c.mu.Lock()
	defer c.unlock()
	s := CopyStatus{
		Flow: c.a.Flow, SourceTopic: c.a.SourceTopic, DestinationTopic: c.a.DestinationTopic,
		Partition: c.a.Partition, Epoch: c.a.Epoch,
		State: c.state, Reason: c.reason, Fix: c.fix,
		Position: c.committed, SourceEnd: c.end, SourceStable: c.stable, SourceStart: c.start,
		Lag: c.lag.lag(now), Records: c.records, Bytes: c.bytes, ForeignRecords: c.foreign, MayBeDoubled: c.doubled,
		RecordsPerSecond: c.recordRate.perSecond(now), BytesPerSecond: c.byteRate.perSecond(now), LastCommit: c.lastCommit,
	}
	s.LagBytes, s.CatchUp, s.Exposure = -1, -1, exposure(s.Lag, c.lastAnswer(), now)
	if s.Position >= 0 && s.SourceEnd >= 0 {
		s.LagRecords = max(0, s.SourceEnd-s.Position)
		s.LagBytes = bytesOf(s.LagRecords, c.records, c.bytes)
		e := outlookOf(s.LagRecords, c.offsetRate.perSecond(now), c.endRate.perSecond(now))
		s.CatchUp, s.CatchUpBasis = e.after, e.basis
	}
	if c.state == Running && c.doubled > 0 {
		s.Reason = fmt.Sprintf("%d records may be twice at the destination: they were found behind the last hop and do not follow the source's order", c.doubled)
		s.Fix = "compare both sides with verify; the count begins anew when the copy moves or its node starts"
	}
	if c.held(now) {
		s.Reason, s.Fix = c.heldReason(now)
	}
	if c.state == Running {
		if t := cmp.Or(c.writer.problem(), c.trouble); t.reason != "" {
			s.State, s.Reason, s.Fix = t.state, t.reason, t.fix
		}
	}
	return s
}
