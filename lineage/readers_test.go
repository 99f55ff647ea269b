package lineage

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestAffectedByCommits: groups of a cluster that records no accesses are named by what nodes
// saw of their commits, also if they are there no more; one whose position went over the
// offsets unseen is not said to have read them.
func TestAffectedByCommits(t *testing.T) {
	auth := rights{"id-a": true, "id-a/orders": true, "id-b": true, "id-b/orders": true}
	x, f := open(t, Config{Authorizer: auth, Live: &live{groups: map[string][]GroupPosition{"id-b": {position("mailer", 1003)}}}})
	chain(f)
	f.page('b', progress('b', ledger.Found, "mailer", 1000, 1000, 1000, t0), progress('b', ledger.Advanced, "mailer", 1000, 1002, 1003, t0.Add(time.Second)),
		progress('b', ledger.Advanced, "audit", 1000, 1049, 1050, t0), progress('b', ledger.Gone, "audit", 1050, 1050, 1050, t0.Add(time.Second)),
		progress('b', ledger.Leapt, "flink", 1000, 1049, 1050, t0), progress('b', ledger.Advanced, "ahead", 1090, 1099, 1100, t0))
	read := func(q AffectedQuery) (got []string) {
		t.Helper()
		a, err := x.Affected(t.Context(), alice, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range told(a) {
			if strings.HasPrefix(line, "b ") {
				got = append(got, line)
			}
		}
		if want := "who has read in cluster b: it does not record it; what groups have read is known from their committed offsets only"; !slices.Contains(a.Unknown, want) {
			t.Errorf("unknown: got %q, want %q", a.Unknown, want)
		}
		return got
	}
	all := []string{
		"b committed ahead by committed-offsets", "b committed audit by committed-offsets", "b committed flink by committed-offsets, not yet", "b committed mailer by committed-offsets",
	}
	if got := read(whole("a")); !slices.Equal(got, all) {
		t.Errorf("of a topic: got %q, want %q", got, all)
	}
	some := []string{"b committed audit by committed-offsets", "b committed flink by committed-offsets, not yet", "b committed mailer by committed-offsets, not yet"}
	if got := read(AffectedQuery{Cluster: "a", Topic: "orders", From: 20, Last: 29}); !slices.Equal(got, some) {
		t.Errorf("of offsets: got %q, want %q", got, some)
	}
	if got := read(AffectedQuery{Cluster: "a", Topic: "orders", Last: -1}); !slices.Equal(got, all) {
		t.Errorf("of a partition: got %q, want %q", got, all)
	}
	delete(auth, "id-b")
	auth["id-b/group/audit"] = true
	want := []string{
		"b committed audit by committed-offsets", "b committed ? by committed-offsets, not yet", "b committed ? by committed-offsets, not yet",
	}
	if got := read(AffectedQuery{Cluster: "a", Topic: "orders", From: 20, Last: 29}); !slices.Equal(got, want) {
		t.Errorf("to one who may describe one group: got %q, want %q", got, want)
	}
}

// TestAffectedHearsSoMuch: all topics of an answer together look at so many entries of who
// has read, and what was left out is said.
func TestAffectedHearsSoMuch(t *testing.T) {
	x, f := open(t, Config{Authorizer: rights{"id-a": true, "id-a/orders": true, "id-b": true, "id-b/orders": true}})
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 100, 0))
	for _, c := range []byte("ab") {
		f.page(c, access(c, "User:x", "", 0, 9, t0), access(c, "User:y", "", 0, 9, t0), access(c, "User:z", "", 0, 9, t0))
	}
	for _, q := range []AffectedQuery{whole("a"), {Cluster: "a", Topic: "orders", Last: -1}, {Cluster: "a", Topic: "orders", Last: 5}} {
		for left, readers := range map[int]int{100: 6, 6: 6, 4: 4, 3: 3, 0: 0} {
			r := &reach{viewer: x.viewer(t.Context(), alice), q: q, byTopic: map[topicKey]int{}, heard: maxHeard - left}
			if err := r.begin(); err != nil {
				t.Fatal(err)
			}
			r.sort()
			if err := r.readers(); err != nil {
				t.Fatal(err)
			}
			if got := len(r.found.Readers); got != readers || left < 6 && len(r.found.Truncated) != 1 {
				t.Errorf("%+v, %d left: %d readers, %q", q, left, got, r.found.Truncated)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := x.Affected(ctx, alice, AffectedQuery{Cluster: "a", Topic: "orders", Last: -1}); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
}
