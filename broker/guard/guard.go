// Package guard makes a panic an error, so that a fault in one goroutine is not the
// end of the process: where errors have a way already, a panic takes it too.
//
// Who takes the error, where the goroutine began, logs it with [About]. A request's
// costs its connection, or the request its answer; a coordinator's the leadership of
// its partition, which is led again from what its log holds; that of a part which works
// for all (flusher, retention, compaction, provenance) ends the broker in good order.
//
// It starts no goroutine.
package guard

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Panic is what a goroutine panicked with, and where.
type Panic struct {
	Value any
	Stack []byte
}

// Error implements error. It does not tell the stack, which has many lines.
func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Of is what recover has returned, if that is not nil. It is called where recover is.
func Of(v any) *Panic { return &Panic{v, debug.Stack()} }

// Recover is deferred, and makes a panic the error that its function returns.
func Recover(err *error) {
	if v := recover(); v != nil {
		*err = Of(v)
	}
}

// Call calls f, and returns its error or its panic.
func Call(f func() error) (err error) {
	defer Recover(&err)
	return f()
}

// Is says whether an error is of a panic.
func Is(err error) bool {
	var p *Panic
	return errors.As(err, &p)
}

// About is an error as the attributes of a line of log, with the stack if it is of a
// panic.
func About(err error) []any {
	about := []any{"err", err}
	var p *Panic
	if errors.As(err, &p) {
		about = append(about, "stack", string(p.Stack))
	}
	return about
}
