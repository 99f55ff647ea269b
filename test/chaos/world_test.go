//go:build chaos && unix

package chaos

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/raftnode"
)

const flowName = "us-eu"

// users of both clusters: the second and third are the fleet's, which changes
// from one to the other.
var users = []string{"admin", "replicator-a", "replicator-b"}

// world is everything that runs.
type world struct {
	t      *testing.T
	dir    string
	us, eu *broker
	nodes  []*node
	token  string
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

type node struct {
	t       *testing.T
	name    string
	dir     string
	peer    string
	api     string // URL
	first   string
	process *process
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), token: rand.Text()}
	t.Cleanup(func() {
		if t.Failed() {
			w.describe()
		}
	})
	w.us, w.eu = w.newBroker("us"), w.newBroker("eu")
	w.newFleet(3)
	return w
}

func (w *world) processes() []*process {
	all := []*process{w.us.process, w.eu.process}
	for _, n := range w.nodes {
		all = append(all, n.process)
	}
	return all
}

func (w *world) describe() {
	for _, p := range w.processes() {
		w.t.Logf("--- %s:\n%s", p.name, p.tail())
	}
	for _, n := range w.nodes {
		if body, err := w.call(n, http.MethodGet, "/api/v1/status", ""); err == nil {
			w.t.Logf("--- status by %s:\n%s", n.name, body)
			break
		}
	}
	if dir := os.Getenv("CHAOS_KEEP"); dir != "" {
		w.t.Logf("kept in %s: %v", dir, os.CopyFS(dir, os.DirFS(w.dir)))
	}
	w.t.Logf("done:\n%s", strings.Join(w.done, "\n"))
}

func (w *world) newBroker(name string) *broker {
	w.t.Helper()
	b := &broker{t: w.t, name: name, dir: filepath.Join(w.dir, name), address: freeAddress(w.t)}
	b.proxy.Store(newProxy(w.t, b.address))
	must(w.t, os.MkdirAll(b.dir, 0o700))
	ca, err := raftnode.GenerateCA("chaos "+name, 24*time.Hour)
	must(w.t, err)
	cert, key, err := ca.Issue("broker", 24*time.Hour, "localhost", "127.0.0.1")
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

// freeAddress is one that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
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

func (w *world) newFleet(n int) {
	w.t.Helper()
	dir := filepath.Join(w.dir, "fleet")
	must(w.t, os.MkdirAll(dir, 0o700))
	ca, err := raftnode.GenerateCA("chaos fleet", 24*time.Hour)
	must(w.t, err)
	must(w.t, os.WriteFile(filepath.Join(dir, "ca.pem"), ca.CertPEM, 0o600))
	must(w.t, os.WriteFile(filepath.Join(dir, "token"), []byte(w.token), 0o600))
	for i := range n {
		r := &node{t: w.t, name: fmt.Sprintf("r%d", i+1), peer: "127.0.0.1:0", api: "127.0.0.1:0", first: "bootstrap: true"}
		r.dir = filepath.Join(dir, r.name)
		must(w.t, os.MkdirAll(r.dir, 0o700))
		cert, key, err := ca.Issue(r.name, 24*time.Hour, "localhost", "127.0.0.1")
		must(w.t, err)
		must(w.t, os.WriteFile(filepath.Join(r.dir, "cert.pem"), cert, 0o600))
		must(w.t, os.WriteFile(filepath.Join(r.dir, "key.pem"), key, 0o600))
		if i > 0 {
			r.first = fmt.Sprintf("join: [%q]", w.nodes[0].peer)
		}
		w.nodes = append(w.nodes, r)
		r.start()
	}
}

// start starts the node, or starts it again at the addresses that it had.
func (n *node) start() {
	n.t.Helper()
	fleet := filepath.Dir(n.dir)
	conf := fmt.Sprintf(`name: %s
fleet: chaos
dataDir: %q
peer: {address: %q, caFile: %q, certFile: %q, keyFile: %q, %s}
api: {address: %q, users: [{name: ops, role: admin, token: %q, principals: {us: "User:admin", eu: "User:admin"}}]}
`, n.name, filepath.Join(n.dir, "data"), n.peer, filepath.Join(fleet, "ca.pem"), filepath.Join(n.dir, "cert.pem"), filepath.Join(n.dir, "key.pem"), n.first,
		strings.TrimPrefix(n.api, "http://"), "${file:"+filepath.Join(fleet, "token")+"}")
	file, addr := filepath.Join(n.dir, "node.yaml"), filepath.Join(n.dir, "address")
	must(n.t, os.WriteFile(file, []byte(conf), 0o600))
	_ = os.Remove(addr) // of its last life
	n.process = startProcess(n.t, n.dir, "node "+n.name, "serve", "--config", file, "--address-file", addr)
	n.peer = n.process.address(n.t, addr, "peer")
	n.api = "http://" + n.process.address(n.t, addr, "api")
}

func (w *world) call(n *node, method, path, body string) ([]byte, error) {
	req, err := http.NewRequest(method, n.api+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/yaml")
	}
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, b)
	}
	return b, err
}

// anyNode makes a call to whichever node answers it.
func (w *world) anyNode(method, path, body string) (answer []byte, err error) {
	var errs []error
	for _, n := range w.nodes {
		if !n.process.alive() || n.process.guard != nil {
			continue
		}
		if answer, err = w.call(n, method, path, body); err == nil {
			return answer, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(append(errs, errors.New("no node answers"))...)
}

// flow is the status of the flow.
func (w *world) flow() (api.FlowStatus, error) {
	b, err := w.anyNode(http.MethodGet, "/api/v1/status", "")
	if err != nil {
		return api.FlowStatus{}, err
	}
	var s api.Status
	if err := json.Unmarshal(b, &s); err != nil {
		return api.FlowStatus{}, err
	}
	for _, f := range s.Flows {
		if f.Name == flowName {
			return f, nil
		}
	}
	return api.FlowStatus{}, errors.New("the status knows no such flow")
}
