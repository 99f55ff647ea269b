package offsets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// memoryCluster is a Cluster of one topic, orders.
type memoryCluster struct {
	mu      sync.Mutex // of Commits and Commit
	id      ledger.TopicID
	groups  map[string]string
	commits map[string]map[flow.TopicPartition]Commit
	end     int64
	down    atomic.Bool
	writes  int
	start   int64
	endless bool                          // the log end has no answer
	unbegun bool                          // nor has the log start
	joins   bool                          // a group has members by the time that somebody commits for it
	reads   int                           // of commits
	onRead  func(c *memoryCluster, n int) // before the n-th
	shares  map[string]bool               // groups that are share groups
	without bool                          // share groups whose start can be set
	dealt   int64                         // by share groups; -1 is not told
	unread  GroupErrors                   // whose commits cannot be had
	refused map[string]bool               // groups for which nobody may commit
}

var errDenied = errors.New("not authorized")

var orders = flow.TopicPartition{Topic: "orders"}

func (c *memoryCluster) Groups(context.Context) (map[string]Group, error) {
	if c.down.Load() {
		return nil, errors.New("not reachable")
	}
	groups := map[string]Group{}
	for name, state := range c.groups {
		groups[name] = Group{name, state, c.shares[name]}
	}
	return groups, nil
}

func (c *memoryCluster) Shares(context.Context) (bool, bool, error) { return true, !c.without, nil }

func (c *memoryCluster) Dealt(_ context.Context, groups []Group) (map[string]map[flow.TopicPartition]int64, error) {
	all := map[string]map[flow.TopicPartition]int64{}
	for _, g := range groups {
		if c.dealt >= 0 {
			all[g.Name] = map[flow.TopicPartition]int64{orders: c.dealt}
		}
	}
	return all, nil
}

func (c *memoryCluster) Commits(_ context.Context, groups []Group) (map[string]map[flow.TopicPartition]Commit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reads++; c.onRead != nil {
		c.onRead(c, c.reads)
	}
	all, failed := map[string]map[flow.TopicPartition]Commit{}, GroupErrors{}
	for _, g := range groups {
		if err := c.unread[g.Name]; err != nil {
			failed[g.Name] = err
			continue
		}
		all[g.Name] = maps.Clone(c.commits[g.Name])
	}
	return all, failed.err()
}

func (c *memoryCluster) Commit(_ context.Context, group Group, at map[flow.TopicPartition]Commit) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	if c.refused[group.Name] {
		return errDenied
	}
	if !idle(c.groups[group.Name]) || c.joins {
		return fmt.Errorf("commit: %w", ErrActive)
	}
	if _, ok := c.groups[group.Name]; !ok { // as Kafka does
		c.groups[group.Name] = "Empty"
		if group.Share {
			c.shares[group.Name] = true
		}
	}
	if c.commits[group.Name] == nil {
		c.commits[group.Name] = map[flow.TopicPartition]Commit{}
	}
	maps.Copy(c.commits[group.Name], at)
	return nil
}

func (c *memoryCluster) Topics(_ context.Context, names []string) (map[string]ledger.TopicID, error) {
	if !slices.Contains(names, "orders") || c.id == (ledger.TopicID{}) {
		return nil, nil
	}
	return map[string]ledger.TopicID{"orders": c.id}, nil
}

func (c *memoryCluster) Stable(context.Context, []string) (map[flow.TopicPartition]int64, error) {
	return map[flow.TopicPartition]int64{orders: c.end}, nil
}

func (c *memoryCluster) Starts(context.Context, []string) (map[flow.TopicPartition]int64, error) {
	if c.unbegun {
		return nil, nil
	}
	return map[flow.TopicPartition]int64{orders: c.start}, nil
}

func (c *memoryCluster) Ends(ctx context.Context, ts []string) (map[flow.TopicPartition]int64, error) {
	if c.endless {
		return nil, nil
	}
	return c.Stable(ctx, ts)
}

type movedGroups map[string]string

func (m movedGroups) IsMoved(f, g string) bool { return m[f+"/"+g] != "" }

func (m movedGroups) Mark(_ context.Context, f, g, why string) error {
	m[f+"/"+g] = why
	return nil
}

