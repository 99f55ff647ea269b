//go:build chaos && linux

package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// pauses watches the copies at the destination, from outside: how long each
// partition has nothing new for a read_committed reader while producers write into
// all of them.
type pauses struct {
	mu    sync.Mutex
	parts map[string]*pauseOf
	err   error // of the last look
}

// pauseOf is one partition.
type pauseOf struct {
	end   int64
	since time.Time // when it last grew, or was begun to be measured
	grown bool      // since then
	worst time.Duration
}

func watchPauses(t *testing.T, b *broker, topics []string) *pauses {
	t.Helper()
	p := &pauses{parts: make(map[string]*pauseOf)}
	cl, err := b.client()
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		adm := kadm.NewClient(cl)
		for {
			listed, err := adm.ListCommittedOffsets(ctx, topics...)
			p.note(listed, err, time.Now())
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		cl.Close()
	})
	return p
}

func (p *pauses) note(listed kadm.ListedOffsets, err error, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err = err; err != nil {
		return
	}
	listed.Each(func(o kadm.ListedOffset) {
		if o.Err != nil {
			return
		}
		key := partName(o.Topic, o.Partition)
		part := p.parts[key]
		if part == nil {
			part = &pauseOf{since: now}
			p.parts[key] = part
		}
		if o.Offset > part.end {
			part.worst = max(part.worst, now.Sub(part.since))
			part.end, part.since, part.grown = o.Offset, now, true
		}
	})
}

// begin measures from now on.
func (p *pauses) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, part := range p.parts {
		part.since, part.grown, part.worst = now, false, 0
	}
}

// unfinished says which partition has had nothing new since begin: how long it pauses
// is not known yet.
func (p *pauses) unfinished() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, part := range p.parts {
		if !part.grown {
			return fmt.Errorf("nothing new in %s: %w", name, cmp.Or(p.err, errors.New("its end is the same")))
		}
	}
	return nil
}

// longest is the longest pause of any partition since begin.
func (p *pauses) longest() (worst time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range p.parts {
		worst = max(worst, part.worst)
	}
	return worst
}

// of is the longest pause since begin of each of some partitions.
func (p *pauses) of(parts []string) (worst []time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range parts {
		if part := p.parts[name]; part != nil {
			worst = append(worst, part.worst)
		}
	}
	return worst
}

func partName(topic string, partition int32) string { return fmt.Sprintf("%s/%d", topic, partition) }
