package api

import (
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/verify"
)

func TestPathsAreUnescaped(t *testing.T) {
	f := newFleet(t)
	ask(t, f, http.MethodGet, "/api/v1/lineage/events/us/a%2Fb%20c%25/0/9223372036854775807?topicId=x%2Fy", viewerToken)
	if want := (lineage.Address{Cluster: "us", Topic: "a/b c%", Offset: math.MaxInt64, TopicID: "x/y"}); f.address != want {
		t.Errorf("event: got %+v, want %+v", f.address, want)
	}
	if f.headers != lineage.HeadersAuto {
		t.Errorf("headers: got %q", f.headers)
	}
	if ask(t, f, http.MethodGet, "/api/v1/lineage/events/us/a/0/1?headers=values", viewerToken); f.headers != lineage.HeadersValues {
		t.Errorf("headers: got %q", f.headers)
	}
	ask(t, f, http.MethodGet, "/api/v1/offsets/a%2Fb/t/2147483647/0?to=e%26u", viewerToken)
	if want := (offsets.Where{Cluster: "a/b", Topic: "t", Partition: math.MaxInt32}); f.from != want || f.to != "e&u" {
		t.Errorf("position: got %+v to %q, want %+v to e&u", f.from, f.to, want)
	}
	ask(t, f, http.MethodDelete, "/api/v1/objects/Runbook/a%2Fb", adminToken)
	if f.deleted != "Runbook/a/b" {
		t.Errorf("delete: got %q", f.deleted)
	}
	ask(t, f, http.MethodPost, "/api/v1/runbooks/failover/approve?step=gate&reason=CHG%201042%20%26%20co", adminToken)
	if f.decision != "approve" || f.step != "gate" || f.person != (Person{"ops", "CHG 1042 & co"}) {
		t.Errorf("decision: got %q %q %+v", f.decision, f.step, f.person)
	}
}

func TestDraining(t *testing.T) {
	f := newFleet(t)
	ask(t, f, http.MethodPost, "/api/v1/fleet/nodes/r%2F1/drain?reason=new%20disk", adminToken)
	if f.node != "r/1" || !f.draining || f.force || f.person != (Person{"ops", "new disk"}) {
		t.Errorf("drain: got %q draining %v, force %v, by %+v", f.node, f.draining, f.force, f.person)
	}
	ask(t, f, http.MethodPost, "/api/v1/fleet/nodes/r1/drain?force=true", adminToken)
	if !f.force {
		t.Error("force is lost")
	}
	ask(t, f, http.MethodPost, "/api/v1/fleet/tokens?ttlSeconds=600&worker=true", adminToken)
	if f.ttl != 10*time.Minute || !f.worker {
		t.Errorf("new token: got %s, worker %v", f.ttl, f.worker)
	}
	ask(t, f, http.MethodDelete, "/api/v1/fleet/nodes/r2?force=true&disk=5f1c", adminToken)
	if f.node != "r2" || !f.force || f.disk != "5f1c" {
		t.Errorf("remove: got %q on %q, force %v", f.node, f.disk, f.force)
	}
	ask(t, f, http.MethodPost, "/api/v1/fleet/transfer?to=r3", adminToken)
	if f.node != "r3" {
		t.Errorf("transfer: got %q", f.node)
	}
	ask(t, f, http.MethodPost, "/api/v1/fleet/nodes/r1/undrain", adminToken)
	if f.node != "r1" || f.draining {
		t.Errorf("undrain: got %q draining %v", f.node, f.draining)
	}
}

func TestGroupsComeInPages(t *testing.T) {
	f := newFleet(t)
	f.next = "b c"
	for query, want := range map[string]GroupPage{
		"": {Limit: mostGroups}, "?limit=2&cursor=a%26b": {Limit: 2, Cursor: "a&b"}, "?group=a&group=b%20c": {Names: []string{"a", "b c"}, Limit: mostGroups},
	} {
		resp := ask(t, f, http.MethodGet, "/api/v1/flows/us-eu/groups"+query, viewerToken)
		var got GroupRows
		if err := json.Unmarshal([]byte(resp.text), &got); err != nil || got.Next != "b c" || !reflect.DeepEqual(f.groups, want) {
			t.Errorf("%s: got %+v, asked for %+v, want %+v: %v", query, got, f.groups, want, err)
		}
	}
	if resp := ask(t, f, http.MethodGet, "/api/v1/flows/us-eu/groups?limit=1001", viewerToken); resp.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("too many: got %d", resp.StatusCode)
	}
}

