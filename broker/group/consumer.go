package group

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// The states of a group of the consumer protocol, beside [Empty] and [Stable].
const (
	Assigning   State = "Assigning"   // the target is older than the group
	Reconciling State = "Reconciling" // members are on their way to the target
)

const (
	// regexInterval is how long the topics of regular expressions are used at
	// least, regexRefresh how long at most: rights may have changed.
	regexInterval = time.Second
	regexRefresh  = 10 * time.Minute // group.consumer.regex.refresh.interval.ms
)

// Topics are the topics of the cluster at one moment.
type Topics interface {
	// Version grows with every change; it is never 0.
	Version() int64
	// Topic returns the id of a topic and the number of its partitions.
	Topic(name string) (id TopicID, partitions int32, ok bool)
	// Name returns the name of a topic.
	Name(id TopicID) (name string, ok bool)
	// Names are those of all topics.
	Names() iter.Seq[string]
}

// Migration says which groups may change their protocol while they have members
// (group.consumer.migration.policy).
type Migration string

// The policies of Kafka.
const (
	MigrateBoth      Migration = "bidirectional"
	MigrateUpgrade   Migration = "upgrade"
	MigrateDowngrade Migration = "downgrade"
	MigrateNever     Migration = "disabled"
)

// Migrations are the policies that there are.
func Migrations() []Migration {
	return []Migration{MigrateBoth, MigrateUpgrade, MigrateDowngrade, MigrateNever}
}

func (m Migration) upgrades() bool   { return m == MigrateBoth || m == MigrateUpgrade }
func (m Migration) downgrades() bool { return m == MigrateBoth || m == MigrateDowngrade }

// ConsumerRules are what an operator may set about groups of the consumer
// protocol.
type ConsumerRules struct {
	// SessionTimeout ends a silent member.
	SessionTimeout time.Duration
	// MaxMembers bounds a group; 0 is no bound.
	MaxMembers int
	Migration  Migration
	// ClassicMaxMembers bounds what a group may be as a classic one; 0 is no
	// bound.
	ClassicMaxMembers int
	// MaxBytes bounds what a member says of itself and what a regular expression
	// matches, each of which must fit into one record; 0 is no bound.
	MaxBytes int
}

// fits says whether something of so many bytes goes into a record.
func (r *ConsumerRules) fits(bytes int) bool { return r.MaxBytes == 0 || bytes <= r.MaxBytes }

// Consumer is one group of the consumer protocol (KIP-848): the broker assigns,
// and each member comes to its target by itself, at its own pace. Members that
// speak the classic protocol may be in it. It is not safe for concurrent use.
//
// Invariants: owners says for each partition that some member has, assigned or
// revoking, which one; no partition has two. A member's epoch is never above
// assignmentEpoch, and that never above epoch.
type Consumer struct {
	name  string
	rules ConsumerRules
	// epoch counts what the members want: their subscriptions and the topics.
	// assignmentEpoch is that which target was made of.
	epoch, assignmentEpoch int32
	since                  time.Time // of the epoch
	members                map[string]*consumerMember
	static                 map[string]string // instance id -> member id
	target                 map[string]Assignment
	owners                 map[TopicID]map[int32]string
	patterns               map[string]pattern // by regular expression
	// metadata is a digest of the topics that are subscribed to, seen the version
	// of Topics that it is of.
	metadata uint64
	seen     int64
}

// pattern is the topics that a regular expression stands for, sorted, the version
// of [Topics] that they are of (0: of an earlier leadership) and when they were
// looked for.
type pattern struct {
	topics  []string
	version int64
	at      time.Time
}

type consumerMember struct {
	id, instanceID, rackID string
	clientID, clientHost   string
	topics                 []string // sorted, each once
	regex                  string
	rebalance              time.Duration
	assignor               string
	classic                *classicMember // nil for one of the consumer protocol

	standing
	deadline       time.Time // of the session
	revokeDeadline time.Time // to give up what it must; zero is none
}

// classicMember is what a member has more that speaks the classic protocol.
type classicMember struct {
	session   time.Duration
	protocols []Protocol
	// joinDeadline is when it must have joined again, syncDeadline when it must
	// have fetched its assignment; zero is never.
	joinDeadline, syncDeadline time.Time
}

