//go:build interop

// Command broker measures the bundled broker beside Apache Kafka: both as
// processes of their own, one after the other in the same run, used by the same
// client program (franz-go) in this process, with records of 1 KB that do not
// compress, in topics of -partitions partitions:
//
//   - produce: acks=all, idempotent, as fast as it goes;
//   - consume: what was produced, from the page cache, as fast as it goes;
//   - latency: produce at a fixed rate, half of what the slower of the two took,
//     from the time when a record should have been sent to its acknowledgement;
//   - small: records of 100 bytes, one a request, of sixteen producers that each
//     wait for the answer, two on each of eight partitions;
//   - idle: memory after a start without topics;
//   - start: from the start of the process to the first answer, with 1,000
//     partitions; memory: with -crowd;
//   - parked: memory and processor time of 9,900 consumers that wait for records
//     (needs 10,000 open files, see ulimit).
//
// Each is run by "waybill" (the binary, as built), by "waybill-noprov" (without
// records of who produced and who fetched), by "waybill-lax" (flush.messages of the
// topic as Kafka's default) and "kafka" (defaults: acknowledged is what the page
// cache has) and by "kafka-flush" (flush.messages=1 on the topic:
// acknowledged is what the disk has, as the bundled broker's always is). Apache
// Kafka runs with the options of its own start script and a heap of 1 GB.
//
//	go run -tags interop ./test/bench/broker            # everything; needs Java 17 and Maven
//	go run -tags interop ./test/bench/broker -who waybill -what produce,consume -profiles /tmp/p
//
// CPU-seconds are those of the broker's process, by the kernel's count, and what
// carries over to other machines best: client and broker share the processors, so
// throughput is that of both together. Of -runs runs the middle is shown, with the
// least and the most.
package main
