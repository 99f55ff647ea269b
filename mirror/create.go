package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// create makes the counterpart of a source topic that has these settings. What
// fails is the topic's problem.
func (d *Discoverer) create(ctx context.Context, p *topicPlan, from described) {
	if from.err != nil {
		// Made without its settings it might expire or compact what it must not.
		p.State, p.Problem = Failed, fmt.Sprintf("read the source topic's settings: %v", from.err)
		p.Fix = "allow DESCRIBE_CONFIGS on the source topic, or create the destination topic by hand"
		return
	}
	spec := &d.Flow.Spec.Topics.Create
	adm := kadm.NewClient(d.destination)
	follow := d.follow.pick(from)
	settings := counterpartConfigs(follow, spec.Configs)
	if p.Offsets == flow.OffsetsPreserve {
		settings[keyMirrorSource] = kadm.StringPtr(mirrorSource(ledger.End{Cluster: d.from, TopicID: p.SourceID}))
	}
	replicas := replicasOf(spec.ReplicationFactor, p.replicas, d.brokers)
	_, err := adm.CreateTopic(ctx, p.Partitions, replicas, settings, p.Destination)
	if errors.Is(err, kerr.InvalidConfig) {
		// The destination may be too old, or too much of its own, for some of them.
		for _, k := range optionalConfigs {
			if _, asked := spec.Configs[k]; !asked {
				delete(settings, k)
				delete(follow, k)
			}
		}
		_, err = adm.CreateTopic(ctx, p.Partitions, replicas, settings, p.Destination)
	}
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists):
		return
	case err != nil:
		p.State, p.Problem = Failed, fmt.Sprintf("create the destination topic: %v", err)
		p.Fix = createFix(err)
		return
	}
	p.Configs, p.Made = writtenText(follow), true
	d.Log.Info("destination topic created", "flow", d.Flow.Metadata.Name, "source", p.Source, "destination", p.Destination, "partitions", p.Partitions)
}

// createFix is what to do where a topic cannot be made.
func createFix(err error) string {
	switch {
	case errors.Is(err, kerr.InvalidReplicationFactor):
		return "set topics.create.replicationFactor of the flow to at most the number of the destination's brokers"
	case errors.Is(err, kerr.InvalidConfig), errors.Is(err, kerr.PolicyViolation):
		return "correct topics.create.configs of the flow, or leave settings out that the destination refuses with topics.configs.exclude"
	case errors.Is(err, kerr.InvalidPartitions), errors.Is(err, kerr.ThrottlingQuotaExceeded):
		return "raise the destination's limits, or create the topic by hand; it is tried again"
	}
	return "allow CREATE on the destination topic, or create it by hand"
}

// replicasOf is the replication factor of a new topic, -1 for the destination's
// default. That of the source counts as far as there are brokers.
func replicasOf(want flow.ReplicationFactor, source int16, brokers int) int16 {
	switch {
	case want == flow.SourceReplicas && source > 0:
		return min(source, int16(min(max(brokers, 1), 1<<10)))
	case want > 0:
		return int16(want)
	}
	return -1
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

// counterpartConfigs are the settings of a new destination topic: those that
// follow the source's, with what the flow sets over them. Beyond those it keeps
// the timestamps and the codec of the source's records and takes records of any
// age.
func counterpartConfigs(follow, over map[string]string) map[string]*string {
	settings := map[string]string{
		keyTimestampType:   "CreateTime",
		"compression.type": "producer",
		// Kafka 4.0 refuses what is more than an hour ahead unless it is told.
		"message.timestamp.after.max.ms":  "9223372036854775807",
		"message.timestamp.before.max.ms": "9223372036854775807",
	}
	maps.Copy(settings, follow)
	maps.Copy(settings, over)
	out := make(map[string]*string, len(settings))
	for k, v := range settings {
		out[k] = &v
	}
	return out
}