// newSync is a flow whose copy has brought source offsets 0..9 to 100..109.
func newSync(at Commit) (*Syncer, *memoryCluster, *memoryCluster, movedGroups) {
	ms := NewMaps()
	ms.Attach("dst", caughtUp{})
	feed(ms, 0, begin(1, 0), hop(1, 0, 10, 100))
	src := &memoryCluster{
		id: testCopy.Source.TopicID, groups: map[string]string{"app": "Empty"}, end: 10,
		commits: map[string]map[flow.TopicPartition]Commit{"app": {orders: at, {Topic: "other"}: {Offset: 5}}},
	}
	dst := &memoryCluster{id: testCopy.Destination.TopicID, groups: map[string]string{}, end: 111, commits: map[string]map[flow.TopicPartition]Commit{}}
	moved := movedGroups{}
	return NewSyncer(SyncConfig{
		Flow: "f", SourceID: "src", DestinationID: "dst", Source: src, Destination: dst,
		Groups: func(g string) bool { return g == "app" }, Topics: func(t string) bool { return t == "orders" },
		Rename: func(t string) string { return t }, Maps: ms, Moved: moved, Log: slog.New(slog.DiscardHandler),
	}), src, dst, moved
}

// KAFKA-17232: after a listing that failed it ran on without work, and said nothing.
func TestALedgerThatCannotBeReadFailsARound(t *testing.T) {
	for _, cluster := range []string{"src", "dst"} {
		synctest.Test(t, func(t *testing.T) {
			s, _, _, _ := newSync(Commit{Offset: 4})
			denied := errors.New("not authorized")
			s.cfg.Maps.Attach(cluster, caughtUp{unreadable: denied})
			began := time.Now()
			if _, err := s.Plan(t.Context()); !errors.Is(err, denied) || time.Since(began) != ledgerPatience {
				t.Errorf("%s: %v after %s, want %v after %s", cluster, err, time.Since(began), denied, ledgerPatience)
			}
		})
	}
}

// What becomes of a group in one partition, case by case.
func TestRound(t *testing.T) {
	ours := func(o int64) map[flow.TopicPartition]Commit {
		return map[flow.TopicPartition]Commit{orders: {o, "waybill:f"}}
	}
	cases := []struct {
		name   string
		source int64
		set    func(src, dst *memoryCluster, moved movedGroups)
		action Action
		why    string // contained
		want   Commit // at the destination afterwards
		moved  bool
	}{
		{"first time", 4, func(_, _ *memoryCluster, _ movedGroups) {}, Write, "", Commit{104, "waybill:f"}, false},
		{"at the first offset", 0, func(_, _ *memoryCluster, _ movedGroups) {}, Write, "", Commit{100, "waybill:f"}, false},
		{"goes on", 6, func(_, d *memoryCluster, _ movedGroups) { d.commits["app"] = ours(104) }, Write, "", Commit{106, "waybill:f"}, false},
		{"stands there", 4, func(_, d *memoryCluster, _ movedGroups) { d.commits["app"] = ours(104) }, Keep, "", Commit{104, "waybill:f"}, false},
		{"at the end", 10, func(_, _ *memoryCluster, _ movedGroups) {}, Write, "", Commit{111, "waybill:f"}, false},
		{"never backwards", 4, func(_, d *memoryCluster, _ movedGroups) { d.commits["app"] = ours(108) }, Keep, "went back", Commit{108, "waybill:f"}, false},
		{"ahead of the copy", 11, func(s, _ *memoryCluster, _ movedGroups) { s.end = 12 }, Wait, "copied up to offset 10", Commit{}, false},
		{"the log end is not known", 8, func(_, d *memoryCluster, _ movedGroups) { d.endless = true }, Wait, "is not known now", Commit{}, false},
		{"the log start is not known", 8, func(_, d *memoryCluster, _ movedGroups) { d.unbegun = true }, Wait, "is not known now", Commit{}, false},
		{"never past the end", 8, func(_, d *memoryCluster, _ movedGroups) { d.end = 107 }, Wait, "the log ends at 107", Commit{}, false},
		{"active there", 4, func(_, d *memoryCluster, _ movedGroups) { d.groups["app"] = "Stable" }, Wait, "active at the destination", Commit{}, false},
		{"committed itself", 4, func(_, d *memoryCluster, _ movedGroups) {
			d.commits["app"] = map[flow.TopicPartition]Commit{orders: {102, ""}}
		}, Leave, "has moved", Commit{102, ""}, true},
		{"committed another partition itself", 4, func(_, d *memoryCluster, _ movedGroups) {
			d.commits["app"] = map[flow.TopicPartition]Commit{orders: {102, "waybill:f"}, {Topic: "orders", Partition: 1}: {7, "x"}}
		}, Leave, "has moved", Commit{102, "waybill:f"}, true},
		{"moved before", 4, func(_, d *memoryCluster, m movedGroups) { d.commits["app"], m["f/app"] = ours(102), "x" }, Leave, "has moved", Commit{102, "waybill:f"}, true},
		{"another flow's", 4, func(_, d *memoryCluster, _ movedGroups) {
			d.commits["app"] = map[flow.TopicPartition]Commit{orders: {102, "waybill:g"}}
		}, Leave, "flow g writes", Commit{102, "waybill:g"}, false},
		{"committed itself after we looked", 4, func(_, d *memoryCluster, _ movedGroups) {
			d.onRead = func(c *memoryCluster, n int) {
				if n == 2 { // just before the write
					c.commits["app"] = map[flow.TopicPartition]Commit{orders: {109, ""}}
				}
			}
		}, Wait, "has changed meanwhile", Commit{109, ""}, false},
		{"joined after we looked", 4, func(_, d *memoryCluster, _ movedGroups) { d.joins = true }, Wait, "became active", Commit{}, false},
		{"KIP-848 states", 4, func(_, d *memoryCluster, _ movedGroups) { d.groups["app"] = "Reconciling" }, Wait, "Reconciling", Commit{}, false},
		{"below the source's log start", 4, func(s, _ *memoryCluster, _ movedGroups) { s.start = 7 }, Write, "", Commit{104, "waybill:f"}, false},
		{"below the destination's log start", 4, func(_, d *memoryCluster, _ movedGroups) { d.start = 107 }, Write, "not exact", Commit{107, "waybill:f"}, false},
		{"recreated at the source", 4, func(s, _ *memoryCluster, _ movedGroups) { s.id[3]++ }, Leave, "no copy connects", Commit{}, false},
		{"absent at the destination", 4, func(_, d *memoryCluster, _ movedGroups) { d.id = ledger.TopicID{} }, Leave, "does not exist", Commit{}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, src, dst, moved := newSync(Commit{Offset: c.source})
			c.set(src, dst, moved)
			rows, err := s.Round(t.Context())
			if err != nil || len(rows) != 1 {
				t.Fatalf("got %+v %v", rows, err)
			}
			row := rows[0]
			if row.Action != c.action || !strings.Contains(row.Why, c.why) || row.Written != (c.action == Write) {
				t.Errorf("got %+v, want %s %q", row, c.action, c.why)
			}
			if got := dst.commits["app"][orders]; got != c.want {
				t.Errorf("got %+v at the destination, want %+v", got, c.want)
			}
			if moved.IsMoved("f", "app") != c.moved {
				t.Errorf("got moved %v, want %v", moved, c.moved)
			}
		})
	}
}

