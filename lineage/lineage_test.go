package lineage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// rights are what may be described: "cluster.id/topic", or "cluster.id" for the
// cluster; and what may be read: "read cluster.id/topic". Everything if nil.
type rights map[string]bool

func (r rights) Allowed(_ context.Context, _ Caller, cluster string, op acl.Operation, rt acl.ResourceType, name string) bool {
	k := cluster
	switch rt {
	case acl.Topic:
		k += "/" + name
	case acl.Group:
		k += "/group/" + name
	case acl.TransactionalID:
		k += "/transactional/" + name
	}
	switch op {
	case acl.Describe:
	case acl.Read:
		k = "read " + k
	default:
		panic("nothing else is ever asked for")
	}
	return r == nil || r[k]
}

func (r rights) Principal(_ context.Context, c Caller, _ string) string { return c.Principal }

var (
	alice = Caller{Principal: "User:alice"}
	t0    = time.UnixMilli(1_700_000_000_000).UTC()
)

func id(cluster byte) ledger.TopicID { return ledger.TopicID{cluster} }

func end(cluster byte, partition int32) ledger.End {
	return ledger.End{Cluster: "id-" + string(cluster), TopicID: id(cluster), Partition: partition}
}

func copyOf(from, to byte) ledger.CopyID {
	return ledger.CopyID{Source: end(from, 0), Destination: end(to, 0)}
}

func begin(from, to byte, epoch uint64) *ledger.Begin {
	return &ledger.Begin{
		Copy: copyOf(from, to), Epoch: epoch, At: t0.Add(time.Duration(epoch) * time.Second), Flow: fmt.Sprintf("%c-to-%c", from, to),
		Fleet: "prod", Node: fmt.Sprintf("n%d", epoch),
		SourceCluster: string(from), DestinationCluster: string(to), SourceTopic: "orders", DestinationTopic: "orders",
	}
}

func hop(from, to byte, epoch uint64, source, count, dest int64, gaps ...ledger.Gap) *ledger.Hop {
	h := &ledger.Hop{Copy: copyOf(from, to).Key(), Epoch: epoch, From: source, Next: source + count, At: t0.Add(time.Minute), Bytes: 10 * count}
	if dest >= 0 {
		h.Runs = []ledger.Run{{Source: source, Count: count, Destination: dest, Path: ledger.Raw}}
	}
	for _, g := range gaps {
		h.Gaps = append(h.Gaps, g)
		h.Next = max(h.Next, g.Source+g.Count)
	}
	return h
}

func production(cluster byte, principal string, first, last int64) *ledger.Production {
	return &ledger.Production{
		Place:  ledger.Place{TopicID: id(cluster), Topic: "orders", First: first, Last: last},
		Client: ledger.Client{Principal: principal, ClientID: "p1", Software: "java 4.0", Address: "192.0.2.1"}, FirstAt: t0, At: t0,
	}
}

func access(cluster byte, principal, group string, first, last int64, at time.Time) *ledger.Access {
	a := &ledger.Access{
		Place:  ledger.Place{TopicID: id(cluster), Topic: "orders", First: first, Last: last},
		Client: ledger.Client{Principal: principal, ClientID: "c1", Address: "192.0.2.2"}, Kind: ledger.Fetched, Group: group, FirstAt: at, At: at,
	}
	if group != "" {
		a.Kind = ledger.Committed
	}
	return a
}

// feeder writes entries as pages into ledgers, each of one writer.
type feeder struct {
	x      *Index
	next   map[string]int64
	chains map[byte]*ledger.Chain
}

func newFeeder(x *Index) *feeder {
	return &feeder{x, map[string]int64{}, map[byte]*ledger.Chain{}}
}

func (f *feeder) page(cluster byte, entries ...ledger.Entry) {
	if f.chains[cluster] == nil {
		f.chains[cluster] = ledger.NewChain(ledger.WriterID{cluster})
	}
	page, err := ledger.Decode(f.chains[cluster].Encode(entries))
	if err != nil {
		panic(err)
	}
	c := "id-" + string(cluster)
	f.x.Apply(tail.Position{Cluster: c, TopicID: ledger.TopicID{'L', cluster}, Offset: f.next[c]}, page)
	f.next[c]++
}

func open(t testing.TB, cfg Config) (*Index, *feeder) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir, cfg.InMemory = "index", true
	}
	if cfg.Authorizer == nil {
		cfg.Authorizer = rights(nil)
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	x, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Err(); err != nil {
			t.Errorf("index failed: %v", err)
		}
		if err := x.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return x, newFeeder(x)
}

