package mirror

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/offsets"
)

// withRules are the copies of a topic under rules.
func (w *world) withRules(r flow.Records, partitions int32, topics ...string) []Assignment {
	all := w.copies(1, partitions, topics...)
	if r.Poison == "" {
		r.Poison = flow.PoisonStop
	}
	for i := range all {
		spec := *all[i].Spec
		spec.Spec.Records = &r
		all[i].Spec = &spec
	}
	return all
}

// readTo returns the records of a partition below an offset, which are committed
// or aborted.
func (s *site) readTo(t testing.TB, topic string, partition int32, end int64) []*kgo.Record {
	t.Helper()
	cl, err := kafka.NewClient(s.Cluster, "reader",
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(50*time.Millisecond), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out []*kgo.Record
	for next := int64(0); next < end && ctx.Err() == nil; {
		for _, r := range cl.PollFetches(ctx).Records() {
			if next = r.Offset + 1; !r.Attrs.IsControl() && r.Offset < end {
				out = append(out, r)
			}
		}
	}
	return out
}

func incompressible(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func header(r *kgo.Record, key string) string {
	value := "(none)"
	for _, h := range r.Headers {
		if h.Key == key {
			value = string(h.Value)
		}
	}
	return value
}

func TestRulesAreApplied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stars := "***"
	at := time.UnixMilli(1700000000000)
	for i := range 10 {
		w.west.put(t, &kgo.Record{
			Topic: "orders", Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, `{"n": %d, "card": "4111", "mail": "x"}`, i),
			Headers: []kgo.RecordHeader{{Key: "region", Value: []byte([]string{"eu", "us"}[i%2])}}, Timestamp: at,
		})
	}
	n := w.node("a", nil)
	n.Assign(w.withRules(flow.Records{
		Filter: `headers["region"] == "eu" && json.n > 2`, Headers: true, Compression: "zstd",
		Mask: []flow.MaskRule{{Field: "card", Replace: &stars}, {Field: "mail", Hash: flow.Secret("${file:" + key + "}")}, {In: flow.MaskKey, Hash: flow.Secret("${file:" + key + "}")}},
	}, 1, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	got := w.east.read(t, "orders", 0, 3)
	if len(got) != 3 {
		t.Fatalf("%d records, want 3", len(got))
	}
	const hashOfX = "117eca332f7e13ccb8e4574e4f33daa212a9231353670c2b8b4797df0bb77afa"
	for i, r := range got {
		source := 4 + 2*i
		if want := fmt.Sprintf(`{"n": %d, "card": "***", "mail": "%s"}`, source, hashOfX); string(r.Value) != want {
			t.Errorf("%s, want %s", r.Value, want)
		}
		if len(r.Key) != 64 || !r.Timestamp.Equal(at) || header(r, "region") != "eu" {
			t.Errorf("key %q, time %v, headers %v", r.Key, r.Timestamp, r.Headers)
		}
		if header(r, record.HeaderSourceTopic) != "orders" || header(r, record.HeaderSourcePartition) != "0" || header(r, record.HeaderSourceOffset) != fmt.Sprint(source) ||
			header(r, record.HeaderSourceTimestamp) != "1700000000000" || len(header(r, record.HeaderSourceCluster)) < 10 {
			t.Errorf("headers %v", r.Headers)
		}
		if r.Attrs.CompressionType() != 4 {
			t.Errorf("compression %d, want zstd", r.Attrs.CompressionType())
		}
	}
	w.gapsAre(t, map[ledger.Reason]int64{ledger.Filtered: 7})
	for _, h := range entriesIn[*ledger.Hop](t, w.east) {
		for _, run := range h.Runs {
			if run.Path != ledger.Altered {
				t.Errorf("path %v", run.Path)
			}
		}
	}
}

// TestWhatAFilterLeavesOutIsAccountedFor has a filter leave out records in the middle of
// batches, whole batches, and the last records that there are: the copy comes to the
// end, and each position lies at the next record that passed.
//
// KAFKA-13985: a task failed at a record that a transform had dropped, since nothing
// was known of where it had gone.
func TestWhatAFilterLeavesOutIsAccountedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	var passes []int
	for from := 0; from < 60; from += 10 { // a batch each
		var batch []*kgo.Record
		for i := from; i < from+10; i++ {
			region := "us"
			if i/10%2 == 0 && i%3 == 0 && i < 50 {
				region = "eu"
				passes = append(passes, i)
			}
			batch = append(batch, &kgo.Record{Topic: "orders", Value: fmt.Append(nil, i), Headers: []kgo.RecordHeader{{Key: "region", Value: []byte(region)}}})
		}
		w.west.put(t, batch...)
	}
	n := w.node("a", nil)
	n.Assign(w.withRules(flow.Records{Filter: `headers["region"] == "eu"`}, 1, "orders"))
	eventually(t, "the copy has come to the end", func() bool { return n.caughtUp(1) && n.only().Position == 60 })
	got := w.east.read(t, "orders", 0, len(passes))
	if len(got) != len(passes) {
		t.Fatalf("%d records, want %d", len(got), len(passes))
	}
	w.gapsAre(t, map[ledger.Reason]int64{ledger.Filtered: int64(60 - len(passes))})
	for x := int64(0); x < 60; x++ {
		want := got[len(got)-1].Offset + 1
		if i := slices.IndexFunc(passes, func(p int) bool { return int64(p) >= x }); i >= 0 {
			want = got[i].Offset
		}
		answers := w.maps.Translate(offsets.Where{Cluster: "west", Topic: "orders", Offset: x}, "east", nil)
		if len(answers) != 1 || answers[0].Result.Offset != want || !answers[0].Result.Exact {
			t.Errorf("position %d: got %+v, want offset %d", x, answers, want)
		}
	}
}

// TestNewRulesHoldFromOneOffsetOn changes a filter while records flow: every record
// before some offset has gone by the old one, every one from there on by the new
// one, and the ledger says which offset that is.
func TestNewRulesHoldFromOneOffsetOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	n := w.node("a", nil)
	n.Assign(w.withRules(flow.Records{Filter: "offset % 2 == 0"}, 1, "orders"))
	total := 0
	write := func() { w.west.produce(t, "orders", 0, total, total+200); total += 200 }
	eventually(t, "some are copied", func() bool { write(); return n.Metrics().Records.Load() > 100 })
	n.Assign(w.withRules(flow.Records{Filter: "offset % 2 == 1"}, 1, "orders"))
	eventually(t, "the new rules are in force", func() bool { write(); return len(entriesIn[*ledger.Rules](t, w.east)) == 2 })
	write()
	eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Position == int64(total) })
	got := w.east.read(t, "orders", 0, total/2)
	rules := entriesIn[*ledger.Rules](t, w.east)
	if len(rules) != 2 || rules[0].From != 0 || rules[0].Hash() == rules[1].Hash() || !strings.Contains(rules[1].Text, "offset % 2 == 1") {
		t.Fatalf("%+v", rules)
	}
	change := rules[1].From
	next := 0
	for i := range int64(total) {
		if (i%2 == 1) != (i >= change) {
			continue
		}
		if next >= len(got) || string(got[next].Value) != fmt.Sprint(i) {
			t.Fatalf("the rules change at offset %d; record %d of the copy is not that of offset %d", change, next, i)
		}
		next++
	}
	if next != len(got) || change == 0 || change == int64(total) {
		t.Errorf("%d records, want %d; the rules change at %d", len(got), next, change)
	}
	n.Assign(w.copies(1, 1, "orders"))
	eventually(t, "the copy has begun without rules", func() bool {
		begins := entriesIn[*ledger.Begin](t, w.east)
		return len(begins) == 3 && len(entriesIn[*ledger.Rules](t, w.east)) == 2
	})
}

