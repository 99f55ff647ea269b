package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// takeover fences what dead nodes may have left running at a destination. Raft
// ends an incarnation before it gives its copies away, so whoever starts a copy
// finds the lanes that could still write to it listed as ended.
type takeover struct {
	cfg     Config
	metrics *Metrics
	log     *slog.Logger

	mu    sync.Mutex
	turns map[string]chan struct{} // by cluster.id, each with room for one
}

// turn waits until nobody else fences at a destination: doing it twice is
// harmless but slow. A destination that does not answer holds up no other.
func (t *takeover) turn(ctx context.Context, clusterID string) (done func(), err error) {
	t.mu.Lock()
	if t.turns == nil {
		t.turns = map[string]chan struct{}{}
	}
	turn := t.turns[clusterID]
	if turn == nil {
		turn = make(chan struct{}, 1)
		t.turns[clusterID] = turn
	}
	t.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for lanes to be fenced: %w", ctx.Err())
	}
}

// fence returns when every lane of an ended incarnation at the destination is
// fenced and what it left open is committed or aborted for good. say is told
// what it waits for.
func (t *takeover) fence(ctx context.Context, destination *peer, say func(error)) error {
	done, err := t.turn(ctx, destination.id)
	if err != nil {
		return err
	}
	defer done()
	if err := t.recall(ctx, destination); err != nil {
		return err
	}
	lanes, err := t.cfg.Lanes.Ended(ctx, destination.id)
	if err != nil {
		return fmt.Errorf("list lanes of ended incarnations: %w", err)
	}
	if len(lanes) == 0 {
		return nil
	}
	started := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, l := range lanes {
		if l.ProducerEpoch == unfenced {
			continue // it ends with its incarnation
		}
		g.Go(func() error {
			k := &coordinator{
				peer: destination, clientID: t.cfg.ClientID, id: l.TransactionalID, timeout: t.cfg.TransactionTimeout, wait: t.cfg.bounded(coordinatorWait),
				waiting: func(err error) {
					if err != nil {
						say(fmt.Errorf("fence lane %s of an ended incarnation: %w", l.TransactionalID, err))
					}
				},
			}
			defer k.close()
			_, _, err := k.init(gctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("fence lanes of ended incarnations: %w", err)
	}
	if err := t.cfg.Lanes.Fenced(ctx, lanes); err != nil {
		return fmt.Errorf("record fenced lanes: %w", err)
	}
	t.metrics.LanesFenced.Add(int64(len(lanes)))
	t.log.Info("lanes of ended incarnations fenced", "cluster", destination.cluster.Metadata.Name, "lanes", len(lanes), "took", time.Since(started))
	return nil
}

// ownedBy refuses a position that says that somebody else owns the copy.
func ownedBy(p Position, cfg *Config, epoch uint64) error {
	switch {
	case !p.Exists:
		return nil
	case p.Fleet != "" && p.Fleet != cfg.Fleet:
		return fmt.Errorf("%w: %s", errClaimed, p.Fleet)
	case p.Epoch > epoch:
		return fmt.Errorf("%w: %d, this node has %d", errSuperseded, p.Epoch, epoch)
	}
	return nil
}

// numbers hands out the last part of transactional ids, least first, so that a
// flow that is started again uses the ids it had: what raft remembers of an
// incarnation stays small.
type numbers struct {
	mu   sync.Mutex
	used map[string]map[int]bool // by cluster.id
}

func (n *numbers) take(clusterID string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.used == nil {
		n.used = map[string]map[int]bool{}
	}
	if n.used[clusterID] == nil {
		n.used[clusterID] = map[int]bool{}
	}
	for i := 0; ; i++ {
		if !n.used[clusterID][i] {
			n.used[clusterID][i] = true
			return i
		}
	}
}

func (n *numbers) give(clusterID string, i int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.used[clusterID], i)
}

// laneID is the transactional id of lane n. It names the incarnation, so that no
// two incarnations of a node ever share one. foundLane reads it.
func laneID(cfg *Config, clusterID string, n int) string {
	return fmt.Sprintf("waybill.%s.%s.%d.%s.%d", cfg.Fleet, cfg.Node, cfg.Incarnation, clusterID, n)
}
