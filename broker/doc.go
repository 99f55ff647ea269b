// Package broker is the bundled broker: a Kafka broker of one node that
// unmodified clients use. It is the embedded default of the replicator (a
// laptop, an edge site, tests) and meets the rest of it only over the wire.
//
// # Life of a Produce
//
// A connection's reader takes the frame off the socket ([frameReader]), within
// limits that hold before anything is allocated. Its worker decodes it, finds the
// row of the dispatch table, and calls the handler (handle_produce.go). For each
// partition the handler looks up the right to write, checks the batch as a leader
// must (validate.go), and appends it as it came to the partition's log, which
// checks producer and transaction and stamps offset and leader epoch. The worker
// goes on to the connection's next Produce; the writer waits until the log is
// synced, which many requests share, and then answers: what is acknowledged is on
// disk.
//
// # Life of a Fetch
//
// The handler (handle_fetch.go) finds what the request is about, which a fetch
// session may remember (fetch_session.go), and where whole batches lie below the
// high watermark, which is the durable end of the log, or below the last stable
// offset. If there is not enough it puts a [replica.Waiter] on the partitions and
// sleeps until a sync moves one of them, rights change, the time is over, or the
// client has gone. The writer sends the batches from their file (fetch_answer.go):
// on a connection without TLS the system moves them, and they are never read.
//
// # What it promises
//
//   - An acknowledged batch (acks=1 or all) is on disk; nobody ever reads one
//     that is not.
//   - Batches are stored and served as they came, but for base offset and leader
//     epoch (and timestamps where a topic asks for LogAppendTime).
//   - Nothing listens beyond loopback without TLS unless the configuration says
//     so. With the authorizer on, what no rule allows is denied, and a topic that
//     a client may not describe looks the same whether it exists or not.
//   - What a client proved is looked at again with each of its requests: expired
//     sessions (KIP-368), ended or revoked certificates and deleted users cost the
//     connection (session.go). Rules that change hold for the next request.
//   - A panic never ends the process: a request's costs its connection, a coordinator's
//     partition is led again from its log, and one in a part that works for all ends
//     [Broker.Run] with an error, in good order (package guard).
//   - A malformed frame costs its
//     connection, and an address that sends many a line of log now and then. Memory for
//     large requests and answers is counted before it is used (budget.go).
//   - Who produced and who fetched is in the broker's ledger within a second
//     (provenance.go).
//
// # Goroutines
//
// [Broker.Run] owns them all: one per listener, three per connection and one for
// each produce request of it that is behind others (conn.go), the flusher (for
// acks=0), retention, one that tends logs, compaction, provenance, the keys of
// tokens, and the coordinators'. Clients are stopped first: what was read of them is answered, for
// as long as Limits.DrainTimeout; then what serves them, then the logs are closed. [New]
// starts none but those that open logs, and waits for them.
//
// # What is left out
//
// Several nodes: one broker leads everything, replication factors above 1 are
// refused. Followers, delegation tokens, GSSAPI, client telemetry, tiered
// storage, formats before v2, two-phase commit (KIP-939),
// configurations of groups and client metrics.
package broker
