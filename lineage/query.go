package lineage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// Event says everything that is known of one event: where it was produced, where
// its copies lie, who produced it and who read it. It returns ErrDenied,
// ErrNotFound or ErrInvalid, wrapped, for an address that it cannot answer.
//
// It answers from what was read of the ledgers so far; who wants what was written
// a moment ago lets their tails catch up first.
func (x *Index) Event(ctx context.Context, caller Caller, at Address) (_ *Answer, err error) {
	v := x.viewer(ctx, caller)
	l, err := v.find(at)
	if err != nil {
		return nil, fmt.Errorf("lineage of an event: %w", err)
	}
	w := &walk{viewer: v, store: x.read(), seen: map[place]int{}, queue: make([]visit, 0, usualPlaces)}
	w.answer.Nodes = make([]Node, 0, usualPlaces)
	defer func() { err = errors.Join(err, w.store.Close()) }()
	w.meet(place{l.topicKey, at.Partition, at.Offset}, 0)
	for i := 0; i < len(w.queue); i++ {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("lineage of an event: %w", err)
		}
		if err := w.visit(i); err != nil {
			return nil, fmt.Errorf("lineage of an event: %w", err)
		}
	}
	if err := w.exists(at); err != nil {
		return nil, fmt.Errorf("lineage of an event: %w", err)
	}
	w.redact()
	w.answer.Nodes[0].Unknown = append(w.answer.Nodes[0].Unknown, v.unnamed()...)
	return &w.answer, nil
}

// exists asks the cluster whether there is the event that was asked about, if no ledger tells
// of its offset: what lies behind the end of a log was not produced there, nor will it be copied
// next. It returns ErrNotFound, wrapped, if there is none.
func (w *walk) exists(at Address) error {
	asked, first := w.queue[0], &w.answer.Nodes[0]
	if w.x.cfg.Live == nil || asked.life.earlier || !first.Origin || len(first.Produced) > 0 || at.Offset < w.x.known(asked.end()) {
		return nil
	}
	end, err := w.logEnd(asked.life, at.Partition)
	switch {
	case errors.Is(err, ErrNotFound):
		return err
	case err != nil:
		first.Origin = false
		first.Unknown = append(first.Unknown, fmt.Sprintf("whether there is such an event: no ledger tells of it, and where the log ends is not known: %v", err))
	case at.Offset >= end:
		return fmt.Errorf("%w: offset %d of %s/%s/%d, which ends at offset %d", ErrNotFound, at.Offset, at.Cluster, at.Topic, at.Partition, end)
	}
	return nil
}

// logEnd is where a partition of a topic ends now, by its cluster. It returns ErrNotFound,
// wrapped, if the topic is there and the partition is not.
func (v *viewer) logEnd(l life, partition int32) (int64, error) {
	ends, err := v.x.cfg.Live.Ends(v.ctx, l.cluster, map[string]ledger.TopicID{l.name: l.id})
	if err != nil {
		return 0, err
	}
	if end, ok := ends[flow.TopicPartition{Topic: l.name, Partition: partition}]; ok {
		return end, nil
	}
	if len(ends) == 0 {
		return 0, errors.New("the cluster does not show the topic now")
	}
	return 0, fmt.Errorf("%w: partition %d of topic %s in cluster %s", ErrNotFound, partition, l.name, l.clusterName)
}

// usualPlaces are as many as most events lie at.
const usualPlaces = 4

// place is where an event lies.
type place struct {
	topicKey
	partition int32
	offset    int64
}

func (p place) end() ledger.End {
	return ledger.End{Cluster: p.cluster, TopicID: p.id, Partition: p.partition}
}

func placeAt(e ledger.End, offset int64) place {
	return place{topicKey{e.Cluster, e.TopicID}, e.Partition, offset}
}

// walk goes from place to place, each once, in the order of their distance. It
// sees everything; what the caller may not see is taken out at the end, so that
// a hidden place does not hide what lies behind it.
type walk struct {
	*viewer
	store  *reading
	answer Answer
	seen   map[place]int
	queue  []visit
}

type visit struct {
	place
	life  life
	depth int
	by    []ledger.CopyKey // the copies by which it was met as their destination
}

