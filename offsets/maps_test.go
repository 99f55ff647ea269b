package offsets

import (
	"context"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

type caughtUp struct {
	err        error
	absent     bool
	unreadable error
}

// CatchUp of a ledger that cannot be read waits for as long as it may.
func (c caughtUp) CatchUp(ctx context.Context) error {
	if c.unreadable == nil {
		return c.err
	}
	<-ctx.Done()
	return errors.Join(ctx.Err(), c.unreadable)
}

func (c caughtUp) Exists() bool { return !c.absent }

// feed applies each entry as a page of its own to ledger partition 0 of dst.
func feed(ms *Maps, from int64, entries ...ledger.Entry) { feedTo(ms, "dst", from, entries...) }

// feedTo is feed to another cluster's ledger.
func feedTo(ms *Maps, cluster string, from int64, entries ...ledger.Entry) {
	for i, e := range entries {
		ms.Apply(tail.Position{Cluster: cluster, Offset: from + int64(i)}, &ledger.Page{Entries: []ledger.Entry{e}})
	}
}

func TestPosition(t *testing.T) {
	lost := func(ms *Maps, offset int64) {
		ms.Corrupt(tail.Position{Cluster: "dst", Offset: offset}, &ledger.CorruptError{Reason: "checksum does not match"})
	}
	missing := func(ms *Maps, offset int64) {
		ms.Corrupt(tail.Position{Cluster: "dst", Offset: offset}, &ledger.ChainError{Want: 1, Got: 2})
	}
	gone := func(ms *Maps, next int64) {
		ms.Corrupt(tail.Position{Cluster: "dst"}, &tail.GapError{Next: next})
	}
	cases := []struct {
		name string
		feed func(*Maps)
		want Position
		err  string
	}{
		{"never heard of", func(*Maps) {}, Position{}, ""},
		{"begun", func(ms *Maps) { feed(ms, 0, begin(4, 7)) }, Position{true, false, 4, "prod", 7, -1, -1, -1, nil}, ""},
		{"copied", func(ms *Maps) { feed(ms, 0, begin(4, 7), hop(4, 7, 5, 20)) }, Position{true, false, 4, "prod", 12, 25, 0, 0, []SourceEpoch{{7, 0}}}, ""},
		{"no begin", func(ms *Maps) { feed(ms, 0, hop(4, 7, 5, 20)) }, Position{}, "its begin is missing"},
		{"a page is lost after the last hop", func(ms *Maps) {
			feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0))
			lost(ms, 2)
		}, Position{}, "checksum does not match"},
		{"the next hop shows that it was not ours", func(ms *Maps) {
			feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0))
			lost(ms, 2)
			feed(ms, 3, hop(1, 5, 5, 5))
		}, Position{true, false, 1, "prod", 10, 10, 0, 0, []SourceEpoch{{0, 0}}}, ""},
		{"the next hop shows that it was", func(ms *Maps) {
			feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0))
			lost(ms, 2)
			feed(ms, 3, hop(1, 9, 5, 9))
		}, Position{}, "checksum does not match"},
		{"a begin shows nothing", func(ms *Maps) {
			feed(ms, 0, begin(1, 0))
			lost(ms, 1)
			feed(ms, 2, begin(2, 0))
		}, Position{}, "checksum does not match"},
		{"pages before this one are missing", func(ms *Maps) {
			feed(ms, 0, begin(1, 0))
			missing(ms, 5)
		}, Position{}, "broken ledger chain"},
		{"pages before this hop are missing", func(ms *Maps) {
			feed(ms, 0, begin(1, 0))
			missing(ms, 5)
			feed(ms, 5, hop(1, 0, 5, 0))
		}, Position{true, false, 1, "prod", 5, 5, 0, 0, []SourceEpoch{{0, 0}}}, ""},
		{"an unknown copy in a damaged ledger", func(ms *Maps) { lost(ms, 2) }, Position{}, "checksum does not match"},
		{"an unknown copy in a ledger without its beginning", func(ms *Maps) { gone(ms, 100) }, Position{}, "below offset 100 do not exist"},
		{"a copy that began after what is gone", func(ms *Maps) {
			gone(ms, 100)
			feed(ms, 100, begin(1, 0), hop(1, 0, 5, 0))
		}, Position{true, false, 1, "prod", 5, 5, 0, 0, []SourceEpoch{{0, 0}}}, ""},
		{"a foreign record", func(ms *Maps) {
			feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0))
			ms.Corrupt(tail.Position{Cluster: "dst", Offset: 9}, &ledger.CorruptError{Foreign: true})
		}, Position{true, false, 1, "prod", 5, 5, 0, 0, []SourceEpoch{{0, 0}}}, ""},
		{"an old page", func(ms *Maps) {
			feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0))
			ms.Corrupt(tail.Position{Cluster: "dst", Offset: 9}, &ledger.ChainError{Want: 2, Got: 1})
		}, Position{true, false, 1, "prod", 5, 5, 0, 0, []SourceEpoch{{0, 0}}}, ""},
		{"damage in another partition", func(ms *Maps) {
			feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0))
			ms.Corrupt(tail.Position{Cluster: "dst", Partition: 1, Offset: 9}, ledger.ErrVersion)
		}, Position{true, false, 1, "prod", 5, 5, 0, 0, []SourceEpoch{{0, 0}}}, ""},
		{"entries in another partition", func(ms *Maps) {
			feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0))
			ms.Apply(tail.Position{Cluster: "dst", Partition: 1}, &ledger.Page{Entries: []ledger.Entry{hop(1, 5, 5, 5)}})
		}, Position{}, "in ledger partition 0 of dst and in 1 of dst"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ms := NewMaps()
			ms.Attach("dst", caughtUp{})
			c.feed(ms)
			got, err := ms.Position(t.Context(), "dst", testCopy)
			if c.err == "" && err != nil || c.err != "" && (!errors.Is(err, ErrUncertain) || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("got error %v, want %q", err, c.err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestWaive(t *testing.T) {
	ms := NewMaps()
	ms.Attach("dst", caughtUp{})
	feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0))
	ms.Corrupt(tail.Position{Cluster: "dst", Offset: 2}, &ledger.CorruptError{Reason: "bad"})
	unknown := testCopy
	unknown.Source.Partition = 9
	if d := ms.Damages(); len(d) != 1 || d[0].Offset != 2 || d[0].Copies != 1 || d[0].Waived {
		t.Errorf("got %+v", d)
	}
	ms.Waive("dst", 0, 1)
	if _, err := ms.Position(t.Context(), "dst", unknown); !errors.Is(err, ErrUncertain) {
		t.Errorf("a fault above what is waived: got %v", err)
	}
	ms.Waive("dst", 0, 2)
	if p, err := ms.Position(t.Context(), "dst", unknown); err != nil || p.Exists {
		t.Errorf("an unknown copy: got %+v %v", p, err)
	}
	if p, err := ms.Position(t.Context(), "dst", testCopy); err != nil || p.Next != 5 {
		t.Errorf("got %+v %v", p, err)
	}
	if d := ms.Damages(); len(d) != 1 || d[0].Copies != 0 || !d[0].Waived {
		t.Errorf("got %+v", d)
	}
	ms.Corrupt(tail.Position{Cluster: "dst", Offset: 7}, &ledger.CorruptError{Reason: "worse"})
	if _, err := ms.Position(t.Context(), "dst", testCopy); !errors.Is(err, ErrUncertain) {
		t.Errorf("a later fault: got %v", err)
	}
}

