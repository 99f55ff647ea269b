package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/vfs"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/test/address"
)

// world is two bundled brokers, west and east, a reader of east's ledger, and a
// register of lanes as raft would keep it.
type world struct {
	t          testing.TB
	west, east *site
	maps       *offsets.Maps
	hosts      map[string]*host // those that are bundled
	fleet      *fleet
	configure  func(name string, cfg *broker.Config) // of bundled clusters; may be nil
	liars      map[string]*liar                      // who stands in front of them
	log        *slog.Logger
}

// bundledOnly skips tests that reach into a bundled broker.
func (w *world) bundledOnly(names ...string) {
	for _, n := range names {
		if w.hosts[n] == nil {
			w.t.Skip("needs a bundled broker as " + n)
		}
	}
}

// site is one cluster of the world.
type site struct {
	*flow.Cluster
	id     string // cluster.id
	client *kgo.Client
	admin  *kadm.Client
}

// Whoever looks at memory that was given back finds nonsense.
func init() {
	returned = func(b []byte) {
		for i := range b {
			b[i] = 0xdb
		}
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOf(t, nil)
}

// newWorldOf is newWorld with brokers that a test configures.
func newWorldOf(t testing.TB, configure func(name string, cfg *broker.Config)) *world {
	t.Helper()
	return newWorldBehind(t, configure, nil)
}

// newWorldBehind is newWorldOf with brokers whose clients come by liars.
func newWorldBehind(t testing.TB, configure func(name string, cfg *broker.Config), liars map[string]*liar) *world {
	t.Helper()
	level := slog.LevelError + 1
	if os.Getenv("MIRROR_LOG") != "" {
		level = slog.LevelDebug
	}
	w := &world{
		t: t, hosts: map[string]*host{}, maps: offsets.NewMaps(), fleet: &fleet{ended: map[uint64]bool{}, lanes: map[string]registered{}},
		configure: configure, liars: liars, log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	}
	w.west, w.east = w.site("west"), w.site("east")
	readInto(w, w.maps, w.west)
	readInto(w, w.maps, w.east)
	return w
}

// background runs f until the test ends, and waits for it then.
func (w *world) background(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrFenced) {
			w.t.Errorf("background: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	w.t.Cleanup(stop)
	return stop
}

// startCluster starts the cluster of a site. Built with the tag interop it may be
// an Apache Kafka.
var startCluster = (*world).bundled

func (w *world) site(name string) *site {
	w.t.Helper()
	s := &site{Cluster: startCluster(w, name)}
	s.Metadata.Name = name
	s.client = w.client(s.Cluster)
	s.admin = kadm.NewClient(s.client)
	var err error
	if s.id, err = kafka.Identify(w.t.Context(), s.Cluster, s.client); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) bundled(name string) *flow.Cluster {
	w.t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.Provenance, cfg.AutoCreateTopics = "data", false, false
	cfg.Listeners = []broker.Listener{{Name: "plain", Addr: address.Reserve(w.t), Protocol: broker.Plaintext}}
	if w.configure != nil {
		w.configure(name, &cfg)
	}
	mem := vfs.NewMem()
	cfg.FS = mem
	if _, bench := w.t.(*testing.B); bench {
		cfg.Dir, cfg.FS = w.t.TempDir(), nil // memory would be measured by its copying
	}
	h := &host{fs: mem, cfg: cfg}
	w.hosts[name] = h
	h.start(w)
	at := h.cfg.Listeners[0].Addr
	if p := w.liars[name]; p != nil {
		p.standBefore(at)
		at = p.address()
	}
	return &flow.Cluster{Spec: flow.ClusterSpec{BootstrapServers: []string{at}}}
}

// host is a bundled broker that can be stopped and started again.
type host struct {
	cfg  broker.Config
	fs   *vfs.Mem
	stop func()
}

func (h *host) start(w *world) {
	w.t.Helper()
	b, err := broker.New(h.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	h.stop = w.background(b.Run)
	<-b.Ready()
}

// restart stops the broker of a site and starts it again on the same store.
func (w *world) restart(name string) {
	w.t.Helper()
	w.hosts[name].stop()
	w.hosts[name].start(w)
}

func (w *world) client(c *flow.Cluster) *kgo.Client {
	w.t.Helper()
	cl, err := kafka.NewClient(c, "test", kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cl.Close)
	return cl
}

func (s *site) create(t testing.TB, topic string, partitions int32, configs ...string) {
	t.Helper()
	set := map[string]*string{}
	for i := 0; i < len(configs); i += 2 {
		set[configs[i]] = &configs[i+1]
	}
	if _, err := s.admin.CreateTopic(t.Context(), partitions, 1, set, topic); err != nil {
		t.Fatal(err)
	}
}

// create makes a topic on both sides.
func (w *world) create(t testing.TB, topic string, partitions int32, configs ...string) {
	t.Helper()
	w.west.create(t, topic, partitions, configs...)
	w.east.create(t, topic, partitions, configs...)
}

// deleteBefore has a site forget the records of partition 0 below an offset.
func deleteBefore(t testing.TB, s *site, topic string, offset int64) {
	t.Helper()
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: offset})
	resp, err := s.admin.DeleteRecords(t.Context(), offsets)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// produce writes records with values from to next-1 to a partition, in order.
func (s *site) produce(t testing.TB, topic string, partition int32, from, next int) {
	t.Helper()
	for i := from; i < next; i++ {
		r := &kgo.Record{
			Topic: topic, Partition: partition, Key: fmt.Appendf(nil, "k%d", i%7), Value: fmt.Appendf(nil, "%d", i),
			Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Appendf(nil, "%d", i)}},
		}
		s.client.Produce(t.Context(), r, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("produce: %v", err)
			}
		})
	}
	if err := s.client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// put writes records as they are.
