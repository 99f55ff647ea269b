//go:build interop

package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

// ownerEnv makes this test binary an owner of copies instead of a test.
const ownerEnv = "WAYBILL_INTEROP_OWNER"

func TestMain(m *testing.M) {
	if plan := os.Getenv(ownerEnv); plan != "" {
		if err := runOwner(plan, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "owner:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// ownerPlan is what an owner does: open its lane, make one whole transaction,
// and stop in the second at a stage. When it is told to go on it takes every
// step that is left, and then tries to go on with its lane.
type ownerPlan struct {
	Task   task
	Lane   string
	StopAt string
}

// ownerNews is a line that an owner says: that it stands at its stage or, at the
// end, what it was answered after it.
type ownerNews struct {
	Stage   string
	ID      int64
	Epoch   int16
	Answers []answer
}

func runOwner(planJSON string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var plan ownerPlan
	if err := json.Unmarshal([]byte(planJSON), &plan); err != nil {
		return err
	}
	l, err := dialLane(ctx, plan.Task.cluster(), plan.Lane)
	if err != nil {
		return err
	}
	defer func() { _ = l.conn.Close() }() // never fails
	if _, err := l.open(ctx); err != nil {
		return fmt.Errorf("open lane: %w", err)
	}
	m, err := newMover(ctx, plan.Task, l, 1, map[int32]int64{})
	if err != nil {
		return err
	}
	if _, err := m.transaction(ctx, func(string) {}); err != nil {
		return fmt.Errorf("first transaction: %w", err)
	}
	say := json.NewEncoder(out)
	told := bufio.NewScanner(in)
	answers, fault := m.transaction(ctx, func(stage string) {
		if stage != plan.StopAt {
			return
		}
		_ = say.Encode(ownerNews{Stage: stage, ID: l.pid, Epoch: l.epoch}) // a parent that is gone ends us
		told.Scan()
	})
	if fault == nil { // it had ended before it slept: it begins the next
		more, _ := m.transaction(ctx, func(string) {})
		answers = append(answers, more...)
	}
	answers = append(answers, answer{"InitProducerId with own id and epoch", code(l.init(ctx, l.pid, l.epoch))})
	return say.Encode(ownerNews{Stage: "end", ID: l.pid, Epoch: l.epoch, Answers: answers})
}

// owner is an owner in a process of its own.
type owner struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	news *json.Decoder
}

// startOwner runs a plan and returns when its owner stands at its stage.
func startOwner(t *testing.T, plan ownerPlan) (*owner, ownerNews) {
	t.Helper()
	text, err := json.Marshal(plan)
	must(t, "plan", err)
	self, err := os.Executable()
	must(t, "own binary", err)
	o := &owner{cmd: exec.Command(self)}
	o.cmd.Env = append(os.Environ(), ownerEnv+"="+string(text))
	o.cmd.Stderr = os.Stderr
	o.in, err = o.cmd.StdinPipe()
	must(t, "owner's stdin", err)
	out, err := o.cmd.StdoutPipe()
	must(t, "owner's stdout", err)
	o.news = json.NewDecoder(out)
	must(t, "start owner", o.cmd.Start())
	t.Cleanup(func() {
		_ = o.cmd.Process.Kill() // it may have ended
		_ = o.cmd.Wait()
	})
	var n ownerNews
	must(t, "owner's news", o.news.Decode(&n))
	if n.Stage != plan.StopAt {
		t.Fatalf("owner stands at %q, want %q", n.Stage, plan.StopAt)
	}
	return o, n
}

// kill ends the owner; the kernel closes its connections.
func (o *owner) kill(t *testing.T) {
	t.Helper()
	must(t, "kill owner", o.cmd.Process.Kill())
	var ended *exec.ExitError
	if err := o.cmd.Wait(); !errors.As(err, &ended) {
		t.Fatalf("killed owner ended with %v", err)
	}
}

// goOn lets the owner go on and returns what it was answered.
func (o *owner) goOn(t *testing.T) []answer {
	t.Helper()
	_, err := io.WriteString(o.in, "go on\n")
	must(t, "tell owner", err)
	var n ownerNews
	must(t, "owner's news", o.news.Decode(&n))
	return n.Answers
}
