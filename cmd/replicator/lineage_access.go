package main

import (
	"context"
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

// accessAsk is what a user of 'lineage access' asks for.
type accessAsk struct {
	topicID, kind, principal, group string
	from, to                        int64
	limit                           int
}

func lineageAccess() *cobra.Command {
	var fleet server
	var out output
	var ask accessAsk
	cmd := &cobra.Command{
		Use:   "access CLUSTER/TOPIC/PARTITION | CLUSTER --principal NAME | CLUSTER --group NAME",
		Short: "Who produced and who read a partition, or what one principal or group did in a cluster",
		Example: `  replicator lineage access us/orders/3 --from 1000 --to 2000
  replicator lineage access us/orders/3 --kind produced
  replicator lineage access us/orders/3 --group billing
  replicator lineage access us --principal User:billing
  replicator lineage access us --group billing`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if ask.limit < 1 {
				return withCode(exitInvalid, fmt.Errorf("--limit %d: at least 1", ask.limit))
			}
			if !strings.Contains(args[0], "/") && (ask.principal != "" || ask.group != "") {
				if ask.principal != "" && ask.group != "" {
					return withCode(exitInvalid, fmt.Errorf("--principal and --group: one of them, for a whole cluster"))
				}
				for _, name := range []string{"from", "to", "kind", "topic-id"} {
					if cmd.Flags().Changed(name) {
						return withCode(exitInvalid, fmt.Errorf("--%s is about one partition: name it, as in %s/orders/3, or leave the flag out", name, args[0]))
					}
				}
				page, err := principalPages(cmd.Context(), &fleet, args[0], ask)
				if err != nil {
					return err
				}
				return out.print(cmd.OutOrStdout(), page, func(t *table) { drawPrincipal(t, page) })
			}
			if !strings.Contains(args[0], "/") {
				return withCode(exitInvalid, fmt.Errorf("a whole cluster is asked about with --principal or --group; else write CLUSTER/TOPIC/PARTITION, as in %s/orders/3", args[0]))
			}
			page, err := deedPages(cmd.Context(), &fleet, args[0], ask)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), page, func(t *table) { drawDeeds(t, page) })
		},
	}
	f := cmd.Flags()
	f.Int64Var(&ask.from, "from", 0, "first offset")
	f.Int64Var(&ask.to, "to", -1, "last offset; -1 is the end")
	f.StringVar(&ask.principal, "principal", "", "only this one's, such as User:billing")
	f.StringVar(&ask.group, "group", "", "only this consumer group's")
	f.Var(&choice{&ask.kind, []string{"accessed", "produced"}}, "kind", "accessed or produced")
	f.IntVar(&ask.limit, "limit", 1000, "how many at the most")
	lifeFlag(cmd, &ask.topicID)
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

// pageSize is the most that the API gives at once.
const pageSize = 500

// deedPages reads pages up to the limit.
func deedPages(ctx context.Context, fleet *server, address string, ask accessAsk) (*lineage.DeedPage, error) {
	path, err := addressPath(address, 3)
	if err != nil {
		return nil, err
	}
	all := &lineage.DeedPage{Deeds: []lineage.Deed{}}
	for {
		var page lineage.DeedPage
		q := query("topicId", ask.topicID, "from", strconv.FormatInt(ask.from, 10), "to", strconv.FormatInt(ask.to, 10), "kind", ask.kind,
			"principal", ask.principal, "group", ask.group, "limit", strconv.Itoa(min(pageSize, ask.limit-len(all.Deeds))), "cursor", all.Next)
		if err := fleet.call(ctx, http.MethodGet, "/api/v1/lineage/accesses/"+path+q, nil, &page); err != nil {
			return nil, err
		}
		all.Deeds, all.Next, all.Unknown = append(all.Deeds, page.Deeds...), page.Next, union(all.Unknown, page.Unknown)
		if page.Next == "" || len(all.Deeds) >= ask.limit {
			return all, nil
		}
	}
}

// union is what either page does not know, once: the first may know less.
func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// principalPages reads pages of what a principal did in a cluster, or a group.
func principalPages(ctx context.Context, fleet *server, cluster string, ask accessAsk) (*lineage.PrincipalPage, error) {
	all := &lineage.PrincipalPage{Topics: []lineage.PrincipalTopic{}}
	path := "/api/v1/lineage/principals/" + url.PathEscape(cluster) + "/" + url.PathEscape(ask.principal)
	if ask.group != "" {
		path = "/api/v1/lineage/groups/" + url.PathEscape(cluster) + "/" + url.PathEscape(ask.group)
	}
	for {
		var page lineage.PrincipalPage
		q := query("limit", strconv.Itoa(min(pageSize, ask.limit-len(all.Topics))), "cursor", all.Next)
		if err := fleet.call(ctx, http.MethodGet, path+q, nil, &page); err != nil {
			return nil, err
		}
		all.Topics, all.Next, all.Unknown = append(all.Topics, page.Topics...), page.Next, union(all.Unknown, page.Unknown)
		if page.Next == "" || len(all.Topics) >= ask.limit {
			return all, nil
		}
	}
}

func drawDeeds(t *table, page *lineage.DeedPage) {
	t.row("FIRST", "LAST", "OFFSETS", "DID", "PRINCIPAL", "CLIENT", "GROUP", "ADDRESS", "SINCE", "UNTIL")
	for _, d := range page.Deeds {
		who := or(d.Principal)
		if d.Redacted {
			who = "somebody"
		}
		t.row(d.First, d.Last, count(d.Offsets), asKnown(d.Kind, d.Basis), who, or(d.ClientID), or(d.Group), or(d.Address), d.FirstAt.Local().Format(time.DateTime), d.At.Local().Format(time.DateTime))
	}
	drawRest(t, page.Next, page.Unknown)
}

// asKnown is what somebody did, marked if it is known from committed offsets only.
func asKnown(kind, basis string) string {
	if basis != "" {
		return kind + " (from commits)"
	}
	return kind
}

func drawPrincipal(t *table, page *lineage.PrincipalPage) {
	t.row("TOPIC", "DID", "CLIENT", "GROUP", "OFFSETS", "SINCE", "UNTIL")
	for _, p := range page.Topics {
		topic := p.Topic
		switch {
		case p.Redacted:
			topic = "a topic that you may not see"
		case p.EarlierLife:
			topic += " (an earlier life)"
		}
		t.row(topic, asKnown(p.Client.Kind, p.Client.Basis), or(p.Client.ClientID), or(p.Client.Group), count(p.Client.Offsets), p.Client.FirstAt.Local().Format(time.DateTime), p.Client.At.Local().Format(time.DateTime))
	}
	drawRest(t, page.Next, page.Unknown)
}

func drawRest(t *table, next string, unknown []string) {
	if next != "" {
		t.line("and more that is not listed: raise --limit")
	}
	for _, u := range unknown {
		t.line("unknown: " + u)
	}
}
