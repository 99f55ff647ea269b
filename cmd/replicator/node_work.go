package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/cmd/replicator/supervisor"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/offsets/mirrormaker"
)

const (
	// sessionPause is between two lives of a node as an owner, so that one that
	// cannot live does not try in a tight loop.
	sessionPause = 200 * time.Millisecond
	// closeLimit bounds how long ending a life may take.
	closeLimit = 3 * time.Second
)

// work does what the fleet assigns to this node, life after life.
type work struct {
	fleet     *cluster.Node
	fleetName string
	maps      *offsets.Maps
	directory *directory
	ledgers   *ledgers
	groups    *groups
	runbooks  *runbooks

	verifications *verifications

	metrics *nodeMetrics
	log     *slog.Logger

	manager  atomic.Pointer[mirror.Manager] // of the present life, for metrics
	life     atomic.Pointer[life]           // the present one, nil between two
	progress supervisor.Progress            // of the loop that hands on what a life is to do
}

// run lives until the fleet node stops.
func (w *work) run(ctx context.Context) error {
	if err := w.ledgers.beforeWork(ctx, w.fleet, w.fleet.Name()); err != nil && ctx.Err() == nil {
		w.log.Warn("this node takes work although some ledgers are not read yet: copies into their clusters wait for that, and positions and lineage there are not known until then",
			"because", err, "ledgers", w.ledgers.unread())
	}
	for {
		s, err := w.fleet.Session(ctx)
		if errors.Is(err, cluster.ErrStopped) || ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = w.live(ctx, s)
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
			err = errors.Join(err, s.Close(closing))
			cancel()
		}
		if err != nil && ctx.Err() == nil {
			w.log.Warn("this node's work has ended and begins anew", "error", err)
		}
		pause(ctx, sessionPause)
	}
}

// life is one incarnation of the node at work.
type life struct {
	*work
	session *cluster.Session
	manager *mirror.Manager
	group   *errgroup.Group
	ctx     context.Context

	given chan struct{} // capacity 1: there is something in give

	mu       sync.Mutex
	give     []cluster.Assignment                // works that have stopped and that the fleet waits for
	seen     map[cluster.Work]uint64             // epochs of the copies that this life was told of, whether or not they can begin
	wanted   map[cluster.Work]uint64             // epochs of the copies that the manager was told last
	stopping map[cluster.Work]uint64             // epochs of copies that it was told no more and has not ended yet
	asked    map[cluster.Work]cluster.Assignment // copies that the fleet wants back
	duties   map[cluster.Work]*duty
}

// duty is a flow's duty or a runbook's execution under way.
type duty struct {
	assignment cluster.Assignment
	spec       string // of the objects it was started from
	stop       context.CancelFunc
	done       chan struct{}
	changed    chan struct{} // capacity 1: the verification of its flow is another one
	problem    atomic.Pointer[dutyReport]
	paused     atomic.Pointer[map[string][]pausedCopy] // while something of a flow is paused
	syncer     atomic.Pointer[offsets.Syncer]          // of a flow's groups, while it runs
	writer     atomic.Pointer[mirrormaker.Writer]
}

// live works until the session is over, this node is fenced, or ctx ends.
func (w *work) live(ctx context.Context, s *cluster.Session) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(s.Context(), func() { stop(context.Cause(s.Context())) })()
	l := &life{
		work: w, session: s, given: make(chan struct{}, 1), wanted: map[cluster.Work]uint64{},
		stopping: map[cluster.Work]uint64{}, duties: map[cluster.Work]*duty{},
	}
	conf := mirror.DefaultConfig()
	conf.Fleet, conf.Node, conf.Incarnation = w.fleetName, w.fleet.Name(), s.Incarnation()
	conf.Lanes, conf.Positions, conf.Origins = lanes{w.fleet, s}, positions{w}, w.maps
	conf.ClientID, conf.Log = w.directory.clientID, w.log
	conf.Released = l.copyEnded
	var err error
	if l.manager, err = mirror.NewManager(conf); err != nil {
		return err
	}
	w.manager.Store(l.manager)
	w.life.Store(l)
	defer w.life.Store(nil)
	defer w.progress.Idle()
	s.Report(l)
	l.group, l.ctx = errgroup.WithContext(ctx)
	l.group.Go(func() error { return l.manager.Run(l.ctx) })
	l.group.Go(func() error { return l.follow() })
	l.group.Go(func() error { return l.release() })
	err = l.group.Wait()
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if cause := context.Cause(s.Context()); !errors.Is(cause, cluster.ErrStopped) {
		return cause // nil if only ctx has ended
	}
	return nil
}

// follow hands on every change of the assignments or the declarations.
func (l *life) follow() error {
	declared := make(chan struct{}, 1)
	l.group.Go(func() error {
		before := new(cluster.State)
		for _, s := range l.fleet.Watch(l.ctx) {
			if s.ObjectsRevision != before.ObjectsRevision {
				poke(declared)
			}
			l.wakeDuties(before, s)
			before = s
		}
		return nil
	})
	round := time.NewTicker(workRound)
	defer round.Stop()
	var latest []cluster.Assignment
	var revision uint64
	for {
		l.progress.Step()
		select {
		case <-round.C:
			l.manager.Status() // stands still if the manager does
			continue
		case latest = <-l.session.Assignments():
		case <-declared:
			if r := l.fleet.State().ObjectsRevision; r == revision {
				continue
			}
		case <-l.ctx.Done():
			return nil
		}
		revision = l.fleet.State().ObjectsRevision
		l.assign(latest)
	}
}

