package mirror

import (
	"fmt"
	"maps"
	"slices"
	"strings"

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
	err        error // why the rest is not known
}

// maxMissed is how often in a row the source must leave a topic out before it is
// taken to be gone: a broker that has just started may not know all topics yet.
const maxMissed = 3

// topicPlan is a topic and what has to be done about its counterpart.
type topicPlan struct {
	Topic
	create bool
	grow   int32 // partitions that the destination topic is to have, 0: as it has
}

// planTopics decides what is copied, from what is there and what is known from
// before. Topics come by source name.
//
// A topic that is known under another id is not the topic that was copied: it
// stays blocked until its counterpart has been deleted as well, and is then begun
// anew. So is one that is gone from the source, since the next topic of that name
// would be another one.
func planTopics(pick *flow.Matcher, name flow.Naming, source, destination map[string]found, known map[string]Topic, missed map[string]int) []topicPlan {
	var plans []topicPlan
	for _, topic := range slices.Sorted(maps.Keys(source)) {
		if from := source[topic]; from.err != nil {
			if k, ok := known[topic]; ok && pick.Match(topic) {
				k.State, k.Problem = Waiting, "source topic: "+from.err.Error()
				plans = append(plans, topicPlan{Topic: k})
			}
		} else if pick.Match(topic) {
			plans = append(plans, planTopic(topic, name.Destination(topic), source[topic], destination, known[topic]))
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(known)) {
		k := known[topic]
		if _, there := source[topic]; there || !pick.Match(topic) {
			continue
		}
		if to, ok := destination[k.Destination]; !ok || to.id != k.DestinationID {
			continue // both are gone: nothing to protect
		}
		if missed[topic] < maxMissed {
			plans = append(plans, topicPlan{Topic: k})
			continue
		}
		k.State, k.Blocked = Waiting, true
		k.Problem = "the topic is gone from the source"
		k.Fix = "if it is created again it is another topic: delete the destination topic to copy that one"
		plans = append(plans, topicPlan{Topic: k})
	}
	slices.SortFunc(plans, func(a, b topicPlan) int { return strings.Compare(a.Source, b.Source) })
	return plans
}

func planTopic(topic, to string, from found, destination map[string]found, known Topic) topicPlan {
	p := topicPlan{Topic: Topic{Source: topic, SourceID: from.id, Destination: to, Partitions: from.partitions, State: Running}}
	counterpart, exists := destination[to]
	p.DestinationID = counterpart.id
	samePlace := exists && known.Destination == to && known.DestinationID == counterpart.id
	switch {
	case len(to) > flow.MaxTopicName:
		p.State, p.Problem = Failed, fmt.Sprintf("the destination's name would have %d characters, Kafka takes %d", len(to), flow.MaxTopicName)
		p.Fix = "give the flow a shorter prefix or exclude the topic"
	case samePlace && known.SourceID != from.id && known.Source != "":
		p.SourceID = known.SourceID // the life that was copied stays on record
		p.State, p.Blocked = Failed, true
		p.Problem = fmt.Sprintf("the source topic was deleted and created again: its id is %v, %v was copied", from.id, known.SourceID)
		p.Fix = "delete the destination topic to copy the new one from its start, or exclude the topic"
	case !exists:
		p.create = true
	case counterpart.partitions < from.partitions:
		p.grow = from.partitions
	}
	return p
}
