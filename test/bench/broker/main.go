//go:build interop

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/waybillhq/waybill/broker"
)

var (
	who          = flag.String("who", "waybill,waybill-noprov,waybill-lax,kafka,kafka-flush", "`names` of the brokers to measure")
	what         = flag.String("what", "produce,consume,latency,small,idle,start,memory,parked", "`names` of the measurements")
	runs         = flag.Int("runs", 3, "how often each is run")
	partitions   = flag.Int("partitions", 8, "of the topic that is written and read")
	megabytes    = flag.Int("mb", 1000, "to produce and to consume, in `10^6 bytes` of values")
	seconds      = flag.Int("seconds", 20, "that latency is measured for")
	rate         = flag.Int("rate", 0, "of the measurement of latency in `records/s`; 0 is half of the slower broker's throughput")
	crowd        = flag.Int("crowd", 10_000, "`partitions` of the measurement of memory, a multiple of 500; each takes two open files of the bundled broker")
	kafkaVersion = flag.String("kafka", "4.1.0", "`version` of Apache Kafka")
	workDir      = flag.String("work", "", "`folder` for the brokers' data; default is the system's for temporary files")
	profiles     = flag.String("profiles", "", "`folder` for profiles of the bundled broker, which is then a child of this program and not the binary")

	role       = flag.String("role", "", "what this process is; set by the parent")
	dir        = flag.String("dir", "", "set by the parent")
	addr       = flag.String("addr", "", "set by the parent")
	provenance = flag.Bool("provenance", true, "set by the parent")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *role == "broker" {
		err = profiled(ctx)
	} else {
		err = bench(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// profiled is the bundled broker with profiles.
func profiled(ctx context.Context) error {
	name := filepath.Join(*profiles, fmt.Sprintf("broker-%d", os.Getpid()))
	file, err := os.Create(name + ".cpu")
	if err != nil {
		return err
	}
	defer file.Close()
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.Provenance, cfg.Listeners[0].Addr = *dir, *provenance, *addr
	b, err := broker.New(cfg)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	err = b.Run(ctx)
	pprof.StopCPUProfile()
	memory, merr := os.Create(name + ".mem")
	if merr != nil {
		return errors.Join(err, merr)
	}
	defer memory.Close()
	return errors.Join(err, pprof.Lookup("allocs").WriteTo(memory, 0))
}

// result is one figure, of every run.
type result struct {
	what, who, unit string
	values          []float64
}

type results struct {
	list []*result
}

func (r *results) add(what, who, unit string, value float64) {
	at := slices.IndexFunc(r.list, func(x *result) bool { return x.what == what && x.who == who })
	if at < 0 {
		r.list = append(r.list, &result{what: what, who: who, unit: unit})
		at = len(r.list) - 1
	}
	r.list[at].values = append(r.list[at].values, value)
}

func (r *results) middle(what, who string) float64 {
	for _, x := range r.list {
		if x.what == what && x.who == who {
			return middle(x.values)
		}
	}
	return 0
}

func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// print shows each figure for all brokers, and its ratio to Apache Kafka's.
func (r *results) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "measured\tbroker\tmiddle\tleast\tmost\tunit\tto kafka\tto kafka-flush")
	order := map[string]int{}
	for _, x := range r.list {
		if _, seen := order[x.what]; !seen {
			order[x.what] = len(order)
		}
	}
	slices.SortStableFunc(r.list, func(a, b *result) int { return order[a.what] - order[b.what] })
	ratio := func(x *result, to string) string {
		base := r.middle(x.what, to)
		if base == 0 || x.who == to {
			return ""
		}
		return fmt.Sprintf("%.2f", middle(x.values)/base)
	}
	for _, x := range r.list {
		fmt.Fprintf(w, "%s\t%s\t%.4g\t%.4g\t%.4g\t%s\t%s\t%s\n", x.what, x.who, middle(x.values),
			slices.Min(x.values), slices.Max(x.values), x.unit, ratio(x, "kafka"), ratio(x, "kafka-flush"))
	}
	w.Flush()
}

func bench(ctx context.Context) error {
	var r results
	defer r.print()
	wanted := strings.Split(*what, ",")
	for _, m := range measurements {
		if !slices.ContainsFunc(m.names, func(n string) bool { return slices.Contains(wanted, n) }) {
			continue
		}
		for range *runs {
			for _, t := range targets() {
				if !slices.Contains(strings.Split(*who, ","), t.name) {
					continue
				}
				if err := one(ctx, &r, m, t); err != nil {
					return fmt.Errorf("%s of %s: %w", m.names[0], t.name, err)
				}
			}
		}
	}
	return nil
}

// one is one measurement of one broker, on a store of its own.
func one(ctx context.Context, r *results, m measurement, t target) (err error) {
	dir, err := os.MkdirTemp(*workDir, "waybill-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a leftover in a temporary folder harms nobody
	p, err := t.prepare(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	began := time.Now()
	if err := m.run(ctx, r, t, p); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s of %s took %v\n", m.names[0], t.name, time.Since(began).Round(time.Second))
	return nil
}

// freePorts returns addresses of loopback that nobody listens on now.
func freePorts(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
