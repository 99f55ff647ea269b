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
	"github.com/waybillhq/waybill/internal/raftnode"
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
		k, _, _ := strings.Cut(key, "/")
		if kind == "" || kind == k {
			list.Objects = append(list.Objects, objectOf(key, s.Objects[key]))
		}
	}
	return list, nil
}

func objectOf(key string, o cluster.Object) api.Object {
	kind, name, _ := strings.Cut(key, "/")
	return api.Object{Kind: kind, Name: name, Revision: o.Revision, Object: o.Spec, Changed: changedBy(o.Changed)}
}

func (o *objects) Apply(ctx context.Context, yaml []byte, dryRun bool, wanted *api.Precondition) (api.Applied, error) {
	declared, err := flow.Parse("request", bytes.NewReader(yaml))
	if err != nil {
		return api.Applied{}, unprocessable(err)
	}
	expect := func(s *cluster.State) error {
		if !wanted.Holds(s.ObjectsRevision) {
			return conflict(s, "", wanted)
		}
		return nil
	}
	if !dryRun {
		return o.commit(ctx, declared, expect)
	}
	s := o.fleet.State()
	if err := expect(s); err != nil {
		return api.Applied{}, err
	}
	applied, all, err := planned(s, declared)
	if err != nil {
		return api.Applied{}, err
	}
	applied.DryRun = true
	applied.Notes, applied.Warnings = o.preview(ctx, declared, all)
	return applied, nil
}

func (o *objects) Put(ctx context.Context, kind, name string, yaml []byte, wanted *api.Precondition) (api.Object, error) {
	declared, err := flow.Parse("request", bytes.NewReader(yaml))
	if err != nil {
		return api.Object{}, unprocessable(err)
	}
	key := kind + "/" + name
	if len(declared) != 1 || declared[0].Key() != key {
		return api.Object{}, api.Errorf(http.StatusUnprocessableEntity, "the body is not %s alone", key).
			WithHint("several objects go to /api/v1/apply")
	}
	applied, err := o.commit(ctx, declared, expectObject(key, wanted))
	if err != nil {
		return api.Object{}, err
	}
	spec, err := flow.Encode(declared[0])
	if err != nil {
		return api.Object{}, err
	}
	return asPut(key, cluster.Object{Revision: applied.Revision, Spec: spec}, o.fleet.State()), nil
}

// asPut is an object as a caller has put it, at its revision or a later one of the list.
// If somebody has changed or deleted it since, he is not told of that: with the revision of
// what he has not written he could overwrite it.
func asPut(key string, put cluster.Object, now *cluster.State) api.Object {
	if stored, ok := now.Objects[key]; ok && stored.Revision <= put.Revision {
		return objectOf(key, stored)
	}
	return objectOf(key, put)
}

// expectObject refuses what would overwrite another object than was seen.
func expectObject(key string, wanted *api.Precondition) func(*cluster.State) error {
	return func(s *cluster.State) error {
		if !wanted.Holds(s.Objects[key].Revision) {
			return conflict(s, key, wanted)
		}
		return nil
	}
}

// planned is what declaring objects would do to a state, and all objects after it.
func planned(s *cluster.State, declared []flow.Object) (applied api.Applied, all []flow.Object, err error) {
	have, err := s.Declared("")
	if err != nil {
		return applied, nil, err
	}
	all = merge(have, declared)
	if faults := flow.Check(all); len(faults) > 0 {
		return applied, nil, unprocessable(faults)
	}
	applied = api.Applied{Revision: s.ObjectsRevision, Changes: []api.Change{}}
	for i := range declared {
		applied.Changes = append(applied.Changes, change(have, &declared[i]))
	}
	return applied, all, nil
}

// commitTries is how often somebody else may be faster with another object before
// a change is given up.
const commitTries = 20

// commit declares objects. They are checked against a state, and declared only if
// that is still the present one; if not, and the caller expects nothing that has
// changed, they are checked again.
func (o *objects) commit(ctx context.Context, declared []flow.Object, expect func(*cluster.State) error) (api.Applied, error) {
	for try := 1; ; try++ {
		s := o.fleet.State()
		if err := expect(s); err != nil {
			return api.Applied{}, err
		}
		applied, _, err := planned(s, declared)
		if err != nil {
			return api.Applied{}, err
		}
		cmd, err := cluster.NewApplyObjects(changed(declared, applied.Changes), nil, &s.ObjectsRevision)
		if err != nil {
			return api.Applied{}, err
		}
		res, err := o.fleet.Propose(withTouched(ctx, touchedBy(applied.Changes)), cmd)
		if errors.Is(err, cluster.ErrConflict) && try < commitTries {
			continue
		}
		if err != nil {
			return api.Applied{}, fleetError(err, o.fleet.State().ObjectsRevision)
		}
		applied.Revision = res.Number
		return applied, nil
	}
}

