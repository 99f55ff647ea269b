package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
)

// reader is a consumer of a group that notes what it read.
type reader struct {
	cl   *kgo.Client
	stop func()
}

// readers share what they have seen, and where their broker is.
type readers struct {
	mu   sync.Mutex
	seen map[string]int
	addr atomic.Pointer[string]
}

// move sends the readers to a broker, whatever address they know.
func (r *readers) move(b *testBroker) {
	addr := b.Addr("plain")
	r.addr.Store(&addr)
}

func (r *readers) count() int { r.mu.Lock(); defer r.mu.Unlock(); return len(r.seen) }

// start makes a member of a group and lets it read and commit until it is
// stopped.
func (r *readers) start(t *testing.T, b *testBroker, group string, opts ...kgo.Opt) *reader {
	t.Helper()
	r.move(b)
	cl := b.client(t, append([]kgo.Opt{
		kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, *r.addr.Load())
		}),
		kgo.ConsumerGroup(group), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(100 * time.Millisecond),
	}, opts...)...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			fetches := cl.PollRecords(ctx, 20)
			if ctx.Err() != nil {
				return
			}
			r.mu.Lock()
			fetches.EachRecord(func(rec *kgo.Record) { r.seen[string(rec.Value)]++ })
			r.mu.Unlock()
			// What is refused because the group has moved on is read again.
			_ = cl.CommitUncommittedOffsets(ctx)
		}
	}()
	one := &reader{cl: cl}
	one.stop = sync.OnceFunc(func() { cancel(); <-done; cl.Close() })
	t.Cleanup(one.stop)
	return one
}

// fastGroups makes members of the consumer protocol beat often.
func fastGroups(c *Config) {
	c.GroupConsumerHeartbeatInterval = 50 * time.Millisecond
	c.GroupConsumerSessionTimeout = 45 * time.Second
	c.GroupInitialRebalanceDelay = 0
}

func describeConsumer(t *testing.T, cl *kgo.Client, name string) kmsg.ConsumerGroupDescribeResponseGroup {
	t.Helper()
	q := kmsg.NewPtrConsumerGroupDescribeRequest()
	q.Groups, q.IncludeAuthorizedOperations = []string{name}, true
	return ask[*kmsg.ConsumerGroupDescribeResponse](t, cl, q).Groups[0]
}

// isSettled says whether a group of the consumer protocol has n members with the
// same number of partitions each.
func isSettled(t *testing.T, cl *kgo.Client, name string, n, each int) bool {
	d := describeConsumer(t, cl, name)
	if d.State != "Stable" || len(d.Members) != n {
		return false
	}
	for _, m := range d.Members {
		total := 0
		for _, tp := range m.Assignment.TopicPartitions {
			total += len(tp.Partitions)
		}
		if total != each {
			return false
		}
	}
	return true
}

func TestConsumerProtocolSharesAndSurvivesACrash(t *testing.T) {
	b := startBroker(t, fastGroups)
	const partitions, each = 4, 25
	b.makeTopic(t, "orders", partitions, each)
	r := &readers{seen: map[string]int{}}
	r.start(t, b, "g", kgo.ServerSideBalancer())
	admin := b.client(t)
	committed := func(n int64) func() bool {
		return func() bool {
			o, err := kadm.NewClient(admin).FetchOffsets(within(t, 30*time.Second), "g")
			total := int64(0)
			o.Each(func(o kadm.OffsetResponse) { total += o.At })
			return err == nil && total == n
		}
	}
	// What is read, but not committed when a partition moves, would be read again.
	waitUntil(t, committed(partitions*each))
	r.start(t, b, "g", kgo.ServerSideBalancer())
	waitUntil(t, func() bool { return isSettled(t, admin, "g", 2, 2) })
	before := describeConsumer(t, admin, "g")
	if before.AssignorName != "uniform" || before.AuthorizedOperations == 0 || before.Members[0].MemberType != 1 {
		t.Errorf("describe: got %+v", before)
	}

	lost := b
	b = b.crash(t, 1)
	r.move(b)
	lost.stop()
	admin = b.client(t)
	b.produceMore(t, "orders", partitions, each)
	waitUntil(t, func() bool { return r.count() == 2*partitions*each })
	after := describeConsumer(t, admin, "g")
	if after.Epoch != before.Epoch || len(after.Members) != 2 || after.Members[0].MemberID != before.Members[0].MemberID {
		t.Errorf("the crash moved the group: %+v became %+v", before, after)
	}
	r.mu.Lock()
	for record, n := range r.seen {
		if n != 1 {
			t.Errorf("%s was read %d times", record, n)
		}
	}
	r.mu.Unlock()
	waitUntil(t, committed(2*partitions*each))
}

