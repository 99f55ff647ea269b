package tail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/fold"
)

// fakeCluster answers Metadata and ListOffsets.
type fakeCluster struct {
	mu      sync.Mutex
	id      string
	topicID ledger.TopicID // zero: no topic
	starts  []int64
	ends    []int64
	err     error
	code    int16 // of ListOffsets
}

func (c *fakeCluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *fakeCluster) Request(_ context.Context, req kmsg.Request) (kmsg.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	switch req := req.(type) {
	case *kmsg.MetadataRequest:
		resp := kmsg.NewPtrMetadataResponse()
		resp.ClusterID = kmsg.StringPtr(c.id)
		t := kmsg.NewMetadataResponseTopic()
		t.Topic = req.Topics[0].Topic
		if t.TopicID = c.topicID; c.topicID == (ledger.TopicID{}) {
			t.ErrorCode = kerr.UnknownTopicOrPartition.Code
		}
		for n := range c.ends {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition = int32(n)
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
		return resp, nil
	case *kmsg.ListOffsetsRequest:
		resp := kmsg.NewPtrListOffsetsResponse()
		t := kmsg.NewListOffsetsResponseTopic()
		for _, rp := range req.Topics[0].Partitions {
			p := kmsg.NewListOffsetsResponseTopicPartition()
			p.Partition, p.ErrorCode = rp.Partition, c.code
			if p.Offset = c.ends[rp.Partition]; rp.Timestamp == atStart.timestamp {
				p.Offset = c.starts[rp.Partition]
			}
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
		return resp, nil
	}
	return nil, fmt.Errorf("unexpected %T", req)
}

// memory notes what it is given.
type memory struct {
	notes  []string
	resume int64
}

func (m *memory) Apply(pos Position, p *ledger.Page) {
	m.notes = append(m.notes, fmt.Sprintf("%d/%d page %d", pos.Partition, pos.Offset, p.Sequence))
}

func (m *memory) Corrupt(pos Position, err error) {
	m.notes = append(m.notes, fmt.Sprintf("%d/%d %v", pos.Partition, pos.Offset, err))
}

func (m *memory) Fold(pos Position, next int64, p *ledger.Page) {
	m.notes = append(m.notes, fmt.Sprintf("%d/%d page %d of what is below %d", pos.Partition, pos.Offset, p.Sequence, next))
}

func (m *memory) Resume(_ string, _ ledger.TopicID, starts map[int32]int64) map[int32]int64 {
	from := map[int32]int64{}
	for n := range starts {
		from[n] = m.resume
	}
	return from
}

func newFake(t *testing.T, c *fakeCluster, sinks ...Sink) *Tail {
	t.Helper()
	tl := newTail(Config{Sinks: sinks, Refresh: 5 * time.Second, Log: slog.New(slog.DiscardHandler)})
	tl.adm = admin{c}
	close(tl.started)
	return tl
}

func fetched(partition int32, err error, records ...*kgo.Record) kgo.Fetches {
	return kgo.Fetches{{Topics: []kgo.FetchTopic{{Topic: ledger.Topic, Partitions: []kgo.FetchPartition{{Partition: partition, Err: err, Records: records}}}}}}
}

func rec(offset int64, value []byte) *kgo.Record {
	return &kgo.Record{Topic: ledger.Topic, Offset: offset, Value: value, Timestamp: time.UnixMilli(1)}
}

// pages are the first pages of one writer.
func pages(n int) [][]byte {
	chain := ledger.NewChain(ledger.WriterID{1})
	var out [][]byte
	for range n {
		out = append(out, chain.Encode([]ledger.Entry{&ledger.Retraction{}}))
	}
	return out
}

func TestDeliver(t *testing.T) {
	flip := func(b []byte) []byte {
		b = slices.Clone(b)
		b[30] ^= 1
		return b
	}
	ps := pages(4)
	cases := []struct {
		name    string
		start   int64
		resume  int64
		records []*kgo.Record
		want    []string
		next    int64
	}{
		{"in order", 0, 0, []*kgo.Record{rec(0, ps[0]), rec(1, ps[1])}, []string{"0/0 page 0", "0/1 page 1"}, 2},
		{"a page is missing", 0, 0, []*kgo.Record{rec(0, ps[0]), rec(1, ps[2])}, []string{
			"0/0 page 0", "0/1 broken ledger chain of writer 01000000000000000000000000000000 at page 2: 1 pages before it are missing", "0/1 page 2",
		}, 2},
		{"a page is damaged", 0, 0, []*kgo.Record{rec(0, ps[0]), rec(1, flip(ps[1])), rec(2, ps[2])}, []string{
			"0/0 page 0", "0/1 corrupt ledger page: checksum does not match",
			"0/2 broken ledger chain of writer 01000000000000000000000000000000 at page 2: 1 pages before it are missing", "0/2 page 2",
		}, 3},
		{"a page stands there again", 0, 0, []*kgo.Record{rec(0, ps[0]), rec(1, ps[1]), rec(2, ps[0]), rec(3, ps[2])}, []string{
			"0/0 page 0", "0/1 page 1",
			"0/2 broken ledger chain of writer 01000000000000000000000000000000 at page 0: an older page follows a newer one", "0/3 page 2",
		}, 4},
		{"a foreign record", 0, 0, []*kgo.Record{rec(0, []byte("hello"))}, []string{"0/0 corrupt ledger page: not a page"}, 1},
		{"the beginning has gone", 7, 0, []*kgo.Record{rec(7, ps[2])}, []string{"0/0 ledger records below offset 7 do not exist", "0/7 page 2"}, 8},
		{"resumed", 0, 2, []*kgo.Record{rec(0, ps[0]), rec(1, ps[1]), rec(2, ps[2]), rec(3, ps[3])}, []string{"0/2 page 2", "0/3 page 3"}, 4},
		{"resumed where the log begins", 2, 2, []*kgo.Record{rec(2, ps[2])}, []string{"0/2 page 2"}, 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sink := &memory{resume: c.resume}
			tl := newFake(t, &fakeCluster{id: "c", topicID: ledger.TopicID{1}, starts: []int64{c.start}, ends: []int64{8}}, sink)
			if err := tl.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			tl.deliver(fetched(0, nil, c.records...))
			if !slices.Equal(sink.notes, c.want) {
				t.Errorf("got  %q\nwant %q", sink.notes, c.want)
			}
			s := tl.State()
			if s.Partitions[0].Next != c.next || s.Status != Reading || s.Err != nil {
				t.Errorf("got state %+v", s)
			}
			if bad := strings.Count(strings.Join(c.want, "\n"), "ledger "); s.Damaged != bad || len(s.Damage) != bad {
				t.Errorf("got %d damages, want %d", s.Damaged, bad)
			}
		})
	}
}

func TestSinksThatResumeElsewhere(t *testing.T) {
	ps := pages(3)
	all, late := &memory{}, &memory{resume: 2}
	tl := newFake(t, &fakeCluster{id: "c", topicID: ledger.TopicID{1}, starts: []int64{0}, ends: []int64{3}}, all, late)
	if err := tl.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	tl.deliver(fetched(0, nil, rec(0, ps[0]), rec(1, ps[1]), rec(2, ps[2])))
	if len(all.notes) != 3 || !slices.Equal(late.notes, []string{"0/2 page 2"}) {
		t.Errorf("got %q and %q", all.notes, late.notes)
	}
}

func TestCatchUpWaitsForEveryPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{id: "c", topicID: ledger.TopicID{1}, starts: []int64{0, 0, 0}, ends: []int64{2, 0, 1}}
		sink := &memory{}
		tl := newFake(t, c, sink)
		if err := tl.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- tl.CatchUp(t.Context()) }()
		pending := func(when string) {
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("%s: caught up with %v", when, err)
			default:
			}
		}
		pending("nothing delivered")
		tl.deliver(fetched(0, nil, rec(0, pages(1)[0])))
		tl.deliver(fetched(2, nil, rec(0, pages(1)[0])))
		pending("an open transaction holds back offset 1")
		marker := rec(1, []byte{0, 0, 0, 0, 0, 1})
		marker.Attrs = controlAttrs()
		tl.deliver(fetched(0, nil, marker))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(sink.notes) != 2 {
			t.Errorf("got %q", sink.notes)
		}
	})
}

