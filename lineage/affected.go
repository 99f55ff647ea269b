package lineage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// AffectedQuery asks what a cluster, a topic, or offsets of a partition concern.
type AffectedQuery struct {
	Cluster string // name or cluster.id
	Topic   string // "": the whole cluster
	TopicID string
	// Partition is below 0 for all of the topic. From and Last, inclusive, are offsets
	// of it; a Last below 0 is the end.
	Partition  int32
	From, Last int64
}

// Affected is everything downstream of what was asked about: where copies of it are,
// who reads any of them, and the flows and runbooks that are about them.
type Affected struct {
	Topics   []AffectedTopic   `json:"topics" doc:"In the order of their distance; those asked about come first"`
	Readers  []Reader          `json:"readers"`
	Flows    []AffectedFlow    `json:"flows"`
	Runbooks []AffectedRunbook `json:"runbooks"`
	// Unknown lists what cannot be said, and why.
	Unknown   []string `json:"unknown,omitempty"`
	Truncated []string `json:"truncated,omitempty" doc:"What bounds cut the answer off"`
}

// AffectedTopic is a topic with copies in it, or one that was asked about. Partitions
// says which, if the question was about one: first is -1 for all of a partition.
type AffectedTopic struct {
	TopicNode
	Hops       int                 `json:"hops"`
	Partitions []AffectedPartition `json:"partitions,omitempty"`
}

// AffectedPartition is the offsets concerned of one partition: Offsets of them from
// First to Last.
type AffectedPartition struct {
	Partition int32 `json:"partition"`
	First     int64 `json:"first" doc:"-1: all, or none yet"`
	Last      int64 `json:"last" doc:"Inclusive; -1: the end"`
	Offsets   int64 `json:"offsets" doc:"-1: all of them"`
}

// Reader is somebody who reads one of the topics. Of others the caller sees no more
// than that without Describe on the cluster; of groups, without Describe on the group.
type Reader struct {
	Topic     int        `json:"topic" doc:"Index of topics"`
	Redacted  bool       `json:"redacted,omitempty"`
	Basis     []string   `json:"basis" doc:"accesses: the cluster has recorded it; committed-offsets: the group has committed a position there, as the cluster says now or a node saw"`
	Kind      string     `json:"kind" doc:"fetched (sent, not yet read) or committed"`
	Group     string     `json:"group,omitempty"`
	Principal string     `json:"principal,omitempty"`
	ClientID  string     `json:"clientId,omitempty"`
	At        *time.Time `json:"at,omitempty" doc:"Last access"`
	Reached   bool       `json:"reached" doc:"It has read some of the offsets, by what is known or its position shows; else it has still to come to them, or went over them and that was no reading that is known"`
}

// The bases of a Reader.
const (
	basisAccesses  = "accesses"
	basisCommitted = "committed-offsets"
)

// AffectedFlow is a flow that is about one of the topics: one that has copied from
// there, by the ledgers, or is declared to.
type AffectedFlow struct {
	Redacted bool     `json:"redacted,omitempty"`
	Fleet    string   `json:"fleet,omitempty"`
	Flow     string   `json:"flow,omitempty"`
	Basis    []string `json:"basis,omitempty" doc:"copies, declared"`
}

// AffectedRunbook is a runbook that is about one of the flows.
type AffectedRunbook struct {
	Runbook string `json:"runbook"`
	Flow    string `json:"flow"`
}

// Affected says what is downstream of a cluster, a topic or offsets of a partition.
// A whole cluster needs Describe on it. Other errors are those of Event.
func (x *Index) Affected(ctx context.Context, caller Caller, q AffectedQuery) (*Affected, error) {
	r := &reach{viewer: x.viewer(ctx, caller), q: q, byTopic: map[topicKey]int{}}
	if err := r.begin(); err != nil {
		return nil, fmt.Errorf("what is affected: %w", err)
	}
	r.sort()
	if err := r.readers(); err != nil {
		return nil, fmt.Errorf("what is affected: %w", err)
	}
	r.flows()
	r.found.Unknown = append(r.found.Unknown, r.unnamed()...)
	return r.answer(), nil
}

