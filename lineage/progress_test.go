package lineage

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

func progress(cluster byte, kind ledger.ProgressKind, group string, first, last, next int64, at time.Time) *ledger.Progress {
	return &ledger.Progress{
		Place: ledger.Place{TopicID: id(cluster), Topic: "orders", First: first, Last: last}, Kind: kind, Group: group, Next: next, FirstAt: at, At: at,
	}
}

// TestProgress: of a cluster that records no accesses an answer has what follows from
// committed offsets, marked as such, for those who may describe the group or the cluster.
func TestProgress(t *testing.T) {
	auth := rights{"id-a/orders": true, "id-a": true}
	x, f := open(t, Config{Authorizer: auth})
	f.page('a', progress('a', ledger.Found, "billing", 5, 5, 5, t0), progress('a', ledger.Advanced, "billing", 5, 9, 10, t0.Add(time.Second)),
		progress('a', ledger.Leapt, "billing", 10, 49, 50, t0.Add(2*time.Second)), progress('a', ledger.Advanced, "mailer", 0, 29, 30, t0.Add(3*time.Second)),
		progress('a', ledger.Reset, "billing", 20, 49, 20, t0.Add(4*time.Second)), progress('a', ledger.Gone, "mailer", 30, 30, 30, t0.Add(5*time.Second)))
	say := func(d Deed) string {
		return fmt.Sprintf("%s %s %d-%d (%d) %s %v", d.Kind, d.Group, d.First, d.Last, d.Offsets, d.Basis, d.Redacted)
	}
	list := func(q DeedQuery) (got []string) {
		t.Helper()
		q.At, q.Limit = Address{Cluster: "id-a", Topic: "orders", Offset: q.At.Offset}, 2
		for pages := 0; ; pages++ {
			page, err := x.Deeds(t.Context(), alice, q)
			if err != nil || len(page.Deeds) > 2 || pages > 9 {
				t.Fatalf("got %+v %v", page, err)
			}
			if len(page.Unknown) != 1 || !strings.Contains(page.Unknown[0], "from their committed offsets only") {
				t.Errorf("unknown: %q", page.Unknown)
			}
			for _, d := range page.Deeds {
				got = append(got, say(d))
			}
			if q.Cursor = page.Next; q.Cursor == "" {
				slices.Sort(got)
				return got
			}
		}
	}
	want := []string{
		"committed billing 5-9 (5) committed-offsets false", "committed mailer 0-29 (30) committed-offsets false", "found billing 5-5 (0) committed-offsets false",
		"gone mailer 30-30 (0) committed-offsets false", "leapt billing 10-49 (0) committed-offsets false", "reset billing 20-49 (0) committed-offsets false",
	}
	if got := list(DeedQuery{Last: -1}); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := list(DeedQuery{Last: -1, Group: "mailer"}); !slices.Equal(got, []string{want[1], want[3]}) {
		t.Errorf("of one group: got %q", got)
	}
	if got := list(DeedQuery{At: Address{Offset: 7}, Last: 7}); !slices.Equal(got, want[:2]) {
		t.Errorf("of one offset: got %q", got)
	}
	if got := list(DeedQuery{Last: -1, Produced: true}); len(got) != 0 {
		t.Errorf("productions: got %q", got)
	}

	page, err := x.Group(t.Context(), alice, "id-a", "billing", 0, "")
	if err != nil || len(page.Topics) != 1 || page.Topics[0].Client.Offsets != 5 || page.Topics[0].Client.Basis != basisCommitted || len(page.Unknown) != 1 {
		t.Errorf("a group: got %+v %v", page, err)
	}
	g, err := x.Topic(t.Context(), alice, Address{Cluster: "id-a", Topic: "orders"}, PaceQuery{})
	if err != nil || len(g.Clients) != 2 || g.Clients[1].Group != "billing" || g.Clients[1].Basis != basisCommitted {
		t.Errorf("the clients of the topic: got %+v %v", g, err)
	}

	// Without Describe on the cluster: the groups that one may describe.
	delete(auth, "id-a")
	if _, err := x.Deeds(t.Context(), alice, DeedQuery{At: Address{Cluster: "id-a", Topic: "orders"}, Group: "mailer"}); !errors.Is(err, ErrDenied) {
		t.Errorf("a group that one may not describe: %v", err)
	}
	if _, err := x.Group(t.Context(), alice, "id-a", "mailer", 0, ""); !errors.Is(err, ErrDenied) {
		t.Errorf("a group that one may not describe, in a cluster: %v", err)
	}
	auth["id-a/group/billing"] = true
	for _, got := range list(DeedQuery{Last: -1}) {
		if strings.Contains(got, "mailer") || strings.Contains(got, "billing") == strings.HasSuffix(got, "true") {
			t.Errorf("to one who may describe billing: %q", got)
		}
	}
	delete(auth, "id-a/orders")
	page, err = x.Group(t.Context(), alice, "id-a", "billing", 0, "")
	if err != nil || len(page.Topics) != 1 || !page.Topics[0].Redacted || page.Topics[0].Client.Offsets != 0 {
		t.Errorf("a topic that one may not describe: got %+v %v", page, err)
	}
}

