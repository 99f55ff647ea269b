// Package commitlog is the log of one partition on disk: what a broker appends,
// reads, truncates and expires. It knows producers and transactions, because the
// log is where they are decided; it knows nothing of replication, of requests or
// of the network.
//
// # The path of a batch
//
// [Log.Append] checks the batch (frame, checksum, the producer's epoch and
// sequence, its transaction), gives it its offsets, writes it behind the last one
// and returns: it does not wait for the disk. The batch is now part of the log
// and [Log.Read] returns it to whoever may read that far. [Log.WaitDurable]
// returns when everything below an offset is on disk; only then may a broker
// acknowledge. Waiters share syncs: the first becomes the syncer, those that come
// meanwhile wait for the next one, which serves them all.
//
// A batch is stored as it came. Only its base offset and leader epoch are written,
// which its checksum does not cover. A replica takes batches with
// [Log.AppendReplicated] at the offsets they have. A mirror does so with
// [Log.AppendMirrored], a compare-and-append that names the writer's epoch, the end
// and the last leader epoch that the writer expects; it takes no other writes until
// it is promoted (mirror.go).
//
// # What it promises
//
//		StartOffset <= StableOffset(hw) <= hw <= EndOffset, DurableOffset <= EndOffset
//
//	  - What WaitDurable has covered is there after a crash, whole and in order.
//	  - What a crash tore is cut at the next [Open]. What the disk damaged is found
//	    (the active segment's checksums are all read at Open, the others' by
//	    [Log.Verify]) and reported as a [*CorruptError]; it is never cut, and never
//	    served as if the log ended there. FORMAT.md has a table of both.
//	  - The first write or sync that fails takes the log offline for good: appends
//	    and waits return [ErrOffline], reads go on. It is never retried, because
//	    after a failed sync the kernel may call lost pages clean.
//	  - Producer state outlives restarts (snapshots and replay) and retention:
//	    it expires by the time of the append, never by a record's timestamp, and
//	    not while a transaction is open. Without state any sequence is accepted, but
//	    for a guard [Guard.FromZero] and behind a batch of [Log.Postpone].
//	  - A reader sees one moment: end, segments and transactions come from one
//	    immutable snapshot, which a writer replaces as a whole.
//	  - What [Log.Range] returned stays readable when its segment is deleted or
//	    replaced: whoever uses a file last closes it.
//
// # Goroutines and locks
//
// The package starts no goroutine: syncs run on the goroutine that waits. A Log
// is safe for concurrent use. Lock order: cleaning, writer, syncer, files. Files
// are opened when they are used, and [Files] bounds how many are open.
//
// # What is left out
//
// Tiered storage, formats before v2.
// Checks that take a decompressed batch (record timestamps, null keys) are the
// broker's, before Append; so are the high watermark and who leads. Locking the directory: whoever opens logs
// sees to it that one process does. After a restart the last stable offset counts
// a transaction as settled although its marker may still be above the high
// watermark.
package commitlog
