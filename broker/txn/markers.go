package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker/guard"
	"golang.org/x/sync/errgroup"
)

const (
	// concurrentMarkers of one transaction share syncs of their partitions.
	concurrentMarkers = 64
	firstRetry        = 50 * time.Millisecond
	lastRetry         = 2 * time.Second
)

// writeMarkers writes the markers of a transaction whose outcome is recorded
// below next. It returns when every partition has its own or needs none, when
// leadership ends, or with an error when somebody else leads.
func (s *shard) writeMarkers(t Txn, next int64) error {
	// Nobody may see an outcome that a crash could change.
	if err := s.Wait(s.endCtx, next); err != nil {
		if s.endCtx.Err() != nil {
			return nil
		}
		return fmt.Errorf("wait for the outcome of %q: %w", t.ID, err)
	}
	m := Marker{t.Producer, t.State == PrepareCommit, s.epoch}
	g, ctx := errgroup.WithContext(s.endCtx)
	g.SetLimit(concurrentMarkers)
	for _, tp := range t.Sorted() {
		g.Go(func() error {
			return guard.Call(func() error { return s.writeMarker(ctx, t.ID, tp, m) })
		})
	}
	return g.Wait()
}

// writeMarker writes one marker, however often that takes.
func (s *shard) writeMarker(ctx context.Context, id string, tp TopicPartition, m Marker) error {
	delayed := false
	log := s.cfg.Log.With("transactional_id", id, "producer_id", m.Producer.ID, "topic", tp.Topic, "partition", tp.Partition)
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		err := s.partitions.WriteMarker(ctx, tp, m)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.InvalidProducerEpoch):
			log.Warn("transaction marker is not needed", "err", err)
			return nil
		case errors.Is(err, kerr.TransactionCoordinatorFenced):
			return fmt.Errorf("%w: write marker to %s-%d: %w", kerr.NotCoordinator, tp.Topic, tp.Partition, err)
		case retry == lastRetry && !delayed:
			log.Warn("transaction marker is delayed", "err", err)
			delayed = true
		}
		rest(ctx, retry)
	}
}

// rest lets time pass, but not beyond ctx.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
