package lineage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
)

// Errors of streams.
var (
	// ErrEnded says that the node ends its streams: another one may be asked.
	ErrEnded = errors.New("the node ends its streams")
	// ErrBusy says that as many streams are open as may be.
	ErrBusy = errors.New("too many streams are open")
)

// maxStreams bounds the streams of an index. Each costs a connection and looks at
// every notice.
const maxStreams = 100

// The kinds of what a stream tells, beside those of deeds.
const (
	copied    = "copied"
	retracted = "retracted"
	missed    = "missed"
)

// StreamKinds are what may be asked of a stream.
var StreamKinds = []string{copied, retracted, produced, ledger.Fetched.String(), ledger.Committed.String()}

// StreamQuery picks what comes into the index from now on.
type StreamQuery struct {
	Cluster string // name or cluster.id
	Topic   string // empty: all of the cluster's that the caller may see
	Kinds   []string
	// After is the id of the last event that the caller has had, if it goes on.
	After string
}

// StreamEvent is something that came into the index.
type StreamEvent struct {
	ID   string     `json:"-"`
	Kind string     `json:"kind" doc:"copied, retracted, produced, fetched, committed; missed: others are not told, see why"`
	At   *time.Time `json:"at,omitempty"`

	Source      *Stretch         `json:"source,omitempty" doc:"Of copied and retracted"`
	Destination *Stretch         `json:"destination,omitempty" doc:"Where the copies lie"`
	Flow        string           `json:"flow,omitempty"`
	Fleet       string           `json:"fleet,omitempty"`
	Node        string           `json:"node,omitempty"`
	Epoch       uint64           `json:"epoch,omitempty"`
	Records     int64            `json:"records,omitempty"`
	Bytes       int64            `json:"bytes,omitempty"`
	Gaps        map[string]int64 `json:"gaps,omitempty" doc:"Offsets that have no copy, by reason"`
	Lost        string           `json:"lost,omitempty" doc:"Of retracted: the side that lost records"`

	Place *Stretch `json:"place,omitempty" doc:"Of produced, fetched and committed"`
	Deed  *Deed    `json:"deed,omitempty"`

	Why string `json:"why,omitempty" doc:"Of missed"`
}

// Stream is one caller's view of what comes into the index. It is not safe for
// concurrent use.
type Stream struct {
	x       *Index
	caller  Caller
	query   StreamQuery
	cluster string // cluster.id
	next    uint64 // number of the next notice
	missed  string // why some are missed that were not told yet
	page    []notice
}

// streamPage is how many notices are looked at before what was found is handed on.
const streamPage = 256

