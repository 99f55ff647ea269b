//go:build unix

package scenarios

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/raftnode"
	"github.com/waybillhq/waybill/test/address"
)

// world is what one scenario needs: two clusters and a fleet.
type world struct {
	t      *testing.T
	dir    string
	us, eu *broker
	nodes  []*node
}

// The people of a cluster with security, by name; passwords are in files.
const (
	userAdmin      = "admin"      // super user
	userReplicator = "replicator" // the fleet
)

// The tokens of the API's users.
var (
	adminToken   = rand.Text()
	viewerToken  = rand.Text()
	auditorToken = rand.Text() // who is nobody in eu
)

// security is what a cluster has besides plain loopback.
type security struct {
	// acls are the rights of the replicator; with them the cluster has TLS and
	// SCRAM.
	acls []string
	// certificate is issued instead of a good one.
	certificate func(*raftnode.CA) (cert, key []byte)
}

// broker is one bundled broker, which is one cluster.
type broker struct {
	t       *testing.T
	name    string
	dir     string
	address string
	secure  *security
	ca      *raftnode.CA
	process *process
}

// node is one replicator.
type node struct {
	t       *testing.T
	name    string
	fleet   string
	dir     string
	peer    string
	api     string // URL
	first   string // how it finds the fleet
	process *process
}

// newWorld makes two clusters and a fleet of n nodes. What there is to know
// about them is logged if the test fails.
func newWorld(t *testing.T, n int, us, eu *security) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	t.Cleanup(func() {
		if t.Failed() {
			w.describe()
		}
	})
	w.us, w.eu = w.newBroker("us", us), w.newBroker("eu", eu)
	var wg sync.WaitGroup
	wg.Go(w.us.start)
	wg.Go(w.eu.start)
	w.newFleet("scenario", "r", n)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	w.votes(n)
	return w
}

// votes waits until so many nodes have a vote: before that, those that have one cannot be
// lost.
func (w *world) votes(n int) {
	w.t.Helper()
	eventually(w.t, recovery, fmt.Sprintf("%d nodes have a vote", n), func() error {
		var m api.Members
		if err := w.nodes[0].get("/api/v1/fleet", &m); err != nil {
			return err
		}
		if m.Voters != n || m.Tolerates != (n-1)/2 {
			return fmt.Errorf("%d voters, %d may go", m.Voters, m.Tolerates)
		}
		return nil
	})
}

// describe prints the ends of all logs, and the status.
func (w *world) describe() {
	for _, n := range w.nodes {
		if n.process != nil {
			w.t.Logf("--- node %s:\n%s", n.name, n.process.tail())
		}
	}
	for _, b := range []*broker{w.us, w.eu} {
		if b != nil && b.process != nil {
			w.t.Logf("--- broker %s:\n%s", b.name, b.process.tail())
		}
	}
}

func (w *world) newBroker(name string, s *security) *broker {
	w.t.Helper()
	b := &broker{t: w.t, name: name, dir: filepath.Join(w.dir, name), address: address.Reserve(w.t), secure: s}
	must(w.t, os.MkdirAll(b.dir, 0o700))
	if s == nil {
		return b
	}
	var err error
	b.ca, err = raftnode.GenerateCA("scenario "+name, 24*time.Hour)
	must(w.t, err)
	must(w.t, os.WriteFile(b.file("ca.pem"), b.ca.CertPEM, 0o600))
	issue := s.certificate
	if issue == nil {
		issue = b.goodCertificate
	}
	b.useCertificate(issue)
	for _, u := range []string{userAdmin, userReplicator} {
		must(w.t, os.WriteFile(b.file(u+".password"), []byte(rand.Text()), 0o600))
	}
	return b
}

func (b *broker) file(name string) string { return filepath.Join(b.dir, name) }

func (b *broker) goodCertificate(ca *raftnode.CA) (cert, key []byte) {
	cert, key, err := ca.Issue("broker", 24*time.Hour, "localhost", "127.0.0.1")
	must(b.t, err)
	return cert, key
}

// useCertificate replaces the broker's certificate files.
func (b *broker) useCertificate(issue func(*raftnode.CA) (cert, key []byte)) {
	b.t.Helper()
	cert, key := issue(b.ca)
	must(b.t, os.WriteFile(b.file("broker.pem"), cert, 0o600))
	must(b.t, os.WriteFile(b.file("broker-key.pem"), key, 0o600))
}

// start starts the broker, or starts it again at the address that it had.
func (b *broker) start() {
	b.t.Helper()
	var conf strings.Builder
	fmt.Fprintf(&conf, "dataDir: %q\nautoCreateTopics: false\ngroupInitialRebalanceDelay: 0s\n", b.file("data"))
	if b.secure == nil {
		fmt.Fprintf(&conf, "listeners: [{name: client, address: %q, protocol: PLAINTEXT}]\nprovenance: {off: true}\n", b.address)
	} else {
		fmt.Fprintf(&conf, "listeners: [{name: client, address: %q, protocol: SASL_TLS, certFile: %q, keyFile: %q}]\n", b.address, b.file("broker.pem"), b.file("broker-key.pem"))
		fmt.Fprintf(&conf, "authorizer: true\nsuperUsers: [User:admin]\nprovenance: {exempt: [User:admin, User:replicator]}\nusers:\n")
		for _, u := range []string{userAdmin, userReplicator} {
			fmt.Fprintf(&conf, "  - {name: %s, password: %q}\n", u, "${file:"+b.file(u+".password")+"}")
		}
		fmt.Fprintf(&conf, "acls:\n")
		for _, rule := range b.secure.acls {
			fmt.Fprintf(&conf, "  - %q\n", rule)
		}
	}
	must(b.t, os.WriteFile(b.file("broker.yaml"), []byte(conf.String()), 0o600))
	_ = os.Remove(b.file("address")) // of its last life, if there was one
	b.process = start(b.t, b.dir, "broker", "broker", "--config", b.file("broker.yaml"), "--address-file", b.file("address"))
	b.address = b.process.address(b.t, b.file("address"), "client")
}

