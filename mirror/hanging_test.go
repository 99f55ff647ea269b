package mirror

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/kafka"
)

// An open transaction at the source holds its copy back (read_committed): the copy
// says whose it is, and goes on when it has ended.
func TestATransactionThatHangsIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 10)
	n := w.node("a", func(c *Config) { c.HangingAfter, c.StallNoted = 50*time.Millisecond, 50*time.Millisecond })
	n.Assign(w.copies(1, 1, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	cl, err := kafka.NewClient(w.west.Cluster, "txn", kgo.TransactionalID("slow-app"), kgo.TransactionTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("10")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.west.produce(t, "orders", 0, 11, 20)
	eventually(t, "it is named", func() bool {
		s := n.only()
		return s.State == Running && s.Position == 10 && strings.Contains(s.Reason, "producer id") &&
			strings.Contains(s.Reason, "slow-app") && strings.Contains(s.Reason, "since offset 10") && strings.Contains(s.Fix, "--start-offset 10")
	})
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	w.east.expect(t, "orders", 0, 20)
	if w.stallsAre(t, "slow-app") != 1 {
		t.Error("the ledger does not tell once of what held the copy back")
	}
	eventually(t, "nothing is amiss", func() bool { s := n.only(); return s.State == Running && s.Reason == "" })
}
