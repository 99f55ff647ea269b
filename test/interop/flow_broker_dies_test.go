//go:build interop

package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/cmd/replicator/demo"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

const (
	deathTopic   = "quakes-live" // of the story
	deathRecords = 20_000
	deathAfter   = 4_000 // acknowledged records
	deathRate    = time.Millisecond / 4
	// equalWithin bounds the copies' recovery: the broker's return, what its
	// coordinators must find out, and transactions that were left open.
	equalWithin = 90 * time.Second
)

// brokerDies kills a broker at one end of a running flow (SIGKILL) while records
// are produced at the source, and starts it again. The copy must become equal,
// and at no time hold a record twice, late or altered.
func brokerDies(ctx context.Context, t *testing.T, b *apachekafka.Broker, program string, r *demo.Report) {
	runAgain(ctx, t, program, r)
	us, eu := declared("us", r.Connections.US), declared("eu", r.Connections.EU)
	producer := newClient(t, us, kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(5*time.Millisecond))
	acked := make(chan error, deathRecords)
	go func() { // ends with the last record or ctx; every answer is waited for below
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		began := time.Now()
		for n := 0; n < deathRecords; {
			for due := int(time.Since(began) / deathRate); n < min(due, deathRecords); n++ {
				producer.Produce(ctx, &kgo.Record{
					Topic: deathTopic, Key: fmt.Appendf(nil, "%d", n%97), Value: fmt.Appendf(nil, "while a broker dies %d", n),
				}, func(_ *kgo.Record, err error) { acked <- err })
			}
			<-tick.C
		}
	}()
	var down time.Duration
	for n := range deathRecords {
		must(t, "produce", <-acked)
		if n == deathAfter {
			died := time.Now()
			b.Kill()
			must(t, "run the broker again", b.Run(ctx))
			down = time.Since(died)
		}
	}
	produced := time.Now()
	source, err := demo.ReadAll(ctx, us, deathTopic)
	must(t, "read the source", err)
	v := awaitEqual(ctx, t, source, eu)
	t.Logf("Apache Kafka killed under load and back after %.1f s: %d compared, %d missing, %d doubled, %d reordered, %d altered, %.1f s after the last record",
		down.Seconds(), v.Compared, v.Missing, v.Duplicated, v.Reordered, v.Mismatched+v.Phantom, time.Since(produced).Seconds())
}

// runAgain has the story's flow run again, which the failover has paused.
func runAgain(ctx context.Context, t *testing.T, program string, r *demo.Report) {
	t.Helper()
	cmd := exec.CommandContext(ctx, program, "apply", "-f", r.Connections.Objects)
	for _, n := range r.Connections.Fleet {
		if n.Name != r.Killed {
			cmd.Env = append(os.Environ(), "WAYBILL_SERVER="+n.API, "WAYBILL_TOKEN_FILE="+r.Connections.TokenFile)
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
}

// awaitEqual compares until nothing is missing at the destination. Everything
// else that a comparison may find is an error at once.
func awaitEqual(ctx context.Context, t *testing.T, source demo.Log, destination *flow.Cluster) (v demo.Verdict) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, equalWithin)
	defer cancel()
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		got, err := demo.ReadAll(ctx, destination, deathTopic)
		if err == nil {
			v = demo.Compare(source, got)
		} else if ctx.Err() == nil {
			t.Fatalf("read the destination: %v", err)
		}
		wrong := v
		wrong.Missing = 0
		switch {
		case v.OK() && err == nil:
			return v
		case !wrong.OK() || ctx.Err() != nil:
			t.Errorf("the copy is not equal: %+v, %v", v, err)
			return v
		}
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

// declared is a datacenter of a story as its super user reaches it.
func declared(name string, c demo.ClusterConnection) *flow.Cluster {
	cluster := &flow.Cluster{Metadata: flow.Metadata{Name: name}}
	cluster.Spec.BootstrapServers = []string{c.BootstrapServers}
	cluster.Spec.TLS = &flow.TLS{CAFile: c.CAFile}
	cluster.Spec.SASL = &flow.SASL{
		Mechanism: c.SASLMechanism, Username: apachekafka.Admin, Password: flow.Secret("${file:" + c.PasswordFiles[apachekafka.Admin] + "}"),
	}
	return cluster
}