// redpanda-data/connect 3503: a restart rewound groups that had moved.
func TestOnePartitionMovesTheGroup(t *testing.T) {
	s, src, dst, _ := newSync(Commit{Offset: 4})
	second := flow.TopicPartition{Topic: "orders", Partition: 1}
	src.commits["app"][second] = Commit{Offset: 1}
	dst.commits["app"] = map[flow.TopicPartition]Commit{second: {5, "own"}}
	rows, err := s.Round(t.Context())
	if err != nil || len(rows) != 2 {
		t.Fatalf("got %+v %v", rows, err)
	}
	if dst.writes != 0 || rows[0].Action != Leave || rows[1].Action != Leave {
		t.Errorf("got %d writes, %+v", dst.writes, rows)
	}
}

// TestRowsSayWhy: of each row a sentence about its offset.
func TestRowsSayWhy(t *testing.T) {
	for source, want := range map[int64]string{
		4:  "the record at offset 4 is at offset 104 there: the source's log begins at 5 by now",
		7:  "the record at offset 7 is at offset 107 there",
		10: "everything below offset 10 was read; offset 111 is behind the last copy",
		12: "ahead: copied up to offset 10",
	} {
		s, src, _, _ := newSync(Commit{Offset: source})
		src.start = 5
		rows, err := s.Plan(t.Context())
		if err != nil || len(rows) != 1 || rows[0].Because != want {
			t.Errorf("got %+v %v, want %q", rows, err, want)
		}
	}
}

