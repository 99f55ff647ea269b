package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// administer makes every request of kadm's that the broker speaks, most of them once
// with little in it and once with much.
func (d *driver) administer(ctx context.Context, n int16) error {
	return d.with(func(cl *kgo.Client) error {
		a := admin{kadm.NewClient(cl), fmt.Sprint("admin-", n)}
		for _, family := range []struct {
			name  string
			calls []call
		}{
			{"topics", a.topics()},
			{"configs", a.configs()},
			{"groups", a.groups()},
			{"offsets", a.offsets()},
			{"cluster", a.cluster()},
			{"security", a.security()},
			{"transactions", a.transactions()},
		} {
			for i, c := range family.calls {
				ctx, cancel := context.WithTimeout(ctx, patient)
				if err := c(ctx); err != nil {
					slog.Debug("a call failed", "version", n, "calls", family.name, "call", i, "err", err)
				}
				cancel()
			}
		}
		return nil
	}, d.upTo(n, allBut(kmsg.Metadata))) // whose version 0 does not name the controller, which kadm asks
}

// call is a call of kadm.
type call func(ctx context.Context) error

// failed is all that we want to know of a call.
func failed[T any](_ T, err error) error { return err }

type admin struct {
	*kadm.Client
	name string // of what is made and deleted
}

func set(topics ...string) kadm.TopicsSet {
	s := kadm.TopicsSet{}
	for _, t := range topics {
		s.Add(t, 0, 1)
	}
	return s
}

func (a admin) topics() []call {
	settings := map[string]*string{"retention.ms": kadm.StringPtr("100000"), "cleanup.policy": kadm.StringPtr("compact,delete")}
	return []call{
		func(ctx context.Context) error { return failed(a.CreateTopic(ctx, 1, 1, nil, a.name)) },
		func(ctx context.Context) error {
			return failed(a.CreateTopics(ctx, 3, -1, settings, a.name+"-a", a.name+"-b"))
		},
		func(ctx context.Context) error {
			return failed(a.ValidateCreateTopics(ctx, 2, 1, settings, a.name+"-c"))
		},
		func(ctx context.Context) error { return failed(a.CreatePartitions(ctx, 1, a.name)) },
		func(ctx context.Context) error {
			return failed(a.ValidateUpdatePartitions(ctx, 9, a.name, a.name+"-a"))
		},
		func(ctx context.Context) error { return failed(a.ListTopics(ctx)) },
		func(ctx context.Context) error { return failed(a.ListTopics(ctx, a.name, a.name+"-a")) },
		func(ctx context.Context) error {
			return failed(a.DeleteRecords(ctx, kadm.Offsets{topic: {0: {Topic: topic, At: 1}}}))
		},
		func(ctx context.Context) error {
			return failed(a.DeleteRecords(ctx, kadm.Offsets{topic: {0: {Topic: topic, At: 2}, 1: {Topic: topic, Partition: 1, At: -1}}}))
		},
		func(ctx context.Context) error { return failed(a.ElectLeaders(ctx, kadm.ElectPreferredReplica, nil)) },
		func(ctx context.Context) error { return failed(a.ElectLeaders(ctx, kadm.ElectLiveReplica, set(topic))) },
		func(ctx context.Context) error {
			var move kadm.AlterPartitionAssignmentsReq
			move.Assign(topic, 0, []int32{1})
			move.CancelAssign(topic, 1)
			return failed(a.AlterPartitionAssignments(ctx, move))
		},
		func(ctx context.Context) error { return failed(a.ListPartitionReassignments(ctx, nil)) },
		func(ctx context.Context) error { return failed(a.ListPartitionReassignments(ctx, set(topic))) },
		func(ctx context.Context) error { return failed(a.DeleteTopic(ctx, a.name)) },
		func(ctx context.Context) error { return failed(a.DeleteTopics(ctx, a.name+"-a", a.name+"-b")) },
	}
}

func (a admin) configs() []call {
	var (
		state = []kadm.AlterConfig{{Name: "retention.ms", Value: kadm.StringPtr("200000")}}
		steps = []kadm.AlterConfig{
			{Op: kadm.SetConfig, Name: "max.message.bytes", Value: kadm.StringPtr("500000")},
			{Op: kadm.DeleteConfig, Name: "retention.ms"},
			{Op: kadm.AppendConfig, Name: "cleanup.policy", Value: kadm.StringPtr("compact")},
		}
		onBroker = []kadm.AlterConfig{{Name: "log.retention.ms", Value: kadm.StringPtr("300000")}}
	)
	return []call{
		func(ctx context.Context) error { return failed(a.DescribeTopicConfigs(ctx, topic)) },
		func(ctx context.Context) error { return failed(a.DescribeBrokerConfigs(ctx, 1)) },
		func(ctx context.Context) error { return failed(a.AlterTopicConfigsState(ctx, state, topic)) },
		func(ctx context.Context) error {
			return failed(a.ValidateAlterTopicConfigsState(ctx, state, topic, a.name))
		},
		func(ctx context.Context) error { return failed(a.AlterBrokerConfigsState(ctx, onBroker, 1)) },
		func(ctx context.Context) error { return failed(a.AlterTopicConfigs(ctx, steps, topic)) },
		func(ctx context.Context) error { return failed(a.AlterBrokerConfigs(ctx, onBroker, 1)) },
		func(ctx context.Context) error { return failed(a.ValidateAlterBrokerConfigs(ctx, onBroker)) },
		func(ctx context.Context) error { return failed(a.ListConfigResources(ctx)) },
		func(ctx context.Context) error {
			return failed(a.ListConfigResources(ctx, kadm.ConfigResourceTopic, kadm.ConfigResourceGroupConfig))
		},
	}
}

