package offsets

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/scribe"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// noted is a sink that keeps the progress of groups.
type noted struct {
	mu  sync.Mutex
	all []*ledger.Progress
	bad []error
}

func (n *noted) Apply(_ tail.Position, p *ledger.Page) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range p.Entries {
		if e, ok := e.(*ledger.Progress); ok {
			n.all = append(n.all, e)
		}
	}
}

func (n *noted) Fold(tail.Position, int64, *ledger.Page) {}

func (n *noted) Corrupt(_ tail.Position, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bad = append(n.bad, err)
}

// TestWatchAgainstBroker watches a consumer of a broker that records nothing: what it reads
// is in the ledger of that broker, also over a restart of who watches, and a reset is not
// taken for a reading. Where the broker records accesses itself nothing is written.
func TestWatchAgainstBroker(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	src, dst := startSide(t, func(c *broker.Config) { c.Provenance = false }), startSide(t)
	src.topic(t, ledger.Topic)
	src.topic(t, "orders")
	dst.topic(t, "orders")
	for range 30 {
		src.produce(t, "orders", "x")
	}
	ms, seen := NewMaps(), &noted{}
	for _, s := range []*side{src, dst} {
		dial := func(opts ...kgo.Opt) (*kgo.Client, error) {
			return kgo.NewClient(append(opts, kgo.SeedBrokers(s.cl.OptValue(kgo.SeedBrokers).([]string)...), kgo.MetadataMinAge(20*time.Millisecond))...)
		}
		tl, err := tail.New(tail.Config{Dial: dial, Sinks: []tail.Sink{ms, seen}, Refresh: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		running, end := context.WithCancel(ctx)
		ran := make(chan error, 1)
		go func() { ran <- tl.Run(running) }()
		t.Cleanup(func() { end(); <-ran })
		ms.Attach(s.id, tl)
	}
	may := true
	start := func() *Syncer {
		watch := NewWatch(WatchConfig{
			Cluster: src.id, Maps: ms, Log: slog.New(slog.DiscardHandler), May: func() bool { return may },
			Watched: func(group, topic string) bool { return topic == "orders" },
			Writer: scribe.New(scribe.Config{Dial: func(opts ...kgo.Opt) (*kgo.Client, error) {
				return kgo.NewClient(append(opts, kgo.SeedBrokers(src.cl.OptValue(kgo.SeedBrokers).([]string)...), kgo.MetadataMinAge(20*time.Millisecond))...)
			}}),
		})
		t.Cleanup(watch.cfg.Writer.Close)
		if err := watch.write(ctx); err != nil { // it reads the ledger
			t.Fatal(err)
		}
		return NewSyncer(SyncConfig{
			Flow: "f", SourceID: src.id, DestinationID: dst.id, Source: KafkaCluster(src.cl), Destination: KafkaCluster(dst.cl),
			Groups: func(string) bool { return true }, Topics: func(t string) bool { return t == "orders" }, Rename: func(t string) string { return t },
			Maps: ms, Moved: movedGroups{}, Log: slog.New(slog.DiscardHandler), Watch: watch,
		})
	}
	s := start()
	look := func() {
		t.Helper()
		if _, err := s.Round(ctx); err != nil {
			t.Fatal(err)
		}
	}
	write := func() {
		t.Helper()
		w := s.cfg.Watch
		w.mu.Lock()
		for _, st := range w.progress.stands { // a minute later
			st.written = time.Time{}
		}
		w.mu.Unlock()
		if err := w.write(ctx); err != nil {
			t.Fatal(err)
		}
		if err := ms.CatchUp(ctx, src.id); err != nil {
			t.Fatal(err)
		}
	}
	consume := func(c *kgo.Client, n int) {
		t.Helper()
		var records []*kgo.Record
		for len(records) < n {
			fetches := c.PollRecords(ctx, n-len(records))
			if err := fetches.Err(); err != nil {
				t.Fatal(err)
			}
			records = append(records, fetches.Records()...)
		}
		if err := c.CommitRecords(ctx, records...); err != nil {
			t.Fatal(err)
		}
	}
	consumer := func() *kgo.Client {
		return connect(t, src.cl.OptValue(kgo.SeedBrokers).([]string)[0], kgo.ConsumerGroup("app"), kgo.ConsumeTopics("orders"),
			kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	}

	c := consumer()
	consume(c, 4)
	look()
	look() // the first cannot know the topic's life
	consume(c, 3)
	look()
	write()
	s = start() // another node takes over
	look()
	look()
	consume(c, 2)
	look()
	c.Close()
	look()
	look()
	if err := KafkaCluster(src.cl).Commit(ctx, Group{Name: "app"}, map[flow.TopicPartition]Commit{{Topic: "orders"}: {Offset: 20}}); err != nil {
		t.Fatal(err)
	}
	look()
	c = consumer()
	consume(c, 5)
	look()
	write()
	c.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{"orders": {0: {Epoch: -1, Offset: 1000}}}, nil) // the log ends at 30
	look()
	write()
	may = false // a member of the fleet is too old for it
	consume(c, 1)
	look()
	write()
	c.Close()

	seen.mu.Lock()
	w := watching{all: seen.all}
	for _, err := range seen.bad {
		t.Errorf("the ledger: %v", err)
	}
	seen.mu.Unlock()
	var got []string
	for _, e := range w.all {
		if e.Group != "app" || e.Topic != "orders" || e.At.Before(e.FirstAt) || time.Since(e.At) > time.Minute {
			t.Errorf("got %+v", e)
		}
		got = append(got, fmt.Sprintf("%s %d-%d", e.Kind, e.First, e.Last))
	}
	if got, want := strings.Join(got, ", "), "found 4-4, committed 4-6, committed 7-8, leapt 9-19, committed 20-24, leapt 25-999"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