// reach is what lies downstream. Everything is seen; sort and answer take out what
// the caller may not see.
type reach struct {
	*viewer
	q       AffectedQuery
	cluster string // cluster.id asked about
	topics  []reached
	byTopic map[topicKey]int
	edges   []reachedBy
	heard   int // entries of who has read that were looked at
	found   Affected
}

type reached struct {
	life       life
	hops       int
	hidden     bool
	partitions map[int32]spans // of a question about one; nil spans are all of it
}

// reachedBy is a copy on the way.
type reachedBy struct {
	from, to    topicKey
	fleet, flow string
}

func (r *reach) begin() error {
	q := r.q
	if q.Topic == "" {
		return r.wholeCluster()
	}
	if q.Last >= 0 && q.Last < q.From {
		return fmt.Errorf("%w: it ends at offset %d, before it begins at %d", ErrInvalid, q.Last, q.From)
	}
	l, err := r.find(Address{Cluster: q.Cluster, Topic: q.Topic, TopicID: q.TopicID, Partition: max(q.Partition, 0), Offset: q.From})
	if err != nil {
		return err
	}
	r.cluster = l.cluster
	switch start := (place{topicKey: l.topicKey, partition: q.Partition}).end(); {
	case q.Partition < 0:
		r.meet(l.topicKey, 0)
		r.downstream()
	case q.From == 0 && q.Last < 0:
		r.wholePartitions(start)
	default:
		return r.offsets(start)
	}
	return nil
}

// wholeCluster begins with all topics of a cluster that any ledger mentions.
func (r *reach) wholeCluster() error {
	x := r.x
	if r.q.Cluster == "" {
		return fmt.Errorf("%w: a cluster is needed", ErrInvalid)
	}
	x.mu.RLock()
	r.cluster = x.clusterID(r.q.Cluster)
	var lives []life
	for k := range x.topics {
		if k.cluster == r.cluster {
			lives = append(lives, x.life(k))
		}
	}
	x.mu.RUnlock()
	if !r.everything(r.cluster) {
		return fmt.Errorf("%w: cluster %s as a whole needs Describe on it", ErrDenied, r.q.Cluster)
	}
	if len(lives) == 0 {
		return fmt.Errorf("%w: cluster %s", ErrNotFound, r.q.Cluster)
	}
	slices.SortFunc(lives, func(a, b life) int {
		return cmp.Or(strings.Compare(a.name, b.name), slices.Compare(a.id[:], b.id[:]))
	})
	for _, l := range lives {
		r.meet(l.topicKey, 0)
	}
	r.downstream()
	return nil
}

// meet is the index of a topic, -1 if it is one too many.
func (r *reach) meet(k topicKey, hops int) int {
	if i, ok := r.byTopic[k]; ok {
		return i
	}
	switch limits := r.x.cfg.Limits; {
	case len(r.topics) >= limits.Nodes:
		r.cut(fmt.Sprintf("after %d topics", limits.Nodes))
		return -1
	case hops > limits.Depth:
		r.cut(fmt.Sprintf("after %d hops", limits.Depth))
		return -1
	}
	r.x.mu.RLock()
	l := r.x.life(k)
	r.x.mu.RUnlock()
	r.byTopic[k] = len(r.topics)
	r.topics = append(r.topics, reached{life: l, hops: hops})
	return r.byTopic[k]
}

func (r *reach) cut(why string) {
	if !slices.Contains(r.found.Truncated, why) {
		r.found.Truncated = append(r.found.Truncated, why)
	}
}

// downstream goes from topics to those that are copied from them.
func (r *reach) downstream() {
	next := map[topicKey][]reachedBy{}
	r.x.mu.RLock()
	for _, c := range r.x.copies {
		if c.begin == nil {
			continue
		}
		e := edgeOf(c)
		if !slices.Contains(next[e.from], e) {
			next[e.from] = append(next[e.from], e)
		}
	}
	r.x.mu.RUnlock()
	for i := 0; i < len(r.topics); i++ {
		edges := next[r.topics[i].life.topicKey]
		slices.SortFunc(edges, func(a, b reachedBy) int {
			return cmp.Or(strings.Compare(a.to.cluster, b.to.cluster), slices.Compare(a.to.id[:], b.to.id[:]), strings.Compare(a.flow, b.flow))
		})
		for _, e := range edges {
			if r.meet(e.to, r.topics[i].hops+1) >= 0 {
				r.edges = append(r.edges, e)
			}
		}
	}
}

