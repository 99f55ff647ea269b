package api

import (
	"crypto/sha256"
	"net/http"
	"strings"
	"sync/atomic"

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

// Users are those who may call a server. They can be replaced while it runs.
type Users struct{ known atomic.Pointer[authenticator] }

// NewUsers makes Users.
func NewUsers(users []User) *Users {
	u := new(Users)
	u.Replace(users)
	return u
}

// Replace puts others in their place: calls that come from now on are theirs.
func (u *Users) Replace(users []User) { u.known.Store(newAuthenticator(users)) }

func (u *Users) caller(header string) (Caller, bool) { return u.known.Load().caller(header) }

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

func (u *Users) middleware(h huma.API) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		caller, ok := u.caller(ctx.Header("Authorization"))
		if !ok {
			ctx.SetHeader("WWW-Authenticate", "Bearer")
			refuse(h, ctx, unauthorized(ctx.Header("Authorization")))
			return
		}
		call := CallOf(ctx.Context())
		caller.Address = call.Caller.Address
		call.Caller = caller
		if marked(ctx.Operation(), needsAdmin) && caller.Role != Admin {
			refuse(h, ctx, Errorf(http.StatusForbidden, "%s has the role %s, this needs %s", caller.Name, caller.Role, Admin))
			return
		}
		next(ctx)
	}
}

// refuse answers in the place of an operation.
func refuse(h huma.API, ctx huma.Context, e *Error) {
	if call := CallOf(ctx.Context()); call != nil {
		call.problem = e
	}
	ctx.SetHeader("Content-Type", "application/problem+json")
	ctx.SetStatus(e.Status)
	_ = h.Marshal(ctx.BodyWriter(), "application/json", e) // the client may have gone
}

// protect guards a plain handler, and notes whom it does not let in.
func (u *Users) protect(trail Audit, operation string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := u.caller(r.Header.Get("Authorization")); !ok {
			e := unauthorized(r.Header.Get("Authorization"))
			call := newCall(operation, "", r.RemoteAddr)
			call.problem = e
			note(trail, call, e.Status, false, false)
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeProblem(w, e)
			return
		}
		h.ServeHTTP(w, r)
	})
}
