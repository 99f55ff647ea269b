package offsets

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// TestOneGroupHoldsUpNoOther: what cannot be had or done of one group is said in its rows;
// the other follows, and may move.
func TestOneGroupHoldsUpNoOther(t *testing.T) {
	unstable := fmt.Errorf("orders/0: %w", kerr.UnstableOffsetCommit)
	for _, c := range []struct {
		name   string
		set    func(src, dst *memoryCluster)
		action Action
		why    string // contained
		fails  error  // of the round
	}{
		{"not readable at the source", func(s, _ *memoryCluster) { s.unread = GroupErrors{"app": errDenied} }, Wait, "at the source: not authorized", errDenied},
		{"in a transaction at the source", func(s, _ *memoryCluster) { s.unread = GroupErrors{"app": unstable} }, Wait, "a transaction is open", nil},
		{"not readable at the destination", func(_, d *memoryCluster) { d.unread = GroupErrors{"app": errDenied} }, Leave, "at the destination: not authorized", errDenied},
		{"in a transaction at the destination", func(_, d *memoryCluster) { d.unread = GroupErrors{"app": unstable} }, Leave, "UNSTABLE_OFFSET_COMMIT", nil},
		{"not writable", func(_, d *memoryCluster) { d.refused = map[string]bool{"app": true} }, Wait, "at the destination: not authorized", errDenied},
	} {
		s, src, dst, _ := newSync(Commit{Offset: 4})
		src.groups["web"], src.commits["web"] = "Empty", maps.Clone(src.commits["app"])
		s.cfg.Groups = func(string) bool { return true }
		c.set(src, dst)
		rows, err := s.Round(t.Context())
		if !errors.Is(err, c.fails) || len(rows) != 2 || rows[0].Action != c.action || !strings.Contains(rows[0].Why, c.why) || rows[0].Written || !rows[1].Written {
			t.Errorf("%s: got %+v %v", c.name, rows, err)
		}
		plans, err := s.Plan(t.Context())
		if some, _ := errors.AsType[GroupErrors](Unread(plans)); (len(some) != 1 || some["app"] == nil) && len(dst.refused) == 0 {
			t.Errorf("%s: not read: %v", c.name, some)
		}
		if err != nil || len(plans) != 2 {
			t.Errorf("%s: planned %+v %v", c.name, plans, err)
		}
		if p := PlanGroups(plans); len(dst.refused) == 0 && (p[0].Verdict != Blocked || !slices.ContainsFunc(p[0].Why, func(w string) bool { return strings.Contains(w, c.why) }) || p[1].Verdict != Ready) {
			t.Errorf("%s: got %+v", c.name, p)
		}
		if _, err := s.Apply(t.Context(), []string{"app", "web"}, Terms{Unmarked: true}); err == nil || dst.commits["app"] != nil {
			t.Errorf("%s: moved both: %v, %v", c.name, err, dst.commits)
		}
		if _, err := s.Apply(t.Context(), []string{"web"}, Terms{Unmarked: true}); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestWhatIsNotReadBackHasNotMoved: and what is, has.
func TestWhatIsNotReadBackHasNotMoved(t *testing.T) {
	s, src, dst, _ := newSync(Commit{Offset: 4})
	src.groups["web"], src.commits["web"] = "Empty", maps.Clone(src.commits["app"])
	dst.onRead = func(c *memoryCluster, n int) {
		if n == 4 { // behind the look and the two before the writes
			c.unread = GroupErrors{"app": errDenied}
		}
	}
	_, err := s.Apply(t.Context(), []string{"app", "web"}, Terms{Unmarked: true})
	if half, ok := errors.AsType[*HalfwayError](err); !ok || !errors.Is(err, errDenied) || !slices.Equal(half.Done, []string{"web"}) || !slices.Equal(half.Left, []string{"app"}) {
		t.Errorf("got %v", err)
	}
}

// TestGroupErrorsAreShort: a thousand groups are not all in what an operator reads, and all of
// them can be looked for.
func TestGroupErrorsAreShort(t *testing.T) {
	all := GroupErrors{}
	for i := range 1000 {
		all[fmt.Sprintf("app-%03d", i)] = errors.New("refused")
	}
	all["zebra"] = errDenied
	if got := all.Error(); got != "group app-000: refused; group app-001: refused; group app-002: refused; and 998 groups more" || !errors.Is(all, errDenied) {
		t.Errorf("got %q", got)
	}
}

// TestAGroupThatIsNotReadIsNotGone: nothing is written down of it while it is not known.
func TestAGroupThatIsNotReadIsNotGone(t *testing.T) {
	at := time.UnixMilli(1000)
	key := ProgressKey{"app", ledger.TopicID{1}, 0}
	told := map[ProgressKey]Told{key: {Topic: "orders", Next: 5, At: at}}
	look := func(unread map[string]bool) []*ledger.Progress {
		p := NewProgress(told, func(ProgressKey) (Told, bool) { return Told{}, false })
		p.Look(Sight{Asked: at.Add(time.Second), Answered: at.Add(time.Second), Watched: func(string, string) bool { return true }, Unread: unread})
		return p.Due(at.Add(time.Hour), 10)
	}
	if due := look(map[string]bool{"app": true}); len(due) != 0 {
		t.Errorf("not read: got %+v", due[0])
	}
	if due := look(map[string]bool{"web": true}); len(due) != 1 || due[0].Kind != ledger.Gone {
		t.Errorf("read: got %+v", due)
	}
}

// TestCommitsOfABrokerThatRefusesOne: groups in an open transaction and groups that may not be
// described are named, and the others' positions had.
func TestCommitsOfABrokerThatRefusesOne(t *testing.T) {
	s := startSide(t, func(c *broker.Config) {
		c.Authorizer = true
		rule := func(of acl.ResourceType, name string, op acl.Operation, p acl.Permission) acl.Rule {
			return acl.Rule{ResourceType: of, ResourceName: name, PatternType: acl.Literal, Principal: "User:*", Host: "*", Operation: op, Permission: p}
		}
		c.BootstrapACLs = []acl.Rule{
			rule(acl.Cluster, "kafka-cluster", acl.All, acl.Allow), rule(acl.Topic, "*", acl.All, acl.Allow), rule(acl.Group, "*", acl.All, acl.Allow),
			rule(acl.TransactionalID, "*", acl.All, acl.Allow), rule(acl.Group, "secret", acl.Describe, acl.Deny),
		}
	})
	s.topic(t, "orders")
	c := KafkaCluster(s.cl)
	for _, name := range []string{"plain", "mover"} {
		if err := c.Commit(t.Context(), Group{Name: name}, map[flow.TopicPartition]Commit{orders: {3, "m"}}); err != nil {
			t.Fatal(err)
		}
	}
	s.commitInTransaction(t, "mover", 4)
	groups := []Group{{Name: "mover"}, {Name: "plain"}, {Name: "secret"}}
	got, err := c.Commits(t.Context(), groups)
	failed, ok := errors.AsType[GroupErrors](err)
	if !ok || len(failed) != 2 || !errors.Is(failed["mover"], kerr.UnstableOffsetCommit) || !errors.Is(failed["secret"], kerr.GroupAuthorizationFailed) {
		t.Errorf("got %v", err)
	}
	if len(got) != 1 || got["plain"][orders] != (Commit{3, "m"}) {
		t.Errorf("got %v", got)
	}
}

// TestAnswersAboutManyGroupsAreSmall: of six hundred groups with long metadata, all are had by a
// client that takes no answer as large as that about all.
func TestAnswersAboutManyGroupsAreSmall(t *testing.T) {
	s := startSide(t)
	s.topic(t, "orders")
	const n, long = 600, 4096
	groups := make([]Group, n)
	metadata := strings.Repeat("m", long)
	all, commit := errgroup.WithContext(t.Context())
	all.SetLimit(20)
	for i := range groups {
		groups[i] = Group{Name: fmt.Sprint("app-", i)}
		all.Go(func() error {
			return KafkaCluster(s.cl).Commit(commit, groups[i], map[flow.TopicPartition]Commit{orders: {3, metadata}})
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	cl := connect(t, s.cl.OptValue(kgo.SeedBrokers).([]string)[0], kgo.FetchMaxBytes(1<<20), kgo.BrokerMaxReadBytes((n-50)*long))
	if got, err := KafkaCluster(cl).Commits(t.Context(), groups); err != nil || len(got) != n {
		t.Errorf("got %d groups, %v", len(got), err)
	}
}

// commitInTransaction leaves a transaction open that is to commit a position of a group.
func (s *side) commitInTransaction(t *testing.T, group string, at int64) {
	t.Helper()
	const id = "mover"
	cl := connect(t, s.cl.OptValue(kgo.SeedBrokers).([]string)[0], kgo.TransactionalID(id))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	producer, epoch, err := cl.ProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = id, producer, epoch, group
	if added, err := add.RequestWith(t.Context(), cl); err != nil || added.ErrorCode != 0 {
		t.Fatalf("got %+v %v", added, err)
	}
	q := kmsg.NewPtrTxnOffsetCommitRequest()
	q.TransactionalID, q.ProducerID, q.ProducerEpoch, q.Group, q.Generation = id, producer, epoch, group, -1
	topic, partition := kmsg.NewTxnOffsetCommitRequestTopic(), kmsg.NewTxnOffsetCommitRequestTopicPartition()
	partition.Offset = at
	topic.Topic, topic.Partitions = orders.Topic, append(topic.Partitions, partition)
	q.Topics = append(q.Topics, topic)
	if resp, err := q.RequestWith(t.Context(), cl); err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("got %+v %v", resp, err)
	}
}
