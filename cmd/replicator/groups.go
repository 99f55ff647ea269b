package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

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
  replicator groups move --flow us-eu billing --reason CHG-1042
  replicator groups return --flow us-eu billing
  replicator groups translate us/orders/3/1041`,
	}, groupsList(), groupsPlan(), groupsMove(false), groupsMove(true), groupsTranslate())
}

func groupsList() *cobra.Command {
	var fleet server
	var out output
	var flow string
	cmd := &cobra.Command{
		Use: "list --flow FLOW [GROUP...]", Short: "Each group, or those named, in each partition", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			rows, err := fleet.groups(cmd.Context(), flow, names)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), rows.Rows, func(t *table) {
				t.row("GROUP", "SOURCE", "COMMITTED", "DESTINATION", "TRANSLATED", "EXACT", "COMMITTED-THERE", "WHY")
				for _, r := range rows.Rows {
					why := cmp.Or(r.Because, string(r.Result.Why))
					if r.Why != "" && r.Why != why {
						why += "; " + r.Why
					}
					if r.Source.Topic == "" { // nothing of it can be had
						t.row(r.Group, "-", "-", "-", "-", "-", "-", why)
						continue
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
	var back bool
	cmd := &cobra.Command{
		Use: "plan --flow FLOW [GROUP...]", Short: "What each group would read again or skip if it moved now", Args: cobra.ArbitraryArgs,
		Long: `What each group, or those named, would read again or skip if it moved to the
destination now, or with --return, if it came home. Ends with 6 unless every one is
ready or has moved.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			var rows api.GroupRows
			var err error
			if back {
				q := whichGroups(names)
				q.Set("dryRun", "true")
				err = fleet.call(cmd.Context(), http.MethodPost, groupsPath(flow)+"/return?"+q.Encode(), nil, &rows)
			} else {
				rows, err = fleet.groups(cmd.Context(), flow, names)
			}
			if err != nil {
				return err
			}
			ready := true
			err = out.print(cmd.OutOrStdout(), rows.Groups, func(t *table) { drawGroupPlans(t, rows.Groups) })
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
	cmd.Flags().BoolVar(&back, "return", false, "of the groups that have moved: what they would meet at the source (needs the role admin)")
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

// drawGroupPlans is a line for each group, and below the reasons against it.
func drawGroupPlans(t *table, plans []offsets.GroupPlan) {
	t.row("GROUP", "VERDICT", "PARTITIONS", "EXACT", "READ-AGAIN", "SKIPPED", "PENDING")
	for _, g := range plans {
		t.row(g.Group, g.Verdict, g.Partitions, g.Exact, g.Reread, g.Skipped, g.Pending)
	}
	for _, g := range plans {
		for _, why := range g.Why {
			t.line("  " + g.Group + ": " + why)
		}
	}
}

// whichGroups is the query for groups that change sides: those named, or all.
func whichGroups(names []string) url.Values {
	if len(names) == 0 {
		return url.Values{"all": {"true"}}
	}
	return url.Values{"group": names}
}

// groups are those of a flow that are named, or all if none is, page by page.
func (s *server) groups(ctx context.Context, flow string, names []string) (all api.GroupRows, err error) {
	all = api.GroupRows{Flow: flow, Groups: []offsets.GroupPlan{}, Rows: []offsets.Row{}}
	query := url.Values{}
	if len(names) > 0 {
		query["group"] = names
	}
	for {
		path := groupsPath(flow)
		if len(query) > 0 {
			path += "?" + query.Encode()
		}
		var page api.GroupRows
		if err := s.call(ctx, http.MethodGet, path, nil, &page); err != nil {
			return all, err
		}
		all.Groups, all.Rows = append(all.Groups, page.Groups...), append(all.Rows, page.Rows...)
		if page.Next == "" {
			return all, nil
		}
		query.Set("cursor", page.Next)
	}
}

func groupsPath(flow string) string { return "/api/v1/flows/" + url.PathEscape(flow) + "/groups" }

