package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// Assignment is one copy that this node is to run.
type Assignment struct {
	Flow                string // name of Spec
	Spec                *flow.ReplicationFlow
	Source, Destination *flow.Cluster

	SourceTopic      string
	DestinationTopic string
	Partition        int32
	// SourceTopicID is the life of the source topic that discovery found. A topic
	// of the same name with another id is not copied. Zero: any life.
	SourceTopicID ledger.TopicID
	// Offsets is [flow.OffsetsPreserve] for a copy into a mirror topic; anything else
	// translates.
	Offsets string
	// FlowCopies is how many copies the flow has on all nodes: a node's part of the
	// flow's limits goes by it. 0: those of this node are all.
	FlowCopies int
	// Newborn: the partition came to the source while the flow looked at it, so its
	// copy begins with its first record, wherever the flow starts.
	Newborn bool
	// Epoch grows with every owner that the copy has had.
	Epoch uint64
}

// Lane is a transactional id in use, as raft remembers it.
type Lane struct {
	TransactionalID string
	ClusterID       string // destination's cluster.id
	ProducerID      int64
	ProducerEpoch   int16 // unfenced: the lane has no transactions, and nobody can fence it
}

// unfenced is the epoch under which a lane without transactions is registered. That
// it is registered at all ends it: an ended incarnation is refused.
const unfenced = -1

// Lanes is the register of lanes, which raft keeps: what makes a takeover find
// every producer that a dead node may still have. It is safe for concurrent use.
type Lanes interface {
	// Register records that this node's incarnation uses a lane, before the lane
	// is used; it replaces what was recorded under the same transactional id. It
	// returns an error that wraps [ErrEnded] once the incarnation has ended, and
	// from then on always.
	Register(ctx context.Context, l Lane) error
	// Ended lists the lanes of ended incarnations in a cluster that nobody has
	// fenced yet. It sees every incarnation that had ended when the caller's
	// assignments were made.
	Ended(ctx context.Context, clusterID string) ([]Lane, error)
	// Fenced records that lanes are fenced and what they left open is settled.
	Fenced(ctx context.Context, lanes []Lane) error
	// Forgotten reports whether lanes may be in use in a cluster that the register
	// does not have: it was restored from a backup, and nobody has recalled them.
	Forgotten(ctx context.Context, clusterID string) (bool, error)
	// Recall takes up what was found in a cluster. Lanes of incarnations that have not
	// ended are passed over. When it has returned, Ended lists the others, and
	// nothing of the cluster is forgotten any more.
	Recall(ctx context.Context, clusterID string, lanes []FoundLane) error
}

// FoundLane is a lane as its transactional id tells it.
type FoundLane struct {
	Lane
	Node        string
	Incarnation uint64
}

// Position is how far a copy has come, as the ledger tells it.
type Position struct {
	// Exists says that the ledger knows the copy; if not, the rest means nothing.
	Exists bool
	Epoch  uint64 // of its latest Begin
	Fleet  string // that wrote it
	Next   int64  // source offset after its last hop
	// Destination is the offset after the last record that was written, -1 if none.
	Destination int64
	// SourceLeaderEpoch is that of the source at Next-1, DestinationLeaderEpoch that
	// of the destination when it took the last record; -1 if not known.
	SourceLeaderEpoch, DestinationLeaderEpoch int32
	// Plain says that a lane without transactions may have written behind the last
	// hop.
	Plain bool
	// Epochs are the source's leader epochs, ascending; the oldest may be left out.
	Epochs []SourceEpoch
}

// SourceEpoch says that source offsets from Start on, up to the next one, were
// appended by the leader of an epoch.
type SourceEpoch struct {
	Start int64
	Epoch int32
}

// Positions answers from the ledger.
type Positions interface {
	// Position is where a copy goes on. It reads the ledger of the destination
	// cluster, which it is given by name, read_committed and to where it ended at
	// the moment of the call, and waits for transactions that are open below that.
	Position(ctx context.Context, destination string, id ledger.CopyID) (Position, error)
	// PositionBefore is Position as it would be if what the ledger says of source
	// offsets from source on, and of destination offsets from at on, were taken back.
	PositionBefore(ctx context.Context, destination string, id ledger.CopyID, source, at int64) (Position, error)
}

