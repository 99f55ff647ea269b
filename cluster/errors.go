package cluster

import (
	"errors"
	"fmt"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// Errors that callers branch on. Those in the first group are refusals by the
// state: the command is in the log and has changed nothing.
var (
	// ErrIncarnationEnded refuses what a node does in a life that is over.
	ErrIncarnationEnded = errors.New("incarnation ended")
	// ErrConflict refuses a command that expects another revision than there is.
	ErrConflict = errors.New("revision conflict")
	// ErrNotFound refuses a command about something that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrNotOwner refuses a command from a node that does not own the work, or
	// owned it at an earlier epoch.
	ErrNotOwner = errors.New("not the owner")
	// ErrInvalid refuses a command that makes no sense.
	ErrInvalid = errors.New("invalid command")
	// ErrTooOld refuses a node whose binary does not know commands that the fleet uses.
	ErrTooOld = errors.New("too old for the fleet")

	// ErrUnclear is returned when it is not known whether a command that must not
	// be repeated was applied.
	ErrUnclear = raftnode.ErrUnclear
	// ErrNoLeader is returned when the context ended before a leader was found.
	ErrNoLeader = raftnode.ErrNoLeader
	// ErrStopped is returned by calls on a node that does not run any more, and is
	// the cause of a session's end when its node stops.
	ErrStopped = raftnode.ErrStopped
	// ErrLeaseLost is the cause of a session's end when the leader has not
	// answered for Config.SessionLease.
	ErrLeaseLost = errors.New("lease lost")
	// ErrSessionOpen is returned when a node that has a session asks for another.
	ErrSessionOpen = errors.New("session is open")
	// ErrRemoved is returned by Run when the node has been removed from the fleet.
	ErrRemoved = raftnode.ErrRemoved
)

// refusals are the errors that travel in results, by their code.
var refusals = map[string]error{
	"incarnation_ended": ErrIncarnationEnded,
	"conflict":          ErrConflict,
	"not_found":         ErrNotFound,
	"not_owner":         ErrNotOwner,
	"invalid":           ErrInvalid,
	"too_old":           ErrTooOld,
}

// refusal is an error as it travels.
type refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func refusalOf(err error) *refusal {
	if err == nil {
		return nil
	}
	for code, sentinel := range refusals {
		if errors.Is(err, sentinel) {
			return &refusal{Code: code, Message: err.Error()}
		}
	}
	return &refusal{Code: "invalid", Message: err.Error()}
}

// refusedError is a refusal that has arrived.
type refusedError struct {
	message string
	cause   error
}

// refusedAs is a refusal in words of its own, which stands for one of the errors above.
func refusedAs(cause error, format string, args ...any) error {
	return &refusedError{message: fmt.Sprintf(format, args...), cause: cause}
}

func (e *refusedError) Error() string { return e.message }
func (e *refusedError) Unwrap() error { return e.cause }

func (r *refusal) err() error {
	if r == nil {
		return nil
	}
	cause, ok := refusals[r.Code]
	if !ok {
		return fmt.Errorf("%w: %s: %s", ErrInvalid, r.Code, r.Message)
	}
	return &refusedError{message: r.Message, cause: cause}
}
