package mirror

import (
	"context"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// KAFKA-13255, KAFKA-14420: settings that were to be left alone were overwritten.
func TestPlanConfigs(t *testing.T) {
	type values = map[string]string
	for name, c := range map[string]struct {
		want      values
		have      map[string]setting
		written   values
		overwrite bool
		plan      configPlan
	}{
		"equal on both sides": {
			values{"retention.ms": "5"},
			map[string]setting{"retention.ms": {"5", true}},
			nil, false,
			configPlan{put: values{}, written: values{"retention.ms": "5"}},
		},
		"the source has changed": {
			values{"retention.ms": "6"},
			map[string]setting{"retention.ms": {"5", true}},
			values{"retention.ms": "5"},
			false,
			configPlan{put: values{"retention.ms": "6"}, written: values{"retention.ms": "5"}},
		},
		"an operator has changed the destination": {
			values{"retention.ms": "5"},
			map[string]setting{"retention.ms": {"9", true}},
			values{"retention.ms": "5"},
			false,
			configPlan{put: values{}, written: values{"retention.ms": "5"}, drift: []string{"retention.ms"}},
		},
		"both have changed it": {
			values{"retention.ms": "6"},
			map[string]setting{"retention.ms": {"9", true}},
			values{"retention.ms": "5"},
			false,
			configPlan{put: values{}, written: values{"retention.ms": "5"}, drift: []string{"retention.ms"}},
		},
		"both have changed it, and the source wins": {
			values{"retention.ms": "6"},
			map[string]setting{"retention.ms": {"9", true}},
			values{"retention.ms": "5"},
			true,
			configPlan{put: values{"retention.ms": "6"}, written: values{"retention.ms": "5"}, drift: []string{"retention.ms"}},
		},
		"it was never ours": {
			values{"retention.ms": "6"},
			map[string]setting{"retention.ms": {"9", true}},
			nil, false,
			configPlan{put: values{}, written: values{}, drift: []string{"retention.ms"}},
		},
		"a key that the destination does not know": {
			values{"remote.storage.enable": "true"},
			nil, nil, false,
			configPlan{put: values{}, written: values{}},
		},
		"a key that only the destination has": {
			nil,
			map[string]setting{"retention.ms": {"9", true}},
			nil, true,
			configPlan{put: values{}, written: values{}},
		},
		"the source gave up a setting": {
			nil,
			map[string]setting{"segment.bytes": {"100", true}},
			values{"segment.bytes": "100"},
			false,
			configPlan{put: values{}, reset: []string{"segment.bytes"}, written: values{"segment.bytes": "100"}},
		},
		"the source gave up a setting that an operator has changed": {
			nil,
			map[string]setting{"segment.bytes": {"200", true}},
			values{"segment.bytes": "100"},
			false,
			configPlan{put: values{}, written: values{}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := planConfigs(c.want, c.have, c.written, c.overwrite); !reflect.DeepEqual(got, c.plan) {
				t.Errorf("got  %+v\nwant %+v", got, c.plan)
			}
		})
	}
}

func TestFollowedSettings(t *testing.T) {
	source := described{values: map[string]setting{
		"retention.ms": {"5", false}, "segment.bytes": {"100", true}, "flush.ms": {"7", false},
		"compression.type": {"zstd", true}, keyTimestampType: {"LogAppendTime", true}, keyMinInsync: {"2", true},
	}}
	for name, c := range map[string]struct {
		spec flow.TopicSelector
		want map[string]string
	}{
		"what says something about records": {flow.TopicSelector{}, map[string]string{"retention.ms": "5"}},
		"what is set for the topic": {
			flow.TopicSelector{Configs: flow.ConfigSync{Include: []string{"*"}}},
			map[string]string{"retention.ms": "5", "segment.bytes": "100", keyMinInsync: "2"},
		},
		"less what is left out or set by the flow": {
			flow.TopicSelector{
				Configs: flow.ConfigSync{Include: []string{"*"}, Exclude: []string{"segment.*"}},
				Create:  flow.TopicCreate{Configs: map[string]string{keyMinInsync: "1"}},
			},
			map[string]string{"retention.ms": "5"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := newFollowed(&c.spec)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.pick(source); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// discover runs a Discoverer of a flow from west to east.
func (w *world) discover(spec flow.FlowSpec) *reports { return w.reports(spec) }

// reports is discover where topics are known from before.
func (w *world) reports(spec flow.FlowSpec, known ...Topic) *reports {
	w.t.Helper()
	r := &reports{topics: known}
	d := &Discoverer{
		Flow: &flow.ReplicationFlow{Spec: spec}, Source: w.west.Cluster, Destination: w.east.Cluster, ClientID: DefaultConfig().ClientID, Known: r.known,
		Interval: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	}
	d.follow.within = 2 * time.Second
	w.background(func(ctx context.Context) error { return d.Run(ctx, r.store) })
	return r
}

func (r *reports) made(topic string) func() bool {
	return func() bool {
		o, ok := r.topic(topic)
		return ok && o.State == Running && o.DestinationID != ledger.TopicID{}
	}
}

func (s *site) setting(t *testing.T, topic, key string) string {
	t.Helper()
	got, err := s.admin.DescribeTopicConfigs(t.Context(), topic)
	if err != nil || len(got) != 1 || got[0].Err != nil {
		t.Fatalf("describe %s: %v %v", topic, err, got)
	}
	for _, c := range got[0].Configs {
		if c.Key == key {
			return c.MaybeValue()
		}
	}
	return ""
}

func (s *site) set(t *testing.T, topic, key, value string) {
	t.Helper()
	resp, err := s.admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: key, Value: &value}}, topic)
	if err != nil || resp[0].Err != nil {
		t.Fatalf("set %s of %s: %v %v", key, topic, err, resp)
	}
}

// Settings follow the source (KAFKA-9981, KAFKA-15372), without touching those
// that only the destination has or that an operator has changed there
// (KAFKA-13255, KAFKA-14420).
func TestSettingsFollowTheSource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.west.create(t, "orders", 1, "retention.ms", "1000000", "cleanup.policy", "delete")
	r := w.discover(flow.FlowSpec{Topics: flow.TopicSelector{
		Selector: flow.Selector{Include: []string{"*"}},
		Create:   flow.TopicCreate{ReplicationFactor: flow.SourceReplicas, Configs: map[string]string{"retention.bytes": "123456"}},
	}})
	eventually(t, "orders has a counterpart", r.made("orders"))
	if got := w.east.setting(t, "orders", "retention.bytes"); got != "123456" {
		t.Errorf("retention.bytes of the new topic is %s, the flow says 123456", got)
	}
	w.east.set(t, "orders", "segment.bytes", "2000000")

	w.west.set(t, "orders", "retention.ms", "2000000")
	eventually(t, "the change has come", func() bool { return w.east.setting(t, "orders", "retention.ms") == "2000000" })

	w.east.set(t, "orders", "retention.ms", "77")
	eventually(t, "the drift shows", func() bool {
		o, _ := r.topic("orders")
		return o.State == Running && strings.Contains(o.Problem, "retention.ms is 77, the source has 2000000") && o.Fix != ""
	})
	w.west.set(t, "orders", "retention.ms", "3000000")
	w.west.set(t, "orders", "cleanup.policy", "compact")
	eventually(t, "the other setting still follows", func() bool { return w.east.setting(t, "orders", "cleanup.policy") == "compact" })
	if got := w.east.setting(t, "orders", "retention.ms"); got != "77" {
		t.Errorf("retention.ms that an operator set is %s now, want 77", got)
	}
	w.east.set(t, "orders", "retention.ms", "3000000")
	eventually(t, "nothing is amiss", func() bool { o, _ := r.topic("orders"); return o.Problem == "" })
	w.west.set(t, "orders", "retention.ms", "4000000")
	eventually(t, "it follows again", func() bool { return w.east.setting(t, "orders", "retention.ms") == "4000000" })
	for key, want := range map[string]string{"segment.bytes": "2000000", "retention.bytes": "123456"} {
		if got := w.east.setting(t, "orders", key); got != want {
			t.Errorf("%s is %s, want %s: it is not the source's", key, got, want)
		}
	}
}

func TestTheSourceMayWinOverDrift(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.west.create(t, "orders", 1, "retention.ms", "1000000")
	r := w.discover(flow.FlowSpec{Topics: flow.TopicSelector{
		Selector: flow.Selector{Include: []string{"*"}}, Configs: flow.ConfigSync{OnDrift: flow.DriftOverwrite},
	}})
	eventually(t, "orders has a counterpart", r.made("orders"))
	w.east.set(t, "orders", "retention.ms", "77")
	eventually(t, "it is the source's again", func() bool { return w.east.setting(t, "orders", "retention.ms") == "1000000" })
}

// A setting that the destination refuses is named, the others follow, and the
// topic is copied.
func TestARefusedSettingIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.west.create(t, "orders", 1, "retention.ms", "1000000")
	r := w.discover(flow.FlowSpec{Topics: flow.TopicSelector{
		Selector: flow.Selector{Include: []string{"*"}}, Configs: flow.ConfigSync{Include: []string{"*"}, OnDrift: flow.DriftOverwrite},
	}})
	eventually(t, "orders has a counterpart", r.made("orders"))
	w.west.set(t, "orders", keyMinInsync, "2") // the copy has one replica
	w.west.set(t, "orders", "retention.ms", "2000000")
	eventually(t, "the refusal shows and the other has come", func() bool {
		o, _ := r.topic("orders")
		return o.State == Running && strings.Contains(o.Problem, keyMinInsync+"=2") && o.Fix != "" &&
			w.east.setting(t, "orders", "retention.ms") == "2000000"
	})
	if got := w.east.setting(t, "orders", keyMinInsync); got != "1" {
		t.Errorf("%s is %s: nobody can write to the copy", keyMinInsync, got)
	}
}
