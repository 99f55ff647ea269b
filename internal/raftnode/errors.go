package raftnode

import (
	"errors"
	"fmt"
)

// Errors that callers branch on.
var (
	// ErrNoLeader says that no leader was found before the context ended.
	ErrNoLeader = errors.New("the group has no leader")
	// ErrUnclear says that a command may or may not have been applied, or may yet
	// be: the leader was lost after it took the command.
	ErrUnclear = errors.New("unclear whether the command was applied")
	// ErrRefused says that the group will not do what it was asked, however often;
	// of a command: the leader's Machine refused it before it was appended, so it was
	// not applied and will not be.
	ErrRefused = errors.New("refused")
	// ErrTooLarge is an ErrRefused: the command has more than MaxCommand bytes.
	ErrTooLarge = fmt.Errorf("%w: too large", ErrRefused)
	// ErrLeadershipLost is the cause that ends a Lead function's context.
	ErrLeadershipLost = errors.New("leadership lost")
	// ErrStopped is returned by calls on a node that does not run any more.
	ErrStopped = errors.New("node stopped")
	// ErrNotMember is returned for an operation on a member that the group does
	// not have.
	ErrNotMember = errors.New("not a member of the group")
	// ErrNoAuthority says that the group's certificates come from outside.
	ErrNoAuthority = errors.New("the group has no authority of its own: its certificates come from files")
	// ErrRemoved is returned by Run when the group has removed the node, or has given
	// its name to another.
	ErrRemoved = errors.New("removed from the group")
	// ErrHalted says that the replica met a command or snapshot that it does not
	// understand: the binary is older than the group.
	ErrHalted = errors.New("replica halted")
)

// EntryError is damage in one entry of the log.
type EntryError struct {
	Index uint64
	Err   error
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("raft log entry %d is damaged: %v", e.Index, e.Err)
}

// Unwrap returns what is wrong with the entry.
func (e *EntryError) Unwrap() error { return e.Err }

// StoreError is damage in a store, which may be that of an entry, or its failure.
type StoreError struct {
	Path string
	Err  error
}

func (e *StoreError) Error() string { return fmt.Sprintf("raft store %s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *StoreError) Unwrap() error { return e.Err }
