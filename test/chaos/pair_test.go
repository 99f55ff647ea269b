//go:build chaos && interop && unix

package chaos

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// kind is what a cluster is made of.
type kind string

const (
	bundled kind = "bundled"
	kafka39 kind = "3.9.1" // Apache Kafka
	kafka41 kind = "4.1.0"
)

func (k kind) String() string {
	if k == bundled {
		return string(k)
	}
	return "Apache Kafka " + string(k)
}

// cluster is one broker with two listeners: who writes the load and who checks
// comes to it directly, the fleet through a proxy that knows what passes.
type cluster struct {
	name   string
	kind   kind
	direct string
	proxy  *proxy
	tap    *tap
	log    func() string
	broker *apachekafka.Broker // nil: it is bundled
}

// prompt are properties of a broker that deletes soon what is due.
var prompt = map[string]string{"log.retention.check.interval.ms": "500", "file.delete.delay.ms": "100"}

// forgetful makes Apache Kafka forget a producer ten seconds after the timestamp
// of its last record, so that one of years ago is forgotten at the next look. A
// broker that is short of processor time is not taken for dead.
var forgetful = map[string]string{
	"broker.session.timeout.ms":                "30000",
	"producer.id.expiration.ms":                "10000",
	"producer.id.expiration.check.interval.ms": "1000",
	"log.retention.check.interval.ms":          "60000",
}

// startCluster starts one for the time of the test; properties are those of an Apache
// Kafka beside the usual ones.
func startCluster(t *testing.T, dir, name string, of kind, properties ...map[string]string) *cluster {
	t.Helper()
	all := maps.Clone(forgetful)
	for _, more := range properties {
		maps.Copy(all, more)
	}
	c := &cluster{name: name, kind: of, tap: newTap()}
	behind := func(address string) string {
		c.proxy = startProxy(t, address, c.tap)
		return c.proxy.address()
	}
	if of != bundled {
		b := apachekafka.Start(t, apachekafka.Config{Version: string(of), Properties: all, Behind: behind})
		c.broker = b
		c.direct, c.log = b.Addr, func() string { return "" } // it shows its log itself
		return c
	}
	dir = filepath.Join(dir, name)
	must(t, os.MkdirAll(dir, 0o700))
	far, file := freeAddress(t, home), filepath.Join(dir, "address")
	conf := fmt.Sprintf("dataDir: %q\nautoCreateTopics: false\nprovenance: {off: true}\nlisteners:\n  - {name: direct, address: \"127.0.0.1:0\", protocol: PLAINTEXT}\n  - {name: far, address: %q, advertised: %q, protocol: PLAINTEXT}\n",
		filepath.Join(dir, "data"), far, behind(far))
	must(t, os.WriteFile(filepath.Join(dir, "broker.yaml"), []byte(conf), 0o600))
	p := startProcess(t, dir, "broker "+name, "broker", "--config", filepath.Join(dir, "broker.yaml"), "--address-file", file)
	c.direct, c.log = p.address(t, file, "direct"), p.tail
	return c
}

// client comes directly; the caller closes it.
func (c *cluster) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.direct), kgo.ClientID("chaos"), kgo.MetadataMinAge(100 * time.Millisecond)}, opts...)...)
}

// open is a client for the time of the test.
func (c *cluster) open(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := c.client(opts...)
	must(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// declaration is the cluster as an operator declares it.
func (c *cluster) declaration() string {
	return fmt.Sprintf("apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: %s}\nspec: {bootstrapServers: [%q]}\n---\n", c.name, c.proxy.address())
}

// within bounds one question to a cluster.
func within(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), time.Minute)
}

// endsOf is where partitions of topics end.
func endsOf(t *testing.T, of *cluster, topics ...string) map[string]map[int32]int64 {
	t.Helper()
	ctx, cancel := within(t)
	defer cancel()
	cl, err := of.client()
	must(t, err)
	defer cl.Close()
	listed, err := kadm.NewClient(cl).ListEndOffsets(ctx, topics...)
	must(t, err)
	ends := map[string]map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) {
		must(t, o.Err)
		if ends[o.Topic] == nil {
			ends[o.Topic] = map[int32]int64{}
		}
		ends[o.Topic][o.Partition] = o.Offset
	})
	return ends
}

// readAll reads a topic up to where it ends now, once no transaction is open
// below that.
func readAll(t *testing.T, of *cluster, topic string) map[int32][]*kgo.Record {
	t.Helper()
	left := map[int32]int64{}
	for p, end := range endsOf(t, of, topic)[topic] {
		if end > 0 {
			left[p] = end
		}
	}
	cl, err := of.client(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	must(t, err)
	defer cl.Close()
	records := map[int32][]*kgo.Record{}
	ctx, cancel := context.WithTimeout(t.Context(), recovery)
	defer cancel()
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		must(t, fetches.Err())
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if !r.Attrs.IsControl() {
				records[r.Partition] = append(records[r.Partition], r)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		}
	}
	return records
}
