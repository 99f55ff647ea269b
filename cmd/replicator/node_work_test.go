package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/raftnode"
	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/offsets"
)

// TestADutyThatEndsSlowlyHoldsUpNoCopy lets a duty take its time to stop, and
// meanwhile a copy end that the fleet wants back.
func TestADutyThatEndsSlowlyHoldsUpNoCopy(t *testing.T) {
	slow := cluster.Work{Kind: cluster.WorkFlow, Name: "a"}
	moving := cluster.Assignment{Work: cluster.Work{Kind: cluster.WorkCopy, Name: "b", Topic: "orders"}, Epoch: 7, Releasing: true}
	stopped := make(chan struct{})
	d := &duty{assignment: cluster.Assignment{Work: slow, Epoch: 3}, stop: func() { close(stopped) }, done: make(chan struct{})}
	l := &life{
		work: &work{}, given: make(chan struct{}, 1), wanted: map[cluster.Work]uint64{}, stopping: map[cluster.Work]uint64{moving.Work: 7},
		asked: map[cluster.Work]cluster.Assignment{moving.Work: moving}, duties: map[cluster.Work]*duty{slow: d},
	}
	assigned := make(chan struct{})
	go func() {
		l.assignDuties(new(cluster.State), nil)
		close(assigned)
	}()
	<-stopped
	ended := make(chan struct{})
	go func() {
		l.copyEnded(mirror.Assignment{Flow: "b", SourceTopic: "orders", Epoch: 7})
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the copy waits for the duty")
	}
	if len(l.give) != 1 || l.give[0].Work != moving.Work {
		t.Errorf("to be given back: %v, want %v", l.give, moving.Work)
	}
	select {
	case <-assigned:
		t.Error("the duty has not ended, and is taken to have")
	default:
	}
	close(d.done)
	<-assigned
}

// What happens to other flows, and to all else of one's own, wakes no duty.
func TestOnlyADutyThatIsConcernedIsWoken(t *testing.T) {
	l := &life{duties: map[cluster.Work]*duty{}}
	for _, name := range []string{"a", "b"} {
		l.duties[cluster.Work{Kind: cluster.WorkFlow, Name: name}] = &duty{changed: make(chan struct{}, 1)}
	}
	l.duties[cluster.Work{Kind: cluster.WorkRunbook, Name: "a"}] = &duty{changed: make(chan struct{}, 1)}
	first, second := &cluster.Verification{ID: "1"}, &cluster.Verification{ID: "2"}
	states := []*cluster.State{
		{},
		{Flows: map[string]*cluster.Flow{"a": {}, "b": {}}},
		{Flows: map[string]*cluster.Flow{"a": {Verification: first}, "b": {}}},
		{Flows: map[string]*cluster.Flow{"a": {Verification: first, Leaving: true}, "b": {}, "c": {Verification: second}}, ObjectsRevision: 7},
		{Flows: map[string]*cluster.Flow{"a": {Verification: second}, "b": {}}},
		{Flows: map[string]*cluster.Flow{"b": {Verification: first}}},
	}
	for i, want := range []string{"", "a", "", "a", "a b"} {
		l.wakeDuties(states[i], states[i+1])
		var woken []string
		for _, name := range []string{"a", "b"} {
			select {
			case <-l.duties[cluster.Work{Kind: cluster.WorkFlow, Name: name}].changed:
				woken = append(woken, name)
			default:
			}
		}
		if got := strings.Join(woken, " "); got != want {
			t.Errorf("change %d wakes %q, want %q", i, got, want)
		}
	}
	if len(l.duties[cluster.Work{Kind: cluster.WorkRunbook, Name: "a"}].changed) > 0 {
		t.Error("an execution is woken")
	}
}

func declaredCluster(name, server string) *flow.Cluster {
	return &flow.Cluster{Metadata: flow.Metadata{Name: name}, Spec: flow.ClusterSpec{BootstrapServers: []string{server}}}
}

// TestAClientIsThatOfItsDeclaration asks for a client while the directory has
// not heard of a change yet, and afterwards.
func TestAClientIsThatOfItsDeclaration(t *testing.T) {
	d := newDirectory("test", slog.New(slog.DiscardHandler))
	defer d.reconcile(nil)
	old, now := declaredCluster("us", "127.0.0.1:1"), declaredCluster("us", "127.0.0.1:2")
	d.reconcile([]*flow.Cluster{old})
	if err := d.current(old); err != nil {
		t.Errorf("as declared: %v", err)
	}
	if err := d.current(now); err == nil {
		t.Error("an old client was taken for that of a new declaration")
	}
	d.reconcile([]*flow.Cluster{now})
	if err := d.current(now); err != nil {
		t.Errorf("as declared: %v", err)
	}
}

