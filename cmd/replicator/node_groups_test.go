package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/offsets"
)

// groupCluster is a cluster of one topic, orders, in which groups may come to life.
type groupCluster struct {
	offsets.Cluster
	id      ledger.TopicID
	end     int64
	groups  map[string]offsets.Group
	commits map[string]map[flow.TopicPartition]offsets.Commit
	refuses map[string]error // commits of these groups
}

func (c *groupCluster) Groups(context.Context) (map[string]offsets.Group, error) {
	return c.groups, nil
}

func (c *groupCluster) Commits(context.Context, []offsets.Group) (map[string]map[flow.TopicPartition]offsets.Commit, error) {
	return c.commits, nil
}

func (c *groupCluster) Dealt(context.Context, []offsets.Group) (map[string]map[flow.TopicPartition]int64, error) {
	return nil, nil
}

func (c *groupCluster) Commit(_ context.Context, group offsets.Group, at map[flow.TopicPartition]offsets.Commit) error {
	if err := c.refuses[group.Name]; err != nil {
		return err
	}
	c.commits[group.Name] = maps.Clone(at)
	return nil
}

func (c *groupCluster) Topics(context.Context, []string) (map[string]ledger.TopicID, error) {
	return map[string]ledger.TopicID{"orders": c.id}, nil
}

func (c *groupCluster) Stable(context.Context, []string) (map[flow.TopicPartition]int64, error) {
	return map[flow.TopicPartition]int64{{Topic: "orders"}: c.end}, nil
}

func (c *groupCluster) Starts(context.Context, []string) (map[flow.TopicPartition]int64, error) {
	return map[flow.TopicPartition]int64{{Topic: "orders"}: 0}, nil
}

func (c *groupCluster) Ends(ctx context.Context, topics []string) (map[flow.TopicPartition]int64, error) {
	return c.Stable(ctx, topics)
}

// readLedger is a ledger of which everything was read.
type readLedger struct{}

func (readLedger) CatchUp(context.Context) error { return nil }
func (readLedger) Exists() bool                  { return true }

// twoGroups is the syncer of a flow that has copied ten records, which groups a and b
// have read, its source and its destination.
func twoGroups() (s *offsets.Syncer, src, dst *groupCluster) {
	id := ledger.CopyID{
		Source:      ledger.End{Cluster: "src", TopicID: ledger.TopicID{1}},
		Destination: ledger.End{Cluster: "dst", TopicID: ledger.TopicID{2}},
	}
	ms := offsets.NewMaps()
	ms.Attach("dst", readLedger{})
	ms.Apply(tail.Position{Cluster: "dst"}, &ledger.Page{Entries: []ledger.Entry{
		&ledger.Begin{Copy: id, Epoch: 1, Flow: "f", Lane: "lane"},
		&ledger.Hop{Copy: id.Key(), Epoch: 1, Next: 10, Runs: []ledger.Run{{Count: 10, Path: ledger.Raw}}},
	}})
	at := func() map[flow.TopicPartition]offsets.Commit {
		return map[flow.TopicPartition]offsets.Commit{{Topic: "orders"}: {Offset: 4}}
	}
	src = &groupCluster{id: id.Source.TopicID, end: 10, groups: map[string]offsets.Group{"a": {Name: "a", State: "Empty"}, "b": {Name: "b", State: "Empty"}}, commits: map[string]map[flow.TopicPartition]offsets.Commit{"a": at(), "b": at()}}
	dst = &groupCluster{id: id.Destination.TopicID, end: 11, groups: map[string]offsets.Group{}, commits: map[string]map[flow.TopicPartition]offsets.Commit{}, refuses: map[string]error{}}
	all := func(string) bool { return true }
	return offsets.NewSyncer(offsets.SyncConfig{
		Flow: "f", SourceID: "src", DestinationID: "dst", Source: src, Destination: dst, Groups: all, Topics: all,
		Rename: func(t string) string { return t }, Maps: ms, Moved: neverMoved{}, Log: slog.New(slog.DiscardHandler),
	}), src, dst
}

// TestPagesOfGroups: each has the next groups by name, and only those are looked at.
func TestPagesOfGroups(t *testing.T) {
	for _, c := range []struct {
		page    api.GroupPage
		want    []string
		next    string
		unknown string
	}{
		{api.GroupPage{}, []string{"a", "b"}, "", ""},
		{api.GroupPage{Limit: 2}, []string{"a", "b"}, "", ""},
		{api.GroupPage{Limit: 1}, []string{"a"}, "a", ""},
		{api.GroupPage{Limit: 1, Cursor: "a"}, []string{"b"}, "", ""},
		{api.GroupPage{Limit: 1, Cursor: "b"}, nil, "", ""},
		{api.GroupPage{Names: []string{"b"}}, []string{"b"}, "", ""},
		{api.GroupPage{Names: []string{"gone", "idle"}}, []string{"idle", "gone"}, "", ""},
		{api.GroupPage{Names: []string{"b", "nobody"}}, nil, "", "nobody"},
		{api.GroupPage{Names: []string{"nobody"}}, nil, "", "nobody"},
	} {
		s, src, _ := twoGroups()
		if len(c.page.Names) > 0 {
			src.groups["idle"] = offsets.Group{Name: "idle", State: "Empty"} // has read nothing of the flow
		}
		rows, next, err := pageOfGroups(t.Context(), s, "f", onlyMoved("gone"), c.page)
		var got []string
		for _, r := range rows {
			got = append(got, r.Group)
		}
		if c.unknown != "" {
			checkUnknown(t, err, c.unknown)
		} else if err != nil || !slices.Equal(got, c.want) || next != c.next {
			t.Errorf("%+v: got %v and %q, %v", c.page, got, next, err)
		}
	}
}