// KAFKA-12635: a position was answered for partitions of which nothing was known.
func TestPositionNeedsTheLedger(t *testing.T) {
	ms := NewMaps()
	if _, err := ms.Position(t.Context(), "dst", testCopy); err == nil {
		t.Error("a ledger that nobody reads gave an answer")
	}
	ms.Attach("dst", caughtUp{absent: true})
	if _, err := ms.Position(t.Context(), "dst", testCopy); err == nil {
		t.Error("a ledger that has not been seen gave an answer")
	}
	ms.Attach("dst", caughtUp{err: tail.ErrRecreated})
	if _, err := ms.Position(t.Context(), "dst", testCopy); !errors.Is(err, tail.ErrRecreated) {
		t.Errorf("got %v, want %v", err, tail.ErrRecreated)
	}
}

func TestDoubtShowsInTranslations(t *testing.T) {
	ms := NewMaps()
	feed(ms, 0, begin(1, 0), hop(1, 0, 5, 100))
	ms.Corrupt(tail.Position{Cluster: "dst", Offset: 2}, &ledger.CorruptError{Reason: "bad"})
	r := ms.Route(testCopy.Source, testCopy.Destination)
	if got := r.Translate(3, AnyBounds); got.Offset != 103 || got.Exact || !strings.Contains(got.Note, "bad") {
		t.Errorf("mapped: got %+v", got)
	}
	if got := r.Translate(5, AnyBounds); got.Why != Unknown || got.Offset != -1 {
		t.Errorf("at the end: got %+v", got)
	}
}

