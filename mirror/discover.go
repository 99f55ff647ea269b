package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// DefaultDiscoverInterval is how soon a new topic or partition is seen. A pass is
// one Metadata request to each side; for 10,000 partitions that is half a
// megabyte.
const DefaultDiscoverInterval = time.Second

// Discoverer finds the topics of a flow and makes their counterparts. It runs
// on one node of the fleet for each flow.
type Discoverer struct {
	Flow                *flow.ReplicationFlow
	Source, Destination *flow.Cluster
	ClientID            string
	Fleet               string // a label in the ledger
	// Known are the topics as last reported, by anybody: what tells a topic from
	// its namesake.
	Known    func() []Topic
	Interval time.Duration // 0: DefaultDiscoverInterval
	Log      *slog.Logger

	planner     topicPlanner
	follow      follower
	from, to    string                  // cluster.id of both, once they are known
	before      map[ledger.TopicID]bool // topics of the source at the last look, nil before the first
	missed      map[string]int          // known topics that the source did not list, and how often in a row
	absent      map[string]int          // those that the destination did not list either
	noted       map[string]Told         // by source topic: what the ledger is told as soon as it takes it
	source      *kgo.Client
	destination *kgo.Client
	brokers     int                     // of the destination
	rounds      int                     // looks for topics
	configTurn  int                     // whose settings are next
	notes       map[string]note         // by source topic
	compared    beside[[]followedTopic] // settings, with the source's
	newcomers   newcomers
	chronicle   chronicle
	mirrors     mirrorFacts // of the destination
}

