package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/ledger"
)

// chronicle writes into a destination's ledger what happens to topics as wholes. It
// belongs to a [Discoverer]. What cannot be written now is kept, up to a bound, for
// the next look: the ledger is made with the first copy.
type chronicle struct {
	writer  ledger.WriterID
	chains  map[int32]*ledger.Chain
	pending []*ledger.Event
	failing bool
	absent  bool // there is no ledger
}

// maxPending bounds what is kept while the ledger does not take it. Of what is beyond
// it, what becomes of topics waits until there is room, and settings are in the log
// and in the status.
const maxPending = 1000

// add notes events, all or none, and says whether there was room.
func (c *chronicle) add(events ...*ledger.Event) bool {
	if len(c.pending)+len(events) > maxPending {
		return false
	}
	c.pending = append(c.pending, events...)
	return true
}

// behind says that the ledger is to be told something before it is forgotten.
func (c *chronicle) behind() bool { return len(c.pending) > 0 && !c.absent }

// write sends what is pending. After a failure pages may have been taken or not, so
// that others follow under another writer's name.
func (c *chronicle) write(ctx context.Context, cl *kgo.Client) error {
	if len(c.pending) == 0 {
		return nil
	}
	v, err := readView(ctx, cl, []string{ledger.Topic})
	if err != nil {
		return err
	}
	topic := v.topic(ledger.Topic)
	c.absent = errors.Is(topic.err, kerr.UnknownTopicOrPartition)
	if n := int32(len(topic.partitions)); topic.err == nil && n > 0 {
		err = c.send(ctx, cl, min(n, ledgerPartitions))
	} else {
		err = fmt.Errorf("topic %s: %w", ledger.Topic, topic.err)
	}
	if err != nil {
		c.chains = nil
		return err
	}
	c.pending = nil
	return nil
}

func (c *chronicle) send(ctx context.Context, cl *kgo.Client, partitions int32) error {
	if c.chains == nil {
		c.writer, c.chains = ledger.WriterID(uuid.New()), map[int32]*ledger.Chain{}
	}
	at := map[int32][]ledger.Entry{}
	for _, e := range c.pending {
		p := ledger.PartitionOf(ledger.CopyID{
			Source:      ledger.End{Cluster: e.Source.Cluster, TopicID: e.Source.TopicID},
			Destination: ledger.End{Cluster: e.Destination.Cluster, TopicID: e.Destination.TopicID},
		}, partitions)
		at[p] = append(at[p], e)
	}
	for p, left := range at {
		if c.chains[p] == nil {
			c.chains[p] = ledger.NewChain(c.writer)
		}
		for len(left) > 0 {
			var page []byte
			page, left = c.chains[p].EncodeUpTo(left, pageBytes)
			if err := cl.ProduceSync(ctx, &kgo.Record{Topic: ledger.Topic, Partition: p, Value: page}).FirstErr(); err != nil {
				return fmt.Errorf("write to %s/%d: %w", ledger.Topic, p, err)
			}
		}
	}
	return nil
}

// tell notes an event of a topic.
func (d *Discoverer) tell(p *topicPlan, what ledger.EventKind, text string) {
	d.chronicle.add(d.event(p, happened{what, p.DestinationID, text}))
}

func (d *Discoverer) event(p *topicPlan, h happened) *ledger.Event {
	return &ledger.Event{
		Source: ledger.Life{Cluster: d.from, TopicID: p.SourceID}, Destination: ledger.Life{Cluster: d.to, TopicID: h.destination},
		What: h.what, At: time.Now().UTC().Truncate(time.Millisecond), Text: h.text,
		SourceTopic: p.Source, DestinationTopic: p.Destination, Flow: d.Flow.Metadata.Name, Fleet: d.Fleet,
	}
}