// TestAHopAfterDamageProvesNotAll: a copy goes on where it stood, but a lost page may have
// taken back what it had done and told of it anew, up to there. What was said before is
// not exact, then, in both directions, over compositions and after a cut; unless the hop
// and the one before are from one unbroken chain, the copy itself takes back what was
// said, or an operator waives the damage.
func TestAHopAfterDamageProvesNotAll(t *testing.T) {
	page := func(ms *Maps, offset int64, writer byte, entries ...ledger.Entry) {
		ms.Apply(tail.Position{Cluster: "dst", Offset: offset}, &ledger.Page{Link: ledger.Link{Writer: ledger.WriterID{writer}}, Entries: entries})
	}
	bad := func(ms *Maps, offset int64, err error) {
		ms.Corrupt(tail.Position{Cluster: "dst", Offset: offset}, err)
	}
	corrupt := &ledger.CorruptError{Reason: "bad"}
	chain := func(writer byte) error {
		return &ledger.ChainError{Writer: ledger.WriterID{writer}, Want: 2, Got: 3, Reason: "bad"}
	}
	for _, c := range []struct {
		name   string
		damage func(*Maps)
		exact  bool
	}{
		{"none", func(ms *Maps) { page(ms, 2, 1, hop(1, 5, 5, 105)) }, true},
		{"a page of somebody else", func(ms *Maps) { bad(ms, 2, corrupt); page(ms, 3, 1, hop(1, 5, 5, 105)) }, true},
		{"a page of its writer", func(ms *Maps) { bad(ms, 2, corrupt); bad(ms, 3, chain(1)); page(ms, 3, 1, hop(1, 5, 5, 105)) }, false},
		{"a page of its writer, of which nothing else is left", func(ms *Maps) { bad(ms, 3, chain(1)); page(ms, 3, 1, hop(1, 5, 5, 105)) }, false},
		{"before another writer", func(ms *Maps) { bad(ms, 2, corrupt); page(ms, 3, 2, begin(2, 5), hop(2, 5, 5, 105)) }, false},
		{"before another reader", func(ms *Maps) {
			ms.Resume("dst", ledger.TopicID{}, map[int32]int64{0: 0})
			bad(ms, 2, corrupt)
			page(ms, 3, 1, hop(1, 5, 5, 105))
		}, false},
		{"before a fold", func(ms *Maps) {
			ms.Fold(tail.Position{Cluster: "dst"}, 2, &ledger.Page{Fold: true})
			bad(ms, 2, corrupt)
			page(ms, 3, 1, hop(1, 5, 5, 105))
		}, false},
		{"a hole in the log", func(ms *Maps) { bad(ms, 2, &tail.GapError{Next: 7}); page(ms, 7, 1, hop(1, 5, 5, 105)) }, false},
		{"which is waived", func(ms *Maps) { bad(ms, 3, chain(1)); page(ms, 3, 1, hop(1, 5, 5, 105)); ms.Waive("dst", 0, 3) }, true},
		{"before it was taken back", func(ms *Maps) {
			bad(ms, 3, chain(1))
			page(ms, 3, 1, hop(1, 5, 5, 105))
			page(ms, 4, 1, &ledger.Retraction{Copy: testCopy.Key(), Epoch: 1, Source: 0, Destination: 100}, hop(1, 0, 10, 100))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ms := NewMaps()
			ms.Attach("dst", caughtUp{})
			page(ms, 0, 1, begin(1, 0))
			page(ms, 1, 1, hop(1, 0, 5, 100))
			c.damage(ms)
			there, back := ms.Route(testCopy.Source, testCopy.Destination), ms.Route(testCopy.Destination, testCopy.Source)
			for _, q := range []struct {
				what  string
				got   Result
				want  int64
				exact bool
			}{
				{"before", there.Translate(3, AnyBounds), 103, c.exact},
				{"after", there.Translate(7, AnyBounds), 107, true},
				{"at the end", there.Translate(10, AnyBounds), 110, true},
				{"back, before", back.Translate(103, AnyBounds), 3, c.exact},
				{"back, after", back.Translate(107, AnyBounds), 7, true},
			} {
				if q.got.Offset != q.want || q.got.Exact != q.exact || q.exact == strings.Contains(q.got.Note, "ledger partition") {
					t.Errorf("%s: got %+v, want offset %d, exact %v", q.what, q.got, q.want, q.exact)
				}
			}
			if p, err := ms.Position(t.Context(), "dst", testCopy); err != nil || p.Next != 10 {
				t.Errorf("position: %+v %v", p, err)
			}
			if _, err := ms.PositionBefore(t.Context(), "dst", testCopy, 3, math.MaxInt64); errors.Is(err, ErrUncertain) == c.exact {
				t.Errorf("position before what may be otherwise: %v", err)
			}
		})
	}
}

