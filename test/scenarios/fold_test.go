//go:build unix

package scenarios

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/lineage"
)

// What a ledger says stays the same when its pages are folded and deleted while copies go
// on: for nodes that have read them, and for one that begins with the fold. So it is in a
// cluster that only stores the ledger, and in one that keeps its own and lets nobody delete
// what no fold stands for.
func TestFoldedLedger(t *testing.T) {
	t.Parallel()
	t.Run("stored", func(t *testing.T) { t.Parallel(); foldedLedger(t, nil) })
	t.Run("own", func(t *testing.T) { t.Parallel(); foldedLedger(t, destinationSecurity()) })
}

func foldedLedger(t *testing.T, eu *security) {
	w := newWorld(t, 1, nil, eu)
	n := w.nodes[0]
	w.us.createTopic("orders", 2)
	n.apply(w.us.yaml() + w.eu.yaml() + strings.Replace(flowYAML("orders"), "  topics:", "  offsets: translate\n  topics:", 1))
	for range 5 {
		w.us.produce("orders", 2, 30)
		w.running(2)
	}
	w.exact("orders", 300)
	before := said(t, n)

	var dry api.FoldReport
	n.post("/api/v1/lineage/fold/eu?dryRun=true", &dry)
	if got := starts(t, w.eu); slices.Max(got) > 0 || !dry.DryRun || len(folds(t, w.eu)) != 0 {
		t.Errorf("looked: the partitions begin at %v, %+v", got, dry)
	}
	if got := removals(dry); got.Below <= 0 || got.FoldBytes <= 0 || got.FoldBytes >= got.Bytes || got.Deleted {
		t.Errorf("looked: got %+v", got)
	}
	if eu != nil {
		a, err := n.call(http.MethodPost, "/api/v1/lineage/fold/eu?delete=true", adminToken, "")
		must(t, err)
		if p := a.problem(t); a.status != http.StatusConflict || !strings.Contains(p.Detail, "no right to Delete") || len(folds(t, w.eu)) != 0 {
			t.Errorf("without the right to delete: %s", a)
		}
		w.eu.grant("Delete Topic:" + ledger.Topic)
		below := removals(dry)
		if err := deleteFromLedger(w.eu, below.Partition, 2); err == nil {
			t.Error("the broker has let somebody delete what no fold stands for")
		}
	}

	out := n.cli("lineage", "fold", "eu")
	if got := starts(t, w.eu); slices.Max(got) > 0 || !strings.Contains(out, "written") || !strings.Contains(out, "--delete") {
		t.Errorf("folded, and not to delete: the partitions begin at %v\n%s", got, out)
	}
	n.process.kill() // between fold and deletion
	n.start()

	load := w.us.startLoad("orders", 2)
	w.keepsUp(2)
	out = n.cli("lineage", "fold", "eu", "--delete", "--reason", "CHG-1042")
	sent := load.end(t)
	if got := starts(t, w.eu); slices.Max(got) == 0 || !strings.Contains(out, "yes") {
		t.Fatalf("folded and deleted: the partitions begin at %v\n%s", got, out)
	}
	same := func(what string) {
		t.Helper()
		for place, want := range before {
			got, err := saidOf(n, place)
			if err != nil || got != want {
				t.Errorf("%s: of %s\ngot  %s, %v\nwant %s", what, place, got, err, want)
			}
		}
	}
	w.running(2)
	w.exact("orders", 300+sent)
	same("who has read the pages")

	n.process.kill()
	must(t, os.RemoveAll(filepath.Join(n.data(), "lineage")))
	n.start()
	w.us.produce("orders", 2, 30)
	w.running(2)
	w.exact("orders", 360+sent)
	same("who begins with the fold")
	var check lineage.CheckReport
	must(t, n.get("/api/v1/lineage/check/eu", &check))
	if len(check.Findings) > 0 || check.Incomplete != "" || !slices.ContainsFunc(check.Partitions, func(p lineage.CheckedPartition) bool { return p.Folded != nil }) {
		t.Errorf("check: %+v", check)
	}
	if out := n.cli("lineage", "check", "eu"); !strings.Contains(out, "FOLDED AT") || !strings.Contains(out, "every chain is whole") {
		t.Errorf("check:\n%s", out)
	}
	foldRefusals(t, w)
	w.nobodyDied()
}

