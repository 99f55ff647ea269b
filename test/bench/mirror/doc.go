// Command mirror measures how fast, and at what cost, records are copied from one
// cluster to another: by the mirror of this project, with its transactions and its
// ledger, and by what it is to be compared with, in the same run:
//
//   - naive: a loop that a user of franz-go would write: poll, produce each record,
//     flush, commit;
//   - tuned: the same without the flush, with large buffers and batches;
//   - waybill-alo: the mirror with delivery at-least-once, that is without transactions;
//   - relay: bytes from one socket to another, without looking at them. It is the
//     limit of the machine, not a mirror.
//
// and, where it can be had, by MirrorMaker 2 of Apache Kafka ("mm2"), which is
// counted from the first record that it has copied on.
//
// The clusters are of three kinds. Stand-ins (standin.go) are a source that serves
// the same batch again and again and a sink that counts records and throws them away:
// what is measured is the mirror, not a broker. Between two bundled brokers, or two of
// Apache Kafka, most of the time is theirs, and what the mirror itself costs is its CPU.
// Every part is a process of its own, and CPU time is that of the copying process alone.
//
//	go run -tags interop ./test/bench/mirror                          # everything; needs Java 17 and Maven
//	go run ./test/bench/mirror -between stand-ins -what copy          # needs Go only
//	go run ./test/bench/mirror -between stand-ins -cells 1KB          # those with 1KB in their name
//
// What is measured (-what):
//
//   - copy: a backlog, as fast as it goes, or a steady rate. A row says records and
//     megabytes (10^6, uncompressed) per second, CPU-seconds per gigabyte (10^9), the peak
//     of memory, reads and writes and context switches per megabyte, and the ratio of the
//     mirror to the others. The middle of -runs runs is shown; -part makes cells smaller;
//   - latency: by how much later a reader of the destination has a record than one of
//     the source, at 1,000 records a second; the mirror by the interval of its commits;
//   - idle: 10,000 partitions in which nothing happens;
//   - lineage: how long a query takes out of an index of 10,000 hops, 100,000 and a million;
//     what 1,000 queries a second take from a mirror at full speed, in the same process
//     ("asked"); how large the ledger is for each shape of data, and what encoding it costs.
//
// On two cores source, mirror and sink compete: throughput is a floor there, CPU-seconds
// are what carries over.
package main
