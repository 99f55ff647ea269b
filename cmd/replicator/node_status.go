package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/mirror"
)

// The states of flows and topics, from worst to best, besides those of their
// partitions. The worst of the parts is that of the whole.
const (
	stateUnassigned = "unassigned" // no node owns it
	statePaused     = "paused"
	stateFinding    = "discovering" // its topics are not known yet
)

var stateOrder = []string{string(mirror.Failed), stateUnassigned, string(mirror.Waiting), stateFinding, string(mirror.Starting), statePaused, string(mirror.Running)}

// flows answers api.Flows: what the fleet is to do, with what its owners say of
// it.
type flows struct {
	fleet     *cluster.Node
	directory *directory
	ledgers   *ledgers
}

var _ api.Flows = (*flows)(nil)

func (f *flows) Status(ctx context.Context) (api.Status, error) {
	seen, err := f.fleet.FleetStatus(ctx)
	if err != nil {
		return api.Status{}, unreachable(fmt.Errorf("ask the fleet's leader: %w", err))
	}
	state := f.fleet.State()
	declared, err := state.Declared(flow.KindReplicationFlow)
	if err != nil {
		return api.Status{}, err
	}
	status := api.Status{
		Fleet:    api.FleetStatus{Leader: seen.Leader, Revision: seen.Revision, Nodes: []api.NodeStatus{}},
		Clusters: clusterStatuses(f.directory, f.ledgers), Flows: []api.FlowStatus{},
	}
	copies := map[string]int{}
	reports := map[cluster.Work]cluster.WorkStatus{}
	for _, w := range seen.Works {
		reports[w.Work] = w
	}
	silent := map[string]string{}
	for _, n := range seen.Nodes {
		if n.Problem != "" {
			silent[n.Name] = fmt.Sprintf("node %s does not say how it is doing: %s", n.Name, n.Problem)
		}
	}
	for _, d := range declared {
		fs := flowStatus(state, d.Flow, reports)
		for _, t := range fs.Topics {
			for i, p := range t.Partitions {
				copies[p.Node]++
				if why := silent[p.Node]; why != "" && p.Reason == "" {
					t.Partitions[i].Reason = why
				}
			}
		}
		status.Flows = append(status.Flows, fs)
	}
	for _, n := range seen.Nodes {
		status.Fleet.Nodes = append(status.Fleet.Nodes, api.NodeStatus{
			Name: n.Name, Address: n.APIAddr, Alive: n.Alive, Incarnation: n.Incarnation, Draining: n.Draining, Stopping: n.Stopping,
			Copies: copies[n.Name], Works: n.Works, BytesPerSecond: n.BytesPerSecond,
			Region: n.Region, Rack: n.Rack, Labels: n.Labels, Version: n.Version,
		})
	}
	return status, nil
}

// flowStatus joins what is to be done with what was last heard of it. A report
// counts only if it is of the present owner.
func flowStatus(state *cluster.State, f *flow.ReplicationFlow, reports map[cluster.Work]cluster.WorkStatus) api.FlowStatus {
	fs := api.FlowStatus{
		Name: f.Metadata.Name, Source: f.Spec.Source, Destination: f.Spec.Destination, Delivery: cmp.Or(f.Spec.Delivery, flow.DefaultDelivery),
		State: string(mirror.Running), Topics: []api.TopicStatus{},
	}
	var found dutyReport
	work := state.Flows[fs.Name]
	if work == nil || len(work.Topics) == 0 {
		fs.State, fs.Progress = stateFinding, unknownProgress()
	}
	if work != nil {
		fs.Delivery = deliveryOf(f, work.Topics)
		duty := reports[cluster.Work{Kind: cluster.WorkFlow, Name: fs.Name}]
		if duty.Epoch == work.Duty.Epoch && json.Unmarshal(duty.Detail, &found) == nil {
			judge(&fs, duty.State, found, f.Spec.Topics.Include)
		}
		for _, name := range sortedNames(work.Topics) {
			ts := topicStatus(fs.Name, work.Topics[name], f.Spec.PausedTopic(name), reports)
			if f.Spec.PausedTopic(name) {
				standing(&ts, found.Paused[name])
			}
			fs.Topics = append(fs.Topics, ts)
		}
	}
	for _, t := range fs.Topics {
		if t.State != statePaused { // that of a few topics is not that of the flow
			fs.State = worst(fs.State, t.State)
		}
		fs.Progress = together(fs.Progress, t.Progress)
	}
	for _, t := range fs.Topics {
		if fs.Reason == "" && t.State == fs.State && t.Reason != "" {
			fs.Reason, fs.ToDo = fmt.Sprintf("topic %s: %s", t.SourceTopic, t.Reason), t.ToDo
		}
	}
	if why := state.Unplaceable(fs.Name); why != "" {
		fs.State, fs.Reason = worst(fs.State, stateUnassigned), why
		fs.ToDo = "start or undrain such a node ('replicator status' lists them), or change spec.placement"
	}
	if fs.Reason == "" && found.Groups != "" {
		fs.Reason, fs.ToDo = "groups do not follow: "+found.Groups, found.GroupsFix
	}
	if f.Spec.Paused {
		fs.State = statePaused
	}
	return fs
}

