package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReadEvents(t *testing.T) {
	var got []string
	err := readEvents(strings.NewReader(": begin\n\nid: 1\nevent: lineage\ndata: {}\n\n: alive\nid: 2\n\nevent:end\ndata:a\ndata: b\nretry: 5\n\nevent: cut\n"), func(id, kind string, data []byte) error {
		got = append(got, fmt.Sprintf("%s %s %s", id, kind, data))
		return nil
	})
	if want := []string{"1 lineage {}", "2  ", " end a\nb"}; !slices.Equal(got, want) || err == nil {
		t.Errorf("got %q and %v, want %q", got, err, want)
	}
	if err := readEvents(strings.NewReader("data: "+strings.Repeat("x", 2<<20)), nil); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("got %v for a line of 2 MiB", err)
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add([]byte("id: 1\nevent: lineage\ndata: {}\n\n: alive\nid: 2\n\n"))
	f.Add([]byte("data\ndata:\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		err := readEvents(bytes.NewReader(b), func(id, kind string, data []byte) error {
			if strings.Contains(id+kind, "\n") {
				t.Errorf("id %q, kind %q", id, kind)
			}
			total += len(id) + len(kind) + len(data)
			return nil
		})
		if err == nil || total > len(b) {
			t.Errorf("got %d bytes of %d, and %v", total, len(b), err)
		}
	})
}

// TestWatchGoesOn: a stream that ends is followed on where it ended, what cannot be
// helped is not tried again.
func TestWatchGoesOn(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RequestURI()+" "+r.Header.Get("Last-Event-ID"))
		switch len(asked) {
		case 1:
			fmt.Fprint(w, "id: 7\nevent: lineage\ndata: {\"kind\":\"copied\",\"at\":\"2026-11-27T08:00:00Z\",\"source\":{\"cluster\":\"us\",\"topic\":\"orders\",\"partition\":1,\"first\":3,\"last\":5},\"destination\":{\"redacted\":true}}\n\nevent: end\ndata: {\"why\":\"stopping\"}\n\n")
		case 2:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"status":403,"detail":"not any more"}`)
		}
	}))
	defer s.Close()
	var out, errs bytes.Buffer
	w := watcher{server: &server{url: s.URL}, path: "/stream?a=b", out: &out, errs: &errs}
	err := w.run(ctx)
	if err == nil || !strings.Contains(err.Error(), "not any more") {
		t.Errorf("got %v", err)
	}
	if want := []string{"/stream?a=b ", "/stream?a=b 7"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	at := time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC).Local().Format("15:04:05.000")
	if got, want := out.String(), at+"  copied us/orders/1 3-5 to a place that you may not see\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	if !strings.Contains(errs.String(), "stopping") {
		t.Errorf("said %q", &errs)
	}
}
