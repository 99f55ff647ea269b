package mirror

import (
	"context"
	"errors"
	"fmt"
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

// maxPending bounds what is kept while the ledger does not take it. What is beyond
// it is still in the log and in the status.
const maxPending = 1000

func (c *chronicle) add(e *ledger.Event) {
	if len(c.pending) < maxPending {
		c.pending = append(c.pending, e)
	}
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
	d.tellOf(p, p.DestinationID, what, text)
}

// tellOf is tell for one life of the destination topic.
func (d *Discoverer) tellOf(p *topicPlan, destination ledger.TopicID, what ledger.EventKind, text string) {
	e := &ledger.Event{
		Source: ledger.Life{Cluster: d.from, TopicID: p.SourceID}, Destination: ledger.Life{Cluster: d.to, TopicID: destination},
		What: what, At: time.Now().UTC().Truncate(time.Millisecond), Text: text,
		SourceTopic: p.Source, DestinationTopic: p.Destination, Flow: d.Flow.Metadata.Name, Fleet: d.Fleet,
	}
	d.chronicle.add(e)
}

// tellBlocked notes topics that may not be copied any more, with the first look that
// finds it.
func (d *Discoverer) tellBlocked(plans []topicPlan, known map[string]Topic) {
	for i := range plans {
		p := &plans[i]
		k, ok := known[p.Source]
		if what := p.blockedBy(); ok && p.Blocked && !(k.Blocked && k.blockedBy() == what) {
			d.tell(p, what, p.Problem)
		}
	}
}

// blockedBy is what has happened to a topic that may not be copied.
func (t *Topic) blockedBy() ledger.EventKind {
	if t.GoneSince.IsZero() {
		return ledger.TopicRecreated
	}
	return ledger.TopicGone
}

// happened is something that a look at the destination shows.
type happened struct {
	what        ledger.EventKind
	destination ledger.TopicID
	text        string
}

// changesOf are what has happened to the destination topic of a plan since the flow last
// knew of it as known. It goes by what is there, and by an answer only for who made a topic:
// answers can be lost, and so can the node that waits for them. at is what was there in the place of
// the known copy, and size how many partitions the destination topic had before, 0 if
// that is not known.
func changesOf(p *topicPlan, known Topic, at found, size int32) []happened {
	var all []happened
	replaced := p.DestinationID != known.DestinationID && p.DestinationID != (ledger.TopicID{})
	if gone := known.DestinationID != (ledger.TopicID{}) && at.id != known.DestinationID; gone && (p.vanished || replaced) {
		text := "by somebody else"
		if !known.GoneSince.IsZero() {
			text = "after the topic was gone from the source, since " + known.GoneSince.Format(time.RFC3339)
		}
		all = append(all, happened{ledger.CopyDeleted, known.DestinationID, text})
	}
	switch partitions := fmt.Sprintf("%d partitions", p.Partitions); {
	case p.made:
		all = append(all, happened{ledger.TopicCreated, p.DestinationID, partitions})
	case replaced:
		all = append(all, happened{ledger.TopicFound, p.DestinationID, partitions})
	case size > 0 && at.partitions > size:
		all = append(all, happened{ledger.TopicGrown, p.DestinationID, fmt.Sprintf("%d partitions", at.partitions)})
	}
	return all
}

// tellChanges notes what has happened to destination topics. That one is gone with its
// source is believed when it has been found so more than once.
func (d *Discoverer) tellChanges(plans []topicPlan, known map[string]Topic, destination map[string]found) {
	vanished, sizes := map[string]int{}, map[ledger.TopicID]int32{}
	for i := range plans {
		p, k := &plans[i], known[plans[i].Source]
		at := destination[k.Destination]
		sizes[at.id] = at.partitions
		if p.vanished {
			if vanished[p.Source] = d.vanished[p.Source] + 1; vanished[p.Source] != maxMissed {
				continue
			}
		}
		for _, h := range changesOf(p, k, at, d.sizes[p.DestinationID]) {
			d.tellOf(p, h.destination, h.what, h.text)
		}
	}
	delete(sizes, ledger.TopicID{}) // a cluster without topic ids
	d.vanished, d.sizes = vanished, sizes
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
