package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
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
	apply, err := cluster.NewApplyObjects([]flow.Object{{Kind: flow.KindCluster, Cluster: c}}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	state := &cluster.State{Objects: map[string]cluster.Object{apply.Put[0].Key: {Revision: 1, Spec: apply.Put[0].Spec}}}
	d := newDirectory("test", slog.New(slog.DiscardHandler))
	defer d.reconcile(nil)
	l := &ledgers{fleet: declaring{state: state}, directory: d, tails: map[string]*runningTail{}}
	want := func(what string, connected bool) {
		t.Helper()
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
