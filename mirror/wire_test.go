package mirror

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/record"
)

// wire watches what a node writes to a destination, and holds each batch against what
// a broker demands of a client, whether this broker does or not.
type wire struct {
	mu      sync.Mutex
	faults  []string
	lanes   map[string]*laneOnWire
	codecs  map[string]map[record.Codec]bool // of the batches, by topic
	largest map[string]int
	batches int
}

// laneOnWire is a transactional id as its coordinator and its partitions know it.
type laneOnWire struct {
	pid   int64
	epoch int16
	next  map[flow.TopicPartition]int32 // sequence
	added map[flow.TopicPartition]bool  // to the open transaction
}

func newWire() *wire {
	return &wire{lanes: map[string]*laneOnWire{}, codecs: map[string]map[record.Codec]bool{}, largest: map[string]int{}}
}

func (w *wire) fault(format string, args ...any) {
	if len(w.faults) < 20 {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

// say follows what the broker grants, before the lane knows of it.
func (w *wire) say(req kmsg.Request, resp kmsg.Response) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch req := req.(type) {
	case *kmsg.InitProducerIDRequest:
		if r := resp.(*kmsg.InitProducerIDResponse); r.ErrorCode == 0 && req.TransactionalID != nil {
			w.lanes[*req.TransactionalID] = &laneOnWire{
				pid: r.ProducerID, epoch: r.ProducerEpoch, next: map[flow.TopicPartition]int32{}, added: map[flow.TopicPartition]bool{},
			}
		}
	case *kmsg.AddPartitionsToTxnRequest:
		l := w.lanes[req.TransactionalID]
		for _, t := range resp.(*kmsg.AddPartitionsToTxnResponse).Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode == 0 && l != nil {
					l.added[flow.TopicPartition{Topic: t.Topic, Partition: p.Partition}] = true
				}
			}
		}
	}
}

// ask looks at what is written. It never answers.
func (w *wire) ask(req kmsg.Request) kmsg.Response {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch req := req.(type) {
	case *kmsg.EndTxnRequest:
		if l := w.lanes[req.TransactionalID]; l != nil {
			clear(l.added)
		}
	case *kmsg.ProduceRequest:
		w.produce(req)
	}
	return nil
}

func (w *wire) produce(req *kmsg.ProduceRequest) {
	if req.GetVersion() < 7 {
		w.fault("Produce v%d takes no zstd", req.GetVersion())
	}
	if req.TransactionID == nil || w.lanes[*req.TransactionID] == nil {
		w.fault("a request of no lane")
		return
	}
	seen := map[flow.TopicPartition]bool{}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			tp := flow.TopicPartition{Topic: t.Topic, Partition: p.Partition}
			if seen[tp] {
				w.fault("%v: twice in a request", tp)
			}
			seen[tp] = true
			b, rest, err := record.Next(p.Records)
			if err != nil {
				w.fault("%v: %v", tp, err)
				continue
			}
			if len(rest) > 0 {
				w.fault("%v: more than one batch", tp)
			}
			w.batch(w.lanes[*req.TransactionID], tp, b)
		}
	}
}

func (w *wire) batch(l *laneOnWire, tp flow.TopicPartition, b record.Batch) {
	w.batches++
	if err := b.Check(); err != nil {
		w.fault("%v: %v", tp, err)
	}
	if b.BaseOffset() != 0 {
		w.fault("%v: base offset %d", tp, b.BaseOffset())
	}
	section, err := b.Section(1 << 20)
	if err == nil {
		err = section.Check()
	}
	if err != nil || !b.Dense() {
		w.fault("%v: %d records, last offset delta %d: %v", tp, b.Count(), b.LastOffsetDelta(), err)
	}
	switch a := b.Attributes(); {
	case a.Control(), a.LogAppendTime(), a.DeleteHorizon():
		w.fault("%v: attributes %#x", tp, a)
	case !a.Transactional():
		w.fault("%v: in no transaction", tp)
	}
	if b.ProducerID() != l.pid || b.ProducerEpoch() != l.epoch || b.BaseSequence() != l.next[tp] {
		w.fault("%v: producer %d, epoch %d, sequence %d, due are %d, %d, %d", tp, b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), l.pid, l.epoch, l.next[tp])
	}
	l.next[tp] = record.AddSequence(b.LastSequence(), 1)
	if !l.added[tp] {
		w.fault("%v: not in the open transaction", tp)
	}
	if w.codecs[tp.Topic] == nil {
		w.codecs[tp.Topic] = map[record.Codec]bool{}
	}
	w.codecs[tp.Topic][b.Attributes().Codec()] = true
	w.largest[tp.Topic] = max(w.largest[tp.Topic], len(b))
}

