package tail

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/ledger"
)

// admin asks a cluster about its ledger.
type admin struct{ kmsg.Requestor }

// layout is the ledger topic as a cluster shows it.
type layout struct {
	cluster    string
	exists     bool
	topicID    ledger.TopicID
	partitions []int32
}

func (a admin) layout(ctx context.Context) (layout, error) {
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr(ledger.Topic)
	req.Topics = append(req.Topics, topic)
	req.AllowAutoTopicCreation = false
	resp, err := req.RequestWith(ctx, a)
	if err != nil {
		return layout{}, fmt.Errorf("look for the ledger: %w", err)
	}
	var l layout
	if resp.ClusterID != nil {
		l.cluster = *resp.ClusterID
	}
	if len(resp.Topics) != 1 {
		return layout{}, fmt.Errorf("look for the ledger: %d topics in the answer", len(resp.Topics))
	}
	t := resp.Topics[0]
	switch err := kerr.ErrorForCode(t.ErrorCode); {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return l, nil
	case err != nil:
		return layout{}, fmt.Errorf("look for the ledger: %w", err)
	}
	l.exists, l.topicID = true, t.TopicID
	for _, p := range t.Partitions {
		l.partitions = append(l.partitions, p.Partition)
	}
	slices.Sort(l.partitions)
	return l, nil
}

// mark is a place in a log that its leader knows, as ListOffsets asks for it.
type mark struct {
	timestamp int64
	isolation int8
}

var (
	atStart  = mark{-2, 0}
	atEnd    = mark{-1, 0} // the high watermark
	atStable = mark{-1, 1} // the last stable offset
)

// offsets asks the leaders where logs have a mark. A leader that is too new to know its
// end answers with an error here (KIP-207) and not with a lower one.
func (a admin) offsets(ctx context.Context, partitions []int32, which mark) (map[int32]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	req.IsolationLevel = which.isolation
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = ledger.Topic
	for _, n := range partitions {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = n, which.timestamp
		topic.Partitions = append(topic.Partitions, p)
	}
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("list offsets of the ledger: %w", err)
	}
	got := map[int32]int64{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("list offsets of ledger partition %d: %w", p.Partition, err)
			}
			got[p.Partition] = p.Offset
		}
	}
	for _, n := range partitions {
		if _, ok := got[n]; !ok {
			return nil, fmt.Errorf("list offsets of ledger partition %d: no answer", n)
		}
	}
	return got, nil
}

