package mirror

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// Settings of a destination topic follow those of the source's. Who wins is
// decided by three values of a key: the source's, the destination's, and the last
// one that the flow wrote or found to be equal on both sides:
//
//	source = destination                 nothing to do: remembered
//	destination = last written           the source has changed: it is written
//	destination = anything else          somebody has set it there: drift
//
// Keys that only the destination has are never touched.

// followed picks the settings that follow.
type followed struct {
	sync             bool
	include, exclude *flow.Matcher
	all              bool // the flow says what to include
	set              map[string]string
	overwrite        bool
}

func newFollowed(spec *flow.TopicSelector) (followed, error) {
	c := spec.Configs
	f := followed{sync: c.On(), all: len(c.Include) > 0, set: spec.Create.Configs, overwrite: c.OnDrift == flow.DriftOverwrite}
	var err error
	if f.include, err = (flow.Selector{Include: c.Include}).Matcher(); err != nil {
		return f, err
	}
	f.exclude, err = (flow.Selector{Include: c.Exclude}).Matcher()
	return f, err
}

// picks says whether a setting follows. Where the flow names none, those do that
// say what becomes of records.
func (f *followed) picks(key string) bool {
	if _, set := f.set[key]; set || f.exclude.Match(key) || key == keyTimestampType || key == "compression.type" {
		return false
	}
	if f.all {
		return f.include.Match(key)
	}
	return slices.Contains(copiedConfigs, key)
}

// keys are those to ask a cluster for, nil for all.
func (f *followed) keys() []string {
	if f.all {
		return nil
	}
	return copiedConfigs
}

// pick are the settings of a source topic that its copy should have. Of those
// that say nothing about records only what was set for the topic counts: the
// defaults of a cluster are its own.
func (f *followed) pick(source described) map[string]string {
	out := map[string]string{}
	for key, v := range source.values {
		if f.picks(key) && (v.own || slices.Contains(copiedConfigs, key)) {
			out[key] = v.text
		}
	}
	return out
}

// described are the settings of one topic.
type described struct {
	values map[string]setting
	err    error
}

type setting struct {
	text string
	own  bool // set for the topic, not a default
}

// describeTopics asks for settings of topics: for keys, or for all if there are
// none.
func describeTopics(ctx context.Context, cl *kgo.Client, topics, keys []string) (map[string]described, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	for _, topic := range topics {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, topic, keys
		req.Resources = append(req.Resources, r)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", err)
	}
	out := make(map[string]described, len(resp.Resources))
	for _, r := range resp.Resources {
		d := described{values: make(map[string]setting, len(r.Configs)), err: kerr.ErrorForCode(r.ErrorCode)}
		for _, c := range r.Configs {
			if c.Value != nil && !c.IsSensitive {
				d.values[c.Name] = setting{*c.Value, c.Source == kmsg.ConfigSourceDynamicTopicConfig}
			}
		}
		out[r.ResourceName] = d
	}
	return out, nil
}

// configPlan is what becomes of a topic's settings.
type configPlan struct {
	put     map[string]string // to be written
	reset   []string          // to be given back to the destination's default
	written map[string]string // as it is to be remembered, without put and reset
	drift   []string          // keys that somebody has set at the destination
}

