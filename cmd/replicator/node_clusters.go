package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

const (
	// identifyEvery is how often a cluster is asked whether it is there.
	identifyEvery = 2 * time.Second
	// aclFresh is how old the ACLs may be by which a question is answered: a
	// revoked right counts within a second.
	aclFresh = time.Second
)

var errNoSuchCluster = errors.New("no such cluster is declared")

// directory has a client of each declared cluster, knows clusters by name and
// by id, and by whose ACLs a question is judged.
type directory struct {
	clientID string
	log      *slog.Logger
	changed  chan struct{} // capacity 1: a new entry wants to be identified
	news     bell          // rung when there are other entries, or one has answered otherwise

	mu      sync.Mutex
	entries map[string]*clusterEntry
}

type clusterEntry struct {
	declared *flow.Cluster
	client   *kgo.Client

	// The rest is guarded by the directory's mutex.
	superUsers []string
	id         string // cluster.id; "" until it has answered once
	err        error  // why it did not answer last
	asked      bool   // it has answered, or not, at least once
	asking     bool   // it is being asked
	acls       *acl.Set
	aclsErr    error
	aclsAt     time.Time
	open       bool // the cluster has no authorizer
}

func newDirectory(clientID string, log *slog.Logger) *directory {
	return &directory{clientID: clientID, log: log, changed: make(chan struct{}, 1), entries: map[string]*clusterEntry{}}
}

// reconcile takes over what is declared now. Clients of clusters that are
// unchanged stay as they are.
func (d *directory) reconcile(declared []*flow.Cluster) {
	d.mu.Lock()
	defer d.mu.Unlock()
	keep := map[string]bool{}
	for _, c := range declared {
		name := c.Metadata.Name
		keep[name] = true
		if old := d.entries[name]; old != nil {
			if reflect.DeepEqual(old.declared.Spec.Connection(), c.Spec.Connection()) {
				old.superUsers = superUsersOf(c)
				continue
			}
			old.close()
		}
		e := &clusterEntry{declared: c, superUsers: superUsersOf(c)}
		e.client, e.err = kafka.NewClient(c, d.clientID)
		d.entries[name] = e
	}
	for name, e := range d.entries {
		if !keep[name] {
			e.close()
			delete(d.entries, name)
		}
	}
	poke(d.changed)
	d.news.ring()
}

func (e *clusterEntry) close() {
	if e.client != nil {
		e.client.Close()
	}
}

// run identifies clusters until ctx ends, then closes all clients.
func (d *directory) run(ctx context.Context) error {
	defer d.reconcile(nil)
	var asking sync.WaitGroup
	defer asking.Wait()
	ticker := time.NewTicker(identifyEvery)
	defer ticker.Stop()
	for {
		for _, e := range d.list() {
			d.mu.Lock()
			ask := e.client != nil && !e.asking
			e.asking = e.asking || ask
			d.mu.Unlock()
			if ask {
				asking.Go(func() { d.identify(ctx, e) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-d.changed:
		}
	}
}

// identify asks a cluster who it is. What it has said once it goes on being,
// also while it does not answer.
func (d *directory) identify(ctx context.Context, e *clusterEntry) {
	name := e.declared.Metadata.Name
	id, err := kafka.Identify(ctx, e.declared, e.client)
	d.mu.Lock()
	defer d.mu.Unlock()
	e.asking = false
	if ctx.Err() != nil || d.entries[name] != e {
		return
	}
	if err == nil && e.id != "" && id != e.id {
		err = fmt.Errorf("cluster %s: %w: cluster.id is %s, it was %s", name, kafka.ErrWrongCluster, id, e.id)
	}
	switch {
	case err != nil && (e.err == nil || e.err.Error() != err.Error()):
		d.log.Warn("cluster does not answer", "cluster", name, "error", err)
	case err == nil && e.err != nil:
		d.log.Info("cluster answers again", "cluster", name)
	}
	if e.asked && (e.err == nil) == (err == nil) && (err != nil || e.id == id) {
		e.err = err
		return
	}
	if e.asked, e.err = true, err; err == nil {
		e.id = id
	}
	d.news.ring()
}

// list is all clusters by name.
func (d *directory) list() []*clusterEntry {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*clusterEntry, 0, len(d.entries))
	for _, name := range sortedNames(d.entries) {
		all = append(all, d.entries[name])
	}
	return all
}

// current says that the client of a cluster is that of a declaration. One that is
// not will be closed, or has been replaced already: declarations come here by
// another way than to whoever asks.
func (d *directory) current(c *flow.Cluster) error {
	e, err := d.entry(c.Metadata.Name)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(e.declared.Spec.Connection(), c.Spec.Connection()) {
		return fmt.Errorf("cluster %s: its new declaration is not in use yet", c.Metadata.Name)
	}
	return nil
}

func (d *directory) entry(name string) (*clusterEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[name]
	if e == nil {
		return nil, fmt.Errorf("cluster %s: %w", name, errNoSuchCluster)
	}
	if e.client == nil {
		return nil, e.err
	}
	return e, nil
}

// answer says whether a cluster has been asked who it is, and what it answered.
func (d *directory) answer(e *clusterEntry) (asked bool, id string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return e.asked, e.id, e.err
}

// client of a cluster by its name.
func (d *directory) client(name string) (*kgo.Client, error) {
	e, err := d.entry(name)
	if err != nil {
		return nil, err
	}
	return e.client, nil
}

// id is a cluster's cluster.id, or why it is not known.
func (d *directory) id(name string) (string, error) {
	e, err := d.entry(name)
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case e.id != "":
		return e.id, nil
	case e.err != nil:
		return "", e.err
	}
	return "", fmt.Errorf("cluster %s has not answered yet", name)
}

// name is the declared name of a cluster.id, the first if it has several.
func (d *directory) name(id string) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range sortedNames(d.entries) {
		if d.entries[name].id == id && id != "" {
			return name, true
		}
	}
	return "", false
}

