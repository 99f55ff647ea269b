package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/offsets"
)

// groups answers api.Groups and makes the syncers that a flow's duty runs.
type groups struct {
	fleet     proposer
	directory *directory
	maps      *offsets.Maps
	log       *slog.Logger
}

var _ api.Groups = (*groups)(nil)

// declaredFlow finds a flow among the declarations.
func declaredFlow(s *cluster.State, name string) (*flow.ReplicationFlow, error) {
	o, err := s.Lookup(flow.KindReplicationFlow, name)
	if err != nil {
		return nil, fleetError(err, s.ObjectsRevision)
	}
	return o.Flow, nil
}

// destinationOf is what a flow's copy of a topic is called: what discovery has
// found, or what it will be.
func destinationOf(s *cluster.State, f *flow.ReplicationFlow, topic string) string {
	if work := s.Flows[f.Metadata.Name]; work != nil {
		if t := work.Topics[topic]; t != nil && t.Destination != "" {
			return t.Destination
		}
	}
	return f.Spec.Topics.Rename.Destination(topic)
}

// syncer moves a flow's groups; it needs both clusters to have answered.
func (g *groups) syncer(f *flow.ReplicationFlow) (*offsets.Syncer, error) {
	conf := offsets.SyncConfig{
		Flow: f.Metadata.Name, Topics: f.Spec.Topics.Match,
		Rename: func(topic string) string { return destinationOf(g.fleet.State(), f, topic) },
		Groups: func(string) bool { return false },
		Maps:   g.maps, Moved: movedGroups{g.fleet}, Log: g.log,
	}
	if f.Spec.Groups != nil {
		conf.Groups, conf.Interval = f.Spec.Groups.Match, f.Spec.Groups.Interval.Std()
	}
	var err error
	if conf.SourceID, err = g.directory.id(f.Spec.Source); err != nil {
		return nil, err
	}
	if conf.DestinationID, err = g.directory.id(f.Spec.Destination); err != nil {
		return nil, err
	}
	source, err := g.directory.client(f.Spec.Source)
	if err != nil {
		return nil, err
	}
	destination, err := g.directory.client(f.Spec.Destination)
	if err != nil {
		return nil, err
	}
	conf.Source, conf.Destination = offsets.KafkaCluster(source), offsets.KafkaCluster(destination)
	return offsets.NewSyncer(conf), nil
}

func (g *groups) Rows(ctx context.Context, name string) ([]offsets.Row, error) {
	f, err := declaredFlow(g.fleet.State(), name)
	if err != nil {
		return nil, err
	}
	s, err := g.syncer(f)
	if err != nil {
		return nil, unreachable(err)
	}
	rows, err := s.Plan(ctx)
	if err != nil {
		return nil, unreachable(err)
	}
	return rows, nil
}

// Translate answers for positions that the caller may see: Describe on the
// topic at either end.
func (g *groups) Translate(ctx context.Context, caller api.Caller, from offsets.Where, to string) ([]offsets.Translation, error) {
	if !g.mayDescribe(ctx, caller, from.Cluster, from.Topic) {
		return nil, api.Errorf(http.StatusNotFound, "there is no topic %s in %s, or you may not describe it", from.Topic, from.Cluster)
	}
	flows, err := g.fleet.State().Declared(flow.KindReplicationFlow)
	if err != nil {
		return nil, err
	}
	for _, f := range flows {
		id, err := g.directory.id(f.Flow.Spec.Destination)
		if err != nil {
			continue // what its ledger says cannot be had now; the others can
		}
		if err := g.maps.CatchUp(ctx, id); err != nil {
			return nil, unreachable(err)
		}
	}
	var visible []offsets.Translation
	for _, t := range g.maps.Translate(from, to) {
		if g.mayDescribe(ctx, caller, t.To.Cluster, t.To.Topic) {
			visible = append(visible, t)
		}
	}
	return visible, nil
}

func (g *groups) mayDescribe(ctx context.Context, caller api.Caller, cluster, topic string) bool {
	if name, ok := g.directory.name(cluster); ok {
		cluster = name
	}
	return g.directory.allowed(ctx, cluster, caller.Principals[cluster], caller.Address, acl.Describe, acl.Topic, topic)
}

func unreachable(err error) error {
	return api.Errorf(http.StatusServiceUnavailable, "%v", err)
}

// movedGroups keeps in raft which groups have left the source.
type movedGroups struct{ fleet proposer }

func (m movedGroups) IsMoved(flowName, group string) bool {
	f := m.fleet.State().Flows[flowName]
	if f == nil {
		return false
	}
	_, moved := f.MovedGroups[group]
	return moved
}

func (m movedGroups) Mark(ctx context.Context, flowName, group, why string) error {
	_, err := m.fleet.Propose(ctx, &cluster.MoveGroup{Flow: flowName, Group: group, Moved: true, Detail: why})
	return err
}
