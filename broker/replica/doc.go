// Package replica is a partition as this broker sees it: a log, a leader epoch,
// a high watermark and those who wait for it. It is all that request handlers
// touch of a partition.
//
// The path through it: [Partition.Append] puts a batch into the log at the
// current leader epoch; [Partition.WaitCommitted] returns when it is below the
// high watermark, and then it may be acknowledged; [Partition.Read] serves what
// is below. A consumer that finds nothing registers a [Waiter] on the partitions
// it reads and is woken when one of them has more.
//
// What it promises:
//
//	logStart <= lastStable <= highWatermark <= logEnd
//
// The high watermark is the durable end of the log, since the broker is the only
// replica: nobody ever reads a record that a crash could take back. It does not
// go back. It moves when somebody waits for it, so whoever appends without
// waiting hands the partition to a [Flusher]. A topic may ask for less
// (flush.messages, flush.ms): then it is the log's end, which a killed process
// does not take back and a power cut may.
//
// A partition whose log could not be opened, or went offline after a failed
// write, answers [ErrOffline] to writes; reads of a log that went offline go on.
// One whose disk is full refuses writes until there is room.
//
// The package starts no goroutine but the Flusher's, which its Run owns.
package replica
