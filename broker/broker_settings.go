package broker

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/controller"
)

// topicDefaults are, by topic setting, the broker settings that topics without
// their own value go by.
var topicDefaults = map[string]string{
	"cleanup.policy":                  "log.cleanup.policy",
	"compression.gzip.level":          "compression.gzip.level",
	"compression.lz4.level":           "compression.lz4.level",
	"compression.type":                "compression.type",
	"compression.zstd.level":          "compression.zstd.level",
	"delete.retention.ms":             "log.cleaner.delete.retention.ms",
	"file.delete.delay.ms":            "log.segment.delete.delay.ms",
	"flush.messages":                  "log.flush.interval.messages",
	"flush.ms":                        "log.flush.interval.ms",
	"index.interval.bytes":            "log.index.interval.bytes",
	"local.retention.bytes":           "log.local.retention.bytes",
	"local.retention.ms":              "log.local.retention.ms",
	"max.compaction.lag.ms":           "log.cleaner.max.compaction.lag.ms",
	"max.message.bytes":               "message.max.bytes",
	"message.timestamp.after.max.ms":  "log.message.timestamp.after.max.ms",
	"message.timestamp.before.max.ms": "log.message.timestamp.before.max.ms",
	"message.timestamp.type":          "log.message.timestamp.type",
	"min.cleanable.dirty.ratio":       "log.cleaner.min.cleanable.ratio",
	"min.compaction.lag.ms":           "log.cleaner.min.compaction.lag.ms",
	"min.insync.replicas":             "min.insync.replicas",
	"preallocate":                     "log.preallocate",
	"retention.bytes":                 "log.retention.bytes",
	"retention.ms":                    "log.retention.ms",
	"segment.bytes":                   "log.segment.bytes",
	"segment.index.bytes":             "log.index.size.max.bytes",
	"segment.jitter.ms":               "log.roll.jitter.ms",
	"segment.ms":                      "log.roll.ms",
	"unclean.leader.election.enable":  "unclean.leader.election.enable",
}

// dynamicSettings are the broker settings that may be changed while it runs, for
// all brokers or for one (KIP-226), by name.
var dynamicSettings = func() map[string]setting {
	out := map[string]setting{
		"auto.create.topics.enable": {kind: kmsg.ConfigTypeBoolean, check: oneOf("true", "false")},
		"num.partitions":            {kind: kmsg.ConfigTypeInt, check: between(1, MaxTopicPartitions)},
	}
	// What tools set while they move replicas, and take away afterwards.
	for _, name := range []string{"follower.replication.throttled.rate", "leader.replication.throttled.rate", "replica.alter.log.dirs.io.max.bytes.per.second"} {
		out[name] = setting{kind: kmsg.ConfigTypeLong, def: maxInt64, check: between(0, math.MaxInt64), doc: "Bytes in a second while replicas move. There is one replica, in one log directory, which never moves."}
	}
	for _, s := range topicSettings {
		if name := topicDefaults[s.name]; name != "" {
			s.doc = fmt.Sprintf("%s of topics that do not set it. %s", s.name, s.doc)
			out[name] = s
		}
	}
	for name, s := range out {
		s.name = name
		out[name] = s
	}
	return out
}()

func dynamicSetting(name string) (setting, bool) {
	s, ok := dynamicSettings[name]
	return s, ok
}

// layer is the value of a broker setting at one place. The first counts.
type layer struct {
	source kmsg.ConfigSource
	value  string
}

// configLayers are the values of a broker setting that were set while it runs.
func (b *Broker) configLayers(image *controller.Image, name string) []layer {
	var out []layer
	for _, l := range []struct {
		source kmsg.ConfigSource
		name   string
	}{
		{kmsg.ConfigSourceDynamicBrokerConfig, b.nodeName()},
		{kmsg.ConfigSourceDynamicDefaultBrokerConfig, ""},
	} {
		if v, set := image.Configs[brokerConfigKey(l.name)][name]; set {
			out = append(out, layer{l.source, v})
		}
	}
	return out
}

func (b *Broker) nodeName() string { return strconv.Itoa(int(b.cfg.NodeID)) }

