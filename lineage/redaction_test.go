package lineage

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// world writes a random graph of copies, productions and accesses. What of it is in
// hidden topics is drawn from secret: their names, principals and offsets.
func world(x *Index, shape, secret *rand.Rand, hidden map[byte]bool) {
	f := newFeeder(x)
	const clusters = "abcdef"
	draw := func(c byte) *rand.Rand {
		if hidden[c] {
			return secret
		}
		return shape
	}
	for i := range clusters {
		c := clusters[i]
		who := fmt.Sprintf("User:%c%d", c, draw(c).IntN(1000))
		f.page(c, production(c, who, 0, 99), access(c, who, fmt.Sprintf("g%d", draw(c).IntN(1000)), 0, 49, t0))
	}
	for to := 1; to < len(clusters); to++ {
		from := shape.IntN(to)
		s, d := clusters[from], clusters[to]
		b := begin(s, d, 1)
		h := hop(s, d, 1, 0, 100, 0, ledger.Gap{Source: 100, Count: 1 + shape.Int64N(5), Reason: ledger.Aborted})
		if hidden[s] || hidden[d] {
			reasons := []ledger.Reason{ledger.Aborted, ledger.Control, ledger.Compacted}
			h.Gaps[0].Reason = reasons[secret.IntN(len(reasons))]
			b.Flow, b.Fleet, b.Node = fmt.Sprintf("f%d", secret.IntN(1000)), fmt.Sprintf("x%d", secret.IntN(1000)), fmt.Sprintf("n%d", secret.IntN(1000))
			h.Bytes = secret.Int64N(1 << 20)
			h.At = t0.AddDate(0, 0, secret.IntN(1000))
		}
		f.page(d, b, h)
	}
}

// TestRedactionTellsNothing: two worlds that differ only in what the caller may not
// see give the same answers, byte for byte, and the same errors. So nothing of the
// difference leaks by a count, an error, an order or a name.
func TestRedactionTellsNothing(t *testing.T) {
	for seed := range uint64(60) {
		pick := rand.New(rand.NewPCG(seed, 1))
		hidden, auth := map[byte]bool{}, rights{}
		for _, c := range []byte("bcdef") {
			if hidden[c] = pick.IntN(2) == 0; !hidden[c] {
				auth["id-"+string(c)+"/orders"] = true
			}
		}
		auth["id-a/orders"] = true
		var answers [2]string
		for i := range answers {
			x, _ := open(t, Config{Dir: fmt.Sprintf("w%d", i), InMemory: true, Authorizer: auth})
			world(x, rand.New(rand.NewPCG(seed, 2)), rand.New(rand.NewPCG(seed, uint64(10+i))), hidden)
			answers[i] = everyAnswer(t, x)
		}
		if answers[0] != answers[1] {
			a, b := strings.Split(answers[0], "\n"), strings.Split(answers[1], "\n")
			for i := range a {
				if i >= len(b) || a[i] != b[i] {
					t.Fatalf("seed %d, hidden %v: the answers tell the worlds apart:\n%s\n%s", seed, hidden, a[i], b[min(i, len(b)-1)])
				}
			}
		}
	}
}

// sealed is what one who has not its key can tell of a cursor.
func sealed(t *testing.T, cursor string) string {
	t.Helper()
	if cursor == "" {
		return ""
	}
	b, err := cursorBytes(cursor)
	if err != nil || b[0] != sealedCursor {
		t.Fatalf("cursor %q: %v", cursor, err)
	}
	return fmt.Sprint(len(b), " bytes")
}