// groups are asked for what [driver.group] and [driver.consumerGroup] left.
func (a admin) groups() []call {
	classic, consumer := "classic-0", "consumer-0"
	at := kadm.Offsets{topic: {0: {Topic: topic, At: 2, LeaderEpoch: 0, Metadata: "by hand"}, 1: {Topic: topic, Partition: 1, At: 1, LeaderEpoch: -1}}}
	return []call{
		func(ctx context.Context) error { return failed(a.ListGroups(ctx)) },
		func(ctx context.Context) error {
			return failed(a.ListGroupsByType(ctx, []string{"classic"}, "Empty", "Stable"))
		},
		func(ctx context.Context) error { return failed(a.DescribeGroups(ctx, classic)) },
		func(ctx context.Context) error { return failed(a.DescribeGroups(ctx, classic, consumer)) },
		func(ctx context.Context) error { return failed(a.DescribeConsumerGroups(ctx, consumer)) },
		func(ctx context.Context) error { return failed(a.DescribeConsumerGroups(ctx, classic, consumer)) },
		func(ctx context.Context) error { return failed(a.CommitOffsets(ctx, a.name, at)) },
		func(ctx context.Context) error { return a.byID(ctx) },
		func(ctx context.Context) error { return failed(a.FetchOffsets(ctx, a.name)) },
		func(ctx context.Context) error { return failed(a.FetchOffsetsForTopics(ctx, a.name, topic)) },
		func(ctx context.Context) error { return a.FetchManyOffsets(ctx, a.name, classic).Error() },
		func(ctx context.Context) error { return a.FindGroupCoordinators(ctx, a.name, classic).Error() },
		func(ctx context.Context) error {
			return failed(a.LeaveGroup(ctx, kadm.LeaveGroup(a.name).InstanceIDs("place").Reason("moved")))
		},
		func(ctx context.Context) error { return failed(a.DeleteOffsets(ctx, a.name, set(topic))) },
		func(ctx context.Context) error { return failed(a.DeleteGroup(ctx, a.name)) },
		func(ctx context.Context) error { return failed(a.DeleteGroups(ctx, a.name, a.name+"-2")) },
	}
}

// byID commits and fetches with topic ids, where the version has them.
func (a admin) byID(ctx context.Context) error {
	topics, err := a.ListTopics(ctx, topic)
	if err != nil {
		return err
	}
	var at kadm.OffsetsByID
	at.Add(kadm.Offset{TopicID: topics[topic].ID, At: 3, LeaderEpoch: -1})
	if _, err := a.CommitOffsetsByID(ctx, a.name, at); err != nil {
		return err
	}
	return failed(a.FetchOffsetsByID(ctx, a.name))
}

func (a admin) offsets() []call {
	return []call{
		func(ctx context.Context) error { return failed(a.ListStartOffsets(ctx, topic)) },
		func(ctx context.Context) error { return failed(a.ListEndOffsets(ctx, topic, topic+"-out")) },
		func(ctx context.Context) error { return failed(a.ListCommittedOffsets(ctx, topic)) },
		func(ctx context.Context) error { return failed(a.ListMaxTimestampOffsets(ctx, topic)) },
		func(ctx context.Context) error { return failed(a.ListLatestRemoteOffsets(ctx, topic)) },
		func(ctx context.Context) error { return failed(a.ListOffsetsAfterMilli(ctx, 1_600_000_000_000, topic)) },
		func(ctx context.Context) error {
			return failed(a.OffsetForLeaderEpoch(ctx, kadm.OffsetForLeaderEpochRequest{topic: {0: 0}}))
		},
		func(ctx context.Context) error {
			return failed(a.OffsetForLeaderEpoch(ctx, kadm.OffsetForLeaderEpochRequest{topic: {0: 0, 1: 7}, topic + "-out": {0: 0}}))
		},
	}
}

