package txn

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// State is where a transaction stands; the numbers are Kafka's.
type State int8

// The states. Kafka's Dead and PrepareEpochFence never get into its log, and are
// not needed here.
const (
	Empty          State = 0 // no transaction since the producer was initialised
	Ongoing        State = 1
	PrepareCommit  State = 2 // decided, markers are being written
	PrepareAbort   State = 3
	CompleteCommit State = 4
	CompleteAbort  State = 5
)

var stateNames = [...]string{"Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort"}

func (s State) String() string {
	if s >= 0 && int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "Unknown"
}

// States are the names of all states.
func States() []string { return slices.Clone(stateNames[:]) }

// preparing says that the outcome is decided and not all markers are known to be
// written.
func (s State) preparing() bool { return s == PrepareCommit || s == PrepareAbort }

// Version is the transaction.version by which a producer speaks (KIP-890). It
// follows from the versions of its requests, so producers of both may use one
// cluster, and one transactional id in turn.
type Version int16

// The versions that make a difference. Version 1 is about records only.
const (
	V0 Version = 0
	// V2 gives every transaction an epoch of its own: EndTxn ends it at the next
	// one, which the producer goes on with. Partitions are added by their first
	// Produce.
	V2 Version = 2
)

// maxEpoch is the last epoch that a producer is given. One more is kept, to fence
// it with.
const maxEpoch = math.MaxInt16 - 1

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

func (tp TopicPartition) compare(o TopicPartition) int {
	return cmp.Or(cmp.Compare(tp.Topic, o.Topic), cmp.Compare(tp.Partition, o.Partition))
}

// Producer is a producer id at an epoch.
type Producer struct {
	ID    int64
	Epoch int16
}

// NoProducer is that of a client which has none.
var NoProducer = Producer{-1, -1}

// Txn is the state of one transactional id. It is a value: a step returns another
// one and shares nothing with it that changes.
type Txn struct {
	ID string
	// Producer is the one that may write. Its epoch is -1 in a Txn that has not
	// been initialised.
	Producer Producer
	// LastEpoch is the epoch before the last initialisation that named it, -1 if
	// there is none: its producer may ask again for the answer it did not get
	// (KIP-360). It is not stored.
	LastEpoch int16
	// PreviousID is the producer id before the last one ran out of epochs, -1 if
	// there was none.
	PreviousID int64
	// NextID is the producer id that takes over, at epoch 0, when the transaction
	// that is ending has its markers, because the present one has run out of
	// epochs; -1 if it goes on.
	NextID int64
	// Version is that of the producer at its last step.
	Version    Version
	Timeout    time.Duration
	State      State
	Partitions map[TopicPartition]struct{}
	Started    time.Time // of the transaction, zero if there is none
	Updated    time.Time
}

// New returns the state of a transactional id that was never seen.
func New(id string) Txn {
	return Txn{ID: id, Producer: NoProducer, LastEpoch: -1, PreviousID: -1, NextID: -1}
}

// Event is what happens to a transactional id: [Init], [Add], [End], [Settled] or
// [Timeout].
type Event interface{ event() }

// Init gives a producer its id and epoch.
type Init struct {
	Timeout time.Duration
	// Expected is what the producer has been and wants to go on as (KIP-360), or
	// [NoProducer].
	Expected Producer
	// FreshID is a producer id that was never used, for an id that has none or
	// has run out of epochs; -1 if the caller has not fetched one.
	FreshID int64
}

// Add puts partitions into the transaction, which it begins if there is none.
type Add struct {
	Version    Version
	Producer   Producer
	Partitions []TopicPartition
}

// End decides the transaction. By [V2] it moves on to the next epoch, and may
// abort a transaction that has not begun: a producer does not know whether its
// first Produce got through.
type End struct {
	Version  Version
	Producer Producer
	Commit   bool
	// FreshID is as in [Init]; it is needed when the epochs have run out.
	FreshID int64
}

// Settled says that every partition has its marker.
type Settled struct{}

// Timeout aborts a transaction that has outlived its timeout.
type Timeout struct{}

func (Init) event()    {}
func (Add) event()     {}
func (End) event()     {}
func (Settled) event() {}
func (Timeout) event() {}

