package group

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// scene is a group of the consumer protocol and its topics.
type scene struct {
	t      *testing.T
	g      *Consumer
	now    time.Time
	topics *catalog
	saved  int  // effects of the last step
	down   bool // has become a classic group
}

func newScene(t *testing.T) *scene {
	rules := ConsumerRules{SessionTimeout: 45 * time.Second, MaxMembers: 3, Migration: MigrateBoth}
	return &scene{t: t, g: NewConsumer("g", rules, epoch), now: epoch, topics: newCatalog(map[string]int32{"a": 4, "b": 2})}
}

// beat is a heartbeat that says nothing but the epoch, with changes.
func (s *scene) beat(id string, memberEpoch int32, change ...func(*ConsumerHeartbeat)) ConsumerBeaten {
	s.t.Helper()
	h := ConsumerHeartbeat{To: 1, MemberID: id, MemberEpoch: memberEpoch, RebalanceTimeout: -1, Topics: s.topics}
	for _, c := range change {
		c(&h)
	}
	if regex := s.g.unresolved(s.now, &h); regex != "" {
		topics, err := resolve(s.t.Context(), regex, s.topics, func(name string) bool { return name != "secret" })
		if err != nil {
			s.t.Fatal(err)
		}
		h.Resolved = map[string][]string{regex: topics}
	}
	for _, f := range s.step(h) {
		if b, ok := f.(ConsumerBeaten); ok {
			return b
		}
	}
	s.t.Fatal("no answer")
	return ConsumerBeaten{}
}

func (s *scene) step(e Event) []Effect {
	s.saved = 0
	effects := s.g.Step(s.now, e)
	for _, f := range effects {
		switch f := f.(type) {
		case Save:
			s.saved += len(f.Parts)
		case Downgrade:
			s.down = true
		}
	}
	return effects
}

func wants(topics ...string) func(*ConsumerHeartbeat) {
	return func(h *ConsumerHeartbeat) {
		h.SubscribedTopicNames, h.RebalanceTimeout = topics, 30*time.Second
		if h.Owned == nil {
			h.Owned = Assignment{}
		}
	}
}

func matches(regex string) func(*ConsumerHeartbeat) {
	return func(h *ConsumerHeartbeat) {
		h.SubscribedTopicRegex, h.RebalanceTimeout, h.Owned = &regex, 30*time.Second, Assignment{}
	}
}

func as(instance string) func(*ConsumerHeartbeat) {
	return func(h *ConsumerHeartbeat) { h.InstanceID = instance }
}

func (s *scene) owns(topic string, partitions ...int32) func(*ConsumerHeartbeat) {
	return func(h *ConsumerHeartbeat) {
		h.Owned = AssignmentOf(map[TopicID][]int32{s.topics.id(topic): partitions})
	}
}

func (s *scene) want(what string, got ConsumerBeaten, err error, memberEpoch int32) {
	s.t.Helper()
	if !errors.Is(got.Err, err) || err == nil && got.Err != nil {
		s.t.Fatalf("%s: got error %v, want %v", what, got.Err, err)
	}
	if err == nil && got.MemberEpoch != memberEpoch {
		s.t.Fatalf("%s: got epoch %d, want %d", what, got.MemberEpoch, memberEpoch)
	}
}

// partitions of topic a in an answer; nil is that it has no assignment.
func (s *scene) partitions(b ConsumerBeaten) []int32 {
	if b.Assignment == nil {
		return nil
	}
	return append([]int32{}, b.Assignment[s.topics.id("a")]...)
}

func (s *scene) wantPartitions(what string, b ConsumerBeaten, want ...int32) {
	s.t.Helper()
	if got := s.partitions(b); !slices.Equal(got, want) || (got == nil) != (want == nil) {
		s.t.Fatalf("%s: got partitions %v, want %v", what, got, want)
	}
}

