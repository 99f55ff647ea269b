package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
)

const (
	loadRate   = 6000 // events/s
	loadTime   = 5 * time.Second
	loadTick   = 10 * time.Millisecond
	killAfter  = 1500 * time.Millisecond
	minLoad    = 5000 // less than that is said, not held against the copies
	watchEvery = 25 * time.Millisecond
)

// killUnderLoad writes at a steady rate and meanwhile kills, with SIGKILL, the
// node that owns most copies.
func (s *story) killUnderLoad(ctx context.Context) (string, string, error) {
	cl, err := s.world.us.client(userSensors, "live-feed", kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		return "", "", err
	}
	defer cl.Close()
	before, err := s.api.flow(ctx)
	if err != nil {
		return "", "", err
	}
	load := startLoad(ctx, cl, s.events)
	select {
	case <-time.After(killAfter):
	case <-ctx.Done():
		return "", "", context.Cause(ctx)
	}
	victim := s.world.owner(before)
	killed := time.Now()
	victim.process.kill()
	s.report.Killed = victim.name
	moved, last, err := s.watchMove(ctx, before, victim.name)
	if err != nil {
		return "", "", err
	}
	acked, took, err := load()
	if err != nil {
		return "", "", err
	}
	s.report.Produced += acked
	s.report.LoadPerSecond = int(float64(acked) / took.Seconds())
	s.report.CopiesMoved = moved
	s.report.FailoverSeconds = last.Sub(killed).Seconds()
	if _, err := s.api.lagZero(ctx); err != nil {
		return "", "", err
	}
	source, _, v, err := s.compareTopic(ctx, topicLive)
	if err != nil {
		return "", "", err
	}
	if err := s.checkOwners(ctx, source, before, victim.name); err != nil {
		return "", "", err
	}
	s.check(v.OK(), "us/%s and eu/%s differ after the kill: %+v", topicLive, topicLive, v)
	rate := fmt.Sprintf("%d events/s", s.report.LoadPerSecond)
	if s.report.LoadPerSecond < minLoad {
		rate += fmt.Sprintf(" (this machine took no more of %d)", loadRate)
	}
	return fmt.Sprintf("%s; %s killed, its %d copies went on elsewhere within %.1f s", rate, victim.name, moved, s.report.FailoverSeconds),
		fmt.Sprintf("%d compared: %d missing, %d doubled, %d reordered, %d altered", v.Compared, v.Missing, v.Duplicated, v.Reordered, v.Mismatched+v.Phantom), nil
}

// checkOwners asks the lineage of the last event of each partition that the
// killed node copied: another node's hop must show.
func (s *story) checkOwners(ctx context.Context, source Log, before api.FlowStatus, victim string) error {
	asked := 0
	for _, t := range before.Topics {
		for _, c := range t.Partitions {
			records := source[c.Partition]
			if t.SourceTopic != topicLive || c.Node != victim || len(records) == 0 {
				continue
			}
			by, err := s.api.copiedBy(ctx, records[len(records)-1])
			if err != nil {
				return err
			}
			asked++
			s.check(by != "" && by != victim, "the last event of %s/%d was copied by %q", topicLive, c.Partition, by)
		}
	}
	s.check(asked > 0, "no copy of %s was %s's: the kill put none of what was written at stake", topicLive, victim)
	return nil
}

// startLoad produces until loadTime is over; the returned function waits for
// that and says how many records were acknowledged, and within which time.
func startLoad(ctx context.Context, cl *kgo.Client, events []Event) func() (acked int, took time.Duration, err error) {
	var count, last atomic.Int64 // acknowledgements, and when the last one came
	began := time.Now()
	var failed atomic.Pointer[error]
	done := make(chan struct{})
	go func() { // ends with loadTime or ctx; the caller waits for done
		defer close(done)
		tick := time.NewTicker(loadTick)
		defer tick.Stop()
		for n := 0; time.Since(began) < loadTime; {
			due := int(time.Since(began).Seconds() * loadRate) // catches up when a tick comes late
			for ; n < due; n++ {
				e := events[n%len(events)]
				cl.Produce(ctx, &kgo.Record{
					Topic: topicLive, Key: fmt.Appendf(nil, "%s-%d", e.Key, n%64), Value: e.Value,
					Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Appendf(nil, "%d", n)}},
				}, func(_ *kgo.Record, err error) {
					if err != nil {
						failed.CompareAndSwap(nil, &err)
						return
					}
					count.Add(1)
					last.Store(int64(time.Since(began)))
				})
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() (int, time.Duration, error) {
		<-done
		if err := cl.Flush(ctx); err != nil {
			return 0, 0, fmt.Errorf("produce: %w", err)
		}
		if err := failed.Load(); err != nil {
			return 0, 0, fmt.Errorf("produce: %w", *err)
		}
		return int(count.Load()), max(time.Duration(last.Load()), loadTime), nil
	}
}

// owner is the node that owns most copies of a flow; of several, one with most of
// the topic that is being written.
func (w *world) owner(f api.FlowStatus) *replicator {
	owned, live := map[string]int{}, map[string]int{}
	for _, t := range f.Topics {
		for _, c := range t.Partitions {
			owned[c.Node]++
			if t.SourceTopic == topicLive {
				live[c.Node]++
			}
		}
	}
	return slices.MaxFunc(w.fleet, func(a, b *replicator) int {
		return cmp.Or(cmp.Compare(owned[a.name], owned[b.name]), cmp.Compare(live[a.name], live[b.name]))
	})
}

// watchMove waits until every copy of the killed node has been carried on by
// another one: it has a higher epoch there, and its position has moved on. It
// returns how many there were, and when the last of them was seen to move.
func (s *story) watchMove(ctx context.Context, before api.FlowStatus, victim string) (moved int, last time.Time, err error) {
	type place struct {
		topic     string
		partition int32
	}
	orphans := map[place]uint64{} // -> epoch at the killed node
	for _, t := range before.Topics {
		for _, c := range t.Partitions {
			if c.Node == victim {
				orphans[place{t.SourceTopic, c.Partition}] = c.Epoch
			}
		}
	}
	moved = len(orphans)
	if moved == 0 {
		return 0, last, errors.New("the killed node owned no copy")
	}
	err = poll(ctx, watchEvery, func() (bool, error) {
		now, err := s.api.flow(ctx)
		if err != nil {
			return false, nil //nolint:nilerr // a node was just killed: ask again
		}
		for _, t := range now.Topics {
			for _, c := range t.Partitions {
				epoch, ok := orphans[place{t.SourceTopic, c.Partition}]
				// A copy that has nothing to do is carried on once it says so.
				if ok && c.Node != victim && c.Epoch > epoch && (c.Records > 0 || c.LagRecords == 0) {
					delete(orphans, place{t.SourceTopic, c.Partition})
					last = time.Now()
				}
			}
		}
		return len(orphans) == 0, nil
	})
	if err != nil {
		err = fmt.Errorf("wait for the copies of %s: %w; %d of %d have not moved", victim, err, len(orphans), moved)
	}
	return moved, last, err
}
