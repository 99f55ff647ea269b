//go:build chaos && unix

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// side is what a read_committed reader sees of a cluster.
type side struct {
	id      string                    // cluster.id
	topics  map[string]ledger.TopicID // by name
	ends    map[string]map[int32]int64
	records map[string]map[int32][]*kgo.Record
}

var errOpen = errors.New("a transaction is open")

// look reads topics to where they end now, once no transaction is open.
func (b *broker) look(topics ...string) (*side, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cl, err := b.client(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	s := &side{topics: map[string]ledger.TopicID{}, ends: map[string]map[int32]int64{}, records: map[string]map[int32][]*kgo.Record{}}
	if s.id, err = kafka.ClusterID(ctx, cl); err != nil {
		return nil, err
	}
	details, err := adm.ListTopics(ctx, topics...)
	if err != nil {
		return nil, err
	}
	high, err := adm.ListEndOffsets(ctx, topics...)
	if err != nil {
		return nil, err
	}
	stable, err := adm.ListCommittedOffsets(ctx, topics...)
	if err != nil {
		return nil, err
	}
	type place struct {
		topic     string
		partition int32
	}
	missing := map[place]int64{}
	for _, topic := range topics {
		s.topics[topic], s.ends[topic], s.records[topic] = ledger.TopicID(details[topic].ID), map[int32]int64{}, map[int32][]*kgo.Record{}
		for p, end := range high[topic] {
			if last := stable[topic][p]; end.Err != nil || last.Err != nil || last.Offset != end.Offset {
				return nil, fmt.Errorf("%s: %s/%d ends at %d and is stable up to %d: %w", b.name, topic, p, end.Offset, last.Offset, errors.Join(end.Err, last.Err, errOpen))
			}
			s.ends[topic][p], s.records[topic][p] = end.Offset, nil
			if end.Offset > 0 {
				missing[place{topic, p}] = end.Offset
			}
		}
	}
	for len(missing) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read %s: %w", b.name, err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if !r.Attrs.IsControl() { // markers are kept to see where the log ends
				s.records[r.Topic][r.Partition] = append(s.records[r.Topic][r.Partition], r)
			}
			if at := (place{r.Topic, r.Partition}); r.Offset+1 >= missing[at] {
				delete(missing, at)
			}
		}
	}
	return s, nil
}

// check compares both sides, and both with the ledger.
func (c *chaos) check() {
	c.t.Helper()
	topics := sortedTopics(c.topics)
	var us, eu *side
	eventually(c.t, recovery, "no transaction is open", func() (err error) {
		if us, err = c.us.look(topics...); err == nil {
			eu, err = c.eu.look(append(topics, ledger.Topic)...)
		}
		return err
	})
	copies := c.foldLedger(eu.records[ledger.Topic])
	records, gaps := 0, 0
	for _, topic := range topics {
		if len(us.ends[topic]) != len(eu.ends[topic]) {
			c.t.Errorf("%s has %d partitions, its copy %d", topic, len(us.ends[topic]), len(eu.ends[topic]))
		}
		for p := range us.ends[topic] {
			id := ledger.CopyID{Source: ledger.End{Cluster: us.id, TopicID: us.topics[topic], Partition: p}, Destination: ledger.End{Cluster: eu.id, TopicID: eu.topics[topic], Partition: p}}
			f := copies[id.Key()]
			if f == nil {
				c.t.Errorf("the ledger knows no copy of %s/%d", topic, p)
				continue
			}
			c.compare(fmt.Sprintf("%s/%d", topic, p), us.records[topic][p], eu.records[topic][p], us.ends[topic][p], f)
			c.translate(topic, p, f)
			records, gaps = records+len(f.image), gaps+len(f.gaps)
		}
	}
	c.checkAcknowledged(us)
	c.say("checked: %d records are copied, %d offsets are gaps, at %d epochs", records, gaps, epochs(copies))
}

func epochs(copies map[ledger.CopyKey]*fold) (n int) {
	for _, f := range copies {
		n += f.epochs
	}
	return n
}

// checkAcknowledged looks for every record that a producer was told is written.
func (c *chaos) checkAcknowledged(us *side) {
	c.t.Helper()
	seen := map[string]int{}
	for _, partitions := range us.records {
		for _, records := range partitions {
			for _, r := range records {
				seen[string(r.Value)]++
			}
		}
	}
	lost := 0
	for value := range c.load.acked {
		if seen[value] != 1 {
			if lost++; lost <= 5 {
				c.t.Errorf("the source has %d records %.60q, which was acknowledged once", seen[value], value)
			}
		}
	}
	if lost > 0 {
		c.t.Errorf("%d of %d acknowledged records are not in the source once", lost, len(c.load.acked))
	}
}

// compare holds a partition against its copy, and both against the ledger.
func (c *chaos) compare(name string, from, to []*kgo.Record, end int64, f *fold) {
	c.t.Helper()
	for _, fault := range f.faults {
		c.t.Errorf("ledger of %s: %s", name, fault)
	}
	if f.next != end {
		c.t.Errorf("%s ends at %d, the ledger accounts for what is below %d", name, end, f.next)
	}
	for i, r := range from {
		switch {
		case i >= len(to):
			c.t.Errorf("%s has %d records, its copy %d", name, len(from), len(to))
			return
		case !same(r, to[i]):
			c.t.Errorf("%s: record %d, %s, is copied as %s", name, i, show(r), show(to[i]))
			return
		case f.image[r.Offset] != to[i].Offset:
			c.t.Errorf("%s: offset %d is copied to %d, the ledger says %d", name, r.Offset, to[i].Offset, f.image[r.Offset])
			return
		}
	}
	if len(to) > len(from) {
		c.t.Errorf("%s has %d records, its copy %d: %s is one too many", name, len(from), len(to), show(to[len(from)]))
	}
	if len(f.image) != len(from) || int64(len(f.image)+len(f.gaps)) != f.next {
		c.t.Errorf("%s: %d records, the ledger has %d of them and %d gaps below %d", name, len(from), len(f.image), len(f.gaps), f.next)
	}
}