// deliveryOf is what a flow gives: mirror topics take each record once without
// transactions, whatever is declared.
func deliveryOf(f *flow.ReplicationFlow, topics map[string]*cluster.Topic) string {
	declared := cmp.Or(f.Spec.Delivery, flow.DefaultDelivery)
	mirrors := 0
	for _, t := range topics {
		if t.Offsets == flow.OffsetsPreserve {
			mirrors++
		}
	}
	switch {
	case mirrors == 0 || declared == flow.DeliveryExactlyOnce:
		return declared
	case mirrors == len(topics):
		return flow.DeliveryExactlyOnce
	}
	return declared + ", mirror topics " + flow.DeliveryExactlyOnce
}

// judge adds what the holder of a flow's duty said last: what keeps it from
// looking for topics, or that there is nothing to find.
func judge(fs *api.FlowStatus, state string, said dutyReport, include []string) {
	switch {
	case said.Reason != "":
		fs.State, fs.Reason, fs.ToDo = worst(fs.State, state), said.Reason, said.Fix
	case said.Looked && said.Topics == 0:
		fs.Reason = fmt.Sprintf("cluster %s shows no topic that the flow includes (%s)", fs.Source, strings.Join(include, ", "))
		fs.ToDo = fmt.Sprintf("nothing if it is still to be created; otherwise correct topics.include, or allow Read and Describe on the topic to the flow's principal in cluster %s", fs.Source)
	}
}

func topicStatus(flowName string, t *cluster.Topic, paused bool, reports map[cluster.Work]cluster.WorkStatus) api.TopicStatus {
	ts := api.TopicStatus{SourceTopic: t.Source, DestinationTopic: t.Destination, Offsets: t.Offsets, State: string(mirror.Running), Partitions: []api.CopyStatus{}}
	if t.State != "" {
		ts.State = t.State
	}
	found := ts.State
	ts.Reason, ts.ToDo = t.Problem, t.Fix
	for p, owner := range t.Owners[:min(len(t.Owners), int(t.Partitions))] {
		w := cluster.Work{Kind: cluster.WorkCopy, Name: flowName, Topic: t.Source, Partition: int32(p)}
		cs := copyStatus(int32(p), owner, reports[w])
		switch {
		case paused:
			cs.State = statePaused
		case t.Blocked:
			cs.State = found // nobody may copy it: the topic says why
		}
		ts.State, ts.Progress = worst(ts.State, cs.State), together(ts.Progress, cs.Progress)
		ts.Partitions = append(ts.Partitions, cs)
	}
	sumUp(&ts)
	return ts
}

// standing tells of the partitions of a paused topic, which nobody owns and reports of,
// where they stand and how far the source is ahead.
func standing(ts *api.TopicStatus, at []pausedCopy) {
	if len(at) < len(ts.Partitions) {
		return // as they were reported last, if at all
	}
	ts.Progress = api.Progress{}
	for i := range ts.Partitions {
		cs, c := &ts.Partitions[i], at[i]
		cs.Position, cs.SourceEnd, cs.Progress = c.Position, c.End, unknownProgress()
		if c.Position >= 0 && c.End >= 0 {
			cs.LagRecords = max(0, c.End-c.Position)
		}
		ts.Progress = together(ts.Progress, cs.Progress)
	}
}

// sumUp gives a topic that has nothing to say for itself the reason of the first
// of its worst partitions.
func sumUp(ts *api.TopicStatus) {
	if ts.Reason != "" {
		return
	}
	n := 0
	for _, p := range ts.Partitions {
		if p.State != ts.State || p.Reason == "" {
			continue
		}
		if n++; n == 1 {
			ts.Reason, ts.ToDo = fmt.Sprintf("partition %d: %s", p.Partition, p.Reason), p.ToDo
		}
	}
	if n > 1 {
		ts.Reason = fmt.Sprintf("%d partitions, the first is %s", n, ts.Reason)
	}
}

func copyStatus(partition int32, owner cluster.Owner, report cluster.WorkStatus) api.CopyStatus {
	cs := api.CopyStatus{
		Partition: partition, Node: owner.Node, Epoch: owner.Epoch,
		State: stateUnassigned, Position: -1, SourceEnd: -1, Progress: unknownProgress(),
	}
	if owner.Node != "" {
		cs.State = string(mirror.Starting)
	}
	var c mirror.CopyStatus
	if report.Epoch != owner.Epoch || report.Node != owner.Node || json.Unmarshal(report.Detail, &c) != nil {
		return cs
	}
	cs.State, cs.Reason, cs.ToDo = string(c.State), c.Reason, c.Fix
	cs.Position, cs.SourceEnd, cs.Records, cs.Bytes, cs.MayBeDoubled = c.Position, c.SourceEnd, c.Records, c.Bytes, c.MayBeDoubled
	cs.ForeignRecords = c.ForeignRecords
	cs.RecordsPerSecond, cs.BytesPerSecond = c.RecordsPerSecond, c.BytesPerSecond
	if c.Position >= 0 && c.SourceEnd >= 0 {
		cs.LagRecords, cs.LagBytes, cs.LagSeconds = c.LagRecords, c.LagBytes, c.Lag.Seconds()
		cs.ETASeconds, cs.ETABasis = secondsKnown(c.CatchUp), c.CatchUpBasis
		cs.RPOSeconds = secondsKnown(c.Exposure)
	}
	return cs
}

func worst(a, b string) string {
	rank := func(s string) int {
		if i := slices.Index(stateOrder, s); i >= 0 {
			return i
		}
		return len(stateOrder)
	}
	if rank(b) < rank(a) {
		return b
	}
	return a
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.SortFunc(names, strings.Compare)
	return names
}
