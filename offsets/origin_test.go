package offsets

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

var (
	north = ledger.Life{Cluster: "north", TopicID: ledger.TopicID{7}}
	south = ledger.Life{Cluster: "south", TopicID: ledger.TopicID{8}}
	src   = begin(1, 0).Copy.Source.Life()
)

func TestOrigin(t *testing.T) {
	other := begin(1, 0)
	other.Copy.Source.Cluster = "elsewhere"
	at := other.Copy.Destination
	routed := &ledger.Hop{
		Copy: begin(1, 0).Copy.Key(), Epoch: 1, From: 5, Next: 30,
		Runs: []ledger.Run{
			{Source: 5, Count: 5, Destination: 105, Path: ledger.Raw, Route: 1},
			{Source: 10, Count: 5, Destination: 110, Path: ledger.Raw, Route: 2},
			{Source: 15, Count: 5, Destination: 121, Path: ledger.Raw, Route: 2},
			{Source: 20, Count: 10, Destination: 126, Path: ledger.Raw},
		},
		Routes: []ledger.Route{{north}, {north, south}},
	}
	ms := NewMaps()
	feed(ms, 0, begin(1, 0), hop(1, 0, 5, 100), routed, other,
		&ledger.Hop{Copy: other.Copy.Key(), Epoch: 1, From: 0, Next: 5, Untraced: true, Runs: []ledger.Run{{Count: 5, Destination: 200}}},
		&ledger.Hop{Copy: other.Copy.Key(), Epoch: 1, From: 5, Next: 7, Runs: []ledger.Run{{Source: 5, Count: 2, Destination: 205}}},
		&ledger.Writer{Cluster: "dst", ProducerID: 9}, &ledger.Writer{Cluster: "another", ProducerID: 10})
	cases := []struct {
		offset int64
		want   string
	}{
		{99, "nobody's"},
		{100, "to 105 by src"},
		{104, "to 105 by src"},
		{105, "to 110 by north src"},
		{112, "to 115 by north south src"},
		{115, "nobody's"}, // a marker, or somebody else's
		{121, "to 126 by north south src"},
		{135, "to 136 by src"},
		{136, "nobody's"},
		{201, "to 205 by elsewhere, untraced"},
		{205, "to 207 by elsewhere"},
		{207, "nobody's"},
	}
	for _, c := range cases {
		got := "nobody's"
		if o, ok := ms.Origin(at, c.offset); ok {
			got = fmt.Sprintf("to %d by", o.Next)
			for _, l := range o.Route {
				got += " " + l.Cluster
			}
			if o.Untraced {
				got += ", untraced"
			}
		}
		if got != c.want {
			t.Errorf("offset %d: got %s, want %s", c.offset, got, c.want)
		}
	}
	if at.Partition++; slices.ContainsFunc([]int64{100, 205}, func(o int64) bool { _, ok := ms.Origin(at, o); return ok }) {
		t.Error("another partition is answered for")
	}
	known := func(cluster string, pid int64) bool { known, _ := ms.Replicator(cluster, pid); return known }
	if !known("dst", 9) || known("dst", 10) || known("another", 9) || known("another", 10) {
		t.Error("a producer id counts in the cluster whose ledger has it, and only there")
	}
}

// TestTwoClaimsAreNoAnswer has two copies say that they wrote the same offsets.
func TestTwoClaimsAreNoAnswer(t *testing.T) {
	other := begin(1, 0)
	other.Copy.Source.Cluster = "elsewhere"
	ms := NewMaps()
	feed(ms, 0, begin(1, 0), hop(1, 0, 5, 100), other,
		&ledger.Hop{Copy: other.Copy.Key(), Epoch: 1, From: 0, Next: 5, Runs: []ledger.Run{{Count: 5, Destination: 103}}})
	for offset, want := range map[int64]bool{102: true, 103: false, 104: false, 105: true} {
		if _, ok := ms.Origin(other.Copy.Destination, offset); ok != want {
			t.Errorf("offset %d: got %v, want %v", offset, ok, want)
		}
	}
}

// TestOriginsAgainstList holds the folded routes against one for each offset, with
// retractions between.
func TestOriginsAgainstList(t *testing.T) {
	for seed := range seeds(50) {
		rng := rand.New(rand.NewPCG(seed, 3))
		ms, b := NewMaps(), begin(1, 0)
		feed(ms, 0, b)
		all := []ledger.Route{{north}, {south}, {north, south}}
		list := map[int64]ledger.Route{}
		var source, dest int64
		image := map[int64]int64{}
		for page := int64(1); page < 60; page++ {
			if rng.IntN(10) == 0 && source > 0 {
				cut := rng.Int64N(source)
				to := dest
				for x := cut; x < source; x++ {
					if d, ok := image[x]; ok {
						to = min(to, d)
						delete(image, x)
						delete(list, d)
					}
				}
				feed(ms, page, &ledger.Retraction{Copy: b.Copy.Key(), Epoch: 1, Source: cut, Destination: to})
				source, dest = cut, to
				continue
			}
			h := &ledger.Hop{Copy: b.Copy.Key(), Epoch: 1, From: source, Routes: all}
			for range 1 + rng.IntN(4) {
				r := ledger.Run{Source: source, Count: 1 + rng.Int64N(3), Destination: dest + rng.Int64N(2), Path: ledger.Raw, Route: rng.IntN(4)}
				for i := range r.Count {
					list[r.Destination+i] = h.RouteOf(r)
					image[r.Source+i] = r.Destination + i
				}
				source, dest = source+r.Count, r.Destination+r.Count
				h.Runs = append(h.Runs, r)
			}
			h.Next = source
			feed(ms, page, h)
		}
		for y := range dest + 3 {
			o, ok := ms.Origin(b.Copy.Destination, y)
			want, has := list[y]
			if ok != has || ok && !slices.Equal(o.Route, append(slices.Clip(want), src)) {
				t.Fatalf("seed %d, offset %d: got %v %v, want %v %v", seed, y, o.Route, ok, want, has)
			}
			for z := y; ok && z < o.Next; z++ {
				if w, has := list[z]; !has || !slices.Equal(w, want) {
					t.Fatalf("seed %d: offsets %d to %d are said to be of one way", seed, y, o.Next)
				}
			}
		}
	}
}

