package verify

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/mirrorwire"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// site is a bundled broker and what a test does to it.
type site struct {
	t       *testing.T
	ctx     context.Context
	cluster *flow.Cluster
	client  *kgo.Client
	admin   *kadm.Client
}

func newSite(t *testing.T) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.FS, cfg.Provenance = "/data", vfs.NewMem(), false
	cfg.Listeners = []broker.Listener{{Name: "client", Addr: "127.0.0.1:0", Protocol: broker.Plaintext}}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- b.Run(running) }()
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-b.Ready()
	s := &site{t: t, ctx: ctx, cluster: &flow.Cluster{Spec: flow.ClusterSpec{BootstrapServers: []string{b.Addr("client")}}}}
	s.client = s.dial(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	s.admin = kadm.NewClient(s.client)
	return s
}

func (s *site) dial(opts ...kgo.Opt) *kgo.Client {
	s.t.Helper()
	cl, err := kafka.NewClient(s.cluster, "test", append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cl.Close)
	return cl
}

func (s *site) topic(name string, configs map[string]*string) ledger.TopicID {
	s.t.Helper()
	got, err := s.admin.CreateTopic(s.ctx, 1, 1, configs, name)
	if err != nil {
		s.t.Fatal(err)
	}
	return ledger.TopicID(got.ID)
}

func (s *site) produce(cl *kgo.Client, topic string, values ...string) {
	s.t.Helper()
	var records []*kgo.Record
	for _, v := range values {
		records = append(records, &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte(v), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{}}}})
	}
	if err := cl.ProduceSync(s.ctx, records...).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
}

// transact produces values in a transaction of their own.
func (s *site) transact(end kgo.TransactionEndTry, topic string, values ...string) {
	s.t.Helper()
	cl := s.dial(kgo.TransactionalID("tx"))
	if err := cl.BeginTransaction(); err != nil {
		s.t.Fatal(err)
	}
	s.produce(cl, topic, values...)
	if err := cl.EndTransaction(s.ctx, end); err != nil {
		s.t.Fatal(err)
	}
}

// batches is a topic's log, as it is stored.
func (s *site) batches(topic string, id ledger.TopicID) (all []record.Batch) {
	s.t.Helper()
	r := KafkaCluster(s.client).Reader(topic, id, 0)
	for next := int64(0); ; {
		a, err := r.Fetch(s.ctx, next, FetchBytes)
		if err != nil {
			s.t.Fatal(err)
		}
		if next >= a.Stable {
			return all
		}
		for rest := a.Records; len(rest) > 0; {
			var b record.Batch
			if b, rest, err = record.Next(rest); err != nil {
				s.t.Fatal(err)
			}
			all, next = append(all, clone(b)), b.NextOffset()
		}
	}
}

// mirror makes a mirror topic of batches.
func (s *site) mirror(name string, batches []record.Batch) ledger.TopicID {
	s.t.Helper()
	const from = "west/orders"
	source := from
	id := s.topic(name, map[string]*string{"mirror.source": &source})
	p := mirrorwire.NewAppendPartition()
	for _, b := range batches {
		p.Batches = append(p.Batches, b...)
	}
	conn, err := kafka.Dial(s.ctx, s.cluster, s.cluster.Spec.BootstrapServers[0], "test")
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	resp, err := conn.Request(s.ctx, &mirrorwire.AppendRequest{TimeoutMillis: 10_000, Topics: []mirrorwire.AppendRequestTopic{{TopicID: id, Source: from, Partitions: []mirrorwire.AppendRequestPartition{p}}}}, mirrorwire.MaxVersion)
	if err != nil {
		s.t.Fatal(err)
	}
	if got := resp.(*mirrorwire.AppendResponse).Topics[0].Partitions[0]; got.ErrorCode != 0 {
		s.t.Fatalf("append: %+v", got)
	}
	return id
}

// hopOf is what the ledger says of a whole log that was copied with its offsets:
// aborted says which batches were.
func hopOf(batches []record.Batch, aborted func(record.Batch) bool) *ledger.Hop {
	h := &ledger.Hop{}
	for _, b := range batches {
		n := b.NextOffset() - b.BaseOffset()
		switch {
		case b.Attributes().Control():
			h.Gaps = append(h.Gaps, ledger.Gap{Source: b.BaseOffset(), Count: n, Reason: ledger.Control})
		case aborted(b):
			h.Gaps = append(h.Gaps, ledger.Gap{Source: b.BaseOffset(), Count: n, Reason: ledger.Aborted})
		default:
			h.Runs = append(h.Runs, rawRun(b.BaseOffset(), b))
		}
		h.Next = b.NextOffset()
	}
	return h
}

