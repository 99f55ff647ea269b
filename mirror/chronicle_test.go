package mirror

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// What happens to topics is in the ledger, also what happened before there was one.
func TestWhatHappensToTopicsIsInTheLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.west.create(t, "orders", 1, "retention.ms", "1000000")
	r := w.discover(flow.FlowSpec{Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}}})
	eventually(t, "orders has a counterpart", r.made("orders"))
	orders, _ := r.topic("orders")
	w.east.create(t, ledger.Topic, ledgerPartitions)
	has := func(want ...string) func() bool {
		return func() bool {
			var got []string
			for _, e := range w.east.entries(t) {
				if e, ok := e.(*ledger.Event); ok && e.SourceTopic == "orders" && e.Source.TopicID == orders.SourceID && e.Destination.TopicID == orders.DestinationID {
					got = append(got, e.What.String()+" "+e.Text)
				}
			}
			return len(got) >= len(want) && slices.EqualFunc(got[:len(want)], want, func(have, want string) bool { return len(have) >= len(want) && have[:len(want)] == want })
		}
	}
	eventually(t, "its creation is told", has("topic-created 1 partitions"))
	w.west.set(t, "orders", "retention.ms", "2000000")
	eventually(t, "the new setting is told", has("topic-created 1 partitions", "config-set retention.ms=2000000"))
	w.east.set(t, "orders", "retention.ms", "77")
	eventually(t, "the drift is told", has("topic-created", "config-set", "config-drift somebody has set the destination topic otherwise: retention.ms is 77"))
	if _, err := w.west.admin.UpdatePartitions(t.Context(), 3, "orders"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the growth is told", has("topic-created", "config-set", "config-drift", "topic-grown 3 partitions"))
	remove(t, w.west.admin, "orders")
	eventually(t, "the deletion is told", has("topic-created", "config-set", "config-drift", "topic-grown", "topic-gone the topic is gone from the source"))
	w.west.create(t, "orders", 1)
	eventually(t, "the second life is told", has("topic-created", "config-set", "config-drift", "topic-grown", "topic-gone", "topic-recreated the source topic was deleted"))
}

// The ledger tells what becomes of destination topics also where the answer to making,
// growing or deleting one is lost, and where the node has died that waited for it.
func TestALostAnswerIsNotLostToTheLedger(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	lost := map[int16]bool{}
	say := func(req kmsg.Request, resp kmsg.Response) {
		mu.Lock()
		defer mu.Unlock()
		switch resp := resp.(type) { // each is carried out, and the first answer is another
		case *kmsg.CreateTopicsResponse:
			if len(resp.Topics) == 1 && resp.Topics[0].Topic == "orders" && !lost[req.Key()] {
				lost[req.Key()], resp.Topics[0].ErrorCode = true, kerr.RequestTimedOut.Code
			}
		case *kmsg.CreatePartitionsResponse:
			lost[req.Key()], resp.Topics[0].ErrorCode = true, kerr.RequestTimedOut.Code
		case *kmsg.DeleteTopicsResponse:
			lost[req.Key()], resp.Topics[0].ErrorCode = true, kerr.RequestTimedOut.Code
		}
	}
	w := newWorldBehind(t, nil, map[string]*liar{"east": newLiar(t, nil, say)})
	w.bundledOnly("west", "east")
	w.east.create(t, ledger.Topic, ledgerPartitions)
	w.west.create(t, "orders", 1)
	r := w.reports(flow.FlowSpec{
		Topics:   flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}},
		Policies: flow.FlowPolicies{OnDelete: flow.DeleteCopy, DeleteAfter: flow.Duration(time.Millisecond)},
	}, Topic{
		Source: "late", SourceID: ledger.TopicID{1}, Destination: "late", DestinationID: ledger.TopicID{2}, Partitions: 1, State: Waiting, Blocked: true,
		GoneSince: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Told: Told{ledger.TopicID{2}, 1, ledger.TopicGone},
	})
	told := func(topic string, want ...string) func() bool {
		return func() bool {
			var got []string
			for _, e := range entriesIn[*ledger.Event](t, w.east) {
				if e.SourceTopic == topic && e.Destination.TopicID != (ledger.TopicID{}) {
					got = append(got, e.What.String()+" "+e.Text)
				}
			}
			return slices.EqualFunc(got, want, strings.HasPrefix)
		}
	}
	eventually(t, "what another node has deleted is told and forgotten", func() bool {
		_, known := r.topic("late")
		return !known && told("late", "copy-deleted after the topic was gone from the source, since 2026-01-02T03:04:05Z")()
	})
	eventually(t, "orders has a counterpart", r.made("orders"))
	eventually(t, "the one that was made is told", told("orders", "topic-found 1 partitions"))
	if _, err := w.west.admin.UpdatePartitions(t.Context(), 3, "orders"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the growth is told", told("orders", "topic-found", "topic-grown 3 partitions"))
	remove(t, w.west.admin, "orders")
	eventually(t, "the deletion is told", told("orders", "topic-found", "topic-grown", "topic-gone", "copy-deleted after the topic was gone"))
	mu.Lock()
	defer mu.Unlock()
	if len(lost) != 3 {
		t.Errorf("answers of %d kinds were lost, want 3", len(lost))
	}
}

