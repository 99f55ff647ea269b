package broker

import (
	"context"
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

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// makeTopic makes a topic and fills each of its partitions with n records.
func (b *testBroker) makeTopic(t *testing.T, topic string, partitions int32, n int) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	cl := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	var records []*kgo.Record
	for p := range partitions {
		for i := range n {
			records = append(records, &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d/%d", p, i)})
		}
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func TestGroupSharesPartitionsAndResumes(t *testing.T) {
	b := startBroker(t, nil)
	const partitions, each = 4, 25
	b.makeTopic(t, "orders", partitions, each)

	var mu sync.Mutex
	seen := map[string]int{}
	readers := map[int]int{}
	ctx, cancel := context.WithCancel(within(t, time.Minute))
	var wg sync.WaitGroup
	for member := range 2 {
		// The second comes when the first has everything, and takes its share.
		if member == 1 {
			waitUntil(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) == partitions*each })
			b.produceMore(t, "orders", partitions, each)
		}
		cl := b.client(t, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(100*time.Millisecond))
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer cl.Close()
			for {
				fetches := cl.PollRecords(ctx, 10)
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				fetches.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++; readers[member]++ })
				mu.Unlock()
				if err := cl.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, kerr.RebalanceInProgress) && !errors.Is(err, kerr.IllegalGeneration) {
					t.Errorf("commit: %v", err)
				}
			}
		}()
	}
	waitUntil(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) == 2*partitions*each })
	// Both are members, and hold two partitions each.
	adm := kadm.NewClient(b.client(t))
	waitUntil(t, func() bool {
		d, err := adm.DescribeGroups(ctx, "g")
		if err != nil || d["g"].State != "Stable" || len(d["g"].Members) != 2 {
			return false
		}
		for _, m := range d["g"].Members {
			a, ok := m.Assigned.AsConsumer()
			if !ok || len(a.Topics) != 1 || len(a.Topics[0].Partitions) != 2 {
				return false
			}
		}
		return true
	})
	waitUntil(t, func() bool {
		o, err := adm.FetchOffsets(ctx, "g")
		if err != nil {
			return false
		}
		for p := range int32(partitions) {
			if at, ok := o.Lookup("orders", p); !ok || at.At != 2*each {
				return false
			}
		}
		return true
	})
	cancel()
	wg.Wait()

	// The positions are there after a restart.
	b = b.restart(t)
	o, err := kadm.NewClient(b.client(t)).FetchOffsets(within(t, 30*time.Second), "g")
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(partitions) {
		if at, _ := o.Lookup("orders", p); at.At != 2*each {
			t.Errorf("partition %d after restart: committed %d, want %d", p, at.At, 2*each)
		}
	}
}

