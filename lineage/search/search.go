package search

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// Cluster is a cluster that is searched.
type Cluster interface {
	// Topic looks a topic up. It returns [ErrNotFound], wrapped, if there is none.
	Topic(ctx context.Context, name string) (Topic, error)
	// After says where each partition's first record lies that is stamped at a time or
	// later. Where there is none, Offset is the end, and Time is zero.
	After(ctx context.Context, topic string, at time.Time) (map[int32]Stamp, error)
	// Read makes one fetch and hands on its committed records from offset on, in order,
	// until each returns false.
	Read(ctx context.Context, from Partition, offset int64, each func(*record.Record) bool) (Stretch, error)
}

// Topic is one life of a topic, as it is now.
type Topic struct {
	ID         ledger.TopicID
	Partitions map[int32]Bounds
}

// Bounds of a partition: Start <= Stable <= End.
type Bounds struct {
	Start, Stable, End int64 // log start, last stable offset, high watermark
}

// Stamp is where a record lies, and its timestamp.
type Stamp struct {
	Offset int64
	Time   time.Time
}

// Partition is one of a life of a topic.
type Partition struct {
	Topic   string
	TopicID ledger.TopicID
	Number  int32
}

// Stretch is what one fetch showed.
type Stretch struct {
	Next   int64 // where to go on
	Bytes  int64
	Unread []Unread
}

// Unread is a batch that cannot be taken apart.
type Unread struct {
	First, Next int64
	Err         error
}

// Caller is who asks.
type Caller struct {
	Principal string // "User:name", as the API authenticated it
	Host      string // address without port
}

// Config is what a Searcher needs.
type Config struct {
	// Allowed says what a caller may do to a topic of a cluster.id, with that cluster's
	// rights.
	Allowed func(ctx context.Context, caller Caller, cluster string, op acl.Operation, topic string) bool
	// Open finds a cluster by name or cluster.id; id is its cluster.id.
	Open   func(name string) (c Cluster, id string, err error)
	Limits Limits
}

// Limits bound one page, and the pages at a time.
type Limits struct {
	Events   int           // 0 is 500
	Records  int64         // 0 is 1,000,000
	Bytes    int64         // as read; 0 is 64 MiB. The last fetch may go beyond it
	Time     time.Duration // 0 is 10 s. The last fetch may go beyond it
	Parallel int           // 0 is 2
}

// Searcher searches.
type Searcher struct {
	cfg   Config
	slots chan struct{} // one for each search under way
}

// New returns a Searcher.
func New(cfg Config) *Searcher {
	l := &cfg.Limits
	l.Events = cmp.Or(l.Events, 500)
	l.Records, l.Bytes = cmp.Or(l.Records, 1_000_000), cmp.Or(l.Bytes, 64<<20)
	l.Time, l.Parallel = cmp.Or(l.Time, 10*time.Second), cmp.Or(l.Parallel, 2)
	return &Searcher{cfg: cfg, slots: make(chan struct{}, l.Parallel)}
}

// Search answers one page of a query. It returns one of the errors of this package,
// wrapped, for a query that it cannot answer; any other error is the cluster's.
func (s *Searcher) Search(ctx context.Context, caller Caller, q Query) (*Page, error) {
	page, err := s.search(ctx, caller, q)
	if err != nil {
		return nil, fmt.Errorf("search %s/%s: %w", shown(q.Cluster), shown(q.Topic), err)
	}
	return page, nil
}

func (s *Searcher) search(ctx context.Context, caller Caller, q Query) (*Page, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	right := acl.Describe
	if q.inRecords() {
		right = acl.Read
	}
	cluster, err := s.open(ctx, caller, q.Cluster, q.Topic, right)
	if err != nil {
		return nil, err
	}
	release, err := s.slot()
	if err != nil {
		return nil, err
	}
	defer release()
	topic, err := cluster.Topic(ctx, q.Topic)
	if err != nil {
		return nil, err
	}
	partitions, err := q.partitions(slices.Sorted(maps.Keys(topic.Partitions)))
	if err != nil {
		return nil, err
	}
	if !q.inRecords() {
		return byTime(ctx, cluster, &q, partitions)
	}
	return s.scan(ctx, cluster, &q, topic, partitions)
}

// open finds a cluster in which the caller has a right on the topic.
func (s *Searcher) open(ctx context.Context, caller Caller, name, topic string, right acl.Operation) (Cluster, error) {
	cluster, id, err := s.cfg.Open(name)
	if err != nil {
		return nil, err
	}
	if !s.cfg.Allowed(ctx, caller, id, right, topic) {
		return nil, fmt.Errorf("%w: %v on the topic is needed", ErrDenied, right)
	}
	return cluster, nil
}

func (s *Searcher) slot() (release func(), err error) {
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, nil
	default:
		return nil, fmt.Errorf("%w: this node is reading for %d searches already", ErrBusy, s.cfg.Limits.Parallel)
	}
}

