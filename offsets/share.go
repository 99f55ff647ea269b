package offsets

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
)

// ShareCluster is a [Cluster] whose groups are share groups (KIP-932), and whose
// positions are where their share-partitions start: everything below has been dealt
// with. What was acknowledged behind it, out of order, no request tells, so it is
// delivered again by whoever starts there. Positions have no metadata, so that nobody
// can tell who wrote one: share groups are not followed, they change sides when
// somebody says so ([Syncer.Apply] with [Terms.Overwrite]).
func ShareCluster(cl *kgo.Client) Cluster {
	return shareCluster{kafkaCluster{kadm.NewClient(cl)}, cl}
}

type shareCluster struct {
	kafkaCluster
	cl *kgo.Client
}

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
	alter := func() error {
		resp, err := k.adm.AlterShareGroupOffsets(ctx, group, os)
		if err == nil {
			err = resp.Error()
		}
		return err
	}
	err := alter()
	if errors.Is(err, kerr.GroupIDNotFound) {
		if err = k.found(ctx, group, os.TopicsSet().Topics()); err == nil {
			err = alter()
		}
	}
	if errors.Is(err, kerr.NonEmptyGroup) {
		return fmt.Errorf("start share group %s: %w: %w", group, ErrActive, err)
	}
	if err != nil {
		return fmt.Errorf("start share group %s: %w", group, err)
	}
	return nil
}

// found makes a share group that is not there: a member joins, which is the only way to
// make one, and leaves at once.
func (k shareCluster) found(ctx context.Context, group string, topics []string) error {
	req := kmsg.NewPtrShareGroupHeartbeatRequest()
	req.GroupID, req.MemberID, req.SubscribedTopicNames = group, rand.Text(), topics
	for _, epoch := range []int32{0, -1} { // join, leave
		req.MemberEpoch = epoch
		resp, err := req.RequestWith(ctx, k.cl)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err != nil {
			return fmt.Errorf("make share group %s: %w", group, err)
		}
	}
	return nil
}
