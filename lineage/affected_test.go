package lineage

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// told draws an answer in a form that a test can state.
func told(a *Affected) (lines []string) {
	name := func(i int) string {
		if t := a.Topics[i]; !t.Redacted {
			return t.Cluster
		}
		return "?"
	}
	for i, t := range a.Topics {
		line := fmt.Sprintf("%d: %s", t.Hops, name(i))
		for _, p := range t.Partitions {
			line += fmt.Sprintf(" %d/%d-%d (%d)", p.Partition, p.First, p.Last, p.Offsets)
		}
		lines = append(lines, line)
	}
	for _, r := range a.Readers {
		who := strings.TrimPrefix(r.Principal, "User:")
		if r.Redacted {
			who = "?"
		}
		line := fmt.Sprintf("%s %s %s%s by %s", name(r.Topic), r.Kind, who, r.Group, strings.Join(r.Basis, "+"))
		if !r.Reached {
			line += ", not yet"
		}
		lines = append(lines, line)
	}
	for _, f := range a.Flows {
		line := "flow " + f.Fleet + "/" + f.Flow + " " + strings.Join(f.Basis, "+")
		if f.Redacted {
			line = "flow ?"
		}
		lines = append(lines, line)
	}
	for _, r := range a.Runbooks {
		lines = append(lines, "runbook "+r.Runbook+" of "+r.Flow)
	}
	return append(lines, a.Truncated...)
}

func whole(cluster string) AffectedQuery {
	return AffectedQuery{Cluster: cluster, Topic: "orders", Partition: -1, Last: -1}
}

func position(group string, next int64) GroupPosition {
	return GroupPosition{Group: group, At: flow.TopicPartition{Topic: "orders"}, Next: next}
}

func orderFlow(name, source, destination string, runbooks ...string) DeclaredFlow {
	return DeclaredFlow{
		Fleet: "prod", Flow: name, Source: source, Destination: destination, Runbooks: runbooks,
		Topics: func(topic string) bool { return topic == "orders" },
	}
}

// downhill is chain, with groups and declarations.
func downhill(t *testing.T, auth Authorizer) (*Index, *live) {
	t.Helper()
	l := &live{
		groups: map[string][]GroupPosition{
			"id-b": {position("mailer", 1003), position("late", 1500)},
			"id-c": {position("billing", 21)},
		},
		declared: []DeclaredFlow{orderFlow("a-to-b", "id-a", "id-b", "failover", "drill"), orderFlow("c-to-e", "id-c", "id-e"), orderFlow("x-to-a", "id-x", "id-a", "other")},
	}
	x, f := open(t, Config{Live: l, Authorizer: auth})
	chain(f)
	return x, l
}

func TestAffected(t *testing.T) {
	x, _ := downhill(t, nil)
	for _, c := range []struct {
		name string
		q    AffectedQuery
		want []string
	}{
		{"a topic", whole("a"), []string{
			"0: a", "1: b", "1: d", "2: c",
			"a fetched alice by accesses", "b committed late by committed-offsets", "b committed mailer by committed-offsets",
			"c committed billingbilling by accesses+committed-offsets", "c fetched alice by accesses",
			"flow prod/a-to-b copies+declared", "flow prod/a-to-d copies", "flow prod/b-to-c copies", "flow prod/c-to-e declared",
			"runbook drill of a-to-b", "runbook failover of a-to-b",
		}},
		{"not what is upstream", whole("c"), []string{
			"0: c", "c committed billingbilling by accesses+committed-offsets", "c fetched alice by accesses", "flow prod/c-to-e declared",
		}},
		{"offsets, of which a group has read none yet", AffectedQuery{Cluster: "a", Topic: "orders", From: 40, Last: 59}, []string{
			"0: a 0/40-59 (20)", "1: b 0/1040-1059 (20)", "1: d 0/-1--1 (0)", "2: c 0/45-64 (20)",
			"a fetched alice by accesses", "b committed late by committed-offsets", "b committed mailer by committed-offsets, not yet",
			"c committed billing by committed-offsets, not yet",
			"flow prod/a-to-b copies+declared", "flow prod/a-to-d copies", "flow prod/b-to-c copies", "flow prod/c-to-e declared",
			"runbook drill of a-to-b", "runbook failover of a-to-b",
		}},
		{"offsets that were filtered out there", AffectedQuery{Cluster: "a", Topic: "orders", From: 10, Last: 12}, []string{
			"0: a 0/10-12 (3)", "1: b 0/1010-1012 (3)", "2: c 0/15-17 (3)",
			"a fetched alice by accesses", "b committed late by committed-offsets", "b committed mailer by committed-offsets, not yet",
			"c committed billingbilling by accesses+committed-offsets", "c fetched alice by accesses",
			"flow prod/a-to-b copies+declared", "flow prod/b-to-c copies", "flow prod/c-to-e declared",
			"runbook drill of a-to-b", "runbook failover of a-to-b",
		}},
		{"a whole partition", AffectedQuery{Cluster: "b", Topic: "orders", Last: -1}, []string{
			"0: b 0/-1--1 (-1)", "1: c 0/-1--1 (-1)",
			"b committed late by committed-offsets", "b committed mailer by committed-offsets",
			"c committed billingbilling by accesses+committed-offsets", "c fetched alice by accesses",
			"flow prod/b-to-c copies", "flow prod/c-to-e declared",
		}},
		{"a whole cluster, also what goes into it", AffectedQuery{Cluster: "a", Partition: -1, Last: -1}, []string{
			"0: a", "1: b", "1: d", "2: c",
			"a fetched alice by accesses", "b committed late by committed-offsets", "b committed mailer by committed-offsets",
			"c committed billingbilling by accesses+committed-offsets", "c fetched alice by accesses",
			"flow prod/a-to-b copies+declared", "flow prod/a-to-d copies", "flow prod/b-to-c copies", "flow prod/c-to-e declared", "flow prod/x-to-a declared",
			"runbook drill of a-to-b", "runbook failover of a-to-b", "runbook other of x-to-a",
		}},
	} {
		a, err := x.Affected(t.Context(), alice, c.q)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := told(a); !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n  %s\nwant\n  %s", c.name, strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
		}
	}
	a, err := x.Affected(t.Context(), alice, whole("a"))
	want := []string{"who has read in cluster b: it does not record it", "who has read in cluster d: it does not record it"}
	if err != nil || !slices.Equal(a.Unknown, want) {
		t.Errorf("got unknown %q %v, want %q", a.Unknown, err, want)
	}
}

