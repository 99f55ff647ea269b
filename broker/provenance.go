package broker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// pageBytes is how large a page becomes; an entry may take it above.
const pageBytes = 128 << 10

// provenance writes down who produced and who fetched what: production and
// access entries in the broker's own ledger. Requests only extend runs in memory,
// one look-up per partition. Runs are written every interval and at a clean stop. A
// crash loses the last interval's, never claims what did not happen: productions
// are written after their data is committed.
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

	kick chan struct{} // much has gathered

	mu       sync.Mutex
	gathered gathered
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
		gathered: gathered{open: map[runKey]*run{}},
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

// fetched notes that a client is sent the offsets from first to last. Fetched is
// not yet read; noted beforehand, so that who hangs up early is not forgotten.
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
	p.gathered.note(key, first, last, now)
	much := p.gathered.bytes >= earlyBytes
	p.mu.Unlock()
	if much {
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
	p.mu.Lock()
	runs, lost := p.gathered.take()
	p.mu.Unlock()
	if lost > 0 {
		p.lose(lost, "the ledger took none for too long")
	}
	byPartition := make([][]ledger.Entry, len(p.parts))
	for _, r := range runs {
		if r.kind == 0 {
			if err := r.partition.WaitCommitted(ctx, r.last()+1); err != nil {
				if !errors.Is(err, commitlog.ErrClosed) { // the topic was deleted
					p.lose(1, "what was produced is not on disk", "partition", r.partition.String(), "first", r.first(), "last", r.last(), "err", err)
				}
				continue
			}
		}
		n := ledgerPartitionOf(r.partition.TopicID, len(p.parts))
		byPartition[n] = append(byPartition[n], r.entry())
	}
	for n, entries := range byPartition {
		if len(entries) > 0 {
			p.write(ctx, n, entries)
		}
	}
}

// lose says that entries will never be written.
func (p *provenance) lose(entries int64, why string, args ...any) {
	p.metrics.ProvenanceLost.Add(entries)
	p.log.Error("provenance records are lost", append(args, "why", why, "entries", entries)...)
}

// write appends entries to a ledger partition and waits until they are on disk. A
// page that cannot be appended is lost alone.
func (p *provenance) write(ctx context.Context, n int, entries []ledger.Entry) {
	var appended, end int64
	for len(entries) > 0 {
		page, rest := p.chain(n).EncodeUpTo(entries, pageBytes)
		written := int64(len(entries) - len(rest))
		entries = rest
		next, err := p.append(n, page)
		if err != nil {
			p.chains[n] = nil // it is broken: what follows is a new one
			p.lose(written, "the ledger refused a page", "ledger_partition", n, "err", err)
			continue
		}
		appended, end = appended+written, next
	}
	if appended == 0 {
		return
	}
	if err := p.parts[n].WaitCommitted(ctx, end); err != nil {
		p.chains[n] = nil
		p.lose(appended, "the ledger is not on disk", "ledger_partition", n, "err", err)
		return
	}
	p.metrics.ProvenanceEntries.Add(appended)
}

// chain is that of a ledger partition that goes on.
func (p *provenance) chain(n int) *ledger.Chain {
	if p.chains[n] == nil {
		var w ledger.WriterID
		rand.Read(w[:])
		w[6], w[8] = w[6]&0x0f|0x40, w[8]&0x3f|0x80 // a version 4 UUID
		p.chains[n] = ledger.NewChain(w)
	}
	return p.chains[n]
}

// append appends a page and says what to wait for.
func (p *provenance) append(n int, page []byte) (end int64, err error) {
	r := record.Record{Timestamp: time.Now().UnixMilli(), Value: page}
	batch, err := record.Encode([]record.Record{r}, record.NoProducer(record.None))
	if err != nil {
		return 0, fmt.Errorf("encode: %w", err)
	}
	appended, err := p.parts[n].Append(batch, commitlog.FromClient)
	return appended.NextOffset(), err
}

// ledgerPartitionOf is the ledger partition, of n, for what happened to a topic.
func ledgerPartitionOf(topicID ledger.TopicID, n int) int {
	h := fnv.New32a()
	h.Write(topicID[:])
	return int(binary.BigEndian.Uint32(h.Sum(nil)) % uint32(n))
}
