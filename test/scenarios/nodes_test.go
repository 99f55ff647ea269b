//go:build unix

package scenarios

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/runbook"
)

// incarnations are those of the nodes that live, by name.
func incarnations(s *api.Status) map[string]uint64 {
	all := map[string]uint64{}
	for _, n := range s.Fleet.Nodes {
		if n.Alive && n.Incarnation != 0 {
			all[n.Name] = n.Incarnation
		}
	}
	return all
}

// owners are the nodes that copy, with the number of their partitions.
func owners(s *api.Status) map[string]int {
	all := map[string]int{}
	for _, n := range s.Fleet.Nodes {
		if n.Copies > 0 {
			all[n.Name] = n.Copies
		}
	}
	return all
}

// A node that is stopped in its tracks, in the middle of its writes, is replaced;
// when it runs again what it still wanted to write is refused, and it begins a
// new life.
//
// KAFKA-9184, KAFKA-9841, KAFKA-9849, KAFKA-13719, KAFKA-10340, KAFKA-10000, uReplicator 2f74e82:
// workers that were replaced and went on.
func TestSuspendedNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil, nil)
	w.us.createTopic("orders", 6)
	w.declare("orders")
	load := w.us.startLoad("orders", 6)
	w.copied("orders", 500)
	w.keepsUp(6)

	// One that copies and does not lead, so that only its copies are concerned.
	var victim *node
	var before uint64
	s := w.nodes[0].awaitStatus(recovery, "several nodes copy", func(s *api.Status) error {
		if len(owners(s)) < 3 {
			return fmt.Errorf("copies are at %v", owners(s))
		}
		return nil
	})
	for name := range owners(&s) {
		if name != s.Fleet.Leader {
			victim, before = w.node(name), incarnations(&s)[name]
		}
	}
	other := w.other(victim.name)
	victim.process.suspend(t)
	other.awaitStatus(recovery, "the node is missed and replaced", func(s *api.Status) error {
		f, err := flowOf(s)
		switch {
		case err != nil:
			return err
		case incarnations(s)[victim.name] != 0:
			return fmt.Errorf("%s still lives", victim.name)
		case owners(s)[victim.name] != 0:
			return fmt.Errorf("%s still has copies", victim.name)
		case f.State != "running" || f.LagRecords < 0 || f.LagSeconds > 1:
			return fmt.Errorf("the flow is %s with lag %d: %s", f.State, f.LagRecords, f.Reason)
		}
		return nil
	})
	victim.process.resume(t)
	other.awaitStatus(recovery, "the node begins a new life", func(s *api.Status) error {
		if now := incarnations(s)[victim.name]; now <= before {
			return fmt.Errorf("incarnation of %s is %d, it was %d", victim.name, now, before)
		}
		return nil
	})
	w.keepsUp(6)
	n := load.end(t)
	w.running(6)
	w.exact("orders", n)
	// The destination refused what it still had in hand, or it saw first that its
	// lease was over.
	if !victim.process.logged("producer epoch is no longer ours") && !victim.process.logged("lease lost") {
		t.Errorf("the log of %s does not say that it was refused:\n%s", victim.name, victim.process.tail())
	}
	if !victim.process.logged("begins anew") {
		t.Errorf("the log of %s does not say that its life was over:\n%s", victim.name, victim.process.tail())
	}
	w.nobodyDied()
}

