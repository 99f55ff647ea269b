package lineage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// live is clusters as a test wants them.
type live struct {
	behind   map[string]string
	ends     map[string]int64 // cluster.id/partition
	endsErr  error
	waits    map[CopyName]time.Duration
	waitsErr error
	groups   map[string][]GroupPosition // by cluster.id
	more     string
	declared []DeclaredFlow
	records  map[string]*Found // by cluster.id
	mu       sync.Mutex
	read     []At
}

func (l *live) Record(_ context.Context, at At) (*Found, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = append(l.read, at)
	if f := l.records[at.Cluster]; f != nil {
		return f, nil
	}
	return nil, errors.New("no record there")
}

func (l *live) Behind(cluster string) string { return l.behind[cluster] }

func (l *live) Ends(_ context.Context, cluster string, topics map[string]ledger.TopicID) (map[flow.TopicPartition]int64, error) {
	at := map[flow.TopicPartition]int64{}
	for topic, of := range topics {
		for p := range int32(4) {
			if end, ok := l.ends[fmt.Sprintf("%s/%d", cluster, p)]; ok && of[0] == cluster[3] {
				at[flow.TopicPartition{Topic: topic, Partition: p}] = end
			}
		}
	}
	return at, l.endsErr
}

func (l *live) Groups(_ context.Context, cluster string, topics []string) (found []GroupPosition, more string, err error) {
	for _, g := range l.groups[cluster] {
		if slices.Contains(topics, g.At.Topic) {
			found = append(found, g)
		}
	}
	return found, l.more, l.endsErr
}

func (l *live) Waits(context.Context) (map[CopyName]time.Duration, error) { return l.waits, l.waitsErr }

func (l *live) Declared() []DeclaredFlow { return l.declared }

func partitioned(from, to byte, partition int32, epoch uint64) *ledger.Begin {
	b := begin(from, to, epoch)
	b.Copy.Source.Partition, b.Copy.Destination.Partition = partition, partition
	return b
}

// TestPaces: rates are of the window, lags are up to where the source ends, what is
// not known stays so with its reason, and time is counted from what is known best.
func TestPaces(t *testing.T) {
	l := &live{
		ends:  map[string]int64{"id-a/0": 1000, "id-a/1": 50, "id-b/0": 620},
		waits: map[CopyName]time.Duration{{"prod", "a-to-b", "orders", 0}: 7 * time.Second},
	}
	x, f := open(t, Config{Live: l})
	now := time.Now()
	at := func(h *ledger.Hop, ago time.Duration, b *ledger.Begin) *ledger.Hop {
		h.At, h.Copy = now.Add(-ago), b.Copy.Key()
		return h
	}
	ab, ab1, bc := begin('a', 'b', 1), partitioned('a', 'b', 1, 1), begin('b', 'c', 1)
	f.page('b', ab, at(hop('a', 'b', 1, 0, 300, 0), 2*time.Hour, ab), at(hop('a', 'b', 1, 300, 600, 300), 30*time.Second, ab))
	f.page('b', ab1, at(hop('a', 'b', 1, 0, 50, 0), 10*time.Second, ab1))
	f.page('c', bc, at(hop('b', 'c', 1, 0, 600, 0), 20*time.Second, bc))

	pace := func(q PaceQuery) (ab, bc TopicCopy) {
		t.Helper()
		q.Window = MaxWindow // long enough for a slow machine
		g, err := x.Topic(t.Context(), alice, orders("a", 0), q)
		if err != nil || len(g.Copies) != 2 || g.Copies[0].Pace == nil || g.Copies[1].Pace == nil {
			t.Fatalf("got %+v %v", g, err)
		}
		return g.Copies[0], g.Copies[1]
	}
	first, second := pace(PaceQuery{})
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
	if p := first.Pace; !near(p.RecordsPerSecond, 650.0/3600) || !near(p.BytesPerSecond, 6500.0/3600) || p.WindowSeconds != 3600 || p.LagRecords != 100 ||
		p.LagSeconds != 7 || p.LagBasis != basisOwner || len(p.Unknown) != 0 || first.Partitions[0].Pace != nil {
		t.Errorf("a to b: got %+v", first)
	}
	// Of a source that is itself a copy the ledger knows when its records came.
	if p := second.Pace; p.LagRecords != 20 || p.LagBasis != basisCopied || p.LagSeconds < 30 || len(p.Unknown) != 0 {
		t.Errorf("b to c: got %+v", p)
	}
	first, _ = pace(PaceQuery{Partitions: true})
	if p := first.Partitions[1].Pace; p == nil || p.RecordsPerSecond != 50.0/3600 || p.LagRecords != 0 || p.LagSeconds != 0 {
		t.Errorf("partition 1: got %+v", p)
	}

	p := production('a', "User:shop", 900, 999)
	p.FirstAt = now.Add(-5 * time.Minute)
	f.page('a', p)
	if first, _ = pace(PaceQuery{}); first.Pace.LagBasis != basisProduced || first.Pace.LagSeconds < 300 {
		t.Errorf("when it was produced: got %+v", first.Pace)
	}
	for _, c := range []struct {
		name   string
		change func(*live)
		want   string
	}{
		{"a source that does not answer", func(l *live) { l.endsErr = errors.New("a is not there") }, "lag: a is not there"},
		{"a partition that is gone", func(l *live) { delete(l.ends, "id-a/1") }, "partition 1: lag: the source does not show this partition of this life of the topic"},
		{"a ledger that is not read", func(l *live) { l.behind = map[string]string{"id-b": "it is read up to 5 of 9"} }, "it is read up to 5 of 9"},
		{"a record that came from nobody knows where", func(l *live) { l.ends["id-a/1"] = 51 }, "lag in seconds: no ledger says when offset 50 came to the source, and no owner of the copy in this fleet does"},
		{"owners that cannot be asked", func(l *live) { l.ends["id-a/1"], l.waitsErr = 51, errors.New("no leader") }, "and the owner of the copy cannot be asked: no leader"},
	} {
		changed := live{behind: l.behind, ends: maps.Clone(l.ends), waits: l.waits, groups: l.groups, declared: l.declared, records: l.records}
		c.change(&changed)
		x.cfg.Live = &changed
		first, _ := pace(PaceQuery{})
		if p := first.Pace; p.LagSeconds != -1 || p.LagBasis != "" || !strings.Contains(strings.Join(p.Unknown, "\n"), c.want) {
			t.Errorf("%s: got %+v, want %q", c.name, p, c.want)
		}
		if read := changed.behind == nil; (first.Pace.RecordsPerSecond >= 0) != read || (first.Pace.WindowSeconds > 0) != read {
			t.Errorf("%s: got %+v", c.name, first.Pace)
		}
	}
}

