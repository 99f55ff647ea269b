// Package chaos breaks a fleet at random for some minutes and then looks whether
// the copy is what it should be.
//
// Two bundled brokers and three nodes run as processes of the real binary. While
// producers write, with and without transactions, one thing after the other is
// done to them: processes are killed, stopped and suspended, the flow is paused,
// declared otherwise, deleted and declared again, topics come and grow. In the
// end everything is put right and has a bounded time to recover. Then an
// independent checker, which knows the ledger's format and nothing of how the
// product reads it, compares both sides:
//
//   - a read_committed reader of the destination sees every record of the source
//     once, in order, byte for byte; every record that was acknowledged is there;
//   - the hops of each copy tile its source offsets from 0 on, without hole or
//     overlap, at epochs that never fall and have one owner each; each offset is a record that is there, or a
//     gap where there is none;
//   - the fleet translates offsets as the ledger says.
//
// It is built with the tag chaos:
//
//	go test -tags chaos -count=1 -timeout 20m -v ./test/chaos -time 3m -seed 1
//
// The seed chooses what is done; when it is done depends on the machine.
// Processes end with the test, also if it is killed.
//
// # The fleet
//
// TestFleet (make chaos-fleet) is about the nodes. Each has a network namespace and a
// small file system of its own, on one machine: so links are cut one way or both, in
// any shape, between nodes and between a node and a cluster, a raft store meets a full
// disk, and a node's clock is set while it runs (the replicator is built with a time.Now
// that adds what a file says, and takes snapshots often). Meanwhile
// clients declare, delete and read objects at whichever node, some on condition that nobody was
// faster, and consumer groups commit at the source. In the end, besides what is checked of
// the copies, and then again after everything was killed at once:
//
//   - the raft logs, read without the product, are one log of whole entries;
//   - all nodes have the same state, by its hash at one revision;
//   - the history of the API is linearizable (by porcupine), what is read of all objects
//     after the last kill included: nothing that was acknowledged is gone;
//   - no epoch of a copy has two owners; the pages of each writer of the ledger are a chain;
//   - groups stand at the destination where they stood at the source: they skip nothing,
//     read nothing again, and never went back;
//   - a damaged log or snapshot was named, or did no harm; nothing has panicked;
//   - each fault was done: one for which there was no occasion counts as not survived.
//
// Invariant by invariant, with the code that checks it and shares nothing with the product
// but the format of pages:
//
//   - nothing is lost: chaos.compare (each record of the source is in the copy),
//     chaos.checkAcknowledged (each one that a producer was told of is in the source);
//   - nothing is doubled, the order of a partition is kept: chaos.compare (record by record);
//   - key, value, headers, timestamp, null apart from empty are the same: same;
//   - no phantom of an aborted transaction or another topic: chaos.compare (one too many);
//   - positions of groups are exact and never go back: groups.check, groups.watch, chaos.translate;
//   - hops tile the source's offsets, pages are chained: fold.hop, chains.follow;
//   - one writer for each epoch of a copy, nothing of a late one: fold.own, fold.begin;
//   - all nodes have the same state and log: fleetRun.sameState, compareLogs;
//   - nothing that the API acknowledged is gone, and it is linearizable: registers.check.
//
// A node that is killed, suspended, cut off, removed, drained or stopped stays away until
// others own each copy that it had and the copy's end at the destination has grown since:
// what comes back in time would hide that nobody takes over. How long that takes is no
// verdict. A full disk lasts until the others know of it and another node leads.
//
// Seen from outside, by readers of the destination, each fault has a longest pause of any
// copy: what a takeover and a planned handover cost. The table has it beside the bound of
// docs/fleet.md. How busy the machine is decides that too, so the run fails only if a pause
// is ten times its bound: that fault was not survived. TestCheckers gives the checkers what
// they must not pass. TestHandover (make handover) measures the same more closely, with two
// bundled brokers and nothing else to do, and fails by the same rules.
//
// It wants Linux, iproute2, and root or user namespaces. What needs thousands of
// schedules is simulated: make sim.
//
// # Owners of copies
//
// TestMirror (make chaos-mirror) is about the copies alone: into mirror topics,
// between bundled brokers, into Apache Kafka, and between Apache Kafkas that forget
// producers after seconds.
// Producers write steadily, in all codecs, fresh records and records of years ago,
// a tenth in transactions; the nodes that copy are killed, mostly with records
// under way, and suspended for longer than it takes to be replaced, requests of
// theirs arrive when others have taken over, answers to what was carried out are
// lost, connections are cut. The proxy reads the protocol's frames, so each kill
// is counted by what was sent and not answered when the signal was given.
//
// Producers number their records, so readers of both sides, which nothing
// disturbs, need no memory of what they have read: they tell as they go what is
// lost, doubled, reordered, altered or was never committed. The ledger is held
// against what they saw: where each record was and is. Of mirror topics two further
// readers compare every offset, markers and what was aborted too. A fault has been recovered
// from when the copy holds all that was acknowledged when it was done.
//
// TestFlows and TestRing (make interop-mirror) break nothing. They carry what is
// hard to carry between clusters of different makes, both ways between two and round three of them.
// TestWhatChangesAtTheSource and TestOldFormats are about what a source may do and hold,
// TestAtLeastOnce kills nodes that copy without transactions.
//
// These need the tag interop too, Java 17 and Maven.
package chaos
