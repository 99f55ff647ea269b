package broker

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

const (
	// maxRuns is how many runs may gather before they are written early.
	maxRuns = 20_000
	// maxWaiting is how many may wait while the ledger takes none: some 40 MB.
	maxWaiting = 4 * maxRuns
	// pageEntries bounds a page to about 100 KB.
	pageEntries = 500
)

// provenance writes down who produced and who fetched what: production and
// access entries in the broker's own ledger. Requests only extend runs in memory,
// one look-up per partition; what touches in offsets and agrees in everything
// else is one run. Runs are written every interval and at a clean stop. A crash
// loses the last interval's, never claims what did not happen: productions are
// written after their data is committed.
//
// Internal topics and exempt principals leave nothing, so the ledger does not
// feed itself.
type provenance struct {
	log      *slog.Logger
	metrics  *Metrics
	interval time.Duration
	exempt   map[string]bool
	parts    []*replica.Partition // of the ledger
	chains   []*ledger.Chain      // of this start, by ledger partition; run's

	kick chan struct{} // many runs have gathered

	mu     sync.Mutex
	runs   map[runKey]*run
	closed []closedRun // whose key has gone on elsewhere
	lost   int64       // beyond maxWaiting, since the last flush
}

// runKey is what the entries of a run have in common.
type runKey struct {
	partition  *replica.Partition
	client     *Client           // as one connection has it
	kind       ledger.AccessKind // 0 for a production
	producerID int64             // of a production
	group      string            // of a commit
}

// run is a stretch of offsets, both inclusive.
type run struct {
	first, last int64
	firstAt, at time.Time
}

type closedRun struct {
	runKey
	run
}

func newProvenance(b *Broker) (*provenance, error) {
	t := b.topic(ledgerTopic)
	if t == nil {
		return nil, fmt.Errorf("there is no topic %s", ledgerTopic)
	}
	p := &provenance{
		log:      b.log,
		metrics:  b.metrics,
		interval: b.cfg.ProvenanceInterval,
		exempt:   map[string]bool{},
		parts:    t.partitions,
		chains:   make([]*ledger.Chain, len(t.partitions)),
		kick:     make(chan struct{}, 1),
		runs:     map[runKey]*run{},
	}
	for _, principal := range b.cfg.ProvenanceExempt {
		p.exempt[principal] = true
	}
	return p, nil
}

// produced notes that a client appended the offsets from first to last.
func (p *provenance) produced(c *Client, part *replica.Partition, producerID, first, last int64) {
	p.note(runKey{partition: part, client: c, producerID: producerID}, first, last)
}

// fetched notes that a client was sent the offsets from first to last. Fetched is
// not yet read.
func (p *provenance) fetched(c *Client, part *replica.Partition, first, last int64) {
	p.note(runKey{partition: part, client: c, kind: ledger.Fetched}, first, last)
}

// committed notes that a group's position went from one offset to another: the
// records between are read.
func (p *provenance) committed(c *Client, part *replica.Partition, group string, from, next int64) {
	p.note(runKey{partition: part, client: c, kind: ledger.Committed, group: group}, from, next-1)
}

func (p *provenance) note(key runKey, first, last int64) {
	if last < first || isInternal(key.partition.Topic) || p.exempt[key.client.Principal] {
		return
	}
	now := time.Now()
	p.mu.Lock()
	r := p.runs[key]
	full := len(p.runs)+len(p.closed) >= maxWaiting
	switch {
	case r == nil && full:
		p.lost++
	case r == nil:
		p.runs[key] = &run{first, last, now, now}
	case first >= r.first && first <= r.last+1:
		// It goes on, or is told again in part.
		r.last, r.at = max(r.last, last), now
	case full:
		p.lost++
		*r = run{first, last, now, now}
	default:
		p.closed = append(p.closed, closedRun{key, *r})
		*r = run{first, last, now, now}
	}
	many := len(p.runs)+len(p.closed) >= maxRuns
	p.mu.Unlock()
	if many {
		select {
		case p.kick <- struct{}{}:
		default:
		}
	}
}

// run writes runs until ctx ends, and then what is left.
func (p *provenance) run(ctx context.Context) error {
	tick := time.NewTicker(p.interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.kick:
		case <-ctx.Done():
			p.flush(context.WithoutCancel(ctx))
			return nil
		}
		p.flush(ctx)
	}
}

