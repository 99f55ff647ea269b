package broker

import (
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/broker/txn"
)

// onFullDisk is what a broker has when its disk fills up.
type onFullDisk struct {
	*testBroker
	member group.Joined // the only one of group "g"
	open   txn.Producer // has a transaction under "open"
	acked  int64        // position of "g" in orders that was acknowledged last
}

// TestFullDisk fills the disk below groups and transactions: what needs room is
// refused so that clients repeat it, reads go on, a start does too, and everything
// is as it was when there is room again.
func TestFullDisk(t *testing.T) {
	for name, again := range map[string]func(t *testing.T, b *testBroker) *testBroker{
		"goes on":      func(_ *testing.T, b *testBroker) *testBroker { return b },
		"is restarted": func(t *testing.T, b *testBroker) *testBroker { return b.restart(t) },
		"loses its power": func(t *testing.T, b *testBroker) *testBroker {
			fs := b.fs.Crash(nil)
			fs.SetSpace(fs.Used())
			return runBroker(t, b.cfg, fs, b.pool)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines := &logLines{}
			b := startBroker(t, func(c *Config) {
				c.OffsetsPartitions, c.TransactionsPartitions = 1, 1
				c.Log = slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelWarn}))
			})
			f := fillingUp(t, b)
			f.fill(t)
			f.checkFull(t)
			f.testBroker = again(t, b)
			f.awaitCoordinators(t)
			f.fill(t)
			f.checkFull(t)
			f.fs.SetSpace(-1)
			f.checkRoom(t)
			if n := lines.count("\n"); n > 60 {
				t.Errorf("%d warnings, some 30 logs have filled up:\n%s", n, lines.text())
			}
		})
	}
}

// awaitCoordinators waits until they have read their logs.
func (b *testBroker) awaitCoordinators(t *testing.T) {
	t.Helper()
	waitUntil(t, func() bool { _, _, err := b.Coordinated(t.Context()); return err == nil })
}

// fillingUp prepares a group with a member, an open transaction and one that will
// time out.
func fillingUp(t *testing.T, b *testBroker) *onFullDisk {
	t.Helper()
	b.makeTopic(t, "orders", 1, 20)
	b.awaitCoordinators(t)
	f := &onFullDisk{testBroker: b}
	ctx := within(t, 30*time.Second)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	f.member, err = b.coordinators.groups.Join(ctx, "g", group.Join{
		ClientID: "c", SessionTimeout: 5 * time.Minute, RebalanceTimeout: time.Minute,
		ProtocolType: "consumer", Protocols: []group.Protocol{{Name: "range", Metadata: []byte("m")}},
	})
	must(errors.Join(err, f.member.Err))
	_, err = b.coordinators.groups.Sync(ctx, "g", group.Sync{
		MemberID: f.member.MemberID, Generation: f.member.Generation, Assignments: map[string][]byte{f.member.MemberID: []byte("p0")},
	})
	must(err)
	orders := []txn.TopicPartition{{Topic: "orders"}}
	f.open, err = b.coordinators.txns.InitProducer(ctx, "open", time.Minute, txn.NoProducer)
	must(err)
	must(b.coordinators.txns.AddPartitions(ctx, "open", txn.V0, f.open, orders))
	late, err := b.coordinators.txns.InitProducer(ctx, "late", 3*time.Second, txn.NoProducer)
	must(err)
	must(b.coordinators.txns.AddPartitions(ctx, "late", txn.V0, late, orders))
	return f
}

// fill writes until every log refuses, and checks what clients are told then.
func (f *onFullDisk) fill(t *testing.T) {
	t.Helper()
	f.fs.SetSpace(f.fs.Used())
	nc := dial(t, f.Addr("plain"))
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	until := func(what string, want *kerr.Error, write func(n int64) (int16, error)) {
		t.Helper()
		for n := range int64(100_000) {
			code, err := write(n)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if code == want.Code {
				return
			}
			if code != 0 {
				t.Fatalf("%s: got %v, want %v", what, kerr.ErrorForCode(code), want)
			}
		}
		t.Fatalf("%s: the disk does not fill up", what)
	}
	until("commit", kerr.CoordinatorNotAvailable, func(int64) (int16, error) {
		code, err := f.commit(t, nc, f.acked+1)
		if code == 0 && err == nil {
			f.acked++
		}
		return code, err
	})
	until("init producer id", kerr.CoordinatorNotAvailable, func(int64) (int16, error) {
		q, id := kmsg.NewPtrInitProducerIDRequest(), "filler"
		q.TransactionalID, q.TransactionTimeoutMillis = &id, 60_000
		resp, err := askOver(t, nc, q, 4, kmsg.NewPtrInitProducerIDResponse())
		return resp.ErrorCode, err
	})
	value := make([]byte, 1000)
	until("produce", kerr.KafkaStorageError, func(int64) (int16, error) {
		resp, err := askOver(t, nc, produceOf(t, f.testBroker, "orders", value), 9, kmsg.NewPtrProduceResponse())
		if err != nil {
			return 0, err
		}
		return resp.Topics[0].Partitions[0].ErrorCode, nil
	})
}

