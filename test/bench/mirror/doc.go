// Command mirror measures how fast, and at what cost, records are copied from one
// cluster to another: by the mirror of this project, with its transactions and its
// ledger, and by what it is to be compared with, in the same run:
//
//   - naive: a loop that a user of franz-go would write: poll, produce each record,
//     flush, commit;
//   - tuned: the same without the flush, with large buffers and batches;
//   - relay: bytes from one socket to another, without looking at them. It is the
//     limit of the machine, not a mirror.
//
// The clusters are stand-ins (standin.go): a source that serves the same batch
// again and again, a sink that counts records and throws them away. So what is
// measured is the mirror, not a broker. Every part is a process of its own, and
// CPU time is that of the mirror's process alone.
//
//	go run ./test/bench/mirror                 # all cells
//	go run ./test/bench/mirror -cells 1KB      # those with 1KB in their name
//
// A row says records and megabytes (10^6, uncompressed) per second, CPU-seconds
// per gigabyte (10^9), the peak of memory, and the ratio of the mirror to the others.
// The middle of -runs runs is shown. On two cores source, mirror and sink compete:
// throughput is a floor there, CPU-seconds are what carries over.
package main
