package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/runbook"
	"github.com/waybillhq/waybill/verify"
)

// actions is what runbooks do to the world.
type actions struct {
	fleet     *cluster.Node
	directory *directory
	groups    *groups
	flows     *flows
	maps      *offsets.Maps

	verifications *verifications
}

var _ runbook.Actions = (*actions)(nil)

// target is a flow and how to reach its ends.
type target struct {
	flow                    *flow.ReplicationFlow
	source, destination     *kgo.Client
	sourceID, destinationID string
	topics                  []cluster.TopicSpec
}

func (a *actions) target(name string) (t target, err error) {
	state := a.fleet.State()
	if t.flow, err = declaredFlow(state, name); err != nil {
		return t, err
	}
	source, destination := t.flow.Spec.Source, t.flow.Spec.Destination
	var errs [4]error
	t.source, errs[0] = a.directory.client(source)
	t.destination, errs[1] = a.directory.client(destination)
	t.sourceID, errs[2] = a.directory.id(source)
	t.destinationID, errs[3] = a.directory.id(destination)
	if work := state.Flows[name]; work != nil {
		for _, topic := range sortedNames(work.Topics) {
			t.topics = append(t.topics, work.Topics[topic].TopicSpec)
		}
	}
	return t, errors.Join(errs[:]...)
}

func (t *target) names() []string {
	var names []string
	for _, topic := range t.topics {
		names = append(names, topic.Source)
	}
	return names
}

func (a *actions) Preflight(ctx context.Context, name string) (runbook.Result, error) {
	t, err := a.target(name)
	if err != nil {
		return runbook.Result{}, err
	}
	status, err := a.flows.Status(ctx)
	if err != nil {
		return runbook.Result{}, err
	}
	var facts []runbook.Fact
	var wrong []string
	for _, f := range status.Flows {
		if f.Name == name {
			facts = append(facts, runbook.Fact{Name: "state of the flow", Value: f.State}, runbook.Fact{Name: "lag in records", Value: fmt.Sprint(f.LagRecords)})
			if f.State != string(mirror.Running) {
				wrong = append(wrong, fmt.Sprintf("the flow is %s %s", f.State, f.Reason))
			}
		}
	}
	if len(t.topics) == 0 {
		wrong = append(wrong, "the flow has no topics")
	}
	facts = append(facts, runbook.Fact{Name: "topics", Value: strings.Join(t.names(), ", ")})
	may, err := mayAlterCluster(ctx, t.source)
	if err != nil {
		return runbook.Result{}, fmt.Errorf("cluster %s: %w", t.flow.Spec.Source, err)
	}
	facts = append(facts, runbook.Fact{Name: "right to fence at " + t.flow.Spec.Source, Value: may})
	if may == "no" {
		wrong = append(wrong, fmt.Sprintf("the replicator may not Alter cluster %s, so it cannot fence writers", t.flow.Spec.Source))
	}
	return result(wrong, fmt.Sprintf("both clusters answer, the flow has %s", several(len(t.topics), "topic")), facts), nil
}

// mayAlterCluster is yes, no, or unknown where the cluster does not say.
func mayAlterCluster(ctx context.Context, cl *kgo.Client) (string, error) {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeClusterAuthorizedOperations = true
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	const unset = -1 << 31
	switch {
	case err != nil:
		return "", fmt.Errorf("ask for rights: %w", err)
	case resp.ClusterAuthorizedOperations == unset:
		return "unknown", nil
	case resp.ClusterAuthorizedOperations&(1<<uint(acl.Alter)) != 0:
		return "yes", nil
	}
	return "no", nil
}

func result(wrong []string, well string, facts []runbook.Fact) runbook.Result {
	if len(wrong) > 0 {
		return runbook.Result{Summary: strings.Join(wrong, "; "), Facts: facts}
	}
	return runbook.Result{OK: true, Summary: well, Facts: facts}
}

func (a *actions) VerifyGroups(ctx context.Context, name string) (runbook.Result, error) {
	rows, _, err := a.groups.Rows(ctx, name, api.GroupPage{})
	if err == nil {
		err = offsets.Unread(rows) // it may be known in a moment
	}
	if err != nil {
		return runbook.Result{}, err
	}
	return judgeGroups(rows, a.hasMoved(name)), nil
}

// hasMoved says which groups of a flow the fleet knows to have left the source.
func (a *actions) hasMoved(flowName string) func(group string) bool {
	return func(group string) bool { return movedGroups{a.fleet}.IsMoved(flowName, group) }
}

