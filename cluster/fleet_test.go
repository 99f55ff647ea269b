package cluster

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/raftnode"
)

// testFleet runs nodes in one process.
type testFleet struct {
	t    *testing.T
	ca   *raftnode.CA
	net  *raftnode.MemoryNetwork // nil: TCP on loopback
	edit func(*Config)
}

func newFleet(t *testing.T, network *raftnode.MemoryNetwork) *testFleet {
	t.Helper()
	ca, err := raftnode.GenerateCA("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &testFleet{t: t, ca: ca, net: network}
}

func (f *testFleet) config(name string, first *testNode) Config {
	f.t.Helper()
	cert, key, err := f.ca.Issue(name, time.Hour, "127.0.0.1")
	if err != nil {
		f.t.Fatal(err)
	}
	c := DefaultConfig()
	if c.Credentials, err = raftnode.ParseCredentials(f.ca.CertPEM, cert, key); err != nil {
		f.t.Fatal(err)
	}
	c.Name, c.APIAddr, c.Version = name, name+":8080", "test"
	c.Listen = "127.0.0.1:0"
	if f.net != nil {
		c.Network, c.Listen = f.net.Host(name), name+":7"
	}
	c.Bootstrap = first == nil
	if first != nil {
		c.Join = []string{first.Addr()}
	}
	c.Logger = slog.New(slog.DiscardHandler)
	if os.Getenv("FLEET_LOG") != "" {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", name)
	}
	if f.edit != nil {
		f.edit(&c)
	}
	return c
}

// testNode is a Node with a worker that does what an owner does: it takes
// sessions, and stops what it is asked to stop.
type testNode struct {
	*Node
	stop context.CancelFunc
	done chan struct{}
	err  error // of Run, after done
	// gate, if set, is what it waits for before it gives work back.
	gate atomic.Pointer[chan struct{}]

	mu       sync.Mutex
	holds    map[Work]Assignment
	sessions []sessionEnd
	current  *Session
}

type sessionEnd struct {
	incarnation uint64
	cause       error
	at          time.Time
}

func (f *testFleet) start(c Config) *testNode {
	f.t.Helper()
	n := &testNode{done: make(chan struct{})}
	var err error
	if n.Node, err = Open(c); err != nil {
		f.t.Fatal(err)
	}
	var ctx context.Context
	ctx, n.stop = context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { n.work() })
	go func() {
		defer close(n.done)
		n.err = n.Run(ctx)
		wg.Wait()
	}()
	f.t.Cleanup(func() { _ = n.end() })
	return n
}

func (n *testNode) end() error {
	n.stop()
	<-n.done
	return n.err
}

// work takes one session after another until the node stops.
func (n *testNode) work() {
	for {
		s, err := n.Session(context.Background())
		if err != nil {
			if errors.Is(err, ErrStopped) {
				return
			}
			panic(err)
		}
		n.mu.Lock()
		n.current = s
		n.mu.Unlock()
		n.serve(s)
		n.mu.Lock()
		n.holds, n.current = nil, nil
		n.sessions = append(n.sessions, sessionEnd{s.Incarnation(), context.Cause(s.Context()), time.Now()})
		n.mu.Unlock()
		_ = s.Close(context.Background())
	}
}

func (n *testNode) serve(s *Session) {
	for {
		select {
		case all := <-s.Assignments():
			var stopped []Assignment
			holds := make(map[Work]Assignment)
			var status []WorkStatus
			for _, a := range all {
				if a.Releasing {
					stopped = append(stopped, a)
					continue
				}
				holds[a.Work] = a
				status = append(status, WorkStatus{Work: a.Work, Epoch: a.Epoch, State: "running"})
			}
			n.mu.Lock()
			n.holds = holds
			n.mu.Unlock()
			s.Report(reported(status))
			if len(stopped) > 0 {
				if gate := n.gate.Load(); gate != nil {
					<-*gate
				}
				_ = s.Release(s.Context(), stopped...)
			}
		case <-s.Context().Done():
			return
		}
	}
}

