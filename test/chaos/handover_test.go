//go:build chaos && unix

package chaos

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
)

var roundsFlag = flag.Int("rounds", 3, "how often TestHandover drains and kills a node")

const (
	handoverTopic      = "moves"
	handoverPartitions = 6
)

// arrivals are what a read_committed reader of the destination got, and when.
type arrivals struct {
	mu     sync.Mutex
	at     [handoverPartitions][]time.Time
	values [handoverPartitions][]string
}

func (a *arrivals) read(ctx context.Context, cl *kgo.Client) {
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		now := time.Now()
		a.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			a.at[r.Partition] = append(a.at[r.Partition], now)
			a.values[r.Partition] = append(a.values[r.Partition], string(r.Value))
		})
		a.mu.Unlock()
	}
}

// silence is the longest time without a record of any partition between two
// moments.
func (a *arrivals) silence(from, to time.Time) (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.at {
		last := from
		for _, t := range at {
			if t.After(from) && t.Before(to) {
				longest = max(longest, t.Sub(last))
				last = t
			}
		}
		longest = max(longest, to.Sub(last))
	}
	return longest
}

// quiet says which partition has had no record since a moment: for how long it is
// silent is not known yet.
func (a *arrivals) quiet(since time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for p, at := range a.at {
		if len(at) == 0 || at[len(at)-1].Before(since) {
			return fmt.Errorf("no record of partition %d", p)
		}
	}
	return nil
}

