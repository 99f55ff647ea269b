package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// tickInterval is how often a flow looks at its copies without being told to.
const tickInterval = 250 * time.Millisecond

// flowRun runs the copies of one flow that this node owns: it keeps the views of
// both clusters fresh, starts and stops copiers, and owns the goroutines of the
// flow's fetchers and lanes.
type flowRun struct {
	cfg      Config
	name     string
	spec     *flow.ReplicationFlow
	takeover *takeover
	numbers  *numbers
	metrics  *Metrics
	log      *slog.Logger
	budget   *budget
	pace     *pace
	kick     chan struct{}
	gone     func() // called when a copier has stopped for good; must not block

	source, destination *peer
	inquirer            *inquirer
	locals              *locals
	lanes               []*lane // touched by the loop alone
	addLane             func() *lane
	appender            *appender // nil until a copy preserves offsets
	addAppender         func() *appender
	settings            topicSettings  // of the destination
	ledgerID            ledger.TopicID // of the destination's ledger, as first seen
	rules               *rules
	start               starter
	guard               guard
	hangings            hangings
	fetchers            map[reading]*fetcher
	routed              routed
	unsettled           atomic.Bool // some copiers may have to be started
	starts              atomic.Int64
	lives               lives

	mu         sync.Mutex
	want       map[flow.TopicPartition]Assignment
	wantNew    bool // want has been replaced since the copiers were held against it
	leaving    int  // copiers that are to stop and have not
	copiers    map[flow.TopicPartition]*copier
	population uint64 // counts the changes of copiers
	trouble    trouble
}

// routed is from what copiers were given to fetchers: ten thousand are not looked at
// anew four times a second.
type routed struct {
	view       *view
	population uint64
	leaderless bool // some had no leader
}

// lives is for what copies were last found to be of the topics that they began with.
type lives struct {
	source, destination *view
	starts              int64
}

func newFlowRun(cfg Config, a Assignment, memory *budget, t *takeover, n *numbers, m *Metrics) *flowRun {
	if n := a.Spec.Spec.Limits.Lanes; n > 0 {
		cfg.LanesPerFlow, cfg.MaxLanesPerFlow = n, n
	}
	if d := a.Spec.Spec.Limits.CommitInterval.Std(); d > 0 {
		cfg.CommitInterval, cfg.MaxCommitInterval = d, max(d, cfg.MaxCommitInterval)
	}
	f := &flowRun{
		cfg: cfg, name: a.Flow, spec: a.Spec, takeover: t, numbers: n, metrics: m, log: cfg.Log.With("flow", a.Flow),
		budget: memory, pace: newPace(), kick: make(chan struct{}, 1),
		fetchers: map[reading]*fetcher{}, copiers: map[flow.TopicPartition]*copier{},
	}
	f.source = &peer{cluster: a.Source, poke: f.poke}
	f.destination = &peer{cluster: a.Destination, poke: f.poke}
	f.inquirer, f.locals = newInquirer(cfg.Origins, f.source, &mirrorTopics{source: f.source, clientID: cfg.ClientID}), newLocals()
	return f
}

func (f *flowRun) poke() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// restless says that a copier is not what it was.
func (f *flowRun) restless() {
	f.unsettled.Store(true)
	f.poke()
}

// assign replaces what the flow is to copy.
func (f *flowRun) assign(list []Assignment) {
	want := make(map[flow.TopicPartition]Assignment, len(list))
	for _, a := range list {
		want[flow.TopicPartition{Topic: a.SourceTopic, Partition: a.Partition}] = a
	}
	f.mu.Lock()
	f.want, f.wantNew = want, true
	f.mu.Unlock()
	f.pace.set(paceOf(list))
	f.poke()
}

// empty says that the flow has no copy, and is to have none.
func (f *flowRun) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.want) == 0 && len(f.copiers) == 0
}

// holds says that the flow has a copier for an assignment, which may still write.
func (f *flowRun) holds(a *Assignment) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.copiers[flow.TopicPartition{Topic: a.SourceTopic, Partition: a.Partition}]
	return c != nil && c.a.Epoch == a.Epoch
}

// say publishes what the flow waits for, nil when for nothing.
func (f *flowRun) say(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := troubleOf(err)
	if t.reason != "" && t.reason != f.trouble.reason {
		f.log.Warn("flow waits", "reason", t.reason)
	}
	f.trouble = t
}

