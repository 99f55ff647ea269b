package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waybillhq/waybill/flow"
)

// State is what the fleet agrees on. It is immutable: nothing in it may be
// changed by who reads it.
//
// Invariants: an Owner with a node has that node among Members, with the same
// incarnation. Only a topic or flow that is leaving has work that nobody may get.
type State struct {
	// FleetID identifies the fleet for all time. It is chosen by its first leader.
	FleetID string `json:"fleetId,omitempty"`

	// Objects are what operators declared, by key ("ReplicationFlow/orders").
	Objects map[string]Object `json:"objects,omitempty"`
	// ObjectsRevision is that of the last change to Objects, ObjectsChanged who made
	// it, nil if nobody did by name.
	ObjectsRevision uint64 `json:"objectsRevision,omitempty"`
	ObjectsChanged  *Stamp `json:"objectsChanged,omitempty"`

	Members    map[string]Member     `json:"members,omitempty"`    // by name
	Flows      map[string]*Flow      `json:"flows,omitempty"`      // by name
	Executions map[string]*Execution `json:"executions,omitempty"` // by id
	Lanes      map[string]Lane       `json:"lanes,omitempty"`      // by transactional id
	Ledgers    map[string]Ledger     `json:"ledgers,omitempty"`    // by cluster id

	// Tokens let nodes in, by id.
	Tokens map[string]JoinToken `json:"tokens,omitempty"`
	// Level is the highest level of commands that every member has known at some
	// time; 0 is 1. It never falls: see vocabulary.
	Level uint32 `json:"level,omitempty"`

	// RestoredAt is the revision at which the fleet began if it was restored from a
	// backup, Recalled says at which clusters, by id, the lanes have been found that the
	// backup does not know: see RecallLanes.
	RestoredAt uint64          `json:"restoredAt,omitempty"`
	Recalled   map[string]bool `json:"recalled,omitempty"`

	// Trail is the last accepted changes that somebody asked for, in order.
	Trail []Record `json:"trail,omitempty"`
}

// Object is a declared object as it is stored.
type Object struct {
	// Revision is that of the last change to this object.
	Revision uint64 `json:"revision"`
	// Spec is the whole object in flow's canonical JSON.
	Spec json.RawMessage `json:"spec"`
	// Changed is who made the last change, nil if nobody did by name.
	Changed *Stamp `json:"changed,omitempty"`
}

// Member is one node of the fleet.
type Member struct {
	Name    string `json:"name"`
	APIAddr string `json:"apiAddr,omitempty"` // host:port of its HTTP API
	// Region and Rack are where it runs: copies prefer nodes near their destination.
	Region string `json:"region,omitempty"`
	Rack   string `json:"rack,omitempty"`
	// Labels are what flows may ask for in the nodes that run them.
	Labels  map[string]string `json:"labels,omitempty"`
	Version string            `json:"version,omitempty"`
	// Level of commands that its binary knows; 0 is 1.
	Level uint32 `json:"level,omitempty"`
	// Disk tells it from another node that has its name later. Empty until all members
	// know LevelRemovals.
	Disk string `json:"disk,omitempty"`
	// Incarnation is its present life as an owner, 0 if it has none.
	Incarnation uint64 `json:"incarnation,omitempty"`
	// Draining: an operator wants it to own nothing, or who removes it does.
	Draining bool `json:"draining,omitempty"`
	// ForRemoval: nobody but who removes it has asked for that.
	ForRemoval bool `json:"forRemoval,omitempty"`
	// Stopping: it is about to end its incarnation; the next one clears it.
	Stopping bool `json:"stopping,omitempty"`
}

// usable reports whether the member may be given work.
func (m Member) usable() bool { return m.Incarnation != 0 && !m.Draining && !m.Stopping }

// Owner is who does a piece of work. The zero Owner is nobody.
type Owner struct {
	Node        string `json:"node,omitempty"`
	Incarnation uint64 `json:"incarnation,omitempty"`
	// Epoch is the raft index of the assignment. It stays when the owner goes.
	Epoch uint64 `json:"epoch,omitempty"`
	// Releasing asks the owner to stop and to say so.
	Releasing bool `json:"releasing,omitempty"`
	// Last is the node that owned it when its incarnation ended, if nobody does
	// now: it is preferred. Empty after a release.
	Last string `json:"last,omitempty"`
}

// free makes o nobody's.
func (o *Owner) free() {
	*o = Owner{Epoch: o.Epoch, Last: o.Node}
}

