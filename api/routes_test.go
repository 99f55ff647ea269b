package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// route is one way into the server. The statuses are those without a token, as
// a viewer and as an admin.
type route struct {
	method, path       string
	example            string // the path as called
	none, viewer, admn int
	contentType        string // of an admin's answer
}

const (
	plain   = "application/json"
	problem = "application/problem+json"
)

// routes is everything that the server answers. The description is compared
// with it.
var routes = []route{
	{"GET", "/api/v1/objects", "/api/v1/objects?kind=Cluster", 401, 200, 200, plain},
	{"GET", "/api/v1/objects/{kind}/{name}", "/api/v1/objects/Cluster/us", 401, 200, 200, plain},
	{"DELETE", "/api/v1/objects/{kind}/{name}", "/api/v1/objects/Cluster/us", 401, 403, 204, ""},
	{"PUT", "/api/v1/objects/{kind}/{name}", "/api/v1/objects/Cluster/us", 401, 403, 200, plain},
	{"GET", "/api/v1/audit", "/api/v1/audit?since=2026-11-24T08:00:00Z&user=ops&limit=5", 401, 403, 200, plain},
	{"GET", "/api/v1/doctor", "/api/v1/doctor?node=*", 401, 403, 200, plain},
	{"GET", "/api/v1/support-bundle", "/api/v1/support-bundle?node=r2", 401, 403, 200, "application/gzip"},
	{"POST", "/api/v1/apply", "/api/v1/apply?dryRun=true", 401, 403, 200, plain},
	{"GET", "/api/v1/status", "/api/v1/status", 401, 200, 200, plain},
	{"POST", "/api/v1/fleet/nodes/{node}/drain", "/api/v1/fleet/nodes/r1/drain?force=true&reason=CHG-1", 401, 403, 204, ""},
	{"POST", "/api/v1/fleet/nodes/{node}/undrain", "/api/v1/fleet/nodes/r1/undrain", 401, 403, 204, ""},
	{"GET", "/api/v1/fleet", "/api/v1/fleet", 401, 200, 200, plain},
	{"POST", "/api/v1/fleet/tokens", "/api/v1/fleet/tokens?ttlSeconds=600&worker=true", 401, 403, 200, plain},
	{"GET", "/api/v1/fleet/tokens", "/api/v1/fleet/tokens", 401, 403, 200, plain},
	{"DELETE", "/api/v1/fleet/tokens/{id}", "/api/v1/fleet/tokens/t", 401, 403, 204, ""},
	{"DELETE", "/api/v1/fleet/nodes/{node}", "/api/v1/fleet/nodes/r1?force=true", 401, 403, 204, ""},
	{"POST", "/api/v1/fleet/transfer", "/api/v1/fleet/transfer?to=r2", 401, 403, 204, ""},
	{"GET", "/api/v1/fleet/backup", "/api/v1/fleet/backup", 401, 403, 200, plain},
	{"POST", "/api/v1/ledgers/{cluster}/{partition}/{offset}/waive", "/api/v1/ledgers/eu/3/17/waive?reason=CHG-1", 401, 403, 204, ""},
	{"GET", "/api/v1/flows/{flow}/groups", "/api/v1/flows/us-eu/groups", 401, 200, 200, plain},
	{"POST", "/api/v1/flows/{flow}/groups/move", "/api/v1/flows/us-eu/groups/move?group=a&group=b&dryRun=true", 401, 403, 200, plain},
	{"POST", "/api/v1/flows/{flow}/groups/return", "/api/v1/flows/us-eu/groups/return?all=true&inexact=true&reason=CHG-1", 401, 403, 200, plain},
	{"GET", "/api/v1/flows/{flow}/verification", "/api/v1/flows/us-eu/verification?partitions=true", 401, 200, 200, plain},
	{"POST", "/api/v1/flows/{flow}/verification", "/api/v1/flows/us-eu/verification?topic=a*&topic=b&from=verified&bytesPerSecond=65536", 401, 403, 200, plain},
	{"DELETE", "/api/v1/flows/{flow}/verification", "/api/v1/flows/us-eu/verification", 401, 403, 200, plain},
	{"GET", "/api/v1/offsets/{cluster}/{topic}/{partition}/{offset}", "/api/v1/offsets/us/orders/3/1041?to=eu", 401, 200, 200, plain},
	{"GET", "/api/v1/offsets/{cluster}", "/api/v1/offsets/us?position=orders/3/1041&position=orders/4/7&to=eu&format=csv", 401, 200, 200, "text/csv; charset=utf-8"},
	{"POST", "/api/v1/offsets/{cluster}", "/api/v1/offsets/us?format=kafka", 401, 200, 200, "text/csv; charset=utf-8"},
	{"GET", "/api/v1/lineage/events/{cluster}/{topic}/{partition}/{offset}", "/api/v1/lineage/events/us/orders/3/1041", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/topics/{cluster}/{topic}", "/api/v1/lineage/topics/us/orders?windowSeconds=3600&partitions=true", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/gaps/{cluster}/{topic}/{partition}", "/api/v1/lineage/gaps/us/orders/3?from=5", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/accesses/{cluster}/{topic}/{partition}", "/api/v1/lineage/accesses/us/orders/3?from=5&to=9&kind=produced&principal=User:shop&group=billing&limit=500&cursor=AAA", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/copies/{cluster}/{topic}/{partition}", "/api/v1/lineage/copies/us/orders/3?from=5&to=9&direction=down&exact=true&limit=500&cursor=AAA", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/affected/{cluster}", "/api/v1/lineage/affected/us", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/affected/{cluster}/{topic}", "/api/v1/lineage/affected/us/orders?topicId=AAA", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/affected/{cluster}/{topic}/{partition}", "/api/v1/lineage/affected/us/orders/3?from=5&to=9", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/groups/{cluster}/{group}", "/api/v1/lineage/groups/us/billing?limit=5", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/principals/{cluster}/{principal}", "/api/v1/lineage/principals/us/User:shop?limit=5", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/search/{cluster}/{topic}", "/api/v1/lineage/search/us/orders?key=order-17&partitioner=murmur2&since=2026-11-27T08:00:00Z&until=2026-11-27T09:00:00Z&limit=5&cursor=AAA", 401, 200, 200, plain},
	{"GET", "/api/v1/lineage/principals/{cluster}/{principal}/export", "/api/v1/lineage/principals/us/User:shop/export?limit=5&cursor=AAA", 401, 200, 200, "text/csv; charset=utf-8"},
	{"GET", "/api/v1/lineage/search/{cluster}/{topic}/export", "/api/v1/lineage/search/us/orders/export?format=ndjson&key=order-17&limit=5&cursor=AAA", 401, 200, 200, "application/x-ndjson"},
	{"GET", "/api/v1/lineage/stream/{cluster}", "/api/v1/lineage/stream/us?topic=orders&kind=copied&kind=fetched", 401, 200, 200, "text/event-stream"},
	{"GET", "/api/v1/lineage/export/{cluster}/{topic}/{partition}", "/api/v1/lineage/export/us/orders/3?what=produced&from=5&to=9&principal=User:shop&limit=5", 401, 200, 200, "text/csv; charset=utf-8"},
	{"GET", "/api/v1/lineage/openlineage/{cluster}/{topic}", "/api/v1/lineage/openlineage/us/orders", 401, 200, 200, "application/x-ndjson"},
	{"GET", "/api/v1/lineage/otlp/{cluster}/{topic}/{partition}/{offset}", "/api/v1/lineage/otlp/us/orders/3/1041", 401, 200, 200, plain},
	{"POST", "/api/v1/lineage/digests/{cluster}/{topic}/{partition}", "/api/v1/lineage/digests/us/orders/3?from=7", 401, 200, 200, "text/csv; charset=utf-8"},
	{"GET", "/api/v1/lineage/check/{cluster}", "/api/v1/lineage/check/us?anchor=0:17:00112233445566778899aabbccddeeff&anchor=1:0:00112233445566778899aabbccddeeff", 401, 403, 200, plain},
	{"POST", "/api/v1/lineage/fold/{cluster}", "/api/v1/lineage/fold/us?before=2026-11-21T00:00:00Z&delete=true&reason=CHG-1", 401, 403, 200, plain},
	{"GET", "/api/v1/runbooks/{name}/plan", "/api/v1/runbooks/failover/plan", 401, 200, 200, plain},
	{"GET", "/api/v1/runbooks/{name}/execution", "/api/v1/runbooks/failover/execution", 401, 200, 200, plain},
	{"GET", "/api/v1/runbooks/{name}/report", "/api/v1/runbooks/failover/report", 401, 200, 200, "text/markdown; charset=utf-8"},
	{"POST", "/api/v1/runbooks/{name}/start", "/api/v1/runbooks/failover/start?reason=CHG-1", 401, 403, 200, plain},
	{"POST", "/api/v1/runbooks/{name}/{decision}", "/api/v1/runbooks/failover/approve?step=look", 401, 403, 200, plain},
}