// checkUnknown wants a group not to be found, by its name.
func checkUnknown(t *testing.T, err error, group string) {
	t.Helper()
	p, ok := errors.AsType[*api.Error](err)
	if !ok || p.Status != http.StatusNotFound || !strings.Contains(p.Detail, "group "+group) || p.Hint == "" {
		t.Errorf("group %s: got %v", group, err)
	}
}

// onlyMoved is the one group that has moved.
type onlyMoved string

func (m onlyMoved) IsMoved(_, group string) bool                     { return group == string(m) }
func (onlyMoved) Mark(context.Context, string, string, string) error { return nil }

// TestAMoveOfAGroupThatNobodyKnows is refused; of one that is known and reads nothing of the
// flow, a dry run says so.
func TestAMoveOfAGroupThatNobodyKnows(t *testing.T) {
	s, src, _ := twoGroups()
	src.groups["idle"] = offsets.Group{Name: "idle", State: "Empty"}
	f := &flow.ReplicationFlow{Metadata: flow.Metadata{Name: "f"}, Spec: flow.FlowSpec{Source: "us", Destination: "eu"}}
	for _, known := range [][]string{nil, {"a"}, {"a", "gone", "idle"}} {
		if err := knownGroups(t.Context(), src, f, onlyMoved("gone"), known); err != nil {
			t.Errorf("%v: got %v", known, err)
		}
	}
	checkUnknown(t, knownGroups(t.Context(), src, f, onlyMoved("gone"), []string{"a", "nobody"}), "nobody")
	rows, err := planSides(t.Context(), s, []string{"a", "idle"}, offsets.Terms{Unmarked: true})
	plans := offsets.PlanGroups(rows)
	if err != nil || len(plans) != 2 || plans[0].Verdict != offsets.Ready || plans[1].Verdict != offsets.Blocked || !strings.Contains(fmt.Sprint(plans[1].Why), "no position") {
		t.Errorf("got %+v, %v", plans, err)
	}
}

// TestEachMoveAsksWhoIsKnown, with the fleet behind it.
func TestEachMoveAsksWhoIsKnown(t *testing.T) {
	us, eu := startBroker(t), startBroker(t)
	d := newDirectory("test", slog.New(slog.DiscardHandler))
	defer d.reconcile(nil)
	d.reconcile([]*flow.Cluster{declaredCluster("us", us), declaredCluster("eu", eu)})
	for name, e := range d.entries {
		e.id = "id-" + name
	}
	g := &groups{fleet: declaring{state: declaredState(t, "us-eu us eu")}, directory: d, maps: offsets.NewMaps(), log: slog.New(slog.DiscardHandler)}
	for _, req := range []api.GroupMove{{DryRun: true}, {}, {Return: true, DryRun: true}, {Return: true}} {
		req.Groups = []string{"nobody"}
		_, err := g.Move(t.Context(), "us-eu", req, api.Person{Name: "ops"})
		checkUnknown(t, err, "nobody")
	}
	_, _, err := g.Rows(t.Context(), "us-eu", api.GroupPage{Names: []string{"nobody"}})
	checkUnknown(t, err, "nobody")
}

type neverMoved struct{}

func (neverMoved) IsMoved(_, _ string) bool                           { return false }
func (neverMoved) Mark(context.Context, string, string, string) error { return nil }

// TestAMoveThatEndsHalfwaySaysWhoMoved: that a group came to life is no trouble of the
// service, and who has moved must not be left to guesses.
func TestAMoveThatEndsHalfwaySaysWhoMoved(t *testing.T) {
	for _, c := range []struct {
		refusal error
		status  int
	}{
		{fmt.Errorf("commit offsets: %w", offsets.ErrActive), http.StatusConflict},
		{errors.New("connection refused"), http.StatusServiceUnavailable},
	} {
		s, _, dst := twoGroups()
		dst.refuses["b"] = c.refusal
		_, done, err := changeSides(t.Context(), s, []string{"a", "b"}, offsets.Terms{Unmarked: true})
		p, ok := errors.AsType[*api.Error](err)
		if !ok || p.Status != c.status || !slices.Equal(done, []string{"a"}) {
			t.Fatalf("%v: got %v, done %v, want %d", c.refusal, err, done, c.status)
		}
		if !strings.Contains(p.Detail, "changed sides: a; did not: b") || len(p.Errors) != 2 || p.Errors[1].Location != "group b" {
			t.Errorf("%v: got %+v", c.refusal, p)
		}
	}
	s, _, _ := twoGroups()
	if rows, done, err := changeSides(t.Context(), s, []string{"a", "b"}, offsets.Terms{Unmarked: true}); err != nil || len(done) != 2 || len(rows) != 2 {
		t.Errorf("got %v, done %v, %v", rows, done, err)
	}
}
