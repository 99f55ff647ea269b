package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
)

func TestDrainWaits(t *testing.T) {
	for _, c := range []struct {
		name           string
		answers        []api.NodeStatus
		code           int
		stdout, stderr string
	}{
		{
			"moves away",
			[]api.NodeStatus{{Name: "r2", Draining: true, Works: 3}, {Name: "r2", Draining: true, Works: 3}, {Name: "r2", Draining: true, Works: 1}, {Name: "r2", Draining: true}},
			exitOK, "r2 owns nothing\n", "r2 still owns 3 pieces of work\nr2 still owns 1 piece of work\n",
		},
		{"is undrained", []api.NodeStatus{{Name: "r2", Works: 3}}, exitConflict, "", "replicator: r2 is not draining any more: somebody has undrained it\n"},
		{"is removed", []api.NodeStatus{{Name: "r1", Draining: true}}, exitOK, "r2 is no member any more\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			noEnvironment(t)
			asked := 0
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				n := c.answers[min(asked, len(c.answers)-1)]
				asked++
				_ = json.NewEncoder(w).Encode(api.Status{Fleet: api.FleetStatus{Nodes: []api.NodeStatus{n}}})
			}))
			defer s.Close()
			got := replicator(t, "", "fleet", "drain", "r2", "--wait", "--server", s.URL)
			if got.code != c.code || got.stdout != c.stdout || got.stderr != c.stderr {
				t.Errorf("got %d %q %q, want %d %q %q", got.code, got.stdout, got.stderr, c.code, c.stdout, c.stderr)
			}
		})
	}
}

func TestTheLastNodeIsNotDrained(t *testing.T) {
	all := map[string]cluster.Member{
		"a": {Incarnation: 1}, "b": {Incarnation: 2}, "draining": {Incarnation: 3, Draining: true},
		"stopping": {Incarnation: 4, Stopping: true}, "gone": {},
	}
	if !othersCanWork(all, "a") {
		t.Error("b could take the work of a")
	}
	delete(all, "b")
	if othersCanWork(all, "a") {
		t.Error("nobody could take the work of a")
	}
}

// TestAChangedAnnotationReplacesNoClient changes what is not about connecting.
func TestAChangedAnnotationReplacesNoClient(t *testing.T) {
	d := newDirectory("test", slog.New(slog.DiscardHandler))
	defer d.reconcile(nil)
	d.reconcile([]*flow.Cluster{declaredCluster("us", "127.0.0.1:1")})
	before, err := d.entry("us")
	if err != nil {
		t.Fatal(err)
	}
	changed := declaredCluster("us", "127.0.0.1:1")
	changed.Metadata.Annotations = map[string]string{superUserAnnotation: "User:root, User:admin"}
	changed.Spec.Region, changed.Spec.Rack = "eu", "eu-1"
	d.reconcile([]*flow.Cluster{changed})
	after, err := d.entry("us")
	if err != nil {
		t.Fatal(err)
	}
	if after != before {
		t.Error("the client was replaced")
	}
	if want := []string{"User:root", "User:admin"}; !slices.Equal(after.superUsers, want) {
		t.Errorf("super users: got %v, want %v", after.superUsers, want)
	}
	if err := d.current(changed); err != nil {
		t.Errorf("the client is not taken for that of the declaration: %s", strings.TrimSpace(err.Error()))
	}
}

// What is wrong with the backup is not mended by --force, and nothing says so.
func TestRestoreOfWhatIsNoBackup(t *testing.T) {
	noEnvironment(t)
	write(t, map[string]string{
		"r1.yaml": "name: r1\nfleet: f\ndataDir: data\npeer: {address: \"127.0.0.1:9101\", bootstrap: true}\napi: {address: \"127.0.0.1:8081\", users: [{name: ops, role: admin, token: \"${file:token}\"}]}\n",
		"token":   "0123456789abcdef",
		"backup":  "{}",
	})
	got := replicator(t, "", "fleet", "restore", "--config", "r1.yaml", "--from", "backup")
	if want := "replicator: backup: not a backup of a fleet\n"; got.code != exitInvalid || got.stderr != want {
		t.Errorf("got %d %q, want %d %q", got.code, got.stderr, exitInvalid, want)
	}
}

// The new fleet counts its changes on from the backup's, so those that the old one
// made after it would have the numbers of others.
func TestRestoreSetsTheOldTrailAside(t *testing.T) {
	noEnvironment(t)
	backup, err := newSolo(t).fleet.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, map[string]string{
		"r1.yaml": "name: r1\nfleet: f\ndataDir: data\npeer: {address: \"127.0.0.1:9101\", bootstrap: true}\napi: {address: \"127.0.0.1:8081\", users: [{name: ops, role: admin, token: \"${file:token}\"}]}\n",
		"token":   "0123456789abcdef",
		"backup":  string(backup),
	})
	old := filepath.Join("data", "audit", "fleet")
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, "5.jsonl"), []byte("the old fleet's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := replicator(t, "", "fleet", "restore", "--config", "r1.yaml", "--from", "backup")
	if got.code != 0 {
		t.Fatalf("got %d %q", got.code, got.stderr)
	}
	moved, err := filepath.Glob(old + ".before-restore-*")
	if err != nil || len(moved) != 1 {
		t.Fatalf("moved aside: %q, %v", moved, err)
	}
	if kept, err := os.ReadFile(filepath.Join(moved[0], "5.jsonl")); err != nil || string(kept) != "the old fleet's\n" {
		t.Errorf("moved aside was %q, %v", kept, err)
	}
	if left, err := filepath.Glob(filepath.Join(old, "*")); err != nil || len(left) != 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	if want := "what was there before is in " + moved[0] + "\n"; !strings.Contains(got.stdout, want) {
		t.Errorf("said %q, want %q in it", got.stdout, want)
	}
}
