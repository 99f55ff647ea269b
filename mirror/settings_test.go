package mirror

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/kafka"
)

// A destination that does not answer for its topics holds up the start of a flow's copies
// for a bounded time: they wait and say so.
func TestAStartGivesUpADestinationThatIsSilentAboutItsTopics(t *testing.T) {
	t.Parallel()
	quiet, l := silentAbout(t, func(string) bool { return true })
	w := newWorldBehind(t, nil, map[string]*liar{"east": l})
	w.bundledOnly("west", "east")
	w.create(t, "orders", 1)
	client, err := kafka.NewClient(w.east.Cluster, DefaultConfig().ClientID) // the liar looks at no other
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s := topicSettings{peer: &peer{cluster: w.east.Cluster, client: client}, within: 200 * time.Millisecond}
	starts := []*copier{runningCopier(t, "orders")}
	if err := s.load(t.Context(), starts); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it was waited for until %v", err)
	}
	quiet.end()
	s.within = 0
	if err := s.load(t.Context(), starts); err != nil {
		t.Error(err)
	}
	if end, known := s.end(starts[0].destination()); !known || end != 0 {
		t.Errorf("the destination ends at %d, known: %v", end, known)
	}
}