// size is what a member takes in its record, about.
func (m *consumerMember) size() int {
	n := 128 + len(m.id) + len(m.instanceID) + len(m.rackID) + len(m.clientID) + len(m.clientHost) + len(m.regex) + textSize(m.topics)
	if m.classic != nil {
		n += protocolSize(m.classic.protocols)
	}
	return n
}

// holds says whether the group has room for what a member says of itself, in memory
// and in the log.
func (g *Consumer) holds(id string, bytes int) bool {
	if g.rules.MaxBytes == 0 {
		return true
	}
	for _, m := range g.members {
		if m.id != id {
			bytes += m.size()
		}
	}
	return bytes <= heldFactor*g.rules.MaxBytes
}

// textSize is what names take in a record, about.
func textSize(names []string) int {
	n := 0
	for _, name := range names {
		n += 5 + len(name)
	}
	return n
}

// gone says that a static member has left and will be back.
func (m *consumerMember) gone() bool { return m.epoch == LeaveStaticEpoch }

func (m *consumerMember) session(rules ConsumerRules) time.Duration {
	if m.classic != nil {
		return m.classic.session
	}
	return rules.SessionTimeout
}

// NewConsumer returns an empty group.
func NewConsumer(name string, rules ConsumerRules, now time.Time) *Consumer {
	return &Consumer{
		name: name, rules: rules, since: now,
		members:  map[string]*consumerMember{},
		static:   map[string]string{},
		target:   map[string]Assignment{},
		owners:   map[TopicID]map[int32]string{},
		patterns: map[string]pattern{},
	}
}

// Step applies an event at a time and returns what is to be done, in order.
func (g *Consumer) Step(now time.Time, e Event) []Effect {
	s := consumerStep{Consumer: g, now: now, changed: map[Part]bool{}}
	switch e := e.(type) {
	case ConsumerHeartbeat:
		s.consumerHeartbeat(e)
	case Join:
		s.join(e)
	case Sync:
		s.sync(e)
	case Heartbeat:
		s.emit(Beaten{e.To, s.heartbeat(e)})
	case Leave:
		s.leave(e)
	case Tick:
		s.tick()
	}
	if len(s.parts) > 0 {
		s.emit(Save{s.parts})
	}
	return s.effects
}

// Wake is when the group next wants a [Tick]; zero is never. Only a step that
// saves something, or tells a classic member to join, may bring it forward.
func (g *Consumer) Wake() time.Time {
	var first time.Time
	for _, m := range g.members {
		for _, t := range m.deadlines() {
			if !t.IsZero() && (first.IsZero() || t.Before(first)) {
				first = t
			}
		}
	}
	return first
}

func (m *consumerMember) deadlines() [4]time.Time {
	all := [4]time.Time{m.deadline, m.revokeDeadline}
	if m.classic != nil {
		all[2], all[3] = m.classic.joinDeadline, m.classic.syncDeadline
	}
	return all
}

// State is where the group stands.
func (g *Consumer) State() State {
	switch {
	case len(g.members) == 0:
		return Empty
	case g.epoch > g.assignmentEpoch:
		return Assigning
	}
	for _, m := range g.members {
		if m.epoch != g.assignmentEpoch || m.state != stable {
			return Reconciling
		}
	}
	return Stable
}

func (g *Consumer) empty() bool { return len(g.members) == 0 }

// CheckCommit says whether a member may commit offsets now. For a commit from
// outside see [Group.CheckCommit].
func (g *Consumer) CheckCommit(now time.Time, memberID, instanceID string, epoch int32, transactional bool) error {
	if epoch < 0 && (len(g.members) == 0 || transactional && memberID == "" && instanceID == "") {
		return nil
	}
	m := g.members[memberID]
	switch {
	case m == nil:
		return kerr.UnknownMemberID
	case epoch == m.epoch:
	case m.classic != nil, transactional:
		return kerr.IllegalGeneration
	default:
		return kerr.StaleMemberEpoch
	}
	if m.classic != nil {
		m.deadline = now.Add(m.classic.session)
	}
	return nil
}

// expectsEpochs says whether a member is one of the consumer protocol, whose commits
// Kafka takes only in versions that have the protocol's errors: whatever its epoch.
func (g *Consumer) expectsEpochs(memberID string) bool {
	m := g.members[memberID]
	return m != nil && m.classic == nil
}

