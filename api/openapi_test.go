package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/openapi.json anew")

const documentFile = "../docs/openapi.json"

// document is the part of an OpenAPI description that the tests look at.
type document struct {
	OpenAPI string `json:"openapi"`
	Info    struct {
		Title       string `json:"title"`
		Version     string `json:"version"`
		Description string `json:"description"`
	} `json:"info"`
	Paths      map[string]map[string]described `json:"paths"`
	Components struct {
		Schemas         map[string]json.RawMessage `json:"schemas"`
		SecuritySchemes map[string]struct {
			Type, Scheme string
		} `json:"securitySchemes"`
	} `json:"components"`
}

type described struct {
	OperationID string                `json:"operationId"`
	Summary     string                `json:"summary"`
	Security    []map[string][]string `json:"security"`
	Parameters  []struct {
		Name     string          `json:"name"`
		In       string          `json:"in"`
		Required bool            `json:"required"`
		Schema   json.RawMessage `json:"schema"`
	} `json:"parameters"`
	Responses map[string]struct {
		Description string                     `json:"description"`
		Content     map[string]json.RawMessage `json:"content"`
	} `json:"responses"`
}

func served(t *testing.T) []byte {
	t.Helper()
	resp := ask(t, newFleet(t), http.MethodGet, "/api/openapi.json", "")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got %d: %s", resp.StatusCode, resp.text)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte(resp.text), "", "  "); err != nil {
		t.Fatal(err)
	}
	indented.WriteByte('\n')
	return indented.Bytes()
}

func TestTheDocumentIsTheOneThatIsServed(t *testing.T) {
	want := served(t)
	if *update {
		if err := os.WriteFile(documentFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the server says of itself: go test ./api -update", documentFile)
	}
}

func TestTheDocumentDescribesEveryRoute(t *testing.T) {
	var d document
	if err := json.Unmarshal(served(t), &d); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(d.OpenAPI, "3.1.") || d.Info.Title == "" || d.Info.Version == "" || d.Info.Description == "" {
		t.Errorf("openapi %q, info %+v", d.OpenAPI, d.Info)
	}
	if s := d.Components.SecuritySchemes["token"]; s.Type != "http" || s.Scheme != "bearer" {
		t.Errorf("security scheme token: %+v", s)
	}
	missing := map[string]bool{}
	for _, r := range routes {
		missing[strings.ToLower(r.method)+" "+r.path] = true
	}
	ids := map[string]bool{}
	for path, methods := range d.Paths {
		for method, op := range methods {
			at := method + " " + path
			if !missing[at] {
				t.Errorf("%s is described but not in the table of routes", at)
			}
			delete(missing, at)
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s: operation id %q is empty or taken", at, op.OperationID)
			}
			ids[op.OperationID] = true
			op.check(t, at)
		}
	}
	if len(missing) > 0 {
		t.Errorf("not described: %v", slices.Sorted(maps.Keys(missing)))
	}
}

func (op *described) check(t *testing.T, at string) {
	t.Helper()
	if op.Summary == "" {
		t.Errorf("%s: no summary", at)
	}
	if len(op.Security) != 1 || op.Security[0]["token"] == nil {
		t.Errorf("%s: security %v, want the token", at, op.Security)
	}
	for _, p := range op.Parameters {
		if len(p.Schema) == 0 || (p.In == "path") != p.Required {
			t.Errorf("%s: parameter %s in %s, required %v", at, p.Name, p.In, p.Required)
		}
		var schema struct {
			Format  string `json:"format"`
			Maximum int64  `json:"maximum"`
		}
		// Without its maximum a larger number would be cut down to another one.
		if err := json.Unmarshal(p.Schema, &schema); err != nil || schema.Format == "int32" && schema.Maximum != math.MaxInt32 {
			t.Errorf("%s: parameter %s takes numbers that do not fit: %s", at, p.Name, p.Schema)
		}
		if p.In == "path" && !strings.Contains(at, "{"+p.Name+"}") {
			t.Errorf("%s: parameter %s is not in the path", at, p.Name)
		}
	}
	if strings.Count(at, "{") != op.count("path") {
		t.Errorf("%s: not every part of the path is described", at)
	}
	well := false
	for status, r := range op.Responses {
		if status[0] == '2' {
			well = status == "204" || len(r.Content) > 0
			continue
		}
		if len(r.Content) != 1 || r.Content[problem] == nil {
			t.Errorf("%s: %s comes as %v, want %s", at, status, slices.Collect(maps.Keys(r.Content)), problem)
		}
	}
	for _, status := range []string{"401", "500", "503"} {
		if _, ok := op.Responses[status]; !ok {
			t.Errorf("%s: %s is not described", at, status)
		}
	}
	if !well {
		t.Errorf("%s: what it answers is not described", at)
	}
}

func (op *described) count(in string) (n int) {
	for _, p := range op.Parameters {
		if p.In == in {
			n++
		}
	}
	return n
}

// TestEveryReferenceOfTheDocumentLeadsSomewhere also finds schemas that nobody
// refers to.
func TestEveryReferenceOfTheDocumentLeadsSomewhere(t *testing.T) {
	raw := served(t)
	var d document
	var tree any
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				name := strings.TrimPrefix(ref, "#/components/schemas/")
				used[name] = true
				if d.Components.Schemas[name] == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, child := range v {
				walk(child)
			}
		case []any:
			for _, child := range v {
				walk(child)
			}
		}
	}
	walk(tree)
	for name := range d.Components.Schemas {
		if !used[name] {
			t.Errorf("schema %s is used by nothing", name)
		}
	}
}

func TestTheDocumentSaysEveryStatus(t *testing.T) {
	var d document
	if err := json.Unmarshal(served(t), &d); err != nil {
		t.Fatal(err)
	}
	for _, called := range append(append([]route{}, routes...), wrong...) {
		i := slices.IndexFunc(routes, func(r route) bool { return r.method == called.method && matches(r.path, called.example) })
		if i < 0 {
			continue // no operation
		}
		op := d.Paths[routes[i].path][strings.ToLower(called.method)]
		for token := range who {
			status := ask(t, newFleet(t), called.method, called.example, token).StatusCode
			if _, ok := op.Responses[strconv.Itoa(status)]; !ok {
				t.Errorf("%s %s as %s answers %d, which is not described", called.method, called.example, who[token], status)
			}
		}
	}
}

// matches reports whether a path as called is one of a pattern.
func matches(pattern, called string) bool {
	called, _, _ = strings.Cut(called, "?")
	want, got := strings.Split(pattern, "/"), strings.Split(called, "/")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if want[i] != got[i] && !strings.HasPrefix(want[i], "{") {
			return false
		}
	}
	return true
}