// TestQuarantine sends what the destination cannot take among what it can, from
// several partitions, with a fault in the middle of a transaction: everything is
// in one of both topics, once.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.west.create(t, "orders", 3)
	w.east.create(t, "orders", 3, "cleanup.policy", "compact", "max.message.bytes", "5000", "message.timestamp.before.max.ms", "86400000")
	now := time.Now()
	bad := map[string]string{} // value: reason
	for p := range int32(3) {
		for i := range 12 {
			r := &kgo.Record{Topic: "orders", Partition: p, Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "%d/%d", p, i), Timestamp: now}
			switch i {
			case 3, 4:
				r.Key = nil
				bad[string(r.Value)] = "no key"
			case 7:
				r.Timestamp = now.Add(-48 * time.Hour)
				bad[string(r.Value)] = "before.max.ms"
			case 9:
				r.Value = append(r.Value, incompressible(9000)...)
				bad[string(r.Value)] = "5000"
			}
			w.west.put(t, r)
		}
	}
	var once atomic.Bool
	n := w.node("a", func(c *Config) {
		c.at = func(p point) error {
			if p == afterHops && w.asideOnce(&once) {
				return errTest
			}
			return nil
		}
	})
	n.Assign(w.withRules(flow.Records{Poison: flow.PoisonQuarantine, Quarantine: "poison"}, 3, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(3) })
	for p := range int32(3) {
		got := w.east.read(t, "orders", p, 8)
		for _, r := range got {
			if bad[string(r.Value)] != "" {
				t.Errorf("%.10s is in the copy", r.Value)
			}
		}
		if len(got) != 8 {
			t.Errorf("partition %d has %d records, want 8", p, len(got))
		}
	}
	ends, err := w.east.admin.ListCommittedOffsets(t.Context(), "poison")
	if err != nil {
		t.Fatal(err)
	}
	end, _ := ends.Lookup("poison", 0)
	at := map[int64]*kgo.Record{}
	for _, r := range w.east.readTo(t, "poison", 0, end.Offset) {
		why, ok := bad[string(r.Value)]
		if !ok || !strings.Contains(header(r, record.HeaderQuarantineReason), why) || header(r, record.HeaderQuarantineContent) != record.ContentRecord {
			t.Errorf("%.10s: %v, want %q", r.Value, r.Headers, why)
		}
		delete(bad, string(r.Value))
		at[r.Offset] = r
	}
	if len(bad) > 0 {
		t.Errorf("not in quarantine: %.100v", bad)
	}
	w.gapsAre(t, map[ledger.Reason]int64{ledger.Quarantined: 12})
	records := int64(0)
	for _, q := range entriesIn[*ledger.Quarantine](t, w.east) {
		for i := range q.Records {
			r := at[q.Offset+i]
			if r == nil || q.Topic != "poison" || q.TopicID == (ledger.TopicID{}) {
				t.Fatalf("%+v: nothing is there", q)
			}
			var offset int64
			if _, err := fmt.Sscan(header(r, record.HeaderSourceOffset), &offset); err != nil || offset < q.From || offset >= q.Next {
				t.Errorf("%+v: offset %d is there", q, offset)
			}
			records++
		}
	}
	if records != 12 {
		t.Errorf("the ledger says where %d records are, want 12", records)
	}
}