// controlAttrs are a control record's, which only a fetch can set.
func controlAttrs() kgo.RecordAttrs {
	batch := kmsg.NewRecordBatch()
	batch.Attributes = 0x30
	body := kmsg.NewRecord()
	body.Key, body.Value = []byte{0, 0, 0, 1}, []byte{0, 0, 0, 0, 0, 0}
	body.Length = int32(len(body.AppendTo(nil)) - 1)
	batch.Records, batch.NumRecords, batch.Magic = body.AppendTo(nil), 1, 2
	batch.Length = int32(len(batch.AppendTo(nil)) - 12)
	raw := batch.AppendTo(nil)
	opts := kgo.ProcessFetchPartitionOpts{KeepControlRecords: true, Topic: ledger.Topic, DisableCRCValidation: true}
	fp, _ := kgo.ProcessFetchPartition(opts, &kmsg.FetchResponseTopicPartition{RecordBatches: raw}, kgo.DefaultDecompressor(), nil)
	return fp.Records[0].Attrs
}

func TestCatchUpWithoutALedger(t *testing.T) {
	tl := newFake(t, &fakeCluster{id: "c"})
	if err := tl.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tl.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := tl.State(); s.Status != Absent || s.Cluster != "c" {
		t.Errorf("got %+v", s)
	}
}

func TestCatchUpOutlivesOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{id: "c", topicID: ledger.TopicID{1}, starts: []int64{0}, ends: []int64{1}, code: kerr.OffsetNotAvailable.Code}
		tl := newFake(t, c)
		if err := tl.refresh(t.Context()); !errors.Is(err, kerr.OffsetNotAvailable) {
			t.Fatalf("got %v", err)
		}
		done := make(chan error, 1)
		go func() { done <- tl.CatchUp(t.Context()) }()
		synctest.Wait()
		c.set(func() { c.code = 0 })
		if err := tl.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		tl.deliver(fetched(0, nil, rec(0, pages(1)[0])))
		if err := <-done; err != nil {
			t.Fatal(err)
		}

		c.set(func() { c.err = errors.New("connection refused") })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := tl.CatchUp(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("got %v", err)
		}
		if s := tl.State(); s.Status != Reading || s.Err == nil {
			t.Errorf("got %+v", s)
		}
	})
}

func TestLedgerThatIsNotWhatItWas(t *testing.T) {
	cases := []struct {
		name   string
		change func(*fakeCluster, *Tail)
		want   error
	}{
		{"recreated", func(c *fakeCluster, _ *Tail) { c.topicID[0]++ }, ErrRecreated},
		{"another cluster", func(c *fakeCluster, _ *Tail) { c.id = "d" }, ErrWrongCluster},
		{"fewer partitions", func(c *fakeCluster, _ *Tail) { c.ends = c.ends[:1] }, ErrTruncated},
		{"out of range", func(_ *fakeCluster, tl *Tail) {
			tl.deliver(fetched(0, kerr.OffsetOutOfRange))
			tl.report(tl.refresh(t.Context()))
		}, ErrTruncated},
		{"its beginning went", func(c *fakeCluster, tl *Tail) {
			c.starts[0] = 1
			tl.deliver(fetched(0, kerr.OffsetOutOfRange))
			tl.report(tl.refresh(t.Context()))
		}, ErrOvertaken},
		{"a partition came later, and its beginning went", func(c *fakeCluster, tl *Tail) {
			c.starts, c.ends = append(c.starts, 3), append(c.ends, 5)
			tl.report(tl.refresh(t.Context()))
		}, ErrOvertaken},
		{"data loss", func(_ *fakeCluster, tl *Tail) { tl.deliver(fetched(0, &kgo.ErrDataLoss{})) }, ErrTruncated},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cluster := &fakeCluster{id: "c", topicID: ledger.TopicID{1}, starts: []int64{0, 0}, ends: []int64{1, 0}}
			sink := &memory{}
			tl := newFake(t, cluster, sink)
			if err := tl.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.change(cluster, tl)
			if err := tl.CatchUp(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if s := tl.State(); s.Status != Stopped || !errors.Is(s.Err, c.want) {
				t.Errorf("got %+v", s)
			}
			tl.deliver(fetched(0, nil, rec(0, pages(1)[0])))
			if len(sink.notes) != 0 {
				t.Errorf("delivered %q after the end", sink.notes)
			}
		})
	}
}

// TestLedgerThatIsNotShownForAWhile hides the topic, as a broker does that has just
// started, and shows it again.
func TestLedgerThatIsNotShownForAWhile(t *testing.T) {
	id := ledger.TopicID{1}
	c := &fakeCluster{id: "c", topicID: id, starts: []int64{0}, ends: []int64{0}}
	tl := newFake(t, c)
	if err := tl.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.topicID, c.ends = ledger.TopicID{}, nil
	if err := tl.CatchUp(t.Context()); !errors.Is(err, ErrMissing) {
		t.Errorf("got %v, want %v", err, ErrMissing)
	}
	if s := tl.State(); s.Status != Reading || !errors.Is(s.Err, ErrMissing) {
		t.Errorf("got %+v", s)
	}
	tl.deliver(fetched(0, kerr.UnknownTopicID))
	if s := tl.State(); !errors.Is(s.Err, ErrMissing) {
		t.Errorf("what follows hides what is wrong: %+v", s)
	}
	c.topicID, c.ends = id, []int64{0}
	if err := tl.CatchUp(t.Context()); err != nil {
		t.Errorf("it is there again: %v", err)
	}
	if err := tl.refresh(t.Context()); err != nil || tl.State().Err != nil {
		t.Errorf("got %v, %+v", err, tl.State())
	}
}