func TestSecondMemberGetsWhatTheFirstGivesUp(t *testing.T) {
	s := newScene(t)
	b := s.beat("A", 0, wants("a"))
	s.want("A joins", b, nil, 1)
	s.wantPartitions("A joins", b, 0, 1, 2, 3)
	if b = s.beat("A", 1); b.Assignment != nil || s.saved != 0 {
		t.Errorf("a heartbeat with nothing new: assignment %v, %d parts saved", b.Assignment, s.saved)
	}
	b = s.beat("B", 0, wants("a"))
	s.want("B joins", b, nil, 2)
	s.wantPartitions("B before A has given anything up", b, []int32{}...)
	b = s.beat("A", 1)
	s.want("A is told to give up", b, nil, 1)
	s.wantPartitions("A is told to give up", b, 0, 1)
	if b = s.beat("B", 2); b.Assignment != nil {
		t.Errorf("B is given %v while A may read it", b.Assignment)
	}
	b = s.beat("A", 1, s.owns("a", 0, 1, 2))
	s.want("A still has one", b, nil, 1)
	if s.g.State() != Reconciling {
		t.Errorf("state: got %s", s.g.State())
	}
	b = s.beat("A", 1, s.owns("a", 0, 1))
	s.want("A has given up", b, nil, 2)
	b = s.beat("B", 2)
	s.want("B", b, nil, 2)
	s.wantPartitions("B", b, 2, 3)
	if s.g.State() != Stable {
		t.Errorf("state: got %s", s.g.State())
	}
	// What has not changed is told again to who says everything.
	s.wantPartitions("a full heartbeat", s.beat("B", 2, wants("a"), s.owns("a", 2, 3)), 2, 3)
}

func TestEpochOfAMember(t *testing.T) {
	s := newScene(t)
	s.beat("A", 0, wants("a"))
	s.beat("B", 0, wants("a"))
	s.beat("A", 1, s.owns("a", 0, 1, 2, 3))
	s.beat("A", 1, s.owns("a", 0, 1)) // answered with epoch 2
	s.want("a later epoch", s.beat("A", 3), kerr.FencedMemberEpoch, 0)
	s.want("the epoch before, without what it has", s.beat("A", 1), kerr.FencedMemberEpoch, 0)
	s.want("the epoch before, with what is not its own", s.beat("A", 1, s.owns("a", 0, 2)), kerr.FencedMemberEpoch, 0)
	b := s.beat("A", 1, wants("a"), s.owns("a", 0, 1))
	s.want("the epoch before, of one whose answer was lost", b, nil, 2)
	s.wantPartitions("the epoch before", b, 0, 1)
	s.want("nobody", s.beat("X", 2), kerr.UnknownMemberID, 0)
	// A member that was fenced comes back under its id, with nothing.
	b = s.beat("A", 0, wants("a"))
	s.want("A begins anew", b, nil, 2)
	s.wantPartitions("A begins anew", b, 0, 1)
}

func TestGroupOfTheConsumerProtocolIsBounded(t *testing.T) {
	s := newScene(t)
	for _, id := range []string{"A", "B", "C"} {
		s.want(id, s.beat(id, 0, wants("a")), nil, s.g.epoch)
	}
	s.want("one too many", s.beat("D", 0, wants("a")), kerr.GroupMaxSizeReached, 0)
	s.want("one that is in", s.beat("C", s.g.members["C"].epoch), nil, 3)
}

func TestMembersFitTheirRecords(t *testing.T) {
	s := newScene(t)
	s.g.rules.MaxBytes = 4096
	many := make([]string, 500)
	for i := range many {
		many[i] = fmt.Sprintf("topic-%d", i)
	}
	s.want("a member that wants too much", s.beat("A", 0, wants(many...)), kerr.InvalidRequest, 0)
	if j := s.join("B", nil, func(j *Join) { j.Protocols[0].Metadata = subscription(nil, many...) }); !errors.Is(j.Err, kerr.InvalidRequest) {
		t.Errorf("a classic member that wants too much: %v", j.Err)
	}
	for _, name := range many {
		s.topics.topics[name] = 1
	}
	b := s.beat("A", 0, matches("topic-.*"))
	if b.Assignment.size() != len(many) {
		t.Errorf("an expression that matches much: got %d partitions", b.Assignment.size())
	}
	for _, p := range s.g.parts() {
		if v := s.g.value(p); p.Kind == partPattern && len(v) > 4096 {
			t.Errorf("its record has %d bytes", len(v))
		}
	}
}

func TestSilentMembersAreTakenOut(t *testing.T) {
	s := newScene(t)
	s.beat("A", 0, wants("a"))
	s.now = s.now.Add(40 * time.Second)
	s.beat("B", 0, wants("a"))
	if wake := s.g.Wake(); !wake.Equal(epoch.Add(45 * time.Second)) {
		t.Fatalf("wake: got %s", wake.Sub(epoch))
	}
	s.now = s.now.Add(5 * time.Second)
	s.step(Tick{})
	s.want("A after its session", s.beat("A", 1), kerr.UnknownMemberID, 0)
	b := s.beat("B", 2)
	s.want("B has everything", b, nil, 3)
	s.wantPartitions("B has everything", b, 0, 1, 2, 3)
}

