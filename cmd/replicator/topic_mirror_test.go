package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/mirrorwire"
	batches "github.com/waybillhq/waybill/internal/record"
)

// mirrorInto appends a batch of a transaction that stays open to partition 0 of a
// mirror topic, as a writer of epoch 9 whose source is at leader epoch 57.
func mirrorInto(t *testing.T, addr, topic string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	topics, err := kadm.NewClient(cl).ListTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	stamp := batches.Stamp{ProducerID: 12, ProducerEpoch: 3, Attributes: batches.Attributes(0).WithTransactional(true)}
	batch, err := batches.Encode([]batches.Record{{Timestamp: 1, Value: []byte("a")}, {Timestamp: 1, Value: []byte("b")}}, stamp)
	if err != nil {
		t.Fatal(err)
	}
	batch.SetLeaderEpoch(57)
	conn, err := kafka.Dial(t.Context(), &flow.Cluster{}, addr, "writer")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := mirrorwire.NewAppendPartition()
	p.WriterEpoch, p.Batches = 9, batch
	resp, err := conn.Request(t.Context(), &mirrorwire.AppendRequest{TimeoutMillis: 10_000, Topics: []mirrorwire.AppendRequestTopic{{
		TopicID: topics[topic].ID, Source: "there/orders", Partitions: []mirrorwire.AppendRequestPartition{p},
	}}}, mirrorwire.MaxVersion)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.(*mirrorwire.AppendResponse).Topics[0].Partitions[0]; got.ErrorCode != 0 || got.LogEnd != 2 {
		t.Fatalf("append: %+v", got)
	}
}

func TestAMirrorTopicByHand(t *testing.T) {
	addr := startBroker(t)
	at := func(args ...string) outcome {
		t.Helper()
		return replicator(t, "", append([]string{"topic"}, append(args, "-b", addr)...)...)
	}
	at("create", "plain")
	if got := at("create", "orders", "-p", "2", "--config", "mirror.source=there/orders"); got.code != exitOK {
		t.Fatalf("create: got %+v", got)
	}
	mirrorInto(t, addr, "orders")

	at("describe", "orders").want(t, exitOK, `a mirror of there/orders, active
PARTITION  LEADER  EPOCH  START  END  STABLE  WRITER-EPOCH  SOURCE-EPOCH  PROMOTED-AT
0          1       57     0      2    0       9             57            -
1          1       1      0      0    0       0             -             -
`, "")
	at("pause", "orders").want(t, exitOK, "orders, a mirror of there/orders, is paused\n", "")
	if got := at("describe", "orders"); !strings.HasPrefix(got.stdout, "a mirror of there/orders, paused\n") {
		t.Errorf("paused: got %+v", got)
	}
	at("resume", "orders").want(t, exitOK, "orders, a mirror of there/orders, is active\n", "")
	aborted := "partition 0: the transaction of producer 12 epoch 3 that began at 0 was aborted; its source may have committed it since\n"
	for range 2 {
		at("promote", "orders").want(t, exitOK, "orders, a mirror of there/orders, is promoted\n"+aborted, "")
	}
	if got := at("describe", "orders"); got.code != exitOK || !strings.HasPrefix(got.stdout, "a mirror of there/orders, promoted\n") || !strings.HasSuffix(got.stdout, aborted) {
		t.Errorf("promoted: got %+v", got)
	}
	var d topicDescription
	if err := json.Unmarshal([]byte(at("describe", "orders", "-o", "json").stdout), &d); err != nil {
		t.Fatal(err)
	}
	want := &mirrorPart{WriterEpoch: 9, SourceEpoch: -1, PromotedAt: 2, Ended: []endedTransaction{{12, 3, 0}}}
	if *d.Mirror != (mirrorOf{Source: "there/orders", State: "promoted"}) || d.Name != "orders" || !reflect.DeepEqual(d.Partitions[0].Mirror, want) || d.Partitions[0].End != 3 {
		t.Errorf("promoted: got %+v", d)
	}
	for topic, why := range map[string]string{"orders": "mirror topic orders is promoted", "plain": "topic plain is no mirror topic"} {
		if got := at("pause", topic); got.code != exitFailed || !strings.HasPrefix(got.stderr, "replicator: pause topic "+topic+": INVALID_REQUEST") || !strings.Contains(got.stderr, why) {
			t.Errorf("pause %s: got %+v", topic, got)
		}
	}
	if got := at("describe", "plain"); got.code != exitOK || strings.Contains(got.stdout, "mirror") {
		t.Errorf("an ordinary topic: got %+v", got)
	}
}

// TestAClusterWithoutMirrorTopics answers ApiVersions as Apache Kafka does.
func TestAClusterWithoutMirrorTopics(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		var head [12]byte // length, key, version, correlation id
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		resp := kmsg.NewPtrApiVersionsResponse()
		resp.SetVersion(3)
		resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: int16(kmsg.Metadata), MaxVersion: 12}}
		body := resp.AppendTo(bytes.Clone(head[8:]))
		_, _ = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)) // the command says if it is missing
		_, _ = io.Copy(io.Discard, c)
	}()
	got := replicator(t, "", "topic", "promote", "orders", "-b", l.Addr().String())
	got.want(t, exitFailed, "", "replicator: promote topic orders: the cluster has no mirror topics: MirrorAlter: broker does not know MirrorAlter requests\n")
}

func TestAMirrorThatHasFailedSaysWhy(t *testing.T) {
	d := topicDescription{Partitions: []partitionRow{{Leader: 1}}}
	d.addMirror(&mirrorwire.DescribeResponseTopic{Source: "there/orders", State: mirrorwire.Failed, Reason: "epochs go back"})
	var text strings.Builder
	if err := (&output{format: "table"}).print(&text, d, d.draw); err != nil {
		t.Fatal(err)
	}
	if want := "a mirror of there/orders, failed: epochs go back\n"; !strings.HasPrefix(text.String(), want) {
		t.Errorf("got %q", text.String())
	}
}
