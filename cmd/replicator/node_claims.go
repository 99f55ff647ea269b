package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/offsets"
)

// claims tells what other fleets bring to a cluster, from its ledger: a plan says it,
// so that data is moved once.
type claims struct {
	fleet     string
	directory *directory
	maps      *offsets.Maps
	log       *slog.Logger
}

// look says which of the topics that a flow picks reach its destination already.
func (c *claims) look(ctx context.Context, f *flow.Object, destination *flow.Cluster, topics clusterTopics) (warnings []string) {
	maps, id, err := c.read(ctx, destination)
	if err != nil {
		return []string{fmt.Sprintf("flow %s: whether other fleets bring its topics to %s already is not known: %v", f.Name(), destination.Metadata.Name, err)}
	}
	for _, topic := range topics.details.Names() {
		life := ledger.Life{Cluster: topics.clusterID, TopicID: ledger.TopicID(topics.details[topic].ID)}
		for _, a := range maps.Arrivals(life, id) {
			if a.Fleet != c.fleet {
				warnings = append(warnings, warnOf(f, topic, a))
			}
		}
	}
	return warnings
}

func warnOf(f *flow.Object, topic string, a offsets.Arrival) string {
	spec := &f.Flow.Spec
	text := fmt.Sprintf("flow %s: topic %s already reaches %s by flow %s of fleet %s", f.Name(), topic, spec.Destination, a.Flow, a.Fleet)
	since := a.Since.UTC().Format("2006-01-02 15:04 MST")
	switch name := spec.Topics.Rename.Destination(topic); {
	case a.Through && spec.Origin == flow.OriginLocal:
		return fmt.Sprintf("%s, which copies %s on to %s (since %s): what was born in %s would be there twice; let that flow have origin: %s, or exclude the topic",
			text, a.Source, a.Destination, since, spec.Source, flow.OriginLocal)
	case a.Through:
		return fmt.Sprintf("%s, which copies %s on to %s (since %s): records would be there twice; exclude the topic, or let one of the flows have origin: %s",
			text, a.Source, a.Destination, since, flow.OriginLocal)
	case name == a.Destination:
		return fmt.Sprintf("%s, under the same name (since %s): a copy belongs to one fleet, so this one would not start; exclude the topic, or remove that flow and recreate the destination topic",
			text, since)
	}
	return fmt.Sprintf("%s, as %s (since %s): exclude the topic and read that copy, or remove that flow", text, a.Destination, since)
}

// read is what a cluster's ledger says: from what this node knows of it or, if the
// cluster is not declared yet, read for this once.
func (c *claims) read(ctx context.Context, cluster *flow.Cluster) (*offsets.Maps, string, error) {
	if c.directory.current(cluster) == nil {
		if id, err := c.directory.id(cluster.Metadata.Name); err == nil {
			return c.maps, id, c.maps.CatchUp(ctx, id)
		}
	}
	cl, err := kafka.NewClient(cluster, "replicator-plan")
	if err != nil {
		return nil, "", err
	}
	defer cl.Close()
	id, err := kafka.ClusterID(ctx, cl)
	if err != nil {
		return nil, "", err
	}
	maps := offsets.NewMaps()
	t, err := tail.New(tail.Config{
		Dial: func(opts ...kgo.Opt) (*kgo.Client, error) {
			return kafka.NewClient(cluster, "replicator-plan", opts...)
		},
		Cluster: id, Sinks: []tail.Sink{maps}, Log: c.log,
	})
	if err != nil {
		return nil, "", err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- t.Run(ctx) }()
	err = t.CatchUp(ctx)
	stop()
	return maps, id, errors.Join(err, <-ended)
}