func TestLast(t *testing.T) {
	ms := NewMaps()
	if _, _, ok := ms.Last(testCopy); ok {
		t.Error("a copy that is not there has a last record")
	}
	feed(ms, 0, begin(1, 0))
	if _, _, ok := ms.Last(testCopy); ok {
		t.Error("nothing was copied")
	}
	feed(ms, 1, hop(1, 0, 5, 100, 2, gapControl))
	if x, y, ok := ms.Last(testCopy); !ok || x != 4 || y != 104 {
		t.Errorf("got %d at %d %v, want 4 at 104", x, y, ok)
	}
	ms.Corrupt(tail.Position{Cluster: "dst", Offset: 2}, &ledger.CorruptError{Reason: "bad"})
	if _, _, ok := ms.Last(testCopy); ok {
		t.Error("what came last may be lost")
	}
}

// KAFKA-15905, KAFKA-16622: after a restart old positions were not translated.
func TestReadersMayBeReplaced(t *testing.T) {
	ms := NewMaps()
	id := ledger.TopicID{7}
	if got := ms.Resume("dst", id, map[int32]int64{0: 0})[0]; got != 0 {
		t.Errorf("got %d, want 0", got)
	}
	feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0))
	if got := ms.Resume("dst", id, map[int32]int64{0: 0})[0]; got != 2 {
		t.Errorf("another reader: got %d, want 2", got)
	}
	feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0), hop(1, 5, 5, 5)) // which gives more than it was asked for
	if m := ms.Copy(testCopy); m.Next() != 10 || len(m.Faults()) != 0 {
		t.Errorf("got next %d, faults %v", m.Next(), m.Faults())
	}
	if got := ms.Resume("dst", ledger.TopicID{8}, map[int32]int64{0: 0})[0]; got != 0 {
		t.Errorf("another ledger: got %d, want 0", got)
	}
	if ms.Copy(testCopy) != nil || len(ms.Copies()) != 0 || ms.Translate(Where{"east", "orders", 0, 3}, "", nil) != nil {
		t.Error("copies of a ledger that is gone are still there")
	}
	feed(ms, 0, begin(1, 0), hop(1, 0, 5, 70))
	if r := ms.Route(testCopy.Source, testCopy.Destination).Translate(1, AnyBounds); r.Offset != 71 {
		t.Errorf("got %+v", r)
	}
}

