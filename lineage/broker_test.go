package lineage

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/internal/vfs"
)

// TestAgainstBroker asks about an event that was produced and read a moment ago.
func TestAgainstBroker(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.FS, cfg.GroupInitialRebalanceDelay = "/data", vfs.NewMem(), 0
	cfg.Listeners = []broker.Listener{{Name: "client", Addr: "127.0.0.1:0", Protocol: broker.Plaintext}}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	run := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(running); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	run("broker", b.Run)
	<-b.Ready()
	dial := func(opts ...kgo.Opt) (*kgo.Client, error) {
		return kgo.NewClient(append(opts, kgo.SeedBrokers(b.Addr("client")), kgo.MetadataMinAge(20*time.Millisecond))...)
	}

	x, _ := open(t, Config{})
	tl, err := tail.New(tail.Config{Dial: dial, Sinks: []tail.Sink{x}, Refresh: 250 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	run("tail", tl.Run)

	cl, err := dial(kgo.ClientID("shop"), kgo.ConsumerGroup("billing"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 1, nil, "orders"); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("1")}, &kgo.Record{Topic: "orders", Value: []byte("2")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	fetches := cl.PollFetches(ctx)
	if err := fetches.Err(); err != nil {
		t.Fatal(err)
	}
	if err := cl.CommitRecords(ctx, fetches.Records()...); err != nil {
		t.Fatal(err)
	}
	did := time.Now()

	// The broker writes what happened within its interval.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		a, err := x.Event(ctx, alice, Address{Cluster: b.ClusterID(), Topic: "orders"})
		if err == nil && len(a.Nodes[0].Produced) > 0 && len(a.Nodes[0].Accesses) > 1 {
			n := a.Nodes[0]
			kinds := []string{n.Accesses[0].Kind, n.Accesses[1].Kind}
			slices.Sort(kinds)
			if !n.Origin || n.Produced[0].ClientID != "shop" || n.Produced[0].Principal == "" || !slices.Equal(kinds, []string{"committed", "fetched"}) {
				t.Errorf("got %+v", n)
			}
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no answer yet: %+v %v, tail %+v", a, err, tl.State())
		}
	}
	t.Logf("answered after %v", time.Since(did))
	if err := tl.CatchUp(ctx); err != nil {
		t.Error(err)
	}
}
