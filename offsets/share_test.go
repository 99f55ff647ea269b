package offsets

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// newShareSync is [newSync] of a share group that has dealt with as many records as told;
// -1 if the source does not tell.
func newShareSync(at, dealt int64) (*Syncer, *memoryCluster, *memoryCluster, movedGroups) {
	s, src, dst, moved := newSync(Commit{Offset: at})
	src.shares, dst.shares = map[string]bool{"app": true}, map[string]bool{"app": true}
	src.dealt = dealt
	return s, src, dst, moved
}

// TestShareGroups: what becomes of them, and what is counted, case by case.
func TestShareGroups(t *testing.T) {
	for _, c := range []struct {
		name    string
		dealt   int64
		set     func(src, dst *memoryCluster)
		action  Action
		why     string // contained
		verdict string
		reread  int64
		want    int64 // at the destination after a round, 0 if nothing
	}{
		{"acknowledged in order", 4, nil, Write, "", Ready, 0, 104},
		{"acknowledged out of order", 7, nil, Write, "has acknowledged up to 3 records", NotExact, 3, 104},
		{"a source that does not tell", -1, nil, Write, "does not tell", NotExact, 0, 104},
		{"members at the destination", 4, func(_, d *memoryCluster) { d.groups["app"] = "Stable" }, Wait, "active at the destination", Pending, 0, 0},
		{"ahead of the copy", 4, func(s, _ *memoryCluster) { s.commits["app"][orders] = Commit{Offset: 11} }, Wait, "copied up to", Pending, 0, 0},
		{"the source went back", 4, func(_, d *memoryCluster) {
			d.commits["app"] = map[flow.TopicPartition]Commit{orders: {108, Mark("f")}}
		}, Keep, "went back", Ready, 0, 108},
		{"set there by somebody", 4, func(_, d *memoryCluster) {
			d.commits["app"] = map[flow.TopicPartition]Commit{orders: {102, ""}}
		}, Leave, "has moved", HasMoved, 0, 102},
		{"no share groups there", 4, func(_, d *memoryCluster) { d.without = true }, Leave, "has no share groups", Blocked, 0, 0},
		{"another kind of group there", 4, func(_, d *memoryCluster) { d.groups["app"], d.shares = "Empty", nil }, Leave, "that is no share group", Blocked, 0, 0},
		{"a share group there", 4, func(s, d *memoryCluster) { s.shares, d.groups["app"] = nil, "Empty" }, Leave, "has a share group of that name", Blocked, 0, 0},
	} {
		s, src, dst, _ := newShareSync(4, c.dealt)
		if c.set != nil {
			c.set(src, dst)
		}
		rows, err := s.Round(t.Context())
		if err != nil || len(rows) != 1 {
			t.Fatalf("%s: got %+v %v", c.name, rows, err)
		}
		p := PlanGroups(rows)[0]
		if rows[0].Action != c.action || !strings.Contains(rows[0].Why, c.why) || p.Verdict != c.verdict || p.Reread != c.reread || p.Share != (src.shares != nil) {
			t.Errorf("%s: got %+v, %+v", c.name, rows[0], p)
		}
		if got := dst.commits["app"][orders].Offset; got != c.want {
			t.Errorf("%s: got %d at the destination, want %d", c.name, got, c.want)
		}
	}
}