func TestMemberThatDoesNotGiveUpIsTakenOut(t *testing.T) {
	s := newScene(t)
	s.beat("A", 0, wants("a"))
	s.beat("B", 0, wants("a"))
	s.beat("A", 1)
	var b ConsumerBeaten
	for range 3 { // it beats, and keeps what it has
		s.now = s.now.Add(10 * time.Second)
		s.step(Tick{})
		b = s.beat("B", 2)
		if s.g.members["A"] != nil {
			s.want("A", s.beat("A", 1, s.owns("a", 0, 1, 2, 3)), nil, 1)
		}
	}
	s.want("A after the rebalance timeout", s.beat("A", 1), kerr.UnknownMemberID, 0)
	s.wantPartitions("B", b, 0, 1, 2, 3)
}

func TestStaticMembers(t *testing.T) {
	s := newScene(t)
	s.want("A", s.beat("A", 0, wants("a"), as("i")), nil, 1)
	s.want("another under its name", s.beat("B", 0, wants("a"), as("i")), kerr.UnreleasedInstanceID, 0)
	s.want("another that is not in", s.beat("B", 1, as("i")), kerr.FencedInstanceID, 0)
	s.want("a name that nobody has", s.beat("B", 1, as("j")), kerr.UnknownMemberID, 0)
	s.want("A goes, to be back", s.beat("A", LeaveStaticEpoch, as("i")), nil, LeaveStaticEpoch)
	s.want("A is away", s.beat("A", 1, as("i")), kerr.FencedMemberEpoch, 0)
	at := s.g.epoch
	b := s.beat("B", 0, wants("a"), as("i"))
	s.want("B takes over", b, nil, at)
	s.wantPartitions("B takes over", b, 0, 1, 2, 3)
	if s.g.members["A"] != nil || s.g.epoch != at {
		t.Errorf("members %v, epoch %d of %d: a restart should not move anything", s.g.members, s.g.epoch, at)
	}
	s.want("A is fenced", s.beat("A", 1, as("i")), kerr.FencedInstanceID, 0)
	s.want("A leaves late", s.beat("A", LeaveEpoch, as("i")), kerr.FencedInstanceID, 0)
	s.want("B goes for good", s.beat("B", LeaveEpoch, as("i")), nil, LeaveEpoch)
	// Nobody makes a target for nobody, so that of the last epoch counts.
	if s.g.State() != Empty || s.g.assignmentEpoch != s.g.epoch {
		t.Errorf("left: %s, epoch %d, target of %d", s.g.State(), s.g.epoch, s.g.assignmentEpoch)
	}
}

func TestStaticMemberThatDoesNotComeBack(t *testing.T) {
	s := newScene(t)
	s.beat("A", 0, wants("a"), as("i"))
	s.beat("A", LeaveStaticEpoch, as("i"))
	s.beat("B", 0, wants("a"))
	s.now = s.now.Add(44 * time.Second)
	s.step(Tick{})
	if b := s.beat("B", 2); b.Assignment != nil {
		t.Errorf("B is given %v, which is kept for A", b.Assignment)
	}
	s.now = s.now.Add(time.Second)
	s.step(Tick{})
	s.wantPartitions("B", s.beat("B", 2), 0, 1, 2, 3)
}

func TestGroupFollowsTopics(t *testing.T) {
	s := newScene(t)
	s.beat("A", 0, wants("a", "later"))
	s.topics.set("unrelated", 3)
	s.want("another topic", s.beat("A", 1), nil, 1)
	s.topics.set("a", 6)
	b := s.beat("A", 1)
	s.want("more partitions", b, nil, 2)
	s.wantPartitions("more partitions", b, 0, 1, 2, 3, 4, 5)
	s.topics.set("later", 1)
	b = s.beat("A", 2)
	if got := b.Assignment[s.topics.id("later")]; !slices.Equal(got, []int32{0}) {
		t.Errorf("a topic that came later: got %v", b.Assignment)
	}
	old := s.topics.id("a")
	s.topics.set("a", 0)
	s.topics.set("a", 1)
	b = s.beat("A", 3)
	if b.Assignment[old] != nil || b.Assignment[s.topics.id("a")] != nil {
		t.Errorf("what is to be given up goes first: got %v", b.Assignment)
	}
	b = s.beat("A", 3, s.owns("later", 0))
	s.wantPartitions("a topic that was made again", b, 0)
}