// allowed judges by the ACLs of a cluster whether a principal may do something
// there. Where the ACLs cannot be read the answer is no.
func (d *directory) allowed(ctx context.Context, cluster, principal, host string, op acl.Operation, rt acl.ResourceType, name string) bool {
	e, err := d.entry(cluster)
	if err != nil || principal == "" {
		return false
	}
	set, open, err := d.acls(ctx, e)
	if err != nil {
		return false
	}
	return open || set.Allowed(principal, host, op, rt, name)
}

// judges says why the ACLs of a cluster cannot be read now, by which it is judged who may
// see what of it; nil if they can.
func (d *directory) judges(ctx context.Context, cluster string) error {
	e, err := d.entry(cluster)
	if err == nil {
		_, _, err = d.acls(ctx, e)
	}
	return err
}

func (d *directory) acls(ctx context.Context, e *clusterEntry) (*acl.Set, bool, error) {
	d.mu.Lock()
	set, open, err, fresh := e.acls, e.open, e.aclsErr, time.Since(e.aclsAt) < aclFresh
	superUsers := e.superUsers
	d.mu.Unlock()
	if fresh {
		return set, open, err
	}
	rules, err := describeACLs(ctx, e.client)
	open = errors.Is(err, kerr.SecurityDisabled)
	if open {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("read ACLs of cluster %s: %w", e.declared.Metadata.Name, err)
		if ctx.Err() != nil {
			return nil, false, err // who asked has gone: that is no answer for others
		}
		d.log.Warn("questions about events are answered with no", "error", err)
	}
	set = acl.NewSet(rules, superUsers)
	d.mu.Lock()
	defer d.mu.Unlock()
	e.acls, e.open, e.aclsErr, e.aclsAt = set, open, err, time.Now()
	return set, open, err
}

// superUsersOf a cluster are not visible to its clients; the operator names
// them in an annotation of the Cluster.
func superUsersOf(c *flow.Cluster) []string {
	return strings.FieldsFunc(c.Metadata.Annotations[superUserAnnotation], func(r rune) bool { return r == ',' || r == ' ' })
}

// superUserAnnotation lists, comma separated, the principals that are super
// users of the cluster and therefore see everything there.
const superUserAnnotation = "waybill/super-users"

func describeACLs(ctx context.Context, cl *kgo.Client) ([]acl.Rule, error) {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType = kmsg.ACLResourceTypeAny
	req.ResourcePatternType = kmsg.ACLResourcePatternTypeAny
	req.Operation = kmsg.ACLOperationAny
	req.PermissionType = kmsg.ACLPermissionTypeAny
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, err
	}
	var rules []acl.Rule
	for _, r := range resp.Resources {
		for _, a := range r.ACLs {
			rules = append(rules, acl.Rule{
				ResourceType: acl.ResourceType(r.ResourceType), ResourceName: r.ResourceName, PatternType: acl.PatternType(r.ResourcePatternType),
				Principal: a.Principal, Host: a.Host, Operation: acl.Operation(a.Operation), Permission: acl.Permission(a.PermissionType),
			})
		}
	}
	return rules, nil
}
