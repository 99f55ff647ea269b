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
		{"cleanup.policy", "shred", false},
		{"compression.type", "zstd", false},
		{"min.cleanable.dirty.ratio", "0.1", true},
		{"min.cleanable.dirty.ratio", "2", false},
		{"remote.storage.enable", "true", false},
	} {
		if err := checkTopicConfigs(map[string]string{c.name: c.value}); (err == nil) != c.ok {
			t.Errorf("%s=%s: %v", c.name, c.value, err)
		}
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
