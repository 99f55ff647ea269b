// Package group coordinates consumer groups: who is a member, which member reads
// what, and how far each group has read.
//
// # The path of a rebalance
//
// A [Group] is one group of the classic protocol as a value: [Group.Step] takes an
// event (a member joins, synchronises, beats, leaves, or time passes) and returns
// effects (answers, and whether the group must be saved). It has no clock, no
// socket and no goroutine, so testdata/*.txt show whole rebalances as transcripts.
//
// A [Consumer] is one of the consumer protocol (KIP-848), with the same events and
// effects and one more, [ConsumerHeartbeat]. What members want makes an epoch of
// the group, an assignor makes the target of the epoch (assignors.go), and each
// member comes to its target by itself, a step with each heartbeat
// (reconcile.go): it gives up first, and is given only what nobody else has.
// Members of the classic protocol may be in such a group (consumer_classic.go). A
// classic group becomes one when the first member of the consumer protocol joins,
// and a classic one again when the last has left (migrate.go).
//
// A [Coordinator] puts groups behind requests. The groups of one partition of
// __consumer_offsets belong to the goroutine that serves what [Coordinator.Lead]
// returns for it, as package coordinator has it, and to no other: requests are
// applied there, timers fire there, and records are appended there.
//
// # What is promised
//
// State is changed when its record is appended, and an answer is given when all
// that it was computed from is durable: the caller of a request waits for the
// offset of the last record of its group, not only of its own. So a commit that
// was acknowledged survives, and a fetch never shows one that may not. What the
// log refuses (a full disk) has not happened, and its client is told to come again;
// what time would have brought is tried again a second later. Where a log fails,
// nothing is acknowledged until the partition is led again and has read what the
// log holds.
//
// A rebalance of a classic group survives the end of a leadership: a generation is
// saved before its members are told of it, and that a member has gone at once. So
// none is told that it is unknown, and nobody waits for who has gone.
//
// No partition is read by two members of a group of the consumer protocol that
// do as they are told, however heartbeats and lost answers fall out.
//
// Records have Kafka's own formats (OffsetCommitKey/Value 1/3, GroupMetadataKey/
// Value 2/3, ConsumerGroup* 3 to 8 and 16), so Kafka's tools read them. A record
// of a kind that is not known is passed over, as those of other kinds of groups
// are; one of a version that is not known, or damaged, is named, and its partition
// is not led: to go on would forget what it says. Offsets of an open transaction are held
// back until its marker is appended through [Coordinator.EndTransaction]; where a
// plain commit came later in the log than the transaction's, the later one wins.
//
// A heartbeat resolves one regular expression at the most, its member's, and a
// group one at a time; who beats meanwhile goes on with what there is. What that
// may take is bounded (regex.go): one that is too costly is refused, or keeps the
// topics that it has if it was not when it came. The end of the request ends it.
//
// # Goroutines
//
// The package starts none. A partition is served in its caller's, and so is every
// request.
//
// # What is left out
//
// Share and streams groups. Racks are kept and not looked at: all replicas are
// here. A commit of an epoch
// that is over is refused also where the partition has stayed with its member
// (KIP-1251).
package group
