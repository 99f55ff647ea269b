package ledger

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Topic is the name of the ledger's topic in every cluster that has one.
const Topic = "__waybill.ledger"

// TopicID is a Kafka topic id (KIP-516); it names one life of a topic.
type TopicID [16]byte

// String is the form that Kafka's tools print: unpadded URL-safe base64.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseTopicID reads the form that [TopicID.String] prints.
func ParseTopicID(s string) (TopicID, error) {
	var id TopicID
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%q is not a topic id", s)
	}
	copy(id[:], b)
	return id, nil
}

// End is one side of a copy: a partition of one life of a topic.
type End struct {
	Cluster   string // cluster.id
	TopicID   TopicID
	Partition int32
}

// CopyID identifies a copy by what it copies and to where, so that two fleets
// or two flows that are given the same work are seen to be the same copy.
type CopyID struct {
	Source, Destination End
}

// CopyKey is the short name of a CopyID inside the ledger: the first 16 bytes of
// a SHA-256 over it. Every copy's Begin carries the whole CopyID.
type CopyKey [16]byte

func (k CopyKey) String() string { return fmt.Sprintf("%x", k[:]) }

// Key is the copy's short name.
func (c CopyID) Key() CopyKey {
	h := sha256.New()
	for _, e := range []End{c.Source, c.Destination} {
		h.Write(binary.AppendUvarint(nil, uint64(len(e.Cluster))))
		h.Write([]byte(e.Cluster))
		h.Write(e.TopicID[:])
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(e.Partition)))
	}
	return CopyKey(h.Sum(nil)[:16])
}

// PartitionOf is the ledger partition, of n, that holds every entry of a copy.
// It depends on the pair of topics and not on the partition, so that copies
// which share a transaction share pages too.
func PartitionOf(c CopyID, n int32) int32 {
	c.Source.Partition, c.Destination.Partition = 0, 0
	k := c.Key()
	return int32(binary.BigEndian.Uint32(k[:4]) % uint32(n))
}

// Entry is one fact. The types of this file implement it; a reader switches on
// them and ignores what it does not know.
type Entry interface {
	kind() kind
	append(dst []byte) []byte
}

// Begin opens an epoch of a copy: its writer has fenced all earlier ones and has
// read the ledger to its end. Entries of the copy with a lower epoch that follow
// are void, and of a Begin that restates those before it that came too late to be read
// ([Begin.Restates]).
type Begin struct {
	Copy  CopyID
	Epoch uint64 // assignment epoch, granted by raft; grows with every owner

	// Resume is the source offset from which this epoch goes on.
	Resume int64
	At     time.Time

	// Labels for people.
	SourceCluster, DestinationCluster string // names
	SourceTopic, DestinationTopic     string
	Flow, Fleet, Node, Lane           string
}

// Hop says where a stretch of source offsets went. Its runs and gaps tile
// [From, Next) without hole or overlap, in order.
type Hop struct {
	Copy       CopyKey
	Epoch      uint64
	From, Next int64 // source offsets, Next exclusive
	Runs       []Run
	Gaps       []Gap

	// Leader epochs as of the hop's last batch, -1 if not known.
	SourceLeaderEpoch, DestinationLeaderEpoch int32

	At    time.Time
	Bytes int64 // of batches as written

	// Routes are how records had come to the source before they were copied from
	// there. A run's records came by the one that it names, or were born there.
	Routes []Route
	// Untraced says that the hop was written by a version that kept no routes.
	Untraced bool

	// Fold is not nil if the hop stands for several that were folded. Its runs have no
	// digests then, and no paths but Altered.
	Fold *Fold
}

// Life is one life of a topic: a topic that is created again is another one.
type Life struct {
	Cluster string // cluster.id
	TopicID TopicID
}

// Life is that of the topic whose partition the end is.
func (e End) Life() Life { return Life{e.Cluster, e.TopicID} }

// Route is the topics that a record has passed, its birthplace first. The place
// where it lies is not part of it: for a record that was born there it is empty.
type Route []Life

// Through says that the route leads through a topic.
func (r Route) Through(l Life) bool { return slices.Contains(r, l) }

// Run is a stretch of source offsets with one record each (at most one, where the
// copy preserves offsets and compaction has emptied some of a batch) that went, in order
// and unbroken, to as many destination offsets.
type Run struct {
	Source, Destination int64
	Count               int64
	// Path says how the records travelled, and so what Digest covers.
	Path Path
	// Digest is, for Raw, the CRC-32C over the records sections of the run's
	// batches one after the other; for Reencoded and Altered, the CRC-32C over the
	// canonical form of its records (see CanonicalDigest in internal/record) as they
	// were written.
	Digest uint32
	// Route is 0 for records that were born at the source, else one more than the
	// index of their route in the hop's Routes.
	Route int
}

// Path is how a run's records travelled.
type Path uint8

// The paths of a run.
const (
	Raw       Path = 1 // batches as bytes
	Reencoded Path = 2 // decoded and encoded again
	Altered   Path = 3 // and changed by the flow: masked, or with headers added
)

// Gap is a stretch of source offsets that has no copy.
type Gap struct {
	Source, Count int64
	Reason        Reason
}

