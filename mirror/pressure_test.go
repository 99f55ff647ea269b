package mirror

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
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
			n := w.node("a", func(c *Config) { c.BufferBytes, c.StallNoted = minBufferBytes, time.Millisecond })
			n.Assign(w.copies(1, 1, "orders"))
			w.fill(t, 10)
			eventually(t, "caught up", func() bool { return n.caughtUp(1) })
			c.begin(t, w)
			w.fill(t, 3500) // 35 MB, more than there is memory for
			eventually(t, "it says what it waits for", func() bool {
				s := n.only()
				return s.State != Running && strings.Contains(s.Reason, c.reason) && s.Fix != ""
			})
			if held := n.held(); held > minBufferBytes {
				t.Errorf("%d bytes are held, the limit is %d", held, minBufferBytes)
			}
			c.end(t, w)
			eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Reason == "" })
			if got := len(w.east.read(t, "orders", 0, 3510)); got != 3510 {
				t.Errorf("%d records, want 3510", got)
			}
			if told := w.stallsAre(t, "has stood", c.reason); told == 0 {
				t.Error("the ledger does not tell that the copy stood still")
			}
		})
	}
}

// stallsAre counts what the ledger tells of copies of orders that have stood still, or do,
// for a reason.
func (w *world) stallsAre(t *testing.T, how, reason string) (n int) {
	t.Helper()
	kind := map[string]ledger.EventKind{"has stood": ledger.CopyStalled, "stands": ledger.CopyHeld}[how]
	for _, e := range entriesIn[*ledger.Event](t, w.east) {
		if e.What == kind && e.SourceTopic == "orders" && strings.HasPrefix(e.Text, "partition 0 "+how+" still since ") && strings.Contains(e.Text, reason) {
			n++
		}
	}
	return n
}

// With the policy stop, a copy that the destination has refused for long enough takes up
// no room that somebody makes, before it is paused and resumed.
func TestACopyThatIsRefusedForTooLongStops(t *testing.T) {
	for name, offsets := range map[string]string{"a lane": flow.OffsetsTranslate, "an appender": flow.OffsetsPreserve} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.bundledOnly("east")
			list := w.copies(1, 1, "orders")
			if offsets == flow.OffsetsPreserve {
				w.mirrored(t, "orders", 1)
				list = w.whole(1, 1, "orders")
			} else {
				w.create(t, "orders", 1)
			}
			list[0].Spec.Spec.Policies = flow.FlowPolicies{OnRefusal: flow.RefusalStop, RefusalAfter: flow.Duration(50 * time.Millisecond)}
			n := w.node("a", nil)
			n.Assign(list)
			w.fill(t, 10)
			eventually(t, "caught up", func() bool { return n.caughtUp(1) })
			fs := w.hosts["east"].fs
			fs.SetSpace(fs.Used() + 1000)
			w.fill(t, 3500) // more than the broker has room for in what it has allocated
			stopped := func() bool {
				s := n.only()
				return s.State == Failed && strings.Contains(s.Reason, errRefused.Error()) && strings.Contains(s.Reason, "KAFKA_STORAGE_ERROR") && strings.Contains(s.Fix, "resume")
			}
			eventually(t, "stopped", stopped)
			fs.SetSpace(-1)
			n.Assign(nil)
			eventually(t, "paused", func() bool { return len(n.Status()) == 0 })
			again := slices.Clone(list)
			again[0].Epoch = 2
			n.Assign(again)
			eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Position == 3510 })
		})
	}
}

// Only the destination refuses what is copied: a disk of the source that fails is waited for.
func TestADiskOfTheSourceIsNoRefusal(t *testing.T) {
	for name, c := range map[string]struct {
		met  func(c *copier)
		want bool
	}{
		"the source": {func(c *copier) { c.sourceTrouble(kerr.KafkaStorageError) }, false},
		"the destination": {func(c *copier) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.fault(kerr.KafkaStorageError)
		}, true},
	} {
		copied := runningCopier(t, "orders")
		copied.a.Spec = &flow.ReplicationFlow{}
		c.met(copied)
		if refused := !copied.stall.refused.IsZero(); refused != c.want || copied.stall.why == "" {
			t.Errorf("%s: refused is %v, want %v; in the way is %q", name, refused, c.want, copied.stall.why)
		}
	}
}

