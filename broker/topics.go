package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/guard"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/ledger"
)

// The broker's own topics.
const (
	offsetsTopic      = "__consumer_offsets"
	transactionsTopic = "__transaction_state"
	ledgerTopic       = ledger.Topic
	ledgerPartitions  = 4
)

// isInternal reports whether a topic is the broker's or a fleet's own. Clients
// create none of these by asking for metadata, and leave no provenance there.
func isInternal(topic string) bool { return strings.HasPrefix(topic, "__") }

// isCoordinators reports whether only the coordinators write to a topic.
func isCoordinators(topic string) bool { return topic == offsetsTopic || topic == transactionsTopic }

// maxTopicName is Kafka's.
const maxTopicName = 249

// MaxTopicPartitions bounds one topic, and what one request makes (Kafka's
// MAX_PARTITIONS_PER_BATCH): each partition is files.
const MaxTopicPartitions = 10_000

// checkTopicName is Kafka's rule for names.
func checkTopicName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("topic name %q is not allowed", name)
	case len(name) > maxTopicName:
		return fmt.Errorf("topic name of %d characters, %d is the limit", len(name), maxTopicName)
	}
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return fmt.Errorf("topic name %q: only letters, digits, '.', '_' and '-' are allowed", name)
		}
	}
	return nil
}

// checkCollision refuses a name that differs from another one in '.' and '_' only:
// metrics of both would have one name.
func checkCollision(image *controller.Image, name string) error {
	if !strings.ContainsAny(name, "._") {
		return nil
	}
	same := strings.ReplaceAll(name, ".", "_")
	for other := range image.Topics {
		if other != name && len(other) == len(name) && strings.ReplaceAll(other, ".", "_") == same {
			return refuse(kerr.InvalidTopicException, fmt.Sprintf("Topic '%s' collides with existing topic: %s", name, other))
		}
	}
	return nil
}

// topic is one life of a topic and its partitions. It is immutable.
type topic struct {
	*controller.Topic
	config     topicConfig
	partitions []*replica.Partition
}

// topicSet is all topics at one moment. It is immutable.
type topicSet struct {
	byName map[string]*topic
	byID   map[controller.TopicID]*topic
	// version counts the sets of this life of the broker, from 1 on.
	version int64
}

func (s *topicSet) close() error {
	var errs []error
	for _, t := range s.byName {
		errs = append(errs, closePartitions(t.partitions))
	}
	return errors.Join(errs...)
}

// with returns the set with t in place of any topic of its name, or, if t is
// nil, without the name.
func (s *topicSet) with(name string, t *topic) *topicSet {
	next := &topicSet{byName: maps.Clone(s.byName), byID: maps.Clone(s.byID), version: s.version + 1}
	if old := next.byName[name]; old != nil {
		delete(next.byID, old.ID)
		delete(next.byName, name)
	}
	if t != nil {
		next.byName[name], next.byID[t.ID] = t, t
	}
	return next
}

// topic returns a topic by name, nil if there is none.
func (b *Broker) topic(name string) *topic { return b.topics.Load().byName[name] }

// topicByID returns a topic by id, nil if there is none.
func (b *Broker) topicByID(id controller.TopicID) *topic { return b.topics.Load().byID[id] }

// partition returns a partition of a topic by name.
func (b *Broker) partition(name string, index int32) (*replica.Partition, error) {
	t := b.topic(name)
	if t == nil {
		return nil, kerr.UnknownTopicOrPartition
	}
	return t.partition(index)
}

func (t *topic) partition(index int32) (*replica.Partition, error) {
	if index < 0 || int(index) >= len(t.partitions) {
		return nil, kerr.UnknownTopicOrPartition
	}
	return t.partitions[index], nil
}

func (b *Broker) logsDir() string { return filepath.Join(b.cfg.Dir, "logs") }

func (b *Broker) topicDir(id controller.TopicID) string {
	return filepath.Join(b.logsDir(), id.String())
}

func (b *Broker) partitionDir(id controller.TopicID, n int) string {
	return filepath.Join(b.topicDir(id), strconv.Itoa(n))
}

// openTopics recovers the log of every partition, a few at a time.
func (b *Broker) openTopics() error {
	if err := b.fs.MkdirAll(b.logsDir()); err != nil {
		return fmt.Errorf("make logs directory: %w", err)
	}
	if err := b.settleLogs(); err != nil {
		return err
	}
	image := b.ctl.Image()
	set := &topicSet{byName: map[string]*topic{}, byID: map[controller.TopicID]*topic{}, version: 1}
	defer func() { b.topics.Store(set) }()
	for name, t := range image.Topics {
		opened := &topic{Topic: t, config: b.topicConfig(t)}
		set.byName[name], set.byID[t.ID] = opened, opened
		if err := b.openPartitions(opened); err != nil {
			// The rest of the broker is worth having. What cannot be served says
			// so to whoever asks for it.
			b.log.Error("partition is offline", "err", err)
		}
	}
	return nil
}

