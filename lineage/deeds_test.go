package lineage

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestPrincipal: what one principal did is told to himself and to whoever may
// describe the cluster, in pages, and of topics that the caller may not see only
// that there is something.
func TestPrincipal(t *testing.T) {
	auth := rights{"id-a": true}
	x, f := open(t, Config{Authorizer: auth})
	for i := range byte(5) {
		p := production('a', "User:shop", 0, 9)
		p.TopicID, p.Topic = ledger.TopicID{i + 1}, fmt.Sprintf("t%d", i)
		other := access('a', "User:billing", "g", 0, 9, t0)
		other.TopicID, other.Topic = p.TopicID, p.Topic
		f.page('a', p, other)
		auth["id-a/"+p.Topic] = i != 3
	}
	list := func(c Caller, principal string) (got []string) {
		t.Helper()
		for next, pages := "", 0; ; pages++ {
			page, err := x.Principal(t.Context(), c, "id-a", principal, 2, next)
			if err != nil || len(page.Topics) > 2 || pages > 9 {
				t.Fatalf("got %+v %v", page, err)
			}
			for _, p := range page.Topics {
				got = append(got, fmt.Sprintf("%s %s %d", p.Topic, p.Client.Kind, p.Client.Offsets))
			}
			if next = page.Next; next == "" {
				return got
			}
		}
	}
	want := []string{"t0 produced 10", "t1 produced 10", "t2 produced 10", " produced 0", "t4 produced 10"}
	if got := list(alice, "User:shop"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := list(alice, "User:nobody"); len(got) != 0 {
		t.Errorf("nobody: got %q", got)
	}
	delete(auth, "id-a")
	if got := list(Caller{Principal: "User:shop"}, "User:shop"); !slices.Equal(got, want) {
		t.Errorf("himself: got %q, want %q", got, want)
	}
	for _, who := range []string{"User:shop", "User:nobody"} { // whether there is one is not told either
		if _, err := x.Principal(t.Context(), alice, "id-a", who, 0, ""); !errors.Is(err, ErrDenied) {
			t.Errorf("%s: got %v", who, err)
		}
	}
	for _, bad := range []string{"?", "AA=="} {
		if _, err := x.Principal(t.Context(), Caller{Principal: "User:shop"}, "id-a", "User:shop", 0, bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("cursor %q: got %v", bad, err)
		}
	}
	if page, err := x.Principal(t.Context(), Caller{Principal: "User:shop"}, "id-z", "User:shop", 0, ""); err != nil || len(page.Unknown) != 1 {
		t.Errorf("a cluster that tells nothing: got %+v %v", page, err)
	}
}

// TestOnePageLooksAtSoMuch: whoever asks for what is rare gets what one page of
// looking finds, maybe nothing, and where to go on.
func TestOnePageLooksAtSoMuch(t *testing.T) {
	x, f := open(t, Config{})
	common := production('a', "User:common", 0, 0)
	for range maxScan / 10_000 {
		f.page('a', slices.Repeat([]ledger.Entry{common}, 10_000)...)
	}
	f.page('a', common, production('a', "User:rare", 1, 1))
	q := DeedQuery{At: orders("id-a", 0), Last: -1, Produced: true, Principal: "User:rare"}
	first, err := x.Deeds(t.Context(), alice, q)
	if err != nil || len(first.Deeds) != 0 || first.Next == "" {
		t.Fatalf("got %+v %v", first, err)
	}
	q.Cursor = first.Next
	second, err := x.Deeds(t.Context(), alice, q)
	if err != nil || len(second.Deeds) != 1 || second.Deeds[0].First != 1 || second.Next != "" {
		t.Errorf("then %+v %v", second, err)
	}
}
