package group

import "time"

// Token names a request that waits for an answer. Zero names none.
type Token uint64

// Event is what happens to a group: [Join], [Sync], [Heartbeat], [Leave],
// [ConsumerHeartbeat] or [Tick].
type Event interface{ event() }

// Join asks for membership in the next generation.
type Join struct {
	To                   Token
	MemberID, InstanceID string // "" is none
	// NewMemberID is the id that a member without one is given. The caller makes
	// it up, so that Step stays a function.
	NewMemberID          string
	ClientID, ClientHost string
	// SessionTimeout ends a silent member, RebalanceTimeout one that does not
	// join again when asked to.
	SessionTimeout, RebalanceTimeout time.Duration
	ProtocolType                     string
	Protocols                        []Protocol // in order of preference
	// RequireMemberID makes a new dynamic member come back with its id before it
	// counts (KIP-394, from JoinGroup 4 on).
	RequireMemberID bool
	// CanSkipAssignment says that a static leader understands an answer which
	// makes it the leader without work (KIP-814, from JoinGroup 9 on).
	CanSkipAssignment bool
	// Topics are the cluster's, for a group of the consumer protocol.
	Topics Topics
}

// Protocol is one way of assigning that a member supports, and its metadata for
// it, which is opaque here.
type Protocol struct {
	Name     string
	Metadata []byte
}

// Sync asks for a member's assignment; the leader's brings everybody's.
type Sync struct {
	To                   Token
	MemberID, InstanceID string
	Generation           int32
	// ProtocolType and Protocol must be the group's; nil is not compared (before
	// SyncGroup 5).
	ProtocolType, Protocol *string
	Assignments            map[string][]byte // by member id
	// Topics are the cluster's, for a group of the consumer protocol.
	Topics Topics
}

// Heartbeat says that a member lives.
type Heartbeat struct {
	To                   Token
	MemberID, InstanceID string
	Generation           int32
	// Topics are the cluster's, for a group of the consumer protocol.
	Topics Topics
}

// Leave takes members out of the group.
type Leave struct {
	To      Token
	Members []Leaver
}

// Leaver is a member that leaves. MemberID may be "" for a static member.
type Leaver struct{ MemberID, InstanceID string }

// Epochs with which a member of the consumer protocol leaves (KIP-848).
const (
	LeaveEpoch       int32 = -1
	LeaveStaticEpoch int32 = -2 // it will be back under its instance id
)

// ConsumerHeartbeat is all that a member of the consumer protocol says (KIP-848).
// What is nil, or negative, is as it was.
type ConsumerHeartbeat struct {
	To                   Token
	MemberID, InstanceID string
	// MemberEpoch is 0 to join, the member's epoch, or one to leave with.
	MemberEpoch          int32
	ClientID, ClientHost string
	RackID               *string
	RebalanceTimeout     time.Duration
	SubscribedTopicNames []string
	SubscribedTopicRegex *string
	ServerAssignor       *string
	// Owned is what the member has; empty and not nil is nothing.
	Owned  Assignment
	Topics Topics
	// Resolved are the topics of the regular expression that
	// [Consumer.unresolved] asked for.
	Resolved map[string][]string
}

// Tick lets time pass: deadlines that have come are acted on.
type Tick struct{}

func (Join) event()      {}
func (Sync) event()      {}
func (Heartbeat) event() {}
func (Leave) event()     {}
func (Tick) event()      {}

func (ConsumerHeartbeat) event() {}

// Effect is what a step wants done: [Joined], [Synced], [Beaten], [Left] and
// [ConsumerBeaten] answer a request, [Save] writes the group, [Downgrade] makes
// it another.
type Effect interface{ effect() }

// Joined answers a [Join]. Err is a value of package kerr.
type Joined struct {
	To                     Token
	Err                    error
	MemberID, Leader       string
	Generation             int32
	ProtocolType, Protocol string
	SkipAssignment         bool
	Members                []JoinedMember // for the leader only
}

// JoinedMember is a member as its leader sees it.
type JoinedMember struct {
	MemberID, InstanceID string
	Metadata             []byte
}

// Synced answers a [Sync].
type Synced struct {
	To                     Token
	Err                    error
	ProtocolType, Protocol string
	Assignment             []byte
}

// Beaten answers a [Heartbeat].
type Beaten struct {
	To  Token
	Err error
}

// Left answers a [Leave], with an error or nil for each member of it.
type Left struct {
	To      Token
	Members []error
}

// ConsumerBeaten answers a [ConsumerHeartbeat]. Err is a value of package kerr.
type ConsumerBeaten struct {
	To          Token
	Err         error
	MemberID    string
	MemberEpoch int32
	// Assignment is what the member may read; nil is that it is as it was.
	Assignment Assignment
}

// Save wants the group, as it is after the step, written before anything of the
// step is answered: the parts that are named, or all of it if none is.
type Save struct{ Parts []Part }

// Part names what one record says of a group.
type Part struct {
	Kind partKind
	Name string // of the member, or the regular expression
}

// partKind is the kind of a record: the version of its key.
type partKind int16

const (
	partClassic     partKind = 2
	partEpoch       partKind = 3
	partMember      partKind = 5
	partTargetEpoch partKind = 6
	partTarget      partKind = 7
	partCurrent     partKind = 8
	partPattern     partKind = 16
)

// Downgrade wants the group to go on as a classic one: all members that are left
// speak that protocol.
type Downgrade struct{}

func (Joined) effect() {}
func (Synced) effect() {}
func (Beaten) effect() {}
func (Left) effect()   {}
func (Save) effect()   {}

func (ConsumerBeaten) effect() {}
func (Downgrade) effect()      {}