// errNoFreshID says that a step needs a producer id that was never used.
var errNoFreshID = errors.New("a fresh producer id is needed")

// Step applies an event. It returns the next state, whether that is another one
// and so must be recorded, and what to answer: a value of package kerr, errNoFreshID or nil. An
// answer may be an error and the state change all the same, when a producer
// fences another's transaction.
func (t Txn) Step(now time.Time, e Event) (next Txn, changed bool, err error) {
	switch e := e.(type) {
	case Init:
		next, changed, err = t.init(now, e)
	case Add:
		next, changed, err = t.add(now, e)
	case End:
		next, changed, err = t.end(now, e)
	case Settled:
		next, changed = t.settled(now)
	case Timeout:
		next, changed = t.timeout(now)
	}
	if !changed {
		return t, false, err
	}
	return next, true, err
}

func (t Txn) init(now time.Time, e Init) (Txn, bool, error) {
	fresh := t.Producer.Epoch == -1
	known := e.Expected.ID == t.Producer.ID ||
		e.Expected.ID == t.PreviousID && e.Expected.Epoch >= maxEpoch
	switch {
	case e.Expected != NoProducer && !fresh && !known:
		return t, false, kerr.ProducerFenced
	case t.State.preparing():
		return t, false, kerr.ConcurrentTransactions
	case t.State == Ongoing:
		// A producer from before the present one must not end its transaction.
		if e.Expected != NoProducer && (e.Expected.ID != t.Producer.ID || e.Expected.Epoch < t.Producer.Epoch) {
			return t, false, kerr.ProducerFenced
		}
		return t.fence(now), true, kerr.ConcurrentTransactions
	}
	next := t
	next.Timeout, next.State, next.Updated = e.Timeout, Empty, now
	next.Partitions, next.Started = nil, time.Time{}
	named := e.Expected != NoProducer
	switch {
	case fresh || t.Producer.Epoch >= maxEpoch && (!named || e.Expected.Epoch == t.Producer.Epoch):
		if e.FreshID < 0 {
			return t, false, errNoFreshID
		}
		next.PreviousID, next.LastEpoch = t.Producer.ID, -1
		if named && !fresh {
			next.LastEpoch = t.Producer.Epoch
		}
		next.Producer = Producer{e.FreshID, 0}
	case !named:
		next.Producer.Epoch++
		next.LastEpoch = -1
	case e.Expected.Epoch == t.Producer.Epoch:
		next.Producer.Epoch++
		next.LastEpoch = t.Producer.Epoch
	case e.Expected.Epoch == t.LastEpoch:
		// It asks again for an answer that was lost.
	default:
		return t, false, kerr.ProducerFenced
	}
	return next, true, nil
}

// fence aborts the ongoing transaction at an epoch that its producer does not
// have.
func (t Txn) fence(now time.Time) Txn {
	t.Producer.Epoch = min(t.Producer.Epoch, math.MaxInt16-1) + 1
	t.LastEpoch, t.NextID = -1, -1
	t.State, t.Updated = PrepareAbort, now
	return t
}

// check fences producers that are not the one that may write.
func (t Txn) check(p Producer) error {
	switch {
	case t.Producer.Epoch == -1 || p.ID != t.Producer.ID:
		return kerr.InvalidProducerIDMapping
	case p.Epoch != t.Producer.Epoch:
		return kerr.ProducerFenced
	}
	return nil
}

func (t Txn) add(now time.Time, e Add) (Txn, bool, error) {
	if t.movesTo(e.Producer) {
		return t, false, kerr.ConcurrentTransactions
	}
	if err := t.check(e.Producer); err != nil {
		return t, false, err
	}
	if t.State.preparing() {
		return t, false, kerr.ConcurrentTransactions
	}
	next := t
	if t.State != Ongoing {
		next.State, next.Started, next.Partitions = Ongoing, now, nil
	}
	next.Partitions = maps.Clone(next.Partitions)
	if next.Partitions == nil {
		next.Partitions = map[TopicPartition]struct{}{}
	}
	for _, tp := range e.Partitions {
		next.Partitions[tp] = struct{}{}
	}
	if t.State == Ongoing && len(next.Partitions) == len(t.Partitions) {
		return t, false, nil
	}
	next.Updated, next.Version = now, e.Version
	return next, true, nil
}

