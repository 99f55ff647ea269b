//go:build unix

package scenarios

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/lineage"
)

// Bytes in the ledger that are no page, and a page with a flipped bit, are named
// by their place. The first cost nothing. With the second something may be lost,
// so a copy that cannot show that it missed nothing does not start again, and no
// offset is translated by guess, until a person has looked and said so.
func TestDamagedLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	n := w.nodes[0]
	w.us.createTopic("orders", 2)
	w.declare("orders")
	w.us.produce("orders", 2, 100)
	w.running(2)
	w.exact("orders", 200)

	pages, err := w.eu.read(ledger.Topic)
	must(t, err)
	var page *kgo.Record
	for _, records := range pages {
		for _, r := range records {
			p, err := ledger.Decode(r.Value)
			must(t, err)
			for _, e := range p.Entries {
				if _, ok := e.(*ledger.Hop); ok {
					page = r
				}
			}
		}
	}
	if page == nil {
		t.Fatal("the ledger has no hop")
	}
	garbage := w.writeLedger(page.Partition, []byte("not a page at all"))
	flipped := append([]byte{}, page.Value...)
	flipped[len(flipped)/2] ^= 0x10
	damage := w.writeLedger(page.Partition, flipped)

	named := func(s *api.Status) error {
		c, err := clusterOf(s, "eu")
		if err != nil {
			return err
		}
		if c.Ledger.Damaged != 2 || len(c.Ledger.Damage) != 2 {
			return fmt.Errorf("%d places are damaged, want 2", c.Ledger.Damaged)
		}
		for i, want := range []api.LedgerDamage{
			{Topic: ledger.Topic, Partition: page.Partition, Offset: garbage, Reason: "corrupt ledger page: not a page", Harmless: true},
			{Topic: ledger.Topic, Partition: page.Partition, Offset: damage, Reason: "corrupt ledger page: checksum does not match"},
		} {
			if got := c.Ledger.Damage[i]; got != want {
				return fmt.Errorf("damage is %+v, want %+v", got, want)
			}
		}
		return trouble("ledger of eu", c.Ledger.State, c.Ledger.Reason, c.Ledger.ToDo, []string{"reading"},
			[]string{fmt.Sprintf("ledger partition %d, offset %d", page.Partition, damage)}, []string{"write to the ledger", fmt.Sprintf("ledger waive eu/%d/%d", page.Partition, damage)})
	}
	n.awaitStatus(recovery, "damage of the ledger", named)
	var check lineage.CheckReport
	must(t, n.get("/api/v1/lineage/check/eu", &check))
	var found []string
	for _, f := range check.Findings {
		found = append(found, fmt.Sprintf("%s %d/%d", f.Kind, f.Partition, f.Offset))
	}
	if want := []string{fmt.Sprintf("foreign %d/%d", page.Partition, garbage), fmt.Sprintf("altered %d/%d", page.Partition, damage)}; !slices.Equal(found, want) || check.Incomplete != "" {
		t.Errorf("check: found %q %s, want %q", found, check.Incomplete, want)
	}

	// Copies that run know where they are, and go on.
	w.us.produce("orders", 2, 50)
	w.running(2)
	w.exact("orders", 300)

	// Another one, after everything: who starts now cannot know what it was.
	last := w.writeLedger(page.Partition, flipped)
	n.process.kill()
	n.start()
	w.us.produce("orders", 2, 50)
	n.awaitStatus(recovery, "a copy that does not start", func(s *api.Status) error {
		f, err := flowOf(s)
		if err != nil {
			return err
		}
		return trouble("flow", f.State, f.Reason, f.ToDo, []string{"waiting", "failed"}, []string{"orders", fmt.Sprintf("ledger partition %d, offset %d", page.Partition, last)}, []string{"ledger"})
	})
	always(t, time.Second, "nothing is copied by guess", func() error {
		got, err := w.copiedNow("orders")
		if err == nil && got > 350 {
			err = fmt.Errorf("%d records are copied", got)
		}
		return err
	})
	place := fmt.Sprintf("eu/%d/%d", page.Partition, last)
	if out := n.cli("status"); !strings.Contains(out, "replicator ledger waive "+place) {
		t.Errorf("the command line does not say what to do:\n%s", out)
	}
	for _, wrong := range []struct {
		place  string
		status int
	}{
		{fmt.Sprintf("eu/%d/%d", page.Partition, damage), http.StatusConflict}, // not the last
		{fmt.Sprintf("eu/%d/1", (page.Partition+1)%4), http.StatusNotFound},
		{"nowhere/0/1", http.StatusNotFound},
	} {
		a, err := n.call(http.MethodPost, "/api/v1/ledgers/"+wrong.place+"/waive", adminToken, "")
		must(t, err)
		if a.status != wrong.status {
			t.Errorf("waive %s: %s, want %d", wrong.place, a, wrong.status)
		}
	}

	n.cli("ledger", "waive", place, "--reason", "looked at it")
	w.running(2)
	w.exact("orders", 400)
	n.awaitStatus(recovery, "the waiver", func(s *api.Status) error {
		c, err := clusterOf(s, "eu")
		if err != nil || len(c.Ledger.Doubts) != 1 || c.Ledger.Doubts[0].WaivedBy != "ops" || c.Ledger.Reason != "" {
			return fmt.Errorf("%w: %+v", errNotYet, c.Ledger)
		}
		return err
	})
	n.process.kill() // it is remembered
	n.start()
	w.us.produce("orders", 2, 50)
	w.running(2)
	w.exact("orders", 500)
	w.nobodyDied()
}

