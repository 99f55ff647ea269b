package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

// Exit codes, as 'replicator help exit-codes' prints them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitChanges     = 2
	exitInvalid     = 3
	exitUnreachable = 4
	exitConflict    = 5
	exitNotMet      = 6
	exitWaiting     = 7
	exitInterrupted = 130
)

const exitCodesText = `  0    done
  1    failed; the message says what and what to do
  2    'plan --exit-code' found changes
  3    input is not valid; every fault was printed with file:line:column
  4    the server could not be reached, or did not answer in time
  5    somebody else changed the objects in between
  6    a condition does not hold (a check, a comparison, an exactness)
  7    a runbook waits for a person
  130  interrupted`

// errSilent ends a command whose output has said everything already.
var errSilent = errors.New("")

// codedError carries the exit code that an error leads to, and what to do.
type codedError struct {
	error
	code int
	hint string
}

func (e *codedError) Unwrap() error { return e.error }

// Hint says what to do about it, or nothing.
func (e *codedError) Hint() string { return e.hint }

func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &codedError{error: err, code: code}
}

func exitCode(ctx context.Context, err error) int {
	var coded *codedError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case ctx.Err() != nil:
		return exitInterrupted
	}
	return exitFailed
}

func newExitCodes() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesText}
}
