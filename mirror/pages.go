package mirror

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// pageBytes is what a ledger page may take by estimate: far below the 1 MB that
// a topic takes by default, since a hop of two thousand tiles is up to 60 kB.
const pageBytes = 256 << 10

// places are the partitions of a ledger, for which one is a copy's: found once for each pair
// of topics, since a fifth of what the ledger cost with many small parts was that.
type places struct {
	n     int32
	known map[ledger.CopyID]int32 // without the topics' partitions, on which it does not depend
}

// newPlaces are as many as are written to, also where somebody has added partitions.
func newPlaces(partitions int) places {
	return places{int32(min(partitions, ledgerPartitions)), map[ledger.CopyID]int32{}}
}

// of is where all entries of a copy go.
func (p places) of(id ledger.CopyID) int32 {
	id.Source.Partition, id.Destination.Partition = 0, 0
	at, ok := p.known[id]
	if !ok {
		at = ledger.PartitionOf(id, p.n)
		p.known[id] = at
	}
	return at
}

// ofWriter is where it is told who writes, with transactions.
func (p places) ofWriter(producerID int64) int32 { return int32(uint64(producerID) % uint64(p.n)) }

func (t *transaction) places() (places, error) {
	topic := t.view.topic(ledger.Topic)
	if topic.err != nil || len(topic.partitions) == 0 {
		t.l.destination.wantRefresh()
		return places{}, fmt.Errorf("topic %s: %w", ledger.Topic, orElse(topic.err, kerr.UnknownTopicOrPartition))
	}
	return newPlaces(len(topic.partitions)), nil
}

// writeLedger sends what the transaction has to say to the ledger: for each of
// its partitions the entries of the copies there, in pages.
func (t *transaction) writeLedger(ctx context.Context) error {
	places, err := t.places()
	if err != nil {
		return err
	}
	pages := map[int32][][]ledger.Entry{}
	if t.announcement != nil {
		for at := range places.n {
			if t.l.plain || at == places.ofWriter(t.announcement.ProducerID) {
				pages[at] = [][]ledger.Entry{{t.announcement}}
			}
		}
	}
	now := time.Now().UTC()
	for _, p := range t.parts {
		// A copy that was stopped between entering and its first chunk says nothing.
		if entries := t.entriesOf(p, now); len(entries) > 0 {
			at := places.of(p.id)
			pages[at] = appendEntries(pages[at], entries)
			p.sent = !p.stands()
		}
	}
	return t.writePages(ctx, pages)
}

// declare tells the ledger, ahead of the first batches of copies that a lane without
// transactions writes for, that these have begun: what lies there without a hop is
// then known for what it may be.
func (t *transaction) declare(ctx context.Context, batches []outgoingBatch) error {
	places, err := t.places()
	if err != nil {
		return fmt.Errorf("%w: %w", errLedger, err)
	}
	pages := map[int32][][]ledger.Entry{}
	var told []*part
	now := time.Now().UTC()
	for i := range batches {
		if p := batches[i].part; p.begin && !p.begun {
			at := places.of(p.id)
			pages[at] = appendEntries(pages[at], t.begins(p, now))
			told = append(told, p)
		}
	}
	if len(told) == 0 {
		return nil
	}
	if err = t.writePages(ctx, pages); err == nil {
		err = t.drain(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errLedger, err)
	}
	for _, p := range told {
		p.begun = true
	}
	return nil
}

// writePages sends pages to the partitions of the ledger.
func (t *transaction) writePages(ctx context.Context, pages map[int32][][]ledger.Entry) error {
	var fresh []flow.TopicPartition
	for at := range pages {
		if tp := (flow.TopicPartition{Topic: ledger.Topic, Partition: at}); !t.added[tp] {
			fresh = append(fresh, tp)
			t.added[tp] = true
		}
	}
	if len(fresh) > 0 {
		if err := t.add(ctx, fresh); err != nil {
			return err
		}
	}
	for len(pages) > 0 { // one batch of a partition in a request
		if err := t.sendPages(ctx, pages); err != nil {
			return err
		}
	}
	return nil
}

// sendPages sends the first page of each partition and takes it off.
func (t *transaction) sendPages(ctx context.Context, pages map[int32][][]ledger.Entry) error {
	requests := map[int32]*requestBuilder{}
	for at, list := range pages {
		tp := flow.TopicPartition{Topic: ledger.Topic, Partition: at}
		leader, _, err := t.view.leader(tp.Topic, tp.Partition)
		if err != nil {
			t.l.destination.wantRefresh()
			return err
		}
		batch, err := t.page(at, list[0])
		if err != nil {
			return err
		}
		if requests[leader] == nil {
			requests[leader] = newRequestBuilder()
		}
		requests[leader].add(tp, batch, entry{count: 1})
		if pages[at] = list[1:]; len(list) == 1 {
			delete(pages, at)
		}
	}
	for leader, r := range requests {
		if err := t.dispatch(ctx, leader, r); err != nil {
			return err
		}
	}
	return nil
}

