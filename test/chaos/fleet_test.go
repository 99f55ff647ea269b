//go:build chaos && unix

package chaos

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/raftnode"
)

// fleet is the nodes of a replicator, which mirror clusters that are called us
// and eu.
type fleet struct {
	t     *testing.T
	dir   string
	ca    *raftnode.CA
	nodes []*node
	token string
}

type node struct {
	t       *testing.T
	name    string
	dir     string
	peer    string
	api     string // URL
	first   string
	down    bool // on purpose
	process *process

	// site is where it runs, nil for this process's own network; client is for its
	// API, and env is added to its environment.
	site   site
	client http.Client
	env    []string
}

// site is a network of its own in which a node runs.
type site interface {
	address() string
	enter() []string // the command that runs another one there
	dial(ctx context.Context, network, addr string) (net.Conn, error)
}

func newFleet(t *testing.T, dir string, n int) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: dir, token: rand.Text()}
	must(f.t, os.MkdirAll(dir, 0o700))
	var err error
	f.ca, err = raftnode.GenerateCA("chaos fleet", 24*time.Hour)
	must(f.t, err)
	must(f.t, os.WriteFile(filepath.Join(dir, "ca.pem"), f.ca.CertPEM, 0o600))
	must(f.t, os.WriteFile(filepath.Join(dir, "token"), []byte(f.token), 0o600))
	for range n {
		f.add(nil).start()
	}
	return f
}

// add makes one more node, which is not started.
func (f *fleet) add(on site) *node {
	f.t.Helper()
	r := &node{t: f.t, name: fmt.Sprintf("r%d", len(f.nodes)+1), peer: "127.0.0.1:0", api: "127.0.0.1:0", first: "bootstrap: true", site: on}
	r.client.Timeout = 10 * time.Second
	names := []string{"localhost", "127.0.0.1"}
	if on != nil {
		r.peer = on.address() + ":7071"
		r.client.Transport = &http.Transport{DialContext: on.dial}
		names = append(names, on.address())
	}
	r.dir = filepath.Join(f.dir, r.name)
	must(f.t, os.MkdirAll(r.dir, 0o700))
	cert, key, err := f.ca.Issue(r.name, 24*time.Hour, names...)
	must(f.t, err)
	must(f.t, os.WriteFile(filepath.Join(r.dir, "cert.pem"), cert, 0o600))
	must(f.t, os.WriteFile(filepath.Join(r.dir, "key.pem"), key, 0o600))
	if len(f.nodes) > 0 {
		r.first = fmt.Sprintf("join: [%q]", f.nodes[0].peer)
	}
	f.nodes = append(f.nodes, r)
	return r
}

func (f *fleet) processes() (all []*process) {
	for _, n := range f.nodes {
		all = append(all, n.process)
	}
	return all
}

func (f *fleet) describe() {
	for _, p := range f.processes() {
		f.t.Logf("--- %s:\n%s", p.name, p.tail())
	}
	for _, n := range f.nodes {
		if body, err := f.call(n, http.MethodGet, "/api/v1/status", ""); err == nil {
			f.t.Logf("--- status by %s:\n%s", n.name, body)
			break
		}
	}
}

// start starts the node, or starts it again at the addresses that it had.
func (n *node) start() {
	n.t.Helper()
	addresses := n.launch()
	n.peer = n.process.address(n.t, addresses, "peer")
	if api := "http://" + n.process.address(n.t, addresses, "api"); api != n.api {
		n.api = api // clients read it meanwhile: it is the same after the first start
	}
}

// launch starts the node's process, which writes its addresses to a file once it
// listens.
func (n *node) launch() (addresses string) {
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
	command := []string{replicator, "serve", "--config", file, "--address-file", addr}
	if n.site != nil {
		command = append(n.site.enter(), command...)
	}
	n.process = startCommand(n.t, n.dir, "node "+n.name, n.env, command)
	return addr
}

