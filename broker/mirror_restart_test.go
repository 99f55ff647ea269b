package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/mirrorwire"
	"github.com/waybillhq/waybill/internal/vfs"
)

var errNoPower = errors.New("the power is gone")

// powerless lets every change on disk fail from the n-th on, counted from 1.
func (b *testBroker) powerless(n int) {
	b.fs.SetFault(func(op vfs.Op, _ string) error {
		if op == vfs.OpRead {
			return nil
		}
		if n--; n < 0 {
			return errNoPower
		}
		return nil
	})
}

// overEveryStep makes a change of a mirror topic on a broker whose power goes after
// one step on disk, after two and so on, until one is told to have succeeded; check
// looks at what a start makes of each. It returns the states that the changes had
// been left in.
func overEveryStep(t *testing.T, prepare func(*testBroker), change mirrorwire.AlterRequestTopic, check func(b *testBroker, step int, told bool)) (left []mirrorwire.State) {
	t.Helper()
	prepared := startBroker(t, func(c *Config) {
		c.Provenance, c.OffsetsPartitions, c.TransactionsPartitions, c.BootstrapUsers = false, 1, 1, nil
	})
	prepare(prepared)
	prepared.stop()
	var stopping sync.WaitGroup // A stop waits for clients, which is most of the time that this takes.
	defer stopping.Wait()
	for step := range 1000 {
		b := runBroker(t, prepared.cfg, prepared.fs.Crash(nil), prepared.pool)
		t.Cleanup(func() { b.fs.SetFault(nil) })
		b.powerless(step)
		got := b.alter(t, change)
		left = append(left, stateOf(b.topic("orders")))
		after := b.crash(t, uint64(step))
		check(after, step, got.ErrorCode == 0)
		b.fs.SetFault(nil)
		stopping.Go(after.stop)
		stopping.Go(b.stop)
		if got.ErrorCode == 0 {
			t.Logf("%d steps", step)
			return left
		}
	}
	t.Fatal("it never succeeds")
	return nil
}

// TestAStartCarriesOnAPromotion: the power goes at every step of a promotion with
// open transactions in two partitions. A topic whose promotion was begun is promoted
// by the start, one whose promotion was not is a mirror still and can be.
func TestAStartCarriesOnAPromotion(t *testing.T) {
	a := startBroker(t, nil)
	fillSource(t, a, "orders", true)
	src, _ := a.partition("orders", 0)
	batches, end, committed := a.storedBytes(t, "orders"), src.EndOffset(), a.committedValues(t, "orders")
	prepare := func(b *testBroker) {
		b.makeMirror(t, "orders", 2)
		for n := range int32(2) {
			p := mirrorwire.NewAppendPartition()
			p.Partition, p.WriterEpoch, p.Batches = n, 4, batches
			if got := b.append(t, "orders", p); got.ErrorCode != 0 || got.LogEnd != end {
				t.Fatalf("append: %+v", got)
			}
		}
	}
	promote := mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Promote}
	left := overEveryStep(t, prepare, promote, func(b *testBroker, step int, told bool) {
		switch state := stateOf(b.topic("orders")); {
		case state == mirrorwire.Promoted:
		case state == mirrorwire.Active && !told:
			p := mirrorwire.NewAppendPartition()
			p.WriterEpoch, p.ExpectedEnd, p.ExpectedEpoch = 4, end, src.LastEpoch()
			if got := b.append(t, "orders", p); got.ErrorCode != 0 {
				t.Fatalf("step %d: its writer: %+v", step, got)
			}
			if got := b.alter(t, promote); got.ErrorCode != 0 {
				t.Fatalf("step %d: promoted after all: %+v", step, got)
			}
		default:
			t.Fatalf("step %d, told %t: after a start the topic is %s", step, told, mirrorwire.StateName(state))
		}
		got := b.mirrorStatus(mirrorwire.TopicRef{}, b.topic("orders"), nil)
		for _, p := range got.Partitions {
			if p.PromotedAt != end || len(p.Ended) != 1 || p.LogEnd != end+1 || p.LastStable != end+1 || p.LeaderEpoch <= src.LastEpoch() {
				t.Fatalf("step %d: %+v", step, p)
			}
		}
		if last := produceN(t, b.client(t), "orders", 0, 1); last != end+1 {
			t.Fatalf("step %d: the first record of its own is at %d, want %d", step, last, end+1)
		}
		if got := b.committedValues(t, "orders"); len(got) != len(committed)+1 || !slices.Equal(got[:len(committed)], committed) {
			t.Fatalf("step %d: %d records are committed, want the source's %d and one", step, len(got), len(committed))
		}
	})
	if !slices.Contains(left, mirrorwire.Promoting) || !slices.Contains(left, mirrorwire.Active) {
		t.Errorf("the promotions were left in %v: not in between", left)
	}
}

