package lineage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Topic says where a topic comes from and where it goes, over any number of
// clusters, how fast and how far behind, and who produces to it and reads it. Errors
// are those of Event.
func (x *Index) Topic(ctx context.Context, caller Caller, at Address, q PaceQuery) (*Graph, error) {
	if q.Window = cmp.Or(q.Window, DefaultWindow); q.Window < time.Second || q.Window > MaxWindow {
		return nil, fmt.Errorf("lineage of a topic: %w: rates over %s; a second to %s can be asked for", ErrInvalid, q.Window, MaxWindow)
	}
	v := x.viewer(ctx, caller)
	l, err := v.find(at)
	if err != nil {
		return nil, fmt.Errorf("lineage of a topic: %w", err)
	}
	g := &graph{viewer: v, seen: map[topicKey]int{}}
	g.walk(l.topicKey)
	g.redact()
	if err := g.paces(q); err != nil {
		return nil, fmt.Errorf("lineage of a topic: %w", err)
	}
	if err := g.clients(l); err != nil {
		return nil, fmt.Errorf("lineage of a topic: %w", err)
	}
	return &g.answer, nil
}

// graph walks topics in memory; nothing of it is as large as events are.
type graph struct {
	*viewer
	answer Graph
	seen   map[topicKey]int
	lives  []life
	depths []int
	drawn  [][]copyState // of each copy in the answer, by source partition
}

func (g *graph) walk(start topicKey) {
	x := g.x
	x.mu.RLock()
	defer x.mu.RUnlock()
	g.meet(start, 0)
	type pair struct{ from, to topicKey }
	links := map[pair][]*copyState{}
	next := map[topicKey][]pair{}
	for _, c := range x.copies {
		if c.begin == nil {
			continue
		}
		s, d := c.begin.Copy.Source, c.begin.Copy.Destination
		p := pair{topicKey{s.Cluster, s.TopicID}, topicKey{d.Cluster, d.TopicID}}
		if links[p] == nil {
			next[p.from], next[p.to] = append(next[p.from], p), append(next[p.to], p)
		}
		links[p] = append(links[p], c)
	}
	drawn := map[pair]bool{}
	for i := 0; i < len(g.lives); i++ {
		ps := next[g.lives[i].topicKey]
		slices.SortStableFunc(ps, func(a, b pair) int {
			return cmp.Or(cmp.Compare(a.from.cluster, b.from.cluster), cmp.Compare(a.to.cluster, b.to.cluster),
				slices.Compare(a.from.id[:], b.from.id[:]), slices.Compare(a.to.id[:], b.to.id[:]))
		})
		for _, p := range ps {
			from, to := g.meet(p.from, g.depths[i]+1), g.meet(p.to, g.depths[i]+1)
			if from < 0 || to < 0 || drawn[p] {
				continue
			}
			drawn[p] = true
			slices.SortFunc(links[p], func(a, b *copyState) int {
				return cmp.Or(cmp.Compare(a.begin.Copy.Source.Partition, b.begin.Copy.Source.Partition), slices.Compare(a.key[:], b.key[:]))
			})
			copies := make([]copyState, 0, len(links[p]))
			for _, c := range links[p] {
				copies = append(copies, *c)
			}
			g.drawn = append(g.drawn, copies)
			g.answer.Copies = append(g.answer.Copies, topicCopy(from, to, links[p]))
		}
	}
}

// meet is the index of a topic in the answer, -1 if it is one too many.
func (g *graph) meet(k topicKey, depth int) int {
	if i, ok := g.seen[k]; ok {
		return i
	}
	switch limits := g.x.cfg.Limits; {
	case len(g.lives) >= limits.Nodes:
		g.answer.Truncated = fmt.Sprintf("after %d topics", limits.Nodes)
		return -1
	case depth > limits.Depth:
		g.answer.Truncated = fmt.Sprintf("after %d hops", limits.Depth)
		return -1
	}
	l := g.x.life(k)
	g.seen[k] = len(g.lives)
	g.lives, g.depths = append(g.lives, l), append(g.depths, depth)
	g.answer.Topics = append(g.answer.Topics, TopicNode{
		Cluster: l.clusterName, ClusterID: k.cluster, Topic: l.name, TopicID: k.id.String(), EarlierLife: l.earlier,
	})
	return g.seen[k]
}

// topicCopy sums up copies that are in the order of their source partitions.
func topicCopy(from, to int, copies []*copyState) TopicCopy {
	last := slices.MaxFunc(copies, func(a, b *copyState) int { return a.begin.At.Compare(b.begin.At) })
	t := TopicCopy{From: from, To: to, Flow: last.begin.Flow, Fleet: last.begin.Fleet}
	for _, c := range copies {
		p := PartitionCopy{
			Source: c.begin.Copy.Source.Partition, Destination: c.begin.Copy.Destination.Partition, Start: c.start, Next: c.next,
			DestinationNext: c.destNext, Records: c.records, Bytes: c.bytes, Epoch: c.epoch, LastAt: millis(c.lastAt),
		}
		for r, n := range c.gaps {
			if n > 0 {
				if p.Gaps == nil {
					p.Gaps = map[string]int64{}
				}
				p.Gaps[ledger.Reason(r).String()] = n
			}
		}
		t.Partitions = append(t.Partitions, p)
	}
	return t
}

