package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/offsets"
)

// aCluster answers as a test wants it.
type aCluster struct {
	offsets.Cluster
	ids     map[string]ledger.TopicID
	asked   []string
	groups  map[string]offsets.Group
	commits map[string]map[flow.TopicPartition]offsets.Commit
	err     error
}

func (c *aCluster) Topics(context.Context, []string) (map[string]ledger.TopicID, error) {
	return c.ids, c.err
}

func (c *aCluster) Ends(_ context.Context, topics []string) (map[flow.TopicPartition]int64, error) {
	c.asked = topics
	return map[flow.TopicPartition]int64{{Topic: "orders"}: 7}, nil
}

func (c *aCluster) Groups(context.Context) (map[string]offsets.Group, error) { return c.groups, nil }

func (c *aCluster) Commits(_ context.Context, groups []offsets.Group) (map[string]map[flow.TopicPartition]offsets.Commit, error) {
	c.asked = nil
	for _, g := range groups {
		c.asked = append(c.asked, g.Name)
	}
	return c.commits, c.err
}

// TestEndsOfTheSameLife: a topic that was made again is not asked where it ends.
func TestEndsOfTheSameLife(t *testing.T) {
	c := &aCluster{ids: map[string]ledger.TopicID{"orders": {1}, "again": {9}}}
	got, err := endsOf(t.Context(), c, map[string]ledger.TopicID{"orders": {1}, "again": {2}, "gone": {3}})
	if err != nil || got[flow.TopicPartition{Topic: "orders"}] != 7 || !slices.Equal(c.asked, []string{"orders"}) {
		t.Errorf("got %v %v after asking for %q", got, err, c.asked)
	}
	c.err = errors.New("not there")
	if _, err := endsOf(t.Context(), c, nil); !errors.Is(err, c.err) {
		t.Errorf("got %v", err)
	}
}

// TestGroupsInTopics: positions in other topics are nobody's business, more groups
// than can be asked are said, and no error names one.
func TestGroupsInTopics(t *testing.T) {
	orders, other := flow.TopicPartition{Topic: "orders", Partition: 1}, flow.TopicPartition{Topic: "secret"}
	c := &aCluster{
		groups:  map[string]offsets.Group{"b": {Name: "b", State: "Empty"}, "a": {Name: "a", State: "Stable"}, "queue": {Name: "queue", Share: true}},
		commits: map[string]map[flow.TopicPartition]offsets.Commit{"a": {orders: {Offset: 5}, other: {Offset: 6}}, "b": {other: {Offset: 6}, {Topic: "orders"}: {Offset: 9}}},
	}
	got, more, err := groupsIn(t.Context(), c, []string{"orders"})
	want := []lineage.GroupPosition{{Group: "a", At: orders, Next: 5}, {Group: "b", At: flow.TopicPartition{Topic: "orders"}, Next: 9}}
	if err != nil || more != "" || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v %q %v, want %+v", got, more, err, want)
	}
	for i := range mostGroups + 5 {
		name := fmt.Sprint("c", i)
		c.groups[name] = offsets.Group{Name: name, State: "Empty"}
	}
	if _, more, err = groupsIn(t.Context(), c, []string{"orders"}); err != nil || len(c.asked) != mostGroups || !strings.Contains(more, "more than 1000") {
		t.Errorf("got %q %v after asking for %d", more, err, len(c.asked))
	}
	c.err = fmt.Errorf("fetch offsets of group hidden-one: %w", kerr.GroupAuthorizationFailed)
	if _, _, err = groupsIn(t.Context(), c, []string{"orders"}); !errors.Is(err, kerr.GroupAuthorizationFailed) || strings.Contains(err.Error(), "hidden-one") {
		t.Errorf("got %v", err)
	}
	c.groups = nil
	if got, more, err = groupsIn(t.Context(), c, []string{"orders"}); err != nil || more != "" || got != nil {
		t.Errorf("no groups: got %+v %q %v", got, more, err)
	}
}

func TestWhenTheIndexIsLate(t *testing.T) {
	part := func(next, end int64) []tail.PartitionState { return []tail.PartitionState{{Next: next, End: end}} }
	for _, c := range []struct {
		s    tail.State
		want string
	}{
		{tail.State{Status: tail.Reading, Partitions: part(5, 5)}, ""},
		{tail.State{Status: tail.Reading, Partitions: part(5, 5+lateLedger)}, ""}, // a moment's work
		{tail.State{Status: tail.Absent}, ""},
		{tail.State{Status: tail.Reading, Partitions: part(5, 500)}, "495 offsets of it are missing"},
		{tail.State{Status: tail.Connecting}, "has not answered yet"},
		{tail.State{Status: tail.Reading, Err: errors.New("broken pipe")}, "broken pipe"},
	} {
		if got := ledgerLate(c.s); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: got %q, want %q", c.s, got, c.want)
		}
	}
}

// TestWaitsOfOwners: only of copies whose owners know both ends.
func TestWaitsOfOwners(t *testing.T) {
	work := func(kind cluster.WorkKind, partition int32, s mirror.CopyStatus) cluster.WorkStatus {
		detail, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return cluster.WorkStatus{Work: cluster.Work{Kind: kind, Name: "us-eu", Topic: "orders", Partition: partition}, Detail: detail}
	}
	got := waitsOf("main", []cluster.WorkStatus{
		work(cluster.WorkCopy, 0, mirror.CopyStatus{Position: 5, SourceEnd: 9, Lag: time.Second}),
		work(cluster.WorkCopy, 1, mirror.CopyStatus{Position: -1, SourceEnd: 9, Lag: time.Second}),
		work(cluster.WorkCopy, 2, mirror.CopyStatus{Position: 5, SourceEnd: -1, Lag: time.Second}),
		work(cluster.WorkFlow, 3, mirror.CopyStatus{Lag: time.Second}),
		{Work: cluster.Work{Kind: cluster.WorkCopy, Partition: 4}, Detail: json.RawMessage("{")},
	})
	want := map[lineage.CopyName]time.Duration{{Fleet: "main", Flow: "us-eu", SourceTopic: "orders", Partition: 0}: time.Second}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDeclaredFlowsWithTheirRunbooks(t *testing.T) {
	objects, err := flow.Parse("x", strings.NewReader(`apiVersion: waybill/v1
kind: ReplicationFlow
metadata: {name: us-eu}
spec: {source: us, destination: eu, topics: {include: ["orders*"]}}
---
apiVersion: waybill/v1
kind: Runbook
metadata: {name: drill}
spec: {flow: us-eu, steps: [{id: look, check: preflight}]}
---
apiVersion: waybill/v1
kind: Runbook
metadata: {name: other}
spec: {flow: us-ap, steps: [{id: look, check: preflight}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	s := &cluster.State{Objects: map[string]cluster.Object{}}
	for _, o := range objects {
		spec, err := flow.Encode(o)
		if err != nil {
			t.Fatal(err)
		}
		s.Objects[string(o.Kind)+"/"+o.Name()] = cluster.Object{Spec: spec}
	}
	got := declaredFlows(s, "main", func(name string) string { return map[string]string{"us": "id-us"}[name] })
	if len(got) != 1 || got[0].Flow != "us-eu" || got[0].Fleet != "main" || got[0].Source != "id-us" || got[0].Destination != "" || !slices.Equal(got[0].Runbooks, []string{"drill"}) {
		t.Fatalf("got %+v", got)
	}
	if !got[0].Topics("orders-1") || got[0].Topics("other") {
		t.Error("the flow's selector is not the one that is declared")
	}
}