// look asks for the topic and holds it against what it was.
func (t *Tail) look(ctx context.Context) (layout, error) {
	l, err := t.adm.layout(ctx)
	if err != nil {
		return layout{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.status == Stopped {
		return layout{}, t.err
	}
	if t.cluster != "" && l.cluster != t.cluster {
		return layout{}, fmt.Errorf("%w: cluster.id is %q, it was %q", ErrWrongCluster, l.cluster, t.cluster)
	}
	pinned := t.topicID != (ledger.TopicID{})
	if !l.exists && pinned {
		return layout{}, fmt.Errorf("%w: topic id was %s", ErrMissing, t.topicID)
	}
	if l.exists && pinned && l.topicID != t.topicID {
		return layout{}, fmt.Errorf("%w: topic id is %s, it was %s", ErrRecreated, l.topicID, t.topicID)
	}
	for n := range t.parts {
		if !slices.Contains(l.partitions, n) {
			return layout{}, fmt.Errorf("%w: partition %d is gone", ErrTruncated, n)
		}
	}
	return l, nil
}

// refresh looks at the topic and begins to read the partitions that are new.
// Only [Tail.watch] calls it.
func (t *Tail) refresh(ctx context.Context) error {
	l, err := t.look(ctx)
	if err != nil {
		return err
	}
	var fresh, outside []int32
	t.mu.Lock()
	t.cluster = l.cluster
	before, id := t.status, t.topicID
	if t.status = Absent; l.exists {
		t.status, t.topicID = Reading, l.topicID
	}
	if t.status != before || t.topicID != id {
		t.found()
	}
	for _, n := range l.partitions {
		if p := t.parts[n]; p == nil {
			fresh = append(fresh, n)
		} else if p.outside {
			outside = append(outside, n)
		}
	}
	if len(fresh)+len(outside) == 0 {
		t.err = nil
	}
	t.wake()
	t.mu.Unlock()
	if len(outside) > 0 {
		return t.outside(ctx, outside)
	}
	if len(fresh) == 0 {
		return nil
	}

	starts, err := t.adm.offsets(ctx, fresh, atStart)
	if err != nil {
		return err
	}
	ends, err := t.adm.offsets(ctx, fresh, atEnd)
	if err != nil {
		return err
	}
	if begun := len(fresh) < len(l.partitions); begun {
		for n, start := range starts {
			if start > 0 { // what sinks have of the others may have to go, too
				return fmt.Errorf("ledger partition %d came later and begins at offset %d: %w", n, start, ErrOvertaken)
			}
		}
	}
	from := map[int32]kgo.Offset{}
	parts := t.begin(l.cluster, l.topicID, starts, ends)
	t.mu.Lock()
	for n, p := range parts {
		t.parts[n], from[n] = p, kgo.NewOffset().At(p.read)
	}
	t.mu.Unlock()
	if t.cl != nil {
		t.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{ledger.Topic: from})
	}
	t.mu.Lock()
	t.err = nil
	t.wake()
	t.mu.Unlock()
	return nil
}

// outside is why partitions could not be read on from where their reading was: their
// beginnings have gone meanwhile, or their ends.
func (t *Tail) outside(ctx context.Context, partitions []int32) error {
	starts, err := t.adm.offsets(ctx, partitions, atStart)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range partitions {
		if next := t.parts[n].next; next < starts[n] {
			return fmt.Errorf("read ledger partition %d at offset %d, it begins at %d: %w", n, next, starts[n], ErrOvertaken)
		}
	}
	return fmt.Errorf("read ledger partition %d: %w: %w", partitions[0], ErrTruncated, kerr.OffsetOutOfRange)
}

// CatchUp returns when everything that was in the ledger at the call has been
// given to the sinks; at once if the cluster has no ledger yet. A transaction
// that is open in the ledger is waited for. It waits for an unreachable cluster
// as long as ctx allows, and fails if the ledger is not the one it was, or not
// there, and when the Tail's Run returns.
func (t *Tail) CatchUp(ctx context.Context) error {
	select {
	case <-t.started:
	case <-ctx.Done():
		return fmt.Errorf("read ledger to its end: not running: %w", ctx.Err())
	}
	var last error
	for {
		ends, err := t.ends(ctx)
		if err == nil {
			return t.wait(ctx, ends)
		}
		if s := t.State(); s.Status == Stopped {
			return fmt.Errorf("read ledger to its end: %w", s.Err)
		}
		if errors.Is(err, ErrMissing) {
			return fmt.Errorf("read ledger to its end: %w", err)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-t.ended:
			return fmt.Errorf("read ledger to its end: %w: %w", ErrEnded, err)
		case <-ctx.Done():
			return fmt.Errorf("read ledger to its end: %w", errors.Join(ctx.Err(), last))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (t *Tail) ends(ctx context.Context) (map[int32]int64, error) {
	l, err := t.look(ctx)
	if err != nil {
		t.report(err)
		return nil, err
	}
	if !l.exists {
		return nil, nil
	}
	return t.adm.offsets(ctx, l.partitions, atEnd)
}

// wait returns when every partition has been delivered up to its end.
func (t *Tail) wait(ctx context.Context, ends map[int32]int64) error {
	for {
		t.mu.Lock()
		behind, err, changed := t.behind(ends), t.err, t.changed
		stopped := t.status == Stopped
		unread := len(t.parts) < len(ends)
		t.mu.Unlock()
		if unread {
			select {
			case t.hurry <- struct{}{}:
			default:
			}
		}
		switch {
		case stopped:
			return fmt.Errorf("read ledger to its end: %w", err)
		case behind == "":
			return nil
		}
		select {
		case <-changed:
		case <-t.ended:
			return fmt.Errorf("read ledger to its end: %s: %w", behind, ErrEnded)
		case <-ctx.Done():
			return fmt.Errorf("read ledger to its end: %s: %w", behind, errors.Join(ctx.Err(), err))
		}
	}
}

// behind says which partition is not there yet. mu is held.
func (t *Tail) behind(ends map[int32]int64) string {
	for _, n := range sortedKeys(ends) {
		switch p := t.parts[n]; {
		case p == nil && ends[n] > 0:
			return fmt.Sprintf("partition %d is not read yet", n)
		case p != nil && p.next < ends[n]:
			p.end = max(p.end, ends[n])
			return fmt.Sprintf("partition %d is at offset %d of %d", n, p.next, ends[n])
		}
	}
	return ""
}
