//go:build interop

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// measurement is something to measure, under the names that ask for it.
type measurement struct {
	names []string
	run   func(ctx context.Context, r *results, t target, p *process) error
}

var measurements = []measurement{
	{[]string{"produce", "consume"}, throughput},
	{[]string{"latency"}, latency},
	{[]string{"small"}, small},
	{[]string{"idle"}, idle},
	{[]string{"start"}, starting},
	{[]string{"memory"}, crowded},
	{[]string{"parked"}, parked},
}

const (
	topicName  = "bench"
	recordSize = 1024
	// settle is how long a broker may tidy up before its memory is looked at.
	settle = 5 * time.Second
)

func (p *process) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(p.addr),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.MaxBufferedRecords(50_000),
	}, opts...)...)
}

// prepare starts the broker and makes the topic.
func (p *process) prepare(ctx context.Context, t target, name string, partitions int32) error {
	if _, err := p.run(ctx); err != nil {
		return err
	}
	cl, err := p.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	configs := map[string]*string{}
	for k, v := range t.topic {
		configs[k] = &v
	}
	made, err := kadm.NewClient(cl).CreateTopics(ctx, partitions, 1, configs, name)
	if err != nil {
		return err
	}
	return made.Error()
}

// values are record values that do not compress.
func values() [][]byte {
	rng := rand.NewChaCha8([32]byte{1})
	list := make([][]byte, 1024)
	for i := range list {
		list[i] = make([]byte, recordSize)
		_, _ = rng.Read(list[i]) // it cannot fail
	}
	return list
}

func throughput(ctx context.Context, r *results, t target, p *process) error {
	if err := p.prepare(ctx, t, topicName, int32(*partitions)); err != nil {
		return err
	}
	// What a JVM compiles it compiles before it is measured.
	if _, _, err := produce(ctx, p, *megabytes/5*1000); err != nil {
		return err
	}
	n := *megabytes * 1000
	took, cpu, err := produce(ctx, p, n)
	if err != nil {
		return err
	}
	gb := float64(n) * recordSize / 1e9
	r.add("produce", t.name, "MB/s", gb*1000/took.Seconds())
	r.add("produce cpu", t.name, "CPU-s/GB", cpu.Seconds()/gb)
	if _, _, err := consume(ctx, p, *megabytes/5*1000); err != nil {
		return err
	}
	took, cpu, err = consume(ctx, p, n)
	if err != nil {
		return err
	}
	r.add("consume", t.name, "MB/s", gb*1000/took.Seconds())
	r.add("consume cpu", t.name, "CPU-s/GB", cpu.Seconds()/gb)
	mb, err := p.memory()
	r.add("memory after it", t.name, "MB", mb)
	return err
}

// produce produces n records as fast as it goes.
func produce(ctx context.Context, p *process, n int) (took, cpu time.Duration, err error) {
	cl, err := p.client()
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	if err := cl.Ping(ctx); err != nil {
		return 0, 0, err
	}
	list := values()
	before, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	var failed atomic.Pointer[error]
	began := time.Now()
	for i := range n {
		cl.Produce(ctx, &kgo.Record{Topic: topicName, Value: list[i%len(list)]}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return 0, 0, err
	}
	took = time.Since(began)
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	after, err := p.cpu()
	return took, after - before, err
}

// consume reads n records from the start of all partitions.
func consume(ctx context.Context, p *process, n int) (took, cpu time.Duration, err error) {
	before, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	cl, err := p.client(kgo.ConsumeTopics(topicName), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	for seen := 0; seen < n; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return 0, 0, err
		}
		seen += fetches.NumRecords()
	}
	took = time.Since(began)
	after, err := p.cpu()
	return took, after - before, err
}

