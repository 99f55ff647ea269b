package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestReadsAreAsFreshAsAsked(t *testing.T) {
	for _, c := range []struct {
		method, path string
		noMajority   error
		status       int
		barriers     int
		age          string // of the answer's header
	}{
		{"GET", "/api/v1/objects", nil, 200, 1, "0.000"},
		{"GET", "/api/v1/objects?consistency=linearizable", nil, 200, 1, "0.000"},
		{"GET", "/api/v1/objects?consistency=stale", nil, 200, 0, "1.500"},
		{"GET", "/api/v1/objects/Cluster/us?consistency=stale", errors.New("cut off"), 200, 0, "1.500"},
		{"GET", "/api/v1/runbooks/failover/execution", nil, 200, 1, "0.000"},
		{"GET", "/api/v1/flows/us-eu/verification?consistency=stale", nil, 200, 0, "1.500"},
		{"GET", "/api/v1/objects", errors.New("cut off"), 503, 1, ""},
		{"DELETE", "/api/v1/objects/Cluster/us", nil, 204, 1, ""}, // a change starts from the newest state
		{"DELETE", "/api/v1/objects/Cluster/us", errors.New("cut off"), 503, 1, ""},
		{"GET", "/api/v1/lineage/topics/us/orders", errors.New("cut off"), 200, 0, ""}, // answers from elsewhere
	} {
		f := newFleet(t)
		f.noMajority = c.noMajority
		resp := ask(t, f, c.method, c.path, adminToken)
		resp.checkProblem(t)
		if resp.StatusCode != c.status || f.barriers != c.barriers || resp.Header.Get(ageHeader) != c.age {
			t.Errorf("%s %s: got %d, %d barriers, age %q; want %d, %d, %q", c.method, c.path, resp.StatusCode, f.barriers, resp.Header.Get(ageHeader), c.status, c.barriers, c.age)
		}
		if c.age != "" && resp.Header.Get(revisionHeader) != "41" {
			t.Errorf("%s %s: revision %q", c.method, c.path, resp.Header.Get(revisionHeader))
		}
		if c.status == 503 && len(f.calls) > 0 {
			t.Errorf("%s %s: was carried out: %v", c.method, c.path, f.calls)
		}
	}
	if hint := ask(t, &fleet{noMajority: errors.New("cut off")}, "GET", "/api/v1/objects", viewerToken).problem(t).Hint; !strings.Contains(hint, "consistency=stale") {
		t.Errorf("hint %q", hint)
	}
}

func TestPreconditionsOfOneObject(t *testing.T) {
	for _, c := range []struct {
		method, match, none string
		status              int
		want                *Precondition
	}{
		{"PUT", "", "", 200, nil},
		{"PUT", `"3"`, "", 200, At(3)},
		{"PUT", "", "*", 200, At(0)}, // only if there is none
		{"PUT", "*", "", 200, &Precondition{Present: true}},
		{"PUT", `"3", "5"`, "", 200, &Precondition{Revisions: []uint64{3, 5}}},
		{"PUT", `"3"`, "*", 422, nil},
		{"PUT", "", `"3"`, 422, nil},
		{"PUT", `W/"3"`, "", 412, nil},
		{"DELETE", "", "", 204, nil},
		{"DELETE", `"3"`, "", 204, At(3)},
		{"DELETE", "*", "", 204, &Precondition{Present: true}},
		{"DELETE", `x`, "", 412, nil},
	} {
		f := newFleet(t)
		text := ""
		if c.method == "PUT" {
			text = "kind: Cluster\n"
		}
		r := httptest.NewRequest(c.method, "/api/v1/objects/Cluster/us", body(text))
		r.Header.Set("Authorization", "Bearer "+adminToken)
		for name, value := range map[string]string{"If-Match": c.match, "If-None-Match": c.none} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		resp := do(t, f, r)
		resp.checkProblem(t)
		if resp.StatusCode != c.status || !reflect.DeepEqual(f.expected, c.want) {
			t.Errorf("%s If-Match %q If-None-Match %q: got %d, %v: %s", c.method, c.match, c.none, resp.StatusCode, f.expected, resp.text)
		}
		if c.status >= 400 && len(f.calls) > 0 {
			t.Errorf("%s If-Match %q: was carried out", c.method, c.match)
		}
		if c.method == "PUT" && c.status == 200 && resp.Header.Get("ETag") != `"9"` {
			t.Errorf("ETag of a PUT: %s", resp.Header.Get("ETag"))
		}
	}
}