// asideOnce is true for the first transaction that is under way at the
// destination's quarantine topic.
func (w *world) asideOnce(once *atomic.Bool) bool {
	ends, err := w.east.admin.ListEndOffsets(context.Background(), "poison")
	if err != nil {
		return false
	}
	end, ok := ends.Lookup("poison", 0)
	return ok && end.Offset > 0 && once.CompareAndSwap(false, true)
}

// TestPoisonStops: by default the copy stands in front of what it cannot copy, and
// says which offset that is, why, and what to do.
func TestPoisonStops(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rules  *flow.Records
		bad    *kgo.Record
		reason string
	}{
		"no key":   {nil, &kgo.Record{Value: []byte("x")}, "it has no key"},
		"old":      {nil, &kgo.Record{Key: []byte("k"), Timestamp: time.Now().Add(-48 * time.Hour)}, "before.max.ms"},
		"large":    {nil, &kgo.Record{Key: []byte("k"), Value: incompressible(9000)}, "5000"},
		"not JSON": {&flow.Records{Filter: "json.n > 1"}, &kgo.Record{Key: []byte("k"), Value: []byte("x")}, "asks for JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.west.create(t, "orders", 1)
			w.east.create(t, "orders", 1, "cleanup.policy", "compact", "max.message.bytes", "5000", "message.timestamp.before.max.ms", "86400000")
			c.bad.Topic = "orders"
			good := func() *kgo.Record {
				return &kgo.Record{Topic: "orders", Key: []byte("k"), Value: []byte(`{"n":2}`)}
			}
			w.west.put(t, good(), c.bad, good())
			n := w.node("a", nil)
			all := w.copies(1, 1, "orders")
			if c.rules != nil {
				all = w.withRules(*c.rules, 1, "orders")
			}
			n.Assign(all)
			eventually(t, "the copy has stopped in front of it", func() bool {
				s := n.only()
				return s.State == Failed && s.Position == 1 && strings.Contains(s.Reason, "offset 1: ") && strings.Contains(s.Reason, c.reason) && strings.Contains(s.Fix, "spec.records.poison")
			})
		})
	}
}

func TestRulesWhoseSecretIsNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 5)
	path := filepath.Join(t.TempDir(), "key")
	n := w.node("a", nil)
	n.Assign(w.withRules(flow.Records{Mask: []flow.MaskRule{{Hash: flow.Secret("${file:" + path + "}")}}}, 1, "orders"))
	eventually(t, "the flow says so", func() bool {
		s := n.only()
		return s.State == Failed && strings.Contains(s.Reason, "mask[0]") && strings.Contains(s.Fix, "secrets")
	})
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	for _, r := range w.east.read(t, "orders", 0, 5) {
		if len(r.Value) != 64 {
			t.Errorf("%s is not masked", r.Value)
		}
	}
}
