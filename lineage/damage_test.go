package lineage

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// damagedLedger is the ledger of b, of a copy that changes hands once and is taken back
// once, and where the records that it copied are: of source offset o at destination
// image[o].
func damagedLedger() (pages [][]byte, image map[int64]int64) {
	one, two, three := ledger.NewChain(ledger.WriterID{1}), ledger.NewChain(ledger.WriterID{2}), ledger.NewChain(ledger.WriterID{3})
	second, third, other := begin('a', 'b', 2), begin('a', 'b', 3), begin('c', 'b', 1)
	second.Resume, third.Resume = 30, 50
	writer := &ledger.Writer{Cluster: "id-b", ProducerID: 4001, Lane: "lane"}
	back := &ledger.Retraction{Copy: copyOf('a', 'b').Key(), Epoch: 3, Source: 40, Destination: 44}
	pages = [][]byte{
		one.Encode([]ledger.Entry{writer, begin('a', 'b', 1), hop('a', 'b', 1, 0, 10, 0)}),
		three.Encode([]ledger.Entry{other, hop('c', 'b', 1, 0, 5, 900)}),
		one.Encode([]ledger.Entry{hop('a', 'b', 1, 10, 10, 11)}),
		one.Encode([]ledger.Entry{hop('a', 'b', 1, 20, 5, 22, ledger.Gap{Source: 25, Count: 5, Reason: ledger.Aborted})}),
		two.Encode([]ledger.Entry{second, hop('a', 'b', 2, 30, 10, 33)}),
		three.Encode([]ledger.Entry{hop('c', 'b', 1, 5, 5, 906)}),
		two.Encode([]ledger.Entry{hop('a', 'b', 2, 40, 10, 44)}),
		two.Encode([]ledger.Entry{third, back, hop('a', 'b', 3, 40, 10, 60)}), // up to where it had been
		two.Encode([]ledger.Entry{hop('a', 'b', 3, 50, 10, 71)}),
		three.Encode([]ledger.Entry{hop('c', 'b', 1, 10, 5, 1000)}),
	}
	image = map[int64]int64{}
	for _, r := range [][3]int64{{0, 10, 0}, {10, 10, 11}, {20, 5, 22}, {30, 10, 33}, {40, 10, 60}, {50, 10, 71}} {
		for i := range r[1] {
			image[r[0]+i] = r[2] + i
		}
	}
	return pages, image
}

// readAs has an index read pages of a ledger as a tail does: from the start with all
// chains, or, from each of the offsets in again on, as after a restart.
func readAs(x *Index, cluster string, pages [][]byte, again ...int) {
	chains, whole := ledger.Chains{}, true
	for i, b := range pages {
		pos := tail.Position{Cluster: cluster, TopicID: ledger.TopicID{'L', cluster[len(cluster)-1]}, Offset: int64(i)}
		if slices.Contains(again, i) {
			chains, whole = ledger.Chains{}, false
		}
		page, err := ledger.Decode(b)
		var broken error
		switch {
		case err == nil && whole:
			broken = chains.Verify(page)
		case err == nil:
			broken = chains.Adopt(page)
		}
		if fault := cmp.Or(err, broken); fault != nil {
			x.Corrupt(pos, fault)
			if chain, ok := errors.AsType[*ledger.ChainError](fault); ok && chain.Old() {
				continue
			}
		}
		if page != nil {
			x.Apply(pos, page)
		}
	}
}