// TestAStartCarriesOnARestoring: the power goes at every step of making a topic a
// mirror again. Either nothing has happened, or the start cuts every partition.
func TestAStartCarriesOnARestoring(t *testing.T) {
	prepare := func(b *testBroker) {
		b.makeTopic(t, "orders", 2, 5)
		for n := range int32(2) {
			cl := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
			if err := cl.ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: "orders", Partition: n, Value: []byte("not at the source")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	restore := mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Restore, Source: testSource}
	for n := range int32(2) {
		restore.Cuts = append(restore.Cuts, mirrorwire.Cut{Partition: n, TruncateTo: 5, ExpectedEnd: 6, ExpectedEpoch: 1})
	}
	left := overEveryStep(t, prepare, restore, func(b *testBroker, step int, told bool) {
		state, end := stateOf(b.topic("orders")), int64(5)
		if state == mirrorwire.NoMirror && !told {
			end = 6
		} else if state != mirrorwire.Active {
			t.Fatalf("step %d, told %t: after a start the topic is %s", step, told, mirrorwire.StateName(state))
		}
		for _, p := range b.topic("orders").partitions {
			if p.EndOffset() != end || p.HighWatermark() != end {
				t.Fatalf("step %d: %s ends at %d, want %d", step, p, p.EndOffset(), end)
			}
		}
		err := b.client(t).ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: "orders"}).FirstErr()
		if state == mirrorwire.NoMirror && err != nil || state == mirrorwire.Active && !errors.Is(err, kerr.InvalidRequest) {
			t.Fatalf("step %d: produce to a topic that is %s: %v", step, mirrorwire.StateName(state), err)
		}
	})
	if !slices.Contains(left, mirrorwire.Restoring) || !slices.Contains(left, mirrorwire.NoMirror) {
		t.Errorf("the restorings were left in %v: not in between", left)
	}
}

// TestARestoringFindsItsStartRaised: retention may raise the start after a cut was
// decided and before it is carried out.
func TestARestoringFindsItsStartRaised(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 5)
	produceN(t, b.client(t), "orders", 5, 3)
	p, _ := b.partition("orders", 0)
	if err := p.BeginMirror(p.EndOffset(), p.LastEpoch(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := b.setMirror(b.topic("orders"), 0, controller.Mirror{Source: testSource, State: controller.MirrorRestoring, Cuts: []int64{5}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.DeleteRecordsBefore(6); err != nil {
		t.Fatal(err)
	}
	b = b.restart(t)
	p, _ = b.partition("orders", 0)
	if state := stateOf(b.topic("orders")); state != mirrorwire.Active || p.StartOffset() != 5 || p.EndOffset() != 5 {
		t.Errorf("the topic is %s and has %d to %d, want an active mirror that goes on at 5", mirrorwire.StateName(state), p.StartOffset(), p.EndOffset())
	}
}

// TestPartitionsAreAddedToAPromotion: one that is added while a promotion is under
// way, or has been left half done, takes writes when the topic is promoted.
func TestPartitionsAreAddedToAPromotion(t *testing.T) {
	grow := func(b *testBroker, to int) error {
		got, err := kadm.NewClient(b.client(t)).UpdatePartitions(within(t, 30*time.Second), to, "orders")
		if err == nil {
			err = got.Error()
		}
		return err
	}
	check := func(b *testBroker, partitions int32) {
		t.Helper()
		if state := stateOf(b.topic("orders")); state != mirrorwire.Promoted {
			t.Fatalf("the topic is %s", mirrorwire.StateName(state))
		}
		cl := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
		for n := range partitions {
			if err := cl.ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: "orders", Partition: n}).FirstErr(); err != nil {
				t.Errorf("partition %d: %v", n, err)
			}
		}
	}
	promote := mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Promote}
	t.Run("half done", func(t *testing.T) {
		b := startBroker(t, nil)
		b.makeMirror(t, "orders", 1)
		if _, err := b.setMirror(b.topic("orders"), 0, controller.Mirror{Source: testSource, State: controller.MirrorPromoting}); err != nil {
			t.Fatal(err)
		}
		if err := grow(b, 3); err != nil {
			t.Fatal(err)
		}
		if got := b.alter(t, promote); got.ErrorCode != 0 {
			t.Fatalf("promote: %+v %s", got, *got.ErrorMessage)
		}
		check(b, 3)
	})
	t.Run("under way", func(t *testing.T) {
		b := startBroker(t, nil)
		b.makeMirror(t, "orders", 1)
		b.mirrorMu.Lock() // as the promotion does
		short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := kadm.NewClient(b.client(t)).UpdatePartitions(short, 3, "orders"); !errors.Is(err, context.DeadlineExceeded) || len(b.topic("orders").partitions) != 1 {
			t.Errorf("a partition is added meanwhile: %v", err)
		}
		b.mirrorMu.Unlock()
		if got := b.alter(t, promote); got.ErrorCode != 0 {
			t.Fatalf("promote: %+v", got)
		}
		if err := grow(b, 4); err != nil { // after the one that was given up
			t.Fatal(err)
		}
		check(b, 4)
	})
}

