package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/offsets"
)

// verdict is what a comparison of both sides found.
type verdict struct {
	compared, bytes, different int64
	first                      string
}

// verifyFlow reads every partition of a flow on both sides, as read_committed
// readers see them, and compares each source record with the one at its
// translated offset. What was not copied yet when it began is not compared.
func verifyFlow(ctx context.Context, t target, maps *offsets.Maps, declared func(name string) (*flow.Cluster, error)) (verdict, error) {
	var total verdict
	source, err := declared(t.flow.Spec.Source)
	if err != nil {
		return total, err
	}
	destination, err := declared(t.flow.Spec.Destination)
	if err != nil {
		return total, err
	}
	if err := maps.CatchUp(ctx, t.destinationID); err != nil {
		return total, err
	}
	for _, topic := range t.topics {
		for p := range topic.Partitions {
			id, err := t.copyID(topic, p)
			if err != nil {
				return total, err
			}
			m := maps.Copy(id)
			if m == nil || m.Next() == m.Start() {
				continue
			}
			here := &partitionReader{cluster: source, at: flow.TopicPartition{Topic: topic.Source, Partition: p}}
			there := &partitionReader{cluster: destination, at: flow.TopicPartition{Topic: topic.Destination, Partition: p}}
			if err := comparePartition(ctx, here, there, m, &total); err != nil {
				return total, err
			}
		}
	}
	return total, nil
}

func comparePartition(ctx context.Context, here, there *partitionReader, m *offsets.Map, v *verdict) error {
	defer here.close()
	defer there.close()
	if err := here.open(ctx, m.Start()); err != nil {
		return err
	}
	if err := there.open(ctx, 0); err != nil {
		return err
	}
	differ := func(r *kgo.Record, what string) {
		v.different++
		if v.first == "" {
			v.first = fmt.Sprintf("%s@%d: %s", here.at, r.Offset, what)
		}
	}
	route := offsets.Route{There: m}
	for {
		r, err := here.next(ctx)
		if err != nil || r == nil || r.Offset >= m.Next() {
			return err
		}
		image := route.Translate(r.Offset, offsets.AnyBounds)
		if image.Why != offsets.Copied {
			differ(r, "has no copy: "+string(image.Why))
			continue
		}
		c, err := there.seek(ctx, image.Offset)
		switch {
		case err != nil:
			return err
		case c == nil:
			differ(r, fmt.Sprintf("no record at %s@%d", there.at, image.Offset))
		case !sameRecord(r, c):
			differ(r, fmt.Sprintf("is not what %s@%d is", there.at, image.Offset))
		}
		v.compared++
		v.bytes += int64(len(r.Key) + len(r.Value))
	}
}

func sameRecord(a, b *kgo.Record) bool {
	same := bytes.Equal(a.Key, b.Key) && (a.Key == nil) == (b.Key == nil) &&
		bytes.Equal(a.Value, b.Value) && (a.Value == nil) == (b.Value == nil) &&
		a.Timestamp.Equal(b.Timestamp) && len(a.Headers) == len(b.Headers)
	for i := 0; same && i < len(a.Headers); i++ {
		x, y := a.Headers[i], b.Headers[i]
		same = x.Key == y.Key && bytes.Equal(x.Value, y.Value) && (x.Value == nil) == (y.Value == nil)
	}
	return same
}

// partitionReader reads the records of one partition in order, up to where a
// read_committed reader saw its end when it was opened.
type partitionReader struct {
	cluster *flow.Cluster
	at      flow.TopicPartition
	client  *kgo.Client
	end     int64
	queue   []*kgo.Record
	done    bool
}

func (p *partitionReader) open(ctx context.Context, from int64) (err error) {
	p.client, err = kafka.NewClient(p.cluster, "replicator-verify", kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{p.at.Topic: {p.at.Partition: kgo.NewOffset().At(from)}}))
	if err != nil {
		return err
	}
	ends, err := kadm.NewClient(p.client).ListCommittedOffsets(ctx, p.at.Topic)
	if err != nil {
		return fmt.Errorf("end of %s: %w", p.at, err)
	}
	end, ok := ends.Lookup(p.at.Topic, p.at.Partition)
	if !ok || end.Err != nil {
		return fmt.Errorf("end of %s: %w", p.at, end.Err)
	}
	p.end = end.Offset
	p.done = from >= p.end
	return nil
}

func (p *partitionReader) close() {
	if p.client != nil {
		p.client.Close()
	}
}

// next is the next record, nil at the end.
func (p *partitionReader) next(ctx context.Context) (*kgo.Record, error) {
	for {
		for len(p.queue) > 0 {
			r := p.queue[0]
			p.queue = p.queue[1:]
			p.done = p.done || r.Offset+1 >= p.end
			if !r.Attrs.IsControl() && r.Offset < p.end {
				return r, nil
			}
		}
		if p.done {
			return nil, nil
		}
		fetches := p.client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read %s: %w", p.at, err)
		}
		p.queue = fetches.Records()
	}
}

// seek is the record at offset, nil if there is none. What lies before it is
// gone; what lies behind it is not.
func (p *partitionReader) seek(ctx context.Context, offset int64) (*kgo.Record, error) {
	for {
		r, err := p.next(ctx)
		switch {
		case err != nil || r == nil || r.Offset == offset:
			return r, err
		case r.Offset > offset:
			p.queue = append([]*kgo.Record{r}, p.queue...)
			return nil, nil
		}
	}
}