func edgeOf(c *copyState) reachedBy {
	s, d := c.begin.Copy.Source, c.begin.Copy.Destination
	return reachedBy{topicKey{s.Cluster, s.TopicID}, topicKey{d.Cluster, d.TopicID}, c.begin.Fleet, c.begin.Flow}
}

// wholePartitions goes from partition to partition, without a look at what was copied.
func (r *reach) wholePartitions(start ledger.End) {
	type at struct {
		end  ledger.End
		hops int
	}
	queue, seen := []at{{start, 0}}, map[ledger.End]bool{start: true}
	r.note(start, 0, nil)
	for i := 0; i < len(queue); i++ {
		from, _ := r.x.copiesAt(queue[i].end)
		for k := range from {
			far := from[k].begin.Copy.Destination
			switch {
			case !seen[far] && len(queue) >= r.x.cfg.Limits.Nodes:
				r.cut(fmt.Sprintf("after %d partitions", r.x.cfg.Limits.Nodes))
				continue
			case !r.note(far, queue[i].hops+1, nil):
				continue
			case !seen[far]:
				seen[far] = true
				queue = append(queue, at{far, queue[i].hops + 1})
			}
			r.edges = append(r.edges, edgeOf(&from[k]))
		}
	}
}

// offsets goes along the hops of a range.
func (r *reach) offsets(start ledger.End) error {
	asked := span{r.q.From, math.MaxInt64}
	if r.q.Last >= 0 {
		asked.next = min(r.q.Last, math.MaxInt64-1) + 1
	}
	f := r.x.family(r.ctx, Downstream)
	err := f.walk(start, asked)
	if errors.Is(err, errEnough) {
		r.cut(fmt.Sprintf("after %d looks at the index: ask about fewer offsets, or about the whole partition", r.x.cfg.Limits.Looks))
	} else if err != nil {
		return err
	}
	if f.cut != "" {
		r.cut(f.cut)
	}
	r.note(start, 0, f.places[0].has)
	for i := range f.links {
		l := &f.links[i]
		if !slices.ContainsFunc(l.pieces, func(p piece) bool { return p.copied() || p.reason == reasonPending }) {
			continue
		}
		to := &f.places[l.to]
		if has := append(spans{}, to.has...); r.note(to.end, to.hops, has) {
			r.edges = append(r.edges, edgeOf(&l.copyState))
		}
	}
	r.found.Unknown = append(r.found.Unknown, r.rangeDoubts(f)...)
	return nil
}

// note notes that offsets of a partition are concerned, all of them if has is nil.
func (r *reach) note(e ledger.End, hops int, has spans) bool {
	i := r.meet(topicKey{e.Cluster, e.TopicID}, hops)
	if i < 0 {
		return false
	}
	if r.topics[i].partitions == nil {
		r.topics[i].partitions = map[int32]spans{}
	}
	r.topics[i].partitions[e.Partition] = has
	return true
}

// sort puts topics in the order of their distance; of those at one, what is hidden
// comes last, so that the order tells nothing of it.
func (r *reach) sort() {
	for i := range r.topics {
		r.topics[i].hidden = !r.topic(r.topics[i].life)
	}
	slices.SortStableFunc(r.topics, func(a, b reached) int {
		hidden := 0
		if a.hidden != b.hidden {
			hidden = 1
			if b.hidden {
				hidden = -1
			}
		}
		return cmp.Or(cmp.Compare(a.hops, b.hops), hidden, strings.Compare(a.life.clusterName, b.life.clusterName),
			strings.Compare(a.life.name, b.life.name), slices.Compare(a.life.id[:], b.life.id[:]))
	})
	for i, t := range r.topics {
		r.byTopic[t.life.topicKey] = i
	}
}

