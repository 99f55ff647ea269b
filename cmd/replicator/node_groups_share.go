package main

import (
	"context"
	"slices"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/offsets"
)

// shareTerms are how share groups change sides: nobody can tell who wrote what stands
// there.
var shareTerms = offsets.Terms{Overwrite: true, Unmarked: true, DropMetadata: true}

// sharing turns a syncer's configuration into one of share groups.
func (g *groups) sharing(f *flow.ReplicationFlow, back bool) (*offsets.Syncer, offsets.Cluster, error) {
	ends := [2]string{f.Spec.Source, f.Spec.Destination}
	conf, err := g.config(f)
	if back {
		ends[0], ends[1] = ends[1], ends[0]
		conf = g.swapped(f, conf)
	}
	if err != nil {
		return nil, nil, err
	}
	source, err := g.directory.client(ends[0])
	if err != nil {
		return nil, nil, err
	}
	destination, err := g.directory.client(ends[1])
	if err != nil {
		return nil, nil, err
	}
	conf.Share, conf.Source, conf.Destination, conf.Peers = true, offsets.ShareCluster(source), offsets.ShareCluster(destination), nil
	return offsets.NewSyncer(conf), conf.Source, nil
}

// shareRows is where a flow's share groups start on both sides.
func (g *groups) shareRows(ctx context.Context, f *flow.ReplicationFlow) ([]offsets.Row, error) {
	if f.Spec.Groups == nil {
		return nil, nil
	}
	s, source, err := g.sharing(f, false)
	if err != nil {
		return nil, err
	}
	names, err := source.Groups(ctx)
	if err != nil {
		return nil, err
	}
	picked := slices.DeleteFunc(sortedNames(names), func(name string) bool { return !f.Spec.Groups.Match(name) })
	if len(picked) == 0 {
		return nil, nil
	}
	rows, err := s.PlanApply(ctx, picked, shareTerms)
	for i := range rows {
		rows[i].Moved = movedGroups{g.fleet}.IsMoved(f.Metadata.Name, rows[i].Group)
	}
	return rows, err
}

// shareGroups are those among names, which a syncer's source has as share groups.
func shareGroups(ctx context.Context, source offsets.Cluster, names []string) ([]string, error) {
	known, err := source.Groups(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, ok := known[name]; return !ok }), nil
}
