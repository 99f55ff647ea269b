package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker/coordinator"
)

// Topic is the name of the topic that holds the transactional ids.
const Topic = "__transaction_state"

// Log is one partition of [Topic], as its leader has it.
type Log = coordinator.Log

// maxID bounds a transactional id, in bytes.
const maxID = 1024

// Marker is the end of a transaction.
type Marker struct {
	Producer         Producer
	Commit           bool // false is an abort
	CoordinatorEpoch int32
}

// Partitions is where transactions write. It is used by many at once.
type Partitions interface {
	// WriteMarker appends a marker to a partition and returns when it is durable.
	// It may be repeated. Two errors, by their code in package kerr, say that
	// there is nothing left to end there: UNKNOWN_TOPIC_OR_PARTITION (it is gone
	// for good) and INVALID_PRODUCER_EPOCH (a later marker has been written).
	// TRANSACTION_COORDINATOR_FENCED says that somebody else leads. With any
	// other error it is called again.
	WriteMarker(ctx context.Context, tp TopicPartition, m Marker) error
}

// ProducerIDs hands out producer ids.
type ProducerIDs interface {
	// NextProducerID returns an id that was never used in the cluster.
	NextProducerID() (int64, error)
	// PassProducerID sees to it that no id up to this one is returned any more.
	PassProducerID(id int64) error
}

// Config is how transactions are coordinated. The name in brackets is Kafka's.
type Config struct {
	// IDPartitions is the number of partitions of [Topic]; it must never change.
	IDPartitions int32
	// MaxTimeout bounds what producers may ask for [transaction.max.timeout.ms].
	MaxTimeout time.Duration
	// CheckInterval is how often timeouts and expiry are looked at
	// [transaction.abort.timed.out.transaction.cleanup.interval.ms].
	CheckInterval time.Duration
	// IDExpiry is how long an idle transactional id is remembered
	// [transactional.id.expiration.ms].
	IDExpiry time.Duration
	// EndWait is how long EndTxn waits for the markers before it answers.
	EndWait time.Duration
	// AddWait is how long a partition that is written to waits to be added while
	// the transaction before is ending [add.partitions.to.txn.retry.backoff.max.ms].
	AddWait time.Duration
	// CheckpointRecords is by how many records more than it has live ones a
	// partition may grow before it is written anew.
	CheckpointRecords int64
	// Log takes what an operator should know; it must be set.
	Log *slog.Logger
}

// DefaultConfig is Kafka's where Kafka has it, except for Log.
func DefaultConfig() Config {
	return Config{
		IDPartitions:      50,
		MaxTimeout:        15 * time.Minute,
		CheckInterval:     time.Second, // Kafka's 10 s make a timeout of 1 s one of up to 11 s
		IDExpiry:          7 * 24 * time.Hour,
		EndWait:           500 * time.Millisecond, // a few slow syncs; far below any request timeout
		AddWait:           100 * time.Millisecond,
		CheckpointRecords: 100_000, // 20,000 transactions of five records, about 20 MB
		Log:               slog.New(slog.DiscardHandler),
	}
}

// Coordinator coordinates the transactional ids of the partitions that this
// broker leads. It is safe for concurrent use.
//
// Its methods return errors that wrap a *kerr.Error, whose code goes to the
// client, or the error of the caller's context.
type Coordinator struct {
	cfg        Config
	partitions Partitions
	ids        ProducerIDs

	shards coordinator.Set[*shard]
	passed sync.Map // partitions whose producer ids have been passed, once
}

// NewCoordinator returns a coordinator that leads nothing yet.
func NewCoordinator(cfg Config, partitions Partitions, ids ProducerIDs) *Coordinator {
	return &Coordinator{cfg: cfg, partitions: partitions, ids: ids}
}

// Partition is the partition of [Topic] in which a transactional id lives.
func (c *Coordinator) Partition(id string) int32 {
	return coordinator.PartitionFor(id, c.cfg.IDPartitions)
}

