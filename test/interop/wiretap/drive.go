package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const (
	topic   = "orders"
	records = 12
	patient = 10 * time.Second // for what takes milliseconds
)

// driver has franz-go's clients do all they can.
type driver struct {
	kept        *frames
	plain, sasl *tap
}

// drive goes through the versions: in round N no client speaks a newer version of
// any request than N, except where the oldest is.
func drive(ctx context.Context, kept *frames, plain, sasl *tap) error {
	d := &driver{kept, plain, sasl}
	cl, err := d.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 2, 1, nil, topic); err != nil {
		return err
	}
	if err := produce(ctx, cl); err != nil {
		return err
	}
	var newest int16
	for _, s := range kept.spoken {
		newest = max(newest, s.newest)
	}
	for n := int16(0); n <= newest; n++ {
		clear(kept.added) // each round is a run of its own
		for _, step := range []struct {
			name string
			do   func(ctx context.Context, n int16) error
		}{
			{"produce and consume", d.data},
			{"sign on", d.signOn},
			{"group", d.group},
			{"group of the consumer protocol", d.consumerGroup},
			{"transaction", d.transaction},
			{"administer", d.administer},
		} {
			// What a version cannot do fails, and its requests are kept all the same.
			if err := step.do(ctx, n); err != nil {
				slog.Debug("a step failed", "version", n, "step", step.name, "err", err)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// upTo caps the requests that capped says, at a version: the client then encodes that
// one. Others are as new as the broker's.
func (d *driver) upTo(n int16, capped func(kmsg.Key) bool) kgo.Opt {
	v := kversion.Stable()
	for key, s := range d.kept.spoken {
		if capped(kmsg.Key(key)) {
			v.SetMaxKeyVersion(key, max(s.oldest, min(n, s.newest)))
		}
	}
	return kgo.MaxVersions(v)
}

func only(keys ...kmsg.Key) func(kmsg.Key) bool {
	return func(k kmsg.Key) bool { return slices.Contains(keys, k) }
}

func allBut(keys ...kmsg.Key) func(kmsg.Key) bool {
	return func(k kmsg.Key) bool { return !slices.Contains(keys, k) }
}

func (d *driver) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(d.plain.addr()), kgo.ClientID("recorded"), kgo.DefaultProduceTopic(topic),
		kgo.FetchMaxWait(100 * time.Millisecond), kgo.RetryTimeout(2 * time.Second), kgo.RecordDeliveryTimeout(2 * time.Second),
		kgo.MetadataMinAge(50 * time.Millisecond), kgo.AllowAutoTopicCreation(),
	}, opts...)...)
}

// with calls f with a client that is closed afterwards, which takes leave of groups
// and fetch sessions.
func (d *driver) with(f func(cl *kgo.Client) error, opts ...kgo.Opt) error {
	cl, err := d.client(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	return f(cl)
}

// produce sends one batch for each of the topic's partitions.
func produce(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	var out []*kgo.Record
	for i := range records {
		out = append(out, &kgo.Record{
			Key: fmt.Append(nil, "key", i), Value: fmt.Append(nil, "value", i),
			Headers: []kgo.RecordHeader{{Key: "trace", Value: []byte{byte(i)}}},
		})
	}
	return cl.ProduceSync(ctx, out...).FirstErr()
}

// consume polls until a record has come.
func consume(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	for ctx.Err() == nil {
		if fetched := cl.PollFetches(ctx); fetched.NumRecords() > 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}

func (d *driver) data(ctx context.Context, n int16) error {
	var errs []error
	for _, opts := range [][]kgo.Opt{
		{kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.ProducerBatchCompression(kgo.NoCompression())},
		{kgo.ProducerBatchCompression(kgo.Lz4Compression())},
		{kgo.ProducerBatchCompression(kgo.GzipCompression())},
	} {
		errs = append(errs, d.with(func(cl *kgo.Client) error { return produce(ctx, cl) }, append(opts, d.upTo(n, allBut()))...))
	}
	for _, opts := range [][]kgo.Opt{
		{kgo.ConsumeTopics(topic), kgo.Rack("east")},
		{kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.DisableFetchSessions()},
		{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AfterMilli(1), 1: kgo.NewOffset().At(1).WithEpoch(0)}})},
	} {
		errs = append(errs, d.with(func(cl *kgo.Client) error { return consume(ctx, cl) }, append(opts, d.upTo(n, allBut()))...))
	}
	return errors.Join(errs...)
}