// groupsMove is 'groups move', or 'groups return'.
func groupsMove(back bool) *cobra.Command {
	var fleet server
	var out output
	var flow, reason string
	var all, inexact, dropMetadata, dryRun bool
	verb, side, short := "move", "destination", "Let groups go on at the destination, where they have read everything that they had"
	long := short + `.

Commits the exact positions of the groups at the destination and reads them back, all
of them or none, and has the fleet remember that they have moved: it does not touch
them there again. A group must have stopped on both sides, or have read everything at
the source. It may be repeated.`
	if back {
		verb, side, short = "return", "source", "Let groups that have moved go on at the source again"
		long = short + `.

Translates where the groups stand at the destination back, commits that at the
source and reads it back, all of them or none. What they once committed there is
replaced, and their positions at the destination follow the source again. Where both
sides were written, a flow back must have copied what the source lacks: else the
records that the groups could not read there are counted as skipped. It may be
repeated.`
	}
	cmd := &cobra.Command{
		Use: verb + " --flow FLOW [GROUP...]", Short: short, Long: long, Args: cobra.ArbitraryArgs, // see --all
		Example: "  replicator groups " + verb + " --flow us-eu billing --reason CHG-1042\n  replicator groups " + verb + " --flow us-eu --all --dry-run",
		RunE: func(cmd *cobra.Command, names []string) error {
			if all == (len(names) > 0) {
				return withCode(exitInvalid, errors.New("name the groups, or say --all"))
			}
			q := whichGroups(names)
			for name, on := range map[string]bool{"inexact": inexact, "dropMetadata": dropMetadata, "dryRun": dryRun} {
				if on {
					q.Set(name, "true")
				}
			}
			if reason != "" {
				q.Set("reason", reason)
			}
			var rows api.GroupRows
			if err := fleet.call(cmd.Context(), http.MethodPost, groupsPath(flow)+"/"+verb+"?"+q.Encode(), nil, &rows); err != nil {
				return err
			}
			if dryRun {
				return out.print(cmd.OutOrStdout(), rows.Groups, func(t *table) { drawGroupPlans(t, rows.Groups) })
			}
			return out.print(cmd.OutOrStdout(), rows.Rows, func(t *table) {
				if len(rows.Rows) == 0 {
					t.line("no group is left to " + verb)
					return
				}
				t.row("GROUP", "STOOD-AT", "OFFSET", "GOES-ON-AT", "OFFSET", "READ-AGAIN", "SKIPPED", "BECAUSE")
				for _, r := range rows.Rows {
					t.row(r.Group, r.Source, r.SourceOffset, r.Destination, r.Result.Offset, r.Result.Reread, r.Result.Skipped, r.Because)
				}
			})
		},
	}
	flowFlag(cmd, &flow)
	f := cmd.Flags()
	f.BoolVar(&all, "all", false, "every group of the flow that is not on that side ("+side+") yet")
	f.BoolVar(&inexact, "inexact", false, "also groups that read records again, or skip some, as 'groups plan' says")
	f.BoolVar(&dropMetadata, "drop-metadata", false, "leave out the metadata of the groups' own commits, which may speak of offsets")
	f.BoolVar(&dryRun, "dry-run", false, "say what would happen, and commit nothing")
	f.StringVar(&reason, "reason", "", "is remembered")
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func groupsTranslate() *cobra.Command {
	var fleet server
	var to, file, format string
	cmd := &cobra.Command{
		Use: "translate CLUSTER/TOPIC/PARTITION/OFFSET | --file FILE CLUSTER", Short: "Where positions lie on the other side",
		Long: `Where positions lie on the other side: one, or those of a file with lines of
topic,partition,offset (- is standard input), for applications that keep their offsets
outside Kafka. With -o kafka the answers are such lines, too, as
'kafka-consumer-groups --reset-offsets --from-file' reads them.`,
		Example: `  replicator groups translate us/orders/3/1041
  replicator groups translate us --file positions.csv --to eu -o csv`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			method, path, body, err := translateRequest(args[0], file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			q := url.Values{}
			if to != "" {
				q.Set("to", to)
			}
			if format == "csv" || format == "kafka" {
				q.Set("format", format)
			}
			raw, err := fleet.fetch(cmd.Context(), method, "/api/v1/offsets/"+path+"?"+q.Encode(), body, "")
			if err != nil {
				return err
			}
			if q.Has("format") {
				_, err = cmd.OutOrStdout().Write(raw)
				return err
			}
			var list api.TranslationList
			if file == "" {
				list.Translations = make([]api.Translations, 1)
				err = json.Unmarshal(raw, &list.Translations[0])
			} else {
				err = json.Unmarshal(raw, &list)
			}
			if err != nil {
				return fmt.Errorf("the answer is not what this version expects: %w", err)
			}
			out, v := output{format}, any(list.Translations)
			if file == "" {
				v = list.Translations[0]
			}
			return out.print(cmd.OutOrStdout(), v, func(t *table) { drawTranslations(t, list.Translations) })
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "only in this cluster")
	cmd.Flags().StringVar(&file, "file", "", "file of positions; - is standard input")
	formatFlag(cmd, &format, "table", "json", "jsonl", "yaml", "csv", "kafka")
	fleet.flags(cmd)
	return cmd
}

// translateRequest is the request for one position, or for those of a file.
func translateRequest(where, file string, stdin io.Reader) (method, path string, body []byte, err error) {
	if file == "" {
		path, err = addressPath(where, 4)
		return http.MethodGet, path, nil, err
	}
	if strings.Contains(where, "/") {
		return "", "", nil, withCode(exitInvalid, fmt.Errorf("%q: with --file only the cluster is named", where))
	}
	if file == "-" {
		body, err = io.ReadAll(io.LimitReader(stdin, api.MaxBody+1))
	} else {
		body, err = os.ReadFile(file)
	}
	if err != nil {
		return "", "", nil, withCode(exitInvalid, fmt.Errorf("--file: %w", err))
	}
	return http.MethodPost, url.PathEscape(where), body, nil
}

func drawTranslations(t *table, all []api.Translations) {
	t.row("FROM", "POSITION", "FLOW", "EXACT", "READ-AGAIN", "SKIPPED", "WHY")
	for _, a := range all {
		from := fmt.Sprintf("%s/%s/%d/%d", a.From.Cluster, a.From.Topic, a.From.Partition, a.From.Offset)
		if len(a.To) == 0 {
			t.row(from, "-", "-", "-", "-", "-", cmp.Or(a.Note, "nothing of that partition has been copied, as far as the ledgers tell"))
		}
		for _, to := range a.To {
			why := string(to.Result.Why)
			if to.Result.Note != "" {
				why += ": " + to.Result.Note
			}
			t.row(from, fmt.Sprintf("%s/%s/%d/%s", to.To.Cluster, to.To.Topic, to.To.Partition, known(to.To.Offset)),
				to.Flow, yes(to.Result.Exact), to.Result.Reread, to.Result.Skipped, why)
		}
	}
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
