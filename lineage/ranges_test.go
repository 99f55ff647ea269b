package lineage

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// show draws rows in a form that a test can state.
func show(rows []RangeRow) (lines []string) {
	side := func(s Stretch) string {
		switch {
		case s.Redacted:
			return "?"
		case s.First < 0:
			return s.Cluster
		}
		return fmt.Sprintf("%s %d-%d", s.Cluster, s.First, s.Last)
	}
	for _, r := range rows {
		line := fmt.Sprintf("%d: %s > %s", r.Hops, side(r.Source), side(r.Destination))
		if r.Records > 0 {
			line += fmt.Sprintf(" x%d", r.Records)
		}
		for _, reason := range slices.Sorted(maps.Keys(r.Gaps)) {
			line += fmt.Sprintf(" %s %d", reason, r.Gaps[reason])
		}
		if r.ReplicaNode != "" {
			line += " " + r.ReplicaNode
		}
		lines = append(lines, line)
	}
	return lines
}

func ask(first, last int64, cluster string) RangeQuery {
	return RangeQuery{At: orders(cluster, first), Last: last}
}

func TestCopiesOfARange(t *testing.T) {
	x, f := open(t, Config{})
	chain(f)
	for _, c := range []struct {
		name string
		q    RangeQuery
		want []string
	}{
		{"down two hops", ask(3, 12, "a"), []string{"1: a 3-12 > b 1003-1012 x10 n1", "1: a 3-12 > d 3-9 x7 filtered 3 n1", "2: b 1003-1012 > c 8-17 x10 n1"}},
		{"what is on its way", ask(58, 70, "a"), []string{
			"1: a 58-70 > b 1058-1070 x13 n1", "1: a 58-70 > d pending 13", "2: b 1058-1059 > c 63-64 x2 n1", "2: b 1060-1070 > c pending 11",
		}},
		{"from the end of it, with its siblings", ask(8, 9, "c"), []string{"1: b 1003-1004 > c 8-9 x2 n1", "2: a 3-4 > b 1003-1004 x2 n1", "3: a 3-4 > d 3-4 x2 n1"}},
		{"up only", RangeQuery{At: orders("c", 8), Last: 9, Way: Upstream}, []string{"1: b 1003-1004 > c 8-9 x2 n1", "2: a 3-4 > b 1003-1004 x2 n1"}},
		{"down only, from the middle", RangeQuery{At: orders("b", 1003), Last: 1003, Way: Downstream}, []string{"1: b 1003-1003 > c 8-8 x1 n1"}},
		{"each by itself", RangeQuery{At: orders("a", 8), Last: 12, Exact: true, Way: Downstream}, []string{
			"1: a 8-12 > b 1008-1012 x5 n1", "1: a 8-9 > d 8-9 x2 n1", "1: a 10-12 > d filtered 3 n1", "2: b 1008-1012 > c 13-17 x5 n1",
		}},
		{"gaps only", ask(0, 9, "b"), []string{"1: b 0-9 > c not-asked 10 n1"}},
		{"to the end", ask(95, -1, "a"), []string{"1: a 95-99 > b 1095-1099 x5 n1", "1: a 95-99 > d pending 5", "2: b 1095-1099 > c pending 5"}},
		{"nothing that is known", ask(500, -1, "a"), nil},
	} {
		page, err := x.Copies(t.Context(), alice, c.q)
		if err != nil || page.Next != "" || page.Truncated != "" || !slices.Equal(show(page.Rows), c.want) {
			t.Errorf("%s: got %+v %v\n  %s\nwant\n  %s", c.name, page, err, strings.Join(show(page.Rows), "\n  "), strings.Join(c.want, "\n  "))
		}
	}
	page, err := x.Copies(t.Context(), alice, ask(3, 12, "a"))
	if err != nil || page.First != 3 || page.Last != 12 {
		t.Fatalf("got %+v %v", page, err)
	}
	if r := page.Rows[0]; r.Flow != "a-to-b" || r.Fleet != "prod" || r.Epoch != 1 || r.Path != "raw" || r.At == nil || !r.At.Equal(t0.Add(60e9)) || r.Source.TopicID != id('a').String() {
		t.Errorf("got %+v", r)
	}
}

