package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/offsets"
)

// request is what a server saw of one.
type request struct {
	method, uri, token, contentType, ifMatch, body string
}

// answering is a server that writes requests down and answers all of them alike.
func answering(t *testing.T, status int, body string) (*httptest.Server, *[]request) {
	t.Helper()
	var seen []request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := new(strings.Builder)
		if err := r.Write(b); err != nil {
			t.Error(err)
		}
		_, text, _ := strings.Cut(b.String(), "\r\n\r\n")
		seen = append(seen, request{r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), r.Header.Get("If-Match"), text})
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	return s, &seen
}

// noEnvironment keeps the caller's own settings out.
func noEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"WAYBILL_SERVER", "WAYBILL_TOKEN", "WAYBILL_TOKEN_FILE", "WAYBILL_CA_FILE"} {
		t.Setenv(name, "")
	}
}

// TestGroupsAreListedPageByPage: a command shows the groups of all pages.
func TestGroupsAreListedPageByPage(t *testing.T) {
	noEnvironment(t)
	pages := map[string]string{
		"":             `{"flow":"f","groups":[{"group":"a"}],"rows":[{"group":"a"}],"next":"a&b"}`,
		"cursor=a%26b": `{"flow":"f","groups":[{"group":"c"}],"rows":[{"group":"c"}]}`,
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, pages[r.URL.RawQuery])
	}))
	defer s.Close()
	for _, command := range []string{"list", "plan"} {
		got := replicator(t, "", "groups", command, "--flow", "f", "--server", s.URL, "-o", "json").stdout
		var rows []offsets.Row
		if err := json.Unmarshal([]byte(got), &rows); err != nil || len(rows) != 2 || rows[0].Group != "a" || rows[1].Group != "c" {
			t.Errorf("%s: got %q: %v", command, got, err)
		}
	}
}

func TestWhatCommandsAsk(t *testing.T) {
	noEnvironment(t)
	for _, c := range []struct{ args, method, uri string }{
		{"status", "GET", "/api/v1/status"},
		{"get", "GET", "/api/v1/objects"},
		{"fleet drain a/b", "POST", "/api/v1/fleet/nodes/a%2Fb/drain"},
		{"fleet drain r1 --force --reason CHG-1", "POST", "/api/v1/fleet/nodes/r1/drain?force=true&reason=CHG-1"},
		{"fleet undrain r1", "POST", "/api/v1/fleet/nodes/r1/undrain"},
		{"get flows", "GET", "/api/v1/objects?kind=ReplicationFlow"},
		{"get cluster a/b", "GET", "/api/v1/objects/Cluster/a%2Fb"},
		{"delete runbook r", "DELETE", "/api/v1/objects/Runbook/r"},
		{"groups list --flow a/b", "GET", "/api/v1/flows/a%2Fb/groups"},
		{"groups plan --flow f", "GET", "/api/v1/flows/f/groups"},
		{"groups plan --flow f a b&c", "GET", "/api/v1/flows/f/groups?group=a&group=b%26c"},
		{"groups plan --flow f --return a", "POST", "/api/v1/flows/f/groups/return?dryRun=true&group=a"},
		{"groups list --flow f a", "GET", "/api/v1/flows/f/groups?group=a"},
		{"groups move --flow f --all", "POST", "/api/v1/flows/f/groups/move?all=true"},
		{"groups move --flow f a", "POST", "/api/v1/flows/f/groups/move?group=a"},
		{"groups translate us/orders/3/1041 --to e&u", "GET", "/api/v1/offsets/us/orders/3/1041?to=e%26u"},
		{"lineage event us/orders/3/1041", "GET", "/api/v1/lineage/events/us/orders/3/1041?headers=auto"},
		{"lineage event us/a%/3/1041 --topic-id A+=", "GET", "/api/v1/lineage/events/us/a%25/3/1041?headers=auto&topicId=A%2B%3D"},
		{"lineage topic us/orders", "GET", "/api/v1/lineage/topics/us/orders?partitions=false&windowSeconds=60"},
		{"lineage topic us/orders --partitions --window 5m", "GET", "/api/v1/lineage/topics/us/orders?partitions=true&windowSeconds=300"},
		{"lineage gaps us/orders/3 --from 7 --to 9", "GET", "/api/v1/lineage/gaps/us/orders/3?from=7&to=9"},
		{"runbook plan r", "GET", "/api/v1/runbooks/r/plan"},
		{"runbook report r", "GET", "/api/v1/runbooks/r/report"},
		{"runbook report r -o json", "GET", "/api/v1/runbooks/r/execution"},
		{"runbook run r --detach --reason CHG-1&2", "POST", "/api/v1/runbooks/r/start?reason=CHG-1%262"},
		{"runbook approve r --step gate", "POST", "/api/v1/runbooks/r/approve?step=gate"},
		{"runbook rollback r", "POST", "/api/v1/runbooks/r/rollback"},
	} {
		s, seen := answering(t, http.StatusOK, `{}`)
		got := replicator(t, "", append(strings.Fields(c.args), "--server", s.URL+"/")...)
		if got.code != exitOK || len(*seen) != 1 || (*seen)[0].method != c.method || (*seen)[0].uri != c.uri {
			t.Errorf("%s: got %+v after %+v, want %s %s", c.args, got, *seen, c.method, c.uri)
		}
	}
}

