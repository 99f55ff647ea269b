package demo

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
)

func TestKilledNodeHasMostAtStake(t *testing.T) {
	copies := func(topic string, nodes ...string) api.TopicStatus {
		out := api.TopicStatus{SourceTopic: topic}
		for p, n := range nodes {
			out.Partitions = append(out.Partitions, api.CopyStatus{Partition: int32(p), Node: n})
		}
		return out
	}
	w := &world{fleet: []*replicator{{name: "r1"}, {name: "r2"}, {name: "r3"}}}
	for _, c := range []struct {
		name   string
		topics []api.TopicStatus
		want   string
	}{
		{"most copies", []api.TopicStatus{copies(topicQuakes, "r3", "r3", "r3"), copies(topicLive, "r1", "r1", "r2")}, "r3"},
		{"as many, but of the topic that is written", []api.TopicStatus{copies(topicQuakes, "r1", "r1", "r3"), copies(topicLive, "r2", "r2", "r3")}, "r2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := w.owner(api.FlowStatus{Topics: c.topics}); got.name != c.want {
				t.Errorf("got %s, want %s", got.name, c.want)
			}
		})
	}
}

func TestMiddlesCountsPartitionsReadInPart(t *testing.T) {
	read := func(n int) []*kgo.Record { return make([]*kgo.Record, n) }
	s := &story{
		written: map[int32]int{0: 10, 1: 10, 2: 10, 4: 1},
		partial: map[string]Log{userAlerts: {0: read(4), 1: read(10), 2: read(0), 4: read(1)}},
	}
	if got := s.middles(userAlerts); got != 1 {
		t.Errorf("got %d, want 1: only partition 0 was read in part", got)
	}
}