// Flow is what has come of a ReplicationFlow.
type Flow struct {
	// Duty is who finds its topics and synchronises its groups.
	Duty Owner `json:"duty,omitzero"`
	// Leaving: the object was deleted, but someone still has work of it.
	Leaving bool `json:"leaving,omitempty"`
	// Topics that discovery found, by source topic.
	Topics map[string]*Topic `json:"topics,omitempty"`
	// MovedGroups are the consumer groups that moved to the destination, where
	// their offsets are no longer ours to write.
	MovedGroups map[string]MovedGroup `json:"movedGroups,omitempty"`
	// Verification is the comparison of both sides that runs, or the last one.
	Verification *Verification `json:"verification,omitempty"`
}

// TopicSpec is what discovery knows of a topic of a flow.
type TopicSpec struct {
	Source        string `json:"source"`
	SourceID      string `json:"sourceId,omitempty"`
	Destination   string `json:"destination,omitempty"`
	DestinationID string `json:"destinationId,omitempty"`
	// Partitions of the source topic. Those beyond it are taken from their owners.
	Partitions int32 `json:"partitions"`
	// Newborn is how many of them, the last ones, came while the flow looked.
	Newborn int32 `json:"newborn,omitempty"`
	// Offsets is the fidelity that was chosen when the copy began: translate or
	// preserve.
	Offsets string `json:"offsets,omitempty"`
	// Configs and GoneSince are what discovery remembers of settings and of a topic
	// that is gone, Made and Told of the destination topic; State, Problem and Fix are
	// its own words. Nothing here depends on them.
	Configs   string `json:"configs,omitempty"`
	GoneSince string `json:"goneSince,omitempty"`
	Made      bool   `json:"made,omitempty"`
	Told      Told   `json:"told,omitzero"`
	State     string `json:"state,omitempty"`
	Problem   string `json:"problem,omitempty"`
	Fix       string `json:"fix,omitempty"`
	// Blocked: there is a problem that copying would make worse, so nobody may own
	// its partitions.
	Blocked bool `json:"blocked,omitempty"`
}

// Told is what the ledger has been told of a topic.
type Told struct {
	DestinationID string `json:"destinationId,omitempty"`
	Partitions    int32  `json:"partitions,omitempty"`
	Last          uint8  `json:"last,omitempty"` // a kind of event, see the ledger's format
}

// sameLife reports whether copies may go on from one spec to the other.
func (t TopicSpec) sameLife(u TopicSpec) bool {
	return t.SourceID == u.SourceID && t.Destination == u.Destination && t.DestinationID == u.DestinationID && t.Offsets == u.Offsets
}

// Topic is a topic of a flow, and who copies its partitions.
type Topic struct {
	TopicSpec
	// Leaving: it is no longer found, but someone still has a partition of it.
	Leaving bool `json:"leaving,omitempty"`
	// Owners by partition. There can be more than Partitions, while surplus ones
	// are being released.
	Owners []Owner `json:"owners,omitempty"`
}

// Copies is how many copies the flow has.
func (f *Flow) Copies() (n int) {
	for _, t := range f.Topics {
		n += len(t.Owners)
	}
	return n
}

// MovedGroup is a consumer group that moved to the destination.
type MovedGroup struct {
	Revision uint64 `json:"revision"`
	// Detail says how it was noticed, for people.
	Detail string `json:"detail,omitempty"`
}

// Execution is one run of a runbook. What Data means is its owner's affair.
type Execution struct {
	Runbook  string          `json:"runbook"` // name of the object
	Revision uint64          `json:"revision"`
	Data     json.RawMessage `json:"data,omitempty"`
	// Done: nobody is to own it any more.
	Done  bool  `json:"done,omitempty"`
	Owner Owner `json:"owner,omitzero"`
}

// Lane is a transactional id with which an incarnation writes.
type Lane struct {
	ID            string `json:"id"`        // transactional id
	ClusterID     string `json:"clusterId"` // of the cluster it writes to
	ProducerID    int64  `json:"producerId"`
	ProducerEpoch int16  `json:"producerEpoch"`
	Node          string `json:"node"`
	Incarnation   uint64 `json:"incarnation"`
}

