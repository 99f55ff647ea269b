package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/mirrorwire"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

const testSource = "source-cluster/source-topic"

// ask sends one request over a connection of its own.
func (b *testBroker) ask(t *testing.T, req kmsg.Request) kmsg.Response {
	t.Helper()
	nc := dial(t, b.Addr("plain"))
	return askOn(t, nc, req)
}

func askOn(t *testing.T, nc net.Conn, req kmsg.Request) kmsg.Response {
	t.Helper()
	if _, err := nc.Write(frameOf(req, 0)); err != nil {
		t.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(nc, size[:]); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(nc, body); err != nil {
		t.Fatal(err)
	}
	resp := req.ResponseKind()
	if err := resp.ReadFrom(body[5:]); err != nil { // correlation id, no tags
		t.Fatal(err)
	}
	return resp
}

// makeMirror makes a mirror topic as a client does.
func (b *testBroker) makeMirror(t *testing.T, name string, partitions int32) {
	t.Helper()
	source := testSource
	_, err := kadm.NewClient(b.client(t)).CreateTopic(within(t, 30*time.Second), partitions, 1, map[string]*string{mirrorSource: &source}, name)
	if err != nil {
		t.Fatal(err)
	}
}

// append sends one partition's append.
func (b *testBroker) append(t *testing.T, name string, p mirrorwire.AppendRequestPartition) mirrorwire.AppendResponsePartition {
	t.Helper()
	req := &mirrorwire.AppendRequest{TimeoutMillis: 10_000, Topics: []mirrorwire.AppendRequestTopic{{
		TopicID: b.topic(name).ID, Source: testSource, Partitions: []mirrorwire.AppendRequestPartition{p},
	}}}
	return b.ask(t, req).(*mirrorwire.AppendResponse).Topics[0].Partitions[0]
}

func (b *testBroker) alter(t *testing.T, want mirrorwire.AlterRequestTopic) mirrorwire.DescribeResponseTopic {
	t.Helper()
	return b.ask(t, &mirrorwire.AlterRequest{Topics: []mirrorwire.AlterRequestTopic{want}}).(*mirrorwire.AlterResponse).Topics[0]
}

// storedBytes is all of partition 0.
func (b *testBroker) storedBytes(t *testing.T, name string) []byte {
	t.Helper()
	p, err := b.partition(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for at := p.StartOffset(); at < p.HighWatermark(); {
		part, err := p.Read(at, 1<<20, p.HighWatermark())
		if err != nil || len(part) == 0 {
			t.Fatalf("read at %d: %d bytes, %v", at, len(part), err)
		}
		out = append(out, part...)
		for len(part) > 0 {
			at = int64(binary.BigEndian.Uint64(part)) + int64(binary.BigEndian.Uint32(part[23:])) + 1
			part = part[12+binary.BigEndian.Uint32(part[8:]):]
		}
	}
	return out
}

// fillSource produces batches of every codec, with transactions of both outcomes, to
// partition 0, and leaves one open if asked.
func fillSource(t *testing.T, b *testBroker, topic string, open bool) {
	t.Helper()
	b.makeTopic(t, topic, 1, 0)
	ctx := within(t, 30*time.Second)
	for _, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		produceN(t, b.client(t, kgo.ProducerBatchCompression(codec)), topic, 0, 20)
	}
	record := func(v string) *kgo.Record { return &kgo.Record{Topic: topic, Value: []byte(v)} }
	for _, commit := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		cl := b.client(t, kgo.TransactionalID("tx"), kgo.DefaultProduceTopic(topic))
		if err := transact(t, cl, commit, record("in a transaction")); err != nil {
			t.Fatal(err)
		}
	}
	if open {
		cl := b.client(t, kgo.TransactionalID("open"))
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(ctx, record("open")).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAMirrorIsItsSourceByteForByte(t *testing.T) {
	a := startBroker(t, nil)
	fillSource(t, a, "orders", true)
	b := startBroker(t, nil)
	b.makeMirror(t, "orders", 1)
	want := a.storedBytes(t, "orders")
	p := mirrorwire.NewAppendPartition()
	p.WriterEpoch, p.Batches = 3, want
	got := b.append(t, "orders", p)
	src, _ := a.partition("orders", 0)
	if got.ErrorCode != 0 || got.LogEnd != src.EndOffset() || got.LastEpoch != src.LastEpoch() || got.WriterEpoch != 3 || got.State != mirrorwire.Active {
		t.Fatalf("append: %+v", got)
	}
	if !bytes.Equal(b.storedBytes(t, "orders"), want) {
		t.Fatal("the mirror's bytes are not the source's")
	}
	dst, _ := b.partition("orders", 0)
	if dst.LastStable() != src.LastStable() || dst.LastStable() == dst.HighWatermark() {
		t.Errorf("last stable %d, the source's %d, end %d", dst.LastStable(), src.LastStable(), dst.HighWatermark())
	}
	values, mirrored := a.committedValues(t, "orders"), b.committedValues(t, "orders")
	if len(values) != 102 || len(mirrored) != len(values) {
		t.Errorf("read_committed: %d records from the mirror, %d from the source, want 102", len(mirrored), len(values))
	}
	for i := range min(len(values), len(mirrored)) {
		if values[i] != mirrored[i] {
			t.Fatalf("record %d: %q, want %q", i, mirrored[i], values[i])
		}
	}
	// The same again is a writer that lost its answer.
	if got := b.append(t, "orders", p); got.ErrorCode != kerr.InvalidUpdateVersion.Code || got.LogEnd != src.EndOffset() {
		t.Errorf("the same again: %+v", got)
	}
	p.WriterEpoch = 2
	if got := b.append(t, "orders", p); got.ErrorCode != kerr.ProducerFenced.Code || got.WriterEpoch != 3 || got.ErrorMessage == nil {
		t.Errorf("an older writer: %+v", got)
	}
}

func TestOnlyItsWriterWritesToAMirror(t *testing.T) {
	b := startBroker(t, nil)
	b.makeMirror(t, "orders", 1)
	ctx := within(t, 30*time.Second)
	err := b.client(t).ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("v")}).FirstErr()
	if !errors.Is(err, kerr.InvalidRequest) {
		t.Errorf("produce: %v, want INVALID_REQUEST", err)
	}
	answer, err := produceOf(t, b, "orders", []byte("v")).RequestWith(ctx, b.client(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := answer.Topics[0].Partitions[0].ErrorMessage; got == nil || *got != "orders is a mirror topic of "+testSource+" (active): only its mirror writes to it, until it is promoted" {
		t.Errorf("a producer is told %v", got)
	}
	cl := b.client(t, kgo.TransactionalID("tx"))
	if err := transact(t, cl, kgo.TryCommit, &kgo.Record{Topic: "orders", Value: []byte("v")}); !errors.Is(err, kerr.InvalidRequest) {
		t.Errorf("a transaction: %v, want INVALID_REQUEST", err)
	}
	q := kmsg.NewPtrWriteTxnMarkersRequest()
	m := kmsg.NewWriteTxnMarkersRequestMarker()
	m.Topics = []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: "orders", Partitions: []int32{0}}}
	q.Markers = append(q.Markers, m)
	marked := call[*kmsg.WriteTxnMarkersResponse](t, b.client(t), q).Markers[0].Topics[0].Partitions[0]
	if marked.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("a marker of another coordinator: %v, want INVALID_REQUEST", kerr.ErrorForCode(marked.ErrorCode))
	}
	adm := kadm.NewClient(b.client(t))
	if got, err := adm.DeleteRecords(ctx, kadm.Offsets{"orders": {0: {Topic: "orders", Partition: 0, At: 0}}}); err != nil || !errors.Is(got.Error(), kerr.PolicyViolation) {
		t.Errorf("deletion of records: %v, %v, want POLICY_VIOLATION", err, got.Error())
	}
	set := kadm.AlterConfig{Op: kadm.SetConfig, Name: mirrorSource, Value: kmsg.StringPtr("x/y")}
	if got, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{set}, "orders"); err != nil || !errors.Is(got[0].Err, kerr.InvalidConfig) {
		t.Errorf("another source: %v, %+v, want INVALID_CONFIG", err, got)
	}
	b.makeTopic(t, "plain", 1, 0)
	p := mirrorwire.NewAppendPartition()
	if got := b.append(t, "plain", p); got.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("append to an ordinary topic: %+v", got)
	}
}

