package main

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/runbook"
)

func newRunbook() *cobra.Command {
	return family(&cobra.Command{
		Use:   "runbook",
		Short: "Planned failovers: run, watch, decide, report",
		Long: `Planned failovers as stored steps, each with its evidence. A runbook goes on
when the node that runs it dies. Declare it with 'replicator apply' first.`,
		Example: `  replicator runbook plan us-eu-failover
  replicator runbook run us-eu-failover --reason CHG-1042
  replicator runbook watch us-eu-failover
  replicator runbook report us-eu-failover > report.md`,
	},
		runbookShow("plan NAME", "The steps that a run would take", "plan"),
		runbookRun(), runbookWatch(), runbookReport(),
		runbookDecide("approve", "Approve a gate", true),
		runbookDecide("confirm", "Say that clients have moved", true),
		runbookDecide("pause", "Stop before the next action; what was done stays", false),
		runbookDecide("resume", "Go on after a pause", false),
		runbookDecide("retry", "Try again what failed", false),
		runbookDecide("rollback", "Undo what was done, last step first", false),
		runbookDecide("abort", "End it as it is; nothing is undone", false),
	)
}

func runbookPath(name, what string) string {
	return "/api/v1/runbooks/" + url.PathEscape(name) + "/" + what
}

func runbookShow(use, short, what string) *cobra.Command {
	var fleet server
	var out output
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var x runbook.Execution
			if err := fleet.call(cmd.Context(), http.MethodGet, runbookPath(args[0], what), nil, &x); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), x, func(t *table) { drawExecution(t, &x) })
		},
	}
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func runbookRun() *cobra.Command {
	var fleet server
	var reason string
	var detach bool
	cmd := &cobra.Command{
		Use: "run NAME", Short: "Run it, and watch it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var x runbook.Execution
			if err := fleet.call(cmd.Context(), http.MethodPost, runbookPath(args[0], "start")+query("reason", reason), nil, &x); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "started %s\n", x.ID)
			if detach {
				return nil
			}
			return watchRunbook(cmd, &fleet, args[0])
		},
	}
	fleet.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "stands in the evidence")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not watch")
	return cmd
}

func runbookWatch() *cobra.Command {
	var fleet server
	cmd := &cobra.Command{
		Use: "watch NAME", Short: "Follow the latest run until it ends or waits for a person", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return watchRunbook(cmd, &fleet, args[0]) },
	}
	fleet.flags(cmd)
	return cmd
}

// watchRunbook prints a line whenever a step changes. It ends with the
// execution, or where a person is needed.
func watchRunbook(cmd *cobra.Command, fleet *server, name string) error {
	seen := map[string]runbook.StepState{}
	for {
		var x runbook.Execution
		if err := fleet.call(cmd.Context(), http.MethodGet, runbookPath(name, "execution"), nil, &x); err != nil {
			return err
		}
		for i, s := range x.Steps {
			if seen[s.Spec.ID] == s.State || s.State == runbook.StepPending {
				continue
			}
			seen[s.Spec.ID] = s.State
			fmt.Fprintf(cmd.OutOrStdout(), "%s %d/%d %-16s %-8s %s\n", changedAt(&s).Local().Format(time.TimeOnly), i+1, len(x.Steps), s.Spec.ID, s.State, lastEvidence(&s))
		}
		switch {
		case x.State == runbook.Completed:
			fmt.Fprintf(cmd.OutOrStdout(), "completed in %.1f s\n", x.Ended.Sub(x.Started).Seconds())
			return nil
		case x.State.Ended():
			return withCode(exitNotMet, fmt.Errorf("%s: %s", x.State, x.Problem))
		case x.State == runbook.Stopped:
			return &codedError{fmt.Errorf("stopped: %s", x.Problem), exitNotMet, fmt.Sprintf("replicator runbook retry|rollback|abort %s", name)}
		case x.Waiting() != "":
			return withCode(exitWaiting, fmt.Errorf("waits: %s", x.Waiting()))
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// changedAt is when a step came to be as it is, as far as it says so.
func changedAt(s *runbook.StepRun) time.Time {
	switch {
	case !s.Ended.IsZero():
		return s.Ended
	case len(s.Evidence) > 0:
		return s.Evidence[len(s.Evidence)-1].At
	case !s.Started.IsZero():
		return s.Started
	}
	return time.Now()
}

func lastEvidence(s *runbook.StepRun) string {
	if s.Problem != "" {
		return s.Problem
	}
	if len(s.Evidence) == 0 {
		return ""
	}
	return s.Evidence[len(s.Evidence)-1].Text
}

func runbookReport() *cobra.Command {
	var fleet server
	var format string
	cmd := &cobra.Command{
		Use: "report NAME", Short: "The latest run with all evidence, as Markdown or JSON", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "report"
			if format == "json" {
				what = "execution"
			}
			raw, err := fleet.fetch(cmd.Context(), http.MethodGet, runbookPath(args[0], what), nil, "")
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(raw)
			return err
		},
	}
	fleet.flags(cmd)
	formatFlag(cmd, &format, "markdown", "json")
	return cmd
}

func runbookDecide(decision, short string, step bool) *cobra.Command {
	var fleet server
	var reason, id string
	cmd := &cobra.Command{
		Use: decision + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var x runbook.Execution
			if err := fleet.call(cmd.Context(), http.MethodPost, runbookPath(args[0], decision)+query("reason", reason, "step", id), nil, &x); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", x.ID, x.State)
			return nil
		},
	}
	fleet.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "stands in the evidence")
	if step {
		cmd.Flags().StringVar(&id, "step", "", "id of the step (if several could be meant)")
	}
	return cmd
}

func drawExecution(t *table, x *runbook.Execution) {
	t.row("STEP", "DOES", "STATE", "LIMIT")
	for i := range x.Steps {
		s := &x.Steps[i]
		t.row(s.Spec.ID, runbook.Describe(&s.Spec).Does, s.State, s.Spec.Timeout)
	}
}
