package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/doctor"
)

func newDoctor() *cobra.Command {
	var fleet server
	var files fileFlags
	var out output
	var config string
	var all, strict, quiet bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at what a fleet rests on, and say what to do about it",
		Long: `Look at what a fleet rests on, and say what to do about it: names, reachability of
every broker under the address that it advertises, TLS chains and their days left,
SASL, versions and what they mean, rights that flows need and hold, clocks, disks,
raft and the audit trail.

A node looks (--node NAME for another than the one that is asked, --all for each),
because it is the nodes that must reach the clusters. With -f the declarations of
files are looked at from this machine, without a fleet; with --config a node's own
file. Nothing is changed anywhere.

Ends with 6 if something is wrong; with --strict also for warnings.`,
		Example: `  replicator doctor
  replicator doctor --all
  replicator doctor -f us-eu.yaml
  replicator doctor --config /etc/waybill/node.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var reports api.Reports
			var err error
			if len(files.paths) > 0 || config != "" {
				reports, err = examineHere(cmd.Context(), files, config, cmd.InOrStdin())
			} else {
				reports, err = examineThere(cmd.Context(), &fleet, all)
			}
			if err != nil {
				return err
			}
			if err := out.print(cmd.OutOrStdout(), reports, func(t *table) { drawReports(t, reports, quiet) }); err != nil {
				return err
			}
			return verdict(reports, strict)
		},
	}
	f := cmd.Flags()
	files.flag(cmd)
	f.StringVar(&config, "config", "", "look at a node's file on this machine")
	f.StringVar(&fleet.node, "node", "", "have this node look")
	f.BoolVar(&all, "all", false, "have every node look")
	f.BoolVar(&strict, "strict", false, "end with 6 for warnings too")
	f.BoolVarP(&quiet, "quiet", "q", false, "only what is not as it should be")
	cmd.MarkFlagsMutuallyExclusive("node", "all")
	for _, here := range []string{"file", "config"} {
		cmd.MarkFlagsMutuallyExclusive(here, "node")
		cmd.MarkFlagsMutuallyExclusive(here, "all")
	}
	fleet.flags(cmd)
	cmd.Flags().Lookup("timeout").DefValue = "2m0s"
	fleet.timeout = 2 * time.Minute // looking takes up to one
	out.flag(cmd)
	return cmd
}

func examineThere(ctx context.Context, fleet *server, all bool) (api.Reports, error) {
	var reports api.Reports
	node := fleet.node
	if all {
		node = api.AllNodes
	}
	path := "/api/v1/doctor"
	if node != "" {
		path += "?node=" + url.QueryEscape(node)
	}
	return reports, fleet.call(ctx, http.MethodGet, path, nil, &reports)
}

// examineHere looks from this machine.
func examineHere(ctx context.Context, files fileFlags, config string, stdin io.Reader) (api.Reports, error) {
	now := time.Now()
	r := doctor.Report{Version: version, Time: now.UTC(), Findings: []doctor.Finding{}}
	if config != "" {
		f, _, err := loadNode(config)
		if err != nil {
			return api.Reports{}, err
		}
		r.Node = f.Name
		r.Findings = append(machineFindings(ctx, f, now), peersAnswer(ctx, f.Peer.Join)...)
	}
	if len(files.paths) > 0 {
		objects, err := readObjects(files.paths, stdin)
		if err != nil {
			return api.Reports{}, err
		}
		r.Findings = append(r.Findings, doctor.Clusters(ctx, objects, now)...)
	}
	r.Sort()
	r.Seconds = time.Since(now).Seconds()
	return api.Reports{Reports: []doctor.Report{r}}, nil
}

// peersAnswer connects to the nodes that a file wants to join.
func peersAnswer(ctx context.Context, join []string) (all []doctor.Finding) {
	for _, addr := range join {
		f := doctor.Finding{Check: doctor.Reach, Where: "peer " + addr, Level: doctor.OK, Found: "takes connections"}
		conn, err := (&net.Dialer{Timeout: leaderSilence}).DialContext(ctx, "tcp", addr)
		if err != nil {
			f.Level, f.Found, f.ToDo = doctor.Error, err.Error(), "start that node, or see whether a firewall is between"
		} else {
			_ = conn.Close()
		}
		all = append(all, f)
	}
	return all
}

func drawReports(t *table, reports api.Reports, quiet bool) {
	for _, r := range reports.Reports {
		who := "from this machine"
		if r.Node != "" {
			who = "node " + r.Node
		}
		t.line(fmt.Sprintf("%s: %s", who, tally(r)))
		t.row("LEVEL", "CHECK", "WHERE", "FOUND")
		for _, f := range r.Findings {
			if quiet && f.Level == doctor.OK {
				continue
			}
			t.row(f.Level, f.Check, f.Where, f.Found)
		}
		for _, f := range r.Findings {
			if f.ToDo != "" && f.Level != doctor.OK && f.Level != doctor.Unknown {
				t.line(fmt.Sprintf("  to do: %s: %s: %s", f.Where, f.Check, f.ToDo))
			}
		}
	}
}

// tally counts the findings by level.
func tally(r doctor.Report) string {
	n := map[doctor.Level]int{}
	for _, f := range r.Findings {
		n[f.Level]++
	}
	return fmt.Sprintf("%s, %s, %d not known, %d ok, in %.1f s", several(n[doctor.Error], "error"), several(n[doctor.Warning], "warning"), n[doctor.Unknown], n[doctor.OK], r.Seconds)
}

func verdict(reports api.Reports, strict bool) error {
	for _, r := range reports.Reports {
		if worst := r.Worst(); worst == doctor.Error || strict && worst == doctor.Warning {
			return withCode(exitNotMet, errSilent)
		}
	}
	return nil
}
