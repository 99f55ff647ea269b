// Package offsets says where a position in one partition lies in its copy, in
// both directions, and moves consumer groups with it.
//
// The one path: pages of a ledger come in through [Maps.Apply]; every copy has a
// [Map] of runs with a constant difference between source and destination; a
// [Route] translates a position over it; a [Syncer] does so for the groups of a
// flow and commits the answers at the destination. Translation is pure, and so
// is the decision about each group ([Decide], [PlanGroups]).
//
// What it promises:
//
//   - Where one flow writes a partition, a position translates exactly: no record
//     is skipped, none is read again. Records that others produce directly into
//     the destination are not the source's: a position never lies before them for
//     their sake, and they have no image at the source.
//   - Where two flows copy a pair of partitions to each other no exact image need
//     exist. The answer is the lowest offset that skips nothing, with the number
//     of records that are read again. So it is where a third partition is copied into
//     both, as in a mesh, where records come back over others, as in a ring, and for a
//     group that reads several sources of one topic.
//   - It never guesses. Where a page of the ledger is missing, or two entries
//     contradict each other, the offsets concerned are unknown, and the answer
//     says because of what.
//   - A copy whose last doings may be lost with a damaged page is uncertain until its
//     next hop shows where it stands, or an operator waives the damage. What was said of
//     it before stays inexact, unless that hop and the one before it are from one unbroken
//     chain: a lost page may have taken it back and told of it anew.
//   - A group is written at the destination only while it is idle there, never
//     backwards, never past the end, and never over a position that was not ours. Where
//     the destination has lost the end of its log, what stood there follows its records.
//   - A group of which something cannot be had or written says so in its rows, and holds up
//     no other ([GroupErrors]).
//   - Groups change sides all or none ([Syncer.Apply]), exactly or with the counted
//     effect that an operator takes on, and home again: a Syncer with its ends swapped,
//     then [Syncer.Adopt]. What happens between the look and the commits, each of which is
//     for one group, may leave some on either side: a [HalfwayError] has their names.
//
// Share groups (KIP-932) are groups whose positions are where their share-partitions
// start. A start has no metadata to tell the flow's writing by, so there is a note beside
// it: what is about to be set and what stood there, written first. Notes are commits of a
// consumer group at the destination. They are there where the starts are, outlive the fleet
// and every file of its nodes, change each second at the price of one commit, and Kafka
// compacts them. Between a note and what it tells of no other may write one: of several flows
// one sets a start. In the fleet's state each would be a round of consensus; in the ledger, which
// is kept, they would grow for ever.
//
// What the looks at a source's groups show of how they go on, a [Watch] writes into the
// ledger of the source, where the cluster does not record who reads: [Progress] decides what
// follows from a look and the one before, and never says more than a commit shows. It goes
// on from what the ledger says, whoever wrote that.
//
// A gap is passed over: a position at a compacted, aborted, control, expired or
// filtered offset is that of the next record that was copied; what lies before
// the copy's start or in quarantine is counted as skipped, so the answer is not
// exact.
//
// A map holds about five bytes for each run that does not continue the one
// before it. Into plain Kafka that is one for each transaction, because the
// marker of a transaction takes an offset; the map of a copy that commits ten
// times a second grows by some four megabytes a day.
//
// What is left out: maps are kept in memory and folded again from the ledger
// when a process starts, or from a fold, which has as many runs.
//
// Goroutines: [Syncer.Run] and [Watch.Run] own theirs; everything else runs on its caller's.
// [Maps] is safe for concurrent use, and the Maps that it hands out do not change.
package offsets
