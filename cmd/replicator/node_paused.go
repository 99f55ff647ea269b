package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/mirror"
)

// pausedInterval is between two looks at where the sources of paused topics end:
// nobody waits for them.
const pausedInterval = 5 * time.Second

// pausedCopy is where a partition stands that nobody copies for now: -1 is not known.
type pausedCopy struct {
	Position int64 `json:"position"` // the source offset that comes next
	End      int64 `json:"end"`      // the source's high watermark
}

// lookAtPaused keeps the duty's report of what is paused up to date. What cannot be had
// is not known; the flow has nothing to say of it, since it wants nothing there.
func (l *life) lookAtPaused(ctx context.Context, f *flow.ReplicationFlow, d *duty) {
	defer d.paused.Store(nil)
	for ctx.Err() == nil {
		found, err := l.pausedCopies(ctx, f)
		if err != nil && ctx.Err() == nil {
			l.log.Debug("look at paused topics", "flow", f.Metadata.Name, "err", err)
		}
		d.paused.Store(&found)
		pause(ctx, pausedInterval)
	}
}

// pausedCopies is where the copies of paused topics stand, by source topic.
func (l *life) pausedCopies(ctx context.Context, f *flow.ReplicationFlow) (map[string][]pausedCopy, error) {
	var topics []mirror.Topic
	var names []string
	for _, t := range knownTopics(l.fleet.State(), f.Metadata.Name) {
		if f.Spec.PausedTopic(t.Source) {
			topics, names = append(topics, t), append(names, t.Source)
		}
	}
	if len(topics) == 0 {
		return nil, nil
	}
	client, err := l.directory.client(f.Spec.Source)
	if err != nil {
		return nil, err
	}
	admin := kadm.NewClient(client)
	lives, err := admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: list topics: %w", f.Spec.Source, err)
	}
	ends, err := admin.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: list end offsets: %w", f.Spec.Source, err)
	}
	position, err := l.ledgerPositions(ctx, f)
	if err != nil {
		return nil, err
	}
	found := map[string][]pausedCopy{}
	for _, t := range topics {
		if ledger.TopicID(lives[t.Source].ID) != t.SourceID {
			continue // another life of it is no backlog of this copy
		}
		copies := make([]pausedCopy, t.Partitions)
		for p := range copies {
			copies[p] = pausedCopy{Position: position(t, int32(p)), End: -1}
			if o, ok := ends.Lookup(t.Source, int32(p)); ok && o.Err == nil {
				copies[p].End = o.Offset
			}
		}
		found[t.Source] = copies
	}
	return found, nil
}

// ledgerPositions reads the ledger of a flow's destination to its end, and tells then
// where a copy stands: -1 where it has not begun, or the ledger may have lost a page.
func (l *life) ledgerPositions(ctx context.Context, f *flow.ReplicationFlow) (func(mirror.Topic, int32) int64, error) {
	source, err := l.directory.id(f.Spec.Source)
	if err != nil {
		return nil, err
	}
	destination, err := l.directory.id(f.Spec.Destination)
	if err != nil {
		return nil, err
	}
	if err := l.maps.CatchUp(ctx, destination); err != nil {
		return nil, err
	}
	return func(t mirror.Topic, partition int32) int64 {
		m := l.maps.Copy(ledger.CopyID{
			Source:      ledger.End{Cluster: source, TopicID: t.SourceID, Partition: partition},
			Destination: ledger.End{Cluster: destination, TopicID: t.DestinationID, Partition: partition},
		})
		switch {
		case m == nil:
			return -1 // it has not begun
		case m.Doubt() != "":
			return -1
		}
		return m.Next()
	}, nil
}
