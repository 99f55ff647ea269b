package mirror

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// produceOld writes records as [site.produce] does, with timestamps of 2020.
func (s *site) produceOld(t testing.TB, topic string, from, next int) {
	t.Helper()
	for i := from; i < next; i++ {
		r := &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d", i), Timestamp: time.UnixMilli(1_577_836_800_000 + int64(i))}
		s.put(t, r)
	}
}

// TestOldRecordsHaveOneWriter stops an owner that copies records of years ago at
// each step, and has another take over. Brokers forget a producer by the
// timestamp of its records, so nothing may rest on their memory of it.
//
// KAFKA-9841 (an owner that was replaced goes on), uReplicator 2f74e82.
func TestOldRecordsHaveOneWriter(t *testing.T) {
	for _, at := range []point{afterAdd, afterData, afterHops} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.create(t, "orders", 1, "retention.ms", "-1")
			g := newGate(at)
			old := w.node("old", func(c *Config) { c.at = g.pass })
			old.Assign(w.copies(1, 1, "orders"))
			w.west.produceOld(t, "orders", 0, 40)
			eventually(t, "the old owner has caught up", func() bool { return old.caughtUp(1) })
			g.armed.Store(true)
			w.west.produceOld(t, "orders", 40, 80)
			<-g.reached
			w.heir(t, old, w.copies(2, 1, "orders"))
			close(g.open)
			old.awaitFenced(t)
			w.west.produceOld(t, "orders", 80, 100)
			w.east.expect(t, "orders", 0, 100)
		})
	}
}

// TestASourceThatShrinksBetweenTwoOwnersIsDeclared has records of which the old
// owner has written copies, and no hop, deleted at the source before the new owner
// comes: nobody can find out by reading the source what the destination holds.
func TestASourceThatShrinksBetweenTwoOwnersIsDeclared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	g := newGate(afterData)
	old := w.node("old", func(c *Config) { c.at = g.pass })
	old.Assign(w.copies(1, 1, "orders"))
	w.west.produce(t, "orders", 0, 0, 100)
	eventually(t, "the old owner has caught up", func() bool { return old.caughtUp(1) && old.only().Position == 100 })
	g.armed.Store(true)
	w.west.produce(t, "orders", 0, 100, 200)
	<-g.reached
	deleteBefore(t, w.west, "orders", 150)
	w.heir(t, old, w.copies(2, 1, "orders"))
	close(g.open)
	old.awaitFenced(t)
	got := w.east.read(t, "orders", 0, 150)
	for i, r := range got {
		want := i
		if i >= 100 {
			want += 50
		}
		if string(r.Value) != fmt.Sprint(want) {
			t.Fatalf("record %d is %s, want %d", i, r.Value, want)
		}
	}
	if len(got) != 150 {
		t.Errorf("%d records, want 150", len(got))
	}
	w.gapsAre(t, map[ledger.Reason]int64{ledger.Expired: 50})
}

// TestPositionZeroIsAPosition begins a copy from the latest offset of an empty
// partition, which is 0, and has another owner take it over when there is
// something: 0 is where the copy stands, not the lack of a position.
//
// uReplicator 2ff0ef4: offset 0 was taken for none.
func TestPositionZeroIsAPosition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	latest := func(epoch uint64) []Assignment {
		list := w.copies(epoch, 1, "orders")
		list[0].Spec.Spec.Start = flow.StartLatest
		return list
	}
	first := w.node("first", nil)
	first.Assign(latest(1))
	eventually(t, "the copy has begun", func() bool {
		if err := w.maps.CatchUp(t.Context(), "east"); err != nil {
			t.Fatal(err)
		}
		return len(w.maps.Copies()) == 1
	})
	first.Assign(nil)
	<-first.released
	w.west.produce(t, "orders", 0, 0, 30)
	second := w.node("second", nil)
	second.Assign(latest(2))
	w.east.expect(t, "orders", 0, 30)
}

