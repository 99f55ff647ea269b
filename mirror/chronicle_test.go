package mirror

import (
	"slices"
	"testing"

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
