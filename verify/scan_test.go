package verify

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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

// TestAt finds one record of each kind of place, by one fetch, or says why there is none.
func TestAt(t *testing.T) {
	flipped := clone(batch(t, 8, 0, recs("g", "h")...))
	flipped[len(flipped)-1] ^= 1
	compacted := batch(t, 14, 0, recs("k", "m")...)
	compacted.SetBaseOffset(15)
	l := &log{start: 2, batches: []record.Batch{
		batch(t, 2, record.LZ4, recs("a", "b")...),
		transactional(batch(t, 4, 0, recs("aborted")...), 7), marker(t, 5, 7, false),
		transactional(batch(t, 6, 0, recs("c")...), 9), marker(t, 7, 9, true),
		flipped,
		batch(t, 10, record.Zstd, rec(string(make([]byte, 5000)))),
		compacted, // 11 to 14 are gone
		transactional(batch(t, 17, 0, recs("open")...), 8),
	}, aborted: []Aborted{{7, 4}}, stable: 17}
	for _, c := range []struct {
		offset int64
		want   string
	}{
		{1, "the log begins at offset 2"},
		{2, "a in 2-3"},
		{3, "b in 2-3"},
		{4, "aborted, or is the marker"},
		{5, "aborted, or is the marker"},
		{6, "c in 6-6"},
		{7, "aborted, or is the marker"},
		{9, "its batch cannot be read"},
		{10, "more than 1000 bytes"},
		{12, "compacted away"},
		{16, "m in 15-16"},
		{17, "a transaction is open from offset 17 on"},
		{18, "the log ends at offset 18"},
	} {
		l.fetches = 0
		b, rec, err := At(t.Context(), l, c.offset, 1000)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%s in %d-%d", rec.Value, b.BaseOffset(), b.LastOffset())
		} else if !errors.Is(err, ErrNoRecord) {
			t.Errorf("offset %d: %v", c.offset, err)
		}
		if !strings.Contains(got, c.want) || l.fetches != 1 {
			t.Errorf("offset %d: got %q after %d fetches, want %q", c.offset, got, l.fetches, c.want)
		}
	}
	l.fail = func(int64) error { return errors.New("away") }
	if _, _, err := At(t.Context(), l, 3, 1000); err == nil || errors.Is(err, ErrNoRecord) {
		t.Errorf("a cluster that does not answer: got %v", err)
	}
}
