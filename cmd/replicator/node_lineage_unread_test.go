package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/lineage"
)

// everything lets everybody see all.
type everything struct{}

func (everything) Allowed(context.Context, lineage.Caller, string, acl.Operation, acl.ResourceType, string) bool {
	return true
}

func (everything) Principal(context.Context, lineage.Caller, string) string { return "" }

// TestLedgersThatAreNotRead: what a ledger says that is not read to its end is not taken for
// nothing in any answer, and keeps no question from what the others got a moment ago.
func TestLedgersThatAreNotRead(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	addr, stop := startBrokerIn(t, t.TempDir())
	defer stop()
	d := newDirectory("test", log)
	defer d.reconcile(nil)
	us, eu, ap := declaredCluster("us", addr), declaredCluster("eu", "127.0.0.1:1"), declaredCluster("ap", "127.0.0.1:1")
	d.reconcile([]*flow.Cluster{us, eu, ap})
	d.identify(t.Context(), d.entries["us"])
	id, err := d.id("us")
	if err != nil {
		t.Fatal(err)
	}
	d.entries["eu"].asked, d.entries["eu"].id = true, "id-eu"
	d.entries["ap"].asked, d.entries["ap"].err = true, errors.New("connection refused")

	x, err := lineage.Open(lineage.Config{Dir: "index", InMemory: true, Authorizer: everything{}, Directory: names{d}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	newTail := func(c *flow.Cluster) *tail.Tail {
		t.Helper()
		tl, err := tail.New(tail.Config{Log: log, Dial: func(opts ...kgo.Opt) (*kgo.Client, error) { return kafka.NewClient(c, "test", opts...) }})
		if err != nil {
			t.Fatal(err)
		}
		return tl
	}
	run := func(tl *tail.Tail) (end func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- tl.Run(ctx) }()
		return func() { cancel(); <-ended }
	}
	read, ended := newTail(us), newTail(us)
	defer run(read)()
	end := run(ended)
	for _, tl := range []*tail.Tail{read, ended} {
		if err := tl.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	end()
	// That there is no ledger yet CatchUp has seen for itself; nobody waits for a reader that
	// has not.
	deadline, again := time.After(30*time.Second), time.NewTicker(time.Millisecond)
	defer again.Stop()
	for read.State().Status == tail.Connecting {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatal("the reader has not found out that there is no ledger")
		}
	}
	l := &eventLineage{index: x, directory: d, ledgers: &ledgers{directory: d, tails: map[string]*runningTail{id: {tail: read}, "id-eu": {tail: ended}}}}
	for range 20 {
		if behind, _ := l.ledgers.catchUp(t.Context()); behind[id] != nil || behind["id-eu"] == nil {
			t.Fatalf("got %v", behind)
		}
	}

	// Of eu it is known that orders is copied to there up to offset 10, and on to ap.
	source, dest := ledger.End{Cluster: id, TopicID: ledger.TopicID{1}}, ledger.End{Cluster: "id-eu", TopicID: ledger.TopicID{2}}
	copied := ledger.CopyID{Source: source, Destination: dest}
	chain := ledger.NewChain(ledger.WriterID{1})
	page, err := ledger.Decode(chain.Encode([]ledger.Entry{
		&ledger.Begin{Copy: copied, Epoch: 1, Flow: "f", SourceCluster: "us", DestinationCluster: "eu", SourceTopic: "orders", DestinationTopic: "orders"},
		&ledger.Hop{Copy: copied.Key(), Epoch: 1, Next: 10, Runs: []ledger.Run{{Count: 10, Path: ledger.Raw}}, At: time.Unix(1, 0)},
	}))
	if err != nil {
		t.Fatal(err)
	}
	x.Apply(tail.Position{Cluster: "id-eu", TopicID: ledger.TopicID{9}, Partition: ledger.PartitionOf(copied, 4)}, page)
	event := func(cluster string, offset int64) lineage.Node {
		t.Helper()
		a, err := l.Event(t.Context(), api.Caller{}, lineage.Address{Cluster: cluster, Topic: "orders", Offset: offset}, lineage.HeadersNone)
		if err != nil {
			t.Fatal(err)
		}
		return a.Nodes[0]
	}
	const why = "a ledger is not read to its end"
	if n := event("eu", 15); n.Origin || !slices.Contains(n.Unknown, "whether it was produced here or came by a copy: "+why) {
		t.Errorf("an event that may have come by a copy: %+v", n)
	}
	if n := event("us", 15); !n.Origin || len(n.NotCopied) != 1 || n.NotCopied[0].Reason != "unknown" || !strings.Contains(n.NotCopied[0].Why, why) {
		t.Errorf("an event that may have been copied: %+v", n)
	}
	if n := event("us", 5); !n.Origin || len(n.NotCopied) > 0 || !slices.Contains(n.Unknown, "whether there is more to be said: "+why) {
		t.Errorf("an event that was copied: %+v", n)
	}
	at := lineage.Address{Cluster: "us", Topic: "orders"}
	far := lineage.Address{Cluster: "id-eu", Topic: "orders"}
	graph, err1 := l.Topic(t.Context(), api.Caller{}, at, lineage.PaceQuery{})
	gaps, err2 := l.Gaps(t.Context(), api.Caller{}, at, 100)
	copies, err3 := l.Copies(t.Context(), api.Caller{}, lineage.RangeQuery{At: at, Last: 100})
	affected, err4 := l.Affected(t.Context(), api.Caller{}, lineage.AffectedQuery{Cluster: "us", Topic: "orders", Partition: -1, Last: -1})
	deeds, err5 := l.Deeds(t.Context(), api.Caller{}, lineage.DeedQuery{At: far, Last: -1})
	group, err6 := l.Group(t.Context(), api.Caller{}, "eu", "g", 0, "")
	principal, err7 := l.Principal(t.Context(), api.Caller{}, "id-eu", "User:x", 0, "")
	here, err8 := l.Group(t.Context(), api.Caller{}, "us", "g", 0, "")
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8); err != nil {
		t.Fatal(err)
	}
	for what, unknown := range map[string][]string{
		"topic": graph.Unknown, "gaps": gaps.Unknown, "copies": copies.Unknown, "affected": affected.Unknown, "deeds": deeds.Unknown, "group": group.Unknown, "principal": principal.Unknown,
	} {
		if !slices.Contains(unknown, "whether there is more to be said: "+why) {
			t.Errorf("%s: %q", what, unknown)
		}
	}
	if strings.Contains(strings.Join(here.Unknown, "; "), why) {
		t.Errorf("a list of one cluster is not about the ledgers of others: %q", here.Unknown)
	}
	_, err = l.Event(t.Context(), api.Caller{}, lineage.Address{Cluster: "ap", Topic: "orders"}, lineage.HeadersNone)
	if p, ok := errors.AsType[*api.Error](err); !ok || p.Status != http.StatusNotFound || !strings.Contains(p.Hint, why) {
		t.Errorf("what may be in a ledger that is not read: %v", err)
	}
}