func show(r *kgo.Record) string {
	return fmt.Sprintf("%d: %q=%.60q %d headers at %d", r.Offset, r.Key, r.Value, len(r.Headers), r.Timestamp.UnixMilli())
}

func same(a, b *kgo.Record) bool {
	ok := sameBytes(a.Key, b.Key) && sameBytes(a.Value, b.Value) && a.Timestamp.Equal(b.Timestamp) && len(a.Headers) == len(b.Headers)
	for i := 0; ok && i < len(a.Headers); i++ {
		ok = a.Headers[i].Key == b.Headers[i].Key && sameBytes(a.Headers[i].Value, b.Headers[i].Value)
	}
	return ok
}

// sameBytes tells null from empty.
func sameBytes(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

// fold is what the ledger says of one copy.
type fold struct {
	epoch  uint64
	epochs int
	next   int64
	image  map[int64]int64 // destination offset of each source offset that was copied
	gaps   map[int64]ledger.Reason
	faults []string
}

func (f *fold) fault(format string, args ...any) {
	if len(f.faults) < 5 {
		f.faults = append(f.faults, fmt.Sprintf(format, args...))
	}
}

// foldLedger reads every page in the order of its partition. All of a copy is in
// one of them.
func (c *chaos) foldLedger(pages map[int32][]*kgo.Record) map[ledger.CopyKey]*fold {
	c.t.Helper()
	copies := map[ledger.CopyKey]*fold{}
	homes := map[ledger.CopyKey]int32{}
	of := func(key ledger.CopyKey, partition int32) *fold {
		if copies[key] == nil {
			copies[key], homes[key] = &fold{image: map[int64]int64{}, gaps: map[int64]ledger.Reason{}}, partition
		}
		if homes[key] != partition {
			copies[key].fault("it has entries in ledger partitions %d and %d", homes[key], partition)
		}
		return copies[key]
	}
	for partition, records := range pages {
		for _, r := range records {
			page, err := ledger.Decode(r.Value)
			if err != nil {
				c.t.Errorf("ledger partition %d, offset %d: %v", partition, r.Offset, err)
				continue
			}
			for _, e := range page.Entries {
				switch e := e.(type) {
				case *ledger.Begin:
					of(e.Copy.Key(), partition).begin(e)
				case *ledger.Hop:
					of(e.Copy, partition).hop(e)
				case *ledger.Retraction:
					of(e.Copy, partition).fault("a retraction, of which nothing here is the cause")
				}
			}
		}
	}
	return copies
}

func (f *fold) begin(b *ledger.Begin) {
	switch {
	case b.Epoch < f.epoch:
		f.fault("epoch %d begins after epoch %d: its owner was not fenced", b.Epoch, f.epoch)
	case b.Resume != f.next:
		f.fault("epoch %d begins at offset %d, the last one ended at %d", b.Epoch, b.Resume, f.next)
	}
	if b.Epoch > f.epoch {
		f.epochs++
	}
	f.epoch = max(f.epoch, b.Epoch)
}

func (f *fold) hop(h *ledger.Hop) {
	switch {
	case h.Epoch != f.epoch:
		f.fault("a hop of epoch %d in epoch %d", h.Epoch, f.epoch)
	case h.From != f.next:
		f.fault("a hop from offset %d where %d comes next", h.From, f.next)
	}
	for _, r := range h.Runs {
		for i := range r.Count {
			f.image[r.Source+i] = r.Destination + i
		}
	}
	for _, g := range h.Gaps {
		for i := range g.Count {
			f.gaps[g.Source+i] = g.Reason
		}
	}
	for o := h.From; o < h.Next; o++ {
		_, copied := f.image[o]
		if _, gap := f.gaps[o]; copied == gap {
			f.fault("offset %d of the hop [%d, %d) is copied: %v, a gap: %v", o, h.From, h.Next, copied, gap)
		}
	}
	f.next = h.Next
}

// translate asks the fleet for some offsets of a partition.
func (c *chaos) translate(topic string, partition int32, f *fold) {
	c.t.Helper()
	if f.next == 0 {
		return
	}
	for range 3 {
		at := c.rng.Int64N(f.next)
		next := at // the first at or after it that has a copy
		for f.gaps[next] != 0 {
			next++
		}
		want, ok := f.image[next]
		if !ok {
			continue // nothing comes after it
		}
		var got api.Translations
		eventually(c.t, 20*time.Second, "translate an offset", func() error {
			b, err := c.anyNode(http.MethodGet, fmt.Sprintf("/api/v1/offsets/us/%s/%d/%d?to=eu", topic, partition, at), "")
			if err == nil {
				err = json.Unmarshal(b, &got)
			}
			return err
		})
		if len(got.To) != 1 || got.To[0].Result.Offset != want || !got.To[0].Result.Exact {
			c.t.Errorf("us/%s/%d@%d translates to %+v, the ledger says %d", topic, partition, at, got.To, want)
		}
	}
}