// Told is what the ledger has been told of a topic.
type Told struct {
	// Destination is the life of the destination topic, and Partitions how many it had.
	Destination ledger.TopicID
	Partitions  int32
	// Last is what was told to be why the topic is blocked, or that its copy is gone;
	// 0 while it is neither.
	Last ledger.EventKind
}

// happened is something that a look shows.
type happened struct {
	what        ledger.EventKind
	destination ledger.TopicID
	text        string
}

// changesOf are what the ledger does not know yet of a topic that the fleet knew as
// known, and what it knows when it has been told. They follow from what is there, and
// from an answer only for who made a topic: answers can be lost, and so can the node that waits
// for them. there is the destination topic of the plan, and ids are all that the
// destination has.
func changesOf(p *topicPlan, known Topic, told Told, there found, ids map[ledger.TopicID]bool) (all []happened, now Told) {
	now = told
	if p.blockedBy != 0 && told.Last != p.blockedBy && told.Last != ledger.CopyDeleted {
		all = append(all, happened{p.blockedBy, p.DestinationID, p.Problem})
		now.Last = p.blockedBy
	}
	listed := !p.Blocked && there.id == p.DestinationID && there.partitions > 0
	other := listed && (told.Partitions == 0 || told.Destination != there.id)
	vanished := p.vanished && told.Last != ledger.CopyDeleted
	for _, id := range slices.Compact([]ledger.TopicID{told.Destination, known.DestinationID}) {
		if id == (ledger.TopicID{}) || ids[id] || !other && !vanished {
			continue
		}
		text := "by somebody else"
		if !known.GoneSince.IsZero() {
			text = "after the topic was gone from the source, since " + known.GoneSince.Format(time.RFC3339)
		}
		all = append(all, happened{ledger.CopyDeleted, id, text})
	}
	switch partitions := fmt.Sprintf("%d partitions", there.partitions); {
	case vanished:
		now = Told{Last: ledger.CopyDeleted}
	case other:
		what := ledger.TopicFound
		if p.Made {
			what = ledger.TopicCreated
		}
		all = append(all, happened{what, there.id, partitions})
	case listed && there.partitions > told.Partitions:
		all = append(all, happened{ledger.TopicGrown, there.id, partitions})
	}
	if listed {
		now.Destination, now.Partitions = there.id, there.partitions
	}
	if !p.Blocked {
		now.Last = 0
	}
	return all, now
}

// tellChanges notes what the ledger does not know yet.
func (d *Discoverer) tellChanges(plans []topicPlan, known map[string]Topic, destination map[string]found) {
	ids := idsOf(destination)
	noted := make(map[string]Told, len(plans))
	for i := range plans {
		p, k := &plans[i], known[plans[i].Source]
		told, ok := d.noted[p.Source]
		if !ok {
			told = k.Told
		}
		changes, now := changesOf(p, k, told, destination[p.Destination], ids)
		var events []*ledger.Event
		for _, h := range changes {
			events = append(events, d.event(p, h))
		}
		if d.chronicle.add(events...) {
			told = now
		}
		noted[p.Source] = told
	}
	d.noted = noted
}

// markTold has the fleet remember what the ledger has been told, once it has been told
// all that was noted.
func (d *Discoverer) markTold(plans []topicPlan) {
	if len(d.chronicle.pending) > 0 {
		return
	}
	for i := range plans {
		plans[i].Told = d.noted[plans[i].Source]
	}
}

// eventsTimeout bounds how long looking for topics waits for the ledger.
const eventsTimeout = 5 * time.Second

// writeEvents writes what was noted. That it cannot be written stops nothing: the
// log and the status have it.
func (d *Discoverer) writeEvents(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, eventsTimeout)
	defer cancel()
	err := d.chronicle.write(ctx, d.destination)
	if failed := err != nil; failed != d.chronicle.failing {
		d.chronicle.failing = failed
		if failed {
			d.Log.Warn("events wait for the ledger", "flow", d.Flow.Metadata.Name, "err", err)
		}
	}
}