// reported is a Reporter that says what it is.
type reported []WorkStatus

func (r reported) Works() []WorkStatus         { return r }
func (r reported) Rates(_ func(Work, float64)) {}

func (n *testNode) held() map[Work]Assignment {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.holds
}

func (n *testNode) ended() []sessionEnd {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions
}

func (n *testNode) session() *Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.current
}

// three starts a fleet of three with one flow of 12 copies, and waits until they
// share it and each has a vote: before that, the first one cannot be lost.
func (f *testFleet) three() []*testNode {
	f.t.Helper()
	a := f.start(f.config("a", nil))
	nodes := []*testNode{a, f.start(f.config("b", a)), f.start(f.config("c", a))}
	f.declare(nodes[1], 12)
	f.await("an even share for each of three", func() bool { return f.shared(nodes, 12) })
	f.await("a vote for each of three", func() bool { return voters(f.t, a) == len(nodes) })
	return nodes
}

// declare makes a flow with a topic of so many partitions, by whoever has its
// duty.
func (f *testFleet) declare(n *testNode, partitions int32) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	c, err := NewApplyObjects([]flow.Object{
		{Kind: flow.KindReplicationFlow, Flow: &flow.ReplicationFlow{
			Metadata: flow.Metadata{Name: "orders"},
			Spec: flow.FlowSpec{
				Source: "src", Destination: "dst", Offsets: "translate", Start: "earliest",
				Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}},
			},
		}},
	}, nil, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := n.Propose(ctx, c); err != nil {
		f.t.Fatal(err)
	}
	for _, s := range n.Watch(ctx) {
		if s.Flows["orders"].Duty.Node == "" {
			continue
		}
		spec := TopicSpec{Source: "t", SourceID: "id", Destination: "t", Partitions: partitions}
		if _, err := n.Propose(ctx, &SetTopics{Flow: "orders", Epoch: s.Flows["orders"].Duty.Epoch, Put: []TopicSpec{spec}}); err != nil {
			f.t.Fatal(err)
		}
		return
	}
	f.t.Fatal("nobody got the flow's duty")
}

// shared reports whether nodes hold all copies, each its share.
func (f *testFleet) shared(nodes []*testNode, copies int) bool {
	total := 0
	for _, n := range nodes {
		mine := 0
		for w := range n.held() {
			if w.Kind == WorkCopy {
				mine++
			}
		}
		if mine < copies/len(nodes) {
			return false
		}
		total += mine
	}
	return total == copies
}

func (f *testFleet) await(what string, ok func() bool) {
	f.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			f.t.Fatalf("not within 30 s: %s", what)
		}
		<-tick.C
	}
}

func (f *testFleet) leader(nodes []*testNode) *testNode {
	f.t.Helper()
	var found *testNode
	f.await("a leader", func() bool {
		for _, n := range nodes {
			if n.leading.Load() != nil {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// askedFor are the records of what somebody asked for: not those of nodes that came with
// certificates.
func askedFor(s *State) (records []Record) {
	for _, r := range s.Trail {
		if r.Operation != joinOperation {
			records = append(records, r)
		}
	}
	return records
}

func without(nodes []*testNode, not *testNode) []*testNode {
	var rest []*testNode
	for _, n := range nodes {
		if n != not {
			rest = append(rest, n)
		}
	}
	return rest
}

// sameState checks that all nodes hold the same state.
func (f *testFleet) sameState(nodes []*testNode) {
	f.t.Helper()
	f.await("equal states", func() bool {
		s, revision := nodes[0].Current()
		want := hashOf(f.t, s)
		for _, n := range nodes[1:] {
			t, r := n.Current()
			if r != revision || hashOf(f.t, t) != want {
				return false
			}
		}
		return true
	})
}
