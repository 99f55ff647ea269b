package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/runbook"
)

// at is a moment of the tests, printed in the reader's time zone.
var at = time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.Local)

// fleetThat answers every request with the same value, as JSON.
func fleetThat(t *testing.T, answers any) {
	t.Helper()
	noEnvironment(t)
	b, err := json.Marshal(answers)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := answering(t, http.StatusOK, string(b))
	t.Setenv("WAYBILL_SERVER", s.URL)
}

func TestLineageForPeople(t *testing.T) {
	event := lineage.Answer{
		Nodes: []lineage.Node{
			{
				Cluster: "us", Topic: "orders", Partition: 3, Offset: 1041, Origin: true, EarlierLife: true,
				Produced: []lineage.Deed{{Kind: "produced", Principal: "User:shop", ClientID: "till", Software: "librdkafka/2.3", Address: "10.0.0.7", At: at}},
				Accesses: []lineage.Deed{{Kind: "committed", Principal: "User:mail", Group: "mailer", At: at}, {Redacted: true, Kind: "fetched", At: at}},
				More:     true,
				NotCopied: []lineage.NotCopied{
					{Flow: "us-ap", Cluster: "ap", Topic: "orders", Reason: "pending", Why: "copied up to offset 1000"},
					{Flow: "us-sa", Cluster: "sa", Topic: "orders", Reason: "aborted"},
					{Redacted: true},
				},
				Unknown: []string{"something"},
			},
			{Cluster: "eu", Topic: "us.orders", Partition: 3, Offset: 7},
			{Redacted: true},
		},
		Edges:     []lineage.Edge{{From: 0, To: 1, Flow: "us-eu", ReplicaNode: "r1", Epoch: 20, At: &at}, {From: 1, To: 2}},
		Truncated: "256 places",
	}
	fleetThat(t, event)
	golden(t, "event.txt", replicator(t, "", "lineage", "event", "us/orders/3/1041").stdout)

	batch := lineage.StoredBatch{First: 1040, Last: 1049, ProducerID: 4000, ProducerEpoch: 2, BaseSequence: 17, Transactional: true, TimestampType: "CreateTime", Compression: "lz4", LeaderEpoch: 5}
	plain, from, value := batch, int64(1051), "acme\x1b[2J"
	plain.ProducerID = -1
	fleetThat(t, lineage.Answer{Nodes: []lineage.Node{
		{Cluster: "us", Topic: "orders", Partition: 3, Offset: 1041, Stored: &lineage.Stored{
			Time: &at, Batch: &batch, Producer: &lineage.ProducerState{Basis: "producer-state", ProducerEpoch: 3, CoordinatorEpoch: 9, LastAt: &at, OpenFrom: &from}, TransactionalID: "till-1",
			Headers: []lineage.StoredHeader{{Key: "trace\x07", Bytes: 1}, {Key: "tenant", Bytes: 8, Value: &value, Cut: true}, {Key: "raw", Bytes: 2, ValueBytes: []byte{0xff, 1}}, {Key: "null", Bytes: -1}},
			More:    1,
		}},
		{Cluster: "eu", Topic: "orders", Partition: 3, Offset: 7, Stored: &lineage.Stored{Time: &at, Batch: &plain, Unknown: []string{"the producer: the batch has no producer id"}}},
		{Cluster: "ap", Topic: "orders", Partition: 3, Offset: 9, Stored: &lineage.Stored{NotShown: "Read on the topic is needed to see what is in records"}},
	}})
	golden(t, "event-stored.txt", replicator(t, "", "lineage", "event", "us/orders/3/1041", "--headers", "values").stdout)

	fleetThat(t, lineage.Graph{
		Topics: []lineage.TopicNode{{Cluster: "us", Topic: "orders"}, {Cluster: "eu", Topic: "us.orders"}, {Redacted: true}},
		Copies: []lineage.TopicCopy{
			{
				From: 0, To: 1, Flow: "us-eu",
				Pace: &lineage.Pace{RecordsPerSecond: 10.25, BytesPerSecond: 2048, WindowSeconds: 60, LagRecords: -1, LagSeconds: -1, Unknown: []string{"partition 1: lag: us does not answer"}},
				Partitions: []lineage.PartitionCopy{
					{Records: 1500, Bytes: 3_000_000, Gaps: map[string]int64{"aborted": 2, "control": 1}, Pace: &lineage.Pace{RecordsPerSecond: 10.25, BytesPerSecond: 2048, LagRecords: 12, LagSeconds: 1.25}},
					{Source: 1, Destination: 1, Records: 500, Bytes: 1},
				},
			},
			{From: 1, To: 2},
		},
		Clients: []lineage.Client{{Kind: "produced", Principal: "User:shop", ClientID: "till", Offsets: 2000, At: at}, {Redacted: true, Kind: "fetched", Offsets: 1, At: at}},
		More:    true, Unknown: []string{"something"}, Truncated: "256 topics",
	})
	golden(t, "topic.txt", replicator(t, "", "lineage", "topic", "us/orders").stdout)

	fleetThat(t, lineage.GapPage{Gaps: []lineage.Gap{{Flow: "us-eu", Cluster: "eu", Topic: "us.orders", Source: 1041, Count: 3, Reason: "aborted"}, {Source: 1044, Count: 1, Reason: "unknown", Why: "a page is missing"}}, Next: 1045, Unknown: []string{"something"}})
	golden(t, "gaps.txt", replicator(t, "", "lineage", "gaps", "us/orders/3").stdout)
}