// TestCopiesThatWereCutUp: hops of two owners, with markers in between at both
// sides, are few rows; each run by itself if that is wanted.
func TestCopiesThatWereCutUp(t *testing.T) {
	x, f := open(t, Config{})
	control := func(at int64) ledger.Gap { return ledger.Gap{Source: at, Count: 1, Reason: ledger.Control} }
	f.page('b', begin('a', 'b', 1))
	dest := int64(0)
	for o := int64(0); o < 100; o += 5 {
		epoch := uint64(1)
		if o >= 50 {
			epoch = 2
		}
		if o == 50 {
			taken := begin('a', 'b', 2)
			taken.Resume = 50
			f.page('b', taken)
		}
		f.page('b', hop('a', 'b', epoch, o, 4, dest, control(o+4)))
		dest += 5
	}
	page, err := x.Copies(t.Context(), alice, ask(0, -1, "a"))
	if want := []string{"1: a 0-49 > b 0-48 x40 control 10 n1", "1: a 50-99 > b 50-98 x40 control 10 n2"}; err != nil || !slices.Equal(show(page.Rows), want) {
		t.Errorf("got %q %v, want %q", show(page.Rows), err, want)
	}
	page, err = x.Copies(t.Context(), alice, RangeQuery{At: orders("a", 3), Last: 11, Exact: true})
	want := []string{"1: a 3-3 > b 3-3 x1 n1", "1: a 4-4 > b control 1 n1", "1: a 5-8 > b 5-8 x4 n1", "1: a 9-9 > b control 1 n1", "1: a 10-11 > b 10-11 x2 n1"}
	if err != nil || !slices.Equal(show(page.Rows), want) {
		t.Errorf("got %q %v, want %q", show(page.Rows), err, want)
	}
	// A marker of the destination's lies between its records and came from nowhere.
	if page, err = x.Copies(t.Context(), alice, ask(4, 4, "b")); err != nil || len(page.Rows) != 0 {
		t.Errorf("got %q %v", show(page.Rows), err)
	}
}

func TestCopiesAreRedacted(t *testing.T) {
	auth := rights{"id-a/orders": true, "id-c/orders": true}
	x, f := open(t, Config{Authorizer: auth})
	chain(f)
	page, err := x.Copies(t.Context(), alice, ask(3, 12, "a"))
	want := []string{"1: a 3-12 > ?", "1: a 3-12 > ?", "2: ? > c 8-17"}
	if err != nil || !slices.Equal(show(page.Rows), want) {
		t.Errorf("got %q %v, want %q", show(page.Rows), err, want)
	}
	x.Corrupt(tail.Position{Cluster: "id-b", TopicID: ledger.TopicID{'L', 'b'}, Offset: 77}, &ledger.CorruptError{Reason: "torn"})
	page, err = x.Copies(t.Context(), alice, ask(3, 12, "a"))
	if err != nil || !slices.Equal(page.Unknown, []string{"what a copy did that you may not see", "whether there are copies that are not named: a ledger is damaged"}) {
		t.Errorf("damage: got %+v %v", page, err)
	}
	text, _ := json.Marshal(page)
	for _, secret := range []string{"a-to-b", "id-b", "id-d", "prod", "n1", "1003", "filtered", "raw", "torn"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the answer tells %q: %s", secret, text)
		}
	}
	delete(auth, "id-a/orders")
	if _, err := x.Copies(t.Context(), alice, ask(3, 12, "a")); !errors.Is(err, ErrDenied) {
		t.Errorf("got %v, want %v", err, ErrDenied)
	}
}

// TestCopiesThatMeetAreToldOnce: one event that came to one place by two ways is told
// with each of its four copies once, from wherever it is asked for.
func TestCopiesThatMeetAreToldOnce(t *testing.T) {
	x, f := open(t, Config{})
	for _, c := range []string{"ab", "ac", "bd", "cd"} {
		f.page(c[1], begin(c[0], c[1], 1), hop(c[0], c[1], 1, 0, 10, 0))
	}
	for _, cluster := range []string{"a", "b", "c", "d"} {
		page, err := x.Copies(t.Context(), alice, RangeQuery{At: orders(cluster, 3), Last: 7, Exact: true})
		if err != nil || len(page.Rows) != 4 {
			t.Errorf("from %s: got %q %v", cluster, show(page.Rows), err)
		}
	}
}

