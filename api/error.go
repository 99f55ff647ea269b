package api

import (
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
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
	Expected uint64   `json:"expected" doc:"Revision"`
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

// GetStatus implements huma.StatusError.
func (e *Error) GetStatus() int { return e.Status }

// ContentType names the problem format.
func (e *Error) ContentType(string) string { return "application/problem+json" }

func init() {
	// huma builds its own errors (validation, say) with this hook.
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		e := Errorf(status, "%s", msg)
		for _, err := range errs {
			if err == nil {
				continue
			}
			f := Fact{Message: err.Error()}
			if d, ok := err.(huma.ErrorDetailer); ok {
				f.Location, f.Message = d.ErrorDetail().Location, d.ErrorDetail().Message
			}
			e.Errors = append(e.Errors, f)
		}
		switch {
		case status == http.StatusInternalServerError && len(e.Errors) > 0:
			e.Detail = e.Errors[0].Message // "unexpected error occurred" says nothing
			e.Errors = nil
		case status == http.StatusRequestEntityTooLarge:
			e.Detail = fmt.Sprintf("the body has more than %d bytes", MaxBody)
		}
		return e
	}
}
