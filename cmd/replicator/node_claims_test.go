package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/offsets"
)

// TestPlanSeesOtherFleets plans flows into a cluster whose ledger has claims of
// another fleet: one of the topic itself, and one of a copy of it.
func TestPlanSeesOtherFleets(t *testing.T) {
	west, east := declaredCluster("west", startBroker(t)), declaredCluster("east", startBroker(t))
	client := func(c *flow.Cluster) (*kgo.Client, *kadm.Client, string) {
		cl, err := kafka.NewClient(c, "test")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		id, err := kafka.ClusterID(t.Context(), cl)
		if err != nil {
			t.Fatal(err)
		}
		return cl, kadm.NewClient(cl), id
	}
	_, westAdmin, westID := client(west)
	eastClient, _, eastID := client(east)
	created, err := westAdmin.CreateTopics(t.Context(), 1, 1, nil, "orders", "payments", "quiet")
	if err != nil || created.Error() != nil {
		t.Fatal(err, created.Error())
	}
	end := func(cluster string, id [16]byte) ledger.End {
		return ledger.End{Cluster: cluster, TopicID: ledger.TopicID(id)}
	}
	direct := ledger.CopyID{Source: end(westID, created["orders"].ID), Destination: end(eastID, [16]byte{1})}
	over := ledger.CopyID{Source: end("south-id", [16]byte{2}), Destination: end(eastID, [16]byte{3})}
	begin := func(id ledger.CopyID, fleet, name, source, topic string) *ledger.Begin {
		return &ledger.Begin{Copy: id, Epoch: 1, Fleet: fleet, Flow: name, SourceCluster: source, SourceTopic: topic, DestinationTopic: topic, At: time.Unix(1_800_000_000, 0)}
	}
	own := direct
	own.Destination.TopicID[0] = 9
	// The bundled broker has a ledger, for who produces and who reads.
	page := ledger.NewChain(ledger.WriterID{1}).Encode([]ledger.Entry{
		begin(direct, "theirs", "w-e", "west", "orders"),
		begin(own, "ours", "mine", "west", "orders"),
		begin(over, "theirs", "s-e", "south", "bills"),
		&ledger.Hop{
			Copy: over.Key(), Epoch: 1, Next: 1, Runs: []ledger.Run{{Count: 1, Path: ledger.Raw, Route: 1}},
			Routes: []ledger.Route{{end(westID, created["payments"].ID).Life()}},
		},
	})
	if err := eastClient.ProduceSync(t.Context(), &kgo.Record{Topic: ledger.Topic, Value: page}).FirstErr(); err != nil {
		t.Fatal(err)
	}

	d := newDirectory("test", slog.New(slog.DiscardHandler))
	defer d.reconcile(nil)
	o := &objects{noFleet{}, &claims{fleet: "ours", directory: d, maps: offsets.NewMaps(), log: slog.New(slog.DiscardHandler)}}
	text := fmt.Sprintf("apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: west}\nspec: {bootstrapServers: [%q]}\n---\n", west.Spec.BootstrapServers[0]) +
		fmt.Sprintf("apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: east}\nspec: {bootstrapServers: [%q]}\n---\n", east.Spec.BootstrapServers[0])
	for more, want := range map[string][]string{
		"topics: {include: ['*']}": {
			"flow f: topic orders already reaches east by flow w-e of fleet theirs, under the same name (since 2027-01-15 08:00 UTC): a copy belongs to one fleet, so this one would not start",
			"flow f: topic payments already reaches east by flow s-e of fleet theirs, which copies south/bills on to bills (since",
		},
		"topics: {include: [orders], rename: {prefix: w.}}": {"flow f: topic orders already reaches east by flow w-e of fleet theirs, as orders (since"},
		"topics: {include: [payments]}, origin: local":      {"what was born in west would be there twice; let that flow have origin: local"},
		"topics: {include: [quiet]}":                        nil,
	} {
		all, err := flow.Parse("test", strings.NewReader(text+"apiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: f}\nspec: {source: west, destination: east, "+more+"}\n"))
		if err != nil {
			t.Fatal(err)
		}
		_, got := o.preview(t.Context(), all, all)
		if len(got) != len(want) || slices.ContainsFunc(want, func(w string) bool {
			return !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, w) })
		}) {
			t.Errorf("%s: got %q, want %q", more, got, want)
		}
	}
}
