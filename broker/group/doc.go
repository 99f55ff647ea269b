// Package group coordinates consumer groups: who is a member, which member reads
// what, and how far each group has read.
//
// # The path of a rebalance
//
// A [Group] is one group as a value: [Group.Step] takes an event (a member joins,
// synchronises, beats, leaves, or time passes) and returns effects (answers, and
// whether the group must be saved). It has no clock, no socket and no goroutine,
// so testdata/*.txt show whole rebalances as transcripts.
//
// A [Coordinator] puts groups behind requests. The groups of one partition of
// __consumer_offsets belong to the goroutine that runs [Coordinator.Lead] for it,
// and to no other: requests are sent there as closures and are applied one after
// the other, timers fire there, and records are appended there. Lead first reads
// its partition from start to end. Leadership arrives as its context: when that
// ends, every parked request is answered NOT_COORDINATOR.
//
// # What is promised
//
// State is changed when its record is appended, and an answer is given when all
// that it was computed from is durable: the caller of a request waits for the
// offset of the last record of its group, not only of its own. So a commit that
// was acknowledged survives, and a fetch never shows one that may not. A failed
// append or wait ends the leadership of the partition; nothing is acknowledged
// after it, and the next leader reads what the log holds.
//
// Records have Kafka's own formats (OffsetCommitKey/Value 1/3, GroupMetadataKey/
// Value 2/3), so Kafka's tools read them. Offsets of an open transaction are held
// back until its marker is appended through [Coordinator.EndTransaction]; where a
// plain commit came later in the log than the transaction's, the later one wins.
//
// # Goroutines
//
// The package starts none. Lead runs in its caller's, and so does every request.
//
// # What is left out
//
// The consumer protocol of KIP-848 and share groups; offsets by topic id
// (OffsetCommit and OffsetFetch from version 10 on); expiry of single offsets of
// a live group whose topics are no longer subscribed.
package group