// Reason says why a source offset has no copy.
type Reason uint8

// The reasons for a gap.
const (
	Compacted   Reason = 1  // the source's cleaner removed it
	Aborted     Reason = 2  // its transaction was aborted
	Control     Reason = 3  // it is a transaction marker
	Expired     Reason = 4  // the source deleted it before it was copied
	Filtered    Reason = 5  // the flow's filter left it out
	Quarantined Reason = 6  // the destination cannot take it
	Returned    Reason = 7  // it came from the destination (loop)
	NotAsked    Reason = 8  // it lies before the flow's start
	NotLocal    Reason = 9  // it was not born at the source, and the flow copies what was
	Doubled     Reason = 10 // a replicator without transactions wrote it twice
)

var reasonNames = [...]string{"", "compacted", "aborted", "control", "expired", "filtered", "quarantined", "returned", "not-asked", "not-local", "doubled"}

func (r Reason) String() string {
	if int(r) < len(reasonNames) && r != 0 {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// Retraction takes back what the hops of a copy say of source offsets from Source
// on, from where the copy goes on: one side has lost what was copied.
type Retraction struct {
	Copy  CopyKey
	Epoch uint64
	// Source is where the copy goes on, Destination where the copies of what is
	// taken back begin or, if there are none, would have begun.
	Source, Destination int64
	At                  time.Time
	Lost                LostSide
}

// LostSide is the side of a copy that has lost records.
type LostSide uint8

// The sides.
const (
	// LostAtDestination: its log was cut back to Destination. What was there is
	// copied again.
	LostAtDestination LostSide = 0
	// LostAtSource: its log was cut back to Source (unclean election). The
	// destination keeps the copies, as records that the source does not have.
	LostAtSource LostSide = 1
)

func (l LostSide) String() string {
	if l == LostAtSource {
		return "source"
	}
	return "destination"
}

// Rules says by what rules a copy goes on from a source offset: what of the
// records its flow declares to be left out or changed. It stands beside the Begin
// with which they came into force, and holds until the next Begin of the copy; a
// Begin without it means that all records are copied as they are.
type Rules struct {
	Copy  CopyKey
	Epoch uint64
	From  int64
	// Text is the declaration, spec.records of the flow, as JSON. It refers to
	// secrets and holds none.
	Text string
	At   time.Time
}

// Hash is the version of the rules: the SHA-256 of their text.
func (e *Rules) Hash() [32]byte { return sha256.Sum256([]byte(e.Text)) }

// Quarantine says where records are that were not copied because they cannot be:
// those with the reason Quarantined among the source offsets [From, Next) are in
// another topic of the destination, in their order, from Offset on. It is written
// with the hop that has the gaps, in the transaction that has the records.
type Quarantine struct {
	Copy       CopyKey
	Epoch      uint64
	From, Next int64

	TopicID         TopicID
	Topic           string // label
	Partition       int32
	Offset, Records int64

	Why string // of the first
	At  time.Time
}

// Writer registers a producer id as a replicator's before its first batch.
type Writer struct {
	Cluster       string // cluster.id in which the producer id is valid
	ProducerID    int64
	ProducerEpoch int16
	Lane          string // transactional id, or a [PlainLane]
	Fleet, Node   string
	At            time.Time
}

// plainLane begins the names of lanes that write without transactions: their data is
// there before its hops are.
const plainLane = "plain/"

// PlainLane is the name under which a lane without transactions is written down.
func PlainLane(lane string) string {
	return plainLane + strings.TrimPrefix(lane, plainLane)
}

// Plain says that the writer's lane has no transactions.
func (e *Writer) Plain() bool { return strings.HasPrefix(e.Lane, plainLane) }

// Plain says that the epoch may have data at the destination that no hop tells of.
func (e *Begin) Plain() bool { return strings.HasPrefix(e.Lane, plainLane) }

// Restates says that the copy's hops follow their data, without a transaction that
// fences their writer: what an earlier epoch says at and above Resume may stand before
// the Begin and have come when its writer had read the ledger. The epoch tells of those
// offsets again, from the data, so the earlier hops are void from Resume on.
func (e *Begin) Restates() bool { return e.Lane == "" || e.Plain() }

// Client is who produced or read, as the broker knows it. Software is name and
// version as the client reports them (KIP-511).
type Client struct {
	Principal, ClientID, Software, Address string
}

// Production says who produced offsets. A bundled broker writes it.
type Production struct {
	Place
	Client
	Records     int64
	ProducerID  int64 // -1 without idempotence
	FirstAt, At time.Time
}

// Access says who read, or may have read, offsets.
type Access struct {
	Place
	Client
	Kind        AccessKind
	Group       string // for Committed
	FirstAt, At time.Time
}

// AccessKind is how far an access is known to be a reading.
type AccessKind uint8

// The kinds of access.
const (
	Fetched   AccessKind = 1 // the broker sent it: fetched is not yet read
	Committed AccessKind = 2 // a group committed past it
)

func (k AccessKind) String() string {
	switch k {
	case Fetched:
		return "fetched"
	case Committed:
		return "committed"
	}
	return fmt.Sprintf("access(%d)", uint8(k))
}
