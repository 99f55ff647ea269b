package group

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker/coordinator"
)

// MaxMetadata bounds the text that goes with a committed offset, in bytes
// (offset.metadata.max.bytes).
const MaxMetadata = 4096

// maxName bounds a group's name, in bytes. It stands in every record of the
// group, so a long one would make a small request a large write.
const maxName = 1024

// Config is how groups are coordinated. The name in brackets is Kafka's.
type Config struct {
	// Partitions of [Topic]; it must never change.
	Partitions int32
	// InitialRebalanceDelay is how long the first rebalance of an empty group
	// waits for more members [group.initial.rebalance.delay.ms].
	InitialRebalanceDelay time.Duration
	// MinSessionTimeout and MaxSessionTimeout bound what members may ask for
	// [group.min.session.timeout.ms, group.max.session.timeout.ms].
	MinSessionTimeout, MaxSessionTimeout time.Duration
	// MaxMembers bounds a group [group.max.size].
	MaxMembers int
	// MaxGroupBytes bounds the metadata and assignments of a group, which must
	// fit into one record.
	MaxGroupBytes int
	// ConsumerSessionTimeout is that of the members of a group of the consumer
	// protocol [group.consumer.session.timeout.ms, consumer.session.timeout.ms]. It
	// is called by many.
	ConsumerSessionTimeout func(group string) time.Duration
	// ConsumerMaxMembers bounds such a group [group.consumer.max.size].
	ConsumerMaxMembers int
	// Migration says which groups may change their protocol while they have
	// members [group.consumer.migration.policy].
	Migration Migration
	// Topics returns the cluster's topics as they are. It is called by many, and
	// must be set.
	Topics func() Topics
	// OffsetsRetention is how long offsets outlive the members of their group
	// [offsets.retention.minutes].
	OffsetsRetention time.Duration
	// CleanupInterval is how often offsets are looked at for that
	// [offsets.retention.check.interval.ms].
	CleanupInterval time.Duration
	// CheckpointRecords is by how many records more than it has live ones a
	// partition may grow before it is written anew.
	CheckpointRecords int64
	// OnCommit, if set, is told of positions that have become valid and durable,
	// by the request that made them so. It must not block.
	OnCommit func([]Commit)
	// Log takes what an operator should know; it must be set.
	Log *slog.Logger
}

// DefaultConfig is Kafka's where Kafka has it, except for Log and Topics.
func DefaultConfig() Config {
	return Config{
		Partitions:             50,
		InitialRebalanceDelay:  3 * time.Second,
		MinSessionTimeout:      6 * time.Second,
		MaxSessionTimeout:      30 * time.Minute,
		MaxMembers:             10_000,    // Kafka has no bound; one record could not hold more
		MaxGroupBytes:          900 << 10, // below the 1 MiB of max.message.bytes
		ConsumerSessionTimeout: func(string) time.Duration { return 45 * time.Second },
		ConsumerMaxMembers:     10_000, // Kafka has no bound
		Migration:              MigrateBoth,
		OffsetsRetention:       7 * 24 * time.Hour,
		CleanupInterval:        10 * time.Minute,
		CheckpointRecords:      100_000, // about 10 MB of commits; read in well under a second
		Log:                    slog.New(slog.DiscardHandler),
	}
}

func (c *Config) consumerRules(group string) ConsumerRules {
	return ConsumerRules{
		SessionTimeout: c.ConsumerSessionTimeout(group), MaxMembers: c.ConsumerMaxMembers, Migration: c.Migration,
		ClassicMaxMembers: c.MaxMembers, MaxBytes: c.MaxGroupBytes,
	}
}

// Coordinator coordinates the groups of the partitions that this broker leads. It
// is safe for concurrent use.
//
// Its methods return errors that wrap a *kerr.Error, whose code goes to the
// client, or the error of the caller's context.
type Coordinator struct {
	cfg Config

	shards coordinator.Set[*shard]
	// resolving are the groups of which a request resolves a regular expression.
	resolving sync.Map
	gone      []gone // by partition
}

// NewCoordinator returns a coordinator that leads nothing yet.
func NewCoordinator(cfg Config) *Coordinator {
	c := &Coordinator{cfg: cfg, gone: make([]gone, cfg.Partitions)}
	for i := range c.gone {
		c.gone[i].told = make(chan struct{}, 1)
	}
	return c
}

// Partition is the partition of [Topic] in which a group lives.
func (c *Coordinator) Partition(group string) int32 {
	return coordinator.PartitionFor(group, c.cfg.Partitions)
}

// Lead makes this the coordinator of the groups of one partition, from when it
// returns: what concerns all groups misses none that is about to be loaded. The
// caller runs serve, once. It reads the log, until when requests are answered
// COORDINATOR_LOAD_IN_PROGRESS, and coordinates until ctx ends (nil) or the log
// fails, which ends the leadership: requests are then answered
// COORDINATOR_NOT_AVAILABLE until the partition is led again. It is led once at a
// time.
func (c *Coordinator) Lead(partition int32, log Log) (serve func(ctx context.Context) error, err error) {
	s := newShard(partition, log, &c.cfg, &c.gone[partition])
	if err := c.shards.Lead(s); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return s.Serve(ctx, s.replay, s.run) }, nil
}

// Down says that a partition cannot be led, and why: requests about its groups
// are answered COORDINATOR_NOT_AVAILABLE.
func (c *Coordinator) Down(partition int32, why error) { c.shards.Down(partition, why) }

// Available is nil, or COORDINATOR_NOT_AVAILABLE if nobody coordinates a group.
func (c *Coordinator) Available(group string) error { return c.shards.Available(c.Partition(group)) }

// Faults are the partitions whose groups cannot be served, and why.
func (c *Coordinator) Faults() map[int32]error { return c.shards.Faults() }

// shard returns the shard of a group, if it is led here and loaded.
func (c *Coordinator) shard(group string) (*shard, error) {
	if group == "" {
		return nil, kerr.InvalidGroupID
	}
	return c.shardOfAny(group)
}

// shardOfAny is shard for requests that may be about the group without a name: it
// has no members, but old clients without a group commit offsets to it.
func (c *Coordinator) shardOfAny(group string) (*shard, error) {
	if len(group) > maxName {
		return nil, kerr.InvalidGroupID
	}
	return c.shards.Led(c.Partition(group))
}
