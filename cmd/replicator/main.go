package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the release build (-ldflags "-X main.version=v1.2.3").
var version = "dev"

func main() {
	ctx := untilSignal()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// untilSignal is a context that ends with the first SIGINT or SIGTERM. The second
// ends the process, whatever it is waiting for.
func untilSignal() context.Context {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	began := false
	each(root, func(cmd *cobra.Command) {
		if act := cmd.RunE; act != nil {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				began = true
				return act(cmd, args)
			}
		}
	})
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !began {
		err = misused(cmd, err)
	}
	report(ctx, stderr, err)
	return exitCode(ctx, err)
}

// each visits a command and all below it.
func each(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		each(c, visit)
	}
}

// family is a command that does nothing but hold others.
func family(cmd *cobra.Command, members ...*cobra.Command) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			text += "; did you mean " + strings.Join(near, ", ") + "?"
		}
		return misused(cmd, errors.New(text))
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(members...)
	return cmd
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "replicator",
		Short:         "Mirror topics between Kafka clusters, translate offsets exactly, know where every event came from",
		Long:          "Waybill mirrors topics between Kafka clusters, translates consumer offsets exactly\nand records where every event came from and who read it.\n\nStart with 'replicator demo'.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.AddGroup(
		&cobra.Group{ID: "processes", Title: "Processes:"},
		&cobra.Group{ID: "objects", Title: "Objects (clusters, flows, runbooks):"},
		&cobra.Group{ID: "fleet", Title: "The fleet:"},
		&cobra.Group{ID: "looking", Title: "Looking:"},
		&cobra.Group{ID: "kafka", Title: "A cluster by hand:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("processes", newDemo(), newServe(), newBroker(), newVersion())
	add("objects", newValidate(), newPlan(), newApply(), newGet(), newEdit(), newDelete(), newPause(), newResume(), newRunbook())
	add("fleet", newFleet())
	add("looking", newStatus(), newVerify(), newLedger(), newGroups(), newLineage(), newAudit(), newDoctor(), newSupportBundle(), newDump())
	add("kafka", newTopic(), newProduce(), newConsume())
	root.AddCommand(newExitCodes())
	root.SetHelpCommandGroupID("looking")
	root.SetCompletionCommandGroupID("looking")
	return family(root)
}
