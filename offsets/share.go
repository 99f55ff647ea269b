package offsets

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
)

// ShareCluster is a [Cluster] whose groups are share groups (KIP-932), and whose
// positions are where their share-partitions start: everything below has been dealt
// with. What was acknowledged behind it, out of order, no request tells, so it is
// delivered again by whoever starts there. Positions have no metadata, so that nobody
// can tell who wrote one: share groups are not followed, they change sides when
// somebody says so ([Syncer.Apply] with [Terms.Overwrite]).
func ShareCluster(cl *kgo.Client) Cluster { return shareCluster{kafkaCluster{kadm.NewClient(cl)}} }

type shareCluster struct{ kafkaCluster }

func (k shareCluster) Groups(ctx context.Context) (map[string]string, error) {
	groups, err := k.adm.ListGroups(ctx)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	states := map[string]string{}
	for name, g := range groups {
		if g.ProtocolType == "share" {
			states[name] = g.State
		}
	}
	return states, nil
}

func (k shareCluster) Commits(ctx context.Context, groups []string) (map[string]map[flow.TopicPartition]Commit, error) {
	all := map[string]map[flow.TopicPartition]Commit{}
	if len(groups) == 0 { // asked for none, kadm describes all
		return all, nil
	}
	described, err := k.adm.DescribeShareGroupOffsets(ctx, groups...)
	if err != nil {
		return nil, fmt.Errorf("starts of share groups: %w", err)
	}
	for name, g := range described {
		if g.Err != nil && !errors.Is(g.Err, kerr.GroupIDNotFound) {
			return nil, fmt.Errorf("starts of share group %s: %w", name, g.Err)
		}
		all[name] = map[flow.TopicPartition]Commit{}
		for _, o := range g.Offsets.Sorted() {
			if o.Err != nil {
				return nil, fmt.Errorf("start of share group %s, %s/%d: %w", name, o.Topic, o.Partition, o.Err)
			}
			if o.StartOffset >= 0 {
				all[name][flow.TopicPartition{Topic: o.Topic, Partition: o.Partition}] = Commit{Offset: o.StartOffset}
			}
		}
	}
	return all, nil
}

func (k shareCluster) Commit(ctx context.Context, group string, at map[flow.TopicPartition]Commit) error {
	os := kadm.Offsets{}
	for tp, c := range at {
		os.Add(kadm.Offset{Topic: tp.Topic, Partition: tp.Partition, At: c.Offset, LeaderEpoch: -1})
	}
	resp, err := k.adm.AlterShareGroupOffsets(ctx, group, os)
	if err == nil {
		err = resp.Error()
	}
	if errors.Is(err, kerr.NonEmptyGroup) {
		return fmt.Errorf("start share group %s: %w: %w", group, ErrActive, err)
	}
	if err != nil {
		return fmt.Errorf("start share group %s: %w", group, err)
	}
	return nil
}