func TestCopiesForPeople(t *testing.T) {
	us := lineage.Stretch{Cluster: "us", Topic: "orders", Partition: 3, First: 1000, Last: 2000}
	eu := lineage.Stretch{Cluster: "eu", Topic: "us.orders", Partition: 3, First: 1003, Last: 1003}
	old, hidden := eu, lineage.Stretch{Redacted: true, First: -1, Last: -1}
	old.EarlierLife, old.First, old.Last = true, -1, -1
	fleetThat(t, lineage.RangePage{
		Rows: []lineage.RangeRow{
			{Source: us, Destination: eu, Hops: 1, Records: 1, Gaps: map[string]int64{"control": 2, "aborted": 1998}, Flow: "us-eu", At: &at},
			{Source: us, Destination: old, Hops: 1, Gaps: map[string]int64{"pending": 1001}, Why: "copied up to offset 1000", Flow: "us-eu"},
			{Source: eu, Destination: hidden, Hops: 2},
		},
		First: 1000, Last: 2000, Unknown: []string{"something"}, Truncated: "after 32 hops",
	})
	golden(t, "copies.txt", replicator(t, "", "lineage", "copies", "us/orders/3", "--from", "1000", "--to", "2000").stdout)
}

func TestAffectedForPeople(t *testing.T) {
	topic := func(cluster string, hops int, p ...lineage.AffectedPartition) lineage.AffectedTopic {
		return lineage.AffectedTopic{TopicNode: lineage.TopicNode{Cluster: cluster, Topic: "orders"}, Hops: hops, Partitions: p}
	}
	old := topic("eu", 1, lineage.AffectedPartition{Partition: 3, First: -1, Last: -1})
	old.EarlierLife = true
	fleetThat(t, lineage.Affected{
		Topics: []lineage.AffectedTopic{
			topic("us", 0, lineage.AffectedPartition{Partition: 3, First: 1000, Last: 2999, Offsets: 1500}), old,
			topic("ap", 1, lineage.AffectedPartition{Partition: 3, First: 5, Last: -1, Offsets: -1}, lineage.AffectedPartition{Partition: 4, First: -1, Last: -1, Offsets: -1}),
			{TopicNode: lineage.TopicNode{Redacted: true}, Hops: 2},
		},
		Readers: []lineage.Reader{
			{Topic: 0, Basis: []string{"accesses", "committed-offsets"}, Kind: "committed", Group: "mailer", Principal: "User:mail", ClientID: "m1", At: &at, Reached: true},
			{Topic: 2, Redacted: true, Basis: []string{"committed-offsets"}, Kind: "committed"},
		},
		Flows:    []lineage.AffectedFlow{{Fleet: "main", Flow: "us-eu", Basis: []string{"copies", "declared"}}, {Redacted: true}},
		Runbooks: []lineage.AffectedRunbook{{Runbook: "drill", Flow: "us-eu"}, {Runbook: "failover", Flow: "us-eu"}},
		Unknown:  []string{"something"}, Truncated: []string{"after 32 hops"},
	})
	golden(t, "affected.txt", replicator(t, "", "lineage", "affected", "us/orders/3", "--from", "1000").stdout)
	for args, want := range map[string]string{
		"us --from 1":             "--from is about one partition",
		"us/orders --to 1":        "--to is about one partition",
		"us --topic-id AAA":       "--topic-id is about one topic",
		"us/orders/3/4":           "is not an address",
		"us//3":                   "is not an address",
		"us/orders/3 --from x":    "invalid argument",
		"us/orders/3 us/orders/4": "accepts 1 arg",
	} {
		if got := replicator(t, "", append([]string{"lineage", "affected"}, strings.Fields(args)...)...); got.code != exitInvalid || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: got %+v, want %q", args, got, want)
		}
	}
	for _, w := range []string{"0s", "61m", "1500ms"} {
		if got := replicator(t, "", "lineage", "topic", "us/orders", "--window", w); got.code != exitInvalid || !strings.Contains(got.stderr, "whole seconds") {
			t.Errorf("%s: got %+v", w, got)
		}
	}
}

