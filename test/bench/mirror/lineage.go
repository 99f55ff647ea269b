package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/lineage"
)

// Of lineage three things are measured: how long a query takes and how that grows with
// what the index holds; what queries take from a mirror that runs beside them in one
// process, as in a node; and what the ledger costs the mirror, in bytes and in processor
// time.

const (
	hopRecords = 200 // of each hop of the index: 100 million events where one link has 500,000
	askRate    = 1000
)

// indexHops are the sizes of the index.
var indexHops = []int64{10_000, 100_000, 1_000_000}

func lineageBench(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "waybill-lineage-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a leftover in a temporary folder harms nobody
	table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintln(table, "hops\tevents\tbuilt in s\tdisk, bytes a hop\tone hop p50 ms\tp99 ms\tthree hops p50 ms\tp99 ms")
	for _, hops := range indexHops {
		indexDir, indexSize = filepath.Join(dir, fmt.Sprint(hops)), int64(float64(hops)*o.part)
		if err := points(ctx, table); err != nil {
			return err
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Println()
	return besideMirror(ctx, o)
}

// indexDir is where the index is that is asked while a mirror runs, and indexSize how
// many hops it holds.
var (
	indexDir  string
	indexSize int64
)

// anybody may see everything.
type anybody struct{}

func (anybody) Allowed(context.Context, lineage.Caller, string, acl.Operation, acl.ResourceType, string) bool {
	return true
}

func (anybody) Principal(_ context.Context, c lineage.Caller, _ string) string { return c.Principal }

func openIndex(dir string) (*lineage.Index, error) {
	return lineage.Open(lineage.Config{Dir: dir, Authorizer: anybody{}, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
}

// links are the copies in the index: half of its hops go one way only, the others on
// over three.
func links(hops int64) (names []string, each []int64) {
	return []string{"wx", "ab", "bc", "cd"}, []int64{hops / 2, hops / 6, hops / 6, hops / 6}
}

// fillIndex has an index read ledgers of so many hops, in pages of 50.
func fillIndex(x *lineage.Index, hops int64) error {
	names, each := links(hops)
	for i, link := range names {
		from, to := link[:1], link[1:]
		id := ledger.CopyID{Source: endOf(from), Destination: endOf(to)}
		chain := ledger.NewChain(ledger.WriterID{to[0]})
		entries := []ledger.Entry{&ledger.Begin{
			Copy: id, Epoch: 1, At: started, Flow: link, Fleet: "f", Node: "n", Lane: "l", SourceCluster: from, DestinationCluster: to, SourceTopic: topic, DestinationTopic: topic,
		}}
		pos := tail.Position{Cluster: id.Destination.Cluster, TopicID: ledger.TopicID{to[0]}, Partition: ledger.PartitionOf(id, 4)}
		// A destination has a marker behind each transaction, which is no record further on.
		stride := int64(hopRecords) + int64(link[0]-'a')
		if from == "w" {
			stride = hopRecords
		}
		for n := range each[i] {
			h := &ledger.Hop{
				Copy: id.Key(), Epoch: 1, From: n * stride, Next: (n + 1) * stride, At: started, Bytes: 100 * hopRecords, SourceLeaderEpoch: 3, DestinationLeaderEpoch: 4,
				Runs: []ledger.Run{{Source: n * stride, Count: hopRecords, Destination: n * (stride + 1), Path: ledger.Raw, Digest: uint32(n)}},
			}
			if markers := stride - hopRecords; markers > 0 {
				h.Gaps = []ledger.Gap{{Source: n*stride + hopRecords, Count: markers, Reason: ledger.Control}}
			}
			if entries = append(entries, h); len(entries) < 50 && n < each[i]-1 {
				continue
			}
			page, err := ledger.Decode(chain.Encode(entries))
			if err != nil {
				return err
			}
			x.Apply(pos, page)
			pos.Offset++
			entries = entries[:0]
		}
	}
	return x.Err()
}

func endOf(cluster string) ledger.End {
	return ledger.End{Cluster: "id-" + cluster, TopicID: ledger.TopicID{cluster[0]}}
}

// point asks for one event at a random place of a cluster, and holds how many places it
// has against what it must have.
func point(ctx context.Context, x *lineage.Index, rng *rand.Rand, hops int64, cluster string, places int) error {
	_, each := links(hops)
	n := each[1]
	if cluster == "w" {
		n = each[0]
	}
	offset := rng.Int64N(max(1, n)) * hopRecords // at a: records have no markers between them
	a, err := x.Event(ctx, lineage.Caller{Principal: "User:bench"}, lineage.Address{Cluster: cluster, Topic: topic, Offset: offset + rng.Int64N(hopRecords)})
	if err != nil {
		return err
	}
	if len(a.Nodes) != places {
		return fmt.Errorf("event %s/%d has %d places, want %d", cluster, offset, len(a.Nodes), places)
	}
	return nil
}

// points builds an index, closes and opens it, and asks.
func points(ctx context.Context, table *tabwriter.Writer) error {
	x, err := openIndex(indexDir)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := fillIndex(x, indexSize); err != nil {
		return err
	}
	if err := x.Close(); err != nil {
		return err
	}
	built := time.Since(began)
	size, err := sizeOf(indexDir)
	if err != nil {
		return err
	}
	if x, err = openIndex(indexDir); err != nil {
		return err
	}
	defer func() { _ = x.Close() }() // it was only read
	row := fmt.Sprintf("%d\t%d\t%.1f\t%.0f", indexSize, indexSize/2*hopRecords, built.Seconds(), float64(size)/float64(indexSize))
	rng := rand.New(rand.NewPCG(1, 2))
	for _, ask := range []struct {
		cluster string
		places  int
	}{{"w", 2}, {"a", 4}} {
		var took []time.Duration
		for i := range 6000 {
			began := time.Now()
			if err := point(ctx, x, rng, indexSize, ask.cluster, ask.places); err != nil {
				return err
			}
			if i >= 1000 { // the first warm the caches
				took = append(took, time.Since(began))
			}
		}
		p50, p99 := quantiles(took)
		row += fmt.Sprintf("\t%.2f\t%.2f", p50, p99)
	}
	fmt.Fprintln(table, row)
	return nil
}

func sizeOf(dir string) (size int64, err error) {
	err = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// quantiles are in milliseconds.
func quantiles(took []time.Duration) (p50, p99 float64) {
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return float64(took[len(took)/2].Microseconds()) / 1000, float64(took[len(took)*99/100].Microseconds()) / 1000
}

// asked is the mirror with 1,000 queries a second over three hops beside it.
func asked(ctx context.Context, j job) (usage, error) {
	x, err := openIndex(j.Dir)
	if err != nil {
		return usage{}, err
	}
	defer func() { _ = x.Close() }() // it was only read
	started = time.Now()             // opening is not copying
	asking, stop := context.WithCancel(ctx)
	var took []time.Duration
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(3, 4))
		for due := time.Now(); asking.Err() == nil; due = due.Add(time.Second / askRate) {
			time.Sleep(time.Until(due))
			if err := point(ctx, x, rng, j.IndexHops, "a", 4); err != nil {
				failed = err
				return
			}
			took = append(took, time.Since(due))
		}
	})
	u, err := waybill(ctx, j)
	stop()
	wg.Wait()
	u.Queries = float64(len(took)) / u.Seconds
	u.P50, u.P99 = quantiles(took)
	if err == nil {
		err = failed
	}
	return u, err
}

// ledgerTaken is what a sink was sent, of data and of the ledger.
type ledgerTaken struct {
	Data, Ledger      int64 // bytes of batches
	Pages, Hops, Runs int64
	// Encode is the processor time that it takes to encode the same pages again.
	Encode float64
}

// pages keeps the ledger that a stand-in is sent.
type pages struct {
	mu     sync.Mutex
	data   int64
	ledger int64
	values [][]byte
}

func (p *pages) take(name string, b record.Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name != ledger.Topic {
		p.data += int64(len(b))
		return
	}
	p.ledger += int64(len(b))
	records, err := b.Decode(64 << 20)
	if err != nil {
		return // the pages that are missing show as hops that are missing
	}
	for _, r := range records {
		p.values = append(p.values, slices.Clone(r.Value))
	}
}

// taken looks at it, and encodes it again.
func (p *pages) taken() (ledgerTaken, error) {
	t := ledgerTaken{Data: p.data, Ledger: p.ledger, Pages: int64(len(p.values))}
	var all [][]ledger.Entry
	for _, v := range p.values {
		page, err := ledger.Decode(v)
		if err != nil {
			return t, err
		}
		for _, e := range page.Entries {
			if h, ok := e.(*ledger.Hop); ok {
				t.Hops++
				t.Runs += int64(len(h.Runs))
			}
		}
		all = append(all, page.Entries)
	}
	chain, before := ledger.NewChain(ledger.WriterID{1}), processorTime()
	for _, entries := range all {
		chain.Encode(entries)
	}
	t.Encode = (processorTime() - before).Seconds()
	return t, nil
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it cannot fail on ourselves
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// besideMirror runs the mirror with queries and without, and then over the shapes of data
// on which it depends how large a ledger is.
func besideMirror(ctx context.Context, o options) error {
	shapes := []cell{
		{Name: "64 KB batches of 1 KB", Record: 1000, Batch: 64, Partitions: 100, Total: 3_000_000, KeepLedger: true},
		{Name: "1 KB batches of 100 B", Record: 100, Batch: 10, Partitions: 100, Total: 5_000_000, KeepLedger: true},
		{Name: "single records of 1 KB", Record: 1000, Batch: 1, Partitions: 100, Total: 500_000, KeepLedger: true},
		{Name: "single records of 100 B", Record: 100, Batch: 1, Partitions: 100, Total: 500_000, KeepLedger: true},
	}
	c := shapes[0]
	c.KeepLedger, c.Total = false, int64(float64(c.Total)*4*o.part)
	if err := pairs(ctx, c, 2*o.runs); err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ledger\tdata MB\tledger bytes\tof the data, %\tbytes a hop\truns a hop\thops a page\tencoding, % of the mirror's CPU")
	for _, c := range shapes {
		c.Total = int64(float64(c.Total) * o.part)
		results, err := measure(ctx, c, []string{"waybill"}, o.runs, run)
		if err != nil {
			return err
		}
		u := results["waybill"]
		t := u.Ledger
		fmt.Fprintf(table, "%s\t%.0f\t%d\t%.3f\t%.0f\t%.1f\t%.1f\t%.2f\n", c.Name, float64(t.Data)/1e6, t.Ledger, 100*float64(t.Ledger)/float64(t.Data),
			float64(t.Ledger)/float64(t.Hops), float64(t.Runs)/float64(t.Hops), float64(t.Hops)/float64(t.Pages), 100*t.Encode/u.CPU)
	}
	return table.Flush()
}

// pairs runs the mirror with queries and without, so many times; whose turn is first
// alternates, so that a machine that slows down or warms up takes from both alike. Equal runs
// differ by a few per cent: what counts is the middle of the pairs.
func pairs(ctx context.Context, c cell, n int) error {
	table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintln(table, "1,000 queries/s\tMB/s without, with\tCPU-s/GB without, with\tqueries/s\tp50 ms\tp99 ms\tof the throughput without\tof the CPU without")
	var throughput, cpu []float64
	for i := range n {
		var alone, asked usage
		turns := []struct {
			name string
			into *usage
		}{{"waybill", &alone}, {"asked", &asked}}
		if i%2 == 1 {
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			u, err := run(ctx, turn.name, c)
			if err != nil {
				return err
			}
			*turn.into = u
		}
		throughput, cpu = append(throughput, alone.Seconds/asked.Seconds), append(cpu, asked.CPU/alone.CPU)
		fmt.Fprintf(table, "pair %d\t%.0f, %.0f\t%.2f, %.2f\t%.0f\t%.2f\t%.2f\t%.3f\t%.3f\n", i+1, c.megabytes()/alone.Seconds, c.megabytes()/asked.Seconds,
			alone.CPU/c.megabytes()*1000, asked.CPU/c.megabytes()*1000, asked.Queries, asked.P50, asked.P99, throughput[i], cpu[i])
	}
	fmt.Fprintf(table, "the middle\t\t\t\t\t\t%.3f\t%.3f\n\n", middle(throughput), middle(cpu))
	return table.Flush()
}

func middle(of []float64) float64 {
	slices.Sort(of)
	return (of[(len(of)-1)/2] + of[len(of)/2]) / 2
}

// readTaken is what a sink says at its end of what it was sent.
func readTaken(sink *part) (*ledgerTaken, error) {
	text, err := sink.line()
	if err != nil {
		return nil, err
	}
	t := new(ledgerTaken)
	return t, json.Unmarshal([]byte(text), t)
}