// TestAFlowByAnotherNameGoesOn renames a flow: a copy is known by what it copies
// from where to where, and begins nothing anew.
func TestAFlowByAnotherNameGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	n := w.node("a", nil)
	n.Assign(w.copies(1, 1, "orders"))
	w.west.produce(t, "orders", 0, 0, 50)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	n.Assign(nil)
	<-n.released
	list := w.copies(2, 1, "orders")
	list[0].Flow, list[0].Spec.Metadata.Name = "renamed", "renamed"
	n.Assign(list)
	w.west.produce(t, "orders", 0, 50, 80)
	eventually(t, "caught up under the other name", func() bool { return n.caughtUp(1) })
	w.east.expect(t, "orders", 0, 80)
}

// TestAnIdleTailIsAccountedFor leaves a partition alone after a single record,
// and after a transaction whose marker is the last thing in it: what is there is
// translated to its end although nothing comes after it.
//
// KAFKA-14797, KAFKA-14610, KAFKA-15906: at a low rate, or at the end, MirrorMaker 2
// wrote down nothing.
func TestAnIdleTailIsAccountedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	n := w.node("a", nil)
	n.Assign(w.copies(1, 1, "orders"))
	accounted := func(end int64) {
		t.Helper()
		eventually(t, fmt.Sprintf("the ledger accounts for what is below %d", end), func() bool {
			if err := w.maps.CatchUp(t.Context(), "east"); err != nil {
				t.Fatal(err)
			}
			all := w.maps.Copies()
			return len(all) == 1 && all[0].Next() == end
		})
	}
	w.west.produce(t, "orders", 0, 0, 1)
	accounted(1)
	for i, commit := range []bool{true, false} {
		w.transact(t, "t", &commit, "1")
		accounted(int64(3 + 2*i)) // a record and a marker each
	}
	w.east.expect(t, "orders", 0, 2)
}

// TestACopyIsTheSameInEveryField carries what others have lost or changed, as
// bytes and, from the middle of a batch on, by the record path: tombstones, keys
// that are no text, null apart from empty, headers that repeat, timestamps that
// go back.
//
// Redpanda's migrator dropped tombstones, made strings of binary keys, and changed
// timestamps (redpanda-data/connect 3458) and headers (3786).
func TestACopyIsTheSameInEveryField(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1, "retention.ms", "-1")
	at := func(ms int64) time.Time { return time.UnixMilli(1_700_000_000_000 + ms) }
	samples := []*kgo.Record{
		{Key: []byte("first"), Value: []byte("is deleted"), Timestamp: at(0)},
		{Key: []byte{0xff, 0x00, 0xfe}, Value: nil, Timestamp: at(5000)},
		{Key: nil, Value: []byte{}, Timestamp: at(-9000)},
		{Key: []byte{}, Value: []byte{0}, Timestamp: at(0), Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "", Value: nil}, {Key: "a", Value: []byte{}}}},
		{Key: []byte("k"), Value: nil, Timestamp: at(-1), Headers: []kgo.RecordHeader{{Key: "h"}}},
		{Key: nil, Value: nil, Timestamp: at(7)},
	}
	for _, r := range samples {
		r.Topic = "orders"
	}
	w.west.put(t, samples...) // one batch
	deleteBefore(t, w.west, "orders", 1)
	for _, r := range samples {
		again := *r
		w.west.put(t, &again) // a batch each
	}
	n := w.node("a", nil)
	n.Assign(w.copies(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	want := append(samples[1:len(samples):len(samples)], samples...)
	got := w.east.read(t, "orders", 0, len(want))
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	show := func(r *kgo.Record) string {
		return fmt.Sprintf("%#v %#v %d %#v", r.Key, r.Value, r.Timestamp.UnixMilli(), r.Headers)
	}
	for i := range want {
		if show(got[i]) != show(want[i]) {
			t.Errorf("record %d is %s, want %s", i, show(got[i]), show(want[i]))
		}
	}
}
