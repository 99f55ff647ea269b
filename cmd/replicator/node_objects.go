package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// previewLimit bounds how long a plan waits for clusters that do not answer.
const previewLimit = 5 * time.Second

// proposer is the part of a fleet node that changes state.
type proposer interface {
	State() *cluster.State
	Propose(ctx context.Context, c cluster.Command) (cluster.Result, error)
}

// objects answers api.Objects from the replicated state.
type objects struct {
	fleet  proposer
	claims *claims
}

var _ api.Objects = (*objects)(nil)

func (o *objects) List(_ context.Context, kind string) (api.ObjectList, error) {
	s := o.fleet.State()
	list := api.ObjectList{Revision: s.ObjectsRevision, Objects: []api.Object{}}
	for _, key := range slices.Sorted(maps.Keys(s.Objects)) {
		k, name, _ := strings.Cut(key, "/")
		if kind == "" || kind == k {
			list.Objects = append(list.Objects, api.Object{Kind: k, Name: name, Revision: s.Objects[key].Revision, Object: s.Objects[key].Spec})
		}
	}
	return list, nil
}

func (o *objects) Apply(ctx context.Context, yaml []byte, dryRun bool, revision *uint64) (api.Applied, error) {
	declared, err := flow.Parse("request", bytes.NewReader(yaml))
	if err != nil {
		return api.Applied{}, unprocessable(err)
	}
	s := o.fleet.State()
	if revision != nil && *revision != s.ObjectsRevision {
		return api.Applied{}, conflict(s.ObjectsRevision)
	}
	have, err := s.Declared("")
	if err != nil {
		return api.Applied{}, err
	}
	all := merge(have, declared)
	if faults := flow.Check(all); len(faults) > 0 {
		return api.Applied{}, unprocessable(faults)
	}
	applied := api.Applied{Revision: s.ObjectsRevision, DryRun: dryRun, Changes: []api.Change{}}
	for i := range declared {
		applied.Changes = append(applied.Changes, change(have, &declared[i]))
	}
	if dryRun {
		applied.Notes, applied.Warnings = o.preview(ctx, declared, all)
		return applied, nil
	}
	cmd, err := cluster.NewApplyObjects(declared, nil, s.ObjectsRevision)
	if err != nil {
		return api.Applied{}, err
	}
	res, err := o.fleet.Propose(ctx, cmd)
	if err != nil {
		return api.Applied{}, fleetError(err, o.fleet.State().ObjectsRevision)
	}
	applied.Revision = res.Number
	return applied, nil
}

// merge is have with each declared object in its place or added.
func merge(have, declared []flow.Object) []flow.Object {
	all := slices.Clone(have)
	for _, d := range declared {
		if i := slices.IndexFunc(all, func(o flow.Object) bool { return o.Key() == d.Key() }); i >= 0 {
			all[i] = d
		} else {
			all = append(all, d)
		}
	}
	return all
}

func change(have []flow.Object, want *flow.Object) api.Change {
	c := api.Change{Kind: string(want.Kind), Name: want.Name(), Action: "create"}
	var old *flow.Object
	if i := slices.IndexFunc(have, func(o flow.Object) bool { return o.Key() == want.Key() }); i >= 0 {
		old, c.Action = &have[i], "update"
	}
	for _, d := range flow.Diff(old, want) {
		c.Diff = append(c.Diff, d.String())
	}
	if old != nil && len(c.Diff) == 0 {
		c.Action = "unchanged"
	}
	return c
}

