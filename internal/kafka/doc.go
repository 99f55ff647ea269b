// Package kafka reaches clusters as the operator declared them: a client of the
// general kind ([NewClient], over franz-go) for administration, groups and
// reading, and raw pipelined connections (Dial) for the data plane of a mirror.
//
// Both speak TLS and SASL as the cluster's declaration says and both resolve its
// secrets at the moment they connect: a secret is in memory for as long as a
// handshake and never in an object, a log line or an error.
//
// A certificate file that changes is read again with the next connection.
package kafka
