// Package ledger is the record codec of the ledger: the log of everything that
// happened to events on their way between clusters.
//
// A ledger is a Kafka topic, [Topic], that is never compacted and never expires.
// Each Kafka record in it is one [Page]: the entries that one writer had to say
// at one moment. Entries are facts: a copy began ([Begin]), these source offsets
// are now those destination offsets ([Hop]), this producer id is a replicator's
// ([Writer]), these offsets were produced or read by that client ([Production],
// [Access]), so a group's committed offset went on ([Progress]), what a hop said holds no longer ([Retraction]), by what rules records are left
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
//
// # Folding old hops
//
// A ledger keeps each hop, some 70 bytes and 12 for each run, of which translation needs the
// counts and differences, some five bytes a run. They cannot be merged further without
// losing exactness, because each transaction's marker takes a destination offset. A
// copy with a page, a hop and a run for each transaction takes 107 bytes for it, and 4
// folded (BenchmarkFold of package fold). The shape it has:
//
//   - A fold is pages of their own, of one writer, and of a page version of their own: it
//     repeats what is below some ledger offset, so that whoever has read that passes over
//     it, and a program that knows of no folds says that it is too old. In it are, for
//     each copy, the Begins of the epochs of which anything is left and its hops put
//     together (without digests, with one bit of the paths: that verify must not expect
//     equal records), the Writers, Rules, Quarantines and Events, and productions and
//     accesses put together for each client and day; then the ends of all chains; and
//     last a Cut, which says below which offset all of this is, and the running SHA-256 of
//     all pages that were ever there. Without its Cut a fold counts for nothing, so it need
//     not be one transaction, which would hold up every reader of the ledger while it lasts.
//   - It is a function of the pages that it stands for. So nobody need be fenced: two that
//     fold at once write the same twice, and a late DeleteRecords deletes what some Cut
//     covers. A fold is proved by folding again, and by one who knows nothing of folding
//     and reads both as translation does; that is done before anything is deleted.
//   - A fold stands for everything up to where its writing began, not for what is old, and
//     the pages are deleted at once, or when the fold is old enough (one policy: fold every so
//     many days, and delete what the fold of some days ago stands for). So the fold is the
//     first thing behind the log start, but for what came while it was written; a reader holds
//     that back until it has the Cut, takes the fold first, and no reader need put anything
//     before what it knows. Folding hops by their age would leave the fold at the far end of the log.
//   - Hops are joined within an epoch and a leader epoch of the source, up to a thousand
//     tiles and a day. Beside the tiles a map needs to know of a hop put together: the time
//     of its last run (a transaction may go on behind the cut), whether a hole of one offset
//     may be something else than a marker, and what the source has lost since, which lies at
//     the destination still.
//   - A ledger in which anything is missing, altered or contradictory is not folded: that
//     would destroy the evidence. An anchor below the Cut can be compared no more once the
//     pages are gone; a check must say so, and not that all is well.
//   - Readers that stopped below a log start forget what they have of that ledger and begin
//     with the fold; a tail that is overtaken while it reads ends, and another one begins.
package ledger