// TestARefusedMirrorAppendTellsOnlyWhatIsOnDisk: the disk fills up between two
// segments, so that the first part of an append is in the log, or it fails when what
// was written is to be made durable.
func TestARefusedMirrorAppendTellsOnlyWhatIsOnDisk(t *testing.T) {
	for name, c := range map[string]struct {
		op     vfs.Op
		suffix string
		err    error
		end    int64 // that the writer is told
	}{
		"no room for an index":    {vfs.OpCreate, ".index", syscall.ENOSPC, 2},
		"no room for a segment":   {vfs.OpCreate, ".log", syscall.ENOSPC, 2},
		"a sync of the log fails": {vfs.OpSync, ".log", syscall.EIO, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, nil)
			source := testSource
			configs := map[string]*string{mirrorSource: &source, "segment.bytes": kmsg.StringPtr("5000")}
			if _, err := kadm.NewClient(b.client(t)).CreateTopic(within(t, 30*time.Second), 1, 1, configs, "orders"); err != nil {
				t.Fatal(err)
			}
			p := mirrorwire.NewAppendPartition()
			p.WriterEpoch = 1
			for at := range int64(4) {
				batch, err := record.Encode([]record.Record{{Timestamp: 1000, Value: make([]byte, 2000)}}, record.NoProducer(record.None))
				if err != nil {
					t.Fatal(err)
				}
				batch.SetBaseOffset(at)
				batch.SetLeaderEpoch(3)
				p.Batches = append(p.Batches, batch...)
			}
			b.fs.FailNext(c.op, c.suffix, 1, c.err)
			got := b.append(t, "orders", p)
			if got.ErrorCode != kerr.KafkaStorageError.Code || got.LogEnd != c.end {
				t.Fatalf("got %+v, want KAFKA_STORAGE_ERROR and an end at %d", got, c.end)
			}
			b = runBroker(t, b.cfg, b.fs.Crash(nil), b.pool) // only what is durable is left
			part, err := b.partition("orders", 0)
			if err != nil {
				t.Fatal(err)
			}
			if end := part.EndOffset(); end < got.LogEnd {
				t.Errorf("after a crash the log ends at %d, the writer was told %d", end, got.LogEnd)
			}
		})
	}
}

