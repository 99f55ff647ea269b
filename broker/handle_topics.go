package broker

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/controller"
)

func topicAPIs() []api {
	return []api{
		{key: kmsg.CreateTopics, min: 2, max: 7, resource: acl.Topic, op: acl.Create, handle: answers((*Broker).createTopics)},
		{key: kmsg.DeleteTopics, min: 1, max: 6, resource: acl.Topic, op: acl.Delete, handle: answers((*Broker).deleteTopics)},
		{key: kmsg.CreatePartitions, min: 0, max: 3, resource: acl.Topic, op: acl.Alter, handle: answers((*Broker).createPartitions)},
		{key: kmsg.DeleteRecords, min: 0, max: 2, resource: acl.Topic, op: acl.Delete, handle: answers((*Broker).deleteRecords)},
		{key: kmsg.DescribeTopicPartitions, min: 0, max: 0, resource: acl.Topic, op: acl.Describe, handle: answers((*Broker).describeTopicPartitions)},
		{key: kmsg.DescribeConfigs, min: 1, max: 4, handle: answers((*Broker).describeConfigs)},
		{key: kmsg.ListConfigResources, min: 0, max: 1, resource: acl.Cluster, op: acl.DescribeConfigs, handle: answers((*Broker).listConfigResources)},
		{key: kmsg.AlterConfigs, min: 0, max: 2, handle: answers((*Broker).alterConfigs)},
		{key: kmsg.IncrementalAlterConfigs, min: 0, max: 1, handle: answers((*Broker).incrementalAlterConfigs)},
	}
}

