//go:build fulldisk && linux

package fulldisk

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	topic = "orders"
	spare = "spare" // is deleted to make room
	group = "readers"
)

// load is what clients were told.
type load struct {
	b *broker
	// produced and transacted are values that were acknowledged, to be read by
	// everybody and by read_committed readers.
	produced, transacted map[string]bool
	committed            int64 // position of group in topic that was acknowledged last
	asked                int64 // highest that was asked for
	n                    int
}

func TestFullDisk(t *testing.T) {
	b := newBroker(t)
	l := &load{b: b, produced: map[string]bool{}, transacted: map[string]bool{}}
	adm := kadm.NewClient(b.client(t))
	for _, name := range []string{topic, spare} {
		_, err := adm.CreateTopic(within(t, 10*time.Second), 1, 1, nil, name)
		must(t, "create "+name, err)
	}
	room := b.client(t, kgo.DefaultProduceTopic(spare))
	for range 8 {
		must(t, "fill "+spare, room.ProduceSync(within(t, 10*time.Second), kgo.SliceRecord(junk(900<<10))).FirstErr())
	}
	member := l.join(t)
	must(t, "commit", l.commit(t))
	must(t, "transaction", l.transact(t))
	open := b.client(t, kgo.TransactionalID("open"), kgo.DefaultProduceTopic(topic), kgo.TransactionTimeout(10*time.Minute))
	must(t, "begin", open.BeginTransaction())
	must(t, "produce in a transaction", open.ProduceSync(within(t, 10*time.Second), &kgo.Record{Key: []byte("open")}).FirstErr())

	l.fill(t)
	l.check(t, "on the full disk")
	l.heartbeat(t, member)

	b.kill(t)
	b.start(t)
	l.check(t, "killed, and started on the full disk")
	l.fill(t)
	l.check(t, "full again")
	b.stop(t)
	b.start(t)
	l.check(t, "stopped, and started on the full disk")
	l.fill(t)
	if _, err := adm.CreateTopic(within(t, 10*time.Second), 4, 1, nil, "no-room"); err == nil {
		t.Log("there was room for a topic")
	}

	began := time.Now()
	_, err := adm.DeleteTopics(within(t, 10*time.Second), spare)
	must(t, "delete "+spare, err)
	await(t, "service returns", func() bool {
		b.checkAlive(t)
		return l.produce(t) == nil && l.commit(t) == nil && l.transact(t) == nil
	})
	t.Logf("service returned %v after a topic was deleted", time.Since(began).Round(time.Millisecond))
	must(t, "end the transaction that was open all the time", open.EndTransaction(within(t, 20*time.Second), kgo.TryCommit))
	l.transacted["open"] = true
	l.check(t, "with room again")
	for _, name := range []string{"waybill_broker_coordinators_down", "waybill_broker_offline_partitions"} {
		if got := b.metric(t, name); got != "0" {
			t.Errorf("%s is %q, want 0", name, got)
		}
	}
	await(t, "transactions end", func() bool {
		committed := l.read(t, kgo.ReadCommitted())
		for v := range l.transacted {
			if !committed[v] {
				return false
			}
		}
		return true
	})
	b.kill(t)
	b.start(t)
	l.check(t, "in the end")
	text, err := os.ReadFile(b.log())
	must(t, "log", err)
	if n := bytes.Count(text, []byte("\n")); n > 500 {
		t.Errorf("%d lines are logged:\n%s", n, text[:min(len(text), 20_000)])
	}
}

// junk does not compress.
func junk(size int) []byte {
	b := make([]byte, size)
	rand.Read(b)
	return b
}

// join makes a member of a group that reads the topic, and goes on reading.
func (l *load) join(t *testing.T) *kgo.Client {
	t.Helper()
	cl := l.b.client(t, kgo.ConsumerGroup("live"), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit())
	must(t, "produce", l.produce(t))
	f := cl.PollFetches(within(t, 20*time.Second))
	must(t, "poll", f.Err())
	return cl
}

// heartbeat looks whether a member still is one, and reads.
func (l *load) heartbeat(t *testing.T, cl *kgo.Client) {
	t.Helper()
	id, generation := cl.GroupMetadata()
	q := kmsg.NewPtrHeartbeatRequest()
	q.Group, q.MemberID, q.Generation = "live", id, generation
	resp, err := q.RequestWith(within(t, 10*time.Second), l.b.client(t))
	must(t, "heartbeat", err)
	must(t, "heartbeat", kerr.ErrorForCode(resp.ErrorCode))
	f := cl.PollFetches(within(t, 20*time.Second))
	must(t, "a member reads on", f.Err())
}

