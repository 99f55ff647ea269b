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
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	role := flag.String("role", "", "what this process is; set by the parent")
	match := flag.String("cells", "", "run the cells whose name contains this `text`")
	who := flag.String("who", "waybill,naive,tuned,relay", "`names` of those who copy")
	runs := flag.Int("runs", 3, "how often each cell is run")
	flag.StringVar(&profiles, "profiles", "", "`folder` for profiles of the CPU and of the memory of those who copy")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *role != "" {
		err = child(ctx, *role)
	} else {
		err = bench(ctx, *match, strings.Split(*who, ","), *runs)
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
}

var (
	started  = time.Now()
	reported sync.Once
)

// report prints the usage of this process so far, once.
func report() {
	reported.Do(func() {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it cannot fail on ourselves
		cpu := time.Duration(u.Utime.Nano() + u.Stime.Nano())
		_ = json.NewEncoder(os.Stdout).Encode(usage{time.Since(started).Seconds(), cpu.Seconds(), float64(u.Maxrss) / 1000})
	})
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
		if err := f(ctx, j); err != nil {
			return err
		}
		report()
		return nil
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
	j := job{Cell: c, Raw: who == "relay"}
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
	copying, err := begin(ctx, who, j)
	if err != nil {
		return usage{}, err
	}
	text, err := copying.line()
	if waited := copying.cmd.Wait(); waited != nil {
		return usage{}, fmt.Errorf("%s, %s: %w", who, c.Name, waited)
	}
	var u usage
	if err = cmp.Or(err, json.Unmarshal([]byte(text), &u)); err != nil {
		return usage{}, fmt.Errorf("%s, %s: %w", who, c.Name, err)
	}
	stop()
	if !j.Raw {
		took, err := sink.line()
		if err != nil || took != fmt.Sprint(c.records()) {
			return usage{}, fmt.Errorf("%s, %s: the sink has %s records, want %d (%w)", who, c.Name, took, c.records(), err)
		}
	}
	_, _ = source.cmd.Wait(), sink.cmd.Wait() // they were told to end
	return u, nil
}

func bench(ctx context.Context, match string, who []string, runs int) error {
	if err := makeCertificate(); err != nil {
		return err
	}
	defer func() { _ = os.Remove(certificateFile) }() // a leftover in a temporary folder harms nobody
	fmt.Printf("%s, %d CPUs, %s; the middle of %d runs\n\n", runtime.Version(), runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH, runs)
	table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintln(table, "cell\tby\trecords/s\tMB/s\tCPU-s/GB\tpeak MB\twaybill is faster by\tand cheaper by")
	for _, c := range cells() {
		if !strings.Contains(c.Name, match) {
			continue
		}
		results, err := measure(ctx, c, who, runs)
		if err != nil {
			return err
		}
		ours, measured := results["waybill"]
		for _, name := range who {
			u := results[name]
			row := fmt.Sprintf("%s\t%s\t%.0f\t%.0f\t%.2f\t%.0f", c.Name, name, float64(c.records())/u.Seconds, c.megabytes()/u.Seconds, u.CPU/c.megabytes()*1000, u.PeakMB)
			if measured && name != "waybill" {
				row += fmt.Sprintf("\t%.2f\t%.2f", u.Seconds/ours.Seconds, u.CPU/ours.CPU)
			}
			fmt.Fprintln(table, row)
		}
		table.Flush()
	}
	return nil
}

// measure runs a cell by all, in turn, so that a machine that gets slower does so
// for all; and returns the middle of each one's runs.
func measure(ctx context.Context, c cell, who []string, runs int) (map[string]usage, error) {
	all := map[string][]usage{}
	for range runs {
		for _, name := range who {
			u, err := run(ctx, name, c)
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
