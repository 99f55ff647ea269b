package api

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Call is a request under way: what the audit trail knows of it.
type Call struct {
	Caller    Caller
	Operation string    // id of the operation
	Target    string    // its path below /api/v1/, if that names something
	Time      time.Time // when it came
	Reason    string    // in the caller's words

	recorded atomic.Bool // by the replicated trail, or there is nothing to record
	tell     func()      // the trail, once: at the latest when all was answered
	problem  *Error      // that it was answered with
}

type callKey struct{}

// CallOf is the call that ctx belongs to, nil if it is nobody's.
func CallOf(ctx context.Context) *Call {
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}

// CallerOf is who made the request that ctx belongs to.
func CallerOf(ctx context.Context) Caller {
	if c := CallOf(ctx); c != nil {
		return c.Caller
	}
	return Caller{}
}

// Recorded says that the replicated trail has this call if it succeeds, or need
// not have it.
func (c *Call) Recorded() {
	if c != nil {
		c.recorded.Store(true)
	}
}

// newCall is the call of a request whose caller is not known yet.
func newCall(operation, path, remote string) *Call {
	c := &Call{Operation: operation, Time: time.Now().UTC()}
	c.Target = strings.TrimPrefix(path, "/api/v1/")
	c.Caller.Address, _, _ = net.SplitHostPort(remote) // empty matches no rule of a host
	return c
}

// What operations are marked with.
const (
	needsAdmin  = "admin"  // only an admin may
	isChange    = "change" // it changes something
	isAccounted = "audit"  // looking at this is recorded
	readsState  = "state"  // it answers from the replicated state
)

// marked reports whether an operation has a mark.
func marked(op *huma.Operation, mark string) bool { return op.Metadata[mark] == true }

func mark(op huma.Operation, marks ...string) huma.Operation {
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	for _, m := range marks {
		op.Metadata[m] = true
	}
	return op
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

// stateOperation answers from the replicated state: its input embeds [ReadQuery].
func stateOperation(path, id, summary string, errors ...int) huma.Operation {
	return mark(operation(http.MethodGet, path, id, summary, errors...), readsState)
}

// accountedOperation is one whose every use is in the audit trail although it
// changes nothing.
func accountedOperation(method, path, id, summary string, errors ...int) huma.Operation {
	return mark(operation(method, path, id, summary, errors...), isAccounted)
}

// adminOperation changes something, which needs the role admin.
func adminOperation(method, path, id, summary string, errors ...int) huma.Operation {
	return mark(operation(method, path, id, summary, append(errors, http.StatusForbidden)...), needsAdmin, isChange)
}

// adminRead shows what only an admin may see, and that he has seen it.
func adminRead(path, id, summary string, errors ...int) huma.Operation {
	return mark(accountedOperation(http.MethodGet, path, id, summary, append(errors, http.StatusForbidden)...), needsAdmin)
}

// watch is the middleware around all others: it knows the call, and when it has
// been answered tells the audit trail what came of it.
func watch(trail Audit) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		op := ctx.Operation()
		url := ctx.URL()
		call := newCall(op.OperationID, url.Path, ctx.RemoteAddr())
		if !strings.Contains(op.Path, "{") {
			call.Target = "" // the operation's id says it
		}
		call.Reason = ctx.Query("reason")
		call.tell = sync.OnceFunc(func() { note(trail, call, ctx.Status(), marked(op, isChange), marked(op, isAccounted)) })
		next(huma.WithValue(ctx, callKey{}, call))
		call.tell()
	}
}

// note tells the trail of a call that has been answered, if that is its affair and
// it has not got it with the change itself.
func note(trail Audit, call *Call, status int, change, accounted bool) {
	refused := status == http.StatusUnauthorized || status == http.StatusForbidden
	done := status < http.StatusBadRequest && call.recorded.Load()
	if !refused && (!change || done) && !accounted {
		return
	}
	e := AuditEntry{
		Time: call.Time, User: call.Caller.Name, Role: call.Caller.Role, Address: call.Caller.Address,
		Operation: call.Operation, Target: call.Target, Reason: call.Reason, Status: status,
	}
	if call.problem != nil {
		e.Problem = call.problem.Detail
	}
	trail.Note(e)
}

// Consistency is how a reading of the replicated state may be.
type Consistency interface {
	// Barrier returns when this node knows everything that the fleet had
	// acknowledged before the call. It needs a leader with a majority.
	Barrier(ctx context.Context) error
	// Revision is that of the state which this node knows, and age how long ago it
	// last heard that there is none newer.
	Revision() (revision uint64, age time.Duration)
}

// ReadQuery is embedded by the inputs of operations that answer from the
// replicated state.
type ReadQuery struct {
	Consistency string `query:"consistency" enum:"linearizable,stale" default:"linearizable" doc:"linearizable: includes all that was acknowledged before, on whichever node; stale: what this node knows, without asking, as old as Waybill-Age says"`
}

// staleReads is the value of the query for answers without a majority.
const staleReads = "stale"

// Headers of answers from the replicated state.
const (
	revisionHeader = "Waybill-Revision" // raft index of the state
	ageHeader      = "Waybill-Age"      // seconds, at most so old
)

// reads is the middleware that makes answers from the replicated state as fresh as
// was asked, and changes start from the newest.
func reads(h huma.API, now Consistency) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		op := ctx.Operation()
		state := marked(op, readsState)
		stale := state && ctx.Query("consistency") == staleReads
		if (state || marked(op, isChange)) && !stale {
			bounded, cancel := context.WithTimeout(ctx.Context(), barrierLimit)
			err := now.Barrier(bounded)
			cancel()
			if err != nil {
				e := Errorf(http.StatusServiceUnavailable, "the fleet does not agree on a newest state: %v", err)
				if state {
					_ = e.WithHint("a majority of the nodes is needed; ?consistency=stale (--stale) answers from what this node knows")
				} else {
					_ = e.WithHint("a change needs a majority of the nodes; see 'replicator status'")
				}
				refuse(h, ctx, e)
				return
			}
		}
		if state {
			revision, age := now.Revision()
			if !stale {
				age = 0
			}
			ctx.SetHeader(revisionHeader, decimal(revision))
			ctx.SetHeader(ageHeader, seconds(age))
		}
		next(ctx)
	}
}

// barrierLimit is how long a reading waits for a majority: two elections.
const barrierLimit = 5 * time.Second
