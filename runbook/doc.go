// Package runbook carries out runbooks: planned migrations and failovers as
// stored steps, each with its evidence, that survive the death of the node that
// runs them and can be undone.
//
// # The one path
//
// [New] turns a declared runbook into an [Execution], which [Start] stores. The
// node that owns it runs an [Executor]: it loads the execution, asks
// [Execution.Next] for the one thing to do now, does it through [Actions], turns
// what came of it into an [Event], and stores the execution that [Step] makes of
// the two. People send events of their own with [Submit]: [Approve], [Confirm],
// [Pause], [Resume], [Retry], [Rollback], [Abort]. [Execution.Markdown] and the
// execution's JSON are the report, at any time.
//
// Next and Step are pure: the whole behaviour is in the two, and the executor
// around them is dull. What is to be done follows from the stored state alone, so
// a new owner needs nothing from the one before.
//
// # What a step does, and how it is undone
//
//	check   looks once; fails if something is wrong.        Nothing to undo.
//	wait    reads the lag until it is low for long enough.  Nothing to undo.
//	gate    waits for approvals of different people.        Nothing to undo.
//	apply   commits the groups' offsets on the destination, Left as it is: groups
//	        all exact or none.                              that run there decide.
//	fence   stores which deny rules it will add, adds them, Removes exactly those
//	        and watches until the log ends stand still.     rules.
//	switch  pauses the flow; waits for a person if asked.   Resumes the flow.
//	report  records the digest of the report.               Nothing to undo.
//
// A rollback undoes what was touched, last step first. It is refused once a
// switch is done: clients write elsewhere by then, and the way back is a flow in
// the other direction.
//
// # What it promises
//
//   - An action may be repeated, never skipped: its intention is stored before it
//     and its outcome after it, and actions are idempotent. A fence removes only
//     rules that were not there before it, whoever is killed when.
//   - A fence is a fact of the moment. It is looked at again before each step that
//     builds on it, and when another node takes over. If the rules are gone or a
//     log has grown, the fence and all steps after it are done again, or the
//     runbook stops if the flow is paused already.
//   - Time limits count over takeovers; a pause by a person stops the clock. An
//     action that cannot be done now is tried again until its step's limit.
//   - Whoever did, approved or decided something stands in the evidence, with the
//     time. Evidence is bounded: what is left out is counted.
//
// # Goroutines
//
// [Executor.Run] blocks and starts none.
//
// # What is left out
//
// What a person says takes effect between two actions: one that is under way, a
// long comparison for example, is not cut short. Steps in parallel, waves, hooks that run programs, the report as HTML. Two
// executions of one flow at a time are refused by [Start] as far as it can see:
// two calls at the same moment on two nodes may both pass.
package runbook
