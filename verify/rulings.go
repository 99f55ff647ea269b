package verify

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/filter"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// opinion is what is found of a record that a gap has ruled out.
type opinion struct {
	count   int64     // offsets in a row of which it is
	unknown Unchecked // why nothing tells whether the reason holds, zero if something does
	kind    Kind      // if it does not hold
	wrong   string    // why, "" if it holds
}

// holds, unknowable and refuted are opinions of a number of records.
func holds(n int64) opinion                     { return opinion{count: n} }
func unknowable(n int64, why Unchecked) opinion { return opinion{count: n, unknown: why} }
func refuted(n int64, kind Kind, format string, args ...any) opinion {
	return opinion{count: n, kind: kind, wrong: fmt.Sprintf(format, args...)}
}

// gap checks that the reason of a gap holds, which an epoch of the copy gave.
func (c *comparison) gap(ctx context.Context, epoch uint64, g ledger.Gap) error {
	c.tally.gap(g.Reason, g.Count)
	c.sourceRead = false
	var judge func(h head, left int64) (opinion, error)
	switch g.Reason {
	case ledger.Compacted, ledger.Aborted, ledger.Control, ledger.Expired:
		judge = func(h head, left int64) (opinion, error) {
			return refuted(min(c.source.stretch(h), left), Readable, "the ledger says it is %v, and it can be read", g.Reason), nil
		}
	case ledger.Filtered:
		judge = func(h head, _ int64) (opinion, error) { return c.filtered(epoch, h) }
	case ledger.NotLocal, ledger.Returned, ledger.Doubled:
		judge = func(h head, left int64) (opinion, error) { return c.foreign(ctx, h, g.Reason, left) }
	case ledger.Quarantined:
		judge = func(h head, left int64) (opinion, error) { return c.inQuarantine(ctx, h, left) }
	case ledger.NotAsked: // where a flow begins is for its owner to say
		c.framed = g.Source + g.Count
		return nil
	default:
		c.differ(Difference{Kind: Unaccounted, Source: g.Source, Destination: -1, Count: g.Count, What: fmt.Sprintf("the ledger gives a reason that is not known: %v", g.Reason), Changed: ChangedLedger})
		return nil
	}
	for at, end := g.Source, g.Source+g.Count; ; {
		h, ok, err := c.source.head(ctx, at)
		if err != nil {
			return &endError{"source", err}
		}
		if at == g.Source && g.Reason != ledger.Expired {
			c.tally.unchecked(Unchecked{Why: DeletedAtSource}, min(c.source.start, end)-g.Source)
		}
		if !ok || h.offset >= end {
			return nil
		}
		if h.damage != nil && g.Reason != ledger.Quarantined {
			n := min(c.source.stretch(h), end-h.offset)
			c.differ(Difference{Kind: Damaged, Source: h.offset, Destination: -1, Count: n, What: fmt.Sprintf("source: %v", h.damage), Changed: ChangedSource})
			at = h.offset + n
			continue
		}
		o, err := judge(h, end-h.offset)
		switch {
		case err != nil:
			return err
		case o.unknown != (Unchecked{}):
			c.tally.unchecked(o.unknown, o.count)
		case o.wrong != "":
			c.differ(Difference{Kind: o.kind, Source: h.offset, Destination: -1, Count: o.count, What: o.wrong})
		}
		at = h.offset + o.count
	}
}

// filtered asks the filter that the epoch had about a record that it is said to have
// left out.
func (c *comparison) filtered(epoch uint64, h head) (opinion, error) {
	f, err := c.filterOf(epoch)
	if err != nil || f == nil {
		return unknowable(1, Unchecked{Why: FilterUnknown}), err
	}
	if h = c.source.open(h); h.record == nil {
		return c.closed(h), nil
	}
	pass, err := f.Match(c.copy.SourceTopic, c.copy.ID.Source.Partition, h.record)
	switch {
	case err != nil:
		return refuted(1, Missing, "the ledger says it is filtered, and the flow's filter has no answer for it: %v", err), nil
	case pass:
		return refuted(1, Missing, "the ledger says it is filtered, and the flow's filter lets it pass"), nil
	}
	return holds(1), nil
}

// closed is for records that cannot be taken out of their batch.
func (c *comparison) closed(h head) opinion {
	if h.damage != nil {
		return refuted(1, Damaged, "source: %v", h.damage)
	}
	c.tooLarge = true
	return unknowable(1, Unchecked{Why: TooLargeToJudge})
}