// signOn proves who it is by each mechanism. kgo goes by what the broker claims, not by
// a cap of its own.
func (d *driver) signOn(ctx context.Context, n int16) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	var errs []error
	for _, newest := range []int16{n - 1, n} {
		d.sasl.newest.Store(int32(newest))
		for _, m := range []sasl.Mechanism{
			scram.Auth{User: user, Pass: password}.AsSha256Mechanism(),
			scram.Auth{User: user, Pass: password}.AsSha512Mechanism(),
			plain.Auth{User: user, Pass: password}.AsMechanism(), // which the broker refuses without TLS
		} {
			errs = append(errs, d.with(func(cl *kgo.Client) error { return cl.Ping(ctx) }, kgo.SeedBrokers(d.sasl.addr()), kgo.SASL(m)))
		}
	}
	return errors.Join(errs...)
}

var groupKeys = []kmsg.Key{
	kmsg.OffsetCommit, kmsg.OffsetFetch, kmsg.FindCoordinator, kmsg.JoinGroup, kmsg.Heartbeat, kmsg.LeaveGroup, kmsg.SyncGroup,
	kmsg.ConsumerGroupHeartbeat,
}

func (d *driver) group(ctx context.Context, n int16) error {
	capped := d.upTo(n, only(groupKeys...))
	err := d.members(ctx, kgo.ConsumerGroup(fmt.Sprint("classic-", n)), kgo.Balancers(kgo.CooperativeStickyBalancer()), capped)
	if n < 5 { // JoinGroup has no instances before, and Heartbeat has: no broker knows such a member
		return err
	}
	return errors.Join(err, d.members(ctx, kgo.ConsumerGroup(fmt.Sprint("static-", n)), kgo.Balancers(kgo.RangeBalancer()), kgo.InstanceID("place"), capped))
}

func (d *driver) consumerGroup(ctx context.Context, n int16) error {
	capped := d.upTo(n, only(kmsg.ConsumerGroupHeartbeat))
	return errors.Join(
		d.members(ctx, kgo.ServerSideBalancer(), kgo.ConsumerGroup(fmt.Sprint("consumer-", n)), capped),
		d.members(ctx, kgo.ServerSideBalancer(), kgo.ConsumerGroup(fmt.Sprint("regex-", n)), kgo.ConsumeRegex(), capped))
}

// members has two consumers meet in a group: the second comes when the first has
// read, and they leave when it has a partition.
func (d *driver) members(ctx context.Context, opts ...kgo.Opt) error {
	opts = append([]kgo.Opt{kgo.ConsumeTopics(topic), kgo.HeartbeatInterval(100 * time.Millisecond), kgo.DisableAutoCommit()}, opts...)
	return d.with(func(first *kgo.Client) error {
		if err := consume(ctx, first); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, patient)
		defer cancel()
		if err := first.CommitUncommittedOffsets(ctx); err != nil {
			return err
		}
		assigned, done := context.WithCancel(ctx)
		defer done()
		second := append(slices.Clone(opts), kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
			if len(got) > 0 {
				done()
			}
		}))
		if id, ok := first.OptValue(kgo.InstanceID).(string); ok && id != "" {
			second = append(second, kgo.InstanceID(id+"-2"))
		}
		return d.with(func(*kgo.Client) error {
			<-assigned.Done()
			return ctx.Err()
		}, second...)
	}, opts...)
}

var transactionKeys = []kmsg.Key{
	kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.AddOffsetsToTxn, kmsg.EndTxn, kmsg.TxnOffsetCommit,
}

// transaction reads, writes and commits in one transaction, and aborts another.
func (d *driver) transaction(ctx context.Context, n int16) error {
	id := fmt.Sprint("txn-", n)
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(d.plain.addr()), kgo.ClientID("recorded"), kgo.DefaultProduceTopic(topic+"-out"), kgo.AllowAutoTopicCreation(),
		kgo.ConsumeTopics(topic), kgo.ConsumerGroup(id), kgo.TransactionalID(id), kgo.TransactionTimeout(patient),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.RetryTimeout(2*time.Second), kgo.RecordDeliveryTimeout(2*time.Second),
		d.upTo(n, only(transactionKeys...)))
	if err != nil {
		return err
	}
	defer session.Close()
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	if err := session.Begin(); err != nil {
		return err
	}
	if err := consume(ctx, session.Client()); err != nil {
		return err
	}
	if err := produce(ctx, session.Client()); err != nil {
		return err
	}
	if _, err := session.End(ctx, kgo.TryCommit); err != nil {
		return err
	}
	if err := session.Begin(); err != nil {
		return err
	}
	if err := produce(ctx, session.Client()); err != nil {
		return err
	}
	_, err = session.End(ctx, kgo.TryAbort)
	return err
}
