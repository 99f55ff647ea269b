package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// The people and programs of the story, by their names in both datacenters.
const (
	userAdmin      = "admin"      // super user
	userReplicator = "replicator" // the fleet
	userSensors    = "sensors"    // produces
	userAlerts     = "alerts"     // reads, as group alerts
	userReports    = "reports"    // reads, as group reports
)

var users = []string{userAdmin, userReplicator, userSensors, userAlerts, userReports}

// aclsSource and aclsDestination are all that the datacenters allow. The
// replicator's are the least that a flow needs on either side. At the source,
// Alter on the cluster is for the runbook, which fences writers by ACL; without it
// Describe is needed, which it implies. At the destination, Alter on the topics is
// for partitions that are added later, Create on the ledger for clusters that have
// none.
var aclsSource = []string{
	"User:sensors Allow Write Topic:quakes* from *",
	"User:sensors Allow Describe Topic:quakes* from *",
	"User:alerts Allow Read Topic:quakes* from *",
	"User:alerts Allow Read Group:alerts from *",
	"User:reports Allow Read Topic:quakes* from *",
	"User:reports Allow Read Group:reports from *",
	"User:replicator Allow Read Topic:quakes* from *",
	"User:replicator Allow DescribeConfigs Topic:quakes* from *",
	"User:replicator Allow Read Topic:__waybill.ledger from *",
	"User:replicator Allow Describe Group:* from *",
	"User:replicator Allow Alter Cluster:kafka-cluster from *",
}

var aclsDestination = []string{
	"User:sensors Allow Write Topic:quakes* from *",
	"User:sensors Allow Describe Topic:quakes* from *",
	"User:alerts Allow Read Topic:quakes* from *",
	"User:alerts Allow Read Group:alerts from *",
	"User:reports Allow Read Topic:quakes* from *",
	"User:reports Allow Read Group:reports from *",
	"User:replicator Allow Create Topic:quakes* from *",
	"User:replicator Allow Read Topic:quakes* from *",
	"User:replicator Allow Write Topic:quakes* from *",
	"User:replicator Allow Alter Topic:quakes* from *",
	"User:replicator Allow DescribeConfigs Topic:quakes* from *",
	"User:replicator Allow Read Topic:__waybill.ledger from *",
	"User:replicator Allow Write Topic:__waybill.ledger from *",
	"User:replicator Allow Create Topic:__waybill.ledger from *",
	"User:replicator Allow Read Group:* from *",
	"User:replicator Allow Describe Cluster:kafka-cluster from *",
	"User:replicator Allow Write TransactionalId:waybill.* from *",
}

// certLifetime outlives any demonstration.
const certLifetime = 30 * 24 * time.Hour

// datacenter is one bundled broker, or a cluster that somebody else runs.
type datacenter struct {
	name     string
	dir      string
	address  string // of its one listener
	process  *child // nil if somebody else runs it
	external *External
}

func (d *datacenter) ca() string {
	if d.external != nil {
		return d.external.CAFile
	}
	return filepath.Join(d.dir, "ca.pem")
}

func (d *datacenter) passwordFile(u string) string {
	if d.external != nil {
		return d.external.PasswordFiles[u]
	}
	return filepath.Join(d.dir, u+".password")
}

// records says whether the cluster itself writes down who produces and who
// reads, as the bundled broker does.
func (d *datacenter) records() bool { return d.external == nil }

// replicator is one node of the fleet.
type replicator struct {
	name    string
	dir     string
	api     string // URL
	peer    string // host:port
	process *child
}

// world is everything that the demonstration starts.
type world struct {
	dir     string
	program string // the replicator's binary
	us, eu  *datacenter
	fleet   []*replicator
	token   string // of the API's administrator
}

// tokenFile holds the token of an API user.
func (w *world) tokenFile(user string) string { return filepath.Join(w.dir, "fleet", user+".token") }

// build starts both datacenters and the fleet, and returns when all answer. What
// it has started when it fails, close ends.
func (w *world) build(ctx context.Context, opts Options) error {
	g, gctx := errgroup.WithContext(ctx)
	w.us, w.eu = &datacenter{name: "us", external: opts.US}, &datacenter{name: "eu", external: opts.EU}
	g.Go(func() error { return w.open(gctx, w.us, opts.USAddress, aclsSource) })
	g.Go(func() error { return w.open(gctx, w.eu, opts.EUAddress, aclsDestination) })
	g.Go(func() error { return w.startFleet(gctx, opts.APIAddress) })
	return g.Wait()
}

// open starts a datacenter, unless somebody else runs it.
func (w *world) open(ctx context.Context, d *datacenter, address string, acls []string) error {
	if d.external == nil {
		return w.startBroker(ctx, d, address, acls)
	}
	d.address = d.external.Address
	return d.external.validate(d.name)
}

