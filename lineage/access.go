package lineage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
)

// Errors of queries.
var (
	// ErrDenied says that the caller may not see the topic, whether it exists or not.
	ErrDenied = errors.New("not authorized to describe the topic")
	// ErrNotFound says that no ledger mentions the topic or the cluster.
	ErrNotFound = errors.New("no ledger mentions it")
	// ErrInvalid says that an address cannot be right.
	ErrInvalid = errors.New("address is not valid")
)

// Caller is who asks.
type Caller struct {
	Principal string // "User:name", as the API authenticated it
	Host      string // address without port
}

// Authorizer says what a caller may do at each cluster, with that cluster's
// rights. Clusters are named by cluster.id.
type Authorizer interface {
	Allowed(ctx context.Context, caller Caller, cluster string, op acl.Operation, rt acl.ResourceType, name string) bool
	// Principal is who the caller is at a cluster, "" if nobody.
	Principal(ctx context.Context, caller Caller, cluster string) string
}

// Directory knows clusters by name, and which life of a topic is the present one.
// What it does not know is taken from the labels in the ledgers.
type Directory interface {
	ClusterID(name string) (id string, ok bool)
	ClusterName(id string) (name string, ok bool)
	TopicID(cluster, topic string) (id ledger.TopicID, ok bool)
}

// viewer asks for one caller and remembers the answers.
type viewer struct {
	x      *Index
	ctx    context.Context
	caller Caller
	rights map[string]bool
}

func (x *Index) viewer(ctx context.Context, caller Caller) *viewer {
	return &viewer{x: x, ctx: ctx, caller: caller, rights: map[string]bool{}}
}

// allowed says whether the caller may Describe something.
func (v *viewer) allowed(cluster string, rt acl.ResourceType, name string) bool {
	return v.may(acl.Describe, cluster, rt, name)
}

func (v *viewer) may(op acl.Operation, cluster string, rt acl.ResourceType, name string) bool {
	k := op.String() + "\x00" + rt.String() + "\x00" + cluster + "\x00" + name
	ok, asked := v.rights[k]
	if !asked {
		ok = v.x.cfg.Authorizer.Allowed(v.ctx, v.caller, cluster, op, rt, name)
		v.rights[k] = ok
	}
	return ok
}

// everything says whether the caller may see others' names, and earlier lives.
func (v *viewer) everything(cluster string) bool {
	return v.allowed(cluster, acl.Cluster, acl.ClusterName)
}

// topic says whether the caller may see a life of a topic. One whose name is not
// known is for those who may see everything.
func (v *viewer) topic(t life) bool {
	if t.name == "" || t.earlier {
		return v.everything(t.cluster) && (t.name == "" || v.allowed(t.cluster, acl.Topic, t.name))
	}
	return v.allowed(t.cluster, acl.Topic, t.name)
}

// own says whether a deed at a cluster is the caller's.
func (v *viewer) own(cluster, principal string) bool {
	return principal != "" && principal == v.x.cfg.Authorizer.Principal(v.ctx, v.caller, cluster)
}

// life is one life of a topic, as a query needs it.
type life struct {
	topicKey
	clusterName string
	name        string
	earlier     bool
}

// clusterID finds a cluster by its name or id. x.mu is held.
func (x *Index) clusterID(name string) string {
	if x.cfg.Directory != nil {
		if id, ok := x.cfg.Directory.ClusterID(name); ok {
			return id
		}
	}
	if id, ok := x.clusters[name]; ok {
		return id
	}
	return name
}

// clusterName is a cluster's name, or its id. x.mu is held.
func (x *Index) clusterName(id string) string {
	if x.cfg.Directory != nil {
		if name, ok := x.cfg.Directory.ClusterName(id); ok {
			return name
		}
	}
	return cmp.Or(x.names[id], id)
}

// life is what is known of a topic's life. x.mu is held.
func (x *Index) life(k topicKey) life {
	l := life{topicKey: k, clusterName: x.clusterName(k.cluster)}
	if t := x.topics[k]; t != nil {
		l.name = t.name
		l.earlier = x.present(k.cluster, t.name) != k.id
	}
	return l
}

// present is the id of a topic's present life. x.mu is held.
func (x *Index) present(cluster, topic string) ledger.TopicID {
	if x.cfg.Directory != nil {
		if id, ok := x.cfg.Directory.TopicID(cluster, topic); ok {
			return id
		}
	}
	lives := x.lives[nameKey{cluster, topic}]
	if len(lives) == 0 {
		return ledger.TopicID{}
	}
	return slices.MaxFunc(lives, func(a, b *topicState) int { return cmp.Compare(a.seen, b.seen) }).id
}

// find resolves an address for a caller: first the right to see the topic, then
// whether it is there, so that a refusal tells nothing.
func (v *viewer) find(at Address) (life, error) {
	if at.Cluster == "" || at.Topic == "" || at.Partition < 0 || at.Offset < 0 {
		return life{}, fmt.Errorf("%w: %+v", ErrInvalid, at)
	}
	x := v.x
	x.mu.RLock()
	cluster := x.clusterID(at.Cluster)
	x.mu.RUnlock()
	if !v.allowed(cluster, acl.Topic, at.Topic) {
		return life{}, fmt.Errorf("%w: %s/%s", ErrDenied, at.Cluster, at.Topic)
	}
	l, err := x.lifeAt(cluster, at)
	if err == nil && l.earlier && !v.everything(cluster) {
		return life{}, fmt.Errorf("%w: an earlier life of %s/%s", ErrDenied, at.Cluster, at.Topic)
	}
	return l, err
}

// lifeAt is the life of a topic that an address means.
func (x *Index) lifeAt(cluster string, at Address) (life, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if at.TopicID == "" {
		id := x.present(cluster, at.Topic)
		if x.topics[topicKey{cluster, id}] == nil {
			return life{}, fmt.Errorf("%w: topic %s in cluster %s", ErrNotFound, at.Topic, at.Cluster)
		}
		return x.life(topicKey{cluster, id}), nil
	}
	id, err := ledger.ParseTopicID(at.TopicID)
	if err != nil {
		return life{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	l := x.life(topicKey{cluster, id})
	if l.name != at.Topic {
		return life{}, fmt.Errorf("%w: topic %s with id %s in cluster %s", ErrNotFound, at.Topic, at.TopicID, at.Cluster)
	}
	return l, nil
}
