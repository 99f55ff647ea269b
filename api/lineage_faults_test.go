package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// TestWhatCannotBeAnsweredIsRefused: a range that ends before it begins and a principal
// without a type are mistakes, of which a list, full or empty, would say nothing.
func TestWhatCannotBeAnsweredIsRefused(t *testing.T) {
	for _, c := range []struct {
		path     string
		location string // of the fault; "" if there is none
	}{
		{"gaps/us/orders/3?from=5&to=4", "query.to"},
		{"gaps/us/orders/3?from=5&to=5", ""},
		{"gaps/us/orders/3?from=5&to=-1", ""},
		{"accesses/us/orders/3?from=5&to=4", "query.to"},
		{"accesses/us/orders/3?from=5&to=5", ""},
		{"accesses/us/orders/3?from=5", ""},
		{"accesses/us/orders/3?principal=shop", "query.principal"},
		{"accesses/us/orders/3?principal=User:", "query.principal"},
		{"accesses/us/orders/3?principal=:shop", "query.principal"},
		{"accesses/us/orders/3?principal=User:CN=shop,O=a:b", ""},
		{"export/us/orders/3?what=accessed&from=5&to=4", "query.to"},
		{"export/us/orders/3?what=gaps&from=5&to=4", "query.to"},
		{"export/us/orders/3?what=copies&from=5&to=4", "query.to"},
		{"export/us/orders/3?what=produced&from=5&to=5", ""},
		{"export/us/orders/3?principal=shop", "query.principal"},
		{"principals/us/shop", "path.principal"},
		{"principals/us/User:shop", ""},
		{"principals/us/shop/export", "path.principal"},
		{"principals/us/User:shop/export", ""},
	} {
		f := newFleet(t)
		resp := ask(t, f, http.MethodGet, "/api/v1/lineage/"+c.path, viewerToken)
		if c.location == "" {
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s: got %d %s", c.path, resp.StatusCode, resp.text)
			}
			continue
		}
		resp.checkProblem(t)
		if resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(resp.text, `"location":"`+c.location+`"`) || !strings.Contains(resp.text, `"hint":`) {
			t.Errorf("%s: got %d %s, want a fault at %s", c.path, resp.StatusCode, resp.text, c.location)
		}
		if len(f.calls) > 0 {
			t.Errorf("%s: was asked for all the same: %v", c.path, f.calls)
		}
	}
}

// TestKeysThatAreRefusedAreInTheDocument: what digests answer to a key that is not there,
// or too long for a body, is among the answers that the API says of itself.
func TestKeysThatAreRefusedAreInTheDocument(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct {
			Responses map[string]any `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(ask(t, newFleet(t), http.MethodGet, "/api/openapi.json", "").text), &doc); err != nil {
		t.Fatal(err)
	}
	said := doc.Paths["/api/v1/lineage/digests/{cluster}/{topic}/{partition}"]["post"].Responses
	for key, want := range map[string]int{"": http.StatusBadRequest, strings.Repeat("k", MaxBody+1): http.StatusRequestEntityTooLarge} {
		r := httptest.NewRequest(http.MethodPost, "/api/v1/lineage/digests/us/orders/3", body(key))
		r.Header.Set("Authorization", "Bearer "+viewerToken)
		resp := do(t, newFleet(t), r)
		resp.checkProblem(t)
		if resp.StatusCode != want || said[strconv.Itoa(want)] == nil {
			t.Errorf("a key of %d bytes: got %d %.200s, want %d; the document has %v", len(key), resp.StatusCode, resp.text, want, said)
		}
	}
}
