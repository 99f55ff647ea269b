package group

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// walk is a group that random clients do random things to.
type walk struct {
	t       *testing.T
	rng     *rand.Rand
	g       *Group
	now     time.Time
	tokens  Token
	waiting map[Token]Event
	ids     []string // that were given out, some long dead
	epochs  map[string]int32
	log     []string
}

// TestRandomWalk lets clients join, synchronise, beat, leave and fall silent at
// random. After each step the group's invariants hold, every request is answered
// once and with what its kind of request expects, and when all have gone silent
// the group ends empty with nobody waiting.
func TestRandomWalk(t *testing.T) {
	for seed := range uint64(300) {
		w := &walk{
			t: t, rng: rand.New(rand.NewPCG(seed, 0)), now: epoch,
			waiting: map[Token]Event{}, epochs: map[string]int32{},
		}
		w.g = New("g", Rules{InitialDelay: time.Duration(seed%3) * time.Second, MaxMembers: 6}, w.now)
		for range 200 {
			w.now = w.now.Add(time.Duration(w.rng.IntN(2000)) * time.Millisecond)
			if wake := w.g.Wake(); !wake.IsZero() && !wake.After(w.now) {
				w.step(Tick{})
			}
			w.step(w.event())
		}
		for range 1000 {
			wake := w.g.Wake()
			if wake.IsZero() {
				break
			}
			w.now = wake
			w.step(Tick{})
		}
		if w.g.state != Empty || len(w.waiting) != 0 {
			w.fail("at the end: %s, %d members, %d wait", w.g.state, len(w.g.members), len(w.waiting))
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func (w *walk) fail(format string, args ...any) {
	w.t.Helper()
	for _, l := range w.log[max(0, len(w.log)-12):] {
		w.t.Log(l)
	}
	w.t.Fatalf(format, args...)
}

func (w *walk) event() Event {
	id, instance := "", ""
	if len(w.ids) > 0 && w.rng.IntN(4) > 0 {
		id = w.ids[max(0, len(w.ids)-1-w.rng.IntN(6))]
	}
	if m := w.g.members[id]; m != nil {
		instance = m.instanceID
	} else if w.rng.IntN(5) == 0 {
		instance = fmt.Sprintf("i%d", w.rng.IntN(3))
	}
	generation := w.g.generation - int32(w.rng.IntN(8)/7)
	w.tokens++
	switch w.rng.IntN(10) {
	case 0, 1, 2, 3:
		return Join{
			To: w.tokens, MemberID: id, InstanceID: instance, NewMemberID: fmt.Sprintf("m%d", w.tokens),
			SessionTimeout: 6 * time.Second, RebalanceTimeout: 8 * time.Second, ProtocolType: "consumer",
			Protocols:       []Protocol{{"range", []byte{byte(w.rng.IntN(2))}}, {"sticky", nil}}[w.rng.IntN(2):],
			RequireMemberID: w.rng.IntN(2) == 0, CanSkipAssignment: w.rng.IntN(2) == 0,
		}
	case 4, 5, 6:
		return Sync{To: w.tokens, MemberID: id, InstanceID: instance, Generation: generation}
	case 7, 8:
		return Heartbeat{To: w.tokens, MemberID: id, InstanceID: instance, Generation: generation}
	}
	return Leave{To: w.tokens, Members: []Leaver{{id, instance}}}
}

func (w *walk) step(e Event) {
	w.t.Helper()
	w.log = append(w.log, fmt.Sprintf("%v %T%+v in %s/%d", w.now.Sub(epoch), e, e, w.g.state, w.g.generation))
	var to Token
	switch e := e.(type) {
	case Join:
		to = e.To
	case Sync:
		to = e.To
	case Heartbeat:
		to = e.To
	case Leave:
		to = e.To
	}
	if to != 0 {
		w.waiting[to] = e
	}
	before := w.g.generation
	saves := 0
	for _, f := range unshared(w.t, w.g, w.tokens%16 == 0, func() []Effect { return w.g.Step(w.now, e) }) {
		w.log = append(w.log, fmt.Sprintf("  %T%+v", f, f))
		switch f := f.(type) {
		case Joined:
			w.answered(f.To, Join{})
			if f.MemberID != "" && (f.Err == nil || errors.Is(f.Err, kerr.MemberIDRequired)) {
				w.ids = append(w.ids, f.MemberID)
			}
			if f.Err == nil && f.Generation != w.g.generation {
				w.fail("joined generation %d of %d", f.Generation, w.g.generation)
			}
		case Synced:
			w.answered(f.To, Sync{})
		case Beaten:
			w.answered(f.To, Heartbeat{})
		case Left:
			w.answered(f.To, Leave{})
		case Save:
			saves++
		}
	}
	if saves > 1 || w.g.generation < before {
		w.fail("%d saves, generation %d after %d", saves, w.g.generation, before)
	}
	w.invariants()
}

func (w *walk) answered(to Token, kind Event) {
	w.t.Helper()
	e, ok := w.waiting[to]
	if !ok {
		w.fail("an answer for %d, which does not wait", to)
	}
	if fmt.Sprintf("%T", e) != fmt.Sprintf("%T", kind) {
		w.fail("%T is answered as a %T", e, kind)
	}
	delete(w.waiting, to)
}

func (w *walk) invariants() {
	w.t.Helper()
	g := w.g
	parked := 0
	for id, m := range g.members {
		switch {
		case m.id != id:
			w.fail("member %s under %s", m.id, id)
		case m.instanceID != "" && g.static[m.instanceID] != id:
			w.fail("instance %s is not its member's", m.instanceID)
		case m.joinTo != 0 && g.state != PreparingRebalance:
			w.fail("a join waits in %s", g.state)
		case m.syncTo != 0 && g.state != CompletingRebalance:
			w.fail("a sync waits in %s", g.state)
		case m.deadline.IsZero():
			w.fail("member %s has no deadline", id)
		}
		for _, to := range []Token{m.joinTo, m.syncTo} {
			if to != 0 {
				parked++
				if w.waiting[to] == nil {
					w.fail("request %d is parked and answered", to)
				}
			}
		}
	}
	switch {
	case parked != len(w.waiting):
		w.fail("%d requests wait, %d are parked", len(w.waiting), parked)
	case (len(g.members) == 0) != (g.state == Empty) && g.state != PreparingRebalance:
		w.fail("%s with %d members", g.state, len(g.members))
	case len(g.members) > 0 && g.members[g.leader] == nil:
		w.fail("leader %q is no member", g.leader)
	case len(g.static) > len(g.members):
		w.fail("%d static of %d members", len(g.static), len(g.members))
	}
}