// movesTo reports whether p is the producer after the transaction that is ending,
// which EndTxn has told already. Whatever it asks for has to wait.
func (t Txn) movesTo(p Producer) bool {
	return t.State.preparing() && t.Version >= V2 && p == t.nextProducer()
}

// nextProducer is the producer of the next transaction.
func (t Txn) nextProducer() Producer {
	if t.NextID >= 0 {
		return Producer{t.NextID, 0}
	}
	return t.Producer
}

// verify says whether all the partitions are in the producer's transaction.
func (t Txn) verify(p Producer, partitions []TopicPartition) error {
	if t.movesTo(p) {
		return kerr.ConcurrentTransactions
	}
	if err := t.check(p); err != nil {
		return err
	}
	if t.State.preparing() {
		return kerr.ConcurrentTransactions
	}
	for _, tp := range partitions {
		if _, ok := t.Partitions[tp]; !ok || t.State != Ongoing {
			return kerr.InvalidTxnState
		}
	}
	return nil
}

func (t Txn) end(now time.Time, e End) (Txn, bool, error) {
	if t.movesTo(e.Producer) {
		return t, false, kerr.ConcurrentTransactions
	}
	again := t.ended(e)
	if err := t.check(e.Producer); err != nil && !again {
		return t, false, err
	}
	prepare, complete := PrepareAbort, CompleteAbort
	if e.Commit {
		prepare, complete = PrepareCommit, CompleteCommit
	}
	switch {
	case t.State == Ongoing:
		return t.prepare(now, prepare, e)
	case t.State == prepare:
		return t, false, kerr.ConcurrentTransactions
	case t.State == complete && (again || e.Version < V2):
		return t, false, nil // the answer was lost
	case t.State.preparing() || again || e.Version < V2 || e.Commit:
		return t, false, kerr.InvalidTxnState
	}
	t.Partitions, t.Started = nil, now
	return t.prepare(now, PrepareAbort, e)
}

// ended reports whether e is the End that led to the present state, once more:
// its producer has not seen the answer and so not the next epoch. The same End
// after the next transaction has begun is a late one, and fenced.
func (t Txn) ended(e End) bool {
	if e.Version < V2 || t.Version < V2 || t.State == Empty || t.State == Ongoing {
		return false
	}
	if t.Producer.Epoch == 0 { // the id has been replaced
		return e.Producer == Producer{t.PreviousID, maxEpoch}
	}
	return e.Producer == Producer{t.Producer.ID, t.Producer.Epoch - 1}
}

// prepare decides the transaction. By V2 its markers, and whatever comes after
// them, have the next epoch, so nothing that is late can be taken for a part of
// the next transaction.
func (t Txn) prepare(now time.Time, to State, e End) (Txn, bool, error) {
	next := t
	next.State, next.Updated, next.Version, next.NextID = to, now, e.Version, -1
	if e.Version < V2 {
		return next, true, nil
	}
	if t.Producer.Epoch >= maxEpoch {
		if e.FreshID < 0 {
			return t, false, errNoFreshID
		}
		next.NextID = e.FreshID
	}
	next.LastEpoch = t.Producer.Epoch
	next.Producer.Epoch++
	return next, true, nil
}

func (t Txn) settled(now time.Time) (Txn, bool) {
	switch t.State {
	case PrepareCommit:
		t.State = CompleteCommit
	case PrepareAbort:
		t.State = CompleteAbort
	default:
		return t, false
	}
	t.Partitions, t.Updated = nil, now
	if t.NextID >= 0 {
		t.PreviousID, t.Producer, t.NextID = t.Producer.ID, t.nextProducer(), -1
	}
	return t, true
}

// due is when the transaction has outlived its timeout; zero is never.
func (t Txn) due() time.Time {
	if t.State != Ongoing {
		return time.Time{}
	}
	return t.Started.Add(t.Timeout)
}

func (t Txn) timeout(now time.Time) (Txn, bool) {
	if d := t.due(); d.IsZero() || now.Before(d) {
		return t, false
	}
	return t.fence(now), true
}

// Sorted are the partitions of the transaction, in order.
func (t Txn) Sorted() []TopicPartition {
	return slices.SortedStableFunc(maps.Keys(t.Partitions), TopicPartition.compare)
}
