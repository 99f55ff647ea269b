// Package cluster is the fleet: the replicator nodes, what they agree on, and
// which of them does what.
//
// It decides; it does not copy. It publishes work with an owner and an epoch, and
// whoever copies takes it from a [Session].
//
// # The one path
//
// A [Node] is a member of a raft group (internal/raftnode). Any node takes any
// [Command] through [Node.Propose]; the leader appends it, and every node applies
// it with one pure function to an immutable [State]. The leader alone also runs a
// small loop: it hears heartbeats, ends the incarnations of nodes that it no
// longer hears, and turns the state into placements with another pure function,
// assign. Its proposals are checked against the state when they are applied, so
// neither one from a deposed leader nor one from a plan of some time ago does harm.
// A plan of very many copies takes seconds: it is made beside the loop, from a state
// that does not change, and heartbeats and the ends of incarnations do not wait for it
// (planning.go).
//
// Whoever follows the state learns what is other than in the one that it saw last
// (changes.go): states share what no command has touched, so that costs what
// has changed. A session looks at its work only if some of it has, and the leader plans
// anew only if a plan could be another one.
//
// # Work, owners, epochs
//
// There are three kinds of [Work]: a copy (one source partition of one flow), a
// flow's duty (finding topics, synchronising groups, comparing both sides) and a runbook's execution.
// Each has at most one owner: a node at one of its incarnations, and an epoch, the
// raft index of the assignment, which grows with every change of owner. An owner
// keeps its work until it releases it or its incarnation ends. To move work, the
// leader marks it as releasing; the owner stops and calls [Session.Release]; only
// then does another node get it. So a planned move ends no incarnation and fences
// nothing. Work that is to disappear (a deleted flow or topic) goes the same way.
//
// A recreated topic is another topic: when discovery reports another topic id,
// the owners are asked to release, and the next assignment carries the new id.
//
// # Assignment
//
// assign spreads copies over the nodes that may have them by weight: what a copy
// moves, as its owners measure it, and one unit for being there. Pins (a flow's
// placement) are kept, nodes of the destination's region are preferred, then those of
// its rack while balance holds. Work stays where it is unless its node may not
// have it or balance asks for it, and balance has two thresholds, a bound on moves
// under way and one on moves a minute, so that loads that swing move nothing. A plan
// is proposed in commands of at most maxWorks works.
//
// Owners tell the leader the loads of their copies with the heartbeats, in levels and
// only when one has changed by a fifth (see meter): next to nothing. What their
// work does they tell whoever asks, when he asks ([Reporter], [Node.FleetStatus]).
//
// # Incarnations and lanes
//
// An incarnation is one uninterrupted life of a node as an owner, numbered by the
// raft index that granted it. Lanes, the transactional ids with which a node
// writes, are registered under its incarnation ([RegisterLane]), after their
// producer epoch is known and before they are used; an ended incarnation is
// refused with [ErrIncarnationEnded]. A takeover is: the incarnation ends in the
// state, then its work is assigned, so every state that shows an assignment also
// shows, in [State.LanesToFence], the lanes to fence before using it.
//
// # Leases
//
// A node sends heartbeats to the leader. It cancels its session when none has
// been answered for SessionLease; the leader ends the incarnation of a node
// that it has not heard for IncarnationTimeout, which is longer. This is for
// speed and never for safety: a node that sleeps through its own replacement is
// stopped by its fenced lanes. The arithmetic is at [DefaultConfig]. Before it answers
// a heartbeat the leader makes sure that it still leads, once for all heartbeats that
// have come by then, and not more often than forty times a second (rounds.go).
//
// # What it promises
//
//   - A work item never has two owners whose incarnations have not ended.
//   - Its epochs strictly grow, also across deletion and re-creation.
//   - A proposal that returns without error is on a majority of disks and is in
//     this node's State.
//   - All nodes hold equal states at equal revisions ([State.Hash]).
//   - The death of any one node of three, the leader too, is decided on within
//     3 s: its incarnation has ended and its work has other owners.
//
// # Who changed what
//
// A command that somebody asked for travels with its [Author] ([Audited]), and the
// state that it leads to holds a [Record] of it: change and record are one step,
// and every node has the same records in the same order. Each record carries a
// hash of the one before. The state keeps the last 256; whoever wants all of them
// writes them down as they come ([State.TrailAfter]). Config.Author finds the
// author in the context of a proposal, so no caller can forget to name it. What is
// refused leaves no record there.
//
// # Coming, going, coming back
//
// A node gets its certificate with a join token ([Node.NewJoinToken]), of which the
// state keeps a digest; whoever is asked redeems it through the log, with a record of who came, so it works
// once. [Node.Remove] has a node's work moved first if it lives; the leader ends a removal
// that was interrupted between group and state (departures.go). Members are told apart by
// their disks, so who comes under the name of one that goes is not taken for it. [Node.Backup] is
// the state without tokens; [Restore] begins a new fleet with it, in which nobody is
// a member yet, every incarnation has ended, and revisions begin 2^32 further on and one for
// each microsecond since the backup, so that two fleets restored from it share none. Lanes
// that were opened after the backup are in no state. A restored fleet knows that it is
// one ([State.Forgotten]): before the first copy to a cluster, whoever starts it asks
// that cluster for them, and [RecallLanes] takes them up, to be fenced as others are.
//
// Versions meet during an upgrade: see vocabulary in command.go.
//
// # Goroutines
//
// [Node.Run] owns all: raft, registration, heartbeats, the feeding of the one open
// session, and on the leader the loop that ends incarnations and assigns. [Open]
// starts none. Sessions have none of their own. A plan is made in one that the leader's
// loop waits for before it ends.
//
// # How it is tested
//
// What a leader and a session decide is in types without clock and I/O: State,
// controller, leases, pulse, tenure. A node runs them over raft; the simulation
// (sim_*_test.go, make sim) runs the same ones in virtual time over a model of an
// ordered log, with nodes that die, sleep and are cut off, clocks that jump, and a
// destination that refuses fenced producers and nothing else. A seed gives the same
// run again. There a plan takes no time; what happens while one is made has tests of
// its own.
//
// # What is left out
//
// Loads live in the leader's memory only: after a change of leader they are told
// again, and until then copies weigh the same.
package cluster