func TestGroupsForPeople(t *testing.T) {
	here, there := flow.TopicPartition{Topic: "orders", Partition: 3}, flow.TopicPartition{Topic: "us.orders", Partition: 3}
	rows := []offsets.Row{
		{Group: "mail", Source: here, Destination: there, SourceOffset: 1041, Present: 7, Result: offsets.Result{Offset: 7, Exact: true, Why: offsets.Copied}, Action: offsets.Keep},
		{Group: "web", Source: here, Destination: there, SourceOffset: 1041, Present: -1, Result: offsets.Result{Offset: -1, Why: offsets.NoCopy, Note: "not copied"}, Action: offsets.Leave, Why: "not copied"},
	}
	fleetThat(t, api.GroupRows{Flow: "us-eu", Rows: rows, Groups: offsets.PlanGroups(rows)})
	golden(t, "groups.txt", replicator(t, "", "groups", "list", "--flow", "us-eu").stdout)
	plan := replicator(t, "", "groups", "plan", "--flow", "us-eu")
	if plan.code != exitNotMet || plan.stderr != "" {
		t.Errorf("a group that is not ready: got %+v", plan)
	}
	golden(t, "groups-plan.txt", plan.stdout)

	fleetThat(t, api.GroupRows{Flow: "us-eu", Groups: []offsets.GroupPlan{{Group: "a", Verdict: offsets.Ready}, {Group: "b", Verdict: offsets.HasMoved}}})
	if got := replicator(t, "", "groups", "plan", "--flow", "us-eu"); got.code != exitOK {
		t.Errorf("ready, or moved already: got %+v", got)
	}

	fleetThat(t, api.Translations{To: []offsets.Translation{
		{To: offsets.Where{Cluster: "eu", Topic: "us.orders", Partition: 3, Offset: 7}, Flow: "us-eu", Result: offsets.Result{Offset: 7, Exact: true, Why: offsets.Copied}},
		{To: offsets.Where{Cluster: "ap", Topic: "orders", Partition: 3, Offset: -1}, Flow: "us-ap", Result: offsets.Result{Offset: -1, Why: offsets.Ahead}},
	}})
	golden(t, "translate.txt", replicator(t, "", "groups", "translate", "us/orders/3/1041").stdout)
}