// TestShareGroupsMove: exactly, or with a word; and not where they cannot be.
func TestShareGroupsMove(t *testing.T) {
	terms := Terms{Unmarked: true}
	s, _, dst, _ := newShareSync(4, 7)
	if _, err := s.Apply(t.Context(), []string{"app"}, terms); !errors.Is(err, ErrNotExact) || !strings.Contains(err.Error(), "acknowledged up to 3 records") || dst.writes != 0 {
		t.Errorf("without a word: got %v after %d writes", err, dst.writes)
	}
	terms.Inexact = true
	if rows, err := s.Apply(t.Context(), []string{"app"}, terms); err != nil || !rows[0].Written || dst.commits["app"][orders] != (Commit{104, ""}) {
		t.Errorf("with a word: got %+v %v, %v", rows, err, dst.commits)
	}
	s, _, _, _ = newShareSync(4, 7)
	if rows, err := s.Apply(t.Context(), []string{"app"}, Terms{Redeliver: true}); err != nil || !rows[0].Written {
		t.Errorf("a runbook: got %+v %v", rows, err)
	}
	s, _, dst, _ = newShareSync(4, 7)
	dst.start = 107 // records that nobody has read are gone
	if rows, err := s.Apply(t.Context(), []string{"app"}, Terms{Redeliver: true}); !errors.Is(err, ErrNotExact) || !strings.Contains(err.Error(), "the log begins at 107") || dst.writes != 0 {
		t.Errorf("a runbook, and a copy that has expired: got %+v %v after %d writes", rows, err, dst.writes)
	}
	s, src, dst, _ := newShareSync(4, 4)
	src.shares, dst.shares, dst.start = nil, nil, 107
	if _, err := s.Apply(t.Context(), []string{"app"}, Terms{Redeliver: true}); !errors.Is(err, ErrNotExact) || dst.writes != 0 {
		t.Errorf("a runbook, and no share group: got %v after %d writes", err, dst.writes)
	}
	s, _, dst, _ = newShareSync(4, 4)
	dst.without, terms.Overwrite = true, true
	if _, err := s.Apply(t.Context(), []string{"app"}, terms); !errors.Is(err, ErrNotExact) || !strings.Contains(err.Error(), "has no share groups") || dst.writes != 0 {
		t.Errorf("no share groups there: got %v after %d writes", err, dst.writes)
	}
}

// TestNotesAreRenewed: once an hour what stands is written anew, of share groups that are
// the flow's.
func TestNotesAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src, dst, _ := newShareSync(4, 4)
		round := func(what string, writes int) {
			t.Helper()
			dst.writes = 0
			if _, err := s.tend(t.Context()); err != nil || dst.writes != writes || dst.commits["app"][orders].Offset != 104 {
				t.Errorf("%s: %d writes, want %d; %v %v", what, dst.writes, writes, dst.commits, err)
			}
		}
		round("at first", 1)
		round("soon after", 0)
		<-time.After(renewEvery)
		round("after a while", 1)
		s = NewSyncer(s.cfg)
		dst.writes = 0
		if _, err := s.Round(t.Context()); err != nil || dst.writes != 0 {
			t.Errorf("by who does not look after the flow: %d writes, %v", dst.writes, err)
		}
		round("after a restart", 1)
		<-time.After(renewEvery)
		dst.groups["app"] = "Stable"
		round("with members", 0)
		<-time.After(renewEvery)
		dst.groups["app"], src.shares, dst.shares = "Empty", nil, nil
		round("no share group", 0)
	})
}

// TestNotesOfPartitionsThatWait are renewed, too: one that is forgotten has the group moved.
// So are those of which the source has nothing any more: it may have again.
func TestNotesOfPartitionsThatWait(t *testing.T) {
	for name, stuck := range map[string]func(src, dst *memoryCluster){
		"ahead of the copy": func(src, _ *memoryCluster) { src.commits["app"][orders] = Commit{Offset: 11} },
		"no topic there":    func(_, dst *memoryCluster) { dst.id = ledger.TopicID{} },
		"no start":          func(src, _ *memoryCluster) { delete(src.commits["app"], orders) },
		"no group":          func(src, _ *memoryCluster) { delete(src.groups, "app") },
	} {
		s, src, dst, _ := newShareSync(4, 4)
		if _, err := s.tend(t.Context()); err != nil {
			t.Fatal(err)
		}
		stuck(src, dst)
		s, dst.writes = NewSyncer(s.cfg), 0
		rows, err := s.tend(t.Context())
		if err != nil || len(rows) > 1 || len(rows) == 1 && (rows[0].Action == Keep || rows[0].Written) || dst.writes != 1 || dst.commits["app"][orders] != (Commit{104, Mark("f")}) {
			t.Errorf("%s: got %+v %v, %d writes, %v", name, rows, err, dst.writes, dst.commits)
		}
	}
}

