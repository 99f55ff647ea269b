package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
)

// silence is a broker that does not answer what it is asked for settings, nor anything
// that comes after it on the connection.
type silence struct {
	of    func(topic string) bool
	asked atomic.Int32 // how often
	ended chan struct{}
	end   func()
}

// silentAbout is a liar that does not answer for the settings of topics until the silence
// has ended.
func silentAbout(t *testing.T, of func(topic string) bool) (*silence, *liar) {
	t.Helper()
	s := &silence{of: of, ended: make(chan struct{})}
	s.end = sync.OnceFunc(func() { close(s.ended) })
	l := newLiar(t, func(req kmsg.Request) kmsg.Response {
		if req, ok := req.(*kmsg.DescribeConfigsRequest); ok && slices.ContainsFunc(req.Resources, func(r kmsg.DescribeConfigsRequestResource) bool { return s.of(r.ResourceName) }) {
			s.asked.Add(1)
			<-s.ended
		}
		return nil
	}, nil)
	t.Cleanup(s.end)
	return s, l
}

var allTopics = flow.FlowSpec{Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}}}

// However long a cluster takes to describe its topics, for their settings to be compared,
// new topics and partitions are seen, made and copied.
func TestSettingsHoldUpNoNewTopic(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"west", "east"} {
		t.Run(side, func(t *testing.T) {
			t.Parallel()
			quiet, l := silentAbout(t, func(topic string) bool { return topic == "old" })
			w := newWorldBehind(t, nil, map[string]*liar{side: l})
			w.bundledOnly("west", "east")
			w.create(t, "old", 1)
			r := w.discover(allTopics)
			eventually(t, "it is said that settings do not follow", func() bool {
				o, ok := r.topic("old")
				return ok && o.State == Running && strings.Contains(o.Problem, "settings do not follow: cluster "+side) && o.Fix != ""
			})
			w.west.create(t, "new", 1)
			w.west.produce(t, "new", 0, 0, 10)
			eventually(t, "the new topic has a counterpart", r.made("new"))
			n := w.node("a", nil)
			n.Assign(w.copies(1, 1, "new"))
			w.east.expect(t, "new", 0, 10)
			if _, err := w.west.admin.UpdatePartitions(t.Context(), 3, "old"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "new partitions are seen", func() bool { o, _ := r.topic("old"); return o.Partitions == 3 })
			quiet.end()
			eventually(t, "nothing is amiss", func() bool { o, _ := r.topic("old"); return o.Problem == "" })
		})
	}
}

// Looks go on while the first request for settings is under way, which the same connection
// would not let them: a broker answers it in order.
func TestLooksDoNotWaitForSettings(t *testing.T) {
	t.Parallel()
	quiet, l := silentAbout(t, func(topic string) bool { return topic == "old" })
	w := newWorldBehind(t, nil, map[string]*liar{"west": l})
	w.bundledOnly("west", "east")
	w.create(t, "old", 1)
	r := &reports{}
	_, look := w.looks(r)
	for range 2 {
		look()
	}
	eventually(t, "settings are asked for", func() bool { return quiet.asked.Load() > 0 })
	w.west.create(t, "new", 1)
	for range 3 {
		look()
	}
	if !r.made("new")() {
		t.Error("the new topic was not made")
	}
	if times := quiet.asked.Load(); times != 1 {
		t.Errorf("settings were asked for %d times meanwhile: the looks waited until an answer was given up", times)
	}
}

// A topic of which the source does not tell the settings waits, since its copy might expire
// or compact what it must not. It holds up no other.
func TestATopicWithoutSettingsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	quiet, l := silentAbout(t, func(string) bool { return true })
	w := newWorldBehind(t, nil, map[string]*liar{"west": l})
	w.bundledOnly("west", "east")
	w.west.create(t, "orders", 1, "cleanup.policy", "compact")
	r := w.discover(allTopics)
	eventually(t, "it waits and says why", func() bool {
		o, ok := r.topic("orders")
		return ok && o.State == Waiting && strings.Contains(o.Problem, "settings") && strings.Contains(o.Problem, context.DeadlineExceeded.Error()) && o.Fix != ""
	})
	w.create(t, "made", 1)
	eventually(t, "one that has a counterpart is seen", r.made("made"))
	quiet.end()
	eventually(t, "the counterpart is made", r.made("orders"))
	if got := w.east.setting(t, "orders", "cleanup.policy"); got != "compact" {
		t.Errorf("cleanup.policy is %s, want the source's", got)
	}
}

