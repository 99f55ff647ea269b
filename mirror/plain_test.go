package mirror

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// withoutTransactions is a world whose east allows everything but the use of
// transactional ids.
func withoutTransactions(t testing.TB) *world {
	return newWorldOf(t, func(name string, cfg *broker.Config) {
		if name != "east" {
			return
		}
		cfg.Authorizer = true
		for _, r := range []struct {
			kind acl.ResourceType
			name string
		}{{acl.Topic, "*"}, {acl.Group, "*"}, {acl.Cluster, acl.ClusterName}} {
			cfg.BootstrapACLs = append(cfg.BootstrapACLs, acl.Rule{
				ResourceType: r.kind, ResourceName: r.name, PatternType: acl.Literal, Principal: "User:*", Host: "*", Operation: acl.All, Permission: acl.Allow,
			})
		}
	})
}

// atLeastOnce are copies of a flow that says so.
func atLeastOnce(list []Assignment) []Assignment { return delivered(list, flow.DeliveryAtLeastOnce) }

func delivered(list []Assignment, delivery string) []Assignment {
	spec := *list[0].Spec
	spec.Spec.Delivery = delivery
	for i := range list {
		list[i].Spec = &spec
	}
	return list
}

func TestWithoutTransactionsNothingIsWeakenedSilently(t *testing.T) {
	t.Parallel()
	w := withoutTransactions(t)
	w.create(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 50)
	n := w.node("a", nil)
	n.Assign(w.copies(1, 1, "orders"))
	eventually(t, "the copy says what is missing and what to do", func() bool {
		s := n.only()
		return s.State == Failed && strings.Contains(s.Reason, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED") && strings.Contains(s.Fix, "at-least-once")
	})
	n.Assign(atLeastOnce(w.copies(1, 1, "orders")))
	w.west.produce(t, "orders", 0, 50, 100)
	w.east.expect(t, "orders", 0, 100)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	w.west.produce(t, "orders", 0, 100, 150)
	w.east.expect(t, "orders", 0, 150)
	if s := n.only(); s.MayBeDoubled != 0 || s.ForeignRecords != 0 {
		t.Errorf("%d may be doubled, %d are foreign, want none", s.MayBeDoubled, s.ForeignRecords)
	}
}

// TestWhatWasNotAcknowledgedIsMatched makes a lane without transactions fail at each
// step, again and again: what is at the destination is found there.
func TestWhatWasNotAcknowledgedIsMatched(t *testing.T) {
	for _, at := range []point{beforeAdd, afterAdd, afterData, afterHops} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			w := withoutTransactions(t)
			const partitions = 2
			w.create(t, "orders", partitions)
			var faults atomic.Int32
			n := w.node("a", func(c *Config) {
				c.at = func(p point) error {
					if p != at {
						return nil
					}
					// A lane that starts again registers, says that its copies have begun, and
					// writes: faults that come as often would always meet the same of these.
					if n := faults.Add(1) % 8; n == 1 || n == 3 || n == 4 {
						return errTest
					}
					return nil
				}
			})
			n.Assign(atLeastOnce(w.copies(1, partitions, "orders")))
			for i := range 10 {
				for p := range int32(partitions) {
					w.west.produce(t, "orders", p, 50*i, 50*i+50)
				}
				for p := range int32(partitions) {
					w.east.expect(t, "orders", p, 50*i+50)
				}
				eventually(t, "caught up", func() bool { return n.caughtUp(partitions) })
			}
			for p := range int32(partitions) {
				w.ends(t, p, 500)
			}
			if m := n.Metrics(); m.Aborts.Load() == 0 || (at == afterData) != (m.Matched.Load() > 0) || m.Doubled.Load() > 0 {
				t.Errorf("%d given up, %d records matched, %d may be doubled", m.Aborts.Load(), m.Matched.Load(), m.Doubled.Load())
			}
		})
	}
}

// ends checks where a partition of east's orders ends: nothing is there but records.
func (w *world) ends(t *testing.T, partition int32, want int64) {
	t.Helper()
	ends, err := w.east.admin.ListEndOffsets(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := ends.Lookup("orders", partition); o.Offset != want {
		t.Errorf("orders/%d ends at %d, want %d: something is there twice", partition, o.Offset, want)
	}
}

// TestAnHeirFindsWhatHasNoHop ends an owner between its data and its hops, while
// others write to the same partition. Its heir has another delivery, or the same.
func TestAnHeirFindsWhatHasNoHop(t *testing.T) {
	for _, delivery := range []string{flow.DeliveryAtLeastOnce, flow.DeliveryExactlyOnce} {
		t.Run(delivery, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.create(t, "orders", 1)
			var armed atomic.Bool
			var number atomic.Uint64
			old := w.node("old", func(c *Config) {
				number.Store(c.Incarnation)
				c.at = func(p point) error {
					if p == afterData && armed.Load() {
						w.fleet.end(number.Load())
						return errTest
					}
					return nil
				}
			})
			old.Assign(atLeastOnce(w.copies(1, 1, "orders")))
			w.west.produce(t, "orders", 0, 0, 50)
			w.east.expect(t, "orders", 0, 50)
			eventually(t, "caught up", func() bool { return old.caughtUp(1) })
			armed.Store(true)
			foreign := &kgo.Record{Topic: "orders", Partition: 0, Value: []byte("foreign")}
			w.east.put(t, foreign)
			w.west.produce(t, "orders", 0, 50, 120)
			<-old.fenced
			w.east.put(t, &kgo.Record{Topic: "orders", Partition: 0, Value: []byte("foreign")})
			heir := w.node("heir", nil)
			heir.Assign(delivered(w.copies(2, 1, "orders"), delivery))
			w.west.produce(t, "orders", 0, 120, 170)
			eventually(t, "the heir has caught up", func() bool { return heir.caughtUp(1) })
			w.ours(t, 170)
			if m := heir.Metrics(); m.Matched.Load() == 0 || m.Doubled.Load() != 0 {
				t.Errorf("%d matched, %d may be doubled", m.Matched.Load(), m.Doubled.Load())
			}
			w.gapsAre(t, nil)
		})
	}
}

