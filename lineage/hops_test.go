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
