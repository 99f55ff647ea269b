package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

func (m member) Forgotten(_ context.Context, clusterID string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.forgot[clusterID], nil
}

func (m member) Recall(_ context.Context, clusterID string, lanes []FoundLane) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range lanes {
		if _, known := m.lanes[l.TransactionalID]; !known && l.Incarnation < epochJump {
			m.ended[l.Incarnation] = true
			m.lanes[l.TransactionalID] = registered{l.Lane, l.Incarnation}
		}
	}
	delete(m.forgot, clusterID)
	return nil
}

// epochJump is what lies between the epochs of a fleet and those of its restored one.
const epochJump = 1 << 32

// restore puts the register back to what a backup of it had, which was taken when
// nobody lived. Who is of the old fleet keeps the old one.
func (w *world) restore(backup map[string]registered) {
	w.fleet = &fleet{number: epochJump, ended: map[uint64]bool{}, lanes: maps.Clone(backup), forgot: map[string]bool{w.east.id: true}}
	for _, l := range backup {
		w.fleet.ended[l.incarnation] = true
	}
}

// lost are the lanes of a node whose fleet has lost its majority once it is gone.
type lost struct {
	Lanes
	gone  *atomic.Bool
	asked chan struct{} // one message when it has registered in vain
}

func (l lost) Register(ctx context.Context, lane Lane) error {
	if !l.gone.Load() {
		return l.Lanes.Register(ctx, lane)
	}
	select {
	case l.asked <- struct{}{}:
	default:
	}
	return errors.New("no majority")
}

// TestARestoredFleetFencesWhatItForgot suspends a node at each step of a transaction,
// on a lane that was opened after the backup; restores the fleet, has it copy, and wakes
// the node up. Another fleet's transaction is open meanwhile, and can be committed.
func TestARestoredFleetFencesWhatItForgot(t *testing.T) {
	for _, at := range []point{beforeAdd, afterAdd, afterData, afterHops, afterEndSent} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			const partitions = 3
			w.create(t, "orders", partitions)
			w.east.create(t, "strange", 1)
			produce := func(from, next int) {
				for p := range int32(partitions) {
					w.west.produce(t, "orders", p, from, next)
				}
			}
			known := Lane{TransactionalID: "waybill.test.old.1." + w.east.id + ".0", ClusterID: w.east.id}
			backup := map[string]registered{known.TransactionalID: {known, w.fleet.begin()}}

			g := newGate(at)
			var gone atomic.Bool
			asked := make(chan struct{}, 1)
			old := w.node("old", func(c *Config) { c.at, c.Lanes = g.pass, lost{c.Lanes, &gone, asked} })
			old.Assign(w.copies(1, partitions, "orders"))
			produce(0, 100)
			eventually(t, "the old owner has caught up", func() bool { return old.caughtUp(partitions) })
			g.armed.Store(true)
			produce(100, 200)
			<-g.reached
			gone.Store(true)
			commit := w.opened(t, fmt.Sprintf("waybill.test-2.old.%d.%s.0", old.incarnation, w.east.id))

			w.restore(backup)
			heir := w.node("old", nil)
			heir.Assign(w.copies(epochJump+1, partitions, "orders"))
			eventually(t, "the restored fleet has caught up", func() bool { return heir.caughtUp(partitions) })
			produce(200, 300)
			close(g.open) // the old owner goes on as if nothing had happened
			select {
			case <-asked: // it was refused, and would open its lane again
			case <-time.After(time.Minute):
				t.Error("the old owner was not refused")
			}
			produce(300, 400)
			for p := range int32(partitions) {
				w.east.expect(t, "orders", p, 400)
			}
			eventually(t, "the restored fleet has caught up again", func() bool { return heir.caughtUp(partitions) })
			if err := commit(); err != nil {
				t.Errorf("the other fleet's transaction: %v", err)
			}
			m := member{w.fleet, heir.incarnation}
			if ended, _ := m.Ended(t.Context(), w.east.id); len(ended) != 0 {
				t.Errorf("lanes left to fence: %v", ended)
			}
			if again, _ := m.Forgotten(t.Context(), w.east.id); again {
				t.Error("lanes are looked for again")
			}
		})
	}
}

// opened begins a transaction at east and returns its commit.
func (w *world) opened(t *testing.T, id string) (commit func() error) {
	t.Helper()
	cl, err := kafka.NewClient(w.east.Cluster, "stranger", kgo.TransactionalID(id), kgo.DefaultProduceTopic("strange"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), kgo.StringRecord("x")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return func() error { return cl.EndTransaction(t.Context(), kgo.TryCommit) }
}

// TestARestoredFleetsMirrorsRefuseTheOldOne: a mirror topic compares epochs, and those
// of a restored fleet are higher, so nothing of it need be recalled.
func TestARestoredFleetsMirrorsRefuseTheOldOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mirrored(t, "orders", 1)
	g := newGate(beforeAppend)
	old := w.node("old", func(c *Config) { c.at = g.pass })
	old.Assign(w.whole(1, 1, "orders"))
	w.west.produce(t, "orders", 0, 0, 100)
	eventually(t, "the old owner has caught up", func() bool { return old.caughtUp(1) })
	g.armed.Store(true)
	w.west.produce(t, "orders", 0, 100, 200)
	<-g.reached

	w.restore(nil)
	heir := w.node("old", nil)
	heir.Assign(w.whole(epochJump+1, 1, "orders"))
	eventually(t, "the restored fleet has caught up", func() bool { return heir.caughtUp(1) })
	close(g.open)
	w.west.produce(t, "orders", 0, 200, 300)
	eventually(t, "the old owner is refused", func() bool {
		s := old.only()
		return s.State == Failed && strings.Contains(s.Reason, errLateWriter.Error())
	})
	eventually(t, "the restored fleet has caught up again", func() bool { return heir.caughtUp(1) })
	w.same(t, "orders", 0)
}

