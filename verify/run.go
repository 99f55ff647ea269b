package verify

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Cluster is one end of the copies.
type Cluster interface {
	// Reader reads a partition of a life of a topic, and of no other one.
	Reader(topic string, id ledger.TopicID, partition int32) Reader
	// Settings are what a topic's configuration says of its log.
	Settings(ctx context.Context, topic string) (Settings, error)
}

// Settings of a topic.
type Settings struct {
	Compacts bool // its cleaner removes records
	Mirror   bool // it is, or was, a mirror topic
}

// Config is what a Run needs.
type Config struct {
	Source, Destination Cluster
	// SourceName is what the source is called where it is declared.
	SourceName string
	Entries    Entries
	// BytesPerSecond bounds what is read of both sides together, 0 for no limit. It
	// is asked again for each response. nil: no limit.
	BytesPerSecond func() int64
	// Parallel is how many copies are compared at a time; 0 is 4.
	Parallel int
	// MaxDecode bounds one decompressed batch, in bytes; 0 is 128 MiB, which is what
	// a copy decodes at most.
	MaxDecode int
	// Every is how often progress is saved; 0 is 2 s.
	Every time.Duration
	// Save keeps progress that has changed. An error ends the run.
	Save func(ctx context.Context, changed []Progress) error
	// Patience is how long a cluster that does not answer, or a transaction that is
	// open, is waited for before a copy is left; 0 is 30 s.
	Patience time.Duration
}

func (c Config) withDefaults() Config {
	if c.Parallel <= 0 {
		c.Parallel = 4
	}
	if c.MaxDecode <= 0 {
		c.MaxDecode = 128 << 20
	}
	if c.Every <= 0 {
		c.Every = 2 * time.Second
	}
	if c.Patience <= 0 {
		c.Patience = 30 * time.Second
	}
	if c.BytesPerSecond == nil {
		c.BytesPerSecond = func() int64 { return 0 }
	}
	return c
}

// Run compares copies.
type Run struct {
	cfg   Config
	pace  *pace
	large chan struct{} // holds a token while a copy opens a large batch
	local *localLedger

	mu       sync.Mutex
	progress []Progress
	changed  map[int]bool
	listed   int // differences in words
}

// NewRun returns a Run.
func NewRun(cfg Config) *Run {
	cfg = cfg.withDefaults()
	return &Run{cfg: cfg, pace: &pace{rate: cfg.BytesPerSecond}, large: make(chan struct{}, 1), changed: map[int]bool{}, local: &localLedger{cluster: cfg.SourceName, entries: cfg.Entries}}
}

// Do compares copies, each from where its progress says, until all are done or ctx
// ends. What was compared is saved also then, as far as that is possible. It returns
// the progress of all, in their order, and an error only if ctx has ended or
// progress cannot be saved: what else goes wrong is a copy's own problem.
func (r *Run) Do(ctx context.Context, copies []Copy, from []Progress) ([]Progress, error) {
	r.progress = append([]Progress(nil), from...)
	for i := range r.progress {
		r.listed += len(r.progress[i].First)
	}
	saving, stop := context.WithCancel(ctx)
	g, work := errgroup.WithContext(saving)
	g.Go(func() error { return r.saveNowAndThen(work) })
	g.Go(func() error {
		defer stop()
		var workers errgroup.Group
		workers.SetLimit(r.cfg.Parallel)
		for i, c := range copies {
			if r.progress[i].Done || work.Err() != nil {
				continue
			}
			workers.Go(func() error {
				r.copy(work, i, c)
				return nil
			})
		}
		return workers.Wait()
	})
	err := g.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSave)
	defer cancel()
	return r.progress, errors.Join(ctx.Err(), err, r.save(last))
}

// lastSave bounds the saving of what was done when a run is told to end.
const lastSave = 2 * time.Second