// What was told of a topic counts for that one, not for the next that has its name.
func TestSettingsOfAFormerLifeAreNotUsed(t *testing.T) {
	t.Parallel()
	told := make(chan struct{})
	tell := sync.OnceFunc(func() { close(told) })
	l := newLiar(t, nil, func(_ kmsg.Request, resp kmsg.Response) {
		if _, ok := resp.(*kmsg.DescribeConfigsResponse); ok {
			<-told
		}
	})
	t.Cleanup(tell)
	w := newWorldBehind(t, nil, map[string]*liar{"west": l})
	w.bundledOnly("west", "east")
	w.west.create(t, "orders", 1, "cleanup.policy", "compact")
	d, look := w.looks(&reports{})
	if o := look(); o.State != Waiting {
		t.Fatalf("%+v: want one that waits for its settings", o)
	}
	remove(t, w.west.admin, "orders")
	w.west.create(t, "orders", 1, "cleanup.policy", "delete")
	tell()
	if !d.newcomers.asked.busy() {
		t.Fatal("nothing was asked")
	}
	if o := look(); o.State != Running {
		t.Fatalf("%+v: want one that is copied", o)
	}
	if got := w.east.setting(t, "orders", "cleanup.policy"); got != "delete" {
		t.Errorf("cleanup.policy is %s, want that of the topic that is there", got)
	}
}

// looks is a Discoverer of all topics, and has it look once: what it finds of orders.
func (w *world) looks(r *reports) (d *Discoverer, look func() Topic) {
	w.t.Helper()
	d = &Discoverer{
		Flow: &flow.ReplicationFlow{Spec: allTopics}, Source: w.west.Cluster, Destination: w.east.Cluster,
		ClientID: DefaultConfig().ClientID, Known: r.known, Log: slog.New(slog.DiscardHandler),
	}
	if err := d.open(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(d.close)
	return d, func() Topic {
		w.t.Helper()
		topics, err := d.pass(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		r.store(topics, nil)
		o, _ := r.topic("orders")
		return o
	}
}

// An answer may come when the topic that was compared has been made again: settings of the
// new one are not those of what was copied.
func TestSettingsOfALaterLifeDoNotFollow(t *testing.T) {
	t.Parallel()
	var mute atomic.Bool
	quiet, l := silentAbout(t, func(string) bool { return mute.Load() })
	w := newWorldBehind(t, nil, map[string]*liar{"west": l})
	w.bundledOnly("west", "east")
	w.west.create(t, "orders", 1, "retention.ms", "1000000")
	d, look := w.looks(&reports{})
	look()
	mute.Store(true)
	look() // settings are compared beside it
	remove(t, w.west.admin, "orders")
	w.west.create(t, "orders", 1, "retention.ms", "1000")
	quiet.end()
	round, ok := d.compared.take(t.Context(), time.Minute)
	if !ok || len(round) != 1 {
		t.Fatalf("%d topics were compared, want one", len(round))
	}
	if got := w.east.setting(t, "orders", "retention.ms"); got != "1000000" || len(round[0].events) != 0 {
		t.Errorf("retention.ms of the copy is %s, want 1000000; events %v", got, round[0].events)
	}
}

func TestPatience(t *testing.T) {
	late := fmt.Errorf("describe topics: %w", context.DeadlineExceeded)
	for _, c := range []struct {
		patience time.Duration
		err      error
		want     time.Duration
	}{
		{firstPatience, nil, firstPatience},
		{firstPatience, late, 2 * firstPatience},
		{lastPatience - 1, late, lastPatience},
		{lastPatience, late, lastPatience},
		{lastPatience, errors.New("refused"), firstPatience},
		{lastPatience, nil, firstPatience},
	} {
		if got := patienceAfter(c.patience, c.err); got != c.want {
			t.Errorf("after %v and %v: %v, want %v", c.patience, c.err, got, c.want)
		}
	}
}