func (s *site) put(t testing.TB, records ...*kgo.Record) {
	t.Helper()
	if err := s.client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// transact produces values in a transaction, which it ends or leaves open.
func (w *world) transact(t testing.TB, id string, end *bool, values ...string) {
	t.Helper()
	cl, err := kafka.NewClient(w.west.Cluster, id, kgo.TransactionalID(id), kgo.DefaultProduceTopic("orders"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if err := cl.ProduceSync(t.Context(), kgo.StringRecord(v)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if end != nil {
		if err := cl.EndTransaction(t.Context(), kgo.TransactionEndTry(*end)); err != nil {
			t.Fatal(err)
		}
	}
}

// read returns n records of a topic's partition, read_committed from its start.
func (s *site) read(t testing.TB, topic string, partition int32, n int) []*kgo.Record {
	t.Helper()
	cl, err := kafka.NewClient(s.Cluster, "reader",
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out []*kgo.Record
	for len(out) < n && ctx.Err() == nil {
		out = append(out, cl.PollFetches(ctx).Records()...)
	}
	return out
}

// expect reads a partition and checks that it holds exactly the values from 0 on.
func (s *site) expect(t testing.TB, topic string, partition int32, n int) {
	t.Helper()
	s.expectRange(t, topic, partition, 0, n)
}

// expectRange is expect for the values from to next-1.
func (s *site) expectRange(t testing.TB, topic string, partition int32, from, next int) {
	t.Helper()
	got := s.read(t, topic, partition, next-from)
	for i, r := range got {
		if want := fmt.Sprint(from + i); string(r.Value) != want {
			t.Fatalf("%s/%d: record %d (offset %d) has value %s, want %s: lost, doubled or out of order", topic, partition, i, r.Offset, r.Value, want)
		}
	}
	if len(got) != next-from {
		t.Fatalf("%s/%d: %d records, want %d", topic, partition, len(got), next-from)
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// Position makes the offsets' maps answer as the ledger of the mirror.
func (w *world) Position(ctx context.Context, destination string, id ledger.CopyID) (Position, error) {
	return w.PositionBefore(ctx, destination, id, math.MaxInt64, math.MaxInt64)
}

func (w *world) PositionBefore(ctx context.Context, destination string, id ledger.CopyID, source, at int64) (Position, error) {
	p, err := w.maps.PositionBefore(ctx, destination, id, source, at)
	return positionOf(p), err
}

func positionOf(p offsets.Position) Position {
	out := Position{p.Exists, p.Epoch, p.Fleet, p.Next, p.Destination, p.SourceLeaderEpoch, p.DestinationLeaderEpoch, p.Plain, nil}
	for _, e := range p.Epochs {
		out.Epochs = append(out.Epochs, SourceEpoch(e))
	}
	return out
}

// fleet is what raft knows: incarnations and lanes.
type fleet struct {
	mu     sync.Mutex
	number uint64
	ended  map[uint64]bool
	lanes  map[string]registered
	forgot map[string]bool // by cluster.id
}

type registered struct {
	Lane
	incarnation uint64
}

func (f *fleet) begin() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.number++
	return f.number
}

func (f *fleet) end(incarnation uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended[incarnation] = true
}

// member is the fleet as one incarnation of a node sees it.
type member struct {
	*fleet
	incarnation uint64
}

func (m member) Register(_ context.Context, l Lane) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended[m.incarnation] {
		return fmt.Errorf("register: %w", ErrEnded)
	}
	m.lanes[l.TransactionalID] = registered{l, m.incarnation}
	return nil
}

func (m member) Ended(_ context.Context, clusterID string) ([]Lane, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Lane
	for _, l := range m.lanes {
		if m.ended[l.incarnation] && l.ClusterID == clusterID {
			out = append(out, l.Lane)
		}
	}
	return out, nil
}

func (m member) Fenced(_ context.Context, lanes []Lane) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range lanes {
		delete(m.lanes, l.TransactionalID)
	}
	return nil
}

// node is a Manager in the world.
type node struct {
	*Manager
	incarnation uint64
	stop        func()
	fenced      chan struct{}
	released    chan Assignment
}

func (w *world) node(name string, change func(*Config)) *node {
	w.t.Helper()
	n := &node{incarnation: w.fleet.begin(), fenced: make(chan struct{}), released: make(chan Assignment, 1000)}
	cfg := DefaultConfig()
	cfg.Fleet, cfg.Node, cfg.Incarnation = "test", name, n.incarnation
	cfg.Lanes, cfg.Positions, cfg.Origins = member{w.fleet, n.incarnation}, w, w.maps
	cfg.Log = w.log.With("node", name)
	cfg.Released = func(a Assignment) { n.released <- a }
	if change != nil {
		change(&cfg)
	}
	var err error
	if n.Manager, err = NewManager(cfg); err != nil {
		w.t.Fatal(err)
	}
	defer func() { w.t.Cleanup(func() { w.dumpIfFailed(n) }) }()
	n.stop = w.background(func(ctx context.Context) error {
		err := n.Run(ctx)
		if errors.Is(err, ErrFenced) {
			close(n.fenced)
		}
		return err
	})
	return n
}

// awaitFenced returns when a node knows that its incarnation is over.
func (n *node) awaitFenced(t testing.TB) {
	t.Helper()
	select {
	case <-n.fenced:
	case <-time.After(time.Minute):
		t.Fatal("not fenced")
	}
}

// heir ends the incarnation of a node and has another one take its copies over. It
// returns when that one has caught up.
func (w *world) heir(t testing.TB, old *node, list []Assignment) *node {
	t.Helper()
	w.fleet.end(old.incarnation)
	n := w.node("heir", nil)
	n.Assign(list)
	eventually(t, "the new owner has caught up", func() bool { return n.caughtUp(len(list)) })
	return n
}

// copies are assignments of all partitions of topics.
func (w *world) copies(epoch uint64, partitions int32, topics ...string) []Assignment {
	spec := &flow.ReplicationFlow{Metadata: flow.Metadata{Name: "west-east"}, Spec: flow.FlowSpec{Source: "west", Destination: "east", Start: flow.StartEarliest}}
	var out []Assignment
	for _, topic := range topics {
		for p := range partitions {
			out = append(out, Assignment{
				Flow: "west-east", Spec: spec, Source: w.west.Cluster, Destination: w.east.Cluster,
				SourceTopic: topic, DestinationTopic: topic, Partition: p, Epoch: epoch,
			})
		}
	}
	return out
}

// dumpIfFailed prints the state of everything when the test has failed.
func (w *world) dumpIfFailed(n *node) {
	if !w.t.Failed() {
		return
	}
	for _, s := range n.Status() {
		w.t.Logf("%+v", s)
	}
	ends, _ := w.east.admin.ListEndOffsets(context.Background(), "orders", ledger.Topic)
	stable, _ := w.east.admin.ListCommittedOffsets(context.Background(), "orders", ledger.Topic)
	w.t.Logf("ends %v\nstable %v", ends.Offsets(), stable.Offsets())
}

// only is the status of the one copy of a node.
func (n *node) only() CopyStatus {
	if all := n.Status(); len(all) == 1 {
		return all[0]
	}
	return CopyStatus{}
}

// caughtUp says that every copy runs and has nothing left to do that it knows of:
// what was written after it began it may not have heard of.
func (n *node) caughtUp(copies int) bool {
	all := n.Status()
	return len(all) == copies && !slices.ContainsFunc(all, func(s CopyStatus) bool {
		return s.State != Running || s.SourceEnd < 0 || s.Position != s.SourceEnd
	})
}

var errTest = errors.New("fault made by the test")

// entries is all that the ledger of a site says, in the order of each partition.
func (s *site) entries(t testing.TB) []ledger.Entry {
	t.Helper()
	ends, err := s.admin.ListCommittedOffsets(t.Context(), ledger.Topic)
	if err != nil {
		t.Fatal(err)
	}
	left := map[int32]int64{}
	from := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if from[o.Partition] = kgo.NewOffset().AtStart(); o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	cl, err := kafka.NewClient(s.Cluster, "reader", kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{ledger.Topic: from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out []ledger.Entry
	for len(left) > 0 && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if r.Attrs.IsControl() {
				return
			}
			page, err := ledger.Decode(r.Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, page.Entries...)
		})
	}
	if len(left) > 0 {
		t.Fatalf("the ledger was not read to its end: %v", left)
	}
	return out
}

// entriesIn is what the ledger of a site says, of one kind.
func entriesIn[E ledger.Entry](t testing.TB, s *site) (out []E) {
	t.Helper()
	for _, e := range s.entries(t) {
		if e, ok := e.(E); ok {
			out = append(out, e)
		}
	}
	return out
}

// begins counts how often the copies of each source topic have begun.
func (w *world) begins(t testing.TB) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, b := range entriesIn[*ledger.Begin](t, w.east) {
		n[b.SourceTopic]++
	}
	return n
}

// gapsAre checks what east's ledger declares of all copies as having none, and of
// how many offsets.
func (w *world) gapsAre(t testing.TB, want map[ledger.Reason]int64) {
	t.Helper()
	if err := w.maps.CatchUp(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	checkGaps(t, want, w.maps.Copies()...)
}

func checkGaps(t testing.TB, want map[ledger.Reason]int64, of ...*offsets.Map) {
	t.Helper()
	got, named := map[string]int64{}, map[string]int64{}
	for _, m := range of {
		for _, g := range m.Gaps(0, m.Next(), 1000) {
			got[g.Reason] += g.Count
		}
	}
	for r, n := range want {
		named[r.String()] = n
	}
	if !maps.Equal(got, named) {
		t.Errorf("the ledger declares gaps %v, want %v", got, named)
	}
}
