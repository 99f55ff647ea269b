package group

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/record"
)

// beat is a heartbeat of a member that reads topic t.
func (r *rig) beat(group, id string, memberEpoch int32, change ...func(*ConsumerHeartbeat)) (ConsumerBeaten, error) {
	h := ConsumerHeartbeat{MemberID: id, MemberEpoch: memberEpoch, RebalanceTimeout: -1}
	if memberEpoch == 0 {
		wants("t")(&h)
	}
	for _, c := range change {
		c(&h)
	}
	return r.ConsumerHeartbeat(r.t.Context(), group, h, func(string) bool { return true })
}

func TestConsumerGroupSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		regex := "t.*"
		for _, id := range []string{"A", "B"} {
			if _, err := r.beat("g", id, 0, func(h *ConsumerHeartbeat) {
				if id == "B" {
					h.SubscribedTopicNames, h.SubscribedTopicRegex = []string{}, &regex
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.beat("g", "A", 1); err != nil { // now it must give one up
			t.Fatal(err)
		}
		before, err := r.DescribeConsumer(t.Context(), "g")
		if err != nil || before.State != Reconciling || len(before.Members) != 2 {
			t.Fatalf("got %+v, %v", before, err)
		}
		r.restart()
		after, err := r.DescribeConsumer(t.Context(), "g")
		if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("got %+v, %v; want %+v", after, err, before)
		}
		// The time to give up begins anew, and ends: A beats and gives nothing up.
		for range 7 {
			time.Sleep(5 * time.Second)
			_, err = r.beat("g", "A", 1)
			if _, err := r.beat("g", "B", 2); err != nil {
				t.Fatal(err)
			}
			if err != nil {
				break
			}
		}
		if !errors.Is(err, kerr.UnknownMemberID) {
			t.Errorf("A after the rebalance timeout: %v", err)
		}
		r.restart()
		time.Sleep(46 * time.Second)
		if d, err := r.DescribeConsumer(t.Context(), "g"); err != nil || d.State != Empty || d.AssignmentEpoch != d.Epoch {
			t.Errorf("after the session of B: got %+v, %v", d, err)
		}
	})
}

func TestOffsetsOfAConsumerGroupExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.OffsetsRetention, c.CleanupInterval = time.Hour, time.Minute })
		r.topics.set("u", 1)
		r.commit("g", Offset{TopicPartition{"u", 0}, 3, -1, ""}, at(0, 5))
		if _, err := r.beat("g", "A", 0, wants("t")); err != nil {
			t.Fatal(err)
		}
		kept := func() int {
			t.Helper()
			got, err := r.Offsets(t.Context(), FetchRequest{Group: "g", MemberEpoch: -1})
			if err != nil {
				t.Fatal(err)
			}
			return len(got)
		}
		for range 120 {
			time.Sleep(40 * time.Second)
			if _, err := r.beat("g", "A", 1); err != nil {
				t.Fatal(err)
			}
		}
		if n := kept(); n != 1 {
			t.Errorf("%d offsets: want that of the topic which is read, and no other", n)
		}
		// It counts from when the last one left, also over a restart.
		if _, err := r.beat("g", "A", LeaveEpoch); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Minute)
		r.restart()
		time.Sleep(5 * time.Minute)
		if n := kept(); n != 1 {
			t.Errorf("%d offsets 55 minutes after the last one left, want 1", n)
		}
		time.Sleep(10 * time.Minute)
		if n := kept(); n != 0 {
			t.Errorf("%d offsets after an hour, want none", n)
		}
		if all, err := r.List(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("groups: got %v, %v", all, err)
		}
		r.restart()
		if all, err := r.List(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("groups after a restart: got %v, %v", all, err)
		}
	})
}

func TestConsumerGroupIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.beat("g", "A", 0)
		if err := r.Commit(t.Context(), CommitRequest{Group: "g", MemberID: "A", Generation: 1, KnowsEpochs: true, Offsets: []Offset{at(0, 5)}}); err != nil {
			t.Errorf("commit of a member: %v", err)
		}
		if errs, err := r.DeleteOffsets(t.Context(), "g", []TopicPartition{tp(0)}); err != nil || !errors.Is(errs[0], kerr.GroupSubscribedToTopic) {
			t.Errorf("delete an offset that is wanted: %v, %v", errs, err)
		}
		if err := r.Delete(t.Context(), "g"); !errors.Is(err, kerr.NonEmptyGroup) {
			t.Errorf("delete: %v", err)
		}
		if _, err := r.Leave(t.Context(), "g", []Leaver{{MemberID: "A"}}); err != nil {
			t.Fatal(err)
		}
		if err := r.Delete(t.Context(), "g"); err != nil {
			t.Errorf("delete: %v", err)
		}
		r.restart()
		if _, err := r.DescribeConsumer(t.Context(), "g"); !errors.Is(err, kerr.GroupIDNotFound) {
			t.Errorf("describe: %v", err)
		}
		if all, err := r.List(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("groups: got %v, %v", all, err)
		}
	})
}