// TestHowHiddenCopiesWereCutUpIsHidden: two worlds whose hidden copies have the same
// records in other hops, with other gaps, give the same rows.
func TestHowHiddenCopiesWereCutUpIsHidden(t *testing.T) {
	var answers [2]string
	for i := range answers {
		x, f := open(t, Config{Dir: fmt.Sprint(i), InMemory: true, Authorizer: rights{"id-a/orders": true}})
		f.page('b', begin('a', 'b', 1))
		if i == 0 {
			f.page('b', hop('a', 'b', 1, 0, 100, 0))
			f.page('a', begin('c', 'a', 1), hop('c', 'a', 1, 0, 100, 0))
		} else {
			f.page('b', hop('a', 'b', 1, 0, 10, 5, ledger.Gap{Source: 10, Count: 7, Reason: ledger.Filtered}), hop('a', 'b', 1, 17, 3, 70))
			f.page('a', begin('c', 'a', 1), hop('c', 'a', 1, 0, 7, -1, ledger.Gap{Source: 0, Count: 7, Reason: ledger.Filtered}),
				hop('c', 'a', 1, 7, 40, 0, ledger.Gap{Source: 47, Count: 33, Reason: ledger.Filtered}), hop('c', 'a', 1, 80, 50, 50))
		}
		for _, exact := range []bool{false, true} {
			page, err := x.Copies(t.Context(), alice, RangeQuery{At: orders("a", 0), Last: 99, Exact: exact})
			if err != nil {
				t.Fatal(err)
			}
			text, _ := json.Marshal(page)
			answers[i] += string(text)
		}
	}
	if answers[0] != answers[1] {
		t.Errorf("the answers tell the worlds apart:\n%s\n%s", answers[0], answers[1])
	}
}

// tangle is a random graph with rings and diamonds in it: every copy takes some of
// its source's offsets, cut up by gaps and by what others wrote to its destination.
// What came back to where it has been is a gap, as copies have it.
func tangle(f *feeder, r *rand.Rand) {
	const clusters = "abcde"
	type where struct {
		cluster byte
		offset  int64
	}
	ends := map[byte]int64{}
	passed := map[where][]byte{} // where the record at a place has been
	for _, c := range []byte("ab") {
		for range 20 {
			passed[where{c, ends[c]}] = []byte{c}
			ends[c]++
		}
	}
	done := map[[2]byte]int64{}
	for range 14 {
		from, to := clusters[r.IntN(len(clusters))], clusters[r.IntN(len(clusters))]
		k := [2]byte{from, to}
		at := done[k]
		n := min(ends[from]-at, 1+r.Int64N(15))
		if from == to || n <= 0 {
			continue
		}
		h := &ledger.Hop{Copy: copyOf(from, to).Key(), Epoch: 1, From: at, Next: at + n, At: t0}
		for o := at; o < at+n; o++ {
			ends[to] += r.Int64N(2) // somebody else's, or a marker
			path := passed[where{from, o}]
			if path == nil {
				path = []byte{from}
			}
			if slices.Contains(path, to) || r.IntN(6) == 0 {
				h.Gaps = append(h.Gaps, ledger.Gap{Source: o, Count: 1, Reason: ledger.Returned})
				continue
			}
			passed[where{to, ends[to]}] = append(slices.Clone(path), to)
			h.Runs = append(h.Runs, ledger.Run{Source: o, Count: 1, Destination: ends[to], Path: ledger.Raw})
			ends[to]++
		}
		if at == 0 {
			f.page(to, begin(from, to, 1))
		}
		done[k] = h.Next
		f.page(to, h)
	}
}