// TestNothingIsDeletedFromAMirror: retention and compaction of its own settings wait
// until the topic is promoted. What the source superseded may be the last value
// again, if the source loses its tail.
func TestNothingIsDeletedFromAMirror(t *testing.T) {
	a := startBroker(t, nil)
	a.makeTopic(t, "orders", 1, 0)
	for n := range 30 {
		produceN(t, a.client(t), "orders", n, 1)
	}
	batches := a.storedBytes(t, "orders")
	b := startBroker(t, nil)
	configs := map[string]*string{}
	for name, value := range map[string]string{
		mirrorSource: testSource, "cleanup.policy": "compact,delete", "segment.bytes": "200", "min.cleanable.dirty.ratio": "0", "retention.bytes": "2000",
	} {
		configs[name] = &value
	}
	if _, err := kadm.NewClient(b.client(t)).CreateTopic(within(t, 30*time.Second), 1, 1, configs, "orders"); err != nil {
		t.Fatal(err)
	}
	for rest, n := batches, mirrorwire.NewAppendPartition(); len(rest) > 0; { // a batch at a time, or they are one segment
		size := 12 + int(binary.BigEndian.Uint32(rest[8:]))
		n.WriterEpoch, n.Batches, rest = 1, rest[:size], rest[size:]
		got := b.append(t, "orders", n)
		if got.ErrorCode != 0 {
			t.Fatalf("append: %+v", got)
		}
		n.ExpectedEnd, n.ExpectedEpoch = got.LogEnd, got.LastEpoch
	}
	clean := func() {
		t.Helper()
		p, _ := b.partition("orders", 0)
		if err := p.Retain(time.Now()); err != nil {
			t.Fatal(err)
		}
		cleaner, tried := &commitlog.Cleaner{Memory: 1 << 20}, map[*replica.Partition]bool{}
		for p := b.dirtiest(time.Now(), tried); p != nil; p = b.dirtiest(time.Now(), tried) {
			tried[p] = !b.compactOne(t.Context(), cleaner, p)
		}
	}
	same := func(when string) {
		t.Helper()
		clean()
		if !bytes.Equal(b.storedBytes(t, "orders"), batches) {
			t.Errorf("%s the mirror is not its source any more", when)
		}
	}
	same("at once")
	set := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.bytes", Value: kmsg.StringPtr("1000")}}
	if got, err := kadm.NewClient(b.client(t)).AlterTopicConfigs(within(t, 30*time.Second), set, "orders"); err != nil || got[0].Err != nil {
		t.Fatalf("%v %v", got, err)
	}
	same("with other settings")
	b = b.crash(t, 1)
	same("after a crash")
	for _, op := range []mirrorwire.Op{mirrorwire.Pause, mirrorwire.Fail} {
		if got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: op, Reason: "because"}); got.ErrorCode != 0 {
			t.Fatalf("%+v", got)
		}
		same(fmt.Sprintf("after operation %d", op))
	}
	if got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Promote}); got.ErrorCode != 0 {
		t.Fatalf("promote: %+v", got)
	}
	clean()
	if p, _ := b.partition("orders", 0); p.StartOffset() == 0 {
		t.Error("retention does not work on the promoted topic")
	}
	if left := len(b.storedBytes(t, "orders")); left > 500 {
		t.Errorf("%d bytes of one key are left: the promoted topic is not compacted", left)
	}
}
