package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"path"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// MaxBody is the most bytes that a request's body may have: a few thousand
// objects of YAML.
const MaxBody = 4 << 20

// bodyTimeout is how long a body may take: MaxBody at 1.2 Mbit/s.
const bodyTimeout = 30 * time.Second

// Config is what a server answers from. All fields are needed.
type Config struct {
	Users *Users

	// State says how fresh this node's knowledge is, Audit keeps who did what.
	State Consistency
	Audit Audit

	Objects  Objects
	Flows    Flows
	Fleet    Fleet
	Groups   Groups
	Ledgers  Ledgers
	Lineage  Lineage
	Runbooks Runbooks

	Verifications Verifications
	Membership    Membership
	Operations    Operations

	// Metrics serves /metrics.
	Metrics http.Handler
	// Ready says why the node is not ready to serve, nil if it is.
	Ready func() error
}

// New builds the handler of everything under /.
func New(c Config) http.Handler {
	mux := http.NewServeMux()
	hc := huma.DefaultConfig("Waybill", "v1")
	hc.OpenAPIPath = "" // served below, in one form and made once
	hc.DocsPath = ""    // the viewer would load from a foreign host
	hc.SchemasPath = "" // and answers would carry $schema links
	hc.CreateHooks = nil
	hc.AllowAdditionalPropertiesByDefault = true // clients must bear what later versions add to answers
	hc.Info.Description = "Mirrors topics between Kafka clusters, translates consumer offsets exactly and answers where every event came from."
	hc.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	hc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "An API token of the node's configuration."},
	}
	h := humago.New(mux, hc)
	h.UseMiddleware(watch(c.Audit), c.Users.middleware(h), reads(h, c.State))

	registerObjects(h, c.Objects)
	registerFlows(h, c.Flows)
	registerFleet(h, c.Fleet)
	registerMembership(h, c.Membership)
	registerGroups(h, c.Groups)
	registerLedgers(h, c.Ledgers)
	registerLineage(h, c.Lineage)
	registerRunbooks(h, c.Runbooks)
	registerVerifications(h, c.Verifications)
	registerAudit(h, c.Audit)
	registerOperations(h, c.Operations)

	mux.Handle("GET /api/openapi.json", description(h.OpenAPI()))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := c.Ready(); err != nil {
			writeProblem(w, Errorf(http.StatusServiceUnavailable, "%v", err))
		}
	})
	mux.Handle("GET /metrics", c.Users.protect(c.Audit, "metrics", c.Metrics))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, Errorf(http.StatusNotFound, "%s %s is not part of the API: see /api/openapi.json", r.Method, r.URL.Path))
	})
	return problemsFor405(mux)
}

// description serves the OpenAPI document, which says the same on every node.
func description(api *huma.OpenAPI) http.Handler {
	document, err := api.MarshalJSON()
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err != nil {
			writeProblem(w, Errorf(http.StatusInternalServerError, "describe the API: %v", err))
			return
		}
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(document) // the client may have gone
	})
}

// schemaName tells types of the same name in several packages apart: those of
// this package keep their names.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	home := path.Base(t.PkgPath())
	if t.Name() == "" || home == "api" || home == "." {
		return name
	}
	return strings.ToUpper(home[:1]) + home[1:] + name
}

// problemsFor405 turns the mux's plain text for a wrong method into a problem.
func problemsFor405(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern == "/" || pattern == "" {
			allowed := allowedMethods(mux, r)
			if len(allowed) > 0 {
				w.Header().Set("Allow", strings.Join(allowed, ", "))
				writeProblem(w, Errorf(http.StatusMethodNotAllowed, "%s takes %s, not %s", r.URL.Path, strings.Join(allowed, ", "), r.Method))
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

func allowedMethods(mux *http.ServeMux, r *http.Request) []string {
	var allowed []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe := r.Clone(r.Context())
		probe.Method = m
		if _, pattern := mux.Handler(probe); pattern != "/" && pattern != "" {
			allowed = append(allowed, m)
		}
	}
	return allowed
}

func writeProblem(w http.ResponseWriter, e *Error) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e) // the client may have gone
}

// secretEqual compares without telling how much is equal.
func secretEqual(a, b [sha256.Size]byte) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }
