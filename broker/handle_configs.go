package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/controller"
)

// deletes reports whether old records of a topic may be deleted.
func (t *topic) deletes() bool {
	policy, set := t.Configs["cleanup.policy"]
	return !set || strings.Contains(policy, "delete")
}

// describeConfigs answers DescribeConfigs for topics (from the catalogue in
// settings.go), for this broker and what is set for all brokers, for the levels of
// its loggers (KIP-412) and for groups (KIP-848), for each once however often it is
// named with the same keys. v1 tells sources and synonyms (KIP-226), v3
// types and documentation (KIP-569).
func (b *Broker) describeConfigs(_ context.Context, r *request, q *kmsg.DescribeConfigsRequest) *kmsg.DescribeConfigsResponse {
	resp := q.ResponseKind().(*kmsg.DescribeConfigsResponse)
	type asked struct {
		kind       kmsg.ConfigResourceType
		name, keys string
	}
	resources := onceBy(q.Resources, func(w kmsg.DescribeConfigsRequestResource) asked {
		if w.ConfigNames == nil {
			return asked{w.ResourceType, w.ResourceName, ""}
		}
		return asked{w.ResourceType, w.ResourceName, fmt.Sprintf("%q", w.ConfigNames)}
	})
	for i := range resources {
		want := &resources[i]
		out := kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = want.ResourceType, want.ResourceName
		if !r.spend(len(topicSettings) * configMemory) {
			break
		}
		configs, err := b.configsOf(r, want)
		out.ErrorCode, out.ErrorMessage = b.code(err, "describe configs", "resource", want.ResourceName), message(err)
		for _, c := range configs {
			if want.ConfigNames != nil && !slices.Contains(want.ConfigNames, c.Name) {
				continue
			}
			if !q.IncludeSynonyms {
				c.ConfigSynonyms = nil
			}
			if !q.IncludeDocumentation {
				c.Documentation = nil
			}
			out.Configs = append(out.Configs, c)
		}
		resp.Resources = append(resp.Resources, out)
	}
	return resp
}

// configRight checks the caller's right to the configs of a resource.
func (r *request) configRight(op acl.Operation, kind kmsg.ConfigResourceType, name string) error {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if !r.allowed(op, acl.Topic, name) {
			return kerr.TopicAuthorizationFailed
		}
	case kmsg.ConfigResourceTypeGroupConfig:
		if !r.allowed(op, acl.Group, name) {
			return kerr.GroupAuthorizationFailed
		}
	default:
		if !r.allowed(op, acl.Cluster, acl.ClusterName) {
			return kerr.ClusterAuthorizationFailed
		}
	}
	return nil
}

func (b *Broker) configsOf(r *request, want *kmsg.DescribeConfigsRequestResource) ([]kmsg.DescribeConfigsResponseResourceConfig, error) {
	name := want.ResourceName
	if err := r.configRight(acl.DescribeConfigs, want.ResourceType, name); err != nil {
		return nil, err
	}
	switch want.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		t := b.topic(name)
		if t == nil {
			return nil, kerr.UnknownTopicOrPartition
		}
		return append(b.describeTopicConfigs(t.Configs), describeMirror(t)...), nil
	case kmsg.ConfigResourceTypeBroker:
		switch name {
		case "":
			return b.describeBrokerDefaults(), nil
		case b.nodeName():
			return b.describeBrokerConfigs(), nil
		}
		return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("Unexpected broker id, expected %s or empty string, but received %s", b.nodeName(), name))
	case kmsg.ConfigResourceTypeBrokerLogger:
		if name != b.nodeName() {
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("Unexpected broker id, expected %s, but received %q", b.nodeName(), name))
		}
		return b.describeLoggers(), nil
	case kmsg.ConfigResourceTypeGroupConfig:
		return b.describeGroupConfigs(name), nil
	}
	return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("resources of type %s have no configs here", want.ResourceType))
}

// configChange makes the next configuration of the present one, by the settings
// that there are.
type configChange func(known func(name string) (setting, bool), have map[string]string) (map[string]string, error)

