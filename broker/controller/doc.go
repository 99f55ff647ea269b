// Package controller keeps the cluster's metadata: its id, topics with ids and
// configurations, SCRAM credentials, ACL rules, client quotas, blocks of producer ids.
//
// The path through it: a handler reads [Controller.Image], an immutable value,
// decides, and calls [Controller.Update] with a function from the newest image
// to the records to add. The records are written and synced, applied to the
// image by a pure function ([Image.Apply]), and the new image is published.
// Updates are serialised; readers never wait.
//
// What it promises: an update that returned nil is on disk; a reader sees all of
// it or nothing; a record that fails validation in Apply is never written. A
// process that dies in an update leaves the state before or after it.
//
// The store is one file: the shortest list of records that makes the image, each
// record a JSON document (so that a later version can add fields), framed by a
// version and a checksum; FORMAT.md draws it. An update writes it anew beside
// the old one, syncs it, renames it and syncs the directory. So there is no torn
// state: a file that does not match its checksum was damaged after it was
// written, and [Open] refuses it with [ErrCorrupt] rather than guess. Whole files
// cost a few hundred bytes per topic and update, which is milliseconds at ten
// thousand topics.
//
// A full disk refuses what makes partitions and no more ([ErrFull]): a reserve of
// room takes the other changes, the count of starts among them.
//
// Since the image is a function of the list of records and nothing else, the
// list can come from a replicated log just as well. One node is all there is now.
// The package starts no goroutine.
package controller
