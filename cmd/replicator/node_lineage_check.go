package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/lineage"
)

// checkStall is how long a check waits for the next records of a ledger before it
// says that it could not read all.
const checkStall = 15 * time.Second

// Check answers api.Lineage: it reads a ledger from its first record to its last
// stable offset of now, past the index, and follows the chains. One at a time.
func (l *eventLineage) Check(ctx context.Context, name string, anchors []lineage.Anchor) (*lineage.CheckReport, error) {
	if !l.checking.TryLock() {
		return nil, api.Errorf(http.StatusConflict, "this node is checking a ledger already").WithHint("wait for it, or ask another node")
	}
	defer l.checking.Unlock()
	entry, err := l.directory.entry(name)
	if errors.Is(err, errNoSuchCluster) {
		return nil, api.Errorf(http.StatusNotFound, "%v", err)
	}
	if err != nil {
		return nil, unreachable(err)
	}
	adm := kadm.NewClient(entry.client)
	topics, err := adm.ListTopicsWithInternal(ctx, ledger.Topic)
	if err != nil {
		return nil, unreachable(fmt.Errorf("cluster %s: %w", name, err))
	}
	if err := topics[ledger.Topic].Err; errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, api.Errorf(http.StatusNotFound, "cluster %s has no ledger: there is no topic %s, or it is not shown", name, ledger.Topic).
			WithHint("a ledger is in the clusters that flows lead to, and in bundled brokers; the fleet's user needs Describe and Read on it")
	}
	starts, err := adm.ListStartOffsets(ctx, ledger.Topic)
	if err != nil {
		return nil, unreachable(fmt.Errorf("cluster %s: %w", name, err))
	}
	ends, err := adm.ListCommittedOffsets(ctx, ledger.Topic)
	if err == nil {
		err = errors.Join(starts.Error(), ends.Error())
	}
	if err != nil {
		return nil, unreachable(fmt.Errorf("cluster %s: ledger: %w", name, err))
	}
	checker := lineage.NewChecker(anchors)
	checker.Cluster, _ = names{l.directory}.ClusterID(name)
	from, to := map[int32]kgo.Offset{}, map[int32]int64{}
	for partition, o := range starts[ledger.Topic] {
		checker.Begin(partition, o.Offset)
		if end := ends[ledger.Topic][partition].Offset; end > o.Offset {
			from[partition], to[partition] = kgo.NewOffset().At(o.Offset), end
		} else {
			checker.Passed(partition, o.Offset)
		}
	}
	var incomplete string
	if len(to) > 0 {
		cl, err := kafka.NewClient(entry.declared, l.directory.clientID,
			kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
			kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(1<<20), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{ledger.Topic: from}))
		if err != nil {
			return nil, unreachable(err)
		}
		defer cl.Close()
		incomplete = readForCheck(ctx, cl, checker, to)
	}
	report := checker.Report()
	report.Cluster, report.TopicID, report.Incomplete = name, ledger.TopicID(topics[ledger.Topic].ID).String(), incomplete
	return report, nil
}

// readForCheck feeds partitions up to their ends, which it takes out of to; it says
// why it could not.
func readForCheck(ctx context.Context, cl *kgo.Client, checker *lineage.Checker, to map[int32]int64) string {
	var last error
	for deadline := time.Now().Add(checkStall); len(to) > 0; {
		bounded, cancel := context.WithDeadline(ctx, deadline)
		fetches := cl.PollFetches(bounded)
		cancel()
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			end, wanted := to[p.Partition]
			if p.Err != nil {
				last = p.Err
			}
			for _, r := range p.Records {
				if !wanted || r.Offset >= end {
					break
				}
				deadline = time.Now().Add(checkStall)
				if !r.Attrs.IsControl() {
					checker.Record(p.Partition, r.Offset, r.Timestamp, r.Value)
				}
				checker.Passed(p.Partition, r.Offset+1)
				if r.Offset+1 >= end {
					delete(to, p.Partition)
					wanted = false
				}
			}
			if n := len(p.Records); wanted && n > 0 && p.Records[n-1].Offset >= end {
				checker.Passed(p.Partition, end)
				delete(to, p.Partition)
			}
		})
		switch {
		case ctx.Err() != nil:
			return "the caller has gone"
		case time.Now().After(deadline):
			return fmt.Sprintf("%d partitions of the ledger were not read to their ends: %v", len(to), last)
		}
	}
	return ""
}