// TestGroupChangesItsProtocolWhileItReads takes a group from the classic protocol
// to the consumer protocol and back, one member after the other.
func TestGroupChangesItsProtocolWhileItReads(t *testing.T) {
	b := startBroker(t, fastGroups)
	const partitions, each = 4, 25
	b.makeTopic(t, "orders", partitions, each)
	admin := b.client(t)
	r := &readers{seen: map[string]int{}}
	kind := func() string {
		l := ask[*kmsg.ListGroupsResponse](t, admin, kmsg.NewPtrListGroupsRequest()).Groups
		if len(l) != 1 {
			t.Fatalf("groups: got %+v", l)
		}
		return l[0].GroupType
	}
	more := func() {
		t.Helper()
		n := r.count()
		b.produceNumbered(t, "orders", partitions, each, n)
		waitUntil(t, func() bool { return r.count() == n+partitions*each })
	}
	classic := r.start(t, b, "g", kgo.Balancers(kgo.CooperativeStickyBalancer()))
	waitUntil(t, func() bool { return r.count() == partitions*each })
	if kind() != "classic" {
		t.Fatalf("type: got %s", kind())
	}
	consumer := r.start(t, b, "g", kgo.ServerSideBalancer())
	waitUntil(t, func() bool { return isSettled(t, admin, "g", 2, 2) })
	d := describeConsumer(t, admin, "g")
	types := []int8{d.Members[0].MemberType, d.Members[1].MemberType}
	if slices.Sort(types); !slices.Equal(types, []int8{0, 1}) || kind() != "consumer" {
		t.Errorf("members of types %v in a group of type %s", types, kind())
	}
	more()
	// An upgrade: the classic one goes.
	classic.stop()
	waitUntil(t, func() bool { return isSettled(t, admin, "g", 1, partitions) })
	more()
	// A downgrade: a classic one comes, and the other goes.
	again := r.start(t, b, "g", kgo.Balancers(kgo.CooperativeStickyBalancer()))
	waitUntil(t, func() bool { return isSettled(t, admin, "g", 2, 2) })
	consumer.stop()
	waitUntil(t, func() bool { return kind() == "classic" })
	more()
	again.stop()
	b = b.restart(t)
	admin = b.client(t)
	if kind() != "classic" {
		t.Errorf("type after a restart: got %s", kind())
	}
}

// TestACustomAssignorStopsAnUpgrade tells the member of the consumer protocol why,
// and leaves the group to its members.
func TestACustomAssignorStopsAnUpgrade(t *testing.T) {
	b := startBroker(t, fastGroups)
	b.makeTopic(t, "orders", 1, 0)
	cl := b.client(t)
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.ProtocolType, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = "g", "consumer", 10_000, 10_000
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name, protocol.Metadata = "stream", (&kmsg.ConsumerMemberMetadata{Topics: []string{"orders"}}).AppendTo(nil)
	join.Protocols = append(join.Protocols, protocol)
	join.MemberID = ask[*kmsg.JoinGroupResponse](t, cl, join).MemberID
	joined := ask[*kmsg.JoinGroupResponse](t, cl, join)
	share := kmsg.NewPtrSyncGroupRequest()
	share.Group, share.MemberID, share.Generation = "g", joined.MemberID, joined.Generation
	share.ProtocolType, share.Protocol = joined.ProtocolType, joined.Protocol
	a := kmsg.NewSyncGroupRequestGroupAssignment()
	a.MemberID, a.MemberAssignment = joined.MemberID, (&kmsg.ConsumerMemberAssignment{UserData: []byte("standby tasks")}).AppendTo(nil)
	share.GroupAssignment = append(share.GroupAssignment, a)
	if r := ask[*kmsg.SyncGroupResponse](t, cl, share); r.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(r.ErrorCode))
	}
	r := ask[*kmsg.ConsumerGroupHeartbeatResponse](t, cl, firstHeartbeat("g", "m"))
	if r.ErrorCode != kerr.GroupIDNotFound.Code || r.ErrorMessage == nil || !strings.Contains(*r.ErrorMessage, "custom assignor") {
		t.Errorf("got %v, %v", kerr.ErrorForCode(r.ErrorCode), r.ErrorMessage)
	}
	share.GroupAssignment = nil
	if r := ask[*kmsg.SyncGroupResponse](t, cl, share); r.ErrorCode != 0 || !bytes.Equal(r.MemberAssignment, a.MemberAssignment) {
		t.Errorf("the classic member has %q, %v", r.MemberAssignment, kerr.ErrorForCode(r.ErrorCode))
	}
}