// Ledger pins the ledger of a cluster: should it be gone, copies stop.
type Ledger struct {
	TopicID string `json:"topicId"`
	// Start holds the first offset of each partition when it was pinned.
	Start []int64 `json:"start,omitempty"`
	// Waived is damage that somebody has looked at, by partition.
	Waived map[int32]Waiver `json:"waived,omitempty"`
	// Folding is who folds it now, nil if nobody does.
	Folding *Folding `json:"folding,omitempty"`
}

// Folding is a node that folds a ledger, in one of its incarnations: when that has ended,
// nobody does. Two at once would do no harm but write the same twice.
type Folding struct {
	ID          string    `json:"id"`
	Node        string    `json:"node"`
	Incarnation uint64    `json:"incarnation"`
	By          string    `json:"by,omitempty"`
	Since       time.Time `json:"since"`
}

// Waiver is an operator's word that what may be lost of a ledger partition at or
// below an offset does not matter.
type Waiver struct {
	UpTo   int64  `json:"upTo"`
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// WorkKind is a kind of work.
type WorkKind string

// The kinds of work.
const (
	WorkCopy    WorkKind = "copy"    // one source partition of a flow
	WorkFlow    WorkKind = "flow"    // a flow's duty
	WorkRunbook WorkKind = "runbook" // a runbook's execution
)

// Work names something that has one owner.
type Work struct {
	Kind WorkKind `json:"kind"`
	// Name of the flow, or id of the execution.
	Name string `json:"name"`
	// Topic, of the source, and Partition are set for copies.
	Topic     string `json:"topic,omitempty"`
	Partition int32  `json:"partition,omitempty"`
}

func (w Work) String() string {
	if w.Kind == WorkCopy {
		return fmt.Sprintf("copy %s/%s/%d", w.Name, w.Topic, w.Partition)
	}
	return string(w.Kind) + " " + w.Name
}

func (w Work) compare(v Work) int {
	if c := strings.Compare(string(w.Kind), string(v.Kind)); c != 0 {
		return c
	}
	if c := strings.Compare(w.Name, v.Name); c != 0 {
		return c
	}
	if c := strings.Compare(w.Topic, v.Topic); c != 0 {
		return c
	}
	return int(w.Partition) - int(v.Partition)
}

// Owner returns who owns w, and whether there is such work.
func (s *State) Owner(w Work) (Owner, bool) {
	switch w.Kind {
	case WorkFlow:
		if f := s.Flows[w.Name]; f != nil {
			return f.Duty, true
		}
	case WorkRunbook:
		if e := s.Executions[w.Name]; e != nil {
			return e.Owner, true
		}
	case WorkCopy:
		if f := s.Flows[w.Name]; f != nil {
			if t := f.Topics[w.Topic]; t != nil && w.Partition >= 0 && int(w.Partition) < len(t.Owners) {
				return t.Owners[w.Partition], true
			}
		}
	}
	return Owner{}, false
}

// wanted reports whether w should have an owner.
func (s *State) wanted(w Work) bool {
	f := s.Flows[w.Name]
	switch w.Kind {
	case WorkFlow:
		return f != nil && !f.Leaving
	case WorkRunbook:
		e := s.Executions[w.Name]
		return e != nil && !e.Done
	case WorkCopy:
		if f == nil || f.Leaving {
			return false
		}
		t := f.Topics[w.Topic]
		return t != nil && !t.Leaving && !t.Blocked && w.Partition >= 0 && w.Partition < t.Partitions
	}
	return false
}

// works calls f for all work, in an order that is the same everywhere.
func (s *State) works(f func(Work, Owner)) {
	for _, name := range sortedKeys(s.Executions) {
		f(Work{Kind: WorkRunbook, Name: name}, s.Executions[name].Owner)
	}
	for _, name := range sortedKeys(s.Flows) {
		fl := s.Flows[name]
		f(Work{Kind: WorkFlow, Name: name}, fl.Duty)
		for _, topic := range sortedKeys(fl.Topics) {
			for p, o := range fl.Topics[topic].Owners {
				f(Work{Kind: WorkCopy, Name: name, Topic: topic, Partition: int32(p)}, o)
			}
		}
	}
}

// Assignment is work that a node is to do.
type Assignment struct {
	Work  Work
	Epoch uint64
	// Releasing: stop it, then call Session.Release.
	Releasing bool
	// Topic is what discovery knows of the topic, for a copy.
	Topic TopicSpec
}

// owned is how many works a node's incarnation has.
func (s *State) owned(node string, incarnation uint64) (n int) {
	s.works(func(_ Work, o Owner) {
		if o.Node == node && o.Incarnation == incarnation {
			n++
		}
	})
	return n
}

// AssignmentsOf returns the work of a node's incarnation, in a fixed order.
func (s *State) AssignmentsOf(node string, incarnation uint64) []Assignment {
	all := make([]Assignment, 0, s.owned(node, incarnation))
	s.works(func(w Work, o Owner) {
		if o.Node != node || o.Incarnation != incarnation {
			return
		}
		a := Assignment{Work: w, Epoch: o.Epoch, Releasing: o.Releasing}
		if w.Kind == WorkCopy {
			a.Topic = s.Flows[w.Name].Topics[w.Topic].TopicSpec
		}
		all = append(all, a)
	})
	return all
}

// Ended reports whether a node's incarnation is over.
func (s *State) Ended(node string, incarnation uint64) bool {
	m, ok := s.Members[node]
	return !ok || incarnation == 0 || m.Incarnation != incarnation
}

// LanesToFence returns the lanes of ended incarnations that write to a cluster,
// in order of id. They must be fenced before a copy to that cluster begins; then
// FencedLanes takes them off.
func (s *State) LanesToFence(clusterID string) []Lane {
	var lanes []Lane
	for _, l := range s.Lanes {
		if l.ClusterID == clusterID && s.Ended(l.Node, l.Incarnation) {
			lanes = append(lanes, l)
		}
	}
	slices.SortStableFunc(lanes, func(a, b Lane) int { return strings.Compare(a.ID, b.ID) })
	return lanes
}

// Forgotten reports whether lanes may write to a cluster that are in no state: the
// fleet was restored, and nobody has recalled them there.
func (s *State) Forgotten(clusterID string) bool {
	return s.RestoredAt != 0 && !s.Recalled[clusterID]
}

// Lookup returns a declared object, or ErrNotFound.
func (s *State) Lookup(kind flow.Kind, name string) (flow.Object, error) {
	key := string(kind) + "/" + name
	stored, ok := s.Objects[key]
	if !ok {
		return flow.Object{}, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	o, err := flow.Decode(stored.Spec)
	if err != nil {
		return flow.Object{}, fmt.Errorf("decode %s: %w", key, err)
	}
	return o, nil
}

// Declared returns the declared objects of a kind, or all if kind is empty, in
// order of key.
func (s *State) Declared(kind flow.Kind) ([]flow.Object, error) {
	var all []flow.Object
	for _, key := range sortedKeys(s.Objects) {
		if kind != "" && !strings.HasPrefix(key, string(kind)+"/") {
			continue
		}
		o, err := flow.Decode(s.Objects[key].Spec)
		if err != nil {
			return nil, fmt.Errorf("decode %s: %w", key, err)
		}
		all = append(all, o)
	}
	return all, nil
}

// stateVersion is that of the encoding. A version that a node does not know
// halts it: see raftnode.ErrHalted.
const stateVersion = 1

type encodedState struct {
	Version int    `json:"version"`
	State   *State `json:"state"`
}

// encode returns the state's canonical JSON: equal states have equal bytes.
func (s *State) encode() ([]byte, error) {
	b, err := json.Marshal(encodedState{Version: stateVersion, State: s})
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	return b, nil
}

func decodeState(b []byte) (*State, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, fmt.Errorf("decode state: %w", err)
	}
	if version.Version != stateVersion {
		return nil, fmt.Errorf("decode state: version %d, this node knows %d", version.Version, stateVersion)
	}
	var e encodedState
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return nil, fmt.Errorf("decode state: %w", err)
	}
	if e.State == nil {
		return nil, errors.New("decode state: it is missing")
	}
	if err := e.State.check(); err != nil {
		return nil, fmt.Errorf("decode state: %w", err)
	}
	return e.State, nil
}

// check finds what would make later commands go wrong: null in place of an
// object.
func (s *State) check() error {
	for name, f := range s.Flows {
		if f == nil {
			return fmt.Errorf("flow %q is null", name)
		}
		for topic, t := range f.Topics {
			if t == nil {
				return fmt.Errorf("topic %q of flow %q is null", topic, name)
			}
		}
	}
	for id, e := range s.Executions {
		if e == nil {
			return fmt.Errorf("execution %q is null", id)
		}
	}
	return nil
}

// Hash is a digest of the whole state: nodes at the same revision have the same.
func (s *State) Hash() ([sha256.Size]byte, error) {
	b, err := s.encode()
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return sha256.Sum256(b), nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
