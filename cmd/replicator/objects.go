package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
)

// readObjects reads declarations; every fault of every file is in the error.
func readObjects(paths []string, stdin io.Reader) ([]flow.Object, error) {
	if len(paths) == 0 {
		return nil, withCode(exitInvalid, errors.New("no file given: use -f FILE, -f FOLDER or -f -"))
	}
	objects, err := flow.ReadFiles(stdin, paths...)
	if err != nil {
		return nil, withCode(exitInvalid, invalid(err))
	}
	return objects, nil
}

// invalid puts each fault on a line of its own.
func invalid(err error) error {
	var all flow.Problems
	if !errors.As(err, &all) {
		return err
	}
	return fmt.Errorf("%s:\n%w", several(len(all), "fault"), all)
}

// fileFlags is -f of the commands that read declarations.
type fileFlags struct{ paths []string }

func (f *fileFlags) flag(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.paths, "file", "f", nil, "YAML file, folder of such files, or - for standard input (repeatable)")
}

// stream is all files as one YAML stream, after they were found to be valid.
func (f *fileFlags) stream(stdin io.Reader) ([]byte, error) {
	objects, err := readObjects(f.paths, stdin)
	if err != nil {
		return nil, err
	}
	return flow.MarshalYAML(objects...)
}

func newValidate() *cobra.Command {
	var files fileFlags
	cmd := &cobra.Command{
		Use:   "validate -f FILE",
		Short: "Check declarations without a fleet",
		Long: `Check declarations without a fleet: each by itself, and all of them together.

Names must exist among them, unless nothing of their kind is there: a file of
flows alone may name clusters that were declared before.`,
		Example: "  replicator validate -f flows/",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			objects, err := readObjects(files.paths, cmd.InOrStdin())
			if err != nil {
				return err
			}
			faults, elsewhere := flow.CheckPart(objects)
			if len(faults) > 0 {
				return withCode(exitInvalid, invalid(faults))
			}
			for _, o := range objects {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is valid\n", o.Key())
			}
			if len(elsewhere) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "not among them, so not looked at: %s; 'replicator plan' asks the fleet\n", strings.Join(elsewhere, ", "))
			}
			return nil
		},
	}
	files.flag(cmd)
	return cmd
}

func newPlan() *cobra.Command {
	var files fileFlags
	var fleet server
	var out output
	var exitCode bool
	cmd := &cobra.Command{
		Use:     "plan -f FILE",
		Short:   "Say what apply would change",
		Example: "  replicator plan -f us-eu.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			applied, err := apply(cmd.Context(), &fleet, &files, cmd.InOrStdin(), "?dryRun=true", "")
			if err != nil {
				return err
			}
			if err := out.print(cmd.OutOrStdout(), applied, func(t *table) { drawChanges(t, applied, "would be ") }); err != nil {
				return err
			}
			if exitCode && changes(applied) > 0 {
				return withCode(exitChanges, errSilent)
			}
			return nil
		},
	}
	files.flag(cmd)
	fleet.flags(cmd)
	out.flag(cmd)
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "end with 2 if there are changes")
	return cmd
}

func newApply() *cobra.Command {
	var files fileFlags
	var fleet server
	var out output
	var revision string
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Declare objects to the fleet, all or none",
		Example: `  replicator apply -f us-eu.yaml
  replicator apply -f us-eu.yaml --revision 12`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			applied, err := apply(cmd.Context(), &fleet, &files, cmd.InOrStdin(), "", revision)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), applied, func(t *table) { drawChanges(t, applied, "") })
		},
	}
	cmd.Flags().StringVar(&revision, "revision", "", "only if the objects are still at this one, which plan prints")
	files.flag(cmd)
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func apply(ctx context.Context, fleet *server, files *fileFlags, stdin io.Reader, query, revision string) (api.Applied, error) {
	var applied api.Applied
	yaml, err := files.stream(stdin)
	if err != nil {
		return applied, err
	}
	return applied, fleet.callAt(ctx, http.MethodPost, "/api/v1/apply"+query, yaml, revision, &applied)
}

func changes(a api.Applied) (n int) {
	for _, c := range a.Changes {
		if c.Action != actionUnchanged {
			n++
		}
	}
	return n
}