// writeLedger adds a record to the destination's ledger, as anybody may who has
// the right, and returns its offset.
func (w *world) writeLedger(partition int32, value []byte) int64 {
	w.t.Helper()
	cl := w.eu.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	r := &kgo.Record{Topic: ledger.Topic, Partition: partition, Value: value}
	must(w.t, cl.ProduceSync(w.eu.ctx(), r).FirstErr())
	return r.Offset
}

// A ledger that is gone is the one thing that nobody can work without: copies
// into its cluster stop, also those that run, and a new topic of its name is not
// taken for it.
func TestLostLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	n := w.nodes[0]
	w.us.createTopic("orders", 2)
	w.declare("orders")
	w.us.produce("orders", 2, 100)
	w.running(2)
	w.exact("orders", 200)

	w.eu.deleteTopic(ledger.Topic)
	lost := func(words ...string) func(*api.Status) error {
		return func(s *api.Status) error {
			c, err := clusterOf(s, "eu")
			if err != nil {
				return err
			}
			return trouble("ledger of eu", c.Ledger.State, c.Ledger.Reason, c.Ledger.ToDo, []string{"missing", "stopped"}, words, []string{"nothing is copied into this cluster"})
		}
	}
	n.awaitStatus(recovery, "the ledger is gone", lost("ledger is gone"))
	w.us.produce("orders", 2, 50)
	stopped := func(s *api.Status) error {
		f, err := flowOf(s)
		if err != nil {
			return err
		}
		return trouble("flow", f.State, f.Reason, f.ToDo, []string{"waiting", "failed"}, []string{"ledger"}, []string{"ledger"})
	}
	n.awaitStatus(recovery, "copies that run stop", stopped)
	if b, err := os.ReadFile(n.process.log); err != nil || strings.Count(string(b), "\n") > 300 {
		t.Errorf("the log has %d lines, %v", strings.Count(string(b), "\n"), err)
	}

	// A node that starts now, and a topic of the same name, change nothing.
	n.process.kill()
	n.start()
	n.awaitStatus(recovery, "copies do not start", stopped)
	n.awaitStatus(recovery, "the ledger is another one", lost("ledger"))
	always(t, 2*time.Second, "nothing is copied without the ledger", func() error {
		got, err := w.copiedNow("orders")
		if err == nil && got != 200 {
			err = fmt.Errorf("%d records are copied", got)
		}
		return err
	})
	t.Log(n.cli("status", "--partitions"))
	w.nobodyDied()
}
