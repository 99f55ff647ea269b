package mirror

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/internal/mirrorwire"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/offsets"
)

// TestActiveActiveUnderOneName has both sites write the same topic while it is copied
// both ways, with a restart in the middle. Nothing comes back, and positions
// translate as they should.
//
// KAFKA-13397: whether a topic is a copy was decided by its name.
func TestActiveActiveUnderOneName(t *testing.T) {
	const n = 1500
	w := newWorld(t)
	create(t, "orders", w.west, w.east)
	both := w.stranger("one", w.west, w.east)
	flows := [][]Assignment{carry(w.west, w.east, "", "orders"), carry(w.east, w.west, "", "orders")}
	both.run(1, flows...)
	var writers sync.WaitGroup
	half := make(chan struct{}, 2)
	for _, s := range []*site{w.west, w.east} {
		writers.Go(func() {
			s.write(t, "orders", 0, n/2)
			half <- struct{}{}
			s.write(t, "orders", n/2, n)
		})
	}
	<-half
	last := both.run(2, flows...) // with transactions under way
	writers.Wait()
	atRest(t, last)
	for _, s := range []*site{w.west, w.east} {
		s.expectFrom(t, "orders", n, w.west, w.east)
	}
	for p := range int32(2) {
		w.checkTranslations(both.maps, w.west, w.east, p, n)
		w.checkTranslations(both.maps, w.east, w.west, p, n)
	}
}

// checkTranslations holds the translation of every position of one site against what
// a reader of both logs would say: the lowest offset with an unread record.
func (w *world) checkTranslations(maps *offsets.Maps, from, to *site, partition int32, n int) {
	w.t.Helper()
	here, there := from.read(w.t, "orders", partition, n), to.read(w.t, "orders", partition, n)
	offsetHere := map[string]int64{}
	for _, r := range here {
		offsetHere[string(r.Value)] = r.Offset
	}
	for x := int64(0); x <= here[len(here)-1].Offset+1; x += 7 {
		answers := maps.Translate(offsets.Where{Cluster: from.Metadata.Name, Topic: "orders", Partition: partition, Offset: x}, to.Metadata.Name, nil)
		if len(answers) != 1 {
			w.t.Fatalf("%d answers", len(answers))
		}
		i := slices.IndexFunc(there, func(r *kgo.Record) bool { return offsetHere[string(r.Value)] >= x })
		got := answers[0].Result
		if i < 0 {
			if got.Offset <= there[len(there)-1].Offset {
				w.t.Fatalf("position %d of %s/%d: got %+v, all is read", x, from.Metadata.Name, partition, got)
			}
			continue
		}
		// What lies between are markers and what was read.
		if first := slices.IndexFunc(there, func(r *kgo.Record) bool { return r.Offset >= got.Offset }); got.Offset > there[i].Offset || first != i {
			w.t.Fatalf("position %d of %s/%d: got %+v, want %d: the first that is unread is record %d, the first from there on %d", x, from.Metadata.Name, partition, got, there[i].Offset, i, first)
		}
		reread := int64(0)
		for _, r := range there[i:] {
			if offsetHere[string(r.Value)] < x {
				reread++
			}
		}
		if got.Reread != reread {
			w.t.Fatalf("position %d of %s/%d: %d records are read again, got %+v", x, from.Metadata.Name, partition, reread, got)
		}
	}
}

// TestRingOfThree copies a topic round three clusters by three fleets, of which none
// knows of the others, nor of the third cluster.
func TestRingOfThree(t *testing.T) {
	const n = 300
	w := newWorld(t)
	south := w.site("south")
	sites := []*site{w.west, w.east, south}
	create(t, "orders", sites...)
	var nodes []*node
	for i, from := range sites {
		to := sites[(i+1)%3]
		nodes = append(nodes, w.stranger("to-"+to.Metadata.Name, from, to).run(1, carry(from, to, flow.OriginAny, "orders")))
	}
	var writers sync.WaitGroup
	for _, s := range sites {
		writers.Go(func() { s.write(t, "orders", 0, n) })
	}
	writers.Wait()
	for _, s := range sites {
		eventually(t, "everything has come round", func() bool { return s.holds(t, "orders", 3*n) })
	}
	atRest(t, nodes...)
	for _, s := range sites {
		s.expectFrom(t, "orders", n, sites...)
	}
}