// TestCopiesAgainstEvents: the copies of a range are those of each event in it, in
// graphs with rings and diamonds; in pages of any size, too.
func TestCopiesAgainstEvents(t *testing.T) {
	copies := 0
	for seed := range uint64(9) {
		r := rand.New(rand.NewPCG(seed, 3))
		x, f := open(t, Config{Dir: fmt.Sprint(seed), InMemory: true})
		tangle(f, r)
		for _, cluster := range []string{"a", "b", "c", "d", "e"} {
			if _, err := x.Copies(t.Context(), alice, ask(0, -1, "id-"+cluster)); errors.Is(err, ErrNotFound) {
				continue
			}
			first := r.Int64N(20)
			last := first + r.Int64N(25)
			want := map[string]bool{}
			for o := first; o <= last; o++ {
				a, err := x.Event(t.Context(), alice, orders("id-"+cluster, o))
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range a.Edges {
					s, d := a.Nodes[e.From], a.Nodes[e.To]
					want[fmt.Sprintf("%s/%d > %s/%d", s.Cluster, s.Offset, d.Cluster, d.Offset)] = true
				}
			}
			copies += len(want)
			for _, limit := range []int{0, 7, 1} {
				got := map[string]bool{}
				q := RangeQuery{At: orders("id-"+cluster, first), Last: last, Exact: true, Limit: limit}
				for pages := 0; ; pages++ {
					page, err := x.Copies(t.Context(), alice, q)
					if err != nil || limit > 0 && len(page.Rows) > limit || pages > 500 {
						t.Fatalf("seed %d: got %+v %v", seed, page, err)
					}
					for _, row := range page.Rows {
						for i := range row.Records {
							got[fmt.Sprintf("%s/%d > %s/%d", row.Source.Cluster, row.Source.First+i, row.Destination.Cluster, row.Destination.First+i)] = true
						}
					}
					if q.Cursor = page.Next; q.Cursor == "" {
						break
					}
				}
				if !maps.Equal(got, want) {
					t.Fatalf("seed %d, cluster %s, %d to %d, limit %d:\ngot  %v\nwant %v", seed, cluster, first, last, limit,
						slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
				}
			}
		}
	}
	if copies < 250 {
		t.Errorf("only %d copies were asked for", copies)
	}
}

// TestCopiesOfRecreatedTopics: each life has its own; what is of an earlier one is
// for those who may see it.
func TestCopiesOfRecreatedTopics(t *testing.T) {
	auth := rights{"id-a/orders": true, "id-b/orders": true}
	x, f := open(t, Config{Authorizer: auth})
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 10, 0))
	again := begin('a', 'b', 5)
	again.Copy.Source.TopicID[5] = 1
	h := hop('a', 'b', 5, 0, 10, 50)
	h.Copy = again.Copy.Key()
	f.page('b', again, h)
	want := func(q RangeQuery, lines ...string) {
		t.Helper()
		page, err := x.Copies(t.Context(), alice, q)
		if err != nil || !slices.Equal(show(page.Rows), lines) {
			t.Errorf("got %+v %v, want %q", page, err, lines)
		}
	}
	want(ask(3, 4, "a"), "1: a 3-4 > b 53-54 x2 n5")
	want(ask(0, 60, "b"), "1: a 0-9 > b 50-59 x10 n5", "1: ? > b 0-9")
	auth["id-a"] = true
	want(ask(0, 60, "b"), "1: a 0-9 > b 50-59 x10 n5", "1: a 0-9 > b 0-9 x10 n1")
	old := ask(3, 4, "a")
	old.At.TopicID = id('a').String()
	want(old, "1: a 3-4 > b 3-4 x2 n1")
	old.Last = 11
	want(old, "1: a 3-9 > b 3-9 x7 n1", "1: a 10-11 > b ended 2")
}

// TestCopiesAreBounded: ledgers that say what cannot be, and questions that want too
// much, end, and say so.
func TestCopiesAreBounded(t *testing.T) {
	x, f := open(t, Config{Limits: Limits{Nodes: 3, Depth: 2, Looks: 1000}})
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 1_000_000, 0))
	f.page('a', begin('b', 'a', 1), hop('b', 'a', 1, 0, 1_000_000, 1)) // each copies every event of the other one offset on
	page, err := x.Copies(t.Context(), alice, ask(500, 500, "a"))
	if err != nil || page.Truncated != "after 1000 looks at the index" || len(page.Rows) == 0 || len(page.Rows) > 2 {
		t.Errorf("loop: got %+v %v", page, err)
	}
	for _, to := range []byte("cd") {
		f.page(to, begin(to-1, to, 1), hop(to-1, to, 1, 0, 9, 0))
	}
	page, err = x.Copies(t.Context(), alice, RangeQuery{At: orders("b", 5), Last: 5, Way: Downstream})
	if err != nil || page.Truncated == "" {
		t.Errorf("too many places: got %+v %v", page, err)
	}
	deep, g := open(t, Config{Dir: "deep", InMemory: true, Limits: Limits{Depth: 2}})
	for _, to := range []byte("bcd") {
		g.page(to, begin(to-1, to, 1), hop(to-1, to, 1, 0, 9, 0))
	}
	page, err = deep.Copies(t.Context(), alice, ask(5, 6, "a"))
	if want := []string{"1: a 5-6 > b 5-6 x2 n1", "2: b 5-6 > c 5-6 x2 n1"}; err != nil || page.Truncated != "after 2 hops" || !slices.Equal(show(page.Rows), want) {
		t.Errorf("too deep: got %+v %v", page, err)
	}
}

