package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/waybillhq/waybill/lineage"
)

// LineageStream is a stream of one caller's: see [lineage.Stream].
type LineageStream interface {
	Next(ctx context.Context, wait time.Duration) (events []lineage.StreamEvent, mark string, err error)
	Close()
}

const (
	// heartbeat is how often a stream says that it is alive while nothing comes.
	heartbeat = 15 * time.Second
	// streamPatience is how long a client may take none of what it is sent.
	streamPatience = 30 * time.Second
)

type streamInput struct {
	Cluster string   `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
	Topic   string   `query:"topic" maxLength:"249" doc:"Only what concerns this topic"`
	Kinds   []string `query:"kind,explode" maxItems:"5" enum:"copied,retracted,produced,fetched,committed" doc:"Only these"`
	LastID  string   `header:"Last-Event-ID" maxLength:"64" doc:"Goes on after this event, as far as the node still has what came since"`
}

func registerStream(h huma.API, l Lineage) {
	op := accountedOperation(http.MethodGet, "/api/v1/lineage/stream/{cluster}", "stream-lineage",
		"What is copied, produced and read from now on, as server-sent events: lineage, whose data is a LineageStreamEvent, and end, with the reason",
		http.StatusForbidden, http.StatusNotFound, http.StatusConflict)
	data := h.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[lineage.StreamEvent](), true, "")
	op.Responses = map[string]*huma.Response{"200": {Content: map[string]*huma.MediaType{
		"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeArray, Items: data, Description: "The data of the events"}},
	}}}
	register(h, op, func(ctx context.Context, in *streamInput) (*streamOutput, error) {
		s, err := l.Stream(ctx, CallerOf(ctx), lineage.StreamQuery{Cluster: in.Cluster, Topic: in.Topic, Kinds: in.Kinds, After: in.LastID})
		if err != nil {
			return nil, err
		}
		return &streamOutput{
			ContentType: "text/event-stream", CacheControl: "no-store", Unbuffered: "no",
			Body: func(ctx huma.Context) {
				defer s.Close()
				_, w := humago.Unwrap(ctx)
				serveEvents(ctx.Context(), w, s)
			},
		}, nil
	})
}

type streamOutput struct {
	ContentType  string `header:"Content-Type"`
	CacheControl string `header:"Cache-Control"`
	Unbuffered   string `header:"X-Accel-Buffering"` // of proxies
	Body         streamed
}

// serveEvents writes a stream until the client goes, takes nothing any more, or the
// stream ends; of the last the client is told.
func serveEvents(ctx context.Context, w http.ResponseWriter, s LineageStream) {
	rc := http.NewResponseController(w)
	// What does not know deadlines or flushing is a recorder of a test.
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	if !sent(rc, w, []byte(": the stream begins\n\n")) {
		return
	}
	for {
		events, mark, err := s.Next(ctx, heartbeat)
		if ctx.Err() != nil {
			return
		}
		var b bytes.Buffer
		switch {
		case err != nil:
			writeEvent(&b, "", "end", map[string]string{"why": err.Error()})
		case len(events) == 0: // an id alone moves on where a client would go on
			fmt.Fprintf(&b, ": alive\nid: %s\n\n", mark)
		}
		for i := range events {
			writeEvent(&b, events[i].ID, "lineage", &events[i])
		}
		if !sent(rc, w, b.Bytes()) || err != nil {
			return
		}
	}
}

// sent writes and says whether the client may be taking it.
func sent(rc *http.ResponseController, w io.Writer, b []byte) bool {
	_ = rc.SetWriteDeadline(time.Now().Add(streamPatience))
	if _, err := w.Write(b); err != nil {
		return false
	}
	_ = rc.Flush()
	return true
}

// writeEvent writes one event (WHATWG HTML, server-sent events). JSON has no line ends.
func writeEvent(b *bytes.Buffer, id, kind string, data any) {
	text, err := json.Marshal(data)
	if err != nil { // nothing of it can fail
		text = []byte(`{}`)
	}
	if id != "" {
		fmt.Fprintf(b, "id: %s\n", id)
	}
	fmt.Fprintf(b, "event: %s\ndata: %s\n\n", kind, text)
}
