// Package vfs is the little of a file system that storage code needs, with its
// durability spelled out.
//
// [FS] and [File] say which step makes what survive a power cut: bytes of a file
// by [File.DataSync] or [File.Sync], the names in a directory by [FS.SyncDir].
// Nothing else is durable. Two implementations hold to it: [OS], the real one
// (what differs between systems stands in one file per system), and [Mem], which
// keeps apart what was written and what was synced, fails on demand and can
// crash: it then forgets what no sync has made durable, in any of the ways that
// a disk may.
//
// An error of a write or a sync means that nobody knows what is on the disk any
// more: the kernel may drop the dirty pages and report success the next time. The
// caller must stop writing to that file and learn its content anew by reading it
// after a restart; no call here retries.
//
// The package starts no goroutine. All methods are safe for concurrent use, as
// far as the operating system's are: concurrent writes to the same bytes of a
// file have no defined order.
package vfs
