package offsets

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

func TestMoveCarriesMetadata(t *testing.T) {
	for _, c := range []struct {
		metadata string
		drop     bool
		want     string
	}{{"AgAAAYrX", false, "AgAAAYrX"}, {"AgAAAYrX", true, ""}, {"", false, ""}, {"waybill:back", false, ""}} {
		s, _, dst, _ := newSync(Commit{4, c.metadata})
		for range 2 { // it may be repeated
			rows, err := s.Apply(t.Context(), []string{"app"}, Terms{Unmarked: true, DropMetadata: c.drop})
			if err != nil && !strings.Contains(err.Error(), "has moved") || err == nil && !rows[0].Written {
				t.Fatalf("%q: got %+v %v", c.metadata, rows, err)
			}
		}
		if got, want := dst.commits["app"][orders], (Commit{104, c.want}); got != want {
			t.Errorf("%q: got %+v, want %+v", c.metadata, got, want)
		}
	}
}

func TestInexactMovesNeedAWord(t *testing.T) {
	s, _, dst, _ := newSync(Commit{Offset: 4})
	dst.start = 107 // the copies of 4, 5 and 6 have expired
	if rows, err := s.Apply(t.Context(), []string{"app"}, Terms{}); !errors.Is(err, ErrNotExact) || dst.writes != 0 || len(rows) != 1 {
		t.Errorf("got %+v %v after %d writes", rows, err, dst.writes)
	}
	if rows, err := s.PlanApply(t.Context(), []string{"app"}, Terms{Inexact: true}); err != nil || rows[0].Action != Write || dst.writes != 0 {
		t.Errorf("plan: got %+v %v after %d writes", rows, err, dst.writes)
	}
	if rows, err := s.Apply(t.Context(), []string{"app"}, Terms{Inexact: true}); err != nil || !rows[0].Written || dst.commits["app"][orders].Offset != 107 {
		t.Errorf("got %+v %v", rows, err)
	}
}

func TestAllOrNone(t *testing.T) {
	s, src, dst, _ := newSync(Commit{Offset: 4})
	src.groups["late"] = "Empty"
	src.commits["late"] = map[flow.TopicPartition]Commit{orders: {Offset: 12}} // ahead of the copy
	if _, err := s.Apply(t.Context(), []string{"app", "late"}, Terms{Inexact: true}); !errors.Is(err, ErrNotExact) || dst.writes != 0 {
		t.Errorf("got %v after %d writes", err, dst.writes)
	}
	if _, err := s.Apply(t.Context(), []string{"app", "nobody"}, Terms{}); !errors.Is(err, ErrNotExact) || dst.writes != 0 {
		t.Errorf("a group that is not there: got %v after %d writes", err, dst.writes)
	}
}

