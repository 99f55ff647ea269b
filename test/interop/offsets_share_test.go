//go:build interop && unix

package interop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// oneShareCoordinator lets a cluster of one broker have share groups.
var oneShareCoordinator = map[string]string{
	"share.coordinator.state.topic.replication.factor": "1",
	"share.coordinator.state.topic.min.isr":            "1",
	"share.coordinator.state.topic.num.partitions":     "2",
}

// TestOffsetsOfShareGroups: a share group (KIP-932) of an Apache Kafka is followed to
// another, goes on there with what it has not acknowledged, and with nothing else but
// what it had acknowledged out of order, which was counted; and it comes home.
func TestOffsetsOfShareGroups(t *testing.T) {
	w := newOffsetsPair(t, "4.2.0", "4.4.0")
	w.enableShares(w.us)
	w.enableShares(w.eu)
	w.outOfOrder()
	f := w.fleet()
	w.starts(f, w.eu, 3+5)
	if row := w.row(f, "app"); !row.Share || row.Result.Exact || row.Result.Reread != 2 || !strings.Contains(row.Because, "out of order") {
		t.Fatalf("got %+v", row)
	}
	w.refused(f, "acknowledged up to 2 records", "groups", "move", "--flow", "us-eu", "app")
	// 7 and 8 come again.
	if got := w.take(w.eu, 6, 0, 1, 2, 3, 4, 5); !slices.Equal(got, recordsOf(5, 11)) {
		t.Fatalf("at the destination: got %v", got)
	}
	f.wait("the group to have moved", func() error {
		if row := w.row(f, "app"); !row.Moved || row.Present != 3+11 {
			return fmt.Errorf("got %+v", row)
		}
		return nil
	})
	// The marker of the copy's transaction is dealt with, and may be taken for a record.
	w.do(f, "groups", "return", "--flow", "us-eu", "--inexact", "app")
	if got := w.take(w.us, 3, 0, 1, 2); !slices.Equal(got, recordsOf(11, 14)) {
		t.Fatalf("home: got %v", got)
	}
	w.starts(f, w.eu, 3+14)
	w.do(f, "groups", "move", "--flow", "us-eu", "app")
	if got := w.take(w.eu, 6, 0, 1, 2, 3, 4, 5); !slices.Equal(got, recordsOf(14, 20)) {
		t.Fatalf("moved: got %v", got)
	}
}

// TestOffsetsOfShareGroupsFromPreview: Apache Kafka 4.1 tells where a group starts, and
// not what it has acknowledged beyond; and it cannot set it.
func TestOffsetsOfShareGroupsFromPreview(t *testing.T) {
	w := newOffsetsPair(t, "4.1.1", "4.4.0")
	w.enableShares(w.us)
	w.outOfOrder()
	f := w.fleet()
	w.starts(f, w.eu, 3+5)
	if row := w.row(f, "app"); row.Result.Exact || !strings.Contains(row.Because, "does not tell") {
		t.Fatalf("got %+v", row)
	}
	w.do(f, "groups", "move", "--flow", "us-eu", "--inexact", "app")
	if got := w.take(w.eu, 4, 0, 1, 2, 3); !slices.Equal(got, recordsOf(5, 9)) {
		t.Fatalf("moved: got %v", got)
	}
	w.refused(f, "no share groups whose start can be set", "groups", "return", "--flow", "us-eu", "app")
}

// TestOffsetsOfShareGroupsToNone: where there are no share groups whose start can be set,
// that is said, and the others follow.
func TestOffsetsOfShareGroupsToNone(t *testing.T) {
	w := newOffsetsPair(t, "4.4.0", "4.1.1")
	w.outOfOrder()
	w.us.commit("web", "orders", 9, "")
	f := w.fleet()
	w.follow(f, "web", "wb.orders", 3+9)
	if row := w.row(f, "app"); row.Action != offsets.Leave || !strings.Contains(row.Why, "no share groups whose start can be set") {
		t.Fatalf("got %+v", row)
	}
	w.refused(f, "no share groups whose start can be set", "groups", "move", "--flow", "us-eu", "--inexact", "app")
}