func TestRegularExpressions(t *testing.T) {
	s := newScene(t)
	s.topics.set("secret", 1)
	s.topics.set("ab", 1)
	b := s.beat("A", 0, matches("[ab]|secret"))
	if s.want("A", b, nil, 1); b.Assignment.size() != 6 {
		t.Errorf("got %v, want a and b as a whole, and nothing that may not be seen", b.Assignment)
	}
	if b = s.beat("A", 1); s.saved != 0 || b.Assignment != nil {
		t.Errorf("nothing new: %d saved", s.saved)
	}
	s.topics.set("a", 0)
	s.now = s.now.Add(2 * time.Second)
	if b = s.beat("A", 1, s.owns("b", 0, 1)); b.Assignment.size() != 2 || b.MemberEpoch < 2 {
		t.Errorf("without a: got %+v", b)
	}
	s.beat("B", 0, matches("b"))
	s.beat("A", LeaveEpoch)
	if len(s.g.patterns) != 1 {
		t.Errorf("patterns that somebody has: got %v", s.g.patterns)
	}
}

func TestCommitsOfTheConsumerProtocol(t *testing.T) {
	s := newScene(t)
	if err := s.g.CheckCommit(s.now, "", "", -1, false); err != nil {
		t.Errorf("from outside, to a group without members: %v", err)
	}
	s.beat("A", 0, wants("a"))
	for _, c := range []struct {
		what, id      string
		epoch         int32
		transactional bool
		want          error
	}{
		{"a member", "A", 1, false, nil},
		{"an epoch that is over", "A", 0, false, kerr.StaleMemberEpoch},
		{"an epoch that is over, in a transaction", "A", 0, true, kerr.IllegalGeneration},
		{"nobody", "X", 1, false, kerr.UnknownMemberID},
		{"from outside", "", -1, false, kerr.UnknownMemberID},
		{"from outside, in a transaction", "", -1, true, nil},
	} {
		if err := s.g.CheckCommit(s.now, c.id, "", c.epoch, c.transactional); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", c.what, err, c.want)
		}
	}
	for _, c := range []struct {
		id    string
		epoch int32
		want  error
	}{{"", -1, nil}, {"A", 1, nil}, {"A", 2, kerr.StaleMemberEpoch}, {"X", 1, kerr.UnknownMemberID}} {
		if err := s.g.CheckFetch(c.id, c.epoch); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("fetch as %s/%d: got %v, want %v", c.id, c.epoch, err, c.want)
		}
	}
}

// subscription is what a consumer of the classic protocol says.
func subscription(owned []int32, topics ...string) []byte {
	sub := kmsg.NewConsumerMemberMetadata()
	sub.Version, sub.Topics = 1, topics
	if owned != nil {
		sub.OwnedPartitions = []kmsg.ConsumerMemberMetadataOwnedPartition{{Topic: "a", Partitions: owned}}
	}
	return sub.AppendTo(nil)
}

func (s *scene) join(id string, owned []int32, change ...func(*Join)) Joined {
	s.t.Helper()
	j := Join{
		To: 1, MemberID: id, NewMemberID: "new", ProtocolType: "consumer", Topics: s.topics,
		SessionTimeout: 10 * time.Second, RebalanceTimeout: 20 * time.Second,
		Protocols: []Protocol{{"cooperative-sticky", subscription(owned, "a")}},
	}
	for _, c := range change {
		c(&j)
	}
	return s.step(j)[0].(Joined)
}

func (s *scene) sync(id string, generation int32) Synced {
	return s.step(Sync{To: 1, MemberID: id, Generation: generation, Topics: s.topics})[0].(Synced)
}

func (s *scene) synced(what string, id string, generation int32, want ...int32) {
	s.t.Helper()
	got := s.sync(id, generation)
	a, _, _ := readAssignment(got.Assignment, s.topics)
	if got.Err != nil || !slices.Equal(a[s.topics.id("a")], want) {
		s.t.Fatalf("%s: got %v, %v; want %v", what, a, got.Err, want)
	}
}

