package group

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// State is where a group stands. Its text is Kafka's.
type State string

// The states of a classic group. Dead is that of a group which does not exist.
const (
	Empty               State = "Empty"
	PreparingRebalance  State = "PreparingRebalance"
	CompletingRebalance State = "CompletingRebalance"
	Stable              State = "Stable"
	Dead                State = "Dead"
)

// newMemberTimeout bounds the wait of a new member in a rebalance: its client
// may be gone, and it has no session yet.
const newMemberTimeout = 5 * time.Minute

// Rules are what an operator may set about every group.
type Rules struct {
	// InitialDelay is how long the first rebalance of an empty group waits for
	// further members (group.initial.rebalance.delay.ms).
	InitialDelay time.Duration
	// MaxMembers bounds a group (group.max.size); 0 is no bound.
	MaxMembers int
	// MaxBytes bounds the metadata and assignments of a group, which must fit
	// into one record; 0 is no bound. Members say more than that when they join, and
	// the group has that in memory: [heldFactor] times as much.
	MaxBytes int
}

// heldFactor is by how much all that a group's members say when they join may be more
// than a record takes: of the protocols that each of them names one is chosen.
const heldFactor = 16

// Group is one classic consumer group. It is not safe for concurrent use.
//
// Invariants: members is empty in state Empty and only there, once a step is
// done; leader is a member unless members is empty; a member with a parked join
// is in a group that is PreparingRebalance, one with a parked sync in a group
// that is CompletingRebalance.
type Group struct {
	name         string
	rules        Rules
	state        State
	since        time.Time // of the state
	protocolType string    // "" for a group that only commits
	protocol     string
	generation   int32
	leader       string
	members      map[string]*member
	static       map[string]string    // instance id -> member id
	pending      map[string]time.Time // ids given out and not yet used -> deadline
	joined       uint64               // counts members, to keep their order

	// The rebalance that is being prepared.
	joinDeadline   time.Time
	initial        bool          // the delay of an empty group
	newMemberAdded bool          // since the delay began
	remaining      time.Duration // by which the delay may still grow

	// syncDeadline is when members that have joined must have synchronised; zero
	// when all have.
	syncDeadline time.Time
}

type member struct {
	id, instanceID       string
	clientID, clientHost string
	session, rebalance   time.Duration
	protocols            []Protocol
	assignment           []byte
	order                uint64

	deadline    time.Time // of the session
	isNew       bool      // has not been in a generation
	pendingSync bool      // was told of the generation, has not synchronised
	joinTo      Token     // parked join
	syncTo      Token     // parked sync
}

// New returns an empty group.
func New(name string, rules Rules, now time.Time) *Group {
	return &Group{
		name:    name,
		rules:   rules,
		state:   Empty,
		since:   now,
		members: map[string]*member{},
		static:  map[string]string{},
		pending: map[string]time.Time{},
	}
}

// Step applies an event at a time and returns what is to be done, in order.
func (g *Group) Step(now time.Time, e Event) []Effect {
	s := step{Group: g, now: now}
	switch e := e.(type) {
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
	return s.effects
}

// Wake is when the group next wants a [Tick]; zero is never. Steps other than
// heartbeats may bring it forward.
func (g *Group) Wake() time.Time {
	var first time.Time
	consider := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	for _, m := range g.members {
		consider(m.deadline)
	}
	for _, t := range g.pending {
		consider(t)
	}
	if g.state == PreparingRebalance {
		consider(g.joinDeadline)
	}
	consider(g.syncDeadline)
	return first
}

// CheckCommit says whether a member may commit offsets now, and counts it as a
// heartbeat. A commit with generation -1 and no member comes from a consumer
// that assigns partitions itself, or from an administrator: the group must be
// empty, except within a transaction, which vouches for itself.
func (g *Group) CheckCommit(now time.Time, memberID, instanceID string, generation int32, transactional bool) error {
	if generation < 0 && g.state == Empty {
		return nil
	}
	if transactional && generation < 0 && memberID == "" && instanceID == "" {
		return nil
	}
	m, err := g.check(memberID, instanceID)
	if err != nil {
		return err
	}
	if generation != g.generation {
		return kerr.IllegalGeneration
	}
	m.deadline = now.Add(m.session)
	// The member knows the generation but not yet its assignment, so what it
	// commits are positions of the generation before.
	if g.state == CompletingRebalance && !transactional {
		return kerr.RebalanceInProgress
	}
	return nil
}

// check finds a member and fences one whose static identity another has taken.
func (g *Group) check(memberID, instanceID string) (*member, error) {
	if instanceID != "" {
		id, ok := g.static[instanceID]
		switch {
		case !ok:
			return nil, kerr.UnknownMemberID
		case id != memberID:
			return nil, kerr.FencedInstanceID
		}
	}
	m, ok := g.members[memberID]
	if !ok {
		return nil, kerr.UnknownMemberID
	}
	return m, nil
}

// ordered returns the members in the order in which they joined.
func (g *Group) ordered() []*member {
	all := make([]*member, 0, len(g.members))
	for _, m := range g.members {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *member) int { return cmp.Compare(a.order, b.order) })
	return all
}