// TestOffsetsOfShareGroupsNoteWhoSetThem: of a start that stands there it is known whether a
// flow has set it, also when the flow ended between its note and the setting.
func TestOffsetsOfShareGroupsNoteWhoSetThem(t *testing.T) {
	e := newEndpoint(t, apachekafka.Start(t, apachekafka.Config{Version: "4.4.0", Properties: oneShareCoordinator}).Cluster(""))
	w := &offsetsPair{t: t, us: e}
	w.enableShares(e)
	e.topic("orders", nil)
	for _, v := range recordsOf(0, 20) {
		must(t, "produce", e.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte(v)}).FirstErr())
	}
	unable := kversion.Stable()
	unable.SetMaxKeyVersion((&kmsg.AlterShareGroupOffsetsRequest{}).Key(), -1)
	c, cut := offsets.KafkaCluster(e.cl), offsets.KafkaCluster(newClient(t, e.c, kgo.MaxVersions(unable)))
	app, orders := offsets.Group{Name: "app", Share: true}, flow.TopicPartition{Topic: "orders"}
	to := func(offset int64) map[flow.TopicPartition]offsets.Commit {
		return map[flow.TopicPartition]offsets.Commit{orders: {Offset: offset, Metadata: offsets.Mark("us-eu")}}
	}
	stands := func(what string, offset int64, metadata string) {
		t.Helper()
		got, err := c.Commits(t.Context(), []offsets.Group{app})
		if want := (offsets.Commit{Offset: offset, Metadata: metadata}); err != nil || got["app"][orders] != want {
			t.Errorf("%s: got %+v %v, want %+v", what, got, err, want)
		}
	}
	must(t, "set it", c.Commit(t.Context(), app, to(5)))
	stands("set", 5, offsets.Mark("us-eu"))
	if err := cut.Commit(t.Context(), app, to(9)); err == nil {
		t.Fatal("a client that cannot set a start has set one")
	}
	stands("noted and not set", 5, offsets.Mark("us-eu"))
	must(t, "set it", c.Commit(t.Context(), app, to(9)))
	stands("set after all", 9, offsets.Mark("us-eu"))
	if got := w.take(e, 2, 0, 1); !slices.Equal(got, recordsOf(9, 11)) {
		t.Errorf("a member got %v", got)
	}
	stands("a member was there", 11, "")
	if groups, err := c.Groups(t.Context()); err != nil || len(groups) != 1 || !groups["app"].Share {
		t.Errorf("groups: got %v %v", groups, err)
	}
}

// TestOffsetsOfShareGroupsThatAreRefused: of a share group that may not be described it is said,
// and where the others start is told all the same.
func TestOffsetsOfShareGroupsThatAreRefused(t *testing.T) {
	properties := maps.Clone(oneShareCoordinator)
	properties["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
	properties["allow.everyone.if.no.acl.found"] = "true"
	e := newEndpoint(t, apachekafka.Start(t, apachekafka.Config{Version: "4.4.0", Properties: properties}).Cluster(""))
	w := &offsetsPair{t: t, us: e}
	w.enableShares(e)
	e.topic("orders", nil)
	c, orders := offsets.KafkaCluster(e.cl), flow.TopicPartition{Topic: "orders"}
	groups := []offsets.Group{{Name: "app", Share: true}, {Name: "secret", Share: true}}
	for _, g := range groups {
		must(t, "set it", c.Commit(t.Context(), g, map[flow.TopicPartition]offsets.Commit{orders: {Metadata: offsets.Mark("us-eu")}}))
	}
	_, err := e.adm.CreateACLs(t.Context(), kadm.NewACLs().Deny("User:ANONYMOUS").DenyHosts("*").Groups("secret").
		Operations(kadm.OpDescribe).ResourcePatternType(kadm.ACLPatternLiteral))
	must(t, "deny", err)
	ctx, cancel := context.WithTimeout(t.Context(), recovery)
	defer cancel()
	must(t, "the refusal", poll(ctx, func() (bool, error) {
		got, err := c.Commits(ctx, groups)
		failed, _ := errors.AsType[offsets.GroupErrors](err)
		if got["app"][orders] != (offsets.Commit{Metadata: offsets.Mark("us-eu")}) || len(failed) != len(groups)-len(got) {
			return false, fmt.Errorf("got %v %v", got, err)
		}
		return errors.Is(failed["secret"], kerr.GroupAuthorizationFailed), nil
	}))
	if dealt, err := c.Dealt(ctx, groups); err == nil || len(dealt["secret"]) != 0 {
		t.Errorf("dealt with: got %v %v", dealt, err)
	}
}

// enableShares turns share groups on, which Apache Kafka has as a preview at first, and
// waits until groups can be asked for.
func (w *offsetsPair) enableShares(e *endpoint) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), recovery)
	defer cancel()
	req := kmsg.NewPtrUpdateFeaturesRequest()
	u := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
	u.Feature, u.MaxVersionLevel, u.UpgradeType = "share.version", 1, 1
	req.FeatureUpdates = append(req.FeatureUpdates, u)
	resp, err := req.RequestWith(ctx, e.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if !errors.Is(err, kerr.InvalidUpdateVersion) { // it is on
		must(w.t, "enable share groups", err)
	}
	must(w.t, "share groups", poll(ctx, func() (bool, error) {
		_, err := e.adm.DescribeShareGroupOffsets(ctx, "nobody")
		return err == nil, nil
	}))
}

