package broker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/ledger"
)

func TestTopicsAreMadeChangedAndDeleted(t *testing.T) {
	b := startBroker(t, nil)
	ctx := within(t, 30*time.Second)
	cl := b.client(t)
	adm := kadm.NewClient(cl)
	value := func(s string) *string { return &s }

	made, err := adm.CreateTopic(ctx, 3, 1, map[string]*string{"retention.ms": value("60000")}, "a")
	if err != nil || made.NumPartitions != 3 {
		t.Fatalf("create: %+v, %v", made, err)
	}
	for name, c := range map[string]struct {
		partitions int32
		replicas   int16
		configs    map[string]*string
		topic      string
		want       error
	}{
		"exists":           {1, 1, nil, "a", kerr.TopicAlreadyExists},
		"bad name":         {1, 1, nil, "a/b", kerr.InvalidTopicException},
		"dots":             {1, 1, nil, "..", kerr.InvalidTopicException},
		"no partitions":    {0, 1, nil, "b", kerr.InvalidPartitions},
		"three replicas":   {1, 3, nil, "b", kerr.InvalidReplicationFactor},
		"unknown config":   {1, 1, map[string]*string{"x": value("y")}, "b", kerr.InvalidConfig},
		"config is no int": {1, 1, map[string]*string{"retention.ms": value("y")}, "b", kerr.InvalidConfig},
	} {
		if _, err := adm.CreateTopic(ctx, c.partitions, c.replicas, c.configs, c.topic); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := adm.CreatePartitions(ctx, 2, "a"); err != nil {
		t.Fatal(err)
	}
	if res, err := adm.UpdatePartitions(ctx, 4, "a"); err != nil || !errors.Is(res["a"].Err, kerr.InvalidPartitions) {
		t.Errorf("shrink: %+v, %v", res, err)
	}
	alter := []kadm.AlterConfig{{Name: "cleanup.policy", Op: kadm.AppendConfig, Value: value("compact")}, {Name: "retention.ms", Op: kadm.DeleteConfig}}
	if res, err := adm.AlterTopicConfigs(ctx, alter, "a"); err != nil || res[0].Err != nil {
		t.Fatal(res, err)
	}
	b = b.restart(t)
	cl = b.client(t)
	adm = kadm.NewClient(cl)
	configs, err := adm.DescribeTopicConfigs(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, c := range configs[0].Configs {
		got[c.Key] = *c.Value
	}
	if got["cleanup.policy"] != "delete,compact" || got["retention.ms"] != "604800000" || len(got) != len(topicSettings) {
		t.Errorf("configs: %v", got)
	}
	topics, err := adm.ListTopics(ctx)
	if err != nil || len(topics["a"].Partitions) != 5 {
		t.Fatalf("%d partitions, %v", len(topics["a"].Partitions), err)
	}
	first := topics["a"].ID
	if res, err := adm.DeleteTopics(ctx, "a", offsetsTopic, "nothing"); err != nil || res["a"].Err != nil ||
		!errors.Is(res[offsetsTopic].Err, kerr.InvalidTopicException) || !errors.Is(res["nothing"].Err, kerr.UnknownTopicOrPartition) {
		t.Errorf("delete: %+v, %v", res, err)
	}
	again, err := adm.CreateTopic(ctx, 1, 1, nil, "a")
	if err != nil || again.ID == first {
		t.Errorf("second life: %+v, %v", again, err)
	}
}

func TestFetchBySomeoneElsesTopicID(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 1)
	ctx := within(t, 30*time.Second)
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.MaxWaitMillis = 1000, 10
	topic := kmsg.NewFetchRequestTopic()
	topic.TopicID = [16]byte{1}
	part := kmsg.NewFetchRequestTopicPartition()
	part.PartitionMaxBytes = 1000
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		t.Fatal(err)
	}
	if code := resp.Topics[0].Partitions[0].ErrorCode; code != kerr.UnknownTopicID.Code {
		t.Errorf("error %v", kerr.ErrorForCode(code))
	}
}