// TestMeshOfThree has every cluster send to both others what was born there.
func TestMeshOfThree(t *testing.T) {
	const n = 300
	w := newWorld(t)
	south := w.site("south")
	readInto(w, w.maps, south)
	sites := []*site{w.west, w.east, south}
	create(t, "orders", sites...)
	mesh := w.stranger("mesh", sites...)
	var flows [][]Assignment
	for _, from := range sites {
		for _, to := range sites {
			if from != to {
				flows = append(flows, carry(from, to, flow.OriginLocal, "orders"))
			}
		}
	}
	node := mesh.run(1, flows...)
	var writers sync.WaitGroup
	for _, s := range sites {
		writers.Go(func() { s.write(t, "orders", 0, n) })
	}
	writers.Wait()
	atRest(t, node)
	for _, s := range sites {
		s.expectFrom(t, "orders", n, sites...)
	}
	eventually(t, "the maps have gaps of what has returned, and of what is not local", func() bool {
		reasons := map[string]bool{}
		for _, m := range mesh.maps.Copies() {
			for _, g := range m.Gaps(0, m.Next(), 1000) {
				reasons[g.Reason] = true
			}
		}
		return reasons[ledger.Returned.String()] && reasons[ledger.NotLocal.String()]
	})
}

// hidden hides the hops of a ledger, as if its reader were behind.
type hidden struct {
	Origins
	show  atomic.Bool
	reads atomic.Int64
	err   atomic.Pointer[error]
}

func (h *hidden) Origin(at ledger.End, offset int64) (ledger.Origin, bool) {
	if !h.show.Load() {
		return ledger.Origin{}, false
	}
	return h.Origins.Origin(at, offset)
}

func (h *hidden) ReadLedger(ctx context.Context, cluster string) (bool, error) {
	h.reads.Add(1)
	if err := h.err.Load(); err != nil {
		return false, *err
	}
	return h.Origins.ReadLedger(ctx, cluster)
}

// waits waits until every copy of a node says that it waits because of something.
func (n *node) waits(t testing.TB, because string) {
	t.Helper()
	eventually(t, "copies wait: "+because, func() bool {
		all := n.Status()
		return len(all) > 0 && !slices.ContainsFunc(all, func(s CopyStatus) bool {
			return s.State != Waiting || !strings.Contains(s.Reason, because) || s.Fix == ""
		})
	})
}

// TestACopyWaitsForTheHop has copies of the other direction at the source whose hops
// are not visible yet: nothing is taken for local.
func TestACopyWaitsForTheHop(t *testing.T) {
	w := newWorld(t)
	create(t, "orders", w.west, w.east)
	w.west.write(t, "orders", 0, 100)
	there := w.stranger("there", w.west, w.east)
	atRest(t, there.run(1, carry(w.west, w.east, "", "orders")))

	h := &hidden{Origins: w.maps}
	back := w.node("back", func(c *Config) { c.Origins = h })
	back.Assign(carry(w.east, w.west, "", "orders"))
	back.waits(t, "is a replicator's")
	w.east.write(t, "orders", 0, 100) // behind what waits
	if got := w.west.stable(t, "orders"); got != 100 {
		t.Fatalf("west has %d offsets: something came back", got)
	}
	h.show.Store(true)
	atRest(t, back, there.last)
	for _, s := range []*site{w.west, w.east} {
		s.expectFrom(t, "orders", 100, w.west, w.east)
	}
}

// TestALedgerThatCannotBeReadHoldsCopies has a new producer at a source whose ledger
// nobody can read: it may be a replicator.
func TestALedgerThatCannotBeReadHoldsCopies(t *testing.T) {
	w := newWorld(t)
	create(t, "orders", w.west, w.east)
	h := &hidden{Origins: w.maps}
	lost := error(tail.ErrRecreated)
	h.err.Store(&lost)
	n := w.node("n", func(c *Config) { c.Origins = h })
	n.Assign(carry(w.west, w.east, "", "orders"))
	w.west.write(t, "orders", 0, 100)
	n.waits(t, "where records are from is not known: ledger of cluster west: the ledger is another topic than before")
	if got := w.east.stable(t, "orders"); got != 0 {
		t.Fatalf("east has %d offsets", got)
	}
	denied := error(kerr.TopicAuthorizationFailed)
	h.err.Store(&denied)
	eventually(t, "the right that is missing is named", func() bool {
		return !slices.ContainsFunc(n.Status(), func(s CopyStatus) bool {
			return s.State != Failed || !strings.Contains(s.Fix, "DESCRIBE on the topic "+ledger.Topic+" of the source")
		})
	})
	h.err.Store(nil)
	atRest(t, n)
	w.east.expectFrom(t, "orders", 100, w.west)

	// The producer is known now: it costs no more readings.
	before := h.reads.Load()
	w.west.write(t, "orders", 100, 200)
	atRest(t, n)
	if got := h.reads.Load(); got != before {
		t.Errorf("the ledger was read %d more times for a producer that is known", got-before)
	}
}