func TestViewsDoNotChange(t *testing.T) {
	ms := NewMaps()
	feed(ms, 0, begin(1, 0), hop(1, 0, 5, 0))
	view := ms.Copy(testCopy)
	for i := range int64(1000) {
		feed(ms, 2+i, hop(1, 5+i, 1, 6+2*i))
	}
	feed(ms, 2000, &ledger.Retraction{Copy: testCopy.Key(), Epoch: 1, Source: 2, Destination: 2})
	if view.Next() != 5 || view.DestinationNext() != 5 || view.Tiles() != 1 {
		t.Errorf("a view changed: next %d, destination %d, %d tiles", view.Next(), view.DestinationNext(), view.Tiles())
	}
	if now := ms.Copy(testCopy); now.Next() != 2 {
		t.Errorf("got next %d, want 2", now.Next())
	}
}

func TestTranslateByName(t *testing.T) {
	ms := NewMaps()
	old, now := begin(1, 0), begin(1, 0)
	old.At, now.At = time.UnixMilli(1), time.UnixMilli(2)
	now.Copy.Source.TopicID[5], now.Flow = 9, "f2"
	back := &ledger.Begin{
		Copy: ledger.CopyID{Source: now.Copy.Destination, Destination: now.Copy.Source}, Epoch: 1, Flow: "return", At: time.UnixMilli(3),
		SourceCluster: "west", DestinationCluster: "east", SourceTopic: "orders", DestinationTopic: "orders",
	}
	second := hop(1, 0, 5, 100)
	second.Copy = now.Copy.Key()
	feed(ms, 0, old, hop(1, 0, 5, 0), now, second, back)

	got := ms.Translate(Where{"east", "orders", 0, 3}, "", nil)
	want := []Translation{{To: Where{"west", "orders", 0, 0}, Flow: "f2", Lives: 2}}
	want[0].Result = Result{Offset: 0, Reread: 3, Why: Interleaved, Note: "records of both sides mix"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := ms.Translate(Where{"dst", "orders", 0, 100}, "src", nil); len(got) != 1 || got[0].Flow != "return" {
		t.Errorf("by cluster.id: got %+v", got)
	}
	if got := ms.Translate(Where{"east", "orders", 0, 3}, "north", nil); got != nil {
		t.Errorf("to a cluster without a copy: got %+v", got)
	}
	for to, want := range map[string][]Where{"": {{"west", "orders", 0, 0}}, "dst": {{"west", "orders", 0, 0}}, "north": nil} {
		if got := ms.Counterparts(Where{"east", "orders", 0, 3}, to); !slices.Equal(got, want) {
			t.Errorf("counterparts in %q: got %+v, want %+v", to, got, want)
		}
	}
	if got := ms.Translate(Where{"east", "nothing", 0, 3}, "", nil); got != nil {
		t.Errorf("a topic without a copy: got %+v", got)
	}
}

// TestPositionBeforeACut asks where copies would stand without the end of their
// history, and what leader epochs the rest is of.
func TestPositionBeforeACut(t *testing.T) {
	ms := NewMaps()
	ms.Attach("dst", caughtUp{})
	of := func(epoch int32, h *ledger.Hop) *ledger.Hop {
		h.SourceLeaderEpoch, h.DestinationLeaderEpoch = epoch, 9
		return h
	}
	idle := &ledger.Hop{Copy: testCopy.Key(), Epoch: 1, From: 20, Next: 25, SourceLeaderEpoch: 7, DestinationLeaderEpoch: -1, Gaps: []ledger.Gap{{Source: 20, Count: 5, Reason: ledger.Control}}}
	feed(ms, 0, begin(1, 0), of(3, hop(1, 0, 5, 0)), of(3, hop(1, 5, 5, 6)), of(7, hop(1, 10, 10, 20)), idle)
	const all = math.MaxInt64
	for _, c := range []struct {
		name                string
		source, destination int64
		want                Position
	}{
		{"all of it", all, all, Position{true, false, 1, "prod", 25, 30, 7, 9, []SourceEpoch{{0, 3}, {10, 7}}}},
		{"a source offset in a run", 12, all, Position{true, false, 1, "prod", 12, 22, 7, 9, []SourceEpoch{{0, 3}, {10, 7}}}},
		{"where an epoch begins", 10, all, Position{true, false, 1, "prod", 10, 11, 3, 9, []SourceEpoch{{0, 3}}}},
		{"before everything", 0, all, Position{true, false, 1, "prod", 0, -1, -1, 9, []SourceEpoch{}}},
		{"a destination offset in a run", all, 8, Position{true, false, 1, "prod", 7, 8, 3, 9, []SourceEpoch{{0, 3}}}},
		{"a destination offset between runs", all, 15, Position{true, false, 1, "prod", 10, 11, 3, 9, []SourceEpoch{{0, 3}}}},
		{"behind the end", all, 30, Position{true, false, 1, "prod", 25, 30, 7, 9, []SourceEpoch{{0, 3}, {10, 7}}}},
	} {
		got, err := ms.PositionBefore(t.Context(), "dst", testCopy, c.source, c.destination)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
	feed(ms, 9, &ledger.Retraction{Copy: testCopy.Key(), Epoch: 1, Source: 12, Destination: 22, Lost: ledger.LostAtSource}, of(8, hop(1, 12, 3, 40)))
	want := Position{true, false, 1, "prod", 15, 43, 8, 9, []SourceEpoch{{0, 3}, {10, 7}, {12, 8}}}
	if got, err := ms.Position(t.Context(), "dst", testCopy); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("after a retraction: got %+v, %v, want %+v", got, err, want)
	}
}

// TestChainsAreComposedOnce: a round asks for each group, and a list of positions for
// each of them, what went around a ring; only a copy that went on makes that anew.
func TestChainsAreComposedOnce(t *testing.T) {
	ms := NewMaps()
	ends := []ledger.End{testCopy.Source, testCopy.Destination, {Cluster: "third", TopicID: ledger.TopicID{3}}}
	ids := make([]ledger.CopyID, len(ends))
	run := func(i int, next int64) *ledger.Hop {
		return &ledger.Hop{Copy: ids[i].Key(), Epoch: 1, From: next - 5, Next: next, Runs: []ledger.Run{{Source: next - 5, Count: 5, Destination: next + 95, Path: ledger.Raw}}}
	}
	for i := range ends {
		ids[i] = ledger.CopyID{Source: ends[i], Destination: ends[(i+1)%3]}
		feedTo(ms, ids[i].Destination.Cluster, 0, &ledger.Begin{Copy: ids[i], Epoch: 1, Lane: "lane"}, run(i, 5))
	}
	back := func() *Map { return ms.Route(ends[0], ends[1]).Back }
	first := back()
	if first == nil || first.ID() != (ledger.CopyID{Source: ends[1], Destination: ends[0]}) || back() != first {
		t.Fatalf("got %+v, then %+v", first, back())
	}
	feedTo(ms, ends[2].Cluster, 2, run(1, 10))
	feedTo(ms, ends[0].Cluster, 2, &ledger.Hop{Copy: ids[2].Key(), Epoch: 1, From: 5, Next: 105, Runs: []ledger.Run{{Source: 100, Count: 5, Destination: 300, Path: ledger.Raw}}, Gaps: []ledger.Gap{{Source: 5, Count: 95, Reason: ledger.Filtered}}})
	if again := back(); again == first || again.DestinationNext() != 305 || back() != again {
		t.Errorf("after the copies went on: got %+v", again)
	}
	ms.Corrupt(tail.Position{Cluster: ends[0].Cluster, Offset: 3}, &ledger.CorruptError{Reason: "bad"})
	damaged := back()
	if damaged.doubt == "" || back() != damaged {
		t.Errorf("while damage lasts it is composed for each question: %q", damaged.doubt)
	}
	feedTo(ms, ends[0].Cluster, 4, &ledger.Hop{Copy: ids[2].Key(), Epoch: 1, From: 105, Next: 110, Runs: []ledger.Run{{Source: 105, Count: 5, Destination: 305, Path: ledger.Raw}}})
	if mended := back(); mended == damaged || mended.doubt != "" {
		t.Errorf("after a hop that missed nothing: %q", mended.doubt)
	}
	ms.Resume(ends[0].Cluster, ledger.TopicID{1}, map[int32]int64{0: 0})
	ms.Resume(ends[0].Cluster, ledger.TopicID{2}, map[int32]int64{0: 0}) // another ledger
	if got := back(); got != nil || len(ms.chains) != 0 {
		t.Errorf("a ledger that is gone: got %+v of %d", got, len(ms.chains))
	}
}
