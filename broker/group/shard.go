package group

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker/coordinator"
	"github.com/waybillhq/waybill/internal/record"
)

// tickRest is how long a group waits for its next tick that could not be saved.
const tickRest = time.Second

// errUnsaved says that the log has refused what a group has become.
var errUnsaved = errors.New("group cannot be saved")

// entry is one group of a shard.
type entry struct {
	name    string
	group   machine
	offsets offsets
	// next is the offset after the last record of this group: what was computed
	// from its state may be told when the log is durable up to there.
	next  int64
	saved bool // has a record in the log
	wake  time.Time
	index int // in the shard's heap, -1 if not there
}

// shard is the groups of one partition. All fields but log are the leading
// goroutine's.
type shard struct {
	*coordinator.Loop
	log   Log
	cfg   *Config
	rules Rules

	groups  map[string]*entry
	wakes   wakeHeap
	waiting map[Token]chan answer
	tokens  Token
	// open are transactions with offsets that are held back, verifying those
	// whose coordinator is being asked; both by producer id.
	open      map[int64]*openTxn
	verifying map[int64]*verification
	// next is the end of the last checkpoint, and pinned says that an open
	// transaction kept some of what stands before it.
	next   int64
	pinned bool
	// gone are topics of which offsets may be left; forgetAt is when to try again to
	// take them back, zero is never.
	gone     *gone
	forgetAt time.Time
}

// openTxn is a transaction that holds offsets of this partition's groups.
type openTxn struct {
	epoch  int16
	first  int64 // offset of its first record
	groups map[string]struct{}
}

// verification is a question to a transaction's coordinator that is under way. A
// marker that is written meanwhile makes the answer worthless.
type verification struct {
	askers int
	stale  bool
}

// answer is an effect on its way to the request that it answers, and the offset
// up to which the log must be durable first.
type answer struct {
	effect Effect
	next   int64
}

func newShard(partition int32, log Log, cfg *Config, gone *gone) *shard {
	return &shard{
		Loop:      coordinator.NewLoop(Topic, partition, log),
		log:       log,
		cfg:       cfg,
		rules:     Rules{cfg.InitialRebalanceDelay, cfg.MaxMembers, cfg.MaxGroupBytes},
		groups:    map[string]*entry{},
		waiting:   map[Token]chan answer{},
		open:      map[int64]*openTxn{},
		verifying: map[int64]*verification{},
		gone:      gone,
	}
}

// run serves the shard until ctx ends or its leadership does.
func (s *shard) run(ctx context.Context) error {
	s.begin(time.Now())
	s.Loaded()
	timer := time.NewTimer(0)
	defer timer.Stop()
	cleanup := time.NewTicker(s.cfg.CleanupInterval)
	defer cleanup.Stop()
	for s.Failed() == nil {
		if wake := s.wake(); !wake.IsZero() {
			timer.Reset(time.Until(wake))
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return nil
		case f := <-s.Inbox():
			f()
		case <-timer.C:
			s.tick(time.Now())
		case <-s.gone.told:
			_ = s.forgetTopics(time.Now()) // a refusal is logged, and it is tried again
		case <-cleanup.C:
			s.expire(time.Now(), s.cfg.OffsetsRetention)
			if err := s.checkpoint(ctx, time.Now(), s.cfg.CheckpointRecords); err != nil {
				s.cfg.Log.Warn("group checkpoint is delayed", "partition", s.Partition(), "err", err)
			}
		}
	}
	return s.Failed()
}

// get returns a group, nil if there is none.
func (s *shard) get(name string) *entry { return s.groups[name] }

// create returns a group, which it makes if there is none.
func (s *shard) create(name string, now time.Time) *entry {
	e := s.groups[name]
	if e == nil {
		e = &entry{name: name, group: New(name, s.rules, now), offsets: newOffsets(), index: -1}
		s.groups[name] = e
	}
	return e
}

// forget drops a group that has nothing left, so that names which were only
// asked about do not stay.
func (s *shard) forget(e *entry) {
	if !e.idle() || e.saved || !e.offsets.empty() {
		return
	}
	s.unschedule(e)
	delete(s.groups, e.name)
}

// idle says that a group has no members, and that none has been promised an id.
func (e *entry) idle() bool {
	if g, classic := e.group.(*Group); classic && len(g.pending) > 0 {
		return false
	}
	return e.group.empty()
}

// step applies an event to a group and does what it wants.
func (s *shard) step(e *entry, now time.Time, ev Event) error {
	return s.attempt(e, func() error {
		effects := e.group.Step(now, ev)
		if err := s.perform(e, now, effects); err != nil {
			return err
		}
		if !quiet(ev, effects) {
			s.schedule(e)
		}
		return nil
	})
}

// attempt makes a change of a group, which is as it was if the log refuses it.
// That takes a copy, which is made when the log may well refuse; when it does so
// by surprise the leadership ends, and the next one reads what the log says.
func (s *shard) attempt(e *entry, change func() error) error {
	careful, end := s.Careful(), s.EndOffset()
	group, saved := e.group, e.saved
	if careful {
		e.group = group.clone()
	}
	err := change()
	switch {
	case !errors.Is(err, errUnsaved):
	case careful && s.EndOffset() == end:
		e.group, e.saved = group, saved
	default:
		s.Fail(fmt.Errorf("group %q: %w", e.name, err))
	}
	return err
}

