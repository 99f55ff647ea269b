package cluster

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// watch is a controller over a state, with a clock.
type watch struct {
	t     *testing.T
	c     *controller
	state *State
	index uint64
	now   time.Time
}

// watching is a fleet of nodes whose first has copies of one topic.
func watching(t *testing.T, nodes []string, copies int) *watch {
	cfg := DefaultConfig()
	s := &State{FleetID: "fleet", Members: make(map[string]Member), Flows: map[string]*Flow{
		"f": {Topics: map[string]*Topic{"t": {TopicSpec: TopicSpec{Source: "t", Partitions: int32(copies)}, Owners: make([]Owner, copies)}}},
	}}
	for _, name := range nodes {
		s.Members[name] = Member{Name: name, Incarnation: 1}
	}
	w := &watch{t: t, state: s, index: 10, now: time.Unix(1_700_000_000, 0)}
	w.c = newController(&cfg, s, "fleet", w.now, 0)
	return w
}

func (w *watch) apply(c Command) {
	w.t.Helper()
	w.index++
	next, r := w.state.apply(w.index, c)
	if r.Refusal != nil {
		w.t.Fatalf("%s: %v", c.kind(), r.Refusal.err())
	}
	w.state = next
}

// pass lets time pass in steps: owners beat, the controller decides, what it asks
// for is released at once.
func (w *watch) pass(d, step time.Duration, each func()) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(step) {
		for name, m := range w.state.Members {
			w.c.hear(w.state, heartbeat{Node: name, Incarnation: m.Incarnation}, w.now)
		}
		if each != nil {
			each()
		}
		for range 1000 {
			command := w.c.decide(w.state, w.now)
			if command == nil {
				break
			}
			w.apply(command)
		}
		for name, m := range w.state.Members {
			r := &Release{Node: name, Incarnation: m.Incarnation}
			for _, a := range w.state.AssignmentsOf(name, m.Incarnation) {
				if a.Releasing {
					r.Works = append(r.Works, OwnedWork{a.Work, a.Epoch})
				}
			}
			if len(r.Works) > 0 {
				w.apply(r)
			}
		}
	}
}

// Rates that jump between nothing and the double, and drift by a tenth over an
// hour, move nothing for two hours.
func TestSwingingLoadsMoveNothing(t *testing.T) {
	w := watching(t, []string{"a", "b", "c"}, 60)
	rnd := rand.New(rand.NewPCG(1, 1))
	base := make([]float64, 60)
	for p := range base {
		base[p] = 1<<20 + float64(rnd.IntN(4<<20))
	}
	meters := make(map[string]*meter)
	told := 0
	swing := func() {
		phase := float64(w.now.Unix()%3600) / 3600 * 2 * math.Pi
		for name, m := range w.state.Members {
			if meters[name] == nil {
				meters[name] = new(meter)
			}
			meters[name].look(w.now, func(yield func(Work, float64)) {
				for _, a := range w.state.AssignmentsOf(name, m.Incarnation) {
					if a.Work.Kind == WorkCopy {
						yield(a.Work, base[a.Work.Partition]*(1+0.1*math.Sin(phase+float64(a.Work.Partition)))*2*rnd.Float64())
					}
				}
			})
			loads := meters[name].changes(false)
			for _, l := range loads {
				told += len(l.Partitions)
			}
			w.c.hear(w.state, heartbeat{Node: name, Incarnation: m.Incarnation, Loads: loads}, w.now)
		}
	}
	const step = 5 * time.Second
	w.pass(20*time.Minute, step, swing)
	before := owners(w.state)
	told = 0
	w.pass(2*time.Hour, step, swing)
	if n := moved(before, owners(w.state)); n != 0 {
		t.Errorf("%d copies moved", n)
	}
	t.Logf("%.1f loads told for each copy and hour", float64(told)/60/2)
}

// Balance moves at most so many copies a minute; what must find another owner does
// so at once.
func TestMovesPerMinuteAreBounded(t *testing.T) {
	w := watching(t, []string{"a"}, 1000)
	w.c.cfg.MovesPerMinute = 60
	w.pass(5*time.Second, time.Second, nil)
	w.apply(&SetMember{Name: "b"})
	w.apply(&BeginIncarnation{Node: "b"})
	var seconds int
	w.pass(4*time.Minute, time.Second, func() {
		seconds++
		moved := counts(w.state)["b"]
		if bound := w.c.cfg.MaxMoves + w.c.cfg.MovesPerMinute*seconds/60; moved > bound {
			t.Fatalf("after %d s %d copies have moved, at most %d may", seconds, moved, bound)
		}
	})
	if n := counts(w.state)["b"]; n < 4*60-5 {
		t.Errorf("%d copies moved in four minutes, want one each second", n)
	}
	w.apply(&EndIncarnation{Node: "a", Incarnation: 1})
	w.pass(time.Second, time.Second, nil)
	if n := counts(w.state)["b"]; n != 1000 {
		t.Errorf("b has %d copies a second after a's end, want all", n)
	}
}

// A whole plan is proposed without being made anew, unless nodes come or go.
func TestAPlanIsProposedInParts(t *testing.T) {
	w := watching(t, []string{"a", "b"}, 2500)
	for name, m := range w.state.Members {
		w.c.hear(w.state, heartbeat{Node: name, Incarnation: m.Incarnation}, w.now)
	}
	w.apply(w.c.decide(w.state, w.now))
	if len(w.c.queue) != 2 {
		t.Fatalf("%d commands are left, want 2", len(w.c.queue))
	}
	w.apply(&EndIncarnation{Node: "b", Incarnation: 1})
	w.pass(3*time.Second, time.Second, nil)
	if n := counts(w.state); n["a"] != 2500 {
		t.Errorf("got %v, want all on a", n)
	}
}