// TestGroupsPlanReturn asks once: what the groups would meet on the way there is no part
// of the answer.
func TestGroupsPlanReturn(t *testing.T) {
	noEnvironment(t)
	fleet := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		plan := offsets.GroupPlan{Group: "web", Verdict: offsets.Ready}
		if r.Method != http.MethodPost || r.URL.RequestURI() != "/api/v1/flows/us-eu/groups/return?all=true&dryRun=true" {
			t.Errorf("asked for %s %s", r.Method, r.URL)
			plan = offsets.GroupPlan{Group: "mail", Verdict: offsets.Blocked, Why: []string{"not copied"}}
		}
		if err := json.NewEncoder(w).Encode(api.GroupRows{Flow: "us-eu", Groups: []offsets.GroupPlan{plan}}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(fleet.Close)
	t.Setenv("WAYBILL_SERVER", fleet.URL)
	got := replicator(t, "", "groups", "plan", "--return", "--flow", "us-eu")
	if got.code != exitOK || strings.Contains(got.stdout, "not copied") || !strings.Contains(got.stdout, "ready") {
		t.Errorf("got %+v", got)
	}
}

// anExecution has come to its gate.
func anExecution(t *testing.T) runbook.Execution {
	t.Helper()
	x, err := runbook.New("failover-1", &flow.Runbook{Metadata: flow.Metadata{Name: "failover"}, Spec: flow.RunbookSpec{Flow: "us-eu", Steps: []flow.Step{
		{ID: "look", Check: flow.CheckPreflight},
		{ID: "go", Gate: &flow.GateStep{Approvals: 2}},
		{ID: "clients", Switch: &flow.SwitchStep{Confirm: true}},
	}}}, "ops", "", at)
	if err != nil {
		t.Fatal(err)
	}
	x.Steps[0].State, x.Steps[1].State, x.Current = runbook.StepDone, runbook.StepWaiting, 1
	x.Steps[0].Evidence = []runbook.Entry{{Text: "first"}, {Text: "both clusters answer"}}
	return x
}

func TestRunbookPlanForPeople(t *testing.T) {
	fleetThat(t, anExecution(t))
	golden(t, "runbook-plan.txt", replicator(t, "", "runbook", "plan", "failover").stdout)
}

func TestWatchingARunbook(t *testing.T) {
	waits := anExecution(t)
	done := anExecution(t)
	done.State, done.Ended = runbook.Completed, at.Add(90*time.Second)
	for i := range done.Steps {
		done.Steps[i].State = runbook.StepDone
	}
	stopped := anExecution(t)
	stopped.State, stopped.Problem = runbook.Stopped, "look: no leader"
	stopped.Steps[1].State, stopped.Steps[1].Problem = runbook.StepFailed, "no leader"
	undone := anExecution(t)
	undone.State, undone.Problem = runbook.RolledBack, "drain: too late"
	running := anExecution(t)
	running.Steps[1].State = runbook.StepRunning

	for _, c := range []struct {
		name           string
		answers        []runbook.Execution
		code           int
		stdout, stderr string // without the time of day
	}{
		{"waits", []runbook.Execution{waits}, exitWaiting, "1/3 look done both clusters answer\n2/3 go waiting\n", "replicator: waits: approve go: 0 of 2\n"},
		{"goes on and completes", []runbook.Execution{running, running, done}, exitOK, "1/3 look done both clusters answer\n2/3 go running\n2/3 go done\n3/3 clients done\ncompleted in 90.0 s\n", ""},
		{"stops", []runbook.Execution{stopped}, exitNotMet, "1/3 look done both clusters answer\n2/3 go failed no leader\n", "replicator: stopped: look: no leader\n  replicator runbook retry|rollback|abort failover\n"},
		{"was undone", []runbook.Execution{undone}, exitNotMet, "1/3 look done both clusters answer\n2/3 go waiting\n", "replicator: rolledBack: drain: too late\n"},
	} {
		noEnvironment(t)
		asked := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(c.answers[min(asked, len(c.answers)-1)])
			asked++
		}))
		got := replicator(t, "", "runbook", "watch", "failover", "--server", s.URL)
		s.Close()
		var lines []string
		for line := range strings.Lines(got.stdout) {
			words := strings.Fields(line)
			if strings.Contains(words[0], ":") {
				words = words[1:] // the time of day
			}
			lines = append(lines, strings.Join(words, " ")+"\n")
		}
		if stdout := strings.Join(lines, ""); got.code != c.code || stdout != c.stdout || got.stderr != c.stderr {
			t.Errorf("%s: got %d\n%s%s\nwant %d\n%s%s", c.name, got.code, stdout, got.stderr, c.code, c.stdout, c.stderr)
		}
	}
}

