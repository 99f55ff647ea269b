package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kafkaAPIs is what a broker of Apache Kafka 4 offers its clients: from 4.0's least
// versions to 4.2's greatest. Left out: share and streams groups, telemetry, what
// only brokers and controllers ask of each other.
var kafkaAPIs = map[kmsg.Key][2]int16{
	kmsg.Produce:                      {0, 13},
	kmsg.Fetch:                        {4, 18},
	kmsg.ListOffsets:                  {1, 11},
	kmsg.Metadata:                     {0, 13},
	kmsg.OffsetCommit:                 {2, 10},
	kmsg.OffsetFetch:                  {1, 10},
	kmsg.FindCoordinator:              {0, 6},
	kmsg.JoinGroup:                    {0, 9},
	kmsg.Heartbeat:                    {0, 4},
	kmsg.LeaveGroup:                   {0, 5},
	kmsg.SyncGroup:                    {0, 5},
	kmsg.DescribeGroups:               {0, 6},
	kmsg.ListGroups:                   {0, 5},
	kmsg.SASLHandshake:                {0, 1},
	kmsg.ApiVersions:                  {0, 4},
	kmsg.CreateTopics:                 {2, 7},
	kmsg.DeleteTopics:                 {1, 6},
	kmsg.DeleteRecords:                {0, 2},
	kmsg.InitProducerID:               {0, 5},
	kmsg.OffsetForLeaderEpoch:         {2, 4},
	kmsg.AddPartitionsToTxn:           {0, 5},
	kmsg.AddOffsetsToTxn:              {0, 4},
	kmsg.EndTxn:                       {0, 5},
	kmsg.WriteTxnMarkers:              {1, 2},
	kmsg.TxnOffsetCommit:              {0, 5},
	kmsg.DescribeACLs:                 {1, 3},
	kmsg.CreateACLs:                   {1, 3},
	kmsg.DeleteACLs:                   {1, 3},
	kmsg.DescribeConfigs:              {1, 4},
	kmsg.AlterConfigs:                 {0, 2},
	kmsg.AlterReplicaLogDirs:          {1, 2},
	kmsg.DescribeLogDirs:              {1, 4},
	kmsg.SASLAuthenticate:             {0, 2},
	kmsg.CreatePartitions:             {0, 3},
	kmsg.CreateDelegationToken:        {1, 3},
	kmsg.RenewDelegationToken:         {1, 2},
	kmsg.ExpireDelegationToken:        {1, 2},
	kmsg.DescribeDelegationToken:      {1, 3},
	kmsg.DeleteGroups:                 {0, 2},
	kmsg.ElectLeaders:                 {0, 2},
	kmsg.IncrementalAlterConfigs:      {0, 1},
	kmsg.AlterPartitionAssignments:    {0, 1},
	kmsg.ListPartitionReassignments:   {0, 0},
	kmsg.OffsetDelete:                 {0, 0},
	kmsg.DescribeClientQuotas:         {0, 1},
	kmsg.AlterClientQuotas:            {0, 1},
	kmsg.DescribeUserSCRAMCredentials: {0, 0},
	kmsg.AlterUserSCRAMCredentials:    {0, 0},
	kmsg.DescribeQuorum:               {0, 2},
	kmsg.UpdateFeatures:               {0, 2},
	kmsg.DescribeCluster:              {0, 2},
	kmsg.DescribeProducers:            {0, 0},
	kmsg.DescribeTransactions:         {0, 0},
	kmsg.ListTransactions:             {0, 2},
	kmsg.ConsumerGroupHeartbeat:       {0, 1},
	kmsg.ConsumerGroupDescribe:        {0, 1},
	kmsg.ListConfigResources:          {0, 1},
	kmsg.DescribeTopicPartitions:      {0, 0},
}

// delegationTokens are left out for good.
var delegationTokens = []kmsg.Key{kmsg.CreateDelegationToken, kmsg.RenewDelegationToken, kmsg.ExpireDelegationToken, kmsg.DescribeDelegationToken}

func TestVersionsAreKafkas(t *testing.T) {
	table, err := wholeTable()
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range kafkaAPIs {
		row := table[int16(key)]
		switch {
		case row == nil:
			if !slices.Contains(delegationTokens, key) {
				t.Errorf("%s is missing", key.Name())
			}
		case row.min != want[0]:
			t.Errorf("%s begins at version %d, in Kafka at %d", key.Name(), row.min, want[0])
		case row.max < want[1]:
			t.Errorf("%s ends at version %d, in Kafka at %d", key.Name(), row.max, want[1])
		}
	}
}

