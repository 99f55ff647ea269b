package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

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

// sourceOf is what topic of the source the destination's topic is a flow's copy of.
func sourceOf(s *cluster.State, f *flow.ReplicationFlow, topic string) (string, bool) {
	if work := s.Flows[f.Metadata.Name]; work != nil {
		for name := range work.Topics {
			if destinationOf(s, f, name) == topic {
				return name, true
			}
		}
	}
	return "", false
}

// syncer moves a flow's groups; it needs both clusters to have answered.
func (g *groups) syncer(f *flow.ReplicationFlow) (*offsets.Syncer, error) {
	conf, err := g.config(f)
	if err != nil {
		return nil, err
	}
	return offsets.NewSyncer(conf), nil
}

// swapped leads from a flow's destination to its source, to bring groups back.
func (g *groups) swapped(f *flow.ReplicationFlow, conf offsets.SyncConfig) offsets.SyncConfig {
	conf.Source, conf.Destination = conf.Destination, conf.Source
	conf.SourceID, conf.DestinationID = conf.DestinationID, conf.SourceID
	conf.Topics = func(topic string) bool {
		_, ok := sourceOf(g.fleet.State(), f, topic)
		return ok
	}
	conf.Rename = func(topic string) string {
		name, _ := sourceOf(g.fleet.State(), f, topic)
		return name
	}
	return conf
}

func (g *groups) config(f *flow.ReplicationFlow) (conf offsets.SyncConfig, err error) {
	conf = offsets.SyncConfig{
		Flow: f.Metadata.Name, Topics: f.Spec.Topics.Match,
		Rename: func(topic string) string { return destinationOf(g.fleet.State(), f, topic) },
		Groups: func(string) bool { return false },
		Maps:   g.maps, Moved: movedGroups{g.fleet}, Peers: g.peer, Log: g.log,
	}
	if f.Spec.Groups != nil {
		conf.Groups, conf.Interval = f.Spec.Groups.Match, f.Spec.Groups.Interval.Std()
	}
	if conf.SourceID, err = g.directory.id(f.Spec.Source); err != nil {
		return conf, err
	}
	if conf.DestinationID, err = g.directory.id(f.Spec.Destination); err != nil {
		return conf, err
	}
	source, err := g.directory.client(f.Spec.Source)
	if err != nil {
		return conf, err
	}
	destination, err := g.directory.client(f.Spec.Destination)
	if err != nil {
		return conf, err
	}
	conf.Source, conf.Destination = offsets.KafkaCluster(source), offsets.KafkaCluster(destination)
	return conf, nil
}

// peer is a declared cluster by its cluster.id, nil if none has answered with it.
func (g *groups) peer(id string) offsets.Cluster {
	if cl := g.clientOf(id); cl != nil {
		return offsets.KafkaCluster(cl)
	}
	return nil
}

// clientOf is a client of the cluster of that name or cluster.id, nil if there is none.
func (g *groups) clientOf(cluster string) *kgo.Client {
	if name, ok := g.directory.name(cluster); ok {
		cluster = name
	}
	cl, err := g.directory.client(cluster)
	if err != nil {
		return nil
	}
	return cl
}

func (g *groups) Rows(ctx context.Context, name string, page api.GroupPage) (rows []offsets.Row, next string, err error) {
	f, err := declaredFlow(g.fleet.State(), name)
	if err != nil {
		return nil, "", err
	}
	s, err := g.syncer(f)
	if err != nil {
		return nil, "", unreachable(err)
	}
	return pageOfGroups(ctx, s, name, movedGroups{g.fleet}, page)
}

// pageOfGroups looks at the groups of a page only.
func pageOfGroups(ctx context.Context, s *offsets.Syncer, flowName string, moved offsets.Moved, page api.GroupPage) (rows []offsets.Row, next string, err error) {
	names, err := s.Follows(ctx)
	if err != nil {
		return nil, "", unreachable(err)
	}
	var gone []offsets.Row // of groups that have moved, which the source has no more
	for _, group := range page.Names {
		switch {
		case slices.Contains(names, group):
		case moved.IsMoved(flowName, group):
			if page.Cursor == "" {
				row := rowOfNone(group, "it has moved, and the flow follows none of that name at the source any more")
				row.Moved = true
				gone = append(gone, row)
			}
		default:
			return nil, "", api.Errorf(http.StatusNotFound, "flow %s follows no group %s", flowName, group).
				WithHint("see whether its source has a group of that name, and the flow's spec.groups includes it; 'replicator groups list --flow %s' has all that it follows", flowName)
		}
	}
	names = slices.DeleteFunc(names, func(group string) bool {
		return page.Cursor != "" && group <= page.Cursor || len(page.Names) > 0 && !slices.Contains(page.Names, group)
	})
	if page.Limit > 0 && len(names) > page.Limit {
		names = names[:page.Limit]
		next = names[len(names)-1]
	}
	if rows, err = s.PlanOf(ctx, names); err != nil {
		return nil, "", unreachable(err)
	}
	if len(page.Names) > 0 {
		rows = append(withEach(names, rows), gone...)
	}
	return rows, next, nil
}