// TestAClusterOfTwoNamesIsReadOnce declares one cluster twice and looks whether
// its ledger's reader stays the same.
func TestAClusterOfTwoNamesIsReadOnce(t *testing.T) {
	d := newDirectory("test", slog.New(slog.DiscardHandler))
	defer d.reconcile(nil)
	d.reconcile([]*flow.Cluster{declaredCluster("inside", "127.0.0.1:1"), declaredCluster("outside", "127.0.0.1:2")})
	for _, e := range d.entries {
		e.id = "one"
	}
	l := &ledgers{
		fleet: noFleet{}, directory: d, maps: offsets.NewMaps(), log: slog.New(slog.DiscardHandler), tails: map[string]*runningTail{},
	}
	ctx, cancel := context.WithCancel(t.Context())
	g, gctx := errgroup.WithContext(ctx)
	var first *runningTail
	for i := range 20 {
		if err := l.reconcile(gctx, g); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = l.tails["one"]
		}
		if l.tails["one"] != first {
			t.Fatalf("the reader was replaced at look %d", i)
		}
	}
	if name, _ := d.name("one"); first.declared.Metadata.Name != "inside" || name != "inside" {
		t.Errorf("read as %s, called %s, want inside", first.declared.Metadata.Name, name)
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// noFleet is a fleet that knows nothing.
type noFleet struct{}

func (noFleet) State() *cluster.State { return new(cluster.State) }
func (noFleet) Propose(context.Context, cluster.Command) (cluster.Result, error) {
	return cluster.Result{}, cluster.ErrStopped
}

func (noFleet) Watch(context.Context) iter.Seq2[uint64, *cluster.State] {
	return func(yield func(uint64, *cluster.State) bool) { yield(0, new(cluster.State)) }
}

// toldFleet is one whose states are told, and that counts how often it is asked for one.
type toldFleet struct {
	noFleet
	states chan *cluster.State
	last   atomic.Pointer[cluster.State]
	asked  atomic.Int32
}

func (f *toldFleet) State() *cluster.State {
	f.asked.Add(1)
	return f.last.Load()
}

func (f *toldFleet) Watch(ctx context.Context) iter.Seq2[uint64, *cluster.State] {
	return func(yield func(uint64, *cluster.State) bool) {
		for {
			select {
			case s := <-f.states:
				f.last.Store(s)
				if !yield(0, s) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// Who reads the ledgers looks when something has changed, of whichever kind, and else
// not at all.
func TestLedgersAreLookedAtWhenSomethingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory("test", slog.New(slog.DiscardHandler))
		f := &toldFleet{states: make(chan *cluster.State)}
		f.last.Store(new(cluster.State))
		l := &ledgers{fleet: f, directory: d, maps: offsets.NewMaps(), log: slog.New(slog.DiscardHandler), tails: map[string]*runningTail{}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.run(ctx) }()
		looks := func() int32 {
			time.Sleep(time.Hour) // virtual, for all that goes by a clock
			synctest.Wait()
			return f.asked.Swap(0)
		}
		looks()
		pinned := map[string]cluster.Ledger{"one": {TopicID: "t"}}
		for _, c := range []struct {
			what   string
			change func()
			want   int32
		}{
			{"nothing", func() {}, 0},
			{"a state that says the same of ledgers", func() { f.states <- &cluster.State{ObjectsRevision: 1} }, 0},
			{"a ledger that is pinned", func() { f.states <- &cluster.State{Ledgers: pinned} }, 1},
			{"another state with it", func() { f.states <- &cluster.State{ObjectsRevision: 2, Ledgers: pinned} }, 0},
			{"other clusters", func() { d.reconcile(nil) }, 1},
			{"what a reader has found", l.found.ring, 1},
		} {
			c.change()
			if got := looks(); got != c.want {
				t.Errorf("%s: looked %d times in an hour, want %d", c.what, got, c.want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What discovery remembers of a topic comes back as it was, whoever looks next.
func TestTheFleetRemembersWhatDiscoveryKnows(t *testing.T) {
	want := mirror.Topic{
		Source: "orders", SourceID: ledger.TopicID{1}, Destination: "us.orders", DestinationID: ledger.TopicID{2}, Partitions: 3, Newborn: 1,
		Offsets: flow.OffsetsPreserve, Configs: `{"retention.ms":"1"}`, GoneSince: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Made: true, Told: mirror.Told{Destination: ledger.TopicID{3}, Partitions: 2, Last: ledger.TopicGone},
		State: mirror.Waiting, Problem: "it is gone", Fix: "nothing", Blocked: true,
	}
	fields := reflect.ValueOf(want)
	for i := range fields.NumField() {
		if fields.Field(i).IsZero() {
			t.Errorf("%s is not tested", fields.Type().Field(i).Name)
		}
	}
	state := &cluster.State{Flows: map[string]*cluster.Flow{"us-eu": {Topics: map[string]*cluster.Topic{"orders": {TopicSpec: topicSpec(want)}}}}}
	if got := knownTopics(state, "us-eu"); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Ten thousand topics are reported in commands that the fleet takes, and only what has
// changed.
func TestManyTopicsAreReportedInPieces(t *testing.T) {
	var topics []mirror.Topic
	for i := range 10_000 {
		topics = append(topics, mirror.Topic{Source: fmt.Sprintf("topic-%05d", i), SourceID: ledger.TopicID{1}, Partitions: 1, State: mirror.Running, Problem: strings.Repeat("why ", 50)})
	}
	known := map[string]cluster.TopicSpec{"gone": {Source: "gone"}}
	report := func() (put, removed int) {
		t.Helper()
		commands, err := topicCommands(known, topics)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands {
			if text, err := json.Marshal(c); err != nil || len(text) > raftnode.MaxCommand {
				t.Fatalf("a command of %d bytes: %v", len(text), err)
			}
			for _, spec := range c.Put {
				known[spec.Source] = spec
			}
			for _, name := range c.Remove {
				delete(known, name)
			}
			put, removed = put+len(c.Put), removed+len(c.Remove)
		}
		return put, removed
	}
	if put, removed := report(); put != len(topics) || removed != 1 {
		t.Errorf("%d topics are put and %d removed", put, removed)
	}
	topics[7].Problem = ""
	if put, removed := report(); put != 1 || removed != 0 {
		t.Errorf("%d topics are put and %d removed where one has changed", put, removed)
	}
	if put, removed := report(); put+removed != 0 || len(known) != len(topics) {
		t.Errorf("%d topics are put and %d removed where none has changed", put, removed)
	}
}