// TestReportedEpochsAreNeverBelowTheSources: a client that commits the leader epoch
// of what it read believes no older one in metadata afterwards.
func TestReportedEpochsAreNeverBelowTheSources(t *testing.T) {
	a := startBroker(t, nil)
	fillSource(t, a, "orders", true)
	batches := a.storedBytes(t, "orders")
	for rest := batches; len(rest) > 0; rest = rest[12+binary.BigEndian.Uint32(rest[8:]):] {
		binary.BigEndian.PutUint32(rest[12:], 57) // no checksum covers the leader epoch
	}
	b := startBroker(t, nil)
	b.makeMirror(t, "orders", 1)
	p := mirrorwire.NewAppendPartition()
	p.WriterEpoch, p.Batches = 1, batches
	end := b.append(t, "orders", p).LogEnd
	check := func(b *testBroker, want int32, exact bool) int32 {
		t.Helper()
		part, err := b.partition("orders", 0)
		if err != nil {
			t.Fatal(err)
		}
		topics, err := kadm.NewClient(b.client(t)).ListTopics(within(t, 30*time.Second), "orders")
		if err != nil {
			t.Fatal(err)
		}
		if got := topics["orders"].Partitions[0].LeaderEpoch; got != part.LeaderEpoch() || got < want || exact && got != want {
			t.Errorf("metadata has epoch %d, want %d", got, want)
		}
		if found, at := part.EpochEnd(57); found != 57 || at != end {
			t.Errorf("epoch 57 ends at (%d, %d), want %d", found, at, end)
		}
		return part.LeaderEpoch()
	}
	check(b, 57, true)
	b = b.crash(t, 1)
	check(b, 57, true)
	got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Promote})
	if got.ErrorCode != 0 || got.State != mirrorwire.Promoted || len(got.Partitions[0].Ended) != 1 || got.Partitions[0].PromotedAt != end {
		t.Fatalf("promote: %+v", got)
	}
	promoted := check(b, 58, true)
	last := produceN(t, b.client(t), "orders", 0, 1)
	if last != end+1 { // behind the marker of the transaction that was open
		t.Errorf("the first record after the promotion is at %d, want %d", last, end+1)
	}
	if got := b.append(t, "orders", p); got.ErrorCode != kerr.ProducerFenced.Code || got.State != mirrorwire.Promoted {
		t.Errorf("append to a promoted topic: %+v", got)
	}
	b = b.crash(t, 2)
	check(b, promoted+1, true)
	again := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Promote})
	if again.ErrorCode != 0 || again.State != mirrorwire.Promoted {
		t.Errorf("promoted again: %+v", again)
	}
}

