package offsets

import (
	"strings"
	"testing"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// TestALossAtTheDestinationIsFollowed: records 0 to 9 are copied in two transactions, then the
// destination loses the end of its log and has it again in one: at lower offsets. What
// stands there must not skip what is there now, nor lie behind the end meanwhile.
func TestALossAtTheDestinationIsFollowed(t *testing.T) {
	type world struct {
		s        *Syncer
		src, dst *memoryCluster
	}
	lose := func(w *world) { w.dst.end = 107 }
	copied := func(w *world) {
		feed(w.s.cfg.Maps, 10, &ledger.Retraction{Copy: testCopy.Key(), Epoch: 1, Source: 7, Destination: 107}, hop(1, 7, 3, 107))
		w.dst.end = 111
	}
	back := func(x int64) func(*world) {
		return func(w *world) { w.src.commits["app"][orders] = Commit{Offset: x} }
	}
	type step struct {
		name   string
		happen func(*world)
		stands int64 // after a round
		action Action
		why    string // contained
	}
	for name, steps := range map[string][]step{
		"seen": {
			{"lost", lose, 107, Write, "the log was cut back to 107"},
			{"still lost", func(*world) {}, 107, Wait, "lost"},
			{"copied again", copied, 109, Write, ""},
			{"as before", func(*world) {}, 109, Keep, ""},
		},
		"between two rounds": {
			{"copied again", copied, 109, Write, "has it again from offset 109 on"},
			{"as before", func(*world) {}, 109, Keep, ""},
		},
		"between two rounds, and the source went back": {
			{"copied again", func(w *world) { copied(w); back(8)(w) }, 110, Keep, "went back"},
			{"and comes again", back(9), 109, Write, "has it again"},
		},
		"behind a group that could not be read": {
			{"not read", func(w *world) { w.src.unread = GroupErrors{"app": errDenied} }, 110, Wait, "not authorized"},
			{"copied again", func(w *world) { copied(w); w.src.unread = nil }, 109, Write, "has it again"},
		},
		"by a node that has not set it": {
			{"copied again", func(w *world) { copied(w); w.s = NewSyncer(w.s.cfg) }, 110, Keep, "'groups move' follows"},
		},
		"with members": {
			{"lost", func(w *world) { lose(w); w.dst.groups["app"] = "Stable" }, 110, Wait, "active at the destination"},
		},
		"moved": {
			{"lost", func(w *world) {
				lose(w)
				w.dst.commits["app"] = map[flow.TopicPartition]Commit{orders: {110, ""}}
			}, 110, Leave, "has moved"},
		},
		"no end is told": {
			{"lost", func(w *world) { lose(w); w.dst.endless = true }, 110, Wait, "is not known now"},
		},
	} {
		s, src, dst, _ := newSync(Commit{Offset: 9})
		ms := NewMaps()
		ms.Attach("dst", caughtUp{})
		feed(ms, 0, begin(1, 0), hop(1, 0, 9, 100), hop(1, 9, 1, 110))
		s.cfg.Maps, dst.end = ms, 112
		w := &world{s, src, dst}
		for _, c := range append([]step{{"at first", func(*world) {}, 110, Write, ""}}, steps...) {
			c.happen(w)
			rows, _ := w.s.Round(t.Context()) // what fails is in the rows
			if got := dst.commits["app"][orders].Offset; len(rows) != 1 || got != c.stands || rows[0].Action != c.action || !strings.Contains(rows[0].Why, c.why) {
				t.Errorf("%s, %s: stands at %d, want %d: %+v", name, c.name, got, c.stands, rows)
			}
		}
	}
}

// TestNoMoveToACutEnd: an operator's move waits for the copy.
func TestNoMoveToACutEnd(t *testing.T) {
	s, _, dst, _ := newSync(Commit{Offset: 9})
	if _, err := s.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	dst.end = 107
	if _, err := s.Apply(t.Context(), []string{"app"}, Terms{Unmarked: true, Inexact: true}); err == nil || dst.commits["app"][orders].Offset != 109 {
		t.Errorf("got %v, %v", err, dst.commits)
	}
}
