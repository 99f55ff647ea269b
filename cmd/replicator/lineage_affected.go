package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/lineage"
)

func lineageAffected() *cobra.Command {
	var fleet server
	var out output
	var topicID string
	var from, to int64
	cmd := &cobra.Command{
		Use:   "affected CLUSTER[/TOPIC[/PARTITION]]",
		Short: "What is downstream: copies, readers, flows, runbooks",
		Example: `  replicator lineage affected us/orders
  replicator lineage affected us/orders/3 --from 1000 --to 2000
  replicator lineage affected us`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			parts := strings.Count(args[0], "/") + 1
			path, err := addressPath(args[0], min(parts, 3))
			if err != nil {
				return err
			}
			var ask []string
			for _, f := range []struct {
				name, key, value string
				parts            int
			}{{"topic-id", "topicId", topicID, 2}, {"from", "from", strconv.FormatInt(from, 10), 3}, {"to", "to", strconv.FormatInt(to, 10), 3}} {
				switch {
				case !cmd.Flags().Changed(f.name):
				case parts < f.parts:
					return withCode(exitInvalid, fmt.Errorf("--%s is about one %s: name it, or leave the flag out", f.name, []string{"topic", "partition"}[f.parts-2]))
				default:
					ask = append(ask, f.key, f.value)
				}
			}
			var a lineage.Affected
			if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/lineage/affected/"+path+query(ask...), nil, &a); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), a, func(t *table) { drawAffected(t, &a) })
		},
	}
	cmd.Flags().Int64Var(&from, "from", 0, "first offset")
	cmd.Flags().Int64Var(&to, "to", -1, "last offset; -1 is the end")
	lifeFlag(cmd, &topicID)
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func drawAffected(t *table, a *lineage.Affected) {
	name := func(i int) string {
		n := a.Topics[i]
		switch {
		case n.Redacted:
			return "a topic that you may not see"
		case n.EarlierLife:
			return n.Cluster + "/" + n.Topic + " (an earlier life)"
		}
		return n.Cluster + "/" + n.Topic
	}
	t.row("TOPIC", "HOPS", "OFFSETS")
	for i, n := range a.Topics {
		t.row(name(i), n.Hops, or(concerned(n.Partitions)))
	}
	t.line("")
	t.row("READER", "OF", "DID", "GROUP", "BASIS", "REACHED", "LAST")
	for _, r := range a.Readers {
		who, last, reached := or(r.Principal), "-", "yes"
		if r.ClientID != "" {
			who += " (" + r.ClientID + ")"
		}
		if r.Redacted {
			who = "somebody"
		}
		if r.At != nil {
			last = r.At.Local().Format(time.DateTime)
		}
		if !r.Reached {
			reached = "not known"
		}
		t.row(who, name(r.Topic), r.Kind, or(r.Group), strings.Join(r.Basis, ", "), reached, last)
	}
	t.line("")
	t.row("FLOW", "FLEET", "BASIS", "RUNBOOKS")
	for _, f := range a.Flows {
		if f.Redacted {
			t.row("a flow that you may not see", "-", "-", "-")
			continue
		}
		var books []string
		for _, b := range a.Runbooks {
			if b.Flow == f.Flow {
				books = append(books, b.Runbook)
			}
		}
		t.row(f.Flow, or(f.Fleet), strings.Join(f.Basis, ", "), or(strings.Join(books, ", ")))
	}
	for _, u := range a.Unknown {
		t.line("unknown: " + u)
	}
	for _, c := range a.Truncated {
		t.line("cut off: " + c)
	}
}

// concerned draws offsets by partition.
func concerned(partitions []lineage.AffectedPartition) string {
	var all []string
	for _, p := range partitions {
		switch {
		case p.First < 0 && p.Offsets < 0:
			all = append(all, fmt.Sprintf("all of %d", p.Partition))
		case p.First < 0:
			all = append(all, fmt.Sprintf("none of %d yet", p.Partition))
		case p.Last < 0:
			all = append(all, fmt.Sprintf("%d: from %d", p.Partition, p.First))
		default:
			all = append(all, fmt.Sprintf("%d: %d-%d (%s)", p.Partition, p.First, p.Last, count(p.Offsets)))
		}
	}
	return strings.Join(all, ", ")
}

// drawCopies draws the copies of a graph, with their paces.
func drawCopies(t *table, g *lineage.Graph, name func(int) string) {
	t.row("FROM", "TO", "FLOW", "RECORDS/S", "BYTES/S", "LAG", "SECONDS", "RECORDS", "BYTES", "GAPS")
	var unknown []string
	for _, c := range g.Copies {
		var records, bytes, gaps int64
		for _, p := range c.Partitions {
			n := gapCount(p)
			records, bytes, gaps = records+p.Records, bytes+p.Bytes, gaps+n
		}
		t.row(append(append([]any{name(c.From), name(c.To), or(c.Flow)}, paceCells(c.Pace)...), count(records), count(bytes), count(gaps))...)
		for _, p := range c.Partitions {
			if p.Pace != nil {
				t.row(append(append([]any{fmt.Sprintf("  %d", p.Source), fmt.Sprintf("  %d", p.Destination), ""}, paceCells(p.Pace)...), count(p.Records), count(p.Bytes), count(gapCount(p)))...)
			}
		}
		if c.Pace != nil {
			for _, u := range c.Pace.Unknown {
				unknown = append(unknown, name(c.From)+" to "+name(c.To)+": "+u)
			}
		}
	}
	for _, u := range unknown {
		t.line("unknown: " + u)
	}
}

func gapCount(p lineage.PartitionCopy) (n int64) {
	for _, count := range p.Gaps {
		n += count
	}
	return n
}

// paceCells are rates and lags, with a dash for what is not known.
func paceCells(p *lineage.Pace) []any {
	if p == nil {
		return []any{"-", "-", "-", "-"}
	}
	known := func(v float64, format string) string {
		if v < 0 {
			return "-"
		}
		return fmt.Sprintf(format, v)
	}
	return []any{known(p.RecordsPerSecond, "%.1f"), known(p.BytesPerSecond, "%.0f"), known(float64(p.LagRecords), "%.0f"), known(p.LagSeconds, "%.1f")}
}
