package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/broker/controller"
)

func securityAPIs() []api {
	return []api{
		{key: kmsg.SASLHandshake, min: 0, max: 1, handle: begins((*Broker).reauthHandshake)},
		{key: kmsg.SASLAuthenticate, min: 0, max: 2, handle: begins((*Broker).reauthenticate)},
		{key: kmsg.DescribeACLs, min: 1, max: 3, resource: acl.Cluster, op: acl.Describe, handle: answers((*Broker).describeACLs)},
		{key: kmsg.CreateACLs, min: 1, max: 3, resource: acl.Cluster, op: acl.Alter, handle: answers((*Broker).createACLs)},
		{key: kmsg.DeleteACLs, min: 1, max: 3, resource: acl.Cluster, op: acl.Alter, handle: answers((*Broker).deleteACLs)},
		{key: kmsg.DescribeUserSCRAMCredentials, min: 0, max: 0, resource: acl.Cluster, op: acl.Describe, handle: answers((*Broker).describeSCRAM)},
		{key: kmsg.AlterUserSCRAMCredentials, min: 0, max: 0, resource: acl.Cluster, op: acl.Alter, handle: answers((*Broker).alterSCRAM)},
	}
}

// aclState is why no rules can be listed or changed, if so.
func (b *Broker) aclState(r *request) error {
	switch {
	case !b.cfg.Authorizer:
		return refuse(kerr.SecurityDisabled, "the authorizer is off")
	case !r.may(acl.ClusterName):
		return kerr.ClusterAuthorizationFailed
	}
	return nil
}

// describeACLs answers DescribeAcls.
func (b *Broker) describeACLs(_ context.Context, r *request, q *kmsg.DescribeACLsRequest) *kmsg.DescribeACLsResponse {
	resp := q.ResponseKind().(*kmsg.DescribeACLsResponse)
	filter := acl.Filter{
		ResourceType: acl.ResourceType(q.ResourceType), ResourceName: q.ResourceName, PatternType: acl.PatternType(q.ResourcePatternType),
		Principal: q.Principal, Host: q.Host, Operation: acl.Operation(q.Operation), Permission: acl.Permission(q.PermissionType),
	}
	err := b.aclState(r)
	if err == nil {
		err = invalidACL(filter.Validate())
	}
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = b.code(err, "describe acls"), message(err)
		return resp
	}
	for _, rule := range b.acls().Matching(filter) { // sorted by resource
		if !r.spend(entryMemory) {
			break
		}
		last := len(resp.Resources) - 1
		if last < 0 || resp.Resources[last].ResourceType != kmsg.ACLResourceType(rule.ResourceType) ||
			resp.Resources[last].ResourceName != rule.ResourceName || resp.Resources[last].ResourcePatternType != kmsg.ACLResourcePatternType(rule.PatternType) {
			res := kmsg.NewDescribeACLsResponseResource()
			res.ResourceType, res.ResourceName, res.ResourcePatternType = kmsg.ACLResourceType(rule.ResourceType), rule.ResourceName, kmsg.ACLResourcePatternType(rule.PatternType)
			resp.Resources = append(resp.Resources, res)
			last++
		}
		entry := kmsg.NewDescribeACLsResponseResourceACL()
		entry.Principal, entry.Host = rule.Principal, rule.Host
		entry.Operation, entry.PermissionType = kmsg.ACLOperation(rule.Operation), kmsg.ACLPermissionType(rule.Permission)
		resp.Resources[last].ACLs = append(resp.Resources[last].ACLs, entry)
	}
	return resp
}

// invalidACL tells the client what is wrong with a rule or filter.
func invalidACL(err error) error {
	if err == nil {
		return nil
	}
	return refuse(kerr.InvalidRequest, err.Error())
}

// createACLs answers CreateAcls. All valid rules of a request become effective
// at once.
func (b *Broker) createACLs(_ context.Context, r *request, q *kmsg.CreateACLsRequest) *kmsg.CreateACLsResponse {
	resp := q.ResponseKind().(*kmsg.CreateACLsResponse)
	state := b.aclState(r)
	var records []controller.Record
	errs := make([]error, len(q.Creations))
	for i := range q.Creations {
		c := &q.Creations[i]
		rule := acl.Rule{
			ResourceType: acl.ResourceType(c.ResourceType), ResourceName: c.ResourceName, PatternType: acl.PatternType(c.ResourcePatternType),
			Principal: c.Principal, Host: c.Host, Operation: acl.Operation(c.Operation), Permission: acl.Permission(c.PermissionType),
		}
		if errs[i] = state; state != nil {
			continue
		}
		if errs[i] = invalidACL(rule.Validate()); errs[i] == nil {
			records = append(records, controller.Record{ACL: &rule})
		}
	}
	err := b.ctl.Update(func(*controller.Image) ([]controller.Record, error) { return records, nil })
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
		out := kmsg.NewCreateACLsResponseResult()
		out.ErrorCode, out.ErrorMessage = b.code(errs[i], "create acls"), message(errs[i])
		resp.Results = append(resp.Results, out)
	}
	return resp
}

