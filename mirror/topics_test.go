package mirror

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

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
		"born while the flow looked": {
			facts{"a": {id: id(1), partitions: 2, newborn: true}},
			nil, nil, 0,
			[]topicPlan{{Topic: Topic{Source: "a", SourceID: id(1), Destination: "w.a", Partitions: 2, Newborn: 2, State: Running}, create: true}},
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
			[]topicPlan{{Topic: Topic{Source: "a", SourceID: id(1), Destination: "w.a", DestinationID: id(9), Partitions: 8, Newborn: 6, State: Running}, grow: 8}},
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
			[]topicPlan{{Topic: Topic{Source: "a", SourceID: id(5), Destination: "w.a", Partitions: 2, Newborn: 2, State: Running}, create: true}},
		},
		"gone from both, by one look": {nil, nil, known(1, 9), 1, []topicPlan{{Topic: known(1, 9)["a"]}}},
		"not listed once":             {nil, facts{"w.a": {id: id(9), partitions: 2}}, known(1, 9), 1, []topicPlan{{Topic: known(1, 9)["a"]}}},
		"no answer about a new one": {
			facts{"a": {err: errors.New("no leader")}}, nil, nil, 0, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			pick, err := flow.Selector{Include: []string{"a*"}}.Matcher()
			if err != nil {
				t.Fatal(err)
			}
			l := topicPlanner{pick: pick, name: flow.Naming{Prefix: "w."}}
			got := l.plan(c.source, c.destination, c.known, map[string]int{"a": c.missed}, time.Now())
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
		l := topicPlanner{pick: pick}
		plans := l.plan(source, destination, known, map[string]int{"a": missed}, time.Now())
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

// KAFKA-13255, KAFKA-14420: settings were carried over wrongly, or taken from topics
// of the destination.
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

// TestALookThatFailsIsToldAndTriedAgain has a flow begin while its source is not there:
// it says so, look after look, and finds the topics once it is.
//
// KAFKA-17232: a connector whose first listing failed had no tasks for ever, and said
// that it ran.
func TestALookThatFailsIsToldAndTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bundledOnly("west")
	w.west.create(t, "orders", 1)
	w.hosts["west"].stop()
	outcomes := make(chan error)
	r := &reports{}
	d := &Discoverer{
		Flow:   &flow.ReplicationFlow{Spec: flow.FlowSpec{Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}}}},
		Source: w.west.Cluster, Destination: w.east.Cluster, ClientID: "test", Known: r.known,
		Interval: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	}
	w.background(func(ctx context.Context) error {
		return d.Run(ctx, func(topics []Topic, err error) {
			r.store(topics, err)
			select {
			case outcomes <- err:
			case <-ctx.Done():
			}
		})
	})
	next := func() error {
		t.Helper()
		select {
		case err := <-outcomes:
			return err
		case <-time.After(20 * time.Second):
			t.Fatal("nothing is said of looks for topics")
			return nil
		}
	}
	for range 2 {
		if err := next(); err == nil {
			t.Fatal("a look at a source that is not there went well")
		}
	}
	w.hosts["west"].start(w)
	for found := r.made("orders"); !found(); {
		_ = next() // the first may still fail
	}
}

// TestATopicStaysNewOverALookThatFails: a flow that starts with the latest records copies
// a topic that came later from its first one on, also if the look that found it failed.
func TestATopicStaysNewOverALookThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.west.create(t, "orders", 1)
	r := &reports{}
	d := &Discoverer{
		Flow:   &flow.ReplicationFlow{Spec: flow.FlowSpec{Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}}}},
		Source: w.west.Cluster, Destination: w.east.Cluster, ClientID: "test", Log: slog.New(slog.DiscardHandler),
	}
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	defer d.close()
	look := func(ctx context.Context) error {
		topics, err := d.pass(ctx)
		r.store(topics, err)
		return err
	}
	d.Known = r.known
	if err := look(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.west.create(t, "late", 1)
	broken, breakOff := context.WithCancel(t.Context())
	d.Known = func() []Topic { // is asked when the topics are listed
		breakOff()
		return r.known()
	}
	if err := look(broken); err == nil {
		t.Fatal("the look went well")
	}
	d.Known = r.known
	if err := look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if late, ok := r.topic("late"); !ok || late.Newborn != 1 {
		t.Errorf("%+v: one partition is new", late)
	}
	if orders, ok := r.topic("orders"); !ok || orders.Newborn != 0 {
		t.Errorf("%+v was there", orders)
	}
}

func remove(t *testing.T, admin *kadm.Client, topic string) {
	t.Helper()
	if _, err := admin.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
}