func (g *graph) redact() {
	hidden := make([]bool, len(g.lives))
	for i, l := range g.lives {
		if i > 0 && !g.topic(l) {
			hidden[i] = true
			g.answer.Topics[i] = TopicNode{Redacted: true}
		}
	}
	for i, c := range g.answer.Copies {
		if hidden[c.From] || hidden[c.To] {
			g.answer.Copies[i] = TopicCopy{From: c.From, To: c.To}
		}
	}
}

var errEnough = errors.New("enough")

// clients adds who produced to the topic and who read it.
func (g *graph) clients(l life) error {
	if !g.x.tells(l.cluster) {
		g.answer.Unknown = append(g.answer.Unknown, "who produces and who reads: the cluster records neither")
		return nil
	}
	g.x.mu.RLock()
	no := g.x.ledgers[l.cluster].no
	g.x.mu.RUnlock()
	prefix := key(no, kindClient, l.id[:])
	err := g.x.scan(prefix, func(k, v []byte) error {
		if len(g.answer.Clients) == g.x.cfg.Limits.Deeds {
			g.answer.More = true
			return errEnough
		}
		c, err := clientOf(k[len(prefix):], v)
		if err != nil {
			return err
		}
		if !g.everything(l.cluster) && !g.own(l.cluster, c.Principal) {
			c = Client{Redacted: true, Kind: c.Kind, FirstAt: c.FirstAt, At: c.At}
		}
		g.answer.Clients = append(g.answer.Clients, c)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

// Gaps lists the source offsets from at.Offset to last, of a partition, that a flow
// has no copy of and why, ordered by source offset, at most the limit for deeds. If
// there are more, they lie behind the end of the farthest one listed. Flows into
// topics that the caller may not see are left without names. Errors are those of
// Event.
func (x *Index) Gaps(ctx context.Context, caller Caller, at Address, last int64) (gaps []Gap, more bool, err error) {
	v := x.viewer(ctx, caller)
	l, err := v.find(at)
	if err != nil {
		return nil, false, fmt.Errorf("gaps: %w", err)
	}
	limit, cut := x.cfg.Limits.Deeds, int64(math.MaxInt64)
	from, _ := x.copiesAt(place{topicKey: l.topicKey, partition: at.Partition}.end())
	for _, c := range from {
		ofCopy, unseen, err := v.gapsOf(&c, at.Offset, last)
		if err != nil {
			return nil, false, fmt.Errorf("gaps: %w", err)
		}
		gaps, cut = append(gaps, ofCopy...), min(cut, unseen)
	}
	slices.SortStableFunc(gaps, func(a, b Gap) int { return cmp.Compare(a.Source, b.Source) })
	if len(gaps) > limit {
		cut = min(cut, gaps[limit].Source)
	}
	if cut == math.MaxInt64 {
		return gaps, false, nil
	}
	return gapsBefore(gaps, max(cut, gaps[0].Source+1)), true, nil
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

// gapsOf lists those of one copy from first to last, up to the limit for deeds;
// the first one beyond the limit begins at unseen, math.MaxInt64 if there is none.
func (v *viewer) gapsOf(c *copyState, first, last int64) (gaps []Gap, unseen int64, err error) {
	x := v.x
	dest := c.begin.Copy.Destination
	x.mu.RLock()
	there := x.life(topicKey{dest.Cluster, dest.TopicID})
	x.mu.RUnlock()
	label := Gap{Flow: c.begin.Flow, Cluster: there.clusterName, Topic: there.name}
	if !v.topic(there) {
		label = Gap{}
	}
	prefix := key(c.ledger, kindHop, c.key[:])
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	ok := it.SeekLT(append(append([]byte(nil), prefix...), u64(first+1)...)) || it.First()
	for ; ok && last64(it.Key()) <= last; ok = it.Next() {
		if err := v.ctx.Err(); err != nil {
			return nil, 0, err
		}
		e, err := ledger.ReadEntry(it.Value())
		if err != nil {
			return nil, 0, err
		}
		h, isHop := e.(*ledger.Hop)
		if !isHop {
			return nil, 0, errStored
		}
		for _, g := range h.Gaps {
			begin, end := max(g.Source, first), min(g.Source+g.Count, last+1)
			if begin >= end {
				continue
			}
			if n := len(gaps); n > 0 {
				if p := &gaps[n-1]; p.Source+p.Count == begin && p.Reason == g.Reason.String() {
					p.Count += end - begin
					continue
				}
			}
			if len(gaps) == x.cfg.Limits.Deeds {
				return gaps, begin, nil
			}
			gap := label
			gap.Source, gap.Count, gap.Reason = begin, end-begin, g.Reason.String()
			gaps = append(gaps, gap)
		}
	}
	return gaps, math.MaxInt64, nil
}
