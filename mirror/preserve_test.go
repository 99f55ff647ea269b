package mirror

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/mirrorwire"
	"github.com/waybillhq/waybill/internal/record"
)

// mirrored makes a topic on both sides: on the east as a mirror of the west's.
func (w *world) mirrored(t testing.TB, topic string, partitions int32, configs ...string) {
	t.Helper()
	w.bundledOnly("east")
	w.west.create(t, topic, partitions, configs...)
	w.mirrorOf(t, topic, partitions)
}

// mirrorOf makes a topic on the east that is the mirror of the west's.
func (w *world) mirrorOf(t testing.TB, topic string, partitions int32) {
	t.Helper()
	cluster, err := kafka.ClusterID(t.Context(), w.west.client)
	if err != nil {
		t.Fatal(err)
	}
	topics, err := w.west.admin.ListTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	w.east.create(t, topic, partitions, keyMirrorSource, mirrorSource(ledger.End{Cluster: cluster, TopicID: ledger.TopicID(topics[topic].ID)}))
}

// whole are assignments of all partitions of topics to copies that preserve offsets.
func (w *world) whole(epoch uint64, partitions int32, topics ...string) []Assignment {
	list := w.copies(epoch, partitions, topics...)
	for i := range list {
		list[i].Offsets = flow.OffsetsPreserve
	}
	return list
}

// partitionLog is what a partition shows to who reads all of it.
type partitionLog struct {
	start, end, stable int64
	batches            []byte
	aborted            []kmsg.FetchResponseTopicPartitionAbortedTransaction
}

// logStart is where a partition begins now.
func (s *site) logStart(t testing.TB, topic string, partition int32) int64 {
	t.Helper()
	conn := s.dial(t)
	defer conn.Close()
	start, err := listOffset(t.Context(), conn, flow.TopicPartition{Topic: topic, Partition: partition}, earliestTimestamp)
	if err != nil {
		t.Fatal(err)
	}
	return start
}

// log fetches everything from a partition, with the aborted transactions of what is
// committed. The partition is to keep its beginning meanwhile.
func (s *site) log(t testing.TB, topic string, partition int32) partitionLog {
	t.Helper()
	start := s.logStart(t, topic, partition)
	l := partitionLog{start: start}
	conn := s.dial(t)
	defer conn.Close()
	fetch := func(from int64, isolation int8) *kmsg.FetchResponseTopicPartition {
		req := kmsg.NewPtrFetchRequest()
		req.ReplicaID, req.MaxBytes, req.IsolationLevel = -1, 100<<20, isolation
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = partition, from, 100<<20, -1
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp, err := conn.Request(t.Context(), req, fetchByName)
		if err != nil {
			t.Fatal(err)
		}
		p := &resp.(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			t.Fatalf("fetch %s/%d at %d: %v", topic, partition, from, err)
		}
		return p
	}
	l.aborted = fetch(start, 1).AbortedTransactions
	for next := start; ; {
		p := fetch(next, 0)
		l.end, l.stable = p.HighWatermark, p.LastStableOffset
		if len(p.RecordBatches) == 0 {
			return l
		}
		l.batches = append(l.batches, p.RecordBatches...)
		for rest := p.RecordBatches; len(rest) > 0; {
			b, more, err := record.Next(rest)
			if err != nil {
				t.Fatal(err)
			}
			next, rest = b.NextOffset(), more
		}
	}
}

// same checks that the east's partition is the west's, to the byte.
func (w *world) same(t testing.TB, topic string, partition int32) partitionLog {
	t.Helper()
	from, to := w.west.log(t, topic, partition), w.east.log(t, topic, partition)
	if from.start != to.start || from.end != to.end || from.stable != to.stable {
		t.Errorf("%s/%d: the source has %d to %d, stable to %d; its mirror %d to %d, stable to %d", topic, partition, from.start, from.end, from.stable, to.start, to.end, to.stable)
	}
	if !bytes.Equal(from.batches, to.batches) {
		t.Errorf("%s/%d: the batches of source and mirror differ: %d and %d bytes", topic, partition, len(from.batches), len(to.batches))
	}
	if !slices.EqualFunc(from.aborted, to.aborted, func(a, b kmsg.FetchResponseTopicPartitionAbortedTransaction) bool {
		return a.ProducerID == b.ProducerID && a.FirstOffset == b.FirstOffset
	}) {
		t.Errorf("%s/%d: aborted at the source %v, at its mirror %v", topic, partition, from.aborted, to.aborted)
	}
	return from
}