// Stream opens a stream, which Close ends. Of a topic it needs Describe; of a cluster
// it tells what concerns topics that the caller may describe, judged anew all the time,
// and nothing of others: not even how many there were. Errors are those of Event, and
// [ErrBusy].
func (x *Index) Stream(ctx context.Context, caller Caller, q StreamQuery) (*Stream, error) {
	for _, k := range q.Kinds {
		if !slices.Contains(StreamKinds, k) {
			return nil, fmt.Errorf("stream: %w: kind %.40q is none of %v", ErrInvalid, k, StreamKinds)
		}
	}
	s := &Stream{x: x, caller: caller, query: q, page: make([]notice, 0, streamPage)}
	x.mu.RLock()
	s.cluster = x.clusterID(q.Cluster)
	known := x.ledgers[s.cluster] != nil || x.names[s.cluster] != "" || s.cluster != q.Cluster
	x.mu.RUnlock()
	switch {
	case q.Cluster == "":
		return nil, fmt.Errorf("stream: %w: a cluster is needed", ErrInvalid)
	case q.Topic != "" && !x.viewer(ctx, caller).allowed(s.cluster, acl.Topic, q.Topic):
		return nil, fmt.Errorf("stream: %w: %s/%s", ErrDenied, q.Cluster, q.Topic)
	case !known:
		return nil, fmt.Errorf("stream: %w: cluster %s", ErrNotFound, q.Cluster)
	}
	f := x.feed
	s.next = f.head()
	if q.After != "" {
		if n, ok := f.number(q.After); ok && n < s.next {
			s.next = n + 1
		} else {
			s.missed = "the id is not of this node since it started: what came since then is not known"
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams >= maxStreams {
		return nil, fmt.Errorf("stream: %w: %d", ErrBusy, f.streams)
	}
	f.streams++
	return s, nil
}

// Close frees what the stream holds.
func (s *Stream) Close() {
	s.x.feed.mu.Lock()
	defer s.x.feed.mu.Unlock()
	s.x.feed.streams--
}

// EndStreams ends all streams, now and later: their Next returns [ErrEnded].
func (x *Index) EndStreams() { x.feed.end() }

// Next returns what came, at least one event, or none when it waited as long as it
// may: the stream is alive. It returns [ErrEnded], [ErrDenied] when the caller has
// lost the right, or the context's error. mark is the id to go on after.
func (s *Stream) Next(ctx context.Context, wait time.Duration) (events []StreamEvent, mark string, err error) {
	f := s.x.feed
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		got, first, more := f.read(s.next, s.page)
		if more == nil {
			return nil, "", fmt.Errorf("stream: %w", ErrEnded)
		}
		v := s.x.viewer(ctx, s.caller)
		if s.query.Topic != "" && !v.allowed(s.cluster, acl.Topic, s.query.Topic) {
			return nil, "", fmt.Errorf("stream: %w: %s/%s", ErrDenied, s.query.Cluster, s.query.Topic)
		}
		if first > s.next {
			s.missed = "the reader was too slow, or away too long: what is not told is in the answers to queries"
		}
		if s.missed != "" {
			events = append(events, StreamEvent{ID: f.id(first - 1), Kind: missed, Why: s.missed})
			s.missed = ""
		}
		for i := range got {
			if e, ok := s.event(v, &got[i]); ok {
				e.ID = f.id(first + uint64(i))
				events = append(events, e)
			}
		}
		s.next = first + uint64(len(got))
		if len(events) > 0 {
			return events, f.id(s.next - 1), nil
		}
		if len(got) > 0 {
			continue
		}
		select {
		case <-more:
		case <-timer.C:
			return nil, f.id(s.next - 1), nil
		case <-ctx.Done():
			return nil, "", ctx.Err()
		}
	}
}

// event is what the caller may see of a notice, if it is one that was asked for.
func (s *Stream) event(v *viewer, n *notice) (e StreamEvent, ok bool) {
	if len(s.query.Kinds) > 0 && !slices.Contains(s.query.Kinds, n.kind) {
		return e, false
	}
	e.Kind = n.kind
	at := n.at // the notice's place will be another's
	if n.begin == nil {
		l, mine := s.sees(v, n.topic)
		if !mine || !v.topic(l) {
			return e, false
		}
		deeds := v.show(l.cluster, []Deed{n.deed})
		e.At, e.Deed = &at, &deeds[0]
		e.Place = stretchOf(l, n.deed.Partition, offsetRange{n.deed.First, n.deed.Last})
		return e, true
	}
	from, to := n.begin.Copy.Source, n.begin.Copy.Destination
	source, mine := s.sees(v, topicKey{from.Cluster, from.TopicID})
	dest, mineToo := s.sees(v, topicKey{to.Cluster, to.TopicID})
	seesSource, seesDest := v.topic(source), v.topic(dest)
	if !(mine && seesSource || mineToo && seesDest) {
		return e, false
	}
	e.Source, e.Destination = &Stretch{Redacted: true, First: -1, Last: -1}, &Stretch{Redacted: true, First: -1, Last: -1}
	if seesSource {
		e.Source = stretchOf(source, from.Partition, n.source)
	}
	if seesDest {
		e.Destination = stretchOf(dest, to.Partition, n.dest)
	}
	if seesSource && seesDest {
		b := n.begin
		e.At, e.Flow, e.Fleet, e.Node, e.Epoch = &at, b.Flow, b.Fleet, b.Node, n.epoch
		e.Records, e.Bytes, e.Gaps, e.Lost = n.records, n.bytes, n.gaps, n.lost
	}
	return e, true
}

// sees finds a topic, and says whether the stream is about it.
func (s *Stream) sees(v *viewer, k topicKey) (l life, about bool) {
	s.x.mu.RLock()
	defer s.x.mu.RUnlock()
	l = v.x.life(k)
	return l, k.cluster == s.cluster && (s.query.Topic == "" || l.name == s.query.Topic)
}

func stretchOf(l life, partition int32, offsets offsetRange) *Stretch {
	return &Stretch{
		Cluster: l.clusterName, ClusterID: l.cluster, Topic: l.name, TopicID: l.id.String(), EarlierLife: l.earlier,
		Partition: partition, First: offsets.first, Last: offsets.last,
	}
}

// tellHop notes what streams say of a hop.
func (p *page) tellHop(c *copyState, h *ledger.Hop) {
	n := notice{kind: copied, at: h.At, records: h.Records(), bytes: h.Bytes, source: rangeFrom(h.From, h.Next), dest: offsetRange{-1, -1}}
	if len(h.Runs) > 0 {
		last := h.Runs[len(h.Runs)-1]
		n.dest = rangeFrom(h.Runs[0].Destination, last.Destination+last.Count)
	}
	for _, g := range h.Gaps {
		if n.gaps == nil {
			n.gaps = map[string]int64{}
		}
		n.gaps[g.Reason.String()] += g.Count
	}
	p.tell(c, n)
}

// tellRetraction notes what streams say of a retraction that was not carried out yet.
func (p *page) tellRetraction(c *copyState, r *ledger.Retraction) {
	p.tell(c, notice{
		kind: retracted, at: r.At, lost: r.Lost.String(),
		source: rangeFrom(r.Source, c.next), dest: rangeFrom(r.Destination, c.destNext),
	})
}

func (p *page) tell(c *copyState, n notice) {
	if c.begin == nil || p.folded {
		return // nobody knows between which topics; or it is no news
	}
	n.begin, n.epoch = c.begin, c.epoch
	p.notices = append(p.notices, n)
}

// tellDeed notes what streams say of a production or an access.
func (p *page) tellDeed(e ledger.Entry, at ledger.Place) {
	if p.folded {
		return
	}
	d, _, _ := deed(e, at.First, at.Last)
	p.notices = append(p.notices, notice{kind: d.Kind, at: d.At, topic: topicKey{p.l.cluster, at.TopicID}, deed: d})
}