// newFleet starts n nodes, which are numbered: the first makes the fleet, the others join
// it. It returns the first.
func (w *world) newFleet(name, prefix string, n int) *node {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	must(w.t, os.MkdirAll(dir, 0o700))
	ca, err := raftnode.GenerateCA("scenario fleet", 24*time.Hour)
	must(w.t, err)
	must(w.t, os.WriteFile(filepath.Join(dir, "ca.pem"), ca.CertPEM, 0o600))
	must(w.t, os.WriteFile(filepath.Join(dir, "admin.token"), []byte(adminToken), 0o600))
	must(w.t, os.WriteFile(filepath.Join(dir, "viewer.token"), []byte(viewerToken), 0o600))
	must(w.t, os.WriteFile(filepath.Join(dir, "auditor.token"), []byte(auditorToken), 0o600))
	var first *node
	for i := range n {
		r := &node{t: w.t, name: fmt.Sprintf("%s%d", prefix, i+1), fleet: name, peer: address.Reserve(w.t), api: address.Reserve(w.t), first: "bootstrap: true"}
		r.dir = filepath.Join(dir, r.name)
		must(w.t, os.MkdirAll(r.dir, 0o700))
		cert, key, err := ca.Issue(r.name, 24*time.Hour, "localhost", "127.0.0.1")
		must(w.t, err)
		must(w.t, os.WriteFile(filepath.Join(r.dir, "cert.pem"), cert, 0o600))
		must(w.t, os.WriteFile(filepath.Join(r.dir, "key.pem"), key, 0o600))
		if first == nil {
			first = r
		} else {
			r.first = fmt.Sprintf("join: [%q]", first.peer)
		}
		w.nodes = append(w.nodes, r)
		r.start()
	}
	return first
}

// start starts the node, or starts it again at the addresses that it had.
func (n *node) start() {
	n.t.Helper()
	certs := filepath.Dir(n.dir)
	conf := fmt.Sprintf(`name: %s
fleet: %s
dataDir: %q
peer: {address: %q, caFile: %q, certFile: %q, keyFile: %q, %s}
api:
  address: %q
  users:
    - {name: ops, role: admin, token: %q, principals: {us: "User:admin", eu: "User:admin", ap: "User:admin"}}
    - {name: guest, role: viewer, token: %q}
    - {name: auditor, role: viewer, token: %q, principals: {us: "User:admin", ap: "User:admin"}}
`, n.name, n.fleet, n.data(), n.peer, filepath.Join(certs, "ca.pem"), filepath.Join(n.dir, "cert.pem"), filepath.Join(n.dir, "key.pem"), n.first,
		strings.TrimPrefix(n.api, "http://"), "${file:"+filepath.Join(certs, "admin.token")+"}", "${file:"+filepath.Join(certs, "viewer.token")+"}",
		"${file:"+filepath.Join(certs, "auditor.token")+"}")
	file, addr := filepath.Join(n.dir, "node.yaml"), filepath.Join(n.dir, "address")
	must(n.t, os.WriteFile(file, []byte(conf), 0o600))
	_ = os.Remove(addr) // of its last life, if there was one
	n.process = start(n.t, n.dir, "node", "serve", "--config", file, "--address-file", addr)
	n.peer = n.process.address(n.t, addr, "peer")
	n.api = "http://" + n.process.address(n.t, addr, "api")
}

// data is the node's own folder.
func (n *node) data() string { return filepath.Join(n.dir, "data") }

// node finds a node by name.
func (w *world) node(name string) *node {
	w.t.Helper()
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	w.t.Fatalf("there is no node %q", name)
	return nil
}

// other is a node that lives and is not the named one.
func (w *world) other(name string) *node {
	w.t.Helper()
	for _, n := range w.nodes {
		if n.name != name && n.process.alive() {
			return n
		}
	}
	w.t.Fatalf("there is no node but %q", name)
	return nil
}

// nobodyDied checks that no process has ended by itself, that none has panicked,
// and that none has told a secret to its log.
func (w *world) nobodyDied() {
	w.t.Helper()
	all := []*process{w.us.process, w.eu.process}
	for _, n := range w.nodes {
		all = append(all, n.process)
	}
	secrets := []string{adminToken, viewerToken, auditorToken}
	for _, b := range []*broker{w.us, w.eu} {
		if b.secure == nil {
			continue
		}
		for _, u := range []string{userAdmin, userReplicator} {
			password, err := os.ReadFile(b.file(u + ".password"))
			must(w.t, err)
			secrets = append(secrets, string(password))
		}
	}
	for _, p := range all {
		if slices.ContainsFunc(secrets, p.logged) {
			w.t.Errorf("the log of %s has a secret", p.name)
		}
		if !p.alive() {
			w.t.Errorf("%s has ended:\n%s", p.name, p.tail())
		}
		if p.logged("panic") {
			w.t.Errorf("%s panicked:\n%s", p.name, p.tail())
		}
	}
}