// withEach has a row for each of the groups named, also for one that reads nothing of the
// flow: an answer that leaves it out says nothing about it.
func withEach(names []string, rows []offsets.Row) []offsets.Row {
	for _, group := range names {
		if !slices.ContainsFunc(rows, func(r offsets.Row) bool { return r.Group == group }) {
			rows = append(rows, rowOfNone(group, "it has no position in the flow's topics"))
		}
	}
	return rows
}

// rowOfNone is the row of a group without positions.
func rowOfNone(group, why string) offsets.Row {
	return offsets.Row{
		Group: group, SourceOffset: -1, SourceLag: -1, Present: -1, Action: offsets.Leave, Why: why, Because: why,
		Result: offsets.Result{Offset: -1, Why: offsets.Unknown, Note: why},
	}
}

// knownGroups refuses names of groups that neither the source nor the flow knows.
func knownGroups(ctx context.Context, source offsets.Cluster, f *flow.ReplicationFlow, moved offsets.Moved, names []string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(group string) bool { return moved.IsMoved(f.Metadata.Name, group) })
	if len(names) == 0 {
		return nil
	}
	there, err := source.Groups(ctx)
	if err != nil {
		return unreachable(fmt.Errorf("source: %w", err))
	}
	for _, group := range names {
		if _, ok := there[group]; !ok {
			return api.Errorf(http.StatusNotFound, "there is no group %s in cluster %s, or the fleet's user may not describe it, and flow %s has moved none of that name", group, f.Spec.Source, f.Metadata.Name).
				WithHint("nothing was committed; see how the name is spelled: 'replicator groups list --flow %s' has all groups that the flow follows", f.Metadata.Name)
		}
	}
	return nil
}

