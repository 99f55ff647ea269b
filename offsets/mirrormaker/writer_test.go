package mirrormaker

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/vfs"
)

// TestLayouts: the bytes that Apache Kafka's classes make of the same.
func TestLayouts(t *testing.T) {
	c := Checkpoint{Group: "app", Topic: "us.orders", Partition: 3, Upstream: 1041, Downstream: 258, Metadata: "né"}
	s := OffsetSync{Topic: "orders", Partition: 3, Upstream: 1041, Downstream: 258}
	h := heartbeat{"us", "eu", time.UnixMilli(0x0102030405)}
	for name, b := range map[string][2][]byte{
		"checkpoint key":   {c.key(), []byte("\x00\x03app\x00\x09us.orders\x00\x00\x00\x03")},
		"checkpoint value": {c.value(), []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x04\x11\x00\x00\x00\x00\x00\x00\x01\x02\x00\x03n\xc3\xa9")},
		"sync key":         {s.key(), []byte("\x00\x06orders\x00\x00\x00\x03")},
		"sync value":       {s.value(), []byte("\x00\x00\x00\x00\x00\x00\x04\x11\x00\x00\x00\x00\x00\x00\x01\x02")},
		"heartbeat key":    {h.key(), []byte("\x00\x02us\x00\x02eu")},
		"heartbeat value":  {h.value(), []byte("\x00\x00\x00\x00\x00\x01\x02\x03\x04\x05")},
	} {
		if !bytes.Equal(b[0], b[1]) {
			t.Errorf("%s: got %q, want %q", name, b[0], b[1])
		}
	}
}

func startBroker(t *testing.T) (dial func(...kgo.Opt) (*kgo.Client, error)) {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.FS = "/data", vfs.NewMem()
	cfg.Listeners = []broker.Listener{{Name: "client", Addr: "127.0.0.1:0", Protocol: broker.Plaintext}}
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
	return func(opts ...kgo.Opt) (*kgo.Client, error) {
		return kgo.NewClient(append(opts, kgo.SeedBrokers(b.Addr("client")), kgo.MetadataMinAge(20*time.Millisecond))...)
	}
}

func client(t *testing.T, dial func(...kgo.Opt) (*kgo.Client, error), opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := dial(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// next is the next record of a topic that a condition picks.
func next(ctx context.Context, t *testing.T, cl *kgo.Client, what string, pick func(*kgo.Record) bool) *kgo.Record {
	t.Helper()
	for {
		fetches := cl.PollRecords(ctx, 1)
		if ctx.Err() != nil {
			t.Fatalf("%s did not come", what)
		}
		for _, r := range fetches.Records() {
			if pick(r) {
				return r
			}
		}
	}
}

func TestWriter(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	us, eu := startBroker(t), startBroker(t)
	downstream := atomic.Int64{}
	downstream.Store(7)
	w := NewWriter(Config{
		MirrorMaker2: flow.MirrorMaker2{SourceAlias: "us", DestinationAlias: "eu", OffsetSyncs: flow.OffsetSyncsSource}, Source: client(t, us), Destination: client(t, eu), Dial: us,
		Log: slog.New(slog.DiscardHandler),
		Checkpoints: func() []Checkpoint {
			return []Checkpoint{{Group: "app", Topic: "us.orders", Upstream: 5, Downstream: downstream.Load()}, {Group: string(make([]byte, 40_000))}}
		},
		Syncs: func() []OffsetSync { return []OffsetSync{{Topic: "orders", Upstream: 9, Downstream: 11}} },
	})
	running, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- w.Run(running) }()
	defer func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	start := kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())
	there := client(t, eu, start, kgo.ConsumeTopics("heartbeats", "us.heartbeats", "us.checkpoints.internal"))
	here := client(t, us, start, kgo.ConsumeTopics("heartbeats", "mm2-offset-syncs.eu.internal"))

	var checkpoint, beat *kgo.Record
	next(ctx, t, there, "a copied heartbeat and a checkpoint", func(r *kgo.Record) bool {
		switch r.Topic {
		case "us.heartbeats":
			beat = r
		case "us.checkpoints.internal":
			checkpoint = r
		}
		return beat != nil && checkpoint != nil
	})
	if want := (heartbeat{source: "eu", destination: "us"}).key(); !bytes.Equal(beat.Key, want) {
		t.Errorf("heartbeat: got key %q, want %q", beat.Key, want)
	}
	if want := (Checkpoint{Upstream: 5, Downstream: 7}).value(); !bytes.Equal(checkpoint.Value, want) {
		t.Errorf("checkpoint: got %q, want %q", checkpoint.Value, want)
	}
	downstream.Store(8)
	next(ctx, t, there, "the next checkpoint", func(r *kgo.Record) bool {
		return r.Topic == "us.checkpoints.internal" && bytes.Equal(r.Value, Checkpoint{Upstream: 5, Downstream: 8}.value())
	})
	sync := next(ctx, t, here, "an offset sync", func(r *kgo.Record) bool { return r.Topic != flow.Heartbeats })
	if want := (OffsetSync{Topic: "orders", Upstream: 9, Downstream: 11}); !bytes.Equal(sync.Key, want.key()) || !bytes.Equal(sync.Value, want.value()) {
		t.Errorf("offset sync: got %q %q", sync.Key, sync.Value)
	}
	if e := w.Err(); !bytes.Contains([]byte(e), []byte("40000 bytes")) {
		t.Errorf("a group that has no place in the layout: got %q", e)
	}
	once(ctx, t, client(t, us), "mm2-offset-syncs.eu.internal")
	configs, err := kadm.NewClient(client(t, eu)).DescribeTopicConfigs(ctx, "us.checkpoints.internal", "us.heartbeats", "heartbeats")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs {
		for _, k := range c.Configs {
			if k.Key == "cleanup.policy" && k.MaybeValue() != "compact" {
				t.Errorf("%s: cleanup.policy is %s", c.Name, k.MaybeValue())
			}
		}
	}
}

// once looks whether what has not changed was written once, although more than one
// round has passed.
func once(ctx context.Context, t *testing.T, cl *kgo.Client, topic string) {
	t.Helper()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if o, _ := ends.Lookup(topic, 0); err != nil || o.Offset != 1 {
		t.Error(fmt.Sprint(topic, " has ", o.Offset, " records ", err))
	}
}

// TestTopicsThatAreDeleted: whoever deletes the topics to begin anew has them back, with
// all that they had, and as they were made.
func TestTopicsThatAreDeleted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	us, eu := startBroker(t), startBroker(t)
	w := NewWriter(Config{
		MirrorMaker2: flow.MirrorMaker2{SourceAlias: "us", DestinationAlias: "eu", OffsetSyncs: flow.OffsetSyncsSource}, Source: client(t, us), Destination: client(t, eu), Dial: us,
		Log: slog.New(slog.DiscardHandler),
		Checkpoints: func() []Checkpoint {
			return []Checkpoint{{Group: "app", Topic: "us.orders", Upstream: 5, Downstream: 7}}
		},
		Syncs: func() []OffsetSync { return []OffsetSync{{Topic: "orders", Upstream: 9, Downstream: 11}} },
	})
	running, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- w.Run(running) }()
	defer func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	topics := map[string]func(...kgo.Opt) (*kgo.Client, error){"us.heartbeats": eu, "us.checkpoints.internal": eu, "mm2-offset-syncs.eu.internal": us, "heartbeats": us}
	has := func(name string, not kadm.TopicID, records int64) kadm.TopicID {
		t.Helper()
		adm := kadm.NewClient(client(t, topics[name]))
		for {
			listed, err := adm.ListTopics(ctx, name)
			if ctx.Err() != nil {
				t.Fatalf("%s has no record, and id %s: writer says %q", name, listed[name].ID, w.Err())
			}
			ends, _ := adm.ListEndOffsets(ctx, name)
			if end, ok := ends.Lookup(name, 0); err == nil && ok && listed[name].ID != not && end.Offset >= records {
				return listed[name].ID
			}
			time.Sleep(20 * time.Millisecond) // until the deadline
		}
	}
	ids := map[string]kadm.TopicID{}
	for name := range topics {
		ids[name] = has(name, kadm.TopicID{}, 1)
	}
	for name, dial := range topics {
		if _, err := kadm.NewClient(client(t, dial)).DeleteTopics(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	for name := range topics {
		ids[name] = has(name, ids[name], 1)
	}
	has("us.heartbeats", kadm.TopicID{}, 2) // they are read from the new topic, too
	configs, err := kadm.NewClient(client(t, eu)).DescribeTopicConfigs(ctx, "us.checkpoints.internal")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range configs[0].Configs {
		if k.Key == "cleanup.policy" && k.MaybeValue() != "compact" {
			t.Errorf("cleanup.policy is %s", k.MaybeValue())
		}
	}
}

// TestWithoutACluster: what cannot be written is reported, and tried again.
func TestWithoutACluster(t *testing.T) {
	dead := func(opts ...kgo.Opt) (*kgo.Client, error) {
		return kgo.NewClient(append(opts, kgo.SeedBrokers("127.0.0.1:1"), kgo.RequestRetries(0), kgo.RecordRetries(0))...)
	}
	w := NewWriter(Config{MirrorMaker2: flow.MirrorMaker2{SourceAlias: "us", DestinationAlias: "eu"}, Source: client(t, dead), Destination: client(t, dead), Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	for w.Err() == "" {
		select {
		case err := <-ran:
			t.Fatalf("ended with %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
