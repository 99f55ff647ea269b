package mirror

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// starter gives copiers their positions, one batch of them at a time and beside
// the flow's loop: a ledger with an open transaction may take a while to read.
type starter struct {
	busy atomic.Bool
}

// kick starts what is due, unless a batch is under way.
func (s *starter) kick(ctx context.Context, g *errgroup.Group, f *flowRun) {
	if s.busy.Load() || !f.unsettled.Swap(false) {
		return
	}
	now := time.Now()
	var due []*copier
	unsettled := false
	f.mu.Lock()
	for _, c := range f.copiers {
		if c.prepare(now) {
			due = append(due, c)
		}
		unsettled = unsettled || !c.isSettled()
	}
	f.mu.Unlock()
	if unsettled {
		f.unsettled.Store(true)
	}
	if len(due) == 0 {
		return
	}
	s.busy.Store(true)
	g.Go(func() error {
		defer f.poke()
		defer s.busy.Store(false)
		f.startAll(ctx, due)
		return nil
	})
}

// maxReads bounds how many positions are asked for at once.
const maxReads = 32

// startAll brings copiers from nothing to running: their topics are as they
// should be, dead owners are fenced, the ledger says where to go on.
func (f *flowRun) startAll(ctx context.Context, due []*copier) {
	defer f.starts.Add(1)
	var ready []*copier
	for _, c := range due {
		id, err := c.identify(f.source, f.destination)
		if err != nil {
			c.postpone(err)
			f.destination.markStale()
			f.source.markStale()
			continue
		}
		from := newProvenance(f.cfg.Origins, id, f.spec.Spec.Origin == flow.OriginLocal, f.locals)
		from.whole = c.whole.on
		c.setID(id, from)
		ready = append(ready, c)
	}
	if len(ready) == 0 {
		return
	}
	var err error
	if slices.ContainsFunc(ready, func(c *copier) bool { return !c.whole.on }) {
		err = f.takeover.fence(ctx, f.destination, f.say)
	}
	if err == nil {
		err = f.settings.load(ctx, ready)
	}
	if err == nil {
		err = f.describeMirrors(ctx, ready)
	}
	if err != nil {
		for _, c := range ready {
			c.postpone(err)
		}
		return
	}
	down := f.probe(ctx, ready)
	whole, translated := f.split(ready, down)
	eachOf(len(whole), func(i int) {
		if err := f.startWhole(ctx, whole[i]); err != nil {
			whole[i].postpone(err)
		}
	})
	f.beginAll(ctx, f.positions(ctx, translated))
}

// split tells copiers that preserve offsets from the others, without those that are
// down.
func (f *flowRun) split(ready []*copier, down map[*copier]error) (whole, translated []*copier) {
	for _, c := range ready {
		switch err := down[c]; {
		case err != nil:
			c.postpone(err)
		case c.whole.on:
			whole = append(whole, c)
		default:
			translated = append(translated, c)
		}
	}
	return whole, translated
}

// startWhole has a copier run that preserves offsets.
func (f *flowRun) startWhole(ctx context.Context, c *copier) error {
	return f.appender.start(ctx, c, func(ctx context.Context) (leap, error) {
		start, err := f.startOf(ctx, c)
		return leap{start, ledger.NotAsked}, err
	})
}

// starting is a copier and what the ledger says of it.
type starting struct {
	c  *copier
	at Position
}

// positions asks the ledger about copiers.
func (f *flowRun) positions(ctx context.Context, ready []*copier) []starting {
	all := make([]starting, len(ready))
	eachOf(len(ready), func(i int) {
		c := ready[i]
		at, err := f.cfg.Positions.Position(ctx, c.a.Destination.Metadata.Name, c.id)
		if err != nil {
			err = fmt.Errorf("%w: read the ledger: %w", errUnresolved, err)
		}
		if err == nil {
			err = ownedBy(at, &f.cfg, c.a.Epoch)
		}
		if err != nil {
			c.postpone(err)
			return
		}
		all[i] = starting{c, at}
	})
	return slices.DeleteFunc(all, func(s starting) bool { return s.c == nil })
}

// beginAll has copiers run from where they stand, if both sides still have what
// was copied.
func (f *flowRun) beginAll(ctx context.Context, all []starting) {
	epochs := map[flow.TopicPartition]int32{}
	for _, s := range all {
		if s.at.Exists && s.at.Destination > 0 && s.at.DestinationLeaderEpoch >= 0 {
			epochs[s.c.destination()] = s.at.DestinationLeaderEpoch
		}
	}
	ends, err := f.epochEnds(ctx, epochs)
	eachOf(len(all), func(i int) {
		err := err
		if err == nil {
			epochEnd := int64(-1)
			if end, ok := ends[all[i].c.destination()]; ok {
				epochEnd = end
			}
			err = f.startOne(ctx, all[i].c, all[i].at, epochEnd)
		}
		if err != nil {
			all[i].c.postpone(err)
		}
	})
}

// eachOf calls do with 0 to n-1, a few at a time.
func eachOf(n int, do func(i int)) {
	var g errgroup.Group
	g.SetLimit(maxReads)
	for i := range n {
		g.Go(func() error {
			do(i)
			return nil
		})
	}
	_ = g.Wait() // there are no errors
}

// describeMirrors finds out which of the source topics are mirrors.
func (f *flowRun) describeMirrors(ctx context.Context, copiers []*copier) error {
	about := make([]*provenance, 0, len(copiers))
	for _, c := range copiers {
		about = append(about, c.origin)
	}
	if err := f.inquirer.mirrors.describe(ctx, about); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	return nil
}