func TestGapsAreOfARange(t *testing.T) {
	for query, want := range map[string][2]int64{
		"":                 {0, math.MaxInt64 - 1},
		"?from=5":          {5, math.MaxInt64 - 1},
		"?from=5&to=9":     {5, 9},
		"?to=0":            {0, 0},
		"?from=5&to=-1":    {5, math.MaxInt64 - 1},
		"?topicId=AAA&to=": {0, math.MaxInt64 - 1},
	} {
		f := newFleet(t)
		resp := ask(t, f, http.MethodGet, "/api/v1/lineage/gaps/us/orders/3"+query, viewerToken)
		if got := [2]int64{f.address.Offset, f.gapsTo}; got != want || f.address.Partition != 3 {
			t.Errorf("%q: got %v of partition %d, want %v of 3 (%d %s)", query, got, f.address.Partition, want, resp.StatusCode, resp.text)
		}
		if strings.TrimSpace(resp.text) != `{"gaps":[]}` {
			t.Errorf("%q: no gaps are an empty list, not %s", query, resp.text)
		}
	}
}

func TestCopiesAreOfARange(t *testing.T) {
	at := lineage.Address{Cluster: "us", Topic: "orders", Partition: 3}
	from := func(o int64) lineage.Address { a := at; a.Offset = o; return a }
	for query, want := range map[string]lineage.RangeQuery{
		"":             {At: at, Last: -1, Way: lineage.Both, Limit: 100},
		"?from=5&to=9": {At: from(5), Last: 9, Way: lineage.Both, Limit: 100},
		"?from=9223372036854775807&to=9223372036854775807":      {At: from(math.MaxInt64), Last: math.MaxInt64, Way: lineage.Both, Limit: 100},
		"?direction=up&exact=true&limit=7&cursor=x&topicId=AAA": {At: lineage.Address{Cluster: "us", Topic: "orders", Partition: 3, TopicID: "AAA"}, Last: -1, Way: lineage.Upstream, Exact: true, Limit: 7, Cursor: "x"},
	} {
		f := newFleet(t)
		resp := ask(t, f, http.MethodGet, "/api/v1/lineage/copies/us/orders/3"+query, viewerToken)
		if f.copies != want || resp.StatusCode != http.StatusOK || len(f.noted) != 1 || f.noted[0].Operation != "range-lineage" {
			t.Errorf("%q: got %+v, want %+v (%d %s), noted %+v", query, f.copies, want, resp.StatusCode, resp.text, f.noted)
		}
	}
}

func TestWhatIsAffectedBy(t *testing.T) {
	for path, want := range map[string]lineage.AffectedQuery{
		"us":                             {Cluster: "us", Partition: -1, Last: -1},
		"us/orders?topicId=AAA":          {Cluster: "us", Topic: "orders", TopicID: "AAA", Partition: -1, Last: -1},
		"us/orders/3":                    {Cluster: "us", Topic: "orders", Partition: 3, Last: -1},
		"us/orders/3?from=5&to=9":        {Cluster: "us", Topic: "orders", Partition: 3, From: 5, Last: 9},
		"us/orders/3?from=5&topicId=AAA": {Cluster: "us", Topic: "orders", TopicID: "AAA", Partition: 3, From: 5, Last: -1},
	} {
		f := newFleet(t)
		resp := ask(t, f, http.MethodGet, "/api/v1/lineage/affected/"+path, viewerToken)
		if f.affected != want || resp.StatusCode != http.StatusOK || len(f.noted) != 1 || f.noted[0].Target != "lineage/affected/"+strings.Split(path, "?")[0] {
			t.Errorf("%q: got %+v, want %+v (%d %s), noted %+v", path, f.affected, want, resp.StatusCode, resp.text, f.noted)
		}
	}
	f := newFleet(t)
	ask(t, f, http.MethodGet, "/api/v1/lineage/topics/us/orders?windowSeconds=90&partitions=true", viewerToken)
	if want := (lineage.PaceQuery{Window: 90 * time.Second, Partitions: true}); f.pace != want {
		t.Errorf("got %+v, want %+v", f.pace, want)
	}
}