// foldRefusals damages the ledger, and asks for folds that nobody gets.
func foldRefusals(t *testing.T, w *world) {
	n, at := w.nodes[0], starts(t, w.eu)
	pages, err := w.eu.read(ledger.Topic)
	must(t, err)
	for p, records := range pages {
		if at[p] == 0 {
			continue
		}
		damaged := slices.Clone(records[len(records)-1].Value)
		damaged[len(damaged)/2] ^= 0x10
		w.writeLedger(p, damaged)
	}
	for _, c := range []struct {
		path, token string
		status      int
		says        string
	}{
		{"eu?delete=true", adminToken, http.StatusConflict, "nothing is deleted"},
		{"eu?delete=true", viewerToken, http.StatusForbidden, ""},
		{"nowhere", adminToken, http.StatusNotFound, "no such cluster"},
		{"us", adminToken, http.StatusNotFound, "has no ledger"},
	} {
		a, err := n.call(http.MethodPost, "/api/v1/lineage/fold/"+c.path, c.token, "")
		must(t, err)
		if p := a.problem(t); a.status != c.status || !strings.Contains(p.Detail, c.says) {
			t.Errorf("fold %s: %s, want %d %q", c.path, a, c.status, c.says)
		}
	}
	if now := starts(t, w.eu); !slices.Equal(now, at) {
		t.Errorf("the partitions begin at %v, they began at %v", now, at)
	}
	var trail api.AuditPage
	must(t, n.get("/api/v1/audit?limit=1000&operation=fold-ledger", &trail))
	if !slices.ContainsFunc(trail.Entries, func(e api.AuditEntry) bool {
		return e.User == "ops" && e.Reason == "CHG-1042" && e.Status < 300
	}) ||
		!slices.ContainsFunc(trail.Entries, func(e api.AuditEntry) bool { return e.Status == http.StatusConflict }) {
		t.Errorf("the trail has %+v", trail.Entries)
	}
}

// said is what a node answers about offsets of both sides: where they lie, and what the
// ledger has of their events.
func said(t *testing.T, n *node) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, side := range []string{"us", "eu"} {
		for partition := range 2 {
			for offset := 0; offset < 150; offset += 7 {
				place := fmt.Sprintf("%s/orders/%d/%d", side, partition, offset)
				text, err := saidOf(n, place)
				must(t, err)
				all[place] = text
			}
		}
	}
	return all
}

func saidOf(n *node, place string) (string, error) {
	to := "eu"
	if strings.HasPrefix(place, "eu") {
		to = "us"
	}
	a, err := n.call(http.MethodGet, "/api/v1/offsets/"+place+"?"+url.Values{"to": {to}}.Encode(), adminToken, "")
	if err != nil {
		return "", err
	}
	text := a.String()
	var event lineage.Answer
	a, err = n.call(http.MethodGet, "/api/v1/lineage/events/"+place+"?headers=none", adminToken, "")
	if err != nil || a.status == http.StatusNotFound {
		return text + a.String(), err
	}
	if err := n.get("/api/v1/lineage/events/"+place+"?headers=none", &event); err != nil {
		return "", err
	}
	for _, v := range event.Nodes {
		text += fmt.Sprintf("\n%s/%s/%d/%d origin %v", v.Cluster, v.Topic, v.Partition, v.Offset, v.Origin)
	}
	for _, e := range event.Edges {
		text += fmt.Sprintf("\n%d to %d by %s of %s, node %s, epoch %d", e.From, e.To, e.Flow, e.Fleet, e.ReplicaNode, e.Epoch)
	}
	return text, nil
}

// starts are the first offsets of the partitions of a cluster's ledger.
func starts(t *testing.T, b *broker) []int64 {
	t.Helper()
	offsets, err := b.admin().ListStartOffsets(b.ctx(), ledger.Topic)
	must(t, err)
	var all []int64
	for p := range int32(len(offsets[ledger.Topic])) {
		all = append(all, offsets[ledger.Topic][p].Offset)
	}
	return all
}

// folds are the pages of folds in a cluster's ledger.
func folds(t *testing.T, b *broker) (all []*kgo.Record) {
	t.Helper()
	pages, err := b.read(ledger.Topic)
	must(t, err)
	for _, records := range pages {
		for _, r := range records {
			if p, err := ledger.Decode(r.Value); err == nil && p.Fold {
				all = append(all, r)
			}
		}
	}
	return all
}

// removals is the partition of which most would go.
func removals(r api.FoldReport) api.FoldedPartition {
	return slices.MaxFunc(r.Partitions, func(a, b api.FoldedPartition) int { return a.Pages - b.Pages })
}

// deleteFromLedger deletes as the administrator of the cluster.
func deleteFromLedger(b *broker, partition int32, below int64) error {
	at := kadm.Offsets{}
	at.AddOffset(ledger.Topic, partition, below, -1)
	done, err := b.admin().DeleteRecords(b.ctx(), at)
	if err != nil {
		return err
	}
	return done.Error()
}
