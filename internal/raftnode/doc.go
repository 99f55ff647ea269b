// Package raftnode is one member of a small raft group, ready to be embedded.
//
// It wraps hashicorp/raft and supplies what that library leaves to its user: a
// listener, a transport, stores that notice damage, membership, forwarding and
// a way to publish state. It knows nothing of what it replicates: its user
// gives a [Machine], which is a pure function from state and command to state.
//
// # The path of a command
//
// [Node.Apply] on any node: a follower posts the bytes to the leader over the
// peer port; the leader lets its Machine check them, appends them to the raft
// log, waits for a majority to have them on disk, applies them and answers with
// the result and the index. The follower waits until its own [Replica] has
// reached that index, so its caller reads its own write.
//
// # One port
//
// A node listens on one address, always with mutual TLS 1.3. ALPN tells the two
// kinds of connection apart: "waybill-raft" carries raft's own RPCs,
// "waybill-peer" carries HTTP/1.1 for everything else (joining, forwarding and
// the handler that the user mounts). Every certificate that the group's
// authority signs is a member's: give the group an authority of its own. A
// request that speaks in the name of a member must come with a certificate that
// names it, as common name or DNS name ([PeerIs]). Certificate files are read
// again when they change.
//
// There is no token for joining: a node is authorised by its certificate, which
// is issued outside ([GenerateCA], [CA.Issue], or any other authority).
//
// # State
//
// A [Replica] publishes immutable states; a reader takes one and keeps it as
// long as it likes. Apply must be deterministic. A command that a Machine does
// not understand, because a newer node wrote it, halts the replica: it keeps the
// last state that it understood, applies nothing further, takes no snapshot, and
// [Node.Run] returns [ErrHalted]. A newer binary then goes on from the log.
//
// # What is on disk
//
// raft.db (bbolt) and snapshots/ in the node's directory, readable by the owner
// only. Every log entry carries a CRC-32C of its index, term, type and data, and
// every stored term and vote one of its key and value: bbolt has none. [Open]
// reads the whole log before it starts, checks that bbolt's pages fit together,
// that the log has no gap and that it meets the newest readable snapshot. Damage stops the node
// with an [EntryError] or [StoreError] that says what is damaged; it never takes
// part with a log it cannot vouch for. The remedy is to remove the member, wipe
// its directory and join again.
//
// # Goroutines
//
// [Open] starts none. [Node.Run] owns all: the accept loop, the HTTP server,
// raft's own, and the user's Lead function, which runs while the node leads with
// a context that ends with the leadership. Run returns when its context ends
// (leadership is handed over first) or when something is broken for good.
//
// # What is left out
//
// Non-voting members, more than seven members, and joining by token. A member
// whose directory was wiped or put back from a copy is not recognised as such: it
// could vote twice in a term. Remove it first, and let it join anew. Damage that
// makes the only page of a young log look empty is not found.
package raftnode