func TestTheCallerIsHandedOn(t *testing.T) {
	f := newFleet(t)
	r := httptest.NewRequest(http.MethodGet, "/api/v1/lineage/topics/us/orders", nil)
	r.Header.Set("Authorization", "Bearer "+viewerToken)
	r.RemoteAddr = "[2001:db8::7]:4711"
	do(t, f, r)
	if want := (Caller{Name: "vera", Role: Viewer, Principals: map[string]string{"us": "User:vera"}, Address: "2001:db8::7"}); !reflect.DeepEqual(f.caller, want) {
		t.Errorf("got %+v, want %+v", f.caller, want)
	}
}

func TestApplyAtARevision(t *testing.T) {
	for _, c := range []struct {
		header string
		status int
		want   *Precondition
	}{
		{"", 200, nil},
		{`"7"`, 200, At(7)},
		{`"0"`, 200, At(0)},
		{"7", 200, At(7)}, // unquoted, as people type it
		{"*", 200, nil},   // any revision
		{`"x"`, 412, nil},
		{`W/"7"`, 412, nil}, // weak tags never match (RFC 9110, 13.1.1)
		{`"6", "7"`, 200, &Precondition{Revisions: []uint64{6, 7}}},
		{"\"6\"\n\"7\"", 200, &Precondition{Revisions: []uint64{6, 7}}}, // on lines of their own
	} {
		f := newFleet(t)
		r := httptest.NewRequest(http.MethodPost, "/api/v1/apply", body("kind: Cluster\n"))
		r.Header.Set("Authorization", "Bearer "+adminToken)
		r.Header.Set("Content-Type", "application/yaml")
		if c.header != "" {
			r.Header["If-Match"] = strings.Split(c.header, "\n")
		}
		resp := do(t, f, r)
		resp.checkProblem(t)
		if resp.StatusCode != c.status || !reflect.DeepEqual(f.expected, c.want) {
			t.Errorf("If-Match %s: got %d, %+v", c.header, resp.StatusCode, f.expected)
		}
		if c.status != 200 {
			continue
		}
		if string(f.applied) != "kind: Cluster\n" || f.dryRun {
			t.Errorf("If-Match %s: applied %q, dry run %v", c.header, f.applied, f.dryRun)
		}
		if got := resp.Header.Get("ETag"); got != `"8"` {
			t.Errorf("ETag of an apply: got %s, want the new revision", got)
		}
	}
}

