// Package journal is a file of entries that nobody can change without being
// found out: each line carries a hash of itself and of the line before.
//
// A [Journal] is a folder of segments, text files of one JSON object a line:
//
//	{"journal":1,"sum":"<sum of the last line of the segment before>"}
//	{"seq":17,"sum":"<hex>","entry":{...}}
//
// The sum of a line is SHA-256 of the sum before, the sequence number and the
// entry's bytes. Sequence numbers grow; the writer chooses them, so that entries
// which are numbered elsewhere keep their numbers. A segment is named after its
// first sequence number, and closed when it is large enough; the oldest are
// removed when all together are too large.
//
// [Journal.Append] returns when its entries are on disk. A line that was being
// written when the power went, which is the last one and has no end, is cut off
// when the journal is opened. Everything else that is not as it was written stays
// as it is, for whoever wants to look at it, and every [Journal.Read] names it; the
// journal goes on in a new segment behind it.
//
// What it does not find: a writer of the files who computes all sums anew. Compare
// with the copies of other nodes.
//
// A Journal is safe for concurrent use, starts no goroutine, and owns its folder.
package journal