// What a node did or saw, and had no time to tell, is told by the next one: the ledger
// was not there yet, or the node died before its next look.
func TestWhatADeadNodeHasNotToldIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bundledOnly("west", "east")
	w.west.create(t, "orders", 1)
	w.west.create(t, "gone", 1)
	var r reports
	spec := flow.FlowSpec{Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}}}
	node := func(looks int, last func([]Topic, error)) {
		t.Helper()
		d := &Discoverer{
			Flow: &flow.ReplicationFlow{Spec: spec}, Source: w.west.Cluster, Destination: w.east.Cluster,
			ClientID: "test", Known: r.known, Log: slog.New(slog.DiscardHandler),
		}
		if err := d.open(); err != nil {
			t.Fatal(err)
		}
		defer d.close()
		for i := range looks {
			topics, err := d.pass(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if i+1 < looks {
				r.store(topics, nil)
			} else {
				last(topics, nil)
			}
		}
	}
	dies := func([]Topic, error) {}
	toldOf := func(topic string, want ...string) {
		t.Helper()
		var got []string
		for _, e := range entriesIn[*ledger.Event](t, w.east) {
			if e.SourceTopic == topic {
				got = append(got, e.What.String()+" "+e.Text)
			}
		}
		if !slices.EqualFunc(got, want, strings.HasPrefix) {
			t.Errorf("the ledger tells of %s %q, want %q", topic, got, want)
		}
	}
	node(1, r.store)
	remove(t, w.west.admin, "gone")
	node(maxMissed, r.store)
	w.east.create(t, ledger.Topic, ledgerPartitions)
	node(1, r.store)
	toldOf("orders", "topic-created 1 partitions")
	if _, err := w.west.admin.UpdatePartitions(t.Context(), 3, "orders"); err != nil {
		t.Fatal(err)
	}
	node(1, dies)
	node(1, r.store)
	toldOf("orders", "topic-created", "topic-grown 3 partitions")
	node(maxMissed, r.store)
	toldOf("gone", "topic-gone the topic is gone")
	remove(t, w.east.admin, "gone")
	node(2*maxMissed-1, dies) // missed at the source, then at the destination
	node(2*maxMissed-1, r.store)
	// A page that was written before its writer died is written again.
	toldOf("gone", "topic-gone", "copy-deleted after the topic was gone", "copy-deleted")
	node(2, r.store)
	toldOf("orders", "topic-created", "topic-grown")
}

