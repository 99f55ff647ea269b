package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
)

// replicaAPIs are about where replicas are and which of them leads. There is one
// of each partition, in one directory, and it leads: what asks for that is
// granted, what asks for anything else refused.
func replicaAPIs() []api {
	row := func(key kmsg.Key, low, high int16, op acl.Operation, h handler) api {
		return api{key: key, min: low, max: high, resource: acl.Cluster, op: op, handle: h}
	}
	return []api{
		row(kmsg.AlterReplicaLogDirs, 1, 2, acl.Alter, answers((*Broker).alterReplicaLogDirs)),
		row(kmsg.DescribeLogDirs, 1, 5, acl.Describe, answers((*Broker).describeLogDirs)),
		row(kmsg.ElectLeaders, 0, 2, acl.Alter, answers((*Broker).electLeaders)),
		row(kmsg.AlterPartitionAssignments, 0, 1, acl.Alter, answers((*Broker).alterPartitionReassignments)),
		row(kmsg.ListPartitionReassignments, 0, 0, acl.Describe, answers((*Broker).listPartitionReassignments)),
	}
}

// electLeaders answers ElectLeaders (KIP-460). The replica leads already, unless
// its log is offline. No topics (null) is all; of those only failures are told.
func (b *Broker) electLeaders(_ context.Context, r *request, q *kmsg.ElectLeadersRequest) *kmsg.ElectLeadersResponse {
	resp := q.ResponseKind().(*kmsg.ElectLeadersResponse)
	allowed := r.may(acl.ClusterName)
	if !allowed {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
	}
	wanted := q.Topics
	if q.Topics == nil && allowed { // who may not is not told which there are
		set := b.topics.Load()
		for _, name := range slices.Sorted(maps.Keys(set.byName)) {
			if !r.spend(len(set.byName[name].partitions) * partitionMemory) {
				return resp
			}
			t := kmsg.NewElectLeadersRequestTopic()
			t.Topic = name
			for _, p := range set.byName[name].partitions {
				t.Partitions = append(t.Partitions, p.Partition)
			}
			wanted = append(wanted, t)
		}
	}
	for _, t := range wanted {
		topic := kmsg.NewElectLeadersResponseTopic()
		topic.Topic = t.Topic
		for _, n := range t.Partitions {
			err := b.electLeader(t.Topic, n, q.ElectionType != 0)
			switch {
			case !allowed:
				err = kerr.ClusterAuthorizationFailed
			case q.Topics == nil && kafkaError(err) == kerr.ElectionNotNeeded:
				continue
			}
			part := kmsg.NewElectLeadersResponseTopicPartition()
			part.Partition, part.ErrorCode, part.ErrorMessage = n, b.code(err, "elect leader"), message(err)
			topic.Partitions = append(topic.Partitions, part)
		}
		if len(topic.Partitions) > 0 {
			resp.Topics = append(resp.Topics, topic)
		}
	}
	return resp
}

func (b *Broker) electLeader(name string, n int32, unclean bool) error {
	p, err := b.partition(name, n)
	switch {
	case err != nil:
		return err
	case p.Offline() == nil:
		return kerr.ElectionNotNeeded
	case unclean:
		return kerr.EligibleLeadersNotAvailable
	}
	return kerr.PreferredLeaderNotAvailable
}

// alterPartitionReassignments answers AlterPartitionReassignments (KIP-455): a
// move to where the replica is succeeds at once.
func (b *Broker) alterPartitionReassignments(_ context.Context, r *request, q *kmsg.AlterPartitionAssignmentsRequest) *kmsg.AlterPartitionAssignmentsResponse {
	resp := q.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
	resp.AllowReplicationFactorChange = q.AllowReplicationFactorChange
	if !r.may(acl.ClusterName) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp
	}
	for _, t := range q.Topics {
		topic := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			_, err := b.partition(t.Topic, p.Partition)
			switch {
			case err != nil:
			case p.Replicas == nil:
				err = kerr.NoReassignmentInProgress
			default:
				err = b.checkReplicas(p.Replicas)
			}
			part := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			part.Partition, part.ErrorCode, part.ErrorMessage = p.Partition, b.code(err, "reassign partition"), message(err)
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

// checkReplicas says what is wrong with where somebody wants a partition.
func (b *Broker) checkReplicas(replicas []int32) error {
	switch {
	case len(replicas) == 0:
		return refuse(kerr.InvalidReplicaAssignment, "a partition needs a replica")
	case len(replicas) > 1 || replicas[0] != b.cfg.NodeID:
		return refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("replicas %v: broker %d is the only one", replicas, b.cfg.NodeID))
	}
	return nil
}

