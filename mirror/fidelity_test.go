package mirror

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

func TestTheFidelityOfACopy(t *testing.T) {
	source := ledger.TopicID{1}
	ours := mirrorSource(ledger.End{Cluster: "west", TopicID: source})
	for name, c := range map[string]struct {
		want    string
		offers  bool
		there   *found
		offsets string
		problem string // "": none
		create  bool
	}{
		"translate, and it could":       {want: "translate", offers: true, offsets: "translate", create: true},
		"auto, and it can":              {want: "auto", offers: true, offsets: "preserve", create: true},
		"auto, and it cannot":           {want: "auto", offsets: "translate", create: true},
		"auto, an ordinary topic":       {want: "auto", offers: true, there: &found{}, offsets: "translate"},
		"auto, its mirror":              {want: "auto", offers: true, there: &found{mirror: ours}, offsets: "preserve"},
		"auto, another's mirror":        {want: "auto", offers: true, there: &found{mirror: "west/other"}, offsets: "translate"},
		"auto, and it does not say":     {want: "auto", offers: true, there: &found{mirrorErr: errTest}, problem: "is not known"},
		"preserve, and it can":          {want: "preserve", offers: true, offsets: "preserve", create: true},
		"preserve, and it cannot":       {want: "preserve", problem: "no mirror topics"},
		"preserve, an ordinary topic":   {want: "preserve", offers: true, there: &found{}, problem: "ordinary"},
		"preserve, its mirror":          {want: "preserve", offers: true, there: &found{mirror: ours}, offsets: "preserve"},
		"preserve, another's mirror":    {want: "preserve", offers: true, there: &found{mirror: "west/other"}, problem: "a mirror of west/other"},
		"preserve, its mirror to grow":  {want: "preserve", offers: true, there: &found{mirror: ours, partitions: -1}, offsets: "preserve"},
		"translate, an ordinary topic":  {want: "translate", offers: true, there: &found{}, offsets: "translate"},
		"nothing said (older objects)":  {want: "", offers: true, offsets: "", create: true},
		"preserve, and it does not say": {want: "preserve", offers: true, there: &found{mirrorErr: errTest}, problem: "is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			pick, err := (flow.Selector{Include: []string{"*"}}).Matcher()
			if err != nil {
				t.Fatal(err)
			}
			l := topicPlanner{pick: pick, fidelity: fidelity{want: c.want, cluster: "west", offers: c.offers}}
			destination := map[string]found{}
			if c.there != nil {
				to := *c.there
				to.id, to.partitions = ledger.TopicID{2}, to.partitions+3
				destination["orders"] = to
			}
			p := l.planTopic("orders", found{id: source, partitions: 3}, destination, Topic{})
			if blocked := c.problem != ""; p.Blocked != blocked || blocked != (p.State == Failed) || !strings.Contains(p.Problem, c.problem) || blocked && p.Fix == "" {
				t.Errorf("state %s, blocked %t, problem %q, fix %q", p.State, p.Blocked, p.Problem, p.Fix)
			}
			if c.problem == "" && (p.Offsets != c.offsets || p.create != c.create) {
				t.Errorf("offsets %s, create %t; want %s, %t", p.Offsets, p.create, c.offsets, c.create)
			}
			if c.problem != "" && (p.create || p.grow > 0) {
				t.Error("it is made all the same")
			}
		})
	}
}

// TestDiscoveryMakesMirrorTopics: a flow that preserves offsets finds topics, makes
// their mirrors, lets them grow, and copies.
func TestDiscoveryMakesMirrorTopics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bundledOnly("east")
	w.west.create(t, "orders", 1, "retention.ms", "-1")
	w.west.produce(t, "orders", 0, 0, 10)
	w.create(t, "written", 1)
	f := w.whole(1, 1, "orders")[0].Spec
	f.Spec.Offsets = flow.OffsetsAuto
	f.Spec.Topics.Include = []string{"*"}
	found := make(chan map[string]Topic, 1)
	var known []Topic
	d := &Discoverer{
		Flow: f, Source: w.west.Cluster, Destination: w.east.Cluster, ClientID: "test", Interval: 50 * time.Millisecond,
		Known: func() []Topic { return known }, Log: slog.New(slog.DiscardHandler),
	}
	w.background(func(ctx context.Context) error {
		return d.Run(ctx, func(topics []Topic, err error) {
			if err != nil {
				if !errors.Is(err, context.Canceled) && !errors.Is(err, kafka.ErrNotSent) {
					t.Errorf("look: %v", err)
				}
				return
			}
			known = topics
			by := map[string]Topic{}
			for _, x := range topics {
				by[x.Source] = x
			}
			select {
			case <-found:
			default:
			}
			found <- by
		})
	})
	var all map[string]Topic
	eventually(t, "both are found", func() bool { all = <-found; return len(all) == 2 && all["orders"].DestinationID != ledger.TopicID{} })
	if o := all["orders"]; o.Offsets != flow.OffsetsPreserve || o.State != Running || o.Problem != "" {
		t.Errorf("orders: %+v", o)
	}
	if o := all["written"]; o.Offsets != flow.OffsetsTranslate || o.State != Running {
		t.Errorf("written: %+v", o)
	}
	n := w.node("a", nil)
	n.Assign(w.whole(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	w.same(t, "orders", 0)
	if _, err := w.west.admin.UpdatePartitions(t.Context(), 2, "orders"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the mirror has grown", func() bool {
		topics, err := w.east.admin.ListTopics(t.Context(), "orders")
		return err == nil && len(topics["orders"].Partitions) == 2
	})
	again := &site{Cluster: w.west.Cluster, client: w.client(w.west.Cluster)} // which knows both
	again.produce(t, "orders", 1, 0, 10)
	n.Assign(w.whole(2, 2, "orders"))
	eventually(t, "caught up with both", func() bool { return n.caughtUp(2) })
	w.same(t, "orders", 1)
}
