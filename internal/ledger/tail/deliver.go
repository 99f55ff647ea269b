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
	next int64 // all below was delivered
	end  int64 // of the log, as of the last look

	// Only the reading goroutine touches these.
	chains ledger.Chains
	whole  bool    // read from offset 0, so a chain must begin at its beginning
	wants  []int64 // by sink: its first offset
}

// begin makes a partition that is read from where the sinks left off, and says
// where that is. What they want and the log no longer has is reported to them.
func (t *Tail) begin(cluster string, id ledger.TopicID, n int32, start int64) *partition {
	p := &partition{chains: ledger.Chains{}, wants: make([]int64, len(t.cfg.Sinks))}
	for i, s := range t.cfg.Sinks {
		if r, ok := s.(Resumer); ok {
			p.wants[i] = max(0, r.Resume(cluster, id, n))
		}
	}
	if len(p.wants) > 0 {
		p.next = slices.Min(p.wants)
	}
	p.whole = p.next == 0 && start == 0
	for i, s := range t.cfg.Sinks {
		if p.wants[i] < start {
			pos := Position{Cluster: cluster, TopicID: id, Partition: n, Offset: p.wants[i]}
			s.Corrupt(pos, &GapError{Next: start})
			t.damageAt(pos, &GapError{Next: start})
		}
	}
	p.next = max(p.next, start)
	return p
}

// deliver hands fetched records to the sinks. It is called by one goroutine.
func (t *Tail) deliver(fetches kgo.Fetches) {
	fetches.EachPartition(func(ftp kgo.FetchTopicPartition) {
		t.mu.Lock()
		p, cluster, id, stopped := t.parts[ftp.Partition], t.cluster, t.topicID, t.status == Stopped
		t.mu.Unlock()
		if stopped {
			return
		}
		if ftp.Err != nil {
			t.report(classify(ftp.Partition, ftp.Err))
		}
		if p == nil || len(ftp.Records) == 0 {
			return
		}
		next := p.next
		for _, r := range ftp.Records {
			if r.Offset < next {
				continue
			}
			if !r.Attrs.IsControl() {
				t.page(p, Position{cluster, id, ftp.Partition, r.Offset, r.Timestamp.UTC()}, r.Value)
			}
			next = r.Offset + 1
		}
		t.mu.Lock()
		p.next, p.end = next, max(p.end, next, ftp.HighWatermark)
		if ftp.Err == nil && t.status == Reading {
			t.err = nil
		}
		t.wake()
		t.mu.Unlock()
	})
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
	case errors.As(err, &loss), errors.Is(err, kerr.OffsetOutOfRange):
		// The log is shorter than what was read, or a start that lay in it has
		// gone: either way what comes next does not follow what was read.
		return fmt.Errorf("read ledger partition %d: %w: %w", partition, ErrTruncated, err)
	case errors.Is(err, kerr.UnknownTopicID):
		// The brokers may only be slow to learn of a new topic: whether it is
		// another one is found out by looking at it.
		return fmt.Errorf("read ledger partition %d: topic id is not known: %w", partition, err)
	}
	return fmt.Errorf("read ledger partition %d: %w", partition, err)
}

func sortedKeys[V any](m map[int32]V) []int32 { return slices.Sorted(maps.Keys(m)) }