// TestCatchUpEndsWithRun asks a Tail that has ended, and one that ends meanwhile.
func TestCatchUpEndsWithRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{id: "c", topicID: ledger.TopicID{1}, starts: []int64{0}, ends: []int64{1}}
		tl := newFake(t, c)
		if err := tl.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- tl.CatchUp(t.Context()) }()
		synctest.Wait()
		close(tl.ended) // as Run does
		if err := <-done; !errors.Is(err, ErrEnded) {
			t.Errorf("while it waits: got %v, want %v", err, ErrEnded)
		}
		c.set(func() { c.err = kgo.ErrClientClosed })
		if err := tl.CatchUp(t.Context()); !errors.Is(err, ErrEnded) {
			t.Errorf("afterwards: got %v, want %v", err, ErrEnded)
		}
	})
}

// Whoever follows a Tail is told when it finds its ledger, and when it ends, and not of
// every look.
func TestWhatATailFindsIsTold(t *testing.T) {
	c := &fakeCluster{id: "c"}
	tl := newFake(t, c)
	told := 0
	tl.cfg.Found = func() { told++ }
	for _, step := range []struct {
		what   string
		change func()
		want   int
	}{
		{"there is none", func() {}, 1},
		{"still", func() {}, 0},
		{"there is one", func() { c.topicID, c.starts, c.ends = ledger.TopicID{1}, []int64{0}, []int64{0} }, 1},
		{"the same", func() {}, 0},
		{"the cluster does not answer", func() { c.err = kgo.ErrClientClosed }, 0},
		{"another", func() { c.err, c.topicID = nil, ledger.TopicID{2} }, 1},
	} {
		told = 0
		step.change()
		if err := tl.refresh(t.Context()); err != nil {
			tl.report(err)
		}
		if told != step.want {
			t.Errorf("%s: told %d times, want %d", step.what, told, step.want)
		}
	}
}

func TestPinnedLedger(t *testing.T) {
	tl := newTail(Config{Cluster: "c", TopicID: ledger.TopicID{9}, Log: slog.New(slog.DiscardHandler)})
	tl.adm = admin{&fakeCluster{id: "c"}}
	if err := tl.refresh(t.Context()); !errors.Is(err, ErrMissing) {
		t.Errorf("got %v, want %v", err, ErrMissing)
	}
}

// TestFoldComesFirst begins at a log start above 0: what stands for the pages that are
// gone is given before those that came while it was written.
func TestFoldComesFirst(t *testing.T) {
	ps := pages(4)
	f := fold.New("c")
	for i, p := range ps[:2] {
		if err := f.Record(int64(i), p); err != nil {
			t.Fatal(err)
		}
	}
	var folded []byte
	for b := range f.Pages(fold.Author{Writer: ledger.WriterID{9}}, time.UnixMilli(1)) {
		folded = b
	}
	cases := []struct {
		name    string
		records []*kgo.Record
		end     int64
		want    []string
	}{
		{
			"a fold",
			[]*kgo.Record{rec(2, ps[2]), rec(3, folded), rec(4, ps[3])},
			5,
			[]string{"0/3 page 0 of what is below 2", "0/2 page 2", "0/3 page 0", "0/4 page 3"},
		},
		{
			"a page is missing behind it",
			[]*kgo.Record{rec(3, folded), rec(4, ps[3])},
			5,
			[]string{
				"0/3 page 0 of what is below 2", "0/3 page 0",
				"0/4 broken ledger chain of writer 01000000000000000000000000000000 at page 3: 1 pages before it are missing", "0/4 page 3",
			},
		},
		{
			"none",
			[]*kgo.Record{rec(2, ps[2]), rec(3, ps[3])},
			4,
			[]string{"0/0 ledger records below offset 2 do not exist", "0/2 page 2", "0/3 page 3"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sink := &memory{}
			tl := newFake(t, &fakeCluster{id: "c", topicID: ledger.TopicID{1}, starts: []int64{2}, ends: []int64{c.end}}, sink)
			if err := tl.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, r := range c.records {
				tl.deliver(fetched(0, nil, r))
			}
			if !slices.Equal(sink.notes, c.want) {
				t.Errorf("got %q, want %q", sink.notes, c.want)
			}
			if got := tl.State().Partitions[0].Next; got != c.end {
				t.Errorf("read to %d, want %d", got, c.end)
			}
		})
	}
}
