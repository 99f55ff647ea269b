// Package mask takes out of records what must not reach the other side: fields of
// JSON texts, or whole keys and values, are replaced by a constant, by a keyed hash
// or removed.
//
// A [Path] names fields by the names on the way to them: customer.email. A list on
// the way stands for all of its items, "*" for every member, so that a path finds
// rather more than was meant than less. A name that a text has twice is masked
// twice. A field that is not there is nothing to mask.
//
// What is not masked keeps its bytes: order, spaces, digits of numbers. A text that
// is not JSON (RFC 8259) is [ErrNotJSON], never passed on.
//
// The package does no I/O and keeps no state but the keys of its hashes.
package mask