// newSeveral is [newSync] where flow g brings records of another cluster, north, into the same
// topic as flow f, and the group reads both sources. Of f 0..9 are at 100..109, 10..19 at
// 120..129; of g 0..9 at 90..99.
func newSeveral() (*Syncer, *memoryCluster, *memoryCluster) {
	other := ledger.CopyID{Source: ledger.End{Cluster: "north", TopicID: ledger.TopicID{9}}, Destination: testCopy.Destination}
	s, _, dst, _ := newSync(Commit{Offset: 5})
	b := &ledger.Begin{Copy: other, Epoch: 1, Flow: "g", SourceCluster: "north", SourceTopic: "orders", DestinationTopic: "orders", Lane: "lane"}
	feed(s.cfg.Maps, 2, b, &ledger.Hop{Copy: other.Key(), Epoch: 1, Next: 10, Runs: []ledger.Run{{Count: 10, Destination: 90, Path: ledger.Raw}}},
		hop(1, 10, 10, 120))
	north := &memoryCluster{id: other.Source.TopicID, commits: map[string]map[flow.TopicPartition]Commit{"app": {orders: {Offset: 2}}}}
	s.cfg.Peers = func(id string) Cluster {
		if id != "north" {
			return nil
		}
		return north
	}
	dst.end = 131
	return s, north, dst
}

func TestSeveralSources(t *testing.T) {
	for _, c := range []struct {
		name          string
		source, north int64 // -1: nothing committed there
		offset        int64
		reread        int64
		exact         bool
		why           Why
	}{
		{"both in the midst", 5, 2, 92, 5, false, Interleaved},
		{"the other is at its end", 5, 10, 105, 0, true, Copied},
		{"both at their ends", 20, 10, 130, 0, true, AtEnd},
		{"this one is at its end", 20, 9, 99, 20, false, Interleaved},
		{"nothing read", 0, 0, 90, 0, true, Copied},
		{"the other is ahead of its copy", 5, 11, -1, 0, false, Ahead},
		{"it does not read the other", 5, -1, 105, 0, true, Copied},
	} {
		s, north, dst := newSeveral()
		s.cfg.Source.(*memoryCluster).commits["app"][orders] = Commit{Offset: c.source}
		if c.north < 0 {
			north.commits = nil
		} else {
			north.commits["app"][orders] = Commit{Offset: c.north}
		}
		dst.commits["app"] = map[flow.TopicPartition]Commit{orders: {90, "waybill:g"}} // the other flow's, which reckons alike
		rows, err := s.Round(t.Context())
		if err != nil || len(rows) != 1 {
			t.Fatalf("%s: got %+v %v", c.name, rows, err)
		}
		r := rows[0].Result
		if r.Offset != c.offset || r.Reread != c.reread || r.Exact != c.exact || r.Why != c.why {
			t.Errorf("%s: got %+v", c.name, r)
		}
		if action := rows[0].Action; c.north >= 0 && c.offset > 90 && action != Write || c.north < 0 && action != Leave {
			t.Errorf("%s: got %+v", c.name, rows[0])
		}
	}
	s, north, _ := newSeveral()
	north.id[0]++ // its position is one in another life of the topic
	if rows, err := s.Plan(t.Context()); err != nil || rows[0].Result.Offset != 105 {
		t.Errorf("another life: got %+v %v", rows, err)
	}
	s.cfg.Peers = func(string) Cluster { return failing{north} }
	if rows, err := s.Plan(t.Context()); err != nil || rows[0].Action != Wait || !strings.Contains(rows[0].Why, "stands in north, from where flow g") {
		t.Errorf("a position that cannot be had: got %+v %v", rows, err)
	}
}

// failing is a cluster whose commits cannot be read.
type failing struct{ *memoryCluster }

func (failing) Commits(context.Context, []Group) (map[string]map[flow.TopicPartition]Commit, error) {
	return nil, errors.New("not reachable")
}

