package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/offsets"
)

func TestTheWorstStateWins(t *testing.T) {
	for _, s := range []mirror.State{mirror.Starting, mirror.Running, mirror.Waiting, mirror.Failed} {
		if !slices.Contains(stateOrder, string(s)) {
			t.Errorf("%s has no place in the order of states", s)
		}
	}
	for i, a := range stateOrder {
		for _, b := range stateOrder[i:] {
			if worst(a, b) != a || worst(b, a) != a {
				t.Errorf("%s is worse than %s: got %s and %s", a, b, worst(a, b), worst(b, a))
			}
		}
	}
}

func TestUnknownPartsMakeTheSumUnknown(t *testing.T) {
	for _, c := range []struct{ a, b, sum, most int64 }{{0, 0, 0, 0}, {1, 2, 3, 2}, {-1, 2, -1, -1}, {2, -1, -1, -1}, {-1, -1, -1, -1}} {
		if got := sumKnown(c.a, c.b); got != c.sum {
			t.Errorf("%d and %d: got sum %d, want %d", c.a, c.b, got, c.sum)
		}
		if got := maxKnown(float64(c.a), float64(c.b)); got != float64(c.most) {
			t.Errorf("%d and %d: got most %v, want %d", c.a, c.b, got, c.most)
		}
	}
}

func TestTheWholeHasArrivedWithItsLastPart(t *testing.T) {
	part := func(lag int64, eta, rpo float64, basis string) api.Progress {
		return api.Progress{LagRecords: lag, LagBytes: lag * 100, ETASeconds: eta, RPOSeconds: rpo, ETABasis: basis, RecordsPerSecond: 5}
	}
	for _, c := range []struct {
		name       string
		a, b, want api.Progress
	}{
		{"the slower one decides", part(10, 2, 1, "a"), part(20, 4, 0.5, "b"), api.Progress{LagRecords: 30, LagBytes: 3000, ETASeconds: 4, RPOSeconds: 1, ETABasis: "b", RecordsPerSecond: 10}},
		{"one never arrives", part(10, -1, 1, "a"), part(20, 4, 3, "b"), api.Progress{LagRecords: 30, LagBytes: 3000, ETASeconds: -1, RPOSeconds: 3, ETABasis: "a", RecordsPerSecond: 10}},
		{"one is not known", unknownProgress(), part(20, 4, 3, "b"), api.Progress{LagRecords: -1, LagBytes: -1, LagSeconds: -1, ETASeconds: -1, RPOSeconds: -1, RecordsPerSecond: 5}},
	} {
		if got := together(c.a, c.b); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

// scene is a flow of one topic with two partitions, and what its owners say.
type scene struct {
	flow    *flow.ReplicationFlow
	state   *cluster.State
	topic   *cluster.Topic
	reports map[cluster.Work]cluster.WorkStatus
}

func newScene() *scene {
	topic := &cluster.Topic{
		TopicSpec: cluster.TopicSpec{Source: "orders", Destination: "us.orders", Partitions: 2, State: string(mirror.Running)},
		Owners:    []cluster.Owner{{Node: "r1", Epoch: 5}, {Node: "r2", Epoch: 6}},
	}
	s := &scene{
		flow: &flow.ReplicationFlow{Metadata: flow.Metadata{Name: "us-eu"}, Spec: flow.FlowSpec{
			Source: "us", Destination: "eu", Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{"orders"}}},
		}},
		state:   &cluster.State{Members: map[string]cluster.Member{"r1": {Name: "r1", Incarnation: 3}}, Flows: map[string]*cluster.Flow{"us-eu": {Duty: cluster.Owner{Node: "r1", Epoch: 4}, Topics: map[string]*cluster.Topic{"orders": topic}}}},
		topic:   topic,
		reports: map[cluster.Work]cluster.WorkStatus{},
	}
	s.copy(0, "r1", 5, mirror.CopyStatus{State: mirror.Running, Position: 90, SourceEnd: 100, LagRecords: 10, Lag: 2 * time.Second, Records: 7, Bytes: 70})
	s.copy(1, "r2", 6, mirror.CopyStatus{State: mirror.Running, Position: 50, SourceEnd: 50, Records: 3, Bytes: 30})
	s.duty("r1", 4, dutyReport{Looked: true, Topics: 1})
	return s
}

func (s *scene) copy(partition int32, node string, epoch uint64, c mirror.CopyStatus) {
	s.report(cluster.Work{Kind: cluster.WorkCopy, Name: "us-eu", Topic: "orders", Partition: partition}, node, epoch, c)
}

func (s *scene) duty(node string, epoch uint64, d dutyReport) {
	s.report(cluster.Work{Kind: cluster.WorkFlow, Name: "us-eu"}, node, epoch, d)
}

func (s *scene) report(w cluster.Work, node string, epoch uint64, detail any) {
	b, err := json.Marshal(detail)
	if err != nil {
		panic(err)
	}
	s.reports[w] = cluster.WorkStatus{Work: w, Node: node, Epoch: epoch, State: string(mirror.Waiting), Detail: b}
}

