package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/lineage"
)

// TestCopiesOfManyPages: pages are read up to the limit, and what is left is said.
func TestCopiesOfManyPages(t *testing.T) {
	noEnvironment(t)
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		asked = append(asked, strings.TrimPrefix(r.URL.Path, "/api/v1/lineage/copies/")+" "+q.Get("direction")+" "+q.Get("limit")+" "+q.Get("cursor"))
		n := int64(len(asked))
		row := lineage.RangeRow{Source: lineage.Stretch{Cluster: "us", Topic: "orders", First: 100 * (n - 1), Last: 100*n - 1}, Destination: lineage.Stretch{First: -1}}
		page := lineage.RangePage{Rows: []lineage.RangeRow{row}, First: row.Source.First, Last: row.Source.Last, Next: fmt.Sprint("c", n), Unknown: []string{"x"}}
		if n == 3 {
			page.Next = ""
		}
		if err := json.NewEncoder(w).Encode(page); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	got := replicator(t, "", "lineage", "copies", "us/orders/3", "--direction", "up", "--server", s.URL, "-o", "json")
	var page lineage.RangePage
	if err := json.Unmarshal([]byte(got.stdout), &page); err != nil || len(page.Rows) != 3 || page.First != 0 || page.Last != 299 || page.Next != "" || len(page.Unknown) != 1 {
		t.Errorf("got %+v %v", got, err)
	}
	if want := "us/orders/3 up 500 |us/orders/3 up 500 c1|us/orders/3 up 500 c2"; strings.Join(asked, "|") != want {
		t.Errorf("asked %q, want %q", asked, want)
	}
	asked = nil
	got = replicator(t, "", "lineage", "copies", "us/orders/3", "--limit", "2", "--server", s.URL)
	if want := "this is about offsets 0 to 199, there is more: raise --limit"; len(asked) != 2 || !strings.Contains(got.stdout, want) {
		t.Errorf("asked %q, got %s, want %q", asked, got.stdout, want)
	}
	for _, args := range []string{"us/orders", "us/orders/3 --limit 0", "us/orders/3 --direction sideways"} {
		asked = nil
		if got := replicator(t, "", append(strings.Fields("lineage copies "+args), "--server", s.URL)...); got.code != exitInvalid || len(asked) > 0 {
			t.Errorf("%s: got %+v after asking %q", args, got, asked)
		}
	}
}
