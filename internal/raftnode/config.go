package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"time"
)

// MaxVoters is how many members vote at most: beyond seven a commit waits for more
// disks than it gains in safety. Further members take part without a vote.
const MaxVoters = 7

// Config configures a Node. Start from DefaultConfig.
type Config struct {
	// ID names the node for all time, in the group and in its certificate.
	ID string
	// Dir holds the node's log and snapshots. Empty keeps them in memory, for
	// tests: a node without a directory forgets its votes when it stops.
	Dir string
	// Listen is the address to listen on, Advertise the one that the others dial
	// (default: what Listen resolves to). With an empty Listen the node listens
	// nowhere and is a group of one.
	Listen, Advertise string
	// Credentials authenticate the node to its peers and the peers to it. With none,
	// the group has an authority of its own: the first member begins it, others get
	// their certificate with a Token. See identity.go.
	Credentials *Credentials
	// Token lets a node without state and certificate in: the text of a Token.
	Token string
	// Admit decides, on the member that is asked, whether a token admits a node, and
	// whether as a worker. ErrRefused is final; after any other error the node asks
	// again. The same node may ask twice, if an answer was lost.
	Admit func(ctx context.Context, a Admission) (worker bool, err error)
	// Joined, if set, is told on the leader of a node that was taken in with a certificate
	// from elsewhere, which nobody was asked about. The node waits for it.
	Joined func(ctx context.Context, j Joiner)
	// Network is where Listen and Dial happen; nil is TCP.
	Network Network

	// Bootstrap makes the node the first member of a new group, if it has no
	// state yet. Join are addresses of members, any of which can take a node
	// without state into the group. With both, the node begins a group only if no
	// member of one answers there: ErrGroupRuns.
	Bootstrap bool
	Join      []string
	// Worker makes the node one that never votes, wherever it joins.
	Worker bool

	// Replica is the replicated state.
	Replica StateMachine
	// Lead, if set, runs while the node leads, after everything committed before
	// has been applied. Its context ends, with a cause, when leadership does; it
	// must then return promptly. An error of its own stops the node.
	Lead func(ctx context.Context) error
	// Handler, if set, answers the peers' HTTP requests (all paths but
	// /raftnode/). Use PeerIs to learn who asks.
	Handler http.Handler
	Logger  *slog.Logger

	// HeartbeatTimeout is how long a follower waits for its leader before it
	// stands for election: between once and twice this value. Followers refuse to
	// vote until they have missed the leader themselves, so that of three nodes
	// elects after one to four times this value, mostly two. 400 ms: a killed
	// leader is replaced after 0.4-1.6 s; scheduling pauses and regional round
	// trips (100 ms) stay well below it.
	HeartbeatTimeout time.Duration
	// LeaderLease is how long a leader that reaches no majority believes in
	// itself. At most HeartbeatTimeout; half of it, so that it is gone before the
	// next one is elected.
	LeaderLease time.Duration
	// VoterTimeout is how long a voter may be out of reach before a member without
	// a vote takes its place, if there is one to spare.
	VoterTimeout time.Duration
	// RPCTimeout bounds one raft RPC and one forwarded request's connection.
	RPCTimeout time.Duration
	// SnapshotThreshold is how many entries are applied between snapshots,
	// TrailingLogs how many stay in the log after one so that a follower that was
	// away briefly needs no snapshot. 2048 entries of at most a few KB replay in
	// well under a second.
	SnapshotThreshold, TrailingLogs uint64
	// SnapshotInterval is how often the threshold is looked at.
	SnapshotInterval time.Duration
}

// DefaultConfig returns a Config with every duration and count set.
func DefaultConfig() Config {
	return Config{
		HeartbeatTimeout:  400 * time.Millisecond,
		LeaderLease:       200 * time.Millisecond,
		VoterTimeout:      15 * time.Second,
		RPCTimeout:        2 * time.Second,
		SnapshotThreshold: 2048,
		TrailingLogs:      4096,
		SnapshotInterval:  30 * time.Second,
	}
}

var validID = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// Validate returns what is wrong with c.
func (c *Config) Validate() error {
	switch {
	case !validID.MatchString(c.ID):
		return fmt.Errorf("node id %q: want 1 to 63 of a-z, 0-9, '-' and '.'", c.ID)
	case c.Replica == nil:
		return errors.New("no replica")
	case c.Logger == nil:
		return errors.New("no logger")
	case c.Listen == "" && len(c.Join) > 0:
		return errors.New("a node that listens nowhere cannot join others")
	case c.Listen == "" && c.Advertise != "":
		return errors.New("a node that listens nowhere has nothing to advertise")
	case c.HeartbeatTimeout <= 0 || c.LeaderLease <= 0 || c.RPCTimeout <= 0 || c.VoterTimeout <= 0 || c.SnapshotInterval <= 0:
		return errors.New("timeouts must be positive")
	case c.LeaderLease > c.HeartbeatTimeout:
		return fmt.Errorf("leader lease %s exceeds the heartbeat timeout %s", c.LeaderLease, c.HeartbeatTimeout)
	case c.SnapshotThreshold == 0:
		return errors.New("snapshot threshold must be positive")
	}
	return nil
}
