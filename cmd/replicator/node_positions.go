package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/offsets"
)

// translatePatience is how long a translation waits for the clusters and ledgers that it
// depends on.
const translatePatience = 15 * time.Second

// Translate answers for positions that the caller may see: Describe on the
// topic at either end. Answers reckon with where the logs begin and end.
func (g *groups) Translate(ctx context.Context, caller api.Caller, from []offsets.Where, to string) ([]api.Translations, error) {
	ctx, cancel := context.WithTimeout(ctx, translatePatience)
	defer cancel()
	asked := map[string]bool{} // clusters by name without whose answers there is none
	for _, w := range from {
		asked[g.named(w.Cluster)] = true
	}
	if to != "" {
		asked[g.named(to)] = true
	}
	for _, name := range sortedNames(asked) {
		err := g.directory.judges(ctx, name)
		if errors.Is(err, errNoSuchCluster) {
			return nil, g.undeclared(name)
		}
		if err != nil {
			return nil, unreachable(fmt.Errorf("whether you may describe its topics is not known: %w", err))
		}
	}
	may := g.describable(ctx, caller)
	seen := slices.DeleteFunc(slices.Clone(from), func(w offsets.Where) bool { return !may(w.Cluster, w.Topic) })
	if len(seen) == 0 {
		return nil, api.Errorf(http.StatusNotFound, "%s", unseen(from[0])).WithHint("asking needs Describe on the topic, for the principal that you are in that cluster")
	}
	// The last stable offsets come first, then the ledgers, then the logs' ends: what
	// the ledgers do not show lies above the one and below the other.
	b := logBounds{groups: g, of: map[topicIn]*topicBounds{}}
	for _, w := range seen {
		for _, other := range g.maps.Counterparts(w, to) {
			b.want(other)
		}
	}
	b.ask(ctx, func(c offsets.Cluster, topics []string, all *topicBounds) (err error) {
		all.floors, err = c.Stable(ctx, topics)
		return err
	})
	if err := g.catchUp(ctx, asked, to == ""); err != nil {
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
		if !may(w.Cluster, w.Topic) {
			a.Note = unseen(w)
			answers = append(answers, a)
			continue
		}
		for _, t := range g.maps.Translate(w, to, b.at) {
			if may(t.To.Cluster, t.To.Topic) {
				a.To = append(a.To, b.within(t))
			}
		}
		if len(a.To) == 0 {
			a.Note = g.uncopied(w, to, may)
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// undeclared is that there is no cluster of a name, or none yet.
func (g *groups) undeclared(name string) error {
	if _, err := g.fleet.State().Lookup(flow.KindCluster, name); err == nil {
		return unreachable(fmt.Errorf("cluster %s: its declaration is not in use yet", name))
	}
	return api.Errorf(http.StatusNotFound, "no cluster %s is declared", name).
		WithHint("'replicator get clusters' has those that are; one that has not answered yet is known by its name only, and not by its cluster.id")
}

func unseen(w offsets.Where) string {
	return fmt.Sprintf("there is no topic %s in %s, or you may not describe it", w.Topic, w.Cluster)
}

// uncopied says why a position has no answer. It tells of copies only what the caller may see.
func (g *groups) uncopied(w offsets.Where, to string, may func(cluster, topic string) bool) string {
	if to != "" {
		for _, other := range g.maps.Counterparts(w, "") {
			if may(other.Cluster, other.Topic) {
				return fmt.Sprintf("partition %d of topic %s in %s is copied, but there is no copy in %s, or you may not describe it", w.Partition, w.Topic, w.Cluster, to)
			}
		}
	}
	return fmt.Sprintf("no ledger mentions partition %d of topic %s in %s, or you may not describe its copies: see whether the topic is there, and a flow copies it", w.Partition, w.Topic, w.Cluster)
}

// catchUp reads the ledgers of clusters to their ends that are destinations of flows: of those
// asked, and if all are, of each other one that tells now who may see what of it. The others
// show nothing.
func (g *groups) catchUp(ctx context.Context, asked map[string]bool, all bool) error {
	flows, err := g.fleet.State().Declared(flow.KindReplicationFlow)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	begun := map[string]bool{}
	for _, f := range flows {
		name := f.Flow.Spec.Destination
		if begun[name] || !asked[name] && !all {
			continue
		}
		begun[name] = true
		group.Go(func() error {
			if !asked[name] && g.directory.judges(ctx, name) != nil {
				return nil
			}
			id, err := g.directory.id(name)
			if err == nil {
				err = g.maps.CatchUp(ctx, id)
			}
			if err != nil {
				return unreachable(fmt.Errorf("cluster %s: %w", name, err))
			}
			return nil
		})
	}
	return group.Wait()
}

// named is the declared name of a cluster, if it has one.
func (g *groups) named(cluster string) string {
	if name, ok := g.directory.name(cluster); ok {
		return name
	}
	return cluster
}

// describable asks once for each topic whether a caller may describe it.
func (g *groups) describable(ctx context.Context, caller api.Caller) func(cluster, topic string) bool {
	known := map[topicIn]bool{}
	return func(cluster, topic string) bool {
		cluster = g.named(cluster)
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

// within is an answer, as far as it is known that it lies in a log: an offset where nothing
// is has a reader begin where its own settings say.
func (b *logBounds) within(t offsets.Translation) offsets.Translation {
	if at := b.at(t.To); t.Result.Offset >= 0 && (at.Start < 0 || at.End < 0) {
		t.Result = offsets.Result{Offset: -1, Why: offsets.Unknown, Note: "where the log begins and ends there is not known now"}
		t.To.Offset = -1
	}
	return t
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
