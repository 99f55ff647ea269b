package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/waybillhq/waybill/test/bench/procstat"
)

func main() {
	role := flag.String("role", "", "what this process is; set by the parent")
	flag.StringVar(&profiles, "profiles", "", "`folder` for profiles of the CPU and of the memory of those who copy")
	o, err := readOptions(flag.CommandLine, os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case err != nil:
	case *role != "":
		err = child(ctx, *role)
	default:
		err = bench(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// profiles is where profiles go, "" for none.
var profiles string

// profile begins a profile of this process; the returned function ends it.
func profile(name string) (end func(), err error) {
	if profiles == "" {
		return func() {}, nil
	}
	file, err := os.Create(filepath.Join(profiles, name+".cpu"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		file.Close()
		if memory, err := os.Create(filepath.Join(profiles, name+".mem")); err == nil {
			_ = pprof.Lookup("allocs").WriteTo(memory, 0) // a profile that is not written is seen to be missing
			memory.Close()
		}
	}, nil
}

// usage is what a copying process says of itself.
type usage struct {
	Seconds, CPU float64
	PeakMB       float64
	// Calls are reads and writes, of sockets above all; Switches how often it was put
	// aside for another process or waited. Counts do not depend on what else runs.
	Calls, Switches float64

	Queries, P50, P99 float64      // of lineage, each second and in milliseconds
	Ledger            *ledgerTaken `json:",omitempty"`
}

var started = time.Now()

// used is what this process has used so far.
func used() usage {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it cannot fail on ourselves
	cpu := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	return usage{
		Seconds: time.Since(started).Seconds(), CPU: cpu.Seconds(), PeakMB: float64(u.Maxrss) / 1000,
		Calls: procstat.Calls(os.Getpid()), Switches: float64(u.Nvcsw + u.Nivcsw),
	}
}

// child is one part of a run. It reads a job from standard input.
func child(ctx context.Context, role string) error {
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		return err
	}
	if f := copiers[role]; f != nil {
		end, err := profile(role)
		if err != nil {
			return err
		}
		defer end()
		started = time.Now()
		u, err := f(ctx, j)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(u)
	}
	if role == "broker" {
		return serveBroker(ctx, j)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	if j.Raw {
		return stream(ctx, l, j.Cell, role == "source")
	}
	s := &standIn{cell: j.Cell, name: role}
	if role == "source" {
		if s.batch, err = j.Cell.batch(); err != nil {
			return err
		}
	}
	err = s.serve(ctx, l)
	fmt.Println(s.taken.Load())
	if err == nil && s.cell.KeepLedger && role == "sink" {
		var t ledgerTaken
		if t, err = s.pages.taken(); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(t)
		}
	}
	return err
}

// part is a process of a run.
type part struct {
	cmd *exec.Cmd
	out *bufio.Reader
}

func begin(ctx context.Context, role string, j job) (*part, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	p := &part{cmd: exec.CommandContext(ctx, self, "-role", role, "-profiles", profiles)}
	p.cmd.Stdin, p.cmd.Stderr = strings.NewReader(string(text)), os.Stderr
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 10 * time.Second
	pipe, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(pipe)
	return p, p.cmd.Start()
}

func (p *part) line() (string, error) {
	text, err := p.out.ReadString('\n')
	return strings.TrimSpace(text), err
}

// limit bounds a run of the slowest copier.
const limit = 5 * time.Minute

// run copies a cell once.
func run(ctx context.Context, who string, c cell) (usage, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	j := job{Cell: c, From: topic, To: topic, Raw: who == "relay", Dir: indexDir, IndexHops: indexSize}
	ends, stop := context.WithCancel(ctx)
	defer stop()
	source, err := begin(ends, "source", j)
	if err != nil {
		return usage{}, err
	}
	sink, err := begin(ends, "sink", j)
	if err != nil {
		return usage{}, err
	}
	if j.Source, err = source.line(); err != nil {
		return usage{}, fmt.Errorf("source: %w", err)
	}
	if j.Sink, err = sink.line(); err != nil {
		return usage{}, fmt.Errorf("sink: %w", err)
	}
	u, err := copyOnce(ctx, who, j)
	if err != nil {
		return usage{}, err
	}
	stop()
	if !j.Raw {
		took, err := sink.line()
		if err != nil || took != fmt.Sprint(c.records()) {
			return usage{}, fmt.Errorf("%s, %s: the sink has %s records, want %d (%w)", who, c.Name, took, c.records(), err)
		}
	}
	if c.KeepLedger {
		if u.Ledger, err = readTaken(sink); err != nil {
			return usage{}, fmt.Errorf("what the sink has of the ledger: %w", err)
		}
	}
	_, _ = source.cmd.Wait(), sink.cmd.Wait() // they were told to end
	return u, nil
}

// copyOnce runs a copying process to its end.
func copyOnce(ctx context.Context, who string, j job) (usage, error) {
	copying, err := begin(ctx, who, j)
	if err != nil {
		return usage{}, err
	}
	text, err := copying.line()
	if waited := copying.cmd.Wait(); waited != nil {
		return usage{}, fmt.Errorf("%s, %s: %w", who, j.Cell.Name, waited)
	}
	var u usage
	if err = cmp.Or(err, json.Unmarshal([]byte(text), &u)); err != nil {
		return usage{}, fmt.Errorf("%s, %s: %w", who, j.Cell.Name, err)
	}
	return u, nil
}

func bench(ctx context.Context, o options) error {
	if err := makeCertificate(); err != nil {
		return err
	}
	defer func() { _ = os.Remove(certificateFile) }() // a leftover in a temporary folder harms nobody
	fmt.Printf("%s, %d CPUs, %s; the middle of %d runs\n\n", runtime.Version(), runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH, o.runs)
	if slices.Contains(o.what, "lineage") {
		if err := lineageBench(ctx, o); err != nil {
			return err
		}
	}
	for _, kind := range o.between {
		if slices.Contains(o.what, "copy") {
			if err := o.copy(ctx, kind); err != nil {
				return err
			}
		}
		if kind == standIns {
			continue // they tell nothing of latency, and keep no fetch sessions
		}
		if slices.Contains(o.what, "latency") {
			who := slices.DeleteFunc(slices.Clone(o.who), func(name string) bool { return !can(name, kind) })
			if err := latencies(ctx, kind, who); err != nil {
				return err
			}
		}
	}
	if slices.Contains(o.what, "idle") && slices.Contains(o.between, "bundled") {
		return idlePartitions(ctx, "bundled", 10_000)
	}
	return nil
}

// copy prints how fast and how dear a kind of clusters is copied between.
func (o *options) copy(ctx context.Context, kind string) error {
	table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintf(table, "between %s\tby\trecords/s\tMB/s\tCPU-s/GB\tpeak MB\tcalls/MB\tswitches/MB\twaybill is faster by\tand cheaper by\n", kind)
	list := cells()
	if kind != standIns {
		list = smallCells()
	}
	for _, c := range list {
		if !strings.Contains(c.Name, o.match) {
			continue
		}
		c.Total = int64(float64(c.Total) * o.part)
		if err := o.cell(ctx, table, kind, c); err != nil {
			return err
		}
	}
	return nil
}

// can says whether somebody copies between clusters of a kind.
func can(who, kind string) bool {
	switch who {
	case "relay":
		return kind == standIns
	case "mm2":
		return kind != standIns && copiers[who] != nil
	case "preserve":
		return kind == "bundled"
	}
	return copiers[who] != nil
}

// cell measures one cell between one kind of clusters, by those who can.
func (o *options) cell(ctx context.Context, table *tabwriter.Writer, kind string, c cell) error {
	who := slices.DeleteFunc(slices.Clone(o.who), func(name string) bool {
		return !can(name, kind)
	})
	if kind == standIns {
		return o.row(ctx, table, c, who, run)
	}
	p, err := openPair(ctx, kind)
	if err != nil {
		return err
	}
	defer p.close()
	from := p.name()
	if err := load(ctx, p.source, from, c); err != nil {
		return err
	}
	return o.row(ctx, table, c, who, func(ctx context.Context, who string, c cell) (usage, error) { return p.run(ctx, who, from, c) })
}

// row measures a cell and prints it, a line for each who copies.
func (o *options) row(ctx context.Context, table *tabwriter.Writer, c cell, who []string, once runner) error {
	results, err := measure(ctx, c, who, o.runs, once)
	if err != nil {
		return err
	}
	ours, measured := results["waybill"]
	for _, name := range who {
		u := results[name]
		row := fmt.Sprintf("%s\t%s\t%.0f\t%.0f\t%.2f\t%.0f\t%.1f\t%.1f", c.Name, name, float64(c.records())/u.Seconds, c.megabytes()/u.Seconds,
			u.CPU/c.megabytes()*1000, u.PeakMB, u.Calls/c.megabytes(), u.Switches/c.megabytes())
		if measured && name != "waybill" {
			row += fmt.Sprintf("\t%.2f\t%.2f", u.Seconds/ours.Seconds, u.CPU/ours.CPU)
		}
		fmt.Fprintln(table, row)
	}
	return table.Flush()
}

// runner copies a cell once.
type runner func(ctx context.Context, who string, c cell) (usage, error)

// measure runs a cell by all, in turn, so that a machine that gets slower does so
// for all; and returns the middle of each one's runs.
func measure(ctx context.Context, c cell, who []string, runs int, once runner) (map[string]usage, error) {
	all := map[string][]usage{}
	for range runs {
		for _, name := range who {
			u, err := once(ctx, name, c)
			if err != nil {
				return nil, err
			}
			all[name] = append(all[name], u)
		}
	}
	middle := map[string]usage{}
	for name, list := range all {
		slices.SortFunc(list, func(a, b usage) int { return cmp.Compare(a.Seconds, b.Seconds) })
		middle[name] = list[len(list)/2]
	}
	return middle, nil
}