func orders(cluster string, offset int64) Address {
	return Address{Cluster: cluster, Topic: "orders", Offset: offset}
}

// story draws an answer in a form that a test can state.
func story(a *Answer) []string {
	var lines []string
	name := func(i int) string {
		n := a.Nodes[i]
		if n.Redacted {
			return fmt.Sprintf("?%d", i)
		}
		return fmt.Sprintf("%s/%s/%d/%d", n.Cluster, n.Topic, n.Partition, n.Offset)
	}
	deed := func(d Deed) string {
		who := strings.TrimPrefix(d.Principal, "User:")
		if d.Redacted {
			who = "?"
		}
		return strings.TrimSpace(fmt.Sprintf("%s by %s %s", d.Kind, who, d.Group))
	}
	for i, n := range a.Nodes {
		line := name(i)
		if n.Origin {
			line += " origin"
		}
		for _, d := range append(slices.Clone(n.Produced), n.Accesses...) {
			line += ", " + deed(d)
		}
		for _, c := range n.NotCopied {
			line += ", not to " + c.Cluster + ": " + c.Reason
		}
		lines = append(lines, line)
	}
	for _, e := range a.Edges {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s -> %s %s %s", name(e.From), name(e.To), e.Flow, e.ReplicaNode)))
	}
	if a.Truncated != "" {
		lines = append(lines, a.Truncated)
	}
	return lines
}

func expect(t *testing.T, a *Answer, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if got := story(a); !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// chain is a -> b -> c and a -> d, where a and c record who did what.
func chain(f *feeder) {
	f.page('a', production('a', "User:shop", 0, 99), access('a', "User:alice", "", 0, 49, t0.Add(time.Second)))
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 100, 1000))
	f.page('c', begin('b', 'c', 1), hop('b', 'c', 1, 0, 1000, -1, ledger.Gap{Source: 0, Count: 1000, Reason: ledger.NotAsked}), hop('b', 'c', 1, 1000, 60, 5))
	f.page('c', access('c', "User:billing", "billing", 5, 20, t0.Add(2*time.Second)), access('c', "User:alice", "", 0, 30, t0.Add(3*time.Second)))
	f.page('d', begin('a', 'd', 1), hop('a', 'd', 1, 0, 10, 0, ledger.Gap{Source: 10, Count: 5, Reason: ledger.Filtered}))
}

func TestEvent(t *testing.T) {
	x, f := open(t, Config{})
	chain(f)
	whole := []string{
		"a/orders/0/3 origin, produced by shop, fetched by alice",
		"b/orders/0/1003", "d/orders/0/3",
		"c/orders/0/8, committed by billing billing, fetched by alice", // in order of time
		"a/orders/0/3 -> b/orders/0/1003 a-to-b n1", "a/orders/0/3 -> d/orders/0/3 a-to-d n1", "b/orders/0/1003 -> c/orders/0/8 b-to-c n1",
	}
	a, err := x.Event(t.Context(), alice, orders("a", 3))
	expect(t, a, err, whole...)

	a, err = x.Event(t.Context(), alice, orders("id-c", 8))
	expect(t, a, err,
		whole[3], whole[1], whole[0], whole[2],
		"b/orders/0/1003 -> c/orders/0/8 b-to-c n1", "a/orders/0/3 -> b/orders/0/1003 a-to-b n1", "a/orders/0/3 -> d/orders/0/3 a-to-d n1")

	a, err = x.Event(t.Context(), alice, orders("a", 12))
	expect(t, a, err,
		"a/orders/0/12 origin, produced by shop, fetched by alice, not to d: filtered", "b/orders/0/1012",
		"c/orders/0/17, committed by billing billing, fetched by alice",
		"a/orders/0/12 -> b/orders/0/1012 a-to-b n1", "b/orders/0/1012 -> c/orders/0/17 b-to-c n1")

	a, err = x.Event(t.Context(), alice, orders("a", 70))
	expect(t, a, err,
		"a/orders/0/70 origin, produced by shop, not to d: pending", "b/orders/0/1070, not to c: pending",
		"a/orders/0/70 -> b/orders/0/1070 a-to-b n1")

	a, err = x.Event(t.Context(), alice, orders("b", 7)) // a local record of b, before c was asked for it
	expect(t, a, err, "b/orders/0/7 origin, not to c: not-asked")
	if got := a.Nodes[0].Unknown; !slices.Equal(got, []string{"who produced and who read here: the cluster records neither"}) {
		t.Errorf("got unknown %q", got)
	}
}