func TestApplyExact(t *testing.T) {
	cases := []struct {
		name      string
		source    int64
		set       func(src, dst *memoryCluster)
		overwrite bool
		err       string
		want      Commit
	}{
		{"idle group", 4, func(_, _ *memoryCluster) {}, false, "", Commit{104, "waybill:f"}},
		{"a source that went back is followed", 4, func(_, d *memoryCluster) {
			d.commits["app"] = map[flow.TopicPartition]Commit{orders: {108, "waybill:f"}}
		}, false, "", Commit{104, "waybill:f"}},
		{"active at the source, everything read", 10, func(s, _ *memoryCluster) { s.groups["app"] = "Stable" }, false, "", Commit{111, "waybill:f"}},
		{"active at the source", 4, func(s, _ *memoryCluster) { s.groups["app"] = "Stable" }, false, "has 6 records to read", Commit{}},
		{"ahead of the copy", 11, func(s, _ *memoryCluster) { s.end = 11 }, false, "copied up to offset 10", Commit{}},
		{"moved", 4, func(_, d *memoryCluster) {
			d.commits["app"] = map[flow.TopicPartition]Commit{orders: {102, ""}}
		}, false, "has moved", Commit{102, ""}},
		{"coming home", 4, func(_, d *memoryCluster) {
			d.commits["app"] = map[flow.TopicPartition]Commit{orders: {102, ""}}
		}, true, "", Commit{104, "waybill:f"}},
		{"coming home to where it stood", 4, func(_, d *memoryCluster) {
			d.commits["app"] = map[flow.TopicPartition]Commit{orders: {104, ""}}
		}, true, "", Commit{104, "waybill:f"}},
		{"no position", 4, func(s, _ *memoryCluster) { delete(s.commits["app"], orders) }, false, "no position in the flow's topics", Commit{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, src, dst, moved := newSync(Commit{Offset: c.source})
			c.set(src, dst)
			for range 2 { // it may be repeated
				rows, err := s.Apply(t.Context(), []string{"app"}, Terms{Overwrite: c.overwrite})
				if c.err == "" && (err != nil || len(rows) != 1 || !rows[0].Written) {
					t.Fatalf("got %+v %v", rows, err)
				}
				if c.err != "" && (!errors.Is(err, ErrNotExact) || !strings.Contains(err.Error(), c.err)) {
					t.Fatalf("got %v, want %q", err, c.err)
				}
			}
			if got := dst.commits["app"][orders]; got != c.want {
				t.Errorf("got %+v at the destination, want %+v", got, c.want)
			}
			if c.overwrite && len(moved) > 0 {
				t.Errorf("a group that comes home was marked as moved: %v", moved)
			}
		})
	}
}

// KAFKA-17232: a first listing that fails left a connector running that did nothing.
func TestRunReportsAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src, dst, _ := newSync(Commit{Offset: 4})
		src.down.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		if r := s.Report(); !strings.Contains(r.Err, "not reachable") {
			t.Errorf("got %+v", r)
		}
		src.down.Store(false)
		<-time.After(1100 * time.Millisecond) // of the bubble's time: the next round is due
		synctest.Wait()
		if r := s.Report(); r.Err != "" || len(r.Rows) != 1 || dst.commits["app"][orders].Offset != 104 {
			t.Errorf("got %+v", r)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPlanGroups(t *testing.T) {
	row := func(group string, n int32, action Action, r Result) Row {
		return Row{Group: group, Source: flow.TopicPartition{Topic: "t", Partition: n}, Action: action, Result: r}
	}
	exact := Result{Offset: 5, Exact: true, Why: Copied}
	got := PlanGroups([]Row{
		row("ready", 0, Write, exact), row("ready", 1, Keep, exact),
		row("behind", 0, Write, exact), row("behind", 1, Wait, Result{Offset: -1, Why: Ahead, Note: "copied up to offset 3"}),
		row("mixed", 0, Write, Result{Offset: 5, Reread: 7, Why: Interleaved}), row("mixed", 1, Write, Result{Offset: 5, Skipped: 2, Why: InGap}),
		row("gone", 0, Leave, exact), row("lost", 0, Wait, Result{Offset: -1, Why: Unknown, Note: "page 7 is missing"}),
		row("busy", 0, Wait, exact),
		{Group: "moved", Source: flow.TopicPartition{Topic: "t"}, Action: Leave, Moved: true, Result: Result{Offset: 4, Exact: true}},
	})
	want := []GroupPlan{
		{Group: "behind", Partitions: 2, Exact: 1, Pending: 1, Verdict: Pending, Why: []string{"t/1: ahead: copied up to offset 3"}},
		{Group: "busy", Partitions: 1, Exact: 1, Verdict: Pending, Why: []string{"t/0: copied"}},
		{Group: "gone", Partitions: 1, Exact: 1, Verdict: Blocked, Why: []string{"t/0: copied"}},
		{Group: "lost", Partitions: 1, Verdict: Blocked, Why: []string{"t/0: unknown: page 7 is missing"}},
		{Group: "mixed", Partitions: 2, Reread: 7, Skipped: 2, Verdict: NotExact, Why: []string{"t/0: interleaved", "t/1: in-gap"}},
		{Group: "moved", Partitions: 1, Exact: 1, Verdict: HasMoved},
		{Group: "ready", Partitions: 2, Exact: 2, Verdict: Ready},
	}
	if len(got) != len(want) {
		t.Fatalf("got %d plans, want %d", len(got), len(want))
	}
	for i := range want {
		if g, w := got[i], want[i]; g.Group != w.Group || g.Verdict != w.Verdict || g.Partitions != w.Partitions || g.Exact != w.Exact ||
			g.Reread != w.Reread || g.Skipped != w.Skipped || g.Pending != w.Pending || !slices.Equal(g.Why, w.Why) {
			t.Errorf("got  %+v\nwant %+v", g, w)
		}
	}
}
