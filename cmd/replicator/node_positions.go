package main

import (
	"context"
	"net/http"
	"slices"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/offsets"
)

// Translate answers for positions that the caller may see: Describe on the
// topic at either end. Answers reckon with where the logs begin and end, as far as
// their clusters say.
func (g *groups) Translate(ctx context.Context, caller api.Caller, from []offsets.Where, to string) ([]api.Translations, error) {
	may := g.describable(ctx, caller)
	for _, w := range from {
		if !may(w.Cluster, w.Topic) {
			return nil, api.Errorf(http.StatusNotFound, "there is no topic %s in %s, or you may not describe it", w.Topic, w.Cluster)
		}
	}
	// The last stable offsets come first, then the ledgers, then the logs' ends: what
	// the ledgers do not show lies above the one and below the other.
	b := logBounds{groups: g, of: map[topicIn]*topicBounds{}}
	for _, w := range from {
		for _, other := range g.maps.Counterparts(w, to) {
			b.want(other)
		}
	}
	b.ask(ctx, func(c offsets.Cluster, topics []string, all *topicBounds) (err error) {
		all.floors, err = c.Stable(ctx, topics)
		return err
	})
	if err := g.catchUp(ctx); err != nil {
		return nil, err
	}
	b.ask(ctx, func(c offsets.Cluster, topics []string, all *topicBounds) (err error) {
		if all.starts, err = c.Starts(ctx, topics); err == nil {
			all.ends, err = c.Ends(ctx, topics)
		}
		return err
	})
	answers := make([]api.Translations, 0, len(from))
	for _, w := range from {
		a := api.Translations{From: w, To: []offsets.Translation{}}
		for _, t := range g.maps.Translate(w, to, b.at) {
			if may(t.To.Cluster, t.To.Topic) {
				a.To = append(a.To, t)
			}
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// catchUp reads the ledgers of the destinations of all flows to their ends.
func (g *groups) catchUp(ctx context.Context) error {
	flows, err := g.fleet.State().Declared(flow.KindReplicationFlow)
	if err != nil {
		return err
	}
	var done []string
	for _, f := range flows {
		id, err := g.directory.id(f.Flow.Spec.Destination)
		if err != nil || slices.Contains(done, id) {
			continue // what its ledger says cannot be had now; the others can
		}
		if err := g.maps.CatchUp(ctx, id); err != nil {
			return unreachable(err)
		}
		done = append(done, id)
	}
	return nil
}

// describable asks once for each topic whether a caller may describe it.
func (g *groups) describable(ctx context.Context, caller api.Caller) func(cluster, topic string) bool {
	known := map[topicIn]bool{}
	return func(cluster, topic string) bool {
		if name, ok := g.directory.name(cluster); ok {
			cluster = name
		}
		key := topicIn{cluster, topic}
		if _, asked := known[key]; !asked {
			known[key] = g.directory.allowed(ctx, cluster, caller.Principals[cluster], caller.Address, acl.Describe, acl.Topic, topic)
		}
		return known[key]
	}
}

type topicIn struct{ cluster, topic string }

// logBounds are what is known of the logs in which answers lie.
type logBounds struct {
	groups *groups
	of     map[topicIn]*topicBounds
}

type topicBounds struct {
	floors, starts, ends map[flow.TopicPartition]int64
}

func (b *logBounds) want(w offsets.Where) {
	b.of[topicIn{w.Cluster, w.Topic}] = &topicBounds{}
}

// ask has one question put to each cluster about all of its topics that are wanted.
// A cluster that does not answer leaves its bounds unknown.
func (b *logBounds) ask(ctx context.Context, question func(offsets.Cluster, []string, *topicBounds) error) {
	topics := map[string][]string{}
	for key := range b.of {
		topics[key.cluster] = append(topics[key.cluster], key.topic)
	}
	for cluster, names := range topics {
		cl := b.groups.clientOf(cluster)
		if cl == nil {
			continue
		}
		var all topicBounds
		if err := question(offsets.KafkaCluster(cl), names, &all); err != nil {
			b.groups.log.Debug("bounds of logs are not known", "cluster", cluster, "error", err)
			continue
		}
		for _, name := range names {
			have := b.of[topicIn{cluster, name}]
			if all.floors != nil {
				have.floors = all.floors
			}
			if all.ends != nil {
				have.starts, have.ends = all.starts, all.ends
			}
		}
	}
}

// at are the bounds of one partition.
func (b *logBounds) at(w offsets.Where) offsets.Bounds {
	have := b.of[topicIn{w.Cluster, w.Topic}]
	if have == nil {
		return offsets.AnyBounds
	}
	known := func(m map[flow.TopicPartition]int64) int64 {
		if at, ok := m[flow.TopicPartition{Topic: w.Topic, Partition: w.Partition}]; ok {
			return at
		}
		return -1
	}
	return offsets.Bounds{Start: known(have.starts), End: known(have.ends), Floor: known(have.floors)}
}