func (b *testBroker) produceMore(t *testing.T, topic string, partitions int32, n int) {
	t.Helper()
	cl := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	var records []*kgo.Record
	for p := range partitions {
		for i := range n {
			records = append(records, &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d/%d more", p, i)})
		}
	}
	if err := cl.ProduceSync(within(t, 30*time.Second), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func waitUntil(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not happen")
		}
	}
}

func TestCommittedOffsetsRoundTrip(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 2, 5)
	ctx := within(t, 30*time.Second)
	adm := kadm.NewClient(b.client(t))

	o := kadm.Offsets{}
	o.Add(kadm.Offset{Topic: "orders", Partition: 0, At: 3, LeaderEpoch: 1, Metadata: "note"})
	o.Add(kadm.Offset{Topic: "orders", Partition: 1, At: 0, LeaderEpoch: -1})
	o.Add(kadm.Offset{Topic: "orders", Partition: 9, At: 1, LeaderEpoch: -1})
	answer, err := adm.CommitOffsets(ctx, "g", o)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := answer.Lookup("orders", 9); !errors.Is(got.Err, kerr.UnknownTopicOrPartition) {
		t.Errorf("commit of a partition that is none: got %v", got.Err)
	}
	// What was acknowledged survives a power cut.
	b = b.crash(t, 1)
	adm = kadm.NewClient(b.client(t))
	fetched, err := adm.FetchOffsets(ctx, "g")
	if err != nil {
		t.Fatal(err)
	}
	want := []kadm.Offset{
		{Topic: "orders", Partition: 0, At: 3, LeaderEpoch: 1, Metadata: "note"},
		{Topic: "orders", Partition: 1, At: 0, LeaderEpoch: -1},
	}
	var got []kadm.Offset
	for _, r := range fetched.Sorted() {
		r.TopicID = kadm.TopicID{}
		got = append(got, r.Offset)
	}
	if !slices.Equal(got, want) {
		t.Errorf("offsets: got %+v, want %+v", got, want)
	}
	if got, err := adm.FetchOffsets(ctx, "nobody"); err != nil || len(got) != 0 {
		t.Errorf("unknown group: got %v, %v", got, err)
	}
	deleted, err := adm.DeleteOffsets(ctx, "g", kadm.TopicsSet{"orders": {0: {}}})
	if err != nil || deleted.Error() != nil {
		t.Errorf("delete offset: %v, %v", err, deleted.Error())
	}
	listed, err := adm.ListGroups(ctx)
	if err != nil || len(listed) != 1 || listed["g"].State != "Empty" {
		t.Errorf("list: got %+v, %v", listed, err)
	}
	gone, err := adm.DeleteGroups(ctx, "g", "nobody")
	if err != nil || gone["g"].Err != nil || !errors.Is(gone["nobody"].Err, kerr.GroupIDNotFound) {
		t.Errorf("delete groups: got %+v, %v", gone, err)
	}
	described, err := adm.DescribeGroups(ctx, "g")
	if err != nil || described["g"].State != "Dead" && !errors.Is(described["g"].Err, kerr.GroupIDNotFound) {
		t.Errorf("deleted group: got %+v, %v", described, err)
	}
}

// TestOldOffsetVersions asks in every version that a client may use.
func TestOldOffsetVersions(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 5)
	id := [16]byte(b.topic("orders").ID)
	ctx := within(t, 30*time.Second)
	for v := int16(2); v <= 10; v++ {
		cl := b.client(t, kgo.MaxVersions(versionsWith(map[int16]int16{8: v})))
		q := kmsg.NewPtrOffsetCommitRequest()
		q.Group, q.Generation = "g", -1
		topic := kmsg.NewOffsetCommitRequestTopic()
		topic.Topic, topic.TopicID = "orders", id
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Offset = int64(v)
		topic.Partitions = append(topic.Partitions, p)
		q.Topics = append(q.Topics, topic)
		resp, err := q.RequestWith(ctx, cl)
		if err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Errorf("commit v%d: got %+v, %v", v, resp, err)
		}
	}
	for v := int16(1); v <= 10; v++ {
		cl := b.client(t, kgo.MaxVersions(versionsWith(map[int16]int16{9: v})))
		q := kmsg.NewPtrOffsetFetchRequest()
		q.Group = "g"
		topic := kmsg.NewOffsetFetchRequestTopic()
		topic.Topic, topic.Partitions = "orders", []int32{0}
		q.Topics = append(q.Topics, topic)
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = "g"
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.TopicID, gt.Partitions = "orders", id, []int32{0}
		g.Topics = append(g.Topics, gt)
		q.Groups = append(q.Groups, g)
		resp, err := q.RequestWith(ctx, cl)
		if err != nil {
			t.Errorf("fetch v%d: %v", v, err)
			continue
		}
		var got int64
		if v >= 8 {
			got = resp.Groups[0].Topics[0].Partitions[0].Offset
		} else {
			got = resp.Topics[0].Partitions[0].Offset
		}
		if got != 10 {
			t.Errorf("fetch v%d: got %d, want 10", v, got)
		}
	}
}