// deleteACLs answers DeleteAcls: what each filter matched is deleted, all at
// once, and listed.
func (b *Broker) deleteACLs(_ context.Context, r *request, q *kmsg.DeleteACLsRequest) *kmsg.DeleteACLsResponse {
	resp := q.ResponseKind().(*kmsg.DeleteACLsResponse)
	state := b.aclState(r)
	errs := make([]error, len(q.Filters))
	filters := make([]acl.Filter, len(q.Filters))
	for i := range q.Filters {
		f := &q.Filters[i]
		filters[i] = acl.Filter{
			ResourceType: acl.ResourceType(f.ResourceType), ResourceName: f.ResourceName, PatternType: acl.PatternType(f.ResourcePatternType),
			Principal: f.Principal, Host: f.Host, Operation: acl.Operation(f.Operation), Permission: acl.Permission(f.PermissionType),
		}
		if errs[i] = state; state == nil {
			errs[i] = invalidACL(filters[i].Validate())
		}
	}
	matched := make([][]acl.Rule, len(filters))
	err := b.ctl.Update(func(image *controller.Image) ([]controller.Record, error) {
		var records []controller.Record
		for i, f := range filters {
			if errs[i] != nil {
				continue
			}
			for _, rule := range image.ACLs {
				if f.Matches(rule) {
					matched[i] = append(matched[i], rule)
					records = append(records, controller.Record{ACLDeleted: &rule})
				}
			}
		}
		return records, nil
	})
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
		out := kmsg.NewDeleteACLsResponseResult()
		out.ErrorCode, out.ErrorMessage = b.code(errs[i], "delete acls"), message(errs[i])
		if errs[i] == nil {
			for _, rule := range matched[i] {
				if !r.spend(entryMemory) {
					break
				}
				m := kmsg.NewDeleteACLsResponseResultMatchingACL()
				m.ResourceType, m.ResourceName, m.ResourcePatternType = kmsg.ACLResourceType(rule.ResourceType), rule.ResourceName, kmsg.ACLResourcePatternType(rule.PatternType)
				m.Principal, m.Host = rule.Principal, rule.Host
				m.Operation, m.PermissionType = kmsg.ACLOperation(rule.Operation), kmsg.ACLPermissionType(rule.Permission)
				out.MatchingACLs = append(out.MatchingACLs, m)
			}
		}
		resp.Results = append(resp.Results, out)
	}
	return resp
}

// mechanismOf is KIP-554's number for a mechanism, and back.
func mechanismOf(n int8) (auth.Mechanism, bool) {
	switch n {
	case 1:
		return auth.ScramSHA256, true
	case 2:
		return auth.ScramSHA512, true
	}
	return "", false
}

func mechanismNumber(m auth.Mechanism) int8 {
	if m == auth.ScramSHA256 {
		return 1
	}
	return 2
}

// describeSCRAM answers DescribeUserScramCredentials (KIP-554): mechanisms and
// iterations, never keys.
func (b *Broker) describeSCRAM(_ context.Context, r *request, q *kmsg.DescribeUserSCRAMCredentialsRequest) *kmsg.DescribeUserSCRAMCredentialsResponse {
	resp := q.ResponseKind().(*kmsg.DescribeUserSCRAMCredentialsResponse)
	if !r.may(acl.ClusterName) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp
	}
	infos := map[string][]kmsg.DescribeUserSCRAMCredentialsResponseResultCredentialInfo{}
	for key, c := range b.ctl.Image().Users {
		infos[key.Name] = append(infos[key.Name], kmsg.DescribeUserSCRAMCredentialsResponseResultCredentialInfo{Mechanism: mechanismNumber(key.Mechanism), Iterations: int32(c.Iterations)})
	}
	var names []string
	if len(q.Users) == 0 {
		names = slices.Sorted(maps.Keys(infos))
	}
	count := map[string]int{}
	for _, u := range q.Users {
		if count[u.Name]++; count[u.Name] == 1 {
			names = append(names, u.Name)
		}
	}
	for _, name := range names {
		if !r.spend(entryMemory) {
			break
		}
		out := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
		out.User = name
		switch creds := infos[name]; {
		case count[name] > 1:
			out.ErrorCode, out.ErrorMessage = kerr.DuplicateResource.Code, kmsg.StringPtr("user is named twice")
		case len(creds) == 0:
			out.ErrorCode, out.ErrorMessage = kerr.ResourceNotFound.Code, kmsg.StringPtr("user has no credentials")
		default:
			slices.SortStableFunc(creds, func(a, b kmsg.DescribeUserSCRAMCredentialsResponseResultCredentialInfo) int {
				return int(a.Mechanism) - int(b.Mechanism)
			})
			out.CredentialInfos = creds
		}
		resp.Results = append(resp.Results, out)
	}
	return resp
}

