package verify

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
)

func TestScan(t *testing.T) {
	flipped := clone(batch(t, 6, 0, recs("g", "h")...))
	flipped[len(flipped)-1] ^= 1
	l := &log{batches: []record.Batch{
		batch(t, 0, 0, recs("a", "b")...),
		transactional(batch(t, 2, 0, recs("aborted")...), 7), marker(t, 3, 7, false),
		transactional(batch(t, 4, 0, recs("c")...), 7), marker(t, 5, 7, true),
		flipped,
		batch(t, 8, record.Zstd, recs("i", "j", "k")...),
		batch(t, 11, record.Zstd, rec(string(make([]byte, 5000)))),
		transactional(batch(t, 12, 0, recs("open")...), 8),
	}, aborted: []Aborted{{7, 2}}, stable: 12}
	for _, c := range []struct {
		name   string
		offset int64
		most   int
		want   []string
		next   int64
	}{
		{"all", 0, 100, []string{"0 a", "1 b", "4 c", "unread 6-8", "8 i", "9 j", "10 k", "unread 11-12"}, 12},
		{"from within a batch", 9, 100, []string{"9 j", "10 k", "unread 11-12"}, 12},
		{"from within a damaged one", 7, 1, []string{"unread 7-8", "8 i"}, 9},
		{"as many as are wanted", 1, 2, []string{"1 b", "4 c"}, 5},
	} {
		var got []string
		s, err := Scan(t.Context(), l, c.offset, 1000, func(r *record.Record) bool {
			got = append(got, fmt.Sprintf("%d %s", r.Offset, r.Value))
			return len(got) < c.most
		})
		for _, u := range s.Unread {
			got = append(got, fmt.Sprintf("unread %d-%d", u.First, u.Next))
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if err != nil || !slices.Equal(got, c.want) || s.Next != c.next || s.Stable != 12 || s.Bytes == 0 {
			t.Errorf("%s: got %q and %+v, %v, want %q and to go on at %d", c.name, got, s, err, c.want, c.next)
		}
	}
	l.fail = func(int64) error { return errors.New("away") }
	if _, err := Scan(t.Context(), l, 0, 1000, func(*record.Record) bool { return true }); err == nil {
		t.Error("a cluster that does not answer is no error")
	}
}