// judgeGroups sums up the groups that have not moved yet: those that have are
// their applications' business. What share groups have acknowledged out of order is
// delivered again, as they have to expect at any time: that holds nobody up.
func judgeGroups(rows []offsets.Row, moved func(group string) bool) runbook.Result {
	var facts []runbook.Fact
	var wrong []string
	n, well := 0, ""
	for _, g := range offsets.PlanGroups(rows) {
		if g.Verdict == offsets.HasMoved || moved(g.Group) {
			facts = append(facts, runbook.Fact{Name: "group " + g.Group, Value: "has moved already"})
			continue
		}
		facts = append(facts, runbook.Fact{Name: "group " + g.Group, Value: fmt.Sprintf("%d of %s exact, %d read again, %d skipped", g.Exact, several(g.Partitions, "partition"), g.Reread, g.Skipped)})
		switch {
		case g.Verdict == offsets.Ready:
			n++
		case g.Verdict == offsets.NotExact && g.Otherwise == 0:
			well += fmt.Sprintf("; share group %s: %s", g.Group, strings.Join(g.Why, ", "))
		default:
			wrong = append(wrong, fmt.Sprintf("group %s is %s: %s", g.Group, g.Verdict, strings.Join(g.Why, ", ")))
		}
	}
	return result(wrong, several(n, "group")+" exact: 0 records read again, 0 skipped"+well, facts)
}

// VerifyRecords has the flow's duty compare all that was copied by now, and waits
// for that. It goes on with a verification that a runbook has begun, if that covers
// as much.
func (a *actions) VerifyRecords(ctx context.Context, name string) (runbook.Result, error) {
	want, err := a.copied(ctx, name)
	if err != nil {
		return runbook.Result{}, err
	}
	for ctx.Err() == nil {
		id := ""
		if f := a.fleet.State().Flows[name]; f != nil && f.Verification.Running() && f.Verification.By == byRunbook {
			id = f.Verification.ID
		} else if id, err = a.verifications.start(ctx, name, verify.Request{}, byRunbook, 0); errors.Is(err, cluster.ErrConflict) {
			pause(ctx, dutyRetry) // a person's verification is first
			continue
		} else if err != nil {
			return runbook.Result{}, err
		}
		r, err := a.verified(ctx, name, id)
		if err != nil {
			return runbook.Result{}, err
		}
		if covers(r, want) {
			return judgeRecords(r), nil
		}
	}
	return runbook.Result{}, cmp.Or(err, ctx.Err())
}

// copied is how far the copies of a flow have come, by their keys.
func (a *actions) copied(ctx context.Context, name string) (map[string]int64, error) {
	t, err := a.target(name)
	if err != nil {
		return nil, err
	}
	if err := a.maps.CatchUp(ctx, t.destinationID); err != nil {
		return nil, err
	}
	next := map[string]int64{}
	for _, topic := range t.topics {
		for p := range topic.Partitions {
			id, err := t.copyID(topic, p)
			if err != nil {
				return nil, err
			}
			if m := a.maps.Copy(id); m != nil {
				next[id.Key().String()] = m.Next()
			}
		}
	}
	return next, nil
}

// verified waits for a verification to end.
func (a *actions) verified(ctx context.Context, name, id string) (*verify.Report, error) {
	for _, s := range a.fleet.Watch(ctx) {
		if f := s.Flows[name]; f != nil && f.Verification.Running() && f.Verification.ID == id {
			continue
		}
		r, err := verificationOf(s, name, time.Now())
		switch {
		case err != nil:
			return nil, err
		case r == nil || r.ID != id:
			return nil, fmt.Errorf("verification %s was replaced", id)
		case r.State == verify.Stopped:
			return nil, fmt.Errorf("verification %s was stopped", id)
		}
		return r, nil
	}
	return nil, cmp.Or(ctx.Err(), cluster.ErrStopped)
}

// covers says whether a verification compared everything up to some source offsets.
func covers(r *verify.Report, want map[string]int64) bool {
	until := map[string]int64{}
	for _, p := range r.Partitions {
		until[p.Copy] = p.Until
	}
	for key, next := range want {
		if until[key] < next {
			return false
		}
	}
	return true
}

// judgeRecords is what a verification says to a runbook.
func judgeRecords(r *verify.Report) runbook.Result {
	facts := []runbook.Fact{
		{Name: "verification", Value: r.ID}, {Name: "records compared", Value: fmt.Sprint(r.Records)}, {Name: "bytes compared", Value: fmt.Sprint(r.Bytes)},
	}
	for _, set := range []struct {
		name   string
		counts map[string]int64
	}{{"gap: ", r.Gaps}, {"not comparable: ", r.NotComparable}} {
		for _, why := range sortedNames(set.counts) {
			facts = append(facts, runbook.Fact{Name: set.name + why, Value: fmt.Sprint(set.counts[why])})
		}
	}
	var wrong []string
	if r.Different > 0 {
		wrong = append(wrong, fmt.Sprintf("%d records differ", r.Different))
	}
	for i, d := range r.First {
		if i == 0 {
			wrong[0] += ", the first is " + differenceText(d)
		}
		facts = append(facts, runbook.Fact{Name: "difference", Value: differenceText(d)})
	}
	for _, p := range r.Partitions {
		if why := cmp.Or(p.Problem, p.Doubt); why != "" {
			wrong = append(wrong, fmt.Sprintf("%s/%d was not compared to its end: %s", p.SourceTopic, p.Partition, why))
		}
	}
	if len(wrong) == 0 && r.Verdict == verify.Incomplete {
		wrong = append(wrong, "not everything was compared")
	}
	return result(wrong, fmt.Sprintf("%d records are equal on both sides", r.Records), facts)
}

