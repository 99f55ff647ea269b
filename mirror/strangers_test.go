package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/offsets"
)

// stranger is a fleet that knows nothing of others but what is in the ledgers of the
// two clusters that it is told of.
type stranger struct {
	w     *world
	name  string
	fleet *fleet
	maps  *offsets.Maps
	last  *node
}

func (w *world) stranger(name string, sites ...*site) *stranger {
	w.t.Helper()
	s := &stranger{w: w, name: name, fleet: &fleet{ended: map[uint64]bool{}, lanes: map[string]registered{}}, maps: offsets.NewMaps()}
	for _, at := range sites {
		readInto(w, s.maps, at)
	}
	return s
}

func readInto(w *world, maps *offsets.Maps, at *site) {
	w.t.Helper()
	reader, err := tail.New(tail.Config{
		Dial:  func(opts ...kgo.Opt) (*kgo.Client, error) { return kafka.NewClient(at.Cluster, "test", opts...) },
		Sinks: []tail.Sink{maps}, Log: slog.New(slog.DiscardHandler), Refresh: 500 * time.Millisecond,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	maps.Attach(at.Metadata.Name, reader) // as positions are asked for
	maps.Attach(at.id, reader)            // as origins are
	w.background(reader.Run)
}

func (s *stranger) Position(ctx context.Context, destination string, id ledger.CopyID) (Position, error) {
	return s.PositionBefore(ctx, destination, id, math.MaxInt64, math.MaxInt64)
}

func (s *stranger) PositionBefore(ctx context.Context, destination string, id ledger.CopyID, source, at int64) (Position, error) {
	p, err := s.maps.PositionBefore(ctx, destination, id, source, at)
	return positionOf(p), err
}

// run starts the fleet's only node, in place of the one before, which is ended as if
// it had died.
func (s *stranger) run(epoch uint64, flows ...[]Assignment) *node {
	s.w.t.Helper()
	if s.last != nil {
		s.last.stop()
		s.fleet.end(s.last.incarnation)
	}
	s.last = s.w.node("n", func(c *Config) {
		c.Fleet, c.Incarnation = s.name, s.fleet.begin()
		c.Lanes, c.Positions, c.Origins = member{s.fleet, c.Incarnation}, s, s.maps
	})
	s.last.incarnation = s.last.cfg.Incarnation
	all := slices.Concat(flows...)
	for i := range all {
		all[i].Epoch = epoch
	}
	s.last.Assign(all)
	return s.last
}

// carry is a flow of both partitions of a topic, under its own name.
func carry(from, to *site, origin, topic string) []Assignment {
	name := from.Metadata.Name + "-" + to.Metadata.Name
	spec := &flow.ReplicationFlow{Metadata: flow.Metadata{Name: name}, Spec: flow.FlowSpec{
		Source: from.Metadata.Name, Destination: to.Metadata.Name, Start: flow.StartEarliest, Origin: origin,
	}}
	var out []Assignment
	for p := range int32(2) {
		out = append(out, Assignment{
			Flow: name, Spec: spec, Source: from.Cluster, Destination: to.Cluster, SourceTopic: topic, DestinationTopic: topic, Partition: p, Epoch: 1,
		})
	}
	return out
}

// write produces records "<site>-<n>" for n in [from, next), by turns into both
// partitions, a few at a time.
func (s *site) write(t testing.TB, topic string, from, next int) {
	t.Helper()
	for i := from; i < next; i++ {
		r := &kgo.Record{Topic: topic, Partition: int32(i) % 2, Value: fmt.Appendf(nil, "%s-%d", s.Metadata.Name, i)}
		s.client.Produce(t.Context(), r, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("produce: %v", err)
			}
		})
		if i%10 == 9 {
			_ = s.client.Flush(t.Context()) // each promise tells
		}
	}
	if err := s.client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// expectFrom reads a topic and checks that it holds n records of each of some sites:
// each once, those of a site in their order.
func (s *site) expectFrom(t testing.TB, topic string, n int, from ...*site) {
	t.Helper()
	next := map[string]int{}
	for p := range int32(2) {
		for _, r := range s.read(t, topic, p, n/2*len(from)) {
			name, number, _ := strings.Cut(string(r.Value), "-")
			key := fmt.Sprintf("%s/%d", name, p)
			if want := fmt.Sprint(next[key]*2 + int(p)); number != want {
				t.Fatalf("%s: %s/%d has %s at offset %d, want number %s: lost, doubled or out of order", s.Metadata.Name, topic, p, r.Value, r.Offset, want)
			}
			next[key]++
		}
	}
	for _, f := range from {
		for p := range 2 {
			if got := next[fmt.Sprintf("%s/%d", f.Metadata.Name, p)]; got != n/2 {
				t.Errorf("%s: %s/%d has %d records of %s, want %d", s.Metadata.Name, topic, p, got, f.Metadata.Name, n/2)
			}
		}
	}
	if ends := s.stable(t, topic); ends < int64(n*len(from)) {
		t.Errorf("%s: %d offsets", s.Metadata.Name, ends)
	}
}

// stable is the sum of a topic's last stable offsets.
func (s *site) stable(t testing.TB, topic string) (sum int64) {
	t.Helper()
	ends, err := s.admin.ListCommittedOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ends[topic] {
		sum += e.Offset
	}
	return sum
}

// atRest waits until all copies of all nodes have nothing left to do. They feed each
// other, so once is not enough.
func atRest(t testing.TB, nodes ...*node) {
	t.Helper()
	eventually(t, "all copies are at rest", func() bool {
		for range 2 {
			for _, n := range nodes {
				if !n.caughtUp(len(n.Status())) {
					return false
				}
			}
		}
		return true
	})
}

func create(t testing.TB, topic string, sites ...*site) {
	t.Helper()
	for _, s := range sites {
		s.create(t, topic, 2)
	}
}

// holds says that a topic has as many records as there should be, or more.
func (s *site) holds(t testing.TB, topic string, n int) bool {
	t.Helper()
	if s.stable(t, topic) < int64(n) {
		return false
	}
	got := 0
	for p := range int32(2) {
		got += len(s.read(t, topic, p, n/2))
	}
	return got >= n
}