func (r *Run) saveNowAndThen(ctx context.Context) error {
	ticker := time.NewTicker(r.cfg.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := r.save(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// save keeps what has changed since it was saved last.
func (r *Run) save(ctx context.Context) error {
	r.mu.Lock()
	var changed []Progress
	for i := range r.progress {
		if r.changed[i] {
			changed = append(changed, r.progress[i])
		}
	}
	clear(r.changed)
	r.mu.Unlock()
	if len(changed) == 0 {
		return nil
	}
	if err := r.cfg.Save(ctx, changed); err != nil {
		return fmt.Errorf("save progress: %w", err)
	}
	return nil
}

// put is the new progress of copy i.
func (r *Run) put(i int, p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listed += len(p.First) - len(r.progress[i].First)
	r.progress[i], r.changed[i] = p, true
}

// room is how many more differences may be listed.
func (r *Run) room() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(0, keepOfRun-r.listed)
}

// copy compares one copy to its end, however often a cluster fails meanwhile, as
// long as it gets on.
func (r *Run) copy(ctx context.Context, i int, c Copy) {
	wait := minRetry
	since := time.Now()
	for {
		before := r.progress[i].Next
		err := r.attempt(ctx, i, c)
		if err == nil || ctx.Err() != nil {
			return
		}
		if r.progress[i].Next > before {
			since, wait = time.Now(), minRetry
		}
		if sourceIsGone(err) && time.Since(since) > min(r.cfg.Patience, goneAfter) {
			if err = r.gone(i, c); err == nil {
				return
			}
		}
		var frame *FrameError
		if errors.As(err, &frame) || time.Since(since) > r.cfg.Patience {
			p := r.progress[i]
			p.Done, p.Problem = true, err.Error()
			if frame != nil {
				p.add(&Tally{Different: 1, First: []Difference{r.unreadable(c, p, err)}}, keepOfCopy)
			}
			r.put(i, p)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRetry)
	}
}

// goneAfter is for how long a topic must not be found: a broker that has just started
// may not know it yet.
const goneAfter = 5 * time.Second

// sourceIsGone says that the source does not have the topic any more, or another one
// of its name.
func sourceIsGone(err error) bool {
	var at *endError
	return errors.As(err, &at) && at.end == "source" && (errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition))
}

// gone ends the comparison of a copy whose source topic is gone: nothing of it can be
// compared any more.
func (r *Run) gone(i int, c Copy) error {
	p := r.progress[i]
	for p.Next < p.Until {
		hops, err := r.cfg.Entries.Hops(c.ID.Key(), p.Next, hopsAtOnce)
		if err != nil {
			return fmt.Errorf("read the ledger: %w", err)
		}
		if len(hops) == 0 {
			break
		}
		var t Tally
		for _, h := range hops {
			for _, run := range h.Runs {
				if run, ok := behind(run, p.Next); ok {
					t.notComparable(GoneAtSource, run.Count)
				}
			}
			for _, g := range h.Gaps {
				if n := g.Source + g.Count - max(g.Source, p.Next); n > 0 {
					t.gap(g.Reason, n)
					t.unchecked(Unchecked{Why: DeletedAtSource}, n)
				}
			}
		}
		p.add(&t, keepOfCopy)
		p.Next = min(hops[len(hops)-1].Next, p.Until)
	}
	p.Next, p.Destination, p.Done = p.Until, -1, true // the destination was not read
	r.put(i, p)
	return nil
}

// Between attempts to go on with a copy.
const (
	minRetry = 250 * time.Millisecond
	maxRetry = 5 * time.Second
)

// unreadable is the difference of a log that cannot be read on.
func (r *Run) unreadable(c Copy, p Progress, err error) Difference {
	return Difference{
		Kind: Damaged, SourceTopic: c.SourceTopic, DestinationTopic: c.DestinationTopic, Partition: c.ID.Source.Partition,
		Source: p.Next, Destination: p.Destination, Count: 1, What: err.Error(),
	}
}

// attempt goes on with a copy until it is done or something fails.
func (r *Run) attempt(ctx context.Context, i int, c Copy) error {
	p := r.progress[i]
	cmp, err := r.comparison(ctx, c, true)
	if err != nil {
		return err
	}
	for p.Next < p.Until {
		hops, err := r.cfg.Entries.Hops(c.ID.Key(), p.Next, hopsAtOnce)
		if err != nil {
			return fmt.Errorf("read the ledger: %w", err)
		}
		if len(hops) == 0 {
			// It has taken back what it said, or never said it.
			if _, next, _, _ := r.cfg.Entries.Extent(c.ID.Key()); next < p.Until {
				p.Until = max(next, p.Next)
				p.Done = p.Next >= p.Until
				r.put(i, p)
				continue
			}
			hops = append(hops, &ledger.Hop{From: p.Until, Next: p.Until})
		}
		for _, h := range hops {
			if p.Next >= p.Until {
				break
			}
			if h.From >= p.Until {
				h = &ledger.Hop{From: p.Until, Next: p.Until}
			}
			if ok, err := cmp.destination.shows(ctx, writtenTo(h)); err != nil {
				return &endError{"destination", err}
			} else if !ok {
				return errHeld
			}
			// A copy that preserves offsets is ahead of the source's transactions.
			if ok, err := cmp.source.shows(ctx, min(h.Next, p.Until)); err != nil {
				return &endError{"source", err}
			} else if !ok {
				return errHeld
			}
			if first := writtenFrom(h, p.Next); first >= 0 && first < p.Destination {
				// Something was taken back and copied again: cursors do not go back.
				if cmp, err = r.comparison(ctx, c, true); err != nil {
					return err
				}
				p.Destination = -1
			}
			cmp.keep = min(keepOfCopy, r.room())
			tally, dest, err := cmp.hop(ctx, h, p.Next, p.Destination)
			if errors.Is(err, errTooLarge) {
				tally, dest, err = r.alone(ctx, c, h, p)
			}
			if err != nil {
				return err
			}
			if tally.Different > 0 && !r.stands(c, h, p.Next) {
				return errTakenBack
			}
			p.add(&tally, keepOfCopy)
			p.Next, p.Destination = min(h.Next, p.Until), dest
			p.Done = p.Next >= p.Until
			r.put(i, p)
		}
	}
	return nil
}

// errHeld says that the destination does not show yet what the ledger says was
// written. A commit marker may come later than the ledger's.
var errHeld = errors.New("a transaction that is open at the destination holds back what was copied")

// errTakenBack says that the ledger has taken a hop back while it was compared: what
// it says now is compared instead.
var errTakenBack = errors.New("the ledger takes back what it said")

// stands says whether the ledger still has a hop, so that what differs from it counts.
// One that was made up stands for what the ledger does not say.
func (r *Run) stands(c Copy, h *ledger.Hop, next int64) bool {
	now, err := r.cfg.Entries.Hops(c.ID.Key(), next, 1)
	return err != nil || len(h.Runs)+len(h.Gaps) == 0 || len(now) == 1 && reflect.DeepEqual(now[0], h)
}

const hopsAtOnce = 64

// writtenTo is the destination offset after the last record of a hop.
func writtenTo(h *ledger.Hop) int64 {
	if len(h.Runs) == 0 {
		return 0
	}
	last := h.Runs[len(h.Runs)-1]
	return last.Destination + last.Count
}

// smallDecode bounds one decompressed batch of a comparison beside others: brokers
// take batches of a megabyte by default, and what they compress to that seldom has
// eight times as much.
const smallDecode = 8 << 20

// alone compares a hop with large batches, one copy at a time.
func (r *Run) alone(ctx context.Context, c Copy, h *ledger.Hop, p Progress) (Tally, int64, error) {
	select {
	case <-ctx.Done():
		return Tally{}, 0, ctx.Err()
	case r.large <- struct{}{}:
	}
	defer func() { <-r.large }()
	cmp, err := r.comparison(ctx, c, false)
	if err != nil {
		return Tally{}, 0, err
	}
	cmp.keep = min(keepOfCopy, r.room())
	return cmp.hop(ctx, h, p.Next, p.Destination)
}

// writtenFrom is the destination offset of the first record of a hop from a source
// offset on, -1 if it has none.
func writtenFrom(h *ledger.Hop, from int64) int64 {
	for _, run := range h.Runs {
		if run, ok := behind(run, from); ok {
			return run.Destination
		}
	}
	return -1
}

func (r *Run) comparison(ctx context.Context, c Copy, small bool) (*comparison, error) {
	limit := r.cfg.MaxDecode
	if small {
		limit = min(limit, smallDecode)
	}
	source, err := r.cfg.Source.Settings(ctx, c.SourceTopic)
	if err != nil {
		return nil, &endError{"source", err}
	}
	destination, err := r.cfg.Destination.Settings(ctx, c.DestinationTopic)
	if err != nil {
		return nil, &endError{"destination", err}
	}
	cursorOf := func(cluster Cluster, topic string, end ledger.End) *cursor {
		return &cursor{reader: paced{cluster.Reader(topic, end.TopicID, end.Partition), r.pace}, maxDecode: limit}
	}
	cmp := &comparison{
		small: small,
		copy:  c, entries: r.cfg.Entries, local: r.local, sourceCompacts: source.Compacts, destinationCompacts: destination.Compacts, sourceMirrors: source.Mirror,
		source:      cursorOf(r.cfg.Source, c.SourceTopic, c.ID.Source),
		destination: cursorOf(r.cfg.Destination, c.DestinationTopic, c.ID.Destination),
		aside: func(q *ledger.Quarantine) *cursor {
			return cursorOf(r.cfg.Destination, q.Topic, ledger.End{TopicID: q.TopicID, Partition: q.Partition})
		},
	}
	cmp.source.exact, cmp.destination.exact = cmp.exact(), cmp.exact()
	return cmp, nil
}
