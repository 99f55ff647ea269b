package broker

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/internal/vfs"
)

// TestOneCoordinatorOffline takes one partition of __consumer_offsets away, in
// several ways: its groups are told so, all others are served, and it is back when
// its files are.
func TestOneCoordinatorOffline(t *testing.T) {
	flip := func(name string) func(t *testing.T, b *testBroker, g *outage) *testBroker {
		return func(t *testing.T, b *testBroker, g *outage) *testBroker {
			b.stop()
			g.flip(t, b, name)
			g.mend = func() { g.flip(t, b, name) }
			return runBroker(t, b.cfg, b.fs, b.pool)
		}
	}
	for name, take := range map[string]func(t *testing.T, b *testBroker, g *outage) *testBroker{
		"a write fails":         failing(vfs.OpWrite),
		"a sync fails":          failing(vfs.OpSync),
		"checkpoint is damaged": flip("checkpoint"),
		"segment is damaged":    flip("00000000000000000000.log"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBroker(t, func(c *Config) {
				c.OffsetsPartitions, c.Provenance = 2, false
			})
			b.makeTopic(t, "orders", 1, 1)
			b.awaitCoordinators(t)
			g := outageOf(b)
			for _, name := range []string{g.hit, g.spared} {
				if err := g.commit(t, b, name, 7); err != nil {
					t.Fatal(err)
				}
			}
			b = take(t, b, g)
			g.check(t, b)
			b.stop()
			g.mend()
			b = runBroker(t, b.cfg, b.fs, b.pool)
			for _, name := range []string{g.hit, g.spared} {
				waitUntil(t, func() bool {
					got, err := b.coordinators.groups.Offsets(t.Context(), group.FetchRequest{Group: name, MemberEpoch: -1})
					// What was not acknowledged may have happened.
					return err == nil && len(got) == 1 && (got[0].Offset.Offset == 7 || name == g.hit && got[0].Offset.Offset == 8)
				})
			}
			if faults := b.Health(); len(faults) > 0 {
				t.Errorf("not healthy: %v", faults)
			}
		})
	}
}

// failing lets the log of the partition fail while the broker runs.
func failing(op vfs.Op) func(t *testing.T, b *testBroker, g *outage) *testBroker {
	return func(t *testing.T, b *testBroker, g *outage) *testBroker {
		b.fs.FailNext(op, ".log", 1, syscall.EIO) // nothing else is written
		if err := g.commit(t, b, g.hit, 8); err == nil {
			t.Error("a commit is acknowledged that is not on disk")
		}
		return b
	}
}

// outage is of one of two partitions: a group of it, and one of the other.
type outage struct {
	partition   int32
	hit, spared string
	mend        func()
}

func outageOf(b *testBroker) *outage {
	g := &outage{hit: "a", mend: func() {}}
	g.partition = b.coordinators.groups.Partition(g.hit)
	for g.spared = "b"; b.coordinators.groups.Partition(g.spared) == g.partition; g.spared += "b" {
	}
	return g
}

func (g *outage) commit(t *testing.T, b *testBroker, name string, at int64) error {
	t.Helper()
	o := group.Offset{TopicPartition: group.TopicPartition{Topic: "orders"}, Offset: at, LeaderEpoch: -1}
	return b.coordinators.groups.Commit(within(t, 30*time.Second), group.CommitRequest{Group: name, Generation: -1, Offsets: []group.Offset{o}})
}

// flip changes a bit, early in a file of the partition's log.
func (g *outage) flip(t *testing.T, b *testBroker, name string) {
	t.Helper()
	dir := filepath.Join(b.topicDir(b.topic(offsetsTopic).ID), string('0'+rune(g.partition)))
	f, err := b.fs.Open(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var one [1]byte
	if _, err := f.ReadAt(one[:], 70); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 4
	if _, err := f.WriteAt(one[:], 70); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// check looks at a broker one of whose coordinators is down.
func (g *outage) check(t *testing.T, b *testBroker) {
	t.Helper()
	down := kerr.CoordinatorNotAvailable
	waitUntil(t, func() bool { return errors.Is(g.commit(t, b, g.hit, 9), down) })
	waitUntil(t, func() bool { return g.commit(t, b, g.spared, 7) == nil }) // it may still load
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKeys = []string{g.hit, g.spared}
	found, err := askOver(t, dial(t, b.Addr("plain")), find, 4, kmsg.NewPtrFindCoordinatorResponse())
	if err != nil || found.Coordinators[0].ErrorCode != down.Code || found.Coordinators[1].ErrorCode != 0 {
		t.Errorf("find coordinator: %+v, %v", found, err)
	}
	list, err := askOver(t, dial(t, b.Addr("plain")), kmsg.NewPtrListGroupsRequest(), 4, kmsg.NewPtrListGroupsResponse())
	if err != nil || list.ErrorCode != down.Code || len(list.Groups) != 1 || list.Groups[0].Group != g.spared {
		t.Errorf("list: %+v, %v; want %s and that it is not all", list, err, g.spared)
	}
	reason := "coordinator of " + offsetsTopic
	if !slices.ContainsFunc(b.Health(), func(s string) bool { return strings.Contains(s, reason) }) {
		t.Errorf("health says nothing of %s: %v", reason, b.Health())
	}
	faults := b.Health()
	if named := slices.DeleteFunc(slices.Clone(faults), func(s string) bool { return !strings.Contains(s, offsetsTopic+"-") }); len(named) != 1 {
		t.Errorf("health names the partition %d times: %q", len(named), faults)
	}
	if n := b.Stored().Offline; n != 1 {
		t.Errorf("%d partitions are offline, want 1", n)
	}
	if err := transact(t, b.client(t, kgo.TransactionalID("x"), kgo.DefaultProduceTopic("orders")), kgo.TryCommit, values("x", 3)...); err != nil {
		t.Errorf("transaction: %v", err)
	}
	consumeN(t, b.client(t), "orders", 4)
	if _, _, err := b.Coordinated(t.Context()); err != nil {
		t.Errorf("what is left is not counted: %v", err)
	}
}