// TestReturn brings a group home that has read on at the destination, where others
// have written too.
func TestReturn(t *testing.T) {
	for _, c := range []struct {
		name    string
		stands  int64 // at the destination
		end     int64
		back    []ledger.Entry // of the flow back
		want    int64
		skipped int64
		reread  int64
		refused string
	}{
		{"in the midst", 104, 111, nil, 4, 0, 0, ""},
		{"at the end", 111, 111, nil, 10, 0, 0, ""},
		{"what was born there is not here", 104, 113, nil, 4, 2, 0, "nothing copies them back"},
		{"and was read", 113, 113, nil, 10, 0, 0, ""},
		{"a flow back has it", 104, 113, []ledger.Entry{
			backBegin(), backHop(&ledger.Hop{
				Next: 113, Runs: []ledger.Run{{Source: 111, Count: 2, Destination: 10, Path: ledger.Raw}},
				Gaps: []ledger.Gap{{Source: 0, Count: 111, Reason: ledger.Returned}},
			}),
		}, 4, 0, 0, ""},
		{"all of that was read", 113, 113, []ledger.Entry{
			backBegin(), backHop(&ledger.Hop{
				Next: 113, Runs: []ledger.Run{{Source: 111, Count: 2, Destination: 10, Path: ledger.Raw}},
				Gaps: []ledger.Gap{{Source: 0, Count: 111, Reason: ledger.Returned}},
			}),
		}, 12, 0, 0, ""},
	} {
		s, src, dst, moved := newSync(Commit{Offset: 4})
		moved["f/app"] = "x"
		ms := s.cfg.Maps
		for i, e := range c.back {
			feedTo(ms, "src", int64(i), e)
		}
		ms.Attach("src", caughtUp{})
		if c.back != nil {
			feed(ms, 2, hop(1, 10, 2, -int64(ledger.Returned)))
		}
		src.end, dst.end = 12, c.end
		dst.groups["app"], dst.commits["app"] = "Empty", map[flow.TopicPartition]Commit{orders: {c.stands, "own"}}
		home := s.cfg
		home.Source, home.Destination, home.SourceID, home.DestinationID = dst, src, "dst", "src"
		home.Log = slog.New(slog.DiscardHandler)
		h := NewSyncer(home)
		terms := Terms{Overwrite: true, Unmarked: true}
		if c.refused != "" {
			rows, err := h.Apply(t.Context(), []string{"app"}, terms)
			if !errors.Is(err, ErrNotExact) || !strings.Contains(err.Error(), c.refused) || rows[0].Result.Skipped != c.skipped {
				t.Errorf("%s: got %+v %v, want %q", c.name, rows, err, c.refused)
			}
			terms.Inexact = true
		}
		for range 2 { // it may be repeated
			rows, err := h.Apply(t.Context(), []string{"app"}, terms)
			if err != nil || rows[0].Result.Skipped != c.skipped || rows[0].Result.Reread != c.reread {
				t.Fatalf("%s: got %+v %v", c.name, rows, err)
			}
			if err := h.Adopt(t.Context(), "app", "f", rows); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := src.commits["app"][orders], (Commit{c.want, "own"}); got != want {
			t.Errorf("%s: got %+v at the source, want %+v", c.name, got, want)
		}
		if got := dst.commits["app"][orders]; got != (Commit{c.stands, "waybill:f"}) {
			t.Errorf("%s: got %+v at the destination", c.name, got)
		}
		// The flow follows the group again.
		delete(moved, "f/app")
		src.commits["app"][orders] = Commit{Offset: 10}
		if rows, err := s.Round(t.Context()); err != nil || rows[0].Action == Leave || len(moved) > 0 {
			t.Errorf("%s: afterwards got %+v %v, moved %v", c.name, rows, err, moved)
		}
	}
}

func backBegin() *ledger.Begin {
	return &ledger.Begin{Copy: ledger.CopyID{Source: testCopy.Destination, Destination: testCopy.Source}, Epoch: 1, Flow: "back", Lane: "lane"}
}

func backHop(h *ledger.Hop) *ledger.Hop {
	h.Copy, h.Epoch = backBegin().Copy.Key(), 1
	return h
}

// TestAdoptNeedsWhatWasReturned: a group that read on at the destination after it was
// translated back keeps what it committed there.
func TestAdoptNeedsWhatWasReturned(t *testing.T) {
	other := flow.TopicPartition{Topic: "orders", Partition: 1}
	for name, commits := range map[string]map[flow.TopicPartition]Commit{
		"further":           {orders: {107, "own"}},
		"another partition": {orders: {104, "own"}, other: {3, "own"}},
	} {
		s, src, _, _ := newSync(Commit{Offset: 104})
		src.commits["app"] = maps.Clone(commits)
		err := s.Adopt(t.Context(), "app", "f", []Row{{Group: "app", Source: orders, SourceOffset: 104}, {Group: "web", Source: other, SourceOffset: 3}})
		if !errors.Is(err, ErrActive) || src.writes != 0 || !maps.Equal(src.commits["app"], commits) {
			t.Errorf("%s: got %v after %d writes, %+v", name, err, src.writes, src.commits["app"])
		}
	}
}

// TestAMoveThatEndsHalfway: a group comes to life, or commits, after all were looked at.
func TestAMoveThatEndsHalfway(t *testing.T) {
	for name, c := range map[string]struct {
		onRead     func(dst *memoryCluster, n int) // read 1 is the look, then one before each write
		done, left []string
		why        string
	}{
		"active at the second write": {func(dst *memoryCluster, n int) {
			if n == 3 {
				dst.groups["b"] = "Stable"
			}
		}, []string{"a"}, []string{"b", "c"}, "group b: a group did something of its own meanwhile: the group became active"},
		"committed before the first write": {func(dst *memoryCluster, n int) {
			if n == 2 {
				dst.commits["a"] = map[flow.TopicPartition]Commit{orders: {Offset: 105}}
			}
		}, nil, []string{"a", "b", "c"}, "its position at the destination has changed"},
		"committed before it was read back": {func(dst *memoryCluster, n int) {
			if n == 5 {
				dst.commits["b"][orders] = Commit{Offset: 106}
			}
		}, []string{"a", "c"}, []string{"b"}, "offset 106"},
	} {
		s, src, dst, _ := newSync(Commit{Offset: 4})
		for _, g := range []string{"a", "b", "c"} {
			src.groups[g], src.commits[g] = "Empty", map[flow.TopicPartition]Commit{orders: {Offset: 4}}
		}
		dst.onRead = c.onRead
		rows, err := s.Apply(t.Context(), []string{"a", "b", "c"}, Terms{Unmarked: true})
		half, ok := errors.AsType[*HalfwayError](err)
		if !ok || !errors.Is(err, ErrMeanwhile) || !strings.Contains(err.Error(), c.why) || !slices.Equal(half.Done, c.done) || !slices.Equal(half.Left, c.left) {
			t.Errorf("%s: got %+v, %v", name, half, err)
		}
		for _, row := range rows {
			if row.Written != slices.Contains(c.done, row.Group) {
				t.Errorf("%s: got %+v", name, row)
			}
		}
	}
}

// TestAReturnNeedsTheLogEnd: a partition without a leader tells no log end, and so not
// whether records lie behind the group that do not come home.
func TestAReturnNeedsTheLogEnd(t *testing.T) {
	s, src, dst, _ := newSync(Commit{Offset: 4})
	s.cfg.Maps.Attach("src", caughtUp{})
	dst.groups["app"], dst.commits["app"] = "Empty", map[flow.TopicPartition]Commit{orders: {104, "own"}}
	home := s.cfg
	home.Source, home.Destination, home.SourceID, home.DestinationID = dst, src, "dst", "src"
	dst.end, dst.endless = 113, true
	rows, err := NewSyncer(home).Apply(t.Context(), []string{"app"}, Terms{Overwrite: true, Unmarked: true, Inexact: true})
	if !errors.Is(err, ErrNotExact) || rows[0].Result.Why != Unknown || !strings.Contains(err.Error(), "log end") || src.writes != 0 {
		t.Errorf("got %+v, %v after %d writes", rows, err, src.writes)
	}
}