// alterSCRAM answers AlterUserScramCredentials (KIP-554). A user that is named
// twice for a mechanism, or with anything invalid, is not changed at all.
func (b *Broker) alterSCRAM(_ context.Context, r *request, q *kmsg.AlterUserSCRAMCredentialsRequest) *kmsg.AlterUserSCRAMCredentialsResponse {
	resp := q.ResponseKind().(*kmsg.AlterUserSCRAMCredentialsResponse)
	plan, err := &scramPlan{names: scramUsers(q)}, error(kerr.ClusterAuthorizationFailed)
	if r.may(acl.ClusterName) {
		plan = newScramPlan(q)
		err = b.ctl.Update(func(image *controller.Image) ([]controller.Record, error) { return plan.records(image), nil })
	}
	for _, name := range plan.names {
		out := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
		out.User = name
		failed := plan.errs[name]
		if failed == nil {
			failed = err
		}
		out.ErrorCode, out.ErrorMessage = b.code(failed, "alter scram credentials", "user", name), message(failed)
		resp.Results = append(resp.Results, out)
	}
	return resp
}

// scramPlan is what an AlterUserScramCredentials asks for, by user.
type scramPlan struct {
	names     []string // in the order of the request
	errs      map[string]error
	upserts   []controller.User
	deletions []controller.UserKey
}

// scramUsers are the users that a request names, each once.
func scramUsers(q *kmsg.AlterUserSCRAMCredentialsRequest) []string {
	var names []string
	for _, d := range q.Deletions {
		names = append(names, d.Name)
	}
	for _, u := range q.Upsertions {
		names = append(names, u.Name)
	}
	return once(names)
}

func newScramPlan(q *kmsg.AlterUserSCRAMCredentialsRequest) *scramPlan {
	p := &scramPlan{names: scramUsers(q), errs: map[string]error{}}
	seen := map[controller.UserKey]bool{}
	note := func(name string, number int8) (auth.Mechanism, bool) {
		m, known := mechanismOf(number)
		key := controller.UserKey{Name: name, Mechanism: m}
		switch {
		case name == "":
			p.errs[name] = refuse(kerr.UnacceptableCredential, "user name is empty")
		case !known:
			p.errs[name] = refuse(kerr.UnsupportedSaslMechanism, fmt.Sprintf("unknown mechanism %d", number))
		case seen[key]:
			p.errs[name] = refuse(kerr.DuplicateResource, "user is named twice")
		}
		seen[key] = true
		return m, known
	}
	for _, d := range q.Deletions {
		m, _ := note(d.Name, d.Mechanism)
		p.deletions = append(p.deletions, controller.UserKey{Name: d.Name, Mechanism: m})
	}
	for _, u := range q.Upsertions {
		m, known := note(u.Name, u.Mechanism)
		if !known {
			continue
		}
		c, err := auth.FromSaltedPassword(m, slices.Clone(u.Salt), u.SaltedPassword, int(u.Iterations))
		if err != nil {
			p.errs[u.Name] = refuse(kerr.UnacceptableCredential, err.Error())
			continue
		}
		p.upserts = append(p.upserts, controller.User{Name: u.Name, Mechanism: m, Credential: c})
	}
	return p
}

// records is what to write; users with an error are left out.
func (p *scramPlan) records(image *controller.Image) []controller.Record {
	var out []controller.Record
	for i := range p.deletions {
		d := &p.deletions[i]
		if _, exists := image.Users[*d]; !exists && p.errs[d.Name] == nil {
			p.errs[d.Name] = refuse(kerr.ResourceNotFound, "user has no such credential")
		}
	}
	for i := range p.deletions {
		if d := &p.deletions[i]; p.errs[d.Name] == nil {
			out = append(out, controller.Record{UserDeleted: d})
		}
	}
	for i := range p.upserts {
		if u := &p.upserts[i]; p.errs[u.Name] == nil {
			out = append(out, controller.Record{User: u})
		}
	}
	return out
}
