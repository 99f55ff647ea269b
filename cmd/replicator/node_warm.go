package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// warmLimit bounds how long a node that has just begun gets nowhere with reading the
// ledgers before it takes work: a cluster that does not answer must not keep it from the
// rest. While it does get on, it reads: a copy that came to it by plan would stand still
// until it has.
const warmLimit = 5 * time.Second

// Why a node takes work before it has read the ledgers.
var (
	errWanted  = errors.New("there is work that nobody does and no other node can be given")
	errStalled = fmt.Errorf("nothing more of them could be read for %s", warmLimit)
)

// followed is a fleet whose states are followed.
type followed interface {
	Barrier(ctx context.Context) error
	Watch(ctx context.Context) iter.Seq2[uint64, *cluster.State]
}

// beforeWork is warm, for a node that has no work yet and does not wait longer than is
// good: not while work waits for it, nor for what does not come.
func (l *ledgers) beforeWork(ctx context.Context, fleet followed, name string) error {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	all.Go(func() {
		if wanted(ctx, fleet, name) {
			end(errWanted)
		}
	})
	all.Go(func() {
		if l.stalls(ctx) {
			end(errStalled)
		}
	})
	if err := l.warm(ctx, fleet.Barrier); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}

// wanted returns true once work waits for a node, false when ctx ends before.
func wanted(ctx context.Context, fleet followed, name string) bool {
	if fleet.Barrier(ctx) != nil { // what was on its disk is of some time ago
		return false
	}
	for _, s := range fleet.Watch(ctx) {
		if s.Wants(name) {
			return true
		}
	}
	return false
}

// stalls returns true once nothing has come of the ledgers for warmLimit, false when ctx
// ends before.
func (l *ledgers) stalls(ctx context.Context) bool {
	ticker := time.NewTicker(warmLimit / 25)
	defer ticker.Stop()
	known := reading{}
	since, most := time.Now(), int64(-1)
	for {
		if got := known.look(l.states()); got > most {
			since, most = time.Now(), got
		}
		if time.Since(since) >= warmLimit {
			return true
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
}

// reading is how far ledgers went when they were seen first, by cluster.id and partition.
// What is written to them since then is not what is waited for.
type reading map[string]map[int32]int64

// look returns how much is read of that, in no unit: it only grows, and not for ever.
func (known reading) look(states map[string]tail.State) (read int64) {
	for id, s := range states {
		if s.Status == tail.Connecting {
			continue
		}
		if known[id] == nil {
			known[id] = map[int32]int64{}
		}
		read++
		for _, p := range s.Partitions {
			if _, seen := known[id][p.Partition]; !seen && p.End > 0 {
				known[id][p.Partition] = p.End
			}
			read += max(0, min(p.Next, known[id][p.Partition]))
		}
	}
	return read
}
