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
			w.create(t, "orders", 1)
			n := w.node("a", func(c *Config) { c.BufferBytes = minFlowBytes })
			n.Assign(w.copies(1, 1, "orders"))
			w.fill(t, 10)
			eventually(t, "caught up", func() bool { return n.caughtUp(1) })
			c.begin(t, w)
			w.fill(t, 3500) // 35 MB, more than there is memory for
			eventually(t, "it says what it waits for", func() bool {
				s := n.only()
				return s.State != Running && strings.Contains(s.Reason, c.reason)
			})
			if held := n.held(); held > minFlowBytes+fetchBytes {
				t.Errorf("%d bytes are held, the limit is %d", held, minFlowBytes)
			}
			c.end(t, w)
			eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Reason == "" })
			if got := len(w.east.read(t, "orders", 0, 3510)); got != 3510 {
				t.Errorf("%d records, want 3510", got)
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
	w.create(t, "orders", 1)
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
	w.fill(t, 300) // 3 MB, a third more than passes before the broker throttles
	eventually(t, "it copies", func() bool { return n.only().State == Running })
	if held := n.held(); held > minFlowBytes+fetchBytes {
		t.Errorf("%d bytes are held, the limit is %d", held, minFlowBytes)
	}
	quota(kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Remove: true})
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	if got := len(w.east.read(t, "orders", 0, 300)); got != 300 {
		t.Errorf("%d records, want 300", got)
	}
}

func TestTransactionsOfASlowDestinationBecomeSmaller(t *testing.T) {
	limit, passes := int64(transactionBytes), int64(6<<20) // what a destination takes in the time of a transaction
	tries := 0
	for ; limit > passes; tries++ {
		limit = nextLimit(limit, transactionBytes, limit, false, true)
	}
	if tries > 3 || limit < passes/4 {
		t.Errorf("after %d tries a transaction may hold %d bytes, where %d pass", tries, limit, passes)
	}
	small := limit
	if limit = nextLimit(limit, transactionBytes, limit/2, true, false); limit != small {
		t.Errorf("one that was not full made the limit %d of %d", limit, small)
	}
	for range 100 {
		limit = nextLimit(limit, transactionBytes, limit, true, false)
	}
	if limit != transactionBytes {
		t.Errorf("on a fast destination the limit stays at %d", limit)
	}
	if limit = nextLimit(limit, transactionBytes, 100, false, true); limit != minTransactionBytes {
		t.Errorf("the least is %d, got %d", minTransactionBytes, limit)
	}
	if limit = nextLimit(limit, transactionBytes, limit, false, false); limit != minTransactionBytes {
		t.Errorf("another fault made the limit %d", limit)
	}
}