// Lead makes this the coordinator of the transactional ids of one partition, from
// when it returns. The caller runs serve, once. It reads the log, until when
// requests are answered COORDINATOR_LOAD_IN_PROGRESS, and coordinates until ctx
// ends (nil) or the log fails, which ends the leadership: requests are then
// answered COORDINATOR_NOT_AVAILABLE until the partition is led again. epoch is the
// leader's, not below that of any earlier leader: it goes into the markers. A
// partition is led once at a time.
func (c *Coordinator) Lead(partition, epoch int32, log Log) (serve func(ctx context.Context) error, err error) {
	s := newShard(c, partition, epoch, log)
	if err := c.shards.Lead(s); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return s.Serve(ctx, s.replay, s.run) }, nil
}

// Down says that a partition cannot be led, and why: requests about its ids are
// answered COORDINATOR_NOT_AVAILABLE.
func (c *Coordinator) Down(partition int32, why error) { c.shards.Down(partition, why) }

// Available is nil, or COORDINATOR_NOT_AVAILABLE if nobody coordinates a transactional id.
func (c *Coordinator) Available(id string) error { return c.shards.Available(c.Partition(id)) }

// Faults are the partitions whose ids cannot be served, and why.
func (c *Coordinator) Faults() map[int32]error { return c.shards.Faults() }

// shard returns the shard of a transactional id, if it is led here and loaded.
func (c *Coordinator) shard(id string) (*shard, error) {
	if id == "" || len(id) > maxID {
		return nil, kerr.InvalidRequest
	}
	return c.shards.Led(c.Partition(id))
}

// IDsPassed says whether every partition has been loaded, once at least, so that no
// producer id of a transactional id is given out again, even by a store of ids that was
// put back from a backup.
func (c *Coordinator) IDsPassed() bool {
	for n := range c.cfg.IDPartitions {
		if _, ok := c.passed.Load(n); !ok {
			return false
		}
	}
	return true
}

// NewProducer gives a producer without a transactional id its own.
func (c *Coordinator) NewProducer() (Producer, error) {
	id, err := c.ids.NextProducerID()
	if err != nil {
		return NoProducer, fmt.Errorf("%w: next producer id: %w", kerr.CoordinatorNotAvailable, err)
	}
	return Producer{id, 0}, nil
}

// InitProducer gives the producer of a transactional id its id and epoch, and
// fences the one before it, whose transaction is aborted first: meanwhile the
// answer is CONCURRENT_TRANSACTIONS. expected is what the producer has been, or
// [NoProducer].
func (c *Coordinator) InitProducer(ctx context.Context, id string, timeout time.Duration, expected Producer) (Producer, error) {
	if timeout <= 0 || timeout > c.cfg.MaxTimeout {
		return NoProducer, kerr.InvalidTransactionTimeout
	}
	after, err := c.withFreshID(func(fresh int64) (Txn, error) {
		return c.apply(ctx, id, Init{timeout, expected, fresh})
	})
	return after.Producer, err
}

// withFreshID calls step, and again with a producer id that was never used if it
// needs one. The id is not asked for by the goroutine that leads: it may take a
// while.
func (c *Coordinator) withFreshID(step func(fresh int64) (Txn, error)) (Txn, error) {
	after, err := step(-1)
	if !errors.Is(err, errNoFreshID) {
		return after, err
	}
	fresh, err := c.NewProducer()
	if err != nil {
		return Txn{}, err
	}
	return step(fresh.ID)
}

// AddPartitions puts partitions into the producer's transaction, which begins
// with the first. It returns when that is durable: the producer may write then.
// By [V2] the producer has not asked for it, it writes: if its transaction before
// is still ending, the call waits for that for [Config.AddWait], and only then is
// the answer CONCURRENT_TRANSACTIONS.
func (c *Coordinator) AddPartitions(ctx context.Context, id string, v Version, p Producer, partitions []TopicPartition) error {
	e := Add{v, p, partitions}
	_, err := c.apply(ctx, id, e)
	if v < V2 || !errors.Is(err, kerr.ConcurrentTransactions) {
		return err
	}
	if err := c.waitSettled(ctx, id, c.cfg.AddWait); err != nil {
		return err
	}
	_, err = c.apply(ctx, id, e)
	return err
}