// wakeDuties tells the duties of this node whose flow's verification has changed from
// one state to another. All the rest that a state holds costs them nothing.
func (l *life) wakeDuties(before, after *cluster.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w, d := range l.duties {
		if w.Kind == cluster.WorkFlow && storedVerification(before, w.Name) != storedVerification(after, w.Name) {
			poke(d.changed)
		}
	}
}

// poke wakes the reader of c, which has room for one.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// assign splits the work by its kind and tells the manager its copies.
func (l *life) assign(all []cluster.Assignment) {
	state := l.fleet.State()
	var run []mirror.Assignment
	wanted, asked := map[cluster.Work]uint64{}, map[cluster.Work]cluster.Assignment{}
	duties := map[cluster.Work]cluster.Assignment{}
	copies := map[string]int{} // by flow, on all nodes
	for name, f := range state.Flows {
		copies[name] = f.Copies()
	}
	declared := map[string]*declarations{}
	seen := map[cluster.Work]uint64{}
	for _, a := range all {
		seen[a.Work] = a.Epoch
		switch m, ok := mirrorAssignment(state, declared, a); {
		case a.Work.Kind != cluster.WorkCopy:
			duties[a.Work] = a
		case a.Releasing:
			asked[a.Work] = a
		case ok:
			m.FlowCopies = copies[m.Flow]
			run = append(run, m)
			wanted[a.Work] = a.Epoch
		}
	}
	l.tell(run, wanted, asked)
	l.mu.Lock()
	l.seen = seen
	l.mu.Unlock()
	l.assignDuties(state, duties)
}

// tell hands copies to the manager. A copy that the fleet wants back is released
// when the manager has ended it, or at once if it never had it.
func (l *life) tell(run []mirror.Assignment, wanted map[cluster.Work]uint64, asked map[cluster.Work]cluster.Assignment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w, epoch := range l.wanted {
		if wanted[w] != epoch {
			l.stopping[w] = epoch
		}
	}
	for w, epoch := range wanted {
		if l.stopping[w] == epoch {
			delete(l.stopping, w)
		}
	}
	l.wanted = wanted
	for w, a := range asked {
		if old, repeated := l.asked[w]; l.stopping[w] != a.Epoch && (!repeated || old.Epoch != a.Epoch) {
			l.giveBack(a)
		}
	}
	l.asked = asked
	l.manager.Assign(run)
}

// copyEnded is told by the manager that nothing of a copy is under way any more.
func (l *life) copyEnded(m mirror.Assignment) {
	w := cluster.Work{Kind: cluster.WorkCopy, Name: m.Flow, Topic: m.SourceTopic, Partition: m.Partition}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wanted[w] == m.Epoch {
		return // it is wanted again by now, and the manager will run it
	}
	if l.stopping[w] == m.Epoch {
		delete(l.stopping, w)
	}
	if a, ok := l.asked[w]; ok && a.Epoch == m.Epoch {
		l.giveBack(a)
	}
}

// giveBack has release release a work. l.mu is held.
func (l *life) giveBack(a cluster.Assignment) {
	l.give = append(l.give, a)
	poke(l.given)
}

// release gives work back, as much of it as there is in one go. If that fails
// this life ends, and with it the work.
func (l *life) release() error {
	for {
		select {
		case <-l.given:
		case <-l.ctx.Done():
			return nil
		}
		l.mu.Lock()
		batch := l.give
		l.give = nil
		l.mu.Unlock()
		if err := l.session.Release(l.ctx, batch...); err != nil && l.ctx.Err() == nil {
			return fmt.Errorf("release work: %w", err)
		}
	}
}

// declarations are a flow with its clusters. It is decoded once for all its copies:
// there may be thousands.
type declarations struct {
	flow                *flow.ReplicationFlow // nil if the declarations are not complete
	source, destination *flow.Cluster
}

func readDeclarations(state *cluster.State, name string) *declarations {
	f, err := state.Lookup(flow.KindReplicationFlow, name)
	if err != nil {
		return &declarations{}
	}
	source, err1 := state.Lookup(flow.KindCluster, f.Flow.Spec.Source)
	destination, err2 := state.Lookup(flow.KindCluster, f.Flow.Spec.Destination)
	if errors.Join(err1, err2) != nil {
		return &declarations{}
	}
	return &declarations{f.Flow, source.Cluster, destination.Cluster}
}

