package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
// settings.go) and for this broker. v1 tells sources and synonyms (KIP-226), v3
// types and documentation (KIP-569).
func (b *Broker) describeConfigs(_ context.Context, r *request, q *kmsg.DescribeConfigsRequest) *kmsg.DescribeConfigsResponse {
	resp := q.ResponseKind().(*kmsg.DescribeConfigsResponse)
	for i := range q.Resources {
		want := &q.Resources[i]
		out := kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = want.ResourceType, want.ResourceName
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

func (b *Broker) configsOf(r *request, want *kmsg.DescribeConfigsRequestResource) ([]kmsg.DescribeConfigsResponseResourceConfig, error) {
	switch want.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		if !r.allowed(acl.DescribeConfigs, acl.Topic, want.ResourceName) {
			return nil, kerr.TopicAuthorizationFailed
		}
		t := b.topic(want.ResourceName)
		if t == nil {
			return nil, kerr.UnknownTopicOrPartition
		}
		return describeTopicConfigs(t.Configs), nil
	case kmsg.ConfigResourceTypeBroker:
		if !r.allowed(acl.DescribeConfigs, acl.Cluster, acl.ClusterName) {
			return nil, kerr.ClusterAuthorizationFailed
		}
		if want.ResourceName == "" { // cluster-wide dynamic defaults: there are none
			return nil, nil
		}
		if want.ResourceName != strconv.Itoa(int(b.cfg.NodeID)) {
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("broker %d is the only one", b.cfg.NodeID))
		}
		return b.describeBrokerConfigs(), nil
	}
	return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("resources of type %s have no configs here", want.ResourceType))
}

// describeTopicConfigs lists every setting with its value for a topic.
func describeTopicConfigs(configs map[string]string) []kmsg.DescribeConfigsResponseResourceConfig {
	out := make([]kmsg.DescribeConfigsResponseResourceConfig, 0, len(topicSettings))
	for i := range topicSettings {
		s := &topicSettings[i]
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.ConfigType, c.Documentation = s.name, s.kind, &s.doc
		c.Value, c.Source, c.IsDefault = &s.def, kmsg.ConfigSourceDefaultConfig, true
		if v, set := configs[s.name]; set {
			c.Value, c.Source, c.IsDefault = &v, kmsg.ConfigSourceDynamicTopicConfig, false
			c.ConfigSynonyms = append(c.ConfigSynonyms, kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{Name: s.name, Value: &v, Source: c.Source})
		}
		c.ConfigSynonyms = append(c.ConfigSynonyms, kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{Name: s.name, Value: &s.def, Source: kmsg.ConfigSourceDefaultConfig})
		out = append(out, c)
	}
	return out
}

func (b *Broker) describeBrokerConfigs() []kmsg.DescribeConfigsResponseResourceConfig {
	settings := b.brokerSettings()
	out := make([]kmsg.DescribeConfigsResponseResourceConfig, 0, len(settings))
	for i := range settings {
		s := &settings[i]
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.ConfigType, c.Documentation = s.name, s.kind, &s.doc
		c.Value, c.Source, c.ReadOnly = &s.def, kmsg.ConfigSourceStaticBrokerConfig, true
		out = append(out, c)
	}
	return out
}

// alterConfigs answers AlterConfigs: it replaces the whole configuration of a
// topic. Clients since KIP-339 use the incremental form.
func (b *Broker) alterConfigs(_ context.Context, r *request, q *kmsg.AlterConfigsRequest) *kmsg.AlterConfigsResponse {
	resp := q.ResponseKind().(*kmsg.AlterConfigsResponse)
	for i := range q.Resources {
		want := &q.Resources[i]
		out := kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = want.ResourceType, want.ResourceName
		err := b.alterTopicConfigs(r, want.ResourceType, want.ResourceName, q.ValidateOnly, func(map[string]string) (map[string]string, error) {
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
		err := b.alterTopicConfigs(r, want.ResourceType, want.ResourceName, q.ValidateOnly, func(have map[string]string) (map[string]string, error) {
			return applyConfigOps(have, want.Configs)
		})
		out.ErrorCode, out.ErrorMessage = b.code(err, "alter configs", "resource", want.ResourceName), message(err)
		resp.Resources = append(resp.Resources, out)
	}
	return resp
}

// alterTopicConfigs checks and stores what change makes of a topic's configs.
func (b *Broker) alterTopicConfigs(r *request, kind kmsg.ConfigResourceType, name string, validateOnly bool, change func(map[string]string) (map[string]string, error)) error {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
	case kmsg.ConfigResourceTypeBroker:
		if !r.allowed(acl.AlterConfigs, acl.Cluster, acl.ClusterName) {
			return kerr.ClusterAuthorizationFailed
		}
		return refuse(kerr.InvalidRequest, "the process configuration sets the broker's settings: none can be changed here")
	default:
		return refuse(kerr.InvalidRequest, fmt.Sprintf("resources of type %s have no configs here", kind))
	}
	switch {
	case !r.allowed(acl.AlterConfigs, acl.Topic, name):
		return kerr.TopicAuthorizationFailed
	case b.topic(name) == nil:
		return kerr.UnknownTopicOrPartition
	case b.isOwn(name):
		return refuse(kerr.InvalidTopicException, fmt.Sprintf("%s is the broker's own", name))
	}
	alter := func(t controller.Topic) (controller.Topic, error) {
		next, err := change(t.Configs)
		if err != nil {
			return t, err
		}
		if err := checkTopicConfigs(next); err != nil {
			return t, refuse(kerr.InvalidConfig, err.Error())
		}
		t.Configs = next
		return t, nil
	}
	if validateOnly {
		_, err := alter(*b.topic(name).Topic)
		return err
	}
	return b.changeTopic(name, alter)
}

// applyConfigOps returns a changed copy of configs.
func applyConfigOps(have map[string]string, ops []kmsg.IncrementalAlterConfigsRequestResourceConfig) (map[string]string, error) {
	next := maps.Clone(have)
	if next == nil {
		next = map[string]string{}
	}
	seen := map[string]bool{}
	for _, op := range ops {
		s, known := topicSetting(op.Name)
		switch {
		case !known:
			return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("unknown topic config %q", op.Name))
		case seen[op.Name]:
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("topic config %q is named twice", op.Name))
		case op.Value == nil && op.Op != kmsg.IncrementalAlterConfigOpDelete:
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("topic config %q has no value", op.Name))
		}
		seen[op.Name] = true
		switch op.Op {
		case kmsg.IncrementalAlterConfigOpSet:
			next[op.Name] = *op.Value
		case kmsg.IncrementalAlterConfigOpDelete:
			delete(next, op.Name)
		case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
			if s.kind != kmsg.ConfigTypeList {
				return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("topic config %q is not a list", op.Name))
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
