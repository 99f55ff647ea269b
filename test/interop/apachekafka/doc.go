// Package apachekafka runs a real Apache Kafka broker for tests: one KRaft node
// as a child process, from the jars that Maven fetches.
//
// [Start] is the one path through it: fetch the jars into the user's cache if
// they are not there (Java 17 and Maven must be), write certificates and
// server.properties into a temporary directory, format it, start the JVM, wait
// until the broker answers. The broker listens on free ports of loopback. It is
// killed when the test that started it ends, and by the kernel when the test
// process dies first (Linux only).
//
// With [Config.Secure] clients must come over TLS, authenticate with
// SCRAM-SHA-512 and be allowed by ACLs (StandardAuthorizer, deny by default).
// [Broker.Cluster] is the declaration with which the replicator reaches it.
//
// Everything but this page needs the build tag interop, so that ordinary tests
// need nothing but Go. What is missing is an error, never a reason to skip.
package apachekafka
