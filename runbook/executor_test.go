package runbook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/flow"
)

const header = "apiVersion: waybill/v1\nkind: Runbook\nmetadata: {name: move}\nspec:\n  flow: orders\n  steps:\n"

const failover = header + `
    - {id: preflight, check: preflight}
    - {id: caught-up, wait: {lagRecords: 15, stableFor: 2s}}
    - {id: go, gate: {approvals: 2}}
    - {id: fence, fence: {principals: ["User:app", "User:old"], watch: 3s}, timeout: 1m, onFailure: rollback}
    - {id: drain, wait: {lagRecords: 0}, onFailure: rollback}
    - {id: offsets, apply: groupOffsets, onFailure: rollback}
    - {id: groups, check: groups, onFailure: rollback}
    - {id: clients, switch: {confirm: true}, onFailure: rollback}
    - {id: report, report: {}}
`

func declared(t testing.TB, text string) *flow.Runbook {
	t.Helper()
	objects, err := flow.Parse("test.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return objects[0].Runbook
}

// stage is an execution in a store, over a world.
type stage struct {
	t     *testing.T
	world *world
	store *memory
}

func newStage(t *testing.T, text string) *stage {
	s := &stage{t: t, world: newWorld(), store: &memory{records: map[string]Record{}}}
	x, err := New("x1", declared(t, text), "User:alice", "CHG-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := Start(t.Context(), s.store, x); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stage) execution() Execution {
	s.t.Helper()
	x, _, err := load(s.t.Context(), s.store, "x1")
	if err != nil {
		s.t.Fatal(err)
	}
	return x
}

// run lets a node run the execution until it ends, the node dies, or the limit
// passes; people are asked what to do whenever the execution waits for somebody.
func (s *stage) run(node string, people func(Execution) Event) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Hour)
	defer cancel()
	s.world.die, s.world.dead = cancel, false
	done := make(chan error, 1)
	go func() {
		done <- NewExecutor(Config{ID: "x1", Node: node, Store: owned{s.store, s.world}, Do: s.world, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	}()
	for {
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errKilled) {
				s.t.Fatal(err)
			}
			return
		case <-time.After(700 * time.Millisecond): // virtual time
			x := s.execution()
			if x.Waiting() == "" || people == nil {
				continue
			}
			e := people(x)
			if e == nil { // nobody says anything: the node is stopped
				cancel()
				<-done
				return
			}
			if _, err := Submit(s.t.Context(), s.store, "x1", e); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

func who(name string) Who { return Who{By: name, Reason: "as agreed", At: time.Now()} }

// agree approves and confirms what the execution waits for.
func agree(x Execution) Event {
	s := x.Steps[x.Current]
	switch {
	case x.State != Running:
		return nil
	case s.Spec.Gate != nil:
		return Approve{who(fmt.Sprintf("User:approver-%d", len(s.Approvals))), s.Spec.ID}
	default:
		return Confirm{who("User:alice"), s.Spec.ID}
	}
}

const moved = "rules User:old Deny Write Topic:orders, User:app Deny Write Topic:orders; paused true; lag 0; groups exact"

func TestFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, failover)
		s.run("n1", agree)
		x := s.execution()
		if x.State != Completed {
			t.Fatalf("got %s, %s", x.State, x.Markdown())
		}
		if got := s.world.outcome(); got != moved {
			t.Errorf("got %s, want %s", got, moved)
		}
		const want = "preflight planFence fence readFence applyGroups readFence verifyGroups readFence pauseFlow readFence"
		if got := strings.Join(s.world.log, " "); got != want {
			t.Errorf("actions: got %s, want %s", got, want)
		}
		if r, err := s.store.Load(t.Context(), "x1"); err != nil || !r.Done {
			t.Errorf("the record is not done: %v", err)
		}
		for _, text := range []string{"User:approver-1", "CHG-1", "node n1", "stood still for", "sha256"} {
			if !strings.Contains(x.Markdown(), text) {
				t.Errorf("the report does not say %q:\n%s", text, x.Markdown())
			}
		}
	})
}

