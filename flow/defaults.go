package flow

import "time"

// Values of [FlowSpec.Offsets].
const (
	OffsetsTranslate = "translate"
	OffsetsPreserve  = "preserve"
	OffsetsAuto      = "auto"
)

// Values of [FlowSpec.Delivery].
const (
	DeliveryExactlyOnce = "exactly-once"
	DeliveryAtLeastOnce = "at-least-once"
)

// Values of [FlowSpec.Origin].
const (
	OriginAny   = "any"
	OriginLocal = "local"
)

// Values of [ConfigSync.OnDrift].
const (
	DriftReport    = "report"    // show it and leave it
	DriftOverwrite = "overwrite" // the source wins
)

// Values of [FlowPolicies].
const (
	DeleteKeep            = "keep"
	DeleteCopy            = "delete"
	RecreateStop          = "stop"
	RecreateNewGeneration = "newGeneration"
	GapContinue           = "continue" // the ledger declares what is missing
	GapStop               = "stop"
	TruncateStop          = "stop"
	TruncateRetract       = "retract" // the ledger takes it back, the destination keeps it
	LossRecopy            = "recopy"
	LossStop              = "stop"
	RefusalWait           = "wait"
	RefusalStop           = "stop"
)

// Values of [MirrorMaker2.OffsetSyncs].
const (
	OffsetSyncsSource      = "source"
	OffsetSyncsDestination = "destination"
	OffsetSyncsNone        = "none"
)

// Values of [FlowVerify.From].
const (
	VerifyFromStart    = "start"    // all that was copied
	VerifyFromVerified = "verified" // what the comparison before has not reached
)

// Defaults of what a declaration leaves out. Parsing fills them in, so that an
// object that is stored means the same after an upgrade.
const (
	// DefaultOffsets works into any Kafka, and leaves topics that anybody may write to:
	// applications on both sides, and after a switch without another step.
	DefaultOffsets = OffsetsTranslate

	// DefaultStart copies all there is: a flow that begins at the end would
	// silently leave data behind.
	DefaultStart = StartEarliest

	// DefaultDelivery is never weakened by itself: a destination that cannot give it
	// shows, and somebody decides.
	DefaultDelivery = DeliveryExactlyOnce

	// DefaultOrigin carries records on from cluster to cluster, each once: what has
	// been in a place is not copied back to it.
	DefaultOrigin = OriginAny

	// DefaultOnDrift leaves alone what somebody has set at the destination.
	DefaultOnDrift = DriftReport

	// DefaultOnDelete and DefaultOnRecreate destroy nothing and mix nothing.
	DefaultOnDelete   = DeleteKeep
	DefaultOnRecreate = RecreateStop

	// DefaultOnGap: what is gone is gone, and what comes now would be gone next.
	DefaultOnGap = GapContinue

	// DefaultOnTruncate: somebody has to say whether the records that only the copy
	// has are worth more than those that the source has instead.
	DefaultOnTruncate = TruncateStop

	// DefaultOnLoss: the source still has it, or the ledger says that it has not.
	DefaultOnLoss = LossRecopy

	// DefaultOnRefusal: the source keeps what is not copied for its retention, and a
	// copy that waits goes on by itself.
	DefaultOnRefusal = RefusalWait

	// DefaultRefusalAfter is longer than a rolling restart leaves a partition without
	// enough replicas.
	DefaultRefusalAfter = Duration(10 * time.Minute)

	// DefaultDeleteAfter leaves a working day to notice that the wrong topic was
	// deleted.
	DefaultDeleteAfter = Duration(24 * time.Hour)

	// DefaultGroupInterval: a group is at most 1 s of its consumption behind on
	// the destination. It costs one OffsetFetch and one OffsetCommit per group
	// and interval: 1000 groups are 2000 small requests a second.
	DefaultGroupInterval = Duration(time.Second)

	// DefaultVerifyInterval: a fault is found within a day, if the rate allows.
	DefaultVerifyInterval = Duration(24 * time.Hour)

	// DefaultVerifyBytesPerSecond is 430 GB of both sides together a day, and a
	// hundredth of what a broker of today serves.
	DefaultVerifyBytesPerSecond = Size(5 << 20)

	// DefaultVerifyFrom finds what has changed since it was copied.
	DefaultVerifyFrom = VerifyFromStart

	// DefaultOffsetSyncs is where MirrorMaker puts them.
	DefaultOffsetSyncs = OffsetSyncsSource

	// DefaultFenceWatch is how long the log ends must stand still before a fence
	// counts. A producer that was let in just before the ACL changed still
	// retries for its request timeout of 30 s, but what it retries was refused;
	// what can still arrive is what was in flight: linger and one round trip,
	// together far below 10 s.
	DefaultFenceWatch = Duration(10 * time.Second)
)

