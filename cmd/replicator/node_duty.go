package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/offsets"
)

// dutyRetry is between attempts to begin a duty whose clusters do not answer.
const dutyRetry = time.Second

// runFlowDuty finds a flow's topics and moves its groups, for as long as the
// duty is this node's. It waits for clusters that do not answer.
func (l *life) runFlowDuty(ctx context.Context, a cluster.Assignment, d *duty) error {
	for ctx.Err() == nil {
		err := l.tryFlowDuty(ctx, a, d)
		if ctx.Err() == nil {
			d.trouble(err)
			pause(ctx, dutyRetry)
		}
	}
	return nil
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// trouble is what keeps a duty from its work, for the flow's status.
func (d *duty) trouble(err error) {
	r := dutyReport{}
	if err != nil {
		r.Reason, r.Fix = err.Error(), kafka.Advice(err)
	}
	d.problem.Store(&r)
}

// dutyReport is how a flow's duty is doing.
type dutyReport struct {
	Reason string `json:"reason,omitempty"`
	Fix    string `json:"fix,omitempty"`
	// Topics that the last look found; Looked: there was one.
	Looked bool `json:"looked,omitempty"`
	Topics int  `json:"topics,omitempty"`
	// Groups is why the positions of groups were not moved the last time.
	Groups    string `json:"groups,omitempty"`
	GroupsFix string `json:"groupsFix,omitempty"`
	// Paused is where the copies of topics stand that are paused, by source topic.
	Paused map[string][]pausedCopy `json:"paused,omitempty"`
}

// report is how the duty stands now, nil while there is nothing to say.
func (d *duty) report() *dutyReport {
	r, s, paused := d.problem.Load(), d.syncer.Load(), d.paused.Load()
	if paused == nil && (r == nil || s == nil) {
		return r
	}
	var all dutyReport
	if r != nil {
		all = *r
	}
	if s != nil && r != nil {
		round := s.Report()
		all.Groups, all.GroupsFix = round.Err, kafka.Advice(round.Cause)
	}
	if paused != nil {
		all.Paused = *paused
	}
	return &all
}

func (l *life) tryFlowDuty(ctx context.Context, a cluster.Assignment, d *duty) error {
	state := l.fleet.State()
	f, err := declaredFlow(state, a.Work.Name)
	if err != nil {
		return err
	}
	source, err1 := state.Lookup(flow.KindCluster, f.Spec.Source)
	destination, err2 := state.Lookup(flow.KindCluster, f.Spec.Destination)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	conf, err := l.groups.config(f)
	if err != nil {
		return err
	}
	conf.Watch = l.groups.watch(f, conf.SourceID, source.Cluster)
	syncer := offsets.NewSyncer(conf)
	// Its clients live as long as the declarations, whose change ends this duty.
	if err := errors.Join(l.directory.current(source.Cluster), l.directory.current(destination.Cluster)); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.verifications.keep(ctx, a, f, d.changed) })
	if f.Spec.Paused || len(f.Spec.Topics.Paused) > 0 {
		g.Go(func() error { l.lookAtPaused(ctx, f, d); return nil })
	}
	if f.Spec.Paused {
		return g.Wait() // nothing is found and nothing moves
	}
	discoverer := &mirror.Discoverer{
		Flow: f, Source: source.Cluster, Destination: destination.Cluster, ClientID: l.directory.clientID, Fleet: l.fleetName, Log: l.log,
		Known: func() []mirror.Topic { return knownTopics(l.fleet.State(), a.Work.Name) },
	}
	g.Go(func() error {
		return discoverer.Run(ctx, func(topics []mirror.Topic, err error) {
			if err == nil {
				err = l.reportTopics(ctx, a, topics)
			}
			if err != nil {
				d.trouble(err)
				return
			}
			d.problem.Store(&dutyReport{Looked: true, Topics: len(topics)})
		})
	})
	if f.Spec.Groups != nil {
		g.Go(func() error { return conf.Watch.Run(ctx) })
		d.syncer.Store(syncer)
		defer d.syncer.Store(nil)
		g.Go(func() error { return syncer.Run(ctx) })
	}
	if f.Spec.MirrorMaker2 != nil {
		w, err := l.groups.mirrorMaker(f, source.Cluster, syncer)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		d.writer.Store(w)
		defer d.writer.Store(nil)
		g.Go(func() error { return w.Run(ctx) })
	}
	return g.Wait()
}