// meet is the index of a place in the answer, -1 if it is one too many.
func (w *walk) meet(p place, depth int) int {
	if i, ok := w.seen[p]; ok {
		return i
	}
	switch limits := w.x.cfg.Limits; {
	case len(w.queue) >= limits.Nodes:
		w.answer.Truncated = fmt.Sprintf("after %d places", limits.Nodes)
		return -1
	case depth > limits.Depth:
		w.answer.Truncated = fmt.Sprintf("after %d hops", limits.Depth)
		return -1
	}
	w.x.mu.RLock()
	l := w.x.life(p.topicKey)
	w.x.mu.RUnlock()
	i := len(w.queue)
	w.seen[p] = i
	w.queue = append(w.queue, visit{place: p, life: l, depth: depth})
	w.answer.Nodes = append(w.answer.Nodes, Node{
		Cluster: l.clusterName, ClusterID: p.cluster, Topic: l.name, TopicID: p.id.String(), Partition: p.partition, Offset: p.offset,
		EarlierLife: l.earlier,
	})
	return i
}

// visit finds out what is known of the i-th place, and meets its neighbours.
func (w *walk) visit(i int) error {
	at := w.queue[i]
	from, into, err := w.store.copiesAt(at.end())
	if err != nil {
		return err
	}
	came, err := w.upstream(i, into)
	if err != nil {
		return err
	}
	if err := w.downstream(i, from); err != nil {
		return err
	}
	return w.deeds(i, came, into)
}

// upstream meets where the event came from.
func (w *walk) upstream(i int, into []copyState) (came bool, err error) {
	at := w.queue[i]
	for _, c := range into {
		if slices.Contains(at.by, c.key) { // no copy writes one record from two
			came = true
			continue
		}
		h, source, err := w.store.hopByDest(&c, at.offset)
		if err != nil {
			return false, err
		}
		if h == nil {
			lost, err := w.store.lostAtSource(&c, at.offset)
			if err != nil {
				return false, err
			}
			w.answer.Nodes[i].SourceLost = w.answer.Nodes[i].SourceLost || lost
			came = came || lost
			continue
		}
		came = true
		if j := w.meet(placeAt(c.begin.Copy.Source, source), at.depth+1); j >= 0 {
			if err := w.edge(j, i, &c, h, source); err != nil {
				return false, err
			}
		}
	}
	return came, nil
}

// downstream meets where copies of the event went, and notes who has none.
func (w *walk) downstream(i int, from []copyState) error {
	at := w.queue[i]
	for _, c := range from {
		dest := c.begin.Copy.Destination
		w.x.mu.RLock()
		there := w.x.life(topicKey{dest.Cluster, dest.TopicID})
		w.x.mu.RUnlock()
		n := NotCopied{Flow: c.begin.Flow, Cluster: there.clusterName, Topic: there.name}
		h, err := w.store.hopBySource(&c, at.offset)
		if err != nil {
			return err
		}
		if h != nil {
			offset, gap, copied := imageOf(h, at.offset)
			if copied {
				if j := w.meet(placeAt(dest, offset), at.depth+1); j >= 0 {
					w.queue[j].by = append(w.queue[j].by, c.key)
					if err := w.edge(i, j, &c, h, at.offset); err != nil {
						return err
					}
				}
				continue
			}
			n.Reason = gap.String()
			if why := w.x.claim(&c, at.offset); why != "" {
				n.Reason, n.Why = reasonUnknown, saidToBe(gap.String(), why)
			}
		} else if n.Reason, n.Why, err = w.beyond(&c, at, there); err != nil {
			return err
		}
		if n.Reason == "" {
			continue
		}
		if !w.topic(there) {
			n = NotCopied{Redacted: true}
		}
		w.answer.Nodes[i].NotCopied = append(w.answer.Nodes[i].NotCopied, n)
	}
	return nil
}

// beyond is why a copy has no hop that speaks of the event, "" if there is nothing to be
// said about that.
func (w *walk) beyond(c *copyState, at visit, there life) (reason, why string, err error) {
	switch doubt, lost := w.x.claim(c, at.offset), w.x.lostStart(c); {
	case at.offset >= c.next && there.earlier:
		return "", "", nil // nor will it have: what has taken its place has a copy of its own
	case at.offset >= c.next && doubt != "":
		return reasonUnknown, doubt, nil
	case at.offset >= c.next && at.life.earlier:
		return "ended", fmt.Sprintf("the topic was deleted when offsets below %d had been copied", c.next), nil
	case at.offset >= c.next:
		return "pending", fmt.Sprintf("copied up to offset %d", c.next), nil
	case at.offset < c.start && lost != "":
		return reasonUnknown, lost, nil
	case at.offset < c.start:
		return "before-start", fmt.Sprintf("the copy began at offset %d", c.start), nil
	}
	why, err = w.x.silence(c, at.offset)
	return reasonUnknown, why, err
}