// ours checks that east's orders hold the values from 0 on, once and in order, but
// for two foreign ones in between.
func (w *world) ours(t *testing.T, n int) {
	t.Helper()
	var got []string
	for _, r := range w.east.read(t, "orders", 0, n+2) {
		if string(r.Value) != "foreign" {
			got = append(got, string(r.Value))
		}
	}
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(i))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %d records %v, want 0 to %d", len(got), got, n-1)
	}
}

// TestADeliveryThatChangesKeepsItsPosition lets a flow change its delivery, with
// faults in between, and back.
func TestADeliveryThatChangesKeepsItsPosition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	var faults atomic.Int32
	n := w.node("a", func(c *Config) {
		c.at = func(p point) error {
			if p == afterData && faults.Add(1)%3 == 2 {
				return errTest
			}
			return nil
		}
	})
	for i := range 6 {
		delivery := []string{flow.DeliveryAtLeastOnce, flow.DeliveryExactlyOnce}[i%2]
		n.Assign(delivered(w.copies(1, 1, "orders"), delivery))
		for j := range 4 {
			from := 100*i + 25*j
			w.west.produce(t, "orders", 0, from, from+25)
		}
		if i%3 != 2 { // else the change comes while something is under way
			eventually(t, "caught up", func() bool { return n.caughtUp(1) })
		}
	}
	w.east.expect(t, "orders", 0, 600)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	w.east.expect(t, "orders", 0, 600)
}

// TestWithoutTransactionsTooNothingComesBack copies a topic both ways.
func TestWithoutTransactionsTooNothingComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 2)
	n := w.node("a", nil)
	n.Assign(slices.Concat(atLeastOnce(carry(w.west, w.east, flow.OriginAny, "orders")), atLeastOnce(carry(w.east, w.west, flow.OriginAny, "orders"))))
	for i := range 10 {
		w.west.produce(t, "orders", 0, 10*i, 10*i+10)
		w.east.produce(t, "orders", 0, 10*i, 10*i+10)
	}
	for _, s := range []*site{w.west, w.east} {
		if got := s.read(t, "orders", 0, 200); len(got) != 200 {
			t.Fatalf("%s has %d records, want 200", s.Metadata.Name, len(got))
		}
	}
	eventually(t, "caught up", func() bool { return n.caughtUp(4) })
	for _, s := range []*site{w.west, w.east} {
		ends, err := s.admin.ListEndOffsets(t.Context(), "orders")
		if o, _ := ends.Lookup("orders", 0); err != nil || o.Offset != 200 {
			t.Errorf("%s ends at %d, %v, want 200", s.Metadata.Name, o.Offset, err)
		}
	}
}

