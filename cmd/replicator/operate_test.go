package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/raftnode"
)

// Texts that must be in no bundle, whatever they were given for.
const (
	seedToken    = "s33d-token-0123456789"
	seedNewToken = "s33d-second-token-987"
	seedPassword = `s33d-pass"word/&é`
	seedInURL    = "s33d-in-a-url"
	seedTried    = "s33d-tried-by-somebody"
	seedJoin     = "waybill-join-s33dAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8_-0123456789"
)

// service is a node as systemd runs it: a process with a notify socket.
type service struct {
	t      *testing.T
	dir    string
	notify *net.UnixConn
	cmd    *exec.Cmd
	log    bytes.Buffer
	url    string
	states []string // all that it has told
}

func (s *service) write(name, text string) string {
	s.t.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

func startService(t *testing.T) *service {
	t.Helper()
	noEnvironment(t)
	s := &service{t: t, dir: t.TempDir()}
	ca, err := raftnode.GenerateCA("fleet", time.Hour*24*365)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("r1", time.Hour*24*365, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	s.write("token", seedToken)
	s.write("password", seedPassword)
	config := s.write("node.yaml", fmt.Sprintf(`name: r1
fleet: main
dataDir: %s
peer: {address: "127.0.0.1:0", caFile: %s, certFile: %s, keyFile: %s, bootstrap: true}
api:
  address: 127.0.0.1:0
  users: [{name: ops, role: admin, token: "${file:%s}"}]
`, filepath.Join(s.dir, "data"), s.write("ca.pem", string(ca.CertPEM)), s.write("cert.pem", string(cert)), s.write("key.pem", string(key)), filepath.Join(s.dir, "token")))
	socket := filepath.Join(s.dir, "notify")
	if s.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.CommandContext(t.Context(), os.Args[0], "serve", "--config", config, "--address-file", filepath.Join(s.dir, "address"), "--log-level", "debug")
	s.cmd.Env = append(os.Environ(), asProgram+"=1", "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=1500000", "SEED_IN_ENVIRONMENT="+seedPassword)
	s.cmd.Stderr = &s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait(); _ = s.notify.Close() })
	s.told("READY=1")
	addresses, err := os.ReadFile(filepath.Join(s.dir, "address"))
	if err != nil {
		t.Fatal(err)
	}
	_, address, _ := strings.Cut(string(addresses), "api ")
	s.url = "http://" + strings.TrimSpace(address)
	return s
}

// told waits until the node tells the supervisor something.
func (s *service) told(want string) {
	s.t.Helper()
	if err := s.notify.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, 4096)
	for {
		n, err := s.notify.Read(b)
		if err != nil {
			s.t.Fatalf("%s was not told, but %q: %v\n%s", want, s.states, err, s.log.String())
		}
		state := string(b[:n])
		s.states = append(s.states, state)
		if strings.Contains(state, want) {
			return
		}
	}
}

func (s *service) run(token string, args ...string) outcome {
	s.t.Helper()
	s.t.Setenv("WAYBILL_TOKEN", token)
	return replicatorUntil(s.t.Context(), strings.NewReader(""), append(args, "--server", s.url)...)
}

