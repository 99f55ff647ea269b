// Package txn coordinates transactions: which producer may write under a
// transactional id, which partitions its transaction is on, and how it ends.
//
// # The path of a transaction
//
// A [Txn] is the state of one transactional id as a value. [Txn.Step] takes an
// event and returns the next value and what to answer, without clock or socket;
// testdata/*.txt are its transcripts.
//
// A [Coordinator] puts it behind requests. The ids of one partition of
// __transaction_state belong to the goroutine that serves what [Coordinator.Lead]
// returns for it, as package coordinator has it. InitProducerId gives a producer
// its id and epoch and fences the one before it; AddPartitionsToTxn and
// AddOffsetsToTxn put partitions into the transaction; EndTxn decides:
//
//	Ongoing ── record Prepare*, durable ── markers on all partitions, durable ── record Complete*
//
// With Prepare* durable the outcome stands: a coordinator that finds that state
// when it loads writes the markers (again, which does no harm) and completes.
// The versions of a producer's requests say by which protocol it speaks (KIP-890).
// By [V2] a partition, or a group's, is added when it is first written to, and an
// EndTxn moves the producer on to its next epoch, or to another producer id when
// epochs run out; the markers have the next epoch already, so that nothing late
// gets into the next transaction. EndTxn may be repeated until that has begun.
//
// A transaction that outlives its timeout is aborted with a bumped epoch, so its
// producer is fenced.
//
// # What is promised
//
// State changes when its record is appended, and an answer is given when all that
// it was computed from is durable. [Coordinator.Verify] waits the same way, so
// that no batch gets into a partition before it is certain that the partition
// will get a marker (KIP-890).
//
// EndTxn is answered when the markers are written, or after [Config.EndWait] if
// that takes longer (a partition that is offline holds up its own transaction and
// no other): clients that go on at once are then spared CONCURRENT_TRANSACTIONS.
// Kafka answers before the markers; the outcome is as certain either way.
//
// What the log refuses (a full disk) has not happened: its client is told to come
// again, a timeout is looked at again with the next check, and the end of a
// transaction whose markers are written is recorded as soon as that is possible.
//
// Records have Kafka's formats (TransactionLogKey 0, TransactionLogValue 1).
//
// # Goroutines
//
// A partition is served in its caller's goroutine, which starts one for each
// transaction that is ending and waits for them before it returns.
//
// # What is left out
//
// Two-phase commit (KIP-939).
package txn
