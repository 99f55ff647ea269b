package broker

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/controller"
)

func TestPartitionsAreBounded(t *testing.T) {
	b := startBroker(t, func(c *Config) {
		c.Provenance = false
		c.Limits.MaxPartitions = int(c.OffsetsPartitions+c.TransactionsPartitions) + 10
		c.DefaultPartitions = MaxTopicPartitions
	})
	ctx := within(t, 30*time.Second)
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	adm := kadm.NewClient(cl)
	create := func(partitions int32, topics ...string) (codes []error) {
		res, err := adm.CreateTopics(ctx, partitions, 1, nil, topics...)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range topics {
			codes = append(codes, res[name].Err)
		}
		return codes
	}
	grow := func(to int, topic string) error {
		res, err := adm.UpdatePartitions(ctx, to, topic)
		if err != nil {
			t.Fatal(err)
		}
		return res[topic].Err
	}
	for _, c := range []struct {
		what string
		errs []error
		want error
	}{
		{"two topics that are too much together", create(6_000, "a", "b"), kerr.PolicyViolation},
		{"the default is too much", create(-1, "a", "b"), kerr.PolicyViolation},
		{"more than the broker may have", create(11, "a"), kerr.PolicyViolation},
		{"as many as it may have", create(8, "a"), nil},
		{"one more topic", create(3, "b"), kerr.PolicyViolation},
		{"growing beyond it", []error{grow(11, "a")}, kerr.PolicyViolation},
		{"growing up to it", []error{grow(10, "a")}, nil},
		{"growing beyond what a topic may have", []error{grow(MaxTopicPartitions+1, "a")}, kerr.InvalidPartitions},
	} {
		for _, err := range c.errs {
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.what, err, c.want)
			}
		}
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "asked-for"}).FirstErr(); err == nil {
		t.Error("a topic that a client asks for is made beyond the limit")
	}
	if topics, err := adm.ListTopics(ctx); err != nil || len(topics) != 1 || len(topics["a"].Partitions) != 10 {
		t.Errorf("topics %v: %v", topics.Names(), err)
	}
}

// TestTheDefaultOfPartitionsIsBounded where it counts: one that an older version
// has taken is no way round.
func TestTheDefaultOfPartitionsIsBounded(t *testing.T) {
	b := startBroker(t, nil)
	b.settings.Store(&liveSettings{partitions: 2 * MaxTopicPartitions})
	want := kmsg.NewCreateTopicsRequestTopic()
	want.NumPartitions, want.ReplicationFactor = -1, -1
	if n, err := b.plannedPartitions(&want); !errors.Is(err, kerr.InvalidPartitions) {
		t.Errorf("%d partitions: %v", n, err)
	}
	cfg, _ := testConfig(t)
	cfg.DefaultPartitions = 2 * MaxTopicPartitions
	if cfg.Validate() == nil {
		t.Error("a default above the limit is accepted")
	}
}

// TestALateTopicIsNotMade: a stop does not wait for the files of its partitions, and
// the next start removes those that were made.
func TestALateTopicIsNotMade(t *testing.T) {
	b := startBroker(t, nil)
	late := make(chan struct{})
	close(late)
	if _, err := b.createTopicOf("t", 100, nil, nil, late); !errors.Is(err, errLate) || b.topic("t") != nil {
		t.Fatalf("created: %v", err)
	}
	b.makeTopic(t, "t", 100, 0)
	_, err := b.changeTopic("t", late, func(c controller.Topic) (controller.Topic, error) {
		c.Partitions = 200
		return c, nil
	})
	if n := len(b.topic("t").partitions); !errors.Is(err, errLate) || n != 100 {
		t.Fatalf("%d partitions: %v", n, err)
	}
	b = b.restart(t)
	if n := len(b.topic("t").partitions); n != 100 {
		t.Errorf("%d partitions after another start", n)
	}
}

// TestAStopTellsWhatTakesLong hangs if a handler that works until it is late is not
// told when the drain is over.
func TestAStopTellsWhatTakesLong(t *testing.T) {
	entered := make(chan struct{})
	b := startPrepared(t, func(c *Config) { c.Limits.DrainTimeout = 10 * time.Millisecond }, func(b *Broker) {
		b.table = maps.Clone(b.table)
		row := *b.table[int16(kmsg.ListTransactions)]
		row.handle.begin = func(_ *Broker, _ context.Context, r *request) pending {
			close(entered)
			<-r.late
			return settled(nil, errLate)
		}
		b.table[int16(kmsg.ListTransactions)] = &row
	})
	nc := dial(t, b.Addr("plain"))
	if _, err := nc.Write(frameOf(kmsg.NewPtrListTransactionsRequest(), 0)); err != nil {
		t.Fatal(err)
	}
	<-entered
	b.stop()
}
