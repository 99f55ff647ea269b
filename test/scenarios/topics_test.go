//go:build unix

package scenarios

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/ledger"
)

// A flow may be declared before its topic exists: the status says that there is
// nothing to copy, and why that may be; the copy begins when there is.
func TestTopicThatDoesNotExistYet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	w.declare("orders", "unrelated*")
	w.nodes[0].awaitStatus(recovery, "nothing to copy", func(s *api.Status) error {
		f, err := flowOf(s)
		if err != nil {
			return err
		}
		return trouble("flow", f.State, f.Reason, f.ToDo, []string{"discovering"}, []string{"cluster us", "orders"}, []string{"topics.include", "Read"})
	})
	if out := w.nodes[0].cli("status"); !strings.Contains(out, "orders") || !strings.Contains(out, "to do:") {
		t.Errorf("the command line says nothing of it:\n%s", out)
	}

	w.us.createTopic("orders", 3)
	w.us.produce("orders", 3, 200)
	w.running(3)
	w.exact("orders", 600)
	w.nobodyDied()
}

// A destination topic with fewer partitions than its source is grown; if that is
// not allowed, the partitions that have a counterpart are copied meanwhile.
func TestDestinationWithFewerPartitions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, destinationSecurity("Alter Topic:orders"))
	w.us.createTopic("orders", 4)
	w.eu.createTopic("orders", 2)
	w.us.produce("orders", 4, 100)
	w.declare("orders")
	w.nodes[0].awaitStatus(recovery, "too few partitions", func(s *api.Status) error {
		f, err := flowOf(s)
		if err != nil || len(f.Topics) != 1 || len(f.Topics[0].Partitions) != 4 {
			return errors.Join(errNotYet, err)
		}
		topic := f.Topics[0]
		if err := trouble("topic", topic.State, topic.Reason, topic.ToDo, []string{"failed"}, []string{"partitions", "4", "AUTHORIZATION"}, []string{"ALTER", "by hand"}); err != nil {
			return err
		}
		for _, p := range topic.Partitions {
			switch {
			case p.Partition < 2 && (p.State != "running" || p.LagRecords != 0):
				return fmt.Errorf("partition %d is %s with lag %d, its copy is not concerned", p.Partition, p.State, p.LagRecords)
			case p.Partition >= 2:
				if err := trouble("partition", p.State, p.Reason, p.ToDo, []string{"failed"}, []string{"orders", "has 2", "has 4"}, []string{"add partitions"}); err != nil {
					return err
				}
			}
		}
		return nil
	})

	_, err := w.eu.admin().UpdatePartitions(w.eu.ctx(), 4, "orders")
	must(t, err)
	w.running(4)
	w.exact("orders", 400)
	w.nobodyDied()
}

// A topic that is deleted and created again is another topic: its records never
// follow those of its namesake, and nothing is copied until the old copy has been
// put away.
func TestTopicDeletedAndCreatedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	w.us.createTopic("orders", 2)
	w.us.produce("orders", 2, 150)
	w.declare("orders")
	w.running(2)
	w.exact("orders", 300)
	old, err := w.eu.read("orders")
	must(t, err)

	w.us.deleteTopic("orders")
	w.us.createTopic("orders", 2)
	w.us.produce("orders", 2, 40)
	w.nodes[0].awaitStatus(recovery, "created again", func(s *api.Status) error {
		f, err := flowOf(s)
		if err != nil || len(f.Topics) != 1 {
			return errors.Join(errNotYet, err)
		}
		topic := f.Topics[0]
		return trouble("topic", topic.State, topic.Reason, topic.ToDo, []string{"failed"}, []string{"deleted and created again"}, []string{"delete the destination topic"})
	})
	always(t, 2*time.Second, "the old copy stays as it is", func() error {
		now, err := w.eu.read("orders")
		if err != nil {
			return err
		}
		return difference(old, now)
	})

	w.eu.deleteTopic("orders")
	w.running(2)
	w.exact("orders", 80)
	w.nobodyDied()

	// An offset means a record of the present life, and says so; the lineage knows
	// the earlier life under its own id only.
	var graph struct {
		Topics []struct{ Cluster, Topic, TopicID string }
	}
	must(t, w.nodes[0].get("/api/v1/lineage/topics/us/orders", &graph))
	id := func(b *broker) string {
		topics, err := b.admin().ListTopics(b.ctx(), "orders")
		must(t, err)
		return ledger.TopicID(topics["orders"].ID).String()
	}
	for _, topic := range graph.Topics {
		want := id(w.us)
		if topic.Cluster == "eu" {
			want = id(w.eu)
		}
		if topic.TopicID != want {
			t.Errorf("%s/%s is answered for topic id %s, its present life is %s", topic.Cluster, topic.Topic, topic.TopicID, want)
		}
	}
}

// Whichever node looks after topics may die, the leader of the fleet too: topics
// that are made then, and partitions that are added, are copied from their first
// record on by those who are left.
//
// KAFKA-9981, KAFKA-15086 (new topics stayed unseen by other nodes), KAFKA-15372
// (after a change of the leader).
//
// uReplicator 0b8614d: the partitions of a topic that grew began at a wrong offset.
func TestTopicsMadeWhileNodesAreDead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil, nil)
	w.us.createTopic("new-0", 1)
	w.us.produce("new-0", 1, 30)
	w.declare("new-*")
	w.running(1)
	partitions := int32(1)
	for i := range 2 {
		s := w.liveNode().awaitStatus(recovery, "the fleet has a leader", func(s *api.Status) error {
			if s.Fleet.Leader == "" {
				return errNotYet
			}
			return nil
		})
		leader := w.node(s.Fleet.Leader)
		leader.process.kill()
		name := fmt.Sprint("new-", i+1)
		w.us.createTopic(name, 2)
		partitions++
		_, err := w.us.admin().UpdatePartitions(w.us.ctx(), int(partitions), "new-0")
		must(t, err)
		w.us.produce(name, 2, 40)
		w.us.produce("new-0", partitions, 30)
		w.exact(name, 80)
		w.exact("new-0", -1)
		leader.start()
		w.running(int(partitions) + 2*(i+1))
	}
	w.nobodyDied()
}
