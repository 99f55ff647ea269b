//go:build unix

package scenarios

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
)

// answer is what the API said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

// problem is the answer as a problem document.
func (a answer) problem(t *testing.T) api.Error {
	t.Helper()
	var p api.Error
	if got, want := a.header.Get("Content-Type"), "application/problem+json"; got != want {
		t.Fatalf("content type is %q, want %q: %s", got, want, a)
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("not a problem document: %v: %s", err, a)
	}
	if p.Status != a.status {
		t.Errorf("the document says status %d, the response is %d", p.Status, a.status)
	}
	return p
}

// call makes one request with a token.
func (n *node) call(method, path, token, body string) (answer, error) {
	req, err := http.NewRequest(method, n.api+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		req.Header.Set("Content-Type", "application/yaml")
	}
	client := http.Client{Timeout: 20 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b}, err
}

// get is a GET by the administrator that must succeed.
func (n *node) get(path string, out any) error {
	a, err := n.call(http.MethodGet, path, adminToken, "")
	switch {
	case err != nil:
		return err
	case a.status != http.StatusOK:
		return fmt.Errorf("GET %s: %s", path, a)
	}
	return json.Unmarshal(a.body, out)
}

// apply declares objects. A fleet that has just started may have no leader yet.
func (n *node) apply(yaml string) {
	n.t.Helper()
	eventually(n.t, recovery, "apply", func() error {
		a, err := n.call(http.MethodPost, "/api/v1/apply", adminToken, yaml)
		if err == nil && a.status != http.StatusOK {
			err = errors.New(a.String())
		}
		return err
	})
}

// post is a POST by the administrator that must succeed.
func (n *node) post(path string, out any) {
	n.t.Helper()
	a, err := n.call(http.MethodPost, path, adminToken, "")
	must(n.t, err)
	if a.status != http.StatusOK {
		n.t.Fatalf("POST %s: %s", path, a)
	}
	must(n.t, json.Unmarshal(a.body, out))
}

func (n *node) status() (s api.Status, err error) {
	err = n.get("/api/v1/status", &s)
	return s, err
}

// awaitStatus waits until the status is as check wants it, and returns it.
func (n *node) awaitStatus(limit time.Duration, what string, check func(*api.Status) error) api.Status {
	n.t.Helper()
	var last api.Status
	eventually(n.t, limit, "status: "+what, func() error {
		s, err := n.status()
		if err != nil {
			return err
		}
		last = s
		if err := check(&s); err != nil {
			text, _ := json.MarshalIndent(s, "", " ")
			return fmt.Errorf("%w; it is\n%s", err, text)
		}
		return nil
	})
	return last
}

// flowNamed is the status of the flow that all scenarios have.
func flowOf(s *api.Status) (api.FlowStatus, error) {
	for _, f := range s.Flows {
		if f.Name == flowName {
			return f, nil
		}
	}
	return api.FlowStatus{}, fmt.Errorf("the status knows no flow %s", flowName)
}

func clusterOf(s *api.Status, name string) (api.ClusterStatus, error) {
	for _, c := range s.Clusters {
		if c.Name == name {
			return c, nil
		}
	}
	return api.ClusterStatus{}, fmt.Errorf("the status knows no cluster %s", name)
}

// trouble checks one place of a status: its state, and that reason and advice
// have all of the words.
func trouble(where, state, reason, toDo string, states []string, inReason, inToDo []string) error {
	ok := false
	for _, want := range states {
		ok = ok || state == want
	}
	if !ok {
		return fmt.Errorf("%s is %q, want one of %q", where, state, states)
	}
	for _, word := range inReason {
		if !strings.Contains(reason, word) {
			return fmt.Errorf("%s: the reason %q says nothing of %q", where, reason, word)
		}
	}
	for _, word := range inToDo {
		if !strings.Contains(toDo, word) {
			return fmt.Errorf("%s: the advice %q says nothing of %q", where, toDo, word)
		}
	}
	return nil
}

// cli runs a command of the binary against the node, and returns what it printed.
func (n *node) cli(args ...string) string {
	n.t.Helper()
	cmd := exec.Command(replicator, append(args, "--server", n.api)...)
	cmd.Env = append(os.Environ(), "WAYBILL_TOKEN="+adminToken, "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("replicator %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
