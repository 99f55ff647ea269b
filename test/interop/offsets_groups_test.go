//go:build interop && unix

package interop

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// TestOffsetsOfConsumerGroups: a group of the new protocol (KIP-848) of an Apache Kafka
// is synced to another, goes on there with the new protocol at the first record that it
// has not read, is never touched while it has members there, and comes home.
func TestOffsetsOfConsumerGroups(t *testing.T) {
	w := newOffsetsPair(t, offsetsKafka, offsetsKafka)
	ctx := t.Context()
	if got := w.consume(w.us, "app", 5); !slices.Equal(got, recordsOf(0, 5)) {
		t.Fatalf("at the source: got %v", got)
	}
	f := w.fleet()
	w.follow(f, "app", "wb.orders", 3+5)
	member := w.member(w.eu, "app", "wb.orders")
	first := w.poll(member, 4)
	if !slices.Equal(first, recordsOf(5, 9)) {
		t.Fatalf("at the destination: got %v", first)
	}
	// The source's position goes on: who has members at the destination stays.
	w.us.commit("app", "orders", 15, "")
	f.wait("the group to be seen as active", func() error {
		row := w.row(f, "app")
		if row.Action != offsets.Wait && row.Action != offsets.Leave {
			return fmt.Errorf("got %+v", row)
		}
		return nil
	})
	must(t, "commit", member.CommitRecords(ctx, w.last...))
	member.Close()
	f.wait("the group to have moved", func() error {
		if row := w.row(f, "app"); !row.Moved || row.Present != 3+9 {
			return fmt.Errorf("got %+v", row)
		}
		return nil
	})
	if out, err := w.replicator(f, "groups", "return", "--flow", "us-eu", "app", "--reason", "interop"); err != nil {
		t.Fatalf("return: %v\n%s", err, out)
	}
	if got := w.consume(w.us, "app", 4); !slices.Equal(got, recordsOf(9, 13)) {
		t.Fatalf("home: got %v", got)
	}
	w.follow(f, "app", "wb.orders", 3+13)
	if out, err := w.replicator(f, "groups", "move", "--flow", "us-eu", "app"); err != nil {
		t.Fatalf("move: %v\n%s", err, out)
	}
	if got := w.consume(w.eu, "app", 3); !slices.Equal(got, recordsOf(13, 16)) {
		t.Fatalf("moved: got %v", got)
	}
}

func recordsOf(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprint("record-", i))
	}
	return all
}

// offsetsPair is two Apache Kafkas of which the first has 20 records of topic orders, and
// the second something of its own in wb.orders, so that offsets differ.
type offsetsPair struct {
	t       *testing.T
	us, eu  *endpoint
	last    []*kgo.Record // of the last poll
	program string
}

func newOffsetsPair(t *testing.T, source, destination string) *offsetsPair {
	us := newEndpoint(t, apachekafka.Start(t, apachekafka.Config{Version: source, Properties: oneShareCoordinator}).Cluster(""))
	eu := newEndpoint(t, apachekafka.Start(t, apachekafka.Config{Version: destination, Properties: oneShareCoordinator}).Cluster(""))
	w := &offsetsPair{t: t, us: us, eu: eu}
	us.topic("orders", nil)
	eu.topic("wb.orders", nil)
	var records []*kgo.Record
	for _, v := range recordsOf(0, 20) {
		records = append(records, &kgo.Record{Topic: "orders", Value: []byte(v)})
	}
	must(t, "produce", us.cl.ProduceSync(t.Context(), records...).FirstErr())
	for range 3 {
		must(t, "produce", eu.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "wb.orders", Value: []byte("local")}).FirstErr())
	}
	return w
}

// fleet copies orders, and returns when all of it is there.
func (w *offsetsPair) fleet() *fleet {
	f := startFleet(w.t)
	w.program = f.program
	f.apply(declaredPair(w.us, w.eu) + `apiVersion: waybill/v1
kind: ReplicationFlow
metadata: {name: us-eu}
spec:
  source: us
  destination: eu
  topics: {include: [orders], rename: {prefix: "wb."}}
  groups: {include: ["*"]}
`)
	f.wait("the copy", func() error {
		ends, err := w.eu.adm.ListCommittedOffsets(w.t.Context(), "wb.orders")
		if err = errors.Join(err, ends.Error()); err != nil {
			return err
		}
		if end, _ := ends.Lookup("wb.orders", 0); end.Offset < 23 {
			return fmt.Errorf("it ends at %d", end.Offset)
		}
		return nil
	})
	return f
}

// follow waits until the flow has committed a group's position.
func (w *offsetsPair) follow(f *fleet, group, topic string, want int64) {
	w.t.Helper()
	f.wait(fmt.Sprintf("group %s to stand at %d", group, want), func() error {
		at, err := w.eu.committed(group, topic)
		if err == nil && at != want {
			err = fmt.Errorf("it stands at %d", at)
		}
		return err
	})
}

func (w *offsetsPair) row(f *fleet, group string) offsets.Row {
	var rows struct{ Rows []offsets.Row }
	if err := f.call("GET", "/api/v1/flows/us-eu/groups", "", &rows); err != nil {
		return offsets.Row{Why: err.Error()}
	}
	for _, r := range rows.Rows {
		if r.Group == group {
			return r
		}
	}
	return offsets.Row{Why: "there is no such row"}
}

// replicator runs a command of the operator.
func (w *offsetsPair) replicator(f *fleet, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), recovery)
	defer cancel()
	out, err := exec.CommandContext(ctx, w.program, append(args, "--server", f.api, "--token-file", f.file("token"))...).CombinedOutput()
	return string(out), err
}

// member joins a group with the new protocol.
func (w *offsetsPair) member(e *endpoint, group, topic string) *kgo.Client {
	return newClient(w.t, e.c, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ServerSideBalancer())
}

func (w *offsetsPair) poll(cl *kgo.Client, n int) (got []string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), recovery)
	defer cancel()
	w.last = nil
	for len(got) < n {
		fetches := cl.PollRecords(ctx, n-len(got))
		must(w.t, "poll", fetches.Err())
		for _, r := range fetches.Records() {
			got, w.last = append(got, string(r.Value)), append(w.last, r)
		}
	}
	return got
}

// consume reads some records as a group, commits, and leaves. The group must be one of
// the new protocol by then.
func (w *offsetsPair) consume(e *endpoint, group string, n int) []string {
	w.t.Helper()
	topic := "orders"
	if e == w.eu {
		topic = "wb.orders"
	}
	cl := w.member(e, group, topic)
	defer cl.Close()
	got := w.poll(cl, n)
	must(w.t, "commit", cl.CommitRecords(w.t.Context(), w.last...))
	described, err := e.adm.DescribeConsumerGroups(w.t.Context(), group)
	if err != nil || described[group].Err != nil {
		w.t.Errorf("group %s is none of the new protocol: %v %v", group, err, described[group].Err)
	}
	return got
}
