package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/ledger"
)

func newStatus() *cobra.Command {
	var fleet server
	var out output
	var watch, wide bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "How the fleet and its flows are doing",
		Example: `  replicator status
  replicator status --partitions
  replicator status --watch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for {
				var status api.Status
				if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/status", nil, &status); err != nil {
					return err
				}
				if watch && out.format == "table" && isTerminal(cmd.OutOrStdout()) {
					fmt.Fprint(cmd.OutOrStdout(), "\x1b[H\x1b[2J") // home, clear
				}
				if err := out.print(cmd.OutOrStdout(), status, func(t *table) { drawStatus(t, status, wide) }); err != nil || !watch {
					return err
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(time.Second):
				}
			}
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "again each second, until interrupted")
	cmd.Flags().BoolVar(&wide, "partitions", false, "every partition too")
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func drawStatus(t *table, s api.Status, partitions bool) {
	t.row("NODE", "STATE", "COPIES", "LOAD", "REGION", "API")
	for _, n := range s.Fleet.Nodes {
		t.row(n.Name, nodeState(n, s.Fleet.Leader), n.Copies, count(int64(n.BytesPerSecond))+" B/s", or(n.Region), n.Address)
	}
	t.line("")
	t.row("CLUSTER", "STATE", "LEDGER", "BEHIND", "DAMAGED", "ID")
	for _, c := range s.Clusters {
		t.row(c.Name, c.State, c.Ledger.State, records(c.Ledger.Behind), c.Ledger.Damaged, or(c.ID))
	}
	for _, c := range s.Clusters {
		drawReason(t, c.Name, c.Reason, c.ToDo)
		drawReason(t, c.Name+": ledger", c.Ledger.Reason, c.Ledger.ToDo)
		drawDamage(t, c)
	}
	t.line("")
	t.row(slices.Concat([]any{"FLOW", "STATE", "TOPICS"}, progressHead, []any{"DELIVERY"})...)
	for _, f := range s.Flows {
		t.row(slices.Concat([]any{f.Name + " (" + f.Source + " to " + f.Destination + ")", f.State, len(f.Topics)}, progressRow(f.Progress), []any{f.Delivery})...)
	}
	for _, f := range s.Flows {
		drawReason(t, f.Name, f.Reason, f.ToDo)
		for _, topic := range f.Topics {
			if topic.Reason != "" && !strings.HasSuffix(f.Reason, topic.Reason) {
				drawReason(t, f.Name+": "+topic.SourceTopic, topic.Reason, topic.ToDo)
			}
			for _, p := range topic.Partitions {
				if partitions && p.Reason != "" && !strings.HasSuffix(topic.Reason, p.Reason) {
					drawReason(t, fmt.Sprintf("%s: %s/%d", f.Name, topic.SourceTopic, p.Partition), p.Reason, p.ToDo)
				}
			}
		}
	}
	if partitions {
		drawPartitions(t, s.Flows)
	}
}

// nodeState is what a node is and what becomes of it, in words.
func nodeState(n api.NodeStatus, leader string) string {
	state := "gone"
	if n.Alive {
		state = "alive"
	}
	if n.Name == leader {
		state += ", leader"
	}
	switch {
	case n.Draining && n.Works > 0:
		state += ", draining"
	case n.Draining:
		state += ", drained"
	case n.Stopping:
		state += ", stopping"
	}
	return state
}

func drawPartitions(t *table, flows []api.FlowStatus) {
	t.line("")
	t.row(slices.Concat([]any{"TOPIC", "STATE"}, progressHead, []any{"OFFSETS"})...)
	for _, f := range flows {
		for _, topic := range f.Topics {
			t.row(slices.Concat([]any{f.Name + ": " + topic.SourceTopic, topic.State}, progressRow(topic.Progress), []any{or(topic.Offsets)})...)
		}
	}
	t.line("")
	t.row("PARTITION", "STATE", "NODE", "EPOCH", "POSITION", "SOURCE-END", "LAG", "RPO", "ETA", "COPIED")
	for _, f := range flows {
		for _, topic := range f.Topics {
			for _, p := range topic.Partitions {
				t.row(fmt.Sprintf("%s/%d", topic.SourceTopic, p.Partition), p.State, or(p.Node), p.Epoch, known(p.Position), known(p.SourceEnd), records(p.LagRecords), seconds(p.RPOSeconds), eta(p.Progress), count(p.Records))
			}
		}
	}
	for _, f := range flows {
		if f.ETABasis != "" {
			t.line("  " + f.Name + ": its slowest partition " + f.ETABasis)
		}
	}
}

// What is told of the progress of flows and topics.
var progressHead = []any{"LAG", "LAG-BYTES", "LAG-TIME", "RPO", "ETA", "RATE", "COPIED"}

func progressRow(p api.Progress) []any {
	return []any{records(p.LagRecords), records(p.LagBytes), seconds(p.LagSeconds), seconds(p.RPOSeconds), eta(p), count(int64(p.RecordsPerSecond)) + "/s", count(p.Records)}
}

// eta is when nothing is missing any more.
func eta(p api.Progress) string {
	if p.LagRecords == 0 {
		return "-"
	}
	return remaining(p.ETASeconds)
}

// remaining is a time that something still takes, in seconds; -1: not known.
func remaining(seconds float64) string {
	if seconds < 0 {
		return "?"
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

// drawDamage names the first places of a ledger that cannot be right.
func drawDamage(t *table, c api.ClusterStatus) {
	const most = 5
	for i, d := range c.Ledger.Damage {
		if i == most {
			t.line(fmt.Sprintf("  %s: %d more", c.Name, c.Ledger.Damaged-most))
			return
		}
		text := fmt.Sprintf("  %s: %s/%d@%d: %s", c.Name, d.Topic, d.Partition, d.Offset, d.Reason)
		if d.Harmless {
			text += " (nothing is lost with it)"
		}
		t.line(text)
	}
	for _, d := range c.Ledger.Doubts {
		if d.WaivedBy != "" {
			t.line(fmt.Sprintf("  %s: %s/%d up to %d is waived by %s", c.Name, ledger.Topic, d.Partition, d.Offset, d.WaivedBy))
		}
	}
}

// drawReason says why something is not as it should be, and what to do.
func drawReason(t *table, what, reason, toDo string) {
	if reason == "" {
		return
	}
	t.line("  " + what + ": " + reason)
	if toDo != "" {
		t.line("    to do: " + toDo)
	}
}

func known(offset int64) string {
	if offset < 0 {
		return "?"
	}
	return fmt.Sprint(offset)
}

func records(n int64) string {
	if n < 0 {
		return "?"
	}
	return count(n)
}

func seconds(s float64) string {
	if s < 0 {
		return "?"
	}
	return fmt.Sprintf("%.1f s", s)
}
