package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/broker/txn"
)

// TestCheckpointOnDisk lets a group coordinator write its partition anew on a
// real log, with a transaction open across it, and restarts.
func TestCheckpointOnDisk(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "log", 1, 0)
	b.makeTopic(t, "orders", 1, 0)
	cfg := group.DefaultConfig()
	cfg.Partitions, cfg.CheckpointRecords, cfg.CleanupInterval = 1, 50, 10*time.Millisecond
	lead := func() (*group.Coordinator, func()) {
		c := group.NewCoordinator(cfg)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		p := b.topic("log").partitions[0]
		serve, err := c.Lead(0, groupLog{partitionLog{p}})
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- serve(ctx) }()
		waitUntil(t, func() bool { _, err := c.Describe(ctx, "g"); return err == nil })
		return c, func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("lead: %v", err)
			}
		}
	}
	commit := func(c *group.Coordinator, name string, at int64) {
		t.Helper()
		o := group.Offset{Offset: at, LeaderEpoch: -1}
		o.Topic = "orders"
		if err := c.Commit(t.Context(), group.CommitRequest{Group: name, Generation: -1, Offsets: []group.Offset{o}}); err != nil {
			t.Fatal(err)
		}
	}
	c, stop := lead()
	commit(c, "first", 1)
	commit(c, "held", 1)
	held := group.CommitRequest{Group: "held", Generation: -1, Offsets: []group.Offset{{TopicPartition: group.TopicPartition{Topic: "orders"}, Offset: 2}}}
	err := c.CommitInTransaction(t.Context(), held, 1<<41, 0, func(context.Context) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	log := b.topic("log").partitions[0]
	for n := int64(0); log.StartOffset() == 0; n++ {
		commit(c, "g", n)
		if n > 100_000 {
			t.Fatal("there was no checkpoint")
		}
	}
	if log.StartOffset() != 1 {
		t.Errorf("log starts at %d, want 1: where what an open transaction may move is", log.StartOffset())
	}
	commit(c, "g", 77)
	if err := c.EndTransaction(t.Context(), 0, group.Marker{ProducerID: 1 << 41, Commit: true}); err != nil {
		t.Fatal(err)
	}
	start := log.StartOffset()
	for n := int64(0); log.StartOffset() == start; n++ {
		commit(c, "other", n)
		if n > 100_000 {
			t.Fatal("there was no second checkpoint")
		}
	}
	stop()
	c, stop = lead()
	defer stop()
	for name, want := range map[string]int64{"g": 77, "held": 2} {
		got, err := c.Offsets(t.Context(), group.FetchRequest{Group: name, Stable: true, MemberEpoch: -1})
		if err != nil || len(got) != 1 || got[0].Offset.Offset != want || got[0].Err != nil {
			t.Errorf("group %s: got %+v, %v; want %d", name, got, err, want)
		}
	}
}

func TestTransactionRights(t *testing.T) {
	b := startBroker(t, func(c *Config) {
		c.Authorizer = true
		c.BootstrapACLs = []acl.Rule{
			allowRule("User:alice", acl.Topic, "orders", acl.Write),
			allowRule("User:alice", acl.TransactionalID, "mine", acl.Write),
			allowRule("User:bob", acl.Topic, "orders", acl.Write),
			allowRule("User:bob", acl.TransactionalID, "mine", acl.Describe),
		}
	})
	ctx := within(t, 30*time.Second)
	admin := kadm.NewClient(b.secureClient(t, scram256("admin", "root")))
	if _, err := admin.CreateTopics(ctx, 1, 1, nil, "orders", "other"); err != nil {
		t.Fatal(err)
	}
	alice := b.secureClient(t, scram256("alice", "geheim"), kgo.TransactionalID("mine"), kgo.DefaultProduceTopic("orders"))
	if err := transact(t, alice, kgo.TryCommit, values("a", 1)...); err != nil {
		t.Errorf("alice: %v", err)
	}
	bob := b.secureClient(t, scram256("bob", "secret"), kgo.TransactionalID("mine"), kgo.DefaultProduceTopic("orders"))
	if _, _, err := bob.ProducerID(ctx); !errors.Is(err, kerr.TransactionalIDAuthorizationFailed) {
		t.Errorf("bob takes alice's transactional id: got %v", err)
	}
	adm := kadm.NewClient(bob)
	if d, err := adm.DescribeTransactions(ctx, "mine"); err != nil || d["mine"].State != txn.CompleteCommit.String() {
		t.Errorf("bob describes: got %+v, %v", d, err)
	}
	if l, err := adm.ListTransactions(ctx, nil, nil); err != nil || len(l) != 1 {
		t.Errorf("bob lists: got %+v, %v", l, err)
	}
	// Nobody writes to the coordinators' own topics by way of a transaction.
	root := b.secureClient(t, scram256("admin", "root"), kgo.TransactionalID("root"), kgo.DefaultProduceTopic(offsetsTopic))
	if err := transact(t, root, kgo.TryCommit, values("x", 1)...); !errors.Is(err, kerr.InvalidTopicException) {
		t.Errorf("a producer writes to %s: got %v", offsetsTopic, err)
	}
	root = b.secureClient(t, scram256("admin", "root"), kgo.TransactionalID("old"), kgo.DefaultProduceTopic(offsetsTopic), kgo.MaxVersions(firstProtocol()))
	if err := transact(t, root, kgo.TryCommit, values("x", 1)...); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("a producer of the first protocol writes to %s: got %v", offsetsTopic, err)
	}
}