// supports says whether a member with these protocols could be in the group
// together with all that are.
func (g *Group) supports(protocolType string, protocols []Protocol) bool {
	if protocolType == "" || len(protocols) == 0 {
		return false
	}
	if len(g.members) == 0 {
		return true
	}
	return protocolType == g.protocolType && slices.ContainsFunc(protocols, func(p Protocol) bool {
		for _, m := range g.members {
			if !m.supports(p.Name) {
				return false
			}
		}
		return true
	})
}

// selectProtocol lets each member vote for the first protocol on its list that
// all support. Of those with most votes, that of the earliest voter wins.
func (g *Group) selectProtocol() string {
	votes := map[string]int{}
	best := ""
	for _, m := range g.ordered() {
		for _, p := range m.protocols {
			common := true
			for _, other := range g.members {
				common = common && other.supports(p.Name)
			}
			if common {
				votes[p.Name]++
				if best == "" || votes[p.Name] > votes[best] {
					best = p.Name
				}
				break
			}
		}
	}
	return best
}

// rebalanceTimeout is how long the slowest member may take to join again.
func (g *Group) rebalanceTimeout() time.Duration {
	var d time.Duration
	for _, m := range g.members {
		d = max(d, m.rebalance)
	}
	return d
}

// size is what the group takes in its record, about.
func (g *Group) size() int {
	n := 0
	for _, m := range g.members {
		n += 64 + len(m.id) + len(m.instanceID) + len(m.clientID) + len(m.clientHost) + len(m.metadata(g.protocol)) + len(m.assignment)
	}
	return n
}

// holds says whether the group has room for what a join says, in memory: members stay
// for as long as their sessions, also when their clients have left.
func (g *Group) holds(j Join) bool {
	if g.rules.MaxBytes <= 0 {
		return true
	}
	n := protocolSize(j.Protocols)
	for id := range g.pending {
		n += len(id)
	}
	for _, m := range g.members {
		if m.id != j.MemberID {
			n += 64 + len(m.id) + len(m.instanceID) + len(m.clientID) + protocolSize(m.protocols)
		}
	}
	return n <= heldFactor*g.rules.MaxBytes
}

// protocolSize is what protocols take, about.
func protocolSize(protocols []Protocol) int {
	n := 0
	for _, p := range protocols {
		n += 16 + len(p.Name) + len(p.Metadata)
	}
	return n
}

func (m *member) supports(protocol string) bool {
	return slices.ContainsFunc(m.protocols, func(p Protocol) bool { return p.Name == protocol })
}

// metadata is what the member says for a protocol.
func (m *member) metadata(protocol string) []byte {
	for _, p := range m.protocols {
		if p.Name == protocol {
			return p.Metadata
		}
	}
	return nil
}

// matches says whether a member that joins again has nothing new to say.
func (m *member) matches(protocols []Protocol) bool {
	return slices.EqualFunc(m.protocols, protocols, func(a, b Protocol) bool {
		return a.Name == b.Name && bytes.Equal(a.Metadata, b.Metadata)
	})
}

func (m *member) update(j Join) {
	m.clientID, m.clientHost = j.ClientID, j.ClientHost
	m.session, m.rebalance = j.SessionTimeout, j.RebalanceTimeout
	m.protocols = j.Protocols
}