// openPartitions opens the partitions of t, which have been made. Those that cannot
// be opened are there, offline, and reported together.
func (b *Broker) openPartitions(t *topic) error {
	errs := make([]error, t.Partitions)
	open := func(n int, dir string, id replica.Identity, epoch int32) (p *replica.Partition, err error) {
		p, errs[n] = replica.OpenExisting(b.fs, dir, id, epoch, t.config.log)
		if errs[n] == nil {
			errs[n] = settleMirror(t.Mirror, p)
		}
		if r := p.Recovered(); r.CutBytes > 0 || r.Rebuilt > 0 {
			b.log.Warn("log recovered", "topic", t.Name, "partition", id.Partition, "cut", r.CutBytes, "unsynced", r.TailBytes, "reindexed", r.Rebuilt)
		}
		return p, nil
	}
	return errors.Join(append(errs, b.eachNew(t, open))...)
}

// makePartitions makes and opens those partitions of t that are not there yet, all or
// none. What the metadata then does not come to speak of has to be discarded.
func (b *Broker) makePartitions(t *topic, late <-chan struct{}) error {
	return b.eachNew(t, func(_ int, dir string, id replica.Identity, epoch int32) (*replica.Partition, error) {
		if isClosed(late) {
			return nil, errLate
		}
		p, err := replica.Open(b.fs, dir, id, epoch, t.config.log)
		if err == nil {
			err = settleMirror(t.Mirror, p)
		}
		return p, err
	})
}