func (w *world) startBroker(ctx context.Context, d *datacenter, address string, acls []string) error {
	d.dir = filepath.Join(w.dir, d.name)
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	if err := issue(d.dir, "waybill demo "+d.name, "broker"); err != nil {
		return fmt.Errorf("datacenter %s: %w", d.name, err)
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, `# Made by 'replicator demo'.
dataDir: %q
nodeId: 1
listeners:
  - {name: client, address: %q, protocol: SASL_TLS, certFile: %q, keyFile: %q}
authorizer: true
superUsers: [User:admin]
autoCreateTopics: false
groupInitialRebalanceDelay: 0s
provenance: {exempt: [User:replicator]}
users:
`, filepath.Join(d.dir, "data"), address, filepath.Join(d.dir, "broker.pem"), filepath.Join(d.dir, "broker-key.pem"))
	for _, u := range users {
		if err := writeSecret(d.passwordFile(u)); err != nil {
			return fmt.Errorf("datacenter %s: %w", d.name, err)
		}
		fmt.Fprintf(&conf, "  - {name: %s, password: %q}\n", u, "${file:"+d.passwordFile(u)+"}")
	}
	conf.WriteString("acls:\n")
	for _, rule := range acls {
		fmt.Fprintf(&conf, "  - %q\n", rule)
	}
	file, addr := filepath.Join(d.dir, "broker.yaml"), filepath.Join(d.dir, "address")
	if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
		return err
	}
	var err error
	if d.process, err = start(w.program, d.dir, "broker", "broker", "--config", file, "--address-file", addr); err != nil {
		return err
	}
	d.address, err = addressIn(ctx, d.process, addr, "client")
	return err
}

// startFleet starts the first node, which makes the fleet, and then the others,
// which join it.
func (w *world) startFleet(ctx context.Context, apiAddress string) error {
	dir := filepath.Join(w.dir, "fleet")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	names := []string{"r1", "r2", "r3"}
	if err := issue(dir, "waybill demo fleet", names...); err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	for _, user := range []string{"admin", "alerts"} {
		if err := writeSecret(w.tokenFile(user)); err != nil {
			return fmt.Errorf("fleet: %w", err)
		}
	}
	token, err := os.ReadFile(w.tokenFile("admin"))
	if err != nil {
		return err
	}
	w.token = string(token)
	for i, name := range names {
		r := &replicator{name: name, dir: filepath.Join(dir, name)}
		w.fleet = append(w.fleet, r)
		api, first := "127.0.0.1:0", "bootstrap: true"
		if i == 0 {
			api = apiAddress
		} else {
			first = fmt.Sprintf("join: [%q]", w.fleet[0].peer)
		}
		if err := w.startReplicator(ctx, r, api, first); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) startReplicator(ctx context.Context, r *replicator, api, first string) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	certs := filepath.Dir(r.dir)
	conf := fmt.Sprintf(`# Made by 'replicator demo'.
name: %s
fleet: demo
dataDir: %q
peer:
  address: 127.0.0.1:0
  caFile: %q
  certFile: %q
  keyFile: %q
  %s
api:
  address: %q
  users:
    - {name: admin, role: admin, token: %q, principals: {us: "User:admin", eu: "User:admin"}}
    - {name: alerts, role: viewer, token: %q, principals: {us: "User:alerts", eu: "User:alerts"}}
`, r.name, filepath.Join(r.dir, "data"), filepath.Join(certs, "ca.pem"), filepath.Join(certs, r.name+".pem"), filepath.Join(certs, r.name+"-key.pem"),
		first, api, "${file:"+w.tokenFile("admin")+"}", "${file:"+w.tokenFile("alerts")+"}")
	file, addr := filepath.Join(r.dir, "node.yaml"), filepath.Join(r.dir, "address")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return err
	}
	var err error
	if r.process, err = start(w.program, r.dir, "replicator", "serve", "--config", file, "--address-file", addr); err != nil {
		return err
	}
	if r.peer, err = addressIn(ctx, r.process, addr, "peer"); err != nil {
		return err
	}
	apiAddr, err := addressIn(ctx, r.process, addr, "api")
	r.api = "http://" + apiAddr
	return err
}

// close ends every child with SIGKILL: a fleet whose nodes all stop has nobody to
// move its work to, and nothing that a kill could harm.
func (w *world) close() {
	var all []*child
	for _, r := range w.fleet {
		all = append(all, r.process)
	}
	for _, d := range []*datacenter{w.us, w.eu} {
		if d != nil {
			all = append(all, d.process)
		}
	}
	var g errgroup.Group
	for _, c := range all {
		if c != nil {
			g.Go(func() error { c.kill(); return nil })
		}
	}
	_ = g.Wait() // nothing in it fails
}

// addressIn reads one address from the file that a child writes when it listens.
func addressIn(ctx context.Context, c *child, file, name string) (string, error) {
	content, err := c.awaitFile(ctx, file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(content) {
		if n, addr, ok := strings.Cut(strings.TrimSpace(line), " "); ok && n == name {
			return addr, nil
		}
	}
	return "", fmt.Errorf("%s says no address %q", file, name)
}

// issue makes an authority and a certificate for each name in dir.
func issue(dir, authority string, names ...string) error {
	ca, err := raftnode.GenerateCA(authority, certLifetime)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	errs := []error{os.WriteFile(filepath.Join(dir, "ca.pem"), ca.CertPEM, 0o600)}
	for _, n := range names {
		cert, key, err := ca.Issue(n, certLifetime, "localhost", "127.0.0.1", "::1")
		if err != nil {
			return fmt.Errorf("make certificates: %w", err)
		}
		errs = append(errs,
			os.WriteFile(filepath.Join(dir, n+".pem"), cert, 0o600),
			os.WriteFile(filepath.Join(dir, n+"-key.pem"), key, 0o600))
	}
	return errors.Join(errs...)
}

func writeSecret(path string) error { return os.WriteFile(path, []byte(rand.Text()), 0o600) }
