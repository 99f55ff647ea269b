// Package record reads, patches and writes Kafka record batches of format v2
// as bytes, and reads messages of the formats before it ([NextMessageSet]).
//
// A batch that only travels (raw path of a mirror, a follower's fetch, the
// broker's log) is never decoded: [Batch] is a view on its bytes, its header is
// read and changed in place, and its CRC-32C is patched, not recomputed.
// CRC-32C is linear, so the checksum of a changed header follows from the old
// checksum and the 40 header bytes alone, in about a microsecond whatever the
// size of the batch. The source's checksum therefore goes on protecting the
// payload: a bit that flips inside this process is still found by the next
// reader, where a recomputed checksum would bless it.
//
// Batches that cannot travel as they are go through [Batch.Decode] and [Encode].
// Decoding is bounded: a caller states how many bytes it is willing to see.
//
// The package keeps no state and starts no goroutine; a Batch is as safe for
// concurrent use as the slice behind it.
//
// Layout of a batch (KIP-98, big endian):
//
//	 0 baseOffset            int64   ┐ not covered by the CRC: free to rewrite
//	 8 batchLength           int32   │ (bytes that follow this field)
//	12 partitionLeaderEpoch  int32   │
//	16 magic = 2             int8    │
//	17 crc                   uint32  ┘
//	21 attributes            int16   ┐ covered by the CRC
//	23 lastOffsetDelta       int32   │
//	27 baseTimestamp         int64   │
//	35 maxTimestamp          int64   │
//	43 producerId            int64   │
//	51 producerEpoch         int16   │
//	53 baseSequence          int32   │
//	57 recordCount           int32   │
//	61 records ...                   ┘
package record
