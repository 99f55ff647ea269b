package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/test/address"
)

// operated is nodes of this host, each a process, and the commands of whoever operates
// them, each a process too.
type operated struct {
	t   *testing.T
	dir string
	at  map[string]operatedAt
}

// operatedAt is where a node is.
type operatedAt struct {
	peer, api string
	config    string
	process   *exec.Cmd
	ended     chan error
	log       *bytes.Buffer // to be read when it has ended
}

const operatorToken = "operator-token-0123456789"

func newOperated(t *testing.T) *operated {
	t.Helper()
	noEnvironment(t)
	o := &operated{t: t, dir: t.TempDir(), at: map[string]operatedAt{}}
	o.write("ops-token", operatorToken)
	return o
}

func (o *operated) path(name string) string { return filepath.Join(o.dir, name) }

func (o *operated) write(name, text string) {
	o.t.Helper()
	if err := os.WriteFile(o.path(name), []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// place gives a node addresses, and its file with some more lines about its peers.
func (o *operated) place(name string) {
	o.at[name] = operatedAt{peer: address.Reserve(o.t), api: address.Reserve(o.t), config: o.path(name + ".yaml")}
}

func (o *operated) configure(name, peers string) {
	o.t.Helper()
	at := o.at[name]
	o.write(name+".yaml", fmt.Sprintf("name: %s\nfleet: life\ndataDir: %s\npeer: {address: %q, %s}\napi:\n  address: %q\n  users: [{name: ops, role: admin, token: \"${file:%s}\"}]\n",
		name, o.path(name+".data"), at.peer, peers, at.api, o.path("ops-token")))
}

func (o *operated) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(o.t.Context(), os.Args[0], args...)
	c.Env = append(os.Environ(), asProgram+"=1", "WAYBILL_TOKEN="+operatorToken)
	return c
}

// serve starts a node.
func (o *operated) serve(name string) {
	o.t.Helper()
	at := o.at[name]
	at.process, at.ended, at.log = o.command("serve", "--config", at.config), make(chan error, 1), new(bytes.Buffer)
	at.process.Stderr = at.log
	if err := at.process.Start(); err != nil {
		o.t.Fatal(err)
	}
	go func() { at.ended <- at.process.Wait(); close(at.ended) }()
	o.at[name] = at
	o.t.Cleanup(func() { _ = at.process.Process.Kill(); <-at.ended })
}

// kill ends a node at once.
func (o *operated) kill(name string) {
	_ = o.at[name].process.Process.Kill()
	<-o.at[name].ended
}

// wiped empties the folder of a node that has ended.
func (o *operated) wiped(name string) {
	o.t.Helper()
	if err := os.RemoveAll(o.path(name + ".data")); err != nil {
		o.t.Fatal(err)
	}
}

// endsWith waits for the end of a node, which its log explains.
func (o *operated) endsWith(name string, code int, want string) {
	o.t.Helper()
	select {
	case <-o.at[name].ended:
	case <-time.After(30 * time.Second):
		o.t.Fatalf("%s has not ended", name)
	}
	if got := o.at[name].process.ProcessState.ExitCode(); got != code || !strings.Contains(o.at[name].log.String(), want) {
		o.t.Errorf("%s ended with %d, want %d and %q:\n%s", name, got, code, want, o.at[name].log)
	}
}

// run is one command, asked of a node unless that is empty.
func (o *operated) run(node string, args ...string) outcome {
	o.t.Helper()
	if node != "" {
		args = append(args, "--server", "http://"+o.at[node].api)
	}
	c := o.command(args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		o.t.Fatal(err)
	}
	return outcome{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

// must is a command that is carried out, and says something.
func (o *operated) must(says, node string, args ...string) {
	o.t.Helper()
	o.ends(exitOK, says, node, args...)
}

// ends is a command that ends with a code, and says something.
func (o *operated) ends(code int, says, node string, args ...string) {
	o.t.Helper()
	if got := o.run(node, args...); got.code != code || !strings.Contains(got.stdout+got.stderr, says) {
		o.t.Fatalf("%s: got %d\n%s%s\nwant %d, %q", strings.Join(args, " "), got.code, got.stdout, got.stderr, code, says)
	}
}

// status waits until a node says of the fleet what is wanted.
func (o *operated) status(node, what string, want func(api.Members) bool) (m api.Members) {
	o.t.Helper()
	var last outcome
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); pause(o.t.Context(), 50*time.Millisecond) {
		last = o.run(node, "fleet", "status", "-o", "json")
		m = api.Members{}
		if last.code == exitOK && json.Unmarshal([]byte(last.stdout), &m) == nil && want(m) {
			return m
		}
	}
	o.t.Fatalf("%s: %+v", what, last)
	return m
}

func votersAnswer(n int) func(api.Members) bool {
	return func(m api.Members) bool {
		return m.Voters == n && len(m.Nodes) == n && m.Leader != "" && !slices.ContainsFunc(m.Nodes, func(n api.Member) bool { return !n.Answers })
	}
}

// grow makes a fleet of three: one that begins it, one with the token in its file, and one
// that got its certificate beforehand.
func (o *operated) grow() {
	o.t.Helper()
	for _, name := range []string{"r1", "r2", "r3"} {
		o.place(name)
	}
	o.configure("r1", fmt.Sprintf("bootstrap: true, join: [%q, %q]", o.at["r2"].peer, o.at["r3"].peer))
	o.serve("r1")
	o.status("r1", "a fleet of one", votersAnswer(1))
	o.must("lets one node in", "r1", "fleet", "token", "create", "--out", o.path("r2.token"))
	o.configure("r2", fmt.Sprintf("join: [%q], tokenFile: %s", o.at["r1"].peer, o.path("r2.token")))
	o.serve("r2")
	o.configure("r3", fmt.Sprintf("join: [%q]", o.at["r1"].peer))
	o.must("lets one node in", "r1", "fleet", "token", "create", "--out", o.path("r3.token"))
	o.must("r3 has a certificate of fleet", "", "fleet", "join", "--config", o.at["r3"].config, "--token-file", o.path("r3.token"))
	o.serve("r3")
	o.status("r1", "three voters", votersAnswer(3))
}

// diskOf is the disk that status shows.
func diskOf(m api.Members, name string) string {
	for _, n := range m.Nodes {
		if n.Name == name {
			return n.Disk
		}
	}
	return ""
}

// TestAnOperatorsFleet is the life of a fleet by commands alone.
func TestAnOperatorsFleet(t *testing.T) {
	o := newOperated(t)
	o.grow()

	// Who is not to be let in, and what of.
	o.place("x")
	o.configure("x", fmt.Sprintf("join: [%q]", o.at["r1"].peer))
	join := func(token string) []string {
		return []string{"fleet", "join", "--config", o.at["x"].config, "--token-file", o.path(token)}
	}
	o.write("garbage.token", "waybill-join-AAAA")
	o.ends(exitFailed, "the join token is not whole", "", join("garbage.token")...)
	o.ends(exitFailed, `the join token has been used, by node "r2"`, "", join("r2.token")...)
	o.place("o1")
	o.configure("o1", "bootstrap: true")
	o.serve("o1")
	o.status("o1", "another fleet", votersAnswer(1))
	o.must("lets one node in", "o1", "fleet", "token", "create", "--out", o.path("other.token"))
	o.ends(exitFailed, "belongs to another fleet than the token", "", join("other.token")...)
	o.kill("o1")
	o.configure("o1", fmt.Sprintf("join: [%q]", o.at["r1"].peer)) // with the folder of its own fleet
	o.serve("o1")
	o.status("r1", "still three", votersAnswer(3))
	o.kill("o1")

	// Maintenance.
	o.must("r2 owns nothing", "r1", "fleet", "drain", "r2", "--wait", "--reason", "new disk")
	o.must("r2 may be given work again", "r3", "fleet", "undrain", "r2")
	o.must("", "r1", "fleet", "transfer", "r2")
	before := o.status("r3", "r2 leads", func(m api.Members) bool { return m.Leader == "r2" })
	o.ends(exitFailed, "not a member of the group", "r1", "fleet", "transfer", "nobody")
	o.must("fleet "+before.ID, "r3", "fleet", "backup", "--out", o.path("backup"))

	// Another r3, and the removal of the first once more.
	seen := diskOf(before, "r3")
	remove := []string{"fleet", "remove", "r3", "--disk", seen}
	o.must("r3 is no member any more", "r1", remove...)
	o.endsWith("r3", exitFailed, "removed")
	o.ends(exitFailed, "r3", "r1", remove...) // there is none
	o.wiped("r3")
	o.must("lets one node in", "r1", "fleet", "token", "create", "--out", o.path("r3.token"))
	o.must("r3 has a certificate", "", "fleet", "join", "--config", o.at["r3"].config, "--token-file", o.path("r3.token"))
	o.serve("r3")
	o.status("r1", "three again", votersAnswer(3))
	o.ends(exitConflict, "it is another node of that name", "r1", remove...)
	o.status("r1", "three still", func(m api.Members) bool { return votersAnswer(3)(m) && diskOf(m, "r3") != seen })
	o.recorded()

	// The first node loses its folder; its file still says that it begins the fleet.
	o.kill("r1")
	o.wiped("r1")
	o.serve("r1")
	o.endsWith("r1", exitConflict, "take bootstrap: true out of its file")
	o.kill("r2")
	o.kill("r3")
	o.restored(before)
}

// recorded looks at the audit trail for what was done.
func (o *operated) recorded() {
	o.t.Helper()
	r := o.run("r2", "audit", "-o", "json", "--since", "1h")
	var page api.AuditPage
	if err := json.Unmarshal([]byte(r.stdout), &page); err != nil {
		o.t.Fatalf("%+v: %v", r, err)
	}
	count := map[string]int{}
	for _, e := range page.Entries {
		count[fmt.Sprint(e.Source, " ", e.Operation, " ", e.Status)]++
		if e.Operation == "join-fleet" && (!strings.HasPrefix(e.User, "token ") || e.Address != "127.0.0.1") {
			o.t.Errorf("a join is told as %+v", e)
		}
	}
	for what, want := range map[string]int{
		"fleet join-fleet 200": 3, "node join-fleet 403": 1, "fleet transfer-leadership 200": 1, "node transfer-leadership 404": 1,
		"fleet create-token 200": 3, "fleet drain-node 200": 1, "fleet undrain-node 200": 1, "node remove-node 409": 1,
	} {
		if count[what] != want {
			o.t.Errorf("%s: %d times, want %d, of %v", what, count[what], want, count)
		}
	}
}

// restored begins a fleet anew on r1, whose file is as it was.
func (o *operated) restored(old api.Members) {
	o.t.Helper()
	damaged, err := os.ReadFile(o.path("backup"))
	if err != nil {
		o.t.Fatal(err)
	}
	b, _, err := cluster.ReadBackup(damaged)
	if err != nil {
		o.t.Fatal(err)
	}
	o.write("damaged", strings.Replace(string(damaged), fmt.Sprintf(`"revision":%d,`, b.Revision), fmt.Sprintf(`"revision":%d,`, b.Revision-1), 1))
	restore := []string{"fleet", "restore", "--config", o.at["r1"].config, "--force", "--from"}
	o.ends(exitInvalid, "it was changed or damaged", "", append(restore, o.path("damaged"))...)
	o.must("that of a new fleet now", "", append(restore, o.path("backup"))...)
	o.serve("r1")
	now := o.status("r1", "the restored fleet", votersAnswer(1))
	if now.ID == old.ID || now.Revision <= old.Revision+1<<32 {
		o.t.Errorf("the restored fleet is %s at %d, the old one was %s at %d", now.ID, now.Revision, old.ID, old.Revision)
	}
	o.serve("r2") // of the old fleet
	o.must("lets one node in", "r1", "fleet", "token", "create", "--out", o.path("r3.token"))
	o.wiped("r3")
	o.must("r3 has a certificate of fleet "+now.ID, "", "fleet", "join", "--config", o.at["r3"].config, "--token-file", o.path("r3.token"))
	o.serve("r3")
	o.status("r3", "two, and none of the old fleet", votersAnswer(2))
}