// run runs the flow until the context ends, or until this node is fenced.
func (f *flowRun) run(ctx context.Context) error {
	defer f.closeClients()
	if err := f.reach(ctx); err != nil {
		return nil // the context has ended
	}
	f.settings = topicSettings{peer: f.destination}
	g, gctx := errgroup.WithContext(ctx)
	f.addLane = func() *lane {
		n := f.numbers.take(f.destination.id)
		plain, id := f.spec.Spec.Delivery == flow.DeliveryAtLeastOnce, laneID(&f.cfg, f.destination.id, n)
		if plain {
			id = ledger.PlainLane(id)
		}
		l := newLane(f.cfg, id, plain, f.destination, f.metrics, f.log)
		g.Go(func() error {
			defer f.numbers.give(f.destination.id, n)
			return l.run(gctx)
		})
		return l
	}
	g.Go(func() error { return f.inquirer.run(gctx) })
	f.addAppender = func() *appender {
		a := newAppender(f.cfg, f.source, f.destination, f.metrics, f.log)
		g.Go(func() error { return a.run(gctx) })
		return a
	}
	g.Go(func() error { return f.loop(gctx, g) })
	err := g.Wait()
	if errors.Is(err, ErrFenced) {
		return err
	}
	return nil
}

func (f *flowRun) closeClients() {
	f.inquirer.mirrors.close()
	for _, p := range []*peer{f.source, f.destination} {
		if p.client != nil {
			p.client.Close()
		}
	}
}