// fetchFrom asks for one partition in one request.
func fetchFrom(t *testing.T, b *testBroker, cl *kgo.Client, name string, change func(*kmsg.FetchRequest, *kmsg.FetchRequestTopicPartition)) *kmsg.FetchResponse {
	t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.MinBytes, req.MaxWaitMillis = 1<<20, 1, 0
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.TopicID = name, b.topic(name).ID
	part := kmsg.NewFetchRequestTopicPartition()
	part.PartitionMaxBytes, part.CurrentLeaderEpoch = 1<<20, -1
	change(req, &part)
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(within(t, 30*time.Second), cl)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestFetchAnswers(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 10)
	epoch := b.topic("t").partitions[0].LeaderEpoch()
	for name, c := range map[string]struct {
		change func(*kmsg.FetchRequest, *kmsg.FetchRequestTopicPartition)
		top    *kerr.Error
		err    *kerr.Error
		empty  bool
	}{
		"from the start":       {func(*kmsg.FetchRequest, *kmsg.FetchRequestTopicPartition) {}, nil, nil, false},
		"in mid-batch":         {func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = 5 }, nil, nil, false},
		"one byte":             {func(q *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { q.MaxBytes, p.PartitionMaxBytes = 1, 1 }, nil, nil, false},
		"at the end":           {func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = 10 }, nil, nil, true},
		"beyond the end":       {func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = 11 }, nil, kerr.OffsetOutOfRange, true},
		"negative":             {func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = -7 }, nil, kerr.OffsetOutOfRange, true},
		"older epoch":          {func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = epoch - 1 }, nil, kerr.FencedLeaderEpoch, true},
		"newer epoch":          {func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = epoch + 1 }, nil, kerr.UnknownLeaderEpoch, true},
		"no such partition":    {func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.Partition = 7 }, nil, kerr.UnknownTopicOrPartition, true},
		"session of nobody":    {func(q *kmsg.FetchRequest, _ *kmsg.FetchRequestTopicPartition) { q.SessionID, q.SessionEpoch = 5, 3 }, kerr.FetchSessionIDNotFound, nil, true},
		"a replica that isn't": {func(q *kmsg.FetchRequest, _ *kmsg.FetchRequestTopicPartition) { q.ReplicaState.ID = 2 }, kerr.InvalidRequest, nil, true},
	} {
		resp := fetchFrom(t, b, cl, "t", c.change)
		if got := kerr.TypedErrorForCode(resp.ErrorCode); got != c.top {
			t.Errorf("%s: error %v", name, got)
		}
		if c.top != nil {
			continue
		}
		part := resp.Topics[0].Partitions[0]
		if got := kerr.TypedErrorForCode(part.ErrorCode); got != c.err || (len(part.RecordBatches) == 0) != c.empty || part.RecordBatches == nil {
			t.Errorf("%s: error %v, %d bytes", name, got, len(part.RecordBatches))
		}
	}
}

func TestFetchWaitsForWhatIsCommitted(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 1)
	got := make(chan *kmsg.FetchResponse)
	go func() {
		got <- fetchFrom(t, b, b.client(t), "t", func(q *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) {
			q.MaxWaitMillis, p.FetchOffset = 60_000, 1
		})
	}()
	// The request is parked, or will be: the answer is the same.
	produceN(t, cl, "t", 1, 1)
	select {
	case resp := <-got:
		if part := resp.Topics[0].Partitions[0]; part.HighWatermark != 2 || len(part.RecordBatches) == 0 {
			t.Errorf("high watermark %d, %d bytes", part.HighWatermark, len(part.RecordBatches))
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a parked fetch was not woken")
	}
}

