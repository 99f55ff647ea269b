//go:build unix

package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// flowName is the flow of every scenario.
const flowName = "us-eu"

// recovery is how long a fleet may take to notice that something is well again,
// and to copy what has been held up. Machines that build other things at the
// same time are slow.
const recovery = 90 * time.Second

// declaration is the cluster as one of its users would declare it.
func (b *broker) declaration(user string) *flow.Cluster {
	c := &flow.Cluster{Metadata: flow.Metadata{Name: b.name}, Spec: flow.ClusterSpec{BootstrapServers: []string{b.address}}}
	if b.secure != nil {
		c.Spec.TLS = &flow.TLS{CAFile: b.file("ca.pem")}
		c.Spec.SASL = &flow.SASL{Mechanism: "SCRAM-SHA-512", Username: user, Password: flow.Secret("${file:" + b.file(user+".password") + "}")}
	}
	return c
}

// yaml is the declaration of the cluster for the fleet.
func (b *broker) yaml() string {
	s := fmt.Sprintf("apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: %s, annotations: {waybill/super-users: \"User:admin\"}}\nspec:\n  bootstrapServers: [%q]\n", b.name, b.address)
	if b.secure != nil {
		s += fmt.Sprintf("  tls: {caFile: %q}\n  sasl: {mechanism: SCRAM-SHA-512, username: %s, password: %q}\n", b.file("ca.pem"), userReplicator, "${file:"+b.file(userReplicator+".password")+"}")
	}
	return s + "---\n"
}

// declare declares both clusters and a flow of the topics.
func (w *world) declare(topics ...string) {
	w.t.Helper()
	w.nodes[0].apply(w.us.yaml() + w.eu.yaml() + flowYAML(topics...))
}

func flowYAML(topics ...string) string {
	return fmt.Sprintf("apiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: %s}\nspec:\n  source: us\n  destination: eu\n  topics: {include: [%s]}\n", flowName, strings.Join(topics, ", "))
}

// client is an administrator's.
func (b *broker) client(opts ...kgo.Opt) *kgo.Client {
	b.t.Helper()
	cl, err := kafka.NewClient(b.declaration(userAdmin), "scenario", opts...)
	must(b.t, err)
	b.t.Cleanup(cl.Close)
	return cl
}

func (b *broker) admin() *kadm.Client { return kadm.NewClient(b.client()) }

func (b *broker) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	b.t.Cleanup(cancel)
	return ctx
}

func (b *broker) createTopic(topic string, partitions int32) {
	b.t.Helper()
	_, err := b.admin().CreateTopic(b.ctx(), partitions, 1, nil, topic)
	must(b.t, err)
}

func (b *broker) deleteTopic(topic string) {
	b.t.Helper()
	_, err := b.admin().DeleteTopic(b.ctx(), topic)
	must(b.t, err)
}

// sample is the i-th record of a test: with and without key, value and headers.
func sample(topic string, partition int32, i int) *kgo.Record {
	r := &kgo.Record{Topic: topic, Partition: partition, Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i)*7)}
	if i%3 != 0 {
		r.Key = []byte(fmt.Sprintf("key-%d", i%17))
	}
	switch i % 5 {
	case 0:
		r.Value = []byte{}
	case 1: // a tombstone
	default:
		r.Value = []byte(fmt.Sprintf("%s/%d: value %d", topic, partition, i))
	}
	if i%4 == 0 {
		r.Headers = []kgo.RecordHeader{{Key: "n", Value: []byte(fmt.Sprint(i))}, {Key: "null"}, {Key: "n", Value: []byte{}}}
	}
	return r
}

// produce writes n records into each of the partitions, acknowledged by all.
func (b *broker) produce(topic string, partitions int32, n int) {
	b.t.Helper()
	cl := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	var records []*kgo.Record
	for i := range n {
		for p := range partitions {
			records = append(records, sample(topic, p, i))
		}
	}
	must(b.t, cl.ProduceSync(b.ctx(), records...).FirstErr())
}

// load produces until it is stopped.
type load struct {
	stop context.CancelFunc
	done chan error
	sent int // read after done
}

func (b *broker) startLoad(topic string, partitions int32) *load {
	b.t.Helper()
	cl := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5*time.Millisecond))
	ctx, stop := context.WithCancel(context.Background())
	l := &load{stop: stop, done: make(chan error, 1)}
	go func() { // ends when stop has been called, which Cleanup sees to
		l.done <- l.run(ctx, cl, topic, partitions)
	}()
	b.t.Cleanup(stop)
	return l
}

// run writes ten records into each partition every ten milliseconds; what was
// begun is finished.
func (l *load) run(ctx context.Context, cl *kgo.Client, topic string, partitions int32) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var first kgo.FirstErrPromise
	for i := 0; ; i += 10 {
		select {
		case <-ctx.Done():
			return first.Err()
		case <-tick.C:
		}
		for p := range partitions {
			for k := range 10 {
				cl.Produce(limit, sample(topic, p, i+k), first.Promise())
				l.sent++
			}
		}
	}
}

// end stops the load and returns how many records were written, all of them
// acknowledged.
func (l *load) end(t *testing.T) int {
	t.Helper()
	l.stop()
	must(t, <-l.done)
	return l.sent
}