func TestEventIsRedacted(t *testing.T) {
	x, f := open(t, Config{Authorizer: rights{"id-a/orders": true, "id-c/orders": true, "id-c": true}})
	chain(f)
	a, err := x.Event(t.Context(), alice, orders("a", 3))
	expect(t, a, err,
		"a/orders/0/3 origin, produced by ?, fetched by alice", "?1", "?2",
		"c/orders/0/8, committed by billing billing, fetched by alice",
		"a/orders/0/3 -> ?1", "a/orders/0/3 -> ?2", "?1 -> c/orders/0/8")
	a, err = x.Event(t.Context(), alice, orders("a", 12))
	if err != nil || !a.Nodes[0].NotCopied[0].Redacted || a.Nodes[0].NotCopied[0].Flow != "" {
		t.Errorf("got %+v %v", a, err)
	}
	x.cfg.Authorizer = rights{"id-a/orders": true, "id-c/orders": true}
	a, err = x.Event(t.Context(), Caller{Principal: "User:bob"}, orders("a", 3))
	if err != nil || !a.Nodes[0].Accesses[0].Redacted {
		t.Errorf("bob: got %+v %v", a, err)
	}
	text, _ := json.Marshal(a)
	for _, secret := range []string{"alice", "shop", "192.0.2", "a-to-b", "id-b", "p1"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the answer tells %q: %s", secret, text)
		}
	}
	for _, at := range []Address{orders("b", 3), {Cluster: "a", Topic: "secret"}, {Cluster: "nowhere", Topic: "orders"}} {
		if _, err := x.Event(t.Context(), alice, at); !errors.Is(err, ErrDenied) {
			t.Errorf("%+v: got %v, want %v", at, err, ErrDenied)
		}
	}
	if _, err := x.Deeds(t.Context(), alice, DeedQuery{At: orders("a", 0), Last: 100, Principal: "User:shop"}); !errors.Is(err, ErrDenied) {
		t.Errorf("another's accesses: got %v", err)
	}
}

func TestEventErrors(t *testing.T) {
	x, f := open(t, Config{})
	chain(f)
	cases := []struct {
		at   Address
		want error
	}{
		{Address{Cluster: "a", Topic: "nothing"}, ErrNotFound},
		{Address{Cluster: "z", Topic: "orders"}, ErrNotFound},
		{Address{Cluster: "a", Topic: "orders", Offset: -1}, ErrInvalid},
		{Address{Cluster: "a", Topic: "orders", Partition: -1}, ErrInvalid},
		{Address{Topic: "orders"}, ErrInvalid},
		{Address{Cluster: "a", Topic: "orders", TopicID: "?"}, ErrInvalid},
		{Address{Cluster: "a", Topic: "orders", TopicID: ledger.TopicID{1}.String()}, ErrNotFound},
	}
	for _, c := range cases {
		if _, err := x.Event(t.Context(), alice, c.at); !errors.Is(err, c.want) {
			t.Errorf("%+v: got %v, want %v", c.at, err, c.want)
		}
	}
}

func TestLoopsEnd(t *testing.T) {
	x, f := open(t, Config{Limits: Limits{Nodes: 10}})
	// Ledgers that say what cannot be: each copies every event of the other
	// one offset on.
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 1000, 0))
	f.page('a', begin('b', 'a', 1), hop('b', 'a', 1, 0, 1000, 1))
	a, err := x.Event(t.Context(), alice, orders("a", 500))
	if err != nil || len(a.Nodes) != 10 || a.Truncated != "after 10 places" {
		t.Errorf("got %d places, %q, %v", len(a.Nodes), a.Truncated, err)
	}
	deep, g := open(t, Config{Dir: "deep", InMemory: true, Limits: Limits{Depth: 2}})
	g.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 9, 0))
	g.page('c', begin('b', 'c', 1), hop('b', 'c', 1, 0, 9, 0))
	g.page('d', begin('c', 'd', 1), hop('c', 'd', 1, 0, 9, 0))
	a, err = deep.Event(t.Context(), alice, orders("a", 5))
	expect(t, a, err, "a/orders/0/5 origin", "b/orders/0/5", "c/orders/0/5", "a/orders/0/5 -> b/orders/0/5 a-to-b n1", "b/orders/0/5 -> c/orders/0/5 b-to-c n1", "after 2 hops")
}

