//go:build unix

package scenarios

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/lineage"
)

// twoHops is orders, copied from us to eu by one flow and from there to ap by another,
// with a runbook for the first and a group that has read half of a partition in ap.
func twoHops(t *testing.T) (w *world, ap *broker) {
	w = newWorld(t, 1, nil, nil)
	ap = w.newBroker("ap", nil)
	ap.start()
	w.us.createTopic("orders", 2)
	w.us.produce("orders", 2, 100)
	second := "---\napiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: eu-ap}\nspec:\n  source: eu\n  destination: ap\n  offsets: translate\n  topics: {include: [orders]}\n"
	book := "---\napiVersion: waybill/v1\nkind: Runbook\nmetadata: {name: drill}\nspec: {flow: us-eu, steps: [{id: look, check: preflight}]}\n"
	w.nodes[0].apply(w.us.yaml() + w.eu.yaml() + ap.yaml() + strings.Replace(flowYAML("orders"), "  topics:", "  offsets: translate\n  topics:", 1) + second + book)
	eventually(t, recovery, "both hops of both partitions", func() error {
		for partition := range 2 {
			if n, err := copiedOver(w.nodes[0], adminToken, fmt.Sprintf("us/orders/%d", partition)); err != nil || n["us>eu"] != 100 || n["eu>ap"] != 100 {
				return fmt.Errorf("copied so far: %v %w", n, err)
			}
		}
		return nil
	})
	at := kadm.Offsets{}
	at.Add(kadm.Offset{Topic: "orders", Partition: 0, At: 50, LeaderEpoch: -1})
	_, err := ap.admin().CommitOffsets(ap.ctx(), "mailer", at)
	must(t, err)
	return w, ap
}

// copiedOver is how many records of a partition went over each hop.
func copiedOver(n *node, token, partition string) (map[string]int64, error) {
	a, err := n.call(http.MethodGet, "/api/v1/lineage/copies/"+partition, token, "")
	if err != nil || a.status != http.StatusOK {
		return nil, fmt.Errorf("%s: %w", a, err)
	}
	var page lineage.RangePage
	if err := json.Unmarshal(a.body, &page); err != nil {
		return nil, err
	}
	found := map[string]int64{}
	for _, r := range page.Rows {
		found[r.Source.Cluster+">"+r.Destination.Cluster] += r.Records
	}
	return found, nil
}

// A range of offsets, a topic's graph and what is downstream of it, over two hops: the
// same from every end of them, and without what the caller may not see.
func TestLineageOverTwoHops(t *testing.T) {
	t.Parallel()
	w, _ := twoHops(t)
	n := w.nodes[0]
	for _, from := range []string{"us", "eu", "ap"} {
		found, err := copiedOver(n, adminToken, from+"/orders/1")
		must(t, err)
		if found["us>eu"] != 100 || found["eu>ap"] != 100 || len(found) != 2 {
			t.Errorf("asked at %s: got %v", from, found)
		}
	}
	if out := n.cli("lineage", "copies", "us/orders/0", "--from", "10", "--to", "19"); !strings.Contains(out, "us/orders/0  10-19") || !strings.Contains(out, "ap/orders/0") {
		t.Errorf("on the command line:\n%s", out)
	}

	var g lineage.Graph
	eventually(t, recovery, "rates and lags", func() error {
		must(t, n.get("/api/v1/lineage/topics/us/orders?windowSeconds=3600&partitions=true", &g))
		for _, c := range g.Copies {
			if p := c.Pace; p == nil || p.RecordsPerSecond != 200.0/3600 || p.LagRecords != 0 || p.LagSeconds != 0 || len(c.Partitions) != 2 || c.Partitions[1].Pace == nil {
				return fmt.Errorf("got %+v", c.Pace)
			}
		}
		return nil
	})
	if len(g.Topics) != 3 || len(g.Copies) != 2 {
		t.Errorf("got %+v", g)
	}

	// None of the clusters records who produced: what the record itself says is told.
	if out := n.cli("lineage", "event", "ap/orders/0/10"); strings.Count(out, "  stored at ") != 2 || !strings.Contains(out, "by producer id ") || !strings.Contains(out, "(producer-state)") {
		t.Errorf("of an event without provenance:\n%s", out)
	}
	affected(t, n)
	redacted(t, n)
	var trail api.AuditPage
	must(t, n.get("/api/v1/audit?limit=1000&user=auditor", &trail))
	for _, want := range []string{"range-lineage", "affected-by-offsets", "affected-by-cluster"} {
		if !slices.ContainsFunc(trail.Entries, func(e api.AuditEntry) bool { return e.Operation == want }) {
			t.Errorf("that the auditor asked for %s is not in the trail: %+v", want, trail.Entries)
		}
	}
	w.nobodyDied()
}

