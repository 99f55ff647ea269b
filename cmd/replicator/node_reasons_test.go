package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/mirror"
)

func TestReasonsOfAFlow(t *testing.T) {
	declared := &flow.ReplicationFlow{
		Metadata: flow.Metadata{Name: "us-eu"},
		Spec:     flow.FlowSpec{Source: "us", Destination: "eu", Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{"orders", "pay*"}}}},
	}
	owner := cluster.Owner{Node: "r1", Epoch: 7}
	topic := func(spec cluster.TopicSpec, n int) *cluster.Topic {
		spec.Source, spec.Destination, spec.Partitions = "orders", "orders", int32(n)
		owners := make([]cluster.Owner, n)
		for i := range owners {
			owners[i] = owner
		}
		return &cluster.Topic{TopicSpec: spec, Owners: owners}
	}
	copyReport := func(partition int32, s mirror.CopyStatus) cluster.WorkStatus {
		s.Position, s.SourceEnd = 5, 5
		detail, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return cluster.WorkStatus{Work: cluster.Work{Kind: cluster.WorkCopy, Name: "us-eu", Topic: "orders", Partition: partition}, Node: "r1", Epoch: 7, Detail: detail}
	}
	duty := func(state mirror.State, epoch uint64, r dutyReport) cluster.WorkStatus {
		detail, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return cluster.WorkStatus{Work: cluster.Work{Kind: cluster.WorkFlow, Name: "us-eu"}, Epoch: epoch, State: string(state), Detail: detail}
	}
	running := mirror.CopyStatus{State: mirror.Running}
	failed := mirror.CopyStatus{State: mirror.Failed, Reason: "no right", Fix: "grant it"}
	for _, c := range []struct {
		name                string
		topic               *cluster.Topic
		reports             []cluster.WorkStatus
		state, reason, toDo string
	}{
		{"nobody has looked yet", nil, nil, stateFinding, "", ""},
		{"nothing to find", nil, []cluster.WorkStatus{duty(mirror.Running, 7, dutyReport{Looked: true})}, stateFinding, "cluster us shows no topic that the flow includes (orders, pay*)", "topics.include"},
		{"a report of an earlier holder", nil, []cluster.WorkStatus{duty(mirror.Waiting, 6, dutyReport{Reason: "old"})}, stateFinding, "", ""},
		{"a cluster is away", nil, []cluster.WorkStatus{duty(mirror.Waiting, 7, dutyReport{Reason: "refused", Fix: "start it"})}, "waiting", "refused", "start it"},
		{"all is well", topic(cluster.TopicSpec{State: "running"}, 2), []cluster.WorkStatus{copyReport(0, running), copyReport(1, running)}, "running", "", ""},
		{"groups do not follow", topic(cluster.TopicSpec{State: "running"}, 1), []cluster.WorkStatus{copyReport(0, running), duty(mirror.Running, 7, dutyReport{Looked: true, Topics: 1, Groups: "no ledger", GroupsFix: "allow Read"})}, "running", "groups do not follow: no ledger", "allow Read"},
		{"a partition has failed", topic(cluster.TopicSpec{State: "running"}, 2), []cluster.WorkStatus{copyReport(0, running), copyReport(1, failed)}, "failed", "topic orders: partition 1: no right", "grant it"},
		{"all have failed", topic(cluster.TopicSpec{State: "running"}, 2), []cluster.WorkStatus{copyReport(0, failed), copyReport(1, failed)}, "failed", "topic orders: 2 partitions, the first is partition 0: no right", "grant it"},
		{"the topic itself", topic(cluster.TopicSpec{State: "failed", Problem: "not created", Fix: "allow CREATE"}, 1), []cluster.WorkStatus{copyReport(0, running)}, "failed", "topic orders: not created", "allow CREATE"},
		{"two lives", topic(cluster.TopicSpec{State: "failed", Blocked: true, Problem: "another topic", Fix: "delete"}, 1), nil, "failed", "topic orders: another topic", "delete"},
	} {
		work := &cluster.Flow{Duty: owner}
		if c.topic != nil {
			work.Topics = map[string]*cluster.Topic{"orders": c.topic}
		}
		reports := map[cluster.Work]cluster.WorkStatus{}
		for _, r := range c.reports {
			reports[r.Work] = r
		}
		fs := flowStatus(&cluster.State{Members: map[string]cluster.Member{"r1": {Name: "r1", Incarnation: 3}}, Flows: map[string]*cluster.Flow{"us-eu": work}}, declared, reports)
		if fs.State != c.state || fs.Reason != c.reason || !strings.Contains(fs.ToDo, c.toDo) || (fs.ToDo == "") != (c.toDo == "") {
			t.Errorf("%s: %q, %q, %q, want %q, %q, %q", c.name, fs.State, fs.Reason, fs.ToDo, c.state, c.reason, c.toDo)
		}
	}
}

func TestLedgerStatus(t *testing.T) {
	at := tail.Position{Cluster: "id", Partition: 3, Offset: 17}
	for _, c := range []struct {
		name         string
		state        tail.State
		doubts       []api.LedgerDoubt
		reason, toDo string
		harmless     bool
	}{
		{"all is well", tail.State{Status: tail.Reading, Partitions: []tail.PartitionState{{Partition: 0, Next: 5, End: 8}}}, nil, "", "", false},
		{"it is gone", tail.State{Status: tail.Stopped, Err: tail.ErrMissing}, nil, "the ledger is gone", "nothing is copied", false},
		{
			"what never was a page",
			tail.State{Status: tail.Reading, Damaged: 1, Damage: []tail.Damage{{Position: at, Err: &ledger.CorruptError{Reason: "not a page", Foreign: true}}}},
			nil, "", "", true,
		},
		{
			"a page that is lost",
			tail.State{Status: tail.Reading, Damaged: 1, Damage: []tail.Damage{{Position: at, Err: &ledger.CorruptError{Reason: "checksum"}}}},
			[]api.LedgerDoubt{{Partition: 3, Offset: 17, Reason: "ledger partition 3, offset 17: checksum", Copies: 2}},
			"ledger partition 3, offset 17: checksum; uncertain copies: 2", "ledger waive eu/3/17", false,
		},
		{
			"a page that is lost and waived",
			tail.State{Status: tail.Reading, Damaged: 1, Damage: []tail.Damage{{Position: at, Err: &ledger.CorruptError{Reason: "checksum"}}}},
			[]api.LedgerDoubt{{Partition: 3, Offset: 17, Reason: "checksum", WaivedBy: "ops"}},
			"", "", false,
		},
		{"no right to read", tail.State{Status: tail.Reading, Err: errors.New("denied")}, nil, "denied", "", false},
	} {
		l := ledgerStatus("eu", c.state, c.doubts)
		if !strings.Contains(l.Reason, c.reason) || (l.Reason == "") != (c.reason == "") || !strings.Contains(l.ToDo, c.toDo) {
			t.Errorf("%s: %q, %q, want %q, %q", c.name, l.Reason, l.ToDo, c.reason, c.toDo)
		}
		for i, d := range l.Damage {
			want := api.LedgerDamage{Topic: ledger.Topic, Partition: 3, Offset: 17, Reason: c.state.Damage[i].Err.Error(), Harmless: c.harmless}
			if d != want {
				t.Errorf("%s: damage is %+v, want %+v", c.name, d, want)
			}
		}
	}
	if got, want := ledgerStatus("eu", tail.State{Partitions: []tail.PartitionState{{Next: 5, End: 8}, {Next: 9, End: 9}}}, nil).Behind, int64(3); got != want {
		t.Errorf("behind by %d, want %d", got, want)
	}
}
