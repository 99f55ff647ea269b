package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/internal/ledger/fold"
	"github.com/waybillhq/waybill/internal/raftnode"
)

// foldFleet answers what is proposed, and remembers it.
type foldFleet struct {
	state   cluster.State
	refuses error
	asked   []cluster.Command
}

func (f *foldFleet) State() *cluster.State { return &f.state }

func (f *foldFleet) Propose(_ context.Context, c cluster.Command) (cluster.Result, error) {
	f.asked = append(f.asked, c)
	return cluster.Result{}, f.refuses
}

// TestOneFoldAtATime: a node folds a ledger once at a time, tells the fleet of it and of its
// end, and does not begin if the fleet does not let it.
func TestOneFoldAtATime(t *testing.T) {
	fleet := &foldFleet{state: cluster.State{
		Members: map[string]cluster.Member{"r1": {Name: "r1", Incarnation: 7}},
		Ledgers: map[string]cluster.Ledger{"id": {Folding: &cluster.Folding{Node: "r2", By: "ops", Since: time.Unix(1, 0).UTC()}}},
	}}
	f := &folds{fleet: fleet, name: "r1", log: slog.New(slog.DiscardHandler), busy: map[string]bool{}}
	l := &foldedLedger{cluster: "eu", id: "id"}
	status := func(err error) (int, string) {
		var p *api.Error
		if !errors.As(err, &p) {
			t.Fatalf("got %v", err)
		}
		return p.Status, p.Detail
	}
	for _, c := range []struct {
		refuses error
		status  int
		says    string
	}{
		{cluster.ErrConflict, http.StatusConflict, "node r2 is folding the ledger of cluster eu, since 1970-01-01T00:00:01Z, for ops"},
		{fmt.Errorf("%w: r3 knows them up to 1: upgrade it first", raftnode.ErrRefused), http.StatusConflict, "r3 knows them up to 1: upgrade it first"},
		{cluster.ErrIncarnationEnded, http.StatusServiceUnavailable, "takes no part"},
		{cluster.ErrNotFound, http.StatusServiceUnavailable, "has not found the ledger of cluster eu yet"},
		{cluster.ErrStopped, http.StatusServiceUnavailable, "could not agree"},
	} {
		fleet.refuses = c.refuses
		_, err := f.begin(t.Context(), l, api.Caller{Name: "ops"}, false)
		if got, says := status(err); got != c.status || !strings.Contains(says, c.says) {
			t.Errorf("%v: got %d %q", c.refuses, got, says)
		}
	}
	fleet.refuses, fleet.asked = nil, nil
	end, err := f.begin(t.Context(), l, api.Caller{Name: "ops"}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{false, true} {
		if got, says := status(func() error { _, err := f.begin(t.Context(), l, api.Caller{}, dry); return err }()); got != http.StatusConflict || !strings.Contains(says, "this node is folding") {
			t.Errorf("twice: got %d %q", got, says)
		}
	}
	end()
	begun, ok1 := fleet.asked[0].(*cluster.BeginFold)
	ended, ok2 := fleet.asked[1].(*cluster.EndFold)
	if !ok1 || !ok2 || len(fleet.asked) != 2 || begun.Folding.Node != "r1" || begun.Folding.Incarnation != 7 || begun.Folding.By != "ops" || ended.ID != begun.Folding.ID {
		t.Errorf("asked %+v", fleet.asked)
	}
	end, err = f.begin(t.Context(), l, api.Caller{}, true) // who only looks asks nobody
	if err != nil || len(fleet.asked) != 2 {
		t.Fatalf("%v, asked %+v", err, fleet.asked)
	}
	end()
}

func TestFoldErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		says   string
	}{
		{fmt.Errorf("partition 2: %w", &fold.RefusedError{Offset: 17, Why: "a page is missing"}), http.StatusConflict, "nothing is deleted: partition 2: the ledger cannot be folded: offset 17: a page is missing"},
		{fmt.Errorf("%w: the fold tells otherwise of copy x: where source offsets went", fold.ErrNotProved), http.StatusConflict, "where source offsets went"},
		{fmt.Errorf("delete: %w", kerr.PolicyViolation), http.StatusConflict, "POLICY_VIOLATION"},
		{fmt.Errorf("delete: %w", kerr.NotLeaderForPartition), http.StatusServiceUnavailable, "NOT_LEADER"},
		{context.DeadlineExceeded, http.StatusServiceUnavailable, "deadline"},
	} {
		var p *api.Error
		if err := foldError("eu", c.err); !errors.As(err, &p) || p.Status != c.status || !strings.Contains(p.Detail, c.says) {
			t.Errorf("%v: got %v", c.err, err)
		}
	}
}

// TestFoldDrawing: what was done, and what is still to do, is said.
func TestFoldDrawing(t *testing.T) {
	draw := func(r api.FoldReport) string {
		var b strings.Builder
		tab := newTable(&b)
		drawFold(tab, &r)
		if err := tab.close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	p := api.FoldedPartition{Partition: 1, Below: 1200, Pages: 1100, Bytes: 54321, FoldPages: 1, FoldBytes: 2100, Wrote: true}
	gone, young := p, api.FoldedPartition{Partition: 1, FoldPages: 1, FoldBytes: 2100, Wrote: true}
	gone.Deleted = true
	for want, r := range map[string]api.FoldReport{
		"1          0     1200   1,100  54,321  1             2,100         written  no": {Partitions: []api.FoldedPartition{p}},
		"--delete deletes what lies below":                                               {Partitions: []api.FoldedPartition{p}},
		"would be written":                                                               {DryRun: true, Partitions: []api.FoldedPartition{p}},
		"nothing was written":                                                            {DryRun: true, Partitions: []api.FoldedPartition{p}},
		"written  yes":                                                                   {Partitions: []api.FoldedPartition{gone}},
		"no fold is old enough yet":                                                      {Partitions: []api.FoldedPartition{young}},
		"nothing to fold  no":                                                            {Partitions: []api.FoldedPartition{{}}},
		"every translation is the same from the fold\n":                                  {Partitions: []api.FoldedPartition{gone}},
	} {
		if got := draw(r); !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
}
