package tail

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/ledger"
)

// partition is one ledger partition that is read.
type partition struct {
	next    int64 // all below was delivered
	end     int64 // of the log, as of the last look
	outside bool  // a fetch was outside of the log

	// Only the reading goroutine touches these.
	read    int64 // all below was read; it is delivered when opening is nil
	chains  ledger.Chains
	whole   bool    // all before was read, so a chain must go on where it ended
	wants   []int64 // by sink: its first offset
	opening *ledger.Opening
	start   int64 // of the log, when its reading began
	until   int64 // where the log ended then: the opening is found by then, or there is none
}

// begin makes partitions that are read from where the sinks left off.
func (t *Tail) begin(cluster string, id ledger.TopicID, starts, ends map[int32]int64) map[int32]*partition {
	parts := map[int32]*partition{}
	for n, start := range starts {
		parts[n] = &partition{chains: ledger.Chains{}, wants: make([]int64, len(t.cfg.Sinks)), start: start, until: ends[n]}
	}
	for i, s := range t.cfg.Sinks {
		if r, ok := s.(Resumer); ok {
			for n, from := range r.Resume(cluster, id, starts) {
				parts[n].wants[i] = max(0, from)
			}
		}
	}
	for n, p := range parts {
		if len(p.wants) > 0 {
			p.read = slices.Min(p.wants)
		}
		p.whole = p.read == 0 && p.start == 0
		if p.read < p.start {
			p.read, p.opening = p.start, ledger.NewOpening(p.start)
			t.giveUp(p, Position{Cluster: cluster, TopicID: id, Partition: n})
		}
		if p.opening == nil {
			p.next = p.read
		}
	}
	return parts
}

// deliver hands fetched records to the sinks. It is called by one goroutine.
func (t *Tail) deliver(fetches kgo.Fetches) {
	fetches.EachPartition(func(ftp kgo.FetchTopicPartition) {
		t.mu.Lock()
		p, cluster, id, stopped := t.parts[ftp.Partition], t.cluster, t.topicID, t.status == Stopped
		t.mu.Unlock()
		if stopped || p == nil {
			return
		}
		if errors.Is(ftp.Err, kerr.OffsetOutOfRange) {
			t.lookAgain(p)
			return
		}
		if ftp.Err != nil {
			t.report(classify(ftp.Partition, ftp.Err))
		}
		if len(ftp.Records) == 0 {
			return
		}
		for _, r := range ftp.Records {
			if r.Offset < p.read {
				continue
			}
			p.read = r.Offset + 1
			if !r.Attrs.IsControl() {
				t.take(p, Position{cluster, id, ftp.Partition, r.Offset, r.Timestamp.UTC()}, r.Value)
			}
		}
		t.giveUp(p, Position{Cluster: cluster, TopicID: id, Partition: ftp.Partition})
		t.mu.Lock()
		if p.opening == nil {
			p.next = p.read
		}
		p.end = max(p.end, p.read, ftp.HighWatermark)
		if ftp.Err == nil && t.status == Reading {
			t.err = nil
		}
		t.wake()
		t.mu.Unlock()
	})
}

// lookAgain has the next look at the topic find out why a fetch was outside of a log.
func (t *Tail) lookAgain(p *partition) {
	t.mu.Lock()
	p.outside = true
	t.mu.Unlock()
	select {
	case t.hurry <- struct{}{}:
	default:
	}
}

// take is for one record: who begins at a log start above 0 keeps it until it is known
// what comes before it.
func (t *Tail) take(p *partition, pos Position, value []byte) {
	if p.opening == nil {
		t.page(p, pos, value)
		return
	}
	opened := p.opening.Take(ledger.Stored{Offset: pos.Offset, At: pos.At, Value: value})
	if opened == nil {
		return
	}
	for r, page := range opened.Pages() {
		p.chains.Follow(page)
		for i, s := range t.cfg.Sinks {
			if p.wants[i] < p.start {
				s.Fold(pos.of(r), opened.Cut.Next, page)
			}
		}
	}
	for i := range p.wants {
		if p.wants[i] < p.start {
			p.wants[i] = opened.Cut.Next
		}
	}
	p.opening, p.whole = nil, true
	for _, r := range opened.Rest {
		t.page(p, pos.of(r), r.Value)
	}
}

// giveUp delivers what was kept, if nothing stands for what is not there any more, and
// says so.
func (t *Tail) giveUp(p *partition, pos Position) {
	if p.opening == nil || p.read < p.until {
		return
	}
	for i, s := range t.cfg.Sinks {
		if pos.Offset = p.wants[i]; pos.Offset < p.start {
			s.Corrupt(pos, &GapError{Next: p.start})
			t.damageAt(pos, &GapError{Next: p.start})
		}
	}
	held := p.opening.Held()
	p.opening = nil
	for _, r := range held {
		t.page(p, pos.of(r), r.Value)
	}
}

// of is where a record of the same partition stands.
func (p Position) of(r ledger.Stored) Position {
	p.Offset, p.At = r.Offset, r.At
	return p
}

// page gives one record to every sink that has not had it.
func (t *Tail) page(p *partition, pos Position, value []byte) {
	page, err := ledger.Decode(value)
	var broken error
	switch {
	case err == nil && p.whole:
		broken = p.chains.Verify(page)
	case err == nil:
		broken = p.chains.Adopt(page)
	}
	fault := cmp.Or(err, broken)
	if fault != nil {
		t.damageAt(pos, fault)
	}
	if chain, ok := errors.AsType[*ledger.ChainError](fault); ok && chain.Old() {
		page = nil
	}
	if page != nil && page.Fold { // what it repeats was told
		page.Entries = nil
	}
	for i, s := range t.cfg.Sinks {
		if pos.Offset < p.wants[i] {
			continue
		}
		if fault != nil {
			s.Corrupt(pos, fault)
		}
		if page != nil {
			s.Apply(pos, page)
		}
	}
}

func (t *Tail) damageAt(pos Position, err error) {
	t.cfg.Log.Error("ledger damaged", "at", pos.String(), "err", err)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.damaged++
	if len(t.damage) < maxDamage {
		t.damage = append(t.damage, Damage{pos, err})
	}
}

// classify says what an error of a fetch means.
func classify(partition int32, err error) error {
	var loss *kgo.ErrDataLoss
	switch {
	case errors.As(err, &loss):
		// The log is shorter than what was read: what comes next does not follow it.
		return fmt.Errorf("read ledger partition %d: %w: %w", partition, ErrTruncated, err)
	case errors.Is(err, kerr.UnknownTopicID):
		// The brokers may only be slow to learn of a new topic: whether it is
		// another one is found out by looking at it.
		return fmt.Errorf("read ledger partition %d: topic id is not known: %w", partition, err)
	}
	return fmt.Errorf("read ledger partition %d: %w", partition, err)
}

func sortedKeys[V any](m map[int32]V) []int32 { return slices.Sorted(maps.Keys(m)) }
