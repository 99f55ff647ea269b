//go:build interop && unix

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/raftnode"
)

// recovery bounds every wait of the tests of offsets, on a machine that is busy.
const recovery = 4 * time.Minute

// child is a process of a test; it is killed with the test.
type child struct {
	t      *testing.T
	log    string
	exited chan struct{}
}

func startChild(t *testing.T, dir, name string, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{t: t, log: filepath.Join(dir, name+".log"), exited: make(chan struct{})}
	out, err := os.Create(c.log)
	must(t, name, err)
	defer out.Close() // the child has its own copy
	cmd.Stdout, cmd.Stderr = out, out
	must(t, name, cmd.Start())
	go func() { // ends with the child, for which the clean-up waits
		_ = cmd.Wait() // how it ended is in its log
		close(c.exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended already
		<-c.exited
		if t.Failed() {
			text, _ := os.ReadFile(c.log)
			t.Logf("last lines of %s:\n%s", name, text[max(0, len(text)-3000):])
		}
	})
	return c
}

// fleet is one replicator with its API.
type fleet struct {
	t       *testing.T
	program string
	dir     string
	api     string
	token   string
}

func startFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, program: replicator(t), dir: t.TempDir(), token: "token-of-the-interop-tests"}
	ca, err := raftnode.GenerateCA("interop", 24*time.Hour)
	must(t, "authority", err)
	cert, key, err := ca.Issue("r1", 24*time.Hour, "localhost", "127.0.0.1")
	must(t, "certificate", err)
	for name, text := range map[string][]byte{"ca.pem": ca.CertPEM, "cert.pem": cert, "key.pem": key, "token": []byte(f.token)} {
		must(t, name, os.WriteFile(f.file(name), text, 0o600))
	}
	conf := fmt.Sprintf(`name: r1
fleet: interop
dataDir: %q
peer: {address: "127.0.0.1:0", caFile: %q, certFile: %q, keyFile: %q, bootstrap: true}
api:
  address: "127.0.0.1:0"
  users:
    - {name: ops, role: admin, token: %q, principals: {us: "User:ANONYMOUS", eu: "User:ANONYMOUS"}}
`, f.file("data"), f.file("ca.pem"), f.file("cert.pem"), f.file("key.pem"), "${file:"+f.file("token")+"}")
	must(t, "configuration", os.WriteFile(f.file("node.yaml"), []byte(conf), 0o600))
	node := startChild(t, f.dir, "replicator", exec.Command(f.program, "serve", "--config", f.file("node.yaml"), "--address-file", f.file("address")))
	f.wait("the replicator's address", func() error {
		select {
		case <-node.exited:
			t.Fatal("the replicator has ended")
		default:
		}
		text, err := os.ReadFile(f.file("address"))
		for line := range strings.Lines(string(text)) {
			if at, ok := strings.CutPrefix(strings.TrimSpace(line), "api "); ok {
				f.api = "http://" + at
				return nil
			}
		}
		return errors.Join(err, errors.New("it is not there yet"))
	})
	return f
}

func (f *fleet) file(name string) string { return filepath.Join(f.dir, name) }

// wait polls until a condition holds.
func (f *fleet) wait(what string, holds func() error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), recovery)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			f.t.Fatalf("wait for %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// call asks the API and decodes its answer.
func (f *fleet) call(method, path, body string, out any) error {
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.api+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+f.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/yaml")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, text)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	return err
}

// declaredPair is the declarations of two clusters; others may follow.
func declaredPair(us, eu *endpoint) string {
	var text strings.Builder
	for name, e := range map[string]*endpoint{"us": us, "eu": eu} {
		fmt.Fprintf(&text, "apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: %s}\nspec: {bootstrapServers: [%q]}\n---\n", name, e.address())
	}
	return text.String()
}

func (f *fleet) apply(yaml string) {
	f.t.Helper()
	f.wait("the declarations to be taken", func() error { return f.call(http.MethodPost, "/api/v1/apply", yaml, nil) })
}

// endpoint is a cluster of a test and what its producers have written.
type endpoint struct {
	t   *testing.T
	cl  *kgo.Client
	adm *kadm.Client
	c   *flow.Cluster
}

func newEndpoint(t *testing.T, c *flow.Cluster) *endpoint {
	cl := newClient(t, c, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	return &endpoint{t, cl, kadm.NewClient(cl), c}
}

func (e *endpoint) address() string { return e.c.Spec.BootstrapServers[0] }

func (e *endpoint) topic(name string, configs map[string]string) {
	e.t.Helper()
	all := map[string]*string{}
	for k, v := range configs {
		all[k] = &v
	}
	_, err := e.adm.CreateTopic(e.t.Context(), 1, 1, all, name)
	must(e.t, "create topic "+name, err)
}

// commit sets a group's position without being a member.
func (e *endpoint) commit(group, topic string, at int64, metadata string) {
	e.t.Helper()
	os := kadm.Offsets{}
	os.Add(kadm.Offset{Topic: topic, At: at, LeaderEpoch: -1, Metadata: metadata})
	resp, err := e.adm.CommitOffsets(e.t.Context(), group, os)
	must(e.t, "commit", errors.Join(err, resp.Error()))
}

// committed is a group's position, -1 if it has none.
func (e *endpoint) committed(group, topic string) (int64, error) {
	resp, err := e.adm.FetchOffsets(e.t.Context(), group)
	if err != nil {
		return -1, err
	}
	if o, ok := resp.Lookup(topic, 0); ok {
		return o.At, o.Err
	}
	return -1, nil
}

// read is what a read_committed reader sees of a topic from the start: values by offset.
func (e *endpoint) read(topic string) (all []*kgo.Record) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), recovery)
	defer cancel()
	ends, err := e.adm.ListCommittedOffsets(ctx, topic)
	must(e.t, "ends", errors.Join(err, ends.Error()))
	end, _ := ends.Lookup(topic, 0)
	in := newClient(e.t, e.c, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	defer in.Close()
	for last := int64(-1); last < end.Offset-1; {
		fetches := in.PollFetches(ctx)
		must(e.t, "read "+topic, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			last = r.Offset
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
		})
		if fetches.NumRecords() == 0 && ctx.Err() == nil && len(all) > 0 && end.Offset > 0 {
			// What is behind the last record was aborted or compacted away.
			if resp, err := e.adm.ListCommittedOffsets(ctx, topic); err == nil {
				if now, _ := resp.Lookup(topic, 0); now.Offset == end.Offset {
					break
				}
			}
		}
	}
	return all
}

// jvm runs a class of Apache Kafka's or of ours, and returns what it prints.
func jvm(t *testing.T, classpath []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), recovery)
	defer cancel()
	all := append([]string{"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", strings.Join(classpath, ":")}, args...)
	cmd := exec.CommandContext(ctx, "java", all...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("java %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes()[max(0, stderr.Len()-2000):])
	}
	return stdout.String(), nil
}

// javaClasses compiles a program of ours once.
func javaClasses(t *testing.T, libs, file string) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "javac", "-nowarn", "-d", dir, "-cp", filepath.Join(libs, "*"), filepath.Join("java", file)).CombinedOutput()
	if err != nil {
		t.Fatalf("javac %s: %v\n%s", file, err, out)
	}
	return dir
}

func sortedLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}
