package api

import (
	"fmt"
	"net/http"
)

// Error is a problem detail (RFC 9457) and what implementations of this
// package's interfaces return to choose a status. Any other error is an internal
// one: its text goes to the caller, who is an operator of the fleet.
type Error struct {
	Type   string `json:"type,omitempty" format:"uri" doc:"Kind of problem; about:blank if the status says it all"`
	Title  string `json:"title" doc:"The status in words"`
	Status int    `json:"status"`
	Detail string `json:"detail" doc:"What is wrong with this request"`
	Hint   string `json:"hint,omitempty" doc:"What to do about it"`
	Errors []Fact `json:"errors,omitempty" doc:"Every single fault"`

	// Of a change that somebody else was faster than.
	Conflict *Conflict `json:"conflict,omitempty" doc:"What is there instead of what was expected"`
}

// Conflict is who was faster.
type Conflict struct {
	Object   string   `json:"object,omitempty" doc:"Key; absent if the list of all objects was meant"`
	Expected uint64   `json:"expected" doc:"Revision, the first if there were several; 0: there was to be none, or if there is none any"`
	Revision uint64   `json:"revision" doc:"That there is; 0: there is none any more"`
	Changed  *Changed `json:"changed,omitempty" doc:"Who made it so; absent if it is not known"`
}

// Fact is one fault of several.
type Fact struct {
	Location string `json:"location,omitempty" doc:"Where: a parameter, or file:line:column"`
	Message  string `json:"message"`
}

// Errorf is a problem with a status and a detail.
func Errorf(status int, format string, args ...any) *Error {
	return &Error{Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// WithHint says what to do about it.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

func (e *Error) Error() string { return e.Detail }