// neverWrong asks for every offset of both sides and holds the answers against what is
// so; it returns how many of them are unknown, and what is wrong.
func neverWrong(t *testing.T, x *Index, image map[int64]int64) (unknown int, wrong []string) {
	origin := map[int64]int64{}
	for s, d := range image {
		origin[d] = s
	}
	vague := func(a *Answer) bool {
		return slices.ContainsFunc(a.Nodes[0].Unknown, func(s string) bool { return strings.Contains(s, "ledger of b") })
	}
	for o := range int64(70) {
		a, err := x.Event(t.Context(), alice, orders("id-a", o))
		if errors.Is(err, ErrNotFound) {
			unknown++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, e := range a.Edges {
			if to := a.Nodes[e.To]; e.From == 0 && e.Uncertain == "" {
				said = append(said, fmt.Sprintf("copied to %d", to.Offset))
			}
		}
		for _, n := range a.Nodes[0].NotCopied {
			if n.Reason != "unknown" || n.Why == "" {
				said = append(said, n.Reason)
			}
		}
		want := "pending"
		if d, ok := image[o]; ok {
			want = fmt.Sprintf("copied to %d", d)
		} else if o < 60 {
			want = "aborted"
		}
		switch {
		case slices.Equal(said, []string{want}):
		case len(said) == 0 && (vague(a) || len(a.Edges)+len(a.Nodes[0].NotCopied) > 0):
			unknown++
		default:
			wrong = append(wrong, fmt.Sprintf("a/%d: %v, want %s", o, said, want))
		}
	}
	for d := range int64(90) {
		a, err := x.Event(t.Context(), alice, orders("id-b", d))
		if errors.Is(err, ErrNotFound) {
			unknown++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		said := ""
		for _, e := range a.Edges {
			if from := a.Nodes[e.From]; e.To == 0 && e.Uncertain == "" {
				said = fmt.Sprintf("came from %d", from.Offset)
			}
		}
		if a.Nodes[0].Origin {
			said += "origin"
		}
		want := "origin" // or a marker, of which nobody asks
		if s, ok := origin[d]; ok {
			want = fmt.Sprintf("came from %d", s)
		}
		switch {
		case said == want:
		case said == "" && (vague(a) || len(a.Edges) > 0):
			unknown++
		default:
			wrong = append(wrong, fmt.Sprintf("b/%d: %s, want %s", d, said, want))
		}
	}
	return unknown, append(wrong, wrongGaps(t, x, image)...)
}

// wrongGaps is what is wrong in the list of source offsets that have no copy: each is
// there with its reason or as unknown, and none that was copied is, unless the list says
// why it may be otherwise.
func wrongGaps(t *testing.T, x *Index, image map[int64]int64) (wrong []string) {
	page, err := x.Gaps(t.Context(), alice, orders("id-a", 0), 69)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	said := map[int64]string{}
	for _, g := range page.Gaps {
		if (g.Reason == reasonUnknown) != (g.Why != "") {
			wrong = append(wrong, fmt.Sprintf("gap %+v", g))
		}
		for o := g.Source; o < g.Source+g.Count && g.Flow == "a-to-b"; o++ {
			said[o] = g.Reason
		}
	}
	known := x.known(place{topicKey: topicKey{"id-a", id('a')}}.end())
	for o := range min(known, 60) {
		_, copied := image[o]
		switch r := said[o]; {
		case r == reasonUnknown, r == "aborted" && !copied, r == "" && (copied || len(page.Unknown) > 0):
		default:
			wrong = append(wrong, fmt.Sprintf("a/%d is in the gaps as %q of %+v", o, r, page))
		}
	}
	return wrong
}

// change puts a page in the place of another.
func change(pages [][]byte, i int, page []byte) [][]byte {
	pages = slices.Clone(pages)
	pages[i] = page
	return pages
}

func flipped(b []byte) []byte {
	b = slices.Clone(b)
	b[len(b)/2] ^= 4
	return b
}

func newer(b []byte) []byte {
	b = slices.Clone(b)
	b[2] = ledger.FoldVersion + 1
	return b
}

// elsewhere is a page of the ledger of another cluster, which speaks of the same topic.
func elsewhere(first bool) []byte {
	b := begin('a', 'z', 1)
	chain := ledger.NewChain(ledger.WriterID{9})
	page := chain.Encode([]ledger.Entry{b, hop('a', 'z', 1, 0, 10, 500)})
	if !first {
		page = chain.Encode([]ledger.Entry{hop('a', 'z', 1, 10, 10, 510)})
	}
	return page
}

// fate is what is said of what became of an event at a, or of where one at b is from.
func fate(t *testing.T, x *Index, at Address) string {
	a, err := x.Event(t.Context(), alice, at)
	if err != nil {
		return err.Error()
	}
	for _, e := range a.Edges {
		if e.From == 0 || e.To == 0 {
			other := a.Nodes[e.From+e.To]
			return strings.TrimSpace(fmt.Sprintf("%s/%d %s", other.Cluster, other.Offset, e.Uncertain))
		}
	}
	for _, n := range a.Nodes[0].NotCopied {
		return strings.TrimSuffix(n.Reason+": "+n.Why, ": ")
	}
	if a.Nodes[0].Origin {
		return "origin"
	}
	return cmp.Or(append(a.Nodes[0].Unknown, "nothing")...)
}

// gapsOf is the list of source offsets that have no copy, and whether it may lack some.
func gapsOf(t *testing.T, x *Index) string {
	page, err := x.Gaps(t.Context(), alice, orders("id-a", 0), 69)
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, g := range page.Gaps {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%d+%d %s %s", g.Source, g.Count, g.Reason, g.Why)))
	}
	if len(page.Unknown) > 0 {
		all = append(all, "doubts")
	}
	return strings.Join(all, "; ")
}

// TestDamagedLedger is the table of docs/lineage.md: what a check finds in a ledger that
// is not as it was written, and what is answered about an event of which the damaged
// page spoke (page 3, of source offsets 20 to 30), upstream and downstream, and about
// ones before and after.
func TestDamagedLedger(t *testing.T) {
	whole, _ := damagedLedger()
	forged := forge(t, whole[3], hop('a', 'b', 1, 15, 10, 22))
	lost := slices.Delete(slices.Clone(whole), 3, 4)
	const (
		resumed = "the ledger of b: epoch 2 began at source offset 30, the hops before it ended at 20"
		short   = "the ledger of b: epoch 2 began at source offset 30, the hops before it ended at 25"
		epoch   = "the ledger of b: the begin of epoch 3 is missing"
		silence = "unknown: " + resumed
		origin  = "whether it was produced here or came by a copy: the ledger of b"
		missing = "b/5 the ledger of b: pages may be missing (partition 0, offset 3): "
		damaged = " is damaged (partition 0, offset 3): "
		corrupt = "corrupt ledger page: checksum does not match"
		future  = "ledger page of a newer version: 3, this program knows 2"
		aborted = "25+5 aborted"
		unsaid  = "20+10 unknown " + resumed + "; doubts"
		quiet   = ": it is silent of some of what a copy brought here, or contradicts itself"
	)
	for _, c := range []struct {
		name                          string
		pages                         [][]byte
		again                         []int // restarts of the reader
		check                         string
		before, event, upstream, late string
		gaps                          string
	}{
		{"whole", whole, nil, "", "b/5", "b/24", "a/22", "b/76", aborted},
		{"corrupted", change(whole, 3, flipped(whole[3])), nil, "altered@3 contradiction@4", missing + corrupt, silence, origin + damaged + corrupt, "b/76", unsaid},
		{"lost", lost, nil, "contradiction@3", "b/5 " + resumed, silence, origin + quiet, "b/76", unsaid},
		{"of a newer version", change(whole, 3, newer(whole[3])), nil, "newer@3 contradiction@4", missing + future, silence, origin + damaged + future, "b/76", unsaid},
		{"altered, with all sums right", change(whole, 3, forged), nil, "contradiction@3 contradiction@4", "b/5 " + short, "b/29 " + short, origin + quiet, "b/76", "15+5 unknown the ledger of b: two hops speak of source offsets from 15 on; 25+5 unknown " + short + "; doubts"},
		{"repeated", append(slices.Clone(whole), whole[3]), nil, "repeated@10", "b/5", "b/24", "a/22", "b/76", aborted},
		{"repeated, where the index was opened again", append(slices.Clone(whole), whole[3]), []int{len(whole)}, "repeated@10", "b/5", "b/24", "a/22", "b/76", aborted},
		{"reordered", exchanged(whole, 2, 3), nil, "removed@2 contradiction@2 reordered@3", "b/5 the ledger of b: a hop begins at source offset 20, the one before it ended at 10", "b/24", "a/22", "b/76", "10+10 unknown the ledger of b: a hop begins at source offset 20, the one before it ended at 10; 25+5 aborted; doubts"},
		{"foreign", slices.Insert(slices.Clone(whole), 3, []byte("hello")), nil, "foreign@3", "b/5", "b/24", "a/22", "b/76", aborted},
		{"of another ledger", slices.Insert(slices.Clone(whole), 3, elsewhere(true)), nil, "foreign@3", "b/5", "b/24", "a/22", "b/76", aborted},
		{
			"corrupted where the copy was taken back", change(whole, 7, flipped(whole[7])), nil, "altered@7 removed@8",
			"b/5 " + epoch, "b/24 " + epoch, "a/22 " + epoch, "b/76", "25+5 unknown it was said to be aborted, but " + epoch + "; doubts",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, _ := open(t, Config{})
			readAs(x, "id-b", c.pages, c.again...)
			check := NewChecker(nil)
			check.Cluster = "id-b"
			check.Begin(0, 0)
			for i, p := range c.pages {
				check.Record(0, int64(i), t0, p)
			}
			for _, g := range []struct{ what, got, want string }{
				{"check", strings.Join(kinds(check.Report()), " "), c.check},
				{"before", fate(t, x, orders("id-a", 5)), c.before},
				{"event", fate(t, x, orders("id-a", 22)), c.event},
				{"upstream", fate(t, x, orders("id-b", 24)), c.upstream},
				{"late", fate(t, x, orders("id-a", 55)), c.late},
				{"gaps", gapsOf(t, x), c.gaps},
			} {
				if g.got != g.want {
					t.Errorf("%s: got %q, want %q", g.what, g.got, g.want)
				}
			}
		})
	}
}

// TestDamageIsNeverToldAsTruth does to every page of a ledger what may happen to it: no
// answer is wrong.
func TestDamageIsNeverToldAsTruth(t *testing.T) {
	whole, image := damagedLedger()
	x, _ := open(t, Config{})
	readAs(x, "id-b", whole)
	if unknown, wrong := neverWrong(t, x, image); unknown > 0 || len(wrong) > 0 {
		t.Fatalf("the whole ledger: %d unknown, %v", unknown, wrong)
	}
	for i := range whole {
		for name, f := range map[string]func(p [][]byte) ([][]byte, []int){
			"corrupted":                   func(p [][]byte) ([][]byte, []int) { return change(p, i, flipped(p[i])), nil },
			"newer":                       func(p [][]byte) ([][]byte, []int) { return change(p, i, newer(p[i])), nil },
			"foreign":                     func(p [][]byte) ([][]byte, []int) { return slices.Insert(slices.Clone(p), i, []byte("hello")), nil },
			"of another ledger":           func(p [][]byte) ([][]byte, []int) { return slices.Insert(slices.Clone(p), i, elsewhere(true)), nil },
			"of the middle of another":    func(p [][]byte) ([][]byte, []int) { return slices.Insert(slices.Clone(p), i, elsewhere(false)), nil },
			"repeated":                    func(p [][]byte) ([][]byte, []int) { return slices.Insert(slices.Clone(p), i, p[i]), nil },
			"repeated at the end":         func(p [][]byte) ([][]byte, []int) { return append(slices.Clone(p), p[i]), nil },
			"repeated after a restart":    func(p [][]byte) ([][]byte, []int) { return append(slices.Clone(p), p[i]), []int{len(p)} },
			"exchanged with its neighbor": func(p [][]byte) ([][]byte, []int) { return exchanged(p, i, i+1), nil },
			"exchanged with one far off":  func(p [][]byte) ([][]byte, []int) { return exchanged(p, i, i+4), nil },
			"lost in place": func(p [][]byte) ([][]byte, []int) { // as where a log was truncated and written on
				return slices.Delete(slices.Clone(p), i, i+1), nil
			},
			"lost with the one before": func(p [][]byte) ([][]byte, []int) {
				return slices.Delete(slices.Clone(p), max(0, i-1), i+1), nil
			},
			"corrupted, read on later": func(p [][]byte) ([][]byte, []int) { return change(p, i, flipped(p[i])), []int{i} },
		} {
			if endOfChain(name, i, len(whole)) {
				continue
			}
			pages, again := f(whole)
			x, _ := open(t, Config{})
			readAs(x, "id-b", pages, again...)
			if _, wrong := neverWrong(t, x, image); len(wrong) > 0 {
				t.Errorf("page %d %s: %s", i, name, strings.Join(wrong, "\n  "))
			}
		}
	}
}

// endOfChain says that pages are gone with which a chain ends: only an anchor shows it.
func endOfChain(name string, i, n int) bool {
	return strings.HasPrefix(name, "lost") && i >= n-2 || strings.HasPrefix(name, "exchanged") && i >= n-4
}

func exchanged(pages [][]byte, i, j int) [][]byte {
	pages = slices.Clone(pages)
	j %= len(pages)
	pages[i], pages[j] = pages[j], pages[i]
	return pages
}