func codeName(code int16) string { return kerr.TypedErrorForCode(code).Message }

func TestReplicasStayWhereTheyAre(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 2, 0)
	cl := b.client(t)
	elect := func(topics []kmsg.ElectLeadersRequestTopic) string {
		q := kmsg.NewPtrElectLeadersRequest()
		q.Topics = topics
		r := call[*kmsg.ElectLeadersResponse](t, cl, q)
		out := fmt.Sprint(kerr.ErrorForCode(r.ErrorCode))
		for _, topic := range r.Topics {
			for _, p := range topic.Partitions {
				out += fmt.Sprintf(" %s-%d %v", topic.Topic, p.Partition, codeName(p.ErrorCode))
			}
		}
		return out
	}
	if got := elect(nil); got != "<nil>" {
		t.Errorf("elect all: %s", got)
	}
	if got, want := elect([]kmsg.ElectLeadersRequestTopic{{Topic: "orders", Partitions: []int32{1, 2}}}), "<nil> orders-1 ELECTION_NOT_NEEDED orders-2 UNKNOWN_TOPIC_OR_PARTITION"; got != want {
		t.Errorf("elect: got %s, want %s", got, want)
	}
	for _, c := range []struct {
		partition int32
		replicas  []int32
		want      *kerr.Error
	}{
		{0, []int32{1}, nil},
		{0, []int32{2}, kerr.InvalidReplicaAssignment},
		{0, []int32{1, 2}, kerr.InvalidReplicaAssignment},
		{0, []int32{}, kerr.InvalidReplicaAssignment},
		{0, nil, kerr.NoReassignmentInProgress},
		{7, []int32{1}, kerr.UnknownTopicOrPartition},
	} {
		q := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		topic := kmsg.NewAlterPartitionAssignmentsRequestTopic()
		topic.Topic = "orders"
		topic.Partitions = append(topic.Partitions, kmsg.AlterPartitionAssignmentsRequestTopicPartition{Partition: c.partition, Replicas: c.replicas})
		q.Topics = append(q.Topics, topic)
		r := call[*kmsg.AlterPartitionAssignmentsResponse](t, cl, q)
		if got := kerr.ErrorForCode(r.Topics[0].Partitions[0].ErrorCode); !errors.Is(got, errorOrNil(c.want)) {
			t.Errorf("move %d to %v: got %v, want %v", c.partition, c.replicas, got, c.want)
		}
	}
	if r := call[*kmsg.ListPartitionReassignmentsResponse](t, cl, kmsg.NewPtrListPartitionReassignmentsRequest()); r.ErrorCode != 0 || len(r.Topics) != 0 {
		t.Errorf("reassignments: got %+v", r)
	}
	for dir, want := range map[string]error{b.logsDir(): nil, "/elsewhere": kerr.LogDirNotFound} {
		q := kmsg.NewPtrAlterReplicaLogDirsRequest()
		q.Dirs = append(q.Dirs, kmsg.AlterReplicaLogDirsRequestDir{Dir: dir, Topics: []kmsg.AlterReplicaLogDirsRequestDirTopic{{Topic: "orders", Partitions: []int32{0}}}})
		r := call[*kmsg.AlterReplicaLogDirsResponse](t, cl, q)
		if got := kerr.ErrorForCode(r.Topics[0].Partitions[0].ErrorCode); !errors.Is(got, want) {
			t.Errorf("move to directory %s: got %v, want %v", dir, got, want)
		}
	}
}