// preview looks at the clusters as they are and says what a flow would pick and
// what stands in its way.
func (o *objects) preview(ctx context.Context, declared, all []flow.Object) (notes, warnings []string) {
	ctx, cancel := context.WithTimeout(ctx, previewLimit)
	defer cancel()
	clusters := map[string]*flow.Cluster{}
	for _, o := range all {
		if o.Cluster != nil {
			clusters[o.Name()] = o.Cluster
		}
	}
	for _, d := range declared {
		if d.Flow == nil {
			continue
		}
		spec := d.Flow.Spec
		topics, err := topicsOf(ctx, clusters[spec.Source])
		topics = topics.of(spec.Topics.Match)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("flow %s: source: %v", d.Name(), err))
		} else if picked := topics.details.Names(); len(picked) == 0 {
			warnings = append(warnings, fmt.Sprintf("flow %s: no topic of %s is picked now", d.Name(), spec.Source))
		} else {
			notes = append(notes, fmt.Sprintf("flow %s: picks %s of %s now: %s", d.Name(), several(len(picked), "topic"), spec.Source, strings.Join(picked, ", ")))
		}
		if _, err := topicsOf(ctx, clusters[spec.Destination]); err != nil {
			warnings = append(warnings, fmt.Sprintf("flow %s: destination: %v", d.Name(), err))
			continue
		}
		warnings = append(warnings, o.claims.look(ctx, &d, clusters[spec.Destination], topics)...)
	}
	return append(notes, flow.Notes(all)...), warnings
}

// clusterTopics are topics of a cluster as they are now.
type clusterTopics struct {
	clusterID string
	details   kadm.TopicDetails
}

// of is those whose names match.
func (c clusterTopics) of(match func(string) bool) clusterTopics {
	maps.DeleteFunc(c.details, func(name string, _ kadm.TopicDetail) bool { return !match(name) })
	return c
}

func topicsOf(ctx context.Context, c *flow.Cluster) (clusterTopics, error) {
	cl, err := kafka.NewClient(c, "replicator-plan")
	if err != nil {
		return clusterTopics{}, err
	}
	defer cl.Close()
	all, err := kadm.NewClient(cl).Metadata(ctx)
	if err != nil {
		return clusterTopics{}, fmt.Errorf("cluster %s: %w", c.Metadata.Name, err)
	}
	all.Topics.FilterInternal()
	return clusterTopics{all.Cluster, all.Topics}, nil
}

func (o *objects) Delete(ctx context.Context, kind, name string) error {
	s := o.fleet.State()
	key := kind + "/" + name
	if _, ok := s.Objects[key]; !ok {
		return api.Errorf(http.StatusNotFound, "there is no %s %q", kind, name)
	}
	have, err := s.Declared("")
	if err != nil {
		return err
	}
	rest := slices.DeleteFunc(have, func(o flow.Object) bool { return o.Key() == key })
	if faults := flow.Check(rest); len(faults) > 0 {
		e := api.Errorf(http.StatusConflict, "%s is still needed", key).WithHint("delete what names it first")
		e.Errors = facts(faults)
		return e
	}
	cmd, err := cluster.NewApplyObjects(nil, []string{key}, s.ObjectsRevision)
	if err != nil {
		return err
	}
	_, err = o.fleet.Propose(ctx, cmd)
	return fleetError(err, o.fleet.State().ObjectsRevision)
}

func facts(faults flow.Problems) []api.Fact {
	var out []api.Fact
	for _, p := range faults {
		out = append(out, api.Fact{Message: p.String()})
	}
	return out
}

func unprocessable(err error) error {
	var faults flow.Problems
	if !errors.As(err, &faults) {
		return api.Errorf(http.StatusUnprocessableEntity, "%v", err)
	}
	e := api.Errorf(http.StatusUnprocessableEntity, "%s", several(len(faults), "fault"))
	e.Errors = facts(faults)
	return e
}

func conflict(revision uint64) error {
	return api.Errorf(http.StatusPreconditionFailed, "the objects are at revision %d by now", revision).
		WithHint("look at the change of somebody else, then apply again")
}

// fleetError gives errors of the fleet their status.
func fleetError(err error, revision uint64) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cluster.ErrConflict):
		return conflict(revision)
	case errors.Is(err, cluster.ErrNotFound):
		return api.Errorf(http.StatusNotFound, "%v", err)
	case errors.Is(err, cluster.ErrInvalid):
		return api.Errorf(http.StatusUnprocessableEntity, "%v", err)
	}
	return api.Errorf(http.StatusServiceUnavailable, "the fleet could not agree: %v", err).
		WithHint("a change needs a majority of the nodes; see 'replicator status'")
}