// told checks what the ledger says of a partition in the end: identities from 0 to
// its end, without a fault and with these gaps.
func (w *world) told(t testing.TB, topic string, partition int32, want map[ledger.Reason]int64) {
	t.Helper()
	end := w.west.log(t, topic, partition).end
	eventually(t, "the ledger tells of everything", func() bool {
		if err := w.maps.CatchUp(t.Context(), "east"); err != nil {
			t.Fatal(err)
		}
		for _, m := range w.maps.Copies() {
			if l := m.Labels(); l.SourceTopic == topic && m.ID().Source.Partition == partition {
				return m.Next() == end
			}
		}
		return false
	})
	for _, m := range w.maps.Copies() {
		if l := m.Labels(); l.SourceTopic != topic || m.ID().Source.Partition != partition {
			continue
		}
		if f := m.Faults(); len(f) > 0 || m.Doubt() != "" {
			t.Errorf("%s/%d: faults in the ledger %v, doubt %q", topic, partition, f, m.Doubt())
		}
		checkGaps(t, want, m)
	}
}

// reached says that every copy has caught up, and with so much.
func (n *node) reached(copies int, position func(partition int32) int64) bool {
	return n.caughtUp(copies) && !slices.ContainsFunc(n.Status(), func(s CopyStatus) bool { return s.Position != position(s.Partition) })
}

func TestOffsetsArePreserved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const partitions = 4
	w.mirrored(t, "orders", partitions)
	n := w.node("a", nil)
	n.Assign(w.whole(1, partitions, "orders"))
	sent := 0
	for range 5 {
		for p := range int32(partitions) {
			w.west.produce(t, "orders", p, sent, sent+100+int(p))
		}
		sent += 200
	}
	eventually(t, "caught up", func() bool { return n.reached(partitions, func(p int32) int64 { return int64(5 * (100 + p)) }) })
	for p := range int32(partitions) {
		if got := w.same(t, "orders", p); got.end != int64(5*(100+p)) {
			t.Errorf("partition %d has %d records", p, got.end)
		}
		w.told(t, "orders", p, nil)
	}
	if a, r := n.Metrics().Appends.Load(), n.Metrics().Recovered.Load(); a == 0 || r != 0 {
		t.Errorf("%d appends, %d offsets recovered", a, r)
	}
}

// TestTransactionsArePreserved copies committed, aborted and open transactions: who
// reads the mirror sees of them what he sees at the source, and does not wait for
// the open one to see the others.
func TestTransactionsArePreserved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mirrored(t, "orders", 1)
	n := w.node("a", nil)
	n.Assign(w.whole(1, 1, "orders"))
	commit, abort := true, false
	w.transact(t, "c", &commit, "0", "1")
	w.transact(t, "a", &abort, "x", "y")
	w.west.produce(t, "orders", 0, 2, 5)
	w.transact(t, "o", nil, "open")
	w.west.produce(t, "orders", 0, 6, 9)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Position == 3+3+3+1+3 })
	if got := w.same(t, "orders", 0); got.stable == got.end || len(got.aborted) != 1 {
		t.Errorf("the source is stable up to %d of %d and has %d aborted transactions", got.stable, got.end, len(got.aborted))
	}
	w.east.expect(t, "orders", 0, 5)
	w.told(t, "orders", 0, nil)
}

