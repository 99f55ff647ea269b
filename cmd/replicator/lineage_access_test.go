package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestAccessOfAGroup: what is asked, and how it is marked that it is known from commits only.
func TestAccessOfAGroup(t *testing.T) {
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.EscapedPath()+" "+r.URL.Query().Get("group"))
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(r.URL.Path, "/api/v1/lineage/groups/") {
			_, _ = w.Write([]byte(`{"topics":[{"topic":"orders","client":{"kind":"committed","basis":"committed-offsets","group":"a/b","offsets":7}}]}`))
			return
		}
		_, _ = w.Write([]byte(`{"deeds":[{"kind":"leapt","basis":"committed-offsets","group":"a/b","first":3,"last":9},{"kind":"fetched","principal":"User:x","offsets":1}]}`))
	}))
	defer s.Close()
	if got := replicator(t, "", "lineage", "access", "us", "--group", "a/b", "--server", s.URL); got.code != 0 || !strings.Contains(got.stdout, "committed (from commits)") {
		t.Errorf("in a cluster: got %d %s %s", got.code, got.stdout, got.stderr)
	}
	got := replicator(t, "", "lineage", "access", "us/orders/3", "--group", "a/b", "--server", s.URL)
	if got.code != 0 || !strings.Contains(got.stdout, "leapt (from commits)") || !strings.Contains(got.stdout, "fetched  ") {
		t.Errorf("of a partition: got %d %s %s", got.code, got.stdout, got.stderr)
	}
	if want := []string{"/api/v1/lineage/groups/us/a%2Fb ", "/api/v1/lineage/accesses/us/orders/3 a/b"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	if got := replicator(t, "", "lineage", "access", "us", "--group", "g", "--principal", "User:x", "--server", s.URL); got.code != exitInvalid {
		t.Errorf("a group and a principal: got %d %s", got.code, got.stderr)
	}
}

// TestAccessKeepsWhatIsUnknown: what any of the pages does not know is shown.
func TestAccessKeepsWhatIsUnknown(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("cursor") == "" {
			_, _ = w.Write([]byte(`{"deeds":[],"topics":[],"next":"x","unknown":["at first","always"]}`))
			return
		}
		_, _ = w.Write([]byte(`{"deeds":[],"topics":[],"unknown":["always"]}`))
	}))
	defer s.Close()
	for _, what := range [][]string{{"us/orders/3"}, {"us", "--group", "g"}} {
		got := replicator(t, "", append([]string{"lineage", "access", "--server", s.URL}, what...)...)
		if got.code != 0 || !strings.Contains(got.stdout, "unknown: at first") || strings.Count(got.stdout, "unknown: always") != 1 {
			t.Errorf("%q: got %d %s %s", what, got.code, got.stdout, got.stderr)
		}
	}
}

// TestAccessOfAPrincipalTakesNoPlace: what would not be looked at is refused, and
// nobody is asked.
func TestAccessOfAPrincipalTakesNoPlace(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked") }))
	defer s.Close()
	for _, flag := range []string{"--from=1", "--to=2", "--kind=produced", "--topic-id=x"} {
		got := replicator(t, "", "lineage", "access", "us", "--principal", "User:billing", flag, "--server", s.URL)
		if name, _, _ := strings.Cut(flag, "="); got.code != exitInvalid || !strings.Contains(got.stderr, name+" is about one partition") {
			t.Errorf("%s: got %d %s", flag, got.code, got.stderr)
		}
	}
}

// TestAccessOfAClusterNeedsSomebody: a cluster alone is told what to add to it.
func TestAccessOfAClusterNeedsSomebody(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked") }))
	defer s.Close()
	got := replicator(t, "", "lineage", "access", "us", "--server", s.URL)
	if got.code != exitInvalid || got.stdout != "" || !strings.Contains(got.stderr, "--principal or --group") || !strings.Contains(got.stderr, "us/orders/3") {
		t.Errorf("got %d %q %s", got.code, got.stdout, got.stderr)
	}
}