// quiet says that a step was a heartbeat that changed nothing: it can only have
// put the group's next tick off.
func quiet(ev Event, effects []Effect) bool {
	switch ev.(type) {
	case Heartbeat:
		beaten, ok := effects[0].(Beaten)
		return len(effects) == 1 && ok && beaten.Err == nil
	case ConsumerHeartbeat:
		return len(effects) == 1
	}
	return false
}

// perform does what a step wants: the records first, so that answers wait for
// them.
func (s *shard) perform(e *entry, now time.Time, effects []Effect) error {
	downgrade := false
	for _, f := range effects {
		if f, ok := f.(Save); ok {
			if err := s.save(e, now, f.Parts); err != nil {
				return err
			}
		}
	}
	for _, f := range effects {
		_, ok := f.(Downgrade)
		downgrade = downgrade || ok
		s.deliver(e, f)
	}
	if !downgrade {
		return nil
	}
	g, rest, ok := e.group.(*Consumer).downgrade(now, s.rules, s.cfg.Topics())
	if !ok {
		s.cfg.Log.Warn("group is too large for the classic protocol and goes on as it is", "group", e.name)
		return nil
	}
	s.cfg.Log.Info("group goes on with the classic protocol", "group", e.name, "members", len(g.members))
	if err := s.exchange(e, now, g); err != nil {
		return err
	}
	return s.perform(e, now, rest)
}

// exchange makes a group one of the other protocol. The records of the one that
// was are taken back; the caller saves the other.
func (s *shard) exchange(e *entry, now time.Time, next machine) error {
	if e.saved {
		if err := s.write(e, tombstonesOf(e.name, e.group, now)); err != nil {
			return err
		}
		e.saved = false
	}
	e.group = next
	return nil
}

// save writes parts of a group, or all of it.
func (s *shard) save(e *entry, now time.Time, parts []Part) error {
	if parts == nil {
		parts = e.group.parts()
	}
	if err := s.write(e, recordsOf(e.name, e.group, parts, now)); err != nil {
		return err
	}
	e.saved = true
	return nil
}

// write appends records of a group. The rules keep groups within a record, so
// there is no refusal that is the request's fault.
func (s *shard) write(e *entry, records []record.Record) error {
	if _, err := s.append(e, records, record.NoProducer(record.None)); err != nil {
		return fmt.Errorf("%w: %w: %w", kerr.CoordinatorNotAvailable, errUnsaved, err)
	}
	return nil
}

// deliver hands an effect to the request that waits for it.
func (s *shard) deliver(e *entry, f Effect) {
	var to Token
	var fails bool
	switch f := f.(type) {
	case Joined:
		to, fails = f.To, f.Err != nil
	case Synced:
		to, fails = f.To, f.Err != nil
	case Beaten:
		to, fails = f.To, true // a heartbeat tells nothing that is stored
	case Left:
		to = f.To
	case ConsumerBeaten:
		to, fails = f.To, f.Err != nil
	default:
		return
	}
	ch, ok := s.waiting[to]
	if !ok {
		return
	}
	delete(s.waiting, to)
	a := answer{effect: f, next: e.next}
	if fails {
		a.next = 0
	}
	ch <- a
}

// append writes records of one group and returns the offset of each.
func (s *shard) append(e *entry, records []record.Record, stamp record.Stamp) ([]int64, error) {
	at, next, err := s.Append(records, stamp)
	if err != nil {
		return nil, err
	}
	if len(at) > 0 {
		e.next = next
	}
	return at, nil
}

// wake is when something is to be done next; zero is never.
func (s *shard) wake() time.Time {
	if len(s.wakes) == 0 || !s.forgetAt.IsZero() && s.forgetAt.Before(s.wakes[0].wake) {
		return s.forgetAt
	}
	return s.wakes[0].wake
}

// tick lets the time of every group pass whose deadline has come.
func (s *shard) tick(now time.Time) {
	if !s.forgetAt.IsZero() && !s.forgetAt.After(now) {
		_ = s.forgetTopics(now) // a refusal is logged, and it is tried again
	}
	for len(s.wakes) > 0 && !s.wakes[0].wake.After(now) && s.Failed() == nil {
		e := s.wakes[0]
		if err := s.step(e, now, Tick{}); err != nil {
			// Others may be waited for that need no record.
			s.wakeAt(e, now.Add(tickRest))
			return
		}
		s.forget(e)
	}
}

func (s *shard) schedule(e *entry) { s.wakeAt(e, e.group.Wake()) }

func (s *shard) wakeAt(e *entry, at time.Time) {
	e.wake = at
	switch {
	case at.IsZero():
		s.unschedule(e)
	case e.index < 0:
		heap.Push(&s.wakes, e)
	default:
		heap.Fix(&s.wakes, e.index)
	}
}

func (s *shard) unschedule(e *entry) {
	if e.index >= 0 {
		heap.Remove(&s.wakes, e.index)
	}
}

// wakeHeap orders groups by when they want a tick.
type wakeHeap []*entry

func (h wakeHeap) Len() int           { return len(h) }
func (h wakeHeap) Less(i, j int) bool { return h[i].wake.Before(h[j].wake) }
func (h wakeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements [heap.Interface].
func (h *wakeHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}

// Pop implements [heap.Interface].
func (h *wakeHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.index = -1
	return e
}