func (a *actions) Lag(ctx context.Context, name string) (int64, error) {
	t, err := a.target(name)
	if err != nil {
		return 0, err
	}
	ends, err := a.ends(ctx, &t)
	if err != nil {
		return 0, err
	}
	if err := a.maps.CatchUp(ctx, t.destinationID); err != nil {
		return 0, err
	}
	var lag int64
	for _, topic := range t.topics {
		for p := range topic.Partitions {
			end, ok := ends[flow.TopicPartition{Topic: topic.Source, Partition: p}]
			if !ok {
				return 0, fmt.Errorf("end of %s/%d is not known", topic.Source, p)
			}
			id, err := t.copyID(topic, p)
			if err != nil {
				return 0, err
			}
			var next int64
			if m := a.maps.Copy(id); m != nil {
				next = m.Next()
			}
			lag += max(0, end-next)
		}
	}
	return lag, nil
}

func (t *target) copyID(topic cluster.TopicSpec, partition int32) (id ledger.CopyID, err error) {
	source, err1 := ledger.ParseTopicID(topic.SourceID)
	destination, err2 := ledger.ParseTopicID(topic.DestinationID)
	return ledger.CopyID{
		Source:      ledger.End{Cluster: t.sourceID, TopicID: source, Partition: partition},
		Destination: ledger.End{Cluster: t.destinationID, TopicID: destination, Partition: partition},
	}, errors.Join(err1, err2)
}

func (a *actions) SourceEnds(ctx context.Context, name string) (runbook.Ends, error) {
	t, err := a.target(name)
	if err != nil {
		return nil, err
	}
	return a.ends(ctx, &t)
}

func (a *actions) ends(ctx context.Context, t *target) (runbook.Ends, error) {
	ends := runbook.Ends{}
	if len(t.topics) == 0 {
		return ends, nil // asking for no topic would mean all
	}
	listed, err := kadm.NewClient(t.source).ListEndOffsets(ctx, t.names()...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("log ends of cluster %s: %w", t.flow.Spec.Source, err)
	}
	listed.Each(func(o kadm.ListedOffset) {
		ends[flow.TopicPartition{Topic: o.Topic, Partition: o.Partition}] = o.Offset
	})
	return ends, nil
}

// ApplyGroupOffsets looks at every group once more, so that those which have
// moved meanwhile are known, and commits the others' exact positions.
func (a *actions) ApplyGroupOffsets(ctx context.Context, name string) (runbook.Result, error) {
	f, err := declaredFlow(a.fleet.State(), name)
	if err != nil {
		return runbook.Result{}, err
	}
	s, err := a.groups.syncer(f)
	if err != nil {
		return runbook.Result{}, err
	}
	rows, err := s.Plan(ctx)
	if err == nil {
		err = offsets.Unread(rows)
	}
	if err != nil {
		return runbook.Result{}, err
	}
	moved := a.hasMoved(name)
	var names []string
	for _, r := range rows {
		if !slices.Contains(names, r.Group) && !moved(r.Group) {
			names = append(names, r.Group)
		}
	}
	if len(names) == 0 {
		return runbook.Result{OK: true, Summary: "no group is left at the source"}, nil
	}
	applied, err := s.Apply(ctx, names, offsets.Terms{Redeliver: true})
	if err != nil && !errors.Is(err, offsets.ErrNotExact) {
		return runbook.Result{}, err
	}
	res := judgeGroups(applied, moved)
	if err != nil {
		res.OK, res.Summary = false, err.Error()
	}
	return res, nil
}

func (a *actions) PauseFlow(ctx context.Context, name string) error {
	return a.setPaused(ctx, name, true)
}

func (a *actions) ResumeFlow(ctx context.Context, name string) error {
	return a.setPaused(ctx, name, false)
}

// setPaused declares a flow paused or running. Paused flows do not count for
// cycles and double copies, so one that is to run again is checked with the rest.
func (a *actions) setPaused(ctx context.Context, name string, paused bool) error {
	s := a.fleet.State()
	o, err := s.Lookup(flow.KindReplicationFlow, name)
	if err != nil || o.Flow.Spec.Paused == paused {
		return err
	}
	o.Flow.Spec.Paused = paused
	have, err := s.Declared("")
	if err != nil {
		return err
	}
	if faults := flow.Check(merge(have, []flow.Object{o})); len(faults) > 0 {
		return faults
	}
	cmd, err := cluster.NewApplyObjects([]flow.Object{o}, nil, &s.ObjectsRevision)
	if err != nil {
		return err
	}
	_, err = a.fleet.Propose(ctx, cmd)
	return err
}