// TestMirrorTopics compares a topic with mirror topics of it on a broker: one that is
// its source byte for byte, with markers and aborted transactions, and ones with each
// kind of fault.
func TestMirrorTopics(t *testing.T) {
	s := newSite(t)
	orders := s.topic("orders", nil)
	s.produce(s.client, "orders", "a", "b", "c")  // 0 to 2
	s.transact(kgo.TryCommit, "orders", "d", "e") // 3, 4 and a marker
	s.transact(kgo.TryAbort, "orders", "never")   // 6 and a marker
	s.produce(s.client, "orders", "f", "g")       // 8, 9
	source := s.batches("orders", orders)
	e := &entries{hops: []*ledger.Hop{hopOf(source, func(b record.Batch) bool { return b.BaseOffset() == 6 })}}
	if h := e.hops[0]; h.Next != 10 || len(h.Runs) != 3 || len(h.Gaps) != 3 {
		t.Fatalf("got %+v", h)
	}
	verified := func(name string, change func([]record.Batch) []record.Batch) Progress {
		t.Helper()
		var batches []record.Batch
		for _, b := range source {
			batches = append(batches, clone(b))
		}
		id := s.mirror(name, change(batches))
		c := Copy{ID: ledger.CopyID{Source: ledger.End{TopicID: orders}, Destination: ledger.End{TopicID: id}}, SourceTopic: "orders", DestinationTopic: name, Preserve: true}
		r := NewRun(Config{Source: KafkaCluster(s.client), Destination: KafkaCluster(s.client), Entries: e, Save: saved(nil)})
		got, err := r.Do(s.ctx, []Copy{c}, []Progress{Begin("run", c, 0, e)})
		if err != nil {
			t.Fatal(err)
		}
		return got[0]
	}
	got := verified("same", func(b []record.Batch) []record.Batch { return b })
	if got.Different != 0 || got.Records != 7 || got.RunsConfirmed != 3 || got.Gaps["aborted"] != 1 || got.Gaps["control"] != 2 || got.Problem != "" {
		t.Errorf("got %+v", got)
	}
	rewritten := func(i int, change func([]record.Record) []record.Record) func([]record.Batch) []record.Batch {
		return func(b []record.Batch) []record.Batch {
			old := b[i]
			records, err := old.Decode(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			stamp := record.Stamp{ProducerID: old.ProducerID(), ProducerEpoch: old.ProducerEpoch(), BaseSequence: old.BaseSequence(), Attributes: old.Attributes()}
			if b[i], err = record.Encode(change(records), stamp); err != nil {
				t.Fatal(err)
			}
			b[i].SetBaseOffset(old.BaseOffset())
			b[i].SetLeaderEpoch(old.LeaderEpoch())
			return b
		}
	}
	for _, c := range []struct {
		name   string
		kind   Kind
		offset int64
		what   string
		change func([]record.Batch) []record.Batch
	}{
		{"a-bit", Different, 1, "value: byte 1 of 1", rewritten(0, func(r []record.Record) []record.Record { r[1].Value = []byte("c"); return r })},
		{"a-time", Different, 0, "timestamp: ", rewritten(0, func(r []record.Record) []record.Record { r[0].Timestamp--; return r })},
		{"null", Different, 9, "value: 1 bytes at the source, null at the destination", rewritten(5, func(r []record.Record) []record.Record { r[1].Value = nil; return r })},
		{"a-header", Different, 8, "headers: 1 at the source, 0 at the destination", rewritten(5, func(r []record.Record) []record.Record { r[0].Headers = nil; return r })},
		{"swapped", Different, 3, "value: byte 1 of 1", rewritten(1, func(r []record.Record) []record.Record { r[0], r[1] = r[1], r[0]; return r })},
		{"missing", Missing, 8, "the destination ends at offset 8", func(b []record.Batch) []record.Batch { return b[:5] }},
		{"hole", Missing, 2, "the destination has no record there", func(b []record.Batch) []record.Batch {
			section, err := b[0].Section(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			if b[0], err = section.Keep(record.NoHorizon, func(r record.Record) bool { return r.Offset != 2 }); err != nil {
				t.Fatal(err)
			}
			return b
		}},
		{"phantom", Phantom, 6, "the mirror topic has a record where the source has none", func(b []record.Batch) []record.Batch {
			b[3].Restamp(record.Stamp{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}) // committed, so to speak
			return b
		}},
		{"an-epoch", Different, 8, "leader epoch of the batch: ", func(b []record.Batch) []record.Batch { b[5].SetLeaderEpoch(b[5].LeaderEpoch() + 1); return b }},
		{"a-marker", Different, 5, "the control batch is not the same bytes", rewritten(2, func(r []record.Record) []record.Record { r[0].Timestamp--; return r })},
		{"aborted", Different, 6, "the batch is not the same bytes", rewritten(3, func(r []record.Record) []record.Record { r[0].Value = []byte("newer"); return r })},
	} {
		got := verified(c.name, c.change)
		if got.Different == 0 {
			t.Errorf("%s: nothing was found: %+v", c.name, got)
			continue
		}
		d := got.First[0]
		if d.Kind != c.kind || d.Destination != c.offset || !strings.Contains(d.What, c.what) {
			t.Errorf("%s: got %+v, want %s at %d: %s", c.name, d, c.kind, c.offset, c.what)
		}
	}

	// What the source deletes is not comparable any more.
	if _, err := s.admin.DeleteRecords(s.ctx, kadm.Offsets{"orders": {0: {Topic: "orders", At: 4}}}); err != nil {
		t.Fatal(err)
	}
	got = verified("later", func(b []record.Batch) []record.Batch { return b })
	if got.Different != 0 || got.NotComparable[ExpiredAtSource] != 4 || got.Records != 3 {
		t.Errorf("got %+v", got)
	}
}

func TestReadingAPartition(t *testing.T) {
	s := newSite(t)
	compact := "compact,delete"
	id := s.topic("keys", map[string]*string{"cleanup.policy": &compact})
	s.topic("plain", nil)
	s.produce(s.client, "keys", "a", "b", "c")
	cluster := KafkaCluster(s.client)
	for topic, want := range map[string]bool{"keys": true, "plain": false} {
		for range 2 {
			if got, err := cluster.Settings(s.ctx, topic); got != (Settings{Compacts: want}) || err != nil {
				t.Errorf("%s compacts: got %v %v", topic, got, err)
			}
		}
	}
	open := s.dial(kgo.TransactionalID("open"))
	if err := open.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	s.produce(open, "keys", "d")
	if _, err := s.admin.DeleteRecords(s.ctx, kadm.Offsets{"keys": {0: {Topic: "keys", At: 1}}}); err != nil {
		t.Fatal(err)
	}
	r := cluster.Reader("keys", id, 0)
	want := Answer{Start: 1, Stable: 3, End: 4}
	same := func(what string, got Answer, err error) {
		t.Helper()
		if err != nil || got.Start != want.Start || got.Stable != want.Stable || got.End != want.End {
			t.Errorf("%s: got %+v %v, want %+v", what, got, err, want)
		}
	}
	bounds, err := r.Bounds(s.ctx)
	same("bounds", bounds, err)
	for _, offset := range []int64{0, 1, 2, 3, 4, 99} {
		a, err := r.Fetch(s.ctx, offset, FetchBytes)
		same("fetch", a, err)
		if some := offset == 1 || offset == 2; some != (len(a.Records) > 0) {
			t.Errorf("at %d: %d bytes", offset, len(a.Records))
		}
	}
	if err := open.EndTransaction(s.ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	a, err := r.Fetch(s.ctx, 1, FetchBytes)
	want = Answer{Start: 1, Stable: 5, End: 5}
	same("after the transaction", a, err)
	if len(a.Aborted) != 1 || a.Aborted[0].FirstOffset != 3 {
		t.Errorf("got %+v", a.Aborted)
	}

	// However little is asked for, a batch comes whole.
	if a, err = r.Fetch(s.ctx, 1, 1); err != nil {
		t.Fatal(err)
	}
	if b, rest, err := record.Next(a.Records); err != nil || len(rest) > 0 || b.NextOffset() != 3 {
		t.Errorf("of one byte: %d bytes, %v", len(a.Records), err)
	}

	// Another life of the topic is not read in its place.
	if _, err := cluster.Reader("keys", ledger.TopicID{7}, 0).Fetch(s.ctx, 1, FetchBytes); !errors.Is(err, kerr.UnknownTopicID) {
		t.Errorf("got %v", err)
	}
	if _, err := cluster.Reader("keys", id, 9).Fetch(s.ctx, 1, FetchBytes); err == nil {
		t.Error("a partition was read that there is not")
	}
}