// fill writes in every way until each is refused.
func (l *load) fill(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		name string
		do   func(*testing.T) error
	}{{"produce", l.produce}, {"commit", l.commit}, {"transaction", l.transact}} {
		name, do := c.name, c.do
		tries, began := 0, time.Now()
		var err error
		for ; err == nil; tries++ {
			if time.Since(began) > 2*time.Minute {
				t.Fatalf("%s: the disk does not fill up", name)
			}
			err = do(t)
		}
		l.b.checkAlive(t)
		t.Logf("%s is refused after %d: %v", name, tries-1, err)
	}
}

func (l *load) produce(t *testing.T) error {
	t.Helper()
	l.n++
	value := fmt.Sprintf("p%d", l.n)
	cl := l.b.client(t, kgo.DefaultProduceTopic(topic), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.AllISRAcks()))
	defer cl.Close()
	r := &kgo.Record{Key: []byte(value), Value: junk(100 << 10)}
	err := cl.ProduceSync(within(t, 20*time.Second), r).FirstErr()
	if err == nil {
		l.produced[value] = true
	}
	return err
}

func (l *load) commit(t *testing.T) error {
	t.Helper()
	cl := l.b.client(t)
	defer cl.Close()
	for range 50 {
		l.asked++
		var at kadm.Offsets
		at.AddOffset(topic, 0, l.asked, -1)
		resp, err := kadm.NewClient(cl).CommitOffsets(within(t, 20*time.Second), group, at)
		if err := errors.Join(err, resp.Error()); err != nil {
			return err
		}
		l.committed = l.asked
	}
	return nil
}

func (l *load) transact(t *testing.T) error {
	t.Helper()
	ctx := within(t, 20*time.Second)
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.b.addr), kgo.TransactionalID(fmt.Sprintf("payments-%d", l.n%3)), kgo.DefaultProduceTopic(topic),
		kgo.RetryTimeout(2*time.Second), kgo.RecordDeliveryTimeout(2*time.Second), kgo.TransactionTimeout(5*time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	l.n++
	value := fmt.Sprintf("t%d", l.n)
	if err := cl.BeginTransaction(); err != nil {
		return err
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Key: []byte(value), Value: []byte("x")}).FirstErr(); err != nil {
		return err
	}
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return err
	}
	l.transacted[value] = true
	return nil
}

// check reads what was acknowledged.
func (l *load) check(t *testing.T, when string) {
	t.Helper()
	l.b.checkAlive(t)
	cl := l.b.client(t)
	var at kadm.OffsetResponse
	await(t, when+": position", func() bool { // coordinators may still be reading their logs
		o, err := kadm.NewClient(cl).FetchOffsets(within(t, 10*time.Second), group)
		if err != nil {
			return false
		}
		at, _ = o.Lookup(topic, 0)
		return true
	})
	if at.At < l.committed || at.At > l.asked {
		t.Errorf("%s: position %d, acknowledged was %d", when, at.At, l.committed)
	}
	all := l.read(t, kgo.ReadUncommitted())
	for v := range l.produced {
		if !all[v] {
			t.Errorf("%s: %s is not there", when, v)
		}
	}
	for v := range l.transacted {
		if !all[v] {
			t.Errorf("%s: %s is not there", when, v)
		}
	}
	t.Logf("%s: %d records, position %d", when, len(all), at.At)
}

// read returns the keys of the topic's records.
func (l *load) read(t *testing.T, level kgo.IsolationLevel) map[string]bool {
	t.Helper()
	ctx := within(t, time.Minute)
	list := (*kadm.Client).ListEndOffsets
	if level == kgo.ReadCommitted() {
		list = (*kadm.Client).ListCommittedOffsets
	}
	ends, err := list(kadm.NewClient(l.b.client(t)), ctx, topic)
	must(t, "end", err)
	end, _ := ends.Lookup(topic, 0)
	cl := l.b.client(t, kgo.FetchIsolationLevel(level), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	defer cl.Close()
	keys := map[string]bool{}
	for next := int64(0); next < end.Offset; {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("read: %v", err)
		}
		f.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if !r.Attrs.IsControl() {
				keys[string(r.Key)] = true
			}
		})
	}
	return keys
}
