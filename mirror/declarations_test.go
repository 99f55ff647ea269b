package mirror

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/test/address"
)

// move starts the broker of a site again, on the same store and at another
// address, and declares it there.
func (w *world) move(s *site, name string) {
	w.t.Helper()
	h := w.hosts[name]
	h.cfg.Listeners[0].Addr = address.Reserve(w.t)
	h.start(w)
	s.Cluster = &flow.Cluster{Metadata: flow.Metadata{Name: name}, Spec: flow.ClusterSpec{BootstrapServers: []string{h.cfg.Listeners[0].Addr}}}
	s.client = w.client(s.Cluster)
	s.admin = kadm.NewClient(s.client)
	reader, err := tail.New(tail.Config{
		Dial:  func(opts ...kgo.Opt) (*kgo.Client, error) { return kafka.NewClient(s.Cluster, "test", opts...) },
		Sinks: []tail.Sink{w.maps}, Log: slog.New(slog.DiscardHandler), Refresh: 500 * time.Millisecond,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.maps.Attach(name, reader)
	w.background(reader.Run)
}

// A limit holds a flow back, and changes without stopping its copies.
func TestANewLimitStopsNoCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	n := w.node("a", nil)
	limited := func(limit flow.Size) []Assignment {
		all := w.copies(1, 1, "orders")
		all[0].Spec.Spec.Limits.BytesPerSecond = limit
		return all
	}
	n.Assign(limited(flow.MinBytesPerSecond))
	value := make([]byte, 10_000)
	for range 200 { // two megabytes: half a minute at this limit
		w.west.client.Produce(t.Context(), &kgo.Record{Topic: "orders", Value: value}, nil)
	}
	if err := w.west.client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "something is copied", func() bool { return n.Metrics().Records.Load() > 0 })
	// What the copy knows of the source's end may be of before the last records.
	if n.Metrics().Records.Load() >= 200 {
		t.Fatal("two megabytes were copied at once, at 64 KiB a second")
	}
	lanes := n.Metrics().LaneOpens.Load()
	n.Assign(limited(1 << 30))
	eventually(t, "caught up at the new limit", func() bool { return n.caughtUp(1) })
	if now := n.Metrics().LaneOpens.Load(); now != lanes {
		t.Errorf("%d lanes were opened, %d before: the flow was started again", now, lanes)
	}
}

// TestADestinationThatMovesInATransaction takes the destination away at each step
// of a transaction and declares it elsewhere: the lane that cannot settle what
// it has begun must not keep the copies, nor may anything be lost or doubled.
func TestADestinationThatMovesInATransaction(t *testing.T) {
	for _, at := range []point{beforeAdd, afterAdd, afterData, afterHops, afterEndSent} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.bundledOnly("east")
			const partitions = 2
			w.create(t, "orders", partitions)
			var armed atomic.Bool
			var once sync.Once
			gone := make(chan struct{})
			n := w.node("a", func(c *Config) {
				c.StopTimeout = 300 * time.Millisecond
				c.at = func(p point) error {
					if p != at || !armed.Load() {
						return nil
					}
					once.Do(func() { w.hosts["east"].stop(); close(gone) })
					return errTest
				}
			})
			n.Assign(w.copies(1, partitions, "orders"))
			produce := func(from, next int) {
				for p := range int32(partitions) {
					w.west.produce(t, "orders", p, from, next)
				}
			}
			produce(0, 100)
			eventually(t, "caught up", func() bool { return n.caughtUp(partitions) })
			armed.Store(true)
			produce(100, 200)
			<-gone
			armed.Store(false)
			w.move(w.east, "east")
			n.Assign(w.copies(1, partitions, "orders"))
			produce(200, 300)
			eventually(t, "caught up at the new address", func() bool { return n.caughtUp(partitions) })
			for p := range int32(partitions) {
				w.east.expect(t, "orders", p, 300)
			}
		})
	}
}

// TestAnAddressOfAnotherCluster has east's address answer for west.
func TestAnAddressOfAnotherCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, err := kafka.ClusterID(t.Context(), w.west.client)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{cluster: w.west.Cluster, client: w.west.client, id: id}
	if err := p.refresh(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	before := p.view()
	p.client = w.east.client
	if err := p.refresh(t.Context(), nil); !errors.Is(err, kafka.ErrWrongCluster) || p.view() != before {
		t.Errorf("got %v, want %v and the view as it was", err, kafka.ErrWrongCluster)
	}
}

