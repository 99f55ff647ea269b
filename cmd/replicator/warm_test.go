package main

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// declaring is a fleet that has declared clusters and does nothing.
type declaring struct {
	noFleet
	state *cluster.State
}

func (d declaring) State() *cluster.State { return d.state }

// TestANodeWaitsForLedgersBeforeItTakesWork goes through what a node can know of a
// declared cluster after it has started.
func TestANodeWaitsForLedgersBeforeItTakesWork(t *testing.T) {
	c := declaredCluster("us", "127.0.0.1:1")
	apply, err := cluster.NewApplyObjects([]flow.Object{{Kind: flow.KindCluster, Cluster: c}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	state := &cluster.State{Objects: map[string]cluster.Object{apply.Put[0].Key: {Revision: 1, Spec: apply.Put[0].Spec}}}
	d := newDirectory("test", slog.New(slog.DiscardHandler))
	defer d.reconcile(nil)
	l := &ledgers{fleet: declaring{state: state}, directory: d, tails: map[string]*runningTail{}}
	want := func(what string, connected bool) {
		t.Helper()
		if list := l.unread(); len(state.Objects) > 0 && (len(list) != 1 || !strings.HasPrefix(list[0], "us: ")) || len(state.Objects) == 0 && list != nil {
			t.Errorf("%s: unread are %q", what, list)
		}
		if got := l.connected(); got != connected {
			t.Errorf("%s: connected is %v, want %v", what, got, connected)
		}
	}
	want("the directory has not heard of the cluster", false)
	d.reconcile([]*flow.Cluster{c})
	want("it has not been asked", false)
	e := d.entries["us"]
	e.asked, e.err = true, errors.New("connection refused")
	want("it does not answer", true)
	if got := l.unread(); !strings.Contains(got[0], "connection refused") {
		t.Errorf("it does not answer: got %q", got)
	}
	e.err, e.id = nil, "one"
	want("nobody reads its ledger yet", false)
	delete(state.Objects, apply.Put[0].Key)
	want("nothing is declared", true)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.warm(ctx, func(ctx context.Context) error { return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Errorf("a fleet that is not there: %v", err)
	}
	if err := l.warm(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Errorf("nothing is declared: %v", err)
	}
}

// TestWhyALedgerIsNotRead: whoever reads the log of a node learns what he is to look at.
func TestWhyALedgerIsNotRead(t *testing.T) {
	refused := errors.New("not authorized")
	for _, c := range []struct {
		asked  bool
		failed error
		state  *tail.State
		want   string // "": it is read
	}{
		{false, nil, nil, "not answered"},
		{true, refused, nil, "not authorized"},
		{true, nil, nil, "not looked for"},
		{true, nil, &tail.State{Status: tail.Connecting}, "not found yet"},
		{true, nil, &tail.State{Status: tail.Connecting, Err: refused}, "not authorized"},
		{true, nil, &tail.State{Status: tail.Absent}, ""},
		{true, nil, &tail.State{Status: tail.Reading, Err: refused}, "not authorized"},
		{true, nil, &tail.State{Status: tail.Reading, Partitions: []tail.PartitionState{{Next: 3, End: 10}, {Next: 5, End: 5}}}, "7 offsets"},
		{true, nil, &tail.State{Status: tail.Reading, Partitions: []tail.PartitionState{{Next: 10, End: 10}}}, ""},
	} {
		var s tail.State
		if c.state != nil {
			s = *c.state
		}
		if got := unreadBecause(c.asked, c.failed, s, c.state != nil); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

// TestAClusterWithoutALedgerIsNotUnreachable: there is nothing to wait for.
func TestAClusterWithoutALedgerIsNotUnreachable(t *testing.T) {
	d := newDirectory("test", slog.New(slog.DiscardHandler))
	defer d.reconcile(nil)
	addr, stop := startBrokerIn(t, t.TempDir(), "provenance: {off: true}") // which would make a ledger
	defer stop()
	d.reconcile([]*flow.Cluster{declaredCluster("us", addr)})
	_, err := (&eventLineage{directory: d}).Check(t.Context(), "us", nil)
	if p, ok := errors.AsType[*api.Error](err); !ok || p.Status != http.StatusNotFound || !strings.Contains(p.Detail, "no ledger") {
		t.Errorf("got %v", err)
	}
}

// fleetOf is a fleet in one state until the next is sent.
type fleetOf struct {
	state *cluster.State
	next  chan *cluster.State
}

func (f fleetOf) Barrier(ctx context.Context) error { return ctx.Err() }

func (f fleetOf) Watch(ctx context.Context) iter.Seq2[uint64, *cluster.State] {
	return func(yield func(uint64, *cluster.State) bool) {
		for s, n := f.state, uint64(1); yield(n, s); n++ {
			select {
			case s = <-f.next:
			case <-ctx.Done():
				return
			}
		}
	}
}

// TestWorkThatWaitsIsNotKeptWaiting: a cluster that never answers keeps a node that starts
// from taking copies while others make them, and for warmLimit; not while nobody does, as
// after the last other node was drained.
func TestWorkThatWaitsIsNotKeptWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		apply, err := cluster.NewApplyObjects([]flow.Object{{Kind: flow.KindCluster, Cluster: declaredCluster("us", "127.0.0.1:1")}}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		state := func(other cluster.Member, owner string) *cluster.State {
			return &cluster.State{
				Objects: map[string]cluster.Object{apply.Put[0].Key: {Revision: 1, Spec: apply.Put[0].Spec}},
				Members: map[string]cluster.Member{"r1": {Name: "r1"}, "r2": other},
				Flows: map[string]*cluster.Flow{"f": {Topics: map[string]*cluster.Topic{
					"t": {TopicSpec: cluster.TopicSpec{Source: "t", Partitions: 1}, Owners: []cluster.Owner{{Node: owner}}},
				}}},
			}
		}
		made := state(cluster.Member{Name: "r2", Incarnation: 2}, "r2")
		drained := state(cluster.Member{Name: "r2", Incarnation: 2, Draining: true}, "")
		l := &ledgers{fleet: declaring{state: made}, directory: newDirectory("test", slog.New(slog.DiscardHandler)), tails: map[string]*runningTail{}}
		took := func(f fleetOf) (time.Duration, error) {
			began := time.Now()
			err := l.beforeWork(t.Context(), f, "r1")
			return time.Since(began), err
		}
		if d, err := took(fleetOf{state: made}); !errors.Is(err, errStalled) || d != warmLimit {
			t.Errorf("while another makes the copies: %v after %s", err, d)
		}
		if d, err := took(fleetOf{state: drained}); !errors.Is(err, errWanted) || d != 0 {
			t.Errorf("while nobody makes them: %v after %s", err, d)
		}
		next := make(chan *cluster.State)
		time.AfterFunc(time.Second, func() { next <- drained })
		if d, err := took(fleetOf{made, next}); !errors.Is(err, errWanted) || d != time.Second {
			t.Errorf("the other is drained after a second: %v after %s", err, d)
		}
	})
}

// TestReadingThatGetsOn: what counts is what was there when a ledger was seen first, not
// what others go on to write, so that it comes to an end.
func TestReadingThatGetsOn(t *testing.T) {
	known := reading{}
	at := func(us, eu tail.PartitionState) int64 {
		s := map[string]tail.State{"us": {Status: tail.Reading, Partitions: []tail.PartitionState{us}}, "eu": {Status: tail.Reading, Partitions: []tail.PartitionState{eu}}}
		if eu.End < 0 {
			s["eu"] = tail.State{Status: tail.Connecting}
		}
		return known.look(s)
	}
	for _, c := range []struct {
		what   string
		us, eu tail.PartitionState
		want   int64
	}{
		{"one has answered", tail.PartitionState{End: 10}, tail.PartitionState{End: -1}, 1},
		{"it is read", tail.PartitionState{Next: 7, End: 10}, tail.PartitionState{End: -1}, 8},
		{"to its end and beyond", tail.PartitionState{Next: 30, End: 30}, tail.PartitionState{End: -1}, 11},
		{"the other has answered", tail.PartitionState{Next: 40, End: 40}, tail.PartitionState{}, 12},
		{"its end is known", tail.PartitionState{Next: 50, End: 50}, tail.PartitionState{Next: 1, End: 5}, 13},
		{"all is read", tail.PartitionState{Next: 60, End: 60}, tail.PartitionState{Next: 9, End: 9}, 17},
	} {
		if got := at(c.us, c.eu); got != c.want {
			t.Errorf("%s: got %d, want %d", c.what, got, c.want)
		}
	}
}
