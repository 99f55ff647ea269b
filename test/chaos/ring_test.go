//go:build chaos && interop && unix

package chaos

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestRing has as many fleets as clusters, none of which knows of the others, carry one
// topic round the clusters: two that are both written to, three of which one is
// bundled, and three of which none is. Each cluster writes to it. In the end each cluster holds the records of all
// once, those of each origin in order, and nothing goes on going round.
func TestRing(t *testing.T) {
	for name, kinds := range map[string][]kind{"active-active": {kafka41, kafka39}, "three": {bundled, kafka41, kafka39}, "three Apache Kafkas": {kafka41, kafka39, kafka41}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var sites []*cluster
			for i, k := range kinds {
				sites = append(sites, startCluster(t, dir, []string{"us", "eu", "ap"}[i], k))
			}
			goRound(t, dir, sites)
		})
	}
}

func goRound(t *testing.T, dir string, sites []*cluster) {
	const topic, local = "orders", 400
	for _, c := range sites {
		_, err := kadm.NewClient(c.open(t)).CreateTopic(t.Context(), 2, 1, map[string]*string{"retention.ms": kadm.StringPtr("-1")}, topic)
		must(t, err)
	}
	write := func(c *cluster, from, next int) {
		t.Helper()
		cl := c.open(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(50))
		var records []*kgo.Record
		for n := from; n < next; n++ {
			r := sampleRecord(topic, n)
			r.Value = fmt.Appendf(nil, "%s %d", c.name, n) // all are to be told apart
			records = append(records, r)
		}
		must(t, cl.ProduceSync(t.Context(), records...).FirstErr())
	}
	for _, c := range sites {
		write(c, 0, local/2)
	}
	for i, from := range sites {
		to := sites[(i+1)%len(sites)]
		f := newFleet(t, filepath.Join(dir, "fleet-of-"+to.name), 1)
		t.Cleanup(func() {
			if t.Failed() {
				f.describe()
			}
		})
		objects := from.declaration() + to.declaration() + fmt.Sprintf("apiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: %s-%s}\nspec: {source: %s, destination: %s, topics: {include: [%s]}}\n", from.name, to.name, from.name, to.name, topic)
		eventually(t, recovery, "apply", func() error {
			_, err := f.anyNode(http.MethodPost, "/api/v1/apply", objects)
			return err
		})
	}
	for _, c := range sites {
		write(c, local/2, local)
	}
	whole := func(c *cluster) error {
		if n := readTopics(t, c, topic).count(); n < len(sites)*local {
			return fmt.Errorf("%s has %d records of %d", c.name, n, len(sites)*local)
		}
		return nil
	}
	for _, c := range sites {
		eventually(t, recovery, c.name+" has all records", func() error { return whole(c) })
	}
	// A record more goes all the way: what was to go round before it has.
	for _, c := range sites {
		write(c, local, local+2)
	}
	for _, c := range sites {
		eventually(t, recovery, c.name+" has the last records", func() error {
			if n := readTopics(t, c, topic).count(); n < len(sites)*(local+2) {
				return fmt.Errorf("%d records", n)
			}
			return nil
		})
		checkOrigins(t, c.name, readTopics(t, c, topic)[topic], sites, local+2)
	}
}

// checkOrigins wants the records of each site once, in order in each partition.
func checkOrigins(t *testing.T, where string, partitions map[int32][]*kgo.Record, sites []*cluster, each int) {
	t.Helper()
	for _, s := range sites {
		total := 0
		for p, records := range partitions {
			due := int(p) // sampleRecord goes by n modulo the partitions
			for _, r := range records {
				if !strings.HasPrefix(string(r.Value), s.name+" ") {
					continue
				}
				if want := fmt.Sprintf("%s %d", s.name, due); string(r.Value) != want {
					t.Errorf("%s: offset %d of partition %d holds %q, due is %q", where, r.Offset, p, r.Value, want)
					return
				}
				total, due = total+1, due+len(partitions)
			}
		}
		if total != each {
			t.Errorf("%s has %d records that were born at %s, want %d", where, total, s.name, each)
		}
	}
}
