package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/test/bench/procstat"
)

const (
	latencyRate       = 1000 // records per second
	latencySeconds    = 20
	latencyPartitions = 8
)

// delay is one row: what a copier adds to the time after which a reader has a record.
type delay struct {
	by                     string
	committed, uncommitted []time.Duration // sorted
	copying, sink          float64         // of a processor, percent
}

// latencies prints what copiers add to the latency of records that come steadily,
// each of 1 KB: for the mirror by the interval of its commits.
func latencies(ctx context.Context, kind string, who []string) error {
	p, err := openPair(ctx, kind)
	if err != nil {
		return err
	}
	defer p.close()
	table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\n%d records/s of 1KB, between\tby\tadded p50 ms\tp99 ms\tread_uncommitted p50\tp99\tits CPU %%\tthe sink's CPU %%\n", latencyRate)
	for _, name := range who {
		intervals := []time.Duration{0}
		if name == "waybill" {
			intervals = []time.Duration{5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond}
		}
		for _, interval := range intervals {
			d, err := p.latency(ctx, name, interval)
			if err != nil {
				return fmt.Errorf("latency of %s: %w", d.by, err)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%.1f\t%.1f\n", kind, d.by, quantile(d.committed, 0.5), quantile(d.committed, 0.99), quantile(d.uncommitted, 0.5), quantile(d.uncommitted, 0.99), d.copying, d.sink)
		}
	}
	return table.Flush()
}

func quantile(sorted []time.Duration, part float64) string {
	return fmt.Sprintf("%.2f", sorted[int(part*float64(len(sorted)-1))].Seconds()*1000)
}

// latency measures one copier at one interval.
func (p *pair) latency(ctx context.Context, who string, interval time.Duration) (d delay, err error) {
	d.by = who
	if interval > 0 {
		d.by = fmt.Sprintf("%s, commits each %v", who, interval)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	j := job{Cell: cell{Partitions: latencyPartitions}, Source: p.source.addr, Sink: p.sink.addr, From: p.name(), Forever: true, Interval: interval}
	if err := createTopic(ctx, p.source, j.From, latencyPartitions); err != nil {
		return d, err
	}
	if j.To = p.name(); who == "mm2" {
		j.To = mirrorMakerTopic(j)
	}
	if err := p.createSink(ctx, who, j); err != nil {
		return d, err
	}
	ends, stop := context.WithCancel(ctx)
	copying, err := begin(ends, who, j)
	if err != nil {
		stop()
		return d, err
	}
	defer func() {
		stop()
		_ = copying.cmd.Wait() // it was told to end
	}()
	pid, err := copying.running()
	if err != nil {
		return d, err
	}
	return d, p.stream(ctx, j, pid, &d)
}

// stream produces at the rate and notes when each record is seen, at the source
// and at the sink.
func (p *pair) stream(ctx context.Context, j job, pid int, d *delay) error {
	const n = latencyRate * latencySeconds
	readers := []*reader{
		{addr: p.source.addr, topic: j.From, level: kgo.ReadUncommitted()},
		{addr: p.sink.addr, topic: j.To, level: kgo.ReadCommitted()},
		{addr: p.sink.addr, topic: j.To, level: kgo.ReadUncommitted()},
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(readers))
	for _, r := range readers {
		r.at, r.warm, r.all = make([]time.Time, n), make(chan struct{}), make(chan struct{})
		go func() { failed <- r.run(ctx) }()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.source.addr), kgo.DefaultProduceTopic(j.From), kgo.ProducerLinger(0), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	// What is not numbered opens the ways: connections, topics that are found late.
	for _, r := range readers {
		for opened := false; !opened; {
			cl.Produce(ctx, numbered(-1), nil)
			select {
			case <-r.warm:
				opened = true
			case <-time.After(100 * time.Millisecond):
			case err := <-failed:
				return err
			}
		}
	}
	before, err1 := procstat.CPU(pid)
	sinkBefore, err2 := procstat.CPU(p.sink.pid)
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / latencyRate)
		time.Sleep(time.Until(due))
		cl.Produce(ctx, numbered(i), nil)
	}
	took := time.Since(began)
	after, err3 := procstat.CPU(pid)
	sinkAfter, err4 := procstat.CPU(p.sink.pid)
	if err := errors.Join(err1, err2, err3, err4, cl.Flush(ctx)); err != nil {
		return err
	}
	for _, r := range readers {
		select {
		case <-r.all:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("not everything has come: %w", ctx.Err())
		}
	}
	d.copying, d.sink = share(after-before, took), share(sinkAfter-sinkBefore, took)
	d.committed, d.uncommitted = later(readers[0].at, readers[1].at), later(readers[0].at, readers[2].at)
	return nil
}

