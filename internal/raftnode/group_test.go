package raftnode

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// notes is a Machine whose state is the commands so far, joined by commas.
type notes struct{}

func (notes) Initial() string { return "" }

func (notes) Check(_ string, command []byte) error {
	if string(command) == "bad" {
		return errors.New("no")
	}
	return nil
}

func (notes) Apply(s string, _ uint64, command []byte) (string, []byte, error) {
	if string(command) == "from the future" {
		return s, nil, errors.New("unknown command")
	}
	if s != "" {
		s += ","
	}
	s += string(command)
	return s, []byte(s), nil
}

func (notes) Encode(s string) ([]byte, error) { return []byte(s), nil }

func (notes) Decode(b []byte) (string, error) {
	if string(b) == "from the future" {
		return "", errors.New("unknown snapshot")
	}
	return string(b), nil
}

// testNode is a running Node and its replica.
type testNode struct {
	*Node
	replica *Replica[string]
	stop    context.CancelFunc
	done    chan struct{}
	err     error // of Run, after done
}

// end stops the node and returns what Run returned.
func (n *testNode) end() error {
	n.stop()
	<-n.done
	return n.err
}

// group makes nodes that trust each other.
type group struct {
	t   *testing.T
	ca  *CA
	net *MemoryNetwork // nil: TCP on loopback
	// edit changes a node's configuration before it is opened.
	edit func(*Config)
}

func newGroup(t *testing.T, network *MemoryNetwork) *group {
	t.Helper()
	ca, err := GenerateCA("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &group{t: t, ca: ca, net: network}
}

func (g *group) credentials(id string) *Credentials {
	g.t.Helper()
	cert, key, err := g.ca.Issue(id, time.Hour, "127.0.0.1", "elsewhere")
	if err != nil {
		g.t.Fatal(err)
	}
	c, err := ParseCredentials(g.ca.CertPEM, cert, key)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// config of the node id; the first one bootstraps, the others join it.
func (g *group) config(id, dir string, first *testNode) Config {
	c := DefaultConfig()
	c.ID, c.Dir = id, dir
	c.Listen = "127.0.0.1:0"
	if g.net != nil {
		c.Network, c.Listen = g.net.Host(id), id+":7"
	}
	c.Credentials = g.credentials(id)
	c.Bootstrap = first == nil
	if first != nil {
		c.Join = []string{first.Addr()}
	}
	c.Logger = slog.New(slog.DiscardHandler)
	if os.Getenv("RAFT_LOG") != "" {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", id)
	}
	if g.edit != nil {
		g.edit(&c)
	}
	return c
}

func (g *group) start(c Config) *testNode {
	g.t.Helper()
	n, err := g.open(c)
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

// startOn starts a node after change was made to it.
func (g *group) startOn(c Config, change func(*Node)) *testNode {
	g.t.Helper()
	n, err := g.openOn(c, change)
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

func (g *group) open(c Config) (*testNode, error) { return g.openOn(c, func(*Node) {}) }

func (g *group) openOn(c Config, change func(*Node)) (*testNode, error) {
	n := &testNode{replica: NewReplica(notes{}), done: make(chan struct{})}
	c.Replica = n.replica
	var err error
	if n.Node, err = Open(c); err != nil {
		return nil, err
	}
	change(n.Node)
	var ctx context.Context
	ctx, n.stop = context.WithCancel(context.Background())
	go func() {
		defer close(n.done)
		n.err = n.Run(ctx)
	}()
	g.t.Cleanup(func() { _ = n.end() })
	return n, nil
}

// three starts three nodes and waits until all are members.
func (g *group) three() []*testNode {
	g.t.Helper()
	a := g.start(g.config("a", "", nil))
	nodes := []*testNode{a, g.start(g.config("b", "", a)), g.start(g.config("c", "", a))}
	g.await("three voters everywhere", func() bool { return g.voters(nodes...) == 3 })
	return nodes
}

// voters is how many members vote, by the word of all nodes; -1 if they differ.
func (g *group) voters(nodes ...*testNode) int {
	g.t.Helper()
	count := -1
	for i, n := range nodes {
		all, err := n.Members(g.t.Context())
		if err != nil {
			return -1
		}
		voters := 0
		for _, m := range all {
			if m.Role == Voter {
				voters++
			}
		}
		if i > 0 && voters != count {
			return -1
		}
		count = voters
	}
	return count
}

// await polls until ok, for at most 20 s.
func (g *group) await(what string, ok func() bool) {
	g.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			g.t.Fatalf("not within 20 s: %s", what)
		}
		<-tick.C
	}
}

func (g *group) apply(n *testNode, command string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 15*time.Second)
	defer cancel()
	got, err := n.Apply(ctx, []byte(command))
	if err != nil {
		g.t.Fatalf("apply %q on %s: %v", command, n.ID(), err)
	}
	if !strings.HasSuffix(string(got.Result), command) || got.Index == 0 {
		g.t.Fatalf("apply %q: got result %q at %d", command, got.Result, got.Index)
	}
	if state := n.replica.State(); !strings.Contains(state, command) {
		g.t.Fatalf("after apply %q on %s its state is %q", command, n.ID(), state)
	}
}

func leaderOf(nodes []*testNode) *testNode {
	for _, n := range nodes {
		if n.Status().Leads {
			return n
		}
	}
	return nil
}

func others(nodes []*testNode, not *testNode) []*testNode {
	var rest []*testNode
	for _, n := range nodes {
		if n != not {
			rest = append(rest, n)
		}
	}
	return rest
}

// recorder is a slog handler's output for tests that look at the log.
type recorder struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// namedConn notes when it is closed.
type namedConn struct {
	net.Conn
	name   string
	closed *[]string
}

func (c *namedConn) Close() error {
	*c.closed = append(*c.closed, c.name)
	return nil
}

// enrolBy sends a body to where nodes ask for certificates, and returns the status
// of the answer, 0 if there is none.
func (g *group) enrolBy(from Network, to *testNode, token Token, body io.Reader) int {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			raw, err := from.Dial(ctx, to.Addr())
			if err != nil {
				return nil, err
			}
			secure := tls.Client(raw, pinned(token.Authority))
			return plainConn{secure}, secure.HandshakeContext(ctx)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+to.Addr()+"/enrol", body)
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// slow gives a byte each second.
type slow struct{}

func (slow) Read(b []byte) (int, error) {
	time.Sleep(time.Second)
	b[0] = ' '
	return 1, nil
}