// What a flow picks, and what becomes of topics, can change while its copies run.
func TestANewSelectionStopsNoCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, topic := range []string{"orders", "more"} {
		w.create(t, topic, 1)
	}
	n := w.node("a", nil)
	n.Assign(w.copies(1, 1, "orders"))
	w.west.produce(t, "orders", 0, 0, 10)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Position == 10 })
	before := w.begins(t)
	both := w.copies(1, 1, "orders", "more")
	both[0].Spec.Spec.Topics = flow.TopicSelector{Selector: flow.Selector{Include: []string{"orders", "more"}}, Paused: []string{"x"}}
	both[0].Spec.Spec.Policies.OnRecreate = flow.RecreateNewGeneration
	n.Assign(both)
	w.west.produce(t, "more", 0, 0, 10)
	w.west.produce(t, "orders", 0, 10, 20)
	eventually(t, "both caught up", func() bool { return n.caughtUp(2) })
	if after := w.begins(t); after["orders"] != before["orders"] {
		t.Errorf("the copy of orders has begun %d times, %d before", after["orders"], before["orders"])
	}
}

// Partitions that are added at the source are copied from their first offset
// (uReplicator 0b8614d began them elsewhere), and the copy that runs does not notice.
func TestNewPartitionsDisturbNoCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.west.create(t, "orders", 1)
	r := w.discover(flow.FlowSpec{Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}}})
	eventually(t, "orders has a counterpart", r.made("orders"))
	n := w.node("a", nil)
	n.Assign(w.copies(1, 1, "orders"))
	w.west.produce(t, "orders", 0, 0, 10)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	aborts := n.Metrics().Aborts.Load()

	if _, err := w.west.admin.UpdatePartitions(t.Context(), 4, "orders"); err != nil {
		t.Fatal(err)
	}
	grown := &site{Cluster: w.west.Cluster, client: w.client(w.west.Cluster)}
	for p := range int32(4) {
		from := 0
		if p == 0 {
			from = 10
		}
		grown.produce(t, "orders", p, from, 20) // before anybody has seen the partition
	}
	eventually(t, "they are seen", func() bool { o, _ := r.topic("orders"); return o.Partitions == 4 && o.State == Running })
	n.Assign(w.copies(1, 4, "orders"))
	eventually(t, "all caught up", func() bool { return n.caughtUp(4) })
	for p := range int32(4) {
		w.east.expect(t, "orders", p, 20)
	}
	if got := w.begins(t)["orders"]; got != 4 {
		t.Errorf("copies have begun %d times, want once for each of 4 partitions", got)
	}
	if got := n.Metrics().Aborts.Load(); got != aborts {
		t.Errorf("%d transactions were given up", got-aborts)
	}
}

// A flow may say how many transactions it has under way at once.
func TestAFlowHasTheLanesThatItDeclares(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 4)
	n := w.node("a", func(c *Config) { c.CopiesPerLane = 1 })
	for _, lanes := range []int{1, 3} {
		before := n.Metrics().LaneOpens.Load()
		list := w.copies(uint64(lanes), 4, "orders")
		list[0].Spec.Spec.Limits.Lanes = lanes
		n.Assign(list)
		eventually(t, "all lanes are open", func() bool { return n.caughtUp(4) && n.Metrics().LaneOpens.Load()-before >= int64(lanes) })
		if got := n.Metrics().LaneOpens.Load() - before; got != int64(lanes) {
			t.Errorf("%d lanes were opened, %d are declared", got, lanes)
		}
	}
}

func TestAFlowCommitsAsOftenAsItDeclares(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Log = slog.New(slog.DiscardHandler)
	for declared, want := range map[time.Duration][2]time.Duration{
		0:                    {20 * time.Millisecond, 500 * time.Millisecond},
		5 * time.Millisecond: {5 * time.Millisecond, 500 * time.Millisecond},
		10 * time.Second:     {10 * time.Second, 10 * time.Second},
	} {
		a := Assignment{Spec: &flow.ReplicationFlow{Spec: flow.FlowSpec{Limits: flow.FlowLimits{CommitInterval: flow.Duration(declared)}}}}
		f := newFlowRun(cfg, a, nil, nil, nil, nil)
		if got := [2]time.Duration{f.cfg.CommitInterval, f.cfg.MaxCommitInterval}; got != want {
			t.Errorf("%v declared: commits each %v, want %v", declared, got, want)
		}
	}
}