// TestAffectedIsRedacted: what is hidden is there and says nothing, and who reads what
// is hidden is not told at all.
func TestAffectedIsRedacted(t *testing.T) {
	auth := rights{"id-a/orders": true, "id-c/orders": true}
	x, l := downhill(t, auth)
	a, err := x.Affected(t.Context(), Caller{Principal: "User:billing"}, whole("a"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"0: a", "1: ?", "1: ?", "2: c", "a fetched ? by accesses", "c committed billingbilling by accesses+committed-offsets", "c fetched ? by accesses",
		"flow prod/a-to-b declared", "flow prod/c-to-e declared", "flow ?", "runbook drill of a-to-b", "runbook failover of a-to-b",
	}
	if got := told(a); !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	text, _ := json.Marshal(a)
	for _, secret := range []string{"mailer", "late", "alice", "b-to-c", "a-to-d", "id-b", "id-d"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the answer tells %q: %s", secret, text)
		}
	}
	// A group of which no access tells is seen with Describe on it.
	l.groups["id-c"] = append(l.groups["id-c"], position("seen", 3), position("unseen", 3))
	auth["id-c/group/seen"] = true
	a, err = x.Affected(t.Context(), Caller{Principal: "User:bob"}, whole("c"))
	want = []string{
		"0: c", "c committed seen by committed-offsets", "c committed ? by committed-offsets", "c committed ? by accesses+committed-offsets", "c fetched ? by accesses",
		"flow prod/c-to-e declared",
	}
	if err != nil || !slices.Equal(told(a), want) {
		t.Errorf("got %q %v, want %q", told(a), err, want)
	}
	if _, err := x.Affected(t.Context(), alice, AffectedQuery{Cluster: "a", Partition: -1, Last: -1}); !errors.Is(err, ErrDenied) {
		t.Errorf("a whole cluster: got %v, want %v", err, ErrDenied)
	}
	if _, err := x.Affected(t.Context(), alice, whole("b")); !errors.Is(err, ErrDenied) {
		t.Errorf("a hidden topic: got %v, want %v", err, ErrDenied)
	}
}

// TestAffectedInRingsAndLives: rings and diamonds end, each topic is told once at its
// shortest distance, and each life of a topic by itself.
func TestAffectedInRingsAndLives(t *testing.T) {
	x, f := open(t, Config{})
	for _, c := range []string{"ab", "ac", "bd", "cd", "da"} {
		f.page(c[1], begin(c[0], c[1], 1), hop(c[0], c[1], 1, 0, 10, 0))
	}
	again := begin('a', 'b', 5)
	again.Copy.Source.TopicID[5] = 1
	h := hop('a', 'b', 5, 0, 10, 50)
	h.Copy = again.Copy.Key()
	f.page('b', again, h)
	old := whole("a")
	old.TopicID = id('a').String()
	for _, c := range []struct {
		q    AffectedQuery
		want []string
	}{
		{whole("d"), []string{"0: d", "1: a", "2: b", "2: c"}},
		{whole("a"), []string{"0: a", "1: b", "2: d", "3: a", "4: c"}}, // the present life is copied to b only
		{old, []string{"0: a", "1: b", "1: c", "2: d"}},
		{AffectedQuery{Cluster: "d", Topic: "orders", From: 3, Last: 4}, []string{"0: d 0/3-4 (2)", "1: a 0/3-4 (2)", "2: b 0/3-4 (2)", "2: c 0/3-4 (2)"}},
		{AffectedQuery{Cluster: "d", Topic: "orders", From: 3, Last: -1}, []string{"0: d 0/3--1 (-1)", "1: a 0/3-9 (7)", "2: b 0/3-9 (7)", "2: c 0/3-9 (7)"}},
		{AffectedQuery{Cluster: "d", Topic: "orders", Last: -1}, []string{"0: d 0/-1--1 (-1)", "1: a 0/-1--1 (-1)", "2: b 0/-1--1 (-1)", "2: c 0/-1--1 (-1)"}},
	} {
		a, err := x.Affected(t.Context(), alice, c.q)
		if err != nil || !slices.Equal(told(a)[:len(a.Topics)], c.want) {
			t.Errorf("%+v: got %q %v, want %q", c.q, told(a), err, c.want)
		}
	}
}

