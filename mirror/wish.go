package mirror

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// wishes are the copies of one fetcher that want something else than when it last
// looked: a fetch of ten thousand copies costs what has changed of them. It is safe
// for concurrent use.
type wishes struct {
	mu   sync.Mutex
	list []*copier
	wake chan struct{} // there is something on the list

	answered atomic.Pointer[time.Time] // when the broker last answered a fetch
}

func newWishes() *wishes { return &wishes{wake: make(chan struct{}, 1)} }

func (w *wishes) add(c *copier) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, c)
	w.nudge()
}

// nudge has the fetcher look again, at the source's leaders too.
func (w *wishes) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take empties the list into the memory of an earlier one.
func (w *wishes) take(memory []*copier) []*copier {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.list
	w.list = memory[:0]
	return list
}

// wish is what decides whether a copy is fetched, and from where.
type wish struct {
	runs, full, asks, troubled bool
	generation                 uint64
	offset, over               int64
	notBefore                  time.Time
}

// wishing is a copier's part in that; guarded by the copier.
type wishing struct {
	reader *wishes // of the fetcher that reads for the copy, nil while there is none
	wish   wish    // as of when the copier was last put on the reader's list
	listed bool    // it is there
	// since is when the copy came into the reader's fetches, zero while it is in none;
	// answered, when the source had last answered one before that.
	since, answered time.Time
}

// unlock unlocks c.mu. Whoever may have changed what the copy wants ends with it: the
// copy's fetcher hears of every change, and of nothing else.
func (c *copier) unlock() {
	if r := c.wishing.reader; r != nil && !c.wishing.listed {
		if now := c.wishNow(); now != c.wishing.wish {
			c.wishing.wish, c.wishing.listed = now, true
			r.add(c)
		}
	}
	c.mu.Unlock()
}

// wishNow is what the copy wants. c.mu is held.
func (c *copier) wishNow() wish {
	return wish{
		runs: c.state == Running && !c.stopping, full: c.queuedSize >= roomFor, asks: c.asking, troubled: c.asking && c.trouble.reason != "",
		generation: c.generation, offset: c.fetchNext, over: c.whole.over.to, notBefore: c.notBefore,
	}
}

// readBy gives the copy to a fetcher, or with nil to none. The one that had it hears
// of that, and so does one that has it still: it may have seen the partition without
// a leader meanwhile.
func (c *copier) readBy(r *wishes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.wishing.reader
	if old == r {
		if r != nil && c.wishing.listed {
			r.nudge() // it may just have looked at the list, and at the leaders before
		} else if r != nil {
			c.wishing.listed = true
			r.add(c)
		}
		return
	}
	c.wishing = wishing{reader: r, wish: c.wishNow(), listed: r != nil, answered: c.lastAnswer()}
	if old != nil {
		old.add(c)
	}
	if r != nil {
		r.add(c)
	}
}

// appetite is what a fetcher is to do about a copy.
type appetite uint8

const (
	leaves  appetite = iota // it is another fetcher's
	wants                   // it is to be fetched
	sated                   // it is not, until it says so
	crowded                 // nor is this one, but as a rule it says so soon
	rests                   // not before a time
)

// want says what to fetch next, if anything; reader is who asks. With rests comes
// from when on.
func (c *copier) want(reader *wishes, now time.Time) (w wanted, a appetite, from time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wishing.reader != reader {
		return wanted{}, leaves, from
	}
	c.wishing.listed, c.wishing.wish = false, c.wishNow()
	switch {
	case c.state != Running || c.stopping:
		return wanted{}, sated, from
	case now.Before(c.notBefore):
		return wanted{}, rests, c.notBefore
	case c.queuedSize >= roomFor, c.asking && c.trouble.reason == "":
		return wanted{}, crowded, from
	case c.asking:
		return wanted{}, sated, from
	}
	lim := c.limits
	lim.origin = c.origin
	lim.verify, lim.careful, lim.suspect = c.verify, c.careful, c.damagedAt
	w = wanted{c: c, topicID: c.id.Source.TopicID, generation: c.generation, offset: c.fetchNext, epoch: c.epoch, checked: c.checked, troubled: c.trouble.reason != "", limits: lim}
	w.from, w.over = w.offset, c.whole.over
	w.offset = max(w.offset, w.over.to)
	return w, wants, from
}

// wanted is one partition of a fetch.
type wanted struct {
	c           *copier
	topicID     ledger.TopicID // zero where the source has none
	generation  uint64
	offset      int64
	leaderEpoch int32 // of the present leader
	epoch       int32 // of the leader that appended what is at offset-1, -1
	checked     int32 // leader epoch for which that was found to be so
	troubled    bool  // nothing came for a reason, which the copy goes on telling
	limits      limits

	// Of a copy that preserves offsets: what it has come to, from where the fetch
	// leaps to offset.
	from int64
	over leap
}

// fetching says that the copy is part of its reader's fetches from now on, or is
// no longer.
func (c *copier) fetching(reader *wishes, is bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wishing.reader != reader {
		return
	}
	c.wishing.answered = c.lastAnswer()
	if c.wishing.since = now; !is {
		c.wishing.since = time.Time{}
	}
}

// lastAnswer is when the source last answered a fetch of this copy, with
// [copier.watermarks] if there was anything new. c.mu is held.
func (c *copier) lastAnswer() time.Time {
	if w := &c.wishing; !w.since.IsZero() {
		if at := w.reader.answered.Load(); at != nil && !at.Before(w.since) {
			return *at
		}
	}
	return c.wishing.answered
}
