package broker

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// api is one row of the table: which versions of a request the broker speaks,
// what a caller needs for it, and who answers.
type api struct {
	key      kmsg.Key
	min, max int16
	// resource and op are what [request.may] asks the ACLs for.
	resource acl.ResourceType
	op       acl.Operation
	handle   handler
	// pipelined requests may be begun while earlier ones await their answer.
	pipelined bool

	forms []*shape // of the versions from min on
}

// apiName is what an API is called.
func apiName(key kmsg.Key) string { return cmp.Or(mirrorwire.Name(int16(key)), key.Name()) }

// form is the wire form of a version in the row's range.
func (a *api) form(version int16) *shape { return a.forms[version-a.min] }

// handler is how requests of one kind are answered. The kind is that of the method
// that answers: kmsg.RequestForKey would link the codec of all that Kafka's own
// brokers say to each other.
type handler struct {
	kind reflect.Type // of the struct
	// begin begins a request and returns how it ends. Most have nothing left to
	// wait for: see [answers]. It runs on the connection's worker, in the order of
	// the requests, and may block: the connection's later requests wait, as they do
	// in Kafka. The context ends when the client goes away.
	begin func(b *Broker, ctx context.Context, r *request) pending
}

// empty is a request of the handler's kind with the defaults of its fields.
func (h handler) empty() kmsg.Request {
	q := reflect.New(h.kind).Interface().(kmsg.Request)
	if d, ok := q.(interface{ Default() }); ok { // our own have no defaults
		d.Default()
	}
	return q
}

// pending waits, if there is something to wait for, and returns the response;
// nil means that none is sent, an error that the connection is closed after it.
// Pendings of a connection are called in the order of the requests, one after the
// other, but for those of pipelined rows, which may run beside earlier ones.
type pending func(ctx context.Context) (kmsg.Response, error)

// answers makes a handler of a typed method that does its own waiting.
func answers[Q kmsg.Request, S kmsg.Response](h func(b *Broker, ctx context.Context, r *request, q Q) S) handler {
	return begins(func(b *Broker, ctx context.Context, r *request, q Q) pending {
		resp := h(b, ctx, r, q)
		return func(context.Context) (kmsg.Response, error) { return resp, nil }
	})
}

// begins makes a handler of a typed method that returns before its effects are
// durable, so that the next request of the connection can begin.
func begins[Q kmsg.Request](h func(b *Broker, ctx context.Context, r *request, q Q) pending) handler {
	return handler{
		kind:  reflect.TypeFor[Q]().Elem(),
		begin: func(b *Broker, ctx context.Context, r *request) pending { return h(b, ctx, r, r.body.(Q)) },
	}
}

// request is one request on its way through a handler.
type request struct {
	*api
	version int16
	client  *Client
	body    kmsg.Request
	size    int // of its frame, in bytes
	broker  *Broker
	conn    *conn // nil where requests do not come from one
	// late is closed when the broker stops and does not wait for the request any
	// longer. What takes long looks at it, and ends with errLate; nil never comes.
	late <-chan struct{}

	// waited is how long the worker waited for something to happen, and throttle
	// how long the client is to wait for exceeding a quota.
	waited, throttle time.Duration

	// claim is the memory that the request and its answer hold, owed what is not
	// taken yet, and unpaid why it could not be: see spend.
	claim  *claim
	owed   int64
	unpaid error
}

// Client is who sent a request, as far as the broker knows.
type Client struct {
	Principal string // "User:name" as authenticated
	Host      string // address, without port
	ClientID  string // as the request's header claims
	Software  string // name/version as ApiVersions claims (KIP-511), or ""
	Listener  string
}

// may reports whether the caller has the operation of the request's row on the
// named resource of the row's type.
func (r *request) may(name string) bool { return r.allowed(r.op, r.resource, name) }

// allowed reports whether the caller may do op on a resource.
func (r *request) allowed(op acl.Operation, rt acl.ResourceType, name string) bool {
	return r.broker.allowed(r.client, op, rt, name)
}

func (b *Broker) allowed(c *Client, op acl.Operation, rt acl.ResourceType, name string) bool {
	return b.authorizer().Allowed(c.Principal, c.Host, op, rt, name)
}

// allowedOnAny reports whether the caller may do op on some resource of a type.
func (r *request) allowedOnAny(op acl.Operation, rt acl.ResourceType) bool {
	return r.broker.authorizer().AllowedOnAny(r.client.Principal, r.client.Host, op, rt)
}

