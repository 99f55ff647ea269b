package mirror

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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

// configTopics is how many topics are looked at in a round. A round begins with every
// other look for topics, if the one before has ended: where clusters answer, the settings of
// a few hundred topics are followed within two seconds, those of ten thousand within a
// minute and a half.
const configTopics = 250

// note is what there is to say about a topic that is copied nevertheless.
type note struct {
	problem, fix string
	told         string    // the problem that the ledger was told of
	refused      string    // changes that the destination did not take
	again        time.Time // when they are worth another try
}

const (
	// refusedAgain is between attempts at what the destination does not take: the
	// principal may have been given the right.
	refusedAgain = time.Minute
	// describeTimeout bounds how long one cluster is waited for.
	describeTimeout = 30 * time.Second
	// roundTimeout bounds a round, in which all topics may have changed.
	roundTimeout = 2 * time.Minute
)

// follower has settings follow, beside the looks for topics: however long a cluster takes
// to describe its topics, new ones are seen. It keeps nothing from one round to the next:
// what it finds, the next look takes.
type follower struct {
	followed
	source, destination *kgo.Client
	from, to, flow      string // names
	within              time.Duration
	log                 *slog.Logger
}

// followedTopic is a topic as a look saw it, and what a round made of its settings.
type followedTopic struct {
	topicPlan
	replicas int16 // of the destination topic
	note     note
	events   []happened
}

// tell notes an event of the topic.
func (t *followedTopic) tell(what ledger.EventKind, text string) {
	t.events = append(t.events, happened{what, t.DestinationID, text})
}

// syncConfigs takes what was found of settings, has those of some more topics follow, in
// turn, and adds to each topic what there is to say about its own.
func (d *Discoverer) syncConfigs(ctx context.Context, plans []topicPlan, destination map[string]found) {
	if !d.follow.sync {
		return
	}
	if round, ok := d.compared.take(ctx, 0); ok {
		d.takeRound(round, plans)
	}
	var ready []*topicPlan
	for i := range plans {
		if p := &plans[i]; p.State == Running && !p.create && !p.Blocked && p.DestinationID == destination[p.Destination].id {
			ready = append(ready, p)
		}
	}
	if d.rounds++; d.rounds%2 == 0 && len(ready) > 0 && !d.compared.busy() {
		n := min(len(ready), configTopics)
		d.configTurn %= len(ready)
		turn := slices.Concat(ready[d.configTurn:], ready[:d.configTurn])[:n]
		d.configTurn += n
		topics := make([]followedTopic, n)
		for i, p := range turn {
			topics[i] = followedTopic{topicPlan: *p, replicas: destination[p.Destination].replicas, note: d.notes[p.Source]}
		}
		d.compared.start(ctx, roundTimeout, func(ctx context.Context) []followedTopic {
			d.follow.round(ctx, topics)
			return topics
		})
	}
	for _, p := range ready {
		n := d.notes[p.Source]
		p.Problem, p.Fix = cmp.Or(p.Problem, n.problem), cmp.Or(p.Fix, n.fix)
	}
}

// takeRound notes what a round has done. What it says of a topic that is another one by
// now is for the ledger alone.
func (d *Discoverer) takeRound(round []followedTopic, plans []topicPlan) {
	at := make(map[string]*topicPlan, len(plans))
	for i := range plans {
		at[plans[i].Source] = &plans[i]
	}
	for i := range round {
		t := &round[i]
		for _, h := range t.events {
			d.tell(&t.topicPlan, h.what, h.text)
		}
		if p := at[t.Source]; p != nil && p.SourceID == t.SourceID && p.Destination == t.Destination && p.DestinationID == t.DestinationID {
			p.Configs, d.notes[t.Source] = t.Configs, t.note
		}
	}
}

