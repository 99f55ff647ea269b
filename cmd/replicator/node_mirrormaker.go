package main

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/offsets/mirrormaker"
)

// syncsEvery is how often pairs of offsets are looked at: with many partitions most
// have a new one each time.
const syncsEvery = 5 * time.Second

// mirrorMaker writes the topics of MirrorMaker 2 for a flow whose groups a syncer looks at.
func (g *groups) mirrorMaker(f *flow.ReplicationFlow, source *flow.Cluster, s *offsets.Syncer) (*mirrormaker.Writer, error) {
	from, err := g.directory.client(f.Spec.Source)
	if err != nil {
		return nil, err
	}
	to, err := g.directory.client(f.Spec.Destination)
	if err != nil {
		return nil, err
	}
	conf := mirrormaker.Config{
		MirrorMaker2: *f.MirrorMaker(), Source: from, Destination: to, Log: g.log.With("flow", f.Metadata.Name),
		Checkpoints: func() []mirrormaker.Checkpoint { return checkpoints(s.Report().Rows) },
	}
	topics := f.Spec.Topics
	if !topics.Match(flow.Heartbeats) || topics.Rename.Destination(flow.Heartbeats) != conf.RemoteHeartbeats() {
		conf.Dial = func(opts ...kgo.Opt) (*kgo.Client, error) {
			return kafka.NewClient(source, g.directory.clientID, opts...)
		}
	}
	var looked time.Time
	conf.Syncs = func() []mirrormaker.OffsetSync {
		if time.Since(looked) < syncsEvery {
			return nil
		}
		looked = time.Now()
		return g.offsetSyncs(f)
	}
	return mirrormaker.NewWriter(conf), nil
}

// checkpoints are where the groups lie that have not moved. MirrorMaker has none of share
// groups.
func checkpoints(rows []offsets.Row) (all []mirrormaker.Checkpoint) {
	for _, r := range rows {
		if r.Moved || r.Share || r.Result.Offset < 0 {
			continue
		}
		all = append(all, mirrormaker.Checkpoint{
			Group: r.Group, Topic: r.Destination.Topic, Partition: r.Destination.Partition,
			Upstream: r.SourceOffset, Downstream: r.Result.Offset, Metadata: r.Metadata,
		})
	}
	return all
}

// offsetSyncs are the last copied records of a flow's partitions.
func (g *groups) offsetSyncs(f *flow.ReplicationFlow) (all []mirrormaker.OffsetSync) {
	source, err1 := g.directory.id(f.Spec.Source)
	destination, err2 := g.directory.id(f.Spec.Destination)
	if err1 != nil || err2 != nil {
		return nil // they have not answered yet
	}
	for _, t := range knownTopics(g.fleet.State(), f.Metadata.Name) {
		for p := range t.Partitions {
			id := ledger.CopyID{
				Source:      ledger.End{Cluster: source, TopicID: t.SourceID, Partition: p},
				Destination: ledger.End{Cluster: destination, TopicID: t.DestinationID, Partition: p},
			}
			if x, y, ok := g.maps.Last(id); ok {
				all = append(all, mirrormaker.OffsetSync{Topic: t.Source, Partition: p, Upstream: x, Downstream: y})
			}
		}
	}
	return all
}