// TestAHugeRangeComesInPages: of a range of many hops each page looks at a bounded part, the
// pages join, and nothing is told twice.
func TestAHugeRangeComesInPages(t *testing.T) {
	x, f := open(t, Config{Limits: Limits{Looks: 1000}})
	f.page('b', begin('a', 'b', 1))
	const hops = 3_000
	for i := int64(0); i < hops; i += 100 {
		var page []ledger.Entry
		for j := i; j < i+100; j++ {
			page = append(page, hop('a', 'b', 1, j, 1, 2*j))
		}
		f.page('b', page...)
	}
	q := RangeQuery{At: orders("a", 0), Last: math.MaxInt64}
	var records, next int64
	pages := 0
	for ; ; pages++ {
		page, err := x.Copies(t.Context(), alice, q)
		if err != nil || page.First != next || pages > 40 {
			t.Fatalf("page %d: got %+v %v", pages, page, err)
		}
		next = page.Last + 1
		for _, r := range page.Rows {
			records += r.Records
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	if records != hops || pages < 3 || next != math.MaxInt64 {
		t.Errorf("got %d records in %d pages up to %d", records, pages, next)
	}
}

func TestQuestionsAboutCopiesThatCannotBeRight(t *testing.T) {
	x, f := open(t, Config{})
	chain(f)
	for _, c := range []struct {
		name string
		q    RangeQuery
		want error
	}{
		{"ends before it begins", ask(9, 3, "a"), ErrInvalid},
		{"begins below 0", ask(-1, 3, "a"), ErrInvalid},
		{"no direction", RangeQuery{At: orders("a", 0), Way: "sideways"}, ErrInvalid},
		{"a cursor of another list", RangeQuery{At: orders("a", 0), Last: 9, Cursor: "AAAA"}, ErrInvalid},
		{"no cursor at all", RangeQuery{At: orders("a", 0), Last: 9, Cursor: "?"}, ErrInvalid},
		{"a cursor before the range", RangeQuery{At: orders("a", 5), Last: 9, Cursor: rangeCursor{3, 1, 0}.String()}, ErrInvalid},
		{"a cursor without a length", RangeQuery{At: orders("a", 5), Last: 9, Cursor: rangeCursor{5, 0, 0}.String()}, ErrInvalid},
		{"a cluster that no ledger mentions", ask(0, 9, "z"), ErrNotFound},
		{"no cluster", ask(0, 9, ""), ErrInvalid},
	} {
		if page, err := x.Copies(t.Context(), alice, c.q); !errors.Is(err, c.want) {
			t.Errorf("%s: got %+v %v, want %v", c.name, page, err, c.want)
		}
	}
	// A cursor behind the range, or one that skips everything, is the end.
	for _, c := range []rangeCursor{{1 << 40, 1, 0}, {9, 1, math.MaxInt32}, {9, math.MaxInt64, 0}} {
		page, err := x.Copies(t.Context(), alice, RangeQuery{At: orders("a", 0), Last: 9, Cursor: c.String()})
		if err != nil || page.Next != "" {
			t.Errorf("%+v: got %+v %v", c, page, err)
		}
	}
}

// FuzzRangeCursor: whatever a caller carries about is refused or lies in the range.
func FuzzRangeCursor(f *testing.F) {
	f.Add(rangeCursor{5, 100, 3}.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := readRangeCursor(text, span{5, 10})
		if err == nil && (c.offset < 5 || c.length < 1 || c.skip < 0) {
			t.Errorf("%q is read as %+v", text, c)
		}
	})
}
