//go:build interop

package interop

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/fold"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// TestSpikeFold: a ledger in Apache Kafka is folded, what a fold stands for is deleted, and
// what then is there is folded again; one that is compacted lets nobody delete.
func TestSpikeFold(t *testing.T) {
	onEach(t, nil, func(t *testing.T, b *apachekafka.Broker) {
		ctx := t.Context()
		c := b.Cluster(apachekafka.Admin)
		dial := func(opts ...kgo.Opt) (*kgo.Client, error) { return kafka.NewClient(c, "fold", opts...) }
		adm := kadm.NewClient(newClient(t, c))
		createTopic(t, c, ledger.Topic, 1, map[string]string{"retention.ms": "-1"})
		id, err := adm.ListTopicsWithInternal(ctx, ledger.Topic)
		must(t, "topic id", err)
		meta, err := adm.BrokerMetadata(ctx)
		must(t, "cluster id", err)

		lane, err := dial(kgo.TransactionalID("fold-lane"))
		must(t, "lane", err)
		defer lane.Close()
		chain := ledger.NewChain(ledger.WriterID{1})
		copied := ledger.CopyID{Source: ledger.End{Cluster: "src", TopicID: ledger.TopicID{1}}, Destination: ledger.End{Cluster: meta.Cluster, TopicID: ledger.TopicID{2}}}
		say := func(entries ...ledger.Entry) {
			must(t, "begin", lane.BeginTransaction())
			must(t, "write", lane.ProduceSync(ctx, &kgo.Record{Topic: ledger.Topic, Value: chain.Encode(entries)}).FirstErr())
			must(t, "commit", lane.EndTransaction(ctx, kgo.TryCommit))
		}
		say(&ledger.Begin{Copy: copied, Epoch: 1, Flow: "f", Lane: "lane"})
		for x := int64(0); x < 500; x += 10 {
			say(&ledger.Hop{Copy: copied.Key(), Epoch: 1, From: x, Next: x + 10, At: time.UnixMilli(x), Runs: []ledger.Run{{Source: x, Count: 10, Destination: 2 * x, Path: ledger.Raw}}})
		}

		log, err := tail.OpenLog(tail.LogConfig{Dial: dial, Cluster: meta.Cluster, TopicID: ledger.TopicID(id[ledger.Topic].ID)})
		must(t, "open", err)
		defer log.Close()
		must(t, "delete nothing", log.Delete(ctx, 0))
		order := func(writer byte) fold.Order {
			return fold.Order{Cluster: meta.Cluster, By: fold.Author{Writer: ledger.WriterID{9, writer}}, At: time.Now(), Witness: offsets.NewWitness(meta.Cluster, 0)}
		}
		done, deleted, err := fold.Write(ctx, log, order(1))
		must(t, "fold", err)
		start, _, err := log.Extent(ctx)
		must(t, "extent", err)
		if !deleted || done.Pages != 51 || start != done.Below || start < 51 {
			t.Errorf("folded: %+v, the log begins at %d", done, start)
		}
		again, err := fold.Weigh(ctx, log, order(2))
		must(t, "weigh", err)
		if again.Wrote || again.Below != start {
			t.Errorf("weighed: %+v", again)
		}
		say(&ledger.Hop{Copy: copied.Key(), Epoch: 1, From: 500, Next: 501, At: time.UnixMilli(500), Runs: []ledger.Run{{Source: 500, Count: 1, Destination: 1000, Path: ledger.Raw}}})
		if done, deleted, err := fold.Write(ctx, log, order(3)); err != nil || !deleted || done.Start != start {
			t.Errorf("folded again: %+v, %v", done, err)
		}

		_, err = adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "cleanup.policy", Value: kadm.StringPtr("compact")}}, ledger.Topic)
		must(t, "compact", err)
		for deadline := time.Now().Add(20 * time.Second); ; { // brokers hear of it later
			err := log.Delete(ctx, start)
			if errors.Is(err, kerr.PolicyViolation) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("delete from a compacted topic: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}