// eachNew adds to t what open makes of the partitions that it does not have yet, a few
// at a time, or, if one fails, nothing.
func (b *Broker) eachNew(t *topic, open func(n int, dir string, id replica.Identity, epoch int32) (*replica.Partition, error)) error {
	have, epoch := len(t.partitions), b.ctl.Image().Starts+t.EpochOffset
	more := make([]*replica.Partition, int(t.Partitions)-have)
	var group errgroup.Group
	group.SetLimit(concurrentSyncs)
	for i := range more {
		group.Go(func() (err error) {
			defer guard.Recover(&err)
			n := have + i
			more[i], err = open(n, b.partitionDir(t.ID, n), replica.Identity{Topic: t.Name, TopicID: t.ID, Partition: int32(n)}, epoch)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return errors.Join(err, closePartitions(more))
	}
	t.partitions = append(t.partitions[:have:have], more...)
	return nil
}

func closePartitions(all []*replica.Partition) error {
	var errs []error
	for _, p := range all {
		if p == nil {
			continue
		}
		if err := p.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// discard removes the logs of partitions that were made for t from the n-th on, and
// that the metadata does not speak of. What it leaves is for the next start.
func (b *Broker) discard(t *topic, n int, why error) {
	if errors.Is(why, errLate) || errors.Is(why, controller.ErrOffline) {
		return // no time; or the metadata may speak of them after all
	}
	err := closePartitions(t.partitions[min(n, len(t.partitions)):])
	if n == 0 {
		err = errors.Join(err, b.fs.RemoveAll(b.topicDir(t.ID)))
	} else {
		for i := n; i < int(t.Partitions); i++ {
			err = errors.Join(err, b.fs.RemoveAll(b.partitionDir(t.ID, i)))
		}
	}
	if err != nil {
		b.log.Warn("remove logs of what was not made", "topic", t.Name, "err", err)
	}
}

// createTopic makes a topic durable and opens it. The name, count and configs
// have been checked.
func (b *Broker) createTopic(name string, partitions int32, configs map[string]string) (*topic, error) {
	return b.createTopicOf(name, partitions, configs, nil, nil)
}

// createTopicOf is createTopic of an ordinary topic or of a mirror, for a request
// that may come to be late.
func (b *Broker) createTopicOf(name string, partitions int32, configs map[string]string, mirror *controller.Mirror, late <-chan struct{}) (*topic, error) {
	if err := b.nameForgotten(name); err != nil {
		return nil, err
	}
	b.topicsMu.Lock()
	defer b.topicsMu.Unlock()
	if err := b.roomFor(name, partitions); err != nil {
		return nil, err
	}
	if err := b.nameFree(name); err != nil {
		return nil, err
	}
	made := &controller.Topic{Name: name, ID: controller.NewTopicID(), Partitions: partitions, Configs: configs, Mirror: mirror}
	t := &topic{Topic: made, config: b.topicConfig(made)}
	// The logs are there before anything says so: one that is missing then was lost.
	err := b.makePartitions(t, late)
	if err == nil {
		err = b.ctl.Update(func(*controller.Image) ([]controller.Record, error) {
			return []controller.Record{{Topic: made}}, nil
		})
	}
	if err != nil {
		b.discard(t, 0, err)
		return nil, err
	}
	b.topics.Store(b.topics.Load().with(name, t))
	b.log.Info("topic created", "topic", name, "id", made.ID.String(), "partitions", partitions)
	return t, nil
}

// nameFree refuses the name of a topic that is there, or looks too much like one.
// topicsMu is held.
func (b *Broker) nameFree(name string) error {
	image := b.ctl.Image()
	if image.Topic(name) != nil {
		return kerr.TopicAlreadyExists
	}
	if b.coordinators != nil && b.coordinators.groups.Forgetting(name) {
		return stillKnown(name, errors.New("it was deleted just now"))
	}
	return checkCollision(image, name)
}

// roomFor refuses partitions beyond those that the broker may have. Its own
// topics are always made. topicsMu is held.
func (b *Broker) roomFor(topic string, more int32) error {
	if isInternal(topic) {
		return nil
	}
	have, most := b.ctl.Image().Partitions(), b.cfg.Limits.MaxPartitions
	if have+int(more) > most {
		return refuse(kerr.PolicyViolation, fmt.Sprintf("%d partitions more: the broker has %d, and limits.maxPartitions is %d", more, have, most))
	}
	return nil
}

// deleteTopic ends a topic's life. Requests that are under way see their
// partitions closed. It waits, as long as ctx, until groups have forgotten the topic.
func (b *Broker) deleteTopic(ctx context.Context, t *topic) error {
	if err := b.endTopic(t); err != nil {
		return err
	}
	b.forgotten(ctx, t.Name)
	return nil
}

func (b *Broker) endTopic(t *topic) error {
	b.topicsMu.Lock()
	defer b.topicsMu.Unlock()
	current := b.topics.Load().byID[t.ID]
	if current == nil {
		return kerr.UnknownTopicOrPartition
	}
	ids, records := b.buried()
	err := b.ctl.Update(func(*controller.Image) ([]controller.Record, error) {
		return append(records, controller.Record{TopicDeleted: &controller.TopicDeleted{Name: t.Name, ID: t.ID}}), nil
	})
	if err != nil {
		return err
	}
	b.drop(ids)
	b.topics.Store(b.topics.Load().with(t.Name, nil))
	// The next topic of this name is another one: no group has a position in it.
	b.coordinators.groups.Forget(t.Name)
	if err := closePartitions(current.partitions); err != nil {
		b.log.Warn("close logs of deleted topic", "topic", t.Name, "err", err)
	}
	b.log.Info("topic deleted", "topic", t.Name, "id", t.ID.String())
	b.removeLogs(t.ID, t.Name)
	return nil
}

// changeTopic replaces a topic's record by what change makes of it, opens partitions
// and applies settings that are new, and returns the topic as it is then, for a
// request that may come to be late.
func (b *Broker) changeTopic(name string, late <-chan struct{}, change func(controller.Topic) (controller.Topic, error)) (*topic, error) {
	b.topicsMu.Lock()
	defer b.topicsMu.Unlock()
	old := b.topics.Load().byName[name]
	if old == nil {
		return nil, kerr.UnknownTopicOrPartition
	}
	changed, err := change(*old.Topic)
	if err != nil {
		return nil, err
	}
	if more := changed.Partitions - old.Partitions; more > 0 {
		if err := b.roomFor(name, more); err != nil {
			return nil, err
		}
	}
	next := &topic{Topic: &changed, config: b.topicConfig(&changed), partitions: old.partitions}
	if err = b.makePartitions(next, late); err == nil {
		err = b.ctl.Update(func(*controller.Image) ([]controller.Record, error) {
			return []controller.Record{{Topic: &changed}}, nil
		})
	}
	if err != nil {
		b.discard(next, len(old.partitions), err)
		return nil, err
	}
	var errs []error
	for _, p := range old.partitions {
		if err := p.SetConfig(next.config.log); err != nil {
			errs = append(errs, fmt.Errorf("apply settings to %s: %w", p, err))
		}
	}
	b.applyMirror(next)
	b.topics.Store(b.topics.Load().with(name, next))
	return next, errors.Join(errs...)
}

// makeInternalTopics creates the broker's own topics where they are missing.
func (b *Broker) makeInternalTopics() error {
	type own struct {
		name       string
		partitions int32
		configs    map[string]string
	}
	topics := []own{
		{offsetsTopic, b.cfg.OffsetsPartitions, map[string]string{"cleanup.policy": "compact", "segment.bytes": "104857600"}},
		{transactionsTopic, b.cfg.TransactionsPartitions, map[string]string{"cleanup.policy": "compact", "segment.bytes": "104857600"}},
	}
	if b.cfg.Provenance {
		topics = append(topics, own{ledgerTopic, ledgerPartitions, map[string]string{"cleanup.policy": "delete", "retention.ms": "-1"}})
	}
	for _, t := range topics {
		have := b.topic(t.name)
		if have == nil {
			if _, err := b.createTopic(t.name, t.partitions, t.configs); err != nil {
				return fmt.Errorf("create %s: %w", t.name, err)
			}
			continue
		}
		if isCoordinators(t.name) && have.Partitions != t.partitions {
			return fmt.Errorf("%s has %d partitions and the configuration says %d: they cannot change, a group or transaction lives in the partition of its name's hash", t.name, have.Partitions, t.partitions)
		}
	}
	return nil
}
