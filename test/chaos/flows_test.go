//go:build chaos && interop && unix

package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// flowPairs have an Apache Kafka on both sides or on one.
var flowPairs = []pair{
	{name: "bundled-kafka39", from: bundled, to: kafka39},
	{name: "kafka41-bundled", from: kafka41, to: bundled},
	{name: "kafka39-kafka41", from: kafka39, to: kafka41},
	{name: "kafka41-kafka39", from: kafka41, to: kafka39},
}

// sample is a topic as the flows meet it.
type sample struct {
	topic   string
	configs map[string]string
	write   func(t *testing.T, c *cluster, topic string)
}

// samples have what flows must carry over: every codec, null and empty keys and
// values, headers, records of years ago, transactions of both outcomes, and what
// a cleaner leaves of a compacted topic.
var samples = []sample{
	{"codecs", nil, writeCodecs},
	{"txn", nil, writeTransactions},
	{"compacted", map[string]string{"cleanup.policy": "compact", "segment.ms": "500", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000"}, writeCompacted},
}

func sampleTopics() (names []string) {
	for _, s := range samples {
		names = append(names, s.topic)
	}
	return names
}

// sampleRecord is the n-th of a topic.
func sampleRecord(topic string, n int) *kgo.Record {
	r := &kgo.Record{Topic: topic, Partition: int32(n % 2), Key: fmt.Appendf(nil, "key-%d", n%23), Value: fmt.Appendf(nil, "%s %d %x", topic, n, make([]byte, n%300))}
	switch n % 10 {
	case 1:
		r.Key = nil
	case 2:
		r.Key, r.Value = []byte{}, []byte{}
	case 3:
		r.Value = nil
	case 4:
		r.Headers = []kgo.RecordHeader{{Key: "null"}, {Key: "n", Value: fmt.Append(nil, n)}, {Key: "n", Value: []byte{}}}
	case 5:
		r.Timestamp = time.UnixMilli(1_577_836_800_000 + int64(n)) // 2020
	}
	return r
}

func writeCodecs(t *testing.T, c *cluster, topic string) {
	n := 0
	for _, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		cl := c.open(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codec))
		for range 4 { // batches
			var records []*kgo.Record
			for range 50 {
				n++
				records = append(records, sampleRecord(topic, n))
			}
			must(t, cl.ProduceSync(t.Context(), records...).FirstErr())
		}
	}
}

func writeTransactions(t *testing.T, c *cluster, topic string) {
	cl := c.open(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("samples"))
	for i := range 12 {
		must(t, cl.BeginTransaction())
		for n := range 10 {
			must(t, cl.ProduceSync(t.Context(), sampleRecord(topic, 100*i+n)).FirstErr())
		}
		must(t, cl.EndTransaction(t.Context(), kgo.TransactionEndTry(i%3 != 1)))
	}
}

