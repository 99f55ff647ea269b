package mirror

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/ledger"
)

const (
	// ledgerPartitions spreads the copies of a destination. It must not change
	// later: all entries of a copy are in one partition, which follows from it.
	ledgerPartitions = 4

	// ledgerReplicas is the replication of a ledger where the cluster has brokers
	// enough; then two must have a page before it counts.
	ledgerReplicas = 3
)

// ensureLedger creates the destination's ledger if it is not there.
func ensureLedger(ctx context.Context, destination *peer) error {
	v, err := readView(ctx, destination.client, []string{ledger.Topic})
	if err != nil {
		return fmt.Errorf("cluster %s: look for the ledger: %w", destination.cluster.Metadata.Name, err)
	}
	switch have := v.topic(ledger.Topic); {
	case have.err == nil, errors.Is(have.err, kerr.LeaderNotAvailable):
		return nil
	case !errors.Is(have.err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("cluster %s: ledger: %w", destination.cluster.Metadata.Name, have.err)
	}
	adm := kadm.NewClient(destination.client)
	replicas := int16(min(len(v.brokers), ledgerReplicas))
	_, err = adm.CreateTopic(ctx, ledgerPartitions, replicas, ledgerConfigs(replicas), ledger.Topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("cluster %s: create the ledger: %w", destination.cluster.Metadata.Name, err)
	}
	return nil
}

// ledgerConfigs keep the ledger for ever: it is never compacted and never
// expires, whatever the cluster's defaults are.
func ledgerConfigs(replicas int16) map[string]*string {
	return map[string]*string{
		"cleanup.policy":                 kadm.StringPtr("delete"),
		"retention.ms":                   kadm.StringPtr("-1"),
		"retention.bytes":                kadm.StringPtr("-1"),
		"compression.type":               kadm.StringPtr("producer"),
		"min.insync.replicas":            kadm.StringPtr(strconv.Itoa(int(max(1, replicas-1)))),
		"unclean.leader.election.enable": kadm.StringPtr("false"),
		keyMaxMessageBytes:               kadm.StringPtr(strconv.Itoa(defaultMaxMessageBytes)),
		keyTimestampType:                 kadm.StringPtr("CreateTime"),
	}
}
