//go:build chaos && unix

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

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

// check compares both sides, and both with the ledger, and returns what it has read.
func (c *chaos) check() (us, eu *side) {
	c.t.Helper()
	topics := sortedTopics(c.topics)
	eventually(c.t, recovery, "no transaction is open", func() (err error) {
		if us, err = c.us.look(topics...); err == nil {
			eu, err = c.eu.look(append(topics, ledger.Topic)...)
		}
		return err
	})
	copies := foldLedger(c.t, eu.records[ledger.Topic], false)
	var records, gaps int64
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
			records, gaps = records+f.copied, gaps+f.left
		}
	}
	c.checkAcknowledged(us)
	c.say("checked: %d records are copied, %d offsets are gaps, at %d epochs", records, gaps, epochs(copies))
	return us, eu
}

func epochs(copies map[ledger.CopyKey]*fold) (n int) {
	for _, f := range copies {
		n += len(f.owners)
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
		case !f.holds(tile{r.Offset, to[i].Offset, 1}):
			c.t.Errorf("%s: offset %d is copied to %d, the ledger says otherwise", name, r.Offset, to[i].Offset)
			return
		}
	}
	if len(to) > len(from) {
		c.t.Errorf("%s has %d records, its copy %d: %s is one too many", name, len(from), len(to), show(to[len(from)]))
	}
	if f.copied != int64(len(from)) || f.copied+f.left != f.next {
		c.t.Errorf("%s: %d records, the ledger has %d of them and %d gaps below %d", name, len(from), f.copied, f.left, f.next)
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

// translate asks the fleet for some offsets of a partition.
func (c *chaos) translate(topic string, partition int32, f *fold) {
	c.t.Helper()
	if f.next == 0 {
		return
	}
	for range 3 {
		at := c.rng.Int64N(f.next)
		want, ok := f.image(at)
		if !ok {
			continue // nothing comes after it
		}
		c.fleet.translates(topic, partition, at, want)
	}
}
