package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

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
