package main

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/lineage/search"
)

// freshLimit is how long a question about an event waits for what the ledgers
// got in the last moment; then it is answered from what is known.
const freshLimit = 2 * time.Second

// eventLineage answers api.Lineage from the node's index.
type eventLineage struct {
	*folds
	index     *lineage.Index
	ledgers   *ledgers
	directory *directory
	searcher  *search.Searcher
	checking  sync.Mutex // held by the one check of a ledger
}

var _ api.Lineage = (*eventLineage)(nil)

func (l *eventLineage) Event(ctx context.Context, caller api.Caller, at lineage.Address, headers lineage.Headers) (*lineage.Answer, error) {
	l.fresh(ctx)
	a, err := l.index.Event(ctx, asking(caller), at)
	if err != nil {
		return nil, lineageError(err)
	}
	l.index.Stored(ctx, asking(caller), a, headers)
	return a, nil
}

func (l *eventLineage) Topic(ctx context.Context, caller api.Caller, at lineage.Address, q lineage.PaceQuery) (*lineage.Graph, error) {
	l.fresh(ctx)
	g, err := l.index.Topic(ctx, asking(caller), at, q)
	return g, lineageError(err)
}

func (l *eventLineage) Gaps(ctx context.Context, caller api.Caller, at lineage.Address, last int64) (*lineage.GapPage, error) {
	l.fresh(ctx)
	page, err := l.index.Gaps(ctx, asking(caller), at, last)
	return page, lineageError(err)
}

func (l *eventLineage) Deeds(ctx context.Context, caller api.Caller, q lineage.DeedQuery) (*lineage.DeedPage, error) {
	if q.Cursor == "" {
		l.fresh(ctx)
	}
	page, err := l.index.Deeds(ctx, asking(caller), q)
	return page, lineageError(err)
}

func (l *eventLineage) Principal(ctx context.Context, caller api.Caller, cluster, principal string, limit int, cursor string) (*lineage.PrincipalPage, error) {
	if cursor == "" {
		l.fresh(ctx)
	}
	page, err := l.index.Principal(ctx, asking(caller), cluster, principal, limit, cursor)
	return page, lineageError(err)
}

func (l *eventLineage) Group(ctx context.Context, caller api.Caller, cluster, group string, limit int, cursor string) (*lineage.PrincipalPage, error) {
	if cursor == "" {
		l.fresh(ctx)
	}
	page, err := l.index.Group(ctx, asking(caller), cluster, group, limit, cursor)
	return page, lineageError(err)
}

// fresh waits for the ledgers' ends. That it may not get there is no error: the
// answer says what is unknown.
func (l *eventLineage) fresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, freshLimit)
	defer cancel()
	_ = l.ledgers.catchUp(ctx)
}

func asking(c api.Caller) lineage.Caller {
	return lineage.Caller{Principal: c.Name, Host: c.Address}
}

func lineageError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, lineage.ErrDenied):
		return api.Errorf(http.StatusForbidden, "%v", err).WithHint("Describe on the topic is needed, and on the cluster for what others did, for the principal that you are mapped to in that cluster")
	case errors.Is(err, lineage.ErrNotFound):
		return api.Errorf(http.StatusNotFound, "%v", err)
	case errors.Is(err, lineage.ErrInvalid):
		return api.Errorf(http.StatusUnprocessableEntity, "%v", err)
	}
	return err
}

// rights judges by each cluster's own ACLs, under the principal that the caller
// is mapped to there.
type rights struct{ directory *directory }

var _ lineage.Authorizer = rights{}

func (r rights) Allowed(ctx context.Context, caller lineage.Caller, cluster string, op acl.Operation, rt acl.ResourceType, name string) bool {
	declared, ok := r.directory.name(cluster)
	if !ok {
		return false
	}
	return r.directory.allowed(ctx, declared, r.Principal(ctx, caller, cluster), caller.Host, op, rt, name)
}

func (r rights) Principal(ctx context.Context, _ lineage.Caller, cluster string) string {
	declared, ok := r.directory.name(cluster)
	if !ok {
		return ""
	}
	return api.CallerOf(ctx).Principals[declared]
}

// names lets lineage speak of clusters and topics as people do.
type names struct{ directory *directory }

var _ lineage.Directory = names{}

func (n names) ClusterID(name string) (string, bool) {
	id, err := n.directory.id(name)
	return id, err == nil
}

func (n names) ClusterName(id string) (string, bool) { return n.directory.name(id) }

// TopicID is left to the ledgers: the latest life that they know.
func (n names) TopicID(string, string) (ledger.TopicID, bool) { return ledger.TopicID{}, false }