// waitSettled returns when the transaction that is ending has its markers, or
// when patience is over.
func (c *Coordinator) waitSettled(ctx context.Context, id string, patience time.Duration) error {
	s, err := c.shard(id)
	if err != nil {
		return err
	}
	var settled <-chan struct{}
	err = s.Do(ctx, func() error {
		if e := s.ids[id]; e != nil {
			settled = e.settled
		}
		return nil
	})
	if err == nil && settled != nil {
		s.await(ctx, settled, patience)
	}
	return err
}

// End commits or aborts the producer's transaction. It returns when the outcome
// is durable, and if it can when the markers are written, with the producer that
// the next transaction is for: another than before by [V2].
func (c *Coordinator) End(ctx context.Context, id string, v Version, p Producer, commit bool) (Producer, error) {
	after, err := c.withFreshID(func(fresh int64) (Txn, error) {
		return c.apply(ctx, id, End{v, p, commit, fresh})
	})
	if err != nil {
		return NoProducer, err
	}
	return after.nextProducer(), nil
}

// Verify says whether partitions are in the producer's ongoing transaction, and
// so certain to get a marker. The caller first opens its partition's guard, and
// appends only if no marker came meanwhile. Errors are the coordinator's; to a
// client of Produce, a Verify that could not be made (not coordinator, loading)
// is NOT_ENOUGH_REPLICAS and PRODUCER_FENCED is INVALID_PRODUCER_EPOCH.
func (c *Coordinator) Verify(ctx context.Context, id string, p Producer, partitions []TopicPartition) error {
	s, err := c.shard(id)
	if err != nil {
		return err
	}
	var next int64
	err = s.Do(ctx, func() error {
		e := s.ids[id]
		if e == nil {
			return kerr.InvalidProducerIDMapping
		}
		next = e.next
		return e.txn.verify(p, partitions)
	})
	if err != nil {
		return err
	}
	return s.Wait(ctx, next)
}

// apply applies an event to a transactional id and returns the state after it,
// when that may be told.
func (c *Coordinator) apply(ctx context.Context, id string, ev Event) (Txn, error) {
	s, err := c.shard(id)
	if err != nil {
		return Txn{}, err
	}
	var after Txn
	var next int64
	var settled <-chan struct{}
	var answer error
	err = s.Do(ctx, func() error {
		e := s.ids[id]
		if e == nil {
			if _, first := ev.(Init); !first {
				return kerr.InvalidProducerIDMapping
			}
			e = &entry{txn: New(id)}
		}
		var err error
		answer, err = s.step(e, time.Now(), ev)
		after, next, settled = e.txn, e.next, e.settled
		return err
	})
	if err != nil {
		return Txn{}, err
	}
	if answer != nil {
		return Txn{}, answer
	}
	if err := s.Wait(ctx, next); err != nil {
		return Txn{}, err
	}
	if _, ends := ev.(End); ends && settled != nil {
		s.await(ctx, settled, c.cfg.EndWait)
	}
	return after, nil
}

// Get returns the state of a transactional id.
func (c *Coordinator) Get(ctx context.Context, id string) (Txn, error) {
	s, err := c.shard(id)
	if err != nil {
		return Txn{}, err
	}
	var t Txn
	err = s.Do(ctx, func() error {
		e := s.ids[id]
		if e == nil {
			return kerr.TransactionalIDNotFound
		}
		t = e.txn
		return nil
	})
	return t, err
}

// List returns the state of all transactional ids of the partitions that are led
// here, in no order. An error says that the list is not whole: a partition is being
// loaded, or is down.
func (c *Coordinator) List(ctx context.Context) ([]Txn, error) {
	shards, missing := c.shards.All()
	var all []Txn
	for _, s := range shards {
		err := s.Do(ctx, func() error {
			for _, e := range s.ids {
				all = append(all, e.txn)
			}
			return nil
		})
		missing = cmp.Or(missing, err)
	}
	return all, missing
}
