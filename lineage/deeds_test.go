package lineage

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
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

// TestWhatIsLostIsSaid: where a page of a ledger is lost, every list that may lack something
// of it says so, and which page it was to those who may describe the cluster.
func TestWhatIsLostIsSaid(t *testing.T) {
	auth := rights{"id-a/orders": true, "id-a": true, "id-a/group/billing": true}
	for _, entry := range []ledger.Entry{access('a', "User:alice", "billing", 0, 9, t0), progress('a', ledger.Advanced, "billing", 0, 9, 10, t0)} {
		x, f := open(t, Config{Authorizer: auth})
		f.page('a', entry)
		lists := func() map[string][]string {
			t.Helper()
			deeds, err1 := x.Deeds(t.Context(), alice, DeedQuery{At: orders("id-a", 0), Last: -1})
			mine, err2 := x.Principal(t.Context(), alice, "id-a", "User:alice", 0, "")
			group, err3 := x.Group(t.Context(), alice, "id-a", "billing", 0, "")
			graph, err4 := x.Topic(t.Context(), alice, orders("id-a", 0), PaceQuery{})
			reach, err5 := x.Affected(t.Context(), alice, whole("id-a"))
			event, err6 := x.Event(t.Context(), alice, orders("id-a", 0))
			if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
				t.Fatal(err)
			}
			return map[string][]string{"deeds": deeds.Unknown, "principal": mine.Unknown, "group": group.Unknown, "topic": graph.Unknown, "affected": reach.Unknown, "event": event.Nodes[0].Unknown}
		}
		for what, unknown := range lists() {
			if got := strings.Join(unknown, "; "); strings.Contains(got, "damaged") || strings.Contains(got, "more") {
				t.Errorf("%s of a whole ledger: %s", what, got)
			}
		}
		x.Corrupt(tail.Position{Cluster: "id-a", TopicID: ledger.TopicID{'L', 'a'}, Offset: 77}, &ledger.CorruptError{Reason: "torn"})
		for _, all := range []bool{true, false} {
			auth["id-a"] = all
			for what, unknown := range lists() {
				got := strings.Join(unknown, "; ")
				if _, moved := entry.(*ledger.Progress); moved && what == "principal" {
					continue // that nothing is known of principals is said
				}
				if !strings.Contains(got, "whether more is to be said of who produced and who read") || strings.Contains(got, "offset 77") != all {
					t.Errorf("%s, to one who may describe the cluster: %v: %s", what, all, got)
				}
				if (what == "topic" || what == "affected") && !strings.Contains(got, "whether there are copies that are not named") {
					t.Errorf("%s: %s", what, got)
				}
			}
		}
		auth["id-a"] = true
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