func TestStepsAreShownWithTheTimeWhenTheyChanged(t *testing.T) {
	began := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s := runbook.StepRun{Started: began}
	if got := changedAt(&s); got != began {
		t.Errorf("started: got %s", got)
	}
	s.Evidence = []runbook.Entry{{At: began.Add(time.Second)}, {At: began.Add(time.Minute)}}
	if got := changedAt(&s); got != began.Add(time.Minute) {
		t.Errorf("with evidence: got %s", got)
	}
	s.Ended = began.Add(time.Hour)
	if got := changedAt(&s); got != s.Ended {
		t.Errorf("ended: got %s", got)
	}
}

// A node that answers may be of no use as a leader all the same.
func TestFleetStatusTellsAFullDisk(t *testing.T) {
	fleetThat(t, api.Members{Leader: "r1", Voters: 2, Nodes: []api.Member{{Name: "r1", Role: "voter", Answers: true}, {Name: "r2", Role: "voter", Answers: true, LogFull: true}}})
	got := replicator(t, "", "fleet", "status").stdout
	for _, want := range []string{"answers, disk full", "  r2: the disk of its raft log is full: it cannot lead\n    to do: free some space in its data folder\n"} {
		if !strings.Contains(got, want) || strings.Count(got, "full") != 2 {
			t.Errorf("it does not say %q of r2 alone:\n%s", want, got)
		}
	}
}

func TestStatusForPeople(t *testing.T) {
	fleetThat(t, api.Status{
		Fleet: api.FleetStatus{Leader: "r2", Nodes: []api.NodeStatus{{Name: "r1", Address: "10.0.0.1:8080"}, {Name: "r2", Address: "10.0.0.2:8080", Alive: true, Copies: 2, Works: 3, BytesPerSecond: 1234567, Region: "eu"}, {Name: "r3", Alive: true, Draining: true, Works: 1}, {Name: "r4", Alive: true, Draining: true}, {Name: "r5", Alive: true, Stopping: true, Works: 1}}},
		Flows: []api.FlowStatus{{
			Name: "us-eu", Source: "us", Destination: "eu", Delivery: "exactly-once", State: "failed", Progress: api.Progress{LagRecords: -1, LagBytes: -1, LagSeconds: -1, ETASeconds: -1, RPOSeconds: -1, Records: 1234567, Bytes: 1000},
			Reason: "topic orders: partition 1: not authorized", ToDo: "allow Write",
			Topics: []api.TopicStatus{{SourceTopic: "orders", DestinationTopic: "orders", Offsets: "translate", State: "failed", Progress: unknownProgress(), Reason: "partition 1: not authorized", ToDo: "allow Write", Partitions: []api.CopyStatus{
				{Partition: 0, Node: "r2", Epoch: 5, State: "running", Position: 90, SourceEnd: 100, Progress: api.Progress{LagRecords: 10, LagBytes: 1000, LagSeconds: 2, ETASeconds: 75, ETABasis: "copies 1 offsets/s, the source grows by 0/s (last 10 s)", RPOSeconds: 2, RecordsPerSecond: 1, Records: 1234567}},
				{Partition: 1, Node: "r2", Epoch: 6, State: "failed", Reason: "not authorized", ToDo: "allow Write", Position: -1, SourceEnd: -1, Progress: unknownProgress()},
			}}},
		}},
	})
	golden(t, "status.txt", replicator(t, "", "status", "--partitions").stdout)
}
