package mirror

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// fill writes n records of 10 kB to west's orders.
func (w *world) fill(t *testing.T, n int) {
	t.Helper()
	for range n {
		value := make([]byte, 10_000)
		_, _ = rand.Read(value) // nothing that a codec makes small; it never fails
		w.west.client.Produce(t.Context(), &kgo.Record{Topic: "orders", Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("produce: %v", err)
			}
		})
	}
	if err := w.west.client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A destination that cannot take records now is waited for: the copy says what it
// waits for, holds no more than its share of memory meanwhile, and goes on by
// itself, without a record lost or doubled.
func TestADestinationThatTakesNothingIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		begin, end func(t *testing.T, w *world)
		reason     string
	}{
		"its disk is full": {
			func(_ *testing.T, w *world) { w.hosts["east"].fs.SetSpace(w.hosts["east"].fs.Used() + 1000) },
			func(_ *testing.T, w *world) { w.hosts["east"].fs.SetSpace(-1) },
			"KAFKA_STORAGE_ERROR",
		},
		"too few replicas are in sync": {
			func(t *testing.T, w *world) { w.east.set(t, "orders", keyMinInsync, "2") },
			func(t *testing.T, w *world) { w.east.set(t, "orders", keyMinInsync, "1") },
			"NOT_ENOUGH_REPLICAS",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.bundledOnly("east")
			w.west.create(t, "orders", 1)
			w.east.create(t, "orders", 1)
			n := w.node("a", func(c *Config) { c.BufferBytes = minFlowBytes })
			n.Assign(w.copies(1, 1, "orders"))
			w.fill(t, 10)
			eventually(t, "caught up", func() bool { return n.caughtUp(1) })
			c.begin(t, w)
			w.fill(t, 5000) // 50 MB, more than there is memory for
			eventually(t, "it says what it waits for", func() bool {
				s := n.only()
				return s.State != Running && strings.Contains(s.Reason, c.reason)
			})
			if held := n.held(); held > 2*minFlowBytes {
				t.Errorf("%d bytes are held, the limit is %d", held, minFlowBytes)
			}
			c.end(t, w)
			eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Reason == "" })
			if got := len(w.east.read(t, "orders", 0, 5010)); got != 5010 {
				t.Errorf("%d records, want 5010", got)
			}
		})
	}
}

// held is what a node has fetched and not written yet.
func (n *node) held() (bytes int64) {
	n.Manager.mu.Lock()
	defer n.Manager.mu.Unlock()
	for _, r := range n.flows {
		bytes += r.budget.held()
	}
	return bytes
}

// A destination that throttles (KIP-124) slows the copy, and nothing else.
func TestADestinationThatThrottlesSlowsTheCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bundledOnly("east")
	w.west.create(t, "orders", 1)
	w.east.create(t, "orders", 1)
	quota := func(op kadm.AlterClientQuotaOp) {
		t.Helper()
		_, err := w.east.admin.AlterClientQuotas(t.Context(), []kadm.AlterClientQuotaEntry{{
			Entity: kadm.ClientQuotaEntity{{Type: "client-id"}}, Ops: []kadm.AlterClientQuotaOp{op},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	quota(kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Value: 200_000})
	n := w.node("a", func(c *Config) { c.BufferBytes = minFlowBytes })
	n.Assign(w.copies(1, 1, "orders"))
	w.fill(t, 1000) // 10 MB: a minute
	eventually(t, "something is copied", func() bool { return n.Metrics().Records.Load() > 0 })
	if got := n.Metrics().Records.Load(); got >= 1000 {
		t.Fatalf("%d records were copied at once, at 200 kB a second", got)
	}
	if held := n.held(); held > 2*minFlowBytes {
		t.Errorf("%d bytes are held, the limit is %d", held, minFlowBytes)
	}
	quota(kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Remove: true})
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	if got := len(w.east.read(t, "orders", 0, 1000)); got != 1000 {
		t.Errorf("%d records, want 1000", got)
	}
}