func TestSplit(t *testing.T) {
	batch := func(values string) (b record.Batch) {
		var records []record.Record
		for i, v := range values {
			records = append(records, record.Record{Offset: int64(i), Timestamp: 5, Value: []byte(string(v))})
		}
		b, err := record.Encode(records, record.NoProducer(record.None))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		tail    string // records at the destination from offset 100 on; "-": somebody else's
		source  string // records of the source from offset 10 on
		want    string // pieces, rest
		doubled int64
	}{
		"all of it":                  {"abc", "abc", "10-13@100", 0},
		"only the first":             {"ab", "abcd", "10-12@100 rest 12-14", 0},
		"nothing":                    {"xy", "abc", "", 2},
		"somebody between":           {"a-b", "abc", "10-11@100 11-12@102 rest 12-13", 0},
		"one is missing":             {"acd", "abcd", "10-11@100 rest 11-14", 2},
		"what is not ours is passed": {"xab", "ab", "10-12@101", 1},
		"equal ones":                 {"aab", "aaab", "10-12@100 rest 12-14", 1},
		"more than is asked for":     {"abcd", "ab", "10-12@100", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var r remnant
			b := batch(c.tail)
			b.SetBaseOffset(100)
			if _, err := r.add(b, 100, func(int64) bool { return true }, 1<<20); err != nil {
				t.Fatal(err)
			}
			for i := len(c.tail) - 1; i >= 0; i-- {
				if c.tail[i] == '-' {
					r.records = slices.Delete(r.records, i, i+1)
				}
			}
			n := int64(len(c.source))
			k := chunk{from: 10, next: 10 + n, batch: batch(c.source), runs: []sourceRun{{source: 10, count: n}}}
			pieces, rest := r.split(&k, 1<<20)
			var got []string
			for _, p := range pieces {
				got = append(got, fmt.Sprintf("%d-%d@%d", p.from, p.next, p.base))
			}
			for _, k := range rest {
				got = append(got, fmt.Sprintf("rest %d-%d", k.from, k.next))
			}
			if got := strings.Join(got, " "); got != c.want || r.doubled != c.doubled {
				t.Errorf("got %q, %d may be doubled, want %q, %d", got, r.doubled, c.want, c.doubled)
			}
			for _, h := range hopsOf(ledger.Hop{}, pieces) {
				if err := h.Check(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestATailThatIsTooLongIsCounted: what is not compared may be there twice, and its
// number must not be hidden.
func TestATailThatIsTooLongIsCounted(t *testing.T) {
	const ours, theirs, perBatch = 1, 2, 1 << 16
	many := func(n int) (b record.Batch) {
		b, err := record.Encode(slices.Repeat([]record.Record{{Timestamp: 5}}, n), record.NoProducer(record.None))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	small, lone := many(perBatch), many(1)
	foreign, err := record.Encode([]record.Record{{Value: make([]byte, fetchBytes)}}, record.NoProducer(record.None))
	if err != nil {
		t.Fatal(err)
	}
	// A log is a list of who wrote each of its batches, all of one size.
	log := func(batch record.Batch, writers ...int64) (logTail, int64) {
		n := int64(batch.Count())
		end := n * int64(len(writers))
		return logTail{own: func(pid int64) bool { return pid == ours }, maxDecode: 64 << 20, fetch: func(from int64) (*kmsg.FetchResponseTopicPartition, error) {
			p := kmsg.NewFetchResponseTopicPartition()
			if p.HighWatermark = end; from < end {
				b := record.Batch(slices.Clone(batch))
				b.SetBaseOffset(from / n * n)
				b.Restamp(record.Stamp{ProducerID: writers[from/n]})
				p.RecordBatches = b
			}
			return &p, nil
		}}, end
	}
	for name, c := range map[string]struct {
		batch   record.Batch
		writers []int64
		back    bool // no hop says where it begins
		records int
		doubled int64 // at once
		before  int64
	}{
		"short":              {lone, []int64{ours, theirs, ours}, false, 2, 0, 0},
		"too many records":   {small, []int64{ours, ours, theirs, ours, ours, ours}, false, remnantRecords, perBatch, 0},
		"too many bytes":     {foreign, slices.Repeat([]int64{theirs}, 40), false, 0, 8, 0},
		"no hop, short":      {lone, []int64{ours, theirs, ours}, true, 2, 0, 0},
		"no hop, too long":   {small, []int64{theirs, ours, ours, ours, ours, ours, ours}, true, remnantRecords, 0, 2 * perBatch},
		"no hop, not before": {small, []int64{theirs, theirs, theirs, theirs, theirs, ours, ours, ours, ours}, true, remnantRecords, 0, 0},
	} {
		tail, end := log(c.batch, c.writers...)
		var r remnant
		if c.back {
			err = r.readBack(tail, end)
		} else {
			err = r.read(tail, 0)
		}
		if err != nil || len(r.records) != c.records || r.doubled != c.doubled || r.before != c.before {
			t.Errorf("%s: got %d records, %d doubled, %d before, %v", name, len(r.records), r.doubled, r.before, err)
		}
		r.match([]recordSum{{1}}) // nothing of what the source has
		if want := c.doubled + c.before + int64(c.records); r.doubled != want && c.records > 0 {
			t.Errorf("%s: without a match %d may be doubled, want %d", name, r.doubled, want)
		}
	}
	c := runningCopier(t, "orders")
	c.begin(Position{Exists: true, Next: 7}, limits{}, 7, nil, &remnant{doubled: 8})
	if c.commit(c.enter(), time.Now()); c.status(time.Now()).MayBeDoubled != 8 {
		t.Errorf("the status says %d", c.status(time.Now()).MayBeDoubled)
	}
}

// FuzzRemnant reads what a destination may answer.
func FuzzRemnant(f *testing.F) {
	b, err := record.Encode([]record.Record{{Timestamp: 5, Value: []byte("a")}}, record.NoProducer(record.None))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(b), int64(0))
	f.Fuzz(func(t *testing.T, batches []byte, from int64) {
		var r remnant
		next, err := r.add(batches, from, func(int64) bool { return true }, 1<<20)
		if err == nil && next < from {
			t.Errorf("goes back from %d to %d", from, next)
		}
		if err != nil && errors.Is(err, record.ErrPartial) {
			t.Error("what is cut off is an error")
		}
	})
}
