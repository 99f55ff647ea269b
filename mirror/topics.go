package mirror

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// Topic is a source topic that a flow picks, and its counterpart.
type Topic struct {
	Source        string
	SourceID      ledger.TopicID
	Destination   string
	DestinationID ledger.TopicID // zero while it does not exist
	Partitions    int32          // of the source
	// Newborn is how many of them, the last ones, came to the source while the flow
	// looked at it: their copies begin with their first record, wherever the flow
	// starts, since nobody may have wanted to leave out what was not there yet.
	Newborn int32

	// Offsets is how the copy treats them, [flow.OffsetsPreserve] or
	// [flow.OffsetsTranslate], as was decided when the destination topic was made.
	Offsets string
	// Configs are the settings that the flow wrote to the destination topic last, or
	// found to be equal on both sides: JSON, "" for none. What somebody else has set
	// there shows by it.
	Configs string
	// GoneSince is when the topic was first found to be gone from the source.
	GoneSince time.Time
	// Made: the flow has made the destination topic, as far as it was told.
	Made bool
	// Told is what the ledger has been told of the topic. What is otherwise is told by
	// whoever looks next, also where the node has died that did it or saw it.
	Told Told

	// State is Running if nothing is wrong, Waiting or Failed with a Problem and,
	// where a person can help, a Fix.
	State   State
	Problem string
	Fix     string
	// Blocked: copying would splice two lives of a topic, so nobody may.
	Blocked bool
}

// found is a topic as a cluster shows it.
type found struct {
	id         ledger.TopicID
	partitions int32
	replicas   int16 // of its first partition, 0 if not known
	newborn    bool  // of a source topic: it was not there at the last look
	err        error // why the rest is not known

	mirror    string // of a destination topic: its source, if it is a mirror
	mirrorErr error  // why that is not known
}

// maxMissed is how often in a row the source must leave a topic out before it is
// taken to be gone: a broker that has just started may not know all topics yet.
const maxMissed = 3

// topicPlan is a topic and what has to be done about its counterpart.
type topicPlan struct {
	Topic
	create    bool
	grow      int32            // partitions that the destination topic is to have, 0: as it has
	remove    bool             // the destination topic, of exactly this id
	absent    bool             // this look has found it on neither side
	vanished  bool             // it was found so often enough
	blockedBy ledger.EventKind // what has happened to it, if that is why it is blocked
	replicas  int16            // of the source topic
}

// topicPlanner decides what is copied.
type topicPlanner struct {
	pick     *flow.Matcher
	name     flow.Naming
	policies flow.FlowPolicies
	fidelity fidelity
}

func newTopicPlanner(spec *flow.FlowSpec) (topicPlanner, error) {
	pick, err := spec.Topics.Matcher()
	return topicPlanner{pick, spec.Topics.Rename, spec.Policies, fidelity{want: spec.Offsets}}, err
}