// TestAMirrorFollowsTheSourcesStart: retention and DeleteRecords at the source, while
// a copy runs, idle and behind.
func TestAMirrorFollowsTheSourcesStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mirrored(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 30)
	deleteBefore(t, w.west, "orders", 10)
	n := w.node("a", nil)
	n.Assign(w.whole(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Position == 30 })
	eventually(t, "the mirror begins at 10", func() bool { return w.east.logStart(t, "orders", 0) == 10 })
	w.same(t, "orders", 0)
	deleteBefore(t, w.west, "orders", 17)
	eventually(t, "the mirror begins at 17", func() bool { return w.east.logStart(t, "orders", 0) == 17 })
	n.Assign(nil)
	<-n.released
	w.west.produce(t, "orders", 0, 30, 40)
	deleteBefore(t, w.west, "orders", 35)
	n.Assign(w.whole(2, 1, "orders"))
	eventually(t, "caught up again", func() bool { return n.caughtUp(1) && n.only().Position == 40 })
	eventually(t, "the mirror begins at 35", func() bool { return w.east.logStart(t, "orders", 0) == 35 })
	w.same(t, "orders", 0)
	n.Assign(nil)
	<-n.released
	w.west.produce(t, "orders", 0, 40, 50)
	deleteBefore(t, w.west, "orders", 50)
	n.Assign(w.whole(3, 1, "orders"))
	eventually(t, "caught up with nothing", func() bool { return n.caughtUp(1) && n.only().Position == 50 })
	eventually(t, "nothing is left", func() bool { return w.east.logStart(t, "orders", 0) == 50 })
	if l := w.east.log(t, "orders", 0); l.end != 50 {
		t.Errorf("the mirror ends at %d, want 50", l.end)
	}
	w.west.produce(t, "orders", 0, 50, 55)
	eventually(t, "caught up in the end", func() bool { return n.caughtUp(1) && n.only().Position == 55 })
	w.same(t, "orders", 0)
}

// fakeSource is a source partition of which a test decides everything: itself a
// mirror topic, on the west, that the test writes to.
type fakeSource struct {
	t     *testing.T
	conn  *kafka.Conn
	id    ledger.TopicID
	end   int64
	epoch int32
	start int64
}

func (w *world) fakeSource(t *testing.T, topic string) *fakeSource {
	t.Helper()
	w.bundledOnly("west", "east")
	s := w.fakeLog(t, topic)
	w.mirrorOf(t, topic, 1)
	return s
}

