package api

import (
	"bytes"
	"net/http"
	"testing"
	"time"
)

func TestWhatASearchIsAskedFor(t *testing.T) {
	f := newFleet(t)
	resp := ask(t, f, http.MethodGet, "/api/v1/lineage/search/us/orders?keyBase64=AP8=&traceId=00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01&since=2026-11-27T08:00:00Z&limit=7&cursor=x", viewerToken)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got %d: %s", resp.StatusCode, resp.text)
	}
	q := f.search
	if q.Cluster != "us" || q.Topic != "orders" || !bytes.Equal(q.Key, []byte{0, 0xff}) || q.TraceID[0] != 0x4b || q.TraceID[15] != 0x36 ||
		!q.Since.Equal(time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC)) || !q.Until.IsZero() || q.Partition != -1 || q.Partitioner != "" || q.Limit != 7 || q.Cursor != "x" {
		t.Errorf("asked for %+v", q)
	}
	if f.caller.Name == "" {
		t.Error("asked by nobody")
	}
	ask(t, f, http.MethodGet, "/api/v1/lineage/search/us/orders?traceId=4bf92f3577b34da6a3ce929d0e0e4736", viewerToken)
	if f.search.Key != nil {
		t.Errorf("no key was asked for, and %q is searched for", f.search.Key)
	}
}