func TestAMirrorIsPausedFailedAndResumed(t *testing.T) {
	b := startBroker(t, nil)
	b.makeMirror(t, "orders", 1)
	a := startBroker(t, nil)
	a.makeTopic(t, "orders", 1, 5)
	p := mirrorwire.NewAppendPartition()
	p.WriterEpoch, p.Batches = 1, a.storedBytes(t, "orders")
	do := func(op mirrorwire.Op, want mirrorwire.State) {
		t.Helper()
		if got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: op, Reason: "because"}); got.ErrorCode != 0 || got.State != want {
			t.Fatalf("operation %d: %+v", op, got)
		}
	}
	do(mirrorwire.Pause, mirrorwire.Paused)
	do(mirrorwire.Pause, mirrorwire.Paused)
	b = b.restart(t)
	if got := b.append(t, "orders", p); got.ErrorCode != kerr.PolicyViolation.Code || got.State != mirrorwire.Paused || got.LogEnd != 0 {
		t.Errorf("append to a paused mirror: %+v", got)
	}
	do(mirrorwire.Fail, mirrorwire.Failed)
	do(mirrorwire.Resume, mirrorwire.Active)
	if got := b.append(t, "orders", p); got.ErrorCode != 0 || got.LogEnd != 5 {
		t.Errorf("append to a resumed mirror: %+v", got)
	}
	// A source whose epochs go back contradicts itself.
	again := bytes.Clone(p.Batches)
	binary.BigEndian.PutUint64(again, 5)
	p.ExpectedEnd, p.ExpectedEpoch = 5, int32(binary.BigEndian.Uint32(again[12:]))
	binary.BigEndian.PutUint32(again[12:], 0)
	p.Batches = again
	if got := b.append(t, "orders", p); got.ErrorCode != kerr.FencedLeaderEpoch.Code {
		t.Errorf("epochs that go back: %+v", got)
	}
	if state := stateOf(b.topic("orders")); state != mirrorwire.Failed {
		t.Errorf("state %s, want failed", mirrorwire.StateName(state))
	}
}

func TestATopicIsMadeAMirrorAgain(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 5)
	produceN(t, b.client(t), "orders", 5, 3) // batches of their own: what the other side lacks
	p, _ := b.partition("orders", 0)
	restore := mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Restore, Source: testSource, Cuts: []mirrorwire.Cut{
		{Partition: 0, TruncateTo: 5, ExpectedEnd: 7, ExpectedEpoch: p.LastEpoch()},
	}}
	if got := b.alter(t, restore); got.ErrorCode != kerr.InvalidUpdateVersion.Code || got.State != mirrorwire.NoMirror {
		t.Fatalf("a cut that has not seen the end: %+v", got)
	}
	produceN(t, b.client(t), "orders", 8, 1) // It takes writes still.
	restore.Cuts[0].ExpectedEnd = 9
	got := b.alter(t, restore)
	if got.ErrorCode != 0 || got.State != mirrorwire.Active || got.Partitions[0].LogEnd != 5 {
		t.Fatalf("restore: %+v", got)
	}
	if got := b.alter(t, restore); got.ErrorCode != 0 || got.State != mirrorwire.Active {
		t.Errorf("restore again: %+v", got)
	}
	b = b.crash(t, 3)
	if err := b.client(t).ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: "orders"}).FirstErr(); !errors.Is(err, kerr.InvalidRequest) {
		t.Errorf("produce after a restore: %v", err)
	}
	if got := consumeN(t, b.client(t), "orders", 5); got[4].Offset != 4 {
		t.Errorf("the fifth record is at %d", got[4].Offset)
	}
}

func TestMirrorRights(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.Authorizer = true; c.SuperUsers = []string{"User:admin"} })
	id := [16]byte{1}
	resp := b.ask(t, &mirrorwire.AppendRequest{Topics: []mirrorwire.AppendRequestTopic{{TopicID: id, Partitions: make([]mirrorwire.AppendRequestPartition, 1)}}})
	if got := resp.(*mirrorwire.AppendResponse).Topics[0].Partitions[0]; got.ErrorCode != kerr.ClusterAuthorizationFailed.Code || got.LogEnd != -1 {
		t.Errorf("append without rights: %+v", got)
	}
	described := b.ask(t, &mirrorwire.DescribeRequest{Topics: []mirrorwire.TopicRef{{Topic: "x"}, {TopicID: id}}}).(*mirrorwire.DescribeResponse)
	if a, b := described.Topics[0].ErrorCode, described.Topics[1].ErrorCode; a != kerr.TopicAuthorizationFailed.Code || b != kerr.UnknownTopicID.Code {
		t.Errorf("describe without rights: %d, %d", a, b)
	}
	if got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "x", Op: mirrorwire.Promote}); got.ErrorCode != kerr.TopicAuthorizationFailed.Code {
		t.Errorf("promote without rights: %+v", got)
	}
}