func TestEpochsRetractionsAndDamage(t *testing.T) {
	x, f := open(t, Config{})
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 100, 0), hop('a', 'b', 1, 100, 100, 101))
	taken := begin('a', 'b', 2)
	taken.Resume = 200
	f.page('b', taken, hop('a', 'b', 1, 200, 50, 999)) // the zombie's is void
	a, err := x.Event(t.Context(), alice, orders("a", 210))
	expect(t, a, err, "a/orders/0/210 origin, not to b: pending")

	f.page('b', &ledger.Retraction{Copy: copyOf('a', 'b').Key(), Epoch: 2, Source: 150, Destination: 151}, hop('a', 'b', 2, 150, 100, 151))
	a, err = x.Event(t.Context(), alice, orders("a", 149))
	expect(t, a, err, "a/orders/0/149 origin", "b/orders/0/150", "a/orders/0/149 -> b/orders/0/150 a-to-b n1")
	a, err = x.Event(t.Context(), alice, orders("b", 160))
	expect(t, a, err, "b/orders/0/160", "a/orders/0/159 origin", "a/orders/0/159 -> b/orders/0/160 a-to-b n2")
	g, err := x.Topic(t.Context(), alice, orders("a", 0), PaceQuery{})
	if p := g.Copies[0].Partitions[0]; err != nil || p.Records != 250 || p.Next != 250 || p.DestinationNext != 251 {
		t.Errorf("got %+v %v", p, err)
	}

	f.page('b', hop('a', 'b', 2, 300, 10, 300)) // something is missing before it
	a, err = x.Event(t.Context(), alice, orders("a", 270))
	expect(t, a, err, "a/orders/0/270 origin, not to b: unknown")
	if got, want := a.Nodes[0].NotCopied[0].Why, "the ledger of b: a hop begins at source offset 300, the one before it ended at 250"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	a, err = x.Event(t.Context(), alice, orders("b", 270)) // it may have come with what is missing
	expect(t, a, err, "b/orders/0/270")
	x.Corrupt(tail.Position{Cluster: "id-b", TopicID: ledger.TopicID{'L', 'b'}, Offset: 77}, &ledger.CorruptError{Reason: "torn"})
	a, err = x.Event(t.Context(), alice, orders("b", 5))
	if err != nil || !strings.Contains(a.Edges[0].Uncertain, "torn") {
		t.Errorf("got %+v %v", a, err)
	}
}

func TestRecreatedTopic(t *testing.T) {
	auth := rights{"id-a/orders": true, "id-b/orders": true}
	x, f := open(t, Config{Authorizer: auth})
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 10, 0))
	again := begin('a', 'b', 5)
	again.Copy.Source.TopicID[5] = 1
	h := hop('a', 'b', 5, 0, 10, 50)
	h.Copy = again.Copy.Key()
	f.page('b', again, h)

	a, err := x.Event(t.Context(), alice, orders("a", 3))
	expect(t, a, err, "a/orders/0/3 origin", "b/orders/0/53", "a/orders/0/3 -> b/orders/0/53 a-to-b n5")
	a, err = x.Event(t.Context(), alice, orders("b", 3)) // came from the earlier life
	expect(t, a, err, "b/orders/0/3", "?1", "?1 -> b/orders/0/3")
	old := orders("a", 3)
	old.TopicID = id('a').String()
	if _, err := x.Event(t.Context(), alice, old); !errors.Is(err, ErrDenied) {
		t.Errorf("got %v, want %v", err, ErrDenied)
	}
	auth["id-a"] = true
	a, err = x.Event(t.Context(), alice, old)
	expect(t, a, err, "a/orders/0/3 origin", "b/orders/0/3", "a/orders/0/3 -> b/orders/0/3 a-to-b n1")
	if !a.Nodes[0].EarlierLife || a.Nodes[1].EarlierLife {
		t.Errorf("got %+v", a.Nodes)
	}
}