func TestReadLedger(t *testing.T) {
	ms := NewMaps()
	if _, err := ms.ReadLedger(t.Context(), "dst"); err == nil {
		t.Error("a ledger that nobody reads was taken for read")
	}
	ms.Attach("dst", caughtUp{absent: true})
	if exists, err := ms.ReadLedger(t.Context(), "dst"); exists || err != nil {
		t.Errorf("absent: got %v, %v", exists, err)
	}
	ms.Attach("dst", caughtUp{})
	if exists, err := ms.ReadLedger(t.Context(), "dst"); !exists || err != nil {
		t.Errorf("there: got %v, %v", exists, err)
	}
	ms.Corrupt(tail.Position{Cluster: "dst", Offset: 3}, &ledger.CorruptError{Reason: "checksum does not match"})
	if _, err := ms.ReadLedger(t.Context(), "dst"); !errors.Is(err, ErrUncertain) {
		t.Errorf("damaged: got %v", err)
	}
	ms.Waive("dst", 0, 3)
	if _, err := ms.ReadLedger(t.Context(), "dst"); err != nil {
		t.Errorf("waived: got %v", err)
	}
	ms.Attach("dst", caughtUp{err: tail.ErrRecreated})
	if _, err := ms.ReadLedger(t.Context(), "dst"); !errors.Is(err, tail.ErrRecreated) {
		t.Errorf("recreated: got %v", err)
	}
}

// What the source has lost is from there all the same: copies of it stay where they
// are, and whoever copies on from there asks.
func TestOriginOfWhatTheSourceHasLost(t *testing.T) {
	b := begin(1, 0)
	routed := hop(1, 5, 10, 105)
	routed.Runs[0].Route, routed.Routes = 1, []ledger.Route{{north}}
	for _, lost := range []ledger.LostSide{ledger.LostAtSource, ledger.LostAtDestination} {
		ms := NewMaps()
		feed(ms, 0, b, hop(1, 0, 5, 100), routed, &ledger.Retraction{Copy: b.Copy.Key(), Epoch: 1, Source: 3, Destination: 103, Lost: lost}, hop(1, 3, 4, 120))
		for _, c := range []struct {
			offset int64
			next   int64 // 0: nobody's
			route  int
		}{{102, 103, 1}, {103, 105, 1}, {110, 115, 2}, {115, 0, 0}, {121, 124, 1}} {
			if lost == ledger.LostAtDestination && c.offset >= 103 && c.offset < 120 {
				c.next, c.route = 0, 0
			}
			o, ok := ms.Origin(b.Copy.Destination, c.offset)
			if ok != (c.next > 0) || o.Next != c.next || len(o.Route) != c.route {
				t.Errorf("lost at the %v, offset %d: got %+v, %v, want up to %d by a route of %d", lost, c.offset, o, ok, c.next, c.route)
			}
		}
	}
}

func TestArrivals(t *testing.T) {
	hop := &ledger.Hop{
		Copy: begin(1, 0).Copy.Key(), Epoch: 1, From: 0, Next: 5,
		Runs: []ledger.Run{{Count: 5, Destination: 7, Path: ledger.Raw, Route: 1}}, Routes: []ledger.Route{{north}},
	}
	second := begin(2, 0)
	second.Copy.Source.Partition, second.Copy.Destination.Partition = 1, 1
	second.At = time.UnixMilli(5)
	ms := NewMaps()
	feed(ms, 0, begin(1, 0), hop, second)
	for _, c := range []struct {
		of      ledger.Life
		cluster string
		want    []bool // Through
	}{
		{src, "dst", []bool{false}},
		{north, "dst", []bool{true}},
		{south, "dst", nil},
		{src, "elsewhere", nil},
	} {
		var got []bool
		for _, a := range ms.Arrivals(c.of, c.cluster) {
			got = append(got, a.Through)
			if a.Fleet != "prod" || a.Since.IsZero() && !a.Through {
				t.Errorf("got %+v", a)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v to %s: got %v, want %v", c.of, c.cluster, got, c.want)
		}
	}
}
