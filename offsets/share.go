package offsets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
)

// share is the protocol of share groups (KIP-932), as brokers list it.
const share = "share"

// A note is written before a share-partition's start is set, because a start has no
// metadata: after a crash, too, what stands there is one of the two, or somebody else's.
// Notes are the metadata of commits of a group beside the share group.
type note struct{ Now, Before Commit }

// notesOf is the group that has the notes of a share group.
func notesOf(group string) string { return "__waybill.share." + group }

func isNotes(group string) bool { return strings.HasPrefix(group, notesOf("")) }

// taken is a position as whoever set it noted it down, or one that nobody did.
func (n note) taken(c Commit) Commit {
	for _, known := range []Commit{n.Now, n.Before} {
		if known.Offset == c.Offset {
			c.Metadata = known.Metadata
			break
		}
	}
	return c
}

// shares asks the source where share groups start. What goes wrong is no reason not to follow
// the others.
func (v *view) shares(ctx context.Context, src Cluster, groups []Group) error {
	_, err := addStarts(ctx, src, groups, v.commits)
	if err == nil {
		known := func(g Group) bool { _, ok := v.commits[g.Name]; return g.Share && ok }
		v.dealt, err = src.Dealt(ctx, without(groups, func(g Group) bool { return !known(g) }))
	}
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	return nil
}

// sharesThere asks the destination, or says why there is nothing to ask.
func (v *view) sharesThere(ctx context.Context, dst Cluster, groups []Group) {
	sets, err := addStarts(ctx, dst, groups, v.commitsThere)
	switch {
	case err != nil:
		v.noShares = "at the destination: " + err.Error()
	case !sets:
		v.noShares = "the destination has no share groups whose start can be set: Apache Kafka has from 4.2 on, with the feature share.version"
	}
}

// addStarts adds to commits where share groups start in a cluster that tells, and says
// whether it can be set.
func addStarts(ctx context.Context, c Cluster, groups []Group, commits map[string]map[flow.TopicPartition]Commit) (sets bool, err error) {
	if groups = without(groups, consuming); len(groups) == 0 {
		return false, nil
	}
	tells, sets, err := c.Shares(ctx)
	if err != nil || !tells {
		return false, err
	}
	starts, err := c.Commits(ctx, groups)
	maps.Copy(commits, starts)
	return sets, err
}

// starts are where share groups start, with what was noted of it.
func (k kafkaCluster) starts(ctx context.Context, groups []string) (map[string]map[flow.TopicPartition]Commit, error) {
	return withNotes(func() (map[string]map[flow.TopicPartition]Commit, error) {
		all := map[string]map[flow.TopicPartition]Commit{}
		err := k.describe(ctx, groups, func(group string, tp flow.TopicPartition, o kadm.ShareOffset) {
			put(all, group, tp, Commit{Offset: o.StartOffset})
		})
		return all, err
	}, func() (map[string]map[flow.TopicPartition]Commit, error) {
		noted := make([]string, len(groups))
		for i, g := range groups {
			noted[i] = notesOf(g)
		}
		return k.committed(ctx, noted)
	})
}

// withNotes asks for notes behind the starts: what a flow notes down in between says where
// they stood before, too. The other way round a start that is set in between would be nobody's.
func withNotes(starts, notes func() (map[string]map[flow.TopicPartition]Commit, error)) (map[string]map[flow.TopicPartition]Commit, error) {
	all, err := starts()
	if err != nil {
		return nil, err
	}
	noted, err := notes()
	if err != nil {
		return nil, err
	}
	for group, at := range all {
		for tp, c := range at {
			var n note
			if json.Unmarshal([]byte(noted[notesOf(group)][tp].Metadata), &n) == nil { // else nobody's
				at[tp] = n.taken(c)
			}
		}
	}
	return all, nil
}

// Dealt counts from the lag that brokers tell, between two looks at the ends of the logs
// that must agree.
func (k kafkaCluster) Dealt(ctx context.Context, groups []Group) (map[string]map[flow.TopicPartition]int64, error) {
	topics := map[string]bool{}
	if err := k.describe(ctx, names(groups), func(_ string, tp flow.TopicPartition, _ kadm.ShareOffset) { topics[tp.Topic] = true }); err != nil {
		return nil, err
	}
	before, err := k.Ends(ctx, slices.Collect(maps.Keys(topics)))
	if err != nil {
		return nil, err
	}
	dealt := map[string]map[flow.TopicPartition]int64{}
	if err := k.describe(ctx, names(groups), func(group string, tp flow.TopicPartition, o kadm.ShareOffset) {
		if o.Lag >= 0 {
			put(dealt, group, tp, before[tp]-o.Lag)
		}
	}); err != nil {
		return nil, err
	}
	after, err := k.Ends(ctx, slices.Collect(maps.Keys(topics)))
	for _, at := range dealt {
		maps.DeleteFunc(at, func(tp flow.TopicPartition, _ int64) bool {
			end, ok := before[tp]
			return !ok || after[tp] != end
		})
	}
	return dealt, err
}