func TestStall(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	after := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	full := fmt.Errorf("produce to orders/0: %w", kerr.KafkaStorageError)
	away := errors.New("connection refused")
	of := func(policy string) *flow.FlowPolicies {
		return &flow.FlowPolicies{OnRefusal: policy, RefusalAfter: flow.Duration(time.Minute)}
	}
	refused := func(s *stall, at time.Time) { s.meet(full, at); s.refuse(at) }
	for name, c := range map[string]struct {
		story   func(s *stall)
		tells   string // at 100 s
		stopped bool
	}{
		"nothing to bring over":    {func(*stall) {}, "", false},
		"nothing in the way":       {func(s *stall) { s.begin(after(0)) }, "", false},
		"a short while":            {func(s *stall) { s.begin(after(50)); s.meet(away, after(55)) }, "", false},
		"the cluster is away":      {func(s *stall) { s.begin(after(0)); s.meet(away, after(70)) }, "partition 3 has stood still since 2026-01-02T03:04:05Z: connection refused", false},
		"the disk is full":         {func(s *stall) { s.begin(after(10)); refused(s, after(20)); refused(s, after(99)) }, "partition 3 has stood still since 2026-01-02T03:04:15Z: " + full.Error(), true},
		"full, for a short while":  {func(s *stall) { s.meet(away, after(0)); refused(s, after(60)) }, "partition 3 has stood still since 2026-01-02T03:04:05Z: " + full.Error(), false},
		"full, and away meanwhile": {func(s *stall) { refused(s, after(0)); s.meet(away, after(30)); refused(s, after(60)) }, "partition 3 has stood still since 2026-01-02T03:04:05Z: " + full.Error(), true},
		"full, and then not":       {func(s *stall) { refused(s, after(0)); s.progress(); refused(s, after(60)) }, "", false},
		"over, and not told":       {func(s *stall) { refused(s, after(0)); s.tell(3, after(70), time.Minute); s.progress() }, "partition 3 has stood still since 2026-01-02T03:04:05Z: " + full.Error(), false},
	} {
		var s stall
		c.story(&s)
		if got := s.tell(3, after(100), time.Minute); got != c.tells {
			t.Errorf("%s: the ledger is told %q, want %q", name, got, c.tells)
		}
		if got := s.refusedTooLong(of(flow.RefusalStop), after(100)); (got != nil) != c.stopped {
			t.Errorf("%s: the copy stops with %v, want %v", name, got, c.stopped)
		}
		if got := s.refusedTooLong(of(flow.RefusalWait), after(100)); got != nil {
			t.Errorf("%s: the copy stops with %v, and is to wait", name, got)
		}
	}
}

// held is what a node has fetched and not written yet.
func (n *node) held() (bytes int64) {
	n.Manager.mu.Lock()
	defer n.Manager.mu.Unlock()
	for _, r := range n.flows {
		bytes += r.budget.holds()
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
	n := w.node("a", func(c *Config) { c.BufferBytes = minBufferBytes })
	n.Assign(w.copies(1, 1, "orders"))
	w.fill(t, 300) // 3 MB, a third more than passes before the broker throttles
	eventually(t, "it copies, and says why slowly", func() bool {
		s := n.only()
		return s.State == Running && strings.Contains(s.Reason, "cluster east throttles this flow") && strings.Contains(s.Fix, "producer_byte_rate")
	})
	if held := n.held(); held > minBufferBytes {
		t.Errorf("%d bytes are held, the limit is %d", held, minBufferBytes)
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

func TestCommitsOfASlowCoordinatorBecomeRarer(t *testing.T) {
	const least, most = 20 * time.Millisecond, 500 * time.Millisecond
	for _, c := range []struct {
		cost   time.Duration
		behind bool
		want   time.Duration
	}{
		{3 * time.Millisecond, false, least},
		{3 * time.Millisecond, true, least},
		{40 * time.Millisecond, false, 40 * time.Millisecond},
		{40 * time.Millisecond, true, 160 * time.Millisecond},
		{200 * time.Millisecond, true, most},
		{time.Minute, false, most},
	} {
		if got := nextInterval(c.cost, c.behind, least, most); got != c.want {
			t.Errorf("after a commit that took %v, behind %v: %v, want %v", c.cost, c.behind, got, c.want)
		}
	}
}