// TestKilledAnywhere kills the node at each action and each save in turn, before
// and after it takes effect, and lets another node go on: the outcome is the same.
func TestKilledAnywhere(t *testing.T) {
	stories := []struct {
		name, text, outcome string
		people              func(Execution) Event
		inexact             bool
		end                 State
	}{
		{"failover", failover, moved, agree, false, Completed},
		{"goes back by itself", failover, "rules User:old Deny Write Topic:orders; paused false; lag 0; groups ", agree, true, RolledBack},
		{
			"goes back from the switch", failover, "rules User:old Deny Write Topic:orders; paused false; lag 0; groups exact",
			func(x Execution) Event {
				if x.Steps[x.Current].Spec.Switch != nil {
					return Rollback{who("User:bob")}
				}
				return agree(x)
			}, false, RolledBack,
		},
	}
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			points := 0
			for kill := 1; kill == 1 || kill <= points; kill++ {
				for _, after := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) {
						s := newStage(t, story.text)
						s.world.kill, s.world.after, s.world.inexact = kill, after, story.inexact
						s.run("n1", story.people)
						if s.world.dead {
							time.Sleep(20 * time.Second) // virtual: until the fleet has noticed
							s.run("n2", story.people)
						}
						points = max(points, min(s.world.points, 400))
						x := s.execution()
						got := s.world.outcome()
						if x.State != story.end || !strings.HasPrefix(got, story.outcome) {
							t.Fatalf("killed at %d, after %v: got %s, %s, want %s\n%v\n%s", kill, after, x.State, got, story.outcome, s.world.log, x.Markdown())
						}
					})
				}
			}
			t.Logf("killed at each of %d points", points)
			if points < 30 {
				t.Errorf("only %d points", points)
			}
		})
	}
}

func TestFenceThatLeaksIsProvedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, failover)
		s.world.leaks = 5
		s.run("n1", agree)
		if x := s.execution(); x.State != Completed || !strings.Contains(x.Markdown(), "the log ends moved; watches anew") {
			t.Errorf("got %s", x.Markdown())
		}
		if got := s.world.outcome(); got != moved {
			t.Errorf("got %s, want %s", got, moved)
		}
	})
}

func TestFenceThatNeverHoldsGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, failover)
		s.world.leaks = 1 << 30
		s.run("n1", agree)
		x := s.execution()
		if x.State != RolledBack || !strings.Contains(x.Problem, "took longer than 1m: somebody still writes at the source") {
			t.Errorf("got %s, %s", x.State, x.Problem)
		}
		if s.world.fenced() {
			t.Error("the fence still stands")
		}
	})
}

// TestFenceTakenAwayIsBuiltAgain: somebody removes the rules during the drain, or
// a write slips in while nobody runs the execution.
func TestFenceTakenAwayIsBuiltAgain(t *testing.T) {
	for name, damage := range map[string]func(*world){
		"rules gone": func(w *world) { w.rules = w.rules[:1] },
		"a write":    func(w *world) { w.write(7) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, failover)
				once := false
				s.run("n1", func(x Execution) Event {
					if x.Steps[x.Current].Spec.Switch != nil && !once {
						once = true
						return nil // the node stops
					}
					return agree(x)
				})
				// It stopped at the switch with the flow paused: there a person decides.
				damage(s.world)
				s.run("n2", func(x Execution) Event {
					if x.State == Stopped {
						return Retry{who("User:alice")}
					}
					return agree(x)
				})
				x := s.execution()
				if x.State != RolledBack { // as the step says
					t.Fatalf("got %s: %s", x.State, x.Markdown())
				}
				if s.world.paused || s.world.fenced() {
					t.Errorf("got %s", s.world.outcome())
				}
			})
		})
	}
	t.Run("before the switch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t, strings.Replace(failover, "{id: groups, check: groups, onFailure: rollback}", "{id: second, gate: {approvals: 1}}", 1))
			damaged := false
			s.run("n1", func(x Execution) Event {
				if x.Steps[x.Current].Spec.ID == "second" && !damaged {
					damaged = true
					s.world.mu.Lock()
					s.world.rules = s.world.rules[:1]
					s.world.write(4)
					s.world.mu.Unlock()
				}
				return agree(x)
			})
			x := s.execution()
			if x.State != Completed || x.Steps[3].Attempts != 2 || x.Steps[5].Attempts != 2 {
				t.Errorf("got %s", x.Markdown())
			}
			if got := s.world.outcome(); got != moved {
				t.Errorf("got %s, want %s", got, moved)
			}
		})
	})
}

func TestRetryAfterTheSwitchLostItsFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, strings.Replace(failover, "switch: {confirm: true}, onFailure: rollback", "switch: {confirm: true}", 1))
		damaged := false
		s.run("n1", func(x Execution) Event {
			if x.State == Stopped {
				return Retry{who("User:alice")}
			}
			if x.Steps[x.Current].Spec.Switch != nil && !damaged {
				damaged = true
				s.world.mu.Lock()
				s.world.write(4)
				s.world.mu.Unlock()
			}
			return agree(x)
		})
		x := s.execution()
		if x.State != Completed || !strings.Contains(x.Markdown(), "resumed the flow, because step fence is done again") {
			t.Errorf("got %s", x.Markdown())
		}
		if got := s.world.outcome(); got != moved {
			t.Errorf("got %s, want %s", got, moved)
		}
	})
}

func TestActionsThatFailAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, failover)
		for _, a := range []Action{DoPreflight, DoReadLag, DoPlanFence, DoFence, DoReadFence, DoReadEnds, DoApplyGroups, DoPauseFlow, "save"} {
			s.world.broken[a] = 3
		}
		s.run("n1", agree)
		if x := s.execution(); x.State != Completed || !strings.Contains(x.Markdown(), "is tried again: preflight: broker is away") {
			t.Errorf("got %s", x.Markdown())
		}
		if got := s.world.outcome(); got != moved {
			t.Errorf("got %s, want %s", got, moved)
		}
	})
}

func TestWayBackThatCannotBeDoneStopsAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, failover)
		s.world.inexact = true
		s.world.broken[DoUndoFence] = 700 // more than 5 minutes of half seconds
		s.run("n1", func(x Execution) Event {
			if x.State == Stopped {
				return Retry{who("User:alice")}
			}
			return agree(x)
		})
		x := s.execution()
		if x.State != RolledBack || s.world.fenced() || !strings.Contains(x.Markdown(), "stopped on the way back") {
			t.Errorf("got %s", x.Markdown())
		}
	})
}

func TestOwnershipThatEndsStopsTheExecutor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, failover)
		ctx, cancel := context.WithCancelCause(t.Context())
		lost := errors.New("incarnation ended")
		done := make(chan error, 1)
		go func() {
			done <- NewExecutor(Config{ID: "x1", Node: "n1", Store: s.store, Do: s.world, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
		}()
		synctest.Wait()
		cancel(lost)
		if err := <-done; !errors.Is(err, lost) {
			t.Errorf("got %v, want %v", err, lost)
		}
		err := NewExecutor(Config{ID: "none", Node: "n1", Store: s.store, Do: s.world, Log: slog.New(slog.DiscardHandler)}).Run(t.Context())
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	})
}

// TestShippedRunbooks runs each shipped runbook to its end.
func TestShippedRunbooks(t *testing.T) {
	for _, file := range []string{"../deploy/runbooks/planned-failover.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t, strings.Replace(string(text), "User:orders-app", "User:app", 1))
			s.run("n1", agree)
			if x := s.execution(); x.State != Completed || s.world.outcome() != moved {
				t.Errorf("%s: got %s, %s", file, x.Markdown(), s.world.outcome())
			}
		})
	}
}
