package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/lineage"
)

func lineageCheck() *cobra.Command {
	var fleet server
	var out output
	var anchors []string
	var anchorFile string
	cmd := &cobra.Command{
		Use:   "check CLUSTER",
		Short: "Find what was removed, altered or moved in a ledger",
		Long: `Find what was removed, altered or moved in a ledger.

Reads the whole ledger of a cluster and follows the chain of each of its writers.
The last page of each writer has none behind it that would vouch for it: keep the
anchors that a check prints, elsewhere, and give them to the next check, which then
finds whether anything before them is not as it was. Exits with 6 if it finds
anything or could not read all.`,
		Example: `  replicator lineage check eu
  replicator lineage check eu -o json | jq -r '.partitions[].anchor' > eu.anchors
  replicator lineage check eu --anchors eu.anchors`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if anchorFile != "" {
				b, err := os.ReadFile(anchorFile)
				if err != nil {
					return withCode(exitInvalid, err)
				}
				anchors = append(anchors, strings.Fields(string(b))...)
			}
			q := url.Values{"anchor": anchors}
			var r lineage.CheckReport
			if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/lineage/check/"+url.PathEscape(args[0])+"?"+q.Encode(), nil, &r); err != nil {
				return err
			}
			if err := out.print(cmd.OutOrStdout(), r, func(t *table) { drawCheck(t, &r) }); err != nil {
				return err
			}
			if len(r.Findings) > 0 || r.Incomplete != "" {
				return withCode(exitNotMet, errSilent)
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&anchors, "anchor", nil, "anchor of an earlier check, PARTITION:OFFSET:SUM")
	cmd.Flags().StringVar(&anchorFile, "anchors", "", "file with anchors, one a line")
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func drawCheck(t *table, r *lineage.CheckReport) {
	t.row("PARTITION", "FROM", "TO", "PAGES", "ENTRIES", "BYTES", "WRITERS", "ANCHOR")
	for _, p := range r.Partitions {
		t.row(p.Partition, p.Start, p.End, count(p.Pages), count(p.Entries), count(p.Bytes), p.Writers, p.Anchor)
	}
	t.line("")
	drawFolded(t, r.Partitions)
	for _, f := range r.Findings {
		at := ""
		if f.At != nil {
			at = " (" + f.At.Local().Format(time.DateTime) + ")"
		}
		t.line(fmt.Sprintf("%s at partition %d, offset %d%s: %s", f.Kind, f.Partition, f.Offset, at, f.Reason))
	}
	if r.More > 0 {
		t.line(fmt.Sprintf("and %d more", r.More))
	}
	if r.Incomplete != "" {
		t.line("not all was read: " + r.Incomplete)
	}
	if len(r.Findings) == 0 && r.Incomplete == "" {
		t.line("every chain is whole")
	}
}

// drawFolded lists what folds say that they stand for.
func drawFolded(t *table, all []lineage.CheckedPartition) {
	title := false
	for _, p := range all {
		f := p.Folded
		if f == nil {
			continue
		}
		if !title {
			t.row("FOLDED", "BELOW", "PAGES", "FOLDED AT", "BY NODE", "SUM OF THE PAGES")
			title = true
		}
		t.row(p.Partition, f.Next, count(int64(f.Pages)), f.At.Local().Format(time.DateTime), or(f.Node), f.Sum)
	}
	if title {
		t.line("")
	}
}
