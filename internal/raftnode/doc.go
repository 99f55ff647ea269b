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
// The certificates come from files, or the group has an authority of its own
// ([Config.Credentials] is nil): every member that may vote has its key, and gives
// a certificate to whoever comes with a [Token] that [Config.Admit] takes. That is a
// third protocol, "waybill-enrol", the only one without a certificate of the caller.
// Connections without one are bounded in number and time.
//
// # Disks, not names
//
// A group counts votes and acknowledgements. What gives them is a disk, so raft's
// addresses carry one: host:port#disk, a random number that a directory gets when
// it is new. Each time it is opened it begins another life; members keep note of
// each other's, on disk. Before raft talks over a connection both ends say who they
// are (hello.go), and what they have heard of each other:
//
//   - a directory that was wiped is another disk. It is refused until the member
//     of its name is removed, and then joins as a new one;
//   - one that was put back from a copy is in an earlier life than a member has
//     noted, or has lost what it acknowledged to a member that remembers. It stops
//     with [ErrStaleDisk]. A node that starts asks the others before it takes part;
//   - a member that was removed or replaced under its name is refused by all who
//     know, for raft and for HTTP;
//   - a directory of another group is refused, whatever authority signed for it;
//   - a node that is to begin a group, and whose directory is empty, asks whom it is
//     given before it does: where one of them is in a group it stops (bootstrap.go).
//
// A removal may name the disk that a member was seen on, so that one which is repeated
// is never about the next node of that name.
//
// # Votes
//
// A node joins without a vote. The leader gives it one when it has the log and one
// is to be had (voters.go): up to three members all vote, then an odd number, seven
// at most. The rest stand by and take the place of a voter that has been out of
// reach for VoterTimeout, or has been removed. Workers never vote.
//
// A voter whose disk takes no more entries for want of room goes on voting, but asks
// for no votes until there is room (room.go); a leader steps down at the first entry
// that it cannot write. The others have elected one of them after HeartbeatTimeout.
//
// # State
//
// A [Replica] publishes immutable states; a reader takes one and keeps it as
// long as it likes. Apply must be deterministic. A command that a Machine does
// not understand, because a newer node wrote it, halts the replica: it keeps the
// last state that it understood, applies nothing further, takes no snapshot, and
// [Node.Run] returns [ErrHalted]. A newer binary then goes on from the log.
//
// The leader compares the digests of all members' states (digest.go). A member that
// differs from most stops with [ErrDiverged], the leader too.
//
// # What is on disk
//
// raft.db (bbolt) and snapshots/ in the node's directory, readable by the owner
// only. Every log entry carries a CRC-32C of its index, term, type and data, and
// every stored term and vote one of its key and value: bbolt has none. Beside
// raft's checksum of a snapshot's state is one of its metadata (snapshots.go). [Open]
// reads the whole log before it starts, checks that bbolt's pages fit together,
// that the log meets the newest sound snapshot and has no gap but one that this covers:
// raft appends behind a leader's snapshot that went beyond the log. Damage stops the node
// with an [EntryError] or [StoreError] that says what is damaged; it never takes
// part with a log it cannot vouch for. The remedy is to remove the member, wipe
// its directory and join again. A damaged snapshot that is not needed, because the
// log meets one before it, is logged and moved to damaged-snapshots/.
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
// What a disk acknowledged is remembered by the members that heard it, until they
// stop. So a directory put back to a point of its present life is not recognised if
// every member that heard more has stopped since. A snapshot of a version that
// wrote no checksum of the metadata is read without. Damage that makes the only
// page of a young log look empty is not found as such, but the disk has lost its
// identity with it.
package raftnode