// nasty are batches of which a broker would refuse the bytes, or make other records,
// and the records of them that readers of the source see.
func nasty() (batches []record.Batch, records []record.Record) {
	at := int64(0)
	add := func(n int, value string, last int64, s record.Stamp, kept ...int64) {
		var all []record.Record
		for i := range int64(n) {
			if len(kept) > 0 && !slices.Contains(kept, i) {
				continue
			}
			all = append(all, record.Record{Offset: at + i, Timestamp: 1_700_000_000_000 + at + i, Key: []byte("k"), Value: fmt.Appendf(nil, "%s %d", value, at+i)})
		}
		b := holeyBatch(all, at, at+last, s)
		batches = append(batches, b)
		if s.Attributes.LogAppendTime() {
			for i := range all {
				all[i].Timestamp = b.MaxTimestamp()
			}
		}
		if !s.Attributes.Control() && value != "aborted" {
			records = append(records, all...)
		}
		at += last + 1
	}
	marker := func(pid int64, commit byte) {
		r := record.Record{Offset: at, Timestamp: 1_700_000_000_000, Key: []byte{0, 0, 0, commit}, Value: make([]byte, 6)}
		batches = append(batches, holeyBatch([]record.Record{r}, at, at, record.Stamp{ProducerID: pid, BaseSequence: -1, Attributes: attrControl | attrTransactional}))
		at++
	}
	producer := func(pid int64, a record.Attributes) record.Stamp {
		return record.Stamp{ProducerID: pid, ProducerEpoch: 9, BaseSequence: 1 << 30, Attributes: a}
	}
	add(3, "of a producer", 2, producer(0, 0))
	for _, codec := range []record.Codec{record.None, record.Gzip, record.Snappy, record.LZ4, record.Zstd} {
		add(4, codec.String(), 3, producer(1, record.Attributes(codec)))
		add(4, "holes, "+codec.String(), 5, producer(1, record.Attributes(codec)), 0, 2, 3)
	}
	at += 7 // batches that a cleaner has dropped
	add(2, "committed", 1, producer(2, attrTransactional))
	add(2, "aborted", 1, producer(3, attrTransactional))
	marker(3, 0)
	marker(2, 1)
	add(3, "the broker's time", 2, producer(4, attrLogAppendTime))
	add(3, "delete horizon", 2, producer(4, attrDeleteHorizon))
	add(40, "large "+string(make([]byte, 100)), 39, producer(4, 0))
	add(1, "last", 0, producer(4, 0))
	return batches, records
}

// TestALaneObeysTheRulesOfTheWire copies what breaks each rule that brokers have for
// a client's batches, and watches what is sent: one batch of a partition in a request,
// at base offset 0, with a right checksum, without holes, markers and the broker's flags,
// under the lane's own producer id and next sequence, within an open transaction of it, as
// large as the topic takes, in its own codec. docs/invariants.md has the rules one by one.
func TestALaneObeysTheRulesOfTheWire(t *testing.T) {
	t.Parallel()
	watch := newWire()
	w := newWorldBehind(t, nil, map[string]*liar{"east": newLiar(t, watch.ask, watch.say)})
	w.bundledOnly("west", "east")
	w.west.create(t, "middle", 1)
	src := w.fakeLog(t, "orders")
	w.east.create(t, "orders", 1, "retention.ms", "-1", keyMaxMessageBytes, "2000")
	w.east.create(t, "middle", 1)
	batches, want := nasty()
	for _, b := range batches {
		src.append(57, b)
	}
	var together []*kgo.Record
	for i := range 10 {
		together = append(together, &kgo.Record{Topic: "middle", Value: fmt.Append(nil, i)})
	}
	w.west.put(t, together...)
	deleteBefore(t, w.west, "middle", 4) // whoever fetches from there is given the whole batch
	n := w.node("a", born)
	n.Assign(w.copies(1, 1, "orders", "middle"))
	eventually(t, "caught up", func() bool { return n.caughtUp(2) })

	watch.mu.Lock()
	defer watch.mu.Unlock()
	for _, f := range watch.faults {
		t.Error(f)
	}
	if have := watch.codecs["orders"]; len(have) != 5 || watch.largest["orders"] > 2000 || watch.batches < 10 {
		t.Errorf("%d batches, of at most %d bytes, in codecs %v", watch.batches, watch.largest["orders"], have)
	}
	w.east.expectRange(t, "middle", 0, 4, 10)
	var got []record.Record
	for _, r := range w.east.read(t, "orders", 0, len(want)) {
		got = append(got, record.Record{Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value})
	}
	for i := range want {
		want[i].Offset = 0
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%d records, want %d:\n%.300v\n%.300v", len(got), len(want), got, want)
	}
}

// TestASourcesProducerIsNotPassedOn: brokers count producer ids from 0 in every cluster, so
// one at the destination has the id of the source's. Passed on, the source's batches
// would be taken for those that this producer has written, acknowledged and dropped.
func TestASourcesProducerIsNotPassedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bundledOnly("west")
	src := w.fakeLog(t, "orders")
	w.east.create(t, "orders", 1, "retention.ms", "-1")
	w.east.put(t, &kgo.Record{Topic: "orders", Value: []byte("native")})
	pid, epoch, sequence := w.producerOf(t, "orders")
	for i := range int64(5) {
		src.append(1, holeyBatch([]record.Record{{Offset: i, Timestamp: 1, Value: fmt.Append(nil, i)}}, i, i,
			record.Stamp{ProducerID: pid, ProducerEpoch: epoch, BaseSequence: sequence}))
	}
	n := w.node("a", born)
	n.Assign(w.copies(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	for i, r := range w.east.read(t, "orders", 0, 6) {
		if want := []string{"native", "0", "1", "2", "3", "4"}[i]; string(r.Value) != want {
			t.Errorf("record %d is %s, want %s", i, r.Value, want)
		}
	}
}

// producerOf is who has written last to partition 0 of a topic of the east.
func (w *world) producerOf(t *testing.T, topic string) (pid int64, epoch int16, sequence int32) {
	t.Helper()
	described, err := w.east.admin.DescribeProducers(t.Context(), kadm.TopicsSet{topic: {0: {}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range described.SortedProducers() {
		return p.ProducerID, p.ProducerEpoch, p.LastSequence
	}
	t.Fatalf("nobody has written to %s: %v", topic, described)
	return 0, 0, 0
}
