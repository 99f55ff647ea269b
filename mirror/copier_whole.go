package mirror

import (
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// What a copier does for a copy that preserves offsets. Its position is where its
// mirror ends, and committed is moved by every acknowledgement.

// wholeCopy is the state of such a copy; guarded by the copier.
type wholeCopy struct {
	on       bool
	over     leap  // what the next chunk passes over
	start    int64 // of the mirror's log, as it was told last
	startDue bool  // the source's start is above that
}

// beginWhole makes a prepared copier run, whose mirror begins at start and ends at
// end, with a record of the source's leader epoch.
func (c *copier) beginWhole(start, end int64, epoch int32, over leap) {
	c.mu.Lock()
	c.preparing = false
	c.state, c.reason, c.fix = Running, "", ""
	c.moveTo(end, epoch)
	c.whole.start, c.whole.over, c.whole.startDue = start, over, false
	c.noteStart()
	stopping := c.stopping
	c.unlock()
	if stopping {
		c.changed()
		return
	}
	c.writer.ready(c)
}

// leapOver makes the copy go on behind source offsets that it is not to have, unless
// what was fetched is void.
func (c *copier) leapOver(generation uint64, over leap) {
	c.mu.Lock()
	defer c.unlock()
	if c.generation == generation && over.to > c.fetchNext {
		c.whole.over = over
	}
}

// undecidedWait is how long a copy waits that has met another lane's open
// transaction: lanes commit some ten times a second.
const undecidedWait = 10 * time.Millisecond

// waitForTransaction fetches nothing for a while, unless what was fetched is void.
func (c *copier) waitForTransaction(generation uint64) {
	c.mu.Lock()
	defer c.unlock()
	if c.generation == generation {
		c.notBefore = time.Now().Add(undecidedWait)
	}
}

// followStart says what start of the source the mirror is to be told of, which ends
// at end; false if none.
func (c *copier) followStart(end int64) (start int64, due bool) {
	c.mu.Lock()
	defer c.unlock()
	if !c.whole.startDue || c.start > end {
		return -1, false
	}
	c.whole.start, c.whole.startDue = c.start, false
	return c.start, true
}

// noteStart says whether the source's start has moved. c.mu is held.
func (c *copier) noteStart() bool {
	if c.whole.on && c.state == Running && c.start > c.whole.start && c.start <= c.committed {
		c.whole.startDue = true
	}
	return c.whole.startDue
}

// enterStretch makes the copier its writer's until [copier.leaveStretch]. It
// returns where the mirror ends, and the source's leader epoch there.
func (c *copier) enterStretch() (s *stretch, ok bool) {
	c.mu.Lock()
	defer c.unlock()
	// What was fetched before something that stops the copy is written.
	if c.stopping || len(c.queue) == 0 && !(c.whole.startDue && c.state == Running) {
		return nil, false
	}
	c.inTxn, c.beginDue = true, false
	return &stretch{c: c, end: c.committed, epoch: c.committedEpoch, stalled: c.stalled()}, true
}

// acknowledged says that the mirror has a chunk, and what its last leader epoch is.
func (c *copier) acknowledged(k *chunk, epoch int32, now time.Time) {
	c.mu.Lock()
	c.offsetRate.add(k.next-k.from, now)
	c.committed, c.committedEpoch = k.next, epoch
	n := k.records()
	c.records += n
	c.bytes += int64(k.size)
	c.recordRate.add(n, now)
	c.byteRate.add(int64(k.size), now)
	c.lastCommit = now
	c.lag.reach(c.committed)
	c.backoff.n = 0
	if c.stall.progress(); len(c.queue) > 0 {
		c.stall.begin(now)
	}
	again := c.noteStart()
	c.unlock()
	if again {
		c.writer.ready(c)
	}
	c.metrics.Records.Add(n)
	c.metrics.Bytes.Add(int64(k.size))
	for _, g := range k.gaps {
		c.metrics.GapOffsets.Add(g.Count)
	}
}

// hopTime is the time of the next hop. Times within a copy never go backwards,
// whatever the clock does.
func (c *copier) hopTime(now time.Time) time.Time {
	c.mu.Lock()
	defer c.unlock()
	if c.lastHop.Before(now) {
		c.lastHop = now
	}
	return c.lastHop
}

// leaveStretch says that nothing of the copy is under way any more: everything that
// was acknowledged is in the ledger, or is to be found again after a fault.
func (c *copier) leaveStretch(fault error) {
	c.mu.Lock()
	c.inTxn = false
	if fault != nil || c.state != Running {
		c.moveTo(c.committed, c.committedEpoch)
	}
	if fault != nil && !c.final {
		c.fault(fault)
	}
	again := fault == nil && (len(c.queue) > 0 || c.whole.startDue) && !c.stopping
	notify := fault != nil || c.stopping
	c.unlock()
	if again {
		c.writer.ready(c)
	}
	if notify {
		c.changed()
	}
}

// copyIDs are what the ledger calls the copy.
func (c *copier) copyIDs() (ledger.CopyID, ledger.CopyKey) {
	c.mu.Lock()
	defer c.unlock()
	return c.id, c.key
}
