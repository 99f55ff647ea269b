package offsets

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

var testCopy = ledger.CopyID{
	Source:      ledger.End{Cluster: "src", TopicID: ledger.TopicID{1}},
	Destination: ledger.End{Cluster: "dst", TopicID: ledger.TopicID{2}},
}

func begin(epoch uint64, resume int64) *ledger.Begin {
	return &ledger.Begin{
		Copy: testCopy, Epoch: epoch, Resume: resume, Flow: "f", Fleet: "prod", SourceCluster: "east", DestinationCluster: "west",
		SourceTopic: "orders", DestinationTopic: "orders", Lane: "lane",
	}
}

// hop tiles from an offset on: positive counts are runs, given as pairs of
// count and destination; gaps are pairs of count and minus the reason.
func hop(epoch uint64, from int64, pairs ...int64) *ledger.Hop {
	h := &ledger.Hop{Copy: testCopy.Key(), Epoch: epoch, From: from, Next: from, At: time.UnixMilli(1 + from)}
	for i := 0; i < len(pairs); i += 2 {
		count, dest := pairs[i], pairs[i+1]
		if dest < 0 {
			h.Gaps = append(h.Gaps, ledger.Gap{Source: h.Next, Count: count, Reason: ledger.Reason(-dest)})
		} else {
			h.Runs = append(h.Runs, ledger.Run{Source: h.Next, Count: count, Destination: dest, Path: ledger.Raw})
		}
		h.Next += count
	}
	return h
}

// plainBegin opens an epoch without transactions.
func plainBegin(epoch uint64, resume int64) *ledger.Begin {
	b := begin(epoch, resume)
	b.Lane = ledger.PlainLane("lane")
	return b
}

func fold(entries ...ledger.Entry) *Map {
	m := NewMap()
	for _, e := range entries {
		m.Apply(e)
	}
	return m
}

const (
	gapControl  = -int64(ledger.Control)
	gapAborted  = -int64(ledger.Aborted)
	gapFiltered = -int64(ledger.Filtered)
	gapQuarant  = -int64(ledger.Quarantined)
	gapNotAsked = -int64(ledger.NotAsked)
)

// TestWhatCameTooLateIsToldAgain: a hop of an owner that was gone stands before the
// begin of the next one, who had not read it.
func TestWhatCameTooLateIsToldAgain(t *testing.T) {
	whole := begin(2, 10)
	whole.Lane = ""
	for name, next := range map[string]*ledger.Begin{"a mirror topic": whole, "without transactions": plainBegin(2, 10)} {
		m := fold(begin(1, 0), hop(1, 0, 10, 100), hop(1, 10, 10, 110), next)
		if o, ok := m.origin(115); m.Next() != 10 || !ok || o.Next != 120 {
			t.Errorf("%s: the copy stands at %d before that is told again, and 115 is from there: %v %v", name, m.Next(), ok, o)
		}
		m.Apply(hop(2, 10, 20, 110))
		for x, want := range map[int64]int64{0: 100, 9: 109, 10: 110, 19: 119, 29: 129, 30: 130} {
			if got := (Route{There: m}).Translate(x, AnyBounds); got.Offset != want || !got.Exact {
				t.Errorf("%s: %d is at %+v, want %d", name, x, got, want)
			}
		}
		if len(m.Faults()) > 0 {
			t.Errorf("%s: %v", name, m.Faults())
		}
		// It happens again, further down.
		again := *next
		again.Epoch, again.Resume = 3, 5
		m.Apply(&again)
		if want := []orphan{{105, 130}}; !slices.Equal(m.routes.orphans, want) {
			t.Errorf("%s: orphans %v, want %v", name, m.routes.orphans, want)
		}
	}
	lost := &ledger.Retraction{Copy: testCopy.Key(), Epoch: 3, Source: 4, Destination: 107, Lost: ledger.LostAtDestination}
	if m := fold(begin(1, 0), hop(1, 0, 10, 100), plainBegin(3, 4), lost); !slices.Equal(m.routes.orphans, []orphan{{104, 107}}) {
		t.Errorf("the destination lost it, too: orphans %v", m.routes.orphans)
	}
	if m := fold(begin(1, 5), hop(1, 5, 5, 105), plainBegin(2, 3), hop(2, 3, 7, 103)); m.Start() != 3 || m.Next() != 10 {
		t.Errorf("told again from before it began: from %d to %d", m.Start(), m.Next())
	}
	if m := fold(begin(1, 0), hop(1, 0, 10, 100), hop(1, 10, 10, 110), begin(2, 10)); len(m.Faults()) != 1 {
		t.Errorf("in transactions, where no hop can be late: %v", m.Faults())
	}
}