// TestGroupOfABrokerThatRecords: the clients of a group that a broker has recorded are shown
// without their names to one who may describe the group only.
func TestGroupOfABrokerThatRecords(t *testing.T) {
	auth := rights{"id-a/orders": true, "id-a/group/g": true}
	x, f := open(t, Config{Authorizer: auth})
	f.page('a', access('a', "User:billing", "g", 0, 9, t0), access('a', "User:mailer", "h", 0, 4, t0))
	for _, named := range []bool{false, true} {
		auth["id-a"] = named
		page, err := x.Group(t.Context(), alice, "id-a", "g", 0, "")
		if err != nil || len(page.Topics) != 1 || len(page.Unknown) > 0 {
			t.Fatalf("got %+v %v", page, err)
		}
		if c := page.Topics[0].Client; c.Offsets != 10 || c.Basis != "" || (c.Principal == "User:billing") != named || (c.Address != "") != named {
			t.Errorf("named %v: got %+v", named, c)
		}
	}
}

// TestProgressIsNoRecord: that a cluster records nothing is remembered over a restart also
// where its groups are watched.
func TestProgressIsNoRecord(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Authorizer: rights(nil)}
	x, f := openHere(t, cfg)
	f.page('a', progress('a', ledger.Advanced, "billing", 5, 9, 10, t0))
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	x, _ = openHere(t, cfg)
	defer x.Close()
	if x.tells("id-a") || x.besides("id-a") == "" {
		t.Error("what is known from commits is taken for what the cluster has recorded")
	}
}

// TestSumsOfWhatIsFolded: what is folded comes by day and kind, and the first time is the
// first all the same.
func TestSumsOfWhatIsFolded(t *testing.T) {
	x, f := open(t, Config{Authorizer: rights{"id-a/orders": true, "id-a": true}})
	f.page('a', progress('a', ledger.Found, "billing", 5, 5, 5, t0.Add(time.Hour)), progress('a', ledger.Advanced, "billing", 0, 9, 10, t0))
	page, err := x.Group(t.Context(), alice, "id-a", "billing", 0, "")
	if err != nil || len(page.Topics) != 1 || !page.Topics[0].Client.FirstAt.Equal(t0) || !page.Topics[0].Client.At.Equal(t0.Add(time.Hour)) {
		t.Errorf("got %+v %v", page, err)
	}
}

// TestGoneWithAnEarlierLife: that a group's position is gone with a topic is found out after
// another topic has its name, and makes the old one no present one.
func TestGoneWithAnEarlierLife(t *testing.T) {
	auth := rights{"id-a/orders": true, "id-a": true}
	x, f := open(t, Config{Authorizer: auth})
	again := begin('a', 'b', 2)
	again.Copy.Source.TopicID = ledger.TopicID{9}
	f.page('b', begin('a', 'b', 1), again)
	gone := progress('a', ledger.Gone, "billing", 10, 10, 10, t0.Add(time.Hour))
	gone.FirstAt = t0
	f.page('a', progress('a', ledger.Found, "billing", 10, 10, 10, t0), gone)
	for _, all := range []bool{true, false} {
		auth["id-a"] = all
		a, err := x.Event(t.Context(), alice, orders("id-a", 5))
		if err != nil || a.Nodes[0].TopicID != again.Copy.Source.TopicID.String() || a.Nodes[0].EarlierLife {
			t.Fatalf("got %+v, %v", a, err)
		}
		at := orders("id-a", 5)
		at.TopicID = id('a').String()
		if a, err := x.Event(t.Context(), alice, at); all != (err == nil) || !all && !errors.Is(err, ErrDenied) || all && !a.Nodes[0].EarlierLife {
			t.Errorf("the earlier life, with the right to it %v: got %+v, %v", all, a, err)
		}
	}
}

// TestCheckOfProgress: the chain of who notes the progress of groups is followed as others are.
func TestCheckOfProgress(t *testing.T) {
	chain := ledger.NewChain(ledger.WriterID{7})
	var pages [][]byte
	for i := range int64(3) {
		pages = append(pages, chain.Encode([]ledger.Entry{progress('a', ledger.Advanced, "billing", i, i, i+1, t0)}))
	}
	if r := checkOf(0, pages); len(r.Findings) > 0 || r.Partitions[0].Unknown > 0 || r.Partitions[0].Pages != 3 {
		t.Errorf("a whole chain: got %+v", r)
	}
	pages[1] = forge(t, pages[1], progress('a', ledger.Advanced, "billing", 1, 8, 9, t0))
	if r := checkOf(0, pages); len(r.Findings) == 0 {
		t.Error("an altered record is not found")
	}
}