func TestApplyAsksForWhatItRead(t *testing.T) {
	noEnvironment(t)
	for _, c := range []struct{ args, uri, ifMatch string }{
		{"plan", "/api/v1/apply?dryRun=true", ""},
		{"apply", "/api/v1/apply", ""},
		{"apply --revision 12", "/api/v1/apply", `"12"`},
	} {
		s, seen := answering(t, http.StatusOK, `{"revision": 13, "changes": [{"kind": "Cluster", "name": "us", "action": "create"}]}`)
		got := replicator(t, "", append(strings.Fields(c.args), "-f", "testdata/right.yaml", "--server", s.URL)...)
		if got.code != exitOK || !strings.Contains(got.stdout, "created\nrevision 13\n") || len(*seen) != 1 {
			t.Fatalf("%s: got %+v after %+v", c.args, got, *seen)
		}
		r := (*seen)[0]
		if r.method != http.MethodPost || r.uri != c.uri || r.ifMatch != c.ifMatch || r.contentType != "application/yaml" ||
			!strings.Contains(r.body, "name: us-eu") || !strings.Contains(r.body, "${env:US_PASSWORD}") {
			t.Errorf("%s: got %+v", c.args, r)
		}
	}
	s, seen := answering(t, http.StatusOK, `{}`)
	if got := replicator(t, "", "apply", "-f", "testdata/faults.yaml", "--server", s.URL); got.code != exitInvalid || len(*seen) > 0 {
		t.Errorf("faults: got %+v after %+v: nothing should be asked", got, *seen)
	}
}

func TestPlanCanEndWith2(t *testing.T) {
	noEnvironment(t)
	for action, want := range map[string]int{"create": exitChanges, "unchanged": exitOK} {
		s, _ := answering(t, http.StatusOK, `{"revision": 13, "changes": [{"kind": "Cluster", "name": "us", "action": "`+action+`"}]}`)
		if got := replicator(t, "", "plan", "-f", "testdata/right.yaml", "--exit-code", "--server", s.URL); got.code != want || got.stderr != "" {
			t.Errorf("%s: got %+v, want %d", action, got, want)
		}
	}
}