func TestGroupRights(t *testing.T) {
	b := startBroker(t, func(c *Config) {
		c.Authorizer = true
		c.BootstrapACLs = []acl.Rule{
			allowRule("User:alice", acl.Topic, "orders", acl.Read),
			allowRule("User:alice", acl.Group, "mine", acl.Read),
			allowRule("User:bob", acl.Topic, "orders", acl.Describe),
			allowRule("User:bob", acl.Group, "mine", acl.Describe),
		}
	})
	ctx := within(t, 30*time.Second)
	admin := kadm.NewClient(b.secureClient(t, scram256("admin", "root")))
	if _, err := admin.CreateTopic(ctx, 1, 1, nil, "orders"); err != nil {
		t.Fatal(err)
	}
	o := kadm.Offsets{}
	o.AddOffset("orders", 0, 7, -1)
	alice := kadm.NewClient(b.secureClient(t, scram256("alice", "geheim")))
	if err := alice.CommitAllOffsets(ctx, "mine", o); err != nil {
		t.Errorf("alice commits: %v", err)
	}
	if err := alice.CommitAllOffsets(ctx, "other", o); !errors.Is(err, kerr.GroupAuthorizationFailed) {
		t.Errorf("alice commits to another group: got %v", err)
	}
	if _, err := alice.DeleteGroup(ctx, "mine"); !errors.Is(err, kerr.GroupAuthorizationFailed) {
		t.Errorf("alice deletes: got %v", err)
	}
	bob := kadm.NewClient(b.secureClient(t, scram256("bob", "secret")))
	if err := bob.CommitAllOffsets(ctx, "mine", o); !errors.Is(err, kerr.GroupAuthorizationFailed) {
		t.Errorf("bob commits: got %v", err)
	}
	if got, err := bob.FetchOffsets(ctx, "mine"); err != nil || len(got) != 1 {
		t.Errorf("bob fetches: got %v, %v", got, err)
	}
	if got, err := bob.ListGroups(ctx); err != nil || len(got) != 1 {
		t.Errorf("bob lists: got %v, %v", got, err)
	}
	if err := admin.CommitAllOffsets(ctx, "other", o); err != nil {
		t.Errorf("admin commits: %v", err)
	}
	if got, err := bob.ListGroups(ctx); err != nil || len(got) != 1 {
		t.Errorf("bob lists: got %v, %v", got, err)
	}
}

func allowRule(principal string, rt acl.ResourceType, name string, op acl.Operation) acl.Rule {
	return acl.Rule{
		ResourceType: rt, ResourceName: name, PatternType: acl.Literal,
		Principal: principal, Host: "*", Operation: op, Permission: acl.Allow,
	}
}

func TestCommitsLeaveAccessRecords(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 10)
	ctx := within(t, 30*time.Second)
	adm := kadm.NewClient(b.client(t))
	for _, at := range []int64{4, 10} {
		o := kadm.Offsets{}
		o.AddOffset("orders", 0, at, -1)
		if err := adm.CommitAllOffsets(ctx, "g", o); err != nil {
			t.Fatal(err)
		}
	}
	last := int64(-1)
	waitUntil(t, func() bool {
		for _, p := range b.topic(ledgerTopic).partitions {
			buf, err := p.Read(0, 1<<20, p.HighWatermark())
			for err == nil && len(buf) > 0 {
				var batch record.Batch
				if batch, buf, err = record.Next(buf); err != nil {
					break
				}
				records, err := batch.Decode(1 << 20)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range records {
					page, err := ledger.Decode(r.Value)
					if err != nil {
						t.Fatal(err)
					}
					for _, e := range page.Entries {
						if a, ok := e.(*ledger.Access); ok && a.Kind == ledger.Committed && a.Group == "g" && a.Topic == "orders" {
							last = max(last, a.Last)
						}
					}
				}
			}
		}
		return last == 9
	})
}

func TestRecreatedTopicHasNoPositions(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 5)
	ctx := within(t, 30*time.Second)
	adm := kadm.NewClient(b.client(t))
	var at kadm.Offsets
	at.AddOffset("orders", 0, 4, -1)
	if err := adm.CommitAllOffsets(ctx, "g", at); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.DeleteTopic(ctx, "orders"); err != nil {
		t.Fatal(err)
	}
	b.makeTopic(t, "orders", 1, 5)
	got, err := adm.FetchOffsets(ctx, "g")
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := got.Lookup("orders", 0); ok && o.At >= 0 {
		t.Errorf("the group stands at %d in a topic that it has never read", o.At)
	}
}