func (b *testBroker) produceNumbered(t *testing.T, topic string, partitions int32, n, from int) {
	t.Helper()
	cl := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	var records []*kgo.Record
	for p := range partitions {
		for i := range n {
			records = append(records, &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d/%d after %d", p, i, from)})
		}
	}
	if err := cl.ProduceSync(within(t, 30*time.Second), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func firstHeartbeat(name, member string) *kmsg.ConsumerGroupHeartbeatRequest {
	q := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	q.Group, q.MemberID, q.RebalanceTimeoutMillis = name, member, 1000
	q.SubscribedTopicNames, q.Topics = []string{"orders"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	return q
}

func TestHeartbeatsThatSayTooLittleOrTooMuch(t *testing.T) {
	b := startBroker(t, fastGroups)
	b.makeTopic(t, "orders", 1, 0)
	cl := b.client(t)
	empty, long := "", string(make([]byte, 5000))
	for what, c := range map[string]struct {
		change func(*kmsg.ConsumerGroupHeartbeatRequest)
		want   *kerr.Error
	}{
		"no group":            {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.Group = "" }, kerr.InvalidRequest},
		"no member":           {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.MemberID = "" }, kerr.InvalidRequest},
		"a long member":       {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.MemberID = long }, kerr.InvalidRequest},
		"an empty instance":   {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.InstanceID = &empty }, kerr.InvalidRequest},
		"an empty rack":       {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.RackID = &empty }, kerr.InvalidRequest},
		"no timeout":          {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.RebalanceTimeoutMillis = -1 }, kerr.InvalidRequest},
		"no subscription":     {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.SubscribedTopicNames = nil }, kerr.InvalidRequest},
		"no word of its own":  {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.Topics = nil }, kerr.InvalidRequest},
		"an epoch below all":  {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.MemberEpoch = -3 }, kerr.InvalidRequest},
		"back without a name": {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.MemberEpoch = -2 }, kerr.InvalidRequest},
		"an assignor":         {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.ServerAssignor = kmsg.StringPtr("mine") }, kerr.UnsupportedAssignor},
		"a bad expression":    {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.SubscribedTopicRegex = kmsg.StringPtr("(") }, kerr.InvalidRegularExpression},
		"a long expression":   {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.SubscribedTopicRegex = &long }, kerr.InvalidRegularExpression},
		"no such group":       {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.MemberEpoch = 1 }, kerr.GroupIDNotFound},
		"no group to leave":   {func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.MemberEpoch = -1 }, kerr.GroupIDNotFound},
	} {
		q := firstHeartbeat("g", "m")
		c.change(q)
		resp := ask[*kmsg.ConsumerGroupHeartbeatResponse](t, cl, q)
		if !errors.Is(kerr.ErrorForCode(resp.ErrorCode), c.want) || resp.ErrorMessage == nil {
			t.Errorf("%s: got %v, want %v", what, kerr.ErrorForCode(resp.ErrorCode), c.want)
		}
	}
	// None of them has left anything behind.
	if l, err := kadm.NewClient(cl).ListGroups(within(t, 30*time.Second)); err != nil || len(l) != 0 {
		t.Errorf("groups: got %v, %v", l, err)
	}
	old := b.client(t, kgo.MaxVersions(versionsWith(map[int16]int16{68: 0})))
	q := firstHeartbeat("g", "")
	resp := ask[*kmsg.ConsumerGroupHeartbeatResponse](t, old, q)
	if wantCode(t, "a member without an id", resp.ErrorCode, nil); resp.MemberID == nil || *resp.MemberID == "" || resp.MemberEpoch != 1 {
		t.Errorf("a member without an id: got %+v", resp)
	}
	if resp.HeartbeatIntervalMillis != 50 || resp.Assignment == nil || len(resp.Assignment.Topics) != 1 {
		t.Errorf("answer: got %+v", resp)
	}
}

