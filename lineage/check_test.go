package lineage

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// writtenLedger is the pages of two writers that take turns, six each, of one copy
// each.
func writtenLedger() [][]byte {
	var pages [][]byte
	one, two := ledger.NewChain(ledger.WriterID{1}), ledger.NewChain(ledger.WriterID{2})
	pages = append(pages, one.Encode([]ledger.Entry{begin('a', 'b', 1)}), two.Encode([]ledger.Entry{begin('c', 'd', 1)}))
	for i := int64(0); i < 5; i++ {
		pages = append(pages, one.Encode([]ledger.Entry{hop('a', 'b', 1, i*10, 10, i*11)}), two.Encode([]ledger.Entry{hop('c', 'd', 1, i*10, 10, i*11)}))
	}
	return pages
}

func checkOf(start int64, pages [][]byte, anchors ...Anchor) *CheckReport {
	c := NewChecker(anchors)
	c.Begin(0, start)
	for i, p := range pages {
		c.Record(0, start+int64(i), t0, p)
	}
	c.Passed(0, start+int64(len(pages)))
	return c.Report()
}

func kinds(r *CheckReport) (found []string) {
	for _, f := range r.Findings {
		found = append(found, fmt.Sprintf("%s@%d", f.Kind, f.Offset))
	}
	return found
}

// forge is a page in the place of another, as somebody would write it who has the
// right to write to the topic, with all its sums right.
func forge(t *testing.T, page []byte, entries ...ledger.Entry) []byte {
	t.Helper()
	p, err := ledger.Decode(page)
	if err != nil {
		t.Fatal(err)
	}
	return ledger.ChainAt(p.Link).Encode(entries)
}

// TestCheck does to every record of a ledger what somebody may do to it.
func TestCheck(t *testing.T) {
	whole := writtenLedger()
	clean := checkOf(0, whole)
	if len(clean.Findings) > 0 || clean.Partitions[0].Pages != 12 || clean.Partitions[0].Writers != 2 || clean.Partitions[0].End != 12 {
		t.Fatalf("whole ledger: %+v", clean)
	}
	anchor, err := ParseAnchor(clean.Partitions[0].Anchor)
	if err != nil {
		t.Fatal(err)
	}
	if grown := checkOf(0, append(slices.Clone(whole), ledger.NewChain(ledger.WriterID{3}).Encode(nil)), anchor); len(grown.Findings) > 0 {
		t.Errorf("a ledger that has grown: %v", kinds(grown))
	}
	last := len(whole) - 2 // from here on the chains alone see nothing
	for i := range whole {
		for name, change := range map[string]func([][]byte) [][]byte{
			"removed": func(p [][]byte) [][]byte { return slices.Delete(p, i, i+1) },
			"flipped": func(p [][]byte) [][]byte {
				p[i] = slices.Clone(p[i])
				p[i][len(p[i])/2] ^= 4
				return p
			},
			"forged": func(p [][]byte) [][]byte {
				p[i] = forge(t, p[i], hop('x', 'y', 1, 0, 1, 0))
				return p
			},
			"repeated":  func(p [][]byte) [][]byte { return slices.Insert(p, i, p[i]) },
			"moved":     func(p [][]byte) [][]byte { moved := p[i]; return append(slices.Delete(p, i, i+1), moved) },
			"exchanged": func(p [][]byte) [][]byte { j := (i + 2) % len(p); p[i], p[j] = p[j], p[i]; return p },
		} {
			pages := change(slices.Clone(whole))
			if name == "moved" && slices.EqualFunc(pages, whole, func(a, b []byte) bool { return &a[0] == &b[0] }) {
				continue // it was the last
			}
			chained, anchored := checkOf(0, pages), checkOf(0, pages, anchor)
			unchained := i >= last && (name == "removed" || name == "forged" || name == "moved")
			if len(chained.Findings) == 0 && !unchained {
				t.Errorf("page %d %s: not found", i, name)
			}
			if len(anchored.Findings) == 0 && name != "moved" { // the last pages of two writers may change places: nothing says which was first
				t.Errorf("page %d %s: not found with an anchor", i, name)
			}
		}
	}
}