// fakeLog is a topic of the west alone.
func (w *world) fakeLog(t *testing.T, topic string) *fakeSource {
	t.Helper()
	w.west.create(t, topic, 1, keyMirrorSource, "the/test")
	topics, err := w.west.admin.ListTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := kafka.Dial(t.Context(), w.west.Cluster, w.west.Spec.BootstrapServers[0], "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &fakeSource{t: t, conn: conn, id: ledger.TopicID(topics[topic].ID), epoch: -1, start: -1}
}

func (s *fakeSource) do(p mirrorwire.AppendRequestPartition) {
	s.t.Helper()
	p.WriterEpoch, p.ExpectedEnd, p.ExpectedEpoch, p.SourceStart = 1, s.end, s.epoch, s.start
	resp, err := s.conn.Request(s.t.Context(), &mirrorwire.AppendRequest{TimeoutMillis: 10_000, Topics: []mirrorwire.AppendRequestTopic{{
		TopicID: s.id, Source: "the/test", Partitions: []mirrorwire.AppendRequestPartition{p},
	}}}, mirrorwire.MaxVersion)
	if err != nil {
		s.t.Fatal(err)
	}
	got := resp.(*mirrorwire.AppendResponse).Topics[0].Partitions[0]
	if got.ErrorCode != 0 {
		s.t.Fatalf("%v: %s", kerr.ErrorForCode(got.ErrorCode), *got.ErrorMessage)
	}
	s.end, s.epoch = got.LogEnd, got.LastEpoch
}

// write appends a batch at an offset, with one record for each of the offsets that
// are kept; none is what compaction leaves of an empty one.
func (s *fakeSource) write(epoch int32, base, last int64, value string, kept ...int64) {
	s.t.Helper()
	var records []record.Record
	for _, o := range kept {
		records = append(records, record.Record{Offset: o, Timestamp: 1000 + o, Key: []byte("k"), Value: fmt.Appendf(nil, "%s%d", value, o)})
	}
	s.append(epoch, holeyBatch(records, base, last, record.NoProducer(record.None)))
}

func (s *fakeSource) append(epoch int32, b record.Batch) {
	s.t.Helper()
	b.SetLeaderEpoch(epoch)
	p := mirrorwire.NewAppendPartition()
	p.Batches = b
	s.do(p)
}

// lose cuts what lies at and above an offset.
func (s *fakeSource) lose(offset int64) {
	s.t.Helper()
	p := mirrorwire.NewAppendPartition()
	p.TruncateTo = offset
	s.do(p)
}

// bornThere says of every record that it was born at the source: a fakeSource is a
// mirror of something that no ledger tells of.
type bornThere struct{}

func (bornThere) Replicator(string, int64) (known, plain bool) { return false, false }
func (bornThere) Stray(ledger.End, int64) bool                 { return false }

func (bornThere) Origin(_ ledger.End, offset int64) (ledger.Origin, bool) {
	return ledger.Origin{Next: offset + 1}, true
}

func (bornThere) ReadLedger(context.Context, string) (bool, error) { return true, nil }

func born(c *Config) { c.Origins = bornThere{} }

// TestWhatCompactionLeavesIsPreserved: holes between batches and in them, and
// batches without a record.
func TestWhatCompactionLeavesIsPreserved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := w.fakeSource(t, "orders")
	src.write(3, 5, 9, "a", 5, 8)
	src.write(3, 10, 11, "a") // empty
	src.write(4, 20, 22, "a", 20, 21, 22)
	n := w.node("a", born)
	n.Assign(w.whole(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	src.write(4, 30, 30, "a", 30)
	eventually(t, "caught up again", func() bool { return n.caughtUp(1) && n.only().Position == 31 })
	w.same(t, "orders", 0)
	w.told(t, "orders", 0, map[ledger.Reason]int64{ledger.Compacted: 5 + 2 + 8 + 7})
}

// TestASourceThatLostRecordsIsFollowed: the source loses its tail, and another
// history takes its place, while the copy runs or is away.
func TestASourceThatLostRecordsIsFollowed(t *testing.T) {
	for name, running := range map[string]bool{"running": true, "away": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			src := w.fakeSource(t, "orders")
			src.write(3, 0, 1, "a", 0, 1)
			src.write(5, 2, 3, "dead", 2, 3)
			src.write(5, 4, 5, "dead", 4, 5)
			src.write(6, 6, 6, "dead", 6)
			n := w.node("a", born)
			n.Assign(w.whole(1, 1, "orders"))
			eventually(t, "caught up", func() bool { return n.caughtUp(1) })
			w.told(t, "orders", 0, nil)
			if !running {
				n.Assign(nil)
				<-n.released
			}
			src.lose(4)
			src.write(8, 4, 4, "live", 4)
			src.lose(2)
			src.write(9, 2, 9, "live", 2, 3, 4, 5, 6, 7, 8, 9)
			if !running {
				n.Assign(w.whole(2, 1, "orders"))
			}
			eventually(t, "the mirror has the new history", func() bool { return n.caughtUp(1) && n.only().Position == 10 })
			w.same(t, "orders", 0)
			w.told(t, "orders", 0, nil)
			if n.Metrics().Truncations.Load() == 0 {
				t.Error("the mirror was never cut")
			}
			retracted := slices.ContainsFunc(w.east.entries(t), func(e ledger.Entry) bool { r, ok := e.(*ledger.Retraction); return ok && r.Source == 2 })
			if !retracted {
				t.Error("the ledger was never told that what lies above 2 is lost")
			}
		})
	}
}

// TestAnAppendWithoutAnAnswer: the mirror has the batches and the node does not know
// it, again and again.
func TestAnAppendWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mirrored(t, "orders", 2)
	var appends atomic.Int64
	n := w.node("a", func(c *Config) {
		c.at = func(p point) error {
			if p == afterAppend && appends.Add(1)%3 == 1 {
				return kafka.ErrUnanswered
			}
			return nil
		}
	})
	n.Assign(w.whole(1, 2, "orders"))
	for i := range 20 {
		for p := range int32(2) {
			w.west.produce(t, "orders", p, 10*i, 10*i+10)
		}
	}
	eventually(t, "caught up", func() bool { return n.reached(2, func(int32) int64 { return 200 }) })
	for p := range int32(2) {
		w.same(t, "orders", p)
		w.told(t, "orders", p, nil)
	}
	if n.Metrics().Recovered.Load() == 0 {
		t.Error("nothing was found in the mirrors that the ledger did not know: no answer was lost")
	}
}