// TestWritingAMirrorIsARightOfItsOwn: every right on the topic is not enough to
// append to a mirror or to change its state, because epochs, producer ids and control
// records come along.
func TestWritingAMirrorIsARightOfItsOwn(t *testing.T) {
	b := startBroker(t, func(c *Config) {
		c.Authorizer, c.BootstrapACLs = true, []acl.Rule{allowRule("User:ANONYMOUS", acl.Topic, "orders", acl.All)}
	})
	b.makeMirror(t, "orders", 1)
	a := startBroker(t, nil)
	a.makeTopic(t, "orders", 1, 5)
	p := mirrorwire.NewAppendPartition()
	p.WriterEpoch, p.Batches = 6, a.storedBytes(t, "orders")
	if got := b.append(t, "orders", p); got.ErrorCode != kerr.ClusterAuthorizationFailed.Code || got.LogEnd != -1 {
		t.Errorf("append: %+v", got)
	}
	for _, op := range []mirrorwire.Op{mirrorwire.Pause, mirrorwire.Fail, mirrorwire.Promote, mirrorwire.Restore} {
		if got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: op}); got.ErrorCode != kerr.ClusterAuthorizationFailed.Code || got.Source != "" {
			t.Errorf("operation %d: %+v", op, got)
		}
	}
	if err := b.client(t).ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: "orders"}).FirstErr(); !errors.Is(err, kerr.InvalidRequest) {
		t.Errorf("produce with the right to: %v", err)
	}
	grow := func() error {
		got, err := kadm.NewClient(b.client(t)).UpdatePartitions(within(t, 30*time.Second), 2, "orders")
		if err != nil {
			t.Fatal(err)
		}
		return got["orders"].Err
	}
	if err := grow(); !errors.Is(err, kerr.InvalidRequest) || len(b.topic("orders").partitions) != 1 {
		t.Errorf("more partitions: %v, want INVALID_REQUEST", err)
	}
	part, _ := b.partition("orders", 0)
	if m := part.Mirror(); part.EndOffset() != 0 || m.WriterEpoch != 0 || stateOf(b.topic("orders")) != mirrorwire.Active {
		t.Errorf("what was refused has changed something: end %d, %+v", part.EndOffset(), m)
	}
	err := b.ctl.Update(func(*controller.Image) ([]controller.Record, error) {
		rule := allowRule("User:ANONYMOUS", acl.Cluster, acl.ClusterName, acl.ClusterAction)
		return []controller.Record{{ACL: &rule}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.append(t, "orders", p); got.ErrorCode != 0 || got.LogEnd != 5 {
		t.Errorf("append with ClusterAction: %+v", got)
	}
	if err := grow(); err != nil || len(b.topic("orders").partitions) != 2 {
		t.Errorf("more partitions with ClusterAction: %v", err)
	}
}

// TestDescribeTellsWhatAMirrorIs by Kafka's own protocol.
func TestDescribeTellsWhatAMirrorIs(t *testing.T) {
	a, b := startBroker(t, nil), startBroker(t, nil)
	fillSource(t, a, "orders", true)
	src, _ := a.partition("orders", 0)
	b.makeMirror(t, "orders", 4)
	check := func(when string, want map[string]string) {
		t.Helper()
		configs, err := kadm.NewClient(b.client(t)).DescribeTopicConfigs(within(t, 30*time.Second), "orders")
		if err != nil {
			t.Fatal(err)
		}
		shown := map[string]string{}
		for _, c := range configs[0].Configs {
			if strings.HasPrefix(c.Key, mirrorSetting) {
				shown[c.Key] = c.MaybeValue()
				if c.Source != kmsg.ConfigSourceDynamicTopicConfig { // tools hide defaults
					t.Errorf("%s: %s comes from %s", when, c.Key, c.Source)
				}
			}
		}
		want[mirrorSource] = testSource
		if !maps.Equal(shown, want) {
			t.Errorf("%s: shown is %v, want %v", when, shown, want)
		}
	}
	check("when it is made", map[string]string{mirrorState: "active", mirrorWriters: "0-3:0"})
	p := mirrorwire.NewAppendPartition()
	p.Partition, p.WriterEpoch, p.Batches = 1, 9, a.storedBytes(t, "orders")
	if got := b.append(t, "orders", p); got.ErrorCode != 0 {
		t.Fatalf("append: %+v", got)
	}
	writers, epochs := "0:0,1:9,2-3:0", fmt.Sprintf("1:%d", src.LastEpoch())
	check("with a writer", map[string]string{mirrorState: "active", mirrorWriters: writers, mirrorEpochs: epochs})
	for _, c := range []struct {
		op   mirrorwire.Op
		want map[string]string
	}{
		{mirrorwire.Pause, map[string]string{mirrorState: "paused", mirrorWriters: writers, mirrorEpochs: epochs}},
		{mirrorwire.Fail, map[string]string{mirrorState: "failed", mirrorReason: "because", mirrorWriters: writers, mirrorEpochs: epochs}},
		{mirrorwire.Promote, map[string]string{mirrorState: "promoted", mirrorWriters: writers, mirrorEnds: fmt.Sprintf("0:0,1:%d,2-3:0", src.EndOffset()), mirrorEnded: "1:1"}},
	} {
		if got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: c.op, Reason: "because"}); got.ErrorCode != 0 {
			t.Fatalf("operation %d: %+v", c.op, got)
		}
		check(fmt.Sprintf("after operation %d", c.op), c.want)
	}
}

