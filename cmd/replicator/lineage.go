package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/lineage"
)

func newLineage() *cobra.Command {
	return family(&cobra.Command{
		Use:   "lineage",
		Short: "Where events came from, where their copies lie, who read them",
		Example: `  replicator lineage event us/orders/3/1041
  replicator lineage topic eu/orders
  replicator lineage gaps us/orders/3
  replicator lineage copies us/orders/3 --from 1000 --to 2000
  replicator lineage affected us/orders
  replicator lineage access us/orders/3 --from 1000 --to 2000
  replicator lineage access us --principal User:billing
  replicator lineage search us/orders --key order-17
  replicator lineage watch us/orders
  replicator lineage export openlineage us/orders
  replicator lineage check us
  replicator lineage fold us --dry-run`,
	}, lineageEvent(), lineageTopic(), lineageGaps(), lineageCopies(), lineageAffected(), lineageAccess(), lineageSearch(), lineageWatch(), lineageExport(), lineageCheck(), lineageFold())
}

// addressPath turns what people type (cluster/topic/partition/offset) into a
// path of the API.
func addressPath(address string, parts int) (string, error) {
	names := []string{"CLUSTER", "TOPIC", "PARTITION", "OFFSET"}[:parts]
	split := strings.Split(address, "/")
	if len(split) != parts || slices.Contains(split, "") {
		return "", withCode(exitInvalid, fmt.Errorf("%q is not an address: write %s", address, strings.Join(names, "/")))
	}
	for i := range split {
		split[i] = url.PathEscape(split[i])
	}
	return strings.Join(split, "/"), nil
}

// lifeFlag is the query by which one life of a topic is asked for.
func lifeFlag(cmd *cobra.Command, topicID *string) {
	cmd.Flags().StringVar(topicID, "topic-id", "", "an earlier life of a topic that was recreated")
}

