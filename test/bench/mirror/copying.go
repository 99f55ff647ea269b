package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/mirror"
)

// job is what a copying process is told.
type job struct {
	Cell         cell
	Source, Sink string // addresses
	Raw          bool   // they are not brokers but plain streams
}

// copiers are those who copy, by name.
var copiers = map[string]func(ctx context.Context, j job) error{
	"waybill": waybill, "naive": naive, "tuned": tuned, "relay": relay,
}

// waybill runs the mirror of this project: all of it, but for raft.
func waybill(ctx context.Context, j job) error {
	cfg := mirror.DefaultConfig()
	cfg.Fleet, cfg.Node, cfg.Incarnation = "bench", "n1", 1
	cfg.Lanes, cfg.Positions = noLanes{}, noPositions{}
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	m, err := mirror.NewManager(cfg)
	if err != nil {
		return err
	}
	spec := &flow.ReplicationFlow{Metadata: flow.Metadata{Name: "bench"}, Spec: flow.FlowSpec{Source: "source", Destination: "sink", Start: flow.StartEarliest}}
	var all []mirror.Assignment
	source, sink := declare("source", j.Source, j.Cell.TLS), declare("sink", j.Sink, j.Cell.TLS)
	for p := range j.Cell.Partitions {
		all = append(all, mirror.Assignment{
			Flow: "bench", Spec: spec, Source: source, Destination: sink,
			SourceTopic: topic, DestinationTopic: topic, Partition: int32(p), Epoch: 1,
		})
	}
	m.Assign(all)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for m.Metrics().Records.Load() < j.Cell.records() {
		select {
		case <-look.C:
		case err := <-ended:
			return fmt.Errorf("the mirror ended early: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("%d of %d records: %+v", m.Metrics().Records.Load(), j.Cell.records(), m.Status()[0])
		}
	}
	report() // stopping is not copying
	cancel()
	return <-ended
}

func declare(name, address string, secure bool) *flow.Cluster {
	c := &flow.Cluster{Metadata: flow.Metadata{Name: name}, Spec: flow.ClusterSpec{BootstrapServers: []string{address}}}
	if secure {
		c.Spec.TLS = &flow.TLS{CAFile: certificateFile}
	}
	return c
}

// noLanes and noPositions stand for a fleet of one node that never died and a
// ledger that is empty.
type noLanes struct{}

func (noLanes) Register(context.Context, mirror.Lane) error          { return nil }
func (noLanes) Ended(context.Context, string) ([]mirror.Lane, error) { return nil, nil }
func (noLanes) Fenced(context.Context, []mirror.Lane) error          { return nil }

type noPositions struct{}

func (noPositions) Position(context.Context, string, ledger.CopyID) (mirror.Position, error) {
	return mirror.Position{}, nil
}

// naive is the loop of fifty lines.
func naive(ctx context.Context, j job) error {
	return loop(ctx, j, true, nil, nil)
}

// tuned is the same by somebody who has read the documentation.
func tuned(ctx context.Context, j job) error {
	return loop(ctx, j, false, []kgo.Opt{
		kgo.FetchMaxBytes(8 << 20), kgo.FetchMaxPartitionBytes(1 << 20), kgo.MaxConcurrentFetches(4),
	}, []kgo.Opt{
		kgo.MaxBufferedRecords(1 << 20), kgo.MaxBufferedBytes(256 << 20), kgo.ProducerBatchMaxBytes(1_000_000), kgo.ProducerLinger(5 * time.Millisecond),
		kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5),
	})
}

func loop(ctx context.Context, j job, flush bool, in, out []kgo.Opt) error {
	base := func(address string) ([]kgo.Opt, error) {
		opts := []kgo.Opt{kgo.SeedBrokers(address)}
		if j.Cell.TLS {
			cfg, err := clientTLS()
			if err != nil {
				return nil, err
			}
			opts = append(opts, kgo.DialTLSConfig(cfg))
		}
		return opts, nil
	}
	from, err := base(j.Source)
	if err != nil {
		return err
	}
	consumer, err := kgo.NewClient(slices.Concat(from, []kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}, in)...)
	if err != nil {
		return err
	}
	defer consumer.Close()
	to, err := base(j.Sink)
	if err != nil {
		return err
	}
	producer, err := kgo.NewClient(slices.Concat(to, []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codecOf(j.Cell))}, out)...)
	if err != nil {
		return err
	}
	defer producer.Close()
	failed := kgo.AbortingFirstErrPromise(producer)
	var done int64
	for done < j.Cell.records() {
		fetches := consumer.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			producer.Produce(ctx, &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp}, failed.Promise())
			done++
		})
		if flush {
			if err := producer.Flush(ctx); err != nil {
				return err
			}
		}
	}
	if err := producer.Flush(ctx); err != nil {
		return err
	}
	return failed.Err()
}

func codecOf(c cell) kgo.CompressionCodec {
	return []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}[c.Codec]
}

// relay passes bytes on.
func relay(ctx context.Context, j job) error {
	dial := func(address string) (net.Conn, error) {
		if !j.Cell.TLS {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
		cfg, err := clientTLS()
		if err != nil {
			return nil, err
		}
		return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address)
	}
	source, err := dial(j.Source)
	if err != nil {
		return err
	}
	defer source.Close()
	sink, err := dial(j.Sink)
	if err != nil {
		return err
	}
	defer sink.Close()
	// Without these wrappers the kernel would move the bytes by itself (splice),
	// which no mirror can have that looks at them.
	_, err = io.CopyBuffer(struct{ io.Writer }{sink}, struct{ io.Reader }{source}, make([]byte, 256<<10))
	return err
}