func put[V any](all map[string]map[flow.TopicPartition]V, group string, tp flow.TopicPartition, v V) {
	if all[group] == nil {
		all[group] = map[flow.TopicPartition]V{}
	}
	all[group][tp] = v
}

// describe goes through the share-partitions that start somewhere.
func (k kafkaCluster) describe(ctx context.Context, groups []string, see func(group string, tp flow.TopicPartition, o kadm.ShareOffset)) error {
	if len(groups) == 0 { // asked for none, kadm describes all
		return nil
	}
	described, err := k.adm.DescribeShareGroupOffsets(ctx, groups...)
	if err != nil {
		return fmt.Errorf("starts of share groups: %w", err)
	}
	for name, g := range described {
		if g.Err != nil && !errors.Is(g.Err, kerr.GroupIDNotFound) {
			return fmt.Errorf("starts of share group %s: %w", name, g.Err)
		}
		for _, o := range g.Offsets.Sorted() {
			tp := flow.TopicPartition{Topic: o.Topic, Partition: o.Partition}
			if o.Err != nil {
				return fmt.Errorf("start of share group %s, %s: %w", name, tp, o.Err)
			}
			if o.StartOffset >= 0 {
				see(name, tp, o)
			}
		}
	}
	return nil
}

// start notes down where a share group is to start, and has it start there. What
// starts there already is left alone: to set it is to forget what was acknowledged behind.
func (k kafkaCluster) start(ctx context.Context, group string, at map[flow.TopicPartition]Commit) error {
	stand, err := k.starts(ctx, []string{group})
	if err != nil {
		return err
	}
	now, before, starts := map[flow.TopicPartition]note{}, map[flow.TopicPartition]note{}, kadm.Offsets{}
	for tp, c := range at {
		stands, ok := stand[group][tp]
		if !ok {
			stands.Offset = -1
		}
		now[tp], before[tp] = note{c, stands}, note{stands, stands}
		if stands.Offset != c.Offset {
			starts.Add(kadm.Offset{Topic: tp.Topic, Partition: tp.Partition, At: c.Offset})
		}
	}
	if err := k.note(ctx, group, now); err != nil || len(starts) == 0 {
		return err
	}
	answers, err := k.adm.AlterShareGroupOffsets(ctx, group, starts)
	if errors.Is(err, kerr.NonEmptyGroup) {
		return fmt.Errorf("start share group %s: %w: %w", group, ErrActive, errors.Join(err, k.note(ctx, group, before)))
	}
	for _, o := range starts.Sorted() {
		if failed, ok := answers.Lookup(o.Topic, o.Partition); err == nil && !ok {
			err = fmt.Errorf("the broker has not set it for %s/%d, and gives no reason", o.Topic, o.Partition)
		} else if err == nil {
			err = failed
		}
	}
	if err != nil {
		return fmt.Errorf("start share group %s: %w", group, err)
	}
	return nil
}

func (k kafkaCluster) note(ctx context.Context, group string, notes map[flow.TopicPartition]note) error {
	at := map[flow.TopicPartition]Commit{}
	for tp, n := range notes {
		text, err := json.Marshal(n)
		if err != nil {
			return fmt.Errorf("note on share group %s: %w", group, err)
		}
		at[tp] = Commit{Offset: max(0, n.Now.Offset), Metadata: string(text)}
	}
	if err := k.commit(ctx, notesOf(group), at); err != nil {
		return fmt.Errorf("note on share group %s: %w", group, err)
	}
	return nil
}

// Shares asks for the versions that brokers have. Apache Kafka 4.1 tells where share
// groups start; asked to set it, it answers that all is well, and does nothing.
func (k kafkaCluster) Shares(ctx context.Context) (tells, sets bool, err error) {
	brokers, err := k.adm.ApiVersions(ctx)
	if err != nil {
		return false, false, fmt.Errorf("versions of brokers: %w", err)
	}
	tells, sets = true, true
	answered := 0
	for _, b := range brokers.Sorted() {
		if b.Err != nil { // it is down: the others answer for it
			err = b.Err
			continue
		}
		answered++
		on := slices.ContainsFunc(b.Raw().FinalizedFeatures, func(f kmsg.ApiVersionsResponseFinalizedFeature) bool {
			return f.Name == "share.version" && f.MaxVersionLevel > 0
		})
		version, ok := b.KeyMaxVersion((&kmsg.DescribeShareGroupOffsetsRequest{}).Key())
		tells = tells && ok && on
		sets = sets && tells && version > 0
	}
	if answered == 0 {
		return false, false, fmt.Errorf("versions of brokers: %w", err)
	}
	return tells, sets, nil
}
