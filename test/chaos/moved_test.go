//go:build chaos && unix

package chaos

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/api"
)

// leaves has a node lose its copies, in whatever way, and waits until others have taken
// each of them on. That is seen while the node is away: a copy that goes on when its
// owner comes back was taken over by nobody.
func (w *world) leaves(n *node, how func()) (copies []string) {
	w.t.Helper()
	copies = w.copiesOf(n)
	how()
	w.awaitTaken(n, copies)
	return copies
}

// drainAlive has a node's work moved as planned: others have taken it on, and it runs.
func (w *world) drainAlive(n *node) {
	w.t.Helper()
	w.leaves(n, func() { w.drain(n, true) })
	if !n.process.alive() {
		w.t.Errorf("%s was drained and has ended:\n%s", n.name, n.process.tail())
	}
}

// copiesOf are the partitions that a node copies, as soon as there are any.
func (w *world) copiesOf(n *node) (copies []string) {
	w.t.Helper()
	eventually(w.t, recovery, n.name+" owns copies", func() error {
		f, err := w.flow()
		if err != nil {
			return err
		}
		copies = nil
		for part, owner := range ownersIn(f) {
			if owner == n.name {
				copies = append(copies, part)
			}
		}
		if len(copies) == 0 {
			return errors.New("it owns none")
		}
		return nil
	})
	return copies
}

// awaitTaken waits until others than a node own copies, by the word of one of them, and
// until each copy's end at the destination has grown since then.
func (w *world) awaitTaken(from *node, copies []string) {
	w.t.Helper()
	var topics []string
	eventually(w.t, recovery, "others own the copies of "+from.name, func() error {
		f, err := w.flowBy(w.others(from))
		if err != nil {
			return err
		}
		topics = nil
		for _, topic := range f.Topics {
			topics = append(topics, topic.DestinationTopic)
		}
		return notTaken(ownersIn(f), from.name, copies)
	})
	cl, err := w.eu.client()
	must(w.t, err)
	defer cl.Close()
	ends := func() (map[string]int64, error) { return committedEnds(w.t.Context(), kadm.NewClient(cl), topics) }
	var before map[string]int64
	eventually(w.t, recovery, "where the copies of "+from.name+" end", func() (err error) {
		before, err = ends()
		return err
	})
	eventually(w.t, recovery, "others go on with the copies of "+from.name, func() error {
		now, err := ends()
		if err != nil {
			return err
		}
		return notGrown(before, now, copies)
	})
}

// ownersIn are the owners of the partitions of a flow.
func ownersIn(f api.FlowStatus) map[string]string {
	owners := make(map[string]string)
	for _, topic := range f.Topics {
		for _, p := range topic.Partitions {
			owners[partName(topic.DestinationTopic, p.Partition)] = p.Node
		}
	}
	return owners
}

// notTaken says what a node still owns, or which of its copies nobody does.
func notTaken(owners map[string]string, from string, copies []string) error {
	for part, owner := range owners {
		if owner == from {
			return fmt.Errorf("%s is still that of %s", part, from)
		}
	}
	for _, part := range copies {
		if owners[part] == "" {
			return fmt.Errorf("nobody owns %s", part)
		}
	}
	return nil
}

// notGrown says which copy ends where it did before.
func notGrown(before, now map[string]int64, copies []string) error {
	for _, part := range copies {
		was, known := before[part]
		if is := now[part]; !known || is <= was {
			return fmt.Errorf("%s ends at %d, and did at %d", part, is, was)
		}
	}
	return nil
}

// committedEnds are the ends of partitions for a read_committed reader.
func committedEnds(ctx context.Context, adm *kadm.Client, topics []string) (map[string]int64, error) {
	listed, err := adm.ListCommittedOffsets(ctx, topics...)
	ends := make(map[string]int64)
	listed.Each(func(o kadm.ListedOffset) {
		ends[partName(o.Topic, o.Partition)] = o.Offset
		err = errors.Join(err, o.Err)
	})
	return ends, err
}
