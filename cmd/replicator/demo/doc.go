// Package demo plays the whole job of the product as a story that checks itself.
//
// [Run] builds a world (two bundled brokers that stand for two datacenters, and
// a fleet of three replicators, each a child process of this binary), plays the
// acts in order and compares what came out with what went in. The comparison
// ([Compare]) reads both clusters with an ordinary client and shares no code
// with the mirror. Every figure of the [Report] is measured in this run.
//
// A datacenter may be somebody else's ([External]), such as an Apache Kafka. Then
// the story is the same, but for what only the bundled broker writes down: who
// produced, and who read. Of those it checks that lineage says they are unknown.
//
// The children are killed when the story is over, and end by themselves when this
// process dies without a chance to do so: each one watches a pipe that only this
// process holds open.
package demo
