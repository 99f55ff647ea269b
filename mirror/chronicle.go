package mirror

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
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
}

// maxPending bounds what is kept while the ledger does not take it. What is beyond
// it is still in the log and in the status.
const maxPending = 1000

func (c *chronicle) add(e *ledger.Event) {
	if len(c.pending) < maxPending {
		c.pending = append(c.pending, e)
	}
}

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
	e := &ledger.Event{
		Source: ledger.Life{Cluster: d.from, TopicID: p.SourceID}, Destination: ledger.Life{Cluster: d.to, TopicID: p.DestinationID},
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
		if k, ok := known[p.Source]; !ok || !p.Blocked || k.Blocked && k.State == p.State {
			continue
		}
		what := ledger.TopicRecreated
		if !p.GoneSince.IsZero() {
			what = ledger.TopicGone
		}
		d.tell(p, what, p.Problem)
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