// plan decides from what is there and what is known from before. Topics come by
// source name.
//
// A topic that is known under another id is not the topic that was copied: it
// stays blocked until its counterpart has been deleted as well, and is then begun
// anew; or the policy has it begin in another destination topic. So is one that is
// gone from the source, since the next topic of that name would be another one.
func (l *topicPlanner) plan(source, destination map[string]found, known map[string]Topic, missed map[string]int, now time.Time) []topicPlan {
	var plans []topicPlan
	for _, topic := range slices.Sorted(maps.Keys(source)) {
		if from := source[topic]; from.err != nil {
			if k, ok := known[topic]; ok && l.pick.Match(topic) {
				v := troubleOf(from.err)
				k.State, k.Problem, k.Fix = v.state, "source topic: "+v.reason, v.fix
				plans = append(plans, topicPlan{Topic: k})
			}
		} else if l.pick.Match(topic) {
			plans = append(plans, l.planTopic(topic, source[topic], destination, known[topic]))
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(known)) {
		k := known[topic]
		if _, there := source[topic]; there || !l.pick.Match(topic) {
			continue
		}
		p := topicPlan{Topic: k}
		if missed[topic] >= maxMissed {
			to, there := destination[k.Destination]
			p = l.gone(k, now, there && to.id == k.DestinationID)
		}
		plans = append(plans, p)
	}
	slices.SortStableFunc(plans, func(a, b topicPlan) int { return strings.Compare(a.Source, b.Source) })
	oneToOne(plans, known)
	return plans
}

// oneToOne keeps two topics from being copied into one: a source topic may be
// called like the later generation of another. The one that is known to be copied
// there goes on.
func oneToOne(plans []topicPlan, known map[string]Topic) {
	holder := map[string]string{}
	for _, p := range plans {
		if p.absent {
			continue
		}
		if _, taken := holder[p.Destination]; !taken || known[p.Source].Destination == p.Destination {
			holder[p.Destination] = p.Source
		}
	}
	for i := range plans {
		p := &plans[i]
		if other := holder[p.Destination]; !p.absent && other != p.Source {
			p.create, p.grow, p.remove = false, 0, false
			p.State, p.Blocked = Failed, true
			p.Problem = fmt.Sprintf("topic %s is copied to %s already", other, p.Destination)
			p.Fix = "exclude one of the two topics, or give it a flow of its own with another name for its copy"
		}
	}
}

// gone is what becomes of the copy of a topic that the source does not have any
// more, as it has said itself and more than once; there says whether the destination has
// the copy.
func (l *topicPlanner) gone(k Topic, now time.Time, there bool) topicPlan {
	if k.GoneSince.IsZero() {
		k.GoneSince = now.UTC().Truncate(time.Second)
	}
	k.State, k.Blocked = Waiting, true
	k.Problem = fmt.Sprintf("the topic is gone from the source, since %s", k.GoneSince.Format(time.RFC3339))
	k.Fix = "if it is created again it is another topic: delete the destination topic to copy that one"
	p := topicPlan{Topic: k, absent: !there, blockedBy: ledger.TopicGone}
	switch {
	case p.absent:
		p.Problem, p.Fix = "the topic is gone from the source, and its copy from the destination", ""
	case l.policies.OnDelete == flow.DeleteCopy:
		at := k.GoneSince.Add(l.policies.DeleteAfter.Std())
		p.remove = !now.Before(at)
		p.Fix = fmt.Sprintf("nothing: the destination topic is deleted at %s; set policies.onDelete to keep before that to keep it", at.Format(time.RFC3339))
	}
	return p
}

func (l *topicPlanner) planTopic(topic string, from found, destination map[string]found, known Topic) topicPlan {
	to := l.name.Destination(topic)
	if _, ours := generation(to, known.Destination); ours {
		to = known.Destination
	}
	p := topicPlan{Topic: Topic{Source: topic, SourceID: from.id, Destination: to, Partitions: from.partitions, State: Running}, replicas: from.replicas}
	counterpart, exists := destination[to]
	p.DestinationID, p.Newborn = counterpart.id, newborn(from, known)
	samePlace := exists && known.Destination == to && known.DestinationID == counterpart.id
	if p.Told = known.Told; samePlace {
		p.Configs, p.Made = known.Configs, known.Made
	}
	switch {
	case len(to) > flow.MaxTopicName:
		p.State, p.Problem = Failed, fmt.Sprintf("the destination's name would have %d characters, Kafka takes %d", len(to), flow.MaxTopicName)
		p.Fix = "give the flow a shorter prefix or exclude the topic"
	case samePlace && known.SourceID != from.id && known.Source != "":
		l.recreated(&p, known, destination)
	case !exists:
		p.create = true
	case counterpart.partitions < from.partitions:
		p.grow = from.partitions
	}
	l.fidelity.choose(&p, counterpart, exists)
	return p
}

// newborn is how many partitions of a topic, which is known or is the zero one, came
// to the source while somebody looked.
func newborn(from found, known Topic) int32 {
	switch {
	case known.Source == "" && !from.newborn:
		return 0 // it may be older than the flow, or newly included
	case known.Source == "" || known.SourceID != from.id:
		return from.partitions
	}
	return known.Newborn + max(0, from.partitions-known.Partitions)
}

// recreated is what becomes of a topic that was deleted and created again, while
// the copy of its first life is there.
func (l *topicPlanner) recreated(p *topicPlan, known Topic, destination map[string]found) {
	old, from := known.Destination, p.SourceID
	p.Blocked, p.blockedBy = true, ledger.TopicRecreated
	if l.policies.OnRecreate == flow.RecreateNewGeneration {
		// It is made by the next look, when this one has been remembered: whoever
		// looks then knows for certain that the topic is this one's.
		p.Destination = nextGeneration(l.name.Destination(p.Source), old, destination)
		p.DestinationID, p.Configs, p.Made = ledger.TopicID{}, "", false
		p.State = Waiting
		p.Problem = fmt.Sprintf("the source topic was deleted and created again: what is new goes to %s, %s stays as it is", p.Destination, old)
		return
	}
	p.SourceID = known.SourceID // the life that was copied stays on record
	p.State = Failed
	p.Problem = fmt.Sprintf("the source topic was deleted and created again: its id is %v, %v was copied", from, known.SourceID)
	p.Fix = "delete the destination topic to copy the new one from its start, set policies.onRecreate to newGeneration, or exclude the topic"
}

// A later life of a topic is copied to NAME.gen-2, NAME.gen-3 and so on: Kafka can
// rename no topic, so it is the new one that gets another name, and the old one
// stays where its readers find it.
const generationMark = ".gen-"

// generation is the number of a name among the generations of another, the first
// of which has no number.
func generation(base, name string) (n int, ok bool) {
	if name == base {
		return 1, true
	}
	digits, ok := strings.CutPrefix(name, base+generationMark)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n > 1 && strconv.Itoa(n) == digits
}

// nextGeneration is the first name after old that no topic of the destination has.
func nextGeneration(base, old string, destination map[string]found) string {
	n, _ := generation(base, old)
	for n = max(n, 1) + 1; ; n++ {
		name := base + generationMark + strconv.Itoa(n)
		if _, taken := destination[name]; !taken {
			return name
		}
	}
}