func TestRestartGoesOn(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, Authorizer: rights(nil), Log: slog.New(slog.DiscardHandler)}
	x, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := newFeeder(x)
	chain(f)
	x.Corrupt(tail.Position{Cluster: "id-d", TopicID: ledger.TopicID{'L', 'd'}, Offset: 77}, ledger.ErrVersion)
	before, err := x.Event(t.Context(), alice, orders("a", 3))
	if err != nil {
		t.Fatal(err)
	}
	graph, err := x.Topic(t.Context(), alice, orders("a", 3), PaceQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}

	if x, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	after, err := x.Event(t.Context(), alice, orders("a", 3))
	if err != nil || !slices.Equal(story(before), story(after)) || !slices.Equal(before.Nodes[0].Unknown, after.Nodes[0].Unknown) {
		t.Errorf("got %q %v, want %q", story(after), err, story(before))
	}
	again, err := x.Topic(t.Context(), alice, orders("a", 3), PaceQuery{})
	want, _ := json.Marshal(graph)
	if got, _ := json.Marshal(again); err != nil || string(got) != string(want) {
		t.Errorf("got  %s %v\nwant %s", got, err, want)
	}
	if got := x.Resume("id-c", ledger.TopicID{'L', 'c'}, map[int32]int64{0: 0})[0]; got != 2 {
		t.Errorf("resume: got %d, want 2", got)
	}
	if got := x.Resume("id-c", ledger.TopicID{'L', 'c'}, map[int32]int64{1: 0})[1]; got != 0 {
		t.Errorf("resume of a new partition: got %d, want 0", got)
	}
	// Going on where it stood.
	f.x = x
	f.page('d', hop('a', 'd', 1, 15, 60, 10))
	a, err := x.Event(t.Context(), alice, orders("d", 20))
	if err != nil || a.Nodes[1].Offset != 25 {
		t.Errorf("got %q %v", story(a), err)
	}
	// The ledger of b is another one now.
	if got := x.Resume("id-b", ledger.TopicID{'L', 'b', 2}, map[int32]int64{0: 0})[0]; got != 0 {
		t.Errorf("resume of a recreated ledger: got %d, want 0", got)
	}
	a, err = x.Event(t.Context(), alice, orders("a", 70))
	expect(t, a, err, "a/orders/0/70 origin, produced by shop", "d/orders/0/65", "a/orders/0/70 -> d/orders/0/65 a-to-d n1")
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTopicAndGaps(t *testing.T) {
	x, f := open(t, Config{})
	chain(f)
	g, err := x.Topic(t.Context(), alice, orders("b", 0), PaceQuery{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range g.Topics {
		got = append(got, n.Cluster)
	}
	for _, c := range g.Copies {
		p := c.Partitions[0]
		got = append(got, fmt.Sprintf("%s %d..%d %d records %v", c.Flow, p.Start, p.Next, p.Records, p.Gaps))
	}
	want := []string{"b", "a", "c", "d", "a-to-b 0..100 100 records map[]", "b-to-c 0..1060 60 records map[not-asked:1000]", "a-to-d 0..15 10 records map[filtered:5]"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	g, err = x.Topic(t.Context(), alice, orders("c", 0), PaceQuery{})
	if err != nil || len(g.Clients) != 2 || g.Clients[0].Kind != "fetched" || g.Clients[1].Group != "billing" || g.Clients[1].Offsets != 16 {
		t.Errorf("got %+v %v", g.Clients, err)
	}

	gaps, err := x.Gaps(t.Context(), alice, orders("a", 0), 1<<40)
	if err != nil || gaps.Next > 0 || len(gaps.Unknown) > 0 || len(gaps.Gaps) != 1 || gaps.Gaps[0] != (Gap{"a-to-d", "d", "orders", 10, 5, "filtered", ""}) {
		t.Errorf("got %+v %v", gaps, err)
	}
	if gaps, err = x.Gaps(t.Context(), alice, orders("a", 20), 30); err != nil || len(gaps.Gaps) != 0 {
		t.Errorf("got %+v %v", gaps, err)
	}
	page, err := x.Deeds(t.Context(), alice, DeedQuery{At: orders("c", 25), Last: 40})
	if err != nil || page.Next != "" || len(page.Deeds) != 1 || page.Deeds[0].Principal != "User:alice" {
		t.Errorf("got %+v %v", page, err)
	}
}

// TestRunsAgainstList holds the search for overlapping runs against a plain one.
func TestRunsAgainstList(t *testing.T) {
	x, f := open(t, Config{Limits: Limits{Deeds: 10_000}})
	type span struct{ first, last int64 }
	var all []span
	seed := int64(1)
	for range 40 {
		var entries []ledger.Entry
		for range 25 {
			seed = seed * 6364136223846793005 >> 1
			first, count := (seed>>20)&0xfff, int64(1)<<((seed>>40)&0xb)+(seed>>50)&3
			all = append(all, span{first, first + count - 1})
			entries = append(entries, access('a', "User:x", "", first, first+count-1, t0))
		}
		f.page('a', entries...)
	}
	for offset := int64(0); offset < 6000; offset += 7 {
		want := 0
		for _, s := range all {
			if s.first <= offset && offset <= s.last {
				want++
			}
		}
		got := 0
		for q := (DeedQuery{At: orders("id-a", offset), Last: offset, Limit: 7}); ; {
			page, err := x.Deeds(t.Context(), alice, q)
			if err != nil || len(page.Deeds) > 7 {
				t.Fatalf("offset %d: got %+v %v", offset, page, err)
			}
			got += len(page.Deeds)
			if q.Cursor = page.Next; q.Cursor == "" {
				break
			}
		}
		if got != want {
			t.Fatalf("offset %d: got %d, want %d", offset, got, want)
		}
	}
}

// TestTurnsOnAPartition: of producers that took turns, each offset has the one
// that produced it.
func TestTurnsOnAPartition(t *testing.T) {
	x, f := open(t, Config{})
	even, odd := production('a', "User:even", 0, 8), production('a', "User:odd", 1, 9)
	for o := range int64(5) {
		even.Parts = append(even.Parts, ledger.Stretch{First: 2 * o, Last: 2 * o})
		odd.Parts = append(odd.Parts, ledger.Stretch{First: 2*o + 1, Last: 2*o + 1})
	}
	f.page('a', even, odd)
	for o := range int64(10) {
		a, err := x.Event(t.Context(), alice, orders("id-a", o))
		if err != nil || len(a.Nodes) != 1 || len(a.Nodes[0].Produced) != 1 {
			t.Fatalf("offset %d: %+v, %v", o, a, err)
		}
		d := a.Nodes[0].Produced[0]
		if want := []string{"User:even", "User:odd"}[o%2]; d.Principal != want || d.First != o || d.Last != o || d.Offsets != 1 {
			t.Errorf("offset %d: %+v", o, d)
		}
	}
	g, err := x.Topic(t.Context(), alice, orders("id-a", 0), PaceQuery{})
	if err != nil || len(g.Clients) != 2 || g.Clients[0].Offsets != 5 || g.Clients[1].Offsets != 5 {
		t.Errorf("clients %+v, %v", g, err)
	}
}

func TestLimitOfDeeds(t *testing.T) {
	x, f := open(t, Config{Limits: Limits{Deeds: 5}})
	for range 4 {
		f.page('a', access('a', "User:x", "", 0, 9, t0), access('a', "User:x", "", 0, 99, t0))
	}
	a, err := x.Event(t.Context(), alice, orders("id-a", 3))
	if err != nil || len(a.Nodes[0].Accesses) != 5 || !a.Nodes[0].More {
		t.Errorf("got %+v %v", a, err)
	}
}

// BenchmarkEvent asks for events at random places of an index of so many hops: half
// of them from a to b, half on to c, each of 500 records, with a production and an
// access for each of the first half.
func BenchmarkEvent(b *testing.B) {
	for _, hops := range []int64{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("hops=%d", hops), func(b *testing.B) {
			x, f := open(b, Config{Dir: b.TempDir()})
			f.page('b', begin('a', 'b', 1))
			f.page('c', begin('b', 'c', 1))
			const page = 50
			for i := int64(0); i < hops/2; i += page {
				var ab, bc, did []ledger.Entry
				for j := i; j < i+page; j++ {
					ab = append(ab, hop('a', 'b', 1, j*500, 500, j*501))
					did = append(did, production('a', "User:shop", j*500, j*500+499), access('a', "User:alice", "g", j*500, j*500+499, t0))
					bc = append(bc, hop('b', 'c', 1, j*501, 500, j*501, ledger.Gap{Source: j*501 + 500, Count: 1, Reason: ledger.Control}))
				}
				f.page('b', ab...)
				f.page('c', bc...)
				f.page('a', did...)
			}
			var took []time.Duration
			offset := int64(0)
			for b.Loop() {
				offset = (offset + 7_777_777) % (hops / 2 * 500)
				began := time.Now()
				a, err := x.Event(b.Context(), alice, orders("a", offset))
				took = append(took, time.Since(began))
				if err != nil || len(a.Nodes) != 3 {
					b.Fatal(a, err)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
			b.ReportMetric(float64(x.db.Metrics().DiskSpaceUsage())/float64(hops), "disk-B/hop")
		})
	}
}

func BenchmarkApply(b *testing.B) {
	_, f := open(b, Config{Dir: b.TempDir()})
	f.page('b', begin('a', 'b', 1))
	j := int64(0)
	for b.Loop() {
		f.page('b', hop('a', 'b', 1, j*500, 500, j*501))
		j++
	}
}
