//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// The points of a transaction at which an owner may die or sleep.
var stages = []string{"before-add", "after-add", "data-sent", "after-data", "after-hops", "end-sent"}

// task names what a mover copies: every partition of one topic into another.
type task struct {
	Addr                string // of the one broker
	Source, Destination string
	SourceID, DestID    string // topic ids
	Partitions          int32
}

func (k task) cluster() *flow.Cluster {
	c := &flow.Cluster{Metadata: flow.Metadata{Name: "apache"}}
	c.Spec.BootstrapServers = []string{k.Addr}
	return c
}

// copyID identifies the copy of one partition.
func (k task) copyID(partition int32) (ledger.CopyID, error) {
	src, err := ledger.ParseTopicID(k.SourceID)
	if err != nil {
		return ledger.CopyID{}, err
	}
	dst, err := ledger.ParseTopicID(k.DestID)
	return ledger.CopyID{
		Source:      ledger.End{Cluster: "interop", TopicID: src, Partition: partition},
		Destination: ledger.End{Cluster: "interop", TopicID: dst, Partition: partition},
	}, err
}

// ledgerPartition holds what there is to say about the task: one partition,
// since all its copies are of one pair of topics.
func (k task) ledgerPartition() (flow.TopicPartition, error) {
	id, err := k.copyID(0)
	return flow.TopicPartition{Topic: ledger.Topic, Partition: ledger.PartitionOf(id, ledgerPartitions)}, err
}

const ledgerPartitions = 2

// mover owns the copies of a task, as the mirror does but by hand: one lane, and
// transactions of data and hops.
type mover struct {
	task
	lane  *lane
	epoch uint64 // of its assignment
	chain *ledger.Chain
	next  map[int32]int64          // source offset per partition
	log   map[int32][]record.Batch // of the source, whole
}

// newMover reads the source and begins at the positions given. The lane is open.
func newMover(ctx context.Context, k task, l *lane, epoch uint64, next map[int32]int64) (*mover, error) {
	m := &mover{task: k, lane: l, epoch: epoch, chain: ledger.NewChain(ledger.WriterID(uuid.New())), next: next, log: map[int32][]record.Batch{}}
	for p := range k.Partitions {
		log, err := fetchAll(ctx, l.conn, tp(k.Source, p))
		if err != nil {
			return nil, err
		}
		m.log[p] = log
	}
	return m, nil
}

// answer is what a broker said to one step.
type answer struct{ Step, Code string }

// batchesPerTransaction of each partition, in as many requests under way.
const batchesPerTransaction = 2

// transaction copies some batches of every partition. It calls at at each stage,
// takes every step whatever the answer to the one before (a zombie does not know
// better), and returns the answers. Positions move only if all is well.
func (m *mover) transaction(ctx context.Context, at func(stage string)) ([]answer, error) {
	var answers []answer
	var faults error
	note := func(step string, err error) {
		answers = append(answers, answer{step, code(err)})
		if err != nil {
			faults = errors.Join(faults, fmt.Errorf("%s: %w", step, err))
		}
	}
	book, err := m.ledgerPartition()
	if err != nil {
		return nil, err
	}
	partitions := []flow.TopicPartition{book}
	for p := range m.Partitions {
		partitions = append(partitions, tp(m.Destination, p))
	}

	at("before-add")
	note("AddPartitionsToTxn", m.lane.add(ctx, partitions...))
	at("after-add")
	hops := map[int32]*ledger.Hop{}
	var requests []map[flow.TopicPartition]record.Batch
	var calls []*kafka.Call
	for range batchesPerTransaction {
		sent := m.take(hops)
		stamped := map[flow.TopicPartition]record.Batch{}
		for q, b := range sent {
			stamped[q] = m.lane.stamped(q, b)
		}
		requests = append(requests, sent)
		calls = append(calls, m.lane.send(ctx, stamped))
	}
	at("data-sent")
	for i, k := range calls {
		got, err := acks(ctx, k)
		if err != nil {
			note("Produce data", err)
			continue
		}
		for q, b := range requests[i] {
			note("Produce data", got[q].Err)
			hops[q.Partition].Runs = append(hops[q.Partition].Runs, ledger.Run{
				Source: b.BaseOffset(), Destination: got[q].Base, Count: int64(b.Count()), Path: ledger.Raw, Digest: b.RecordsCRC(),
			})
		}
	}
	at("after-data")
	page, err := m.page(hops)
	if err != nil {
		return nil, err
	}
	_, err = m.lane.produce(ctx, book, m.lane.stamped(book, page))
	note("Produce hops", err)
	at("after-hops")
	end := m.lane.sendEnd(ctx, true)
	at("end-sent")
	note("EndTxn", endResult(end.Wait(ctx)))
	if faults == nil {
		for p, h := range hops {
			m.next[p] = h.Next
		}
	}
	return answers, faults
}

