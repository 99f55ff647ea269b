package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/controller"
)

func quotaAPIs() []api {
	return []api{
		{key: kmsg.DescribeClientQuotas, min: 0, max: 1, resource: acl.Cluster, op: acl.DescribeConfigs, handle: answers((*Broker).describeClientQuotas)},
		{key: kmsg.AlterClientQuotas, min: 0, max: 1, resource: acl.Cluster, op: acl.AlterConfigs, handle: answers((*Broker).alterClientQuotas)},
	}
}

// The types of a quota's entity, by Kafka's names.
const (
	quotaUser     = "user"
	quotaClientID = "client-id"
	quotaIP       = "ip"
)

// quotaLimits are the limits that users and client ids, and addresses, can have,
// and whether they are whole numbers.
var (
	clientLimits = map[string]bool{producerByteRate: true, consumerByteRate: true, requestPercentage: false, controllerMutationRate: false}
	ipLimits     = map[string]bool{connectionCreationRate: true}
)

// entityPart is the part of an entity of a type, nil for unknown types.
func entityPart(e *controller.QuotaEntity, kind string) *controller.QuotaName {
	switch kind {
	case quotaUser:
		return &e.User
	case quotaClientID:
		return &e.ClientID
	case quotaIP:
		return &e.IP
	}
	return nil
}

// describeClientQuotas answers DescribeClientQuotas (KIP-546): the entities that
// all components of the filter fit and, if it is strict, that have no other part.
// v1 is flexible.
func (b *Broker) describeClientQuotas(_ context.Context, r *request, q *kmsg.DescribeClientQuotasRequest) *kmsg.DescribeClientQuotasResponse {
	resp := q.ResponseKind().(*kmsg.DescribeClientQuotasResponse)
	fits, err := quotaFilter(q)
	if !r.may(acl.ClusterName) {
		err = kerr.ClusterAuthorizationFailed
	}
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = b.code(err, "describe quotas"), message(err)
		return resp
	}
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{}
	for entity, limits := range b.ctl.Image().Quotas {
		if !fits(entity) {
			continue
		}
		if !r.spend(2 * entryMemory) {
			break
		}
		out := kmsg.NewDescribeClientQuotasResponseEntry()
		for _, kind := range []string{quotaUser, quotaClientID, quotaIP} {
			if part := *entityPart(&entity, kind); part.Part {
				e := kmsg.NewDescribeClientQuotasResponseEntryEntity()
				e.Type = kind
				if !part.Default {
					e.Name = &part.Name
				}
				out.Entity = append(out.Entity, e)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(limits)) {
			v := kmsg.NewDescribeClientQuotasResponseEntryValue()
			v.Key, v.Value = name, limits[name]
			out.Values = append(out.Values, v)
		}
		resp.Entries = append(resp.Entries, out)
	}
	return resp
}

// quotaFilter makes a predicate of a request's filter.
func quotaFilter(q *kmsg.DescribeClientQuotasRequest) (func(controller.QuotaEntity) bool, error) {
	seen := map[string]bool{}
	var tests []func(controller.QuotaEntity) bool
	for _, c := range q.Components {
		kind := c.EntityType
		switch {
		case kind == "":
			return nil, refuse(kerr.InvalidRequest, "empty entity type")
		case entityPart(&controller.QuotaEntity{}, kind) == nil:
			return nil, refuse(kerr.UnsupportedVersion, fmt.Sprintf("custom entity type %q", kind))
		case seen[kind]:
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("duplicate entity type %q", kind))
		case (c.Match != nil) != (c.MatchType == kmsg.QuotasMatchTypeExact):
			return nil, refuse(kerr.InvalidRequest, "a name goes with an exact match, and with no other")
		}
		seen[kind] = true
		var fits func(controller.QuotaName) bool
		switch c.MatchType {
		case kmsg.QuotasMatchTypeExact:
			fits = func(n controller.QuotaName) bool { return n == controller.QuotaFor(*c.Match) }
		case kmsg.QuotasMatchTypeDefault:
			fits = func(n controller.QuotaName) bool { return n == controller.QuotaDefault }
		case kmsg.QuotasMatchTypeAny:
			fits = func(n controller.QuotaName) bool { return n.Part }
		default:
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("match type %d", c.MatchType))
		}
		tests = append(tests, func(e controller.QuotaEntity) bool { return fits(*entityPart(&e, kind)) })
	}
	if seen[quotaIP] && len(seen) > 1 {
		return nil, refuse(kerr.InvalidRequest, "ip goes with neither user nor client-id")
	}
	return func(e controller.QuotaEntity) bool {
		parts := 0
		for _, n := range []controller.QuotaName{e.User, e.ClientID, e.IP} {
			if n.Part {
				parts++
			}
		}
		if q.Strict && parts != len(tests) {
			return false
		}
		for _, fits := range tests {
			if !fits(e) {
				return false
			}
		}
		return true
	}, nil
}

