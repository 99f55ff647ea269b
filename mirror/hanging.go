package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/flow"
)

const (
	// defaultHangingAfter: Kafka's own clients end their transactions within a minute
	// (transaction.timeout.ms).
	defaultHangingAfter = time.Minute
	// hangingLook is how often the source is asked whose transactions hold copies up.
	hangingLook = 30 * time.Second
	// hangingScan is how often copies are looked at for being held up, at most; it is
	// a quarter of the time after which they count as held up.
	hangingScan = time.Second
	// hangingTopics bounds a look.
	hangingTopics = 100
)

// hangings finds out whose transactions at the source hold copies back, beside the
// flow's loop: by DescribeProducers and DescribeTransactions (KIP-664), as far as
// the source lets us ask.
type hangings struct {
	busy          atomic.Bool
	scanned, last time.Time
}

func (h *hangings) kick(ctx context.Context, g *errgroup.Group, f *flowRun) {
	now := time.Now()
	if h.busy.Load() || now.Sub(h.last) < hangingLook || now.Sub(h.scanned) < max(hangingScan, f.cfg.HangingAfter/4) {
		return
	}
	h.scanned = now
	held := map[flow.TopicPartition]*copier{}
	for _, c := range f.snapshot() {
		if c.isHeld(now) && len(held) < hangingTopics {
			held[c.source()] = c
		}
	}
	if len(held) == 0 {
		return
	}
	h.last = now
	h.busy.Store(true)
	g.Go(func() error {
		defer h.busy.Store(false)
		found, err := findOpen(ctx, kadm.NewClient(f.source.client), held)
		for tp, c := range held {
			switch text, ok := found[tp]; {
			case ok:
				c.heldBy(text)
			case err != nil:
				c.heldBy(fmt.Sprintf("whose it is the source does not tell: %v", err))
			}
		}
		return nil
	})
}

// findOpen describes the oldest open transaction of each partition.
func findOpen(ctx context.Context, adm *kadm.Client, held map[flow.TopicPartition]*copier) (map[flow.TopicPartition]string, error) {
	ask := kadm.TopicsSet{}
	for tp := range held {
		ask.Add(tp.Topic, tp.Partition)
	}
	producers, err := adm.DescribeProducers(ctx, ask)
	oldest := map[flow.TopicPartition]kadm.DescribedProducer{}
	var ids []int64
	producers.EachPartition(func(p kadm.DescribedProducersPartition) {
		if p.Err != nil && err == nil {
			err = p.Err
		}
		tp := flow.TopicPartition{Topic: p.Topic, Partition: p.Partition}
		for _, producer := range p.ActiveProducers {
			have, ok := oldest[tp]
			if at := producer.CurrentTxnStartOffset; at >= 0 && (!ok || at < have.CurrentTxnStartOffset) {
				oldest[tp] = producer
			}
		}
		if producer, ok := oldest[tp]; ok && !slices.Contains(ids, producer.ProducerID) {
			ids = append(ids, producer.ProducerID)
		}
	})
	if len(oldest) == 0 {
		return nil, err
	}
	whose, why := transactionsOf(ctx, adm, ids)
	texts := map[flow.TopicPartition]string{}
	for tp, p := range oldest {
		text := fmt.Sprintf("producer id %d, epoch %d, since offset %d, last written at %s", p.ProducerID, p.ProducerEpoch, p.CurrentTxnStartOffset, time.UnixMilli(p.LastTimestamp).UTC().Format(time.RFC3339))
		switch id, known := whose[p.ProducerID]; {
		case known:
			text += ", " + id
		case why != nil:
			text += fmt.Sprintf("; which transactional id that is the source does not tell: %v", why)
		default:
			text += "; no coordinator knows it, so nobody will end it"
		}
		texts[tp] = text
	}
	return texts, err
}

// transactionsOf are the transactional ids of producers, with when each began.
func transactionsOf(ctx context.Context, adm *kadm.Client, ids []int64) (map[int64]string, error) {
	listed, err := adm.ListTransactions(ctx, ids, nil)
	if err != nil {
		return nil, err
	}
	out := map[int64]string{}
	for _, t := range listed {
		out[t.ProducerID] = fmt.Sprintf("transactional id %q (%s)", t.TxnID, t.State)
	}
	described, err := adm.DescribeTransactions(ctx, listed.TransactionalIDs()...)
	if err != nil {
		return out, nil // whose it is, is known
	}
	for _, t := range described {
		if t.Err == nil && t.StartTimestamp > 0 {
			out[t.ProducerID] = fmt.Sprintf("transactional id %q (%s, begun at %s, limit %v)", t.TxnID, t.State,
				time.UnixMilli(t.StartTimestamp).UTC().Format(time.RFC3339), time.Duration(t.TimeoutMillis)*time.Millisecond)
		}
	}
	return out, nil
}

// isHeld says that an open transaction at the source has held the copy back for
// long enough to be worth a word.
func (c *copier) isHeld(now time.Time) bool {
	c.mu.Lock()
	defer c.unlock()
	return c.held(now)
}

// held is isHeld with c.mu held.
func (c *copier) held(now time.Time) bool {
	return c.state == Running && c.committed >= c.stable && c.stable < c.end && now.Sub(c.stableAt) > c.hangingAfter
}

// heldBy takes note of what is known of the transaction that holds the copy back, and has
// the ledger told once.
func (c *copier) heldBy(text string) {
	now := time.Now()
	c.mu.Lock()
	c.holder, c.holderAt = text, c.stable
	if c.held(now) {
		reason, _ := c.heldReason(now)
		c.stall.meet(errors.New(reason), c.stableAt)
	}
	due := c.standsUntold(now)
	c.unlock()
	if due {
		c.writer.ready(c)
	}
}

// heldReason says what holds a copy back and what to do. c.mu is held.
func (c *copier) heldReason(now time.Time) (reason, fix string) {
	reason = fmt.Sprintf("a transaction at the source has been open for %v and holds %d records back", now.Sub(c.stableAt).Round(time.Second), c.end-c.stable)
	if c.holder != "" && c.holderAt == c.stable {
		reason += ": " + c.holder
	}
	fix = fmt.Sprintf("if it does not end by itself, abort it: kafka-transactions.sh abort --topic %s --partition %d --start-offset %d", c.a.SourceTopic, c.a.Partition, c.stable)
	return reason, fix
}