// TestANodeUnderASupervisor is the life of a real process: it says when it has caught
// up, that it lives, that it reads its users again, and that it stops.
func TestANodeUnderASupervisor(t *testing.T) {
	s := startService(t)
	if !strings.HasPrefix(s.states[0], "STATUS=starts: ") {
		t.Errorf("told at first: %q", s.states[0])
	}
	if err := readyz(s.url); err != nil {
		t.Errorf("it has told that it is ready, and /readyz says %v", err)
	}
	s.told("WATCHDOG=1")
	s.told("WATCHDOG=1")

	s.write("token", seedNewToken)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.told("RELOADING=1\nMONOTONIC_USEC=")
	s.told("READY=1")
	if r := s.run(seedNewToken, "get"); r.code != exitOK {
		t.Errorf("with the new token: %+v", r)
	}
	if r := s.run(seedToken, "get"); r.code != exitFailed || !strings.Contains(r.stderr, "no user of this node has that bearer token") {
		t.Errorf("with the old token: %+v", r)
	}
	s.write("node.yaml", "nonsense: true\n")
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.told("RELOADING=1")
	s.told("READY=1")
	if r := s.run(seedNewToken, "get"); r.code != exitOK {
		t.Errorf("after a file that is wrong: %+v", r)
	}

	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.told("STOPPING=1")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func readyz(url string) error {
	fleet := server{url: url, timeout: 10 * time.Second}
	return fleet.call(context.Background(), "GET", "/readyz", nil, nil)
}

// TestNoSecretIsInASupportBundle seeds secrets wherever somebody may have put one.
func TestNoSecretIsInASupportBundle(t *testing.T) {
	s := startService(t)
	objects := s.write("objects.yaml", fmt.Sprintf(`apiVersion: waybill/v1
kind: Cluster
metadata: {name: us, annotations: {dashboard: "https://admin:%[1]s@grafana.example/d", note: "password: %[1]s", joined: "let in with %[3]s"}}
spec:
  bootstrapServers: ["127.0.0.1:1"]
  sasl: {mechanism: SCRAM-SHA-512, username: waybill, password: "${file:%[2]s}"}
---
apiVersion: waybill/v1
kind: Cluster
metadata: {name: eu}
spec:
  bootstrapServers: ["127.0.0.1:1"]
  sasl: {mechanism: SCRAM-SHA-512, username: waybill, password: "${env:SEED_IN_ENVIRONMENT}"}
`, seedInURL, filepath.Join(s.dir, "password"), seedJoin))
	if r := s.run(seedToken, "apply", "-f", objects); r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	s.run(seedTried, "delete", "cluster", "us")
	for _, text := range []string{seedPassword, seedToken, seedTried, seedJoin} { // in errors and in the trail
		s.run(seedToken, "delete", "cluster", "token="+text)
		s.run(seedToken, "runbook", "run", "x", "--reason", "password="+text)
	}
	for _, text := range []string{seedPassword, seedToken, seedJoin} { // in what a node logs
		if r := s.run(seedToken, "fleet", "drain", "r1", "--force", "--reason", "because of "+text); r.code != exitOK {
			t.Fatalf("%+v", r)
		}
		if r := s.run(seedToken, "fleet", "undrain", "r1"); r.code != exitOK {
			t.Fatalf("%+v", r)
		}
	}
	dir := t.TempDir()
	r := s.run(seedToken, "support-bundle", "--all", "--dir", dir)
	if r.code != exitOK || !strings.Contains(r.stdout, "waybill-r1-") {
		t.Fatalf("%+v", r)
	}
	files := unpacked(t, dir)
	for _, want := range []string{"README.txt", "version.json", "status.json", "state.json", "raft.json", "node.json", "metrics.txt", "doctor.json", "log.txt", "goroutines.txt", "heap.pprof"} {
		if len(files["waybill-r1/"+want]) == 0 {
			t.Errorf("%s is missing or empty, of %v; errors: %s", want, sortedNames(files), files["waybill-r1/errors.txt"])
		}
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	quoted, err := json.Marshal(seedPassword)
	if err != nil {
		t.Fatal(err)
	}
	secret := []string{seedToken, seedTried, seedPassword, seedInURL, string(quoted[1 : len(quoted)-1]), "s33d", strings.Split(string(key), "\n")[1]}
	for name, content := range files {
		for _, text := range secret {
			if bytes.Contains(content, []byte(text)) {
				t.Errorf("%s holds %q: ...%s...", name, text, around(content, text))
			}
		}
	}
	for file, want := range map[string]string{
		"node.json": "${file:" + filepath.Join(s.dir, "token") + "}", "state.json": redacted + "@grafana.example", "doctor.json": "connection refused", "log.txt": "ready: caught up",
	} {
		if !bytes.Contains(files["waybill-r1/"+file], []byte(want)) {
			t.Errorf("%s does not hold %s: %.2000s", file, want, files["waybill-r1/"+file])
		}
	}

	// The trail itself, and doctor, at the same node.
	if r := s.run(seedToken, "doctor", "-q"); r.code != exitNotMet || !strings.Contains(r.stdout, "connection refused") || !strings.Contains(r.stdout, "to do: ") || strings.Contains(r.stdout, "\nok ") {
		t.Errorf("%+v", r)
	}
	var page api.AuditPage
	if r := s.run(seedToken, "audit", "-o", "json"); json.Unmarshal([]byte(r.stdout), &page) != nil || !slices.ContainsFunc(page.Entries, func(e api.AuditEntry) bool { return e.Operation == "support-bundle" && e.User == "ops" }) {
		t.Errorf("who took a bundle is not in the trail: %+v", r)
	}

	// What the node has written to its own log.
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.told("STOPPING=1") // reads what the node has told, which else waits for room
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	for _, text := range secret {
		if bytes.Contains(s.log.Bytes(), []byte(text)) {
			t.Errorf("the log holds %q: ...%s...", text, around(s.log.Bytes(), text))
		}
	}
	if n := bytes.Count(s.log.Bytes(), []byte("because of "+redacted)); n != 3 {
		t.Errorf("the log has %d reasons with a secret taken out, want 3", n)
	}
}

func around(content []byte, text string) []byte {
	i := bytes.Index(content, []byte(text))
	return content[max(0, i-60):min(len(content), i+len(text)+20)]
}

// unpacked are the files of the one bundle in a folder.
func unpacked(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	bundles, err := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
	if err != nil || len(bundles) != 1 {
		t.Fatalf("%v, %v", bundles, err)
	}
	f, err := os.Open(bundles[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for archive := tar.NewReader(zipped); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

func TestScrubbing(t *testing.T) {
	s := newScrubber([]string{`a"b/c&d`, "hunter22", "x"})
	for text, want := range map[string]string{
		`plain hunter22 end`:                           `plain [redacted] end`,
		`{"p":"a\"b/c\u0026d"}`:                        `{"p":"[redacted]"}`,
		`{"p":"a\"b/c&d"} log="a\"b/c&d"`:              `{"p":"[redacted]"} log="[redacted]"`,
		`?p=a%22b%2Fc%26d`:                             `?p=[redacted]`,
		`Authorization: Basic aHVudGVyMjI=`:            `Authorization: Basic [redacted]`,
		`Bearer abcdefghijkl`:                          `Bearer [redacted]`,
		`postgres://u:p@host/db https://host/path`:     `postgres://[redacted]@host/db https://host/path`,
		`password: "xyz" token=abc client_secret='q'`:  `password: "[redacted]" token=[redacted] client_secret='[redacted]'`,
		`"token": "${file:/run/t}" password: ${env:P}`: `"token": "${file:/run/t}" password: ${env:P}`, // references are no secrets

		"-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nrest": redacted + "\nrest",

		`x marks the spot`: `x marks the spot`,

		`let in with ` + seedJoin + `, by hand`:                             `let in with [redacted], by hand`,
		`{"token":"` + seedJoin + `"} "` + seedJoin + `" /join/` + seedJoin: `{"token":"[redacted]"} "[redacted]" /join/[redacted]`,
		`read the waybill-join documentation`:                               `read the waybill-join documentation`,
	} {
		if got := string(s.clean([]byte(text))); got != want {
			t.Errorf("%s\nbecame %s\nwant   %s", text, got, want)
		}
	}
}

// What a log is to leave out changes while it is written.
func TestALogKnowsNewSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		clean := newCleanLog(&out, []api.User{{Name: "ops", Token: "first-token"}})
		var logs logging
		log := logs.logger(clean)
		said := func(text string) string {
			out.Reset()
			log.Info("refused", "error", fmt.Errorf("dial: %w", errors.New("said "+text)))
			return out.String()
		}
		password := "rotated-1"
		for _, step := range []struct {
			what, text string
			change     func()
			hidden     bool
		}{
			{"the token of a user", "first-token", func() {}, true},
			{"what is no secret yet", "rotated-1", func() {}, false},
			{"what is one now", "rotated-1", func() { clean.follow(func() []string { return []string{password} }) }, true},
			{"another that is one since a moment ago", "rotated-2", func() { password = "rotated-2" }, false},
			{"when it is declared", "rotated-2", clean.again, true},
			{"when its file has changed", "rotated-3", func() { password = "rotated-3"; time.Sleep(secretsFresh + 1) }, true},
			{"a join token that nobody here has made", seedJoin, func() {}, true},
		} {
			step.change()
			if got := said(step.text); strings.Contains(got, step.text) == step.hidden || !strings.Contains(got, "dial: said ") {
				t.Errorf("%s: logged %q", step.what, got)
			}
		}
	})
}

func TestTheEndOfTheLogIsKept(t *testing.T) {
	r := newRecent(100)
	for i := range 1000 {
		if _, err := fmt.Fprintf(r, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	text := string(r.Bytes())
	if len(text) > 100 || !strings.HasSuffix(text, "line 999\n") || !strings.HasPrefix(text, "line ") {
		t.Errorf("%q", text)
	}
	if n, err := r.Write(bytes.Repeat([]byte("x"), 1000)); n != 1000 || err != nil || len(r.Bytes()) > 100 {
		t.Errorf("a long line: %d, %v, %d bytes kept", n, err, len(r.Bytes()))
	}
}