func TestTokens(t *testing.T) {
	noEnvironment(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("of-the-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, seen := answering(t, http.StatusOK, `{}`)
	t.Setenv("WAYBILL_SERVER", s.URL)
	replicator(t, "", "status")
	t.Setenv("WAYBILL_TOKEN", "of-the-environment")
	replicator(t, "", "status")
	replicator(t, "", "status", "--token-file", file)
	t.Setenv("WAYBILL_TOKEN_FILE", file)
	replicator(t, "", "status")
	want := []string{"", "Bearer of-the-environment", "Bearer of-the-file", "Bearer of-the-file"}
	for i, r := range *seen {
		if r.token != want[i] {
			t.Errorf("%d: got %q, want %q", i, r.token, want[i])
		}
	}
	if got := replicator(t, "", "status", "--token-file", file+"x"); got.code != exitInvalid || !strings.Contains(got.stderr, "--token-file: open") {
		t.Errorf("no such file: got %+v", got)
	}
}

func TestProblemsBecomeExitCodes(t *testing.T) {
	noEnvironment(t)
	for status, want := range map[int]int{
		400: exitInvalid, 401: exitFailed, 403: exitFailed, 404: exitFailed, 409: exitConflict, 412: exitConflict, 413: exitFailed,
		422: exitInvalid, 500: exitFailed, 503: exitUnreachable, 504: exitUnreachable,
	} {
		p := api.Errorf(status, "no").WithHint("do this")
		p.Errors = []api.Fact{{Location: "query.x", Message: "is wrong"}, {Message: "so is y"}}
		body, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		hint := "do this"
		if status == http.StatusUnauthorized {
			hint = "give your token with --token-file (or $WAYBILL_TOKEN_FILE, or $WAYBILL_TOKEN)"
		}
		s, _ := answering(t, status, string(body))
		replicator(t, "", "status", "--server", s.URL).want(t, want, "", "replicator: no\n  query.x: is wrong\n  so is y\n  "+hint+"\n")
	}
	s, _ := answering(t, http.StatusBadGateway, "<html>proxy</html>\n")
	replicator(t, "", "status", "--server", s.URL).want(t, exitFailed, "", "replicator: the server answered 502: <html>proxy</html>\n")
	s, _ = answering(t, http.StatusOK, "<html>proxy</html>")
	if got := replicator(t, "", "status", "--server", s.URL); got.code != exitFailed || !strings.Contains(got.stderr, "answer is not what this version expects") {
		t.Errorf("got %+v", got)
	}
}

func TestServersThatCannotBeReached(t *testing.T) {
	noEnvironment(t)
	s, _ := answering(t, http.StatusOK, `{}`)
	gone := s.URL
	s.Close()
	got := replicator(t, "", "status", "--server", gone)
	if got.code != exitUnreachable || !strings.HasPrefix(got.stderr, "replicator: reach the fleet at "+gone+": dial tcp ") || !strings.Contains(got.stderr, "\n  is a node running there?") {
		t.Errorf("gone: got %+v", got)
	}
	for _, url := range []string{"127.0.0.1:8080", "localhost:8080", "ftp://localhost", "http://", ":"} {
		replicator(t, "", "status", "--server", url).want(t, exitInvalid, "", "replicator: --server "+url+": write a URL like http://127.0.0.1:8080\n")
	}
}

// silent is a server that takes requests and says nothing until it is closed.
func silent(t *testing.T) (url string, asked <-chan struct{}) {
	t.Helper()
	came, end := make(chan struct{}, 1), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(end) })
	return s.URL, came
}

func TestServersThatSayNothing(t *testing.T) {
	noEnvironment(t)
	url, _ := silent(t)
	replicator(t, "", "status", "--server", url, "--timeout", "50ms").want(t, exitUnreachable, "",
		"replicator: reach the fleet at "+url+": no answer within 50ms\n  the fleet may be without a majority; --timeout waits longer\n")
}

func TestInterruptedIsNotUnreachable(t *testing.T) {
	noEnvironment(t)
	url, asked := silent(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	replicatorUntil(ctx, nil, "status", "--server", url).want(t, exitInterrupted, "", "replicator: interrupted\n")
}

func TestHTTPSNeedsTheRightAuthority(t *testing.T) {
	noEnvironment(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it notes that a client left
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := replicator(t, "", "status", "--server", s.URL, "--ca-file", ca); got.code != exitOK {
		t.Errorf("got %+v", got)
	}
	if got := replicator(t, "", "status", "--server", s.URL); got.code != exitUnreachable || !strings.Contains(got.stderr, "certificate") {
		t.Errorf("unknown authority: got %+v", got)
	}
	if err := os.WriteFile(ca, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	replicator(t, "", "status", "--server", s.URL, "--ca-file", ca).want(t, exitInvalid, "", "replicator: --ca-file "+ca+": no certificate in it\n")
}