// alterClientQuotas answers AlterClientQuotas (KIP-546): each entry is changed or
// refused as a whole. v1 is flexible.
func (b *Broker) alterClientQuotas(_ context.Context, r *request, q *kmsg.AlterClientQuotasRequest) *kmsg.AlterClientQuotasResponse {
	resp := q.ResponseKind().(*kmsg.AlterClientQuotasResponse)
	seen := map[controller.QuotaEntity]bool{}
	for _, entry := range q.Entries {
		out := kmsg.NewAlterClientQuotasResponseEntry()
		for _, e := range entry.Entity {
			named := kmsg.NewAlterClientQuotasResponseEntryEntity()
			named.Type, named.Name = e.Type, e.Name
			out.Entity = append(out.Entity, named)
		}
		var err error = kerr.ClusterAuthorizationFailed
		if r.may(acl.ClusterName) {
			err = b.alterQuota(entry, seen, q.ValidateOnly)
		}
		if err != nil {
			out.ErrorCode, out.ErrorMessage = b.code(err, "alter quota"), message(err)
		}
		resp.Entries = append(resp.Entries, out)
	}
	return resp
}

func (b *Broker) alterQuota(entry kmsg.AlterClientQuotasRequestEntry, seen map[controller.QuotaEntity]bool, validateOnly bool) error {
	entity, err := quotaEntity(entry.Entity)
	if err != nil {
		return err
	}
	if seen[entity] {
		return refuse(kerr.InvalidRequest, "the entity is named twice")
	}
	seen[entity] = true
	if err := checkQuotaOps(entity, entry.Ops); err != nil {
		return err
	}
	if validateOnly {
		return nil
	}
	return b.ctl.Update(func(i *controller.Image) ([]controller.Record, error) {
		limits := maps.Clone(i.Quotas[entity])
		if limits == nil {
			limits = map[string]float64{}
		}
		for _, op := range entry.Ops {
			if op.Remove {
				delete(limits, op.Key)
				continue
			}
			limits[op.Key] = op.Value
		}
		if maps.Equal(limits, i.Quotas[entity]) {
			return nil, nil
		}
		return []controller.Record{{Quota: &controller.Quota{Entity: entity, Limits: limits}}}, nil
	})
}

// quotaEntity reads who a quota is for.
func quotaEntity(parts []kmsg.AlterClientQuotasRequestEntryEntity) (e controller.QuotaEntity, err error) {
	for _, p := range parts {
		part := entityPart(&e, p.Type)
		switch {
		case part == nil:
			return e, refuse(kerr.InvalidRequest, fmt.Sprintf("unknown entity type %q", p.Type))
		case part.Part:
			return e, refuse(kerr.InvalidRequest, fmt.Sprintf("entity type %q is there twice", p.Type))
		case p.Name != nil && *p.Name == "":
			return e, refuse(kerr.InvalidRequest, "empty entity name")
		case p.Name == nil:
			*part = controller.QuotaDefault
		default:
			*part = controller.QuotaFor(*p.Name)
		}
	}
	switch {
	case e == controller.QuotaEntity{}:
		return e, refuse(kerr.InvalidRequest, "empty entity")
	case e.IP.Part && (e.User.Part || e.ClientID.Part):
		return e, refuse(kerr.InvalidRequest, "ip goes with neither user nor client-id")
	case e.IP.Part && !e.IP.Default:
		ip := net.ParseIP(e.IP.Name)
		if ip == nil {
			return e, refuse(kerr.InvalidRequest, fmt.Sprintf("%s is not an IP address", e.IP.Name))
		}
		e.IP.Name = ip.String() // the form of a connection's address
	}
	return e, nil
}

func checkQuotaOps(e controller.QuotaEntity, ops []kmsg.AlterClientQuotasRequestEntryOp) error {
	known := clientLimits
	if e.IP.Part {
		known = ipLimits
	}
	var errs []error
	for _, op := range ops {
		whole, ok := known[op.Key]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("unknown quota %q", op.Key))
		case op.Remove:
		case !(op.Value > 0) || math.IsInf(op.Value, 1):
			errs = append(errs, fmt.Errorf("quota %s must be greater than 0", op.Key))
		case whole && op.Value != math.Trunc(op.Value):
			errs = append(errs, fmt.Errorf("quota %s must be a whole number", op.Key))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return refuse(kerr.InvalidRequest, err.Error())
	}
	return nil
}
