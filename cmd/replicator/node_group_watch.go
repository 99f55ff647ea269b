package main

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger/scribe"
	"github.com/waybillhq/waybill/offsets"
)

// watch tells the ledger of a flow's source how its groups go on.
func (g *groups) watch(f *flow.ReplicationFlow, sourceID string, source *flow.Cluster) *offsets.Watch {
	mine := &groupWatchers{groups: g, flow: f.Metadata.Name, source: sourceID}
	return offsets.NewWatch(offsets.WatchConfig{
		Cluster: sourceID, Maps: g.maps, Watched: mine.watched, Log: g.log,
		May: func() bool { return g.fleet.State().Knows(cluster.LevelProgress) },
		Writer: scribe.New(scribe.Config{Dial: func(opts ...kgo.Opt) (*kgo.Client, error) {
			return kafka.NewClient(source, g.directory.clientID, opts...)
		}}),
	})
}

// groupWatchers say which flow tells of a group: several may look at the same.
type groupWatchers struct {
	groups       *groups
	flow, source string

	// What was declared at a revision: who looks at this source.
	revision uint64
	all      []groupWatcher
}

// groupWatcher is a flow that looks at groups.
type groupWatcher struct {
	flow           string
	groups, topics *flow.Matcher
}

// watched says whether the flow is the first that looks at a group and topic. Calls follow
// each other.
func (w *groupWatchers) watched(group, topic string) bool {
	state := w.groups.fleet.State()
	if w.all == nil || w.revision != state.ObjectsRevision {
		declared, err := state.Declared(flow.KindReplicationFlow)
		if err != nil {
			return false
		}
		var flows []*flow.ReplicationFlow
		for _, o := range declared {
			if id, err := w.groups.directory.id(o.Flow.Spec.Source); err == nil && id == w.source {
				flows = append(flows, o.Flow)
			}
		}
		w.revision, w.all = state.ObjectsRevision, groupWatchersOf(flows)
	}
	return firstGroupWatcher(w.all, group, topic) == w.flow
}

// groupWatchersOf are the flows of some that look at groups, by name.
func groupWatchersOf(flows []*flow.ReplicationFlow) []groupWatcher {
	all := []groupWatcher{}
	for _, f := range flows {
		if f.Spec.Groups == nil || f.Spec.Paused {
			continue
		}
		groups, err1 := f.Spec.Groups.Matcher()
		topics, err2 := f.Spec.Topics.Matcher()
		if err1 == nil && err2 == nil { // what is declared compiles
			all = append(all, groupWatcher{f.Metadata.Name, groups, topics})
		}
	}
	slices.SortFunc(all, func(a, b groupWatcher) int { return strings.Compare(a.flow, b.flow) })
	return all
}

// firstGroupWatcher is the first that tells of a group and topic, "" if none does.
func firstGroupWatcher(all []groupWatcher, group, topic string) string {
	for _, w := range all {
		if w.groups.Match(group) && w.topics.Match(topic) {
			return w.flow
		}
	}
	return ""
}
