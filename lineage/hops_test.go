package lineage

import (
	"fmt"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// TestHopsOfACopy walks what the index knows of a copy, as a comparison of both
// sides does: over a retraction, which leaves a cut run without its digest, and in
// pieces.
func TestHopsOfACopy(t *testing.T) {
	x, f := open(t, Config{})
	key := copyOf('a', 'b').Key()
	if _, _, _, ok := x.Extent(key); ok {
		t.Error("a copy is known that nobody mentioned")
	}
	if hops, err := x.Hops(key, 0, 9); err != nil || len(hops) != 0 {
		t.Errorf("got %v %v", hops, err)
	}
	f.page('b', begin('a', 'b', 1))
	if start, next, doubt, ok := x.Extent(key); !ok || start != next || doubt != "" {
		t.Errorf("begun: got %d %d %q %v", start, next, doubt, ok)
	}
	f.page('b', hop('a', 'b', 1, 0, 100, 0), hop('a', 'b', 1, 100, 100, 101), begin('c', 'b', 1), hop('c', 'b', 1, 0, 10, 900))
	first := hop('a', 'b', 1, 200, 50, 202)
	first.Runs[0].Digest = 77
	f.page('b', first, &ledger.Retraction{Copy: key, Epoch: 1, Source: 225, Destination: 227}, hop('a', 'b', 1, 225, 5, 227))
	if start, next, doubt, ok := x.Extent(key); !ok || start != 0 || next != 230 || doubt != "" {
		t.Errorf("got %d %d %q %v", start, next, doubt, ok)
	}
	for _, c := range []struct {
		behind int64
		limit  int
		want   string
	}{
		{0, 9, "[0-100 100-200 200-225 225-230]"},
		{99, 2, "[0-100 100-200]"},
		{100, 2, "[100-200 200-225]"},
		{224, 9, "[200-225 225-230]"},
		{230, 9, "[]"},
		{1 << 40, 9, "[]"},
	} {
		hops, err := x.Hops(key, c.behind, c.limit)
		got := []string{}
		for _, h := range hops {
			got = append(got, fmt.Sprintf("%d-%d", h.From, h.Next))
			if h.From == 200 && h.Runs[0].Digest != 0 {
				t.Error("a cut run has a digest")
			}
		}
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("behind %d: got %v %v, want %s", c.behind, got, err, c.want)
		}
	}
	// Whose a destination offset is: of either copy, or nobody's.
	var copied []int64
	for _, o := range []int64{0, 99, 100, 226, 231, 232, 899, 905, 910} {
		ok, err := x.Copied(end('b', 0), o)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			copied = append(copied, o)
		}
	}
	if want := []int64{0, 99, 226, 231, 905}; !slices.Equal(copied, want) {
		t.Errorf("copied: got %v, want %v", copied, want)
	}
	f.page('b', &ledger.Writer{Cluster: "id-b", ProducerID: 4001})
	for cluster, want := range map[string]bool{"id-b": true, "id-a": false} {
		if got, err := x.Writer(cluster, 4001); got != want || err != nil {
			t.Errorf("writer in %s: got %v %v", cluster, got, err)
		}
	}
	if got, err := x.Writer("id-b", 4002); got || err != nil {
		t.Errorf("got %v %v", got, err)
	}
	x.Corrupt(tail.Position{Cluster: "id-b", TopicID: ledger.TopicID{'L', 'b'}, Offset: 77}, &ledger.CorruptError{Reason: "torn"})
	if _, _, doubt, _ := x.Extent(key); doubt == "" {
		t.Error("damage leaves no doubt")
	}
}

// TestLostAtSourceBetween: a hop that tells again what two hops have told, and whose source
// loses it, has what was lost before between its runs. What is there was not produced there.
func TestLostAtSourceBetween(t *testing.T) {
	x, f := open(t, Config{})
	key := copyOf('a', 'b').Key()
	lose := func(epoch uint64, source, dest int64) *ledger.Retraction {
		return &ledger.Retraction{Copy: key, Epoch: epoch, Source: source, Destination: dest, Lost: ledger.LostAtSource}
	}
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 10, 0), hop('a', 'b', 1, 10, 3, 13), lose(1, 8, 8), hop('a', 'b', 1, 8, 2, 20))
	again := hop('a', 'b', 2, 5, 3, 5)
	again.Next, again.Runs = 10, append(again.Runs, ledger.Run{Source: 8, Count: 2, Destination: 20})
	resumed := begin('a', 'b', 2)
	resumed.Resume = 5
	f.page('b', resumed, again, lose(2, 7, 7))
	var lost, born []int64
	for o := range int64(22) {
		a, err := x.Event(t.Context(), alice, orders("b", o))
		if err != nil {
			t.Fatal(err)
		}
		switch n := a.Nodes[0]; {
		case n.SourceLost:
			lost = append(lost, o)
		case n.Origin:
			born = append(born, o)
		}
	}
	if want := []int64{7, 8, 9, 13, 14, 15, 20, 21}; !slices.Equal(lost, want) {
		t.Errorf("lost at the source: got %v, want %v", lost, want)
	}
	if want := []int64{10, 11, 12, 16, 17, 18, 19}; !slices.Equal(born, want) {
		t.Errorf("produced there: got %v, want %v", born, want)
	}
	// And what the destination loses is forgotten, wherever its hop began.
	f.page('b', begin('a', 'b', 3), &ledger.Retraction{Copy: key, Epoch: 3, Source: 7, Destination: 14, Lost: ledger.LostAtDestination})
	for o, want := range map[int64]bool{13: true, 14: false, 20: false} {
		if a, err := x.Event(t.Context(), alice, orders("b", o)); err != nil || a.Nodes[0].SourceLost != want {
			t.Errorf("%d: got %+v %v, want lost %v", o, a.Nodes[0], err, want)
		}
	}
}