// reach identifies both clusters and sees to the ledger. It tries until the
// context ends.
func (f *flowRun) reach(ctx context.Context) error {
	wait := backoff{min: 200 * time.Millisecond, max: 10 * time.Second}
	for {
		err := f.tryReach(ctx)
		if err == nil {
			f.say(nil)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.say(err)
		if err := wait.sleep(ctx); err != nil {
			return err
		}
	}
}

func (f *flowRun) tryReach(ctx context.Context) (err error) {
	for _, p := range []*peer{f.source, f.destination} {
		if p.client == nil {
			if p.client, err = kafka.NewClient(p.cluster, f.cfg.ClientID); err != nil {
				return err
			}
		}
		if p.id == "" {
			if p.id, err = kafka.Identify(ctx, p.cluster, p.client); err != nil {
				return err
			}
		}
	}
	if f.source.id == f.destination.id {
		return fmt.Errorf("source and destination are the same cluster (cluster.id %s)", f.source.id)
	}
	if err := ensureLedger(ctx, f.destination); err != nil {
		return err
	}
	if f.rules, err = newRules(f.spec.Spec.Records); err != nil {
		return fmt.Errorf("%w: %w", errRules, err)
	}
	if f.rules.aside() {
		if err := ensureQuarantine(ctx, f.destination, f.spec.Spec.Records.Quarantine); err != nil {
			return err
		}
	}
	return f.refresh(ctx) // lanes and fetchers find a view from the start
}

// loop keeps the copies of the flow as they are wanted.
func (f *flowRun) loop(ctx context.Context, g *errgroup.Group) error {
	tick := time.NewTicker(f.cfg.tick())
	defer tick.Stop()
	for {
		f.step(ctx, g)
		select {
		case <-f.kick:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *flowRun) step(ctx context.Context, g *errgroup.Group) {
	joined := f.reconcile()
	if joined || f.source.isStale(f.cfg.MetadataInterval) || f.destination.isStale(f.cfg.MetadataInterval) {
		if err := f.refresh(ctx); err != nil {
			if ctx.Err() == nil {
				f.say(err)
			}
			return
		}
		f.say(nil)
		f.checkLives()
	}
	f.route(ctx, g)
	f.start.kick(ctx, g, f)
	f.guard.kick(ctx, g, f)
	f.hangings.kick(ctx, g, f)
}

// reconcile stops copiers that are not wanted, forgets those that have stopped,
// and makes new ones. joined says that there are new ones.
func (f *flowRun) reconcile() (joined bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.wantNew && f.leaving == 0 {
		return false
	}
	f.wantNew, f.leaving = false, 0
	for tp, c := range f.copiers {
		if a, ok := f.want[tp]; ok && a.Epoch == c.a.Epoch && a.DestinationTopic == c.a.DestinationTopic {
			continue
		}
		if !c.stop() {
			f.leaving++
		} else {
			delete(f.copiers, tp)
			f.population++
			c.readBy(nil)
			c.writer.leave()
			f.gone()
		}
	}
	for tp, a := range f.want {
		if f.copiers[tp] != nil {
			continue
		}
		c := newCopier(a, f.restless, f.metrics)
		c.backoff, c.refusals = f.cfg.bounded(c.backoff), f.cfg.bounded(c.refusals)
		f.unsettled.Store(true)
		c.hangingAfter, c.stallNoted = f.cfg.HangingAfter, f.cfg.StallNoted
		if c.whole.on {
			if f.appender == nil {
				f.appender = f.addAppender()
			}
			f.appender.load++
			c.writer = f.appender
		} else {
			c.writer = f.pickLane()
		}
		f.copiers[tp] = c
		f.population++
		joined = true
	}
	return joined
}

// pickLane is the lane with the fewest copies. There is another one while there
// are fewer than LanesPerFlow, and while all are full and there may be more.
func (f *flowRun) pickLane() *lane {
	var best *lane
	for _, l := range f.lanes {
		if best == nil || l.load < best.load {
			best = l
		}
	}
	if n := len(f.lanes); n < f.cfg.LanesPerFlow || best.load >= f.cfg.CopiesPerLane && n < f.cfg.MaxLanesPerFlow {
		best = f.addLane()
		f.lanes = append(f.lanes, best)
	}
	best.load++
	return best
}

// refresh reads the metadata of every topic on both sides.
func (f *flowRun) refresh(ctx context.Context) error {
	f.mu.Lock()
	want := f.want // replaced, never changed
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	sources, destinations := map[string]bool{}, map[string]bool{ledger.Topic: true}
	if f.rules.aside() {
		destinations[f.spec.Spec.Records.Quarantine] = true
	}
	for _, a := range want {
		sources[a.SourceTopic] = true
		destinations[a.DestinationTopic] = true
	}
	if err := f.source.refresh(ctx, slices.Sorted(maps.Keys(sources))); err != nil {
		return err
	}
	return f.destination.refresh(ctx, slices.Sorted(maps.Keys(destinations)))
}

// checkLives stops copies whose topics have been created anew: what a copy's
// offsets mean belongs to one life of both topics.
// So does what the ledger says: into another one nothing is written that goes on
// from what only the first one knows.
func (f *flowRun) checkLives() {
	now := lives{f.source.view(), f.destination.view(), f.starts.Load()}
	if now == f.lives {
		return
	}
	f.lives = now
	var lost error
	switch id := now.destination.topic(ledger.Topic).id; {
	case id == (ledger.TopicID{}):
	case f.ledgerID == (ledger.TopicID{}):
		f.ledgerID = id
	case f.ledgerID != id:
		lost = fmt.Errorf("cluster %s: %w: its topic id is %v, it was %v", f.destination.cluster.Metadata.Name, errOtherLedger, id, f.ledgerID)
	}
	f.unsettled.Store(true)
	for _, c := range f.snapshot() {
		c.checkLife(now.source, now.destination, lost)
	}
}

func (f *flowRun) snapshot() []*copier {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.copiers))
}

// route sees to it that each copier has a fetcher: that of the broker that leads its
// source partition, for what is read there.
func (f *flowRun) route(ctx context.Context, g *errgroup.Group) {
	v := f.source.view()
	f.mu.Lock()
	now := routed{view: v, population: f.population}
	f.mu.Unlock()
	if now == f.routed {
		return
	}
	for _, c := range f.snapshot() {
		leader, _, err := v.leader(c.a.SourceTopic, c.a.Partition)
		if err != nil {
			c.sourceTrouble(err)
			f.source.markStale()
			now.leaderless = true
			continue
		}
		at := reading{leader, c.whole.on}
		fe := f.fetchers[at]
		if fe == nil {
			fe = newFetcher(f, at)
			f.fetchers[at] = fe
			g.Go(func() error { return fe.run(ctx) })
		}
		c.readBy(fe.wishes)
	}
	f.routed = now
}

func (f *flowRun) status(now time.Time) []CopyStatus {
	f.mu.Lock()
	trouble, want := f.trouble, f.want
	copiers := maps.Clone(f.copiers)
	f.mu.Unlock()
	var out []CopyStatus
	for tp, c := range copiers {
		s := c.status(now)
		if trouble.reason != "" && s.State != Failed {
			s.State, s.Reason, s.Fix = trouble.state, trouble.reason, trouble.fix
		}
		if s.State == Running && s.Reason == "" && s.LagRecords > 0 {
			s.Reason, s.Fix = f.throttled(now)
		}
		if _, assigned := want[tp]; assigned {
			out = append(out, s)
		}
	}
	for tp, a := range want {
		if copiers[tp] == nil {
			out = append(out, pendingStatus(a, trouble))
		}
	}
	return out
}

// throttled says which side makes the flow slow by a quota, "" if none does.
func (f *flowRun) throttled(now time.Time) (reason, fix string) {
	p, quota := f.destination, "producer_byte_rate"
	if reason = p.throttle.reason(p.cluster.Metadata.Name, now); reason == "" {
		p, quota = f.source, "consumer_byte_rate"
		reason = p.throttle.reason(p.cluster.Metadata.Name, now)
	}
	if reason != "" {
		fix = fmt.Sprintf("raise the quota %s of the flow's user or client id there, or keep the flow below it with spec.limits.bytesPerSecond", quota)
	}
	return reason, fix
}

// pendingStatus is that of a copy that the flow has not come to yet.
func pendingStatus(a Assignment, t trouble) CopyStatus {
	s := CopyStatus{
		Flow: a.Flow, SourceTopic: a.SourceTopic, DestinationTopic: a.DestinationTopic, Partition: a.Partition, Epoch: a.Epoch,
		State: Starting, Position: -1, SourceEnd: -1, SourceStable: -1, SourceStart: -1, LagBytes: -1, CatchUp: -1, Exposure: -1,
	}
	if t.reason != "" {
		s.State, s.Reason, s.Fix = t.state, t.reason, t.fix
	}
	return s
}