// changed is what of the declared objects is not as it was: a change carries no others,
// so that a few of very many objects can be changed in one step.
func changed(declared []flow.Object, changes []api.Change) (list []flow.Object) {
	for i, c := range changes {
		if c.Action != actionUnchanged {
			list = append(list, declared[i])
		}
	}
	return list
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

const actionUnchanged = "unchanged"

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
		c.Action = actionUnchanged
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

func (o *objects) Delete(ctx context.Context, kind, name string, wanted *api.Precondition) error {
	key := kind + "/" + name
	for try := 1; ; try++ {
		s := o.fleet.State()
		if err := expectObject(key, wanted)(s); err != nil {
			return err
		}
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
		cmd, err := cluster.NewApplyObjects(nil, []string{key}, &s.ObjectsRevision)
		if err != nil {
			return err
		}
		_, err = o.fleet.Propose(withTouched(ctx, []cluster.Touched{{Key: key, Action: "delete"}}), cmd)
		if errors.Is(err, cluster.ErrConflict) && try < commitTries {
			continue
		}
		return fleetError(err, o.fleet.State().ObjectsRevision)
	}
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

// conflict says that the object with a key, or the list of all if key is empty, is
// not as was wanted, and who made it so.
func conflict(s *cluster.State, key string, wanted *api.Precondition) error {
	c := &api.Conflict{Object: key, Revision: s.ObjectsRevision, Changed: changedBy(s.ObjectsChanged)}
	if !wanted.Present {
		c.Expected = wanted.Revisions[0]
	}
	what := "the list of all objects"
	if key != "" {
		stored, there := s.Objects[key]
		what, c.Revision, c.Changed = key, stored.Revision, changedBy(stored.Changed)
		if !there {
			c.Changed = deletedBy(s, key)
		}
	}
	e := api.Errorf(http.StatusPreconditionFailed, "%s is at revision %d by now, not %s", what, c.Revision, wanted.Wanted())
	switch {
	case key != "" && c.Revision == 0:
		e.Detail = what + " is not there"
	case key != "" && c.Expected == 0:
		e.Detail = fmt.Sprintf("%s is there already, at revision %d", what, c.Revision)
	}
	if c.Changed != nil {
		e.Detail += fmt.Sprintf(": %s did %s at %s", c.Changed.User, c.Changed.Operation, c.Changed.Time.Format(time.RFC3339))
	}
	e.Conflict = c
	return e.WithHint("look at the change of somebody else, then apply again")
}

func changedBy(s *cluster.Stamp) *api.Changed {
	if s == nil {
		return nil
	}
	return &api.Changed{User: s.User, Time: s.Time, Operation: s.Operation}
}

// deletedBy looks among the last changes for who removed an object.
func deletedBy(s *cluster.State, key string) *api.Changed {
	for _, r := range slices.Backward(s.Trail) {
		for _, o := range r.Objects {
			if o.Key == key && o.After == 0 && o.Before != 0 {
				return &api.Changed{User: r.User, Time: r.Time, Operation: r.Operation}
			}
		}
	}
	return nil
}

// fleetError gives errors of the fleet their status.
func fleetError(err error, revision uint64) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cluster.ErrConflict):
		return api.Errorf(http.StatusPreconditionFailed, "the objects are at revision %d by now", revision).
			WithHint("others are changing them; look at what they did, then try again")
	case errors.Is(err, cluster.ErrNotFound):
		return api.Errorf(http.StatusNotFound, "%v", err)
	case errors.Is(err, cluster.ErrInvalid):
		return api.Errorf(http.StatusUnprocessableEntity, "%v", err)
	case errors.Is(err, raftnode.ErrTooLarge):
		return api.Errorf(http.StatusRequestEntityTooLarge, "the changed objects are more than one step may carry: %v", err).
			WithHint("apply them in several parts; objects that stay as they are do not count")
	case errors.Is(err, raftnode.ErrRefused):
		return api.Errorf(http.StatusConflict, "the fleet refuses the change, and will again: %v", err).
			WithHint("a node of an older version that it names is to be upgraded first; see 'replicator fleet status'")
	}
	return api.Errorf(http.StatusServiceUnavailable, "the fleet could not agree: %v", err).
		WithHint("a change needs a majority of the nodes; see 'replicator status'")
}
