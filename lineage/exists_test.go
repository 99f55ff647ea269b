package lineage

import (
	"errors"
	"strings"
	"testing"
)

// TestNoSuchEvent: what lies behind the end of a log, or in no partition, was not produced
// there and will not be copied next; and where the cluster cannot be asked it is not known.
func TestNoSuchEvent(t *testing.T) {
	l := &live{ends: map[string]int64{"id-a/0": 630, "id-a/1": 5}}
	x, f := open(t, Config{Live: l})
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 100, 0))
	f.page('a', production('a', "User:shop", 630, 639)) // newer than what the cluster has answered
	cases := []struct {
		name              string
		partition         int32
		offset            int64
		unreachable       error
		origin            bool
		notFound, unknown string
	}{
		{name: "copied", offset: 99, origin: true, unreachable: errors.New("down")},
		{name: "pending", offset: 629, origin: true},
		{name: "pending, of a partition of which nothing is told", partition: 1, offset: 4, origin: true},
		{name: "recorded", offset: 635, origin: true, unreachable: errors.New("down")},
		{name: "behind the end", offset: 999_999, notFound: "ends at offset 630"},
		{name: "far behind it", offset: 1<<63 - 1, notFound: "ends at offset 630"},
		{name: "no such partition", partition: 99, notFound: "partition 99 of topic orders"},
		{name: "not known", offset: 640, unreachable: errors.New("down"), unknown: "where the log ends is not known: down"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l.endsErr = c.unreachable
			at := Address{Cluster: "id-a", Topic: "orders", Partition: c.partition, Offset: c.offset}
			a, err := x.Event(t.Context(), alice, at)
			if c.notFound != "" {
				if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), c.notFound) {
					t.Fatalf("got %+v %v, want not found: %s", a, err, c.notFound)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(a.Nodes[0].Unknown, "; ")
			if a.Nodes[0].Origin != c.origin || !strings.Contains(got, c.unknown) || c.unknown == "" && strings.Contains(got, "whether there is") {
				t.Errorf("got origin %v, unknown: %s", a.Nodes[0].Origin, got)
			}
		})
	}
	l.endsErr = nil
	page, err := x.Copies(t.Context(), alice, RangeQuery{At: Address{Cluster: "id-a", Topic: "orders"}, Last: 1 << 62})
	if err != nil || page.Last != 629 {
		t.Errorf("a range beyond the end: up to %d, %v, want 629", page.Last, err)
	}
	if _, err := x.Copies(t.Context(), alice, RangeQuery{At: Address{Cluster: "id-a", Topic: "orders", Partition: 99}, Last: 10}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a range of no partition: got %v", err)
	}
}