// reportTopics has the fleet remember what discovery found, if that has changed.
func (l *life) reportTopics(ctx context.Context, a cluster.Assignment, topics []mirror.Topic) error {
	known := map[string]cluster.TopicSpec{}
	if work := l.fleet.State().Flows[a.Work.Name]; work != nil {
		for name, t := range work.Topics {
			known[name] = t.TopicSpec
		}
	}
	commands, err := topicCommands(known, topics)
	if err != nil {
		return err
	}
	for _, cmd := range commands {
		cmd.Flow, cmd.Epoch = a.Work.Name, a.Epoch
		if _, err := l.fleet.Propose(ctx, cmd); err != nil {
			return fmt.Errorf("report topics to the fleet: %w", err)
		}
	}
	return nil
}

// topicCommands say what is other than known, in as many commands as it takes: one for a
// thousand topics would be larger than the fleet takes.
func topicCommands(known map[string]cluster.TopicSpec, topics []mirror.Topic) ([]*cluster.SetTopics, error) {
	var all []*cluster.SetTopics
	size := putBytes
	room := func(bytes int) *cluster.SetTopics {
		if size += bytes; size > putBytes {
			all, size = append(all, new(cluster.SetTopics)), bytes
		}
		return all[len(all)-1]
	}
	found := map[string]bool{}
	for _, t := range topics {
		found[t.Source] = true
		spec := topicSpec(t)
		if known[t.Source] == spec {
			continue
		}
		text, err := json.Marshal(spec)
		if err != nil {
			return nil, fmt.Errorf("encode topic %s: %w", t.Source, err)
		}
		c := room(len(text))
		c.Put = append(c.Put, spec)
	}
	for _, name := range sortedNames(known) {
		if !found[name] {
			c := room(len(name))
			c.Remove = append(c.Remove, name)
		}
	}
	return all, nil
}

func topicSpec(t mirror.Topic) cluster.TopicSpec {
	spec := cluster.TopicSpec{
		Source: t.Source, SourceID: t.SourceID.String(), Destination: t.Destination, Partitions: t.Partitions, Newborn: t.Newborn,
		Offsets: cmp.Or(t.Offsets, flow.OffsetsTranslate), State: string(t.State), Problem: t.Problem, Fix: t.Fix, Blocked: t.Blocked, Configs: t.Configs,
		Made: t.Made, Told: cluster.Told{DestinationID: textOf(t.Told.Destination), Partitions: t.Told.Partitions, Last: uint8(t.Told.Last)},
		DestinationID: textOf(t.DestinationID),
	}
	if !t.GoneSince.IsZero() {
		spec.GoneSince = t.GoneSince.UTC().Format(time.RFC3339)
	}
	return spec
}

// textOf is an id as the fleet remembers it, "" for none.
func textOf(id ledger.TopicID) string {
	if id == (ledger.TopicID{}) {
		return ""
	}
	return id.String()
}

// knownTopics are the topics of a flow as the fleet remembers them. Ids that
// cannot be read count as not known.
func knownTopics(s *cluster.State, name string) []mirror.Topic {
	work := s.Flows[name]
	if work == nil {
		return nil
	}
	var topics []mirror.Topic
	for _, source := range sortedNames(work.Topics) {
		spec := work.Topics[source].TopicSpec
		t := mirror.Topic{
			Source: spec.Source, Destination: spec.Destination, Partitions: spec.Partitions, Newborn: spec.Newborn, Offsets: spec.Offsets,
			State: mirror.State(spec.State), Problem: spec.Problem, Fix: spec.Fix, Blocked: spec.Blocked, Configs: spec.Configs,
			Made: spec.Made, Told: mirror.Told{Partitions: spec.Told.Partitions, Last: ledger.EventKind(spec.Told.Last)},
		}
		t.GoneSince, _ = time.Parse(time.RFC3339, spec.GoneSince) // "" is the zero time
		t.SourceID, _ = ledger.ParseTopicID(spec.SourceID)
		t.DestinationID, _ = ledger.ParseTopicID(spec.DestinationID)
		t.Told.Destination, _ = ledger.ParseTopicID(spec.Told.DestinationID)
		topics = append(topics, t)
	}
	return topics
}