// mirrorAssignment is a copy as the mirror needs it; ok is false while its flow
// or its topic is paused or its declarations are not complete. It remembers what
// it has read in declared.
func mirrorAssignment(state *cluster.State, declared map[string]*declarations, a cluster.Assignment) (m mirror.Assignment, ok bool) {
	if a.Work.Kind != cluster.WorkCopy {
		return m, false
	}
	d := declared[a.Work.Name]
	if d == nil {
		d = readDeclarations(state, a.Work.Name)
		declared[a.Work.Name] = d
	}
	if d.flow == nil || d.flow.Spec.PausedTopic(a.Work.Topic) {
		return m, false
	}
	id, err := ledger.ParseTopicID(a.Topic.SourceID)
	if err != nil {
		return m, false
	}
	return mirror.Assignment{
		Flow: a.Work.Name, Spec: d.flow, Source: d.source, Destination: d.destination,
		SourceTopic: a.Work.Topic, DestinationTopic: a.Topic.Destination, Partition: a.Work.Partition,
		SourceTopicID: id, Epoch: a.Epoch, Offsets: a.Topic.Offsets,
		Newborn: a.Work.Partition >= a.Topic.Partitions-a.Topic.Newborn,
	}, true
}

// assignDuties starts and stops what is not a copy. A duty whose declarations
// have changed starts again. It waits for those that stop, without holding up
// copies that end meanwhile.
func (l *life) assignDuties(state *cluster.State, want map[cluster.Work]cluster.Assignment) {
	for _, d := range l.stopDuties(state, want) {
		<-d.done
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for w, a := range want {
		if a.Releasing {
			l.giveBack(a)
			continue
		}
		if l.duties[w] == nil {
			l.startDuty(state, a)
		}
	}
}

// stopDuties asks all duties to end that are not wanted as they are.
func (l *life) stopDuties(state *cluster.State, want map[cluster.Work]cluster.Assignment) (stopped []*duty) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w, d := range l.duties {
		a, ok := want[w]
		if ok && !a.Releasing && a.Epoch == d.assignment.Epoch && d.spec == dutySpec(state, w) {
			continue
		}
		d.stop()
		delete(l.duties, w)
		stopped = append(stopped, d)
	}
	return stopped
}

// dutySpec is what a duty depends on, so that a change of it is seen.
func dutySpec(state *cluster.State, w cluster.Work) string {
	if w.Kind != cluster.WorkFlow {
		return ""
	}
	f, err := state.Lookup(flow.KindReplicationFlow, w.Name)
	if err != nil {
		return ""
	}
	objects := state.Objects
	return fmt.Sprint(objects[f.Key()].Revision, objects[string(flow.KindCluster)+"/"+f.Flow.Spec.Source].Revision, objects[string(flow.KindCluster)+"/"+f.Flow.Spec.Destination].Revision)
}

func (l *life) startDuty(state *cluster.State, a cluster.Assignment) {
	ctx, stop := context.WithCancel(l.ctx)
	d := &duty{assignment: a, spec: dutySpec(state, a.Work), stop: stop, done: make(chan struct{}), changed: make(chan struct{}, 1)}
	l.duties[a.Work] = d
	l.group.Go(func() error {
		defer close(d.done)
		defer stop()
		var err error
		if a.Work.Kind == cluster.WorkRunbook {
			err = l.runbooks.execute(ctx, a)
		} else {
			err = l.runFlowDuty(ctx, a, d)
		}
		if err != nil && ctx.Err() == nil {
			l.log.Warn("duty ended", "work", a.Work.String(), "error", err)
		}
		return nil
	})
}

// Works implements cluster.Reporter: how all work is doing, for who asks.
func (l *life) Works() []cluster.WorkStatus {
	var all []cluster.WorkStatus
	for _, c := range l.manager.Status() {
		detail, err := json.Marshal(c)
		if err != nil {
			l.log.Error("status of a copy", "flow", c.Flow, "topic", c.SourceTopic, "partition", c.Partition, "error", err)
			continue
		}
		all = append(all, cluster.WorkStatus{Work: workOf(c), Epoch: c.Epoch, State: string(c.State), Problem: c.Reason, Detail: detail})
	}
	duties, err := l.dutyStatuses()
	if err != nil {
		l.log.Error("status of duties", "error", err)
	}
	return append(all, duties...)
}

// Rates implements cluster.Reporter.
func (l *life) Rates(yield func(cluster.Work, float64)) {
	for _, c := range l.manager.Status() {
		yield(workOf(c), c.BytesPerSecond)
	}
}

func workOf(c mirror.CopyStatus) cluster.Work {
	return cluster.Work{Kind: cluster.WorkCopy, Name: c.Flow, Topic: c.SourceTopic, Partition: c.Partition}
}

func (l *life) dutyStatuses() ([]cluster.WorkStatus, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []cluster.WorkStatus
	for w, d := range l.duties {
		ws := cluster.WorkStatus{Work: w, Epoch: d.assignment.Epoch, State: string(mirror.Running)}
		if r := d.report(); r != nil {
			if r.Reason != "" {
				ws.State, ws.Problem = string(mirror.Waiting), r.Reason
			}
			var err error
			if ws.Detail, err = json.Marshal(r); err != nil {
				return nil, err
			}
		}
		all = append(all, ws)
	}
	return all, nil
}