func TestMeter(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	work := Work{Kind: WorkCopy, Name: "f", Topic: "t", Partition: 3}
	var m meter
	look := func(after time.Duration, rate float64, all bool) []topicLoads {
		now = now.Add(after)
		m.look(now, func(yield func(Work, float64)) { yield(work, rate) })
		return m.changes(all)
	}
	if got := look(0, 1<<20, true); len(got) != 0 {
		t.Errorf("a copy that has just begun is told: %v", got)
	}
	got := look(loadKnown, 1<<20, false)
	if len(got) != 1 || got[0].Flow != "f" || got[0].Topic != "t" || got[0].Partitions[0] != 3 || got[0].Levels[0] != levelOf(1<<20) {
		t.Fatalf("got %+v, want a level of %d", got, levelOf(1<<20))
	}
	for range 100 {
		if got := look(5*time.Second, 1.1*(1<<20), false); len(got) != 0 {
			t.Fatalf("a tenth more is told: %v", got)
		}
	}
	if got := look(5*time.Second, 4<<20, false); len(got) != 1 {
		t.Errorf("five seconds of the fourfold: %v", got) // the mean grows by a quarter
	}
	if got := look(5*time.Second, 4<<20, true); len(got) != 1 {
		t.Errorf("another leader is told nothing: %v", got)
	}
	for range 200 {
		look(5*time.Second, 0, false)
	}
	if got := look(5*time.Second, 0, true); got[0].Levels[0] != 0 {
		t.Errorf("an idle copy has the level %d", got[0].Levels[0])
	}
	m.look(now, func(func(Work, float64)) {})
	if len(m.copies) != 0 {
		t.Error("a copy that has gone is remembered")
	}
}

func TestLevels(t *testing.T) {
	for _, rate := range []float64{levelUnit, 100_000, 1 << 20, 123 << 20, 7 << 30} {
		if got := float64(rateOf(levelOf(rate))); math.Abs(got-rate) > rate*0.05 {
			t.Errorf("%.0f becomes %.0f", rate, got)
		}
	}
	for _, rate := range []float64{0, -1, levelUnit - 1, math.NaN(), math.Inf(-1)} {
		if got := levelOf(rate); got != 0 {
			t.Errorf("%f has the level %d", rate, got)
		}
	}
	if got := levelOf(math.Inf(1)); got != maxLevel {
		t.Errorf("infinity has the level %d", got)
	}
	for _, level := range []int{-1, 1 << 40} {
		if r := rateOf(level); r < 0 || math.IsInf(float64(r), 0) {
			t.Errorf("level %d is %f", level, r)
		}
	}
}

// What a heartbeat says is of outside: it must not make the leader remember what
// is not there.
func FuzzHeartbeat(f *testing.F) {
	f.Add([]byte(`{"node":"a","incarnation":3,"loads":[{"f":"f","t":"t","p":[0,1],"l":[9,200]}]}`))
	f.Add([]byte(`{"node":"a","loads":[{"f":"f","t":"t","p":[2147483647,-1],"l":[1]},{"f":"x","t":"","p":null,"l":[1,2]}]}`))
	state := &State{
		Members: map[string]Member{"a": {Name: "a", Incarnation: 3}},
		Flows:   map[string]*Flow{"f": {Topics: map[string]*Topic{"t": {TopicSpec: TopicSpec{Source: "t", Partitions: 4}, Owners: make([]Owner, 4)}}}},
	}
	cfg := DefaultConfig()
	f.Fuzz(func(t *testing.T, b []byte) {
		hb, err := decodeHeartbeat(bytes.NewReader(b))
		if err != nil {
			return
		}
		c := newController(&cfg, state, "fleet", time.Unix(1_700_000_000, 0), 0)
		c.hear(state, hb, time.Unix(1_700_000_001, 0))
		for name, topics := range c.loads {
			for topic, rates := range topics {
				if name != "f" || topic != "t" || len(rates) > 4 {
					t.Fatalf("remembers %d partitions of %s/%s", len(rates), name, topic)
				}
				for _, r := range rates {
					if r < 0 || math.IsNaN(float64(r)) || math.IsInf(float64(r), 0) {
						t.Fatalf("remembers a rate of %f", r)
					}
				}
			}
		}
		assign(state, c.loads, paceOf(10))
	})
}

// A node that is granted an incarnation and does not know of it, because it cannot
// write its log, gets no work: nobody would do it.
func TestOnlyWhoIsHeardGetsWork(t *testing.T) {
	w := watching(t, []string{"a"}, 6)
	w.pass(3*time.Second, 100*time.Millisecond, nil)
	w.apply(&SetMember{Name: "b"})
	w.apply(&BeginIncarnation{Node: "b"})
	decide := func() {
		for c := w.c.decide(w.state, w.now); c != nil; c = w.c.decide(w.state, w.now) {
			w.apply(c)
		}
	}
	leaving := func() (n int) {
		w.state.works(func(_ Work, o Owner) {
			if o.Releasing {
				n++
			}
		})
		return n
	}
	decide()
	if got := len(w.state.AssignmentsOf("b", w.state.Members["b"].Incarnation)); got+leaving() > 0 {
		t.Errorf("a node that was not heard is to have %d works, and %d are on their way", got, leaving())
	}
	w.c.hear(w.state, heartbeat{Node: "b"}, w.now) // in no incarnation: it does not know of this one
	decide()
	if leaving() > 0 {
		t.Error("works are moved for a node that does not know of its incarnation")
	}
	w.c.hear(w.state, heartbeat{Node: "b", Incarnation: w.state.Members["b"].Incarnation}, w.now)
	decide()
	if leaving() == 0 {
		t.Error("nothing is moved for a node that was heard")
	}
}