// byTime is the first event of each partition at or after a time.
func byTime(ctx context.Context, c Cluster, q *Query, partitions []int32) (*Page, error) {
	stamps, err := c.After(ctx, q.Topic, q.Since)
	if err != nil {
		return nil, err
	}
	page := &Page{Events: []Event{}, Scanned: []Scanned{}}
	for _, p := range partitions {
		if at, ok := stamps[p]; ok && !at.Time.IsZero() {
			page.Events = append(page.Events, Event{q.Cluster, q.Topic, p, at.Offset, at.Time})
		}
	}
	return page, nil
}

// scan is one page of a search through records.
type scan struct {
	cluster Cluster
	query   *Query
	topic   Topic
	limits  Limits
	until   time.Time // when the page ends
	page    Page
	records int64
	bytes   int64
}

func (s *Searcher) scan(ctx context.Context, c Cluster, q *Query, topic Topic, partitions []int32) (*Page, error) {
	at, rest, err := q.goOn(topic.ID, partitions)
	if err != nil {
		return nil, err
	}
	sc := &scan{
		cluster: c, query: q, topic: topic, limits: s.cfg.Limits, until: time.Now().Add(s.cfg.Limits.Time),
		page: Page{Events: []Event{}, Scanned: []Scanned{}},
	}
	if q.Limit > 0 && q.Limit < sc.limits.Events {
		sc.limits.Events = q.Limit
	}
	from, to, err := sc.stamps(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range rest {
		here := sc.extent(p, from, to, at)
		if err := sc.partition(ctx, &here); err != nil {
			return nil, err
		}
		if here.next < here.end {
			sc.page.Next = here.String()
			return &sc.page, nil
		}
	}
	return &sc.page, nil
}

// stamps are where Since and Until lie, nil where there is no such bound.
func (sc *scan) stamps(ctx context.Context) (from, to map[int32]Stamp, err error) {
	if !sc.query.Since.IsZero() {
		if from, err = sc.cluster.After(ctx, sc.query.Topic, sc.query.Since); err != nil {
			return nil, nil, err
		}
	}
	if !sc.query.Until.IsZero() {
		to, err = sc.cluster.After(ctx, sc.query.Topic, sc.query.Until)
	}
	return from, to, err
}

// extent is what of a partition is to be looked through, and says what lies in it and
// cannot be. Where the page before has been in it, that page has set its end.
func (sc *scan) extent(p int32, from, to map[int32]Stamp, at *place) place {
	bounds := sc.topic.Partitions[p]
	here := place{search: sc.query.name(), topicID: sc.topic.ID, partition: p, next: bounds.Start, end: bounds.End}
	if at != nil && at.partition == p {
		here.next, here.end = max(at.next, bounds.Start), min(at.end, bounds.Stable)
		here.end = max(here.end, here.next)
		return here
	}
	if at, ok := from[p]; ok {
		here.next = max(here.next, at.Offset)
	}
	if at, ok := to[p]; ok {
		here.end = min(here.end, at.Offset)
	}
	if first := max(here.next, bounds.Stable); first < here.end {
		sc.page.Unknown = append(sc.page.Unknown, fmt.Sprintf("partition %d, offsets %d to %d: a transaction is open before them", p, first, here.end-1))
		here.end = bounds.Stable
	}
	here.end = max(here.end, here.next)
	return here
}

// partition looks through one until it is done or the page is full, and moves here.
func (sc *scan) partition(ctx context.Context, here *place) error {
	if here.next >= here.end {
		return nil
	}
	seen := Scanned{Partition: here.partition, From: here.next}
	defer func() {
		seen.To = here.next
		if seen.To > seen.From {
			sc.page.Scanned = append(sc.page.Scanned, seen)
		}
	}()
	for here.next < here.end && !sc.full() {
		if err := ctx.Err(); err != nil {
			return err
		}
		stretch, err := sc.cluster.Read(ctx, Partition{sc.query.Topic, sc.topic.ID, here.partition}, here.next, func(r *record.Record) bool {
			if r.Offset >= here.end {
				return false
			}
			seen.Records++
			sc.records++
			if sc.query.wants(r) {
				sc.page.Events = append(sc.page.Events, Event{sc.query.Cluster, sc.query.Topic, here.partition, r.Offset, time.UnixMilli(r.Timestamp).UTC()})
			}
			return len(sc.page.Events) < sc.limits.Events && sc.records < sc.limits.Records
		})
		if err != nil {
			return err
		}
		for _, u := range stretch.Unread {
			if u.First < here.end {
				sc.page.Unknown = append(sc.page.Unknown, fmt.Sprintf("partition %d, offsets %d to %d: %v", here.partition, u.First, u.Next-1, u.Err))
			}
		}
		seen.Bytes += stretch.Bytes
		sc.bytes += stretch.Bytes
		if stretch.Next <= here.next {
			return fmt.Errorf("partition %d: the cluster shows nothing at offset %d, and no end: try again", here.partition, here.next)
		}
		here.next = min(stretch.Next, here.end)
	}
	return nil
}

func (sc *scan) full() bool {
	return len(sc.page.Events) >= sc.limits.Events || sc.records >= sc.limits.Records || sc.bytes >= sc.limits.Bytes || !time.Now().Before(sc.until)
}
