package tail

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Log is one partition of the ledger of a cluster, for those who fold it: it is read from
// one offset up to another, written to and shortened. It is not safe for concurrent use.
type Log struct {
	cfg      LogConfig
	cl       *kgo.Client
	adm      admin
	appended int64 // the offset of the last record that it has written, -1 if none
}

// LogConfig is what a Log needs.
type LogConfig struct {
	// Dial returns a client of the cluster with opts added. The Log closes it.
	Dial func(opts ...kgo.Opt) (*kgo.Client, error)
	// Cluster is the cluster.id that must answer, TopicID the ledger that must be there.
	Cluster   string
	TopicID   ledger.TopicID
	Partition int32
	// Stall is for how long nothing may come of what is read or waited for. 0 is 30 s.
	Stall time.Duration
}

// OpenLog does not connect. The caller closes the Log.
func OpenLog(cfg LogConfig) (*Log, error) {
	if cfg.Stall <= 0 {
		cfg.Stall = 30 * time.Second
	}
	cl, err := cfg.Dial(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()))
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return &Log{cfg: cfg, cl: cl, adm: admin{cl}, appended: -1}, nil
}

// Close ends the Log's connections.
func (l *Log) Close() { l.cl.Close() }

// errStalled says that nothing came.
var errStalled = errors.New("nothing came any more")

// Extent is the log start and the last stable offset. It waits until what the Log has
// appended lies below that: transactions of others may be open before it.
func (l *Log) Extent(ctx context.Context) (start, stable int64, err error) {
	for deadline := time.Now().Add(l.cfg.Stall); ; {
		if err := l.same(ctx); err != nil {
			return 0, 0, err
		}
		// The start is asked for first: it may only be lower than it is by now.
		starts, err := l.adm.offsets(ctx, []int32{l.cfg.Partition}, atStart)
		if err != nil {
			return 0, 0, err
		}
		ends, err := l.adm.offsets(ctx, []int32{l.cfg.Partition}, atStable)
		if err != nil {
			return 0, 0, err
		}
		if start, stable = starts[l.cfg.Partition], ends[l.cfg.Partition]; stable > l.appended {
			return start, stable, nil
		}
		if time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("ledger partition %d is stable up to offset %d, offset %d is waited for: %w", l.cfg.Partition, stable, l.appended, errStalled)
		}
		select {
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// same fails if another ledger is there than was asked for.
func (l *Log) same(ctx context.Context) error {
	now, err := l.adm.layout(ctx)
	switch {
	case err != nil:
		return err
	case now.cluster != l.cfg.Cluster:
		return fmt.Errorf("%w: cluster.id is %q, it was %q", ErrWrongCluster, now.cluster, l.cfg.Cluster)
	case !now.exists:
		return ErrMissing
	case now.topicID != l.cfg.TopicID:
		return fmt.Errorf("%w: topic id is %s, it was %s", ErrRecreated, now.topicID, l.cfg.TopicID)
	}
	return nil
}

// Read gives the committed records from an offset up to another, in order. It fails if
// the log does not begin at from or before it, or does not reach to.
func (l *Log) Read(ctx context.Context, from, to int64, each func(ledger.Stored) error) error {
	if from >= to {
		return nil
	}
	cl, err := l.cfg.Dial(
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(1<<20),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{ledger.Topic: {l.cfg.Partition: kgo.NewOffset().At(from)}}))
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	defer cl.Close()
	for next := from; next < to; {
		bounded, cancel := context.WithTimeout(ctx, l.cfg.Stall)
		fetches := cl.PollFetches(bounded)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, e := range fetches.Errors() {
			if errors.Is(e.Err, context.DeadlineExceeded) {
				e.Err = errStalled
			}
			return fmt.Errorf("read ledger partition %d at offset %d: %w", l.cfg.Partition, next, e.Err)
		}
		for it := fetches.RecordIter(); !it.Done() && next < to; {
			r := it.Next()
			if next = r.Offset + 1; r.Offset >= to || r.Attrs.IsControl() {
				continue
			}
			if err := each(ledger.Stored{Offset: r.Offset, At: r.Timestamp.UTC(), Value: r.Value}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Append writes a page and returns when all replicas in sync have it.
func (l *Log) Append(ctx context.Context, page []byte) error {
	r := &kgo.Record{Topic: ledger.Topic, Partition: l.cfg.Partition, Value: page}
	if err := l.cl.ProduceSync(ctx, r).FirstErr(); err != nil {
		return fmt.Errorf("write to ledger partition %d: %w", l.cfg.Partition, err)
	}
	l.appended = r.Offset
	return nil
}

// Delete deletes the records below an offset.
func (l *Log) Delete(ctx context.Context, below int64) error {
	if err := l.same(ctx); err != nil {
		return err
	}
	adm := kadm.NewClient(l.cl)
	adm.SetTimeoutMillis(int32(deleteLimit.Milliseconds()))
	done, err := adm.DeleteRecords(ctx, kadm.Offsets{ledger.Topic: {l.cfg.Partition: {Topic: ledger.Topic, Partition: l.cfg.Partition, At: below}}})
	if err == nil {
		err = done.Error()
	}
	if err == nil {
		return nil
	}
	why := ""
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		why = "the fleet's user has no right to Delete on topic " + ledger.Topic + ": "
	case errors.Is(err, kerr.PolicyViolation):
		why = "the cluster lets nobody delete there, because of the topic's cleanup.policy, or because it sees no fold that stands for it: "
	case errors.Is(err, kerr.InvalidTopicException), errors.Is(err, kerr.UnsupportedVersion):
		why = "this kind of cluster lets nobody delete there: "
	}
	return fmt.Errorf("delete below offset %d of ledger partition %d: %s%w", below, l.cfg.Partition, why, err)
}

// deleteLimit is how long a deletion may take: a bundled broker reads first what stands for
// what goes.
const deleteLimit = time.Minute