// TestALedgerThatIsMadeMeanwhileIsSeen asks a cluster without a ledger, and again
// when it has one.
func TestALedgerThatIsMadeMeanwhileIsSeen(t *testing.T) {
	w := newWorld(t)
	p := &peer{cluster: w.west.Cluster, client: w.west.client, id: w.west.id, poke: func() {}}
	if err := p.refresh(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := p.readLedger(t.Context(), noLedgers{}); err != nil {
		t.Errorf("none: got %v", err)
	}
	w.west.create(t, ledger.Topic, 1)
	if err := p.readLedger(t.Context(), noLedgers{}); !errors.Is(err, errOrigin) {
		t.Errorf("a ledger that is there was not seen: %v", err)
	}
}

// noLedgers have not seen any ledger.
type noLedgers struct{ Origins }

func (noLedgers) ReadLedger(context.Context, string) (bool, error) { return false, nil }

// produceAs writes one batch of records under a producer id of the test's choice.
func (s *site) produceAs(t testing.TB, producerID int64, topic string, partition int32, values ...string) {
	t.Helper()
	var records []record.Record
	for i, v := range values {
		records = append(records, record.Record{Offset: int64(i), Timestamp: time.Now().UnixMilli(), Value: []byte(v)})
	}
	b, err := record.Encode(records, record.Stamp{ProducerID: producerID})
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 5000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, s.topicID(t, topic)
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, b
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), s.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestEqualProducerIDs gives producers of west the ids that lanes have at both sites:
// what they write was born there all the same.
func TestEqualProducerIDs(t *testing.T) {
	w := newWorld(t)
	create(t, "orders", w.west, w.east)
	create(t, "other", w.west, w.east)
	both := w.stranger("one", w.west, w.east)
	flows := [][]Assignment{carry(w.west, w.east, "", "orders"), carry(w.east, w.west, "", "orders")}
	both.run(1, flows...)
	w.west.produce(t, "orders", 0, 0, 20)
	w.east.produce(t, "orders", 0, 0, 20)
	atRest(t, both.last)
	writers := map[string]int64{} // by cluster
	for _, l := range both.fleet.lanes {
		if known, plain := both.maps.Replicator(l.ClusterID, l.ProducerID); known && !plain {
			writers[l.ClusterID] = l.ProducerID
		}
	}
	if len(writers) != 2 {
		t.Fatalf("lanes are %v", writers)
	}
	// No lane writes to partition 1, so their sequences are not disturbed.
	w.west.produceAs(t, writers[w.west.id], "orders", 1, "0", "1")
	w.west.produceAs(t, writers[w.east.id], "orders", 1, "2", "3")
	atRest(t, both.last)
	w.east.expect(t, "orders", 1, 4)
	w.west.expect(t, "orders", 1, 4)
	if got := len(w.west.read(t, "orders", 0, 40)) + len(w.east.read(t, "orders", 0, 40)); got != 80 {
		t.Errorf("%d records in partition 0 of both, want 40 each", got)
	}
}

// TestRestoreAfterALoss copies everything back into a topic that was lost and made
// anew: the life that the records have passed is another one.
func TestRestoreAfterALoss(t *testing.T) {
	w := newWorld(t)
	create(t, "orders", w.west, w.east)
	w.west.write(t, "orders", 0, 100)
	atRest(t, w.stranger("there", w.west, w.east).run(1, carry(w.west, w.east, "", "orders")))
	if _, err := w.west.admin.DeleteTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "west's topic is made anew", func() bool {
		r, err := w.west.admin.CreateTopic(t.Context(), 2, 1, nil, "orders")
		return err == nil && r.Err == nil
	})
	back := w.stranger("back", w.west, w.east).run(1, carry(w.east, w.west, "", "orders"))
	atRest(t, back)
	w.west.expectFrom(t, "orders", 100, w.west)
}