// TestOneFlowSetsAStart: where two flows lead to a share-partition, one of them sets its start:
// who did so last, or if nobody has, the first by name. The other does if that one does not.
func TestOneFlowSetsAStart(t *testing.T) {
	for _, c := range []struct {
		name   string
		flow   string // of f and g, by another name
		stands string // whose, "" if nothing stands there
		at     int64
		first  bool
	}{
		{"it has set it", "f", "f", 91, true},
		{"the other has", "f", "g", 91, false},
		{"nobody has, it is the first", "f", "", -1, true},
		{"nobody has, the other is the first", "x", "", -1, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, north, dst := newSeveral()
			src := s.cfg.Source.(*memoryCluster)
			src.shares, dst.shares, north.shares = map[string]bool{"app": true}, map[string]bool{"app": true}, map[string]bool{"app": true}
			src.dealt, s.cfg.Flow = 5, c.flow
			if c.stands != "" {
				dst.groups["app"], dst.commits["app"] = "Empty", map[flow.TopicPartition]Commit{orders: {c.at, Mark(c.stands)}}
			}
			round := func(when string, written bool) {
				t.Helper()
				rows, err := s.Round(t.Context())
				if err != nil || len(rows) != 1 || rows[0].Written != written || !written && (rows[0].Action != Keep || !strings.Contains(rows[0].Why, "flow g sets")) {
					t.Errorf("%s, %s: got %+v %v", c.name, when, rows, err)
				}
			}
			round("at once", c.first)
			if c.first {
				return
			}
			<-time.After(turnAfter - time.Second)
			if c.stands != "" { // the other goes on
				dst.commits["app"][orders] = Commit{c.at + 1, Mark(c.stands)}
				north.commits["app"][orders] = Commit{Offset: 4}
			}
			round("a while later", false)
			<-time.After(turnAfter - time.Second)
			round("before its turn", c.stands == "")
			<-time.After(2 * time.Second)
			if c.stands != "" {
				round("at its turn", true)
			}
			if got := dst.commits["app"][orders]; got.Metadata != Mark(c.flow) {
				t.Errorf("%s: got %+v", c.name, got)
			}
			if _, err := s.Apply(t.Context(), []string{"app"}, Terms{Inexact: true}); err != nil {
				t.Errorf("%s: a move: %v", c.name, err)
			}
		})
	}
}

// TestNotesAreReadBehindTheStarts: a flow that goes on in the midst of a look, as when
// somebody else plans, is not taken for somebody else: however often it does.
func TestNotesAreReadBehindTheStarts(t *testing.T) {
	for _, c := range []struct {
		name   string
		goesOn []int // how often the flow does, from one question to the next
		stands int64 // that is told, -1 if it is not
		mark   string
	}{
		{"not at all", nil, 104, Mark("f")},
		{"once behind the starts", []int{0, 1}, 104, Mark("f")},
		{"twice behind the starts", []int{0, 2}, 112, Mark("f")},
		{"twice, and again", []int{0, 2, 1, 2}, 124, Mark("f")},
		{"all the time", []int{0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2}, -1, ""},
	} {
		stands, before, asked := int64(104), int64(100), 0
		ask := func() {
			if asked < len(c.goesOn) {
				for range c.goesOn[asked] {
					stands, before = stands+4, stands
				}
			}
			asked++
		}
		starts := func(groups []string) (positions, GroupErrors) {
			if len(groups) == 0 {
				return nil, nil
			}
			ask()
			return positions{"app": {orders: Commit{Offset: stands}}}, nil
		}
		notes := func([]string) (positions, GroupErrors) {
			ask()
			text, err := json.Marshal(note{Now: Commit{stands, Mark("f")}, Before: Commit{before, Mark("f")}})
			if err != nil {
				t.Fatal(err)
			}
			return positions{notesOf("app"): {orders: Commit{Metadata: string(text)}}}, nil
		}
		got, err := withNotes([]string{"app"}, starts, notes)
		if c.stands < 0 {
			if !errors.Is(err, errGoesOn) || len(got) != 0 {
				t.Errorf("%s: got %+v %v", c.name, got, err)
			}
			continue
		}
		if err != nil || got["app"][orders] != (Commit{c.stands, c.mark}) {
			t.Errorf("%s: got %+v %v", c.name, got, err)
		}
	}
	strange := func([]string) (positions, GroupErrors) { return positions{"app": {orders: Commit{Offset: 7}}}, nil }
	noted := func([]string) (positions, GroupErrors) {
		return positions{notesOf("app"): {orders: Commit{Metadata: `{"Now":{"Offset":9},"Before":{"Offset":8}}`}}}, nil
	}
	if got, err := withNotes([]string{"app"}, strange, noted); err != nil || got["app"][orders] != (Commit{7, ""}) {
		t.Errorf("somebody else's: got %+v %v", got, err)
	}
	denied := func([]string) (positions, GroupErrors) { return nil, GroupErrors{notesOf("app"): errDenied} }
	if got, err := withNotes([]string{"app"}, strange, denied); !errors.Is(err, errDenied) || len(got) != 0 {
		t.Errorf("notes that cannot be read: got %+v %v", got, err)
	}
}

