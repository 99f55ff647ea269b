package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/offsets"
)

func newGroups() *cobra.Command {
	return family(&cobra.Command{
		Use:   "groups",
		Short: "Consumer groups: where they stand on both sides, and why",
		Example: `  replicator groups list --flow us-eu
  replicator groups plan --flow us-eu
  replicator groups translate us/orders/3/1041`,
	}, groupsList(), groupsPlan(), groupsTranslate())
}

// flowGroups is what 'groups list' and 'groups plan' both ask for.
func flowGroups(cmd *cobra.Command, fleet *server, flow string) (api.GroupRows, error) {
	var rows api.GroupRows
	return rows, fleet.call(cmd.Context(), http.MethodGet, "/api/v1/flows/"+url.PathEscape(flow)+"/groups", nil, &rows)
}

func groupsList() *cobra.Command {
	var fleet server
	var out output
	var flow string
	cmd := &cobra.Command{
		Use: "list --flow FLOW", Short: "Each group in each partition", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows, err := flowGroups(cmd, &fleet, flow)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), rows.Rows, func(t *table) {
				t.row("GROUP", "SOURCE", "COMMITTED", "DESTINATION", "TRANSLATED", "EXACT", "COMMITTED-THERE", "WHY")
				for _, r := range rows.Rows {
					why := string(r.Result.Why)
					if r.Why != "" {
						why += "; " + r.Why
					}
					t.row(r.Group, r.Source, r.SourceOffset, r.Destination, known(r.Result.Offset), yes(r.Result.Exact), known(r.Present), why)
				}
			})
		},
	}
	flowFlag(cmd, &flow)
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func groupsPlan() *cobra.Command {
	var fleet server
	var out output
	var flow string
	cmd := &cobra.Command{
		Use: "plan --flow FLOW", Short: "What each group would read again or skip if it moved now", Args: cobra.NoArgs,
		Long: "What each group would read again or skip if it moved to the destination now.\nEnds with 6 unless every group is ready or has moved.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows, err := flowGroups(cmd, &fleet, flow)
			if err != nil {
				return err
			}
			ready := true
			err = out.print(cmd.OutOrStdout(), rows.Groups, func(t *table) {
				t.row("GROUP", "VERDICT", "PARTITIONS", "EXACT", "READ-AGAIN", "SKIPPED", "PENDING")
				for _, g := range rows.Groups {
					t.row(g.Group, g.Verdict, g.Partitions, g.Exact, g.Reread, g.Skipped, g.Pending)
				}
				for _, g := range rows.Groups {
					for _, why := range g.Why {
						t.line("  " + g.Group + ": " + why)
					}
				}
			})
			for _, g := range rows.Groups {
				ready = ready && (g.Verdict == offsets.Ready || g.Verdict == offsets.HasMoved)
			}
			if err == nil && !ready {
				return withCode(exitNotMet, errSilent)
			}
			return err
		},
	}
	flowFlag(cmd, &flow)
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func groupsTranslate() *cobra.Command {
	var fleet server
	var out output
	var to string
	cmd := &cobra.Command{
		Use: "translate CLUSTER/TOPIC/PARTITION/OFFSET", Short: "Where a position lies on the other side", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := addressPath(args[0], 4)
			if err != nil {
				return err
			}
			var answer api.Translations
			if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/offsets/"+path+query("to", to), nil, &answer); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), answer, func(t *table) {
				if len(answer.To) == 0 {
					t.line("nothing of that partition has been copied, as far as the ledgers tell")
					return
				}
				t.row("POSITION", "FLOW", "EXACT", "WHY")
				for _, to := range answer.To {
					t.row(fmt.Sprintf("%s/%s/%d/%s", to.To.Cluster, to.To.Topic, to.To.Partition, known(to.To.Offset)), to.Flow, yes(to.Result.Exact), to.Result.Why)
				}
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "only in this cluster")
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func flowFlag(cmd *cobra.Command, flow *string) {
	cmd.Flags().StringVar(flow, "flow", "", "name of the flow")
	_ = cmd.MarkFlagRequired("flow") // fails only if the flag is missing
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
