//go:build interop

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/test/bench/procstat"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// target is a broker under test: how to start it, and how its topics are made.
type target struct {
	name    string
	topic   map[string]string // configs
	prepare func(ctx context.Context, dir string) (*process, error)
}

// process is a broker's process, which may be stopped and started again.
type process struct {
	addr  string
	start func(ctx context.Context) (*exec.Cmd, error)
	cmd   *exec.Cmd
	began time.Time
	stdin io.Closer
}

func targets() []target {
	return []target{
		{"waybill", nil, waybill(true)},
		{"waybill-noprov", nil, waybill(false)},
		{"waybill-lax", map[string]string{"flush.messages": "9223372036854775807"}, waybill(true)},
		{"kafka", nil, kafka},
		{"kafka-flush", map[string]string{"flush.messages": "1"}, kafka},
	}
}

// waybill runs the binary or, for profiles, the same in a child of this one.
func waybill(provenance bool) func(context.Context, string) (*process, error) {
	return func(ctx context.Context, dir string) (*process, error) {
		config := filepath.Join(dir, "broker.yaml")
		addresses := filepath.Join(dir, "addresses")
		ports, err := freePorts(1)
		if err != nil {
			return nil, err
		}
		text := fmt.Sprintf("dataDir: %s\nlisteners:\n  - {name: client, address: %q, protocol: PLAINTEXT}\nprovenance: {off: %v}\n", filepath.Join(dir, "data"), ports[0], !provenance)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		binary, err := build(ctx)
		if err != nil {
			return nil, err
		}
		p := &process{addr: ports[0]}
		p.start = func(ctx context.Context) (*exec.Cmd, error) {
			args := []string{binary, "broker", "--config", config, "--address-file", addresses, "--log-level", "warn", "--stop-with-stdin"}
			if *profiles != "" {
				self, err := os.Executable()
				if err != nil {
					return nil, err
				}
				args = []string{self, "-role", "broker", "-dir", filepath.Join(dir, "data"), "-addr", p.addr, "-profiles", *profiles, fmt.Sprintf("-provenance=%v", provenance)}
			}
			cmd := exec.CommandContext(ctx, args[0], args[1:]...)
			cmd.Stderr = os.Stderr
			// It ends with this process, whatever happens to that.
			if p.stdin, err = cmd.StdinPipe(); err != nil {
				return nil, err
			}
			return cmd, nil
		}
		return p, nil
	}
}

var built string

// build makes the binary as it ships.
func build(ctx context.Context) (string, error) {
	if built != "" {
		return built, nil
	}
	dir, err := os.MkdirTemp("", "waybill-bench-bin-")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "replicator")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", name, "github.com/waybillhq/waybill/cmd/replicator")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w: %s", err, out)
	}
	built = name
	return name, nil
}

// kafkaJVM are the options of Kafka's start script, with its default heap.
var kafkaJVM = []string{
	"-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
	"-XX:+ExplicitGCInvokesConcurrent", "-XX:MaxInlineLevel=15", "-Djava.awt.headless=true",
}

func kafka(ctx context.Context, dir string) (*process, error) {
	b, err := apachekafka.Prepare(ctx, dir, apachekafka.Config{Version: *kafkaVersion, Properties: map[string]string{
		// Those of the tests give way to Kafka's defaults.
		"num.network.threads": "3", "num.io.threads": "8", "log.cleaner.dedupe.buffer.size": "134217728", "log.retention.ms": "604800000",
	}})
	if err != nil {
		return nil, err
	}
	return &process{addr: b.Addr, start: func(ctx context.Context) (*exec.Cmd, error) {
		return b.Command(ctx, kafkaJVM...), nil
	}}, nil
}

// run starts the process and returns when it answers; how long that took.
func (p *process) run(ctx context.Context) (time.Duration, error) {
	var err error
	if p.cmd, err = p.start(ctx); err != nil {
		return 0, err
	}
	p.cmd.Cancel = func() error { return p.cmd.Process.Kill() }
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		cl, err := kgo.NewClient(kgo.SeedBrokers(p.addr), kgo.RequestRetries(0))
		if err != nil {
			return 0, err
		}
		err = cl.Ping(ctx)
		cl.Close()
		if err == nil {
			return time.Since(p.began), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("the broker does not answer: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// stop ends the process in good order.
func (p *process) stop() error {
	if p.cmd == nil || p.cmd.Process == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	err := p.cmd.Wait()
	if p.stdin != nil {
		p.stdin.Close()
	}
	p.cmd = nil
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 143 { // how Java says that
		err = nil
	}
	return err
}

// cpu is the processor time that the process has used.
func (p *process) cpu() (time.Duration, error) { return procstat.CPU(p.cmd.Process.Pid) }

// memory is what the process has in memory, in MB of 10^6 bytes, without what it shares
// with the page cache.
func (p *process) memory() (float64, error) { return procstat.Resident(p.cmd.Process.Pid) }