// planConfigs decides about the settings of one topic, want being those that the
// source has.
func planConfigs(want map[string]string, have map[string]setting, written map[string]string, overwrite bool) configPlan {
	p := configPlan{put: map[string]string{}, written: map[string]string{}}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		at, known := have[key]
		last, ours := written[key]
		switch {
		case !known: // a key that the destination does not have
		case at.text == want[key]:
			p.written[key] = want[key]
		case ours && at.text == last:
			p.put[key], p.written[key] = want[key], last
		default:
			p.drift = append(p.drift, key)
			if ours {
				p.written[key] = last
			}
			if overwrite {
				p.put[key] = want[key]
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(written)) {
		if _, still := want[key]; !still && have[key].own && have[key].text == written[key] {
			p.reset = append(p.reset, key)
			p.written[key] = written[key]
		}
	}
	return p
}

// writtenText is what was written as it is remembered: canonical JSON.
func writtenText(m map[string]string) string {
	if len(m) == 0 {
		return ""
	}
	text, _ := json.Marshal(m) // of strings: it cannot fail
	return string(text)
}

// writtenMap reads what writtenText made; anything else counts as nothing.
func writtenMap(text string) map[string]string {
	m := map[string]string{}
	if json.Unmarshal([]byte(text), &m) != nil {
		return nil
	}
	return m
}

// configTopics is how many topics are looked at in a round. A round is every
// other look for topics: the settings of a few hundred topics are followed within
// two seconds, those of ten thousand within a minute and a half.
const configTopics = 250

// note is what there is to say about a topic that is copied nevertheless.
type note struct {
	problem, fix string
	refused      string    // changes that the destination did not take
	again        time.Time // when they are worth another try
}

// refusedAgain is between attempts at what the destination does not take: the
// principal may have been given the right.
const refusedAgain = time.Minute

// syncConfigs has the settings of some topics follow, in turn, and adds to each
// topic what there is to say about its own.
func (d *Discoverer) syncConfigs(ctx context.Context, plans []topicPlan, destination map[string]found) error {
	if !d.follow.sync {
		return nil
	}
	var ready []*topicPlan
	for i := range plans {
		if p := &plans[i]; p.State == Running && !p.create && !p.Blocked && p.DestinationID == destination[p.Destination].id {
			ready = append(ready, p)
		}
	}
	if d.rounds++; d.rounds%2 == 0 && len(ready) > 0 {
		n := min(len(ready), configTopics)
		d.configTurn %= len(ready)
		turn := slices.Concat(ready[d.configTurn:], ready[:d.configTurn])[:n]
		d.configTurn += n
		if err := d.followConfigs(ctx, turn, destination); err != nil {
			return err
		}
	}
	for _, p := range ready {
		n := d.notes[p.Source]
		p.Problem, p.Fix = cmp.Or(p.Problem, n.problem), cmp.Or(p.Fix, n.fix)
	}
	return nil
}

func (d *Discoverer) followConfigs(ctx context.Context, plans []*topicPlan, destination map[string]found) error {
	var from, to []string
	for _, p := range plans {
		from, to = append(from, p.Source), append(to, p.Destination)
	}
	wants, err := describeTopics(ctx, d.source, from, d.follow.keys())
	if err != nil {
		return fmt.Errorf("cluster %s: %w", d.Source.Metadata.Name, err)
	}
	haves, err := describeTopics(ctx, d.destination, to, d.follow.keys())
	if err != nil {
		return fmt.Errorf("cluster %s: %w", d.Destination.Metadata.Name, err)
	}
	for _, p := range plans {
		want, have := wants[p.Source], haves[p.Destination]
		switch err := cmp.Or(want.err, have.err); {
		case errors.Is(err, kerr.UnknownTopicOrPartition): // the next look tells
		case err != nil:
			d.notes[p.Source] = note{problem: fmt.Sprintf("settings do not follow: %v", err), fix: "allow DESCRIBE_CONFIGS on the source topic and the destination topic, or set topics.configs.sync to false"}
		default:
			d.followTopic(ctx, p, want, have, destination[p.Destination].replicas)
		}
	}
	return nil
}

// followTopic writes what has changed at the source and says what stands in the
// way. A value that was refused is tried again when it changes, or in a while.
func (d *Discoverer) followTopic(ctx context.Context, p *topicPlan, want, have described, replicas int16) {
	wanted := d.follow.pick(want)
	plan := planConfigs(wanted, have.values, writtenMap(p.Configs), d.follow.overwrite)
	var refused []string
	if n, err := strconv.Atoi(plan.put[keyMinInsync]); err == nil && replicas > 0 && n > int(replicas) {
		delete(plan.put, keyMinInsync)
		refused = append(refused, fmt.Sprintf("%s=%d (the topic has %d replicas, so nobody could write)", keyMinInsync, n, replicas))
	}
	var change []kadm.AlterConfig
	for _, key := range slices.Sorted(maps.Keys(plan.put)) {
		change = append(change, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: kadm.StringPtr(plan.put[key])})
	}
	for _, key := range plan.reset {
		change = append(change, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: key})
	}
	attempt := fmt.Sprint(plan.put, plan.reset)
	if last := d.notes[p.Source]; last.refused == attempt && time.Now().Before(last.again) {
		return
	}
	for _, c := range d.alter(ctx, p.Destination, change) {
		if c.err != nil {
			refused = append(refused, fmt.Sprintf("%s (%v)", c.shown(), c.err))
			continue
		}
		d.tell(p, ledger.ConfigSet, c.shown())
		d.Log.Info("setting follows the source", "flow", d.Flow.Metadata.Name, "destination", p.Destination, "setting", c.shown())
		if c.Op == kadm.DeleteConfig {
			delete(plan.written, c.Name)
		} else {
			plan.written[c.Name] = *c.Value
			plan.drift = slices.DeleteFunc(plan.drift, func(key string) bool { return key == c.Name })
		}
	}
	p.Configs = writtenText(plan.written)
	var n note
	switch {
	case len(refused) > 0:
		n = note{
			problem: "the destination refuses settings of the source: " + strings.Join(refused, ", "),
			fix:     "allow ALTER_CONFIGS on the destination topic, or leave them out with topics.configs.exclude of the flow",
			refused: attempt, again: time.Now().Add(refusedAgain),
		}
	case len(plan.drift) > 0:
		var shown []string
		for _, key := range plan.drift {
			shown = append(shown, fmt.Sprintf("%s is %s, the source has %s", key, have.values[key].text, wanted[key]))
		}
		n.problem = "somebody has set the destination topic otherwise: " + strings.Join(shown, "; ")
		n.fix = "nothing if that is meant (topics.configs.exclude then says so); give it the source's value, or set topics.configs.onDrift to overwrite"
	}
	if n.problem != "" && n.problem != d.notes[p.Source].problem {
		d.tell(p, ledger.ConfigDrift, n.problem)
	}
	d.notes[p.Source] = n
}

const keyMinInsync = "min.insync.replicas"

// altered is a change of a setting and what came of it.
type altered struct {
	kadm.AlterConfig
	err error
}

func (a altered) shown() string {
	if a.Op == kadm.DeleteConfig {
		return a.Name + " to its default"
	}
	return a.Name + "=" + *a.Value
}

// alter makes changes together, and where they are refused one by one, so that
// one that is refused keeps no other from being made and is named.
func (d *Discoverer) alter(ctx context.Context, topic string, changes []kadm.AlterConfig) []altered {
	if len(changes) == 0 {
		return nil
	}
	adm := kadm.NewClient(d.destination)
	try := func(changes ...kadm.AlterConfig) error {
		resp, err := adm.AlterTopicConfigs(ctx, changes, topic)
		if err == nil && len(resp) == 1 {
			err = resp[0].Err
			if err != nil && resp[0].ErrMessage != "" {
				err = fmt.Errorf("%w: %s", err, resp[0].ErrMessage)
			}
		}
		return err
	}
	err := try(changes...)
	out := make([]altered, len(changes))
	for i, c := range changes {
		out[i].AlterConfig = c
		if err != nil && len(changes) > 1 {
			out[i].err = try(c)
		} else {
			out[i].err = err
		}
	}
	return out
}