// TestAffectedIsBounded: what is cut off is said, whatever is asked.
func TestAffectedIsBounded(t *testing.T) {
	l := &live{groups: map[string][]GroupPosition{}}
	x, f := open(t, Config{Live: l, Limits: Limits{Nodes: 4, Depth: 2, Deeds: 5, Looks: 50}})
	for _, to := range []byte("bcdef") {
		f.page(to, begin('a', to, 1), hop('a', to, 1, 0, 10, 0))
	}
	for _, to := range []byte("mnop") {
		f.page(to, begin(to-1, to, 1), hop(to-1, to, 1, 0, 10, 0))
	}
	f.page('y', begin('z', 'y', 1))
	for i := int64(0); i < 100; i++ {
		f.page('y', hop('z', 'y', 1, i, 1, 2*i))
	}
	for i := range 9 {
		l.groups["id-b"] = append(l.groups["id-b"], position(fmt.Sprint("g", i), 1))
	}
	for _, c := range []struct {
		q    AffectedQuery
		want string
	}{
		{whole("a"), "after 4 topics"},
		{AffectedQuery{Cluster: "a", Topic: "orders", Last: -1}, "after 4 partitions"},
		{AffectedQuery{Cluster: "a", Topic: "orders", Last: 5}, "after 4 partitions"},
		{whole("l"), "after 2 hops"},
		{AffectedQuery{Cluster: "l", Topic: "orders", Last: -1}, "after 2 hops"},
		{AffectedQuery{Cluster: "l", Topic: "orders", Last: 5}, "after 2 hops"},
		{AffectedQuery{Cluster: "z", Topic: "orders", Last: 99}, "after 50 looks at the index: ask about fewer offsets, or about the whole partition"},
		{whole("b"), "after 5 readers of a topic, 20 together"},
	} {
		a, err := x.Affected(t.Context(), alice, c.q)
		if err != nil || !slices.Contains(a.Truncated, c.want) || len(a.Topics) > 4 || len(a.Readers) > 5 {
			t.Errorf("%+v: got %+v %v, want %q", c.q, a, err, c.want)
		}
	}
	l.more, l.endsErr = "", errors.New("it is not there")
	a, err := x.Affected(t.Context(), alice, whole("b"))
	if err != nil || !slices.Contains(a.Unknown, "groups of cluster b: it is not there") {
		t.Errorf("got %+v %v", a, err)
	}
	l.more, l.endsErr = "there are more than 1000", nil
	a, err = x.Affected(t.Context(), alice, whole("b"))
	if err != nil || !slices.Contains(a.Unknown, "groups of cluster b: there are more than 1000") || len(a.Readers) != 5 {
		t.Errorf("got %+v %v", a, err)
	}
	for _, c := range []struct {
		q    AffectedQuery
		want error
	}{
		{AffectedQuery{Partition: -1, Last: -1}, ErrInvalid},
		{AffectedQuery{Cluster: "nowhere", Partition: -1, Last: -1}, ErrNotFound},
		{AffectedQuery{Cluster: "a", Topic: "nothing", Partition: -1, Last: -1}, ErrNotFound},
		{AffectedQuery{Cluster: "a", Topic: "orders", From: 9, Last: 3}, ErrInvalid},
		{AffectedQuery{Cluster: "a", Topic: "orders", From: -1, Last: 3}, ErrInvalid},
		{AffectedQuery{Cluster: "a", Topic: "orders", TopicID: "?", Partition: -1, Last: -1}, ErrInvalid},
		{AffectedQuery{Cluster: "a", Topic: "orders", TopicID: ledger.TopicID{9}.String(), Partition: -1, Last: -1}, ErrNotFound},
	} {
		if _, err := x.Affected(t.Context(), alice, c.q); !errors.Is(err, c.want) {
			t.Errorf("%+v: got %v, want %v", c.q, err, c.want)
		}
	}
}
