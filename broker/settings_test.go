package broker

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestCatalogueIsSortedAndItsDefaultsAreValid(t *testing.T) {
	if !slices.IsSortedFunc(topicSettings, func(a, b setting) int { return strings.Compare(a.name, b.name) }) {
		t.Error("not sorted by name")
	}
	for _, s := range topicSettings {
		if err := s.check(s.def); err != nil {
			t.Errorf("default of %s: %v", s.name, err)
		}
		if _, ok := topicSetting(s.name); !ok {
			t.Errorf("%s is not found", s.name)
		}
	}
	if err := topicConfigOf(nil, logShare{}).log.Validate(); err != nil {
		t.Error(err)
	}
}

func TestCheckTopicConfigs(t *testing.T) {
	for _, c := range []struct {
		name, value string
		ok          bool
	}{
		{"retention.ms", "-1", true},
		{"retention.ms", "-2", false},
		{"retention.ms", "soon", false},
		{"cleanup.policy", "compact,delete", true},
		{"cleanup.policy", " compact , delete", true},
		{"cleanup.policy", "compact,delete,compact", true},
		{"cleanup.policy", "", true},
		{"cleanup.policy", "shred", false},
		{"compression.type", "zstd", true},
		{"compression.type", "ZSTD", false},
		{"compression.gzip.level", "-1", true},
		{"compression.gzip.level", "9", true},
		{"compression.gzip.level", "0", false},
		{"index.interval.bytes", "0", true},
		{"local.retention.ms", "-2", true},
		{"local.retention.ms", "-3", false},
		{"preallocate", "TRUE", true},
		{"preallocate", "yes", false},
		{"remote.storage.enable", "false", true},
		{"min.cleanable.dirty.ratio", "0.1", true},
		{"min.cleanable.dirty.ratio", "2", false},
		{"remote.storage.enable", "true", false},
	} {
		if err := checkTopicConfigs(map[string]string{c.name: c.value}); (err == nil) != c.ok {
			t.Errorf("%s=%s: %v", c.name, c.value, err)
		}
	}
}

// TestCompactionLagsFitEachOther: also those that the other half of is a default.
func TestCompactionLagsFitEachOther(t *testing.T) {
	const least, most = "min.compaction.lag.ms", "max.compaction.lag.ms"
	for name, c := range map[string]struct {
		defaults, own map[string]string
		ok            bool
	}{
		"none":                   {nil, nil, true},
		"equal":                  {nil, map[string]string{least: "5", most: "5"}, true},
		"crossed":                {nil, map[string]string{least: "6", most: "5"}, false},
		"crossed by a default":   {map[string]string{most: "5"}, map[string]string{least: "6"}, false},
		"not by one of its own":  {map[string]string{most: "5"}, map[string]string{least: "6", most: "7"}, true},
		"the largest of numbers": {nil, map[string]string{least: maxInt64}, true},
	} {
		if err := (&liveSettings{topics: c.defaults}).check(c.own); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATopicWithoutACleanupPolicyIsKept(t *testing.T) {
	c := topicConfigOf(map[string]string{"cleanup.policy": "", "retention.ms": "1", "retention.bytes": "1", "index.interval.bytes": "0"}, logShare{})
	if c.compacted || c.log.Compact || c.log.RetentionAge >= 0 || c.log.RetentionBytes >= 0 {
		t.Errorf("got %+v", c)
	}
	if err := c.log.Validate(); err != nil {
		t.Error(err)
	}
}

func TestApplyConfigOps(t *testing.T) {
	op := func(name string, kind kmsg.IncrementalAlterConfigOp, value string) kmsg.IncrementalAlterConfigsRequestResourceConfig {
		c := kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: name, Op: kind}
		if kind != kmsg.IncrementalAlterConfigOpDelete {
			c.Value = &value
		}
		return c
	}
	const (
		set      = kmsg.IncrementalAlterConfigOpSet
		del      = kmsg.IncrementalAlterConfigOpDelete
		add      = kmsg.IncrementalAlterConfigOpAppend
		subtract = kmsg.IncrementalAlterConfigOpSubtract
	)
	type ops = []kmsg.IncrementalAlterConfigsRequestResourceConfig
	for _, c := range []struct {
		name string
		have map[string]string
		ops  ops
		want map[string]string
		err  *kerr.Error
	}{
		{"set", nil, ops{op("retention.ms", set, "5")}, map[string]string{"retention.ms": "5"}, nil},
		{"delete", map[string]string{"retention.ms": "5"}, ops{op("retention.ms", del, "")}, map[string]string{}, nil},
		{"append to the default", nil, ops{op("cleanup.policy", add, "compact")}, map[string]string{"cleanup.policy": "delete,compact"}, nil},
		{"append twice", map[string]string{"cleanup.policy": "compact"}, ops{op("cleanup.policy", add, "compact")}, map[string]string{"cleanup.policy": "compact"}, nil},
		{"subtract", map[string]string{"cleanup.policy": "compact,delete"}, ops{op("cleanup.policy", subtract, "delete")}, map[string]string{"cleanup.policy": "compact"}, nil},
		{"append to what is no list", nil, ops{op("retention.ms", add, "5")}, nil, kerr.InvalidConfig},
		{"unknown", nil, ops{op("nonsense", set, "5")}, nil, kerr.InvalidConfig},
		{"twice", nil, ops{op("retention.ms", set, "5"), op("retention.ms", del, "")}, nil, kerr.InvalidRequest},
		{"no value", nil, ops{{Name: "retention.ms", Op: set}}, nil, kerr.InvalidRequest},
		{"unknown operation", nil, ops{op("retention.ms", 9, "5")}, nil, kerr.InvalidRequest},
	} {
		before := maps.Clone(c.have)
		got, err := applyConfigOps(topicSetting, c.have, c.ops)
		if c.err != nil && !errors.Is(err, c.err) || c.err == nil && err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
		if !maps.Equal(c.have, before) {
			t.Errorf("%s: the old configuration changed", c.name)
		}
	}
}