// Run looks for topics until the context ends, and calls report after each pass:
// with all topics, or with an error if the pass could not tell. Known must show
// what report has stored when Run looks again. What asks for settings goes on beside it
// and has ended when Run returns.
func (d *Discoverer) Run(ctx context.Context, report func(topics []Topic, err error)) error {
	if err := d.open(); err != nil {
		return fmt.Errorf("discover topics: %w", err)
	}
	defer d.close()
	interval := d.Interval
	if interval == 0 {
		interval = DefaultDiscoverInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		pass, cancel := context.WithTimeout(ctx, passTimeout)
		topics, err := d.pass(pass)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		report(topics, err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// open makes what a pass needs. close is to be called only when there was no error.
func (d *Discoverer) open() (err error) {
	if d.planner, err = newTopicPlanner(&d.Flow.Spec); err != nil {
		return err
	}
	if d.follow.followed, err = newFollowed(&d.Flow.Spec.Topics); err != nil {
		return err
	}
	d.follow.flow, d.follow.from, d.follow.to, d.follow.log = d.Flow.Metadata.Name, d.Source.Metadata.Name, d.Destination.Metadata.Name, d.Log
	d.notes = map[string]note{}
	// A broker answers a connection in order: what may have to wait for its answer has
	// connections of its own.
	for _, c := range []struct {
		of     *flow.Cluster
		client **kgo.Client
	}{
		{d.Source, &d.source},
		{d.Source, &d.follow.source},
		{d.Source, &d.newcomers.source},
		{d.Destination, &d.destination},
		{d.Destination, &d.follow.destination},
	} {
		if *c.client, err = kafka.NewClient(c.of, d.ClientID, kgo.RecordPartitioner(kgo.ManualPartitioner())); err != nil {
			d.close()
			return err
		}
	}
	return nil
}

func (d *Discoverer) close() {
	d.compared.end()
	d.newcomers.end()
	for _, cl := range []*kgo.Client{d.source, d.follow.source, d.newcomers.source, d.destination, d.follow.destination} {
		if cl != nil {
			cl.Close()
		}
	}
}

// passTimeout bounds a pass; creating a thousand topics takes a while.
const passTimeout = 2 * time.Minute

func (d *Discoverer) pass(ctx context.Context) ([]Topic, error) {
	if d.from == "" {
		if err := d.identify(ctx); err != nil {
			return nil, err
		}
	}
	source, _, err := listTopics(ctx, d.Source, d.source, d.from)
	if err != nil {
		return nil, err
	}
	destination, brokers, err := listTopics(ctx, d.Destination, d.destination, d.to)
	if err != nil {
		return nil, err
	}
	d.brokers = brokers
	known := map[string]Topic{}
	for _, t := range d.Known() {
		known[t.Source] = t
	}
	markNewborn(source, d.before)
	missed, err := d.findMissed(ctx, source, known)
	if err != nil {
		return nil, err
	}
	if err := d.findMirrors(ctx, source, destination, known); err != nil {
		return nil, err
	}
	plans := d.planner.plan(source, destination, known, missed, time.Now())
	d.countAbsent(plans)
	if err := d.apply(ctx, plans, destination); err != nil {
		return nil, err
	}
	d.syncConfigs(ctx, plans, destination)
	d.tellChanges(plans, known, destination)
	d.writeEvents(ctx)
	d.markTold(plans)
	d.before = idsOf(source) // not before: a look that failed has told nobody what is new
	topics := make([]Topic, 0, len(plans))
	for i := range plans {
		if p := &plans[i]; !p.vanished || d.chronicle.behind() {
			topics = append(topics, p.Topic)
		}
	}
	return topics, nil
}

// markNewborn marks what was not at the source when it was last looked at. A
// Discoverer that has just begun does not know, nor does one whose source has no
// topic ids.
func markNewborn(source map[string]found, before map[ledger.TopicID]bool) {
	for name, t := range source {
		t.newborn = before != nil && t.id != (ledger.TopicID{}) && !before[t.id]
		source[name] = t
	}
}

func idsOf(topics map[string]found) map[ledger.TopicID]bool {
	ids := make(map[ledger.TopicID]bool, len(topics))
	for _, t := range topics {
		ids[t.id] = true
	}
	return ids
}

// countAbsent counts how often in a row topics were found on neither side. That one has
// vanished is believed when it has been found so more than once.
func (d *Discoverer) countAbsent(plans []topicPlan) {
	absent := map[string]int{}
	for i := range plans {
		if p := &plans[i]; p.absent {
			absent[p.Source] = d.absent[p.Source] + 1
			p.vanished = absent[p.Source] >= maxMissed
		}
	}
	d.absent = absent
}

// findMissed asks for known topics that the source has not listed, by name: one
// that may not be described any more is left out of a list as well, and is there.
// It adds what is there to source, and counts how often in a row the others are
// not.
func (d *Discoverer) findMissed(ctx context.Context, source map[string]found, known map[string]Topic) (map[string]int, error) {
	var names []string
	for name := range known {
		if _, there := source[name]; !there && d.planner.pick.Match(name) {
			names = append(names, name)
		}
	}
	missed := map[string]int{}
	if len(names) > 0 {
		v, err := readView(ctx, d.source, names)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", d.Source.Metadata.Name, err)
		}
		for _, name := range names {
			t := v.topic(name)
			if errors.Is(t.err, kerr.UnknownTopicOrPartition) {
				missed[name] = d.missed[name] + 1
				continue
			}
			source[name] = found{id: t.id, partitions: int32(len(t.partitions)), err: t.err}
		}
	}
	d.missed = missed
	return missed, nil
}

func (d *Discoverer) identify(ctx context.Context) error {
	from, err := kafka.Identify(ctx, d.Source, d.source)
	if err != nil {
		return err
	}
	to, err := kafka.Identify(ctx, d.Destination, d.destination)
	if err != nil {
		return err
	}
	if from == to {
		return fmt.Errorf("source and destination are the same cluster (cluster.id %s)", from)
	}
	d.from, d.to = from, to
	return nil
}

// listTopics asks for all topics. It does not ask kadm, whose answers may come
// from a cache that keeps what has been deleted. An address may have become
// another cluster's: what that one does not have is not gone.
func listTopics(ctx context.Context, cluster *flow.Cluster, cl *kgo.Client, id string) (topics map[string]found, brokers int, err error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = nil // all
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, 0, fmt.Errorf("cluster %s: list topics: %w", cluster.Metadata.Name, err)
	}
	if resp.ClusterID != nil && *resp.ClusterID != id {
		return nil, 0, fmt.Errorf("cluster %s: %w: cluster.id is %q, it was %q", cluster.Metadata.Name, kafka.ErrWrongCluster, *resp.ClusterID, id)
	}
	topics = make(map[string]found, len(resp.Topics))
	for _, t := range resp.Topics {
		if t.Topic == nil || t.IsInternal || strings.HasPrefix(*t.Topic, flow.InternalPrefix) {
			continue
		}
		f := found{id: t.TopicID, partitions: int32(len(t.Partitions)), err: kerr.ErrorForCode(t.ErrorCode)}
		if len(t.Partitions) > 0 {
			f.replicas = int16(len(t.Partitions[0].Replicas))
		}
		topics[*t.Topic] = f
	}
	return topics, len(resp.Brokers), nil
}

// apply makes, grows and deletes destination topics. What fails is the topic's
// problem.
func (d *Discoverer) apply(ctx context.Context, plans []topicPlan, destination map[string]found) error {
	var create []*topicPlan
	for i := range plans {
		p := &plans[i]
		if p.create {
			create = append(create, p)
		}
		if p.grow > 0 {
			d.grow(ctx, p)
		}
		if p.remove {
			d.remove(ctx, p)
		}
	}
	if len(create) == 0 {
		return nil
	}
	settings, err := d.newcomers.settings(ctx, create, d.follow.keys())
	for _, p := range create {
		if from, told := settings[lifeOf(p)]; told {
			d.create(ctx, p, from)
			continue
		}
		p.State, p.Problem = Waiting, "the source has not told the topic's settings yet, without which its copy might expire or compact what it must not"
		if err != nil {
			p.Problem += ": " + err.Error()
		}
		p.Fix = "nothing: it is asked again; or create the destination topic by hand"
	}
	return d.fillIDs(ctx, create, destination)
}

func (d *Discoverer) grow(ctx context.Context, p *topicPlan) {
	resp, err := kadm.NewClient(d.destination).UpdatePartitions(ctx, int(p.grow), p.Destination)
	if err == nil {
		err = resp[p.Destination].Err
	}
	if err != nil {
		p.State, p.Problem = Failed, fmt.Sprintf("add partitions to the destination topic, which needs %d: %v", p.grow, err)
		p.Fix = "allow ALTER on the destination topic, or add the partitions by hand"
		return
	}
	d.Log.Info("destination topic grown", "flow", d.Flow.Metadata.Name, "destination", p.Destination, "partitions", p.grow)
}

// remove deletes the copy of a topic that is gone: by its id, so that it is that
// one and no other that has its name by now.
func (d *Discoverer) remove(ctx context.Context, p *topicPlan) {
	err := errors.New("the destination knows no topic ids, so it might be another topic by now")
	if p.DestinationID != (ledger.TopicID{}) {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TimeoutMillis = int32(passTimeout.Milliseconds() / 4)
		t := kmsg.NewDeleteTopicsRequestTopic()
		t.TopicID = p.DestinationID
		req.Topics = append(req.Topics, t)
		var resp *kmsg.DeleteTopicsResponse
		if resp, err = req.RequestWith(ctx, d.destination); err == nil && len(resp.Topics) == 1 {
			err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
		}
	}
	if err != nil && !errors.Is(err, kerr.UnknownTopicID) {
		p.State, p.Problem = Failed, fmt.Sprintf("the topic is gone from the source; delete the destination topic: %v", err)
		p.Fix = "allow DELETE and DESCRIBE on the destination topic, delete it by hand, or set policies.onDelete to keep"
		return
	}
	d.Log.Warn("destination topic deleted, as the flow's policy says", "flow", d.Flow.Metadata.Name, "source", p.Source,
		"destination", p.Destination, "id", p.DestinationID, "gone since", p.GoneSince)
}

// fillIDs reads the ids of topics that were just made, and adds the topics to those of
// the destination.
func (d *Discoverer) fillIDs(ctx context.Context, created []*topicPlan, destination map[string]found) error {
	all, _, err := listTopics(ctx, d.Destination, d.destination, d.to)
	if err != nil {
		return err
	}
	for _, p := range created {
		if t, ok := all[p.Destination]; ok {
			p.DestinationID, destination[p.Destination] = t.id, t
		}
	}
	return nil
}