// Config is what a [Manager] needs. All fields without a default must be set.
type Config struct {
	Fleet, Node string // labels in the ledger and parts of transactional ids
	Incarnation uint64 // granted by raft; a Manager lives within one
	Lanes       Lanes
	Positions   Positions
	Origins     Origins
	Log         *slog.Logger

	// Released is told of each copy that has left the assigned set once nothing
	// of it is under way any more: from then on another node may own it. It is
	// not told when the Manager itself stops. It must not block.
	Released func(Assignment)

	ClientID string // on connections to the clusters

	// LanesPerFlow is how many transactions of a flow may be under way at once:
	// with two, one fills while the other commits.
	LanesPerFlow int
	// CopiesPerLane is when a flow gets another lane, up to MaxLanesPerFlow. A
	// lane begins its next transaction when the markers of the last are written,
	// and those take some milliseconds for each dozen partitions.
	CopiesPerLane   int
	MaxLanesPerFlow int
	// CommitInterval is how long a transaction collects data, at least. 20 ms adds
	// at most that to the latency of a record, and makes 50 commits a second with
	// three small requests each: some percent of a broker's request rate.
	CommitInterval time.Duration
	// MaxCommitInterval bounds it where the coordinator is slow, whose time is spent on
	// at most half of a transaction, and a fifth where copies are behind.
	MaxCommitInterval time.Duration
	// TransactionTimeout is after what time a broker aborts a transaction of a
	// node that does not answer. A takeover does not wait for it: it fences. A
	// transaction that takes half of it is given up by the lane itself.
	TransactionTimeout time.Duration

	// StopTimeout bounds each step of a stop: until the copies of a flow that is
	// paused, removed or declared otherwise have settled their last transactions;
	// until a lane has finished the one that is under way; until it has settled one
	// that failed. What takes longer is left to be fenced.
	StopTimeout time.Duration

	// BufferBytes bounds what is fetched and not yet written on this node, by however
	// many flows, but for single batches that are larger than what a fetch has room for:
	// 128 MiB is an eighth of a second at 1 GB/s, and leaves the process below 256 MiB
	// at full speed.
	BufferBytes int64
	// MaxDecode bounds one decompressed batch on the record path. Honest batches
	// of 1 MiB compress up to a hundredfold.
	MaxDecode int
	// MetadataInterval is how old a cluster's metadata gets. Errors refresh it at
	// once, so this bounds only how long a recreated topic stays unnoticed.
	MetadataInterval time.Duration

	// HangingAfter is how long an open transaction at the source may hold a copy back
	// before the copy says so, and asks whose it is.
	HangingAfter time.Duration
	// StallNoted is how long a copy must have stood still for the ledger to tell of it
	// when it goes on.
	StallNoted time.Duration

	// MaxRetryWait bounds how long anything waits that is tried again by itself. A broker
	// that was away for long is back in use after that at the latest; waits that begin at
	// 50 to 100 ms and double come to 15 s with the eighth try.
	MaxRetryWait time.Duration

	// at lets a test stop a lane at a point of a transaction, or make it fail
	// there. It is nil otherwise.
	at func(p point) error
}

// bounded is a backoff that waits for no longer than MaxRetryWait.
func (c *Config) bounded(b backoff) backoff {
	b.max = min(b.max, c.MaxRetryWait)
	b.min = min(b.min, b.max)
	return b
}

// tick is how often a flow looks after its copies: several times while one waits.
func (c *Config) tick() time.Duration { return min(tickInterval, 5*c.MaxRetryWait) }

// point is a place in a transaction, or an append, at which a node may die.
type point string

const (
	beforeAdd    point = "before its partitions are added"
	afterAdd     point = "after its partitions are added"
	afterData    point = "after its data"
	afterHops    point = "after its hops"
	afterEndSent point = "after its commit was asked for"

	beforeAppend point = "before an append to mirrors is sent"
	afterAppend  point = "after an append to mirrors, before its answer is seen"
	beforeHop    point = "before the ledger is told of an append to mirrors"
)

func (c *Config) reach(p point) error {
	if c.at == nil {
		return nil
	}
	return c.at(p)
}

// DefaultConfig has everything that has a default.
func DefaultConfig() Config {
	return Config{
		ClientID:           "waybill",
		LanesPerFlow:       2,
		CopiesPerLane:      32,
		MaxLanesPerFlow:    16,
		CommitInterval:     20 * time.Millisecond,
		MaxCommitInterval:  500 * time.Millisecond,
		TransactionTimeout: time.Minute,
		StopTimeout:        5 * time.Second,
		BufferBytes:        128 << 20,
		MaxDecode:          128 << 20,
		MetadataInterval:   5 * time.Second,
		HangingAfter:       defaultHangingAfter,
		StallNoted:         defaultStallNoted,
		MaxRetryWait:       15 * time.Second,
		Released:           func(Assignment) {},
	}
}

// Validate says what is wrong with a Config, all of it.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Fleet != "" && c.Node != "", "fleet and node must be named")
	check(c.Lanes != nil && c.Positions != nil && c.Origins != nil && c.Log != nil && c.Released != nil, "lanes, positions, origins, log and released must be set")
	check(c.LanesPerFlow > 0, "lanes per flow is %d, must be at least 1", c.LanesPerFlow)
	check(c.CopiesPerLane > 0 && c.MaxLanesPerFlow >= c.LanesPerFlow, "lanes per flow are %d to %d with %d copies each", c.LanesPerFlow, c.MaxLanesPerFlow, c.CopiesPerLane)
	check(c.CommitInterval > 0 && c.CommitInterval <= c.MaxCommitInterval, "commit interval is %v, must be above 0 and at most %v", c.CommitInterval, c.MaxCommitInterval)
	check(c.TransactionTimeout >= 10*time.Second && c.MaxCommitInterval <= c.TransactionTimeout/4, "transaction timeout is %v, must be at least 10s and four times the commit interval", c.TransactionTimeout)
	check(c.StopTimeout > 0, "stop timeout is %v, must be above 0", c.StopTimeout)
	check(c.BufferBytes >= minBufferBytes, "buffer is %d bytes, must be at least %d", c.BufferBytes, minBufferBytes)
	check(c.MaxDecode >= 1<<20, "decode limit is %d bytes, must be at least 1 MiB", c.MaxDecode)
	check(c.HangingAfter > 0, "hanging after is %v, must be above 0", c.HangingAfter)
	check(c.StallNoted > 0, "stalls noted after is %v, must be above 0", c.StallNoted)
	check(c.MaxRetryWait > 0, "longest wait before another try is %v, must be above 0", c.MaxRetryWait)
	check(c.MetadataInterval >= minRefresh, "metadata interval is %v, must be at least %v", c.MetadataInterval, minRefresh)
	return errors.Join(errs...)
}

// minBufferBytes are two full fetches.
const minBufferBytes = 2 * fetchBytes
