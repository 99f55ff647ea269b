//go:build chaos && linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// groups are consumer groups that read the source and commit there every half second,
// one as fast as it can, one that lags behind. Meanwhile it is watched where they
// stand at the destination, which must never go back.
type groups struct {
	t        *testing.T
	from, to *broker
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup
	moves    int // seen
}

// groupPaces are how many records each group reads in a twentieth of a second.
var groupPaces = map[string]int{"quick": 10_000, "slow": 10}

func beginGroups(t *testing.T, from, to *broker, topics []string) *groups {
	t.Helper()
	g := &groups{t: t, from: from, to: to}
	g.ctx, g.stop = context.WithCancel(context.Background())
	for name, pace := range groupPaces {
		cl, err := from.client(kgo.ConsumerGroup(name), kgo.ConsumeTopics(topics...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitInterval(500*time.Millisecond))
		must(t, err)
		g.wg.Go(func() { g.read(name, pace, cl) })
	}
	watcher, err := to.client()
	must(t, err)
	g.wg.Go(func() { g.watch(watcher) })
	t.Cleanup(g.end)
	return g
}

func (g *groups) end() {
	g.stop()
	g.wg.Wait()
}

// read is the member of a group. It commits what it has read before it goes.
func (g *groups) read(name string, pace int, cl *kgo.Client) {
	defer cl.Close()
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for g.ctx.Err() == nil {
		cl.PollRecords(g.ctx, pace) // what is not read is read later
		select {
		case <-every.C:
		case <-g.ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := cl.CommitUncommittedOffsets(ctx); err != nil {
		g.t.Errorf("the last commit of group %s: %v", name, err)
	}
}

// watch looks where the groups stand at the destination, whenever it answers.
func (g *groups) watch(cl *kgo.Client) {
	defer cl.Close()
	every := time.NewTicker(500 * time.Millisecond)
	defer every.Stop()
	last := map[string]int64{}
	for g.ctx.Err() == nil {
		for name := range groupPaces {
			at, _ := kadm.NewClient(cl).FetchOffsets(g.ctx, name) // asked again
			at.Each(func(o kadm.OffsetResponse) {
				part := name + " in " + partName(o.Topic, o.Partition)
				switch before := last[part]; {
				case o.Err != nil:
				case o.At < before:
					g.t.Errorf("group %s goes back from %d to %d at the destination", part, before, o.At)
				case o.At > before:
					g.moves++
					last[part] = o.At
				}
			})
		}
		select {
		case <-every.C:
		case <-g.ctx.Done():
		}
	}
}

// check waits until every group stands at the destination where it stands at the
// source: it has read as many records of the copy as of what was copied. There is no
// waiting for one that would skip some.
func (g *groups) check(from, to *side) {
	g.t.Helper()
	compared := 0
	eventually(g.t, recovery, "groups stand where they stood", func() error {
		compared = 0
		for name := range groupPaces {
			n, err := g.compare(name, from, to)
			if compared += n; err != nil {
				return fmt.Errorf("group %s: %w", name, err)
			}
		}
		return nil
	})
	if g.moves == 0 || compared == 0 {
		g.t.Errorf("groups moved %d times while things were broken, %d positions are compared", g.moves, compared)
	}
	g.t.Logf("%d positions of groups skip and read again nothing; %d moves were seen, none of them back", compared, g.moves)
}

func (g *groups) compare(name string, from, to *side) (positions int, err error) {
	stood, err := g.positions(g.from, name)
	if err != nil {
		return 0, err
	}
	stands, err := g.positions(g.to, name)
	if err != nil {
		return 0, err
	}
	for topic, partitions := range stood {
		for p, at := range partitions {
			moved, ok := stands.Lookup(topic, p)
			if !ok {
				return positions, fmt.Errorf("%s has no position at the destination", partName(topic, p))
			}
			again, skips := apart(from.records[topic][p], at.At, to.records[topic][p], moved.At)
			switch {
			case skips > 0:
				g.t.Errorf("group %s is at %d of %s; at %d of the copy it skips %d records", name, at.At, partName(topic, p), moved.At, skips)
			case again > 0:
				return positions, fmt.Errorf("it is at %d of %s; at %d of the copy it reads %d records again", at.At, partName(topic, p), moved.At, again)
			}
			positions++
		}
	}
	return positions, nil
}

func (g *groups) positions(b *broker, name string) (kadm.OffsetResponses, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cl, err := b.client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	at, err := kadm.NewClient(cl).FetchOffsets(ctx, name)
	return at, errors.Join(err, at.Error())
}

// apart is how many records a group reads again that moves from a position to one in the
// copy, which has the same records in the same order, and how many it skips.
func apart(from []*kgo.Record, at int64, to []*kgo.Record, moved int64) (again, skips int) {
	had, has := below(from, at), below(to, moved)
	return max(0, had-has), max(0, has-had)
}

// below is how many records lie below an offset.
func below(records []*kgo.Record, offset int64) (n int) {
	for _, r := range records {
		if r.Offset < offset {
			n++
		}
	}
	return n
}
