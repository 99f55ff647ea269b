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
//
// # Planned: folding old hops
//
// Nothing folds yet: a ledger keeps each hop, some 70 bytes and 12 for each run, of
// which translation needs the counts and differences, some five bytes a run. They
// cannot be merged further without losing exactness, because each transaction's marker
// takes a destination offset. So folding makes a ledger some ten times smaller, and no
// smaller than that. The shape it is to have:
//
//   - A new kind, Fold: copy key, epoch and leader epochs of the last hop, the tiles of
//     a hop without paths and digests, routes, sums of bytes, the first and last time;
//     and what it stands for: ledger offsets [First, Next) of its own partition and the
//     SHA-256 over the hashes of the pages there. Runs and gaps of adjacent hops merge
//     only where the difference, or the reason, is the same. It tiles as hops do.
//   - A new kind, Cut: up to which ledger offset everything is folded or carried, and
//     the tail of each chain there (writer, next, hash). A reader that begins behind a
//     log start takes those tails for the beginning of the chains, so that nothing but
//     what the Cut covers may be missing; a check compares an anchor
//     below it with the tails, and reports what is folded as folded and not as expired.
//   - The writer is one node for each ledger partition, with a chain of its own, assigned
//     and fenced as a copy is. In one transaction it writes the Folds, the Begins that
//     hops left over refer to, the Writers that are not fenced, the Rules in force, the
//     Quarantines, and last the Cut. Productions and accesses are not folded: they are
//     carried, merged into longer runs of one client, or expire by a policy of their own.
//   - Only then, and after a time in which the pages are still there to be compared,
//     it deletes the records below the Cut (DeleteRecords). A crash before that leaves a
//     Fold beside its hops: a reader that has the hops ignores it.
//   - Folds stand behind hops that are younger than they. So a reader that begins at a
//     log start above 0 must be able to put a Fold before the first hop that it knows of
//     a copy, if Fold.Next is where that begins: package offsets builds its maps from
//     their start only, which is what makes this more than a codec. A new page version
//     goes with it, so that a program which would take a folded ledger for a cut one
//     says that it is too old.
package ledger
