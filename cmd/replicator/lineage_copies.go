package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/lineage"
)

// copiesAsk is what a user of 'lineage copies' asks for.
type copiesAsk struct {
	topicID, direction string
	from, to           int64
	exact              bool
	limit              int
}

func lineageCopies() *cobra.Command {
	var fleet server
	var out output
	var ask copiesAsk
	cmd := &cobra.Command{
		Use:   "copies CLUSTER/TOPIC/PARTITION",
		Short: "Where copies of a range of offsets lie, up and down stream",
		Example: `  replicator lineage copies us/orders/3 --from 1000 --to 2000
  replicator lineage copies eu/orders/3 --direction up --exact`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if ask.limit < 1 {
				return withCode(exitInvalid, fmt.Errorf("--limit %d: at least 1", ask.limit))
			}
			page, err := rangePages(cmd.Context(), &fleet, args[0], ask)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), page, func(t *table) { drawRange(t, page) })
		},
	}
	f := cmd.Flags()
	f.Int64Var(&ask.from, "from", 0, "first offset")
	f.Int64Var(&ask.to, "to", -1, "last offset; -1 is the end")
	f.Var(&choice{&ask.direction, []string{"both", "up", "down"}}, "direction", "both, up or down")
	f.BoolVar(&ask.exact, "exact", false, "a row for each run and each gap, where one copy's would be one")
	f.IntVar(&ask.limit, "limit", 1000, "how many rows at the most")
	lifeFlag(cmd, &ask.topicID)
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

// rangePages reads pages up to the limit. What one copy did in two pages stays two rows.
func rangePages(ctx context.Context, fleet *server, address string, ask copiesAsk) (*lineage.RangePage, error) {
	path, err := addressPath(address, 3)
	if err != nil {
		return nil, err
	}
	all := &lineage.RangePage{Rows: []lineage.RangeRow{}}
	for first := true; ; first = false {
		var page lineage.RangePage
		q := query("topicId", ask.topicID, "from", strconv.FormatInt(ask.from, 10), "to", strconv.FormatInt(ask.to, 10), "direction", ask.direction,
			"exact", strconv.FormatBool(ask.exact), "limit", strconv.Itoa(min(pageSize, ask.limit-len(all.Rows))), "cursor", all.Next)
		if err := fleet.call(ctx, http.MethodGet, "/api/v1/lineage/copies/"+path+q, nil, &page); err != nil {
			return nil, err
		}
		if first {
			all.First = page.First
		}
		all.Rows, all.Last, all.Next = append(all.Rows, page.Rows...), page.Last, page.Next
		all.Unknown = append(all.Unknown, page.Unknown...)
		if page.Truncated != "" {
			all.Truncated = page.Truncated
		}
		if page.Next == "" || len(all.Rows) >= ask.limit {
			slices.Sort(all.Unknown)
			all.Unknown = slices.Compact(all.Unknown)
			return all, nil
		}
	}
}

func drawRange(t *table, page *lineage.RangePage) {
	t.row("SOURCE", "OFFSETS", "DESTINATION", "OFFSETS", "RECORDS", "NOT COPIED", "FLOW", "UNTIL")
	for _, r := range page.Rows {
		until := "-"
		if r.At != nil {
			until = r.At.Local().Format("2006-01-02 15:04:05.000")
		}
		records := count(r.Records)
		if r.Source.Redacted || r.Destination.Redacted {
			records = "-"
		}
		t.row(sideOf(r.Source), offsetsOf(r.Source), sideOf(r.Destination), offsetsOf(r.Destination), records, or(gapsOf(r.Gaps)), or(r.Flow), until)
	}
	if page.Next != "" {
		t.line(fmt.Sprintf("this is about offsets %d to %d, there is more: raise --limit", page.First, page.Last))
	}
	for _, u := range page.Unknown {
		t.line("unknown: " + u)
	}
	if page.Truncated != "" {
		t.line("cut off: " + page.Truncated)
	}
}

func sideOf(s lineage.Stretch) string {
	if s.Redacted {
		return "a partition that you may not see"
	}
	name := fmt.Sprintf("%s/%s/%d", s.Cluster, s.Topic, s.Partition)
	if s.EarlierLife {
		name += " (an earlier life)"
	}
	return name
}

func offsetsOf(s lineage.Stretch) string {
	switch {
	case s.First < 0:
		return "-"
	case s.First == s.Last:
		return strconv.FormatInt(s.First, 10)
	}
	return fmt.Sprintf("%d-%d", s.First, s.Last)
}

func gapsOf(gaps map[string]int64) string {
	var all []string
	for _, reason := range slices.Sorted(maps.Keys(gaps)) {
		all = append(all, count(gaps[reason])+" "+reason)
	}
	return strings.Join(all, ", ")
}
