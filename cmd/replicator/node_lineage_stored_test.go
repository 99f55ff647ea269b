package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/vfs"
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/verify"
)

// aBroker runs until the test ends, and records no provenance.
func aBroker(t *testing.T) *broker.Broker {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.FS, cfg.Provenance = "/data", vfs.NewMem(), false
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
	return b
}

// TestRecordIn reads records of a cluster that records nothing, and what it still knows
// of who produced them.
func TestRecordIn(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := aBroker(t)
	dial := func(opts ...kgo.Opt) *kgo.Client {
		cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(b.Addr("client")), kgo.MetadataMinAge(20*time.Millisecond))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cl, shop, plain := dial(), dial(kgo.TransactionalID("till-1")), dial(kgo.DisableIdempotentWrite())
	adm := kadm.NewClient(cl)
	created, err := adm.CreateTopic(ctx, 1, 1, nil, "orders")
	do(err)
	produce := func(cl *kgo.Client, value string) {
		t.Helper()
		do(cl.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte(value), Headers: []kgo.RecordHeader{{Key: "of", Value: []byte(value)}}}).FirstErr())
	}
	do(shop.BeginTransaction())
	produce(shop, "committed") // 0, and its marker
	do(shop.EndTransaction(ctx, kgo.TryCommit))
	do(shop.BeginTransaction())
	produce(shop, "aborted") // 2, and its marker
	do(shop.EndTransaction(ctx, kgo.TryAbort))
	produce(plain, "plain") // 4
	do(shop.BeginTransaction())
	produce(shop, "open") // 5

	read := func(offset int64, id ledger.TopicID) (*lineage.Found, string) {
		at := lineage.At{Cluster: b.ClusterID(), Topic: "orders", TopicID: id, Offset: offset}
		f, err := recordIn(ctx, offsets.KafkaCluster(cl), verify.KafkaCluster(cl), adm, at)
		if err != nil {
			return nil, err.Error()
		}
		return f, fmt.Sprintf("%s by %q", f.Record.Headers[0].Value, f.TransactionalID)
	}
	orders := ledger.TopicID(created.ID)
	for offset, want := range map[int64]string{
		0: `committed by "till-1"`, 1: "marker", 2: "aborted", 4: `plain by ""`, 5: "a transaction is open from offset 5 on", 6: "the log ends at offset 6",
	} {
		if _, got := read(offset, orders); !strings.Contains(got, want) {
			t.Errorf("offset %d: got %q, want %q", offset, got, want)
		}
	}
	f, _ := read(0, orders)
	if p := f.Producer; p == nil || f.ProducerErr != nil || p.OpenFrom == nil || *p.OpenFrom != 5 || p.LastAt == nil || !f.Batch.Attributes().Transactional() || f.Batch.ProducerID() < 0 {
		t.Errorf("got %+v %v of %+v", p, f.ProducerErr, f)
	}
	if f, _ := read(4, orders); f.Producer != nil || f.Batch.ProducerID() >= 0 {
		t.Errorf("got a producer of one without an id: %+v", f)
	}
	if _, got := read(0, ledger.TopicID{1}); !strings.Contains(got, "recreated") {
		t.Errorf("of another life of the topic: got %q", got)
	}

	do(shop.EndTransaction(ctx, kgo.TryCommit))
	gone := kadm.Offsets{}
	gone.Add(kadm.Offset{Topic: "orders", At: 4})
	_, err = adm.DeleteRecords(ctx, gone)
	do(err)
	if _, got := read(0, orders); !strings.Contains(got, "the log begins at offset 4") {
		t.Errorf("of a record that was deleted: got %q", got)
	}
	_, err = adm.DeleteTopics(ctx, "orders")
	do(err)
	if f, _ := read(4, orders); f != nil {
		t.Errorf("of a topic that was deleted: got %+v", f)
	}
}
