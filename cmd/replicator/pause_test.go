package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
)

// TestPauseAndResume has a fleet with one flow, whose declaration the commands
// change at the revision of it that they have read: what becomes of other objects
// meanwhile is no conflict.
func TestPauseAndResume(t *testing.T) {
	noEnvironment(t)
	const declared = `{apiVersion: waybill/v1, kind: ReplicationFlow, metadata: {name: us-eu}, spec: {source: us, destination: eu, topics: {include: ["*"], paused: [a]}}}`
	for _, c := range []struct {
		args   string
		paused bool
		topics string
		code   int
	}{
		{"pause us-eu", true, "a", exitOK},
		{"resume us-eu", false, "a", exitOK},
		{"pause us-eu --topic b* --topic a", false, "b* a", exitOK},
		{"resume us-eu --topic a", false, "", exitOK},
		{"pause us-eu --topic a|b", false, "", exitInvalid},
		{"pause eu-us", false, "", exitInvalid},
	} {
		t.Run(c.args, func(t *testing.T) {
			objects, err := flow.Parse("x", strings.NewReader(declared))
			if err != nil {
				t.Fatal(err)
			}
			stored, err := flow.Encode(objects[0])
			if err != nil {
				t.Fatal(err)
			}
			var applied []flow.Object
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					_ = json.NewEncoder(w).Encode(api.ObjectList{Revision: 7, Objects: []api.Object{{Kind: "ReplicationFlow", Name: "us-eu", Revision: 3, Object: stored}}})
					return
				}
				body, _ := io.ReadAll(r.Body)
				if got := r.Header.Get("If-Match"); r.Method != http.MethodPut || r.URL.Path != "/api/v1/objects/ReplicationFlow/us-eu" || got != `"3"` {
					t.Errorf("%s %s at revision %s, the flow was read at 3", r.Method, r.URL, got)
				}
				if applied, err = flow.Parse("y", strings.NewReader(string(body))); err != nil {
					t.Error(err)
				}
				_ = json.NewEncoder(w).Encode(api.Object{Kind: "ReplicationFlow", Name: "us-eu", Revision: 8})
			}))
			defer s.Close()
			got := replicator(t, "", append(strings.Fields(c.args), "--server", s.URL)...)
			if got.code != c.code {
				t.Fatalf("got %+v, want %d", got, c.code)
			}
			if c.code != exitOK {
				if len(applied) > 0 || got.stderr == "" {
					t.Errorf("applied %v, said %q", applied, got.stderr)
				}
				return
			}
			if !strings.Contains(got.stdout, "ReplicationFlow/us-eu ") || !strings.Contains(got.stdout, "revision 8") {
				t.Errorf("said %q", got.stdout)
			}
			spec := applied[0].Flow.Spec
			if spec.Paused != c.paused || strings.Join(spec.Topics.Paused, " ") != c.topics {
				t.Errorf("declared paused %v and topics %q, want %v and %q", spec.Paused, spec.Topics.Paused, c.paused, c.topics)
			}
		})
	}
}