func brokerConfigKey(name string) controller.ConfigKey {
	return controller.ConfigKey{Kind: "broker", Name: name}
}

// liveSettings are the broker settings that requests go by. It is immutable.
type liveSettings struct {
	autoCreate bool
	partitions int32
	// topics are the defaults of topic settings that are not the program's.
	topics map[string]string
}

// settingsOf works out the settings from the process configuration and what was
// set since.
func (b *Broker) settingsOf(image *controller.Image) *liveSettings {
	value := func(name, otherwise string) string {
		for _, l := range b.configLayers(image, name) {
			if dynamicSettings[name].check(l.value) == nil { // a version with other rules may have stored it
				return l.value
			}
		}
		return otherwise
	}
	s := &liveSettings{topics: map[string]string{}}
	s.autoCreate = value("auto.create.topics.enable", strconv.FormatBool(b.cfg.AutoCreateTopics)) == "true"
	s.partitions = b.cfg.DefaultPartitions
	if n, err := strconv.ParseInt(value("num.partitions", ""), 10, 32); err == nil {
		s.partitions = int32(n)
	}
	for i := range topicSettings {
		t := &topicSettings[i]
		if name := topicDefaults[t.name]; name != "" {
			if v := value(name, t.def); v != t.def {
				s.topics[t.name] = v
			}
		}
	}
	return s
}

// complete is a topic's configs with the broker's defaults where it has none.
func (s *liveSettings) complete(configs map[string]string) map[string]string {
	if len(s.topics) == 0 {
		return configs
	}
	out := maps.Clone(s.topics)
	maps.Copy(out, configs)
	return out
}

// alterBrokerConfigs changes what is set for this broker, or, without a name, for
// all, and applies it.
func (b *Broker) alterBrokerConfigs(name string, validateOnly bool, change configChange) error {
	if name != "" && name != b.nodeName() {
		return refuse(kerr.InvalidRequest, fmt.Sprintf("Unexpected broker id, expected %s or empty string, but received %s", b.nodeName(), name))
	}
	b.topicsMu.Lock()
	defer b.topicsMu.Unlock()
	err := b.ctl.Update(func(image *controller.Image) ([]controller.Record, error) {
		next, err := change(b.brokerSetting, image.Configs[brokerConfigKey(name)])
		if err != nil {
			return nil, err
		}
		for n, v := range next {
			s, ok := dynamicSetting(n)
			if !ok {
				return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("%s is read-only: the process configuration sets it", n))
			}
			if err := s.check(v); err != nil {
				return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("broker config %s=%q: %v", n, v, err))
			}
		}
		if err := checkLags(topicsBy(next)); err != nil {
			return nil, refuse(kerr.InvalidConfig, err.Error())
		}
		if validateOnly {
			return nil, nil
		}
		return []controller.Record{{Config: &controller.ConfigRecord{ConfigKey: brokerConfigKey(name), Configs: next}}}, nil
	})
	if err != nil || validateOnly {
		return err
	}
	b.settings.Store(b.settingsOf(b.ctl.Image()))
	return b.applyTopicDefaults()
}

// topicsBy is what broker settings mean to topics.
func topicsBy(settings map[string]string) map[string]string {
	out := map[string]string{}
	for topic, name := range topicDefaults {
		if v, set := settings[name]; set {
			out[topic] = v
		}
	}
	return out
}

// applyTopicDefaults gives every topic its settings anew. topicsMu is held.
func (b *Broker) applyTopicDefaults() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(b.topics.Load().byName)) {
		old := b.topic(name)
		next := &topic{Topic: old.Topic, config: b.topicConfig(old.Topic), partitions: old.partitions}
		if next.config == old.config {
			continue
		}
		for _, p := range old.partitions {
			if err := p.SetConfig(next.config.log); err != nil {
				errs = append(errs, fmt.Errorf("apply settings to %s: %w", p, err))
			}
		}
		b.topics.Store(b.topics.Load().with(name, next))
	}
	return errors.Join(errs...)
}