func TestOffsetsAreListed(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0))
	ctx := within(t, 30*time.Second)
	base := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	for i := range 5 {
		r := &kgo.Record{Topic: "t", Value: []byte("v"), Timestamp: base.Add(time.Duration(i) * time.Minute)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	adm := kadm.NewClient(cl)
	check := func(what string, list func() (kadm.ListedOffsets, error), want int64) {
		t.Helper()
		got, err := list()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if o, _ := got.Lookup("t", 0); o.Offset != want || o.Err != nil {
			t.Errorf("%s: %+v, want %d", what, o, want)
		}
	}
	at := func(d time.Duration) func() (kadm.ListedOffsets, error) {
		return func() (kadm.ListedOffsets, error) {
			return adm.ListOffsetsAfterMilli(ctx, base.Add(d).UnixMilli(), "t")
		}
	}
	check("earliest", func() (kadm.ListedOffsets, error) { return adm.ListStartOffsets(ctx, "t") }, 0)
	check("latest", func() (kadm.ListedOffsets, error) { return adm.ListEndOffsets(ctx, "t") }, 5)
	check("committed", func() (kadm.ListedOffsets, error) { return adm.ListCommittedOffsets(ctx, "t") }, 5)
	check("at a record", at(2*time.Minute), 2)
	check("between records", at(2*time.Minute+time.Second), 3)
	check("before all", at(-time.Hour), 0)
	check("greatest timestamp", func() (kadm.ListedOffsets, error) { return adm.ListMaxTimestampOffsets(ctx, "t") }, 4)

	if res, err := adm.DeleteRecords(ctx, kadm.Offsets{"t": {0: {Topic: "t", At: 3}}}); err != nil || res.Error() != nil {
		t.Fatal(err, res.Error())
	}
	check("earliest after a deletion", func() (kadm.ListedOffsets, error) { return adm.ListStartOffsets(ctx, "t") }, 3)
	if res, err := adm.DeleteRecords(ctx, kadm.Offsets{"t": {0: {Topic: "t", At: 30}}}); err != nil || !errors.Is(res.Error(), kerr.OffsetOutOfRange) {
		t.Errorf("delete beyond the end: %v, %v", err, res.Error())
	}
}

// TestRecordsAreDeletedWhileTheTopicGoes: each time it is there, or it is not.
func TestRecordsAreDeletedWhileTheTopicGoes(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "t", 1, 5)
	there := b.topics.Load()
	gone := there.with("t", nil)
	r := b.asker(kmsg.DeleteRecords)
	// It comes and goes so often, whether or not that is seen: where both share one
	// processor, an answer seldom differs from the last.
	round := func() {
		flipped := make(chan struct{})
		defer func() { <-flipped }()
		go func() {
			defer close(flipped)
			for range 20_000 {
				b.topics.Store(gone)
				b.topics.Store(there)
			}
		}()
		for !isClosed(flipped) {
			low, err := b.deleteRecordsOf(r, "t", kmsg.DeleteRecordsRequestTopicPartition{})
			if low != 0 || err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
				t.Fatalf("low watermark %d, %v", low, err)
			}
		}
	}
	for range 50 {
		round()
	}
}

func TestAcksZeroIsReadable(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation(), kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	ctx := within(t, 30*time.Second)
	for i := range 10 {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: fmt.Appendf(nil, "%d", i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	checkValues(t, consumeN(t, b.client(t), "t", 10), 10)
}

func TestProducerIDsAreTheClustersOwn(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t)
	id, epoch, err := cl.ProducerID(within(t, 30*time.Second))
	if err != nil || id < 1<<40 || epoch != 0 {
		t.Fatalf("producer id %d, epoch %d, %v", id, epoch, err)
	}
}

// ledgerEntries decodes every page of a broker's ledger and verifies nothing but
// that it decodes.
func ledgerEntries(t *testing.T, b *testBroker) []ledger.Entry {
	t.Helper()
	var out []ledger.Entry
	cl := b.client(t, kgo.ConsumeTopics(ledgerTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ends, err := kadm.NewClient(cl).ListEndOffsets(within(t, 30*time.Second), ledgerTopic)
	if err != nil {
		t.Fatal(err)
	}
	var want, got int64
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })
	for got < want {
		fetches := cl.PollFetches(within(t, 30*time.Second))
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			got++
			page, err := ledger.Decode(r.Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, page.Entries...)
		})
	}
	return out
}