// mirrored makes a mirror topic at a site that holds what another one's topic has, and
// returns its id.
func (s *site) mirrored(t *testing.T, topic string, of *site) (id ledger.TopicID, copied ledger.CopyID) {
	t.Helper()
	source := of.topicID(t, topic)
	s.create(t, topic, 1, "mirror.source", of.id+"/"+source.String())
	id = s.topicID(t, topic)
	conn := s.dial(t)
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.ReplicaID = 1000, 1, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic, source
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = 1<<20, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	fetched, err := of.dial(t).Request(t.Context(), req, fetchByID)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := conn.Request(t.Context(), &mirrorwire.AppendRequest{TimeoutMillis: 5000, Topics: []mirrorwire.AppendRequestTopic{{
		TopicID: id, Source: of.id + "/" + source.String(), Partitions: []mirrorwire.AppendRequestPartition{{
			WriterEpoch: 1, ExpectedEpoch: -1, TruncateTo: -1, Batches: fetched.(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches,
		}},
	}}}, mirrorwire.MaxVersion)
	if err != nil {
		t.Fatal(err)
	}
	if p := resp.(*mirrorwire.AppendResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 {
		t.Fatalf("append: %v %+v", kerr.ErrorForCode(p.ErrorCode), p)
	}
	return id, ledger.CopyID{Source: ledger.End{Cluster: of.id, TopicID: source}, Destination: ledger.End{Cluster: s.id, TopicID: id}}
}

func (s *site) topicID(t testing.TB, topic string) ledger.TopicID {
	t.Helper()
	topics, err := s.admin.ListTopics(t.Context(), topic)
	if err != nil || topics[topic].Err != nil {
		t.Fatalf("%v %v", err, topics[topic].Err)
	}
	return ledger.TopicID(topics[topic].ID)
}

func (s *site) dial(t testing.TB) *kafka.Conn {
	t.Helper()
	conn, err := kafka.Dial(t.Context(), s.Cluster, s.Spec.BootstrapServers[0], "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// say writes entries to a site's ledger.
func (s *site) say(t testing.TB, entries ...ledger.Entry) {
	t.Helper()
	r := &kgo.Record{Topic: ledger.Topic, Value: ledger.NewChain(ledger.WriterID(uuid.New())).Encode(entries)}
	s.put(t, r)
}

// TestMirrorTopicsAreByTheirHops has a mirror topic at east, with west's producer ids
// in it, copied back to west and on to south; then it is promoted and written to.
func TestMirrorTopicsAreByTheirHops(t *testing.T) {
	w := newWorld(t)
	if _, ok := w.hosts["east"]; !ok {
		t.Skip("the clusters have no mirror topics")
	}
	south := w.site("south")
	readInto(w, w.maps, south)
	w.west.create(t, "orders", 1)
	south.create(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 50)
	w.west.produceAs(t, -1, "orders", 0, "50", "51") // without a producer id
	_, copied := w.east.mirrored(t, "orders", w.west)
	w.east.create(t, ledger.Topic, 1)

	n := w.node("n", nil)
	back, on := carry(w.east, w.west, "", "orders")[:1], carry(w.east, south, "", "orders")[:1]
	local := carry(w.east, south, flow.OriginLocal, "orders")[:1]
	south.create(t, "born-in-east", 1)
	local[0].Flow, local[0].DestinationTopic = "local", "born-in-east"
	n.Assign(slices.Concat(back, on, local))
	state := func(flow string) CopyStatus {
		all := n.Status()
		return all[slices.IndexFunc(all, func(s CopyStatus) bool { return s.Flow == flow })]
	}
	// Without a hop it is known what is west's, and nothing else.
	eventually(t, "the way on waits for the hop", func() bool {
		s := state("east-south")
		return s.State == Waiting && strings.Contains(s.Reason, "came with the mirror of")
	})
	eventually(t, "the way back is done", func() bool { return state("east-west").Position == 52 })
	w.east.say(t,
		&ledger.Begin{Copy: copied, Epoch: 1, Fleet: "other", At: time.Now()},
		&ledger.Hop{Copy: copied.Key(), Epoch: 1, Next: 52, At: time.Now(), Runs: []ledger.Run{{Count: 52, Path: ledger.Raw}}})
	eventually(t, "the way on is done", func() bool { return state("east-south").Position == 52 })

	resp, err := w.east.dial(t).Request(t.Context(), &mirrorwire.AlterRequest{Topics: []mirrorwire.AlterRequestTopic{{Topic: "orders", Op: mirrorwire.Promote}}}, mirrorwire.MaxVersion)
	if err != nil || resp.(*mirrorwire.AlterResponse).Topics[0].ErrorCode != 0 {
		t.Fatalf("promote: %v %+v", err, resp)
	}
	w.east.produce(t, "orders", 0, 52, 100)
	eventually(t, "all copies are at rest", func() bool { return n.caughtUp(3) })
	for _, s := range []*site{w.west, south} {
		s.expect(t, "orders", 0, 100)
	}
	if got := south.read(t, "born-in-east", 0, 48); len(got) != 48 || string(got[0].Value) != "52" {
		t.Errorf("%d records were born in east", len(got))
	}
}
