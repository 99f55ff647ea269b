package broker

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/controller"
)

// The configurations of groups. They count for groups of the consumer protocol.
const (
	groupHeartbeatInterval = "consumer.heartbeat.interval.ms"
	groupSessionTimeout    = "consumer.session.timeout.ms"
)

// groupSettings are the configurations of groups, by name. What is not set is as
// the broker has it.
var groupSettings = map[string]setting{
	groupHeartbeatInterval: {name: groupHeartbeatInterval, kind: kmsg.ConfigTypeInt, check: between(1, math.MaxInt32), doc: "How often members beat."},
	groupSessionTimeout:    {name: groupSessionTimeout, kind: kmsg.ConfigTypeInt, check: between(1, math.MaxInt32), doc: "After what silence a member is taken out."},
}

// groupTimeouts are the session timeout and the heartbeat interval of a group
// with these configs.
func (b *Broker) groupTimeouts(configs map[string]string) (session, heartbeat time.Duration) {
	of := func(name string, def time.Duration) time.Duration {
		if n, err := strconv.ParseInt(configs[name], 10, 32); err == nil {
			return time.Duration(n) * time.Millisecond
		}
		return def
	}
	return of(groupSessionTimeout, b.cfg.GroupConsumerSessionTimeout), of(groupHeartbeatInterval, b.cfg.GroupConsumerHeartbeatInterval)
}

// timeoutsOf are those of a group by name, as they are now.
func (b *Broker) timeoutsOf(group string) (session, heartbeat time.Duration) {
	return b.groupTimeouts(b.ctl.Image().Configs[groupConfigKey(group)])
}

func groupSetting(name string) (setting, bool) {
	s, ok := groupSettings[name]
	return s, ok
}

func groupConfigKey(group string) controller.ConfigKey {
	return controller.ConfigKey{Kind: "group", Name: group}
}

// groupsWithConfigs are the groups that have configs of their own.
func (b *Broker) groupsWithConfigs() []string {
	names := []string{}
	for k := range b.ctl.Image().Configs {
		if k.Kind == groupConfigKey("").Kind {
			names = append(names, k.Name)
		}
	}
	slices.Sort(names)
	return names
}

// describeGroupConfigs lists every setting with its value for a group, which need
// not exist.
func (b *Broker) describeGroupConfigs(group string) []kmsg.DescribeConfigsResponseResourceConfig {
	set := b.ctl.Image().Configs[groupConfigKey(group)]
	session, heartbeat := b.groupTimeouts(nil)
	defaults := map[string]time.Duration{groupSessionTimeout: session, groupHeartbeatInterval: heartbeat}
	var out []kmsg.DescribeConfigsResponseResourceConfig
	for _, name := range slices.Sorted(maps.Keys(groupSettings)) {
		s := groupSettings[name]
		layers := []layer{{kmsg.ConfigSourceDefaultConfig, strconv.FormatInt(defaults[name].Milliseconds(), 10)}}
		if v, own := set[name]; own {
			layers = append([]layer{{kmsg.ConfigSourceGroupConfig, v}}, layers...)
		}
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.ConfigType, c.Documentation = name, s.kind, &s.doc
		c.Value, c.Source = &layers[0].value, layers[0].source
		c.IsDefault, c.ConfigSynonyms = len(layers) == 1, synonyms(name, layers)
		out = append(out, c)
	}
	return out
}

// alterGroupConfigs checks and stores what change makes of a group's configs.
func (b *Broker) alterGroupConfigs(group string, validateOnly bool, change configChange) error {
	if group == "" {
		return refuse(kerr.InvalidRequest, "a group has a name")
	}
	return b.ctl.Update(func(image *controller.Image) ([]controller.Record, error) {
		next, err := change(groupSetting, image.Configs[groupConfigKey(group)])
		if err != nil {
			return nil, err
		}
		for name, v := range next {
			s, ok := groupSetting(name)
			if !ok {
				return nil, refuse(kerr.InvalidConfig, "unknown group config "+name)
			}
			if err := s.check(v); err != nil {
				return nil, refuse(kerr.InvalidConfig, "group config "+name+": "+err.Error())
			}
		}
		if session, heartbeat := b.groupTimeouts(next); heartbeat >= session {
			return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("members that beat every %s have no session of %s: the first must be less", heartbeat, session))
		}
		if validateOnly {
			return nil, nil
		}
		return []controller.Record{{Config: &controller.ConfigRecord{ConfigKey: groupConfigKey(group), Configs: next}}}, nil
	})
}