// take picks the next batch of every partition and extends the hops by it.
func (m *mover) take(hops map[int32]*ledger.Hop) map[flow.TopicPartition]record.Batch {
	out := map[flow.TopicPartition]record.Batch{}
	for p := range m.Partitions {
		next := m.next[p]
		if h := hops[p]; h != nil {
			next = h.Next
		}
		for _, b := range m.log[p] {
			if b.BaseOffset() != next {
				continue
			}
			if hops[p] == nil {
				id, _ := m.copyID(p) // it was good for the ledger's partition
				hops[p] = &ledger.Hop{Copy: id.Key(), Epoch: m.epoch, From: next, SourceLeaderEpoch: -1, DestinationLeaderEpoch: -1, At: time.Now()}
			}
			hops[p].Next = b.NextOffset()
			hops[p].Bytes += int64(len(b))
			out[tp(m.Destination, p)] = b
		}
	}
	return out
}

func (m *mover) page(hops map[int32]*ledger.Hop) (record.Batch, error) {
	var entries []ledger.Entry
	for p := range m.Partitions {
		if hops[p] != nil {
			entries = append(entries, hops[p])
		}
	}
	value := m.chain.Encode(entries)
	return record.Encode([]record.Record{{Timestamp: time.Now().UnixMilli(), Value: value}}, record.NoProducer(record.None))
}

// done says whether every partition is copied to its end.
func (m *mover) done() bool {
	for p, log := range m.log {
		if m.next[p] < log[len(log)-1].NextOffset() {
			return false
		}
	}
	return true
}

// hopsOf reads the ledger read_committed to its end and returns the hops of each
// copy of a task, in order.
func hopsOf(ctx context.Context, k task) (map[int32][]*ledger.Hop, error) {
	book, err := k.ledgerPartition()
	if err != nil {
		return nil, err
	}
	partition := map[ledger.CopyKey]int32{}
	for p := range k.Partitions {
		id, err := k.copyID(p)
		if err != nil {
			return nil, err
		}
		partition[id.Key()] = p
	}
	pages, err := readCommitted(ctx, k.cluster(), book)
	if err != nil {
		return nil, err
	}
	out := map[int32][]*ledger.Hop{}
	for _, r := range pages {
		page, err := ledger.Decode(r.Value)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			if h, ok := e.(*ledger.Hop); ok {
				if p, ours := partition[h.Copy]; ours {
					out[p] = append(out[p], h)
				}
			}
		}
	}
	return out, nil
}

// resume is where the ledger says that the copies of a task stand.
func resume(ctx context.Context, k task) (map[int32]int64, error) {
	hops, err := hopsOf(ctx, k)
	if err != nil {
		return nil, err
	}
	next := map[int32]int64{}
	for p := range k.Partitions {
		for _, h := range hops[p] {
			if h.From != next[p] {
				return nil, fmt.Errorf("partition %d: a hop goes on from %d, the one before ended at %d", p, h.From, next[p])
			}
			next[p] = h.Next
		}
	}
	return next, nil
}

// checkExact compares both sides record by record, read_committed, and every
// run of every hop with the records that it names.
func checkExact(t *testing.T, k task) {
	t.Helper()
	hops, err := hopsOf(t.Context(), k)
	must(t, "read ledger", err)
	for p := range k.Partitions {
		source, err := readCommitted(t.Context(), k.cluster(), tp(k.Source, p))
		must(t, "read source", err)
		dest, err := readCommitted(t.Context(), k.cluster(), tp(k.Destination, p))
		must(t, "read destination", err)
		if len(dest) != len(source) {
			t.Errorf("partition %d: %d records at the destination, %d at the source", p, len(dest), len(source))
		}
		byOffset := map[int64]*kgo.Record{}
		for i, d := range dest {
			byOffset[d.Offset] = d
			if i < len(source) && content(d) != content(source[i]) {
				t.Fatalf("partition %d record %d: %s at the destination, %s at the source", p, i, content(d), content(source[i]))
			}
		}
		next := int64(0)
		for _, h := range hops[p] {
			if h.From != next {
				t.Errorf("partition %d: hop from %d, want %d", p, h.From, next)
			}
			next = h.Next
			for _, r := range h.Runs {
				for i := range r.Count {
					if d := byOffset[r.Destination+i]; d == nil || content(d) != content(source[r.Source+i]) {
						t.Fatalf("partition %d: the hop says that %d is at %d, which it is not", p, r.Source+i, r.Destination+i)
					}
				}
			}
		}
		if next != int64(len(source)) {
			t.Errorf("partition %d: hops end at %d, want %d", p, next, len(source))
		}
	}
}

// content is everything of a record that a copy must keep.
func content(r *kgo.Record) string {
	return fmt.Sprintf("%d key %q null %v value %q null %v headers %q", r.Timestamp.UnixMilli(), r.Key, r.Key == nil, r.Value, r.Value == nil, r.Headers)
}