func (r *reach) answer() *Affected {
	a := &r.found
	for _, t := range r.topics {
		if t.hidden {
			a.Topics = append(a.Topics, AffectedTopic{TopicNode: TopicNode{Redacted: true}, Hops: t.hops})
			continue
		}
		l := t.life
		node := AffectedTopic{Hops: t.hops, TopicNode: TopicNode{
			Cluster: l.clusterName, ClusterID: l.cluster, Topic: l.name, TopicID: l.id.String(), EarlierLife: l.earlier,
		}}
		for p, has := range t.partitions {
			part := AffectedPartition{Partition: p, First: -1, Last: -1, Offsets: -1}
			if has != nil {
				part.Offsets = 0
			}
			for _, s := range has {
				part.Offsets += s.next - s.first
				part.First, part.Last = has[0].first, s.next-1
				if s.next == math.MaxInt64 {
					part.Last, part.Offsets = -1, -1
				}
			}
			node.Partitions = append(node.Partitions, part)
		}
		slices.SortFunc(node.Partitions, func(a, b AffectedPartition) int { return cmp.Compare(a.Partition, b.Partition) })
		a.Topics = append(a.Topics, node)
	}
	slices.Sort(a.Unknown)
	a.Unknown = slices.Compact(a.Unknown)
	return a
}

// flows notes the flows and runbooks that are about the topics.
func (r *reach) flows() {
	type name struct{ fleet, flow string }
	bases := map[name][]string{}
	hidden := false
	for _, e := range r.edges {
		if r.topics[r.byTopic[e.from]].hidden || r.topics[r.byTopic[e.to]].hidden {
			hidden = true
			continue
		}
		bases[name{e.fleet, e.flow}] = []string{"copies"}
	}
	r.found.Flows, r.found.Runbooks = []AffectedFlow{}, []AffectedRunbook{}
	if r.x.cfg.Live != nil {
		for _, d := range r.x.cfg.Live.Declared() {
			n := name{d.Fleet, d.Flow}
			if r.declaredFor(&d) {
				bases[n] = append(bases[n], "declared")
			}
			if bases[n] == nil {
				continue
			}
			for _, runbook := range d.Runbooks {
				r.found.Runbooks = append(r.found.Runbooks, AffectedRunbook{runbook, d.Flow})
			}
		}
	}
	for n, basis := range bases {
		r.found.Flows = append(r.found.Flows, AffectedFlow{Fleet: n.fleet, Flow: n.flow, Basis: basis})
	}
	slices.SortFunc(r.found.Flows, func(a, b AffectedFlow) int {
		return cmp.Or(strings.Compare(a.Fleet, b.Fleet), strings.Compare(a.Flow, b.Flow))
	})
	slices.SortFunc(r.found.Runbooks, func(a, b AffectedRunbook) int {
		return cmp.Or(strings.Compare(a.Runbook, b.Runbook), strings.Compare(a.Flow, b.Flow))
	})
	if hidden {
		r.found.Flows = append(r.found.Flows, AffectedFlow{Redacted: true})
	}
}

// declaredFor says whether a flow is declared to copy one of the topics that the
// caller may see or, if a whole cluster is asked about, has an end there.
func (r *reach) declaredFor(d *DeclaredFlow) bool {
	if r.q.Topic == "" && (d.Source == r.cluster || d.Destination == r.cluster) {
		return true
	}
	return slices.ContainsFunc(r.topics, func(t reached) bool {
		return !t.hidden && !t.life.earlier && t.life.cluster == d.Source && d.Topics(t.life.name)
	})
}

// clustersOf are the visible topics by cluster.
func (r *reach) clustersOf() map[string][]string {
	all := map[string][]string{}
	for _, t := range r.topics {
		if !t.hidden && !t.life.earlier {
			all[t.life.cluster] = append(all[t.life.cluster], t.life.name)
		}
	}
	return all
}

// committed asks every cluster for its groups, all at once.
func (r *reach) committed() map[string]clusterGroups {
	var mu sync.Mutex
	var asking sync.WaitGroup
	all := map[string]clusterGroups{}
	for cluster, topics := range r.clustersOf() {
		if r.x.cfg.Live == nil {
			break
		}
		asking.Go(func() {
			at, more, err := r.x.cfg.Live.Groups(r.ctx, cluster, topics)
			mu.Lock()
			defer mu.Unlock()
			all[cluster] = clusterGroups{at, more, err}
		})
	}
	asking.Wait()
	return all
}

type clusterGroups struct {
	at   []GroupPosition
	more string
	err  error
}