// plainRoutes are not in the description: they are for machines that watch.
var plainRoutes = []route{
	{"GET", "", "/livez", 200, 200, 200, ""},
	{"GET", "", "/readyz", 200, 200, 200, ""},
	{"GET", "", "/metrics", 401, 200, 200, "text/plain; charset=utf-8"},
	{"GET", "", "/api/openapi.json", 200, 200, 200, "application/openapi+json"},
}

// wrong are requests that no route takes.
var wrong = []route{
	{"GET", "", "/", 404, 404, 404, problem},
	{"GET", "", "/api/v1", 404, 404, 404, problem},
	{"GET", "", "/api/v2/status", 404, 404, 404, problem},
	{"GET", "", "/api/v1/objects/Cluster/us/spec", 404, 404, 404, problem},
	{"GET", "", "/api/openapi.yaml", 404, 404, 404, problem},
	{"POST", "", "/api/v1/status", 405, 405, 405, problem},
	{"PUT", "", "/api/v1/apply", 405, 405, 405, problem},
	{"PATCH", "", "/api/v1/objects/Cluster/us", 405, 405, 405, problem},
	{"DELETE", "", "/api/v1/objects", 405, 405, 405, problem},
	{"POST", "", "/metrics", 405, 405, 405, problem},
	{"POST", "", "/livez", 405, 405, 405, problem},

	{"GET", "", "/api/v1/objects?kind=Topic", 401, 422, 422, problem},
	{"GET", "", "/api/v1/objects/Topic/us", 401, 422, 422, problem},
	{"GET", "", "/api/v1/objects/Cluster/eu", 401, 404, 404, problem},
	{"GET", "", "/api/v1/objects?consistency=perhaps", 401, 422, 422, problem},
	{"GET", "", "/api/v1/objects?kind=%zz", 401, 422, 422, problem},
	{"GET", "", "/api/v1/objects?kind=Cluster;consistency=stale", 401, 422, 422, problem},
	{"GET", "", "/api/v1/audit?limit=0", 401, 403, 422, problem},
	{"GET", "", "/api/v1/audit?limit=1001", 401, 403, 422, problem},
	{"GET", "", "/api/v1/audit?since=yesterday", 401, 403, 422, problem},
	{"GET", "", "/api/v1/status?verbose=true", 401, 422, 422, problem},
	{"POST", "", "/api/v1/apply?dryrun=true", 401, 403, 422, problem},
	{"POST", "", "/api/v1/apply?dryRun=perhaps", 401, 403, 422, problem},
	{"POST", "", "/api/v1/lineage/fold/us?before=7d", 401, 403, 422, problem},
	{"GET", "", "/api/v1/offsets/us/orders/x/1041", 401, 422, 422, problem},
	{"POST", "", "/api/v1/flows/us-eu/verification?bytesPerSecond=-1", 401, 403, 422, problem},
	{"POST", "", "/api/v1/flows/us-eu/verification?topics=a", 401, 403, 422, problem},
	{"GET", "", "/api/v1/offsets/us/orders/3/-1", 401, 422, 422, problem},
	{"GET", "", "/api/v1/offsets/us/orders/3/1?format=xml", 401, 422, 422, problem},
	{"GET", "", "/api/v1/offsets/us", 401, 422, 422, problem},
	{"GET", "", "/api/v1/offsets/us?position=orders/3", 401, 422, 422, problem},
	{"GET", "", "/api/v1/offsets/us?position=orders/-3/1", 401, 422, 422, problem},
	{"GET", "", "/api/v1/offsets/us?position=orders/3/99999999999999999999", 401, 422, 422, problem},
	{"GET", "", "/api/v1/offsets/us?position=/3/1", 401, 422, 422, problem},
	{"POST", "", "/api/v1/flows/us-eu/groups/move?groups=a", 401, 403, 422, problem},
	{"GET", "", "/api/v1/offsets/us/orders/4294967296/1", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/gaps/us/orders/3?to=-2", 401, 422, 422, problem},
	{"POST", "", "/api/v1/fleet/tokens?ttlSeconds=1", 401, 403, 422, problem},
	{"POST", "", "/api/v1/fleet/tokens?ttl=1h", 401, 403, 422, problem},
	{"GET", "", "/api/v1/lineage/accesses/us/orders/3?limit=501", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/accesses/us/orders/3?from=-1", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/accesses/us/orders/x", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/accesses/us/orders/3?kind=stolen", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/search/us/orders?key=a&keyBase64=YQ==", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/search/us/orders?keyBase64=%25", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/search/us/orders?traceId=xyz", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/search/us/orders?since=yesterday", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/search/us/orders?key=a&partitioner=crc32", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/search/us/orders?key=a&partition=-2", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/topics/us/orders?windowSeconds=0", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/topics/us/orders?windowSeconds=3601", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/affected/us?from=5", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/affected/us/orders/-1", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/affected/us/orders/3?from=x", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/copies/us/orders/3?direction=sideways", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/copies/us/orders/3?to=-2", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/copies/us/orders/3?limit=501", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/copies/us/orders/4294967296", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/copies/us/orders/3?from=99999999999999999999", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/stream/us?kind=stolen", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/export/us/orders/3?what=secrets", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/export/us/orders/3?what=gaps&principal=User:shop", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/export/us/orders/3?what=gaps&cursor=AAA", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/export/us/orders/3?limit=10001", 401, 422, 422, problem},
	{"GET", "", "/api/v1/lineage/check/us?anchor=nonsense", 401, 403, 422, problem},
	{"POST", "", "/api/v1/ledgers/eu/3/x/waive", 401, 403, 422, problem},
	{"POST", "", "/api/v1/ledgers/eu/-3/1/waive", 401, 403, 422, problem},
	{"POST", "", "/api/v1/runbooks/failover/hurry", 401, 403, 422, problem},
	{"POST", "", "/api/v1/runbooks/failover/plan", 401, 403, 422, problem}, // no decision
}

var who = map[string]string{"": "anonymous", viewerToken: "viewer", adminToken: "admin"}

func TestEveryRouteAsEverybody(t *testing.T) {
	for _, group := range [][]route{routes, plainRoutes, wrong} {
		for _, r := range group {
			for token, want := range map[string]int{"": r.none, viewerToken: r.viewer, adminToken: r.admn} {
				t.Run(fmt.Sprintf("%s %s as %s", r.method, r.example, who[token]), func(t *testing.T) {
					resp := ask(t, newFleet(t), r.method, r.example, token)
					if resp.StatusCode != want {
						t.Fatalf("got %d, want %d: %s", resp.StatusCode, want, resp.text)
					}
					resp.checkProblem(t)
					if got := resp.Header.Get("Content-Type"); want == r.admn && got != r.contentType {
						t.Errorf("content type: got %q, want %q", got, r.contentType)
					}
				})
			}
		}
	}
}

// answer is a response whose body was read.
type answer struct {
	*http.Response
	text string
}

func ask(t *testing.T, f *fleet, method, path, token string) answer {
	t.Helper()
	text := ""
	switch {
	case method == http.MethodPut, strings.HasPrefix(path, "/api/v1/apply"), strings.HasPrefix(path, "/api/v1/lineage/digests/"):
		text = "kind: Cluster\n"
	case strings.HasPrefix(path, "/api/v1/offsets/"):
		text = "orders,3,1041\n"
	}
	r := httptest.NewRequest(method, path, body(text))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return do(t, f, r)
}

// do also looks whether a token shows anywhere in the answer.
func do(t *testing.T, f *fleet, r *http.Request) answer {
	t.Helper()
	w := httptest.NewRecorder()
	f.serve(w, r)
	a := answer{w.Result(), w.Body.String()}
	for _, token := range []string{viewerToken, adminToken, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")} {
		if token != "" && strings.Contains(fmt.Sprint(a.Header, a.text), token) {
			t.Errorf("the answer shows a token: %v %s", a.Header, a.text)
		}
	}
	return a
}

// checkProblem looks at the form of an error, whichever layer made it.
func (a answer) checkProblem(t *testing.T) {
	t.Helper()
	if a.StatusCode < 400 {
		return
	}
	if got := a.Header.Get("Content-Type"); got != problem {
		t.Errorf("content type of an error: got %q, want %q", got, problem)
	}
	var p Error
	if err := json.Unmarshal([]byte(a.text), &p); err != nil {
		t.Fatalf("error is no JSON: %v: %s", err, a.text)
	}
	if p.Status != a.StatusCode || p.Title != http.StatusText(a.StatusCode) || p.Detail == "" {
		t.Errorf("got %+v with status %d: want the same status, its title and a detail", p, a.StatusCode)
	}
	if a.StatusCode == http.StatusUnauthorized && a.Header.Get("WWW-Authenticate") != "Bearer" {
		t.Error("401 without a challenge")
	}
	if a.StatusCode == http.StatusMethodNotAllowed && a.Header.Get("Allow") == "" {
		t.Error("405 does not say what is allowed")
	}
}

func (a answer) problem(t *testing.T) (p Error) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.text), &p); err != nil {
		t.Fatalf("%v: %s", err, a.text)
	}
	return p
}

