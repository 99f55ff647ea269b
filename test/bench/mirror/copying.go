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

// job is what a process is told.
type job struct {
	Cell         cell
	Source, Sink string // addresses
	From, To     string // topics
	Raw          bool   // source and sink are not brokers but plain streams
	// Forever is to copy until the process is told to end. It says "running" and its
	// process id when what comes from then on is copied at once.
	Forever  bool
	Interval time.Duration // of the mirror's commits, 0: its default
	Dir      string        // of a broker's data, or of a lineage index
	// IndexHops is how many hops the index holds.
	IndexHops int64
}

// copiers are those who copy, by name. They return what they have used.
var copiers = map[string]func(ctx context.Context, j job) (usage, error){
	"waybill": waybill, "waybill-alo": atLeastOnce, "preserve": preserve, "naive": naive, "tuned": tuned, "relay": relay, "asked": asked,
}

// waybill runs the mirror of this project: all of it, but for raft.
func waybill(ctx context.Context, j job) (usage, error) {
	return mirrored(ctx, j, flow.OffsetsTranslate, "")
}

// atLeastOnce does so without transactions: what the other costs more is the price of
// exactly once.
func atLeastOnce(ctx context.Context, j job) (usage, error) {
	return mirrored(ctx, j, flow.OffsetsTranslate, flow.DeliveryAtLeastOnce)
}

// preserve does so into a mirror topic, which a bundled broker has.
func preserve(ctx context.Context, j job) (usage, error) {
	return mirrored(ctx, j, flow.OffsetsPreserve, "")
}

func mirrored(ctx context.Context, j job, offsets, delivery string) (usage, error) {
	cfg := mirror.DefaultConfig()
	if j.Interval > 0 {
		cfg.CommitInterval = j.Interval
	}
	cfg.Fleet, cfg.Node, cfg.Incarnation = "bench", "n1", 1
	cfg.Lanes, cfg.Positions, cfg.Origins = noLanes{}, noPositions{}, noOrigins{}
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	m, err := mirror.NewManager(cfg)
	if err != nil {
		return usage{}, err
	}
	spec := &flow.ReplicationFlow{Metadata: flow.Metadata{Name: "bench"}, Spec: flow.FlowSpec{Source: "source", Destination: "sink", Start: flow.StartEarliest, Delivery: delivery}}
	var all []mirror.Assignment
	source, sink := declare("source", j.Source, j.Cell.TLS), declare("sink", j.Sink, j.Cell.TLS)
	for p := range j.Cell.Partitions {
		all = append(all, mirror.Assignment{
			Flow: "bench", Spec: spec, Source: source, Destination: sink,
			SourceTopic: j.From, DestinationTopic: j.To, Partition: int32(p), Epoch: 1, Offsets: offsets,
		})
	}
	m.Assign(all)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !done(m, j) {
		select {
		case <-look.C:
		case err := <-ended:
			return usage{}, fmt.Errorf("the mirror ended early: %w", err)
		case <-ctx.Done():
			return usage{}, fmt.Errorf("%d of %d records: %+v", m.Metrics().Records.Load(), j.Cell.records(), m.Status()[0])
		}
	}
	u := used() // stopping is not copying
	if j.Forever {
		fmt.Println("running", os.Getpid())
		<-ctx.Done()
	}
	cancel()
	return u, <-ended
}

// done says that everything is copied or, of a job without an end, that all copies run.
func done(m *mirror.Manager, j job) bool {
	if !j.Forever {
		return m.Metrics().Records.Load() >= j.Cell.records()
	}
	all := m.Status()
	return len(all) == j.Cell.Partitions && !slices.ContainsFunc(all, func(c mirror.CopyStatus) bool {
		return c.State != mirror.Running || c.SourceEnd < 0 || c.LagRecords > 0
	})
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
func (noLanes) Forgotten(context.Context, string) (bool, error)      { return false, nil }
func (noLanes) Recall(context.Context, string, []mirror.FoundLane) error {
	return nil
}

type noPositions struct{}

func (noPositions) PositionBefore(context.Context, string, ledger.CopyID, int64, int64) (mirror.Position, error) {
	return mirror.Position{}, nil
}

func (noPositions) Position(context.Context, string, ledger.CopyID) (mirror.Position, error) {
	return mirror.Position{}, nil
}

// noOrigins stands for a source that no replicator writes to, once its ledger has
// been read.
type noOrigins struct{}

func (noOrigins) Replicator(string, int64) (known, plain bool)     { return false, false }
func (noOrigins) Stray(ledger.End, int64) bool                     { return false }
func (noOrigins) Origin(ledger.End, int64) (ledger.Origin, bool)   { return ledger.Origin{}, false }
func (noOrigins) ReadLedger(context.Context, string) (bool, error) { return true, nil }

// naive is the loop of fifty lines.
func naive(ctx context.Context, j job) (usage, error) {
	return loop(ctx, j, true, nil, nil)
}

// tuned is the same by somebody who has read the documentation.
func tuned(ctx context.Context, j job) (usage, error) {
	return loop(ctx, j, false, []kgo.Opt{
		kgo.FetchMaxBytes(8 << 20), kgo.FetchMaxPartitionBytes(1 << 20), kgo.MaxConcurrentFetches(4),
	}, []kgo.Opt{
		kgo.MaxBufferedRecords(1 << 20), kgo.MaxBufferedBytes(256 << 20), kgo.ProducerBatchMaxBytes(1_000_000), kgo.ProducerLinger(5 * time.Millisecond),
		kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5),
	})
}

func loop(ctx context.Context, j job, flush bool, in, out []kgo.Opt) (usage, error) {
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
		return usage{}, err
	}
	consumer, err := kgo.NewClient(slices.Concat(from, []kgo.Opt{kgo.ConsumeTopics(j.From), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}, in)...)
	if err != nil {
		return usage{}, err
	}
	defer consumer.Close()
	to, err := base(j.Sink)
	if err != nil {
		return usage{}, err
	}
	producer, err := kgo.NewClient(slices.Concat(to, []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codecOf(j.Cell))}, out)...)
	if err != nil {
		return usage{}, err
	}
	defer producer.Close()
	failed := kgo.AbortingFirstErrPromise(producer)
	var done int64
	if j.Forever {
		fmt.Println("running", os.Getpid())
	}
	for j.Forever || done < j.Cell.records() {
		fetches := consumer.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			if j.Forever && ctx.Err() != nil {
				return used(), nil // it was told to end
			}
			return usage{}, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			producer.Produce(ctx, &kgo.Record{Topic: j.To, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp}, failed.Promise())
			done++
		})
		if flush {
			if err := producer.Flush(ctx); err != nil {
				return usage{}, err
			}
		}
	}
	if err := producer.Flush(ctx); err != nil {
		return usage{}, err
	}
	return used(), failed.Err()
}

func codecOf(c cell) kgo.CompressionCodec {
	return []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}[c.Codec]
}

// relay passes bytes on.
func relay(ctx context.Context, j job) (usage, error) {
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
		return usage{}, err
	}
	defer source.Close()
	sink, err := dial(j.Sink)
	if err != nil {
		return usage{}, err
	}
	defer sink.Close()
	// Without these wrappers the kernel would move the bytes by itself (splice),
	// which no mirror can have that looks at them.
	_, err = io.CopyBuffer(struct{ io.Writer }{sink}, struct{ io.Reader }{source}, make([]byte, 256<<10))
	return used(), err
}