func (a admin) cluster() []call {
	limit := func(value float64, on ...kadm.ClientQuotaEntityComponent) []kadm.AlterClientQuotaEntry {
		return []kadm.AlterClientQuotaEntry{{Entity: on, Ops: []kadm.AlterClientQuotaOp{
			{Key: "producer_byte_rate", Value: value}, {Key: "request_percentage", Remove: true},
		}}}
	}
	someone, anyClient := kadm.ClientQuotaEntityComponent{Type: "user", Name: kadm.StringPtr("someone")}, kadm.ClientQuotaEntityComponent{Type: "client-id"}
	return []call{
		func(ctx context.Context) error { return failed(a.ApiVersions(ctx)) },
		func(ctx context.Context) error { return failed(a.BrokerMetadata(ctx)) },
		func(ctx context.Context) error { return failed(a.DescribeAllLogDirs(ctx, nil)) },
		func(ctx context.Context) error { return failed(a.DescribeBrokerLogDirs(ctx, 1, set(topic))) },
		func(ctx context.Context) error {
			return failed(a.AlterAllReplicaLogDirs(ctx, kadm.AlterReplicaLogDirsReq{"/data": set(topic)}))
		},
		func(ctx context.Context) error {
			return failed(a.AlterClientQuotas(ctx, limit(1e9, someone)))
		},
		func(ctx context.Context) error {
			return failed(a.ValidateAlterClientQuotas(ctx, limit(1e9, someone, anyClient)))
		},
		func(ctx context.Context) error {
			return failed(a.DescribeClientQuotas(ctx, true, []kadm.DescribeClientQuotaComponent{{Type: "user", MatchName: someone.Name}}))
		},
		func(ctx context.Context) error {
			return failed(a.DescribeClientQuotas(ctx, false, []kadm.DescribeClientQuotaComponent{
				{Type: "user", MatchType: kmsg.QuotasMatchTypeDefault}, {Type: "client-id", MatchType: kmsg.QuotasMatchTypeAny},
			}))
		},
		func(ctx context.Context) error {
			return failed(a.UpdateFeatures(ctx, true, kadm.FeatureUpdate{Feature: "group.version", MaxVersionLevel: 1, UpgradeType: 1}))
		},
		func(ctx context.Context) error {
			return failed(a.UpdateFeatures(ctx, true, kadm.FeatureUpdate{Feature: "group.version", UpgradeType: 2}, kadm.FeatureUpdate{Feature: "transaction.version", MaxVersionLevel: 2, UpgradeType: 1}))
		},
	}
}

func (a admin) security() []call {
	rules := func() *kadm.ACLBuilder {
		return kadm.NewACLs().Topics(a.name).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpRead, kadm.OpWrite).Allow("User:someone").AllowHosts("*")
	}
	return []call{
		func(ctx context.Context) error { return failed(a.CreateACLs(ctx, rules())) },
		func(ctx context.Context) error {
			return failed(a.CreateACLs(ctx, rules().Groups(a.name).Clusters().TransactionalIDs(a.name).ResourcePatternType(kadm.ACLPatternPrefixed).Deny("User:other").DenyHosts("10.0.0.1")))
		},
		func(ctx context.Context) error { return failed(a.DescribeACLs(ctx, rules())) },
		func(ctx context.Context) error {
			return failed(a.DescribeACLs(ctx, kadm.NewACLs().AnyResource().ResourcePatternType(kadm.ACLPatternAny).Operations().Allow().AllowHosts()))
		},
		func(ctx context.Context) error { return failed(a.DeleteACLs(ctx, rules().Operations(kadm.OpRead))) },
		func(ctx context.Context) error {
			return failed(a.DeleteACLs(ctx, rules().ResourcePatternType(kadm.ACLPatternMatch)))
		},
		func(ctx context.Context) error { return failed(a.DescribeUserSCRAMs(ctx)) },
		func(ctx context.Context) error { return failed(a.DescribeUserSCRAMs(ctx, "someone", user)) },
		func(ctx context.Context) error {
			return failed(a.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "someone", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: password}}))
		},
		func(ctx context.Context) error {
			return failed(a.AlterUserSCRAMs(ctx, []kadm.DeleteSCRAM{{User: "someone", Mechanism: kadm.ScramSha256}}, []kadm.UpsertSCRAM{{User: "other", Mechanism: kadm.ScramSha512, Iterations: 4096, Password: password}}))
		},
	}
}

// transactions are asked for what [driver.transaction] left.
func (a admin) transactions() []call {
	return []call{
		func(ctx context.Context) error { return failed(a.DescribeProducers(ctx, set(topic))) },
		func(ctx context.Context) error { return failed(a.DescribeProducers(ctx, set(topic, topic+"-out"))) },
		func(ctx context.Context) error { return failed(a.DescribeTransactions(ctx, "txn-0")) },
		func(ctx context.Context) error {
			return failed(a.DescribeTransactions(ctx, "txn-0", "txn-1", "nobody's"))
		},
		func(ctx context.Context) error { return failed(a.ListTransactions(ctx, nil, nil)) },
		func(ctx context.Context) error {
			return failed(a.ListTransactionsByTxPattern(ctx, []int64{1, 2}, []string{"Ongoing", "Empty"}, "txn-.*"))
		},
		func(ctx context.Context) error {
			return failed(a.WriteTxnMarkers(ctx, kadm.TxnMarkers{ProducerID: 1000, ProducerEpoch: 1, Topics: set(topic)}))
		},
		func(ctx context.Context) error {
			return failed(a.WriteTxnMarkers(ctx,
				kadm.TxnMarkers{ProducerID: 1000, ProducerEpoch: 2, Commit: true, CoordinatorEpoch: 1, Topics: set(topic, topic+"-out")},
				kadm.TxnMarkers{ProducerID: 1001, Topics: set(topic)}))
		},
	}
}