// TestALateWriterOfAMirrorWritesNothing holds an owner before an append until another
// one has taken over.
func TestALateWriterOfAMirrorWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mirrored(t, "orders", 1)
	g := newGate(beforeAppend)
	g.armed.Store(true)
	a := w.node("a", func(c *Config) { c.at = g.pass })
	w.west.produce(t, "orders", 0, 0, 50)
	a.Assign(w.whole(1, 1, "orders"))
	<-g.reached
	b := w.node("b", nil)
	b.Assign(w.whole(2, 1, "orders"))
	eventually(t, "b has caught up", func() bool { return b.caughtUp(1) })
	close(g.open)
	eventually(t, "a has stopped", func() bool {
		s := a.only()
		return s.State == Failed && strings.Contains(s.Reason, errLateWriter.Error()) && s.Fix != ""
	})
	w.west.produce(t, "orders", 0, 50, 80)
	eventually(t, "b has caught up again", func() bool { return b.caughtUp(1) && b.only().Position == 80 })
	w.same(t, "orders", 0)
	w.told(t, "orders", 0, nil)
}

// TestANodeDiesBetweenAppendAndHop: its successor finds in the mirror what the ledger
// was never told.
func TestANodeDiesBetweenAppendAndHop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := w.fakeSource(t, "orders")
	src.write(3, 0, 4, "a", 0, 1, 2, 3, 4)
	told := w.node("a", born)
	told.Assign(w.whole(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return told.caughtUp(1) })
	w.told(t, "orders", 0, nil)
	told.stop()
	src.write(3, 7, 9, "a", 7, 9)
	dying := w.node("b", func(c *Config) {
		born(c)
		c.at = func(p point) error {
			if p == beforeHop {
				return errTest
			}
			return nil
		}
	})
	dying.Assign(w.whole(2, 1, "orders"))
	eventually(t, "appended", func() bool { return w.east.log(t, "orders", 0).end == 10 })
	dying.stop()
	src.write(4, 10, 10, "a", 10)
	n := w.node("c", born)
	n.Assign(w.whole(3, 1, "orders"))
	eventually(t, "caught up again", func() bool { return n.caughtUp(1) && n.only().Position == 11 })
	w.same(t, "orders", 0)
	w.told(t, "orders", 0, map[ledger.Reason]int64{ledger.Compacted: 2})
}

// early is a ledger that was read when it told less.
type early struct {
	*world
	next int64
}

func (e early) Position(ctx context.Context, destination string, id ledger.CopyID) (Position, error) {
	p, err := e.world.Position(ctx, destination, id)
	p.Next = min(p.Next, e.next)
	return p, err
}

// TestALatePageOfAMirrorsLedger: the last page of an owner that was killed, or slept,
// gets into the ledger when its successor has read that and has not begun yet.
func TestALatePageOfAMirrorsLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mirrored(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 80)
	late := w.node("a", nil)
	late.Assign(w.whole(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return late.caughtUp(1) && late.only().Position == 80 })
	w.told(t, "orders", 0, nil)
	late.stop()
	n := w.node("b", func(c *Config) { c.Positions = early{w, 50} })
	n.Assign(w.whole(2, 1, "orders"))
	eventually(t, "caught up again", func() bool { return n.caughtUp(1) })
	w.west.produce(t, "orders", 0, 80, 90)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Position == 90 })
	w.same(t, "orders", 0)
	w.told(t, "orders", 0, nil)
}