// TestGroupWithoutMembersTakesTheProtocolOfWhoComes keeps its offsets meanwhile.
func TestGroupWithoutMembersTakesTheProtocolOfWhoComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Migration = MigrateNever })
		kind := func() Type {
			t.Helper()
			all, err := r.List(t.Context())
			if err != nil || len(all) != 1 {
				t.Fatalf("groups: got %v, %v", all, err)
			}
			return all[0].Type
		}
		j := r.stable("g")
		if err := r.Commit(t.Context(), CommitRequest{Group: "g", MemberID: j.MemberID, Generation: 1, Offsets: []Offset{at(0, 5)}}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.beat("g", "A", 0); !errors.Is(err, kerr.GroupIDNotFound) {
			t.Errorf("a consumer in a classic group that may not change: %v", err)
		}
		r.Leave(t.Context(), "g", []Leaver{{MemberID: j.MemberID}})
		if _, err := r.beat("g", "A", 0); err != nil {
			t.Fatal(err)
		}
		r.restart()
		if kind() != TypeConsumer {
			t.Errorf("type: got %s", kind())
		}
		r.beat("g", "A", LeaveEpoch)
		r.stable("g")
		r.restart()
		if kind() != TypeClassic {
			t.Errorf("type: got %s", kind())
		}
		if got, err := r.offset("g", true); err != nil || got != 5 {
			t.Errorf("offset: got %d, %v", got, err)
		}
	})
}

// TestAGroupThatCannotBeUpgradedIsLeftAlone: what a classic group's assignor says
// to its members would be lost, what they say to it is not.
func TestAGroupThatCannotBeUpgradedIsLeftAlone(t *testing.T) {
	subscription := kmsg.ConsumerMemberMetadata{Topics: []string{"t"}, UserData: []byte("of a member")}
	assignment := func(userData []byte) []byte {
		a := kmsg.ConsumerMemberAssignment{UserData: userData}
		a.Topics = []kmsg.ConsumerMemberAssignmentTopic{{Topic: "t", Partitions: []int32{0}}}
		return a.AppendTo(nil)
	}
	for name, c := range map[string]struct {
		policy     Migration
		protocol   string
		metadata   []byte
		assignment []byte
		refused    string
	}{
		"a consumer's":           {assignment: assignment(nil)},
		"empty user data":        {assignment: assignment([]byte{})},
		"nothing assigned":       {},
		"user data for a member": {assignment: assignment([]byte("u")), refused: "custom assignor"},
		"malformed assignment":   {assignment: []byte("p0"), refused: "malformed"},
		"malformed subscription": {metadata: []byte("meta"), refused: "malformed"},
		"another protocol":       {protocol: "connect", refused: "embedded protocol"},
		"policy":                 {policy: MigrateDowngrade, assignment: assignment(nil), refused: "disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(cfg *Config) { cfg.Migration = cmp.Or(c.policy, MigrateBoth) })
				j := joining("")
				j.ProtocolType = cmp.Or(c.protocol, j.ProtocolType)
				if j.Protocols[0].Metadata = c.metadata; c.metadata == nil {
					j.Protocols[0].Metadata = subscription.AppendTo(nil)
				}
				joined, err := r.Join(t.Context(), "g", j)
				if err != nil || joined.Err != nil {
					t.Fatalf("join: %v, %v", err, joined.Err)
				}
				sync := Sync{MemberID: joined.MemberID, Generation: joined.Generation, Assignments: map[string][]byte{joined.MemberID: c.assignment}}
				if s, err := r.Sync(t.Context(), "g", sync); err != nil || s.Err != nil {
					t.Fatalf("sync: %v, %v", err, s.Err)
				}
				_, err = r.beat("g", "A", 0)
				all, _ := r.List(t.Context())
				if c.refused == "" {
					if err != nil || all[0].Type != TypeConsumer {
						t.Fatalf("got %v, groups %v", err, all)
					}
					return
				}
				if !errors.Is(err, kerr.GroupIDNotFound) || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("got %v, want %q", err, c.refused)
				}
				if len(all) != 1 || all[0].Type != TypeClassic {
					t.Errorf("groups %v", all)
				}
				if err := r.Heartbeat(t.Context(), "g", Heartbeat{MemberID: joined.MemberID, Generation: joined.Generation}); err != nil {
					t.Errorf("heartbeat of the classic member: %v", err)
				}
			})
		})
	}
}

func TestRecordsThatAreNotUnderstoodAreNamed(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	c := someConsumer(now)
	cfg := DefaultConfig()
	s := newShard(0, newMemLog(), &cfg, new(gone))
	read := func(r record.Record) error {
		l, known, err := readRecord(r)
		if err != nil || !known {
			return err
		}
		b, err := record.Encode([]record.Record{r}, record.NoProducer(record.None))
		if err != nil {
			t.Fatal(err)
		}
		return s.apply(l, r, b, now)
	}
	for _, r := range recordsOf("g", c, c.parts(), now) {
		if err := read(r); err != nil {
			t.Errorf("%v: %v", r.Key, err)
		}
		later := record.Record{Key: r.Key, Value: append([]byte{0, 9}, r.Value[2:]...)}
		if err := read(later); err == nil {
			t.Errorf("a value of version 9 is read as if it were known: %v", r.Key)
		}
		if err := read(record.Record{Key: r.Key, Value: r.Value[:len(r.Value)-1]}); err == nil {
			t.Errorf("a value that is cut is read: %v", r.Key)
		}
		if err := read(record.Record{Key: r.Key[:len(r.Key)-1], Value: r.Value}); err == nil {
			t.Errorf("a key that is cut is read: %v", r.Key)
		}
	}
	offset := offsetRecord("g", at(0, 5), now)
	offset.Value[1] = 9
	if err := read(offset); err == nil {
		t.Error("an offset of version 9 is read as if it were known")
	}
	// A kind of record that only a later version has is not ours to judge.
	if err := read(record.Record{Key: []byte{0, 99, 1}, Value: []byte{1}}); err != nil {
		t.Errorf("a kind that is not known: %v", err)
	}
}
