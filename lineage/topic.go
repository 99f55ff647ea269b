package lineage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybillhq/waybill/acl"
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
		g.answer.Unknown = append(g.answer.Unknown, "who produces and who reads: the cluster records neither"+g.x.besides(l.cluster))
	}
	g.answer.Unknown = append(append(g.answer.Unknown, g.unheard(l.cluster)...), g.unnamed()...)
	g.x.mu.RLock()
	from := g.x.ledgers[l.cluster]
	g.x.mu.RUnlock()
	if from == nil {
		return nil
	}
	no := from.no
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
		ownGroup := c.Basis == basisCommitted && g.allowed(l.cluster, acl.Group, c.Group)
		if !ownGroup && !g.everything(l.cluster) && !g.own(l.cluster, c.Principal) {
			c = Client{Redacted: true, Kind: c.Kind, Basis: c.Basis, FirstAt: c.FirstAt, At: c.At}
		}
		g.answer.Clients = append(g.answer.Clients, c)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	return nil
}