// probe connects to the brokers of copies that have failed before, and returns
// the errors of those whose broker does not answer: a lane that found that out
// would hold up all of its copies.
func (f *flowRun) probe(ctx context.Context, copiers []*copier) map[*copier]error {
	v := f.destination.view()
	byBroker := map[int32][]*copier{}
	for _, c := range copiers {
		if leader, _, err := v.leader(c.a.DestinationTopic, c.a.Partition); err == nil && c.hasFailed() {
			byBroker[leader] = append(byBroker[leader], c)
		}
	}
	down := map[*copier]error{}
	var mu sync.Mutex
	var g errgroup.Group
	for broker, list := range byBroker {
		g.Go(func() error {
			bounded, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			conn, err := kafka.Dial(bounded, f.destination.cluster, v.brokers[broker], f.cfg.ClientID)
			if err == nil {
				return conn.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			for _, c := range list {
				down[c] = fmt.Errorf("destination broker %d: %w", broker, err)
			}
			return nil
		})
	}
	_ = g.Wait() // closing a connection has no error that matters
	return down
}

// probeTimeout is how long a broker that has failed may take to say hello.
const probeTimeout = 3 * time.Second

// startOne decides from where a copier goes on. epochEnd is where the destination
// log of the epoch ends that took its last record, -1 if that is not known.
func (f *flowRun) startOne(ctx context.Context, c *copier, at Position, epochEnd int64) error {
	lim := f.settings.limits(c.a.DestinationTopic, f.cfg.MaxDecode)
	lim.rules, lim.home = f.rules, home{f.source.id, c.a.SourceTopic, c.a.Partition}
	if at.Exists {
		at, correct, err := f.recall(ctx, c, at, epochEnd)
		if err != nil {
			return err
		}
		var behind *remnant
		if at.Plain && correct == nil {
			if behind, err = f.readRemnant(ctx, c, at, lim); err != nil {
				return err
			}
		}
		c.begin(at, lim, at.Next, correct, behind)
		return nil
	}
	// Without history a copy begins at 0; what the source no longer has then shows
	// as expired, as it does for one that has been overtaken.
	start, err := f.startOf(ctx, c)
	if err != nil {
		return err
	}
	c.begin(at, lim, start, nil, nil)
	return nil
}

// identify finds the ids of both topics and checks that the copy is possible.
func (c *copier) identify(source, destination *peer) (ledger.CopyID, error) {
	from, to := source.view().topic(c.a.SourceTopic), destination.view().topic(c.a.DestinationTopic)
	if from.err != nil {
		return ledger.CopyID{}, fmt.Errorf("source topic %s: %w", c.a.SourceTopic, from.err)
	}
	if int(c.a.Partition) >= len(from.partitions) {
		return ledger.CopyID{}, fmt.Errorf("source topic %s has no partition %d", c.a.SourceTopic, c.a.Partition)
	}
	if pinned := c.a.SourceTopicID; pinned != (ledger.TopicID{}) && pinned != from.id {
		return ledger.CopyID{}, fmt.Errorf("source topic %s: %w: its id is %v, the copy is of %v", c.a.SourceTopic, errRecreated, from.id, pinned)
	}
	if to.err != nil {
		return ledger.CopyID{}, fmt.Errorf("%w: %s: %w", errNoDestination, c.a.DestinationTopic, to.err)
	}
	if int(c.a.Partition) >= len(to.partitions) {
		return ledger.CopyID{}, fmt.Errorf("%w: %s has %d, the source has %d", errFewPartitions, c.a.DestinationTopic, len(to.partitions), len(from.partitions))
	}
	if _, _, err := destination.view().leader(c.a.DestinationTopic, c.a.Partition); err != nil {
		return ledger.CopyID{}, fmt.Errorf("destination: %w", err)
	}
	id := ledger.CopyID{
		Source:      ledger.End{Cluster: source.id, TopicID: from.id, Partition: c.a.Partition},
		Destination: ledger.End{Cluster: destination.id, TopicID: to.id, Partition: c.a.Partition},
	}
	return id, c.sameLife(id)
}

// sameLife refuses ids that are not those with which this copier has begun.
func (c *copier) sameLife(id ledger.CopyID) error {
	c.mu.Lock()
	defer c.unlock()
	switch {
	case c.id == (ledger.CopyID{}):
		return nil
	case c.id.Source != id.Source:
		return fmt.Errorf("source topic %s: %w: its id is %v, the copy is of %v", c.a.SourceTopic, errRecreated, id.Source.TopicID, c.id.Source.TopicID)
	case c.id.Destination != id.Destination:
		return fmt.Errorf("destination topic %s: %w: its id is %v, the copy is to %v", c.a.DestinationTopic, errRecreated, id.Destination.TopicID, c.id.Destination.TopicID)
	}
	return nil
}

// checkLife stops a running copier whose topics are no longer the same, or whose
// ledger is lost.
func (c *copier) checkLife(source, destination *view, lost error) {
	c.mu.Lock()
	defer c.unlock()
	if c.state != Running {
		return
	}
	from, to := source.topic(c.a.SourceTopic), destination.topic(c.a.DestinationTopic)
	var err error
	switch {
	case lost != nil:
		err = lost
	case from.err == nil && from.id != c.id.Source.TopicID:
		err = fmt.Errorf("source topic %s: %w: its id is %v, the copy is of %v", c.a.SourceTopic, errRecreated, from.id, c.id.Source.TopicID)
	case to.err == nil && to.id != c.id.Destination.TopicID:
		err = fmt.Errorf("destination topic %s: %w: its id is %v, the copy is to %v", c.a.DestinationTopic, errRecreated, to.id, c.id.Destination.TopicID)
	default:
		return
	}
	c.fault(err)
	if !c.inTxn {
		c.moveTo(c.committed, c.committedEpoch)
	}
}
