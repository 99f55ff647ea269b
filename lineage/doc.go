// Package lineage answers, for one event, a range of them or one topic, where it
// came from, where its copies lie, who produced it and who read it; and what a
// cluster, a topic or a range would affect.
//
// The one path: pages of every ledger come in through [Index.Apply] and are kept
// in a store on the node's own disk; a query walks hops from partition to
// partition, upstream and downstream, over any number of clusters, and adds what
// each cluster's ledger says about productions and accesses.
//
// What it promises:
//
//   - The index is a cache: it says after a restart where each ledger is to be read
//     on from ([Index.Resume]), and it is built anew when a ledger is not the one it
//     was. A page and its position are stored together. Losing the directory costs
//     time, nothing else; a crash costs what came in within the last minute, which is
//     read again. A disk that fails stops what comes in, not the answers.
//   - A walk visits each place once, so a loop of flows ends, and it is bounded in
//     depth and size: what was cut off is said.
//   - An answer shows only what the caller may see, asked at each cluster with that
//     cluster's rights: Describe on the topic for an event and its copies; Describe
//     on the cluster for other principals' names and addresses, and for the earlier
//     life of a topic that was recreated. What is hidden stays in the answer as
//     redacted, so that nobody takes a part for the whole; one's own accesses are
//     always shown.
//   - What is not known is said to be unknown, and why: most clusters do not tell
//     who produced or read. Fetched is not read: an access says which it is.
//   - A damaged ledger makes no answer wrong. Chains are followed over restarts; what
//     a missing page may have taken back is uncertain, unless the copy's next hop is of
//     one unbroken chain with the one before; what hops are silent of or contradict
//     each other about is a hole, and unknown (see doubt.go, and the table of
//     docs/lineage.md). Nor does one that was not read to its end ([Unread]).
//
// Cost of one event: one point look-up for each hop that it made, or two on the way back, with
// one iterator of the store that is as new as what is known in memory (reading.go).
//
// A range ([Index.Copies]) goes along the hops of every copy as a whole and is cut up
// by them. One walk may look at so many hops only: of a range that needs more, each
// page is about less, so that its cost is that of a page however large the range.
//
// How fast copies go ([Index.Topic]) is what the hops of the last minute hold, which
// every node knows, of every fleet; where a source ends its cluster says ([Live]), and so
// whether there is an event of which no ledger tells. What would be affected
// ([Index.Affected]) goes downstream only, from a cluster or topic by topics, from offsets
// along the hops; who reads there is known by recorded accesses and by where groups have
// committed, and each is said to be which.
//
// Beside the index, a [Checker] follows the chains of a ledger over its records as
// they were read, and finds what was removed, altered or moved; an [Anchor] of an
// earlier check covers the ends of the chains, for which nothing else vouches.
//
// What the record of an event says itself ([Index.Stored]) is read from its cluster, with
// one fetch, for those who may read the topic.
//
// What is not in a ledger, times, keys and trace ids of records, package search finds
// in the records.
//
// What comes in is told to streams ([Index.Stream]) too, from a ring of the last
// notices: a stream that is too slow learns that it missed something, and never holds
// up what comes in. What a stream does not show it does not count, either.
//
// Of a cluster that records no accesses the ledger may say how the committed offsets of
// groups went on ([ledger.Progress]): that is shown beside accesses, with its basis.
//
// Goroutines: none of its own beyond the store's compactions, which Close ends.
// An Index is safe for concurrent use.
package lineage
