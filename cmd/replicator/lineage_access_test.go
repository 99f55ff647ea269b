package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

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