func query(values ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(values); i += 2 {
		if values[i+1] != "" {
			q.Set(values[i], values[i+1])
		}
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

func lineageEvent() *cobra.Command {
	var fleet server
	var out output
	var topicID, headers string
	cmd := &cobra.Command{
		Use: "event CLUSTER/TOPIC/PARTITION/OFFSET", Short: "One event", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := addressPath(args[0], 4)
			if err != nil {
				return err
			}
			var a lineage.Answer
			if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/lineage/events/"+path+query("topicId", topicID, "headers", headers), nil, &a); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), a, func(t *table) { drawEvent(t, &a) })
		},
	}
	lifeFlag(cmd, &topicID)
	headers = string(lineage.HeadersAuto)
	cmd.Flags().Var(&choice{&headers, []string{headers, string(lineage.HeadersKeys), string(lineage.HeadersValues), string(lineage.HeadersNone)}}, "headers",
		"of the record, and what its batch and producer say; auto: keys, in clusters that do not record who produced")
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func drawEvent(t *table, a *lineage.Answer) {
	for i, n := range a.Nodes {
		t.line(placeOf(n) + what(n))
		for _, e := range a.Edges {
			if e.To == i {
				t.line("  copied from " + placeOf(a.Nodes[e.From]) + by(e))
			}
		}
		for _, d := range n.Produced {
			t.line("  " + deed(d))
		}
		if n.Stored != nil {
			drawStored(t, n.Stored)
		}
		for _, d := range n.Accesses {
			t.line("  " + deed(d))
		}
		if n.More {
			t.line("  and more that is not listed")
		}
		for _, c := range n.NotCopied {
			t.line("  " + notCopied(c))
		}
		for _, u := range n.Unknown {
			t.line("  unknown: " + u)
		}
	}
	if a.Truncated != "" {
		t.line("cut off: " + a.Truncated)
	}
}

// what says what a place is to the event.
func what(n lineage.Node) (text string) {
	if n.Origin {
		text = "  produced here"
	}
	if n.SourceLost {
		text = "  copied here; its source has lost it since"
	}
	if n.EarlierLife {
		text += "  in a topic that was recreated since"
	}
	return text
}

// by says how a copy was made, as far as the caller may know.
func by(e lineage.Edge) string {
	if e.Flow == "" {
		return ""
	}
	text := fmt.Sprintf(" by flow %s (node %s, epoch %d)%s", e.Flow, or(e.ReplicaNode), e.Epoch, when(e.At))
	if e.Uncertain != "" {
		text += ", uncertain: " + e.Uncertain
	}
	return text
}

func notCopied(c lineage.NotCopied) string {
	if c.Redacted {
		return "not copied to a place that you may not see"
	}
	text := fmt.Sprintf("not copied to %s/%s by flow %s: %s", c.Cluster, c.Topic, c.Flow, c.Reason)
	if c.Why != "" {
		text += ", " + c.Why
	}
	return text
}

func placeOf(n lineage.Node) string {
	if n.Redacted {
		return "a place that you may not see"
	}
	return fmt.Sprintf("%s/%s/%d/%d", n.Cluster, n.Topic, n.Partition, n.Offset)
}

func when(at *time.Time) string {
	if at == nil {
		return ""
	}
	return " at " + at.Local().Format("2006-01-02 15:04:05.000")
}

func deed(d lineage.Deed) string {
	if d.Redacted {
		return fmt.Sprintf("%s by somebody%s", d.Kind, when(&d.At))
	}
	group := ""
	if d.Group != "" {
		group = " as group " + d.Group
	}
	if d.Basis != "" {
		return fmt.Sprintf("%s%s%s, from commits", d.Kind, group, when(&d.At))
	}
	return fmt.Sprintf("%s by %s%s (client %s, %s, %s)%s", d.Kind, d.Principal, group, or(d.ClientID), or(d.Software), or(d.Address), when(&d.At))
}

func lineageTopic() *cobra.Command {
	var fleet server
	var out output
	var topicID string
	var window time.Duration
	var partitions bool
	cmd := &cobra.Command{
		Use: "topic CLUSTER/TOPIC", Short: "One topic across datacenters: how fast, how far behind, and its clients", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := addressPath(args[0], 2)
			if err != nil {
				return err
			}
			if window < time.Second || window > lineage.MaxWindow || window%time.Second != 0 {
				return withCode(exitInvalid, fmt.Errorf("--window %s: whole seconds, 1s to %s", window, lineage.MaxWindow))
			}
			q := query("topicId", topicID, "windowSeconds", strconv.Itoa(int(window.Seconds())), "partitions", strconv.FormatBool(partitions))
			var g lineage.Graph
			if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/lineage/topics/"+path+q, nil, &g); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), g, func(t *table) { drawGraph(t, &g) })
		},
	}
	cmd.Flags().DurationVar(&window, "window", lineage.DefaultWindow, "over which rates are")
	cmd.Flags().BoolVar(&partitions, "partitions", false, "rates and lag of each partition, too")
	lifeFlag(cmd, &topicID)
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func drawGraph(t *table, g *lineage.Graph) {
	name := func(i int) string {
		if n := g.Topics[i]; !n.Redacted {
			return n.Cluster + "/" + n.Topic
		}
		return "a topic that you may not see"
	}
	drawCopies(t, g, name)
	t.line("")
	t.row("CLIENT", "DID", "GROUP", "OFFSETS", "LAST")
	for _, c := range g.Clients {
		who := c.Principal + " (" + c.ClientID + ")"
		if c.Redacted {
			who = "somebody"
		}
		t.row(who, c.Kind, or(c.Group), count(c.Offsets), c.At.Local().Format(time.DateTime))
	}
	if g.More {
		t.line("and more that is not listed")
	}
	for _, u := range g.Unknown {
		t.line("unknown: " + u)
	}
	if g.Truncated != "" {
		t.line("cut off: " + g.Truncated)
	}
}

func lineageGaps() *cobra.Command {
	var fleet server
	var out output
	var topicID string
	var from, to int64
	cmd := &cobra.Command{
		Use: "gaps CLUSTER/TOPIC/PARTITION", Short: "Offsets that have no copy, and why", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := addressPath(args[0], 3)
			if err != nil {
				return err
			}
			ask := query("topicId", topicID, "from", strconv.FormatInt(from, 10), "to", strconv.FormatInt(to, 10))
			var list lineage.GapPage
			if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/lineage/gaps/"+path+ask, nil, &list); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), list, func(t *table) {
				t.row("FROM", "OFFSETS", "REASON", "FLOW", "DESTINATION")
				for _, g := range list.Gaps {
					t.row(g.Source, g.Count, strings.TrimSuffix(g.Reason+": "+g.Why, ": "), or(g.Flow), or(g.Cluster)+"/"+or(g.Topic))
				}
				for _, why := range list.Unknown {
					t.line("unknown: " + why)
				}
				if list.Next > 0 {
					t.line(fmt.Sprintf("not all was looked through: --from %d", list.Next))
				}
			})
		},
	}
	cmd.Flags().Int64Var(&from, "from", 0, "first source offset")
	cmd.Flags().Int64Var(&to, "to", -1, "last source offset; -1 is the end")
	lifeFlag(cmd, &topicID)
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}
