package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/flow"
)

// ledgerTopic is where the record of what was copied is kept: flow.InternalPrefix
// and a name that never changes.
const ledgerTopic = "__waybill.ledger"

// notesPrefix begins the groups that hold notes on share groups.
const notesPrefix = "__waybill.share."

// lanePrefix begins the transactional ids of all fleets.
const lanePrefix = "waybill."

// need is rights that a flow or a runbook needs on resources of one cluster.
type need struct {
	what       string // for people
	resource   acl.ResourceType
	names      []string
	operations []acl.Operation
	// sometimes: copies go on without them, until something changes at the source.
	sometimes bool
	// remark: nothing that is declared needs them, but what an operator may do, or know
	// besides. That they are not held is said, and is nothing wrong.
	remark bool
	// creates: where it is not there, it is made, which needs Create.
	creates bool
	// rules: they are for changing ACLs, which takes a cluster that heeds them.
	rules bool
}

// mostNames bounds how many topics of a flow are asked about.
const mostNames = 200

// sourceNeeds and destinationNeeds are the table of docs/fleet.md. topics are the
// source topics that the flow picks now.
func sourceNeeds(f *flow.ReplicationFlow, topics []string) []need {
	needs := []need{
		{what: "topics", resource: acl.Topic, names: topics, operations: []acl.Operation{acl.Read, acl.Describe, acl.DescribeConfigs}},
		{what: "the ledger", resource: acl.Topic, names: []string{ledgerTopic}, operations: []acl.Operation{acl.Read}},
		{what: "the cluster", resource: acl.Cluster, names: []string{acl.ClusterName}, operations: []acl.Operation{acl.Describe}},
	}
	if f.Spec.Groups != nil {
		needs = append(needs, need{what: "groups (" + shortList(f.Spec.Groups.Include, 3) + ")", resource: acl.Group, names: groupNames(f.Spec.Groups.Include), operations: []acl.Operation{acl.Describe}},
			need{what: "the ledger, if there is one, for what groups have read (lineage access)", resource: acl.Topic, names: []string{ledgerTopic}, operations: []acl.Operation{acl.Write}, remark: true},
			need{what: "groups, for groups return", resource: acl.Group, names: groupNames(f.Spec.Groups.Include), operations: []acl.Operation{acl.Read}, sometimes: true},
			shareNotes(f, acl.Describe))
	}
	source, _ := mirrorMakerNeeds(f)
	return append(needs, source...)
}

// shareNotes is the right to the groups that hold the notes on share groups, of which there
// may be none.
func shareNotes(f *flow.ReplicationFlow, operations ...acl.Operation) need {
	names := groupNames(f.Spec.Groups.Include)
	for i, name := range names {
		names[i] = notesPrefix + name
	}
	return need{what: "notes on share groups, if the flow has some", resource: acl.Group, names: names, operations: operations, remark: true}
}

// mirrorMakerNeeds are those of spec.mirrorMaker2 at both ends. The writer makes the
// topics, looks whether they are there, and reads the source's heartbeats.
func mirrorMakerNeeds(f *flow.ReplicationFlow) (source, destination []need) {
	m := f.MirrorMaker()
	if m == nil {
		return nil, nil
	}
	atSource, atDestination := m.Topics()
	writes := need{what: "topics of MirrorMaker 2", resource: acl.Topic, operations: []acl.Operation{acl.Write, acl.Describe}, creates: true}
	reads := need{what: "the source's heartbeats", resource: acl.Topic, names: []string{flow.Heartbeats}, operations: []acl.Operation{acl.Read}}
	there := writes
	writes.names, there.names = atSource, atDestination
	return []need{writes, reads}, []need{there}
}

// runbookNeeds are those at the source of its flow, beyond the flow's own: a fence reads
// the cluster's ACLs, adds rules for the topics and takes them away again.
func runbookNeeds(r *flow.Runbook) []need {
	if !slices.ContainsFunc(r.Spec.Steps, func(s flow.Step) bool { return s.Fence != nil }) {
		return nil
	}
	return []need{{what: "the fence", resource: acl.Cluster, names: []string{acl.ClusterName}, operations: []acl.Operation{acl.Describe, acl.Alter}, rules: true}}
}

