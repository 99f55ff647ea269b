package doctor

import (
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// How rights are known, as findings say it.
const (
	byBroker = "the cluster says so itself"
	byRules  = "by its ACLs"
	byNobody = "the cluster has no authorizer"
	bySuper  = "it is a super user, as what the cluster says beyond its ACLs shows"
	bySilent = "the cluster does not say, and its ACLs may not be read"
)

// notTold is what a broker answers that does not know of rights, or was not asked.
const notTold = -2147483648

// flowFindings looks at both ends of a flow.
func flowFindings(ctx context.Context, f *flow.ReplicationFlow, looks map[string]*look) []Finding {
	var all []Finding
	source, destination := looks[f.Spec.Source], looks[f.Spec.Destination]
	name := "flow " + f.Metadata.Name
	var topics []string
	if source != nil && source.versions != nil {
		for _, t := range source.topics {
			if f.Spec.Topics.Match(t) {
				topics = append(topics, t)
			}
		}
		if len(topics) == 0 {
			all = append(all, found(Rights, name, Warning, "cluster %s lists no topic that the flow includes", f.Spec.Source).
				todo("nothing if it is still to be created; else correct topics.include, or allow Describe and Read on the topics"))
		}
		all = append(all, source.rights(ctx, name+", source "+f.Spec.Source, sourceNeeds(f, topics))...)
	}
	if destination != nil && destination.versions != nil {
		_, mirrors := destination.versions[mirrorwire.AppendKey]
		preserve := f.Spec.Offsets == flow.OffsetsPreserve || mirrors && f.Spec.Offsets == flow.OffsetsAuto
		if f.Spec.Offsets == flow.OffsetsPreserve && !mirrors {
			all = append(all, found(Versions, name, Error, "offsets: preserve needs a destination with mirror topics, and %s is not a bundled broker", f.Spec.Destination).todo("declare offsets: translate"))
		}
		all = append(all, destination.rights(ctx, name+", destination "+f.Spec.Destination, destinationNeeds(f, topics, preserve))...)
	}
	return all
}

// runbookFindings looks at the source of the flow that a runbook is about.
func runbookFindings(ctx context.Context, r *flow.Runbook, flows []*flow.ReplicationFlow, looks map[string]*look) []Finding {
	needs := runbookNeeds(r)
	if len(needs) == 0 {
		return nil
	}
	name := "runbook " + r.Metadata.Name
	i := slices.IndexFunc(flows, func(f *flow.ReplicationFlow) bool { return f.Metadata.Name == r.Spec.Flow })
	if i < 0 {
		return []Finding{found(Rights, name, Unknown, "flow %s is not among what is looked at, so where it fences is not known", r.Spec.Flow).todo("give the declarations of the flow and its source too")}
	}
	source := looks[flows[i].Spec.Source]
	switch {
	case source == nil:
		return []Finding{found(Rights, name, Unknown, "cluster %s, where it fences, is not among what is looked at", flows[i].Spec.Source).todo("give the declaration of the cluster too")}
	case source.versions == nil:
		return nil // it cannot be reached, which is said of the cluster
	}
	return source.rights(ctx, name+", source "+flows[i].Spec.Source, needs)
}

// principal is who the cluster takes this client for, as far as it can be known.
func (l *look) principal() string {
	switch spec := l.cluster.Spec; {
	case spec.SASL != nil:
		return "User:" + spec.SASL.Username
	case spec.TLS != nil && spec.TLS.CertFile != "":
		return "the principal of the client certificate"
	}
	return "User:ANONYMOUS"
}

// rights judges what a flow needs in one cluster.
func (l *look) rights(ctx context.Context, where string, needs []need) []Finding {
	ctx, cancel := context.WithTimeout(ctx, perServer)
	defer cancel()
	cl, err := kafka.NewClient(l.cluster, clientID, kgo.RequestRetries(2))
	if err != nil {
		return []Finding{found(Rights, where, Unknown, "%v", err)}
	}
	defer cl.Close()
	r := &asked{look: l, resources: map[acl.ResourceType]map[string]held{}}
	r.rules(ctx, cl)
	r.cluster(ctx, cl)
	for _, n := range needs {
		switch n.resource {
		case acl.Topic:
			r.topics(ctx, cl, n.names)
		case acl.Group:
			r.groups(ctx, cl, n.names)
		}
	}
	onCluster, _ := r.of(acl.Cluster, acl.ClusterName)
	mayCreate := onCluster.known && !onCluster.denied && onCluster.allowed(acl.Create)
	var all []Finding
	for _, n := range needs {
		if len(n.names) == 0 {
			continue
		}
		all = append(all, judgeNeed(where, l.principal(), n, func(name string) (held, string) { return r.of(n.resource, name) }, mayCreate))
	}
	return all
}

// asked is what a cluster has said of rights.
type asked struct {
	*look
	resources map[acl.ResourceType]map[string]held
	set       *acl.Set // nil if it may not be read
	open      bool     // no authorizer
}

// of is what is known of one resource, and how.
func (a *asked) of(rt acl.ResourceType, name string) (held, string) {
	if a.open {
		h := a.resources[rt][name]
		return held{known: true, absent: h.absent, allowed: func(acl.Operation) bool { return true }}, byNobody
	}
	h, ok := a.resources[rt][name]
	if ok && h.known {
		return h, byBroker
	}
	sasl := a.look.cluster.Spec.SASL
	if a.set != nil && sasl != nil {
		principal := a.principal()
		if a.super(principal) {
			return held{known: true, absent: h.absent, allowed: func(acl.Operation) bool { return true }}, bySuper
		}
		return held{known: true, absent: h.absent, allowed: func(op acl.Operation) bool {
			return a.set.Allowed(principal, "*", op, rt, name)
		}}, byRules
	}
	return held{}, bySilent
}

// super reports whether the cluster lets a principal do what no rule allows.
func (a *asked) super(principal string) bool {
	h := a.resources[acl.Cluster][acl.ClusterName]
	return h.known && h.allowed(acl.Alter) && !a.set.Allowed(principal, "*", acl.Alter, acl.Cluster, acl.ClusterName)
}

func (a *asked) note(rt acl.ResourceType, name string, h held) {
	if a.resources[rt] == nil {
		a.resources[rt] = map[string]held{}
	}
	a.resources[rt][name] = h
}

// bits is the protocol's form of rights: a bit for each operation.
func bits(n int32) held {
	if n == notTold {
		return held{}
	}
	return held{known: true, allowed: func(op acl.Operation) bool { return op >= 0 && op < 31 && n&(1<<op) != 0 }}
}

func (a *asked) rules(ctx context.Context, cl *kgo.Client) {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if errors.Is(err, kerr.SecurityDisabled) {
		a.open = true
	}
	if err != nil {
		return // it may not be read, or not at all
	}
	var rules []acl.Rule
	for _, r := range resp.Resources {
		for _, x := range r.ACLs {
			rules = append(rules, acl.Rule{
				ResourceType: acl.ResourceType(r.ResourceType), ResourceName: r.ResourceName, PatternType: acl.PatternType(r.ResourcePatternType),
				Principal: x.Principal, Host: x.Host, Operation: acl.Operation(x.Operation), Permission: acl.Permission(x.PermissionType),
			})
		}
	}
	a.set = acl.NewSet(rules, nil)
}

func (a *asked) cluster(ctx context.Context, cl *kgo.Client) {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeClusterAuthorizedOperations = true
	resp, err := req.RequestWith(ctx, cl)
	if err == nil && resp.ErrorCode == 0 {
		a.note(acl.Cluster, acl.ClusterName, bits(resp.ClusterAuthorizedOperations))
	}
}

func (a *asked) topics(ctx context.Context, cl *kgo.Client, names []string) {
	if len(names) == 0 {
		return
	}
	req := kmsg.NewPtrMetadataRequest()
	req.IncludeTopicAuthorizedOperations = true
	req.AllowAutoTopicCreation = false
	for _, name := range names[:min(len(names), mostNames)] {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return
	}
	for _, t := range resp.Topics {
		if t.Topic == nil {
			continue
		}
		switch t.ErrorCode {
		case kerr.TopicAuthorizationFailed.Code:
			a.note(acl.Topic, *t.Topic, held{known: true, denied: true})
		case kerr.UnknownTopicOrPartition.Code:
			a.note(acl.Topic, *t.Topic, held{absent: true}) // it may be seen: the rest is for the ACLs
		default:
			a.note(acl.Topic, *t.Topic, bits(t.AuthorizedOperations))
		}
	}
}

func (a *asked) groups(ctx context.Context, cl *kgo.Client, names []string) {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups, req.IncludeAuthorizedOperations = slices.Clone(names), true
	for _, shard := range cl.RequestSharded(ctx, req) {
		resp, ok := shard.Resp.(*kmsg.DescribeGroupsResponse)
		if shard.Err != nil || !ok {
			continue
		}
		for _, g := range resp.Groups {
			switch g.ErrorCode {
			case kerr.GroupAuthorizationFailed.Code:
				a.note(acl.Group, g.Group, held{known: true, denied: true})
			case 0:
				a.note(acl.Group, g.Group, bits(g.AuthorizedOperations))
			}
		}
	}
}