func TestProvenanceSaysWhoProducedAndWhoFetched(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.ProvenanceExempt = []string{"User:bob"} })
	alice := b.secureClient(t, scram256("alice", "geheim"), kgo.ClientID("alices-app"), kgo.AllowAutoTopicCreation())
	bob := b.secureClient(t, scram256("bob", "secret"))
	produceN(t, alice, "t", 0, 10)
	produceN(t, alice, "t", 10, 10)
	consumeN(t, alice, "t", 20)
	produceN(t, bob, "t", 20, 5)
	consumeN(t, bob, "t", 25)
	b = b.restart(t) // writes what is left

	var produced, fetched [25]bool
	for _, e := range ledgerEntries(t, b) {
		var place ledger.Place
		var client ledger.Client
		var marks *[25]bool
		switch e := e.(type) {
		case *ledger.Production:
			place, client, marks = e.Place, e.Client, &produced
			if e.Records != e.Last-e.First+1 || e.ProducerID < 1<<40 {
				t.Errorf("production %+v", e)
			}
		case *ledger.Access:
			place, client, marks = e.Place, e.Client, &fetched
			if e.Kind != ledger.Fetched {
				t.Errorf("access %+v", e)
			}
		default:
			t.Fatalf("entry %T", e)
		}
		if client.Principal != "User:alice" || client.ClientID != "alices-app" || client.Address != "127.0.0.1" || client.Software == "" {
			t.Errorf("client %+v", client)
		}
		if place.Topic != "t" || place.Partition != 0 || place.TopicID != ledger.TopicID(b.topic("t").ID) {
			t.Errorf("place %+v", place)
		}
		for o := place.First; o <= place.Last; o++ {
			marks[o] = true
		}
	}
	for o := range 25 {
		if want := o < 20; produced[o] != want || (want && !fetched[o]) {
			t.Errorf("offset %d: produced %v, fetched %v", o, produced[o], fetched[o])
		}
	}
}

func TestAStoreIsUsedByOneProcess(t *testing.T) {
	cfg, _ := testConfig(t)
	cfg.Dir = t.TempDir()
	cfg.OffsetsPartitions, cfg.TransactionsPartitions = 1, 1
	first, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg); err == nil {
		t.Error("two brokers on one directory")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestAStopClosesParkedRequests(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.Limits.DrainTimeout = 30 * time.Second })
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 1)
	reader := b.client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"t": {0: kgo.NewOffset().At(1)}}), kgo.FetchMaxWait(time.Minute))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go reader.PollFetches(ctx)
	waitUntil(t, func() bool { return b.Metrics().FetchesParked.Load() > 0 })
	started := time.Now()
	b.stop()
	if d := time.Since(started); d > b.cfg.Limits.DrainTimeout {
		t.Errorf("stopping took %v", d)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no dir":               func(c *Config) { c.Dir = "" },
		"no listener":          func(c *Config) { c.Listeners = nil },
		"plaintext everywhere": func(c *Config) { c.Listeners[0].Addr = "0.0.0.0:9092" },
		"plaintext on a name":  func(c *Config) { c.Listeners[0].Addr = "example.org:9092" },
		"empty host":           func(c *Config) { c.Listeners[0].Addr = ":9092" },
		"sasl in the clear":    func(c *Config) { c.Listeners[0].Protocol, c.Listeners[0].Addr = SASLPlaintext, "10.0.0.1:9092" },
		"tls without files":    func(c *Config) { c.Listeners[0].Protocol = TLS },
		"same name":            func(c *Config) { c.Listeners[1].Name = c.Listeners[0].Name },
		"unknown protocol":     func(c *Config) { c.Listeners[0].Protocol = "QUIC" },
		"bare super user":      func(c *Config) { c.SuperUsers = []string{"admin"} },
		"no partitions":        func(c *Config) { c.DefaultPartitions = 0 },
	} {
		cfg, _ := testConfig(t)
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		if err := cfg.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	cfg, _ := testConfig(t)
	cfg.Listeners[0].Addr, cfg.AllowPlaintext = "0.0.0.0:9092", true
	if err := cfg.Validate(); err != nil {
		t.Errorf("plaintext that is allowed: %v", err)
	}
}