func TestReadingSaysTheRevision(t *testing.T) {
	f := newFleet(t)
	for path, want := range map[string]string{
		"/api/v1/objects":            `"7"`, // of the whole list, which an apply compares
		"/api/v1/objects/Cluster/us": `"3"`, // the object's own, which a PUT or DELETE of it compares
	} {
		if got := ask(t, f, http.MethodGet, path, viewerToken).Header.Get("ETag"); got != want {
			t.Errorf("%s: ETag %s, want %s", path, got, want)
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	for _, c := range []struct{ size, status int }{{MaxBody, 200}, {MaxBody + 1, 413}} {
		for _, known := range []bool{true, false} {
			f := newFleet(t)
			r := httptest.NewRequest(http.MethodPost, "/api/v1/apply", body(strings.Repeat("x", c.size)))
			if !known {
				r.ContentLength = -1
			}
			r.Header.Set("Authorization", "Bearer "+adminToken)
			resp := do(t, f, r)
			resp.checkProblem(t)
			if resp.StatusCode != c.status {
				t.Errorf("%d bytes (said before: %v): got %d, want %d: %s", c.size, known, resp.StatusCode, c.status, resp.text)
			}
			if c.status != 200 && len(f.calls) > 0 {
				t.Error("a body that is too large was applied")
			}
		}
	}
}

func TestFaultsSayWhere(t *testing.T) {
	for query, want := range map[string][]string{
		"?to=eu":        {"path.partition", "path.offset"},
		"?too=eu&all=1": {"query.all", "query.too"},
	} {
		p := ask(t, newFleet(t), http.MethodGet, "/api/v1/offsets/us/orders/x/-5"+query, viewerToken).problem(t)
		var got []string
		for _, e := range p.Errors {
			got = append(got, e.Location)
		}
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("%s: faults are at %v, want %v", query, got, want)
		}
	}
}

func TestAnEmptyBodyIsNoDeclaration(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/apply", nil)
	r.Header.Set("Authorization", "Bearer "+adminToken)
	f := newFleet(t)
	resp := do(t, f, r)
	resp.checkProblem(t)
	if resp.StatusCode != http.StatusBadRequest || len(f.calls) > 0 {
		t.Errorf("got %d after the calls %v", resp.StatusCode, f.calls)
	}
}

func TestAVerificationIsAskedFor(t *testing.T) {
	f := newFleet(t)
	ask(t, f, http.MethodPost, "/api/v1/flows/us-eu/verification?topic=a*&topic=%2Fb%2C.%2F&from=2026-11-24T08:00:00Z&bytesPerSecond=65536", adminToken)
	want := verify.Request{Topics: []string{"a*", "/b,./"}, From: "2026-11-24T08:00:00Z", BytesPerSecond: 65536}
	if !reflect.DeepEqual(f.request, want) || f.person.Name != "ops" {
		t.Errorf("got %+v by %q, want %+v", f.request, f.person.Name, want)
	}
	ask(t, f, http.MethodPost, "/api/v1/flows/us-eu/verification", adminToken)
	if want := (verify.Request{From: "start"}); !reflect.DeepEqual(f.request, want) {
		t.Errorf("got %+v, want %+v", f.request, want)
	}
}

func TestPartitionsOfAVerificationAreAskedFor(t *testing.T) {
	f := newFleet(t)
	f.verified = verify.Report{ID: "v1", Partitions: []verify.Progress{{Partition: 0}, {Partition: 1, Problem: "it is gone"}}}
	for query, want := range map[string]int{"": 1, "?partitions=true": 2} {
		var got verify.Report
		resp := ask(t, f, http.MethodGet, "/api/v1/flows/us-eu/verification"+query, viewerToken)
		if err := json.Unmarshal([]byte(resp.text), &got); err != nil || len(got.Partitions) != want || got.Partitions[want-1].Problem == "" {
			t.Errorf("%q: got %s, want %d partitions", query, resp.text, want)
		}
	}
}

// TestBodiesThatNobodyReads: options in the body of a request that takes none are refused; a
// fold that was to be dry was begun. With GET a body means nothing.
func TestBodiesThatNobodyReads(t *testing.T) {
	for _, path := range []string{
		"POST /api/v1/lineage/fold/us", "POST /api/v1/flows/us-eu/groups/move?group=a", "POST /api/v1/runbooks/failover/start", "DELETE /api/v1/objects/Cluster/us",
		"POST /api/v1/fleet/nodes/r1/drain",
	} {
		method, path, _ := strings.Cut(path, " ")
		f := newFleet(t)
		r := httptest.NewRequest(method, path, body(`{"dryRun":true}`))
		r.Header.Set("Authorization", "Bearer "+adminToken)
		resp := do(t, f, r)
		resp.checkProblem(t)
		if resp.StatusCode != http.StatusBadRequest || len(f.calls) > 0 || !strings.Contains(resp.text, "takes no body") {
			t.Errorf("%s %s: got %d, carried out: %v: %s", method, path, resp.StatusCode, f.calls, resp.text)
		}
	}
	f := newFleet(t)
	r := httptest.NewRequest(http.MethodGet, "/api/v1/status", body("{}"))
	r.Header.Set("Authorization", "Bearer "+adminToken)
	if resp := do(t, f, r); resp.StatusCode != http.StatusOK {
		t.Errorf("GET: got %d: %s", resp.StatusCode, resp.text)
	}
}