// createTopics answers CreateTopics: Create on the cluster or on the name. v4
// takes -1 for the defaults (KIP-464), v5 tells the configuration (KIP-525), v7
// the topic id. A topic has one replica. A request for more partitions than
// MaxTopicPartitions, all topics together, is refused, as by Kafka.
func (b *Broker) createTopics(_ context.Context, r *request, q *kmsg.CreateTopicsRequest) *kmsg.CreateTopicsResponse {
	resp := q.ResponseKind().(*kmsg.CreateTopicsResponse)
	count := map[string]int{}
	partitions := 0
	for i := range q.Topics {
		t := &q.Topics[i]
		count[t.Topic]++
		if n, err := b.plannedPartitions(t); err == nil { // whoever asks for what cannot be is told so
			partitions += int(n)
		}
	}
	var tooMany error
	if partitions > MaxTopicPartitions {
		tooMany = refuse(kerr.PolicyViolation, fmt.Sprintf("%d partitions in one request, %d is the limit", partitions, MaxTopicPartitions))
	}
	for i := range q.Topics {
		want := &q.Topics[i]
		if count[want.Topic] == 0 {
			continue // answered already
		}
		out := kmsg.NewCreateTopicsResponseTopic()
		out.Topic, out.NumPartitions, out.ReplicationFactor = want.Topic, -1, -1
		var err error
		if count[want.Topic] > 1 {
			err = refuse(kerr.InvalidRequest, "topic is named twice")
		} else {
			err = b.createOne(r, q, want, tooMany, &out)
		}
		count[want.Topic] = 0
		out.ErrorCode, out.ErrorMessage = b.code(err, "create topic", "topic", want.Topic), message(err)
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func (b *Broker) createOne(r *request, q *kmsg.CreateTopicsRequest, want *kmsg.CreateTopicsRequestTopic, tooMany error, out *kmsg.CreateTopicsResponseTopic) error {
	switch {
	case !r.mayCreate(want.Topic):
		return kerr.TopicAuthorizationFailed
	case tooMany != nil:
		return tooMany
	case isClosed(r.late):
		return errLate
	case !r.spend(len(topicSettings) * entryMemory):
		return r.unpaid
	}
	if err := checkTopicName(want.Topic); err != nil {
		return refuse(kerr.InvalidTopicException, err.Error())
	}
	if b.topic(want.Topic) != nil {
		return refuse(kerr.TopicAlreadyExists, fmt.Sprintf("topic %q already exists", want.Topic))
	}
	if err := checkCollision(b.ctl.Image(), want.Topic); err != nil {
		return err
	}
	partitions, err := b.plannedPartitions(want)
	if err != nil {
		return err
	}
	configs := map[string]string{}
	for _, c := range want.Configs {
		if c.Value == nil {
			return refuse(kerr.InvalidConfig, fmt.Sprintf("topic config %q has no value", c.Name))
		}
		configs[c.Name] = *c.Value
	}
	mirror, err := takeMirror(want.Topic, configs)
	if err != nil {
		return err
	}
	if err := b.settings.Load().check(configs); err != nil {
		return refuse(kerr.InvalidConfig, err.Error())
	}
	if !q.ValidateOnly {
		if r.throttleMutation(int(partitions), r.version >= 6) {
			return kerr.ThrottlingQuotaExceeded
		}
		t, err := b.createTopicOf(want.Topic, partitions, configs, mirror, r.late)
		if err != nil {
			return err
		}
		out.TopicID = t.ID
	}
	if !r.allowed(acl.DescribeConfigs, acl.Topic, want.Topic) {
		out.ConfigErrorCode = kerr.TopicAuthorizationFailed.Code
		return nil
	}
	out.NumPartitions, out.ReplicationFactor = partitions, 1
	for _, c := range b.describeTopicConfigs(configs) {
		out.Configs = append(out.Configs, kmsg.CreateTopicsResponseTopicConfig{Name: c.Name, Value: c.Value, Source: int8(c.Source)})
	}
	return nil
}

// plannedPartitions is how many partitions a request for a topic means.
func (b *Broker) plannedPartitions(want *kmsg.CreateTopicsRequestTopic) (int32, error) {
	if len(want.ReplicaAssignment) > 0 {
		if want.NumPartitions != -1 || want.ReplicationFactor != -1 {
			return 0, refuse(kerr.InvalidRequest, "an assignment of replicas leaves no number to choose: both must be -1")
		}
		seen := map[int32]bool{}
		for _, a := range want.ReplicaAssignment {
			if !slices.Equal(a.Replicas, []int32{b.cfg.NodeID}) {
				return 0, refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("broker %d is the only one", b.cfg.NodeID))
			}
			if a.Partition < 0 || int(a.Partition) >= len(want.ReplicaAssignment) || seen[a.Partition] {
				return 0, refuse(kerr.InvalidReplicaAssignment, "partitions must count from 0 without holes")
			}
			seen[a.Partition] = true
		}
		return b.boundedPartitions(int32(len(want.ReplicaAssignment)))
	}
	if want.ReplicationFactor != -1 && want.ReplicationFactor != 1 {
		return 0, refuse(kerr.InvalidReplicationFactor, fmt.Sprintf("replication factor %d, there is one broker", want.ReplicationFactor))
	}
	if want.NumPartitions == -1 {
		return b.boundedPartitions(b.settings.Load().partitions)
	}
	return b.boundedPartitions(want.NumPartitions)
}

func (b *Broker) boundedPartitions(n int32) (int32, error) {
	if n <= 0 || n > MaxTopicPartitions {
		return 0, refuse(kerr.InvalidPartitions, fmt.Sprintf("%d partitions are not between 1 and %d", n, MaxTopicPartitions))
	}
	return n, nil
}

// deleteTopics answers DeleteTopics, by name or (v6) by id.
func (b *Broker) deleteTopics(ctx context.Context, r *request, q *kmsg.DeleteTopicsRequest) *kmsg.DeleteTopicsResponse {
	resp := q.ResponseKind().(*kmsg.DeleteTopicsResponse)
	wanted := q.Topics
	if q.Version < 6 {
		wanted = nil
		for _, name := range q.TopicNames {
			wanted = append(wanted, kmsg.DeleteTopicsRequestTopic{Topic: kmsg.StringPtr(name)})
		}
	}
	for _, want := range wanted {
		out := kmsg.NewDeleteTopicsResponseTopic()
		out.Topic, out.TopicID = want.Topic, want.TopicID
		err := b.deleteOne(ctx, r, want, &out)
		out.ErrorCode, out.ErrorMessage = b.code(err, "delete topic", "topic", out.Topic), message(err)
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func (b *Broker) deleteOne(ctx context.Context, r *request, want kmsg.DeleteTopicsRequestTopic, out *kmsg.DeleteTopicsResponseTopic) error {
	var t *topic
	if want.Topic == nil {
		t = b.topicByID(controller.TopicID(want.TopicID))
		switch {
		case t == nil:
			return kerr.UnknownTopicID
		case !r.allowed(acl.Describe, acl.Topic, t.Name), !r.may(t.Name):
			return kerr.TopicAuthorizationFailed // an id is no secret, the name is
		}
		out.Topic = &t.Name
	} else {
		if !r.may(*want.Topic) {
			return kerr.TopicAuthorizationFailed
		}
		if t = b.topic(*want.Topic); t == nil {
			return kerr.UnknownTopicOrPartition
		}
		out.TopicID = t.ID
	}
	if b.isOwn(t.Name) {
		return refuse(kerr.InvalidTopicException, fmt.Sprintf("%s is the broker's own", t.Name))
	}
	if isClosed(r.late) {
		return errLate
	}
	if r.throttleMutation(int(t.Partitions), r.version >= 5) {
		return kerr.ThrottlingQuotaExceeded
	}
	return b.deleteTopic(ctx, t)
}

// isOwn reports whether the broker itself depends on a topic.
func (b *Broker) isOwn(name string) bool {
	return isCoordinators(name) || name == ledgerTopic && b.cfg.Provenance
}

// createPartitions answers CreatePartitions.
func (b *Broker) createPartitions(_ context.Context, r *request, q *kmsg.CreatePartitionsRequest) *kmsg.CreatePartitionsResponse {
	resp := q.ResponseKind().(*kmsg.CreatePartitionsResponse)
	more := 0 // beyond what there is, of all topics
	for i := range q.Topics {
		if t := b.topic(q.Topics[i].Topic); t != nil {
			more += int(max(0, min(q.Topics[i].Count, MaxTopicPartitions)-t.Partitions))
		}
	}
	var tooMany error
	if more > MaxTopicPartitions {
		tooMany = refuse(kerr.PolicyViolation, fmt.Sprintf("%d partitions more in one request, %d is the limit", more, MaxTopicPartitions))
	}
	for i := range q.Topics {
		want := &q.Topics[i]
		out := kmsg.NewCreatePartitionsResponseTopic()
		out.Topic = want.Topic
		err := b.growTopic(r, q, want, tooMany)
		out.ErrorCode, out.ErrorMessage = b.code(err, "create partitions", "topic", want.Topic), message(err)
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func (b *Broker) growTopic(r *request, q *kmsg.CreatePartitionsRequest, want *kmsg.CreatePartitionsRequestTopic, tooMany error) error {
	switch {
	case !r.may(want.Topic):
		return kerr.TopicAuthorizationFailed
	case tooMany != nil:
		return tooMany
	case isClosed(r.late):
		return errLate
	}
	t := b.topic(want.Topic)
	if t == nil {
		return kerr.UnknownTopicOrPartition
	}
	if b.isOwn(want.Topic) {
		return refuse(kerr.InvalidTopicException, fmt.Sprintf("%s is the broker's own", want.Topic))
	}
	if err := t.writable(); err != nil && !r.allowed(acl.ClusterAction, acl.Cluster, acl.ClusterName) {
		return err // its partitions are the source's
	}
	grow := func(t controller.Topic) (controller.Topic, error) {
		if want.Count <= t.Partitions {
			return t, refuse(kerr.InvalidPartitions, fmt.Sprintf("topic has %d partitions already", t.Partitions))
		}
		if _, err := b.boundedPartitions(want.Count); err != nil {
			return t, err
		}
		if len(want.Assignment) > 0 && len(want.Assignment) != int(want.Count-t.Partitions) {
			return t, refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("%d assignments for %d new partitions", len(want.Assignment), want.Count-t.Partitions))
		}
		for _, a := range want.Assignment {
			if !slices.Equal(a.Replicas, []int32{b.cfg.NodeID}) {
				return t, refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("broker %d is the only one", b.cfg.NodeID))
			}
		}
		t.Partitions = want.Count
		return t, nil
	}
	if q.ValidateOnly {
		_, err := grow(*t.Topic)
		return err
	}
	if more := int(want.Count - t.Partitions); more > 0 && r.throttleMutation(more, r.version >= 3) {
		return kerr.ThrottlingQuotaExceeded
	}
	b.mirrorMu.Lock() // A promotion is of all partitions that there are.
	defer b.mirrorMu.Unlock()
	_, err := b.changeTopic(want.Topic, r.late, grow)
	return err
}

// deleteRecords answers DeleteRecords: it raises the start of a log, to the high
// watermark for -1.
func (b *Broker) deleteRecords(_ context.Context, r *request, q *kmsg.DeleteRecordsRequest) *kmsg.DeleteRecordsResponse {
	resp := q.ResponseKind().(*kmsg.DeleteRecordsResponse)
	for _, t := range q.Topics {
		out := kmsg.NewDeleteRecordsResponseTopic()
		out.Topic = t.Topic
		for _, want := range t.Partitions {
			part := kmsg.NewDeleteRecordsResponseTopicPartition()
			part.Partition, part.LowWatermark = want.Partition, -1
			low, err := b.deleteRecordsOf(r, t.Topic, want)
			if err == nil {
				part.LowWatermark = low
			}
			part.ErrorCode = b.code(err, "delete records", "topic", t.Topic, "partition", want.Partition)
			out.Partitions = append(out.Partitions, part)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func (b *Broker) deleteRecordsOf(r *request, name string, want kmsg.DeleteRecordsRequestTopicPartition) (int64, error) {
	if !r.may(name) {
		return 0, kerr.TopicAuthorizationFailed
	}
	t := b.topic(name) // once: it may be deleted meanwhile
	if t == nil {
		return 0, kerr.UnknownTopicOrPartition
	}
	p, err := t.leader(want.Partition, -1, false)
	switch {
	case isClosed(r.late):
		return 0, errLate
	case err != nil:
		return 0, err
	case b.isOwn(name) && name != ledgerTopic:
		return 0, kerr.InvalidTopicException
	case t.isReadOnly():
		return 0, kerr.PolicyViolation // its start follows the source's
	case !t.deletes():
		return 0, kerr.PolicyViolation
	}
	if b.isOwn(name) {
		if err := foldedBelow(r.late, p, want.Offset); err != nil {
			return 0, err
		}
	}
	return p.DeleteRecordsBefore(want.Offset)
}
