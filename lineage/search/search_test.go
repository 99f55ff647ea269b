package search

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// log is a topic: the records of each partition, which a fetch hands on in stretches
// of a few offsets.
type log struct {
	id      ledger.TopicID
	records map[int32][]record.Record
	bounds  map[int32]Bounds
	stretch int64
	unread  []Unread // of partition 0
	reads   int
	looked  int
}

func (l *log) Topic(_ context.Context, name string) (Topic, error) {
	l.looked++
	if name != "orders" {
		return Topic{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return Topic{l.id, l.bounds}, nil
}

func (l *log) After(_ context.Context, _ string, at time.Time) (map[int32]Stamp, error) {
	stamps := map[int32]Stamp{}
	for p, b := range l.bounds {
		stamps[p] = Stamp{Offset: b.End}
		for _, r := range l.records[p] {
			if r.Timestamp >= at.UnixMilli() {
				stamps[p] = Stamp{r.Offset, time.UnixMilli(r.Timestamp).UTC()}
				break
			}
		}
	}
	return stamps, nil
}

func (l *log) Read(_ context.Context, from Partition, offset int64, each func(*record.Record) bool) (Stretch, error) {
	l.reads++
	s := Stretch{Next: min(offset+l.stretch, l.bounds[from.Number].End), Bytes: 10 * l.stretch}
	for _, u := range l.unread {
		if from.Number == 0 && u.First >= offset && u.First < s.Next {
			s.Unread = append(s.Unread, u)
		}
	}
	for _, r := range l.records[from.Number] {
		if r.Offset >= offset && r.Offset < s.Next && !each(&r) {
			s.Next = r.Offset + 1
			break
		}
	}
	return s, nil
}

// rights are what may be done: "Read" or "Describe", of the topic orders.
type rights []acl.Operation

func (r rights) allowed(_ context.Context, _ Caller, cluster string, op acl.Operation, name string) bool {
	return cluster == "id-us" && name == "orders" && slices.Contains(r, op)
}

func searcher(l *log, r rights, limits Limits) *Searcher {
	return New(Config{Allowed: r.allowed, Limits: limits, Open: func(name string) (Cluster, string, error) {
		if name != "us" {
			return nil, "", fmt.Errorf("%w: cluster %s", ErrNotFound, name)
		}
		return l, "id-us", nil
	}})
}

var all = rights{acl.Read, acl.Describe}

// orders is a topic of three partitions with records at even offsets; the key and the
// timestamp of each are in its value of hundred offsets: k0 to k9, ms since 1970.
func orders() *log {
	l := &log{id: ledger.TopicID{7}, records: map[int32][]record.Record{}, bounds: map[int32]Bounds{}, stretch: 16}
	for p := range int32(3) {
		for o := int64(0); o < 100; o += 2 {
			r := record.Record{Offset: o, Timestamp: 1000 + o, Key: fmt.Appendf(nil, "k%d", o%10)}
			if o%50 == 0 {
				r.Headers = []record.Header{{Key: TraceHeader, Value: []byte(sample)}}
			}
			l.records[p] = append(l.records[p], r)
		}
		l.bounds[p] = Bounds{0, 100, 100}
	}
	return l
}

// found draws a page.
func found(page *Page) string {
	var parts []string
	for _, e := range page.Events {
		parts = append(parts, fmt.Sprintf("%d/%d", e.Partition, e.Offset))
	}
	for _, s := range page.Scanned {
		parts = append(parts, fmt.Sprintf("[%d: %d-%d %d]", s.Partition, s.From, s.To, s.Records))
	}
	if page.Next != "" {
		parts = append(parts, "...")
	}
	return strings.Join(append(parts, page.Unknown...), " ")
}

func TestSearch(t *testing.T) {
	id, _ := ParseTraceID(sample)
	at := func(ms int64) time.Time { return time.UnixMilli(ms) }
	for _, c := range []struct {
		name   string
		query  Query
		change func(*log)
		limits Limits
		want   string
	}{
		{"by time", Query{Since: at(1051), Partition: -1}, nil, Limits{}, "0/52 1/52 2/52"},
		{"by a time that has no event yet", Query{Since: at(2000), Partition: -1}, nil, Limits{}, ""},
		{"by time in one partition", Query{Since: at(0), Partition: 2}, nil, Limits{}, "2/0"},
		{"by trace", Query{TraceID: id, Partition: -1}, nil, Limits{}, "0/0 0/50 1/0 1/50 2/0 2/50 [0: 0-100 50] [1: 0-100 50] [2: 0-100 50]"},
		{"by key and time", Query{Key: []byte("k4"), Since: at(1040), Until: at(1060), Partition: 1}, nil, Limits{}, "1/44 1/54 [1: 40-60 10]"},
		{"by key and trace", Query{Key: []byte("k0"), TraceID: id, Partition: 0, Since: at(1001)}, nil, Limits{}, "0/50 [0: 2-100 49]"},
		{"where the partitioner sends it", Query{Key: []byte("k4"), Partition: -1, Partitioner: Murmur2, Since: at(1080)}, nil, Limits{}, "1/84 1/94 [1: 80-100 10]"},
		{"no such key", Query{Key: []byte("none"), Partition: 0}, nil, Limits{}, "[0: 0-100 50]"},
		{"the empty key", Query{Key: []byte{}, Partition: 0}, func(l *log) {
			l.records[0][1].Key, l.records[0][2].Key = []byte{}, nil // empty is not null
		}, Limits{}, "0/2 [0: 0-100 50]"},
		{"a late record counts as what it is stamped", Query{Key: []byte("k4"), Since: at(1040), Until: at(1060), Partition: 1}, func(l *log) {
			l.records[1][22].Timestamp = 1 // offset 44
		}, Limits{}, "1/54 [1: 40-60 10]"},
		{"up to so many events", Query{Key: []byte("k2"), Partition: -1, Limit: 3}, nil, Limits{}, "0/2 0/12 0/22 [0: 0-23 12] ..."},
		{"up to so many records", Query{Key: []byte("k2"), Partition: -1}, nil, Limits{Records: 7}, "0/2 0/12 [0: 0-13 7] ..."},
		{"up to so many bytes", Query{Key: []byte("k2"), Partition: -1}, nil, Limits{Bytes: 200}, "0/2 0/12 0/22 [0: 0-32 16] ..."},
		{"behind what retention has left", Query{Key: []byte("k2"), Partition: 0}, func(l *log) { l.bounds[0] = Bounds{90, 100, 100} }, Limits{}, "0/92 [0: 90-100 5]"},
		{
			"before an open transaction",
			Query{Key: []byte("k2"), Partition: 0},
			func(l *log) { l.bounds[0] = Bounds{80, 90, 100} },
			Limits{},
			"0/82 [0: 80-90 5] partition 0, offsets 90 to 99: a transaction is open before them",
		},
		{
			"a batch that cannot be read", Query{Key: []byte("k2"), Partition: 0, Since: at(1080)}, func(l *log) {
				l.records[0], l.unread = slices.DeleteFunc(l.records[0], func(r record.Record) bool { return r.Offset >= 90 }), []Unread{{90, 100, errors.New("damaged")}}
			}, Limits{}, "0/82 [0: 80-100 5] partition 0, offsets 90 to 99: damaged",
		},
		{"an empty partition", Query{Key: []byte("k2"), Partition: 0}, func(l *log) { l.bounds[0] = Bounds{100, 100, 100} }, Limits{}, ""},
	} {
		l := orders()
		if c.change != nil {
			c.change(l)
		}
		c.query.Cluster, c.query.Topic = "us", "orders"
		page, err := searcher(l, all, c.limits).Search(t.Context(), Caller{}, c.query)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := found(page); got != c.want {
			t.Errorf("%s: got\n\t%s, want\n\t%s", c.name, got, c.want)
		}
	}
}

func TestSearchErrors(t *testing.T) {
	ok := Query{Cluster: "us", Topic: "orders", Key: []byte("k"), Partition: -1}
	for _, c := range []struct {
		name   string
		change func(*Query)
		rights rights
		want   error
		looks  int // how often the cluster is asked
	}{
		{"nothing is asked for", func(q *Query) { q.Key = nil }, all, ErrInvalid, 0},
		{"no topic", func(q *Query) { q.Topic = "" }, all, ErrInvalid, 0},
		{"partition below all", func(q *Query) { q.Partition = -2 }, all, ErrInvalid, 0},
		{"times in the wrong order", func(q *Query) { q.Since, q.Until = time.UnixMilli(2), time.UnixMilli(2) }, all, ErrInvalid, 0},
		{"before time", func(q *Query) { q.Since = time.UnixMilli(-2) }, all, ErrInvalid, 0},
		{"until without records", func(q *Query) { q.Key, q.Since, q.Until = nil, time.UnixMilli(1), time.UnixMilli(2) }, all, ErrInvalid, 0},
		{"cursor without records", func(q *Query) { q.Key, q.Since, q.Cursor = nil, time.UnixMilli(1), "x" }, all, ErrInvalid, 0},
		{"a large key", func(q *Query) { q.Key = make([]byte, MaxKey+1) }, all, ErrInvalid, 0},
		{"another partitioner", func(q *Query) { q.Partitioner = "crc32" }, all, ErrInvalid, 0},
		{"a partitioner and a partition", func(q *Query) { q.Partitioner, q.Partition = Murmur2, 1 }, all, ErrInvalid, 0},
		{"a partitioner without a key", func(q *Query) { q.Key, q.TraceID, q.Partitioner = nil, [16]byte{1}, Murmur2 }, all, ErrInvalid, 0},
		{"a cursor that is none", func(q *Query) { q.Cursor = "x" }, all, ErrInvalid, 1},
		{"no such cluster", func(q *Query) { q.Cluster = "mars" }, all, ErrNotFound, 0},
		{"no such partition", func(q *Query) { q.Partition = 3 }, all, ErrNotFound, 1},
		{"no such topic, which tells nothing", func(q *Query) { q.Topic = "bills" }, all, ErrDenied, 0},
		{"may describe, not read", func(*Query) {}, rights{acl.Describe}, ErrDenied, 0},
		{"may not even describe", func(q *Query) { q.Key, q.Since = nil, time.UnixMilli(1) }, rights{}, ErrDenied, 0},
	} {
		l, q := orders(), ok
		c.change(&q)
		_, err := searcher(l, c.rights, Limits{}).Search(t.Context(), Caller{}, q)
		if !errors.Is(err, c.want) || l.looked != c.looks || l.reads > 0 {
			t.Errorf("%s: got %v after %d look-ups and %d reads, want %v after %d", c.name, err, l.looked, l.reads, c.want, c.looks)
		}
	}
	q := ok
	q.Key, q.Since = nil, time.UnixMilli(1)
	if _, err := searcher(orders(), rights{acl.Describe}, Limits{}).Search(t.Context(), Caller{}, q); err != nil {
		t.Errorf("by time, of who may describe: %v", err)
	}
}

// TestPagesAgainstList: whatever the bounds of pages, they find what one look at all
// records finds, once each, and have looked at every offset, once each.
func TestPagesAgainstList(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		l := &log{id: ledger.TopicID{1}, records: map[int32][]record.Record{}, bounds: map[int32]Bounds{}, stretch: rnd.Int64N(40) + 1}
		var want []string
		total := int64(0)
		for p := range int32(rnd.IntN(4) + 1) {
			start := rnd.Int64N(50)
			stable := start + rnd.Int64N(200)
			l.bounds[p] = Bounds{start, stable, stable + rnd.Int64N(5)}
			total += stable - start
			for o := start; o < stable; o++ {
				if rnd.IntN(3) == 0 {
					continue
				}
				r := record.Record{Offset: o, Key: []byte{byte('a' + rnd.IntN(4))}}
				if l.records[p] = append(l.records[p], r); r.Key[0] == 'a' {
					want = append(want, fmt.Sprintf("%d/%d", p, o))
				}
			}
		}
		s := searcher(l, all, Limits{Records: rnd.Int64N(50) + 1, Bytes: rnd.Int64N(2000) + 1, Events: rnd.IntN(20) + 1})
		q := Query{Cluster: "us", Topic: "orders", Key: []byte("a"), Partition: -1}
		var got []string
		next := map[int32]int64{}
		for p, b := range l.bounds {
			next[p] = b.Start
		}
		for pages := 0; ; pages++ {
			page, err := s.Search(t.Context(), Caller{}, q)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for _, e := range page.Events {
				got = append(got, fmt.Sprintf("%d/%d", e.Partition, e.Offset))
			}
			for _, r := range page.Scanned {
				if r.From != next[r.Partition] {
					t.Fatalf("seed %d: looked at %+v after %v", seed, r, next)
				}
				next[r.Partition], total = r.To, total-(r.To-r.From)
			}
			// Who writes meanwhile makes no search endless.
			for p := range maps.Keys(l.bounds) {
				b := l.bounds[p]
				l.bounds[p] = Bounds{b.Start, b.Stable, b.End + 1000}
			}
			if q.Cursor = page.Next; q.Cursor == "" {
				break
			}
			if pages > 2000 {
				t.Fatalf("seed %d: no end", seed)
			}
		}
		if !slices.Equal(got, want) || total != 0 {
			t.Fatalf("seed %d: got %v, want %v; %d offsets were looked at too often or not", seed, got, want, -total)
		}
	}
}

func TestSearchIsBusy(t *testing.T) {
	s := searcher(orders(), all, Limits{Parallel: 1})
	release, err := s.slot()
	if err != nil {
		t.Fatal(err)
	}
	q := Query{Cluster: "us", Topic: "orders", Key: []byte("k0"), Partition: -1}
	if _, err := s.Search(t.Context(), Caller{}, q); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
	release()
	if _, err := s.Search(t.Context(), Caller{}, q); err != nil {
		t.Errorf("got %v", err)
	}
}

// TestPartitioner has the hashes of Apache Kafka's own test of murmur2 (UtilsTest).
func TestPartitioner(t *testing.T) {
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		for _, n := range []int{1, 3, 50} {
			if got, want := partitionOf([]byte(key), n), (hash&0x7fffffff)%int32(n); got != want {
				t.Errorf("%s of %d partitions: got %d, want %d", key, n, got, want)
			}
		}
	}
}

func TestTraceAt(t *testing.T) {
	l := orders()
	l.bounds[1] = Bounds{10, 50, 100}
	for _, c := range []struct {
		name      string
		partition int32
		offset    int64
		rights    rights
		ok        bool
	}{
		{"with a trace", 0, 50, all, true},
		{"without", 0, 52, all, false},
		{"a hole", 0, 49, all, false},
		{"deleted", 1, 0, all, false},
		{"in an open transaction", 1, 50, all, false},
		{"no such partition", 9, 0, all, false},
		{"who may describe, not read", 0, 50, rights{acl.Describe}, false},
	} {
		got, ok := searcher(l, c.rights, Limits{}).TraceAt(t.Context(), Caller{}, "us", "orders", c.partition, c.offset)
		if ok != c.ok || ok && got.TraceID[0] != 0x4b {
			t.Errorf("%s: got %+v %v", c.name, got, ok)
		}
	}
}