// MinBytesPerSecond is the least that a flow can be limited to: a batch of a
// megabyte then takes a quarter of a minute.
const MinBytesPerSecond = Size(64 << 10)

// Bounds of a flow's commit interval: a commit takes some milliseconds anywhere, and
// brokers end the transactions of nodes that die after a minute.
const (
	MinCommitInterval = Duration(time.Millisecond)
	MaxCommitInterval = Duration(10 * time.Second)
)

// MaxLanes bounds the transactions of a flow on a node: each has a transactional
// id, a connection to each broker, and a commit that costs them the same however
// little is in it.
const MaxLanes = 64

// DefaultTimeout is the time limit of a step that sets none.
func DefaultTimeout(v Verb) Duration {
	switch v {
	case VerbCheck:
		// 10,000 partitions at 200 answers a second are 50 s; verifying takes
		// longer and says so in its own step.
		return Duration(10 * time.Minute)
	case VerbWait:
		// Catching up with 5 TiB at 80 MiB/s takes 18 h.
		return Duration(24 * time.Hour)
	case VerbFence:
		// ACLs reach every broker within seconds; then the ends are watched.
		return Duration(5 * time.Minute)
	case VerbApply:
		return Duration(10 * time.Minute)
	case VerbGate, VerbSwitch:
		// People: from Friday evening to Monday evening.
		return Duration(72 * time.Hour)
	case VerbReport:
		return Duration(time.Minute)
	}
	return 0
}

// fillDefaults completes a decoded object.
func (o Object) fillDefaults() {
	switch {
	case o.Flow != nil:
		spec := &o.Flow.Spec
		setDefault(&spec.Offsets, DefaultOffsets)
		setDefault(&spec.Start, DefaultStart)
		setDefault(&spec.Delivery, DefaultDelivery)
		setDefault(&spec.Origin, DefaultOrigin)
		if spec.Topics.Configs.Sync == nil {
			follow := true
			spec.Topics.Configs.Sync = &follow
		}
		setDefault(&spec.Topics.Configs.OnDrift, DefaultOnDrift)
		setDefault(&spec.Policies.OnDelete, DefaultOnDelete)
		setDefault(&spec.Policies.DeleteAfter, DefaultDeleteAfter)
		setDefault(&spec.Policies.OnRecreate, DefaultOnRecreate)
		setDefault(&spec.Policies.OnGap, DefaultOnGap)
		setDefault(&spec.Policies.OnTruncate, DefaultOnTruncate)
		setDefault(&spec.Policies.OnLoss, DefaultOnLoss)
		setDefault(&spec.Policies.OnRefusal, DefaultOnRefusal)
		setDefault(&spec.Policies.RefusalAfter, DefaultRefusalAfter)
		if spec.Records != nil {
			spec.Records.fillDefaults(o.Flow.Metadata.Name)
		}
		if spec.Groups != nil {
			setDefault(&spec.Groups.Interval, DefaultGroupInterval)
		}
		if spec.Verify != nil {
			setDefault(&spec.Verify.Interval, DefaultVerifyInterval)
			setDefault(&spec.Verify.BytesPerSecond, DefaultVerifyBytesPerSecond)
			setDefault(&spec.Verify.From, DefaultVerifyFrom)
		}
		if spec.MirrorMaker2 != nil {
			setDefault(&spec.MirrorMaker2.OffsetSyncs, DefaultOffsetSyncs)
		}
	case o.Runbook != nil:
		for i := range o.Runbook.Spec.Steps {
			s := &o.Runbook.Spec.Steps[i]
			setDefault(&s.Timeout, DefaultTimeout(s.Verb()))
			setDefault(&s.OnFailure, FailureStop)
			if s.Fence != nil {
				setDefault(&s.Fence.Watch, DefaultFenceWatch)
			}
		}
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