// TestHandover writes 100 records a second into each of six partitions, takes the fleet
// from three nodes to five and back, drains nodes and kills others, and prints for how long a reader of the destination got nothing
// from a partition. Others must have taken a node's copies on while it is away, or while
// it runs on if it is drained, and no silence may be many times its bound. Each record
// must have arrived once, in order.
func TestHandover(t *testing.T) {
	w := newWorld(t)
	w.us.admin("create the topic", func(adm *kadm.Client) error {
		_, err := adm.CreateTopic(t.Context(), handoverPartitions, 1, nil, handoverTopic)
		return err
	})
	var yaml strings.Builder
	for _, o := range []flow.Object{
		{Kind: flow.KindCluster, Cluster: w.us.declaration(users[1])},
		{Kind: flow.KindCluster, Cluster: w.eu.declaration(users[1])},
		{Kind: flow.KindReplicationFlow, Flow: &flow.ReplicationFlow{Metadata: flow.Metadata{Name: flowName}, Spec: flow.FlowSpec{
			Source: "us", Destination: "eu", Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{handoverTopic}}},
		}}},
	} {
		b, err := flow.MarshalYAML(o)
		must(t, err)
		yaml.WriteString("---\n" + string(b))
	}
	eventually(t, 60*time.Second, "apply", func() error {
		_, err := w.anyNode(http.MethodPost, "/api/v1/apply", yaml.String())
		return err
	})
	eventually(t, 60*time.Second, "the topic at the destination", func() error {
		s, err := w.flow()
		if err == nil && (s.State != "running" || len(s.Topics) == 0 || len(s.Topics[0].Partitions) < handoverPartitions) {
			err = fmt.Errorf("%s: %s", s.State, s.Reason)
		}
		return err
	})

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var wg sync.WaitGroup
	var sent [handoverPartitions]int
	producer, err := w.us.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	must(t, err)
	defer producer.Close()
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			for p := range sent {
				producer.Produce(context.Background(), &kgo.Record{Topic: handoverTopic, Partition: int32(p), Value: fmt.Append(nil, sent[p])}, nil)
				sent[p]++
			}
			<-tick.C
		}
	})
	consumer, err := w.eu.client(kgo.ConsumeTopics(handoverTopic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(50*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	must(t, err)
	defer consumer.Close()
	reading, endReading := context.WithCancel(context.Background())
	defer endReading()
	var got arrivals
	var reader sync.WaitGroup
	reader.Go(func() { got.read(reading, consumer) })
	eventually(t, 30*time.Second, "records of all partitions", func() error {
		if gap := got.silence(time.Now().Add(-time.Second), time.Now()); gap >= time.Second {
			return fmt.Errorf("none for %s", gap)
		}
		return nil
	})

	const window = 8 * time.Second
	row := func(what string, how faultKind, do func()) {
		began := time.Now()
		do()
		for time.Since(began) < window {
			<-time.After(100 * time.Millisecond) // the window is what is measured
		}
		end := time.Now()
		eventually(t, recovery, what+": records of all partitions", func() error { return got.quiet(end) })
		silence, bound := got.silence(began, time.Now()).Round(time.Millisecond), how.bound(0)
		fmt.Printf("%-34s %8s %8s  %s\n", what, silence, bound, against(silence, bound))
		if !survived(silence, bound) {
			t.Errorf("%s: nothing of a partition for %s, the bound is %s", what, silence, bound)
		}
	}
	fmt.Printf("%-34s %8s %8s\n", "", "silence", "bound")
	row("nothing happens", handover, func() {})
	w.scale(row)
	for range *roundsFlag {
		leader, owner := w.roles()
		row("drain an owner that follows", handover, func() { w.drainAlive(owner) })
		row("undrain it", handover, func() { w.drain(owner, false) })
		row("drain the leader", handover, func() { w.drainAlive(leader) })
		row("undrain it", handover, func() { w.drain(leader, false) })
		row("SIGTERM to an owner that follows", handover, func() { w.leaves(owner, func() { owner.process.stop(t) }) })
		owner.start()
		row("start it again", handover, func() {})
		leader, owner = w.roles()
		row("SIGTERM to the leader", handover, func() { w.leaves(leader, func() { leader.process.stop(t) }) })
		leader.start()
		row("start it again", handover, func() {})
		_, owner = w.roles()
		row("kill -9 of an owner that follows", takeover, func() { w.leaves(owner, owner.process.kill) })
		owner.start()
		row("start it again", handover, func() {})
		leader, _ = w.roles()
		row("kill -9 of the leader", takeover, func() { w.leaves(leader, leader.process.kill) })
		leader.start()
		row("start it again", handover, func() {})
	}

	stop()
	wg.Wait()
	must(t, producer.Flush(context.Background()))
	eventually(t, 60*time.Second, "all records at the destination", func() error {
		got.mu.Lock()
		defer got.mu.Unlock()
		for p, n := range sent {
			if len(got.values[p]) < n {
				return fmt.Errorf("partition %d: %d of %d", p, len(got.values[p]), n)
			}
		}
		return nil
	})
	endReading()
	reader.Wait()
	total := 0
	for p, values := range got.values {
		total += len(values)
		for i, v := range values {
			if v != fmt.Sprint(i) {
				t.Fatalf("partition %d: record %d at the destination is %s", p, i, v)
			}
		}
		if len(values) != sent[p] {
			t.Errorf("partition %d: %d records, %d were sent", p, len(values), sent[p])
		}
	}
	fmt.Printf("%d records, each once and in order\n", total)
}

// roles are the leader, and another node that owns copies.
func (w *world) roles() (leader, owner *node) {
	w.t.Helper()
	eventually(w.t, 60*time.Second, "three nodes with copies", func() error {
		s, err := w.status()
		if err != nil {
			return err
		}
		leader, owner = nil, nil
		owners := 0
		for _, seen := range s.Fleet.Nodes {
			for _, n := range w.nodes {
				switch {
				case n.name != seen.Name || !seen.Alive:
				case seen.Copies == 0 || seen.Draining:
				case seen.Name == s.Fleet.Leader:
					leader = n
					owners++
				default:
					owner = n
					owners++
				}
			}
		}
		if leader == nil || owners < 3 {
			return fmt.Errorf("leader %s, %d owners of copies", s.Fleet.Leader, owners)
		}
		return nil
	})
	return leader, owner
}
