package main

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
)

func lineageFold() *cobra.Command {
	var fleet server
	var out output
	var before, reason string
	var remove, dry bool
	cmd := &cobra.Command{
		Use:   "fold CLUSTER",
		Short: "Put the oldest part of a ledger together, and delete it",
		Long: `Put the oldest part of a ledger together, and delete it.

The node that is asked reads the whole ledger of a cluster and writes a fold behind it,
from which every offset is translated as from the pages, exactly and both ways. It reads
it back, folds again, and compares every translation with that of the pages. Only then,
and only with --delete, what the fold stands for is deleted. A ledger in which anything is
missing, altered or contradictory is not folded.

With --before what came since stays as it was written: only that is deleted for which a fold
stands that was there by then. So give it regularly, and the time is the age of what goes.

What a fold does not keep are digests of payloads, for which 'replicator verify' asks, and
the hour: of each copying and reading the day remains. It needs Alter on the cluster. The
command waits until all is done; interrupted, it is begun anew or goes on.`,
		Example: `  replicator lineage fold us --dry-run
  replicator lineage fold us --delete --reason CHG-1042
  replicator lineage fold us --delete --before 720h`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			if before != "" {
				at, err := moment(before, time.Now())
				if err != nil {
					return withCode(exitInvalid, fmt.Errorf("--before %s: %w", before, err))
				}
				if !at.IsZero() {
					q.Set("before", at.UTC().Format(time.RFC3339Nano))
				}
			}
			for name, set := range map[string]bool{"delete": remove, "dryRun": dry} {
				if set {
					q.Set(name, "true")
				}
			}
			if reason != "" {
				q.Set("reason", reason)
			}
			var r api.FoldReport
			if err := fleet.call(cmd.Context(), http.MethodPost, "/api/v1/lineage/fold/"+url.PathEscape(args[0])+"?"+q.Encode(), nil, &r); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), r, func(t *table) { drawFold(t, &r) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&before, "before", "", "delete only what folds stand for that are as old: how long ago, or a time (RFC 3339)")
	f.BoolVar(&remove, "delete", false, "delete what is folded, once it is proved")
	f.BoolVar(&dry, "dry-run", false, "read, prove and say what would be done; write nothing")
	f.StringVar(&reason, "reason", "", "is remembered")
	cmd.MarkFlagsMutuallyExclusive("delete", "dry-run")
	fleet.flags(cmd)
	waits := f.Lookup("timeout") // a large ledger takes long
	waits.DefValue, fleet.timeout = "0s", 0
	out.flag(cmd)
	return cmd
}

func drawFold(t *table, r *api.FoldReport) {
	t.row("PARTITION", "FROM", "BELOW", "PAGES", "BYTES", "FOLDED PAGES", "FOLDED BYTES", "FOLD", "DELETED")
	var waits, goes bool
	for i := range r.Partitions {
		p := &r.Partitions[i]
		t.row(p.Partition, p.Start, p.Below, count(int64(p.Pages)), count(p.Bytes), count(int64(p.FoldPages)), count(p.FoldBytes), foldText(r, p), yes(p.Deleted))
		waits = waits || p.Below == p.Start && p.FoldPages > 0
		goes = goes || p.Below > p.Start && !p.Deleted
	}
	t.line("")
	switch {
	case r.DryRun:
		t.line("nothing was written; every translation is the same from a fold")
	case goes:
		t.line("every translation is the same from the fold; --delete deletes what lies below")
	case waits:
		t.line("no fold is old enough yet: nothing was deleted")
	default:
		t.line("every translation is the same from the fold")
	}
}

// foldText says where a fold came from.
func foldText(r *api.FoldReport, p *api.FoldedPartition) string {
	switch {
	case p.Wrote && r.DryRun:
		return "would be written"
	case p.Wrote:
		return "written"
	case p.FoldPages > 0:
		return "was there"
	}
	return "nothing to fold"
}
