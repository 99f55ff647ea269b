// Package verify compares both sides of copies: every record that the ledger says
// was copied, every gap that it declares, and every record of the destination that
// it does not mention.
//
// # The one path
//
// A [Run] has a list of copies and, of each, its [Progress]. For each it walks the
// hops that the destination's ledger has of it, in order, and reads both partitions
// beside them, read_committed, as batches:
//
//	ledger        hop: runs (source offsets -> destination offsets) and gaps
//	  │
//	comparison ── cursor ── Reader   source        what a cursor hands on is committed
//	  │        └─ cursor ── Reader   destination   data with a sound checksum, or named damage
//	  │
//	Tally         counted; the first differences in words
//	  │ after each hop
//	Progress ──▶ save, every [Config].Every
//
// Where both sides have the same batch its bytes are compared. Where they do not
// (merged, encoded again, recompressed) each record's canonical form is: timestamp,
// key, value, headers, null apart from empty. The digests that the hop holds are
// compared with both sides as well: they cannot show that two sides are equal, but
// where these differ they say which one has changed.
//
// # What it promises
//
//   - A record counts as compared only after it was read on both sides.
//   - What one side does not have any more (deleted by retention, compacted) is not
//     comparable: it is counted with that reason and never as equal.
//   - A gap holds only if its reason does: a readable record at an offset that is
//     said to be compacted, aborted, a marker or expired is a difference. One that was
//     left out on purpose is judged again (rulings.go), by the filter of its epoch or by
//     the ledger of the source's cluster, or looked up in quarantine (quarantine.go); what
//     cannot be judged any more is counted. Where a flow begins is believed.
//   - Where offsets are preserved and no cleaner works, batches of all kinds are the
//     same, control and aborted ones and leader epochs too (frames.go).
//   - A record of the destination, between the first and the last that the copy
//     wrote, belongs to a run of it, to another copy, to a producer who is no
//     replicator (foreign: counted apart), or is a phantom. A mirror topic, which
//     only its mirror writes to, has no foreign ones. That holds between a comparison
//     and the one that goes on from it ([Continue]), too.
//   - Source offsets that neither a run nor a gap has are a difference.
//   - Progress is saved at the bounds of hops: who goes on compares no hop by
//     halves, and counts none twice.
//   - Memory: for each copy under way (at most [Config].Parallel) a fetch of either
//     side, which holds at most [FetchBytes] or one larger batch, and one batch of either side
//     decompressed, to at most 8 MiB; and for one copy at a time to at most
//     [Config].MaxDecode. What would be more is not comparable, and said to be.
//     Records are taken apart one by one.
//
// It follows the aborted transactions of a fetch itself and shares no code for that
// with the mirror, whose work it judges.
//
// # Goroutines
//
// [Run.Do] owns all of them and has ended them when it returns. A comparison of one
// copy uses its caller's. A Run is not to be used twice.
//
// # What is left out
//
//   - In a topic that is compacted, a record that only one side still has is not
//     comparable; that the last record of each key is there is not checked.
//   - Timestamps that a destination topic sets itself (LogAppendTime) differ by
//     design; they are counted, not compared.
package verify
