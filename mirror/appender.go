package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

const (
	// hopInterval is how often at most an appender writes to the ledger: twenty
	// pages a second for each partition of the ledger that has something to say. A
	// record does not wait for it, only its translation does.
	hopInterval = 50 * time.Millisecond

	// unhopped bounds what a mirror has and the ledger does not know yet: after a
	// crash so much of it is read again.
	unhopped = 64 << 20
)

// appender writes to the mirror topics of one flow's destination: whole batches at
// their own offsets, each request a compare-and-append with the writer epoch of the
// copy's assignment, where the mirror ends, and the leader epoch of its last
// record. Expectations follow from what is in flight before them, so a request that
// is refused, or lost, voids all that is behind it. run is the only goroutine that
// touches anything below journal.
type appender struct {
	Config
	source, destination *peer
	metrics             *Metrics
	log                 *slog.Logger
	load                int // copies; the flow's loop counts them

	readyList
	complaint
	controls controls
	journal  *journal

	links     map[int32]*link
	stretches map[*copier]*stretch
	waiting   []*copier // ready, while too much is in flight

	bytes   int // acknowledged, and not in the ledger yet
	hopsAt  time.Time
	writing int            // pages under way
	calls   sync.WaitGroup // those who wait for an answer

	pagesMu sync.Mutex
	pages   []pageWritten // that have come back
}

// link is a connection to a broker and what is in flight on it, in the order sent.
type link struct {
	conn    *kafka.Conn
	flights []*appendFlight
}

// appendFlight is a MirrorAppend under way; sent has what it carries, as its topics and
// their partitions stand in it.
type appendFlight struct {
	call *kafka.Call
	req  *mirrorwire.AppendRequest
	sent [][]sentChunk
	err  error // of a test
}

type sentChunk struct {
	s *stretch
	chunk
}

// stretch is what an appender has of one copy under way: from its first chunk until
// all of them are acknowledged and in the ledger.
type stretch struct {
	c      *copier
	end    int64 // of the mirror, after all that is in flight
	epoch  int32 // of its last record then
	blind  bool  // what epoch will be, only the answer tells
	flying int
	fault  error // the first; what was sent behind it is void
	void   bool  // nothing more of it may be written

	stalled string   // how long it had stood still before, for the ledger, "" for nothing
	telling bool     // the ledger is being told of that
	acked   []placed // in the mirror, not in the ledger
	writing int      // pages under way
	untold  bool     // a page is not in the ledger, so nothing behind it may be
	// Of what is acknowledged and not in the ledger, in bytes: acked, and what the
	// pages under way tell of.
	unwritten, inPages int
}

// pageWritten tells what became of a page.
type pageWritten struct {
	of  []*stretch
	err error
}

func newAppender(cfg Config, source, destination *peer, m *Metrics, log *slog.Logger) *appender {
	return &appender{
		Config: cfg, source: source, destination: destination, metrics: m, log: log, readyList: newReadyList(),
		controls: controls{destination: destination, clientID: cfg.ClientID}, journal: newJournal(destination, cfg.ClientID),
		links: map[int32]*link{}, stretches: map[*copier]*stretch{},
	}
}

func (a *appender) leave() { a.load-- }

// run writes until the context ends, and then until what is under way is in the
// ledger, if that takes no longer than a stop may.
func (a *appender) run(ctx context.Context) error {
	defer a.close()
	hops := time.NewTimer(0)
	defer hops.Stop()
	stopped := ctx.Done()
	var giveUp <-chan time.Time
	for {
		a.landAll()
		a.notePages()
		if ctx.Err() == nil {
			a.sendAll(ctx)
		}
		a.writeHops(hops)
		a.settle()
		if ctx.Err() != nil && len(a.stretches) == 0 {
			return nil
		}
		select {
		case <-a.wake:
		case <-hops.C:
		case <-stopped:
			stopped, giveUp = nil, time.After(a.StopTimeout)
		case <-giveUp:
			a.log.Warn("appender left something behind: whoever copies next finds it", "copies", len(a.stretches))
			return nil
		}
	}
}

func (a *appender) close() {
	for _, l := range a.links {
		_ = l.conn.Close()
	}
	a.calls.Wait()
	a.journal.close()
	a.controls.close()
	for _, s := range a.stretches { // their copiers are gone with the flow
		s.c.leaveStretch(s.fault)
	}
}

