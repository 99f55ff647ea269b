package mirror

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

func TestPlanTopics(t *testing.T) {
	id := func(n byte) ledger.TopicID { return ledger.TopicID{n} }
	known := func(source, destination byte) map[string]Topic {
		return map[string]Topic{"a": {Source: "a", SourceID: id(source), Destination: "w.a", DestinationID: id(destination), Partitions: 2, State: Running}}
	}
	type facts map[string]found
	for name, c := range map[string]struct {
		source, destination facts
		known               map[string]Topic
		missed              int
		want                []topicPlan
	}{
		"new": {
			facts{"a": {id: id(1), partitions: 2}, "b": {id: id(2), partitions: 1}},
			nil, nil, 0,
			[]topicPlan{{Topic: Topic{Source: "a", SourceID: id(1), Destination: "w.a", Partitions: 2, State: Running}, create: true}},
		},
		"there": {
			facts{"a": {id: id(1), partitions: 2}},
			facts{"w.a": {id: id(9), partitions: 3}},
			known(1, 9), 0,
			[]topicPlan{{Topic: Topic{Source: "a", SourceID: id(1), Destination: "w.a", DestinationID: id(9), Partitions: 2, State: Running}}},
		},
		"grown": {
			facts{"a": {id: id(1), partitions: 8}},
			facts{"w.a": {id: id(9), partitions: 2}},
			known(1, 9), 0,
			[]topicPlan{{Topic: Topic{Source: "a", SourceID: id(1), Destination: "w.a", DestinationID: id(9), Partitions: 8, State: Running}, grow: 8}},
		},
		"destination made anew": {
			facts{"a": {id: id(1), partitions: 2}},
			facts{"w.a": {id: id(10), partitions: 2}},
			known(1, 9), 0,
			[]topicPlan{{Topic: Topic{Source: "a", SourceID: id(1), Destination: "w.a", DestinationID: id(10), Partitions: 2, State: Running}}},
		},
		"both made anew": {
			facts{"a": {id: id(5), partitions: 2}},
			nil, known(1, 9), 0,
			[]topicPlan{{Topic: Topic{Source: "a", SourceID: id(5), Destination: "w.a", Partitions: 2, State: Running}, create: true}},
		},
		"gone from both":  {nil, nil, known(1, 9), 5, nil},
		"not listed once": {nil, facts{"w.a": {id: id(9), partitions: 2}}, known(1, 9), 1, []topicPlan{{Topic: known(1, 9)["a"]}}},
		"no answer about a new one": {
			facts{"a": {err: errors.New("no leader")}}, nil, nil, 0, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			pick, err := flow.Selector{Include: []string{"a*"}}.Matcher()
			if err != nil {
				t.Fatal(err)
			}
			got := planTopics(pick, flow.Naming{Prefix: "w."}, c.source, c.destination, c.known, map[string]int{"a": c.missed})
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestPlanNeverSplicesTwoLives(t *testing.T) {
	pick, _ := flow.Selector{Include: []string{"*"}}.Matcher()
	id := func(n byte) ledger.TopicID { return ledger.TopicID{n} }
	known := map[string]Topic{"a": {Source: "a", SourceID: id(1), Destination: "a", DestinationID: id(9), Partitions: 2, State: Running}}
	there := map[string]found{"a": {id: id(9), partitions: 2}}
	step := func(source, destination map[string]found, missed int) Topic {
		t.Helper()
		plans := planTopics(pick, flow.Naming{}, source, destination, known, map[string]int{"a": missed})
		if len(plans) != 1 {
			t.Fatalf("%d plans", len(plans))
		}
		known = map[string]Topic{"a": plans[0].Topic} // as it is stored
		return plans[0].Topic
	}
	if got := step(nil, there, maxMissed); !got.Blocked || got.SourceID != id(1) {
		t.Errorf("deleted: %+v", got)
	}
	again := map[string]found{"a": {id: id(2), partitions: 2}}
	for range 3 {
		if got := step(again, there, 0); !got.Blocked || got.SourceID != id(1) || got.Fix == "" {
			t.Errorf("created again: %+v", got)
		}
	}
	if got := step(again, map[string]found{}, 0); got.Blocked || got.SourceID != id(2) {
		t.Errorf("destination deleted: %+v", got)
	}
}

// reports keeps what a Discoverer last said, as the fleet would.
type reports struct {
	mu     sync.Mutex
	topics []Topic
	err    error
}

func (r *reports) store(topics []Topic, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err = err; err == nil {
		r.topics = topics
	}
}

func (r *reports) known() []Topic {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.topics
}

func (r *reports) topic(name string) (Topic, bool) {
	for _, t := range r.known() {
		if t.Source == name {
			return t, true
		}
	}
	return Topic{}, false
}

func TestDiscovererMakesCounterparts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.west.create(t, "orders", 2, "cleanup.policy", "compact", "retention.ms", "86400000", "max.message.bytes", "2000000")
	w.west.create(t, "other", 1)
	r := &reports{}
	d := &Discoverer{
		Flow: &flow.ReplicationFlow{Spec: flow.FlowSpec{Topics: flow.TopicSelector{
			Selector: flow.Selector{Include: []string{"orders*"}}, Rename: flow.Naming{Prefix: "west."},
		}}},
		Source: w.west.Cluster, Destination: w.east.Cluster, ClientID: "test", Known: r.known,
		Interval: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	}
	w.background(func(ctx context.Context) error { return d.Run(ctx, r.store) })
	eventually(t, "orders has a counterpart", func() bool {
		o, ok := r.topic("orders")
		return ok && o.State == Running && o.DestinationID != ledger.TopicID{}
	})
	if _, ok := r.topic("other"); ok {
		t.Error("a topic that is not picked is reported")
	}
	got, err := w.east.admin.DescribeTopicConfigs(t.Context(), "west.orders")
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for _, c := range got[0].Configs {
		settings[c.Key] = c.MaybeValue()
	}
	for key, want := range map[string]string{
		"cleanup.policy": "compact", "retention.ms": "86400000", "max.message.bytes": "2000000",
		"compression.type": "producer", "message.timestamp.type": "CreateTime",
	} {
		if settings[key] != want {
			t.Errorf("%s is %q, want %q", key, settings[key], want)
		}
	}

	if _, err := w.west.admin.UpdatePartitions(t.Context(), 5, "orders"); err != nil {
		t.Fatal(err)
	}
	partitions := func() int {
		details, err := w.east.admin.ListTopics(t.Context(), "west.orders")
		if err != nil {
			t.Fatal(err)
		}
		return len(details["west.orders"].Partitions)
	}
	eventually(t, "the counterpart has grown", func() bool { o, _ := r.topic("orders"); return o.Partitions == 5 && partitions() == 5 })

	before, _ := r.topic("orders")
	remove(t, w.west.admin, "orders")
	eventually(t, "deletion seen", func() bool { o, _ := r.topic("orders"); return o.Blocked })
	w.west.create(t, "orders", 1)
	eventually(t, "new life seen", func() bool { o, _ := r.topic("orders"); return o.Blocked && o.State == Failed })
	if o, _ := r.topic("orders"); o.SourceID != before.SourceID {
		t.Error("the life that was copied is forgotten")
	}
	remove(t, w.east.admin, "west.orders")
	eventually(t, "begun anew", func() bool {
		o, _ := r.topic("orders")
		return !o.Blocked && o.State == Running && o.SourceID != before.SourceID && o.DestinationID != before.DestinationID && o.Partitions == 1
	})
}

func remove(t *testing.T, admin *kadm.Client, topic string) {
	t.Helper()
	if _, err := admin.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
}
