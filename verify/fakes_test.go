package verify

import (
	"context"
	"errors"
	"hash/crc32"
	"slices"
	"sync"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// log is one side: batches as a broker would serve them.
type log struct {
	mu         sync.Mutex
	start      int64
	stable     int64 // 0: the end
	batches    []record.Batch
	aborted    []Aborted
	compacts   bool
	mirror     bool
	aside      *log // another topic
	perFetch   int  // batches in one answer; 0 is all
	fetches    int
	largest    int    // bytes of records in one answer
	old        []byte // messages of the formats before v2 that lie before batches, with a fetch from the start
	fail       func(offset int64) error
	openUntil  int // calls of Bounds for which a transaction holds everything back
	boundCalls int
}

func (l *log) Reader(topic string, _ ledger.TopicID, _ int32) Reader {
	if topic == "aside" {
		return l.aside
	}
	return l
}

func (l *log) Settings(context.Context, string) (Settings, error) {
	return Settings{Compacts: l.compacts, Mirror: l.mirror}, nil
}

func (l *log) end() int64 {
	if n := len(l.batches); n > 0 {
		return max(l.start, l.batches[n-1].NextOffset())
	}
	return l.start
}

func (l *log) bounds() Answer {
	a := Answer{Start: l.start, Stable: l.end(), End: l.end()}
	if l.stable > 0 {
		a.Stable = l.stable
	}
	return a
}

func (l *log) Bounds(context.Context) (Answer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.bounds()
	if l.boundCalls++; l.boundCalls <= l.openUntil {
		a.Stable = l.start
	}
	return a, nil
}

func (l *log) Fetch(_ context.Context, offset int64, limit int) (Answer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fetches++
	if l.fail != nil {
		if err := l.fail(offset); err != nil {
			return Answer{}, err
		}
	}
	a := l.bounds()
	if offset < l.start || offset >= a.Stable {
		return a, nil
	}
	a.Aborted = l.aborted
	n := 0
	if offset == l.start {
		a.Records = append(a.Records, l.old...)
	}
	for _, b := range l.batches {
		if b.NextOffset() <= max(offset, l.start) {
			continue
		}
		if n > 0 && len(a.Records)+len(b) > limit {
			break
		}
		a.Records = append(a.Records, b...)
		if n++; n == l.perFetch {
			break
		}
	}
	l.largest = max(l.largest, len(a.Records))
	return a, nil
}

// rec is a record with a text as its value.
func rec(value string) record.Record {
	return record.Record{
		Timestamp: 1_700_000_000_000 + int64(len(value)), Key: []byte("key of " + value), Value: []byte(value),
		Headers: []record.Header{{Key: "trace", Value: []byte("t-" + value)}, {Key: "empty", Value: []byte{}}, {Key: "null"}},
	}
}

func recs(values ...string) []record.Record {
	var all []record.Record
	for _, v := range values {
		all = append(all, rec(v))
	}
	return all
}

// batch is records in one batch at an offset, as an idempotent producer wrote it.
func batch(t testing.TB, base int64, codec record.Codec, records ...record.Record) record.Batch {
	t.Helper()
	b, err := record.Encode(records, record.Stamp{ProducerID: 7, BaseSequence: int32(base), Attributes: record.Attributes(codec)})
	if err != nil {
		t.Fatal(err)
	}
	b.SetBaseOffset(base)
	return b
}

// resealed is a batch whose checksum was made to fit whatever it holds.
func resealed(b record.Batch) record.Batch {
	sum := crc32.Checksum(b[21:], castagnoli)
	b[17], b[18], b[19], b[20] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
	return b
}

func clone(b record.Batch) record.Batch { return slices.Clone(b) }

// marker ends a transaction at an offset.
func marker(t testing.TB, base int64, producer int64, commit bool) record.Batch {
	t.Helper()
	key := []byte{0, 0, 0, 0}
	if commit {
		key[3] = 1
	}
	b, err := record.Encode([]record.Record{{Key: key, Value: []byte{0, 0, 0, 0, 0, 0}}}, record.Stamp{ProducerID: producer, BaseSequence: -1, Attributes: 0x30})
	if err != nil {
		t.Fatal(err)
	}
	b.SetBaseOffset(base)
	return b
}

// transactional makes a batch part of a producer's transaction.
func transactional(b record.Batch, producer int64) record.Batch {
	b.Restamp(record.Stamp{ProducerID: producer, BaseSequence: b.BaseSequence(), Attributes: b.Attributes().WithTransactional(true)})
	return b
}

// entries is what a ledger says.
type entries struct {
	hops     []*ledger.Hop
	doubt    string
	writers  []int64
	copied   []int64
	lost     []int64
	rules    map[uint64]string // by epoch
	aside    []*ledger.Quarantine
	origins  map[int64]ledger.Origin // by source offset
	strays   []int64
	silent   bool  // the source's cluster has no ledger
	denied   error // it cannot be read, however long one waits
	readings int
}

func (e *entries) Extent(ledger.CopyKey) (start, next int64, doubt string, ok bool) {
	if len(e.hops) == 0 {
		return 0, 0, e.doubt, false
	}
	return e.hops[0].From, e.hops[len(e.hops)-1].Next, e.doubt, true
}

func (e *entries) Hops(_ ledger.CopyKey, after int64, limit int) ([]*ledger.Hop, error) {
	var out []*ledger.Hop
	for _, h := range e.hops {
		if h.Next > after && len(out) < limit {
			out = append(out, h)
		}
	}
	return out, nil
}

func (e *entries) Copied(_ ledger.End, offset int64) (bool, error) {
	return slices.Contains(e.copied, offset), nil
}

func (e *entries) TakenBack(_ ledger.End, offset int64) (bool, error) {
	return slices.Contains(e.lost, offset), nil
}

func (e *entries) Writer(_ string, id int64) (bool, error) {
	return slices.Contains(e.writers, id), nil
}

func (e *entries) Rules(_ ledger.CopyKey, epoch uint64) (string, bool, error) {
	text, ok := e.rules[epoch]
	return text, ok, nil
}

func (e *entries) Aside(_ ledger.CopyKey, offset int64) (*ledger.Quarantine, error) {
	for _, q := range e.aside {
		if q.From <= offset && offset < q.Next {
			return q, nil
		}
	}
	return nil, nil
}

func (e *entries) Origin(_ ledger.End, offset int64) (ledger.Origin, bool) {
	o, ok := e.origins[offset]
	return o, ok
}

func (e *entries) Stray(_ ledger.End, offset int64) bool { return slices.Contains(e.strays, offset) }

func (e *entries) ReadLedger(ctx context.Context, _ string) (bool, error) {
	e.readings++
	if e.denied != nil {
		<-ctx.Done()
		return false, errors.Join(ctx.Err(), e.denied)
	}
	return !e.silent, nil
}

// rawRun is the run of batches that travelled as bytes to a destination offset.
func rawRun(dest int64, batches ...record.Batch) ledger.Run {
	var d record.Digest
	for _, b := range batches {
		d = d.Join(b.SectionDigest())
	}
	first, last := batches[0], batches[len(batches)-1]
	return ledger.Run{Source: first.BaseOffset(), Destination: dest, Count: last.NextOffset() - first.BaseOffset(), Path: ledger.Raw, Digest: d.CRC}
}

func hop(from, next int64, runs []ledger.Run, gaps ...ledger.Gap) *ledger.Hop {
	return &ledger.Hop{From: from, Next: next, Runs: runs, Gaps: gaps}
}

var theCopy = Copy{
	ID: ledger.CopyID{
		Source:      ledger.End{Cluster: "us", TopicID: ledger.TopicID{1}, Partition: 3},
		Destination: ledger.End{Cluster: "eu", TopicID: ledger.TopicID{2}, Partition: 3},
	},
	SourceTopic: "orders", DestinationTopic: "us.orders",
}

// compare runs a verification of one copy.
func compare(t testing.TB, c Copy, source, dest *log, e *entries) Progress {
	t.Helper()
	r := NewRun(Config{Source: source, Destination: dest, Entries: e, Save: func(context.Context, []Progress) error { return nil }})
	got, err := r.Do(t.Context(), []Copy{c}, []Progress{Begin("run", c, 0, e)})
	if err != nil {
		t.Fatal(err)
	}
	return got[0]
}

// silent has nothing more to say than the bounds.
type silent struct{ bounds Answer }

func (s silent) Fetch(context.Context, int64, int) (Answer, error) {
	return Answer{Stable: s.bounds.Stable, End: s.bounds.End}, nil
}

func (s silent) Bounds(ctx context.Context) (Answer, error) { return s.Fetch(ctx, 0, 0) }
