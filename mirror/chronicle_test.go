package mirror

import (
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
		GoneSince: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
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

func TestChangesOf(t *testing.T) {
	id := func(n byte) ledger.TopicID { return ledger.TopicID{n} }
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	known := Topic{Destination: "a", DestinationID: id(1)}
	gone := Topic{Destination: "a", DestinationID: id(1), GoneSince: since}
	plan := func(n byte, partitions int32) topicPlan {
		return topicPlan{Topic: Topic{Destination: "a", DestinationID: id(n), Partitions: partitions}}
	}
	made, vanished := plan(2, 3), plan(1, 3)
	made.made, vanished.vanished = true, true
	for name, c := range map[string]struct {
		plan  topicPlan
		known Topic
		at    found
		size  int32
		want  []happened
	}{
		"nothing":                 {plan(1, 3), known, found{id: id(1), partitions: 3}, 3, nil},
		"after a restart":         {plan(1, 3), known, found{id: id(1), partitions: 3}, 0, nil},
		"made":                    {made, Topic{}, found{}, 0, []happened{{ledger.TopicCreated, id(2), "3 partitions"}}},
		"found":                   {plan(2, 3), Topic{}, found{}, 0, []happened{{ledger.TopicFound, id(2), "3 partitions"}}},
		"not made":                {plan(0, 3), Topic{}, found{}, 0, nil},
		"grown":                   {plan(1, 5), known, found{id: id(1), partitions: 5}, 3, []happened{{ledger.TopicGrown, id(1), "5 partitions"}}},
		"deleted, and made again": {made, known, found{}, 3, []happened{{ledger.CopyDeleted, id(1), "by somebody else"}, {ledger.TopicCreated, id(2), "3 partitions"}}},
		"replaced":                {plan(2, 3), known, found{id: id(2), partitions: 3}, 3, []happened{{ledger.CopyDeleted, id(1), "by somebody else"}, {ledger.TopicFound, id(2), "3 partitions"}}},
		"a later generation":      {made, known, found{id: id(1), partitions: 3}, 3, []happened{{ledger.TopicCreated, id(2), "3 partitions"}}},
		"not listed, not made":    {plan(0, 3), known, found{}, 3, nil},
		"vanished":                {vanished, gone, found{}, 3, []happened{{ledger.CopyDeleted, id(1), "after the topic was gone from the source, since 2026-01-02T03:04:05Z"}}},
	} {
		if got := changesOf(&c.plan, c.known, c.at, c.size); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
