package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// declaration is a datacenter as one of its users would declare it.
func (d *datacenter) declaration(user string) *flow.Cluster {
	return &flow.Cluster{
		Metadata: flow.Metadata{Name: d.name},
		Spec: flow.ClusterSpec{
			BootstrapServers: []string{d.address},
			TLS:              &flow.TLS{CAFile: d.ca()},
			SASL:             &flow.SASL{Mechanism: "SCRAM-SHA-512", Username: user, Password: flow.Secret("${file:" + d.passwordFile(user) + "}")},
		},
	}
}

// client is an ordinary Kafka client of a user.
func (d *datacenter) client(user, clientID string, opts ...kgo.Opt) (*kgo.Client, error) {
	return kafka.NewClient(d.declaration(user), clientID, opts...)
}

// createTopic makes a topic whose records, years old, do not expire.
func (d *datacenter) createTopic(ctx context.Context, topic string, partitions int32) error {
	cl, err := d.client(userAdmin, "demo")
	if err != nil {
		return err
	}
	defer cl.Close()
	forever := "-1"
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, map[string]*string{"retention.ms": &forever}, topic); err != nil {
		return fmt.Errorf("create topic %s/%s: %w", d.name, topic, err)
	}
	return nil
}

// readAll reads what a read_committed reader sees of a topic now.
func (d *datacenter) readAll(ctx context.Context, topic string) (Log, error) {
	return ReadAll(ctx, d.declaration(userAdmin), topic)
}

// ReadAll reads what a read_committed reader sees of a topic at the moment of the
// call, with an ordinary client.
func ReadAll(ctx context.Context, c *flow.Cluster, topic string) (Log, error) {
	name := c.Metadata.Name
	cl, err := kafka.NewClient(c, "demo-check", kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords())
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	stable, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("read %s/%s: %w", name, topic, err)
	}
	missing := map[int32]int64{} // partition -> end still to be reached
	log := Log{}
	for p, end := range stable[topic] {
		if end.Err != nil {
			return nil, fmt.Errorf("read %s/%s/%d: %w", name, topic, p, end.Err)
		}
		log[p] = nil
		if end.Offset > 0 {
			missing[p] = end.Offset
		}
	}
	for len(missing) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read %s/%s: %w", name, topic, err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if !r.Attrs.IsControl() { // markers are kept to see where the log ends
				log[r.Partition] = append(log[r.Partition], r)
			}
			if end, ok := missing[r.Partition]; ok && r.Offset+1 >= end {
				delete(missing, r.Partition)
			}
		}
	}
	return log, nil
}

// foreignHeader marks the records that the destination had before the flow.
const foreignHeader = "demo-foreign"

// withoutForeign drops what the demonstration itself put at the destination.
func (l Log) withoutForeign() Log {
	out := Log{}
	for p, records := range l {
		out[p] = nil
		for _, r := range records {
			if len(r.Headers) == 0 || r.Headers[0].Key != foreignHeader {
				out[p] = append(out[p], r)
			}
		}
	}
	return out
}

func (l Log) count() int {
	n := 0
	for _, records := range l {
		n += len(records)
	}
	return n
}

func (l Log) join(o Log) Log {
	out := Log{}
	for p, records := range l {
		out[p] = append(out[p], records...)
	}
	for p, records := range o {
		out[p] = append(out[p], records...)
	}
	return out
}

// idle is how long a reader waits for another record before it believes that
// it has read everything; joining a group takes a part of the first wait.
const idle = 3 * time.Second

// groupSession reads a topic as a member of a group until it has enough, or nothing
// comes. It commits exactly what it keeps, and leaves. Of a partition it keeps the
// first records only: none after one that it did not keep.
func (d *datacenter) groupSession(ctx context.Context, group, topic string, keeps func(Log, *kgo.Record) bool, enough func(Log) bool) (Log, error) {
	cl, err := d.client(group, group+"-app", kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.DisableAutoCommit(), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer cl.Close() // leaves the group
	read := Log{}
	for !enough(read) {
		records, err := pollRecords(ctx, cl)
		if err != nil {
			return nil, fmt.Errorf("group %s in %s: %w", group, d.name, err)
		}
		if len(records) == 0 {
			return read, nil
		}
		var kept []*kgo.Record
		for _, r := range records {
			if keeps(read, r) {
				read[r.Partition] = append(read[r.Partition], r)
				kept = append(kept, r)
			}
		}
		if err := cl.CommitRecords(ctx, kept...); err != nil {
			return nil, fmt.Errorf("group %s in %s: commit: %w", group, d.name, err)
		}
	}
	return read, nil
}

// pollRecords returns what comes within a while, none if nothing did.
func pollRecords(ctx context.Context, cl *kgo.Client) ([]*kgo.Record, error) {
	bounded, cancel := context.WithTimeout(ctx, idle)
	defer cancel()
	fetches := cl.PollFetches(bounded)
	if err := fetches.Err(); err != nil && bounded.Err() == nil {
		return nil, err
	}
	return fetches.Records(), ctx.Err()
}
