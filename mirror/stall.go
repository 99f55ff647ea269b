package mirror

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// defaultStallNoted is how long a copy must have stood still for the ledger to tell of
// it: brokers that elect and restart are back before.
const defaultStallNoted = time.Minute

// stall is the time in which a copy had something to bring over and brought nothing,
// and what was in the way. It is zero for a copy that gets on.
type stall struct {
	since   time.Time
	why     string    // what was last in the way, "" if nothing but time
	refused time.Time // when the destination first refused what is copied, zero if it did not
	untold  string    // what the ledger is to be told of it
	known   bool      // the ledger was told of it while it lasted
}

// begin says that there is something to bring over.
func (s *stall) begin(now time.Time) {
	if s.since.IsZero() {
		s.since = now
	}
}

// meet says what is in the way, at the latest since.
func (s *stall) meet(err error, since time.Time) {
	s.begin(since)
	s.why = err.Error()
}

// refuse says that the destination has refused what is copied.
func (s *stall) refuse(now time.Time) {
	if s.refused.IsZero() {
		s.refused = now
	}
}

// progress ends it; what the ledger was not told yet stays to be told.
func (s *stall) progress() { *s = stall{untold: s.untold} }

// noted says that something has been in the way for long enough for the ledger to be told.
func (s *stall) noted(now time.Time, least time.Duration) bool {
	return s.why != "" && now.Sub(s.since) >= least
}

// tell is what the ledger is told when the copy gets on, "" for nothing: of a stall that
// was noted, or was not told before.
func (s *stall) tell(partition int32, now time.Time, least time.Duration) string {
	if s.noted(now, least) {
		s.untold = s.text(partition, "has stood")
	}
	return s.untold
}

func (s *stall) text(partition int32, has string) string {
	return fmt.Sprintf("partition %d %s still since %s: %s", partition, has, s.since.UTC().Format(time.RFC3339), s.why)
}

// refusedTooLong says that the copy is to stop, as the flow's policy is: the destination
// refuses what is copied, and has taken nothing since it first did so long ago.
func (s *stall) refusedTooLong(p *flow.FlowPolicies, now time.Time) error {
	if p.OnRefusal != flow.RefusalStop || s.refused.IsZero() || now.Sub(s.refused) < p.RefusalAfter.Std() {
		return nil
	}
	return fmt.Errorf("%w since %s: %s", errRefused, s.refused.UTC().Format(time.RFC3339), s.why)
}

// isRefusal says that the destination could be reached and has no room for what is
// copied: on its disk, in a quota, or in enough replicas.
func isRefusal(err error) bool {
	for _, code := range []error{
		kerr.KafkaStorageError, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.ThrottlingQuotaExceeded, kerr.PolicyViolation,
	} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

// hinder takes note of an error that stands in the way; what it returns is the one that
// counts, since after some time the flow may want the copy to stop. c.mu is held.
func (c *copier) hinder(err error, now time.Time) error {
	c.stall.meet(err, now)
	if !isRefusal(err) {
		return err
	}
	c.stall.refuse(now)
	return orElse(c.stall.refusedTooLong(&c.a.Spec.Spec.Policies, now), err)
}

// stallTold says that the ledger has been told of how long the copy had stood still.
func (c *copier) stallTold() {
	c.mu.Lock()
	defer c.unlock()
	c.stall.untold = ""
}

// stalled is what the ledger is to be told of how long the copy has stood still, ""
// for nothing. c.mu is held.
func (c *copier) stalled() string {
	if o := c.writer.lately(); o.err != nil && c.stall.why == "" && !c.stall.since.IsZero() && o.at.After(c.stall.since) {
		c.stall.meet(o.err, c.stall.since)
	}
	return c.stall.tell(c.a.Partition, time.Now(), c.stallNoted)
}

// standsUntold says that the ledger is to be told at once that the copy stands still: a
// transaction at the source may hold it back for ever. c.mu is held.
func (c *copier) standsUntold(now time.Time) bool {
	return !c.stall.known && c.held(now) && c.stall.noted(now, c.stallNoted)
}

// toldOfHold ends a transaction in which the copy had nothing to say but what holds it
// back, at a time before which nothing of the copy may be told any more.
func (c *copier) toldOfHold(at time.Time) {
	c.mu.Lock()
	c.stall.known, c.lastHop, c.inTxn = true, at, false
	again, stopping := len(c.queue) > 0, c.stopping
	c.unlock()
	switch {
	case stopping:
		c.changed()
	case again:
		c.writer.ready(c)
	}
}

// stallEvent is what the ledger is told of a copy that has stood still, or does.
func stallEvent(cfg *Config, a *Assignment, id ledger.CopyID, what ledger.EventKind, text string, at time.Time) *ledger.Event {
	return &ledger.Event{
		Source: id.Source.Life(), Destination: id.Destination.Life(), What: what, At: at, Text: text,
		SourceTopic: a.SourceTopic, DestinationTopic: a.DestinationTopic, Flow: a.Flow, Fleet: cfg.Fleet,
	}
}

// throttle is how long a cluster has asked a client to wait (KIP-124). The broker slows
// copies by itself: since KIP-219 it answers at once, and reads nothing more until then.
// Its methods may be called at the same time.
type throttle struct {
	mu    sync.Mutex
	waits meter // milliseconds
}

func (t *throttle) note(millis int32) {
	if millis <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waits.add(int64(millis), time.Now())
}

// reason says so to whoever asks why a copy is slow, "" for one that is not throttled.
func (t *throttle) reason(cluster string, now time.Time) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	perSecond := t.waits.perSecond(now)
	if perSecond < 1 {
		return ""
	}
	return fmt.Sprintf("cluster %s throttles this flow: in the last ten seconds it asked for %v of waiting a second", cluster,
		time.Duration(perSecond*float64(time.Millisecond)).Round(time.Millisecond))
}
