package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
)

// A fence is a set of deny rules at the source: deny wins over whatever allows.
// Super users of the cluster are not subject to it; a runbook sees them by the
// log ends, which must stand still.

func (a *actions) PlanFence(ctx context.Context, name string, principals []string) ([]string, error) {
	t, err := a.target(name)
	if err != nil {
		return nil, err
	}
	var want []string
	for _, topic := range t.names() {
		for _, p := range principals {
			want = append(want, acl.Rule{
				ResourceType: acl.Topic, ResourceName: topic, PatternType: acl.Literal,
				Principal: p, Host: "*", Operation: acl.Write, Permission: acl.Deny,
			}.String())
		}
	}
	return a.missing(ctx, &t, want)
}

func (a *actions) MissingRules(ctx context.Context, name string, rules []string) ([]string, error) {
	t, err := a.target(name)
	if err != nil {
		return nil, err
	}
	return a.missing(ctx, &t, rules)
}

func (a *actions) missing(ctx context.Context, t *target, rules []string) ([]string, error) {
	have, err := describeACLs(ctx, t.source)
	if err != nil {
		return nil, fmt.Errorf("read ACLs of cluster %s: %w", t.flow.Spec.Source, err)
	}
	var missing []string
	for _, text := range rules {
		rule, err := acl.ParseRule(text)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(have, rule) {
			missing = append(missing, text)
		}
	}
	return missing, nil
}

func (a *actions) Fence(ctx context.Context, name string, rules []string) error {
	t, err := a.target(name)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrCreateACLsRequest()
	for _, text := range rules {
		rule, err := acl.ParseRule(text)
		if err != nil {
			return err
		}
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType = kmsg.ACLResourceType(rule.ResourceType), rule.ResourceName, kmsg.ACLResourcePatternType(rule.PatternType)
		c.Principal, c.Host, c.Operation, c.PermissionType = rule.Principal, rule.Host, kmsg.ACLOperation(rule.Operation), kmsg.ACLPermissionType(rule.Permission)
		req.Creations = append(req.Creations, c)
	}
	resp, err := req.RequestWith(ctx, t.source)
	if err != nil {
		return fmt.Errorf("fence at cluster %s: %w", t.flow.Spec.Source, err)
	}
	var errs []error
	for _, r := range resp.Results {
		errs = append(errs, kerr.ErrorForCode(r.ErrorCode))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("fence at cluster %s: %w", t.flow.Spec.Source, err)
	}
	return nil
}

func (a *actions) Unfence(ctx context.Context, name string, rules []string) error {
	t, err := a.target(name)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrDeleteACLsRequest()
	for _, text := range rules {
		rule, err := acl.ParseRule(text)
		if err != nil {
			return err
		}
		f := kmsg.NewDeleteACLsRequestFilter()
		f.ResourceType, f.ResourceName, f.ResourcePatternType = kmsg.ACLResourceType(rule.ResourceType), &rule.ResourceName, kmsg.ACLResourcePatternType(rule.PatternType)
		f.Principal, f.Host, f.Operation, f.PermissionType = &rule.Principal, &rule.Host, kmsg.ACLOperation(rule.Operation), kmsg.ACLPermissionType(rule.Permission)
		req.Filters = append(req.Filters, f)
	}
	resp, err := req.RequestWith(ctx, t.source)
	if err != nil {
		return fmt.Errorf("lift the fence at cluster %s: %w", t.flow.Spec.Source, err)
	}
	var errs []error
	for _, r := range resp.Results {
		errs = append(errs, kerr.ErrorForCode(r.ErrorCode))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lift the fence at cluster %s: %w", t.flow.Spec.Source, err)
	}
	return nil
}