func TestByPartitionIsBounded(t *testing.T) {
	parts := make([]*replica.Partition, 10_000)
	for n := range parts {
		parts[n] = &replica.Partition{Identity: replica.Identity{Partition: int32(n)}}
	}
	all := func(value func(n int32) int64) string {
		return byPartition(parts, func(p *replica.Partition) (int64, bool) { return value(p.Partition), p.Partition != 3 })
	}
	if got := all(func(n int32) int64 { return int64(n) / 5000 }); got != "0-2:0,4-4999:0,5000-9999:1" {
		t.Errorf("got %s", got)
	}
	got := all(func(n int32) int64 { return math.MaxInt64 - int64(n) })
	if len(got) > math.MaxInt16 || !strings.HasPrefix(got, "0:9223372036854775807,1:") || !strings.HasSuffix(got, ",...") {
		t.Errorf("%d bytes: %s", len(got), got[:100])
	}
}

// TestAProducerIsNotTakenForAMirroredOne: the id, epoch and sequence of a producer of
// the source mean nothing in a promoted topic, and none of this cluster gets its id.
func TestAProducerIsNotTakenForAMirroredOne(t *testing.T) {
	b := startBroker(t, nil)
	b.makeMirror(t, "orders", 1)
	id := controller.FirstProducerID(b.ClusterID()) + 5000 // one that this cluster would get to: it was the source's source
	batch := transactionalBatch(t, id, 7, 3)
	batch.SetLeaderEpoch(2)
	p := mirrorwire.NewAppendPartition()
	p.WriterEpoch, p.Batches = 1, bytes.Clone(batch)
	end := b.append(t, "orders", p).LogEnd
	if got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Promote}); got.ErrorCode != 0 || len(got.Partitions[0].Ended) != 1 {
		t.Fatalf("promote: %+v", got)
	}
	for n := range uint64(3) {
		got, err := kmsg.NewPtrInitProducerIDRequest().RequestWith(within(t, 30*time.Second), b.client(t))
		if err != nil || got.ErrorCode != 0 || got.ProducerID <= id {
			t.Errorf("a new producer gets %+v, %v; a mirrored one had %d", got, err, id)
		}
		part, _ := b.partition("orders", 0)
		again, err := record.Encode([]record.Record{{Timestamp: time.Now().UnixMilli(), Value: []byte("v")}}, record.Stamp{ProducerID: id, ProducerEpoch: 0, BaseSequence: 3})
		if err != nil {
			t.Fatal(err)
		}
		done, err := part.Append(again, commitlog.FromClient)
		switch {
		case n == 0 && (err != nil || done.Duplicate || done.BaseOffset != end+1): // behind the marker
			t.Errorf("a producer with the id and the sequence of a mirrored one, at epoch 0: %+v, %v", done, err)
		case n > 0 && !done.Duplicate:
			t.Errorf("the same again, after a crash: %+v, %v", done, err)
		}
		if err := part.WaitCommitted(t.Context(), part.EndOffset()); err != nil {
			t.Fatal(err)
		}
		b = b.crash(t, n)
	}
}
