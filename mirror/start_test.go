package mirror

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// from are the copies of a flow that starts somewhere.
func (w *world) from(start flow.Start, partitions int32) []Assignment {
	list := w.copies(1, partitions, "orders")
	list[0].Spec.Spec.Start = start // one for all
	return list
}

func TestACopyFromATimeDeclaresTheRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 2)
	begin := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	for i := range 40 { // a record a minute; partition 1 ends before the start
		for p := range int32(2) {
			at := begin.Add(time.Duration(i) * time.Minute)
			if p == 1 {
				at = at.Add(-24 * time.Hour)
			}
			r := &kgo.Record{Topic: "orders", Partition: p, Value: fmt.Append(nil, i), Timestamp: at}
			w.west.put(t, r)
		}
	}
	n := w.node("a", nil)
	n.Assign(w.from(flow.StartAt(begin.Add(30*time.Minute)), 2))
	eventually(t, "caught up", func() bool { return n.caughtUp(2) })
	w.east.expectRange(t, "orders", 0, 30, 40)
	w.gapsAre(t, map[ledger.Reason]int64{ledger.NotAsked: 30 + 40})
}

// uReplicator 0b8614d: partitions that a topic was given later began at their end, and
// what was written before they were found was left out.
func TestAPartitionThatIsAddedBeginsWithItsFirstRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 2)
	for p := range int32(2) {
		w.west.produce(t, "orders", p, 0, 10)
	}
	list := w.from(flow.StartLatest, 2)
	list[1].Newborn = true
	n := w.node("a", nil)
	n.Assign(list)
	eventually(t, "caught up", func() bool { return n.caughtUp(2) })
	if got := w.east.read(t, "orders", 1, 10); len(got) != 10 {
		t.Errorf("%d records of the partition that was added, want 10", len(got))
	}
	w.gapsAre(t, map[ledger.Reason]int64{ledger.NotAsked: 10})
}

// What is there at the first look may be older than the flow; what comes later is not.
func TestALookTellsWhatIsNew(t *testing.T) {
	var before map[ledger.TopicID]bool
	look := func(ids ...byte) (newborn int) {
		topics := map[string]found{}
		for _, id := range ids {
			topics[fmt.Sprint(id)] = found{id: ledger.TopicID{id}}
		}
		markNewborn(topics, before)
		before = idsOf(topics)
		for _, f := range topics {
			if f.newborn {
				newborn++
			}
		}
		return newborn
	}
	for i, c := range []struct {
		ids  []byte
		want int
	}{{[]byte{1, 2}, 0}, {[]byte{1, 2}, 0}, {[]byte{1, 2, 3}, 1}, {[]byte{1, 4}, 1}, {[]byte{0, 1, 4}, 0}} {
		if got := look(c.ids...); got != c.want {
			t.Errorf("look %d: %d are new, want %d", i, got, c.want)
		}
	}
}

func TestACopyFromWhereAGroupStands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 2)
	for p := range int32(2) {
		w.west.produce(t, "orders", p, 0, 40)
	}
	n := w.node("a", nil)
	n.Assign(w.from(flow.StartCommitted("billing"), 2))
	eventually(t, "it waits for the group", func() bool {
		all := n.Status()
		return len(all) == 2 && all[0].State == Failed && strings.Contains(all[0].Reason, errNoCommits.Error()) && all[0].Fix != ""
	})
	var commits kadm.Offsets
	commits.AddOffset("orders", 0, 25, -1) // and nothing in partition 1
	if _, err := w.west.admin.CommitOffsets(t.Context(), "billing", commits); err != nil {
		t.Fatal(err)
	}
	eventually(t, "caught up", func() bool { return n.caughtUp(2) })
	w.east.expectRange(t, "orders", 0, 25, 40)
	w.east.expect(t, "orders", 1, 40)
	w.gapsAre(t, map[ledger.Reason]int64{ledger.NotAsked: 25})
}

// TestAStartDoesNotMove stops a copy that starts at the latest offset after its
// first transaction, which is all that it has said: what came since is copied.
func TestAStartDoesNotMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 40)
	n := w.node("a", nil)
	n.Assign(w.from(flow.StartLatest, 1))
	eventually(t, "begun", func() bool { return n.caughtUp(1) })
	n.stop()
	w.fleet.end(n.incarnation)
	w.west.produce(t, "orders", 0, 40, 60)
	again := w.node("b", nil)
	list := w.from(flow.StartLatest, 1)
	list[0].Epoch = 2
	again.Assign(list)
	eventually(t, "caught up", func() bool { return again.caughtUp(1) })
	w.east.expectRange(t, "orders", 0, 40, 60)
}
