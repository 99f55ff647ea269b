package mirrorwire

// The API keys. Kafka counts from 0 and has about a hundred; these spell "WB" and
// follow.
const (
	AppendKey   int16 = 'W'<<8 | 'B'
	DescribeKey       = AppendKey + 1
	AlterKey          = AppendKey + 2
)

// MaxVersion is the newest version of every request here.
const MaxVersion int16 = 0

// Name is the name of a request by its key, "" for other keys.
func Name(key int16) string {
	switch key {
	case AppendKey:
		return "MirrorAppend"
	case DescribeKey:
		return "MirrorDescribe"
	case AlterKey:
		return "MirrorAlter"
	}
	return ""
}

// AppendRequest appends batches to partitions of mirror topics.
type AppendRequest struct {
	versioned
	// TimeoutMillis is how long to wait until what was appended is on disk.
	TimeoutMillis int32
	Topics        []AppendRequestTopic
}

// AppendRequestTopic is a topic of an [AppendRequest].
type AppendRequestTopic struct {
	TopicID [16]byte
	// Source is where the batches are from, as the topic's mirror.source has it.
	Source     string
	Partitions []AppendRequestPartition
}

// AppendRequestPartition is one compare-and-append. Its zero value truncates: see
// [NewAppendPartition].
type AppendRequestPartition struct {
	Partition int32
	// WriterEpoch is remembered if it is the highest so far, also when the append
	// is then refused for another reason.
	WriterEpoch int64
	// ExpectedEnd is the log's end, ExpectedEpoch the leader epoch of its last
	// record, -1 if it has none.
	ExpectedEnd   int64
	ExpectedEpoch int32
	// TruncateTo cuts what the source lost, if it is not -1. A batch that has
	// records on both sides goes as a whole: the answer tells the end. No batches
	// may come along.
	TruncateTo int64
	// SourceStart is the source's log start, if it is not -1: the mirror's follows
	// once the batches are on disk. Above ExpectedEnd it is a gap that the source
	// has too: the log is emptied and begins there.
	SourceStart int64
	// Batches are whole batches (format v2) as the source has them. Their offsets
	// may skip what the source compacted.
	Batches []byte
}

// NewAppendPartition neither truncates nor moves the start.
func NewAppendPartition() AppendRequestPartition {
	return AppendRequestPartition{ExpectedEpoch: -1, TruncateTo: -1, SourceStart: -1}
}

// AppendResponse answers an [AppendRequest], partition by partition.
type AppendResponse struct {
	versioned
	ThrottleMillis int32
	Topics         []AppendResponseTopic
}

// AppendResponseTopic is a topic of an [AppendResponse].
type AppendResponseTopic struct {
	TopicID    [16]byte
	Partitions []AppendResponsePartition
}

// AppendResponsePartition is what became of an append, and what is there now. The
// offsets and epochs are -1 where the topic or partition is not known, or is not
// the caller's to see.
type AppendResponsePartition struct {
	Partition    int32
	ErrorCode    int16
	ErrorMessage *string
	LogStart     int64
	LogEnd       int64 // of what may be relied upon; of an append that succeeded: after it
	LastEpoch    int32 // leader epoch of the last record
	WriterEpoch  int64
	State        State
}

// State is what a mirror topic is doing.
type State = int8

// The states.
const (
	NoMirror  State = iota // an ordinary topic that never was a mirror
	Active                 // takes appends
	Paused                 // takes none until it is resumed
	Failed                 // takes none until it is resumed, for a reason
	Promoting              // on the way to Promoted
	Promoted               // an ordinary topic that was a mirror up to an offset
	Restoring              // on the way to Active: what the new source lacks is cut
)

// StateName is the word for a state, as mirror.state has it.
func StateName(s State) string {
	names := [...]string{NoMirror: "none", Active: "active", Paused: "paused", Failed: "failed", Promoting: "promoting", Promoted: "promoted", Restoring: "restoring"}
	if s < 0 || int(s) >= len(names) {
		return "unknown"
	}
	return names[s]
}

// DescribeRequest asks what mirror topics are, by id, or by name where the id is
// zero.
type DescribeRequest struct {
	versioned
	Topics []TopicRef
}

// TopicRef names a topic by id, or by name where the id is zero.
type TopicRef struct {
	TopicID [16]byte
	Topic   string
}

// DescribeResponse answers a [DescribeRequest].
type DescribeResponse struct {
	versioned
	ThrottleMillis int32
	Topics         []DescribeResponseTopic
}

// AlterResponse answers an [AlterRequest]: what the topics are now.
type AlterResponse struct {
	versioned
	ThrottleMillis int32
	Topics         []DescribeResponseTopic
}

// DescribeResponseTopic is a topic as it is now; with an error it has no more than
// its name and id.
type DescribeResponseTopic struct {
	TopicID      [16]byte
	Topic        string
	ErrorCode    int16
	ErrorMessage *string
	Source       string
	State        State
	Reason       string // of Failed
	Partitions   []DescribeResponsePartition
}

// DescribeResponsePartition is a partition as it is now.
type DescribeResponsePartition struct {
	Partition   int32
	LogStart    int64
	LogEnd      int64
	LastStable  int64
	LastEpoch   int32 // leader epoch of the last record
	LeaderEpoch int32 // as clients are told
	WriterEpoch int64
	// PromotedAt is where the source's part ends, -1 while it is a mirror: what
	// lies below came from the source, with the source's path.
	PromotedAt int64
	// Ended are the transactions that the promotion aborted, which the source may
	// have committed since.
	Ended []EndedTransaction
}

// EndedTransaction is a transaction that was open when its partition was promoted.
type EndedTransaction struct {
	ProducerID    int64
	ProducerEpoch int16
	FirstOffset   int64
}

// Op is what an [AlterRequest] does.
type Op = int8

// The operations. All may be repeated: one that has happened succeeds.
const (
	Pause  Op = iota + 1
	Resume    // from Paused or Failed
	Fail      // with a reason
	// Promote ends the transactions that are open and makes the topic an ordinary
	// one, for good.
	Promote
	// Restore makes a topic (an ordinary or a promoted one, with as many
	// partitions as are named) the mirror of a source again, after cutting each
	// partition to where it agrees with that source. Each cut names the end and
	// last epoch that the caller has seen: what was produced since is not cut
	// unseen.
	Restore
)

// AlterRequest changes the state of mirror topics.
type AlterRequest struct {
	versioned
	Topics []AlterRequestTopic
}

// AlterRequestTopic is one change.
type AlterRequestTopic struct {
	TopicID [16]byte
	Topic   string // where the id is zero
	Op      Op
	Reason  string // of Fail
	Source  string // of Restore
	Cuts    []Cut  // of Restore, one for each partition
}

// Cut is where a partition is cut by Restore.
type Cut struct {
	Partition     int32
	TruncateTo    int64
	ExpectedEnd   int64
	ExpectedEpoch int32
}