// TestCursorsTellNothing: where a page ended is not told by its cursor to one who may not
// see who that is of, and holds for where it was given.
func TestCursorsTellNothing(t *testing.T) {
	auth := rights{"id-a/group/g": true, "id-a/orders": true}
	x, f := open(t, Config{Authorizer: auth})
	for _, who := range []string{"User:x", "User:a-rather-long-name"} {
		f.page('a', access('a', who, "g", 0, 9, t0), access('a', who, "h", 0, 9, t0))
	}
	cursors := func() (all []string) {
		t.Helper()
		for next := ""; ; {
			page, err := x.Group(t.Context(), alice, "id-a", "g", 1, next)
			if err != nil || len(all) > 2 {
				t.Fatalf("got %+v %v", page, err)
			}
			if next = page.Next; next == "" {
				return all
			}
			all = append(all, next)
		}
	}
	got := cursors()
	if len(got) != 2 || sealed(t, got[0]) != sealed(t, got[1]) {
		t.Fatalf("got %q", got)
	}
	for i, c := range got {
		if b, _ := cursorBytes(c); strings.Contains(string(b), "User:") {
			t.Errorf("it names somebody: %q", b)
		}
		auth["id-a"] = true
		open := cursors()[i]
		if _, err := x.Group(t.Context(), alice, "id-a", "g", 1, c); err != nil {
			t.Errorf("to one who may see more by now: %v", err)
		}
		delete(auth, "id-a")
		for _, bad := range []string{open, c[:len(c)-4], c[:8] + "AAAA" + c[12:], cursorText([]byte{sealedCursor}), "AA", "A"} {
			if _, err := x.Group(t.Context(), alice, "id-a", "g", 1, bad); !errors.Is(err, ErrInvalid) {
				t.Errorf("cursor %.40q: got %v", bad, err)
			}
		}
	}
}

// everyAnswer is what a caller gets who asks everything there is to ask.
func everyAnswer(t *testing.T, x *Index) string {
	t.Helper()
	var all strings.Builder
	note := func(what string, v any, err error) {
		b, jerr := json.Marshal(v)
		if jerr != nil {
			t.Fatal(jerr)
		}
		if err != nil {
			b = nil
			if !errors.Is(err, ErrDenied) {
				t.Errorf("%s: %v", what, err)
			}
		}
		fmt.Fprintf(&all, "%s: %s %v\n", what, b, err)
	}
	for _, c := range []string{"a", "b", "c", "d", "e", "f", "z"} {
		for _, o := range []int64{0, 60, 99, 100, 5000} {
			at := orders("id-"+c, o)
			a, err := x.Event(t.Context(), alice, at)
			note(fmt.Sprintf("event %s %d", c, o), a, err)
		}
		at := orders("id-"+c, 0)
		g, err := x.Topic(t.Context(), alice, at, PaceQuery{Partitions: true})
		note("topic "+c, g, err)
		gaps, err := x.Gaps(t.Context(), alice, at, 1<<40)
		note("gaps "+c, gaps, err)
		for _, produced := range []bool{false, true} {
			page, err := x.Deeds(t.Context(), alice, DeedQuery{At: at, Last: -1, Produced: produced, Limit: 1})
			if err == nil {
				page.Next = sealed(t, page.Next)
			}
			note("deeds "+c, page, err)
		}
		for _, exact := range []bool{false, true} {
			page, err := x.Copies(t.Context(), alice, RangeQuery{At: at, Last: 120, Exact: exact, Limit: 3})
			note("copies "+c, page, err)
		}
		for _, q := range []AffectedQuery{
			{Cluster: "id-" + c, Partition: -1, Last: -1},
			{Cluster: "id-" + c, Topic: "orders", Partition: -1, Last: -1},
			{Cluster: "id-" + c, Topic: "orders", Last: -1},
			{Cluster: "id-" + c, Topic: "orders", Last: 40},
		} {
			a, err := x.Affected(t.Context(), alice, q)
			note(fmt.Sprintf("affected %s %d %d", c, q.Partition, q.Last), a, err)
		}
		page, err := x.Principal(t.Context(), alice, "id-"+c, "User:x", 0, "")
		note("principal "+c, page, err)
	}
	return all.String()
}