// page encodes entries as the next page of the lane's chain in a partition of
// the ledger.
func (t *transaction) page(at int32, entries []ledger.Entry) (record.Batch, error) {
	for _, e := range entries {
		if h, ok := e.(*ledger.Hop); ok {
			if err := h.Check(); err != nil {
				return nil, err
			}
		}
	}
	chain := t.l.chains[at]
	if chain == nil {
		chain = ledger.NewChain(t.l.writer)
		t.l.chains[at] = chain
	}
	rec := record.Record{Timestamp: time.Now().UnixMilli(), Value: chain.Encode(entries)}
	batch, err := record.Encode([]record.Record{rec}, record.NoProducer(record.None))
	if err != nil {
		return nil, err
	}
	t.stamp(batch, flow.TopicPartition{Topic: ledger.Topic, Partition: at}, 1)
	return batch, nil
}

// entriesOf is what the ledger is told about a part: that the copy's epoch has
// begun, if this is new, and where its source offsets went.
func (t *transaction) entriesOf(p *part, now time.Time) []ledger.Entry {
	var entries []ledger.Entry
	if p.begin && !p.begun {
		entries = t.begins(p, now)
	}
	// Times within a copy never go backwards, whatever the clock does.
	if p.hopAt.Before(now) {
		p.hopAt = now
	}
	switch {
	case p.stands():
		entries = append(entries, stallEvent(&t.l.Config, &p.c.a, p.id, ledger.CopyHeld, p.held, p.hopAt))
	case p.stalled != "" && (p.begin || len(p.chunks) > 0):
		entries = append(entries, stallEvent(&t.l.Config, &p.c.a, p.id, ledger.CopyStalled, p.stalled, p.hopAt))
	}
	proto := ledger.Hop{Copy: p.key, Epoch: p.c.a.Epoch, At: p.hopAt, DestinationLeaderEpoch: -1}
	if p.wrote {
		proto.DestinationLeaderEpoch = p.leaderEpoch
	}
	for _, h := range hopsOf(proto, p.chunks) {
		entries = append(entries, h)
	}
	for i := range p.chunks {
		if c := &p.chunks[i]; c.aside != nil {
			entries = append(entries, &ledger.Quarantine{
				Copy: p.key, Epoch: p.c.a.Epoch, From: c.from, Next: c.next,
				TopicID: t.view.topic(c.asideTo.Topic).id, Topic: c.asideTo.Topic, Partition: c.asideTo.Partition,
				Offset: c.base, Records: c.asideRecords, Why: c.aside.why, At: p.hopAt,
			})
		}
	}
	return entries
}

// beginOf opens an epoch of a copy.
func beginOf(cfg *Config, a *Assignment, id ledger.CopyID, resume int64, at time.Time) *ledger.Begin {
	return &ledger.Begin{
		Copy: id, Epoch: a.Epoch, Resume: resume, At: at,
		SourceCluster: a.Source.Metadata.Name, DestinationCluster: a.Destination.Metadata.Name,
		SourceTopic: a.SourceTopic, DestinationTopic: a.DestinationTopic,
		Flow: a.Flow, Fleet: cfg.Fleet, Node: cfg.Node,
	}
}

// begins is that a copy's epoch has begun, with what has to be corrected then.
func (t *transaction) begins(p *part, now time.Time) []ledger.Entry {
	lane := t.l.id
	if p.remnant != nil { // whoever comes next has to look, too
		lane = ledger.PlainLane(lane)
	}
	resume := p.from
	if p.correct != nil {
		resume = p.correct.resume
	}
	b := beginOf(&t.l.Config, &p.c.a, p.id, resume, now)
	b.Lane = lane
	entries := []ledger.Entry{b}
	if text := rulesText(p.c.a.Spec); text != "" {
		entries = append(entries, &ledger.Rules{Copy: p.key, Epoch: p.c.a.Epoch, From: resume, Text: text, At: now})
	}
	if p.correct != nil {
		r := p.correct.Retraction
		r.At = now
		entries = append(entries, &r)
	}
	return entries
}

// appendEntries adds entries to the last page, or to new ones where they do not
// fit.
func appendEntries(pages [][]ledger.Entry, entries []ledger.Entry) [][]ledger.Entry {
	size := 0
	if len(pages) > 0 {
		for _, e := range pages[len(pages)-1] {
			size += estimate(e)
		}
	} else if len(entries) > 0 {
		pages = append(pages, nil)
	}
	for _, e := range entries {
		if n := estimate(e); size > 0 && size+n > pageBytes {
			pages, size = append(pages, nil), n
		} else {
			size += n
		}
		last := &pages[len(pages)-1]
		*last = append(*last, e)
	}
	return pages
}

// estimate is at least what an entry takes on a page.
func estimate(e ledger.Entry) int {
	switch e := e.(type) {
	case *ledger.Hop:
		n := 100 + 30*(len(e.Runs)+len(e.Gaps))
		for _, r := range e.Routes {
			n += 10
			for _, l := range r {
				n += 20 + len(l.Cluster)
			}
		}
		return n
	case *ledger.Begin:
		return 200 + len(e.SourceCluster) + len(e.DestinationCluster) + len(e.SourceTopic) + len(e.DestinationTopic) +
			len(e.Flow) + len(e.Fleet) + len(e.Node) + len(e.Lane)
	case *ledger.Rules:
		return 100 + len(e.Text)
	case *ledger.Quarantine:
		return 200 + len(e.Topic) + len(e.Why)
	case *ledger.Event:
		return 200 + len(e.Source.Cluster) + len(e.Destination.Cluster) + len(e.Text) + len(e.SourceTopic) + len(e.DestinationTopic) + len(e.Flow) + len(e.Fleet)
	}
	return 500
}

func orElse(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
