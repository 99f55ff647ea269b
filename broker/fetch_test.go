package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/controller"
)

// startDiskBroker is startBroker on the operating system's files.
func startDiskBroker(t testing.TB, change func(*Config)) *testBroker {
	t.Helper()
	cfg, pool := testConfig(t)
	cfg.Dir = t.TempDir()
	if change != nil {
		change(&cfg)
	}
	return runBroker(t, cfg, nil, pool)
}

// fetchRequest asks for one partition of a topic, from offset on.
func fetchRequest(b *testBroker, topic string, partition int32, offset int64) *kmsg.FetchRequest {
	q := kmsg.NewPtrFetchRequest()
	q.MaxBytes, q.MinBytes = 64<<20, 1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, b.topic(topic).ID
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 64<<20
	t.Partitions = append(t.Partitions, p)
	q.Topics = append(q.Topics, t)
	return q
}

func TestWhatIsFetchedIsWhatWasProduced(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *testBroker{
		"memory": func(t *testing.T) *testBroker { return startBroker(t, nil) },
		"disk":   func(t *testing.T) *testBroker { return startDiskBroker(t, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			ctx := within(t, 30*time.Second)
			const partitions = 4
			if _, err := b.createTopic("t", partitions, map[string]string{"segment.bytes": "300000"}); err != nil {
				t.Fatal(err)
			}
			cl := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
			want := map[int32][]string{}
			for i := range 60 {
				// Small ones are copied, large ones are sent from the file.
				value := fmt.Sprintf("%d:%s", i, bytes.Repeat([]byte("x"), []int{10, 5000, 90_000}[i%3]))
				r := &kgo.Record{Topic: "t", Partition: int32(i % partitions), Value: []byte(value)}
				if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
					t.Fatal(err)
				}
				want[r.Partition] = append(want[r.Partition], value)
			}
			for reader, cl := range map[string]*kgo.Client{
				"plain":  b.client(t, kgo.ConsumeTopics("t")),
				"tls":    b.secureClient(t, scram256("alice", "geheim"), kgo.ConsumeTopics("t")),
				"fetch4": b.client(t, kgo.ConsumeTopics("t"), kgo.MaxVersions(versionsWith(map[int16]int16{1: 4}))),
			} {
				got := map[int32][]string{}
				for n := 0; n < 60; {
					fetches := cl.PollFetches(ctx)
					if err := fetches.Err(); err != nil {
						t.Fatalf("%s: %v", reader, err)
					}
					fetches.EachRecord(func(r *kgo.Record) {
						got[r.Partition] = append(got[r.Partition], string(r.Value))
						n++
					})
				}
				for p := range want {
					if !slices.Equal(got[p], want[p]) {
						t.Errorf("%s: partition %d has %d records, want %d, or others", reader, p, len(got[p]), len(want[p]))
					}
				}
			}
		})
	}
}