// commit commits a position of "g" in orders, as its member.
func (f *onFullDisk) commit(t *testing.T, nc net.Conn, at int64) (int16, error) {
	t.Helper()
	q := kmsg.NewPtrOffsetCommitRequest()
	q.Group, q.Generation, q.MemberID = "g", f.member.Generation, f.member.MemberID
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic = "orders"
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Offset = at
	topic.Partitions = append(topic.Partitions, p)
	q.Topics = append(q.Topics, topic)
	resp, err := askOver(t, nc, q, 8, kmsg.NewPtrOffsetCommitResponse())
	if err != nil {
		return 0, err
	}
	return resp.Topics[0].Partitions[0].ErrorCode, nil
}

// checkFull looks at a broker whose disk is full.
func (f *onFullDisk) checkFull(t *testing.T) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	groups, txns := f.coordinators.groups, f.coordinators.txns
	f.checkOffset(t)
	consumeN(t, f.client(t), "orders", 20)
	if err := groups.Heartbeat(ctx, "g", group.Heartbeat{MemberID: f.member.MemberID, Generation: f.member.Generation}); err != nil {
		t.Errorf("heartbeat: %v", err)
	}
	// What cannot be written has not happened.
	if _, err := groups.Leave(ctx, "g", []group.Leaver{{MemberID: f.member.MemberID}}); !errors.Is(err, kerr.CoordinatorNotAvailable) {
		t.Errorf("leave: got %v, want COORDINATOR_NOT_AVAILABLE", err)
	}
	if d, err := groups.Describe(ctx, "g"); err != nil || d.State != group.Stable || len(d.Members) != 1 {
		t.Errorf("group: got %+v, %v; want it as it was", d, err)
	}
	if _, err := txns.End(ctx, "open", txn.V0, f.open, true); !errors.Is(err, kerr.CoordinatorNotAvailable) {
		t.Errorf("end: got %v, want COORDINATOR_NOT_AVAILABLE", err)
	}
	if x, err := txns.Get(ctx, "open"); err != nil || x.State != txn.Ongoing {
		t.Errorf("transaction: got %v, %v; want it ongoing", x.State, err)
	}
	if faults := f.CoordinatorFaults(); len(faults) > 0 {
		t.Errorf("coordinators are down: %v", faults)
	}
}

func (f *onFullDisk) checkOffset(t *testing.T) {
	t.Helper()
	got, err := f.coordinators.groups.Offsets(within(t, 30*time.Second), group.FetchRequest{Group: "g", MemberEpoch: -1})
	if err != nil || len(got) != 1 || got[0].Offset.Offset != f.acked {
		t.Errorf("position: got %+v, %v; want %d", got, err, f.acked)
	}
}

// checkRoom looks at a broker that has room again.
func (f *onFullDisk) checkRoom(t *testing.T) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	f.checkOffset(t)
	code, err := f.commit(t, dial(t, f.Addr("plain")), f.acked+1)
	if err != nil || code != 0 {
		t.Errorf("commit: %v, %v", kerr.ErrorForCode(code), err)
	}
	f.acked++
	f.checkOffset(t)
	if _, err := f.coordinators.txns.End(ctx, "open", txn.V0, f.open, true); err != nil {
		t.Errorf("end: %v", err)
	}
	state := func(id string) txn.State {
		x, err := f.coordinators.txns.Get(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return x.State
	}
	waitUntil(t, func() bool { return state("open") == txn.CompleteCommit })
	waitUntil(t, func() bool { return state("late") == txn.CompleteAbort })
	if _, err := f.coordinators.groups.Leave(ctx, "g", []group.Leaver{{MemberID: f.member.MemberID}}); err != nil {
		t.Errorf("leave: %v", err)
	}
	if err := transact(t, f.client(t, kgo.TransactionalID("next"), kgo.DefaultProduceTopic("orders")), kgo.TryCommit, values("x", 3)...); err != nil {
		t.Errorf("transaction: %v", err)
	}
}

// TestATopicIsMadeWholeOrNotAtAll gives the disk room for a part of a topic.
func TestATopicIsMadeWholeOrNotAtAll(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.OffsetsPartitions, c.TransactionsPartitions, c.Provenance = 1, 1, false })
	refused := 0
	for room := int64(0); ; room += 97 {
		b.fs.SetSpace(b.fs.Used() + room)
		_, err := b.createTopic("t", 3, nil)
		b.fs.SetSpace(-1)
		made := b.topic("t")
		if err == nil {
			if made == nil || len(made.partitions) != 3 || b.Stored().Offline > 0 {
				t.Fatalf("room %d: %+v", room, made)
			}
			break
		}
		refused++
		if made != nil || b.ctl.Image().Topic("t") != nil || kafkaError(err) != kerr.KafkaStorageError {
			t.Fatalf("room %d: %v, and there is %+v", room, err, made)
		}
	}
	if refused < 3 {
		t.Errorf("refused %d times: there was room from the beginning", refused)
	}
	if _, err := b.createTopic("t", 3, nil); !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Errorf("again: %v", err)
	}
}