// TestAMirrorOverRestarts restarts both brokers while data flows.
func TestAMirrorOverRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bundledOnly("west", "east")
	const partitions = 2
	w.mirrored(t, "orders", partitions)
	n := w.node("a", nil)
	n.Assign(w.whole(1, partitions, "orders"))
	sent := 0
	produce := func() {
		for p := range int32(partitions) {
			w.west.produce(t, "orders", p, sent, sent+200)
		}
		sent += 200
	}
	produce()
	for _, name := range []string{"east", "west", "east"} {
		produce()
		w.restart(name)
		produce()
	}
	eventually(t, "caught up", func() bool { return n.reached(partitions, func(int32) int64 { return int64(sent) }) })
	for p := range int32(partitions) {
		w.same(t, "orders", p)
		w.told(t, "orders", p, nil)
		w.east.expect(t, "orders", p, sent)
	}
}

// alter changes the state of a mirror topic of the east.
func (w *world) alter(t *testing.T, topic string, op mirrorwire.Op) {
	t.Helper()
	conn, err := kafka.Dial(t.Context(), w.east.Cluster, w.east.Spec.BootstrapServers[0], "test")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := conn.Request(t.Context(), &mirrorwire.AlterRequest{Topics: []mirrorwire.AlterRequestTopic{{Topic: topic, Op: op}}}, mirrorwire.MaxVersion)
	if err == nil {
		err = kerr.ErrorForCode(resp.(*mirrorwire.AlterResponse).Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestAMirrorIsPausedAndPromoted: the copy waits while its topic is paused, and ends
// when it is promoted.
func TestAMirrorIsPausedAndPromoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mirrored(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 20)
	n := w.node("a", nil)
	n.Assign(w.whole(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	w.alter(t, "orders", mirrorwire.Pause)
	w.west.produce(t, "orders", 0, 20, 30)
	eventually(t, "it is paused, too", func() bool {
		s := n.only()
		return s.State == Paused && strings.Contains(s.Reason, errMirrorPaused.Error()) && s.Fix != ""
	})
	w.alter(t, "orders", mirrorwire.Resume)
	eventually(t, "caught up again", func() bool { return n.caughtUp(1) && n.only().Position == 30 })
	w.same(t, "orders", 0)
	w.alter(t, "orders", mirrorwire.Promote)
	w.west.produce(t, "orders", 0, 30, 40)
	eventually(t, "it has ended", func() bool {
		s := n.only()
		return strings.Contains(s.Reason, errPromoted.Error()) && s.Fix != "" && s.Position == 30
	})
	w.east.produce(t, "orders", 0, 30, 35)
	w.east.expect(t, "orders", 0, 35)
}

// TestACopyThatPreservesBeginsLater: from the latest offset, and from a time that
// lies within a batch.
func TestACopyThatPreservesBeginsLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := w.fakeSource(t, "orders")
	src.write(1, 0, 4, "a", 0, 1, 2, 3, 4)
	src.write(1, 5, 9, "a", 5, 6, 7, 8, 9)
	n := w.node("a", born)
	latest := w.whole(1, 1, "orders")
	latest[0].Spec.Spec.Start = flow.StartLatest
	n.Assign(latest)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	src.write(1, 10, 12, "a", 10, 11, 12)
	eventually(t, "caught up again", func() bool { return n.caughtUp(1) && n.only().Position == 13 })
	if l := w.east.log(t, "orders", 0); l.start != 10 || l.end != 13 {
		t.Errorf("the mirror has %d to %d, want 10 to 13", l.start, l.end)
	}
	w.told(t, "orders", 0, map[ledger.Reason]int64{ledger.NotAsked: 10})

	w2 := newWorld(t)
	src = w2.fakeSource(t, "orders")
	src.write(1, 0, 4, "a", 0, 1, 2, 3, 4)
	src.write(1, 5, 9, "a", 5, 6, 7, 8, 9)
	n = w2.node("a", born)
	within := w2.whole(1, 1, "orders")
	within[0].Spec.Spec.Start = flow.StartAt(time.UnixMilli(1007))
	n.Assign(within)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	if l := w2.east.log(t, "orders", 0); l.start != 5 || l.end != 10 {
		t.Errorf("the mirror has %d to %d, want 5 to 10", l.start, l.end)
	}
	w2.told(t, "orders", 0, map[ledger.Reason]int64{ledger.NotAsked: 5})
}
