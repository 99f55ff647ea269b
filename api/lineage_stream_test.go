package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/waybillhq/waybill/lineage"
)

func TestStreamAsServerSentEvents(t *testing.T) {
	f := newFleet(t)
	r := httptest.NewRequest(http.MethodGet, "/api/v1/lineage/stream/us?topic=orders&kind=copied&kind=fetched", nil)
	r.Header.Set("Authorization", "Bearer "+viewerToken)
	r.Header.Set("Last-Event-ID", "zero")
	resp := do(t, f, r)
	want := ": the stream begins\n\n" +
		"id: one\nevent: lineage\ndata: {\"kind\":\"copied\",\"flow\":\"us-eu\"}\n\n" +
		"event: end\ndata: {\"why\":\"the node ends its streams\"}\n\n"
	if resp.StatusCode != http.StatusOK || resp.text != want || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %d %v\n%s", resp.StatusCode, resp.Header, resp.text)
	}
	q := f.stream
	if q.Cluster != "us" || q.Topic != "orders" || !slices.Equal(q.Kinds, []string{"copied", "fetched"}) || q.After != "zero" {
		t.Errorf("asked for %+v", q)
	}
	if f.calls[len(f.calls)-1] != "close" {
		t.Errorf("the stream is left open: %v", f.calls)
	}
}

// quiet is a stream on which nothing comes: first a heartbeat, then silence until the
// client goes.
type quiet struct {
	beats int
	gone  chan struct{}
}

func (q *quiet) Next(ctx context.Context, _ time.Duration) ([]lineage.StreamEvent, string, error) {
	if q.beats++; q.beats == 1 {
		return nil, "mark", nil
	}
	close(q.gone)
	<-ctx.Done()
	return nil, "", ctx.Err()
}
func (q *quiet) Close() {}

func TestStreamIsAliveUntilTheClientGoes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := &quiet{gone: make(chan struct{})}
	go func() { <-q.gone; cancel() }()
	w := httptest.NewRecorder()
	serveEvents(ctx, w, q)
	if got, want := w.Body.String(), ": the stream begins\n\n: alive\nid: mark\n\n"; got != want || !w.Flushed {
		t.Errorf("got %q, want %q", got, want)
	}
}

// deaf is a client whose connection takes nothing more.
type deaf struct {
	http.ResponseWriter
	deadline time.Time
}

func (d *deaf) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		d.deadline = t
	}
	return nil
}
func (d *deaf) Write([]byte) (int, error) { return 0, errors.New("deadline exceeded") }

func TestStreamLeavesWhoTakesNothing(t *testing.T) {
	d := &deaf{ResponseWriter: httptest.NewRecorder()}
	serveEvents(t.Context(), d, &quiet{gone: make(chan struct{})})
	if d.deadline.IsZero() {
		t.Error("a write may take for ever")
	}
}

// TestStreamIsInTheTrailWhenItBegins: who follows is known before he has gone.
func TestStreamIsInTheTrailWhenItBegins(t *testing.T) {
	f := newFleet(t)
	ask(t, f, http.MethodGet, "/api/v1/lineage/stream/us", viewerToken)
	if len(f.noted) != 1 || f.noted[0].Operation != "stream-lineage" || f.noted[0].Status != http.StatusOK || f.noted[0].Target != "lineage/stream/us" {
		t.Fatalf("noted %+v", f.noted)
	}
	if f.streamNoted != 1 {
		t.Error("it was noted at its end")
	}
}