// TestGroupOfAnotherProtocol asks each kind of group what only the other answers.
func TestGroupOfAnotherProtocol(t *testing.T) {
	b := startBroker(t, func(c *Config) { fastGroups(c); c.GroupMigration = "disabled" })
	b.makeTopic(t, "orders", 1, 0)
	cl := b.client(t)
	r := &readers{seen: map[string]int{}}
	r.start(t, b, "classic")
	waitUntil(t, func() bool {
		d, err := kadm.NewClient(cl).DescribeGroups(within(t, 30*time.Second), "classic")
		return err == nil && d["classic"].State == "Stable"
	})
	beat := ask[*kmsg.ConsumerGroupHeartbeatResponse](t, cl, firstHeartbeat("classic", "m"))
	wantCode(t, "a consumer joins a classic group that may not change", beat.ErrorCode, kerr.GroupIDNotFound)
	if d := describeConsumer(t, cl, "classic"); d.ErrorCode != kerr.GroupIDNotFound.Code {
		t.Errorf("describe a classic group as another: got %v", kerr.ErrorForCode(d.ErrorCode))
	}
	wantCode(t, "join", ask[*kmsg.ConsumerGroupHeartbeatResponse](t, cl, firstHeartbeat("new", "m")).ErrorCode, nil)
	q := kmsg.NewPtrDescribeGroupsRequest()
	q.Groups = []string{"new"}
	wantCode(t, "describe as a classic group", ask[*kmsg.DescribeGroupsResponse](t, cl, q).Groups[0].ErrorCode, kerr.GroupIDNotFound)
	for kind, want := range map[string]string{"consumer": "new", "Classic": "classic"} {
		q := kmsg.NewPtrListGroupsRequest()
		q.TypesFilter = []string{kind}
		l := ask[*kmsg.ListGroupsResponse](t, cl, q).Groups
		if len(l) != 1 || l[0].Group != want || l[0].ProtocolType != "consumer" || l[0].GroupState != "Stable" {
			t.Errorf("groups of type %s: got %+v", kind, l)
		}
	}
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.MemberID, commit.Generation = "new", "m", 0
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic, topic.TopicID = "orders", b.topic("orders").ID
	topic.Partitions = append(topic.Partitions, kmsg.NewOffsetCommitRequestTopicPartition())
	commit.Topics = append(commit.Topics, topic)
	code := func(q *kmsg.OffsetCommitRequest, version int16) int16 {
		old := b.client(t, kgo.MaxVersions(versionsWith(map[int16]int16{8: version})))
		return ask[*kmsg.OffsetCommitResponse](t, old, q).Topics[0].Partitions[0].ErrorCode
	}
	wantCode(t, "commit of an epoch that is over", code(commit, 10), kerr.StaleMemberEpoch)
	wantCode(t, "the same, of a client that does not know of epochs", code(commit, 8), kerr.UnsupportedVersion)
	commit.Generation = 1
	wantCode(t, "commit of the present epoch, of a client that does not know of epochs", code(commit, 8), kerr.UnsupportedVersion)
	wantCode(t, "commit of the present epoch", code(commit, 9), nil)
	commit.Group = "nowhere"
	wantCode(t, "commit to no group", code(commit, 10), kerr.GroupIDNotFound)
	wantCode(t, "the same, of an older client", code(commit, 8), kerr.IllegalGeneration)
	commit.Group, commit.Generation, commit.Topics[0].TopicID = "new", 1, [16]byte{1}
	wantCode(t, "commit for a topic that is none", code(commit, 10), kerr.UnknownTopicID)

	fetch := kmsg.NewPtrOffsetFetchRequest()
	g := kmsg.NewOffsetFetchRequestGroup()
	gt := kmsg.NewOffsetFetchRequestGroupTopic()
	gt.TopicID, gt.Partitions = [16]byte{1}, []int32{0}
	g.Group, g.MemberID, g.MemberEpoch, g.Topics = "new", kmsg.StringPtr("m"), 1, append(g.Topics, gt)
	fetch.Groups = append(fetch.Groups, g)
	got := ask[*kmsg.OffsetFetchResponse](t, cl, fetch).Groups[0]
	if got.ErrorCode != 0 || len(got.Topics) != 1 || got.Topics[0].TopicID != gt.TopicID || got.Topics[0].Partitions[0].ErrorCode != kerr.UnknownTopicID.Code {
		t.Errorf("fetch for a topic that is none: got %+v", got)
	}
	fetch.Groups[0].MemberEpoch = 7
	wantCode(t, "fetch of another epoch", ask[*kmsg.OffsetFetchResponse](t, cl, fetch).Groups[0].ErrorCode, kerr.StaleMemberEpoch)
}

