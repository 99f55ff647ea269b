package mirror

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/flow"
)

// Manager runs the copies that are assigned to this node, within one incarnation
// of it. Its methods are safe for concurrent use.
type Manager struct {
	cfg      Config
	metrics  *Metrics
	takeover *takeover
	numbers  *numbers
	buffers  *buffers
	kick     chan struct{}

	mu    sync.Mutex
	want  []Assignment
	flows map[string]*running
	owed  map[copyName]Assignment // assigned once and not released yet
}

// copyName tells the owners of copies apart.
type copyName struct {
	flow, topic string
	partition   int32
	epoch       uint64
}

func (a *Assignment) name() copyName { return copyName{a.Flow, a.SourceTopic, a.Partition, a.Epoch} }

// running is a flow that runs or is being stopped.
type running struct {
	*flowRun
	stop context.CancelFunc
	// Guarded by Manager.mu: stop has been called, run has returned.
	stopping, ended bool
	leaveBy         time.Time // when its copies, which are to stop, are not waited for any more
}

// NewManager makes a Manager; Run runs it.
func NewManager(cfg Config) (*Manager, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	m := &Manager{cfg: cfg, metrics: &Metrics{}, numbers: &numbers{}, buffers: newBuffers(cfg.BufferBytes), kick: make(chan struct{}, 1), flows: map[string]*running{}, owed: map[copyName]Assignment{}}
	m.takeover = &takeover{cfg: cfg, metrics: m.metrics, log: cfg.Log}
	return m, nil
}

// Assign replaces the whole set of copies. Copies that are in both sets, with
// the same epoch and the same declarations, go on undisturbed.
func (m *Manager) Assign(all []Assignment) {
	m.mu.Lock()
	m.want = slices.Clone(all)
	for _, a := range m.want {
		m.owed[a.name()] = a
	}
	m.mu.Unlock()
	m.poke()
}

func (m *Manager) poke() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// Metrics are the counters of everything that the Manager does.
func (m *Manager) Metrics() *Metrics { return m.metrics }

// Run runs what is assigned until the context ends: then every transaction that
// is under way is finished, or left to be fenced if that takes longer than
// [Config].StopTimeout. It returns an error that wraps [ErrFenced], with all copies stopped,
// when the incarnation of this node is over.
func (m *Manager) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		tick := time.NewTicker(lookAgain)
		defer tick.Stop()
		for {
			for _, a := range m.reconcile(gctx, g, time.Now()) {
				m.cfg.Released(a)
			}
			for due := false; !due; {
				select {
				case <-m.kick:
					due = true
				case <-tick.C:
					due = m.isLeaving()
				case <-gctx.Done():
					return nil
				}
			}
		}
	})
	return g.Wait()
}

// isLeaving says that some flow is to stop, for which time counts; everything else
// that is to be looked at says so itself.
func (m *Manager) isLeaving() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.flows {
		if !r.leaveBy.IsZero() {
			return true
		}
	}
	return false
}

// lookAgain is how often flows that are to stop are looked at.
const lookAgain = 500 * time.Millisecond

// reconcile starts and stops flows, and tells each what it is to copy. It returns
// what has been released since.
func (m *Manager) reconcile(ctx context.Context, g *errgroup.Group, now time.Time) (released []Assignment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	byFlow := map[string][]Assignment{}
	wanted := make(map[copyName]bool, len(m.want))
	for _, a := range m.want {
		byFlow[a.Flow] = append(byFlow[a.Flow], a)
		wanted[a.name()] = true
	}
	for name, r := range m.flows {
		list := byFlow[name]
		switch {
		case r.ended:
			r.budget.leave()
			delete(m.flows, name)
		case r.stopping:
			// Its end pokes us; if it is wanted again it starts anew then.
		case len(list) > 0 && r.sameDeclarations(list[0]):
			r.assign(list)
			r.leaveBy = time.Time{}
		default:
			// Its copies stop first, each after its last transaction. Where that
			// cannot be settled (the destination does not answer, or not to this
			// password) the lanes end without: they ask for no commit any more.
			r.assign(nil)
			if r.leaveBy.IsZero() {
				r.leaveBy = now.Add(m.cfg.StopTimeout)
			}
			if r.empty() || now.After(r.leaveBy) {
				r.stopping = true
				r.stop()
			}
		}
	}
	for name, list := range byFlow {
		if m.flows[name] == nil {
			m.start(ctx, g, list)
		}
	}
	for name, a := range m.owed {
		if r := m.flows[a.Flow]; !wanted[name] && (r == nil || !r.holds(&a)) {
			delete(m.owed, name)
			released = append(released, a)
		}
	}
	return released
}

// start runs a flow. m.mu is held.
func (m *Manager) start(ctx context.Context, g *errgroup.Group, list []Assignment) {
	fctx, stop := context.WithCancel(ctx)
	r := &running{flowRun: newFlowRun(m.cfg, list[0], m.buffers.join(), m.takeover, m.numbers, m.metrics), stop: stop}
	r.gone = m.poke
	r.assign(list)
	m.flows[r.name] = r
	g.Go(func() error {
		defer stop()
		err := r.run(fctx)
		m.mu.Lock()
		r.ended = true
		m.mu.Unlock()
		m.poke()
		return err
	})
}

// sameDeclarations says that a flow may go on as it is: a new bandwidth does not stop it,
// nor does what only says which topics there are and what becomes of them.
func (r *running) sameDeclarations(a Assignment) bool {
	return reflect.DeepEqual(ofCopies(r.spec), ofCopies(a.Spec)) && sameConnection(r.source.cluster, a.Source) && sameConnection(r.destination.cluster, a.Destination)
}

// sameConnection says that two declarations of a cluster are the same to who
// connects: its labels, its annotations and where it is are for others.
func sameConnection(a, b *flow.Cluster) bool {
	return a.Metadata.Name == b.Metadata.Name && reflect.DeepEqual(a.Spec.Connection(), b.Spec.Connection())
}

// ofCopies is what a flow says about how its copies copy.
func ofCopies(f *flow.ReplicationFlow) flow.FlowSpec {
	spec := f.Spec
	spec.Limits = flow.FlowLimits{Lanes: spec.Limits.Lanes, CommitInterval: spec.Limits.CommitInterval}
	spec.Topics, spec.Groups, spec.Verify, spec.MirrorMaker2, spec.Paused = flow.TopicSelector{}, nil, nil, nil, false
	spec.Placement = nil
	spec.Policies.OnDelete, spec.Policies.DeleteAfter, spec.Policies.OnRecreate = "", 0, ""
	return spec
}

// Status is every assigned copy, by flow, source topic and partition.
func (m *Manager) Status() []CopyStatus {
	m.mu.Lock()
	flows := make([]*running, 0, len(m.flows))
	known := map[string]bool{}
	for name, r := range m.flows {
		flows = append(flows, r)
		known[name] = true
	}
	var out []CopyStatus
	for _, a := range m.want {
		if !known[a.Flow] {
			out = append(out, pendingStatus(a, trouble{}))
		}
	}
	m.mu.Unlock()
	now := time.Now()
	for _, r := range flows {
		out = append(out, r.status(now)...)
	}
	slices.SortStableFunc(out, func(a, b CopyStatus) int {
		return cmp.Or(strings.Compare(a.Flow, b.Flow), strings.Compare(a.SourceTopic, b.SourceTopic), cmp.Compare(a.Partition, b.Partition))
	})
	return out
}