func drawChanges(t *table, a api.Applied, would string) {
	words := map[string]string{"create": "created", "update": "changed", actionUnchanged: "unchanged"}
	for _, c := range a.Changes {
		verb := words[c.Action]
		if c.Action != actionUnchanged {
			verb = would + verb
		}
		t.line(fmt.Sprintf("%s/%s %s", c.Kind, c.Name, verb))
		for _, line := range c.Diff {
			t.line("  " + line)
		}
	}
	for _, note := range a.Notes {
		t.line(note)
	}
	for _, w := range a.Warnings {
		t.line("warning: " + w)
	}
	t.line(fmt.Sprintf("revision %d", a.Revision))
}

// kindOf accepts what people type for a kind.
func kindOf(word string) (string, error) {
	switch strings.ToLower(word) {
	case "cluster", "clusters":
		return string(flow.KindCluster), nil
	case "flow", "flows", "replicationflow", "replicationflows":
		return string(flow.KindReplicationFlow), nil
	case "runbook", "runbooks":
		return string(flow.KindRunbook), nil
	}
	return "", withCode(exitInvalid, fmt.Errorf("%q is not a kind: use cluster, flow or runbook", word))
}

func newGet() *cobra.Command {
	var fleet server
	var out output
	var stale bool
	cmd := &cobra.Command{
		Use:   "get [KIND [NAME]]",
		Short: "Show declared objects",
		Example: `  replicator get
  replicator get flow us-eu -o yaml`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := getObjects(cmd.Context(), &fleet, args, stale)
			if err != nil {
				return err
			}
			if len(args) == 2 {
				return out.print(cmd.OutOrStdout(), list.Objects[0].Object, func(t *table) { drawObjects(t, list) })
			}
			return out.print(cmd.OutOrStdout(), list, func(t *table) { drawObjects(t, list) })
		},
	}
	cmd.Flags().BoolVar(&stale, "stale", false, "what the asked node knows, also while the fleet has no majority")
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func getObjects(ctx context.Context, fleet *server, args []string, stale bool) (api.ObjectList, error) {
	var list api.ObjectList
	query := url.Values{}
	if stale {
		query.Set("consistency", "stale")
	}
	path := func(p string) string {
		if len(query) == 0 {
			return p
		}
		return p + "?" + query.Encode()
	}
	if len(args) == 0 {
		return list, fleet.call(ctx, http.MethodGet, path("/api/v1/objects"), nil, &list)
	}
	kind, err := kindOf(args[0])
	if err != nil {
		return list, err
	}
	if len(args) == 1 {
		query.Set("kind", kind)
		return list, fleet.call(ctx, http.MethodGet, path("/api/v1/objects"), nil, &list)
	}
	list.Objects = make([]api.Object, 1)
	return list, fleet.call(ctx, http.MethodGet, path("/api/v1/objects/"+kind+"/"+url.PathEscape(args[1])), nil, &list.Objects[0])
}

func drawObjects(t *table, list api.ObjectList) {
	t.row("KIND", "NAME", "REVISION", "CHANGED", "BY")
	for _, o := range list.Objects {
		when, by := "-", "-"
		if o.Changed != nil {
			when, by = o.Changed.Time.Format(time.RFC3339), o.Changed.User
		}
		t.row(o.Kind, o.Name, o.Revision, when, by)
	}
}

func newDelete() *cobra.Command {
	var fleet server
	var revision string
	cmd := &cobra.Command{
		Use:     "delete KIND NAME",
		Short:   "Remove an object; topics and records stay",
		Example: "  replicator delete flow us-eu\n  replicator delete flow us-eu --revision 12",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindOf(args[0])
			if err != nil {
				return err
			}
			if err := fleet.callAt(cmd.Context(), http.MethodDelete, "/api/v1/objects/"+kind+"/"+url.PathEscape(args[1]), nil, revision, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s/%s deleted\n", kind, args[1])
			return nil
		},
	}
	cmd.Flags().StringVar(&revision, "revision", "", "only if the object is still at this one, which get prints")
	fleet.flags(cmd)
	return cmd
}
