package broker

import (
	"cmp"
	"container/list"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/controller"
)

// Fetch sessions (KIP-227): the broker remembers which partitions a client reads,
// and where. The client then names only what has changed, and the answer only
// what has news. Session id and epoch of a request say what it is:
//
//	id 0, epoch -1   no session: everything is named, as before v7
//	id 0, epoch 0    everything is named, and a session may begin
//	id n, epoch e    session n goes on, with its e-th request
//	id n, epoch 0/-1 session n ends, and what the epoch says for id 0
//
// A session begins only if there is room for it: see [sessionCache.admit]. A client
// that gets id 0 back goes on without.
const (
	sessionBegins = 0
	sessionNone   = -1
)

const (
	// sessionIdle is how long a session keeps its place against newcomers, after
	// its last request or, against larger ones, after its first
	// (min.incremental.fetch.session.eviction.ms).
	sessionIdle = 2 * time.Minute
	// maxSessionPartitions bounds the partitions of all sessions together, each of
	// which takes some 250 bytes.
	maxSessionPartitions = 400_000
)

// fetchKey names a partition as a client does: by topic id from v13 on, by name
// before.
type fetchKey struct {
	topic     string
	id        controller.TopicID
	partition int32
}

// fetchWant is what a client wants of a partition.
type fetchWant struct {
	offset      int64
	maxBytes    int32
	leaderEpoch int32 // it believes in, or -1
	lastEpoch   int32 // of the record before offset, or -1
}

// fetchSession is one client's session. The cache's lock guards it.
type fetchSession struct {
	id        int32
	principal string
	byID      bool  // its requests name topics by id
	epoch     int32 // of the next request
	began     time.Time
	used      time.Time
	parts     map[fetchKey]*list.Element // of *sessionPart
	order     list.List                  // in which they are read
}

// sessionPart is one partition of a session, and what the client knows of it.
// highWatermark is -1 if it has to be told again.
type sessionPart struct {
	key                     fetchKey
	want                    fetchWant
	highWatermark, logStart int64
}

func (s *fetchSession) set(key fetchKey, want fetchWant) {
	if e := s.parts[key]; e != nil {
		e.Value.(*sessionPart).want = want
		return
	}
	s.parts[key] = s.order.PushBack(&sessionPart{key: key, want: want, highWatermark: -1, logStart: -1})
}

func (s *fetchSession) forget(key fetchKey) {
	if e := s.parts[key]; e != nil {
		s.order.Remove(e)
		delete(s.parts, key)
	}
}

// sessionCache holds all sessions. It is safe for concurrent use.
type sessionCache struct {
	slots int

	mu   sync.Mutex
	byID map[int32]*fetchSession
	held int // partitions of all of them
}

func newSessionCache(slots int) *sessionCache {
	return &sessionCache{slots: slots, byID: map[int32]*fetchSession{}}
}

// fetchContext is what one request is about, and how it is answered.
type fetchContext struct {
	cache     *sessionCache
	principal string
	byID      bool
	begins    bool          // a session may begin with this request
	session   *fetchSession // that goes on, or nil
	epoch     int32         // that the session expects while this request is under way
	parts     []fetchPart   // in the order in which to read them
}

// begin works out what a request is about. Its error is the whole answer.
func (c *sessionCache) begin(q *kmsg.FetchRequest, principal string, now time.Time) (*fetchContext, *kerr.Error) {
	x := &fetchContext{cache: c, principal: principal, byID: q.Version >= fetchTopicID}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.byID[q.SessionID]
	if s != nil && s.principal != principal {
		s = nil // a number that was guessed
	}
	if q.SessionEpoch == sessionBegins || q.SessionEpoch == sessionNone {
		if s != nil {
			c.remove(s)
		}
		x.begins = q.SessionEpoch == sessionBegins && c.slots > 0
		x.parts = named(q)
		return x, nil
	}
	switch {
	case s == nil:
		return nil, kerr.FetchSessionIDNotFound
	case s.byID != x.byID:
		return nil, kerr.FetchSessionTopicIDError
	case s.epoch != q.SessionEpoch:
		return nil, kerr.InvalidFetchSessionEpoch
	}
	c.update(s, q)
	if len(s.parts) == 0 {
		c.remove(s)
		return x, nil
	}
	if c.held > maxSessionPartitions {
		c.remove(s)
		return nil, kerr.FetchSessionIDNotFound
	}
	s.epoch, s.used = nextSessionEpoch(s.epoch), now
	x.session, x.epoch = s, s.epoch
	x.parts = make([]fetchPart, 0, len(s.parts))
	for e := s.order.Front(); e != nil; e = e.Next() {
		p := e.Value.(*sessionPart)
		x.parts = append(x.parts, fetchPart{key: p.key, want: p.want})
	}
	return x, nil
}

