package runbook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/waybillhq/waybill/flow"
)

// world is what the actions act on: two clusters, one flow, one producer, in
// memory. Each action is one point at which the executor may be killed, before it
// is done or after.
type world struct {
	mu sync.Mutex

	rules   []string // at the source
	ends    Ends
	copied  int64 // records on the destination
	written int64 // records at the source
	paused  bool
	groups  string // what the groups' offsets on the destination stand for

	leaks   int // writes that the fence does not stop, one at each look at the ends
	inexact bool
	broken  map[Action]int // how often an action still fails
	log     []string

	points int // seen so far
	kill   int // at which point to die; 0 never
	after  bool
	die    context.CancelFunc
	dead   bool
}

func newWorld() *world {
	return &world{
		rules:  []string{"User:old Deny Write Topic:orders"},
		ends:   Ends{{Topic: "orders", Partition: 0}: 100, {Topic: "orders", Partition: 1}: 50},
		copied: 120, written: 150,
		broken: map[Action]int{},
	}
}

var errKilled = errors.New("killed")

// point runs f, unless the node dies here.
func (w *world) point(name Action, f func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errKilled
	}
	w.points++
	if w.points == w.kill && !w.after {
		w.dead = true
		w.die()
		return errKilled
	}
	if w.broken[name] > 0 {
		w.broken[name]--
		return fmt.Errorf("broker is away")
	}
	f()
	if name != DoReadLag && name != DoReadEnds && name != "save" {
		w.log = append(w.log, string(name))
	}
	if w.points == w.kill && w.after {
		w.dead = true
		w.die()
		return errKilled
	}
	return nil
}

func (w *world) fenced() bool { return slices.Contains(w.rules, "User:app Deny Write Topic:orders") }

func (w *world) write(n int64) {
	w.written += n
	w.ends[flow.TopicPartition{Topic: "orders"}] += n
}

func (w *world) result(name Action, ok bool, text string) (r Result, err error) {
	err = w.point(name, func() { r = Result{OK: ok, Summary: text, Facts: []Fact{{"asked for", string(name)}}} })
	return r, err
}

func (w *world) Preflight(context.Context, string) (Result, error) {
	return w.result(DoPreflight, true, "ready")
}

func (w *world) VerifyGroups(context.Context, string) (Result, error) {
	return w.result(DoVerifyGroups, w.groups == "exact", "groups: "+w.groups)
}

func (w *world) VerifyRecords(context.Context, string) (Result, error) {
	return w.result(DoVerifyRecords, w.copied == w.written, "compared")
}

func (w *world) Lag(context.Context, string) (lag int64, err error) {
	err = w.point(DoReadLag, func() {
		lag = w.written - w.copied
		if !w.paused {
			w.copied += min(lag, 10)
		}
		if !w.fenced() && w.written < 200 {
			w.write(3)
		}
	})
	return lag, err
}

func (w *world) PlanFence(_ context.Context, _ string, principals []string) (rules []string, err error) {
	err = w.point(DoPlanFence, func() {
		for _, p := range principals {
			if rule := p + " Deny Write Topic:orders"; !slices.Contains(w.rules, rule) {
				rules = append(rules, rule)
			}
		}
	})
	return rules, err
}

func (w *world) Fence(_ context.Context, _ string, rules []string) error {
	return w.point(DoFence, func() {
		for _, r := range rules {
			if !slices.Contains(w.rules, r) {
				w.rules = append(w.rules, r)
			}
		}
	})
}

func (w *world) MissingRules(_ context.Context, _ string, rules []string) (missing []string, err error) {
	err = w.point(DoReadFence, func() {
		for _, r := range rules {
			if !slices.Contains(w.rules, r) {
				missing = append(missing, r)
			}
		}
	})
	return missing, err
}

func (w *world) Unfence(_ context.Context, _ string, rules []string) error {
	return w.point(DoUndoFence, func() {
		w.rules = slices.DeleteFunc(w.rules, func(r string) bool { return slices.Contains(rules, r) })
	})
}

func (w *world) SourceEnds(context.Context, string) (ends Ends, err error) {
	err = w.point(DoReadEnds, func() {
		if w.leaks > 0 || !w.fenced() {
			w.leaks--
			w.write(1)
		}
		ends = Ends{}
		for tp, end := range w.ends {
			ends[tp] = end
		}
	})
	return ends, err
}

func (w *world) ApplyGroupOffsets(context.Context, string) (r Result, err error) {
	err = w.point(DoApplyGroups, func() {
		r = Result{OK: !w.inexact, Summary: "1 group"}
		if w.groups = "exact"; w.inexact {
			w.groups, r.Summary = "", "group billing has no exact image"
		}
		if w.copied < w.written {
			w.groups = "behind" // moved before the drain: the test would see it
		}
	})
	return r, err
}

func (w *world) PauseFlow(context.Context, string) error {
	return w.point(DoPauseFlow, func() { w.paused = true })
}

func (w *world) ResumeFlow(context.Context, string) error {
	return w.point(DoResumeFlow, func() { w.paused = false })
}

// outcome is what counts at the end, whatever happened on the way.
func (w *world) outcome() string {
	return fmt.Sprintf("rules %s; paused %v; lag %d; groups %s", strings.Join(w.rules, ", "), w.paused, w.written-w.copied, w.groups)
}

// memory is a Store, as people have it.
type memory struct {
	mu       sync.Mutex
	records  map[string]Record
	revision uint64
}

func (m *memory) Load(_ context.Context, id string) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.records[id]
	if !ok {
		return Record{}, ErrNotFound
	}
	return r, nil
}

func (m *memory) List(context.Context) ([]Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Record
	for _, r := range m.records {
		all = append(all, r)
	}
	return all, nil
}

func (m *memory) Save(_ context.Context, r Record) (revision uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.save(r)
}

func (m *memory) save(r Record) (uint64, error) {
	if m.records[r.ID].Revision != r.Revision {
		return 0, ErrConflict
	}
	m.revision++
	r.Revision = m.revision
	m.records[r.ID] = r
	return r.Revision, nil
}

// owned is the store as an executor has it. Each save is a point too, at which the
// node may die before or after the change is durable.
type owned struct {
	*memory
	w *world
}

func (o owned) Save(_ context.Context, r Record) (revision uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var refused error
	if err := o.w.point("save", func() { revision, refused = o.save(r) }); err != nil {
		return 0, err
	}
	return revision, refused
}