func TestClassicMemberInAGroupOfTheConsumerProtocol(t *testing.T) {
	s := newScene(t)
	s.beat("A", 0, wants("a"))
	if j := s.join("", nil, func(j *Join) { j.RequireMemberID = true }); !errors.Is(j.Err, kerr.MemberIDRequired) || j.MemberID != "new" {
		t.Fatalf("first join: got %+v", j)
	}
	for what, change := range map[string]func(*Join){
		"another type": func(j *Join) { j.ProtocolType = "connect" },
		"no protocol":  func(j *Join) { j.Protocols = nil },
		"no metadata":  func(j *Join) { j.Protocols[0].Metadata = []byte{1} },
	} {
		if j := s.join("B", nil, change); !errors.Is(j.Err, kerr.InconsistentGroupProtocol) {
			t.Errorf("%s: got %v", what, j.Err)
		}
	}
	j := s.join("B", nil)
	if j.Err != nil || j.Generation != 2 || j.Leader == "B" || j.Protocol != "cooperative-sticky" {
		t.Fatalf("join: got %+v", j)
	}
	s.synced("B waits for A", "B", 2)
	beat := func() error {
		return s.step(Heartbeat{To: 1, MemberID: "B", Generation: s.g.members["B"].epoch, Topics: s.topics})[0].(Beaten).Err
	}
	if err := beat(); err != nil {
		t.Errorf("heartbeat of one that waits: %v", err)
	}
	s.beat("A", 1)
	s.beat("A", 1, s.owns("a", 0, 1))
	if err := beat(); !errors.Is(err, kerr.RebalanceInProgress) {
		t.Errorf("heartbeat when what it waits for is free: %v", err)
	}
	if j = s.join("B", []int32{}); j.Generation != 2 {
		t.Fatalf("join again: got %+v", j)
	}
	s.synced("B", "B", 2, 2, 3)
	// A third takes some of it: B is called, told to give up, and says that it has.
	s.beat("C", 0, wants("a"))
	if err := beat(); !errors.Is(err, kerr.RebalanceInProgress) {
		t.Errorf("heartbeat in an epoch that is over: %v", err)
	}
	if got := s.sync("B", 2); !errors.Is(got.Err, kerr.RebalanceInProgress) {
		t.Errorf("sync in an epoch that is over: %v", got.Err)
	}
	j = s.join("B", []int32{2, 3})
	if j.Generation != 2 {
		t.Fatalf("join with more than it may have: got %+v", j)
	}
	s.synced("B gives up", "B", 2, 2)
	if j = s.join("B", []int32{2}); j.Generation != 3 {
		t.Fatalf("join after giving up: got %+v", j)
	}
	s.synced("B", "B", 3, 2)
	// One that does not join when it is called is taken out, and so is one that
	// does not synchronise.
	s.beat("C", LeaveEpoch)
	if err := beat(); !errors.Is(err, kerr.RebalanceInProgress) {
		t.Errorf("heartbeat: %v", err)
	}
	for range 4 {
		s.now = s.now.Add(5 * time.Second)
		s.step(Tick{})
		if s.g.members["B"] != nil {
			_ = beat()
		}
	}
	if s.g.members["B"] != nil {
		t.Error("a member that does not join when it is called is still in")
	}
	if s.down {
		t.Error("the group became a classic one, with a member of the consumer protocol in it")
	}
}

func TestLastConsumerLeavesAClassicGroup(t *testing.T) {
	s := newScene(t)
	s.beat("A", 0, wants("a"))
	s.join("B", nil)
	s.beat("A", LeaveEpoch)
	if !s.down {
		t.Fatal("the group stays as it is")
	}
	if _, _, ok := s.g.downgrade(s.now, Rules{MaxBytes: 50}, s.topics); ok {
		t.Error("a group becomes a classic one that does not fit its record")
	}
	g, effects, _ := s.g.downgrade(s.now, Rules{}, s.topics)
	if g.State() != PreparingRebalance || g.generation != s.g.epoch || g.protocol != "cooperative-sticky" || len(effects) == 0 {
		t.Errorf("got %s, generation %d, protocol %s, %d effects", g.state, g.generation, g.protocol, len(effects))
	}
	if err := g.Step(s.now, Heartbeat{To: 1, MemberID: "B", Generation: g.generation})[0].(Beaten).Err; !errors.Is(err, kerr.RebalanceInProgress) {
		t.Errorf("heartbeat: %v", err)
	}
}
