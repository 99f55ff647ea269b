package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
)

// An export that comes in pages is one table: each page is asked for with what the one
// before it named, and only the first heading stays.
func TestExportsPage(t *testing.T) {
	noEnvironment(t)
	var asked []string
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Content-Type")+" "+string(body))
		if len(asked)%2 == 1 {
			w.Header().Set("Waybill-Next", "11")
		}
		fmt.Fprintf(w, "heading\nrow %d\n", len(asked))
	}))
	defer node.Close()
	write(t, map[string]string{"key": "0123456789abcdef"})
	for _, args := range [][]string{
		{"digests", "us/orders/3", "--from", "7", "--key-file", "key"},
		{"table", "us/orders/3", "--from", "7"},
		{"principal", "us", "User:a/b"},
		{"search", "us/orders", "--key", "a", "--since", "2026-11-27T08:00:00Z"},
		{"table", "us/orders/3", "--what", "copies", "--direction", "up"},
	} {
		asked = nil
		got := replicator(t, "", slices.Concat([]string{"lineage", "export"}, args, []string{"--server", node.URL})...)
		if got.code != exitOK || got.stdout != "heading\nrow 1\nrow 2\n" {
			t.Errorf("%v: got %d %q %q", args, got.code, got.stdout, got.stderr)
		}
		want := []string{
			"POST /api/v1/lineage/digests/us/orders/3?format=csv&from=7&to=-1 application/octet-stream 0123456789abcdef",
			"POST /api/v1/lineage/digests/us/orders/3?format=csv&from=11&to=-1 application/octet-stream 0123456789abcdef",
		}
		switch {
		case slices.Contains(args, "copies"):
			want = []string{
				"GET /api/v1/lineage/export/us/orders/3?direction=up&format=csv&from=0&to=-1&what=copies  ",
				"GET /api/v1/lineage/export/us/orders/3?cursor=11&direction=up&format=csv&from=0&to=-1&what=copies  ",
			}
		case args[0] == "principal":
			want = []string{
				"GET /api/v1/lineage/principals/us/User:a%2Fb/export?format=csv  ",
				"GET /api/v1/lineage/principals/us/User:a%2Fb/export?cursor=11&format=csv  ",
			}
		case args[0] == "search":
			want = []string{
				"GET /api/v1/lineage/search/us/orders/export?format=csv&key=a&limit=500&partition=-1&since=2026-11-27T08%3A00%3A00Z  ",
				"GET /api/v1/lineage/search/us/orders/export?cursor=11&format=csv&key=a&limit=500&partition=-1&since=2026-11-27T08%3A00%3A00Z  ",
			}
		case args[0] == "table":
			want = []string{
				"GET /api/v1/lineage/export/us/orders/3?format=csv&from=7&to=-1&what=accessed  ",
				"GET /api/v1/lineage/export/us/orders/3?cursor=11&format=csv&from=7&to=-1&what=accessed  ",
			}
		}
		if !slices.Equal(asked, want) {
			t.Errorf("%v: asked %q, want %q", args, asked, want)
		}
	}
}