// summary is what decides whether somebody is woken at night.
func summary(f api.FlowStatus) string {
	return fmt.Sprintf("%s|%s|%s|lag %d %.0fs|copied %d %d", f.State, f.Reason, f.ToDo, f.LagRecords, f.LagSeconds, f.Records, f.Bytes)
}

func TestFlowStatus(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*scene)
		want string
	}{
		{"all is well", func(*scene) {}, "running|||lag 10 2s|copied 10 100"},
		{"nothing was found yet", func(s *scene) {
			s.state.Flows = nil
			s.reports = nil
		}, "discovering|||lag -1 -1s|copied 0 0"},
		{"nothing is picked", func(s *scene) {
			s.state.Flows["us-eu"].Topics = nil
			s.duty("r1", 4, dutyReport{Looked: true})
		}, "discovering|cluster us shows no topic that the flow includes (orders)|nothing if it is still to be created; otherwise correct topics.include, or allow Read and Describe on the topic to the flow's principal in cluster us|lag -1 -1s|copied 0 0"},
		{"no node may run it", func(s *scene) {
			s.state.Objects = map[string]cluster.Object{"ReplicationFlow/us-eu": {Spec: json.RawMessage(`{"spec":{"placement":{"nodes":{"matchLabels":{"disk":"fast"}}}}}`)}}
			s.topic.Owners = make([]cluster.Owner, 2)
			s.reports = nil
		}, "unassigned|no node has the labels that the flow is pinned to: disk=fast|start or undrain such a node ('replicator status' lists them), or change spec.placement|lag -1 -1s|copied 0 0"},
		{"a cluster does not answer", func(s *scene) {
			s.duty("r1", 4, dutyReport{Reason: "cluster us: connection refused", Fix: "start it"})
		}, "waiting|cluster us: connection refused|start it|lag 10 2s|copied 10 100"},
		{"what a former holder of the duty said", func(s *scene) {
			s.duty("r2", 3, dutyReport{Reason: "old", Fix: "old"})
		}, "running|||lag 10 2s|copied 10 100"},
		{"one copy has failed", func(s *scene) {
			s.copy(1, "r2", 6, mirror.CopyStatus{State: mirror.Failed, Reason: "not authorized", Fix: "allow Write", Position: 50, SourceEnd: 60, LagRecords: 10})
		}, "failed|topic orders: partition 1: not authorized|allow Write|lag 20 2s|copied 7 70"},
		{"both wait", func(s *scene) {
			s.copy(0, "r1", 5, mirror.CopyStatus{State: mirror.Waiting, Reason: "slow", Position: -1, SourceEnd: -1})
			s.copy(1, "r2", 6, mirror.CopyStatus{State: mirror.Waiting, Reason: "slower", Position: -1, SourceEnd: -1})
		}, "waiting|topic orders: 2 partitions, the first is partition 0: slow||lag -1 -1s|copied 0 0"},
		{"a report of a former owner", func(s *scene) {
			s.copy(1, "r3", 5, mirror.CopyStatus{State: mirror.Failed, Reason: "old", Records: 1000})
		}, "starting|||lag -1 -1s|copied 7 70"},
		{"no owner", func(s *scene) { s.topic.Owners[1] = cluster.Owner{} }, "unassigned|||lag -1 -1s|copied 7 70"},
		{"the topic was recreated", func(s *scene) {
			s.topic.State, s.topic.Blocked, s.topic.Problem, s.topic.Fix = string(mirror.Failed), true, "recreated", "delete"
			s.topic.Owners = make([]cluster.Owner, 2)
		}, "failed|topic orders: recreated|delete|lag -1 -1s|copied 0 0"},
		{"paused", func(s *scene) { s.flow.Spec.Paused = true }, "paused|||lag 10 2s|copied 10 100"},
		{"paused, and nobody's: how far the source is ahead shows all the same", func(s *scene) {
			s.flow.Spec.Paused, s.topic.Owners = true, make([]cluster.Owner, 2)
			s.duty("r1", 4, dutyReport{Paused: map[string][]pausedCopy{"orders": {{Position: 90, End: 100}, {Position: 30, End: 50}}}})
		}, "paused|||lag 30 -1s|copied 0 0"},
		{"paused, and of one partition nothing is known", func(s *scene) {
			s.flow.Spec.Paused, s.topic.Owners = true, make([]cluster.Owner, 2)
			s.duty("r1", 4, dutyReport{Paused: map[string][]pausedCopy{"orders": {{Position: 90, End: 100}, {Position: -1, End: 50}}}})
		}, "paused|||lag -1 -1s|copied 0 0"},
		{"its topic is paused", func(s *scene) { s.flow.Spec.Topics.Paused = []string{"ord*"} }, "running|||lag 10 2s|copied 10 100"},
		{"partitions that are being given back do not count", func(s *scene) {
			s.topic.Owners = append(s.topic.Owners, cluster.Owner{Node: "r3", Epoch: 9})
		}, "running|||lag 10 2s|copied 10 100"},
	} {
		s := newScene()
		c.set(s)
		if got := summary(flowStatus(s.state, s.flow, s.reports)); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestStatusSaysHowATopicIsCopied(t *testing.T) {
	s := newScene()
	s.topic.Offsets = flow.OffsetsPreserve
	s.copy(1, "r2", 6, mirror.CopyStatus{State: mirror.Running, Position: 50, SourceEnd: 50, MayBeDoubled: 4, ForeignRecords: 9})
	got := flowStatus(s.state, s.flow, s.reports).Topics[0]
	if got.Offsets != flow.OffsetsPreserve || got.Partitions[0].MayBeDoubled != 0 || got.Partitions[1].MayBeDoubled != 4 || got.Partitions[1].ForeignRecords != 9 {
		t.Errorf("got %+v", got)
	}
}

func TestJudgeGroups(t *testing.T) {
	row := func(group string, r offsets.Result, a offsets.Action) offsets.Row {
		return offsets.Row{Group: group, Source: flow.TopicPartition{Topic: "orders", Partition: 3}, Result: r, Action: a}
	}
	exact := offsets.Result{Offset: 7, Exact: true, Why: offsets.Copied}
	queue := func(r offsets.Result) offsets.Row {
		of := row("queue", r, offsets.Write)
		of.Share, of.InOrder = true, r.Why == offsets.Copied && r.Skipped == 0
		return of
	}
	again := offsets.Result{Offset: 7, Reread: 3, Why: offsets.Copied, Note: "acknowledged out of order"}
	skips := again
	skips.Skipped = 1
	gone := row("gone", exact, offsets.Leave)
	gone.Moved = true
	for _, c := range []struct {
		name    string
		rows    []offsets.Row
		ok      bool
		summary string
		facts   int
	}{
		{"no group", nil, true, "0 groups exact: 0 records read again, 0 skipped", 0},
		{"exact", []offsets.Row{row("a", exact, offsets.Keep)}, true, "1 group exact: 0 records read again, 0 skipped", 1},
		{
			"a share group delivers again",
			[]offsets.Row{row("a", exact, offsets.Keep), queue(again)},
			true,
			"1 group exact: 0 records read again, 0 skipped; share group queue: orders/3: copied: acknowledged out of order", 2,
		},
		{"a share group skips", []offsets.Row{queue(skips)}, false, "group queue is not-exact: orders/3: copied: acknowledged out of order", 1},
		{"a share group, and records that are gone", []offsets.Row{queue(offsets.Result{Offset: 7, Reread: 3, Why: offsets.Expired})}, false, "group queue is not-exact: orders/3: expired", 1},
		{"moved, as the fleet knows", []offsets.Row{row("a", exact, offsets.Keep), row("known", offsets.Result{Offset: -1}, offsets.Leave)}, true, "1 group exact: 0 records read again, 0 skipped", 2},
		{"moved, as its commits show", []offsets.Row{gone}, true, "0 groups exact: 0 records read again, 0 skipped", 1},
		{"not exact", []offsets.Row{row("a", offsets.Result{Offset: 7, Reread: 3, Why: offsets.Copied, Note: "two flows write"}, offsets.Write), row("b", exact, offsets.Keep)}, false, "group a is not-exact: orders/3: copied: two flows write", 2},
	} {
		res := judgeGroups(c.rows, func(group string) bool { return group == "known" })
		if res.OK != c.ok || res.Summary != c.summary || len(res.Facts) != c.facts {
			t.Errorf("%s: got %+v, want %v %q and %d facts", c.name, res, c.ok, c.summary, c.facts)
		}
	}
}

func TestMergeAndChange(t *testing.T) {
	object := func(name, server string) flow.Object {
		return flow.Object{Kind: flow.KindCluster, Cluster: &flow.Cluster{Metadata: flow.Metadata{Name: name}, Spec: flow.ClusterSpec{BootstrapServers: []string{server}}}}
	}
	have := []flow.Object{object("a", "a:1"), object("b", "b:1")}
	declared := []flow.Object{object("b", "b:2"), object("c", "c:1"), object("a", "a:1")}
	var got []string
	for _, o := range merge(have, declared) {
		got = append(got, o.Name()+" "+o.Cluster.Spec.BootstrapServers[0])
	}
	if want := []string{"a a:1", "b b:2", "c c:1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if have[1].Cluster.Spec.BootstrapServers[0] != "b:1" {
		t.Error("what was there has been changed")
	}
	got = nil
	for i := range declared {
		c := change(have, &declared[i])
		got = append(got, fmt.Sprintf("%s/%s %s %d", c.Kind, c.Name, c.Action, min(1, len(c.Diff))))
	}
	if want := []string{"Cluster/b update 1", "Cluster/c create 1", "Cluster/a unchanged 0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