func TestWrongCredentialsAreRefused(t *testing.T) {
	for _, header := range []string{
		"Bearer", "Bearer ", "Bearer nobody-has-this-token", viewerToken, "Basic " + viewerToken,
		"Bearer " + viewerToken + "x", "Bearer " + viewerToken[1:], "bearer" + viewerToken,
	} {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/status", nil)
		r.Header.Set("Authorization", header)
		f := newFleet(t)
		w := httptest.NewRecorder()
		f.serve(w, r)
		if w.Code != http.StatusUnauthorized || len(f.calls) > 0 {
			t.Errorf("Authorization %q: got %d after the calls %v, want 401 and none", header, w.Code, f.calls)
		}
		if want := "no user of this node has that bearer token"; !strings.Contains(w.Body.String(), want) {
			t.Errorf("Authorization %q: got %s, want %q", header, w.Body, want)
		}
	}
}

func TestTheSchemeOfATokenIsOfAnyCase(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/api/v1/status", nil)
	r.Header.Set("Authorization", "bearer "+viewerToken) // RFC 9110, 11.1
	if got := do(t, newFleet(t), r).StatusCode; got != http.StatusOK {
		t.Errorf("got %d, want 200", got)
	}
}

func TestRefusedRequestsReachNobody(t *testing.T) {
	for _, r := range append(append([]route{}, routes...), wrong...) {
		for token, status := range map[string]int{"": r.none, viewerToken: r.viewer} {
			f := newFleet(t)
			if ask(t, f, r.method, r.example, token); status >= 400 && status != http.StatusNotFound && len(f.calls) > 0 {
				t.Errorf("%s %s as %s is refused with %d after the calls %v", r.method, r.example, who[token], status, f.calls)
			}
		}
	}
}

