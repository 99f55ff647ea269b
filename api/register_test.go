package api

import (
	"context"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// everything has a parameter of each kind.
type everything struct {
	Name    string    `path:"name"`
	Small   int32     `query:"small" minimum:"-5" maximum:"7"`
	Large   int64     `query:"large" default:"9"`
	Loud    bool      `query:"loud"`
	Since   time.Time `query:"since"`
	Groups  []string  `query:"group,explode" maxItems:"2"`
	IfMatch string    `header:"If-Match" maxLength:"3"`
}

type answered struct {
	Mark  string `header:"Mark"`
	Empty string `header:"Empty"`
	Body  any
}

// servedWith has one operation that answers with body and keeps what it was asked.
func servedWith(got *everything, body any) http.Handler {
	mux := http.NewServeMux()
	h := humago.New(mux, huma.DefaultConfig("test", "1"))
	register(h, operation(http.MethodGet, "/things/{name}", "get-thing", "A thing"),
		func(_ context.Context, in *everything) (*answered, error) {
			*got = *in
			return &answered{Mark: "m", Body: body}, nil
		})
	return mux
}

func TestParametersOfEveryKind(t *testing.T) {
	var got everything
	h := servedWith(&got, map[string]int{"n": 1})
	r := httptest.NewRequest(http.MethodGet, "/things/a%2Fb?small=-5&large=9223372036854775807&loud=true&since=2026-11-24T08:00:00.5Z&group=a,b&group=", nil)
	r.Header.Set("If-Match", "abc")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	want := everything{"a/b", -5, math.MaxInt64, true, time.Date(2026, 11, 24, 8, 0, 0, 5e8, time.UTC), []string{"a,b", ""}, "abc"}
	if w.Code != http.StatusOK || !reflect.DeepEqual(got, want) {
		t.Errorf("%d %s: got %+v, want %+v", w.Code, w.Body, got, want)
	}
	if head := w.Header(); w.Body.String() != "{\"n\":1}\n" || head.Get("Content-Type") != "application/json" || head.Get("Mark") != "m" || head.Values("Empty") != nil {
		t.Errorf("answer %q with %v", w.Body, w.Header())
	}

	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/things/x", nil))
	if want := (everything{Name: "x", Large: 9}); !reflect.DeepEqual(got, want) {
		t.Errorf("without parameters: got %+v, want %+v", got, want)
	}
}

func TestParametersAreChecked(t *testing.T) {
	for query, where := range map[string]string{
		"small=8":                   "query.small",
		"small=4294967296":          "query.small", // 0 in 32 bits
		"small=-6":                  "query.small",
		"small=1.5":                 "query.small",
		"large=9223372036854775808": "query.large",
		"loud=yes":                  "query.loud",
		"since=2026-11-24":          "query.since",
		"group=1&group=2&group=3":   "query.group",
		"colour=red":                "query.colour",
		"%zz":                       "query",
		"loud=true;small=8":         "query",
	} {
		got := everything{Name: "nobody"}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/things/x", nil)
		r.URL.RawQuery = query
		servedWith(&got, nil).ServeHTTP(w, r)
		var p Error
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
			continue
		}
		if len(p.Errors) != 1 || p.Errors[0].Location != where || p.Errors[0].Message == "" || got.Name != "nobody" {
			t.Errorf("%s: faults %+v, want one at %s; the handler got %+v", query, p.Errors, where, got)
		}
	}
}

