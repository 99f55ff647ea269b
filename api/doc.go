// Package api is the HTTP API of a fleet: everything that the command line can
// do, described by an OpenAPI 3.1 document at /api/openapi.json.
//
// A request passes one path: its bearer token names a caller ([Caller]), the
// operation says which role it needs, its parameters are read and checked as the
// description has them (register.go), the handler turns them into a call
// of one of the interfaces that this package declares ([Objects], [Flows],
// [Fleet], [Groups], [Lineage], [Runbooks], [Verifications], [Operations]), and its answer or error becomes
// JSON. Errors are problem details (RFC 9457) on every route, unknown ones included.
//
// Answers from the replicated state are linearizable unless the caller wants a
// stale one ([ReadQuery]), and changes begin with a barrier, on whichever node. What
// somebody did is recorded: a change with the replicated command that makes it
// (whoever proposes finds the [Call] in the context), all else through [Audit].
//
// Who may see what: changing anything needs the role admin. Answers about events
// pass the ACLs of the cluster that each part of the answer is about, under the
// principal that the caller is mapped to there; the interfaces get the caller
// for that. There is no anonymous access besides /livez and /readyz, which say
// nothing about the fleet but whether it works, and the description of the API,
// which is the same on every node (and docs/openapi.json).
//
// The package keeps no state and starts no goroutine; [New] returns a handler
// that is safe for concurrent use. Bodies are limited to [MaxBody].
package api