// sendAll sends what is ready: at once, while fewer than five requests are in
// flight to a broker.
func (a *appender) sendAll(ctx context.Context) {
	ready := once(a.waiting, a.takeReady())
	a.waiting = nil
	v := a.destination.view()
	requests := map[int32]*appendBuilder{}
	for _, c := range ready {
		broker, _, err := v.leader(c.a.DestinationTopic, c.a.Partition)
		var l *link
		if err == nil {
			l, err = a.link(ctx, broker, v)
		}
		// A stretch that nothing can be sent of would end at once, and make its copier ready again.
		if err == nil && (len(l.flights) >= maxInFlight || a.bytes >= unhopped) {
			a.waiting = append(a.waiting, c)
			continue
		}
		s := a.stretchOf(c)
		switch {
		case s == nil:
			continue
		case err != nil:
			a.destination.wantRefresh()
			a.fail(s, err)
			continue
		case s.blind:
			a.waiting = append(a.waiting, c)
			continue
		}
		r := requests[broker]
		if r == nil {
			r = newAppendBuilder()
			requests[broker] = r
		}
		if more := a.fill(r, s); more {
			a.waiting = append(a.waiting, c)
		}
		if r.size >= requestBytes {
			a.dispatch(ctx, l, r)
			delete(requests, broker)
		}
	}
	for broker, r := range requests {
		a.dispatch(ctx, a.links[broker], r)
	}
}

// stretchOf is the copier's stretch, which begins if there is none; nil if the
// copier is to send nothing.
func (a *appender) stretchOf(c *copier) *stretch {
	s := a.stretches[c]
	if s == nil {
		var ok bool
		if s, ok = c.enterStretch(); !ok {
			return nil
		}
		a.stretches[c] = s
	}
	if c.doomed() {
		s.void = true
	}
	if s.fault != nil || s.void {
		return nil
	}
	return s
}

// fill puts chunks of a copy into a request until it is full; more says that there
// are others.
func (a *appender) fill(r *appendBuilder, s *stretch) (more bool) {
	for r.size < requestBytes {
		q, ok, again := s.c.take()
		if !ok {
			if start, due := s.c.followStart(s.end); due {
				p := s.partition()
				p.SourceStart = start
				r.add(s, p, chunk{from: s.end, next: s.end, leaderEpoch: s.epoch, whole: true}, nil)
			}
			return false
		}
		if q.from != s.end {
			q.release()
			a.fail(s, fmt.Errorf("%v: what was fetched goes on at offset %d, the mirror ends at %d", s.c.source(), q.from, s.end))
			return false
		}
		p := s.partition()
		p.Batches = q.batch
		if q.anew > 0 {
			p.SourceStart = q.anew
		} else if start, due := s.c.followStart(s.end); due {
			p.SourceStart = start
		}
		s.end = q.next
		switch {
		case len(q.batch) > 0:
			s.epoch = q.leaderEpoch
		case q.anew > 0:
			s.blind = true
		}
		r.add(s, p, q.chunk, q.frame)
		if s.blind {
			return again
		}
		if !again {
			return false
		}
	}
	return true
}

// partition is a compare-and-append to where the mirror will end.
func (s *stretch) partition() mirrorwire.AppendRequestPartition {
	p := mirrorwire.NewAppendPartition()
	p.Partition, p.WriterEpoch = s.c.a.Partition, int64(s.c.a.Epoch)
	p.ExpectedEnd, p.ExpectedEpoch = s.end, s.epoch
	return p
}

// dispatch sends a request.
func (a *appender) dispatch(ctx context.Context, l *link, r *appendBuilder) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*ackTimeout)
	defer cancel() // its deadline is what counts
	f := &appendFlight{req: r.req, sent: r.sent, err: a.reach(beforeAppend)}
	f.call = l.conn.Send(bounded, r.req, mirrorwire.MaxVersion)
	r.release() // the socket has its copy
	l.flights = append(l.flights, f)
	a.metrics.Appends.Add(1)
	a.calls.Go(func() {
		<-f.call.Done()
		a.poke()
	})
}

// link is the connection to a broker: one, so that requests stay in order. One that
// should take no more, or is broken, is replaced when nothing is in flight on it.
func (a *appender) link(ctx context.Context, broker int32, v *view) (*link, error) {
	l := a.links[broker]
	if l != nil && (len(l.flights) > 0 || l.conn.Usable()) {
		return l, nil
	}
	if l != nil {
		_ = l.conn.Close()
		delete(a.links, broker)
	}
	bounded, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := kafka.Dial(bounded, a.destination.cluster, v.brokers[broker], a.ClientID)
	if err != nil {
		return nil, fmt.Errorf("destination broker %d: %w", broker, err)
	}
	l = &link{conn: conn}
	a.links[broker] = l
	return l, nil
}

