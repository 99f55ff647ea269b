package main

import (
	"context"
	"errors"
	"fmt"
	"io"

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
  3    the command or its input is not valid; every fault was printed
  4    the fleet or the cluster could not be reached, or did not answer in time
  5    refused as things stand: objects changed in between, an object that is
       still needed, a decision that does not fit
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

// misused is the error of a command line that cobra did not take.
func misused(cmd *cobra.Command, err error) error {
	return &codedError{err, exitInvalid, "see '" + cmd.CommandPath() + " --help'"}
}

func exitCode(ctx context.Context, err error) int {
	var coded *codedError
	switch {
	case err == nil:
		return exitOK
	case interrupted(ctx, err):
		return exitInterrupted
	case errors.As(err, &coded):
		return coded.code
	}
	return exitFailed
}

// interrupted tells an error that came of a signal from one before it.
func interrupted(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, context.Canceled)
}

// report prints why a command did not do its work, and what to do about it.
func report(ctx context.Context, w io.Writer, err error) {
	if err == nil || errors.Is(err, errSilent) {
		return
	}
	if interrupted(ctx, err) {
		fmt.Fprintln(w, "replicator: interrupted")
		return
	}
	fmt.Fprintf(w, "replicator: %v\n", err)
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		fmt.Fprintf(w, "  %s\n", hinted.Hint())
	}
}

func newExitCodes() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesText}
}