// CheckFetch says whether who claims to be a member of an epoch is. Nobody claims
// that with a negative epoch and no id.
func (g *Consumer) CheckFetch(memberID string, epoch int32) error {
	if memberID == "" && epoch < 0 {
		return nil
	}
	m := g.members[memberID]
	switch {
	case m == nil:
		return kerr.UnknownMemberID
	case m.epoch != epoch:
		return kerr.StaleMemberEpoch
	}
	return nil
}

// subscribed are the topics that the members read.
func (g *Consumer) subscribed() (map[string]bool, error) {
	topics := map[string]bool{}
	for _, m := range g.members {
		for t := range g.topicsOf(m) {
			topics[t] = true
		}
	}
	return topics, nil
}

// topicsOf are the names that a member subscribes to; some may come twice.
func (g *Consumer) topicsOf(m *consumerMember) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, t := range m.topics {
			if !yield(t) {
				return
			}
		}
		if m.regex == "" {
			return
		}
		for _, t := range g.patterns[m.regex].topics {
			if !yield(t) {
				return
			}
		}
	}
}

// digest is a number for the topics that are subscribed to, as they are: their
// ids and how many partitions each has.
func (g *Consumer) digest(topics Topics) uint64 {
	all, _ := g.subscribed()
	h := fnv.New64a()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if id, n, ok := topics.Topic(name); ok {
			h.Write(id[:])
			h.Write(binary.BigEndian.AppendUint32(nil, uint32(n)))
		}
	}
	return h.Sum64()
}

// subscribers is how many members have a regular expression.
func (g *Consumer) subscribers(regex string) int {
	n := 0
	for _, m := range g.members {
		if m.regex == regex {
			n++
		}
	}
	return n
}

// unresolved is the regular expression whose topics h should bring, "" if none:
// its member's own, if the group does not know it or topics have come or gone. So
// a heartbeat costs no more than one, however many the group has.
func (g *Consumer) unresolved(now time.Time, h *ConsumerHeartbeat) string {
	m := g.members[h.MemberID]
	var regex string
	switch {
	case h.MemberEpoch < 0, h.MemberEpoch > 0 && m == nil:
		return ""
	case h.SubscribedTopicRegex != nil:
		regex = *h.SubscribedTopicRegex
	case m != nil:
		regex = m.regex
	}
	p, known := g.patterns[regex]
	age := now.Sub(p.at)
	stale := age >= regexRefresh || h.Topics.Version() != p.version && age >= regexInterval
	if regex == "" || known && !stale {
		return ""
	}
	return regex
}

// assignor is the one that most members want; of equals the first by name.
func (g *Consumer) assignor() string {
	votes := map[string]int{}
	for _, m := range g.members {
		if m.assignor != "" {
			votes[m.assignor]++
		}
	}
	best := Uniform
	for _, name := range slices.Sorted(maps.Keys(votes)) {
		if votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

// ordered returns the members in the order of their ids.
func (g *Consumer) ordered() []*consumerMember {
	return slices.SortedFunc(maps.Values(g.members), func(a, b *consumerMember) int { return cmp.Compare(a.id, b.id) })
}

// allClassic says whether only members of the classic protocol are left, and some.
func (g *Consumer) allClassic() bool {
	for _, m := range g.members {
		if m.classic == nil {
			return false
		}
	}
	return len(g.members) > 0
}

// own notes who has the partitions of a member, which it had none of.
func (g *Consumer) own(m *consumerMember) {
	for _, a := range []Assignment{m.assigned, m.revoking} {
		for id, ps := range a {
			if g.owners[id] == nil {
				g.owners[id] = map[int32]string{}
			}
			for _, p := range ps {
				g.owners[id][p] = m.id
			}
		}
	}
}

// release makes the partitions of a member nobody's.
func (g *Consumer) release(m *consumerMember) {
	for _, a := range []Assignment{m.assigned, m.revoking} {
		for id, ps := range a {
			for _, p := range ps {
				if g.owners[id][p] == m.id {
					delete(g.owners[id], p)
				}
			}
			if len(g.owners[id]) == 0 {
				delete(g.owners, id)
			}
		}
	}
}