func TestQuorumIsThisNode(t *testing.T) {
	b := startBroker(t, nil)
	q := kmsg.NewPtrDescribeQuorumRequest()
	q.Topics = append(q.Topics,
		kmsg.DescribeQuorumRequestTopic{Topic: metadataTopic, Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{}}},
		kmsg.DescribeQuorumRequestTopic{Topic: "orders", Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{}}})
	before := call[*kmsg.DescribeQuorumResponse](t, b.client(t), q)
	if p := before.Topics[0].Partitions[0]; p.ErrorCode != 0 || p.LeaderID != 1 || len(p.CurrentVoters) != 1 || p.HighWatermark == 0 {
		t.Errorf("got %+v", p)
	}
	if n := before.Nodes; len(n) != 1 || len(n[0].Listeners) != 1 || n[0].Listeners[0].Name != "PLAIN" {
		t.Errorf("nodes: got %+v; names must be in capitals", n)
	}
	if p := before.Topics[1].Partitions[0]; p.ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("a topic that is no quorum's: got %+v", p)
	}
	b.makeTopic(t, "orders", 1, 0)
	b = b.restart(t)
	after := call[*kmsg.DescribeQuorumResponse](t, b.client(t), q)
	was, is := before.Topics[0].Partitions[0], after.Topics[0].Partitions[0]
	if is.HighWatermark <= was.HighWatermark || is.LeaderEpoch != was.LeaderEpoch+1 {
		t.Errorf("after a change and a restart: got %+v, before %+v", is, was)
	}
}

// TestTopicPartitionsInPages reads all topics a few partitions at a time.
func TestTopicPartitionsInPages(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "a", 3, 0)
	b.makeTopic(t, "b", 1, 0)
	b.makeTopic(t, "c", 4, 0)
	cl := b.client(t)
	page := func(limit int32, cursor *kmsg.DescribeTopicPartitionsRequestCursor, topics ...string) *kmsg.DescribeTopicPartitionsResponse {
		q := kmsg.NewPtrDescribeTopicPartitionsRequest()
		q.ResponsePartitionLimit, q.Cursor = limit, cursor
		for _, name := range topics {
			q.Topics = append(q.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: name})
		}
		return call[*kmsg.DescribeTopicPartitionsResponse](t, cl, q)
	}
	list := func(r *kmsg.DescribeTopicPartitionsResponse) (out []string) {
		for _, topic := range r.Topics {
			if topic.ErrorCode != 0 {
				out = append(out, fmt.Sprintf("%s %s", *topic.Topic, codeName(topic.ErrorCode)))
			}
			for _, p := range topic.Partitions {
				out = append(out, fmt.Sprintf("%s-%d", *topic.Topic, p.Partition))
			}
		}
		return out
	}
	want := []string{"a-0", "a-1", "a-2", "b-0", "c-0", "c-1", "c-2", "c-3"}
	for limit := int32(1); limit < 10; limit++ {
		var got []string
		var cursor *kmsg.DescribeTopicPartitionsRequestCursor
		for {
			r := page(limit, cursor, "c", "a", "b")
			part := list(r)
			if got = append(got, part...); len(part) > int(limit) {
				t.Errorf("limit %d: %d partitions in one answer", limit, len(part))
			}
			if r.NextCursor == nil {
				break
			}
			cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: r.NextCursor.Topic, Partition: r.NextCursor.Partition}
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: got %v, want %v", limit, got, want)
		}
	}
	if got, want := list(page(100, nil, "b", "missing", "b?")), []string{"b-0", "b? INVALID_TOPIC_EXCEPTION", "missing UNKNOWN_TOPIC_OR_PARTITION"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := list(page(100, &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "b", Partition: -1}, "b")), []string{"b INVALID_REQUEST"}; !slices.Equal(got, want) {
		t.Errorf("bad cursor: got %v, want %v", got, want)
	}
	if got := list(page(100, &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "b", Partition: 2147483647}, "b")); len(got) != 0 {
		t.Errorf("cursor beyond the topic: got %v", got)
	}
	if got := list(page(2000, &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "bb"})); !slices.Equal(got, want[4:]) {
		t.Errorf("all topics from one that is gone: got %v, want %v", got, want[4:])
	}
}

func TestLogDirsTellOfTheDisk(t *testing.T) {
	total, usable := diskSpace(t.TempDir())
	if total < usable || usable <= 0 {
		t.Errorf("disk of %d bytes, %d usable", total, usable)
	}
	b := startBroker(t, nil)
	r := call[*kmsg.DescribeLogDirsResponse](t, b.client(t, kgo.MaxVersions(versionsWith(map[int16]int16{kmsg.DescribeLogDirs.Int16(): 4}))), kmsg.NewPtrDescribeLogDirsRequest())
	if d := r.Dirs[0]; d.TotalBytes != -1 || len(d.Topics) == 0 {
		t.Errorf("a file system that is no disk: got %+v", d)
	}
}
