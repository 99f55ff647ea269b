package broker

import (
	"context"
	"maps"
	"slices"

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
		{key: kmsg.DescribeLogDirs, min: 1, max: 4, resource: acl.Cluster, op: acl.Describe, handle: answers((*Broker).describeLogDirs)},
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

// describeCluster answers DescribeCluster (KIP-700). As in Kafka everybody may
// ask who the brokers are.
func (b *Broker) describeCluster(_ context.Context, r *request, q *kmsg.DescribeClusterRequest) *kmsg.DescribeClusterResponse {
	resp := q.ResponseKind().(*kmsg.DescribeClusterResponse)
	if q.Version >= 1 && q.EndpointType != 1 {
		resp.ErrorCode = kerr.UnsupportedEndpointType.Code
		resp.ErrorMessage = kmsg.StringPtr("this is a broker's endpoint")
		return resp
	}
	resp.EndpointType = 1
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

// describeLogDirs answers DescribeLogDirs (KIP-113): the sizes of the logs in the
// one directory. How full the disk is (v4) is left out: -1.
func (b *Broker) describeLogDirs(_ context.Context, r *request, q *kmsg.DescribeLogDirsRequest) *kmsg.DescribeLogDirsResponse {
	resp := q.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	if !r.may(acl.ClusterName) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp
	}
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = b.logsDir()
	set := b.topics.Load()
	add := func(name string, wanted func(int32) bool) {
		t := set.byName[name]
		if t == nil {
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
		add(t.Topic, func(p int32) bool { return slices.Contains(t.Partitions, p) })
	}
	resp.Dirs = append(resp.Dirs, dir)
	return resp
}
