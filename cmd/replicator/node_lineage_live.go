package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/offsets"
)

const (
	// liveLimit is how long a question waits for what a cluster or the fleet says.
	liveLimit = 3 * time.Second
	// mostGroups bounds how many groups of a cluster a question asks about.
	mostGroups = 1000
	// lateLedger is how many pages of a ledger may be unread, which is a moment's
	// work, before the index counts as behind it.
	lateLedger = 100
)

// live tells lineage what no ledger does, as this node knows it.
type live struct {
	node  *node
	reads chan struct{} // one for each record that is being read
}

func newLive(n *node) live { return live{n, make(chan struct{}, recordReads)} }

var _ lineage.Live = live{}

func (l live) Behind(id string) string {
	s, ok := l.node.ledgers.states()[id]
	if !ok {
		return "the destination's ledger is not read here: the cluster is not declared, or has not answered yet"
	}
	return ledgerLate(s)
}

// ledgerLate is why what was read of a ledger may be old, "" if it is not.
func ledgerLate(s tail.State) string {
	var unread int64
	for _, p := range s.Partitions {
		unread += max(0, p.End-p.Next)
	}
	switch {
	case s.Err != nil:
		return fmt.Sprintf("the destination's ledger is not read: %v", s.Err)
	case s.Status == tail.Connecting:
		return "the destination's ledger is not read: the cluster has not answered yet"
	case unread > lateLedger:
		return fmt.Sprintf("the destination's ledger is still being read, %d offsets of it are missing", unread)
	}
	return ""
}

// cluster is a client of a declared cluster.
func (l live) cluster(id string) (offsets.Cluster, error) {
	name, ok := l.node.directory.name(id)
	if !ok {
		return nil, errors.New("the cluster is not declared, or has not answered yet")
	}
	cl, err := l.node.directory.client(name)
	if err != nil {
		return nil, err
	}
	return offsets.KafkaCluster(cl), nil
}

func (l live) Ends(ctx context.Context, id string, topics map[string]ledger.TopicID) (map[flow.TopicPartition]int64, error) {
	c, err := l.cluster(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, liveLimit)
	defer cancel()
	return endsOf(ctx, c, topics)
}

// endsOf are the log ends of those topics that are the lives that they are taken for.
func endsOf(ctx context.Context, c offsets.Cluster, topics map[string]ledger.TopicID) (map[flow.TopicPartition]int64, error) {
	ids, err := c.Topics(ctx, sortedNames(topics))
	if err != nil {
		return nil, err
	}
	var same []string
	for _, name := range sortedNames(topics) {
		if id, ok := ids[name]; ok && id == topics[name] {
			same = append(same, name)
		}
	}
	return c.Ends(ctx, same)
}

func (l live) Groups(ctx context.Context, id string, topics []string) ([]lineage.GroupPosition, string, error) {
	c, err := l.cluster(id)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, liveLimit)
	defer cancel()
	return groupsIn(ctx, c, topics)
}

// groupsIn are the positions of a cluster's groups in topics, in an order that is
// always the same. Errors name no group: who asks may not be allowed to see it.
func groupsIn(ctx context.Context, c offsets.Cluster, topics []string) (positions []lineage.GroupPosition, more string, err error) {
	groups, err := c.Groups(ctx)
	if err != nil {
		return nil, "", err
	}
	// Share groups read behind where they start, and in any order.
	maps.DeleteFunc(groups, func(_ string, g offsets.Group) bool { return g.Share })
	names := sortedNames(groups)
	if len(names) > mostGroups {
		names, more = names[:mostGroups], fmt.Sprintf("there are more than %d, of which the first by name were asked", mostGroups)
	}
	if len(names) == 0 {
		return nil, more, nil
	}
	asked := make([]offsets.Group, len(names))
	for i, name := range names {
		asked[i] = groups[name]
	}
	commits, err := c.Commits(ctx, asked)
	if err != nil {
		for cause := errors.Unwrap(err); cause != nil; cause = errors.Unwrap(cause) {
			err = cause
		}
		return nil, "", fmt.Errorf("read their positions: %w", err)
	}
	for _, group := range names {
		for at, commit := range commits[group] {
			if slices.Contains(topics, at.Topic) {
				positions = append(positions, lineage.GroupPosition{Group: group, At: at, Next: commit.Offset})
			}
		}
	}
	slices.SortFunc(positions, func(a, b lineage.GroupPosition) int {
		if a.Group != b.Group {
			return slices.Compare([]string{a.Group}, []string{b.Group})
		}
		return slices.Compare([]string{a.At.String()}, []string{b.At.String()})
	})
	return positions, more, nil
}

func (l live) Waits(ctx context.Context) (map[lineage.CopyName]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, liveLimit)
	defer cancel()
	seen, err := l.node.fleet.FleetStatus(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the fleet's leader: %w", err)
	}
	return waitsOf(l.node.file.Fleet, seen.Works), nil
}

// waitsOf are the lags that owners measure, of copies that know both their position
// and the source's end.
func waitsOf(fleet string, works []cluster.WorkStatus) map[lineage.CopyName]time.Duration {
	waits := map[lineage.CopyName]time.Duration{}
	for _, w := range works {
		var c mirror.CopyStatus
		if w.Work.Kind != cluster.WorkCopy || json.Unmarshal(w.Detail, &c) != nil || c.Position < 0 || c.SourceEnd < 0 {
			continue
		}
		waits[lineage.CopyName{Fleet: fleet, Flow: w.Work.Name, SourceTopic: w.Work.Topic, Partition: w.Work.Partition}] = c.Lag
	}
	return waits
}

func (l live) Declared() []lineage.DeclaredFlow {
	return declaredFlows(l.node.fleet.State(), l.node.file.Fleet, func(name string) string {
		id, err := l.node.directory.id(name)
		if err != nil {
			return ""
		}
		return id
	})
}

// declaredFlows are the flows of a fleet with the runbooks that are about them. What
// cannot be read is said where it is declared.
func declaredFlows(s *cluster.State, fleet string, id func(name string) string) (all []lineage.DeclaredFlow) {
	flows, err := s.Declared(flow.KindReplicationFlow)
	if err != nil {
		return nil
	}
	books, err := s.Declared(flow.KindRunbook)
	if err != nil {
		return nil
	}
	for _, f := range flows {
		m, err := f.Flow.Spec.Topics.Matcher()
		if err != nil {
			continue
		}
		d := lineage.DeclaredFlow{
			Fleet: fleet, Flow: f.Name(), Source: id(f.Flow.Spec.Source), Destination: id(f.Flow.Spec.Destination), Topics: m.Match,
		}
		for _, b := range books {
			if b.Runbook.Spec.Flow == d.Flow {
				d.Runbooks = append(d.Runbooks, b.Name())
			}
		}
		all = append(all, d)
	}
	return all
}
