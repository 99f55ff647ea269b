package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url) //nolint:noctx // of this test's own server
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestABrokerSaysHowItIs runs a broker as the command does, works with it, asks
// what supervisors ask, and stops it.
func TestABrokerSaysHowItIs(t *testing.T) {
	dir := t.TempDir()
	conf, err := (&brokerFlags{dir: filepath.Join(dir, "data"), listen: "127.0.0.1:0", metrics: "127.0.0.1:0"}).config()
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	conf.Log = slog.New(slog.NewTextHandler(&lines, nil))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	file := filepath.Join(dir, "addresses")
	go func() { done <- runBroker(ctx, conf, file, time.Now()) }()
	var text []byte
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); len(text) == 0; <-tick.C {
		if text, err = os.ReadFile(file); time.Now().After(deadline) {
			t.Fatal("not ready: ", err)
		}
	}
	addresses := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, addr, _ := strings.Cut(strings.TrimSpace(line), " ")
		addresses[name] = addr
	}
	url := "http://" + addresses["metrics"]

	cl, err := kgo.NewClient(kgo.SeedBrokers(addresses["client"]), kgo.AllowAutoTopicCreation(), kgo.ConsumerGroup("readers"), kgo.ConsumeTopics("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if fetches := cl.PollFetches(ctx); fetches.Err() != nil {
		t.Fatal(fetches.Err())
	}
	for path, want := range map[string]string{"/livez": "alive\n", "/readyz": "ready\n"} {
		if code, body := get(t, url+path); code != http.StatusOK || body != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	_, body := get(t, url+"/metrics")
	for _, want := range []string{
		`waybill_broker_ready 1`, `waybill_broker_produced_records_total 1`, `waybill_broker_connections{listener="client"} [1-9]`,
		`waybill_broker_request_seconds_bucket{api="Produce",le="10"} 1`, `waybill_broker_request_seconds_count{api="Produce"} 1`,
		`waybill_broker_request_bytes_total{api="Produce"} [1-9]`, `waybill_broker_log_bytes{topic="t"} [1-9]`,
		`waybill_broker_offline_partitions 0`, `waybill_broker_full_partitions 0`, `waybill_broker_uncleanable_partitions 0`, `waybill_broker_coordinators_down 0`, `waybill_broker_orphans 0`, `waybill_broker_orphan_bytes 0`, `waybill_broker_logs_failed_total 0`, `waybill_broker_groups{state="Stable"} 1`, `go_goroutines [1-9]`,
	} {
		if !regexp.MustCompile("(?m)^" + strings.NewReplacer("{", `\{`, "}", `\}`).Replace(want)).MatchString(body) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	// Every family is in the documentation, and nothing else is.
	page := pages(t)["docs/broker.md"]
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (waybill_broker_\w+) `).FindAllStringSubmatch(body, -1) {
		if !strings.Contains(page, "`"+m[1]+"`") {
			t.Errorf("docs/broker.md says nothing of %s", m[1])
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stop: %v", err)
	}
	if !strings.Contains(lines.String(), "one node on one disk") {
		t.Errorf("no word about durability in\n%s", &lines)
	}
}

func TestABrokerThatIsNotReadySaysWhy(t *testing.T) {
	var s brokerStatus
	if got := fmt.Sprint(s.faults()); !strings.Contains(got, "starting") {
		t.Errorf("without a broker: %s", got)
	}
	cfg := broker.DefaultConfig()
	cfg.Dir = filepath.Join(t.TempDir(), "data")
	cfg.Listeners[0].Addr = "127.0.0.1:0"
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s.broker.Store(b)
	if got := fmt.Sprint(s.faults()); !strings.Contains(got, "not serving yet") {
		t.Errorf("recovered, but it does not run: %s", got)
	}
	s.stopping.Store(true)
	if got := fmt.Sprint(s.faults()); !strings.Contains(got, "stopping") {
		t.Errorf("stopping: %s", got)
	}
}