// TestPacesAreBounded: of a window with too many hops the last of them are counted,
// over the time that they took; windows that cannot be are refused.
func TestPacesAreBounded(t *testing.T) {
	x, f := open(t, Config{Limits: Limits{Looks: 10}})
	f.page('b', begin('a', 'b', 1))
	now := time.Now()
	for i := int64(0); i < 50; i++ {
		h := hop('a', 'b', 1, i, 1, i)
		h.At = now.Add(time.Duration(i-50) * time.Second)
		f.page('b', h)
	}
	g, err := x.Topic(t.Context(), alice, orders("a", 0), PaceQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if p := g.Copies[0].Pace; p.WindowSeconds < 10 || p.RecordsPerSecond*p.WindowSeconds < 9.9 || p.RecordsPerSecond*p.WindowSeconds > 10.1 {
		t.Errorf("got %+v", p)
	}
	for _, w := range []time.Duration{-time.Second, time.Millisecond, MaxWindow + 1} {
		if _, err := x.Topic(t.Context(), alice, orders("a", 0), PaceQuery{Window: w}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v", w, err)
		}
	}
}

// TestPacesAreRedacted: of a copy from or to a topic that the caller may not see
// there is no pace, and nobody is asked about it.
func TestPacesAreRedacted(t *testing.T) {
	x, f := open(t, Config{Authorizer: rights{"id-a/orders": true, "id-b/orders": true}, Live: &live{ends: map[string]int64{"id-a/0": 100, "id-b/0": 2000}}})
	chain(f)
	g, err := x.Topic(t.Context(), alice, orders("a", 0), PaceQuery{Partitions: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range g.Copies {
		hidden := g.Topics[c.From].Redacted || g.Topics[c.To].Redacted
		if (c.Pace == nil) != hidden || hidden && len(c.Partitions) > 0 {
			t.Errorf("got %+v", c)
		}
	}
	if g.Copies[0].Pace == nil || g.Copies[0].Pace.LagRecords != 0 {
		t.Errorf("got %+v", g.Copies[0])
	}
}