// saidToBe is why an offset that was said to be in a gap may not be.
func saidToBe(reason, doubt string) string { return "it was said to be " + reason + ", but " + doubt }

// imageOf is what a hop says of a source offset that it holds.
func imageOf(h *ledger.Hop, offset int64) (dest int64, gap ledger.Reason, copied bool) {
	for _, r := range h.Runs {
		if r.Source <= offset && offset < r.Source+r.Count {
			return r.Destination + offset - r.Source, 0, true
		}
	}
	for _, g := range h.Gaps {
		if g.Source <= offset && offset < g.Source+g.Count {
			return 0, g.Reason, false
		}
	}
	return 0, 0, false
}

// edge notes one copying, once.
func (w *walk) edge(from, to int, c *copyState, h *ledger.Hop, source int64) error {
	for _, e := range w.answer.Edges {
		if e.From == from && e.To == to {
			return nil
		}
	}
	b, err := w.x.beginOf(c, h.Epoch)
	if err != nil {
		return err
	}
	e := Edge{From: from, To: to, Flow: b.Flow, Fleet: b.Fleet, ReplicaNode: b.Node, Epoch: h.Epoch, Since: since(h), Uncertain: w.x.claim(c, source)}
	if !h.At.IsZero() {
		e.At = new(time.Time)
		*e.At = h.At
	}
	for _, r := range h.Runs {
		if r.Source <= source && source < r.Source+r.Count {
			e.Path = pathName(r.Path)
		}
	}
	w.answer.Edges = append(w.answer.Edges, e)
	return nil
}

func pathName(p ledger.Path) string {
	switch p {
	case 0:
		return "" // it was folded
	case ledger.Raw:
		return "raw"
	case ledger.Reencoded:
		return "re-encoded"
	case ledger.Altered:
		return "altered"
	}
	return fmt.Sprintf("path(%d)", uint8(p))
}

// deeds notes who produced the event at the i-th place and who read it there, and
// whether it was produced there at all, if no copy is known that brought it.
func (w *walk) deeds(i int, came bool, into []copyState) error {
	at, node, limit := w.queue[i], &w.answer.Nodes[i], w.x.cfg.Limits.Deeds
	q := runQuery{kind: kindProduction, topic: at.topicKey, partition: at.partition, first: at.offset, last: at.offset, limit: limit}
	var morePs, moreAs []byte
	var err error
	if node.Produced, morePs, err = w.store.runs(q); err != nil {
		return err
	}
	if node.Accesses, moreAs, err = w.store.accesses(q); err != nil {
		return err
	}
	node.More = morePs != nil || moreAs != nil
	if node.Origin = !came; !came && len(node.Produced) == 0 { // who copies is not told of as a producer
		why, err := w.x.unclaimed(at.cluster, into)
		if err != nil {
			return err
		}
		if node.Origin = why == ""; why != "" {
			node.Unknown = append(node.Unknown, whenceUnknown+w.ofLedger(at.cluster, why))
		}
	}
	switch tells := w.x.tells(at.cluster); {
	case !tells:
		node.Unknown = append(node.Unknown, "who produced and who read here: the cluster records neither"+w.x.besides(at.cluster))
	case node.Origin && len(node.Produced) == 0:
		node.Unknown = append(node.Unknown, "who produced here: the cluster's ledger has no record of it")
	}
	node.Unknown = append(node.Unknown, w.unheard(at.cluster)...)
	node.Produced, node.Accesses = w.show(at.cluster, node.Produced), w.show(at.cluster, node.Accesses)
	return nil
}

// redact takes out the places whose topics the caller may not see.
func (w *walk) redact() {
	hidden := make([]bool, len(w.queue))
	for i, at := range w.queue {
		if i > 0 && !w.topic(at.life) {
			hidden[i] = true
			w.answer.Nodes[i] = Node{Redacted: true}
		}
	}
	for i, e := range w.answer.Edges {
		if hidden[e.From] || hidden[e.To] {
			w.answer.Edges[i] = Edge{From: e.From, To: e.To}
		}
	}
}