// brokerSetting finds any broker setting, for what is to be changed.
func (b *Broker) brokerSetting(name string) (setting, bool) {
	if s, ok := dynamicSetting(name); ok {
		if layers := b.configLayers(b.ctl.Image(), name); len(layers) > 0 {
			s.def = layers[len(layers)-1].value
		}
		return s, true
	}
	at := slices.IndexFunc(b.brokerSettings(), func(s setting) bool { return s.name == name })
	if at < 0 {
		return setting{}, false
	}
	return b.brokerSettings()[at], true
}

// describeBrokerConfigs lists every setting of the broker, with where it comes
// from.
func (b *Broker) describeBrokerConfigs() []kmsg.DescribeConfigsResponseResourceConfig {
	image := b.ctl.Image()
	var out []kmsg.DescribeConfigsResponseResourceConfig
	add := func(s setting, layers ...layer) {
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.ConfigType, c.Documentation = s.name, s.kind, &s.doc
		_, dynamic := dynamicSetting(s.name)
		c.ReadOnly = !dynamic
		layers = append(b.configLayers(image, s.name), layers...)
		c.Value, c.Source, c.IsDefault = &layers[0].value, layers[0].source, layers[0].source == kmsg.ConfigSourceDefaultConfig
		c.ConfigSynonyms = synonyms(s.name, layers)
		out = append(out, c)
	}
	for _, s := range b.brokerSettings() {
		add(s, layer{kmsg.ConfigSourceStaticBrokerConfig, s.def})
	}
	for name, s := range dynamicSettings {
		if !slices.ContainsFunc(out, func(c kmsg.DescribeConfigsResponseResourceConfig) bool { return c.Name == name }) {
			add(s, layer{kmsg.ConfigSourceDefaultConfig, s.def})
		}
	}
	slices.SortStableFunc(out, byConfigName)
	return out
}

// describeBrokerDefaults lists what is set for all brokers.
func (b *Broker) describeBrokerDefaults() []kmsg.DescribeConfigsResponseResourceConfig {
	var out []kmsg.DescribeConfigsResponseResourceConfig
	for name, v := range b.ctl.Image().Configs[brokerConfigKey("")] {
		s, _ := dynamicSetting(name)
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.Value, c.ConfigType, c.Documentation = name, &v, s.kind, &s.doc
		c.Source = kmsg.ConfigSourceDynamicDefaultBrokerConfig
		c.ConfigSynonyms = synonyms(name, []layer{{c.Source, v}})
		out = append(out, c)
	}
	slices.SortStableFunc(out, byConfigName)
	return out
}

func byConfigName(a, b kmsg.DescribeConfigsResponseResourceConfig) int {
	switch {
	case a.Name < b.Name:
		return -1
	case a.Name > b.Name:
		return 1
	}
	return 0
}

func synonyms(name string, layers []layer) []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym {
	var out []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym
	for _, l := range layers {
		out = append(out, kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{Name: name, Value: &l.value, Source: l.source})
	}
	return out
}

// describeTopicConfigs lists every setting with its value for a topic.
func (b *Broker) describeTopicConfigs(configs map[string]string) []kmsg.DescribeConfigsResponseResourceConfig {
	image := b.ctl.Image()
	out := make([]kmsg.DescribeConfigsResponseResourceConfig, 0, len(topicSettings))
	for i := range topicSettings {
		s := &topicSettings[i]
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.ConfigType, c.Documentation = s.name, s.kind, &s.doc
		var layers []layer
		if v, set := configs[s.name]; set {
			layers = append(layers, layer{kmsg.ConfigSourceDynamicTopicConfig, v})
			c.ConfigSynonyms = synonyms(s.name, layers)
		}
		defaults := append(b.configLayers(image, topicDefaults[s.name]), layer{kmsg.ConfigSourceDefaultConfig, s.def})
		name := topicDefaults[s.name]
		if name == "" {
			name = s.name
		}
		c.ConfigSynonyms = append(c.ConfigSynonyms, synonyms(name, defaults)...)
		first := append(layers, defaults...)[0]
		c.Value, c.Source, c.IsDefault = &first.value, first.source, first.source == kmsg.ConfigSourceDefaultConfig
		out = append(out, c)
	}
	return out
}