// Move commits where groups go on and has the fleet remember it. Its parts come in
// an order in which it can be repeated after each: the position at the other side is
// there before the fleet says that the group is.
func (g *groups) Move(ctx context.Context, name string, req api.GroupMove, by api.Person) ([]offsets.Row, error) {
	f, err := declaredFlow(g.fleet.State(), name)
	if err != nil {
		return nil, err
	}
	conf, err := g.config(f)
	if err != nil {
		return nil, unreachable(err)
	}
	names, moved := req.Groups, movedGroups{g.fleet}
	if err := knownGroups(ctx, conf.Source, f, moved, names); err != nil {
		return nil, err
	}
	there := offsets.NewSyncer(conf)
	s := there
	if req.Return {
		s = offsets.NewSyncer(g.swapped(f, conf))
	}
	if len(names) == 0 {
		if names, err = g.candidates(ctx, f, there, req.Return); err != nil {
			return nil, err
		}
	}
	for _, group := range names {
		if moved.IsMoved(name, group) != req.Return && !req.DryRun {
			side := f.Spec.Destination
			if req.Return {
				side = f.Spec.Source
			}
			return nil, api.Errorf(http.StatusConflict, "group %s is in cluster %s already, as flow %s has it", group, side, name).
				WithHint("leave it out; 'replicator groups list --flow %s' says where each group is", name)
		}
	}
	terms := offsets.Terms{Overwrite: req.Return, Inexact: req.Inexact, Unmarked: true, DropMetadata: req.DropMetadata}
	if req.DryRun {
		return planSides(ctx, s, names, terms)
	}
	rows, done, err := changeSides(ctx, s, names, terms)
	if unknown := g.remember(ctx, f, s, done, rows, req.Return, by); err == nil {
		err = unknown
	}
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// planSides has a syncer say what moving groups would do.
func planSides(ctx context.Context, s *offsets.Syncer, names []string, terms offsets.Terms) ([]offsets.Row, error) {
	if len(names) == 0 {
		return nil, nil
	}
	rows, err := s.PlanApply(ctx, names, terms)
	if err != nil {
		return nil, unreachable(err)
	}
	return withEach(names, rows), nil
}

// changeSides has a syncer move groups. Those that are done are to be remembered also
// if it failed with another.
func changeSides(ctx context.Context, s *offsets.Syncer, names []string, terms offsets.Terms) (rows []offsets.Row, done []string, err error) {
	if len(names) == 0 {
		return nil, nil, nil
	}
	rows, err = s.Apply(ctx, names, terms)
	if half, ok := errors.AsType[*offsets.HalfwayError](err); ok {
		return rows, half.Done, halfMoved(half)
	}
	if errors.Is(err, offsets.ErrNotExact) {
		return nil, nil, notMoved(err, rows)
	}
	if err != nil {
		return nil, nil, unreachable(err)
	}
	return rows, names, nil
}

// candidates are the groups of a flow that have not changed sides.
func (g *groups) candidates(ctx context.Context, f *flow.ReplicationFlow, there *offsets.Syncer, back bool) (names []string, err error) {
	if back {
		if work := g.fleet.State().Flows[f.Metadata.Name]; work != nil {
			names = sortedNames(work.MovedGroups)
		}
		return names, nil
	}
	rows, err := there.Plan(ctx)
	if err != nil {
		return nil, unreachable(err)
	}
	for _, r := range rows {
		if !r.Moved && !slices.Contains(names, r.Group) {
			names = append(names, r.Group)
		}
	}
	return names, nil
}

// remember has the fleet know on which side groups are now, of which s has moved rows.
func (g *groups) remember(ctx context.Context, f *flow.ReplicationFlow, s *offsets.Syncer, names []string, rows []offsets.Row, back bool, by api.Person) error {
	detail := "moved by " + by.Name
	if by.Reason != "" {
		detail += ": " + by.Reason
	}
	for _, group := range names {
		if back {
			// What the group has committed at the destination is the flow's from now
			// on: else it would be found to have moved again.
			err := s.Adopt(ctx, group, f.Metadata.Name, rows)
			if errors.Is(err, offsets.ErrActive) {
				return api.Errorf(http.StatusConflict, "%v", err).
					WithHint("stop it in cluster %s and repeat this: until then it counts as moved", f.Spec.Destination)
			}
			if err != nil {
				return unreachable(err)
			}
		}
		if _, err := g.fleet.Propose(ctx, &cluster.MoveGroup{Flow: f.Metadata.Name, Group: group, Moved: !back, Detail: detail}); err != nil {
			return fleetError(err, 0)
		}
		g.log.Info("a group has changed sides", "flow", f.Metadata.Name, "group", group, "return", back, "by", by.Name, "reason", by.Reason)
	}
	return nil
}

// notMoved says of each row why no group was moved.
func notMoved(err error, rows []offsets.Row) error {
	e := api.Errorf(http.StatusConflict, "%v", err).
		WithHint("nothing was committed; 'replicator groups plan' says what each group would meet, --inexact takes it on")
	for _, r := range rows {
		if r.Action == offsets.Wait || r.Action == offsets.Leave {
			e.Errors = append(e.Errors, api.Fact{Location: r.Name(), Message: r.Why})
		}
	}
	return e
}

// halfMoved says which groups have changed sides, which have not, and why.
func halfMoved(half *offsets.HalfwayError) error {
	status, first := http.StatusServiceUnavailable, "when the clusters answer again"
	if errors.Is(half.Err, offsets.ErrMeanwhile) {
		status, first = http.StatusConflict, "when group "+half.Left[0]+" has stopped on both sides"
	}
	done := "no group"
	if len(half.Done) > 0 {
		done = strings.Join(half.Done, ", ")
	}
	e := api.Errorf(status, "%v; changed sides: %s; did not: %s", half, done, strings.Join(half.Left, ", ")).
		WithHint("%s, repeat this with those that did not; 'replicator groups list' says where each is", first)
	for _, group := range half.Done {
		e.Errors = append(e.Errors, api.Fact{Location: "group " + group, Message: "has changed sides"})
	}
	for i, group := range half.Left {
		why := "was not looked at again: the one before it failed"
		if i == 0 {
			why = half.Err.Error()
		}
		e.Errors = append(e.Errors, api.Fact{Location: "group " + group, Message: why})
	}
	return e
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