// What is recorded without the fleet: refusals, changes that no replicated command
// carries, and reads that are accounted for.
func TestWhatIsNoted(t *testing.T) {
	for _, c := range []struct {
		method, path, token string
		err                 error
		want                string // operation, target, user, status; "" if nothing
	}{
		{"GET", "/api/v1/objects", viewerToken, nil, ""},
		{"GET", "/api/v1/objects", "wrong-token-0123456789", nil, "list-objects   401"},
		{"GET", "/metrics", "wrong-token-0123456789", nil, "metrics   401"},
		{"DELETE", "/api/v1/objects/Cluster/us", viewerToken, nil, "delete-object objects/Cluster/us vera 403"},
		{"DELETE", "/api/v1/objects/Cluster/us", adminToken, nil, "delete-object objects/Cluster/us ops 204"},
		{"DELETE", "/api/v1/objects/Cluster/us", adminToken, Errorf(409, "is still needed"), "delete-object objects/Cluster/us ops 409"},
		{"DELETE", "/api/v1/objects/Topic/us", adminToken, nil, "delete-object objects/Topic/us ops 422"},
		{"POST", "/api/v1/apply?dryRun=true", adminToken, nil, ""},
		{"POST", "/api/v1/apply?dryRun=true", adminToken, Errorf(412, "changed"), "apply  ops 412"},
		{"POST", "/api/v1/apply", adminToken, nil, "apply  ops 200"},
		{"GET", "/api/v1/lineage/events/us/orders/3/1041", viewerToken, nil, "event-lineage lineage/events/us/orders/3/1041 vera 200"},
		{"GET", "/api/v1/lineage/topics/us/orders", viewerToken, Errorf(403, "no Describe"), "topic-lineage lineage/topics/us/orders vera 403"},
		{"GET", "/api/v1/lineage/gaps/us/orders/3", viewerToken, nil, "topic-gaps lineage/gaps/us/orders/3 vera 200"},
		{"GET", "/api/v1/lineage/accesses/us/orders/3", viewerToken, nil, "topic-accesses lineage/accesses/us/orders/3 vera 200"},
		{"GET", "/api/v1/lineage/groups/us/billing", viewerToken, nil, "group-accesses lineage/groups/us/billing vera 200"},
		{"GET", "/api/v1/lineage/principals/us/User:shop", viewerToken, nil, "principal-accesses lineage/principals/us/User:shop vera 200"},
		{"GET", "/api/v1/lineage/principals/us/User:shop/export", viewerToken, nil, "export-principal lineage/principals/us/User:shop/export vera 200"},
		{"GET", "/api/v1/lineage/search/us/orders/export?key=a", viewerToken, nil, "export-search lineage/search/us/orders/export vera 200"},
		{"GET", "/api/v1/lineage/check/us", adminToken, nil, "check-ledger lineage/check/us ops 200"},
		{"GET", "/api/v1/audit", adminToken, nil, "list-audit  ops 200"},
		{"GET", "/api/v1/audit", viewerToken, nil, "list-audit  vera 403"},
	} {
		f := newFleet(t)
		f.err = c.err
		before := time.Now().Add(-time.Second)
		ask(t, f, c.method, c.path, c.token)
		var got []string
		for _, e := range f.noted {
			got = append(got, fmt.Sprintf("%s %s %s %d", e.Operation, e.Target, e.User, e.Status))
			if e.Time.Before(before) || e.Address != "192.0.2.1" {
				t.Errorf("%s %s: time %s, address %q", c.method, c.path, e.Time, e.Address)
			}
			if e.Status >= 400 && e.Problem == "" {
				t.Errorf("%s %s: it is not said why it was refused", c.method, c.path)
			}
			if strings.Contains(fmt.Sprint(e), c.token) {
				t.Errorf("%s %s: the entry holds the token", c.method, c.path)
			}
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s %s: noted %q, want %q", c.method, c.path, got, c.want)
		}
	}
}

// What the replicated trail has is not noted a second time, unless it failed after
// all.
func TestWhatTheFleetRecordsIsNotNoted(t *testing.T) {
	call := newCall("apply", "/api/v1/apply", "192.0.2.1:1")
	call.Recorded()
	f := newFleet(t)
	note(f, call, 200, true, false)
	if len(f.noted) > 0 {
		t.Errorf("noted %v", f.noted)
	}
	note(f, call, 412, true, false)
	if len(f.noted) != 1 {
		t.Error("a refusal is not noted")
	}
}

func TestUsersAreReplaced(t *testing.T) {
	users := NewUsers([]User{{Name: "old", Token: "old-token-0123456789", Role: Admin}})
	users.Replace([]User{{Name: "new", Token: "new-token-0123456789", Role: Viewer}})
	if _, ok := users.caller("Bearer old-token-0123456789"); ok {
		t.Error("who was taken off is let in")
	}
	if c, ok := users.caller("bearer new-token-0123456789"); !ok || c.Name != "new" {
		t.Errorf("got %+v", c)
	}
}

func TestAnAuditQueryIsHandedOn(t *testing.T) {
	f := newFleet(t)
	ask(t, f, http.MethodGet, "/api/v1/audit?since=2026-11-24T08:00:00Z&until=2026-11-25T08:00:00Z&user=ops&object=Cluster/us&operation=apply&source=fleet&limit=7&cursor=abc", adminToken)
	day := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	want := AuditQuery{Since: day, Until: day.AddDate(0, 0, 1), User: "ops", Object: "Cluster/us", Operation: "apply", Source: "fleet", Limit: 7, Cursor: "abc"}
	if f.query != want {
		t.Errorf("got %+v, want %+v", f.query, want)
	}
	ask(t, f, http.MethodGet, "/api/v1/audit", adminToken)
	if f.query != (AuditQuery{Limit: 100}) {
		t.Errorf("got %+v", f.query)
	}
}