// Two fleets that do not know each other copy one hop each. Each answers for the whole way
// of an event between the clusters that are declared to it, since that is in their ledgers, and
// names the other's flow as another fleet's.
func TestLineageOverTwoFleets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	ap := w.newBroker("ap", nil)
	ap.start()
	one, two := w.nodes[0], w.newFleet("second", "s", 1)
	w.us.createTopic("orders", 1)
	w.us.produce("orders", 1, 100)
	one.apply(w.us.yaml() + w.eu.yaml() + strings.Replace(flowYAML("orders"), "  topics:", "  offsets: translate\n  topics:", 1))
	two.apply(w.us.yaml() + w.eu.yaml() + ap.yaml() + "---\napiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: eu-ap}\nspec:\n  source: eu\n  destination: ap\n  offsets: translate\n  topics: {include: [orders]}\n")
	for _, n := range []*node{one, two} {
		want := map[string]int64{"us>eu": 100}
		if n == two {
			want["eu>ap"] = 100
		}
		eventually(t, recovery, "every hop between the clusters of fleet "+n.fleet, func() error {
			if found, err := copiedOver(n, adminToken, "us/orders/0"); err != nil || !maps.Equal(found, want) {
				return fmt.Errorf("copied so far: %v %w", found, err)
			}
			return nil
		})
	}
	for _, at := range []string{"us/orders/0/10", "eu/orders/0/10", "ap/orders/0/10"} {
		var event lineage.Answer
		must(t, two.get("/api/v1/lineage/events/"+at, &event))
		var flows []string
		for _, e := range event.Edges {
			flows = append(flows, e.Fleet+"/"+e.Flow)
		}
		slices.Sort(flows)
		if !slices.Equal(flows, []string{"scenario/us-eu", "second/eu-ap"}) {
			t.Errorf("%s went by %q", at, flows)
		}
	}
	// Nobody has declared ap to the first fleet, so nobody may see there what is in it.
	a, err := one.call(http.MethodGet, "/api/v1/lineage/events/ap/orders/0/10", adminToken, "")
	must(t, err)
	if a.status != http.StatusForbidden || !strings.Contains(string(a.body), "ap") {
		t.Errorf("an event of a cluster that is not declared: %s", a)
	}
	w.nobodyDied()
}

func affected(t *testing.T, n *node) {
	t.Helper()
	for _, c := range []struct {
		path    string
		reached bool
	}{{"us/orders/0?from=10&to=19", true}, {"us/orders/0?from=80&to=89", false}, {"us/orders", true}, {"us", true}} {
		var a lineage.Affected
		must(t, n.get("/api/v1/lineage/affected/"+c.path, &a))
		var topics, flows []string
		for _, topic := range a.Topics {
			topics = append(topics, topic.Cluster)
		}
		for _, f := range a.Flows {
			flows = append(flows, f.Flow+" "+strings.Join(f.Basis, "+"))
		}
		if !slices.Equal(topics, []string{"us", "eu", "ap"}) || !slices.Equal(flows, []string{"eu-ap copies+declared", "us-eu copies+declared"}) {
			t.Errorf("%s: got %q %q", c.path, topics, flows)
		}
		if !slices.Equal(a.Runbooks, []lineage.AffectedRunbook{{Runbook: "drill", Flow: "us-eu"}}) {
			t.Errorf("%s: runbooks %+v", c.path, a.Runbooks)
		}
		if len(a.Readers) != 1 || a.Readers[0].Group != "mailer" || a.Readers[0].Topic != 2 || a.Readers[0].Reached != c.reached || !slices.Equal(a.Readers[0].Basis, []string{"committed-offsets"}) {
			t.Errorf("%s: readers %+v", c.path, a.Readers)
		}
	}
	if out := n.cli("lineage", "affected", "us/orders"); !strings.Contains(out, "mailer") || !strings.Contains(out, "drill") {
		t.Errorf("on the command line:\n%s", out)
	}
}

// redacted asks as somebody who is nobody in eu, which lies between.
func redacted(t *testing.T, n *node) {
	t.Helper()
	for path, status := range map[string]int{
		"copies/us/orders/0": 200, "copies/ap/orders/0": 200, "copies/eu/orders/0": 403, "affected/us/orders/0?from=10&to=19": 200,
		"topics/us/orders": 200, "affected/us": 200, "affected/eu": 403,
	} {
		a, err := n.call(http.MethodGet, "/api/v1/lineage/"+path, auditorToken, "")
		must(t, err)
		if a.status != status {
			t.Errorf("%s: got %s, want %d", path, a, status)
			continue
		}
		for _, secret := range []string{`"eu"`, "us-eu", "eu-ap"} {
			hidden := status == 200 && !strings.HasPrefix(path, "affected/") // flows are declared for all to see
			if hidden && strings.Contains(string(a.body), secret) {
				t.Errorf("%s tells %s: %s", path, secret, a.body)
			}
		}
		if status == 200 && (!strings.Contains(string(a.body), `"redacted":true`) || !strings.Contains(string(a.body), `"ap"`)) {
			t.Errorf("%s: what is hidden, or what is behind it, is dropped: %s", path, a.body)
		}
	}
}