// landAll takes the answers that have come, in the order of the requests.
func (a *appender) landAll() {
	for _, l := range a.links {
		for len(l.flights) > 0 && isDone(l.flights[0].call) {
			f := l.flights[0]
			l.flights = l.flights[1:]
			a.land(f)
		}
	}
}

func isDone(k *kafka.Call) bool {
	select {
	case <-k.Done():
		return true
	default:
		return false
	}
}

func (a *appender) land(f *appendFlight) {
	resp, err := f.call.Wait(context.Background())
	answer, _ := resp.(*mirrorwire.AppendResponse)
	err = orElse(err, orElse(f.err, a.reach(afterAppend)))
	if err == nil && !f.fits(answer) {
		err = errors.New("MirrorAppend: the answer is not about what was asked")
	}
	if err != nil {
		a.destination.wantRefresh()
	} else {
		a.say(nil)
		a.destination.throttle.note(answer.ThrottleMillis)
	}
	now := time.Now()
	for i, topic := range f.sent {
		for j := range topic {
			e := &topic[j]
			e.s.flying--
			if err != nil {
				a.fail(e.s, err)
			} else {
				a.answered(e, &answer.Topics[i].Partitions[j], now)
			}
		}
	}
}

// answered takes note of what became of one append.
func (a *appender) answered(e *sentChunk, p *mirrorwire.AppendResponsePartition, now time.Time) {
	s := e.s
	if s.fault != nil {
		return // void, whatever became of it: the mirror is asked
	}
	err := appendError(s.c, p)
	if err == nil && p.LogEnd != e.next {
		err = fmt.Errorf("%v: %w: it ends at %d after an append that ends at %d", s.c.destination(), errMirrorMoved, p.LogEnd, e.next)
	}
	if err != nil {
		if kerr.IsRetriable(err) {
			a.destination.wantRefresh()
		}
		a.fail(s, err)
		return
	}
	if s.blind && s.flying == 0 {
		s.blind, s.epoch = false, p.LastEpoch
	}
	s.c.acknowledged(&e.chunk, p.LastEpoch, now)
	if e.next > e.from {
		s.acked = append(s.acked, placed{chunk: e.chunk, base: e.from})
		s.unwritten += e.size
		a.bytes += e.size
	}
}

// appendError is the error of an answer about a partition, nil if there is none.
func appendError(c *copier, p *mirrorwire.AppendResponsePartition) error {
	err := kerr.ErrorForCode(p.ErrorCode)
	if err == nil {
		return nil
	}
	text := ""
	if p.ErrorMessage != nil {
		text = *p.ErrorMessage
	}
	if state := mirrorStateError(c, p.State, text); state != nil {
		return state
	}
	switch {
	case p.WriterEpoch > int64(c.a.Epoch):
		return fmt.Errorf("%v: %w: %d, this node has %d", c.destination(), errLateWriter, p.WriterEpoch, c.a.Epoch)
	case errors.Is(err, kerr.InvalidUpdateVersion):
		return fmt.Errorf("%v: %w: it ends at %d with leader epoch %d", c.destination(), errMirrorMoved, p.LogEnd, p.LastEpoch)
	case text != "":
		return fmt.Errorf("append to %v: %w (%s)", c.destination(), err, text)
	}
	return fmt.Errorf("append to %v: %w", c.destination(), err)
}

// mirrorStateError is why a mirror topic in a state takes no appends, nil if it
// does.
func mirrorStateError(c *copier, state mirrorwire.State, reason string) error {
	switch state {
	case mirrorwire.Active:
		return nil
	case mirrorwire.Promoted, mirrorwire.Promoting:
		return fmt.Errorf("topic %s: %w", c.a.DestinationTopic, errPromoted)
	case mirrorwire.Paused:
		return fmt.Errorf("topic %s: %w", c.a.DestinationTopic, errMirrorPaused)
	case mirrorwire.Failed:
		return fmt.Errorf("topic %s: %w: %s", c.a.DestinationTopic, errMirrorFailed, reason)
	case mirrorwire.NoMirror:
		return fmt.Errorf("topic %s: %w", c.a.DestinationTopic, errNoMirror)
	}
	return fmt.Errorf("topic %s: its mirror is %s", c.a.DestinationTopic, mirrorwire.StateName(state))
}

// fail voids what is behind a fault; the copy stands back when the rest is known.
func (a *appender) fail(s *stretch, err error) {
	if s.fault == nil {
		s.fault = err
	}
}

// settle ends the stretches of which nothing is under way any more.
func (a *appender) settle() {
	for c, s := range a.stretches {
		if s.flying == 0 && s.writing == 0 && len(s.acked) == 0 {
			delete(a.stretches, c)
			c.leaveStretch(s.fault)
		}
	}
}
