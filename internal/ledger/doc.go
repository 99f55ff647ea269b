// Package ledger is the record codec of the ledger: the log of everything that
// happened to events on their way between clusters.
//
// A ledger is a Kafka topic, [Topic], that is never compacted and never expires.
// Each Kafka record in it is one [Page]: the entries that one writer had to say
// at one moment. Entries are facts: a copy began ([Begin]), these source offsets
// are now those destination offsets ([Hop]), this producer id is a replicator's
// ([Writer]), these offsets were produced or read by that client ([Production],
// [Access]), what a hop said holds no longer ([Retraction]), by what rules records are left
// out and changed ([Rules]), where those are that cannot be copied ([Quarantine]).
//
// What readers may rely on:
//
//   - A hop and its data are written in one transaction, so a read_committed
//     reader that sees the one sees the other.
//   - All entries of a copy are in the ledger partition that [PartitionOf] names,
//     in order. After a Begin, entries of the copy with an older epoch are void.
//   - A page carries the SHA-256 of its writer's previous page in the same ledger
//     partition and a sequence number, so a removed, altered or reordered page
//     shows (see [Chain]).
//   - Identity is ids: clusters by cluster.id, topics by topic id. Names are
//     labels for people.
//
// The format is drawn in FORMAT.md. Entries of a kind that a reader does not
// know are skipped by their length; a page of a newer version is an error.
//
// The package does no I/O and starts no goroutine.
package ledger