// read reads what a read_committed reader sees of a topic now, by partition.
func (b *broker) read(topic string) (map[int32][]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cl, err := kafka.NewClient(b.declaration(userAdmin), "scenario-read", kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	missing, out := map[int32]int64{}, map[int32][]*kgo.Record{}
	for p, end := range ends[topic] {
		if end.Err != nil {
			return nil, end.Err
		}
		out[p] = nil
		if end.Offset > 0 {
			missing[p] = end.Offset
		}
	}
	for len(missing) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read %s/%s: %w", b.name, topic, err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if !r.Attrs.IsControl() { // markers are kept to see where the log ends
				out[r.Partition] = append(out[r.Partition], r)
			}
			if end, ok := missing[r.Partition]; ok && r.Offset+1 >= end {
				delete(missing, r.Partition)
			}
		}
	}
	return out, nil
}

// exact waits until the topic's copy is equal to it: the same records in the same
// order with the same keys, values, headers, timestamps and nulls, in every
// partition; n of them (-1: any number).
func (w *world) exact(topic string, n int) {
	w.t.Helper()
	want, err := w.us.read(topic)
	must(w.t, err)
	total := 0
	for _, records := range want {
		total += len(records)
	}
	if n >= 0 && total != n {
		w.t.Errorf("%s has %d records at the source, %d were acknowledged", topic, total, n)
	}
	eventually(w.t, recovery, "exact copy of "+topic, func() error {
		got, err := w.eu.read(topic)
		if err != nil {
			return err
		}
		return difference(want, got)
	})
}

// difference is the first one between two sides, nil if there is none.
func difference(want, got map[int32][]*kgo.Record) error {
	if len(want) != len(got) {
		return fmt.Errorf("%d partitions are copied as %d", len(want), len(got))
	}
	for p, records := range want {
		for i, r := range records {
			if i >= len(got[p]) {
				return fmt.Errorf("partition %d has %d of %d records", p, len(got[p]), len(records))
			}
			if !same(r, got[p][i]) {
				return fmt.Errorf("partition %d, record %d: %s is copied as %s", p, i, show(r), show(got[p][i]))
			}
		}
		if extra := len(got[p]) - len(records); extra > 0 {
			return fmt.Errorf("partition %d has %d records too many, the first is %s", p, extra, show(got[p][len(records)]))
		}
	}
	return nil
}

func show(r *kgo.Record) string {
	return fmt.Sprintf("%d: %q=%q (%v) at %d", r.Offset, r.Key, r.Value, r.Headers, r.Timestamp.UnixMilli())
}

func same(a, b *kgo.Record) bool {
	ok := sameBytes(a.Key, b.Key) && sameBytes(a.Value, b.Value) && a.Timestamp.Equal(b.Timestamp) && len(a.Headers) == len(b.Headers)
	for i := 0; ok && i < len(a.Headers); i++ {
		ok = a.Headers[i].Key == b.Headers[i].Key && sameBytes(a.Headers[i].Value, b.Headers[i].Value)
	}
	return ok
}

// sameBytes tells null from empty.
func sameBytes(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

// running waits until the flow runs with all its partitions, without lag and
// without anything to say.
func (w *world) running(partitions int) {
	w.t.Helper()
	w.flows(partitions, func(f api.FlowStatus) error {
		if f.LagRecords != 0 {
			return fmt.Errorf("lag is %d", f.LagRecords)
		}
		return nil
	})
}

// keepsUp is running under load: the lag is short.
func (w *world) keepsUp(partitions int) {
	w.t.Helper()
	w.flows(partitions, func(f api.FlowStatus) error {
		if f.LagRecords < 0 || f.LagSeconds > 1 {
			return fmt.Errorf("lag is %d records, %.1f s", f.LagRecords, f.LagSeconds)
		}
		return nil
	})
}

func (w *world) flows(partitions int, lag func(api.FlowStatus) error) {
	w.t.Helper()
	w.liveNode().awaitStatus(recovery, "the flow runs", func(s *api.Status) error {
		f, err := flowOf(s)
		if err != nil {
			return err
		}
		copies := 0
		for _, topic := range f.Topics {
			copies += len(topic.Partitions)
			for _, p := range topic.Partitions {
				if p.Reason != "" {
					return fmt.Errorf("%s/%d: %s", topic.SourceTopic, p.Partition, p.Reason)
				}
			}
			if topic.Reason != "" {
				return fmt.Errorf("%s: %s", topic.SourceTopic, topic.Reason)
			}
		}
		switch {
		case f.State != "running" || f.Reason != "":
			return fmt.Errorf("the flow is %s: %s", f.State, f.Reason)
		case copies != partitions:
			return fmt.Errorf("%d partitions are copied, want %d", copies, partitions)
		}
		return lag(f)
	})
}

// liveNode is a node that lives.
func (w *world) liveNode() *node { return w.other("") }

// copied waits until n records of a topic can be read at the destination, or
// says how many.
func (w *world) copied(topic string, n int) {
	w.t.Helper()
	eventually(w.t, recovery, fmt.Sprintf("%d records of %s are copied", n, topic), func() error {
		got, err := w.copiedNow(topic)
		if err == nil && got < n {
			err = fmt.Errorf("%d are", got)
		}
		return err
	})
}

func (w *world) copiedNow(topic string) (int, error) {
	records, err := w.eu.read(topic)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, p := range records {
		n += len(p)
	}
	return n, nil
}
