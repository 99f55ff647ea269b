//go:build unix

package cluster

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

var scaleIdle = flag.Duration("scale.idle", time.Second, "for how long TestScaleIdle looks at a fleet at rest")

// counted is the network of the operating system, with what nodes send each other
// counted as it goes over the wire: at the ends that dialled, in both directions.
type counted struct{ bytes, writes atomic.Int64 }

var _ raftnode.Network = (*counted)(nil)

func (*counted) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

func (c *counted) Dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &countedConn{conn, c}, nil
}

type countedConn struct {
	net.Conn
	of *counted
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.of.bytes.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.of.bytes.Add(int64(n))
	c.of.writes.Add(1)
	return n, err
}

// steady is a Reporter whose copies move as much as ever.
type steady struct{ works []Assignment }

func (steady) Works() []WorkStatus { return nil }
func (s steady) Rates(each func(Work, float64)) {
	for i, a := range s.works {
		each(a.Work, float64(i%64)*levelUnit)
	}
}

// settle declares so many copies in topics of 20, has them owned, and their owners
// measure them.
func (f *testFleet) settle(nodes []*testNode, copies int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	const perTopic = 20
	put := &SetTopics{Flow: "orders", Epoch: nodes[0].State().Flows["orders"].Duty.Epoch}
	for made := 12; made < copies; made += perTopic {
		name := fmt.Sprintf("some.topic-%05d", made)
		put.Put = append(put.Put, TopicSpec{Source: name, SourceID: "AAAAAAAAAAAAAAAAAAAAAA", Destination: name, Partitions: int32(min(perTopic, copies-made))})
	}
	if _, err := nodes[0].Propose(ctx, put); err != nil {
		f.t.Fatal(err)
	}
	f.await("all copies are owned", func() bool { return f.shared(nodes, copies) })
	for _, n := range nodes {
		s := n.session()
		works := n.State().AssignmentsOf(n.Name(), s.Incarnation())
		s.Report(steady{works})
	}
}

// beats counts heartbeats that a leader has answered for as long as a context lasts.
func beats(ctx context.Context, l *leader) (n int) {
	last := make(map[string]time.Time)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		l.mu.Lock()
		for name, at := range l.controller.leases.contact {
			if before, known := last[name]; known && at != before {
				n++
			}
			last[name] = at
		}
		l.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return n
		}
	}
}

// diskOf is how large the files of a directory are. A store grows in steps, so how much
// is in it does not show at once.
func diskOf(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		bytes += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// TestScaleIdle prints what three nodes with 10,000 copies cost that have nothing to
// do but to stay a fleet: nodes over raft, TLS and loopback, in one process. The
// figures of docs/performance.md are from it.
func TestScaleIdle(t *testing.T) {
	const copies = 10_000
	f := newFleet(t, nil)
	wire := new(counted)
	dir := t.TempDir()
	f.edit = func(c *Config) {
		c.Network, c.Dir = wire, filepath.Join(dir, c.Name)
		c.DrainTimeout = 100 * time.Millisecond // nobody is left to move it to
	}
	nodes := f.three()
	f.settle(nodes, copies)
	leader := f.leader(nodes).leading.Load()
	f.await("the leader has nothing to do", func() bool {
		leader.mu.Lock()
		defer leader.mu.Unlock()
		return leader.controller.idle == nodes[0].State()
	})

	counting, cancel := context.WithTimeout(t.Context(), *scaleIdle)
	defer cancel()
	heard := beats(counting, leader)

	_, revision := nodes[0].Current()
	bytes, writes, disk := wire.bytes.Load(), wire.writes.Load(), diskOf(t, dir)
	used, began := processor(t), time.Now()
	<-time.After(*scaleIdle)
	took := time.Since(began).Seconds()
	used, bytes, writes = processor(t)-used, wire.bytes.Load()-bytes, wire.writes.Load()-writes
	_, after := nodes[0].Current()
	if !f.shared(nodes, copies) {
		t.Error("copies have moved")
	}
	t.Logf("%d copies on %d nodes at rest for %.0f s:", copies, len(nodes), took)
	t.Logf("  control traffic   %8.1f kB/s in all, both directions, in %.0f messages/s sent by who dialled", float64(bytes)/took/1e3, float64(writes)/took)
	t.Logf("  heartbeats        %8.1f /s answered", float64(heard)/(*scaleIdle).Seconds())
	t.Logf("  processor         %8.2f %% of one for each node", used.Seconds()/took/float64(len(nodes))*100)
	t.Logf("  raft log          %8d commands, %d bytes on the disks of all", after-revision, diskOf(t, dir)-disk)
}