// forgetful is a register that has forgotten lanes everywhere.
type forgetful struct {
	Lanes
	recalled chan []FoundLane
}

func (forgetful) Forgotten(context.Context, string) (bool, error) { return true, nil }
func (forgetful) Ended(context.Context, string) ([]Lane, error)   { return nil, nil }
func (f forgetful) Recall(_ context.Context, _ string, l []FoundLane) error {
	f.recalled <- l
	return nil
}

// TestCopiesWaitForWhatIsForgotten at a destination that does not answer, at one with a
// broker whose coordinator is not ready, and while coordinators move; where the brokers are too old to tell, or do not
// show who coordinates, they do not wait, and it is said.
func TestCopiesWaitForWhatIsForgotten(t *testing.T) {
	t.Parallel()
	const ours = "waybill.test.a.7.east.0"
	var code atomic.Int32
	var hidden, moving atomic.Bool
	var asked atomic.Int32
	p := newLiar(t, func(q kmsg.Request) kmsg.Response {
		list, ok := q.(*kmsg.ListTransactionsRequest)
		if !ok {
			return nil
		}
		asked.Add(1)
		resp := list.ResponseKind().(*kmsg.ListTransactionsResponse)
		if resp.ErrorCode = int16(code.Load()); resp.ErrorCode != 0 {
			return resp
		}
		state := kmsg.NewListTransactionsResponseTransactionState()
		state.TransactionalID, state.ProducerID = ours, 42
		resp.TransactionStates = append(resp.TransactionStates, state)
		return resp
	}, func(_ kmsg.Request, resp kmsg.Response) {
		m, ok := resp.(*kmsg.MetadataResponse)
		if !ok || !hidden.Load() && !moving.Load() {
			return
		}
		for i := range m.Topics {
			t := &m.Topics[i]
			if t.Topic == nil || *t.Topic != transactionTopic {
				continue
			}
			t.ErrorCode, t.Partitions = kerr.TopicAuthorizationFailed.Code, nil
			if moving.Load() {
				led := kmsg.NewMetadataResponseTopicPartition()
				led.Leader, led.LeaderEpoch = m.Brokers[0].NodeID, asked.Load()
				t.ErrorCode, t.Partitions = 0, append(t.Partitions, led)
			}
		}
	})
	w := newWorldBehind(t, nil, map[string]*liar{"east": p})
	cfg := DefaultConfig()
	cfg.Fleet = "test"
	f := forgetful{recalled: make(chan []FoundLane, 1)}
	cfg.Lanes = f
	var said strings.Builder
	to := &takeover{cfg: cfg, metrics: &Metrics{}, log: slog.New(slog.NewTextHandler(&said, nil))}
	client, err := kafka.NewClient(w.east.Cluster, cfg.ClientID) // the liar looks at no other
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	east := &peer{id: "east", cluster: w.east.Cluster, client: client}
	fence := func(ctx context.Context, p *peer) ([]FoundLane, error) {
		err := to.fence(ctx, p, func(error) {})
		select {
		case found := <-f.recalled:
			return found, err
		default:
			return nil, err
		}
	}

	dead := &flow.Cluster{Spec: flow.ClusterSpec{BootstrapServers: []string{"127.0.0.1:1"}}}
	gone, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if found, err := fence(gone, &peer{id: "dead", cluster: dead, client: w.client(dead)}); err == nil || found != nil {
		t.Errorf("at a dead destination: got %v, %v", found, err)
	}
	code.Store(int32(kerr.CoordinatorLoadInProgress.Code))
	if found, err := fence(t.Context(), east); !errors.Is(err, kerr.CoordinatorLoadInProgress) || found != nil {
		t.Errorf("while a coordinator loads: got %v, %v", found, err)
	}
	code.Store(0)
	if found, err := fence(t.Context(), east); err != nil || len(found) != 1 || found[0].TransactionalID != ours || found[0].ProducerID != 42 {
		t.Errorf("at one that answers: got %v, %v", found, err)
	}
	if strings.Contains(said.String(), "WARN") {
		t.Errorf("it warns of nothing: %s", said.String())
	}
	hidden.Store(true)
	if found, err := fence(t.Context(), east); err != nil || len(found) != 1 || !strings.Contains(said.String(), "allow Describe on "+transactionTopic) {
		t.Errorf("at one that does not show its coordinators: got %v, %v, said %s", found, err, said.String())
	}
	hidden.Store(false)
	moving.Store(true)
	if found, err := fence(t.Context(), east); !errors.Is(err, errCoordinatorsMoved) || found != nil {
		t.Errorf("while a coordinator moves: got %v, %v", found, err)
	}
	moving.Store(false)
	code.Store(int32(kerr.UnsupportedVersion.Code))
	if found, err := fence(t.Context(), east); err != nil || len(found) != 0 {
		t.Errorf("at one that is too old: got %v, %v", found, err)
	}
}