// KAFKA-12635 (a position without anything known of it), KAFKA-10048 (offset 0, empty
// partitions), KAFKA-13985 (what a filter leaves out).
func TestTranslate(t *testing.T) {
	plain := fold(begin(1, 0), hop(1, 0, 10, 100), hop(1, 10, 10, 111))
	gaps := fold(begin(1, 0), hop(1, 0, 5, 0, 1, gapControl, 2, gapAborted, 5, 5, 1, gapControl))
	late := fold(begin(1, 50), hop(1, 50, 5, 0))
	asked := fold(begin(1, 0), hop(1, 0, 50, gapNotAsked, 5, 0))
	dead := fold(begin(1, 0), hop(1, 0, 2, 0, 3, gapQuarant, 2, 2))
	filtered := fold(begin(1, 0), hop(1, 0, 2, 0, 3, gapFiltered, 2, 2))
	holed := fold(begin(1, 0), hop(1, 0, 5, 0), hop(1, 8, 5, 9))
	empty := fold(begin(1, 0))
	onlyGaps := fold(begin(1, 0), hop(1, 0, 4, gapAborted, 1, gapControl))
	gapReturned := -int64(ledger.Returned)
	born := fold(begin(1, 100), hop(1, 100, 10, gapReturned, 1, gapControl, 10, gapReturned, 1, gapControl, 1, 20)) // behind the copies of plain
	there := func(m *Map) Route { return Route{There: m} }
	back := func(m *Map) Route { return Route{Back: m} }
	cases := []struct {
		name   string
		route  Route
		x      int64
		bounds Bounds
		want   Result
	}{
		{"first", there(plain), 0, AnyBounds, Result{100, true, 0, 0, Copied, ""}},
		{"in the second run", there(plain), 12, AnyBounds, Result{113, true, 0, 0, Copied, ""}},
		{"at the end", there(plain), 20, AnyBounds, Result{121, true, 0, 0, AtEnd, ""}},
		{"at the end, behind our marker", there(plain), 20, Bounds{0, 122, 122}, Result{122, true, 0, 0, AtEnd, ""}},
		{"at the end, before what was born there", Route{There: plain, Back: born}, 20, Bounds{0, 123, 123}, Result{122, true, 0, 0, AtEnd, ""}},
		{"at the end, others have written", there(plain), 20, Bounds{0, 125, 125}, Result{121, true, 0, 0, AtEnd, ""}},
		{"at the end, without transactions", there(fold(plainBegin(1, 0), hop(1, 0, 10, 100))), 10, Bounds{0, 111, 111}, Result{110, true, 0, 0, AtEnd, ""}},
		{"ahead", there(plain), 21, AnyBounds, Result{-1, false, 0, 0, Ahead, "copied up to offset 20"}},
		{"negative", there(plain), -1, AnyBounds, Result{-1, false, 0, 0, Invalid, "offset is negative"}},
		{"no copy", Route{}, 3, AnyBounds, Result{-1, false, 0, 0, NoCopy, "no copy connects the two partitions"}},
		{"no begin", there(fold(hop(1, 0, 5, 0))), 0, AnyBounds, Result{-1, false, 0, 0, Unknown, "the ledger has no begin of this copy"}},
		{"expired there", there(plain), 2, Bounds{105, 121, 121}, Result{105, false, 0, 0, Expired, "the copy was at offset 102, the log begins at 105"}},
		{"truncated there", there(plain), 15, Bounds{0, 112, 112}, Result{-1, false, 0, 0, Lost, "the copy was at offset 116, the log ends at 112"}},
		{"at a marker", there(gaps), 5, AnyBounds, Result{5, true, 0, 0, InGap, "control"}},
		{"in an aborted transaction", there(gaps), 7, AnyBounds, Result{5, true, 0, 0, InGap, "aborted"}},
		{"at the last marker", there(gaps), 13, AnyBounds, Result{10, true, 0, 0, InGap, "control"}},
		{"after the last marker", there(gaps), 14, AnyBounds, Result{10, true, 0, 0, AtEnd, ""}},
		{"before the start", there(late), 20, AnyBounds, Result{0, false, 0, 30, BeforeStart, "the copy began at offset 50"}},
		{"not asked for", there(asked), 20, AnyBounds, Result{0, false, 0, 30, InGap, "not-asked"}},
		{"in quarantine", there(dead), 3, AnyBounds, Result{2, false, 0, 2, InGap, "quarantined"}},
		{"filtered", there(filtered), 3, AnyBounds, Result{2, true, 0, 0, InGap, "filtered"}},
		{"in a hole", there(holed), 6, AnyBounds, Result{-1, false, 0, 0, Unknown, "a hop begins at offset 8, the one before it ended at 5"}},
		{"at a hole", there(holed), 5, AnyBounds, Result{-1, false, 0, 0, Unknown, "a hop begins at offset 8, the one before it ended at 5"}},
		{"before a hole", there(holed), 4, AnyBounds, Result{4, true, 0, 0, Copied, ""}},
		{"behind a hole", there(holed), 8, AnyBounds, Result{9, true, 0, 0, Copied, ""}},
		{"empty partition", there(empty), 0, AnyBounds, Result{-1, false, 0, 0, NothingCopied, ""}},
		{"empty partition, end known", there(empty), 0, Bounds{0, 7, 7}, Result{7, true, 0, 0, NothingCopied, ""}},
		{"empty partition, ahead", there(empty), 1, Bounds{0, 7, 7}, Result{-1, false, 0, 0, Ahead, "copied up to offset 0"}},
		{"only gaps", there(onlyGaps), 5, Bounds{0, 0, 0}, Result{0, true, 0, 0, NothingCopied, ""}},
		{"back: first", back(plain), 100, AnyBounds, Result{0, true, 0, 0, Copied, ""}},
		{"back: before the first", back(plain), 7, AnyBounds, Result{0, true, 0, 0, Copied, ""}},
		{"back: at our marker", back(plain), 110, AnyBounds, Result{10, true, 0, 0, Copied, ""}},
		{"back: at the end", back(plain), 121, AnyBounds, Result{20, true, 0, 0, AtEnd, ""}},
		{"back: beyond the end", back(plain), 500, AnyBounds, Result{20, true, 0, 0, AtEnd, ""}},
		{"back: over a marker", back(gaps), 5, AnyBounds, Result{8, true, 0, 0, Copied, ""}},
		{"back: over the last marker", back(gaps), 10, AnyBounds, Result{14, true, 0, 0, AtEnd, ""}},
		{"back: stops at filtered", back(filtered), 2, AnyBounds, Result{2, true, 0, 0, InGap, "filtered"}},
		{"back: before the start", back(late), 0, AnyBounds, Result{50, true, 0, 0, Copied, ""}},
		{"back: at a hole", back(holed), 5, AnyBounds, Result{-1, false, 0, 0, Unknown, "a hop begins at offset 8, the one before it ended at 5"}},
		{"back: expired", back(plain), 100, Bounds{4, 20, 20}, Result{4, false, 0, 0, Expired, "the copy was at offset 0, the log begins at 4"}},
		{
			"another flow mixes in",
			Route{There: plain, Others: []*Map{fold(begin(1, 0), hop(1, 0, 1, 110))}},
			3, AnyBounds,
			Result{103, false, 0, 0, Interleaved, "flow f writes the same partition"},
		},
		{
			"another flow wrote before",
			Route{There: plain, Others: []*Map{fold(begin(1, 0), hop(1, 0, 9, 10))}},
			3, AnyBounds,
			Result{103, true, 0, 0, Copied, ""},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := c.route.Translate(c.x, c.bounds); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestFold(t *testing.T) {
	cases := []struct {
		name    string
		entries []ledger.Entry
		next    int64
		dest    int64
		tiles   int
		fault   string // contained in the first fault, "" for none
	}{
		{"runs with one difference merge", []ledger.Entry{begin(1, 0), hop(1, 0, 5, 50), hop(1, 5, 5, 55), hop(1, 10, 5, 61)}, 15, 66, 2, ""},
		{"gaps of one reason merge", []ledger.Entry{begin(1, 0), hop(1, 0, 5, gapFiltered), hop(1, 5, 5, gapFiltered)}, 10, -1, 1, ""},
		{"an older epoch is void", []ledger.Entry{begin(3, 0), hop(2, 0, 5, 0), begin(2, 7)}, 0, -1, 0, ""},
		{"the epoch before a begin still counts", []ledger.Entry{begin(2, 0), hop(2, 0, 5, 0), begin(3, 5), hop(3, 5, 5, 6)}, 10, 11, 2, ""},
		{"a hop is missing", []ledger.Entry{begin(1, 0), hop(1, 0, 5, 0), hop(1, 6, 5, 6)}, 11, 11, 3, "a hop begins at offset 6"},
		{"two hops overlap", []ledger.Entry{begin(1, 0), hop(1, 0, 5, 0), hop(1, 3, 5, 5)}, 8, 10, 3, "two hops claim the offsets from 3"},
		{"a hop is repeated", []ledger.Entry{begin(1, 0), hop(1, 0, 5, 0), hop(1, 0, 5, 5)}, 5, -1, 1, "two hops claim"},
		{"a hop lies before the start", []ledger.Entry{begin(1, 9), hop(1, 2, 3, 0)}, 9, -1, 1, "two hops claim"},
		{"destination goes backwards", []ledger.Entry{begin(1, 0), hop(1, 0, 5, 50), hop(1, 5, 5, 40)}, 10, 55, 2, "destination offset 40 is below 55"},
		{"begin beyond the ledger", []ledger.Entry{begin(1, 0), hop(1, 0, 5, 0), begin(2, 8)}, 8, 5, 2, "epoch 2 began at offset 8, the ledger ends at 5"},
		{"begin is missing", []ledger.Entry{begin(1, 0), hop(2, 0, 5, 0)}, 5, 5, 1, "epoch 2 has no begin"},
		{"first entry is a hop", []ledger.Entry{hop(1, 4, 5, 0)}, 9, 5, 1, "its first entry is not a begin"},
		{
			"retraction cuts",
			[]ledger.Entry{begin(1, 0), hop(1, 0, 5, 0), hop(1, 5, 5, 6), &ledger.Retraction{Epoch: 1, Source: 7, Destination: 8}},
			7, 8, 2, "",
		},
		{
			"retraction and on",
			[]ledger.Entry{begin(1, 0), hop(1, 0, 10, 0), &ledger.Retraction{Epoch: 1, Source: 4, Destination: 4}, hop(1, 4, 6, 20)},
			10, 26, 2, "",
		},
		{
			"retraction of everything",
			[]ledger.Entry{begin(1, 0), hop(1, 0, 10, 0), &ledger.Retraction{Epoch: 1}, hop(1, 0, 6, 3)},
			6, 9, 1, "",
		},
		{
			"retraction that keeps what is lost",
			[]ledger.Entry{begin(1, 0), hop(1, 0, 10, 0), &ledger.Retraction{Epoch: 1, Source: 8, Destination: 5}},
			8, 5, 2, "destination offsets from 5 on were lost",
		},
		{
			"retraction of an older epoch is void",
			[]ledger.Entry{begin(2, 0), hop(2, 0, 10, 0), &ledger.Retraction{Epoch: 1, Source: 8, Destination: 8}},
			10, 10, 1, "",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := fold(c.entries...)
			if m.Next() != c.next || m.DestinationNext() != c.dest || m.Tiles() != c.tiles {
				t.Errorf("got next %d, destination %d, %d tiles; want %d, %d, %d", m.Next(), m.DestinationNext(), m.Tiles(), c.next, c.dest, c.tiles)
			}
			got := ""
			if f := m.Faults(); len(f) > 0 {
				got = f[0].Why
			}
			if (got == "") != (c.fault == "") || !strings.Contains(got, c.fault) {
				t.Errorf("got fault %q, want %q", got, c.fault)
			}
		})
	}
}

func TestGaps(t *testing.T) {
	m := fold(begin(1, 0), hop(1, 0, 5, 0, 1, gapControl, 4, 5), hop(1, 12, 3, gapFiltered))
	want := []Gap{
		{5, 1, "control", ""},
		{10, 2, "unknown", "a hop begins at offset 12, the one before it ended at 10"},
		{12, 3, "filtered", ""},
	}
	got := m.Gaps(0, 100, 100)
	if len(got) != len(want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
	if got := m.Gaps(6, 11, 1); len(got) != 1 || got[0] != want[1] {
		t.Errorf("got %+v, want %+v", got, want[1])
	}
}

// BenchmarkTranslate shows what a map costs by the number of its runs: memory, the
// fold, an answer either way. Records do not count: a run has a hundred, or a million.
func BenchmarkTranslate(b *testing.B) {
	for _, runs := range []int64{1_000, 10_000, 100_000, 1_000_000} {
		for _, records := range []int64{100, 1_000_000} {
			b.Run(fmt.Sprintf("runs=%d/records=%d", runs, runs*records), func(b *testing.B) {
				before, began := heap(), time.Now()
				m := fold(begin(1, 0))
				for i := range runs {
					m.Apply(hop(1, i*records, records, i*(records+1)))
				}
				folded := time.Since(began)
				if int64(m.Tiles()) != runs {
					b.Fatalf("got %d tiles", m.Tiles())
				}
				size := heap() - before
				x := int64(0)
				for b.Loop() {
					x = (x + 7_777_777) % (runs * records)
					there := Route{There: m}.Translate(x, AnyBounds)
					if back := (Route{Back: m}).Translate(there.Offset, AnyBounds); !there.Exact || back.Offset != x {
						b.Fatal(there, back)
					}
				}
				b.ReportMetric(float64(size)/float64(runs), "bytes/run")
				b.ReportMetric(float64(folded.Nanoseconds())/float64(runs), "ns/fold")
			})
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// TestTranslateInAMesh: what a third cluster sent to both sides is not skipped, though
// neither side sent it to the other.
func TestTranslateInAMesh(t *testing.T) {
	end := func(name string) ledger.End { return ledger.End{Cluster: name, TopicID: ledger.TopicID{name[0]}} }
	ms := NewMaps()
	offset := map[string]int64{}
	say := func(from, to string, runs []ledger.Run, gaps ...ledger.Gap) {
		id := ledger.CopyID{Source: end(from), Destination: end(to)}
		h := &ledger.Hop{Copy: id.Key(), Epoch: 1, Runs: runs, Gaps: gaps}
		for _, r := range runs {
			h.Next = max(h.Next, r.Source+r.Count)
		}
		for _, g := range gaps {
			h.Next = max(h.Next, g.Source+g.Count)
		}
		for _, e := range []ledger.Entry{&ledger.Begin{Copy: id, Epoch: 1}, h} {
			ms.Apply(tail.Position{Cluster: to, Offset: offset[to]}, &ledger.Page{Entries: []ledger.Entry{e}})
			offset[to]++
		}
	}
	// a has a0 a1 c0 c1, b has c0 c1 a0 a1, c has c0 c1.
	run := func(source, destination int64) []ledger.Run {
		return []ledger.Run{{Source: source, Count: 2, Destination: destination, Path: ledger.Raw}}
	}
	say("a", "b", run(0, 2), ledger.Gap{Source: 2, Count: 2, Reason: ledger.NotLocal})
	say("c", "a", run(0, 2))
	say("c", "b", run(0, 0))
	for x, want := range []struct{ offset, reread int64 }{{0, 0}, {0, 1}, {0, 2}, {1, 2}, {4, 0}} {
		got := ms.Route(end("a"), end("b")).Translate(int64(x), AnyBounds)
		if got.Offset != want.offset || got.Reread != want.reread {
			t.Errorf("position %d: got %+v, want offset %d and %d read again", x, got, want.offset, want.reread)
		}
	}
}

// TestStranded: what was born at the destination, and does not come home.
func TestStranded(t *testing.T) {
	// 0 1 | 2: ours, 3 marker | 4: ours, 5 marker, 6 7 foreign | 8 ours, 9 marker
	m := fold(begin(1, 0), hop(1, 0, 1, 2), hop(1, 1, 1, 4), hop(1, 2, 1, 8))
	plain := fold(plainBegin(1, 0), hop(1, 0, 1, 2), hop(1, 1, 1, 4), hop(1, 2, 1, 8))
	for x, want := range []struct{ marked, plain int64 }{{4, 7}, {3, 6}, {2, 5}, {2, 5}, {2, 4}, {2, 4}, {2, 3}, {1, 2}, {0, 1}, {0, 1}, {0, 0}} {
		if got := (Route{Back: m}).Stranded(int64(x), 10); got != want.marked {
			t.Errorf("from %d: got %d, want %d", x, got, want.marked)
		}
		if got := (Route{Back: plain}).Stranded(int64(x), 10); got != want.plain {
			t.Errorf("from %d, without markers: got %d, want %d", x, got, want.plain)
		}
	}
	within := fold(begin(1, 0), hop(1, 0, 1, 2, 1, 4, 1, 8)) // of one transaction, so 3 is somebody else's record
	if got := (Route{Back: within}).Stranded(3, 8); got != 4 {
		t.Errorf("within a transaction: got %d, want 4", got)
	}
	if got := (Route{Back: m}).Stranded(9, 14); got != 4 {
		t.Errorf("behind the last: got %d, want 4", got)
	}
	if got := (Route{Back: m}).Stranded(3, -1); got != -1 {
		t.Errorf("the end is not known: got %d, want -1", got)
	}
	if got := (Route{There: m, Back: m}).Stranded(0, 10); got != 0 {
		t.Errorf("with a flow back: got %d", got)
	}
	if got := (Route{Back: fold(begin(1, 0))}).Stranded(3, 10); got != 7 {
		t.Errorf("nothing copied: got %d, want 7", got)
	}
}
