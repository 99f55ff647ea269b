// Package coordinator is what the coordinators have in common: state that lives in one
// partition of one of the broker's own topics, and in one goroutine.
//
// # The path of a request
//
// A [Set] has the shards of a coordinator by partition. [Set.Led] finds the one
// that a request is about, and the request hands it a closure with [Loop.Do]. The
// goroutine that runs [Loop.Serve] runs closures one after the other: what it
// alone touches needs no lock. A closure that changes state first appends the
// records of the change ([Loop.Append]), which does not wait for the disk; its
// request then waits with [Loop.Wait] until all that its answer was computed from
// is durable, and only then answers.
//
// Serve first reads the partition from start to end, until when requests are
// answered COORDINATOR_LOAD_IN_PROGRESS. Leadership is its context: when that
// ends, whoever still asks is told NOT_COORDINATOR.
//
// # What is promised
//
// State is what the log says. An append that is refused (an error that wraps a
// *kerr.Error: a full disk is COORDINATOR_NOT_AVAILABLE) has written nothing, and
// the shard goes on: who asked for it changes nothing, and may try again. Whoever
// cannot change nothing any more ends the leadership with [Loop.Fail]; so does
// every other error of the log, and a panic. Nothing is acknowledged after that, and requests
// are answered COORDINATOR_NOT_AVAILABLE until the partition is led again, which
// reads what the log holds. Other shards do not notice.
//
// [Loop.Careful] is true while the log has refused the last append, or has had
// none: who cannot know what a change writes before he makes it makes it on a
// copy then. So a full disk costs a shard one load at the most.
//
// A list of everything that some shard is missing from says so: [Set.All].
//
// # Goroutines
//
// The package starts none. Serve runs in its caller's, and so does every request.
package coordinator