// alterConfigs answers AlterConfigs: it replaces the whole configuration of a
// resource. Clients since KIP-339 use the incremental form.
func (b *Broker) alterConfigs(_ context.Context, r *request, q *kmsg.AlterConfigsRequest) *kmsg.AlterConfigsResponse {
	resp := q.ResponseKind().(*kmsg.AlterConfigsResponse)
	for i := range q.Resources {
		want := &q.Resources[i]
		out := kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = want.ResourceType, want.ResourceName
		err := b.alterResource(r, want.ResourceType, want.ResourceName, q.ValidateOnly, func(func(string) (setting, bool), map[string]string) (map[string]string, error) {
			next := map[string]string{}
			for _, c := range want.Configs {
				if c.Value != nil {
					next[c.Name] = *c.Value
				}
			}
			return next, nil
		})
		out.ErrorCode, out.ErrorMessage = b.code(err, "alter configs", "resource", want.ResourceName), message(err)
		resp.Resources = append(resp.Resources, out)
	}
	return resp
}

// incrementalAlterConfigs answers IncrementalAlterConfigs (KIP-339): set, delete,
// and append to or subtract from lists.
func (b *Broker) incrementalAlterConfigs(_ context.Context, r *request, q *kmsg.IncrementalAlterConfigsRequest) *kmsg.IncrementalAlterConfigsResponse {
	resp := q.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	for i := range q.Resources {
		want := &q.Resources[i]
		out := kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = want.ResourceType, want.ResourceName
		var err error
		if want.ResourceType == kmsg.ConfigResourceTypeBrokerLogger {
			if err = r.configRight(acl.AlterConfigs, want.ResourceType, want.ResourceName); err == nil {
				err = b.alterLoggers(want.ResourceName, q.ValidateOnly, want.Configs)
			}
		} else {
			err = b.alterResource(r, want.ResourceType, want.ResourceName, q.ValidateOnly, func(known func(string) (setting, bool), have map[string]string) (map[string]string, error) {
				return applyConfigOps(known, have, want.Configs)
			})
		}
		out.ErrorCode, out.ErrorMessage = b.code(err, "alter configs", "resource", want.ResourceName), message(err)
		resp.Resources = append(resp.Resources, out)
	}
	return resp
}

// alterResource checks and stores what change makes of a resource's configs.
func (b *Broker) alterResource(r *request, kind kmsg.ConfigResourceType, name string, validateOnly bool, change configChange) error {
	if err := r.configRight(acl.AlterConfigs, kind, name); err != nil {
		return err
	}
	if isClosed(r.late) {
		return errLate
	}
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		return b.alterTopicConfigs(name, validateOnly, change)
	case kmsg.ConfigResourceTypeBroker:
		return b.alterBrokerConfigs(name, validateOnly, change)
	case kmsg.ConfigResourceTypeGroupConfig:
		return b.alterGroupConfigs(name, validateOnly, change)
	case kmsg.ConfigResourceTypeBrokerLogger:
		return refuse(kerr.InvalidRequest, "levels of loggers are changed one by one: IncrementalAlterConfigs")
	}
	return refuse(kerr.InvalidRequest, fmt.Sprintf("resources of type %s have no configs here", kind))
}

func (b *Broker) alterTopicConfigs(name string, validateOnly bool, change configChange) error {
	t := b.topic(name) // once: it may be deleted meanwhile
	switch {
	case t == nil:
		return kerr.UnknownTopicOrPartition
	case b.isOwn(name):
		return refuse(kerr.InvalidTopicException, fmt.Sprintf("%s is the broker's own", name))
	}
	alter := func(t controller.Topic) (controller.Topic, error) {
		known := func(name string) (setting, bool) {
			s, ok := topicSetting(name)
			if v, set := b.settings.Load().topics[name]; set {
				s.def = v
			}
			return s, ok
		}
		next, err := change(known, t.Configs)
		if err != nil {
			return t, err
		}
		if err := b.settings.Load().check(next); err != nil {
			return t, refuse(kerr.InvalidConfig, err.Error())
		}
		t.Configs = next
		return t, nil
	}
	if validateOnly {
		_, err := alter(*t.Topic)
		return err
	}
	_, err := b.changeTopic(name, nil, alter)
	return err
}