func share(cpu, of time.Duration) float64 { return cpu.Seconds() / of.Seconds() * 100 }

// later is by how much later each record was seen at the sink, sorted.
func later(source, sink []time.Time) []time.Duration {
	all := make([]time.Duration, len(source))
	for i := range source {
		all[i] = sink[i].Sub(source[i])
	}
	slices.Sort(all)
	return all
}

func numbered(i int) *kgo.Record {
	value := make([]byte, 1000)
	binary.BigEndian.PutUint64(value, uint64(i))
	return &kgo.Record{Value: value}
}

// reader notes when it sees records.
type reader struct {
	addr, topic string
	level       kgo.IsolationLevel
	at          []time.Time // by number
	warm, all   chan struct{}
}

func (r *reader) run(ctx context.Context) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.addr), kgo.ConsumeTopics(r.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(r.level), kgo.MetadataMinAge(100*time.Millisecond), kgo.MetadataMaxAge(time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	warm := sync.OnceFunc(func() { close(r.warm) })
	for left := len(r.at); left > 0; {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		now := time.Now()
		fetches.EachRecord(func(rec *kgo.Record) {
			warm()
			if i := int64(binary.BigEndian.Uint64(rec.Value)); i >= 0 && r.at[i].IsZero() {
				r.at[i] = now
				left--
			}
		})
	}
	close(r.all)
	<-ctx.Done()
	return nil
}

// running waits until a copying process without an end says that it runs, and
// returns the process whose time counts, which may be a child of its own.
func (p *part) running() (pid int, err error) {
	said, err := p.line()
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Sscanf(said, "running %d", &pid); err != nil {
		return 0, fmt.Errorf("it says %q, not that it runs: %w", said, err)
	}
	return pid, nil
}

// idlePartitions prints what the mirror costs while nothing happens.
func idlePartitions(ctx context.Context, kind string, partitions int) error {
	p, err := openPair(ctx, kind)
	if err != nil {
		return err
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	j := job{Cell: cell{Partitions: partitions}, Source: p.source.addr, Sink: p.sink.addr, From: p.name(), To: p.name(), Forever: true}
	if err := errors.Join(createTopic(ctx, p.source, j.From, partitions), createTopic(ctx, p.sink, j.To, partitions)); err != nil {
		return err
	}
	ends, stop := context.WithCancel(ctx)
	copying, err := begin(ends, "waybill", j)
	if err != nil {
		stop()
		return err
	}
	defer func() {
		stop()
		_ = copying.cmd.Wait() // it was told to end
	}()
	pid, err := copying.running()
	if err != nil {
		return err
	}
	const settle, watch = 5 * time.Second, 30 * time.Second
	time.Sleep(settle)
	before, err1 := procstat.CPU(pid)
	began := time.Now()
	time.Sleep(watch)
	after, err2 := procstat.CPU(pid)
	memory, err3 := procstat.Resident(pid)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	fmt.Printf("\n%d idle partitions between %s: %.2f %% of a processor, %.0f MB\n", partitions, kind, share(after-before, time.Since(began)), memory)
	return nil
}
