//go:build interop

package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/cmd/replicator/demo"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// flowVersions are the Apache Kafkas that the flows meet.
func flowVersions() []string {
	if os.Getenv("WAYBILL_KAFKA_VERSIONS") != "" {
		return versions()
	}
	return []string{"4.1.0"}
}

// The story of the demonstration, all of its acts and checks, with an Apache
// Kafka for one of the two datacenters: produce, mirror, move groups, kill the
// busiest node under load, ask for lineage, fail over by runbook, compare. Then
// the Apache Kafka is killed under load and comes back.

func TestFlowBundledToApacheKafka(t *testing.T) {
	for _, v := range flowVersions() {
		t.Run(v, func(t *testing.T) {
			b, eu := external(t, v, demo.DestinationACLs())
			playFlow(t, b, func(o *demo.Options) { o.EU = eu })
		})
	}
}

func TestFlowApacheKafkaToBundled(t *testing.T) {
	for _, v := range flowVersions() {
		t.Run(v, func(t *testing.T) {
			b, us := external(t, v, demo.SourceACLs())
			playFlow(t, b, func(o *demo.Options) { o.US = us })
		})
	}
}

// TestFlowApacheKafkaToApacheKafka has the bundled broker on neither side.
func TestFlowApacheKafkaToApacheKafka(t *testing.T) {
	for _, v := range flowVersions() {
		t.Run(v, func(t *testing.T) {
			_, us := external(t, v, demo.SourceACLs())
			b, eu := external(t, v, demo.DestinationACLs())
			playFlow(t, b, func(o *demo.Options) { o.US, o.EU = us, eu })
		})
	}
}

func playFlow(t *testing.T, b *apachekafka.Broker, where func(*demo.Options)) {
	opts := demo.DefaultOptions()
	opts.Program, opts.Dir, opts.Progress = replicator(t), filepath.Join(t.TempDir(), "demo"), t.Output()
	where(&opts)
	opts.Stay = func(ctx context.Context, r *demo.Report) { brokerDies(ctx, t, b, opts.Program, r) }
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, opts.Dir)
		}
	})
	r, err := demo.Run(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Failures {
		t.Error(f)
	}
	if len(r.Groups) != 2 || r.Produced == 0 || r.Mirrored != r.Produced || r.CopiesMoved == 0 || r.Runbook.State != "completed" {
		t.Errorf("the story left something out: %+v", r)
	}
	for _, why := range r.Lineage.Unknown {
		t.Logf("lineage cannot tell: %s", why)
	}
	t.Logf("%d produced, %d mirrored, %d missing, %d doubled, %d reordered, %d altered; %d events/s under the kill; takeover of %d copies in %.1f s; runbook in %.1f s; the story took %.1f s",
		r.Produced, r.Mirrored, r.Missing, r.Duplicated, r.Reordered, r.Mismatched+r.Phantom,
		r.LoadPerSecond, r.CopiesMoved, r.FailoverSeconds, r.Runbook.Seconds, r.Seconds)
}

// external is an Apache Kafka with the users of the story and the given rules.
func external(t *testing.T, version string, rules []string) (*apachekafka.Broker, *demo.External) {
	t.Helper()
	users := demo.Users()
	if users[0] != apachekafka.Admin {
		t.Fatalf("the story's super user is %s, the broker's %s", users[0], apachekafka.Admin)
	}
	b := apachekafka.Start(t, apachekafka.Config{Version: version, Secure: true, Users: users[1:]})
	must(t, "create ACLs", createACLs(t.Context(), newClient(t, b.Cluster(apachekafka.Admin)), rules))
	e := &demo.External{Address: b.Addr, CAFile: b.CAFile(), PasswordFiles: map[string]string{}}
	for _, u := range users {
		e.PasswordFiles[u] = b.PasswordFile(u)
	}
	return b, e
}

// createACLs gives the rules to a broker, and returns when it has them: it learns
// of them a moment later than its controller.
func createACLs(ctx context.Context, cl *kgo.Client, rules []string) error {
	req := kmsg.NewPtrCreateACLsRequest()
	for _, text := range rules {
		r, err := acl.ParseRule(text)
		if err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType = kmsg.ACLResourceType(r.ResourceType), r.ResourceName, kmsg.ACLResourcePatternType(r.PatternType)
		c.Principal, c.Host, c.Operation, c.PermissionType = r.Principal, r.Host, kmsg.ACLOperation(r.Operation), kmsg.ACLPermissionType(r.Permission)
		req.Creations = append(req.Creations, c)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	for i, r := range resp.Results {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return fmt.Errorf("%q: %w", rules[i], err)
		}
	}
	return poll(ctx, func() (bool, error) {
		have, err := countACLs(ctx, cl)
		return have == len(rules), err
	})
}

func countACLs(ctx context.Context, cl *kgo.Client) (n int, err error) {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return 0, fmt.Errorf("describe ACLs: %w", err)
	}
	for _, r := range resp.Resources {
		n += len(r.ACLs)
	}
	return n, nil
}

// replicator builds the program, once for all tests: the build cache keeps it.
func replicator(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "replicator")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../../cmd/replicator").CombinedOutput(); err != nil {
		t.Fatalf("build the replicator: %v\n%s", err, out)
	}
	return path
}

// showLogs prints how each child's log ends: its warnings and errors.
func showLogs(t *testing.T, dir string) {
	t.Helper()
	const most = 40
	files, _ := filepath.Glob(filepath.Join(dir, "*", "*.log"))
	nodes, _ := filepath.Glob(filepath.Join(dir, "*", "*", "*.log"))
	for _, f := range append(files, nodes...) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Error(err)
			continue
		}
		var lines []string
		for line := range strings.Lines(string(text)) {
			tells := strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic")
			if tells && !strings.Contains(line, "connection refused") { // of raft to the node that was killed: four a second
				lines = append(lines, line)
			}
		}
		t.Logf("%s:\n%s", f, strings.Join(lines[max(0, len(lines)-most):], ""))
	}
}
