//go:build unix

package scenarios

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// What people get wrong is refused with all that is wrong, where, and what to do,
// and changes nothing.
func TestRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	n := w.nodes[0]
	w.us.createTopic("orders", 1)
	w.declare("orders")
	w.running(1)
	var before, after struct {
		Revision uint64 `json:"revision"`
	}
	must(t, n.get("/api/v1/objects", &before))

	invalid := strings.Join([]string{
		"apiVersion: waybill/v1",
		"kind: ReplicationFlow",
		"metadata: {name: Not A Name}",
		"spec:",
		"  source: nowhere",
		"  destination: eu",
		"  topics: {include: []}",
		"  ofsets: translate",
		"---",
		"kind: Cluster",
		"metadata: {name: third}",
		"spec: {bootstrapServers: [no-port]}",
	}, "\n")
	for _, c := range []struct {
		name                      string
		method, path, token, body string
		status                    int
		detail                    []string // in the document: detail, hint, or faults
		faults                    int      // at least
	}{
		{"invalid objects", "POST", "/api/v1/apply", adminToken, invalid, http.StatusUnprocessableEntity, []string{"request:3:", "request:8:", "ofsets", "request:10:", "apiVersion"}, 4},
		{"not YAML", "POST", "/api/v1/apply", adminToken, "kind: [", http.StatusUnprocessableEntity, []string{"request:"}, 1},
		{"nothing", "POST", "/api/v1/apply", adminToken, " ", http.StatusUnprocessableEntity, nil, 0},
		{"a cluster that nobody declared", "POST", "/api/v1/apply", adminToken, strings.ReplaceAll(flowYAML("orders"), "source: us", "source: nowhere"), http.StatusUnprocessableEntity, []string{"nowhere"}, 1},
		{"no token", "GET", "/api/v1/status", "", "", http.StatusUnauthorized, []string{"bearer token"}, 0},
		{"unknown token", "GET", "/api/v1/status", "this-is-nobody's-token", "", http.StatusUnauthorized, []string{"bearer token", "Authorization"}, 0},
		{"a viewer who applies", "POST", "/api/v1/apply", viewerToken, flowYAML("other"), http.StatusForbidden, []string{"guest", "viewer", "admin"}, 0},
		{"a viewer who deletes", "DELETE", "/api/v1/objects/ReplicationFlow/us-eu", viewerToken, "", http.StatusForbidden, []string{"viewer"}, 0},
		{"unknown route", "GET", "/api/v1/nothing", adminToken, "", http.StatusNotFound, []string{"/api/v1/nothing"}, 0},
		{"wrong method", "DELETE", "/api/v1/status", adminToken, "", http.StatusMethodNotAllowed, []string{"GET", "DELETE"}, 0},
		{"unknown object", "GET", "/api/v1/objects/Cluster/third", adminToken, "", http.StatusNotFound, []string{"third"}, 0},
		{"unknown kind", "GET", "/api/v1/objects/Klaster/us", adminToken, "", http.StatusUnprocessableEntity, []string{"Cluster"}, 1},
		{"unknown parameter", "GET", "/api/v1/status?verbose=1", adminToken, "", http.StatusUnprocessableEntity, []string{"verbose"}, 1},
		{"a cluster that is in use", "DELETE", "/api/v1/objects/Cluster/us", adminToken, "", http.StatusConflict, []string{"us-eu"}, 0},
		{"a runbook that nobody declared", "POST", "/api/v1/runbooks/failover/start", adminToken, "", http.StatusNotFound, []string{"failover"}, 0},
	} {
		a, err := n.call(c.method, c.path, c.token, c.body)
		must(t, err)
		if a.status != c.status {
			t.Errorf("%s: status is %s, want %d", c.name, a, c.status)
			continue
		}
		p := a.problem(t)
		if p.Detail == "" || p.Title != http.StatusText(c.status) {
			t.Errorf("%s: the document says too little: %s", c.name, a)
		}
		for _, word := range c.detail {
			if !strings.Contains(string(a.body), word) {
				t.Errorf("%s: the document says nothing of %q: %s", c.name, word, a)
			}
		}
		if len(p.Errors) < c.faults {
			t.Errorf("%s: %d faults, want %d or more: %s", c.name, len(p.Errors), c.faults, a)
		}
	}
	must(t, n.get("/api/v1/objects", &after))
	if after != before {
		t.Errorf("objects are at revision %d, they were at %d", after.Revision, before.Revision)
	}

	// The command line says the same, with its own exit codes.
	cmd := exec.Command(replicator, "status", "--server", n.api)
	cmd.Env = []string{"WAYBILL_TOKEN=this-is-nobody's-token"}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "bearer token") {
		t.Errorf("status with an unknown token: %v\n%s", err, out)
	}
	w.us.produce("orders", 1, 50)
	w.running(1)
	w.exact("orders", 50)
	w.nobodyDied()
}
