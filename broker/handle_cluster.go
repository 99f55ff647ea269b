package broker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
)

func clusterAPIs() []api {
	return []api{
		{key: kmsg.ApiVersions, min: 0, max: 5, handle: answers((*Broker).apiVersions)},
		{key: kmsg.Metadata, min: 0, max: 13, resource: acl.Topic, op: acl.Describe, handle: answers((*Broker).metadata)},
		{key: kmsg.DescribeCluster, min: 0, max: 2, resource: acl.Cluster, op: acl.Describe, handle: answers((*Broker).describeCluster)},
		{key: kmsg.UpdateFeatures, min: 0, max: 2, resource: acl.Cluster, op: acl.Alter, handle: answers((*Broker).updateFeatures)},
		{key: kmsg.DescribeQuorum, min: 0, max: 2, resource: acl.Cluster, op: acl.Describe, handle: answers((*Broker).describeQuorum)},
	}
}

// apiVersions answers ApiVersions (KIP-511), before authentication too: it tells
// what the program speaks and nothing about the cluster. r is nil then.
func (b *Broker) apiVersions(_ context.Context, _ *request, q *kmsg.ApiVersionsRequest) *kmsg.ApiVersionsResponse {
	resp := q.ResponseKind().(*kmsg.ApiVersionsResponse)
	if q.Version >= 3 && !(softwarePattern.MatchString(q.ClientSoftwareName) && softwarePattern.MatchString(q.ClientSoftwareVersion)) {
		resp.ErrorCode = kerr.InvalidRequest.Code
		return resp
	}
	if q.Version >= 5 {
		if resp.ErrorCode = b.code(b.checkIdentity(q.ClusterID, q.NodeID), "api versions"); resp.ErrorCode != 0 {
			return resp
		}
	}
	resp.ApiKeys = b.table.ranges()
	describeFeatures(b.ctl.Image(), resp)
	return resp
}

// checkIdentity is about what a client takes this broker for; it may not know.
func (b *Broker) checkIdentity(clusterID *string, nodeID int32) error {
	switch {
	case (clusterID == nil) != (nodeID == -1):
		return kerr.InvalidRequest
	case clusterID != nil && (*clusterID != b.ClusterID() || nodeID != b.cfg.NodeID):
		return kerr.RebootstrapRequired
	}
	return nil
}

// unsupportedAPIVersions answers an ApiVersions of a version that we do not
// speak: in version 0, which every client reads, with the range that we do.
func (b *Broker) unsupportedAPIVersions() *kmsg.ApiVersionsResponse {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.ErrorCode = kerr.UnsupportedVersion.Code
	row := b.table[int16(kmsg.ApiVersions)]
	k := kmsg.NewApiVersionsResponseApiKey()
	k.ApiKey, k.MinVersion, k.MaxVersion = int16(row.key), row.min, row.max
	resp.ApiKeys = append(resp.ApiKeys, k)
	return resp
}

// Types of endpoint of DescribeCluster (KIP-919).
const (
	brokerEndpoint     = 1
	controllerEndpoint = 2
)

func checkEndpoint(kind int8) error {
	switch kind {
	case brokerEndpoint:
		return nil
	case controllerEndpoint:
		return refuse(kerr.MismatchedEndpointType, "this is a broker's endpoint, not a controller's")
	}
	return refuse(kerr.UnsupportedEndpointType, fmt.Sprintf("there are no endpoints of type %d", kind))
}

// describeCluster answers DescribeCluster (KIP-700). As in Kafka everybody may
// ask who the brokers are.
func (b *Broker) describeCluster(_ context.Context, r *request, q *kmsg.DescribeClusterRequest) *kmsg.DescribeClusterResponse {
	resp := q.ResponseKind().(*kmsg.DescribeClusterResponse)
	if err := checkEndpoint(q.EndpointType); q.Version >= 1 && err != nil {
		resp.ErrorCode, resp.ErrorMessage = b.code(err, "describe cluster"), message(err)
		return resp
	}
	resp.EndpointType = brokerEndpoint
	resp.ClusterID = b.ClusterID()
	resp.ControllerID = b.cfg.NodeID
	ln := b.listeners[r.client.Listener]
	node := kmsg.NewDescribeClusterResponseBroker()
	node.NodeID, node.Host, node.Port = b.cfg.NodeID, ln.host, ln.port
	resp.Brokers = append(resp.Brokers, node)
	if q.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = r.operations(acl.Cluster, acl.ClusterName)
	}
	return resp
}

// metadataTopic is the name that Kafka gives the log of a cluster's metadata.
const metadataTopic = "__cluster_metadata"

// describeQuorum answers DescribeQuorum (KIP-595): this node is the only voter.
// Offsets are revisions of the metadata, the epoch is the number of the start. v2
// has the voters' addresses (KIP-853).
func (b *Broker) describeQuorum(_ context.Context, r *request, q *kmsg.DescribeQuorumRequest) *kmsg.DescribeQuorumResponse {
	resp := q.ResponseKind().(*kmsg.DescribeQuorumResponse)
	if !r.may(acl.ClusterName) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp
	}
	image := b.ctl.Image()
	for _, t := range q.Topics {
		topic := kmsg.NewDescribeQuorumResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			part := kmsg.NewDescribeQuorumResponseTopicPartition()
			part.Partition = p.Partition
			if t.Topic != metadataTopic || p.Partition != 0 {
				part.ErrorCode = kerr.UnknownTopicOrPartition.Code
			} else {
				part.LeaderID, part.LeaderEpoch, part.HighWatermark = b.cfg.NodeID, image.Starts, image.Revision
				self := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
				self.ReplicaID, self.LogEndOffset = b.cfg.NodeID, image.Revision
				self.LastFetchTimestamp, self.LastCaughtUpTimestamp = -1, time.Now().UnixMilli()
				part.CurrentVoters = append(part.CurrentVoters, self)
			}
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	ln := b.listeners[r.client.Listener]
	listener := kmsg.NewDescribeQuorumResponseNodeListener()
	// Kafka's clients want a name in capitals.
	listener.Name, listener.Host, listener.Port = strings.ToUpper(r.client.Listener), ln.host, uint16(ln.port)
	node := kmsg.NewDescribeQuorumResponseNode()
	node.NodeID = b.cfg.NodeID
	node.Listeners = append(node.Listeners, listener)
	resp.Nodes = append(resp.Nodes, node)
	return resp
}

// operations is what the caller may do to a resource, as bits 1<<operation.
func (r *request) operations(rt acl.ResourceType, name string) int32 {
	var bits int32
	for _, op := range rt.Operations() {
		if r.allowed(op, rt, name) {
			bits |= 1 << op
		}
	}
	return bits
}