func TestGroupHasTimeoutsOfItsOwn(t *testing.T) {
	b := startBroker(t, fastGroups)
	b.makeTopic(t, "orders", 1, 0)
	cl := b.client(t)
	alter := func(name, value string) error {
		return alterConfig(t, cl, kmsg.ConfigResourceTypeGroupConfig, "g", setConfig, name, value, false)
	}
	if err := alter(groupHeartbeatInterval, "60000"); !errors.Is(err, kerr.InvalidConfig) {
		t.Errorf("a heartbeat that is rarer than the session is long: got %v", err)
	}
	if err := alter(groupHeartbeatInterval, "70"); err != nil {
		t.Fatal(err)
	}
	if err := alter(groupSessionTimeout, "150"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int32{"g": 70, "h": 50} {
		resp := ask[*kmsg.ConsumerGroupHeartbeatResponse](t, cl, firstHeartbeat(name, "m"))
		if wantCode(t, "join", resp.ErrorCode, nil); resp.HeartbeatIntervalMillis != want {
			t.Errorf("%s: heartbeat every %d ms, want %d", name, resp.HeartbeatIntervalMillis, want)
		}
	}
	// The session of one is over long before that of the other.
	waitUntil(t, func() bool { return describeConsumer(t, cl, "g").State == "Empty" })
	if d := describeConsumer(t, cl, "h"); d.State != "Stable" {
		t.Errorf("h is %s", d.State)
	}
}

func TestRegularExpressionMatchesWhatItsMemberMaySee(t *testing.T) {
	b := startBroker(t, func(c *Config) {
		fastGroups(c)
		c.Authorizer = true
		c.BootstrapACLs = []acl.Rule{
			allowRule("User:alice", acl.Topic, "orders", acl.Read),
			allowRule("User:alice", acl.Group, "g", acl.Read),
			allowRule("User:bob", acl.Group, "g", acl.Read),
		}
	})
	admin := b.secureClient(t, scram256("admin", "root"))
	if _, err := kadm.NewClient(admin).CreateTopics(within(t, 30*time.Second), 1, 1, nil, "orders", "orders-secret"); err != nil {
		t.Fatal(err)
	}
	q := firstHeartbeat("g", "m")
	q.SubscribedTopicNames, q.SubscribedTopicRegex = nil, kmsg.StringPtr("orders.*")
	alice := b.secureClient(t, scram256("alice", "geheim"))
	resp := ask[*kmsg.ConsumerGroupHeartbeatResponse](t, alice, q)
	wantCode(t, "alice joins", resp.ErrorCode, nil)
	if len(resp.Assignment.Topics) != 1 || resp.Assignment.Topics[0].TopicID != b.topic("orders").ID {
		t.Errorf("alice: got %+v", resp.Assignment)
	}
	bob := b.secureClient(t, scram256("bob", "secret"))
	wantCode(t, "bob asks for a topic by name", ask[*kmsg.ConsumerGroupHeartbeatResponse](t, bob, firstHeartbeat("g", "n")).ErrorCode, kerr.TopicAuthorizationFailed)
	if _, err := bob.Request(within(t, 30*time.Second), firstHeartbeat("h", "n")); !errors.Is(err, kerr.GroupAuthorizationFailed) {
		t.Errorf("bob asks for another group: got %v", err)
	}
	if d := describeConsumer(t, bob, "g"); d.ErrorCode != kerr.TopicAuthorizationFailed.Code || len(d.Members) != 0 {
		t.Errorf("bob describes: got %+v", d)
	}
	if d := describeConsumer(t, alice, "g"); d.ErrorCode != 0 || len(d.Members) != 1 || *d.Members[0].SubscribedTopicRegex != "orders.*" {
		t.Errorf("alice describes: got %+v", d)
	}
}
