// Package tail reads the ledger of one cluster, from the start and for as long as
// it grows, and hands its pages to sinks.
//
// The one path: [Tail.Run] looks for the ledger topic until it is there, reads
// every partition of it read_committed, decodes each record, follows the chain of
// its writer, and gives the page to every [Sink] in turn. Pages of one partition
// come in the order of their offsets, one at a time.
//
// [Tail.CatchUp] is for those who act on what the ledger says: it returns when
// everything that was in the ledger when it was called has been delivered. It asks
// for the log's end read_uncommitted, so a transaction that is open then is waited
// for: its writer must have been fenced, or must be alive.
//
// What it promises:
//
//   - A page that cannot be read, and a chain that is broken, are reported to the
//     sinks and kept in [State]; they end nothing.
//   - A ledger that is not the one it was ends the reading: another topic id,
//     another cluster.id, a truncated log. From then on CatchUp fails, so that
//     nobody takes "there is nothing" for an answer. Restarting the process is
//     what begins anew: this package does not decide that a loss is acceptable.
//   - Whatever else goes wrong (no broker, no rights, a ledger that the brokers do
//     not show for now) is retried for ever and shows in State.
//   - No CatchUp outlives Run.
//
// A partition that begins above offset 0 is read from the fold that stands for what is
// gone ([ledger.Opening]), which comes before the pages that lie before it; without one
// the sinks are told of a gap. Pages that go while they are still to be read end the
// reading ([ErrOvertaken]): another Tail begins with what stands for them.
//
// Sinks that keep what they learn say where to go on ([Resumer]); pages below are
// not given to them again. The chains of a partition that is read from its middle
// are followed from there.
//
// Who folds a ledger partition ([Log]) reads, writes and shortens it by itself.
//
// Goroutines: Run owns all of them and blocks until its context ends.
//
// What is left out: the ledger's log start is compared with where reading begins,
// not watched afterwards, since what was read once is not needed again.
package tail
