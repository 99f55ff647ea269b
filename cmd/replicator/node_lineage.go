package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
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
	unread := l.fresh(ctx, caller)
	a, err := l.index.Event(ctx, asking(caller), at)
	if err != nil {
		return nil, lineageError(err, unread)
	}
	unread.Event(a)
	l.index.Stored(ctx, asking(caller), a, headers)
	return a, nil
}

func (l *eventLineage) Topic(ctx context.Context, caller api.Caller, at lineage.Address, q lineage.PaceQuery) (*lineage.Graph, error) {
	unread := l.fresh(ctx, caller)
	g, err := l.index.Topic(ctx, asking(caller), at, q)
	if err != nil {
		return nil, lineageError(err, unread)
	}
	g.Unknown = append(g.Unknown, unread.Says()...)
	return g, nil
}

func (l *eventLineage) Gaps(ctx context.Context, caller api.Caller, at lineage.Address, last int64) (*lineage.GapPage, error) {
	unread := l.fresh(ctx, caller)
	page, err := l.index.Gaps(ctx, asking(caller), at, last)
	if err != nil {
		return nil, lineageError(err, unread)
	}
	page.Unknown = append(page.Unknown, unread.Says()...)
	return page, nil
}

func (l *eventLineage) Deeds(ctx context.Context, caller api.Caller, q lineage.DeedQuery) (*lineage.DeedPage, error) {
	var unread lineage.Unread
	if q.Cursor == "" {
		unread = l.fresh(ctx, caller)
	}
	page, err := l.index.Deeds(ctx, asking(caller), q)
	if err != nil {
		return nil, lineageError(err, unread)
	}
	page.Unknown = append(page.Unknown, unread.Of(l.called(q.At.Cluster))...)
	return page, nil
}

func (l *eventLineage) Principal(ctx context.Context, caller api.Caller, cluster, principal string, limit int, cursor string) (*lineage.PrincipalPage, error) {
	var unread lineage.Unread
	if cursor == "" {
		unread = l.fresh(ctx, caller)
	}
	page, err := l.index.Principal(ctx, asking(caller), cluster, principal, limit, cursor)
	if err != nil {
		return nil, lineageError(err, unread)
	}
	page.Unknown = append(page.Unknown, unread.Of(l.called(cluster))...)
	return page, nil
}

func (l *eventLineage) Group(ctx context.Context, caller api.Caller, cluster, group string, limit int, cursor string) (*lineage.PrincipalPage, error) {
	var unread lineage.Unread
	if cursor == "" {
		unread = l.fresh(ctx, caller)
	}
	page, err := l.index.Group(ctx, asking(caller), cluster, group, limit, cursor)
	if err != nil {
		return nil, lineageError(err, unread)
	}
	page.Unknown = append(page.Unknown, unread.Of(l.called(cluster))...)
	return page, nil
}

// fresh waits for the ledgers' ends, and says of which clusters it did not get there, and
// why, as far as the caller may know. Pages behind the first do not wait again.
func (l *eventLineage) fresh(ctx context.Context, caller api.Caller) lineage.Unread {
	bounded, cancel := context.WithTimeout(ctx, freshLimit)
	defer cancel()
	behind, read := l.ledgers.catchUp(bounded)
	unread := lineage.Unread{}
	for _, e := range l.directory.list() {
		asked, id, failed := l.directory.answer(e)
		why := ""
		if err := behind[id]; err != nil {
			why = cmp.Or(unreadBecause(asked, failed, read[id].tail.State(), true), err.Error())
		} else if read[id] == nil {
			why = unreadBecause(asked, failed, tail.State{}, false)
		}
		if why == "" {
			continue
		}
		name := e.declared.Metadata.Name
		if shown, ok := l.directory.name(id); ok {
			name = shown
		}
		if (rights{l.directory}).Allowed(ctx, asking(caller), id, acl.Describe, acl.Cluster, acl.ClusterName) {
			unread[name] = fmt.Sprintf("the ledger of %s is not read to its end: %s", name, why)
		} else {
			unread[name] = "a ledger is not read to its end"
		}
	}
	return unread
}

// called is a cluster as answers name it.
func (l *eventLineage) called(cluster string) string {
	if name, ok := l.directory.name(cluster); ok {
		return name
	}
	if id, err := l.directory.id(cluster); err == nil {
		if name, ok := l.directory.name(id); ok {
			return name
		}
	}
	return cluster
}

func asking(c api.Caller) lineage.Caller {
	return lineage.Caller{Principal: c.Name, Host: c.Address}
}

// lineageError gives an error its status. What no ledger mentions may be in what was not read.
func lineageError(err error, unread lineage.Unread) error {
	switch {
	case errors.Is(err, lineage.ErrDenied):
		return api.Errorf(http.StatusForbidden, "%v", err).WithHint("Describe on the topic is needed, and on the cluster for what others did, for the principal that you are mapped to in that cluster, which has to be declared")
	case errors.Is(err, lineage.ErrNotFound) && len(unread) > 0:
		return api.Errorf(http.StatusNotFound, "%v, as far as they are read", err).WithHint("ask again later: %s", strings.Join(unread.Says(), "; "))
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