func TestAGoneTopicAndItsCopy(t *testing.T) {
	pick, _ := flow.Selector{Include: []string{"*"}}.Matcher()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	id := func(n byte) ledger.TopicID { return ledger.TopicID{n} }
	there := map[string]found{"a": {id: id(9), partitions: 1}}
	for name, c := range map[string]struct {
		policy    string
		gone      time.Duration // since when the fleet knows
		missed    int
		remove    bool
		blocked   bool
		goneSince time.Time
	}{
		"kept":                       {flow.DeleteKeep, 100 * time.Hour, maxMissed, false, true, now.Add(-100 * time.Hour)},
		"deleted when the time came": {flow.DeleteCopy, time.Hour, maxMissed, true, true, now.Add(-time.Hour)},
		"not before":                 {flow.DeleteCopy, time.Hour - time.Second, maxMissed, false, true, now.Add(-time.Hour + time.Second)},
		"not when it was just found": {flow.DeleteCopy, 0, maxMissed, false, true, now},
		"not by one look":            {flow.DeleteCopy, 100 * time.Hour, 1, false, false, now.Add(-100 * time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			k := Topic{Source: "a", SourceID: id(1), Destination: "a", DestinationID: id(9), Partitions: 1, State: Running}
			if c.gone > 0 {
				k.GoneSince = now.Add(-c.gone)
			}
			l := topicPlanner{pick: pick, policies: flow.FlowPolicies{OnDelete: c.policy, DeleteAfter: flow.Duration(time.Hour)}}
			plans := l.plan(nil, there, map[string]Topic{"a": k}, map[string]int{"a": c.missed}, now)
			if len(plans) != 1 || plans[0].remove != c.remove || plans[0].Blocked != c.blocked || !plans[0].GoneSince.Equal(c.goneSince) {
				t.Errorf("got %+v", plans)
			}
		})
	}
	for name, there := range map[string]map[string]found{"nothing is in its place": nil, "another topic is in its place": {"a": {id: id(8), partitions: 1}}} {
		k := Topic{Source: "a", SourceID: id(1), Destination: "a", DestinationID: id(9), GoneSince: now.Add(-100 * time.Hour)}
		l := topicPlanner{pick: pick, policies: flow.FlowPolicies{OnDelete: flow.DeleteCopy, DeleteAfter: flow.Duration(time.Hour)}}
		if plans := l.plan(nil, there, map[string]Topic{"a": k}, map[string]int{"a": maxMissed}, now); len(plans) != 1 || plans[0].remove || !plans[0].absent || !plans[0].Blocked {
			t.Errorf("the copy is gone, %s: got %+v", name, plans)
		}
	}
	l := topicPlanner{pick: pick, policies: flow.FlowPolicies{OnDelete: flow.DeleteCopy, DeleteAfter: flow.Duration(time.Hour)}}
	long := Topic{Source: "a", SourceID: id(1), Destination: "a", DestinationID: id(9), GoneSince: now.Add(-100 * time.Hour)}
	denied := map[string]found{"a": {err: kerr.TopicAuthorizationFailed}}
	if plans := l.plan(denied, there, map[string]Topic{"a": long}, nil, now); len(plans) != 1 || plans[0].remove || plans[0].Fix == "" {
		t.Errorf("a topic that may not be seen: %+v", plans)
	}
}

func TestTwoTopicsAreNotCopiedIntoOne(t *testing.T) {
	pick, _ := flow.Selector{Include: []string{"*"}}.Matcher()
	l := topicPlanner{pick: pick}
	source := map[string]found{"a": {id: ledger.TopicID{1}, partitions: 1}, "a.gen-2": {id: ledger.TopicID{2}, partitions: 1}}
	destination := map[string]found{"a.gen-2": {id: ledger.TopicID{9}, partitions: 1}}
	known := map[string]Topic{"a": {Source: "a", SourceID: ledger.TopicID{1}, Destination: "a.gen-2", DestinationID: ledger.TopicID{9}}}
	plans := l.plan(source, destination, known, nil, time.Now())
	if len(plans) != 2 || plans[0].Blocked || plans[0].Destination != "a.gen-2" || !plans[1].Blocked || plans[1].create || plans[1].Fix == "" {
		t.Errorf("got %+v", plans)
	}
}

// A topic that was created again is copied into another topic, and the old copy
// stays as it is.
func TestANewGenerationLeavesTheOldOneAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.west.create(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 10)
	spec := flow.FlowSpec{
		Topics:   flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}, Rename: flow.Naming{Template: "w.${topic}.c"}},
		Policies: flow.FlowPolicies{OnRecreate: flow.RecreateNewGeneration},
	}
	r := w.discover(spec)
	eventually(t, "orders has a counterpart", r.made("orders"))
	first, _ := r.topic("orders")
	for _, want := range []string{"w.orders.c.gen-2", "w.orders.c.gen-3"} {
		before, _ := r.topic("orders")
		remove(t, w.west.admin, "orders")
		w.west.create(t, "orders", 2)
		eventually(t, "the new life has its own topic", func() bool {
			o, _ := r.topic("orders")
			return r.made("orders")() && o.Destination == want && o.SourceID != before.SourceID && !o.Blocked
		})
	}
	topics, err := w.east.admin.ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := topics["w.orders.c"]; got.ID != kadm.TopicID(first.DestinationID) {
		t.Errorf("the first life's copy is %v, it was %v", got.ID, first.DestinationID)
	}
}

// The copy of a topic that was deleted is deleted when the policy says so, not
// while the source only refuses to show the topic.
func TestTheCopyOfADeletedTopicIsDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.west.create(t, "orders", 1)
	w.west.create(t, "kept", 1)
	r := w.discover(flow.FlowSpec{
		Topics:   flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}},
		Policies: flow.FlowPolicies{OnDelete: flow.DeleteCopy, DeleteAfter: flow.Duration(time.Second)},
	})
	eventually(t, "both have counterparts", func() bool { return r.made("orders")() && r.made("kept")() })
	remove(t, w.west.admin, "orders")
	eventually(t, "it is announced", func() bool {
		o, ok := r.topic("orders")
		return ok && o.Blocked && strings.Contains(o.Fix, "is deleted at")
	})
	eventually(t, "the copy is gone and forgotten", func() bool {
		topics, err := w.east.admin.ListTopics(t.Context())
		_, known := r.topic("orders")
		return err == nil && !topics.Has("orders") && topics.Has("kept") && !known
	})
}
