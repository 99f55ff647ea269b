package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// Config configures a Node. Start from DefaultConfig.
type Config struct {
	// Name of the node, for all time; its certificate must carry it.
	Name string
	// Dir holds its raft log and snapshots; empty keeps them in memory, for tests.
	Dir string
	// Listen is the address for its peers, Advertise the one that they dial
	// (default: what Listen resolves to). An empty Listen is a fleet of one that
	// nobody can join, and needs no credentials.
	Listen, Advertise string
	Credentials       *raftnode.Credentials
	// Network is nil for TCP; tests give a raftnode.MemoryNetwork's host.
	Network raftnode.Network
	// Bootstrap begins a new fleet if the node has no state; Join are peer
	// addresses of a fleet to join in that case. With both it begins one only if no
	// member of another answers there: raftnode.ErrGroupRuns.
	Bootstrap bool
	Join      []string
	// Without Credentials the fleet has an authority of its own: the first node
	// begins it, and Token, the text of a join token, gets another node its
	// certificate. Worker makes a node with Credentials one that never votes; a token
	// says so itself.
	Token  string
	Worker bool

	// APIAddr and Version are published in the state, for others; Region, Rack and
	// Labels, for the assignment of work.
	APIAddr, Version, Region, Rack string
	Labels                         map[string]string

	// PeerHandler, if set, answers requests of other nodes' PeerClient: all paths
	// but /raftnode/ and /fleet/.
	PeerHandler http.Handler
	Logger      *slog.Logger
	// Author, if set, says who asks for what is proposed under a context, nil if
	// nobody does. So no way of changing something can forget its record.
	Author func(context.Context) *Author
	// JoinRefused, if set, is told of nodes whose join token is refused, and why.
	JoinRefused func(by Author, why error)

	words     *vocabulary // nil is this version's; tests have others
	planning  func()      // if set, runs before each plan; tests wait there
	reckoning func()      // if set, runs for each topic of a status; tests wait there

	// HeartbeatInterval is between a node's heartbeats, HeartbeatTimeout how long
	// it waits for the answer to one.
	HeartbeatInterval, HeartbeatTimeout time.Duration
	// SessionLease is how long after the last answered heartbeat was sent a node's
	// session lasts.
	SessionLease time.Duration
	// IncarnationTimeout is how long after the last heartbeat arrived the leader
	// ends the incarnation.
	IncarnationTimeout time.Duration
	// LeaderGrace is how long a new leader waits for heartbeats before it ends the
	// incarnations of those who have sent none, and before it hands out free work
	// although members are missing. One that leadership was handed to waits for
	// SessionLease.
	LeaderGrace time.Duration
	// ElectionTimeout is how long a node waits for its leader before it stands for
	// election: between once and twice this value.
	ElectionTimeout time.Duration
	// StatusInterval is between a node's looks at what its copies move.
	StatusInterval time.Duration
	// RebalanceInterval is between looks at whether load is uneven.
	RebalanceInterval time.Duration
	// MaxMoves bounds how many copies are being moved at once, and MovesPerMinute how
	// many moves are begun that only balance or nearness asks for. Nothing bounds
	// what must find another owner because its node is gone.
	MaxMoves, MovesPerMinute int
	// DrainTimeout bounds how long a stopping node waits for its work to be
	// released.
	DrainTimeout time.Duration
	// ProposeTimeout bounds a proposal whose context has no deadline.
	ProposeTimeout time.Duration
}

// leaderLease is how long a leader that a majority has stopped answering goes on leading:
// the answers of nodes without a vote, and those that were under way, confirm it until then.
func (c *Config) leaderLease() time.Duration { return c.ElectionTimeout / 2 }

// DefaultConfig returns a Config with every duration and count set. The
// arithmetic, in seconds:
//
//	A node dies:      2.0 silence (IncarnationTimeout) + 0.1 tick + two commits.
//	The leader dies:  0.4 to 1.6 until another is elected, mostly 0.8
//	                  (ElectionTimeout; see raftnode.Config.HeartbeatTimeout)
//	                  + 1.3 grace + 0.1 tick + two commits = 1.8 to 3.0.
//
// So takeovers are decided within 3.1, but for a split vote. A node's own lease
// ends before anybody ends its incarnation: 1.5 after it sent, against 2.0 after
// the leader heard it. When the leader changes, 1.5 after it sent, against 0.2 less than
// 0.4 + 1.3: the leader answers a heartbeat only while it leads, which it does for 0.2
// (half of ElectionTimeout) after it has heard a majority for the last time, and that
// elects nobody for 0.4 (ElectionTimeout), and a new leader ends
// nothing for 1.3 (LeaderGrace). A leadership that is handed over begins at once:
// the new leader, which has just heard the old one, ends nothing for 1.5. A heartbeat every 0.25, given up after 0.5 or
// when there is another leader, leaves a lease of at least 1.25 for an election.
func DefaultConfig() Config {
	return Config{
		HeartbeatInterval:  250 * time.Millisecond,
		HeartbeatTimeout:   500 * time.Millisecond,
		SessionLease:       1500 * time.Millisecond,
		IncarnationTimeout: 2 * time.Second,
		LeaderGrace:        1300 * time.Millisecond,
		ElectionTimeout:    400 * time.Millisecond,
		StatusInterval:     5 * time.Second,
		RebalanceInterval:  30 * time.Second,
		MaxMoves:           32,
		MovesPerMinute:     600, // 10,000 copies take in a fourth node in four minutes
		DrainTimeout:       10 * time.Second,
		ProposeTimeout:     10 * time.Second,
	}
}

// Validate returns what is wrong with c. What concerns raft and credentials is
// checked by Open.
func (c *Config) Validate() error {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"heartbeat interval", c.HeartbeatInterval},
		{"heartbeat timeout", c.HeartbeatTimeout},
		{"session lease", c.SessionLease},
		{"incarnation timeout", c.IncarnationTimeout},
		{"leader grace", c.LeaderGrace},
		{"election timeout", c.ElectionTimeout},
		{"status interval", c.StatusInterval},
		{"rebalance interval", c.RebalanceInterval},
		{"drain timeout", c.DrainTimeout},
		{"propose timeout", c.ProposeTimeout},
	} {
		if d.value <= 0 {
			return fmt.Errorf("%s must be positive", d.name)
		}
	}
	switch {
	case c.Logger == nil:
		return errors.New("no logger")
	case c.MaxMoves < 1 || c.MovesPerMinute < 1:
		return errors.New("at least one copy must be allowed to move")
	case c.SessionLease >= c.IncarnationTimeout:
		return fmt.Errorf("session lease %s must be shorter than the incarnation timeout %s", c.SessionLease, c.IncarnationTimeout)
	case c.SessionLease+c.leaderLease() > c.ElectionTimeout+c.LeaderGrace:
		return fmt.Errorf("session lease %s and leader lease %s must not exceed election timeout and leader grace, %s", c.SessionLease, c.leaderLease(), c.ElectionTimeout+c.LeaderGrace)
	case c.HeartbeatInterval+c.HeartbeatTimeout > c.SessionLease:
		return fmt.Errorf("a heartbeat (every %s, timeout %s) must fit into the session lease %s", c.HeartbeatInterval, c.HeartbeatTimeout, c.SessionLease)
	}
	return nil
}