// round has the settings of some topics follow.
func (f *follower) round(ctx context.Context, topics []followedTopic) {
	var from, to []string
	for i := range topics {
		from, to = append(from, topics[i].Source), append(to, topics[i].Destination)
	}
	wants, err := f.describe(ctx, f.from, f.source, from)
	haves := map[string]described(nil)
	if err == nil {
		haves, err = f.describe(ctx, f.to, f.destination, to)
	}
	for i := range topics {
		t := &topics[i]
		want, have := wants[t.Source], haves[t.Destination]
		switch of := cmp.Or(want.err, have.err); {
		case err != nil:
			t.note.problem = fmt.Sprintf("settings do not follow: %v", err)
			t.note.fix = "nothing if the cluster was slow or away for a while: it is asked again; or set topics.configs.sync to false"
		case errors.Is(of, kerr.UnknownTopicOrPartition): // the next look tells
		case of != nil:
			t.note.problem = fmt.Sprintf("settings do not follow: %v", of)
			t.note.fix = "allow DESCRIBE_CONFIGS on the source topic and the destination topic, or set topics.configs.sync to false"
		default:
			f.followTopic(ctx, t, want, have)
		}
	}
}

func (f *follower) describe(ctx context.Context, cluster string, cl *kgo.Client, topics []string) (map[string]described, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.within, describeTimeout))
	defer cancel()
	all, err := describeTopics(ctx, cl, topics, f.keys())
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cluster, err)
	}
	return all, nil
}

// followTopic writes what has changed at the source and says what stands in the
// way. A value that was refused is tried again when it changes, or in a while.
func (f *follower) followTopic(ctx context.Context, t *followedTopic, want, have described) {
	wanted := f.pick(want)
	plan := planConfigs(wanted, have.values, writtenMap(t.Configs), f.overwrite)
	var refused []string
	if n, err := strconv.Atoi(plan.put[keyMinInsync]); err == nil && t.replicas > 0 && n > int(t.replicas) {
		delete(plan.put, keyMinInsync)
		refused = append(refused, fmt.Sprintf("%s=%d (the topic has %d replicas, so nobody could write)", keyMinInsync, n, t.replicas))
	}
	change := plan.changes()
	attempt := fmt.Sprint(plan.put, plan.reset)
	if last := t.note; last.refused == attempt && time.Now().Before(last.again) {
		return
	}
	if len(change) > 0 && !f.sameLives(ctx, t) {
		return // the next look tells
	}
	for _, c := range f.alter(ctx, t.Destination, change) {
		if c.err != nil {
			refused = append(refused, fmt.Sprintf("%s (%v)", c.shown(), c.err))
			continue
		}
		t.tell(ledger.ConfigSet, c.shown())
		f.log.Info("setting follows the source", "flow", f.flow, "destination", t.Destination, "setting", c.shown())
		if c.Op == kadm.DeleteConfig {
			delete(plan.written, c.Name)
		} else {
			plan.written[c.Name] = *c.Value
			plan.drift = slices.DeleteFunc(plan.drift, func(key string) bool { return key == c.Name })
		}
	}
	t.Configs = writtenText(plan.written)
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
	if n.told = n.problem; n.problem != "" && n.problem != t.note.told {
		t.tell(ledger.ConfigDrift, n.problem)
	}
	t.note = n
}

// sameLives says that both topics are those that the look saw. Answers may have taken
// long: settings of a topic that was made again are not those of what was copied.
func (f *follower) sameLives(ctx context.Context, t *followedTopic) bool {
	is := func(cl *kgo.Client, name string, id ledger.TopicID) bool {
		v, err := readView(ctx, cl, []string{name})
		if err != nil {
			return false
		}
		now := v.topic(name)
		return now.err == nil && now.id == id
	}
	return is(f.source, t.Source, t.SourceID) && is(f.destination, t.Destination, t.DestinationID)
}

// changes are what is to be asked of the destination.
func (p *configPlan) changes() (all []kadm.AlterConfig) {
	for _, key := range slices.Sorted(maps.Keys(p.put)) {
		all = append(all, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: kadm.StringPtr(p.put[key])})
	}
	for _, key := range p.reset {
		all = append(all, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: key})
	}
	return all
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
func (f *follower) alter(ctx context.Context, topic string, changes []kadm.AlterConfig) []altered {
	if len(changes) == 0 {
		return nil
	}
	adm := kadm.NewClient(f.destination)
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