func TestFoundLane(t *testing.T) {
	cfg := Config{Fleet: "prod", Node: "n.1.eu-2", Incarnation: 18446744073709551615}
	want := FoundLane{Node: cfg.Node, Incarnation: cfg.Incarnation}
	want.TransactionalID, want.ClusterID = laneID(&cfg, "a.b.7", 12), "a.b.7"
	if got, ok := foundLane(want.TransactionalID, "prod", "a.b.7"); !ok || got != want {
		t.Errorf("%s: got %+v, %v", want.TransactionalID, got, ok)
	}
	for _, id := range []string{
		"", "waybill", "waybill.prod", "waybill.prod.", "waybill.prod.C.0", "waybill.prod.5.C.0", "waybill.prod..5.C.0",
		"waybill.prod-2.a.5.C.0", "waybill.pro.a.5.C.0", "waybill.d.prod.a.5.C.0", "xwaybill.prod.a.5.C.0", "Waybill.prod.a.5.C.0",
		"waybill.prod.a.5.D.0", "waybill.prod.a.5.C", "waybill.prod.a.5.C.", "waybill.prod.a.5.C.x", "waybill.prod.a.5.C.-1", "waybill.prod.a.5.C.0.0",
		"waybill.prod.a.x.C.0", "waybill.prod.a.-5.C.0", "waybill.prod.a.18446744073709551616.C.0", "waybill.prod.a.5xC.0",
	} {
		if got, ok := foundLane(id, "prod", "C"); ok {
			t.Errorf("%q was taken for a lane: %+v", id, got)
		}
	}
	found := foundLanes(map[string]int64{"waybill.prod.b.5.C.0": 2, "waybill.prod.a.5.C.1": 1, "orders": 3, "waybill.test.a.5.C.1": 4}, "prod", "C")
	if len(found) != 2 || found[0].Node != "a" || found[0].ProducerID != 1 || found[1].Node != "b" || found[1].ProducerID != 2 {
		t.Errorf("found %+v", found)
	}
}

func TestCoordinationOf(t *testing.T) {
	brokers := map[int32]string{1: "x", 2: "y"}
	topic := func(err error, leaders ...int32) map[string]topicView {
		t := topicView{err: err}
		for _, l := range leaders {
			t.partitions = append(t.partitions, partitionView{leader: l, epoch: 7})
		}
		return map[string]topicView{transactionTopic: t}
	}
	for name, c := range map[string]struct {
		v    view
		want map[int32]leadership // nil: refused
	}{
		"all led":              {view{brokers: brokers, topics: topic(nil, 1, 2)}, map[int32]leadership{0: {1, 7}, 1: {2, 7}}},
		"not there":            {view{brokers: brokers}, map[int32]leadership{}},
		"unknown":              {view{brokers: brokers, topics: topic(kerr.UnknownTopicOrPartition)}, map[int32]leadership{}},
		"not shown":            {view{brokers: brokers, topics: topic(kerr.TopicAuthorizationFailed)}, map[int32]leadership{}},
		"one without a leader": {view{brokers: brokers, topics: topic(nil, 1, -1)}, nil},
		"a leader that is not": {view{brokers: brokers, topics: topic(nil, 1, 3)}, nil},
		"not to be had now":    {view{brokers: brokers, topics: topic(kerr.LeaderNotAvailable)}, nil},
		"no brokers":           {view{}, nil},
	} {
		got, err := coordinationOf(&c.v)
		if got.hidden != (name == "not shown") {
			t.Errorf("%s: hidden is %v", name, got.hidden)
		}
		if (err != nil) != (c.want == nil) || err == nil && !maps.Equal(got.leaders, c.want) {
			t.Errorf("%s: got %v, %v, want %v", name, got.leaders, err, c.want)
		}
	}
}

func TestListFault(t *testing.T) {
	for _, c := range []struct {
		err   error
		never bool
	}{
		{fmt.Errorf("x: %w", &kafka.VersionError{Key: kmsg.ListTransactions.Int16(), Max: -1}), true},
		{kerr.UnsupportedVersion, true},
		{kerr.CoordinatorLoadInProgress, false},
		{kafka.ErrUnanswered, false},
	} {
		if got := listFault(c.err); errors.Is(got, errNoListing) != c.never || !errors.Is(got, c.err) {
			t.Errorf("%v: got %v", c.err, got)
		}
	}
}
