// Package mirror is the data plane: it copies the records of topics from one
// cluster to another, as bytes where that is possible, exactly once, and writes
// down in the ledger where every source offset went.
//
// # The life of a record
//
// A [Manager] is told which copies this node owns: an [Assignment] is one source
// partition of one flow, at an epoch. For each flow it runs fetchers, one for
// each source broker, and lanes, each with a transactional id at the destination.
//
//	fetcher          one Fetch, read_committed, for all copies that a broker leads
//	   │ stage       (pure) batches become chunks: a batch to write, or gaps
//	copier           one copy: its queue, its position, its state
//	   │ ready
//	lane             a transaction: AddPartitionsToTxn, data of many copies packed
//	   │             one batch of each into a request, five requests in flight,
//	   │             acknowledgements checked, hops to the ledger, EndTxn
//	destination
//
// Most batches travel as bytes: their header is stamped with the lane's producer
// id, epoch, sequence and the transactional flag, their checksum patched, their
// records never decoded. What a broker would refuse or change goes through the
// record path (reencode.go): batches that compaction has left holes in, a resume
// in the middle of a batch, LogAppendTime into a CreateTime topic, batches
// that are larger than the destination takes, and messages of the formats v0 and v1,
// which the logs of old topics still hold. What a flow declares
// of its records (rules.go: filter, masks, headers, codec) is applied there, too; a
// batch of which the filter lets all pass is left to travel as bytes.
// Small uncompressed batches that come
// in one fetch are put together on their way (coalesce.go): a request to a broker
// holds one batch of a partition, however small.
//
// A flow that is to be at-least-once has lanes without transactions (session.go): the
// same loop, in which a transaction is only what is written between two words to the
// ledger. A copy's Begin goes ahead of its data and its hops follow the acknowledgements;
// what a fault leaves without a hop is the remnant (remnant.go), with which the source's
// next records are matched before anything is written.
//
// # Offsets that are preserved
//
// A copy into a mirror topic of a bundled broker takes another way. It is fetched
// read_uncommitted, up to the high watermark, and its batches pass as a whole
// (whole.go): control batches, aborted ones and what compaction has left, at the
// source's offsets, with the source's leader epochs and producers.
//
//	fetcher          one Fetch, read_uncommitted, for all such copies of a broker
//	   │ stageWhole  (pure) batches as they came, and the gaps between them
//	copier
//	   │ ready
//	appender         MirrorAppend: batches of many copies in a request, five requests
//	   │             in flight, each a compare-and-append that follows from those before
//	mirror topic
//	   │ acknowledged
//	journal          hops, all identities, to the ledger
//
// Nothing waits for anything to be collected. What the mirror has is the truth, and
// the ledger follows: a start fences older writers, cuts what the source has lost,
// and tells the ledger what it does not know (agree.go). Which of the two a copy is,
// is decided when its destination topic is made (fidelity.go).
//
// # What it promises
//
//   - A read_committed reader of the destination sees every record of the source
//     once, in order, with its timestamp, headers, key and value, whoever dies
//     when. DESIGN.md has the argument. An at-least-once flow promises every record, in
//     order where none is doubled, and counts those that may be doubled.
//   - Where offsets are preserved every reader does, read_uncommitted too, and a mirror
//     is its source's log to the byte, from the source's start on.
//   - Every source offset is accounted for in the ledger: it is in a run of a hop,
//     or in a gap with its reason. What cannot be copied stops the copy with a
//     state that says which offset and what to do, or is put into quarantine in the
//     same transaction (quarantine.go); nothing is skipped.
//   - A topic that was deleted and created again is another topic: the copy stops,
//     or the flow's policy has the new one copied into another destination topic.
//   - Where the source or the destination has lost what was copied, this is found by
//     leader epochs (loss.go). The copy stops, or the ledger takes back what is lost
//     and the copy goes on from the cut.
//   - Nothing is copied back into a topic where it has been, over any number of
//     clusters and fleets, and a flow may copy only what was born at its source: where
//     a batch is from is what the ledger of the source's cluster says ([Origins]).
//     What is not known is waited for.
//   - What the flows of a node hold in memory is bounded by [Config].BufferBytes together,
//     but for single batches that are larger than what a fetch has room for (budget.go). A
//     slow destination slows the fetch, and of its own flow only.
//
// # Who owns what
//
// Manager.Run owns every goroutine: one per flow, and in it one loop, its lanes, its
// appender with one that waits for each request in flight, its fetchers, and one that finds out where batches are from. A copier has none.
// When Run has returned nothing is written any more. It returns [ErrFenced] when the
// incarnation of the node is over; the caller gets a new incarnation and makes a new
// Manager.
//
// A [Discoverer] finds the topics of a flow, makes their counterparts (create.go),
// has their settings follow (drift.go), and writes what happens to topics into the
// ledger (chronicle.go). One node of the fleet runs it for each flow, wherever the
// copies are. What may wait long for an answer has two goroutines of its own beside the
// looks for topics (beside.go), at most one piece of work each: the settings of topics that are copied are
// compared and written in one, those of topics that are to be made are asked for in the
// other (newcomers.go). They have their own connections, hand over what they find to the
// next look, and Discoverer.Run ends them before it returns.
//
// # What is left out
//
//   - Copies that other programs make at the source leave no trace in a ledger: they
//     are taken for local, and so is what a broker returns without the producer ids
//     that it was given.
//   - Making a mirror of an ordinary topic that exists, even of an empty one.
//   - A source batch that a mirror ends within, which takes two sources to make: the
//     copy stops and says so.
//   - A ledger in another cluster than the destination; destinations that give no
//     producer id. Without one nobody could tell a copy from what was born there.
//   - Putting what is in quarantine there once, where a flow is at-least-once: after a
//     fault it may be there twice.
//   - Record formats before v2 in a copy that preserves offsets: a mirror is its source
//     to the byte, and its log takes format v2 alone. The copy stops and says so. So
//     does one that meets a message of those formats with a wrong checksum, which is not put
//     into quarantine.
//   - A partition that goes offline between its data and its commit marker holds
//     up the other copies of its lane until it is back: the coordinator lets the
//     lane begin no transaction before.
package mirror