// filterOf is the filter that an epoch had, nil if that is not known.
func (c *comparison) filterOf(epoch uint64) (*filter.Filter, error) {
	if f, ok := c.filters[epoch]; ok {
		return f, nil
	}
	text, ok, err := c.entries.Rules(c.copy.ID.Key(), epoch)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	var f *filter.Filter
	var rules flow.Records
	if ok && json.Unmarshal([]byte(text), &rules) == nil && rules.Filter != "" {
		f, _ = filter.Compile(rules.Filter) // one that this version does not take is not known
	}
	if c.filters == nil {
		c.filters = map[uint64]*filter.Filter{}
	}
	c.filters[epoch] = f
	return f, nil
}

// foreign asks the ledger of the source's cluster about records that are said to be
// copies themselves.
func (c *comparison) foreign(ctx context.Context, h head, reason ledger.Reason, left int64) (opinion, error) {
	if o, told := c.told(h, reason, left); told {
		return o, nil
	}
	if c.sourceMirrors { // what a mirror took over needs no hop to be foreign
		return unknowable(1, Unchecked{Why: BroughtWithoutHop}), nil
	}
	if !c.sourceRead {
		unread, err := c.local.read(ctx, c.copy.ID.Source.Cluster)
		if err != nil || unread != (Unchecked{}) {
			return unknowable(left, unread), err
		}
		c.sourceRead = true
		if o, told := c.told(h, reason, left); told {
			return o, nil
		}
	}
	replicator, err := c.entries.Writer(c.copy.ID.Source.Cluster, h.ProducerID())
	switch {
	case err != nil:
		return opinion{}, fmt.Errorf("read the ledger: %w", err)
	case replicator: // two may claim to have written it
		return unknowable(1, Unchecked{Why: BroughtWithoutHop}), nil
	}
	return refuted(1, Missing, "the ledger says it is %v, and that of the source's cluster does not say that it was copied there", reason), nil
}

// told is what follows from what is known of the source's ledger, if it tells of a record.
func (c *comparison) told(h head, reason ledger.Reason, left int64) (o opinion, ok bool) {
	at := c.copy.ID.Source
	from, ok := c.entries.Origin(at, h.offset)
	n := max(1, min(from.Next-h.offset, c.source.stretch(h), left))
	switch {
	case !ok:
		return holds(1), reason == ledger.Doubled && c.entries.Stray(at, h.offset)
	case reason == ledger.Doubled:
		return refuted(n, Missing, "the ledger says it was written twice, and that of the source's cluster says where it is from"), true
	case reason == ledger.NotLocal, from.Route.Through(c.copy.ID.Destination.Life()):
		return holds(n), true
	case from.Untraced:
		return unknowable(n, Unchecked{Why: WayUnknown}), true
	}
	return refuted(n, Missing, "the ledger says it came from the destination, and that of the source's cluster says that it was never there"), true
}

// localLedger is the ledger of the source's cluster, which the comparisons of a run
// read one after the other. One that could not be read is not waited for by each gap
// anew.
type localLedger struct {
	cluster string
	entries Entries

	mu     sync.Mutex
	unread Unchecked // why it could not be read
	again  time.Time // when that is tried again
}

const (
	// ledgerPatience is how long one reading may take: rights that are missing are asked
	// for until somebody gives them.
	ledgerPatience = 10 * time.Second
	// ledgerAgain is between attempts.
	ledgerAgain = time.Minute
)

// read brings what is known of the ledger up to now, or says why that is not possible. An
// error says that ctx has ended.
func (l *localLedger) read(ctx context.Context, cluster string) (Unchecked, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unread != (Unchecked{}) && time.Now().Before(l.again) {
		return l.unread, ctx.Err()
	}
	patient, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	exists, err := l.entries.ReadLedger(patient, cluster)
	name := cmp.Or(l.cluster, cluster)
	switch where := name + "/" + ledger.Topic; {
	case ctx.Err() != nil:
		return Unchecked{}, ctx.Err()
	case err != nil:
		l.unread = Unchecked{
			Why: SourceLedgerUnread, Ledger: where, Problem: err.Error(),
			Fix: cmp.Or(kafka.Advice(err), fmt.Sprintf("'replicator lineage check %s' says what is wrong with it", name)) + "; then verify again",
		}
	case !exists:
		l.unread = Unchecked{Why: NoSourceLedger, Ledger: where, Problem: "there is none", Fix: "restore it if it was deleted, then verify again"}
	default:
		l.unread = Unchecked{}
	}
	l.again = time.Now().Add(ledgerAgain)
	return l.unread, nil
}