// call asks a node, with headers beyond those that every call has: names and values in
// turn.
func (f *fleet) call(n *node, method, path, body string, headers ...string) ([]byte, error) {
	req, err := http.NewRequest(method, n.api+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	for h := range slices.Chunk(headers, 2) {
		req.Header.Set(h[0], h[1])
	}
	req.Header.Set("Authorization", "Bearer "+f.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/yaml")
	}
	resp, err := n.client.Do(req)
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
func (f *fleet) anyNode(method, path, body string) ([]byte, error) {
	return f.anyOf(f.nodes, method, path, body)
}

// anyOf makes a call to whichever of some nodes answers it.
func (f *fleet) anyOf(nodes []*node, method, path, body string) (answer []byte, err error) {
	var errs []error
	for _, n := range nodes {
		if !n.process.alive() || n.process.guard != nil {
			continue
		}
		if answer, err = f.call(n, method, path, body); err == nil {
			return answer, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(append(errs, errors.New("no node answers"))...)
}

func (f *fleet) status() (api.Status, error) { return f.statusBy(f.nodes) }

func (f *fleet) statusBy(nodes []*node) (s api.Status, err error) {
	b, err := f.anyOf(nodes, http.MethodGet, "/api/v1/status", "")
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

// others are all nodes but one.
func (f *fleet) others(than *node) []*node {
	return slices.DeleteFunc(slices.Clone(f.nodes), func(n *node) bool { return n == than })
}

// members are the nodes as raft has them, by the word of one of some nodes.
func (f *fleet) members(nodes []*node) (m api.Members, err error) {
	b, err := f.anyOf(nodes, http.MethodGet, "/api/v1/fleet", "")
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}

// drain has a node's work moved and waits until it has none, or lets it have work
// again.
func (f *fleet) drain(n *node, on bool) {
	f.t.Helper()
	verb := map[bool]string{true: "drain", false: "undrain"}[on]
	eventually(f.t, recovery, verb+" "+n.name, func() error {
		_, err := f.anyNode(http.MethodPost, "/api/v1/fleet/nodes/"+n.name+"/"+verb, "")
		return err
	})
	if !on {
		return
	}
	eventually(f.t, recovery, n.name+" has no work", func() error {
		s, err := f.status()
		if err != nil {
			return err
		}
		for _, of := range s.Fleet.Nodes {
			if of.Name == n.name && (of.Works > 0 || !of.Draining) {
				return fmt.Errorf("it has %d works, draining: %v", of.Works, of.Draining)
			}
		}
		return nil
	})
}

// flow is the status of the flow.
func (f *fleet) flow() (api.FlowStatus, error) { return f.flowBy(f.nodes) }

// flowBy is the status of the flow, by the word of one of some nodes.
func (f *fleet) flowBy(nodes []*node) (api.FlowStatus, error) {
	s, err := f.statusBy(nodes)
	if err != nil {
		return api.FlowStatus{}, err
	}
	for _, f := range s.Flows {
		if f.Name == flowName {
			return f, nil
		}
	}
	return api.FlowStatus{}, errors.New("the status knows no such flow")
}

// translates asks for the image of an offset of us in eu.
func (f *fleet) translates(topic string, partition int32, at, want int64) {
	f.t.Helper()
	var got api.Translations
	eventually(f.t, 20*time.Second, "translate an offset", func() error {
		b, err := f.anyNode(http.MethodGet, fmt.Sprintf("/api/v1/offsets/us/%s/%d/%d?to=eu", topic, partition, at), "")
		if err == nil {
			err = json.Unmarshal(b, &got)
		}
		return err
	})
	if len(got.To) != 1 || got.To[0].Result.Offset != want || !got.To[0].Result.Exact {
		f.t.Errorf("us/%s/%d@%d translates to %+v, the ledger says %d", topic, partition, at, got.To, want)
	}
}
