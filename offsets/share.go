package offsets

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
)

// share is the protocol of share groups (KIP-932), as brokers list it.
const share = "share"

// shares asks the source where share groups start, and how much they have dealt with.
func (v *view) shares(ctx context.Context, src Cluster, groups []Group) {
	addStarts(ctx, src, groups, v.commits, v.unread)
	known := func(g Group) bool { _, ok := v.commits[g.Name]; return g.Share && ok }
	// Where it is not told, the rows say so.
	v.dealt, _ = src.Dealt(ctx, without(groups, func(g Group) bool { return !known(g) }))
}

// sharesThere asks the destination, or says why there is nothing to ask.
func (v *view) sharesThere(ctx context.Context, dst Cluster, groups []Group) {
	if !addStarts(ctx, dst, groups, v.commitsThere, v.unreadThere) {
		v.noShares = "the destination has no share groups whose start can be set: Apache Kafka has from 4.2 on, with the feature share.version"
	}
}

// addStarts adds to commits where share groups start in a cluster that tells, to failed why
// it cannot be had, and says whether it can be set as far as is known. What goes wrong is no
// reason not to follow others.
func addStarts(ctx context.Context, c Cluster, groups []Group, commits map[string]map[flow.TopicPartition]Commit, failed GroupErrors) (sets bool) {
	if groups = without(groups, consuming); len(groups) == 0 {
		return false
	}
	tells, sets, err := c.Shares(ctx)
	var starts map[string]map[flow.TopicPartition]Commit
	if err == nil && tells {
		starts, err = c.Commits(ctx, groups)
	}
	maps.Copy(commits, starts)
	some, err := perGroup(err)
	maps.Copy(failed, some)
	if err != nil {
		for _, g := range groups {
			failed[g.Name] = err
		}
	}
	return sets || err != nil
}

// starts are where share groups start, with what was noted of it.
func (k kafkaCluster) starts(ctx context.Context, groups []string) (positions, error) {
	return withNotes(groups, func(groups []string) (positions, GroupErrors) {
		all := positions{}
		failed := k.describe(ctx, groups, func(group string, tp flow.TopicPartition, o shareStart) {
			put(all, group, tp, Commit{Offset: o.StartOffset})
		})
		return all, failed
	}, func(groups []string) (positions, GroupErrors) { return k.committed(ctx, groups) })
}

// Dealt counts from the lag that brokers tell, between two looks at the ends of the logs
// that must agree.
func (k kafkaCluster) Dealt(ctx context.Context, groups []Group) (map[string]map[flow.TopicPartition]int64, error) {
	topics := map[string]bool{}
	failed := k.describe(ctx, names(groups), func(_ string, tp flow.TopicPartition, _ shareStart) { topics[tp.Topic] = true })
	before, err := k.Ends(ctx, slices.Collect(maps.Keys(topics)))
	if err != nil {
		return nil, err
	}
	dealt := map[string]map[flow.TopicPartition]int64{}
	maps.Copy(failed, k.describe(ctx, names(groups), func(group string, tp flow.TopicPartition, o shareStart) {
		if o.Lag >= 0 {
			put(dealt, group, tp, before[tp]-o.Lag)
		}
	}))
	after, err := k.Ends(ctx, slices.Collect(maps.Keys(topics)))
	for _, at := range dealt {
		maps.DeleteFunc(at, func(tp flow.TopicPartition, _ int64) bool {
			end, ok := before[tp]
			return !ok || after[tp] != end
		})
	}
	return dealt, cmp.Or(err, failed.err())
}

func put[V any](all map[string]map[flow.TopicPartition]V, group string, tp flow.TopicPartition, v V) {
	if all[group] == nil {
		all[group] = map[flow.TopicPartition]V{}
	}
	all[group][tp] = v
}

// shareStart is what a broker tells of a share-partition.
type shareStart = kmsg.DescribeShareGroupOffsetsResponseGroupTopicPartition

// describe goes through the share-partitions that start somewhere, of groups of which all can
// be had. It asks itself: of a client's own question nothing is left if one group is refused.
func (k kafkaCluster) describe(ctx context.Context, groups []string, see func(group string, tp flow.TopicPartition, o shareStart)) GroupErrors {
	failed := GroupErrors{}
	if len(groups) == 0 {
		return failed
	}
	req := kmsg.NewPtrDescribeShareGroupOffsetsRequest()
	for _, name := range groups {
		g := kmsg.NewDescribeShareGroupOffsetsRequestGroup()
		g.GroupID = name
		req.Groups = append(req.Groups, g)
		failed[name] = errNoAnswer
	}
	for _, shard := range k.cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			for _, g := range shard.Req.(*kmsg.DescribeShareGroupOffsetsRequest).Groups {
				failed[g.GroupID] = shard.Err
			}
			continue
		}
		for _, g := range shard.Resp.(*kmsg.DescribeShareGroupOffsetsResponse).Groups {
			if failed[g.GroupID] = faultOf(g); failed[g.GroupID] != nil {
				continue
			}
			delete(failed, g.GroupID)
			for _, t := range g.Topics {
				for _, o := range t.Partitions {
					if o.StartOffset >= 0 {
						see(g.GroupID, flow.TopicPartition{Topic: t.Topic, Partition: o.Partition}, o)
					}
				}
			}
		}
	}
	for name, err := range failed {
		failed[name] = fmt.Errorf("where it starts: %w", err)
	}
	return failed
}

// faultOf is why not all can be had of where a share group starts.
func faultOf(g kmsg.DescribeShareGroupOffsetsResponseGroup) error {
	if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
		if errors.Is(err, kerr.GroupIDNotFound) {
			return nil
		}
		return err
	}
	for _, t := range g.Topics {
		for _, o := range t.Partitions {
			if err := kerr.ErrorForCode(o.ErrorCode); err != nil {
				return fmt.Errorf("%s/%d: %w", t.Topic, o.Partition, err)
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
