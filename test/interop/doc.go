// Package interop meets other people's software: Apache Kafka's brokers from
// their jars, clients of other languages.
//
// The tests named Spike drive real Apache Kafka brokers (3.9 and 4.x) the way
// the mirror does, but with nothing of the mirror: raw batches, lanes, hops and
// takeovers, step by step, so that each promise of a broker that exactly-once
// rests on is asked for by itself. FINDINGS.md says what the brokers answered.
// An owner that must die or sleep at a point of its work is a child process: this
// test binary itself, started again.
//
// The tests named Flow play the demonstration of the product, every act and every
// check of it, with an Apache Kafka 4.x for one of its two datacenters: over
// SASL_SSL, with no rights but those that the demonstration lists.
//
// They need the build tag interop, Java 17 and Maven, and fail without:
//
//	go test -tags interop -count=1 -timeout 20m -v -run Spike ./test/interop/...
//	go test -tags interop -count=1 -timeout 20m -v -run Flow ./test/interop/...
//
// WAYBILL_KAFKA_VERSIONS names other versions than the default ones, separated
// by commas.
package interop