// named are the partitions that a request names, each once: the last word counts.
func named(q *kmsg.FetchRequest) []fetchPart {
	n := 0
	for i := range q.Topics {
		n += len(q.Topics[i].Partitions)
	}
	parts := make([]fetchPart, 0, n)
	seen := make(map[fetchKey]int, n)
	eachWanted(q, func(key fetchKey, want fetchWant) {
		if at, again := seen[key]; again {
			parts[at].want = want
			return
		}
		seen[key] = len(parts)
		parts = append(parts, fetchPart{key: key, want: want})
	})
	return parts
}

func eachWanted(q *kmsg.FetchRequest, do func(fetchKey, fetchWant)) {
	for i := range q.Topics {
		t := &q.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			do(fetchKey{t.Topic, t.TopicID, p.Partition}, fetchWant{
				offset: p.FetchOffset, maxBytes: p.PartitionMaxBytes,
				leaderEpoch: p.CurrentLeaderEpoch, lastEpoch: p.LastFetchedEpoch,
			})
		}
	}
}

// update changes a session as a request says.
func (c *sessionCache) update(s *fetchSession, q *kmsg.FetchRequest) {
	before := len(s.parts)
	eachWanted(q, s.set)
	for i := range q.ForgottenTopics {
		t := &q.ForgottenTopics[i]
		for _, p := range t.Partitions {
			s.forget(fetchKey{t.Topic, t.TopicID, p})
		}
	}
	c.held += len(s.parts) - before
}

func nextSessionEpoch(epoch int32) int32 {
	if epoch == math.MaxInt32 {
		return 1
	}
	return epoch + 1
}

// finish decides which partitions the answer names, and returns the session id
// that it carries. A session notes what the client will know, and that partitions
// that had records come last the next time, so that none is starved.
func (x *fetchContext) finish(now time.Time) (id int32, failed *kerr.Error) {
	if x.session == nil {
		for i := range x.parts {
			x.parts[i].told = true
		}
		if !x.begins || len(x.parts) == 0 {
			return 0, nil
		}
		return x.cache.start(x, now), nil
	}
	x.cache.mu.Lock()
	defer x.cache.mu.Unlock()
	s := x.session
	if s.epoch != x.epoch { // another request has used the session meanwhile
		return 0, kerr.InvalidFetchSessionEpoch
	}
	for i := range x.parts {
		p := &x.parts[i]
		if e := s.parts[p.key]; e != nil {
			p.told = e.Value.(*sessionPart).tell(p)
			if p.size > 0 {
				s.order.MoveToBack(e)
			}
		}
	}
	return s.id, nil
}

// tell says whether p is news to the client, and notes what it then knows.
func (s *sessionPart) tell(p *fetchPart) bool {
	if p.err != nil || p.diverging != nil {
		s.highWatermark = -1
		return true
	}
	news := p.size > 0 || p.highWatermark != s.highWatermark || p.logStart != s.logStart
	s.highWatermark, s.logStart = p.highWatermark, p.logStart
	return news
}

// start begins a session with the partitions of a request that named them all;
// it returns 0 if there is no room.
func (c *sessionCache) start(x *fetchContext, now time.Time) int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.admit(len(x.parts), now) {
		return 0
	}
	s := &fetchSession{
		principal: x.principal, byID: x.byID, epoch: 1, began: now, used: now,
		parts: make(map[fetchKey]*list.Element, len(x.parts)),
	}
	for s.id == 0 || c.byID[s.id] != nil {
		s.id = 1 + rand.Int32N(math.MaxInt32)
	}
	for i := range x.parts {
		p := &x.parts[i]
		s.set(p.key, p.want)
		s.parts[p.key].Value.(*sessionPart).tell(p)
	}
	c.byID[s.id] = s
	c.held += len(s.parts)
	return s.id
}

// admit makes room for a session of a size, if it may, as Apache Kafka does: in
// place of the one that was not used for longest, if that is two minutes, or else
// of the smallest that has lived for two minutes, if it is smaller. So clients
// that begin sessions and never use them cannot drive out those that do.
func (c *sessionCache) admit(size int, now time.Time) bool {
	if c.held+size > maxSessionPartitions {
		return false
	}
	if len(c.byID) < c.slots {
		return true
	}
	var idlest, smallest *fetchSession
	for _, s := range c.byID {
		if idlest == nil || s.used.Before(idlest.used) {
			idlest = s
		}
		if now.Sub(s.began) > sessionIdle && (smallest == nil || cmp.Or(cmp.Compare(len(s.parts), len(smallest.parts)), cmp.Compare(s.id, smallest.id)) < 0) {
			smallest = s
		}
	}
	switch {
	case idlest != nil && now.Sub(idlest.used) > sessionIdle:
		c.remove(idlest)
	case smallest != nil && len(smallest.parts) < size:
		c.remove(smallest)
	default:
		return false
	}
	return true
}

func (c *sessionCache) remove(s *fetchSession) {
	delete(c.byID, s.id)
	c.held -= len(s.parts)
	s.epoch = sessionNone // whoever still answers a request of it is refused
}
