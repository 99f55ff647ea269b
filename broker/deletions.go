package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker/controller"
)

// A topic is deleted when the metadata say so. What is left of it then, its logs and
// what groups have committed for it, goes afterwards, and until all of it has gone for
// good, whatever crashes, the metadata keep a tombstone, by which a start goes on. Its
// name is free again when the groups have forgotten it: what they have committed for that
// name is then the next topic's.

const (
	// forgetPatience is how long a new topic waits until the one before it is forgotten.
	forgetPatience = 5 * time.Second
	// forgetRetry is after which time forgetting is tried again that was refused.
	forgetRetry = time.Second
)

// forgetInterrupted lets groups forget topics whose deletion the last life of the broker
// may not have finished. One whose name is another topic's was forgotten before that was made.
// By metadata from a backup nothing is forgotten: what they call deleted may have been made again since.
func (b *Broker) forgetInterrupted() {
	image := b.ctl.Image()
	for _, name := range image.Deleted {
		if image.Topic(name) == nil && !b.outdated {
			b.coordinators.groups.Forget(name)
		}
	}
}

// buried are the deleted topics of which nothing is left, and the records that say so.
// They wait for the next deletion: nothing depends on them sooner. topicsMu is held.
func (b *Broker) buried() (ids []controller.TopicID, records []controller.Record) {
	for id, name := range b.removed {
		if b.coordinators.groups.Forgetting(name) {
			continue
		}
		ids = append(ids, id)
		records = append(records, controller.Record{LogsRemoved: &controller.LogsRemoved{ID: id}})
	}
	return ids, records
}

// bury stores that nothing is left of deleted topics, and returns the names of those that
// groups have not forgotten.
func (b *Broker) bury() (left []string, err error) {
	b.topicsMu.Lock()
	defer b.topicsMu.Unlock()
	ids, records := b.buried()
	if len(records) > 0 {
		err = b.ctl.Update(func(*controller.Image) ([]controller.Record, error) { return records, nil })
	}
	if err == nil {
		b.drop(ids)
	}
	for _, name := range b.removed {
		if b.coordinators.groups.Forgetting(name) {
			left = append(left, name)
		}
	}
	return left, err
}

func (b *Broker) drop(ids []controller.TopicID) {
	for _, id := range ids {
		delete(b.removed, id)
	}
}

// forgetDeleted finishes deletions that a start has found, and those whose requests could
// not wait for it.
func (b *Broker) forgetDeleted(ctx context.Context) error {
	for {
		left, err := b.bury()
		for _, name := range left {
			_ = b.coordinators.groups.Forgotten(ctx, name) // a refusal is logged by who refuses
		}
		var again <-chan time.Time
		if len(left) > 0 {
			if left, err = b.bury(); len(left) > 0 {
				again = time.After(forgetRetry)
			}
		}
		if err != nil {
			b.log.Warn("metadata keep tombstones of deleted topics until the next deletion or start", "err", err)
		}
		select {
		case <-again:
		case <-b.unforgotten:
		case <-ctx.Done():
			return nil
		}
	}
}

// forgotten waits until groups have forgotten a topic that was deleted.
func (b *Broker) forgotten(ctx context.Context, name string) {
	if b.coordinators.groups.Forgotten(ctx, name) != nil {
		select {
		case b.unforgotten <- struct{}{}:
		default: // it has been told
		}
	}
}

// nameForgotten waits until a name is free of what groups have committed for the last topic
// that had it. It refuses the name that is not, for now.
func (b *Broker) nameForgotten(name string) error {
	if b.coordinators == nil || !b.coordinators.groups.Forgetting(name) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), forgetPatience)
	defer cancel()
	if err := b.coordinators.groups.Forgotten(ctx, name); err != nil {
		return stillKnown(name, err)
	}
	return nil
}

func stillKnown(name string, why error) error {
	return refuse(kerr.CoordinatorNotAvailable, fmt.Sprintf("topic %q was deleted, and what groups have committed for it is not forgotten yet (%v): groups would go on from there in the new topic; try again, or take another name", name, why))
}
