// Package fold puts together what a ledger partition says, so that its oldest pages can
// go and nothing that translation needs goes with them.
//
// The one path: a [Folder] takes the records of a ledger partition in order; what it has
// come to at some offset are [Folder.Entries], which a [ledger.Cut] seals; who reads them
// in place of the pages below translates every offset as if he had read those. [Make]
// writes them behind what they stand for and proves that nothing is lost, after which the
// pages may be deleted, as [Write] does. [Weigh] says what that would save.
//
// What it promises:
//
//   - It is a function: from the same pages come the same entries, whoever folds. So two
//     who fold at once do no harm, and a fold is proved by folding again ([Folder.Proves]).
//     A fault of this package would vouch for itself there: so a [Witness] is asked, too.
//   - Folding a fold and what came behind it is folding all.
//   - A ledger in which anything is missing, altered or contradictory is not folded: the
//     error says where ([RefusedError]). So is one with entries that it does not know.
//
// What of it is lost: digests and paths of runs, and the hour: of each hop only that it
// was one of those from [ledger.Fold].Since to the hop's own time, at most a day. Of
// productions and accesses, which are put together for each client and day, when on that
// day they were, and how often.
//
// Why it is as it is stands in the documentation of package ledger.
//
// Goroutines: none of its own.
package fold
