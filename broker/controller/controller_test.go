package controller

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/internal/vfs"
)

func open(t *testing.T, dir string, b Bootstrap) *Controller {
	t.Helper()
	c, err := Open(vfs.OS{}, dir, b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rule(t *testing.T, s string) acl.Rule {
	t.Helper()
	r, err := acl.ParseRule(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEverythingSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	cred, err := auth.NewCredential(auth.ScramSHA256, "pw", auth.DefaultIterations)
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, dir, Bootstrap{
		Users: []User{{"alice", auth.ScramSHA256, cred}},
		ACLs:  []acl.Rule{rule(t, "User:alice Allow Read Topic:orders* from *")},
	})
	orders := &Topic{Name: "orders", ID: NewTopicID(), Partitions: 3, Configs: map[string]string{"retention.ms": "1000"}}
	gone := &Topic{Name: "gone", ID: NewTopicID(), Partitions: 1}
	deny := rule(t, "User:bob Deny All Topic:* from *")
	err = c.Update(func(*Image) ([]Record, error) {
		return []Record{
			{Topic: orders},
			{Topic: gone},
			{TopicDeleted: &TopicDeleted{gone.Name, gone.ID}},
			{ACL: &deny},
			{ACL: &deny},
			{Features: &Features{Epoch: 1, Levels: map[string]int16{"transaction.version": 1}}},
			{Config: &ConfigRecord{ConfigKey{"broker", ""}, map[string]string{"log.retention.ms": "1"}}},
			{Config: &ConfigRecord{ConfigKey{"broker", "1"}, map[string]string{"log.retention.ms": "2"}}},
			{Config: &ConfigRecord{ConfigKey{"group", "gone"}, map[string]string{"a": "b"}}},
			{Config: &ConfigRecord{ConfigKey: ConfigKey{"group", "gone"}}},
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.NextProducerID()
	if err != nil {
		t.Fatal(err)
	}
	before := c.Image()
	again := open(t, dir, Bootstrap{ClusterID: before.ClusterID}).Image()
	if again.Starts != before.Starts+1 {
		t.Errorf("start %d after %d", again.Starts, before.Starts)
	}
	want := *before
	if again.Revision != before.Revision+1 {
		t.Errorf("revision %d after %d and a start", again.Revision, before.Revision)
	}
	want.Starts, want.Revision = again.Starts, again.Revision
	if !reflect.DeepEqual(again, &want) {
		t.Errorf("got %+v\nwant %+v", again, &want)
	}
	if got := again.TopicByID(orders.ID); got == nil || got.Name != "orders" {
		t.Errorf("topic by id: %+v", got)
	}
	c = open(t, dir, Bootstrap{})
	if next, err := c.NextProducerID(); err != nil || next <= id {
		t.Errorf("producer id %d after %d, %v", next, id, err)
	}
}

func TestApplyLeavesTheOldImageAlone(t *testing.T) {
	base, err := new(Image).Apply(bootstrap(Bootstrap{ClusterID: "c"})...)
	if err != nil {
		t.Fatal(err)
	}
	topic := &Topic{Name: "t", ID: NewTopicID(), Partitions: 1}
	one, err := base.Apply(Record{Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	topics := maps.Clone(one.Topics)
	if _, err := one.Apply(Record{TopicDeleted: &TopicDeleted{"t", topic.ID}}); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(one.Topics, topics) || len(base.Topics) != 0 {
		t.Error("an older image changed")
	}
}

func TestApplyRefuses(t *testing.T) {
	id := NewTopicID()
	base, err := new(Image).Apply(append(bootstrap(Bootstrap{ClusterID: "c"}), Record{Topic: &Topic{Name: "t", ID: id, Partitions: 2}})...)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Record{
		"another node":       {Node: &NodeRecord{7}},
		"second cluster":     {Cluster: &ClusterRecord{ID: "d"}},
		"start goes back":    {Start: &StartRecord{Count: 1}},
		"topic without id":   {Topic: &Topic{Name: "x", Partitions: 1}},
		"taken name":         {Topic: &Topic{Name: "t", ID: NewTopicID(), Partitions: 2}},
		"taken id":           {Topic: &Topic{Name: "x", ID: id, Partitions: 2}},
		"fewer partitions":   {Topic: &Topic{Name: "t", ID: id, Partitions: 1}},
		"tombstone on life":  {Tombstone: &TopicDeleted{"t", id}},
		"delete other life":  {TopicDeleted: &TopicDeleted{"t", NewTopicID()}},
		"features go back":   {Features: &Features{}},
		"producer ids lower": {ProducerIDs: &ProducerIDs{Next: 1}},
		"nothing":            {},
	} {
		if _, err := base.Apply(r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := new(Image).Apply(Record{Start: &StartRecord{Count: 1}}); err == nil {
		t.Error("a store without a cluster id accepted")
	}
}

func TestDamageIsFound(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Bootstrap{})
	name := filepath.Join(dir, fileName)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, at int, data []byte) {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(vfs.OS{}, dir, Bootstrap{}); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatalf("%s at byte %d: %v", what, at, err)
		}
	}
	for at := range good {
		check("cut", at, good[:at])
		bad := append([]byte{}, good...)
		bad[at] ^= 0x04
		check("flip", at, bad)
	}
}

func TestAnotherClustersStoreIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Bootstrap{ClusterID: "a"})
	if _, err := Open(vfs.OS{}, dir, Bootstrap{ClusterID: "b"}); !errors.Is(err, ErrClusterID) {
		t.Fatalf("got %v, want ErrClusterID", err)
	}
	if _, err := Open(vfs.OS{}, dir, Bootstrap{NodeID: 2}); !errors.Is(err, ErrNodeID) {
		t.Fatalf("got %v, want ErrNodeID", err)
	}
}

// TestAFullDiskCountsStartsAndDeletes: what makes partitions waits for room, all
// else goes on, and nothing is lost when the power goes in the middle of it.
func TestAFullDiskCountsStartsAndDeletes(t *testing.T) {
	fsys := vfs.NewMem()
	reopen := func() *Controller {
		t.Helper()
		c, err := Open(fsys, "dir", Bootstrap{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	make := func(c *Controller, name string) error {
		return c.Update(func(*Image) ([]Record, error) {
			return []Record{{Topic: &Topic{Name: name, ID: NewTopicID(), Partitions: 1}}}, nil
		})
	}
	c := reopen()
	for _, name := range []string{"a", "b"} {
		if err := make(c, name); err != nil {
			t.Fatal(err)
		}
	}
	fsys.SetSpace(fsys.Used())
	starts := c.Image().Starts
	for n := range int32(3) {
		if c = reopen(); c.Image().Starts != starts+1+n {
			t.Fatalf("start %d after %d", c.Image().Starts, starts+n)
		}
	}
	if err := make(c, "c"); !errors.Is(err, ErrFull) || errors.Is(err, ErrOffline) {
		t.Errorf("a topic on a full disk: %v, want ErrFull", err)
	}
	topic := c.Image().Topic("a")
	err := c.Update(func(*Image) ([]Record, error) {
		return []Record{{TopicDeleted: &TopicDeleted{topic.Name, topic.ID}}}, nil
	})
	if err != nil {
		t.Errorf("delete a topic: %v", err)
	}
	fsys = fsys.Crash(nil)
	fsys.SetSpace(fsys.Used())
	if c = reopen(); c.Image().Topic("a") != nil || c.Image().Topic("b") == nil || c.Image().Starts != starts+4 {
		t.Errorf("after a power cut: %+v", c.Image())
	}
	fsys.SetSpace(-1)
	if err := make(c, "c"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestPowerCutOverTheReserve cuts the power at every call of an update that has to
// be written over the reserve.
func TestPowerCutOverTheReserve(t *testing.T) {
	for step := 1; ; step++ {
		fsys := vfs.NewMem()
		c, err := Open(fsys, "dir", Bootstrap{})
		if err != nil {
			t.Fatal(err)
		}
		fsys.SetSpace(fsys.Used())
		calls := 0
		var left *vfs.Mem
		fsys.SetFault(func(vfs.Op, string) error {
			if calls++; calls >= step {
				return errors.New("the power is gone")
			}
			return nil
		})
		_, err = Open(fsys, "dir", Bootstrap{})
		fsys.SetFault(nil)
		for seed := range uint64(8) {
			left = fsys.Crash(rand.New(rand.NewPCG(seed, uint64(step))))
			again, rerr := Open(left, "dir", Bootstrap{})
			if rerr != nil {
				t.Fatalf("step %d: %v", step, rerr)
			}
			if least := c.Image().Starts + 1; again.Image().Starts < least || err == nil && again.Image().Starts == least {
				t.Fatalf("step %d: start %d", step, again.Image().Starts)
			}
		}
		if calls < step {
			return
		}
	}
}

func TestProducerIDsOfClustersLieApart(t *testing.T) {
	seen := map[int64]string{}
	for _, id := range []string{"a", "b", "c", NewTopicID().String(), NewTopicID().String()} {
		first := FirstProducerID(id)
		if first < 1<<40 {
			t.Errorf("%s: %d is where Apache Kafka counts", id, first)
		}
		if other, taken := seen[first]; taken {
			t.Errorf("%s and %s begin at %d", id, other, first)
		}
		seen[first] = id
	}
}

func FuzzDecode(f *testing.F) {
	b, err := encode(bootstrap(Bootstrap{ClusterID: "c"}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, data []byte) {
		if data = bytes.Clone(data); len(data) >= headerSize { // a fuzzer finds neither the length nor the checksum
			binary.BigEndian.PutUint64(data[8:], uint64(len(data)-headerSize))
			binary.BigEndian.PutUint32(data[16:], checksum(data))
		}
		if records, err := decode(data); err == nil {
			_, _ = new(Image).Apply(records...)
		}
		_, _, _ = Dump(data)
	})
}
