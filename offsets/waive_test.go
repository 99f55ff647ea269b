package offsets

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// TestWaiveWhatContradicts: what copies show to be missing or contradictory, though every
// page can be read, is listed with the ledger offset where it showed. It is waived as lost
// pages are: the copy goes on, and what translated to unknown goes to the lowest offset
// that skips nothing.
func TestWaiveWhatContradicts(t *testing.T) {
	for _, c := range []struct {
		name      string
		feed      func(*Maps)
		partition int32
		offset    int64  // of the damage
		why       string // of the damage
		cut       int64  // below which the position is uncertain
		position  Position
		x         int64  // that translates to unknown
		want      Result // when it is waived
	}{
		{
			"a hop is missing", func(ms *Maps) { feed(ms, 0, begin(1, 0), hop(1, 0, 5, 100), hop(1, 8, 4, 120)) },
			0, 2, "a hop begins at offset 8", 8,
			Position{Next: 8, Destination: 105, Fleet: "prod"},
			6,
			Result{Offset: 105, Reread: 1, Skipped: 2, Why: Waived},
		},
		{
			"with a page that cannot be read", func(ms *Maps) {
				feed(ms, 0, begin(1, 0), hop(1, 0, 5, 100))
				ms.Corrupt(tail.Position{Cluster: "dst", Offset: 2}, &ledger.CorruptError{Reason: "bad"})
				feed(ms, 3, hop(1, 8, 4, 120))
			},
			0, 2, "bad", 8,
			Position{Next: 8, Destination: 105, Fleet: "prod"},
			6,
			Result{Offset: 105, Reread: 1, Skipped: 2, Why: Waived},
		},
		{
			"two hops of the same", func(ms *Maps) { feed(ms, 0, begin(1, 0), hop(1, 0, 5, 100), hop(1, 3, 6, 120)) },
			0, 2, "two hops claim", 5,
			Position{Next: 5, Destination: 103, Fleet: "prod"},
			4,
			Result{Offset: 103, Reread: 1, Skipped: 1, Why: Waived},
		},
		{
			"the begin is missing", func(ms *Maps) { feed(ms, 0, hop(1, 0, 5, 100), hop(1, 5, 1, 105)) },
			0, 0, "its first entry is not a begin", math.MaxInt64,
			Position{Next: 6, Destination: 106, Plain: true},
			-1,
			Result{},
		},
		{
			"in two partitions", func(ms *Maps) {
				feed(ms, 0, begin(1, 0), hop(1, 0, 5, 100))
				ms.Apply(tail.Position{Cluster: "dst", Partition: 1, Offset: 7}, &ledger.Page{Entries: []ledger.Entry{hop(1, 5, 5, 105)}})
			},
			1, 7, "in ledger partition 0 of dst and in 1 of dst", math.MaxInt64,
			Position{Next: 5, Destination: 105, Fleet: "prod"},
			5,
			Result{Offset: 105, Exact: true, Why: AtEnd},
		},
		{
			"an older entry comes later", func(ms *Maps) { feed(ms, 0, begin(2, 5), hop(2, 5, 5, 105), hop(1, 0, 5, 100)) },
			0, 2, "an older entry comes later", 4,
			Position{Next: 4, Destination: -1, Fleet: "prod"},
			-1,
			Result{},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ms := NewMaps()
			ms.Attach("dst", caughtUp{})
			c.feed(ms)
			damage := func(copies int, waived bool) {
				t.Helper()
				d := ms.Damages()
				if len(d) != 1 || d[0].Partition != c.partition || d[0].Offset != c.offset || !strings.Contains(d[0].Why, c.why) || d[0].Copies < copies || copies == 0 && d[0].Copies > 0 || d[0].Waived != waived {
					t.Errorf("got %+v, want %d copies, waived %v", d, copies, waived)
				}
			}
			translate := func() Result {
				r := ms.Route(testCopy.Source, testCopy.Destination).Translate(c.x, AnyBounds)
				r.Note = ""
				return r
			}
			damage(1, false)
			if _, err := ms.PositionBefore(t.Context(), "dst", testCopy, c.cut, math.MaxInt64); !errors.Is(err, ErrUncertain) {
				t.Errorf("position: got %v", err)
			}
			if got := translate(); c.x >= 0 && got.Why != Unknown {
				t.Errorf("got %+v", got)
			}
			ms.Waive("dst", c.partition, c.offset-1)
			damage(1, false)
			ms.Waive("dst", c.partition, c.offset)
			damage(0, true)
			p, err := ms.PositionBefore(t.Context(), "dst", testCopy, c.cut, math.MaxInt64)
			if err != nil || !p.Exists || p.Next != c.position.Next || p.Destination != c.position.Destination || p.Fleet != c.position.Fleet || p.Plain != c.position.Plain {
				t.Errorf("position, waived: got %+v %v, want %+v", p, err, c.position)
			}
			if got := translate(); c.x >= 0 && got != c.want {
				t.Errorf("waived: got %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestWhatShowsLaterIsNotWaived: a waiver is of what was there to be seen.
func TestWhatShowsLaterIsNotWaived(t *testing.T) {
	ms := NewMaps()
	ms.Attach("dst", caughtUp{})
	feed(ms, 0, begin(1, 0), hop(1, 0, 5, 100), hop(1, 8, 4, 120))
	ms.Waive("dst", 0, 2)
	feed(ms, 3, hop(1, 20, 4, 140))
	if d := ms.Damages(); len(d) != 1 || d[0].Offset != 3 || d[0].Waived || d[0].Copies != 1 {
		t.Errorf("got %+v", d)
	}
	r := ms.Route(testCopy.Source, testCopy.Destination)
	if got := r.Translate(6, AnyBounds); got.Why != Waived || got.Offset != 105 {
		t.Errorf("what is waived: got %+v", got)
	}
	if got := r.Translate(6, Bounds{Start: 107, End: 200, Floor: 200}); got.Why != Expired || got.Exact || got.Offset != 107 || !strings.Contains(got.Note, "begins at 107; what lay before is not known, which is accepted: ") {
		t.Errorf("what is waived, and gone: got %+v", got)
	}
	if got := r.Translate(15, AnyBounds); got.Why != Unknown {
		t.Errorf("what is not: got %+v", got)
	}
	if _, err := ms.PositionBefore(t.Context(), "dst", testCopy, 20, math.MaxInt64); !errors.Is(err, ErrUncertain) {
		t.Errorf("position behind what is not waived: got %v", err)
	}
	if _, err := ms.PositionBefore(t.Context(), "dst", testCopy, 8, math.MaxInt64); err != nil {
		t.Errorf("position behind what is waived: got %v", err)
	}
}

// TestWaivedBothWays: a position that goes back over what was waived, over a copy back and
// over two copies one after the other reads again, is never exact, and never skips.
func TestWaivedBothWays(t *testing.T) {
	ms := NewMaps()
	feed(ms, 0, begin(1, 0), hop(1, 0, 5, 100), hop(1, 8, 4, 120))
	home := ms.Route(testCopy.Destination, testCopy.Source)
	if got := home.Translate(105, AnyBounds); got.Why != Unknown {
		t.Errorf("home: got %+v", got)
	}
	ms.Waive("dst", 0, 2)
	home = ms.Route(testCopy.Destination, testCopy.Source)
	if got := home.Translate(105, AnyBounds); got.Why != Waived || got.Offset != 5 || got.Exact || got.Reread != 3 {
		t.Errorf("home: got %+v", got)
	}
	there := ms.Copy(testCopy)
	back := fold(begin(1, 0))
	if got := (Route{There: there, Back: back}).Translate(6, AnyBounds); got.Why != Waived || got.Offset > 105 || got.Exact {
		t.Errorf("to who copies back: got %+v", got)
	}
	if got := (Route{There: back, Back: there}).Translate(105, AnyBounds); got.Exact || got.Why != Waived && got.Why != Unknown && got.Why != Ahead {
		t.Errorf("from who copies back: got %+v", got)
	}
	second := fold(begin(1, 0), hop(1, 0, 200, 1000))
	if got := (Route{There: compose(there, second)}).Translate(6, AnyBounds); got.Why != Waived || got.Offset != 1105 || got.Exact {
		t.Errorf("over another copy: got %+v", got)
	}
	first := fold(begin(1, 0), hop(1, 0, 5, 100), hop(1, 8, 4, 120))
	if got := (Route{There: compose(first, second)}).Translate(6, AnyBounds); got.Why != Unknown {
		t.Errorf("over another copy, not waived: got %+v", got)
	}
}
