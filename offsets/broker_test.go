package offsets

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/internal/vfs"
)

// side is one cluster of a test.
type side struct {
	id  string
	cl  *kgo.Client
	adm *kadm.Client
}

func startSide(t *testing.T, also ...func(*broker.Config)) *side {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.FS, cfg.GroupInitialRebalanceDelay = "/data", vfs.NewMem(), 0
	cfg.Listeners = []broker.Listener{{Name: "client", Addr: "127.0.0.1:0", Protocol: broker.Plaintext}}
	for _, change := range also {
		change(&cfg)
	}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-b.Ready()
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("broker: %v", err)
		}
	}))
	s := &side{id: b.ClusterID(), cl: connect(t, b.Addr("client"))}
	s.adm = kadm.NewClient(s.cl)
	return s
}

func connect(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addr), kgo.MetadataMinAge(20*time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func (s *side) topic(t *testing.T, name string) ledger.TopicID {
	t.Helper()
	resp, err := s.adm.CreateTopic(t.Context(), 1, 1, nil, name)
	if err != nil {
		t.Fatal(err)
	}
	return ledger.TopicID(resp.ID)
}

func (s *side) produce(t *testing.T, topic string, values ...string) {
	t.Helper()
	for _, v := range values {
		if err := s.cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGroupsAgainstBroker moves a group between two bundled clusters and then
// home, through the wire: what it reads next must be what it had not read.
func TestGroupsAgainstBroker(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	src, dst := startSide(t), startSide(t)
	id := ledger.CopyID{
		Source:      ledger.End{Cluster: src.id, TopicID: src.topic(t, "orders")},
		Destination: ledger.End{Cluster: dst.id, TopicID: dst.topic(t, "orders")},
	}
	for i := range 10 {
		src.produce(t, "orders", fmt.Sprint(i))
	}
	dst.produce(t, "orders", "local", "local") // so that offsets differ
	for i := range 10 {
		dst.produce(t, "orders", fmt.Sprint(i))
	}

	ms := NewMaps()
	tl, err := tail.New(tail.Config{
		Dial: func(opts ...kgo.Opt) (*kgo.Client, error) {
			return kgo.NewClient(append(opts, kgo.SeedBrokers(dst.cl.OptValue(kgo.SeedBrokers).([]string)...))...)
		},
		Sinks: []tail.Sink{ms}, Refresh: 250 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- tl.Run(running) }()
	defer func() {
		end()
		<-ran
	}()
	ms.Attach(dst.id, tl)
	chain := ledger.NewChain(ledger.WriterID{1})
	page := chain.Encode([]ledger.Entry{
		&ledger.Begin{Copy: id, Epoch: 1, Flow: "f", SourceTopic: "orders", DestinationTopic: "orders"},
		&ledger.Hop{Copy: id.Key(), Epoch: 1, Next: 10, Runs: []ledger.Run{{Count: 10, Destination: 2, Path: ledger.Raw}}},
	})
	if err := dst.cl.ProduceSync(ctx, &kgo.Record{Topic: ledger.Topic, Value: page}).FirstErr(); err != nil {
		t.Fatal(err)
	}

	read := func(s *side, n int) (values []string) {
		t.Helper()
		seeds := s.cl.OptValue(kgo.SeedBrokers).([]string)
		c := connect(t, seeds[0], kgo.ConsumerGroup("app"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		defer c.Close()
		var records []*kgo.Record
		for len(records) < n {
			fetches := c.PollRecords(ctx, n-len(records))
			if err := fetches.Err(); err != nil {
				t.Fatal(err)
			}
			records = append(records, fetches.Records()...)
		}
		for _, r := range records {
			values = append(values, string(r.Value))
		}
		if err := c.CommitRecords(ctx, records...); err != nil {
			t.Fatal(err)
		}
		return values
	}
	if got := read(src, 4); strings.Join(got, "") != "0123" {
		t.Fatalf("at the source: got %q", got)
	}

	moved := movedGroups{}
	cfg := SyncConfig{
		Flow: "f", SourceID: src.id, DestinationID: dst.id, Source: KafkaCluster(src.cl), Destination: KafkaCluster(dst.cl),
		Groups: func(string) bool { return true }, Topics: func(t string) bool { return t == "orders" }, Rename: func(t string) string { return t },
		Maps: ms, Moved: moved, Log: slog.New(slog.DiscardHandler),
	}
	there := NewSyncer(cfg)
	rows, err := there.Round(ctx)
	if err != nil || len(rows) != 1 || !rows[0].Written || rows[0].Result.Offset != 6 || rows[0].SourceLag != 6 {
		t.Fatalf("round: got %+v %v", rows, err)
	}
	committed, err := dst.adm.FetchOffsets(ctx, "app")
	if o, _ := committed.Lookup("orders", 0); err != nil || o.LeaderEpoch != -1 { // clients would take the source's for the destination's
		t.Fatalf("committed: got %+v %v, want no leader epoch", o, err)
	}
	rows, err = there.Apply(ctx, []string{"app"}, Terms{})
	if err != nil || !rows[0].Written || PlanGroups(rows)[0].Verdict != Ready {
		t.Fatalf("apply: got %+v %v", rows, err)
	}
	if got := read(dst, 3); strings.Join(got, "") != "456" {
		t.Fatalf("at the destination: got %q", got)
	}
	if rows, err = there.Round(ctx); err != nil || rows[0].Action != Leave || !moved.IsMoved("f", "app") {
		t.Fatalf("after the move: got %+v %v", rows, err)
	}

	home := cfg
	home.Flow, home.SourceID, home.DestinationID = "home", dst.id, src.id
	home.Source, home.Destination = cfg.Destination, cfg.Source
	ms.Attach(src.id, caughtUp{})
	if rows, err = NewSyncer(home).Apply(ctx, []string{"app"}, Terms{Overwrite: true}); err != nil || rows[0].Result.Offset != 7 {
		t.Fatalf("home: got %+v %v", rows, err)
	}
	if got := read(src, 3); strings.Join(got, "") != "789" {
		t.Fatalf("home: got %q", got)
	}
}

// TestABrokerWithoutShareGroups says so, and sets no start.
func TestABrokerWithoutShareGroups(t *testing.T) {
	s := startSide(t)
	s.topic(t, "orders")
	c := KafkaCluster(s.cl)
	if tells, sets, err := c.Shares(t.Context()); tells || sets || err != nil {
		t.Errorf("got %v %v %v", tells, sets, err)
	}
	if err := c.Commit(t.Context(), Group{Name: "app", Share: true}, map[flow.TopicPartition]Commit{{Topic: "orders"}: {1, ""}}); err == nil {
		t.Error("a start was set where there are no share groups")
	}
	if err := c.Commit(t.Context(), Group{Name: notesOf("app")}, map[flow.TopicPartition]Commit{{Topic: "orders"}: {1, ""}}); err != nil {
		t.Fatal(err)
	}
	if groups, err := c.Groups(t.Context()); err != nil || len(groups) != 0 {
		t.Errorf("notes are taken for a group: got %v %v", groups, err)
	}
}

func TestKafkaClusterOfAbsentThings(t *testing.T) {
	s := startSide(t)
	c := KafkaCluster(s.cl)
	commits, err := c.Commits(t.Context(), []Group{{Name: "nobody"}})
	if err != nil || len(commits["nobody"]) != 0 {
		t.Errorf("commits: got %v %v", commits, err)
	}
	topics, err := c.Topics(t.Context(), []string{"nothing"})
	if err != nil || len(topics) != 0 {
		t.Errorf("topics: got %v %v", topics, err)
	}
	for name, list := range map[string]func(context.Context, []string) (map[flow.TopicPartition]int64, error){"stable": c.Stable, "starts": c.Starts, "ends": c.Ends} {
		if got, err := list(t.Context(), nil); err != nil || len(got) != 0 {
			t.Errorf("%s: got %v %v", name, got, err)
		}
	}
	if err := c.Commit(t.Context(), Group{Name: "app"}, map[flow.TopicPartition]Commit{{Topic: "nothing"}: {1, ""}}); err == nil {
		t.Error("a commit to no topic went well")
	}
}