// flush writes all runs. What cannot be written is lost, and said so: requests
// do not fail for it.
func (p *provenance) flush(ctx context.Context) {
	runs, lost := p.take()
	if lost > 0 {
		p.metrics.ProvenanceLost.Add(lost)
		p.log.Error("provenance records are lost: the ledger took none for too long", "entries", lost)
	}
	if len(runs) == 0 {
		return
	}
	byPartition := make([][]ledger.Entry, len(p.parts))
	for _, r := range runs {
		if r.kind == 0 {
			if err := r.partition.WaitCommitted(ctx, r.last+1); err != nil {
				if !errors.Is(err, commitlog.ErrClosed) { // the topic was deleted
					p.metrics.ProvenanceLost.Add(1)
					p.log.Error("production record is lost", "partition", r.partition.String(), "first", r.first, "last", r.last, "err", err)
				}
				continue
			}
		}
		n := ledgerPartitionOf(r.partition.TopicID, len(p.parts))
		byPartition[n] = append(byPartition[n], r.entry())
	}
	for n, entries := range byPartition {
		if len(entries) == 0 {
			continue
		}
		if err := p.write(ctx, n, entries); err != nil {
			// The chain is broken: what follows is a new one.
			p.chains[n] = nil
			p.metrics.ProvenanceLost.Add(int64(len(entries)))
			p.log.Error("provenance records are lost", "ledger_partition", n, "entries", len(entries), "err", err)
			continue
		}
		p.metrics.ProvenanceEntries.Add(int64(len(entries)))
	}
}

// take removes all runs, in order of time, and says how many were lost before.
func (p *provenance) take() (runs []closedRun, lost int64) {
	p.mu.Lock()
	runs, open := p.closed, p.runs
	p.closed, p.runs = nil, map[runKey]*run{}
	lost, p.lost = p.lost, 0
	p.mu.Unlock()
	for key, r := range open {
		runs = append(runs, closedRun{key, *r})
	}
	slices.SortFunc(runs, func(a, b closedRun) int {
		return cmp.Or(a.firstAt.Compare(b.firstAt), cmp.Compare(a.first, b.first))
	})
	return runs, lost
}

func (r *closedRun) entry() ledger.Entry {
	place := ledger.Place{
		TopicID: r.partition.TopicID, Topic: r.partition.Topic, Partition: r.partition.Partition,
		First: r.first, Last: r.last,
	}
	client := ledger.Client{Principal: r.client.Principal, ClientID: r.client.ClientID, Software: r.client.Software, Address: r.client.Host}
	if r.kind == 0 {
		return &ledger.Production{
			Place: place, Client: client, Records: r.last - r.first + 1,
			ProducerID: r.producerID, FirstAt: r.firstAt, At: r.at,
		}
	}
	return &ledger.Access{Place: place, Client: client, Kind: r.kind, Group: r.group, FirstAt: r.firstAt, At: r.at}
}

// write appends entries to a ledger partition and waits until they are on disk.
func (p *provenance) write(ctx context.Context, n int, entries []ledger.Entry) error {
	if p.chains[n] == nil {
		var w ledger.WriterID
		rand.Read(w[:])
		w[6], w[8] = w[6]&0x0f|0x40, w[8]&0x3f|0x80 // a version 4 UUID
		p.chains[n] = ledger.NewChain(w)
	}
	var end int64
	for chunk := range slices.Chunk(entries, pageEntries) {
		page := record.Record{Timestamp: time.Now().UnixMilli(), Value: p.chains[n].Encode(chunk)}
		batch, err := record.Encode([]record.Record{page}, record.NoProducer(record.None))
		if err != nil {
			return fmt.Errorf("encode page: %w", err)
		}
		appended, err := p.parts[n].Append(batch, commitlog.FromClient)
		if err != nil {
			return fmt.Errorf("append page: %w", err)
		}
		end = appended.NextOffset()
	}
	return p.parts[n].WaitCommitted(ctx, end)
}

// ledgerPartitionOf is the ledger partition, of n, for what happened to a topic.
func ledgerPartitionOf(topicID ledger.TopicID, n int) int {
	h := fnv.New32a()
	h.Write(topicID[:])
	return int(binary.BigEndian.Uint32(h.Sum(nil)) % uint32(n))
}