// outOfOrder has a share group of the source acknowledge 0 to 4, and 7 and 8.
func (w *offsetsPair) outOfOrder() {
	w.t.Helper()
	earliest := "earliest"
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{
		ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: "app",
		Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "share.auto.offset.reset", Value: &earliest}},
	}}
	resp, err := req.RequestWith(w.t.Context(), w.us.cl)
	must(w.t, "configure the group", err)
	for _, r := range resp.Resources {
		must(w.t, "configure the group", kerr.ErrorForCode(r.ErrorCode))
	}
	if got := w.take(w.us, 10, 0, 1, 2, 3, 4, 7, 8); !slices.Equal(got, recordsOf(0, 10)) {
		w.t.Fatalf("at the source: got %v", got)
	}
}

// take has a member of the share group app take n records, acknowledge some of them, and leave.
func (w *offsetsPair) take(e *endpoint, n int, acknowledged ...int) []string {
	w.t.Helper()
	topic := "orders"
	if e == w.eu {
		topic = "wb.orders"
	}
	cl := newClient(w.t, e.c, kgo.ShareGroup("app"), kgo.ConsumeTopics(topic))
	defer cl.Close()
	got := w.poll(cl, n)
	for i, r := range w.last {
		if slices.Contains(acknowledged, i) {
			r.Ack(kgo.AckAccept)
		} else {
			r.Ack(kgo.AckRelease)
		}
	}
	must(w.t, "acknowledge", cl.FlushAcks(w.t.Context()))
	return got
}

// starts waits until the share group app starts somewhere.
func (w *offsetsPair) starts(f *fleet, e *endpoint, want int64) {
	w.t.Helper()
	f.wait(fmt.Sprintf("the share group to start at %d", want), func() error {
		groups, err := e.adm.DescribeShareGroupOffsets(w.t.Context(), "app")
		if err != nil {
			return err
		}
		for _, o := range groups["app"].Offsets.Sorted() {
			if o.StartOffset == want {
				return nil
			}
			err = fmt.Errorf("it starts at %d", o.StartOffset)
		}
		return errors.Join(err, groups["app"].Err, errors.New("not yet"))
	})
}

func (w *offsetsPair) do(f *fleet, args ...string) {
	w.t.Helper()
	if out, err := w.replicator(f, args...); err != nil {
		w.t.Fatalf("%v: %v\n%s\n%+v", args, err, out, w.row(f, "app"))
	}
}

func (w *offsetsPair) refused(f *fleet, why string, args ...string) {
	w.t.Helper()
	if out, err := w.replicator(f, args...); err == nil || !strings.Contains(out, why) {
		w.t.Fatalf("%v: got %v %s, want %q", args, err, out, why)
	}
}