// TestWhatCameTooLateIsToldAgain: a hop that its copy's next owner could not have read
// when it began is no contradiction where the owner tells it again.
func TestWhatCameTooLateIsToldAgain(t *testing.T) {
	for _, c := range []struct {
		lane string
		want int
	}{{"", 0}, {ledger.PlainLane("lane"), 0}, {"lane", 1}} {
		next := begin('a', 'b', 2)
		next.Resume, next.Lane = 10, c.lane
		again := []ledger.Entry{begin('a', 'b', 1), hop('a', 'b', 1, 0, 10, 0), hop('a', 'b', 1, 10, 10, 10), next, hop('a', 'b', 2, 10, 20, 10)}
		if r := checkOf(0, [][]byte{ledger.NewChain(ledger.WriterID{1}).Encode(again)}); len(r.Findings) != c.want {
			t.Errorf("lane %q: %v", c.lane, kinds(r))
		}
		x, f := open(t, Config{})
		f.page('b', again...)
		start, end, doubt, ok := x.Extent(copyOf('a', 'b').Key())
		if !ok || start != 0 || end != 30 || (doubt != "") != (c.want > 0) {
			t.Errorf("lane %q: from %d to %d, doubt %q", c.lane, start, end, doubt)
		}
	}
}

func TestCheckNamesWhatItFound(t *testing.T) {
	whole := writtenLedger()
	flipped := slices.Clone(whole[4])
	flipped[len(flipped)-6] ^= 1
	newer := slices.Clone(whole[4])
	newer[2] = ledger.FoldVersion + 1
	alter := func(i int, p []byte) [][]byte { c := slices.Clone(whole); c[i] = p; return c }
	swapped := slices.Clone(whole)
	swapped[4], swapped[6] = swapped[6], swapped[4]
	cases := []struct {
		name  string
		start int64
		pages [][]byte
		want  string
	}{
		{"removed", 0, slices.Delete(slices.Clone(whole), 4, 5), "removed@5 contradiction@5"},
		{"flipped", 0, alter(4, flipped), "altered@4 removed@6 contradiction@6"},
		{"forged", 0, alter(4, forge(t, whole[4], hop('a', 'b', 1, 10, 10, 500))), "altered@6"},
		{"newer", 0, alter(4, newer), "newer@4 removed@6 contradiction@6"},
		{"foreign", 0, slices.Insert(slices.Clone(whole), 4, []byte("hello")), "foreign@4"},
		{"repeated", 0, slices.Insert(slices.Clone(whole), 4, whole[4]), "repeated@5"},
		{"swapped", 0, swapped, "removed@4 contradiction@4 reordered@6"},
		{"expired", 4, whole[4:], "expired@0"},
	}
	for _, c := range cases {
		if got := strings.Join(kinds(checkOf(c.start, c.pages)), " "); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	anchor, err := ParseAnchor(checkOf(0, whole).Partitions[0].Anchor)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		pages [][]byte
		want  string
	}{
		"cut at its end":     {whole[:10], "cut@12"},
		"last page forged":   {alter(11, forge(t, whole[11], hop('c', 'd', 1, 40, 10, 900))), "rewritten@12"},
		"a writer taken out": {[][]byte{whole[0], whole[2], whole[4], whole[6], whole[8], whole[10]}, "cut@12"},
		"all written anew":   {alter(10, ledger.NewChain(ledger.WriterID{9}).Encode(nil)), "rewritten@12"},
	} {
		if got := strings.Join(kinds(checkOf(0, c.pages, anchor)), " "); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
	for _, bad := range []string{"", "1:2", "x:1:00", "0:-1:" + strings.Repeat("0", 32), "0:1:zz", "0:1:00", "1:2:3:4"} {
		if a, err := ParseAnchor(bad); err == nil {
			t.Errorf("%q: got %v", bad, a)
		}
	}
}

// TestCheckOfACrowd: a report of what is broken everywhere stays small.
func TestCheckOfACrowd(t *testing.T) {
	c := NewChecker(nil)
	c.Begin(0, 0)
	for i := range int64(3 * maxFindings) {
		c.Record(0, i, t0, []byte("nothing"))
	}
	if r := c.Report(); len(r.Findings) != maxFindings || r.More != 2*maxFindings {
		t.Errorf("got %d and %d more", len(r.Findings), r.More)
	}
}
