package api

import (
	"context"
	"crypto/sha256"
	"net"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Role is what a caller may do.
type Role string

// The roles.
const (
	Viewer Role = "viewer" // look, as far as the clusters' ACLs let his principals
	Admin  Role = "admin"  // also change objects and run runbooks
)

// User is somebody who may call the API.
type User struct {
	Name  string
	Token string
	Role  Role
	// Principals maps cluster names to who the user is there, for answers that
	// pass the cluster's ACLs. Where there is none, the user sees nothing.
	Principals map[string]string
}

// Caller is an authenticated user, without his token.
type Caller struct {
	Name       string
	Role       Role
	Principals map[string]string
	Address    string // that the request came from, without port
}

type callerKey struct{}

// CallerOf is who made the request that ctx belongs to.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// authenticator knows callers by the hash of their tokens, so that looking one
// up takes the same time whatever the token.
type authenticator struct {
	callers []knownCaller
}

type knownCaller struct {
	token  [sha256.Size]byte
	caller Caller
}

func newAuthenticator(users []User) *authenticator {
	a := &authenticator{}
	for _, u := range users {
		a.callers = append(a.callers, knownCaller{sha256.Sum256([]byte(u.Token)), Caller{Name: u.Name, Role: u.Role, Principals: u.Principals}})
	}
	return a
}

func (a *authenticator) caller(header string) (Caller, bool) {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return Caller{}, false
	}
	sum := sha256.Sum256([]byte(token))
	var found Caller
	known := false
	for _, k := range a.callers { // all of them, whichever matches
		if secretEqual(k.token, sum) {
			found, known = k.caller, true
		}
	}
	return found, known
}

// unauthorized answers who sent that Authorization header.
func unauthorized(header string) *Error {
	detail := "a bearer token is needed"
	if header != "" {
		detail = "no user of this node has that bearer token"
	}
	return Errorf(http.StatusUnauthorized, "%s", detail).
		WithHint("send 'Authorization: Bearer TOKEN' with a token of the node's configuration")
}

// needsAdmin marks an operation that changes something.
const needsAdmin = "admin"

func (a *authenticator) middleware(h huma.API) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		caller, ok := a.caller(ctx.Header("Authorization"))
		if !ok {
			ctx.SetHeader("WWW-Authenticate", "Bearer")
			a.refuse(h, ctx, unauthorized(ctx.Header("Authorization")))
			return
		}
		if ctx.Operation().Metadata[needsAdmin] == true && caller.Role != Admin {
			a.refuse(h, ctx, Errorf(http.StatusForbidden, "%s has the role %s, this needs %s", caller.Name, caller.Role, Admin))
			return
		}
		caller.Address, _, _ = net.SplitHostPort(ctx.RemoteAddr()) // empty matches no rule of a host
		next(huma.WithValue(ctx, callerKey{}, caller))
	}
}

func (a *authenticator) refuse(h huma.API, ctx huma.Context, e *Error) {
	ctx.SetHeader("Content-Type", "application/problem+json")
	ctx.SetStatus(e.Status)
	_ = h.Marshal(ctx.BodyWriter(), "application/json", e) // the client may have gone
}

// protect guards a plain handler.
func (a *authenticator) protect(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := a.caller(r.Header.Get("Authorization")); !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeProblem(w, unauthorized(r.Header.Get("Authorization")))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// operation is what all operations share.
func operation(method, path, id, summary string, errors ...int) huma.Operation {
	return huma.Operation{
		Method: method, Path: path, OperationID: id, Summary: summary,
		Security: []map[string][]string{{"token": {}}},
		Errors: append([]int{
			http.StatusUnauthorized, http.StatusUnprocessableEntity,
			http.StatusServiceUnavailable, // the fleet, or a cluster, does not answer
		}, errors...),
	}
}

// adminOperation needs the role admin.
func adminOperation(method, path, id, summary string, errors ...int) huma.Operation {
	op := operation(method, path, id, summary, append(errors, http.StatusForbidden)...)
	op.Metadata = map[string]any{needsAdmin: true}
	return op
}
