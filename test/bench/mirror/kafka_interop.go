//go:build interop

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/test/bench/procstat"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

const kafkaVersion = "4.1.1"

func init() {
	kinds["kafka"] = apacheKafka
	copiers["mm2"] = mirrorMaker
}

// jvm are the options of Apache Kafka's start scripts, with a heap that two brokers
// and MirrorMaker leave room for.
var jvm = []string{
	"-Xms512m", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
	"-XX:+ExplicitGCInvokesConcurrent", "-XX:MaxInlineLevel=15", "-Djava.awt.headless=true",
}

func apacheKafka(ctx context.Context, dir string) (*node, error) {
	b, err := apachekafka.Prepare(ctx, dir, apachekafka.Config{Version: kafkaVersion, Properties: map[string]string{
		// Those of the tests give way to Kafka's defaults.
		"num.network.threads": "3", "num.io.threads": "8", "log.cleaner.dedupe.buffer.size": "134217728",
	}})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	cmd := b.Command(ctx, jvm...)
	if err := cmd.Start(); err != nil {
		stop()
		return nil, err
	}
	n := &node{addr: b.Addr, pid: cmd.Process.Pid, stop: func() {
		stop()
		_ = cmd.Wait() // it was killed
	}}
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.addr))
	if err != nil {
		n.stop()
		return nil, err
	}
	defer cl.Close()
	bounded, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := await(bounded, "Apache Kafka", func() (bool, error) { err := cl.Ping(bounded); return err == nil, err }); err != nil {
		n.stop()
		return nil, err
	}
	return n, nil
}

// mirrorMaker runs MirrorMaker 2 as a process of its own (its dedicated mode), and
// counts from the first record that it has copied: a JVM takes its time to start.
func mirrorMaker(ctx context.Context, j job) (usage, error) {
	libs, err := apachekafka.MirrorMakerJars(ctx, kafkaVersion)
	if err != nil {
		return usage{}, err
	}
	dir, err := os.MkdirTemp("", "waybill-bench-mm2-")
	if err != nil {
		return usage{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a leftover in a temporary folder harms nobody
	config := filepath.Join(dir, "mm2.properties")
	if err := os.WriteFile(config, []byte(mirrorMakerProperties(j)), 0o600); err != nil {
		return usage{}, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return usage{}, err
	}
	defer log.Close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	args := append(jvm[:len(jvm):len(jvm)], "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(libs, "*"), "org.apache.kafka.connect.mirror.MirrorMaker", config)
	cmd := exec.CommandContext(running, "java", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return usage{}, err
	}
	defer func() {
		stop()
		_ = cmd.Wait() // it was killed
	}()
	if j.Forever {
		fmt.Println("running", cmd.Process.Pid)
		<-ctx.Done()
		return usage{}, nil
	}
	u, err := watch(ctx, cmd.Process.Pid, j)
	if err != nil {
		text, _ := os.ReadFile(log.Name()) // the error that matters is the other
		err = fmt.Errorf("MirrorMaker 2: %w\n%s", err, text[max(0, len(text)-2000):])
	}
	return u, err
}

// watch is what the process uses from the first record at the sink to the last.
func watch(ctx context.Context, pid int, j job) (usage, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(j.Sink), kgo.MetadataMinAge(100*time.Millisecond), kgo.MetadataMaxAge(time.Second))
	if err != nil {
		return usage{}, err
	}
	defer cl.Close()
	admin, to := kadm.NewClient(cl), mirrorMakerTopic(j)
	arrived := func(n int64) func() (bool, error) {
		return func() (bool, error) {
			sum, err := ends(ctx, admin, to)
			return sum >= n, err
		}
	}
	if err := await(ctx, "its first record", arrived(1)); err != nil {
		return usage{}, err
	}
	began := time.Now()
	before, err1 := procstat.CPU(pid)
	if err := await(ctx, "its last record", arrived(j.Cell.records())); err != nil {
		return usage{}, err
	}
	after, err2 := procstat.CPU(pid)
	peak, err3 := procstat.Peak(pid)
	return usage{Seconds: time.Since(began).Seconds(), CPU: (after - before).Seconds(), PeakMB: peak}, errors.Join(err1, err2, err3)
}

func mirrorMakerProperties(j job) string {
	from := alias(j)
	lines := []string{
		"clusters = " + from + ", sink",
		from + ".bootstrap.servers = " + j.Source,
		"sink.bootstrap.servers = " + j.Sink,
		from + "->sink.enabled = true",
		from + "->sink.topics = " + j.From,
		"sink->" + from + ".enabled = false",
		"tasks.max = 4",
		"emit.heartbeats.enabled = false",
		"emit.checkpoints.enabled = false",
	}
	for _, k := range []string{"", "checkpoints.topic.", "heartbeats.topic.", "offset-syncs.topic.", "offset.storage.", "status.storage.", "config.storage."} {
		lines = append(lines, k+"replication.factor = 1")
	}
	return strings.Join(lines, "\n") + "\n"
}