func TestErrorsOfImplementations(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		detail string
	}{
		{"a problem of its own", Errorf(http.StatusConflict, "busy").WithHint("later"), http.StatusConflict, "busy"},
		{"a wrapped one", fmt.Errorf("start: %w", Errorf(http.StatusConflict, "busy")), http.StatusConflict, "busy"},
		{"any other", errors.New("disk on fire"), http.StatusInternalServerError, "disk on fire"},
	} {
		for _, r := range routes {
			f := newFleet(t)
			f.err = c.err
			resp := ask(t, f, r.method, r.example, adminToken)
			resp.checkProblem(t)
			if p := resp.problem(t); resp.StatusCode != c.status || !strings.Contains(p.Detail, c.detail) {
				t.Errorf("%s from %s %s: got %d %q, want %d %q", c.name, r.method, r.example, resp.StatusCode, p.Detail, c.status, c.detail)
			}
		}
	}
}

func TestNotReadyIsSaid(t *testing.T) {
	f := newFleet(t)
	f.notReady = errors.New("no raft leader")
	resp := ask(t, f, http.MethodGet, "/readyz", "")
	resp.checkProblem(t)
	if p := resp.problem(t); resp.StatusCode != http.StatusServiceUnavailable || p.Detail != "no raft leader" {
		t.Errorf("got %d %+v, want 503 and the reason", resp.StatusCode, p)
	}
	if got := ask(t, f, http.MethodGet, "/livez", "").StatusCode; got != http.StatusOK {
		t.Errorf("/livez: got %d: a node that is not ready is alive", got)
	}
}
