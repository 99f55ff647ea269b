package lineage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// GapPage is offsets of a partition that flows have no copy of.
type GapPage struct {
	Gaps []Gap `json:"gaps"`
	Next int64 `json:"next,omitempty" doc:"Where to ask on from; absent: that was all"`
	// Unknown lists what cannot be said beside what the gaps themselves say, and why.
	Unknown []string `json:"unknown,omitempty"`
}

// Gaps lists the source offsets from at.Offset to last, of a partition, that a flow
// has no copy of and why, ordered by source offset, at most the limit for deeds, after
// at most the limit for looks at hops of each copy; those that its ledger is silent of
// are unknown. Of a flow into a topic that the caller may not see they are redacted:
// neither names nor reasons.
// Errors are those of Event.
func (x *Index) Gaps(ctx context.Context, caller Caller, at Address, last int64) (*GapPage, error) {
	v := x.viewer(ctx, caller)
	l, err := v.find(at)
	if err != nil {
		return nil, fmt.Errorf("gaps: %w", err)
	}
	limit, cut := x.cfg.Limits.Deeds, int64(math.MaxInt64)
	page := &GapPage{Gaps: []Gap{}}
	from, _ := x.copiesAt(place{topicKey: l.topicKey, partition: at.Partition}.end())
	for i := range from {
		list, err := v.gapsOf(&from[i], at.Offset, last)
		if err != nil {
			return nil, fmt.Errorf("gaps: %w", err)
		}
		page.Gaps, cut = append(page.Gaps, list.gaps...), min(cut, list.unseen)
		if list.doubt != "" {
			page.Unknown = append(page.Unknown, list.doubt)
		}
	}
	page.Unknown = append(page.Unknown, v.unnamed()...)
	slices.Sort(page.Unknown)
	page.Unknown = slices.Compact(page.Unknown)
	slices.SortStableFunc(page.Gaps, func(a, b Gap) int { return cmp.Compare(a.Source, b.Source) })
	if len(page.Gaps) > limit {
		cut = min(cut, page.Gaps[limit].Source)
	}
	if cut < math.MaxInt64 {
		next := max(cut, at.Offset+1)
		if page.Gaps = gapsBefore(page.Gaps, next); next <= last {
			page.Next = next
		}
	}
	return page, nil
}

// gapsBefore is the part of gaps, which are in order, before a source offset.
func gapsBefore(gaps []Gap, end int64) []Gap {
	for i := range gaps {
		if gaps[i].Source >= end {
			return gaps[:i]
		}
		gaps[i].Count = min(gaps[i].Count, end-gaps[i].Source)
	}
	return gaps
}

// gapList is gaps of one copy, in order.
type gapList struct {
	asked  span
	label  Gap  // what all of them have
	hidden bool // the caller may not see why
	limit  int
	gaps   []Gap
	unseen int64  // where the first one beyond a limit may begin, math.MaxInt64 if there is none
	doubt  string // why there may be others, or some of them none
}

// add is false if there are too many.
func (l *gapList) add(s span, reason, why string) bool {
	s = s.within(l.asked)
	if s.empty() {
		return true
	}
	if l.hidden { // runs of different reasons become one, so that their ends tell nothing
		reason, why = reasonRedacted, ""
	}
	if n := len(l.gaps); n > 0 {
		if p := &l.gaps[n-1]; p.Source+p.Count == s.first && p.Reason == reason && p.Why == why {
			p.Count += s.next - s.first
			return true
		}
	}
	if len(l.gaps) == l.limit {
		l.unseen = s.first
		return false
	}
	g := l.label
	g.Source, g.Count, g.Reason, g.Why = s.first, s.next-s.first, reason, why
	l.gaps = append(l.gaps, g)
	return true
}

// gapsOf lists those of one copy from first to last, up to the limits.
func (v *viewer) gapsOf(c *copyState, first, last int64) (list gapList, err error) {
	x := v.x
	list = gapList{asked: span{first, last + 1}, limit: x.cfg.Limits.Deeds, unseen: math.MaxInt64}
	if list.doubt = x.claim(c, first); list.doubt == "" && first < c.start {
		list.doubt = x.lostStart(c)
	}
	dest := c.begin.Copy.Destination
	x.mu.RLock()
	there := x.life(topicKey{dest.Cluster, dest.TopicID})
	x.mu.RUnlock()
	if list.hidden = !v.topic(there); !list.hidden {
		list.label = Gap{Flow: c.begin.Flow, Cluster: there.clusterName, Topic: there.name}
	} else if list.doubt != "" {
		list.doubt = whyHidden
	}
	silent := func(s span) (fits bool, err error) {
		if s = s.within(list.asked); s.empty() {
			return true, nil
		}
		why, err := x.silence(c, s.first)
		return list.add(s, reasonUnknown, why), err
	}
	prefix := key(c.ledger, kindHop, c.key[:])
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return list, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	at := max(first, c.start)
	ok := it.SeekLT(slices.Concat(prefix, u64(first+1))) || it.First()
	for looks := 0; ok && last64(it.Key()) <= last; ok = it.Next() {
		if err := v.ctx.Err(); err != nil {
			return list, err
		}
		if looks++; looks > x.cfg.Limits.Looks {
			list.unseen = at
			return list, nil
		}
		h, err := readHop(it.Value())
		if err != nil {
			return list, err
		}
		if fits, err := silent(span{at, h.From}); err != nil || !fits {
			return list, err
		}
		at = max(at, h.Next)
		doubt := x.claim(c, h.From)
		for _, g := range h.Gaps {
			reason, why := g.Reason.String(), ""
			if doubt != "" {
				reason, why = reasonUnknown, saidToBe(reason, doubt)
			}
			if !list.add(span{g.Source, g.Source + g.Count}, reason, why) {
				return list, nil
			}
		}
	}
	_, err = silent(span{at, c.next})
	return list, err
}
