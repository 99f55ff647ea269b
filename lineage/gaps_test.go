package lineage

import (
	"fmt"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestGapsOfSeveralFlowsInPages reads a list in pieces and finds every gap of
// every flow, whichever page it came on.
func TestGapsOfSeveralFlowsInPages(t *testing.T) {
	x, f := open(t, Config{Limits: Limits{Deeds: 3}})
	var want []string
	for to, width := range map[byte]int64{'b': 10, 'c': 7} {
		f.page(to, begin('a', to, 1))
		var gaps []ledger.Gap
		for source := int64(0); source < 70; source += width {
			reason := []ledger.Reason{ledger.Aborted, ledger.Control}[len(gaps)%2] // else they would be one
			gaps = append(gaps, ledger.Gap{Source: source, Count: width, Reason: reason})
		}
		f.page(to, hop('a', to, 1, 0, 70, -1, gaps...))
		for o := range 70 {
			want = append(want, fmt.Sprintf("%d a-to-%c", o, to))
		}
	}
	var got []string
	for from, pages := int64(0), 0; pages == 0 || from > 0; pages++ {
		page, err := x.Gaps(t.Context(), alice, orders("a", from), 1<<40)
		if err != nil || pages > 40 {
			t.Fatalf("page %d from %d: got %v %v", pages, from, page, err)
		}
		for _, g := range page.Gaps {
			for o := g.Source; o < g.Source+g.Count; o++ {
				got = append(got, fmt.Sprintf("%d %s", o, g.Flow))
			}
		}
		from = page.Next
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// More flows have a gap at one offset than fit: there is nothing further on to ask for.
	f.page('d', begin('a', 'd', 1), hop('a', 'd', 1, 0, 1, -1, ledger.Gap{Source: 0, Count: 1, Reason: ledger.Control}))
	f.page('e', begin('a', 'e', 1), hop('a', 'e', 1, 0, 1, -1, ledger.Gap{Source: 0, Count: 1, Reason: ledger.Control}))
	if page, err := x.Gaps(t.Context(), alice, orders("a", 0), 0); err != nil || len(page.Gaps) != 4 || page.Next != 0 {
		t.Errorf("of one offset: got %+v %v", page, err)
	}
}

// TestALongWalkForGapsComesInPages: of many hops without a gap one page looks at so many.
func TestALongWalkForGapsComesInPages(t *testing.T) {
	x, f := open(t, Config{Limits: Limits{Looks: 3}})
	f.page('b', begin('a', 'b', 1))
	for i := range int64(10) {
		f.page('b', hop('a', 'b', 1, 10*i, 10, 11*i))
	}
	f.page('b', hop('a', 'b', 1, 100, 0, -1, ledger.Gap{Source: 100, Count: 5, Reason: ledger.Aborted}))
	var next []int64
	for from := int64(0); from >= 0; {
		page, err := x.Gaps(t.Context(), alice, orders("a", from), 1<<40)
		if err != nil || len(next) > 9 {
			t.Fatalf("from %d: %+v %v after %v", from, page, err, next)
		}
		if next, from = append(next, page.Next), page.Next; from > 0 {
			if len(page.Gaps) > 0 {
				t.Errorf("before %d: %+v", from, page.Gaps)
			}
			continue
		}
		if len(page.Gaps) != 1 || page.Gaps[0].Source != 100 || page.Gaps[0].Count != 5 {
			t.Errorf("got %+v", page.Gaps)
		}
		from = -1
	}
	if !slices.Equal(next, []int64{30, 60, 90, 0}) {
		t.Errorf("went on from %v", next)
	}
}

// TestGapsOfAHiddenFlowAreRedacted: they are listed, as one run whatever their
// reasons, and nothing else is told of them.
func TestGapsOfAHiddenFlowAreRedacted(t *testing.T) {
	x, f := open(t, Config{Authorizer: rights{"id-a/orders": true}})
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 10, -1,
		ledger.Gap{Source: 0, Count: 4, Reason: ledger.Aborted}, ledger.Gap{Source: 4, Count: 6, Reason: ledger.Control}))
	page, err := x.Gaps(t.Context(), alice, orders("id-a", 0), 1<<40)
	want := []Gap{{Count: 10, Reason: reasonRedacted}}
	if err != nil || !slices.Equal(page.Gaps, want) {
		t.Errorf("got %+v %v, want %+v", page, err, want)
	}
}