// writeCompacted returns when the cleaner has been there.
func writeCompacted(t *testing.T, c *cluster, topic string) {
	cl := c.open(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	written, round := 0, 0
	write := func() {
		for n := range 60 {
			r := &kgo.Record{Topic: topic, Partition: int32(n % 2), Key: fmt.Appendf(nil, "key-%d", n%20+n/40*round*100), Value: fmt.Appendf(nil, "%d %d", round, n)}
			must(t, cl.ProduceSync(t.Context(), r).FirstErr())
			written++
		}
		round++
	}
	for range 4 {
		write()
	}
	eventually(t, recovery, "the source is compacted", func() error {
		write() // closes the segment before it
		if have := readTopics(t, c, topic).count(); have >= written {
			return fmt.Errorf("%d records of %d are there", have, written)
		}
		return nil
	})
}

// logs is what a read_committed reader sees of topics.
type logs map[string]map[int32][]*kgo.Record

func (l logs) count() (n int) {
	for _, partitions := range l {
		for _, records := range partitions {
			n += len(records)
		}
	}
	return n
}

func readTopics(t *testing.T, c *cluster, topics ...string) logs {
	t.Helper()
	all := logs{}
	for _, topic := range topics {
		all[topic] = readAll(t, c, topic)
	}
	return all
}

// TestFlows carries the samples between clusters that are made of different
// things, with a group that stands in the midst of them, and compares both sides
// field by field.
func TestFlows(t *testing.T) {
	for _, p := range flowPairs {
		t.Run(p.name, func(t *testing.T) {
			dir := t.TempDir()
			us, eu := startCluster(t, dir, "us", p.from), startCluster(t, dir, "eu", p.to)
			f := newFleet(t, filepath.Join(dir, "fleet"), 1)
			t.Cleanup(func() {
				if t.Failed() {
					f.describe()
				}
			})
			writeSamples(t, us)
			objects := us.declaration() + eu.declaration() + "apiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: " + flowName + "}\nspec: {source: us, destination: eu, topics: {include: [\"*\"]}, groups: {include: [\"*\"]}}\n"
			eventually(t, recovery, "apply", func() error {
				_, err := f.anyNode(http.MethodPost, "/api/v1/apply", objects)
				return err
			})
			awaitEqualSides(t, us, eu)
			stand := commitSomewhere(t, us)
			eventually(t, recovery, "the group stands where it stood", func() error { return standsThere(t, us, eu, stand) })
			for _, s := range samples { // and what comes later
				s.write(t, us, s.topic)
			}
			awaitEqualSides(t, us, eu)
		})
	}
}

func writeSamples(t *testing.T, c *cluster) {
	t.Helper()
	adm := kadm.NewClient(c.open(t))
	for _, s := range samples {
		configs := map[string]*string{"retention.ms": kadm.StringPtr("-1")}
		for k, v := range s.configs {
			configs[k] = &v
		}
		_, err := adm.CreateTopic(t.Context(), 2, 1, configs, s.topic)
		must(t, err)
		s.write(t, c, s.topic)
	}
}

// awaitEqualSides waits until the copy has what the source has. What a cleaner
// removes on either side meanwhile is not held against the copy: of a compacted
// topic the newest record of each key is compared.
func awaitEqualSides(t *testing.T, us, eu *cluster) {
	t.Helper()
	eventually(t, recovery, "both sides are equal", func() error {
		if err := counterparts(t, eu, sampleTopics()...); err != nil {
			return err
		}
		from, to := readTopics(t, us, sampleTopics()...), readTopics(t, eu, sampleTopics()...)
		for _, s := range samples {
			for p := range int32(2) {
				a, b := from[s.topic][p], to[s.topic][p]
				if s.configs["cleanup.policy"] == "compact" {
					a, b = newest(a), newest(b)
				}
				if err := equal(a, b); err != nil {
					return fmt.Errorf("%s/%d: %w", s.topic, p, err)
				}
			}
		}
		return nil
	})
}

func equal(a, b []*kgo.Record) error {
	for i := range min(len(a), len(b)) {
		if !same(a[i], b[i]) {
			return fmt.Errorf("record %d, %s, is copied as %s", i, show(a[i]), show(b[i]))
		}
	}
	if len(a) != len(b) {
		return fmt.Errorf("%d records, and %d in the copy", len(a), len(b))
	}
	return nil
}

// newest is the last record of each key, in order.
func newest(records []*kgo.Record) (kept []*kgo.Record) {
	last := map[string]int64{}
	for _, r := range records {
		last[string(r.Key)] = r.Offset
	}
	for _, r := range records {
		if last[string(r.Key)] == r.Offset {
			kept = append(kept, r)
		}
	}
	return kept
}

// counterparts says whether a cluster has the topics.
func counterparts(t *testing.T, c *cluster, topics ...string) error {
	ctx, cancel := within(t)
	defer cancel()
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	details, err := kadm.NewClient(cl).ListTopics(ctx, topics...)
	if err == nil {
		err = details.Error()
	}
	return err
}

const sampleGroup = "app"

// commitSomewhere puts the group somewhere in each partition.
func commitSomewhere(t *testing.T, c *cluster) kadm.Offsets {
	t.Helper()
	rng := rand.New(rand.NewPCG(*seedFlag, 7))
	var at kadm.Offsets
	for topic, partitions := range readTopics(t, c, sampleTopics()...) {
		for p, records := range partitions {
			at.Add(kadm.Offset{Topic: topic, Partition: p, At: records[rng.IntN(len(records))].Offset, LeaderEpoch: -1})
		}
	}
	must(t, kadm.NewClient(c.open(t)).CommitAllOffsets(t.Context(), sampleGroup, at))
	return at
}

// standsThere says whether the group would go on in the copy with the record
// that it would go on with at the source.
func standsThere(t *testing.T, us, eu *cluster, at kadm.Offsets) error {
	ctx, cancel := within(t)
	defer cancel()
	there, err := kadm.NewClient(eu.open(t)).FetchOffsets(ctx, sampleGroup)
	if err != nil {
		return err
	}
	from, to := readTopics(t, us, sampleTopics()...), readTopics(t, eu, sampleTopics()...)
	next := func(records []*kgo.Record, offset int64) *kgo.Record {
		for _, r := range records {
			if r.Offset >= offset {
				return r
			}
		}
		return nil
	}
	for topic, partitions := range at {
		for p, o := range partitions {
			moved, ok := there.Lookup(topic, p)
			if !ok || moved.Err != nil {
				return errors.Join(fmt.Errorf("%s/%d: the group has no position", topic, p), moved.Err)
			}
			if topic == "compacted" { // records may go at any time, on either side
				if !sameSplit(from[topic][p], o.At, to[topic][p], moved.At) {
					return fmt.Errorf("%s/%d: the group is at %d and at %d of the copy, which is elsewhere", topic, p, o.At, moved.At)
				}
				continue
			}
			if a, b := next(from[topic][p], o.At), next(to[topic][p], moved.At); a == nil || b == nil || !same(a, b) {
				return fmt.Errorf("%s/%d: the group is at %d and at %d of the copy, which are different records", topic, p, o.At, moved.At)
			}
		}
	}
	return nil
}

// sameSplit says that no record is before a position on one side and not on the
// other, of those that both sides have. Their values tell them apart.
func sameSplit(from []*kgo.Record, at int64, to []*kgo.Record, moved int64) bool {
	before := map[string]bool{}
	for _, r := range from {
		before[string(r.Value)] = r.Offset < at
	}
	for _, r := range to {
		if was, ok := before[string(r.Value)]; ok && was != (r.Offset < moved) {
			return false
		}
	}
	return true
}