// listPartitionReassignments answers ListPartitionReassignments (KIP-455): none
// takes any time.
func (b *Broker) listPartitionReassignments(_ context.Context, r *request, q *kmsg.ListPartitionReassignmentsRequest) *kmsg.ListPartitionReassignmentsResponse {
	resp := q.ResponseKind().(*kmsg.ListPartitionReassignmentsResponse)
	if !r.may(acl.ClusterName) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
	}
	return resp
}

// alterReplicaLogDirs answers AlterReplicaLogDirs (KIP-113): there is one
// directory.
func (b *Broker) alterReplicaLogDirs(_ context.Context, r *request, q *kmsg.AlterReplicaLogDirsRequest) *kmsg.AlterReplicaLogDirsResponse {
	resp := q.ResponseKind().(*kmsg.AlterReplicaLogDirsResponse)
	allowed := r.may(acl.ClusterName)
	for _, d := range q.Dirs {
		for _, t := range d.Topics {
			topic := kmsg.NewAlterReplicaLogDirsResponseTopic()
			topic.Topic = t.Topic
			for _, n := range t.Partitions {
				_, err := b.partition(t.Topic, n)
				switch {
				case !allowed:
					err = kerr.ClusterAuthorizationFailed
				case err == nil && d.Dir != b.logsDir():
					err = kerr.LogDirNotFound
				}
				part := kmsg.NewAlterReplicaLogDirsResponseTopicPartition()
				part.Partition, part.ErrorCode = n, b.code(err, "alter log dir")
				topic.Partitions = append(topic.Partitions, part)
			}
			resp.Topics = append(resp.Topics, topic)
		}
	}
	return resp
}

// describeLogDirs answers DescribeLogDirs (KIP-113): the sizes of the logs in the
// one directory, and (v4) of its disk.
func (b *Broker) describeLogDirs(_ context.Context, r *request, q *kmsg.DescribeLogDirsRequest) *kmsg.DescribeLogDirsResponse {
	resp := q.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	if !r.may(acl.ClusterName) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp
	}
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = b.logsDir()
	dir.TotalBytes, dir.UsableBytes = -1, -1
	if b.cfg.FS == nil {
		dir.TotalBytes, dir.UsableBytes = diskSpace(dir.Dir)
	}
	set := b.topics.Load()
	add := func(name string, wanted func(int32) bool) {
		t := set.byName[name]
		if t == nil || !r.spend(len(t.partitions)*partitionMemory) {
			return
		}
		out := kmsg.NewDescribeLogDirsResponseDirTopic()
		out.Topic = name
		for _, p := range t.partitions {
			if wanted(p.Partition) {
				part := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
				part.Partition, part.Size = p.Partition, p.Size()
				out.Partitions = append(out.Partitions, part)
			}
		}
		dir.Topics = append(dir.Topics, out)
	}
	if q.Topics == nil {
		for _, name := range slices.Sorted(maps.Keys(set.byName)) {
			add(name, func(int32) bool { return true })
		}
	}
	for _, t := range q.Topics {
		wanted := map[int32]bool{}
		for _, p := range t.Partitions {
			wanted[p] = true
		}
		add(t.Topic, func(p int32) bool { return wanted[p] })
	}
	resp.Dirs = append(resp.Dirs, dir)
	return resp
}