func TestAnAnswerThatCannotBeEncodedIsAProblem(t *testing.T) {
	var got everything
	w := httptest.NewRecorder()
	servedWith(&got, math.NaN()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/things/x", nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "encode the answer") || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestParametersThatCannotBeReadAreNotRegistered(t *testing.T) {
	h := humago.New(http.NewServeMux(), huma.DefaultConfig("test", "1"))
	for name, try := range map[string]func(huma.Operation){
		"an int32 without bounds": func(op huma.Operation) {
			register(h, op, func(context.Context, *struct {
				N int32 `query:"n"`
			},
			) (*struct{}, error) {
				return nil, nil
			})
		},
		"a list that is not repeated": func(op huma.Operation) {
			register(h, op, func(context.Context, *struct {
				Names []string `query:"names"`
			},
			) (*struct{}, error) {
				return nil, nil
			})
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s is taken", name)
				}
			}()
			try(operation(http.MethodGet, "/never", "never", "Nothing"))
		}()
	}
}

// TestOperationsAreRegisteredByRegister: each that huma registers itself, by any of its
// generic functions, would cost the binary 30 KB, and take queries that this API refuses.
func TestOperationsAreRegisteredByRegister(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d files: %v", len(files), err)
	}
	theirs := []string{"Register", "AutoRegister", "Get", "Post", "Head", "Put", "Patch", "Delete"}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if of, ok := s.X.(*ast.Ident); ok && of.Name == "huma" && slices.Contains(theirs, s.Sel.Name) {
					t.Errorf("%s uses huma.%s: register of register.go stands in for it", name, s.Sel.Name)
				}
			}
			return true
		})
	}
}

type brokenBody struct{ err error }

func (b brokenBody) Read([]byte) (int, error) { return 0, b.err }

func TestBodiesThatBreakOff(t *testing.T) {
	for err, want := range map[error]int{os.ErrDeadlineExceeded: http.StatusRequestTimeout, io.ErrUnexpectedEOF: http.StatusInternalServerError} {
		f := newFleet(t)
		r := httptest.NewRequest(http.MethodPost, "/api/v1/apply", brokenBody{err})
		r.Header.Set("Authorization", "Bearer "+adminToken)
		resp := do(t, f, r)
		resp.checkProblem(t)
		if resp.StatusCode != want || len(f.calls) > 0 {
			t.Errorf("%v: got %d %s after the calls %v", err, resp.StatusCode, resp.text, f.calls)
		}
	}
}

func TestErrorsKeepTheirStatus(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		detail string
	}{
		{errors.New("disk is gone"), http.StatusInternalServerError, "disk is gone"},
		{Errorf(http.StatusConflict, "taken"), http.StatusConflict, "taken"},
		{errors.Join(io.EOF, Errorf(http.StatusConflict, "taken")), http.StatusConflict, "taken"},
	} {
		mux := http.NewServeMux()
		register(humago.New(mux, huma.DefaultConfig("test", "1")), operation(http.MethodGet, "/", "fail", "Fails"),
			func(context.Context, *struct{}) (*struct{}, error) { return nil, c.err })
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		var p Error
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != c.status || p.Status != c.status || p.Detail != c.detail {
			t.Errorf("%v: got %d %s", c.err, w.Code, w.Body)
		}
	}
}

// FuzzParameters: whatever is asked is answered or refused, and what is refused does
// not reach the handler.
func FuzzParameters(f *testing.F) {
	f.Add("small=3&large=4&loud=1&since=2026-11-24T08:00:00Z&group=a&group=b", `"7"`)
	f.Add("small=4294967296", "")
	f.Add("%zz&;=", "\x00")
	f.Fuzz(func(t *testing.T, query, match string) {
		got := everything{Name: "nobody"}
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/things/x", RawQuery: query}, Header: http.Header{"If-Match": {match}}}
		w := httptest.NewRecorder()
		servedWith(&got, 1).ServeHTTP(w, r)
		if reached := got.Name == "x"; w.Code != http.StatusOK && w.Code != http.StatusUnprocessableEntity || reached != (w.Code == http.StatusOK) {
			t.Fatalf("%q: %d %s, the handler got %+v", query, w.Code, w.Body, got)
		}
		if got.Small < -5 || got.Small > 7 || len(got.Groups) > 2 {
			t.Fatalf("%q: the handler got %+v", query, got)
		}
	})
}