// listConfigResources answers ListConfigResources (KIP-1142): what has configs, by
// kind. v0 asks for client metrics, of which there are none.
func (b *Broker) listConfigResources(_ context.Context, r *request, q *kmsg.ListConfigResourcesRequest) *kmsg.ListConfigResourcesResponse {
	resp := q.ResponseKind().(*kmsg.ListConfigResourcesResponse)
	if !r.may(acl.ClusterName) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp
	}
	names := map[kmsg.ConfigResourceType][]string{
		kmsg.ConfigResourceTypeTopic:         slices.Sorted(maps.Keys(b.topics.Load().byName)),
		kmsg.ConfigResourceTypeBroker:        {b.nodeName()},
		kmsg.ConfigResourceTypeBrokerLogger:  {b.nodeName()},
		kmsg.ConfigResourceTypeClientMetrics: {},
		kmsg.ConfigResourceTypeGroupConfig:   b.groupsWithConfigs(),
	}
	var wanted []kmsg.ConfigResourceType
	for _, t := range q.ResourceTypes {
		wanted = append(wanted, kmsg.ConfigResourceType(t))
	}
	switch {
	case q.Version == 0:
		wanted = []kmsg.ConfigResourceType{kmsg.ConfigResourceTypeClientMetrics}
	case len(wanted) == 0:
		wanted = slices.Sorted(maps.Keys(names))
	}
	for _, kind := range wanted {
		list, known := names[kind]
		if !known {
			resp.ErrorCode, resp.ConfigResources = kerr.UnsupportedVersion.Code, nil
			return resp
		}
		if !r.spend(len(list) * entryMemory) {
			break
		}
		for _, name := range list {
			resp.ConfigResources = append(resp.ConfigResources, kmsg.ListConfigResourcesResponseConfigResource{Name: name, Type: int8(kind)})
		}
	}
	return resp
}

// applyConfigOps returns a changed copy of configs.
func applyConfigOps(known func(string) (setting, bool), have map[string]string, ops []kmsg.IncrementalAlterConfigsRequestResourceConfig) (map[string]string, error) {
	next := maps.Clone(have)
	if next == nil {
		next = map[string]string{}
	}
	seen := map[string]bool{}
	for _, op := range ops {
		s, ok := known(op.Name)
		switch {
		case !ok && strings.HasPrefix(op.Name, mirrorSetting):
			return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("topic config %q is read-only", op.Name))
		case !ok && op.Op == kmsg.IncrementalAlterConfigOpDelete:
			continue // what was never set: reassignment tools take throttles away
		case !ok:
			return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("unknown config %q", op.Name))
		case seen[op.Name]:
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("config %q is named twice", op.Name))
		case op.Value == nil && op.Op != kmsg.IncrementalAlterConfigOpDelete:
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("config %q has no value", op.Name))
		}
		seen[op.Name] = true
		switch op.Op {
		case kmsg.IncrementalAlterConfigOpSet:
			next[op.Name] = *op.Value
		case kmsg.IncrementalAlterConfigOpDelete:
			delete(next, op.Name)
		case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
			if s.kind != kmsg.ConfigTypeList {
				return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("config %q is not a list", op.Name))
			}
			current, set := next[op.Name]
			if !set {
				current = s.def
			}
			next[op.Name] = changeList(current, *op.Value, op.Op == kmsg.IncrementalAlterConfigOpAppend)
		default:
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("unknown operation %d", op.Op))
		}
	}
	return next, nil
}

// changeList adds the elements of a comma-separated list to another, each once,
// or takes them away.
func changeList(list, elements string, add bool) string {
	split := func(s string) []string {
		return slices.DeleteFunc(strings.Split(s, ","), func(e string) bool { return strings.TrimSpace(e) == "" })
	}
	out, change := split(list), split(elements)
	out = slices.DeleteFunc(out, func(e string) bool { return slices.Contains(change, e) })
	if add {
		out = append(out, change...)
	}
	return strings.Join(out, ",")
}