func TestRecordsAreNotCopiedThroughTheHeap(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("sendfile is used on Linux")
	}
	b := startDiskBroker(t, func(c *Config) { c.Provenance = false })
	cl := b.client(t, kgo.AllowAutoTopicCreation(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	ctx := within(t, 30*time.Second)
	const count, size = 64, 250_000
	for i := range count {
		r := &kgo.Record{Topic: "t", Value: bytes.Repeat([]byte{byte(i)}, size)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	cl.Close()
	nc := dial(t, b.Addr("plain"))
	frame := frameOf(fetchRequest(b, "t", 0, 0), 13)
	buf := make([]byte, 64<<10)
	read := func() (total int) {
		if _, err := nc.Write(frame); err != nil {
			t.Fatal(err)
		}
		var head [4]byte
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			t.Fatal(err)
		}
		total = int(binary.BigEndian.Uint32(head[:]))
		for left := total; left > 0; {
			n, err := nc.Read(buf[:min(len(buf), left)])
			if err != nil {
				t.Fatal(err)
			}
			left -= n
		}
		return total
	}
	read() // what is allocated once
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sum := 0
	for range 4 {
		sum += read()
	}
	runtime.ReadMemStats(&after)
	if sum < 4*count*size {
		t.Fatalf("%d bytes were fetched", sum)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > uint64(sum)/50 {
		t.Errorf("%d bytes were allocated to send %d", allocated, sum)
	}
}

func TestAnAnswerOutlivesItsSegment(t *testing.T) {
	b := startDiskBroker(t, nil)
	if _, err := b.createTopic("t", 1, map[string]string{"segment.bytes": "30000000"}); err != nil {
		t.Fatal(err)
	}
	cl := b.client(t, kgo.ProducerBatchCompression(kgo.NoCompression()))
	ctx := within(t, 30*time.Second)
	value := bytes.Repeat([]byte("v"), 200_000)
	var records []*kgo.Record
	for range 200 {
		records = append(records, &kgo.Record{Topic: "t", Value: value})
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	nc := dial(t, b.Addr("plain"))
	if _, err := nc.Write(frameOf(fetchRequest(b, "t", 0, 0), 13)); err != nil {
		t.Fatal(err)
	}
	var head [4]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		t.Fatal(err)
	}
	// The answer, larger than what the sockets hold, cannot go on. Meanwhile its
	// segment is deleted.
	deleted, err := kadm.NewClient(cl).DeleteRecords(ctx, kadm.Offsets{"t": {0: {Topic: "t", Partition: 0, At: 200}}})
	if err != nil || deleted.Error() != nil {
		t.Fatalf("%v, %v", err, deleted.Error())
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(nc, body); err != nil {
		t.Fatalf("the answer broke off: %v", err)
	}
	if n := bytes.Count(body, value); n < 100 {
		t.Errorf("%d records arrived", n)
	}
}

func TestAParkedFetchWaitsForItsBytes(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	produceN(t, cl, "t", 0, 1)
	q := fetchRequest(b, "t", 0, 1)
	q.MinBytes, q.MaxWaitMillis = 250, 20_000
	got := make(chan *kmsg.FetchResponse, 1)
	reader := b.client(t)
	go func() {
		resp, err := q.RequestWith(context.Background(), reader)
		if err != nil {
			t.Error(err)
		}
		got <- resp
	}()
	for n := int64(1); ; n++ { // a batch of one record has 70 bytes
		produceN(t, cl, "t", int(n), 1)
		select {
		case resp := <-got:
			if part := resp.Topics[0].Partitions[0]; len(part.RecordBatches) < 250 || part.HighWatermark < 5 {
				t.Errorf("%d bytes up to %d", len(part.RecordBatches), part.HighWatermark)
			}
			return
		default:
		}
		if n > 1000 {
			t.Fatal("never answered")
		}
	}
}

func TestADeletedTopicEndsAParkedFetch(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 1)
	q := fetchRequest(b, "t", 0, 1)
	q.MaxWaitMillis = 60_000
	answered := park(t, b, q)
	if err := b.deleteTopic(t.Context(), b.topic("t")); err != nil {
		t.Fatal(err)
	}
	if code := (<-answered).Topics[0].Partitions[0].ErrorCode; code != kerr.UnknownTopicOrPartition.Code && code != kerr.UnknownTopicID.Code {
		t.Errorf("answered with %v", kerr.ErrorForCode(code))
	}
}

// park sends a Fetch that has nothing to answer yet and returns when it waits.
func park(t *testing.T, b *testBroker, q *kmsg.FetchRequest) <-chan *kmsg.FetchResponse {
	t.Helper()
	answered := make(chan *kmsg.FetchResponse, 1)
	cl := b.client(t)
	go func() {
		resp, err := q.RequestWith(context.Background(), cl)
		if err != nil {
			t.Error(err)
			resp = kmsg.NewPtrFetchResponse()
		}
		answered <- resp
	}()
	for deadline := time.Now().Add(30 * time.Second); b.Metrics().FetchesParked.Load() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the request was not parked")
		}
		runtime.Gosched()
	}
	return answered
}

func TestARevokedRightEndsAParkedFetch(t *testing.T) {
	read := allowRule(anonymous, acl.Topic, "t", acl.All)
	b := startBroker(t, func(c *Config) {
		c.Authorizer = true
		c.BootstrapACLs = []acl.Rule{read}
	})
	if _, err := b.createTopic("t", 1, nil); err != nil {
		t.Fatal(err)
	}
	// A session begins before it is parked.
	begin := fetchRequest(b, "t", 0, 0)
	begin.SessionEpoch = 0
	reader := b.client(t)
	first, err := begin.RequestWith(within(t, 30*time.Second), reader)
	if err != nil || first.SessionID == 0 || first.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	q := fetchRequest(b, "t", 0, 0)
	q.MaxWaitMillis, q.SessionID, q.SessionEpoch = 60_000, first.SessionID, 1
	answered := park(t, b, q)
	err = b.ctl.Update(func(*controller.Image) ([]controller.Record, error) {
		return []controller.Record{{ACLDeleted: &read}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	resp := <-answered
	if code := resp.Topics[0].Partitions[0].ErrorCode; code != kerr.TopicAuthorizationFailed.Code {
		t.Errorf("answered with %v", kerr.ErrorForCode(code))
	}
	q.SessionEpoch, q.Topics = 2, nil
	resp, err = q.RequestWith(within(t, 30*time.Second), reader)
	if err != nil || len(resp.Topics) != 1 || resp.Topics[0].Partitions[0].ErrorCode != kerr.TopicAuthorizationFailed.Code {
		t.Errorf("the next request of the session: %+v, %v", resp, err)
	}
}

func TestAnOldLeaderEpochComesWithTheLeader(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 1)
	b = b.restart(t)
	epoch := b.topic("t").partitions[0].LeaderEpoch()
	q := fetchRequest(b, "t", 0, 0)
	q.Topics[0].Partitions[0].CurrentLeaderEpoch = epoch - 1
	resp, err := q.RequestWith(within(t, 30*time.Second), b.client(t))
	if err != nil {
		t.Fatal(err)
	}
	part := resp.Topics[0].Partitions[0]
	if part.ErrorCode != kerr.FencedLeaderEpoch.Code || part.CurrentLeader.LeaderID != b.cfg.NodeID || part.CurrentLeader.LeaderEpoch != epoch {
		t.Errorf("error %v, leader %+v, want epoch %d", kerr.ErrorForCode(part.ErrorCode), part.CurrentLeader, epoch)
	}
	if len(resp.Brokers) != 1 || fmt.Sprintf("%s:%d", resp.Brokers[0].Host, resp.Brokers[0].Port) != b.Addr("plain") {
		t.Errorf("brokers %+v", resp.Brokers)
	}
}

func TestACutBehindTheClientIsADivergingEpoch(t *testing.T) {
	b := startBroker(t, nil)
	produceN(t, b.client(t, kgo.AllowAutoTopicCreation()), "t", 0, 5)
	first := b.topic("t").partitions[0].LeaderEpoch()
	b = b.restart(t)
	produceN(t, b.client(t), "t", 5, 5)
	second := b.topic("t").partitions[0].LeaderEpoch()
	for name, c := range map[string]struct {
		offset     int64
		last       int32
		epoch      int32
		end        int64
		err        *kerr.Error
		hasRecords bool
	}{
		"in step":                        {7, second, -1, -1, nil, true},
		"at the end of an epoch":         {5, first, -1, -1, nil, true},
		"further than its epoch went":    {7, first, first, 5, nil, false},
		"an epoch that nobody wrote in":  {7, first - 1, first - 1, 0, nil, false},
		"an epoch that is yet to come":   {7, second + 1, -1, -1, kerr.OffsetOutOfRange, false},
		"no epoch":                       {7, -1, -1, -1, nil, true},
		"further than the log, same one": {11, second, second, 10, nil, false},
	} {
		q := fetchRequest(b, "t", 0, c.offset)
		q.Topics[0].Partitions[0].LastFetchedEpoch = c.last
		resp, err := q.RequestWith(within(t, 30*time.Second), b.client(t))
		if err != nil {
			t.Fatal(err)
		}
		part := resp.Topics[0].Partitions[0]
		if got := kerr.TypedErrorForCode(part.ErrorCode); got != c.err || part.DivergingEpoch.Epoch != c.epoch || part.DivergingEpoch.EndOffset != c.end {
			t.Errorf("%s: error %v, diverging %+v", name, got, part.DivergingEpoch)
		}
		if (len(part.RecordBatches) > 0) != c.hasRecords {
			t.Errorf("%s: %d bytes", name, len(part.RecordBatches))
		}
	}
}
