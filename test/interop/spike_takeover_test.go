//go:build interop

package interop

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// TestSpikeTakeover kills or stops an owner at each point of a transaction, has
// another take over through its lane and the ledger alone, wakes the sleeper while
// the new owner has a transaction open, and compares both sides at the end.
func TestSpikeTakeover(t *testing.T) {
	onEach(t, nil, func(t *testing.T, b *apachekafka.Broker) {
		c := b.Cluster(apachekafka.Admin)
		createTopic(t, c, ledger.Topic, ledgerPartitions, nil)
		sourceID := createTopic(t, c, "source", 3, nil)
		fill(t, c, "source", 3, 5)
		for _, stage := range stages {
			for _, fate := range []string{"killed", "asleep"} {
				name := fate + "-" + stage
				t.Run(name, func(t *testing.T) {
					k := task{Addr: b.Addr, Source: "source", SourceID: sourceID.String(), Destination: name, Partitions: 3}
					k.DestID = createTopic(t, c, name, 3, nil).String()
					takeover(t, k, stage, fate == "asleep")
				})
			}
		}
	})
}

func takeover(t *testing.T, k task, stage string, asleep bool) {
	ctx := t.Context()
	laneID := "lane-of-" + k.Destination
	a, stands := startOwner(t, ownerPlan{Task: k, Lane: laneID, StopAt: stage})
	if asleep {
		must(t, "stop owner", a.cmd.Process.Signal(syscall.SIGSTOP))
	} else {
		a.kill(t)
	}

	began := time.Now()
	fence := newClosedLane(t, k.cluster(), laneID)
	waited, err := fence.open(ctx)
	must(t, "fence", err)
	t.Logf("fenced after %d refusals in %s: epoch %d -> %d, same id %v", waited, time.Since(began).Round(time.Millisecond), stands.Epoch, fence.epoch, stands.ID == fence.pid)
	next, err := resume(ctx, k)
	must(t, "resume", err)
	t.Logf("resumes at %v after %s", next, time.Since(began).Round(time.Millisecond))

	m, err := newMover(ctx, k, newLane(t, k.cluster(), "successor-of-"+laneID), 2, next)
	must(t, "new owner", err)
	for woken := !asleep; !m.done(); {
		_, err := m.transaction(ctx, func(at string) {
			if at != "after-data" || woken {
				return
			}
			woken = true
			must(t, "wake owner", a.cmd.Process.Signal(syscall.SIGCONT))
			checkZombie(t, stage, a.goOn(t))
		})
		must(t, "transaction of the new owner", err)
	}
	checkExact(t, k)
}

// checkZombie looks at what an owner was answered after its lane was fenced: it
// must not have done anything. Its commit that was under way before may have
// come first.
func checkZombie(t *testing.T, stage string, answers []answer) {
	t.Helper()
	after := map[string]int{"before-add": 0, "after-add": 1, "data-sent": 1, "after-data": 1 + 6, "after-hops": 1 + 6 + 1, "end-sent": 1 + 6 + 1}[stage]
	for i, a := range answers {
		late := i >= after
		inFlight := (stage == "data-sent" && a.Step == "Produce data") || (stage == "end-sent" && i == after)
		want := "NONE"
		switch {
		case late && strings.HasPrefix(a.Step, "Produce"):
			want = "INVALID_PRODUCER_EPOCH"
		case late:
			want = "PRODUCER_FENCED"
		}
		if late {
			t.Logf("zombie: %s: %s", a.Step, a.Code)
		}
		if a.Code != want && (!inFlight || a.Code != "NONE") {
			t.Errorf("zombie at %s: %s: got %s, want %s", stage, a.Step, a.Code, want)
		}
	}
}

// fill writes batches of 5 records into every partition of a topic: each codec
// in turn, keys and values null, empty and not, headers with and without value.
func fill(t testing.TB, c *flow.Cluster, topic string, partitions int32, rounds int) {
	t.Helper()
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	for i, codec := range codecs {
		cl := newClient(t, c, kgo.ProducerBatchCompression(codec), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(20*time.Millisecond))
		for round := range rounds {
			var records []*kgo.Record
			for p := range partitions {
				for n := range 5 {
					r := &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%s-%d-%d-%d-%d, long enough to be worth compressing: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", topic, p, i, round, n)}
					r.Timestamp = time.Now().Add(-time.Duration(n) * time.Hour)
					switch n {
					case 1:
						r.Key, r.Value = []byte("tombstone"), nil
					case 2:
						r.Key, r.Headers = []byte{}, []kgo.RecordHeader{{Key: "h", Value: []byte("v")}, {Key: "h", Value: nil}, {Key: "", Value: []byte{}}}
					case 3:
						r.Key, r.Value = fmt.Appendf(nil, "key-%d", round), []byte{}
					}
					records = append(records, r)
				}
			}
			must(t, "fill "+topic, cl.ProduceSync(t.Context(), records...).FirstErr())
		}
	}
}