// TestNotes: of the values that may stand where a flow wrote last, whose is which.
func TestNotes(t *testing.T) {
	n := note{Now: Commit{108, Mark("f")}, Before: Commit{104, Mark("f")}}
	moving := note{Now: Commit{108, ""}, Before: Commit{104, Mark("f")}}
	for _, c := range []struct {
		note  note
		start int64
		want  string
	}{
		{n, 108, Mark("f")}, // it was set
		{n, 104, Mark("f")}, // the process ended in between
		{n, 106, ""},        // a member was there
		{n, 0, ""},          // somebody reset it
		{moving, 108, ""},
		{moving, 104, Mark("f")},
		{note{Now: Commit{104, Mark("f")}, Before: Commit{104, ""}}, 104, Mark("f")}, // adopted
		{note{Now: Commit{108, Mark("f")}, Before: Commit{-1, ""}}, 108, Mark("f")},
		{note{}, 5, ""},
	} {
		if got := c.note.taken(Commit{Offset: c.start}); got != (Commit{c.start, c.want}) {
			t.Errorf("%+v: got %+v, want %q", c.note, got, c.want)
		}
	}
}

// TestShareGroupsOfASourceThatTellsNothing: a cluster that lists some, and tells nothing of them.
func TestShareGroupsOfASourceThatTellsNothing(t *testing.T) {
	s, src, _, _ := newShareSync(4, 4)
	src.groups["web"], src.commits["web"] = "Empty", maps.Clone(src.commits["app"])
	s.cfg.Groups = func(string) bool { return true }
	s.cfg.Source = mute{src}
	if rows, err := s.Plan(t.Context()); err != nil || len(rows) != 1 || rows[0].Group != "web" {
		t.Errorf("got %+v %v", rows, err)
	}
}

// TestShareGroupsThatCannotBeAskedFor: that is said, and the others follow.
func TestShareGroupsThatCannotBeAskedFor(t *testing.T) {
	s, src, dst, _ := newShareSync(4, 4)
	src.groups["web"], src.commits["web"] = "Empty", maps.Clone(src.commits["app"])
	s.cfg.Groups = func(string) bool { return true }
	s.cfg.Source = noShares{src}
	rows, err := s.Round(t.Context())
	if !errors.Is(err, errDenied) || len(rows) != 2 || rows[0].Action != Wait || !strings.Contains(rows[0].Why, errDenied.Error()) || rows[1].Group != "web" || !rows[1].Written {
		t.Errorf("at the source: got %+v %v", rows, err)
	}
	if _, err := s.Apply(t.Context(), []string{"app"}, Terms{Inexact: true}); !errors.Is(err, ErrNotExact) || !strings.Contains(err.Error(), errDenied.Error()) || dst.commits["app"] != nil {
		t.Errorf("a move: got %v, %v", err, dst.commits)
	}
	s.cfg.Source, s.cfg.Destination = src, noShares{dst}
	rows, err = s.Round(t.Context())
	if !errors.Is(err, errDenied) || len(rows) != 2 || rows[0].Action != Leave || !strings.Contains(rows[0].Why, errDenied.Error()) || dst.commits["app"] != nil || rows[1].Action != Keep {
		t.Errorf("at the destination: got %+v %v, %v", rows, err, dst.commits)
	}
}

// noShares is a cluster that tells nobody where share groups start.
type noShares struct{ *memoryCluster }

func (d noShares) Commits(ctx context.Context, groups []Group) (map[string]map[flow.TopicPartition]Commit, error) {
	if len(without(groups, consuming)) > 0 {
		return nil, errDenied
	}
	return d.memoryCluster.Commits(ctx, groups)
}

// mute is a cluster that does not tell where share groups start.
type mute struct{ *memoryCluster }

func (mute) Shares(context.Context) (bool, bool, error) { return false, false, nil }
