//go:build chaos && unix

package chaos

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/raftnode"
)

const flowName = "us-eu"

// users of both clusters: the second and third are the fleet's, which changes
// from one to the other.
var users = []string{"admin", "replicator-a", "replicator-b"}

// home is the address of this process and of the brokers, but for those that have one
// of their own.
var (
	home  = "127.0.0.1"
	homes = map[string]string{}
)

// homeOf is the address of a broker.
func homeOf(name string) string { return cmp.Or(homes[name], home) }

// world is everything that runs.
type world struct {
	*fleet
	t      *testing.T
	dir    string
	us, eu *broker
	done   []string // what was done, for a failure's log
}

type broker struct {
	t       *testing.T
	name    string
	dir     string
	address string                // where it listens
	proxy   atomic.Pointer[proxy] // where everybody finds it
	process *process
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := newClusters(t)
	w.fleet = newFleet(t, filepath.Join(w.dir, "fleet"), 3)
	return w
}

// newClusters is a world without a fleet yet.
func newClusters(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	t.Cleanup(func() {
		if t.Failed() && w.fleet != nil {
			w.describe()
		}
		if dir := os.Getenv("CHAOS_KEEP"); dir != "" {
			t.Logf("kept in %s: %v", dir, os.CopyFS(dir, os.DirFS(w.dir)))
		}
	})
	w.us, w.eu = w.newBroker("us"), w.newBroker("eu")
	return w
}

func (w *world) processes() []*process {
	return append([]*process{w.us.process, w.eu.process}, w.fleet.processes()...)
}

func (w *world) describe() {
	for _, b := range []*broker{w.us, w.eu} {
		w.t.Logf("--- %s:\n%s", b.process.name, b.process.tail())
	}
	w.fleet.describe()
	w.t.Logf("done:\n%s", strings.Join(w.done, "\n"))
}

func (w *world) newBroker(name string) *broker {
	w.t.Helper()
	b := &broker{t: w.t, name: name, dir: filepath.Join(w.dir, name), address: freeAddress(w.t, homeOf(name))}
	b.proxy.Store(newProxy(w.t, b.address))
	must(w.t, os.MkdirAll(b.dir, 0o700))
	ca, err := raftnode.GenerateCA("chaos "+name, 24*time.Hour)
	must(w.t, err)
	cert, key, err := ca.Issue("broker", 24*time.Hour, "localhost", homeOf(name))
	must(w.t, err)
	for file, content := range map[string][]byte{"ca.pem": ca.CertPEM, "broker.pem": cert, "broker-key.pem": key} {
		must(w.t, os.WriteFile(b.file(file), content, 0o600))
	}
	for _, u := range users {
		must(w.t, os.WriteFile(b.file(u+".password"), []byte(rand.Text()), 0o600))
	}
	b.start()
	return b
}

func (b *broker) file(name string) string { return filepath.Join(b.dir, name) }

// freeAddress is one of a host that nobody listens on now.
func freeAddress(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", host+":0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// start starts the broker, or starts it again at the address that it had.
func (b *broker) start() {
	b.t.Helper()
	var conf strings.Builder
	fmt.Fprintf(&conf, "dataDir: %q\nautoCreateTopics: false\nprovenance: {off: true}\n", b.file("data"))
	fmt.Fprintf(&conf, "listeners: [{name: client, address: %q, advertised: %q, protocol: SASL_TLS, certFile: %q, keyFile: %q}]\nusers:\n", b.address, b.proxy.Load().address(), b.file("broker.pem"), b.file("broker-key.pem"))
	for _, u := range users {
		fmt.Fprintf(&conf, "  - {name: %s, password: %q}\n", u, "${file:"+b.file(u+".password")+"}")
	}
	must(b.t, os.WriteFile(b.file("broker.yaml"), []byte(conf.String()), 0o600))
	_ = os.Remove(b.file("address")) // of its last life
	b.process = startProcess(b.t, b.dir, "broker "+b.name, "broker", "--config", b.file("broker.yaml"), "--address-file", b.file("address"))
	b.process.address(b.t, b.file("address"), "client") // where it is found, which is the proxy's
}

// declaration is the cluster as a user declares it.
func (b *broker) declaration(user string) *flow.Cluster {
	return &flow.Cluster{Metadata: flow.Metadata{Name: b.name}, Spec: flow.ClusterSpec{
		BootstrapServers: []string{b.proxy.Load().address()}, TLS: &flow.TLS{CAFile: b.file("ca.pem")},
		SASL: &flow.SASL{Mechanism: "SCRAM-SHA-256", Username: user, Password: flow.Secret("${file:" + b.file(user+".password") + "}")},
	}}
}

// client is the administrator's; the caller closes it.
func (b *broker) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kafka.NewClient(b.declaration("admin"), "chaos", opts...)
}

// admin does something as administrator, again and again for a while: the broker
// may have been killed a moment ago.
func (b *broker) admin(what string, do func(*kadm.Client) error) {
	b.t.Helper()
	cl, err := b.client()
	must(b.t, err)
	defer cl.Close()
	eventually(b.t, 30*time.Second, b.name+": "+what, func() error { return do(kadm.NewClient(cl)) })
}