func TestChangesOf(t *testing.T) {
	id := func(n byte) ledger.TopicID { return ledger.TopicID{n} }
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	known := Topic{Destination: "a", DestinationID: id(1)}
	gone := Topic{Destination: "a", DestinationID: id(1), GoneSince: since}
	plan := func(n byte, change func(*topicPlan)) *topicPlan {
		p := &topicPlan{Topic: Topic{Destination: "a", DestinationID: id(n), Problem: "why"}}
		if change != nil {
			change(p)
		}
		return p
	}
	made := func(p *topicPlan) { p.Made = true }
	blockedBy := func(what ledger.EventKind, vanished bool) func(*topicPlan) {
		return func(p *topicPlan) { p.Blocked, p.blockedBy, p.vanished = true, what, vanished }
	}
	there := func(n byte, partitions int32) found { return found{id: id(n), partitions: partitions} }
	told := Told{id(1), 3, 0}
	deleted := happened{ledger.CopyDeleted, id(1), "by somebody else"}
	for name, c := range map[string]struct {
		plan  *topicPlan
		known Topic
		told  Told
		there found
		ids   []byte
		want  []happened
		now   Told
	}{
		"nothing":            {plan(1, nil), known, told, there(1, 3), []byte{1}, nil, told},
		"made":               {plan(2, made), Topic{}, Told{}, there(2, 3), []byte{2}, []happened{{ledger.TopicCreated, id(2), "3 partitions"}}, Told{id(2), 3, 0}},
		"made and not told":  {plan(1, made), known, Told{}, there(1, 3), []byte{1}, []happened{{ledger.TopicCreated, id(1), "3 partitions"}}, told},
		"found":              {plan(2, nil), Topic{}, Told{}, there(2, 8), []byte{2}, []happened{{ledger.TopicFound, id(2), "8 partitions"}}, Told{id(2), 8, 0}},
		"not made":           {plan(0, nil), Topic{}, Told{}, found{}, nil, nil, Told{}},
		"grown":              {plan(1, nil), known, told, there(1, 5), []byte{1}, []happened{{ledger.TopicGrown, id(1), "5 partitions"}}, Told{id(1), 5, 0}},
		"made anew":          {plan(2, made), known, told, there(2, 3), []byte{2}, []happened{deleted, {ledger.TopicCreated, id(2), "3 partitions"}}, Told{id(2), 3, 0}},
		"replaced":           {plan(2, nil), known, told, there(2, 3), []byte{2}, []happened{deleted, {ledger.TopicFound, id(2), "3 partitions"}}, Told{id(2), 3, 0}},
		"replaced, not told": {plan(2, nil), known, Told{}, there(2, 3), []byte{2}, []happened{deleted, {ledger.TopicFound, id(2), "3 partitions"}}, Told{id(2), 3, 0}},
		"replaced twice": {
			plan(3, nil),
			Topic{DestinationID: id(2)},
			told, there(3, 3),
			[]byte{3},
			[]happened{deleted, {ledger.CopyDeleted, id(2), "by somebody else"}, {ledger.TopicFound, id(3), "3 partitions"}},
			Told{id(3), 3, 0},
		},
		"replaced, told, and not reported": {plan(2, nil), known, Told{id(2), 3, 0}, there(2, 3), []byte{2}, nil, Told{id(2), 3, 0}},
		"a later generation":               {plan(2, made), known, told, there(2, 3), []byte{1, 2}, []happened{{ledger.TopicCreated, id(2), "3 partitions"}}, Told{id(2), 3, 0}},
		"not listed, not made":             {plan(0, nil), known, told, found{}, nil, nil, told},
		"another one is blocked":           {plan(2, blockedBy(0, false)), Topic{}, Told{}, there(2, 3), []byte{2}, nil, Told{}},
		"gone":                             {plan(1, blockedBy(ledger.TopicGone, false)), known, told, there(1, 3), []byte{1}, []happened{{ledger.TopicGone, id(1), "why"}}, Told{id(1), 3, ledger.TopicGone}},
		"still gone":                       {plan(1, blockedBy(ledger.TopicGone, false)), gone, Told{id(1), 3, ledger.TopicGone}, there(1, 3), []byte{1}, nil, Told{id(1), 3, ledger.TopicGone}},
		"recreated": {
			plan(1, blockedBy(ledger.TopicRecreated, false)), gone,
			Told{id(1), 3, ledger.TopicGone},
			there(1, 3),
			[]byte{1},
			[]happened{{ledger.TopicRecreated, id(1), "why"}},
			Told{id(1), 3, ledger.TopicRecreated},
		},
		"back": {plan(1, nil), gone, Told{id(1), 3, ledger.TopicGone}, there(1, 3), []byte{1}, nil, told},
		"vanished": {
			plan(1, blockedBy(ledger.TopicGone, true)), gone,
			Told{id(1), 3, ledger.TopicGone},
			found{},
			nil,
			[]happened{{ledger.CopyDeleted, id(1), "after the topic was gone from the source, since 2026-01-02T03:04:05Z"}},
			Told{Last: ledger.CopyDeleted},
		},
		"still vanished": {plan(1, blockedBy(ledger.TopicGone, true)), gone, Told{Last: ledger.CopyDeleted}, found{}, nil, nil, Told{Last: ledger.CopyDeleted}},
	} {
		ids := map[ledger.TopicID]bool{}
		for _, n := range c.ids {
			ids[id(n)] = true
		}
		got, now := changesOf(c.plan, c.known, c.told, c.there, ids)
		if !slices.Equal(got, c.want) || now != c.now {
			t.Errorf("%s: got %v and %v, want %v and %v", name, got, now, c.want, c.now)
		}
	}
}