// latency produces at a fixed rate. A record's time begins when it was due, so
// that a stall counts for all that it held up.
func latency(ctx context.Context, r *results, t target, p *process) error {
	perSecond := *rate
	if perSecond == 0 {
		slowest := 0.0
		for _, x := range r.list {
			if x.what == "produce" && (slowest == 0 || middle(x.values) < slowest) {
				slowest = middle(x.values)
			}
		}
		if slowest == 0 {
			return errors.New("measure produce first, or say -rate")
		}
		perSecond = int(slowest * 1e6 / recordSize / 2)
	}
	if err := p.prepare(ctx, t, topicName, int32(*partitions)); err != nil {
		return err
	}
	if _, _, err := produce(ctx, p, perSecond*2); err != nil {
		return err
	}
	cl, err := p.client(kgo.ProducerLinger(time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	list := values()
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	before, err := p.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	n := perSecond * *seconds
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		if wait := time.Until(due); wait > time.Millisecond {
			time.Sleep(wait)
		}
		cl.Produce(ctx, &kgo.Record{Topic: topicName, Value: list[i%len(list)]}, func(_ *kgo.Record, err error) {
			took := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, took), errors.Join(failed, err)
		})
	}
	if err := cl.Flush(ctx); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	after, err := p.cpu()
	if err != nil {
		return err
	}
	slices.Sort(all)
	for _, q := range []struct {
		name string
		part float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}} {
		at := all[int(q.part*float64(len(all)-1))]
		r.add(fmt.Sprintf("latency %s at %d records/s", q.name, perSecond), t.name, "ms", at.Seconds()*1000)
	}
	r.add("cpu at that rate", t.name, "CPU-s/GB", (after-before).Seconds()/(float64(n)*recordSize/1e9))
	return nil
}

func idle(ctx context.Context, r *results, t target, p *process) error {
	took, err := p.run(ctx)
	if err != nil {
		return err
	}
	r.add("first start", t.name, "ms", took.Seconds()*1000)
	return p.rest(ctx, r, t, "idle memory")
}

// rest notes the memory of a broker that has nothing to do.
func (p *process) rest(ctx context.Context, r *results, t target, what string) error {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	mb, err := p.memory()
	r.add(what, t.name, "MB", mb)
	return err
}

func starting(ctx context.Context, r *results, t target, p *process) error {
	if err := p.prepare(ctx, t, topicName, 1000); err != nil {
		return err
	}
	if _, _, err := produce(ctx, p, 20_000); err != nil {
		return err
	}
	if err := p.stop(); err != nil {
		return err
	}
	took, err := p.run(ctx)
	r.add("start with 1,000 partitions", t.name, "ms", took.Seconds()*1000)
	return err
}

func crowded(ctx context.Context, r *results, t target, p *process) error {
	const each = 500
	if err := p.prepare(ctx, t, topicName, each); err != nil {
		return err
	}
	cl, err := p.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	for n := each; n < *crowd; n += each {
		made, err := kadm.NewClient(cl).CreateTopics(ctx, each, 1, nil, fmt.Sprintf("%s-%d", topicName, n))
		if err != nil || made.Error() != nil {
			return errors.Join(err, made.Error())
		}
	}
	return p.rest(ctx, r, t, fmt.Sprintf("memory with %d partitions", *crowd))
}

// parkedConsumers are connections that wait for records at the same time, a few
// less than the bundled broker takes by default.
const parkedConsumers = 9_900

func parked(ctx context.Context, r *results, t target, p *process) error {
	if err := p.prepare(ctx, t, topicName, int32(*partitions)); err != nil {
		return err
	}
	before, err := p.memory()
	if err != nil {
		return err
	}
	q := kmsg.NewPtrFetchRequest()
	q.Version, q.MaxWaitMillis, q.MinBytes, q.MaxBytes = 11, 60_000, 1, 1<<20
	for n := range int32(*partitions) {
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.PartitionMaxBytes = n, 1<<20
		if n == 0 {
			q.Topics = append(q.Topics, kmsg.FetchRequestTopic{Topic: topicName})
		}
		q.Topics[0].Partitions = append(q.Topics[0].Partitions, part)
	}
	frame := kmsg.NewRequestFormatter().AppendRequest(nil, q, 1)
	for range parkedConsumers {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", p.addr)
		if err != nil {
			return err
		}
		defer nc.Close()
		if _, err := nc.Write(frame); err != nil {
			return err
		}
	}
	if err := p.rest(ctx, r, t, "memory with 9,900 parked consumers"); err != nil {
		return err
	}
	cpu, err := p.cpu()
	if err != nil {
		return err
	}
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := p.cpu()
	if err != nil {
		return err
	}
	r.add("their share of a processor", t.name, "%", (after-cpu).Seconds()/settle.Seconds()*100)
	mb, err := p.memory()
	r.add("KB for each of them", t.name, "KB", (mb-before)*1e3/parkedConsumers)
	return err
}
