package controller

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/auth"
)

// TopicID names one life of a topic (KIP-516).
type TopicID [16]byte

// String is the form that Kafka's tools print: unpadded URL-safe base64.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// MarshalText is [TopicID.String].
func (id TopicID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (id *TopicID) UnmarshalText(b []byte) error {
	raw, err := base64.RawURLEncoding.DecodeString(string(b))
	if err != nil || len(raw) != len(id) {
		return fmt.Errorf("%q is not a topic id", b)
	}
	copy(id[:], raw)
	return nil
}

// Topic is one topic. It is immutable, its map included.
type Topic struct {
	Name       string            `json:"name"`
	ID         TopicID           `json:"id"`
	Partitions int32             `json:"partitions"`
	Configs    map[string]string `json:"configs,omitempty"` // what differs from the defaults
	// EpochOffset is added to Image.Starts for the leader epoch of the partitions.
	// It never shrinks.
	EpochOffset int32 `json:"epochOffset,omitempty"`
	// Mirror is set if the topic is a mirror of another cluster's, or was one. It
	// has a record of its own, so that a version that knows no mirrors does not
	// take one for an ordinary topic.
	Mirror *Mirror `json:"-"`
}

// User is a SCRAM credential of one user for one mechanism.
type User struct {
	Name       string          `json:"name"`
	Mechanism  auth.Mechanism  `json:"mechanism"`
	Credential auth.Credential `json:"credential"`
}

// Image is the metadata at one moment. It is immutable; its maps must not be
// changed.
type Image struct {
	// ClusterID is set by the first record and never changes.
	ClusterID string
	// Node is whose store it is; nil in one of an older version, until it is opened.
	Node *NodeRecord
	// Starts counts how often a broker opened the store. It is the leader epoch
	// of every partition, but for Topic.EpochOffset, so that what a crash cut off
	// shows (KIP-101).
	Starts int32
	// Revision counts the updates.
	Revision int64
	// Secret keys what must look random and stay the same over restarts.
	Secret []byte

	Topics     map[string]*Topic
	TopicNames map[TopicID]string
	// Deleted are topics that are no more and whose logs, or offsets that groups have
	// committed for them, may still be there, with the names that they had. Of logs that nothing here knows nobody can tell
	// whether they may go.
	Deleted map[TopicID]string
	Users   map[UserKey]auth.Credential
	ACLs    []acl.Rule // sorted, each once
	Quotas  map[QuotaEntity]map[string]float64
	// NextProducerID is the first id of the next block.
	NextProducerID int64
	// Features are the finalized levels that were set (KIP-584), and
	// FeaturesEpoch how often any was. A feature that was never set has the level
	// that the program gives it.
	Features      map[string]int16
	FeaturesEpoch int64
	// Configs are the dynamic configurations of what is not a topic.
	Configs map[ConfigKey]map[string]string
}

// ConfigKey is what a dynamic configuration is found by: a kind of resource
// ("broker", "group") and its name, which is empty for the default of all
// brokers.
type ConfigKey struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// UserKey is what a credential is found by.
type UserKey struct {
	Name      string
	Mechanism auth.Mechanism
}

// Topic returns a topic by name, nil if there is none.
func (i *Image) Topic(name string) *Topic { return i.Topics[name] }

// TopicByID returns a topic by id, nil if there is none.
func (i *Image) TopicByID(id TopicID) *Topic { return i.Topics[i.TopicNames[id]] }

// Partitions counts those of all topics.
func (i *Image) Partitions() (n int) {
	for _, t := range i.Topics {
		n += int(t.Partitions)
	}
	return n
}

// Credential implements [auth.Users].
func (i *Image) Credential(m auth.Mechanism, user string) (auth.Credential, bool) {
	c, ok := i.Users[UserKey{user, m}]
	return c, ok
}

// Record is one change. Exactly one field is set.
type Record struct {
	Cluster      *ClusterRecord `json:"cluster,omitempty"`
	Node         *NodeRecord    `json:"node,omitempty"`
	Start        *StartRecord   `json:"start,omitempty"`
	Topic        *Topic         `json:"topic,omitempty"` // new, or changed in place
	TopicDeleted *TopicDeleted  `json:"topicDeleted,omitempty"`
	Tombstone    *TopicDeleted  `json:"tombstone,omitempty"`   // of a topic that is no more
	LogsRemoved  *LogsRemoved   `json:"logsRemoved,omitempty"` // ends a tombstone
	Mirror       *MirrorRecord  `json:"mirror,omitempty"`      // of a topic that is there
	User         *User          `json:"user,omitempty"`
	UserDeleted  *UserKey       `json:"userDeleted,omitempty"`
	ACL          *acl.Rule      `json:"acl,omitempty"`
	ACLDeleted   *acl.Rule      `json:"aclDeleted,omitempty"`
	ProducerIDs  *ProducerIDs   `json:"producerIds,omitempty"`
	Quota        *Quota         `json:"quota,omitempty"`
	Revision     *Revision      `json:"revision,omitempty"`
	Features     *Features      `json:"features,omitempty"`
	Config       *ConfigRecord  `json:"config,omitempty"`
}

// ClusterRecord is the first record of a store.
type ClusterRecord struct {
	ID     string `json:"id"`
	Secret []byte `json:"secret"`
}

// NodeRecord says which node's store it is, for good.
type NodeRecord struct {
	ID int32 `json:"id"`
}

// StartRecord says that a broker opened the store for the Count-th time.
type StartRecord struct {
	Count int32 `json:"count"`
}

// TopicDeleted removes one life of a topic, but for its logs.
type TopicDeleted struct {
	Name string  `json:"name"`
	ID   TopicID `json:"id"`
}

// LogsRemoved says that no logs of a deleted topic are left, and no offsets that groups
// have committed for it.
type LogsRemoved struct {
	ID TopicID `json:"id"`
}

// ProducerIDs says that ids below Next may be in use.
type ProducerIDs struct {
	Next int64 `json:"next"`
}

// Revision says that this is the Count-th update.
type Revision struct {
	Count int64 `json:"count"`
}

// Features are all finalized levels that were ever set, after the Epoch-th change.
type Features struct {
	Epoch  int64            `json:"epoch"`
	Levels map[string]int16 `json:"levels"`
}

// ConfigRecord is the whole dynamic configuration of one resource; none ends it.
type ConfigRecord struct {
	ConfigKey

	Configs map[string]string `json:"configs,omitempty"`
}

// Apply returns the image after records, or why they do not fit it. The receiver
// is not changed.
func (i *Image) Apply(records ...Record) (*Image, error) {
	next := *i
	owned := map[any]bool{}
	for n := range records {
		if err := next.apply(&records[n], owned); err != nil {
			return nil, fmt.Errorf("record %d of %d: %w", n+1, len(records), err)
		}
	}
	return &next, nil
}

// own makes a map of the image its own before it is changed for the first time.
func own[K comparable, V any](m *map[K]V, owned map[any]bool) map[K]V {
	if !owned[m] {
		owned[m] = true
		if *m = maps.Clone(*m); *m == nil {
			*m = map[K]V{}
		}
	}
	return *m
}

func (i *Image) apply(r *Record, owned map[any]bool) error {
	if r.Cluster == nil && i.ClusterID == "" {
		return fmt.Errorf("the first record must name the cluster")
	}
	switch {
	case r.Cluster != nil:
		if i.ClusterID != "" || r.Cluster.ID == "" {
			return fmt.Errorf("cluster id %q over %q", r.Cluster.ID, i.ClusterID)
		}
		i.ClusterID, i.Secret = r.Cluster.ID, r.Cluster.Secret
	case r.Node != nil:
		if i.Node != nil && *i.Node != *r.Node {
			return fmt.Errorf("node %d over %d", r.Node.ID, i.Node.ID)
		}
		i.Node = r.Node
	case r.Start != nil:
		if r.Start.Count <= i.Starts {
			return fmt.Errorf("start %d after %d", r.Start.Count, i.Starts)
		}
		i.Starts = r.Start.Count
	case r.Topic != nil:
		return i.applyTopic(r.Topic, owned)
	case r.TopicDeleted != nil:
		t := i.Topics[r.TopicDeleted.Name]
		if t == nil || t.ID != r.TopicDeleted.ID {
			return fmt.Errorf("delete of unknown topic %q", r.TopicDeleted.Name)
		}
		delete(own(&i.Topics, owned), t.Name)
		delete(own(&i.TopicNames, owned), t.ID)
		own(&i.Deleted, owned)[t.ID] = t.Name
	case r.Tombstone != nil:
		if i.TopicNames[r.Tombstone.ID] != "" {
			return fmt.Errorf("topic %q is there and deleted", i.TopicNames[r.Tombstone.ID])
		}
		own(&i.Deleted, owned)[r.Tombstone.ID] = r.Tombstone.Name
	case r.LogsRemoved != nil:
		delete(own(&i.Deleted, owned), r.LogsRemoved.ID)
	case r.Mirror != nil:
		t := i.TopicByID(r.Mirror.TopicID)
		if t == nil {
			return fmt.Errorf("mirror of unknown topic %s", r.Mirror.TopicID)
		}
		changed := *t
		changed.Mirror = &r.Mirror.Mirror
		return i.applyTopic(&changed, owned)
	case r.User != nil:
		own(&i.Users, owned)[UserKey{r.User.Name, r.User.Mechanism}] = r.User.Credential
	case r.UserDeleted != nil:
		delete(own(&i.Users, owned), *r.UserDeleted)
	case r.ACL != nil:
		at, found := slices.BinarySearchFunc(i.ACLs, *r.ACL, acl.Rule.Compare)
		if !found {
			i.ACLs = slices.Insert(slices.Clip(i.ACLs), at, *r.ACL)
		}
	case r.ACLDeleted != nil:
		i.ACLs = slices.DeleteFunc(slices.Clone(i.ACLs), func(have acl.Rule) bool { return have == *r.ACLDeleted })
	case r.ProducerIDs != nil:
		if r.ProducerIDs.Next < i.NextProducerID {
			return fmt.Errorf("producer ids go back from %d to %d", i.NextProducerID, r.ProducerIDs.Next)
		}
		i.NextProducerID = r.ProducerIDs.Next
	case r.Quota != nil:
		return i.applyQuota(r.Quota, owned)
	case r.Revision != nil:
		if r.Revision.Count <= i.Revision {
			return fmt.Errorf("revision %d after %d", r.Revision.Count, i.Revision)
		}
		i.Revision = r.Revision.Count
	case r.Features != nil:
		if r.Features.Epoch <= i.FeaturesEpoch {
			return fmt.Errorf("features epoch %d after %d", r.Features.Epoch, i.FeaturesEpoch)
		}
		i.Features, i.FeaturesEpoch = r.Features.Levels, r.Features.Epoch
	case r.Config != nil:
		configs := own(&i.Configs, owned)
		if len(r.Config.Configs) == 0 {
			delete(configs, r.Config.ConfigKey)
		} else {
			configs[r.Config.ConfigKey] = r.Config.Configs
		}
	default:
		return fmt.Errorf("record of an unknown kind: written by a newer version")
	}
	return nil
}

func (i *Image) applyTopic(t *Topic, owned map[any]bool) error {
	have := i.Topics[t.Name]
	switch {
	case t.Name == "" || t.ID == TopicID{} || t.Partitions <= 0:
		return fmt.Errorf("topic %q with %d partitions and id %x", t.Name, t.Partitions, t.ID)
	case have == nil && i.TopicNames[t.ID] != "":
		return fmt.Errorf("topic %q has the id of %q", t.Name, i.TopicNames[t.ID])
	case i.hasDeleted(t.ID):
		return fmt.Errorf("topic %q has the id of one that was deleted", t.Name)
	case have != nil && have.ID != t.ID:
		return fmt.Errorf("topic %q exists with another id", t.Name)
	case have != nil && t.EpochOffset < have.EpochOffset:
		return fmt.Errorf("leader epochs of topic %q go back by %d", t.Name, have.EpochOffset-t.EpochOffset)
	case t.Mirror != nil && !t.Mirror.valid():
		return fmt.Errorf("topic %q is a mirror of %q in state %q", t.Name, t.Mirror.Source, t.Mirror.State)
	case have != nil && t.Partitions < have.Partitions:
		return fmt.Errorf("topic %q shrinks from %d to %d partitions", t.Name, have.Partitions, t.Partitions)
	}
	own(&i.Topics, owned)[t.Name] = t
	own(&i.TopicNames, owned)[t.ID] = t.Name
	return nil
}

func (i *Image) hasDeleted(id TopicID) bool {
	_, ok := i.Deleted[id]
	return ok
}

// Records returns the shortest list that makes the image from nothing.
func (i *Image) Records() []Record {
	if i.ClusterID == "" {
		return nil
	}
	out := []Record{{Cluster: &ClusterRecord{ID: i.ClusterID, Secret: i.Secret}}}
	if i.Node != nil {
		out = append(out, Record{Node: i.Node})
	}
	if i.Starts > 0 {
		out = append(out, Record{Start: &StartRecord{Count: i.Starts}})
	}
	if i.NextProducerID > 0 {
		out = append(out, Record{ProducerIDs: &ProducerIDs{Next: i.NextProducerID}})
	}
	for _, name := range slices.Sorted(maps.Keys(i.Topics)) {
		t := i.Topics[name]
		out = append(out, Record{Topic: t})
		if t.Mirror != nil {
			out = append(out, Record{Mirror: &MirrorRecord{TopicID: t.ID, Mirror: *t.Mirror}})
		}
	}
	deleted := slices.SortedStableFunc(maps.Keys(i.Deleted), func(a, b TopicID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range deleted {
		out = append(out, Record{Tombstone: &TopicDeleted{Name: i.Deleted[id], ID: id}})
	}
	users := slices.SortedStableFunc(maps.Keys(i.Users), func(a, b UserKey) int {
		return slices.Compare([]string{a.Name, string(a.Mechanism)}, []string{b.Name, string(b.Mechanism)})
	})
	for _, u := range users {
		out = append(out, Record{User: &User{Name: u.Name, Mechanism: u.Mechanism, Credential: i.Users[u]}})
	}
	for n := range i.ACLs {
		out = append(out, Record{ACL: &i.ACLs[n]})
	}
	out = append(out, i.quotaRecords()...)
	if i.Revision > 0 {
		out = append(out, Record{Revision: &Revision{Count: i.Revision}})
	}
	if i.FeaturesEpoch > 0 {
		out = append(out, Record{Features: &Features{Epoch: i.FeaturesEpoch, Levels: i.Features}})
	}
	configs := slices.SortedStableFunc(maps.Keys(i.Configs), func(a, b ConfigKey) int {
		return slices.Compare([]string{a.Kind, a.Name}, []string{b.Kind, b.Name})
	})
	for _, k := range configs {
		out = append(out, Record{Config: &ConfigRecord{ConfigKey: k, Configs: i.Configs[k]}})
	}
	return out
}
