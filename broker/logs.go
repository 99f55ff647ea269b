package broker

import (
	"context"
	"errors"
	"iter"
	"path/filepath"
	"strconv"
	"time"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/replica"
)

// tendInterval is how often logs are synced that need not be at once, and how
// exact flush.ms is.
const tendInterval = time.Second

const (
	minOpenFiles = 64
	maxOpenFiles = 4096 // a file that is opened again costs some microseconds
)

// logShare is what the logs of all topics have in common.
type logShare struct {
	syncs   *commitlog.SyncGate
	files   *commitlog.Files
	observe commitlog.Observer
}

func (b *Broker) logShare() logShare {
	return logShare{syncs: b.syncs, files: b.files, observe: logObserver{b}}
}

// logObserver tells the operator what became of a log, once for every change.
type logObserver struct{ b *Broker }

func (o logObserver) LogChanged(dir string, h commitlog.Health, cause error) {
	b := o.b
	about := []any{"dir", dir}
	var id controller.TopicID
	if id.UnmarshalText([]byte(filepath.Base(filepath.Dir(dir)))) == nil {
		if t := b.topics.Load(); t != nil && t.byID[id] != nil {
			n, _ := strconv.Atoi(filepath.Base(dir)) // the broker named the directory
			about = append(about, "topic", t.byID[id].Name, "partition", n)
		}
	}
	switch h {
	case commitlog.Healthy:
		b.log.Info("log takes records again", about...)
	case commitlog.Full:
		b.metrics.LogsFilledUp.Add(1)
		b.log.Error("disk is full: records are refused until it has room, reads go on", append(about, "err", cause)...)
	case commitlog.Offline:
		b.metrics.LogsFailed.Add(1)
		b.log.Error("log is offline after a failed write: records are refused until the broker is started again, reads go on", append(about, "err", cause)...)
	}
}

// partitions yields every partition there is.
func (b *Broker) partitions() iter.Seq[*replica.Partition] {
	return func(yield func(*replica.Partition) bool) {
		for _, t := range b.topics.Load().byName {
			for _, p := range t.partitions {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// retain deletes what retention lets go.
func (b *Broker) retain(ctx context.Context) error {
	return b.everyPartition(ctx, b.cfg.RetentionInterval, "retention", func(p *replica.Partition, now time.Time) error { return p.Retain(now) })
}

// tend syncs what need not be synced at once, and notes how far logs are known.
func (b *Broker) tend(ctx context.Context) error {
	return b.everyPartition(ctx, tendInterval, "tend log", func(p *replica.Partition, now time.Time) error { return p.Tend(ctx, now) })
}

func (b *Broker) everyPartition(ctx context.Context, interval time.Duration, doing string, do func(*replica.Partition, time.Time) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for p := range b.partitions() {
				err := do(p, now)
				if ctx.Err() != nil {
					return nil
				}
				// What makes a log refuse writes has been told by it.
				if err != nil && !errors.Is(err, commitlog.ErrClosed) && !errors.Is(err, commitlog.ErrOffline) && !errors.Is(err, commitlog.ErrFull) {
					b.log.Error("log maintenance", "doing", doing, "partition", p.String(), "err", err)
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// compact compacts the logs that need it, one at a time, the one that needs it
// most first.
func (b *Broker) compact(ctx context.Context) error {
	cleaner := &commitlog.Cleaner{Memory: b.cfg.CleanerMemory, BytesPerSecond: b.cfg.CleanerBytesPerSecond}
	tick := time.NewTicker(b.cfg.CleanerInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		tried := map[*replica.Partition]bool{}
		for {
			p := b.dirtiest(time.Now(), tried)
			if p == nil || ctx.Err() != nil {
				break
			}
			tried[p] = !b.compactOne(ctx, cleaner, p)
		}
	}
}

// dirtiest is the partition that it is most worth to compact, nil if none is.
func (b *Broker) dirtiest(now time.Time, except map[*replica.Partition]bool) *replica.Partition {
	var worst *replica.Partition
	var ratio float64
	for p := range b.partitions() {
		if except[p] {
			continue
		}
		d, due := p.Dirt(now)
		r := d.Ratio()
		if d.Overdue {
			r++ // before all those that are only large
		}
		if due && (worst == nil || r > ratio) {
			worst, ratio = p, r
		}
	}
	return worst
}

// compactOne makes a pass, and says whether another one may follow at once.
func (b *Broker) compactOne(ctx context.Context, cleaner *commitlog.Cleaner, p *replica.Partition) (more bool) {
	begun := time.Now()
	done, err := p.Compact(ctx, cleaner, begun)
	b.metrics.CompactedBytes.Add(done.Before)
	b.metrics.CompactionFreedBytes.Add(done.Before - done.After)
	switch {
	case ctx.Err() != nil || errors.Is(err, commitlog.ErrClosed) || errors.Is(err, commitlog.ErrFull):
		return false
	case err != nil:
		b.log.Error("log is not compacted any more until the broker is started again", "partition", p.String(), "err", err)
		return false
	}
	b.log.Debug("log compacted", "partition", p.String(), "upTo", done.FirstDirty, "keys", done.Keys, "before", done.Before, "after", done.After, "took", time.Since(begun))
	return done.More
}
