package broker

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/controller"
)

// groupSettings are the configurations of groups, by name. There are none yet:
// groups go by the broker's settings.
var groupSettings = map[string]setting{}

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
	var out []kmsg.DescribeConfigsResponseResourceConfig
	for _, name := range slices.Sorted(maps.Keys(groupSettings)) {
		s := groupSettings[name]
		layers := []layer{{kmsg.ConfigSourceDefaultConfig, s.def}}
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
		if validateOnly {
			return nil, nil
		}
		return []controller.Record{{Config: &controller.ConfigRecord{ConfigKey: groupConfigKey(group), Configs: next}}}, nil
	})
}
