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

// feature is something that all clients of a cluster do or do not do (KIP-584).
// Its finalized level is the cluster's and changes while it runs; 0 is off.
type feature struct {
	name     string
	min, max int16
	// level is that of a cluster where it was never set.
	level int16
}

// features are what there is, by name. Levels mean what they mean in Kafka:
//
//   - group.version 1: the rebalance protocol of KIP-848. It is always there.
//   - transaction.version 2: clients use the second transaction protocol
//     (KIP-890). Below it they do not; 0 and 1 are the same here. The broker goes
//     by the versions of requests, so clients that have not noticed yet go on.
var features = []feature{
	{name: "group.version", min: 1, max: 1, level: 1},
	{name: "transaction.version", min: 0, max: 2, level: 2},
}

// finalized is the level of a feature in a cluster.
func (f *feature) finalized(image *controller.Image) int16 {
	if level, set := image.Features[f.name]; set {
		return min(level, f.max)
	}
	return f.level
}

// describeFeatures fills in the features of an ApiVersions answer. Clients of
// versions before 4 cannot read a range that begins at 0 (KAFKA-17011).
func describeFeatures(image *controller.Image, resp *kmsg.ApiVersionsResponse) {
	resp.FinalizedFeaturesEpoch = image.FeaturesEpoch
	for i := range features {
		f := &features[i]
		if f.min > 0 || resp.Version >= 4 {
			s := kmsg.NewApiVersionsResponseSupportedFeature()
			s.Name, s.MinVersion, s.MaxVersion = f.name, f.min, f.max
			resp.SupportedFeatures = append(resp.SupportedFeatures, s)
		}
		if level := f.finalized(image); level > 0 {
			s := kmsg.NewApiVersionsResponseFinalizedFeature()
			s.Name, s.MinVersionLevel, s.MaxVersionLevel = f.name, level, level
			resp.FinalizedFeatures = append(resp.FinalizedFeatures, s)
		}
	}
}

// Upgrade types of UpdateFeatures.
const (
	upgrade         = 1
	unsafeDowngrade = 3
)

// updateFeatures answers UpdateFeatures (KIP-584, KIP-778): Alter on the cluster.
// All of a request or nothing. v1 can only validate and says which way it means
// to go; v2 has no answer by feature (KIP-1022).
func (b *Broker) updateFeatures(_ context.Context, r *request, q *kmsg.UpdateFeaturesRequest) *kmsg.UpdateFeaturesResponse {
	resp := q.ResponseKind().(*kmsg.UpdateFeaturesResponse)
	if !r.may(acl.ClusterName) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp
	}
	var failed error
	results := make([]error, len(q.FeatureUpdates))
	err := b.ctl.Update(func(image *controller.Image) ([]controller.Record, error) {
		levels := maps.Clone(image.Features)
		if levels == nil {
			levels = map[string]int16{}
		}
		for i, u := range q.FeatureUpdates {
			twice := slices.ContainsFunc(q.FeatureUpdates[:i], func(o kmsg.UpdateFeaturesRequestFeatureUpdate) bool { return o.Feature == u.Feature })
			results[i] = checkFeatureUpdate(image, q.Version, u, twice)
			if failed == nil {
				failed = results[i]
			}
			levels[u.Feature] = u.MaxVersionLevel
		}
		if failed != nil || q.ValidateOnly || len(q.FeatureUpdates) == 0 {
			return nil, nil
		}
		return []controller.Record{{Features: &controller.Features{Epoch: image.FeaturesEpoch + 1, Levels: levels}}}, nil
	})
	if err == nil && q.Version >= 2 {
		err = failed
	}
	resp.ErrorCode, resp.ErrorMessage = b.code(err, "update features"), message(err)
	for i, u := range q.FeatureUpdates {
		out := kmsg.NewUpdateFeaturesResponseResult()
		out.Feature, out.ErrorCode, out.ErrorMessage = u.Feature, b.code(results[i], "update feature"), message(results[i])
		resp.Results = append(resp.Results, out)
	}
	if err == nil && failed == nil && !q.ValidateOnly {
		for _, u := range q.FeatureUpdates {
			b.log.Info("feature level set", "feature", u.Feature, "level", u.MaxVersionLevel, "principal", r.client.Principal)
		}
	}
	return resp
}

func checkFeatureUpdate(image *controller.Image, version int16, u kmsg.UpdateFeaturesRequestFeatureUpdate, twice bool) error {
	kind := u.UpgradeType
	if version == 0 {
		if kind = upgrade; u.AllowDowngrade {
			kind = unsafeDowngrade
		}
	}
	refused := func(why string) error {
		return refuse(kerr.InvalidUpdateVersion, fmt.Sprintf("Invalid update version %d for feature %s. %s", u.MaxVersionLevel, u.Feature, why))
	}
	at, known := slices.BinarySearchFunc(features, u.Feature, func(f feature, name string) int { return strings.Compare(f.name, name) })
	if !known {
		return refused("The cluster does not support this feature.")
	}
	f := &features[at]
	now := f.finalized(image)
	switch {
	case twice:
		return refuse(kerr.InvalidRequest, fmt.Sprintf("feature %s is named twice", u.Feature))
	case kind < upgrade || kind > unsafeDowngrade:
		return refused("The upgrade type is not known.")
	case u.MaxVersionLevel < f.min || u.MaxVersionLevel > f.max:
		return refused(fmt.Sprintf("Levels are %d to %d.", f.min, f.max))
	case u.MaxVersionLevel < now && kind == upgrade:
		return refused("Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe downgrade.")
	case u.MaxVersionLevel > now && kind != upgrade:
		return refused("Can't downgrade to a newer version.")
	}
	return nil
}
