// Package search finds events of a topic by time, by key and by W3C trace id. What it
// finds are addresses, which package lineage answers about.
//
// The one path: a [Query] is checked, then the caller's right at the cluster, then
// the topic is looked up. A time alone is answered by the cluster itself, from its
// time index. For keys and trace ids the ledgers have nothing, so records are read: a
// partition after the other, in order of offset, up to the bounds of a page; its
// cursor goes on where the page ended.
//
// What it promises:
//
//   - Needed is Describe on the topic for a time, Read for what looks into records,
//     with the caller's own principal at that cluster. A refusal comes before anything
//     is looked up.
//   - A page is bounded in records, bytes and time ([Limits]), and says which offsets
//     of which partitions it looked through. What is in none of the pages' ranges was
//     not looked at: not finding something means no more than that.
//   - Only committed records are found. What an open transaction holds back, and
//     batches that cannot be read, are said to be unknown.
//   - A search ends also in a topic that is written to: of each partition it goes to
//     where the last stable offset was when it came there.
//   - A cursor holds for its own search and for the life of the topic that it began in.
//
// Digests of records ([Searcher.Digests]) are the same scan with another end.
//
// Cost: what a consumer costs that reads the same ranges. With the partition or the
// partitioner given, one of N partitions; with since and until the time between.
//
// What is left out: an index of keys or traces; searching values.
//
// Goroutines: none. A Searcher is safe for concurrent use, and does a few searches at
// a time ([Limits.Parallel]).
package search
