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
	// Known are the topics as last reported, by anybody: what tells a topic from
	// its namesake.
	Known    func() []Topic
	Interval time.Duration // 0: DefaultDiscoverInterval
	Log      *slog.Logger

	pick        *flow.Matcher
	identified  bool           // both clusters are those that were declared
	missed      map[string]int // known topics that the source did not list, and how often in a row
	source      *kgo.Client
	destination *kgo.Client
}

// Run looks for topics until the context ends, and calls report after each pass:
// with all topics, or with an error if the pass could not tell. Known must show
// what report has stored when Run looks again.
func (d *Discoverer) Run(ctx context.Context, report func(topics []Topic, err error)) error {
	var err error
	if d.pick, err = d.Flow.Spec.Topics.Matcher(); err != nil {
		return fmt.Errorf("discover topics: %w", err)
	}
	for _, side := range []struct {
		cluster *flow.Cluster
		client  **kgo.Client
	}{{d.Source, &d.source}, {d.Destination, &d.destination}} {
		cl, err := kafka.NewClient(side.cluster, d.ClientID)
		if err != nil {
			return fmt.Errorf("discover topics: %w", err)
		}
		defer cl.Close()
		*side.client = cl
	}
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

// passTimeout bounds a pass; creating a thousand topics takes a while.
const passTimeout = 2 * time.Minute

func (d *Discoverer) pass(ctx context.Context) ([]Topic, error) {
	if !d.identified {
		if err := d.identify(ctx); err != nil {
			return nil, err
		}
	}
	source, err := listTopics(ctx, d.source)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", d.Source.Metadata.Name, err)
	}
	destination, err := listTopics(ctx, d.destination)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", d.Destination.Metadata.Name, err)
	}
	known := map[string]Topic{}
	missed := map[string]int{}
	for _, t := range d.Known() {
		known[t.Source] = t
		if _, there := source[t.Source]; !there {
			missed[t.Source] = d.missed[t.Source] + 1
		}
	}
	d.missed = missed
	plans := planTopics(d.pick, d.Flow.Spec.Topics.Rename, source, destination, known, missed)
	if err := d.apply(ctx, plans); err != nil {
		return nil, err
	}
	topics := make([]Topic, len(plans))
	for i := range plans {
		topics[i] = plans[i].Topic
	}
	return topics, nil
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
	d.identified = true
	return nil
}

// listTopics asks for all topics. It does not ask kadm, whose answers may come
// from a cache that keeps what has been deleted.
func listTopics(ctx context.Context, cl *kgo.Client) (map[string]found, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = nil // all
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	out := make(map[string]found, len(resp.Topics))
	for _, t := range resp.Topics {
		if t.Topic != nil && !t.IsInternal && !strings.HasPrefix(*t.Topic, flow.InternalPrefix) {
			out[*t.Topic] = found{id: t.TopicID, partitions: int32(len(t.Partitions)), err: kerr.ErrorForCode(t.ErrorCode)}
		}
	}
	return out, nil
}

// apply makes and grows destination topics. What fails is the topic's problem.
func (d *Discoverer) apply(ctx context.Context, plans []topicPlan) error {
	var create []*topicPlan
	for i := range plans {
		p := &plans[i]
		if p.create {
			create = append(create, p)
		}
		if p.grow > 0 {
			d.grow(ctx, p)
		}
	}
	if len(create) == 0 {
		return nil
	}
	names := make([]string, len(create))
	for i, p := range create {
		names[i] = p.Source
	}
	configs, err := kadm.NewClient(d.source).DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return fmt.Errorf("cluster %s: describe topics: %w", d.Source.Metadata.Name, err)
	}
	of := map[string]kadm.ResourceConfig{}
	for _, c := range configs {
		of[c.Name] = c
	}
	for _, p := range create {
		d.create(ctx, p, of[p.Source])
	}
	return d.fillIDs(ctx, create)
}

func (d *Discoverer) create(ctx context.Context, p *topicPlan, from kadm.ResourceConfig) {
	if from.Err != nil {
		// Made without its settings it might expire or compact what it must not.
		p.State, p.Problem = Failed, fmt.Sprintf("read the source topic's settings: %v", from.Err)
		p.Fix = "allow DESCRIBE_CONFIGS on the source topic, or create the destination topic by hand"
		return
	}
	replicas := d.Flow.Spec.Topics.Create.ReplicationFactor
	if replicas == 0 {
		replicas = -1
	}
	adm := kadm.NewClient(d.destination)
	settings := counterpartConfigs(from.Configs)
	_, err := adm.CreateTopic(ctx, p.Partitions, replicas, settings, p.Destination)
	if errors.Is(err, kerr.InvalidConfig) {
		// The destination may be too old, or too much of its own, for some of them.
		for _, k := range optionalConfigs {
			delete(settings, k)
		}
		_, err = adm.CreateTopic(ctx, p.Partitions, replicas, settings, p.Destination)
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		p.State, p.Problem = Failed, fmt.Sprintf("create the destination topic: %v", err)
		p.Fix = "allow CREATE on the destination topic, or create it by hand"
		return
	}
	d.Log.Info("destination topic created", "flow", d.Flow.Metadata.Name, "source", p.Source, "destination", p.Destination, "partitions", p.Partitions)
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

// fillIDs reads the ids of topics that were just made.
func (d *Discoverer) fillIDs(ctx context.Context, created []*topicPlan) error {
	destination, err := listTopics(ctx, d.destination)
	if err != nil {
		return fmt.Errorf("cluster %s: %w", d.Destination.Metadata.Name, err)
	}
	for _, p := range created {
		p.DestinationID = destination[p.Destination].id
	}
	return nil
}

// copiedConfigs are what a topic's settings say about its records: how long they
// live and what may become of them. Settings about how a cluster stores them are
// the destination's own.
var copiedConfigs = []string{
	"cleanup.policy", "retention.ms", "retention.bytes", keyMaxMessageBytes,
	"delete.retention.ms", "min.compaction.lag.ms", "max.compaction.lag.ms", "min.cleanable.dirty.ratio",
}

// optionalConfigs are those that not every destination knows.
var optionalConfigs = []string{
	"message.timestamp.after.max.ms", "message.timestamp.before.max.ms",
	"delete.retention.ms", "min.compaction.lag.ms", "max.compaction.lag.ms", "min.cleanable.dirty.ratio",
}

// counterpartConfigs are the settings of a new destination topic. Beyond those
// that are copied, it keeps the timestamps and the codec of the source's records
// and takes records of any age.
func counterpartConfigs(source []kadm.Config) map[string]*string {
	out := map[string]*string{
		keyTimestampType:   kadm.StringPtr("CreateTime"),
		"compression.type": kadm.StringPtr("producer"),
		// Kafka 4.0 refuses what is more than an hour ahead unless it is told.
		"message.timestamp.after.max.ms":  kadm.StringPtr("9223372036854775807"),
		"message.timestamp.before.max.ms": kadm.StringPtr("9223372036854775807"),
	}
	have := map[string]*string{}
	for _, c := range source {
		if c.Value != nil && !c.Sensitive {
			have[c.Key] = c.Value
		}
	}
	for _, k := range copiedConfigs {
		if v := have[k]; v != nil {
			out[k] = v
		}
	}
	return out
}
