package broker

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/controller"
)

// metadata answers Metadata: the broker, and the topics that were asked for and
// that the caller may Describe, each once however often it is named. v4 may forbid
// creation, v10 asks by topic id (KIP-516), v8 tells what the caller may do (KIP-430).
//
// A topic that the caller may not describe is refused whether or not it exists,
// so the answer tells nothing; by id it is unknown.
func (b *Broker) metadata(_ context.Context, r *request, q *kmsg.MetadataRequest) *kmsg.MetadataResponse {
	resp := q.ResponseKind().(*kmsg.MetadataResponse)
	clusterID := b.ClusterID()
	resp.ClusterID = &clusterID
	resp.ControllerID = b.cfg.NodeID
	ln := b.listeners[r.client.Listener]
	node := kmsg.NewMetadataResponseBroker()
	node.NodeID, node.Host, node.Port = b.cfg.NodeID, ln.host, ln.port
	resp.Brokers = append(resp.Brokers, node)
	if q.IncludeClusterAuthorizedOperations && r.allowed(acl.Describe, acl.Cluster, acl.ClusterName) {
		resp.AuthorizedOperations = r.operations(acl.Cluster, acl.ClusterName)
	}

	all := q.Topics == nil
	if q.Version == 0 {
		all = len(q.Topics) == 0
	}
	if all {
		set := b.topics.Load()
		for _, name := range slices.Sorted(maps.Keys(set.byName)) {
			if r.may(name) {
				resp.Topics = append(resp.Topics, b.describeTopic(r, q, set.byName[name]))
			}
		}
		return resp
	}
	create := b.settings.Load().autoCreate && (q.AllowAutoTopicCreation || q.Version < 4)
	type named struct {
		id   [16]byte
		name string
	}
	for _, want := range onceBy(q.Topics, func(t kmsg.MetadataRequestTopic) named {
		if t.Topic == nil || t.TopicID != [16]byte{} {
			return named{id: t.TopicID}
		}
		return named{name: *t.Topic}
	}) {
		resp.Topics = append(resp.Topics, b.metadataTopic(r, q, want, create))
	}
	return resp
}

func (b *Broker) metadataTopic(r *request, q *kmsg.MetadataRequest, want kmsg.MetadataRequestTopic, create bool) kmsg.MetadataResponseTopic {
	refused := kmsg.NewMetadataResponseTopic()
	refused.Topic, refused.TopicID = want.Topic, want.TopicID
	// Java's admin client asks by id with an empty name, others with none.
	if want.Topic == nil || want.TopicID != [16]byte{} {
		t := b.topicByID(controller.TopicID(want.TopicID))
		if t == nil || !r.may(t.Name) {
			refused.ErrorCode = kerr.UnknownTopicID.Code
			return refused
		}
		return b.describeTopic(r, q, t)
	}
	name := *want.Topic
	if !r.may(name) {
		refused.ErrorCode = kerr.TopicAuthorizationFailed.Code
		return refused
	}
	t := b.topic(name)
	if t == nil {
		var err error
		if t, err = b.autoCreate(r, name, create); err != nil {
			refused.ErrorCode = b.code(err, "create topic", "topic", name)
			return refused
		}
	}
	return b.describeTopic(r, q, t)
}

// autoCreate makes a topic because somebody asked for it, if that is allowed.
func (b *Broker) autoCreate(r *request, name string, create bool) (*topic, error) {
	switch {
	case checkTopicName(name) != nil:
		return nil, kerr.InvalidTopicException
	case !create || isInternal(name):
		return nil, kerr.UnknownTopicOrPartition
	case !r.mayCreate(name):
		return nil, kerr.TopicAuthorizationFailed
	}
	t, err := b.createTopic(name, b.settings.Load().partitions, nil)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		if t = b.topic(name); t != nil {
			return t, nil
		}
	}
	return t, err
}

// mayCreate reports whether the caller may create a topic: by right on the
// cluster or on the name.
func (r *request) mayCreate(topic string) bool {
	return r.allowed(acl.Create, acl.Cluster, acl.ClusterName) || r.allowed(acl.Create, acl.Topic, topic)
}

func (b *Broker) describeTopic(r *request, q *kmsg.MetadataRequest, t *topic) kmsg.MetadataResponseTopic {
	out := kmsg.NewMetadataResponseTopic()
	out.Topic, out.TopicID, out.IsInternal = &t.Name, t.ID, isCoordinators(t.Name)
	if !r.spend(len(t.partitions) * partitionMemory) {
		return out
	}
	self := []int32{b.cfg.NodeID}
	out.Partitions = make([]kmsg.MetadataResponseTopicPartition, 0, len(t.partitions))
	for _, p := range t.partitions {
		part := kmsg.NewMetadataResponseTopicPartition()
		part.Partition, part.Leader, part.LeaderEpoch = p.Partition, b.cfg.NodeID, p.LeaderEpoch()
		part.Replicas, part.ISR = self, self
		if p.Offline() != nil {
			part.ErrorCode = kerr.LeaderNotAvailable.Code
			part.Leader, part.ISR, part.OfflineReplicas = -1, nil, self
		}
		out.Partitions = append(out.Partitions, part)
	}
	if q.IncludeTopicAuthorizedOperations {
		out.AuthorizedOperations = r.operations(acl.Topic, t.Name)
	}
	return out
}