func destinationNeeds(f *flow.ReplicationFlow, topics []string, preserve bool) []need {
	copies := make([]string, 0, len(topics))
	for _, t := range topics {
		copies = append(copies, f.Spec.Topics.Rename.Destination(t))
	}
	changing := []acl.Operation{acl.Alter, acl.AlterConfigs}
	if f.Spec.Policies.OnDelete == "delete" {
		changing = append(changing, acl.Delete)
	}
	needs := []need{
		{what: "copies", resource: acl.Topic, names: copies, operations: []acl.Operation{acl.Read, acl.Write, acl.Describe, acl.DescribeConfigs}, creates: true},
		{what: "copies, when partitions or settings follow the source's", resource: acl.Topic, names: copies, operations: changing, sometimes: true},
		{what: "the ledger", resource: acl.Topic, names: []string{ledgerTopic}, operations: []acl.Operation{acl.Read, acl.Write}, creates: true},
		{what: "the ledger, for lineage fold --delete", resource: acl.Topic, names: []string{ledgerTopic}, operations: []acl.Operation{acl.Delete}, remark: true},
	}
	onCluster := []acl.Operation{acl.Describe}
	if preserve {
		onCluster = append(onCluster, acl.ClusterAction)
	}
	needs = append(needs, need{what: "the cluster", resource: acl.Cluster, names: []string{acl.ClusterName}, operations: onCluster})
	if f.Spec.Delivery != flow.DeliveryAtLeastOnce {
		needs = append(needs, need{what: "transactional ids", resource: acl.TransactionalID, names: []string{lanePrefix + "*"}, operations: []acl.Operation{acl.Write, acl.Describe}})
	}
	if f.Spec.Groups != nil {
		needs = append(needs, need{what: "groups (" + shortList(f.Spec.Groups.Include, 3) + ")", resource: acl.Group, names: groupNames(f.Spec.Groups.Include), operations: []acl.Operation{acl.Read, acl.Describe}},
			shareNotes(f, acl.Read, acl.Describe))
	}
	if r := f.Spec.Records; r != nil && r.Poison == flow.PoisonQuarantine {
		name := r.Quarantine
		if name == "" {
			name = flow.QuarantineTopic(f.Metadata.Name)
		}
		needs = append(needs, need{what: "the quarantine topic", resource: acl.Topic, names: []string{name}, operations: []acl.Operation{acl.Write}, creates: true})
	}
	_, mirrorMaker := mirrorMakerNeeds(f)
	return append(needs, mirrorMaker...)
}

// groupNames are the groups that patterns name, and where they have wildcards one
// that they pick, which need not be there.
func groupNames(patterns []string) []string {
	var names []string
	for _, p := range patterns {
		switch at := strings.IndexAny(p, "*?["); {
		case strings.HasPrefix(p, "/"):
			names = append(names, "waybill-doctor") // what an expression picks is not known
		case at >= 0:
			names = append(names, p[:at]+"waybill-doctor")
		default:
			names = append(names, p)
		}
	}
	return names
}

// held is what is known of the rights on one resource.
type held struct {
	known   bool
	absent  bool // the resource is not there
	denied  bool // it may not even be seen
	allowed func(acl.Operation) bool
}

// missing lists the operations of a need that are not held.
func (n need) missing(h held, mayCreate bool) (ops []acl.Operation) {
	if h.denied {
		return n.operations
	}
	wanted := n.operations
	if h.absent && n.creates && !mayCreate {
		wanted = append(slices.Clone(wanted), acl.Create)
	}
	for _, op := range wanted {
		if !h.allowed(op) && !(op == acl.Create && mayCreate) {
			ops = append(ops, op)
		}
	}
	return ops
}

func operationList(ops []acl.Operation) string {
	var names []string
	for _, op := range ops {
		names = append(names, op.String())
	}
	return strings.Join(names, ", ")
}

// judgeNeed makes one finding of a need: what is missing on which resource.
func judgeNeed(where, principal string, n need, holds func(name string) (held, string), mayCreate bool) Finding {
	names := n.names
	if len(names) > mostNames {
		names = names[:mostNames]
	}
	var lacking, unknown []string
	ways := map[string]bool{}
	for _, name := range names {
		h, way := holds(name)
		ways[way] = true
		if !h.known {
			unknown = append(unknown, name)
			continue
		}
		if ops := n.missing(h, mayCreate); len(ops) > 0 {
			lacking = append(lacking, fmt.Sprintf("%s on %s", operationList(ops), name))
		}
	}
	how := strings.Join(slices.Sorted(maps.Keys(ways)), "; ")
	switch {
	case n.rules && ways[byNobody]:
		return found(Rights, where, Error, "%s: %s, so no rule would keep anybody from writing", n.what, byNobody).
			todo("give the cluster an authorizer, or take the step out and stop the writers yourself")
	case len(lacking) > 0 && n.remark:
		return found(Rights, where, OK, "%s: %s lacks %s (%s), which nothing else needs", n.what, principal, shortList(lacking, 5), how)
	case len(lacking) > 0:
		level := Error
		if n.sometimes {
			level = Warning
		}
		return found(Rights, where, level, "%s: %s lacks %s (%s)", n.what, principal, shortList(lacking, 5), how).
			todo("allow it to %s; docs/fleet.md lists what a node needs in a cluster", principal)
	case len(unknown) > 0:
		return found(Rights, where, Unknown, "%s: whether %s holds %s on %s is not known (%s)", n.what, principal, operationList(n.operations), shortList(unknown, 5), how).
			todo("allow Describe on the cluster to %s for as long as doctor looks, or look at the ACLs by hand", principal)
	}
	return found(Rights, where, OK, "%s: %s holds %s on %s (%s)", n.what, principal, operationList(n.operations), count(len(n.names), n.names), how)
}

func count(n int, names []string) string {
	if n <= 3 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%d of them", n)
}