// authorizer decides who may do what: an [acl.Set], or everybody everything.
type authorizer interface {
	Allowed(principal, host string, op acl.Operation, rt acl.ResourceType, name string) bool
	AllowedOnAny(principal, host string, op acl.Operation, rt acl.ResourceType) bool
}

var _ authorizer = (*acl.Set)(nil)

// everybody is the authorizer of a broker without ACLs.
type everybody struct{}

func (everybody) Allowed(_, _ string, _ acl.Operation, _ acl.ResourceType, _ string) bool {
	return true
}
func (everybody) AllowedOnAny(_, _ string, _ acl.Operation, _ acl.ResourceType) bool { return true }

// apis is the table. Rows of a family stand with its handlers; ApiVersions'
// answer is computed from all of them.
//
// Produce says 0 although it refuses versions below 3, because librdkafka looks
// for that to know which codecs a broker has (KAFKA-18659).
func apis() []api {
	return slices.Concat(dataAPIs(), quotaAPIs(), clusterAPIs(), topicAPIs(), replicaAPIs(), securityAPIs(), groupAPIs(), transactionAPIs(), mirrorAPIs())
}

// dispatchTable is apis by key.
type dispatchTable map[int16]*api

// wholeTable is the table of apis, made once: finding the forms takes a few
// milliseconds.
var wholeTable = sync.OnceValues(func() (dispatchTable, error) { return newDispatchTable(apis()) })

// newDispatchTable fills in the forms of the rows and files them.
func newDispatchTable(rows []api) (dispatchTable, error) {
	t := make(dispatchTable, len(rows))
	for i := range rows {
		row := &rows[i]
		for version := row.min; version <= row.max; version++ {
			form, err := shapeOf(row.handle.empty, version)
			if err != nil {
				return nil, err
			}
			row.forms = append(row.forms, form)
		}
		t[int16(row.key)] = row
	}
	return t, nil
}

// ranges is what ApiVersions reports, in the order of the keys.
func (t dispatchTable) ranges() []kmsg.ApiVersionsResponseApiKey {
	out := make([]kmsg.ApiVersionsResponseApiKey, 0, len(t))
	for key, row := range t {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = key, row.min, row.max
		out = append(out, k)
	}
	slices.SortStableFunc(out, func(a, b kmsg.ApiVersionsResponseApiKey) int { return int(a.ApiKey) - int(b.ApiKey) })
	return out
}

// Frame limits. What is decoded takes many times the bytes of its frame, so every
// API but Produce is held to what its honest uses need: a fetch of every partition
// that a broker may have, the metadata of as many topics, the assignment of a large
// group. Members of a group are kept with what they said when they joined.
const (
	maxUnauthenticatedFrame = 16 << 10
	maxFrame                = 16 << 20
	maxMemberFrame          = 1 << 20
)

// frameLimit is the greatest frame of an authenticated client, by API key; 0 for
// keys that we do not speak.
func (b *Broker) frameLimit(key int16) int {
	switch _, known := b.table[key]; {
	case !known:
		return 0
	case kmsg.Key(key) == kmsg.Produce, key == mirrorwire.AppendKey:
		return b.cfg.Limits.MaxRequestBytes
	case kmsg.Key(key) == kmsg.JoinGroup, kmsg.Key(key) == kmsg.ConsumerGroupHeartbeat:
		return min(maxMemberFrame, b.cfg.Limits.MaxRequestBytes)
	}
	return min(maxFrame, b.cfg.Limits.MaxRequestBytes)
}

// unauthenticatedFrameLimit is that of a client that has yet to authenticate.
func unauthenticatedFrameLimit(key int16) int {
	switch kmsg.Key(key) {
	case kmsg.ApiVersions, kmsg.SASLHandshake, kmsg.SASLAuthenticate:
		return maxUnauthenticatedFrame
	}
	return 0
}

// errLate says that the broker stops and that a request is not carried out, or not
// to its end. Nobody is told: the connection is closed.
var errLate = fmt.Errorf("the broker stops: %w", context.Canceled)

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// once is a list without what it has had before.
func once[T comparable](list []T) []T { return onceBy(list, func(v T) T { return v }) }

// onceBy is a list without elements that have the key of an earlier one. What is
// named again and again in a request would make its answer as many times as large.
func onceBy[T any, K comparable](list []T, key func(T) K) []T {
	seen := make(map[K]struct{}, len(list))
	return slices.DeleteFunc(list, func(v T) bool {
		k := key(v)
		_, had := seen[k]
		seen[k] = struct{}{}
		return had
	})
}