// The node that runs a runbook is killed while a step waits; another one goes on
// where it was, and the evidence shows both.
func TestRunbookWhoseNodeDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil, nil)
	w.us.createTopic("orders", 2)
	w.us.produce("orders", 2, 100)
	w.declare("orders")
	w.running(2)
	w.nodes[0].apply(`apiVersion: waybill/v1
kind: Runbook
metadata: {name: drill}
spec:
  flow: us-eu
  steps:
    - {id: look, check: verify}
    - {id: settle, wait: {lagRecords: 0, stableFor: 3s}}
    - {id: ask, gate: {approvals: 1}}
    - {id: report, report: {}}
`)
	var x runbook.Execution
	w.nodes[0].post("/api/v1/runbooks/drill/start?reason=drill", &x)
	execution := func(n *node, want func() error) {
		t.Helper()
		eventually(t, recovery, "execution", func() error {
			x = runbook.Execution{}
			if err := n.get("/api/v1/runbooks/drill/execution", &x); err != nil {
				return err
			}
			if err := want(); err != nil {
				text, _ := json.MarshalIndent(x, "", " ")
				return fmt.Errorf("%w: %s", err, text)
			}
			return nil
		})
	}
	execution(w.nodes[0], func() error {
		if x.Node == "" || x.Steps[1].State != runbook.StepRunning {
			return errNotYet
		}
		return nil
	})
	first := x.Node
	w.node(first).process.kill()
	survivor := w.other(first)
	execution(survivor, func() error {
		if x.Node == first || x.Steps[1].State != runbook.StepDone || x.Steps[2].State != runbook.StepWaiting {
			return errNotYet
		}
		return nil
	})
	second := x.Node
	survivor.post("/api/v1/runbooks/drill/approve?step=ask&reason=looks+good", &x)
	execution(survivor, func() error {
		if x.State != runbook.Completed {
			return errNotYet
		}
		return nil
	})
	authors := map[string]bool{}
	for _, e := range x.History {
		authors[e.By] = true
	}
	for _, step := range x.Steps {
		for _, e := range step.Evidence {
			authors[e.By] = true
		}
	}
	for _, who := range []string{"node " + first, "node " + second} {
		if !authors[who] {
			t.Errorf("the evidence has nothing of %s, but of %v", who, authors)
		}
	}
	if x.Steps[0].Attempts != 1 {
		t.Errorf("the step that was done was tried %d times", x.Steps[0].Attempts)
	}
	a, err := survivor.call(http.MethodGet, "/api/v1/runbooks/drill/report", adminToken, "")
	must(t, err)
	for _, word := range []string{first, second, "looks good", "ops"} {
		if !strings.Contains(string(a.body), word) {
			t.Errorf("the report says nothing of %q:\n%s", word, a.body)
		}
	}

	w.us.produce("orders", 2, 20)
	w.running(2)
	w.exact("orders", 240)
	w.node(first).start()
	w.running(2)
	w.nobodyDied()
}

// The index that answers questions about events is a cache of the ledgers: wiped,
// it is built again and says the same.
//
// KAFKA-15905, KAFKA-16622: after a restart old positions were not translated.
func TestWipedIndex(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	n := w.nodes[0]
	w.us.createTopic("orders", 2)
	w.us.produce("orders", 2, 300)
	w.declare("orders")
	w.running(2)
	w.exact("orders", 600)
	questions := []string{
		"/api/v1/lineage/events/us/orders/0/17", "/api/v1/lineage/events/us/orders/1/299", "/api/v1/lineage/events/eu/orders/1/5",
		"/api/v1/lineage/topics/us/orders", "/api/v1/lineage/gaps/us/orders/0", "/api/v1/offsets/us/orders/0/123",
	}
	epochs := regexp.MustCompile(`"epoch":\d+`) // each start has its own
	ask := func() map[string]string {
		t.Helper()
		answers := map[string]string{}
		for _, q := range questions {
			a, err := n.call(http.MethodGet, q, adminToken, "")
			must(t, err)
			if a.status != http.StatusOK {
				t.Fatalf("%s: %s", q, a)
			}
			answers[q] = epochs.ReplaceAllString(string(a.body), `"epoch":0`)
		}
		return answers
	}
	before := ask()
	n.process.stop(t)
	if n.process.logged("begins anew") {
		t.Error("a node that was stopped says that it begins anew")
	}
	index := filepath.Join(n.data(), "lineage")
	if _, err := os.Stat(index); err != nil {
		t.Fatal(err)
	}
	must(t, os.RemoveAll(index))
	n.start()
	eventually(t, recovery, "the node is ready", func() error {
		a, err := n.call(http.MethodGet, "/readyz", adminToken, "")
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("%s", a)
		}
		return err
	})
	w.running(2)
	eventually(t, recovery, "the same answers", func() error {
		after := ask()
		for _, q := range questions {
			if after[q] != before[q] {
				return fmt.Errorf("%s\nwas  %s\nis   %s", q, before[q], after[q])
			}
		}
		return nil
	})
	w.exact("orders", 600)
	w.nobodyDied()
}
