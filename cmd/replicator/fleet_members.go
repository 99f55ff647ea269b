package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/internal/raftnode"
)

func fleetStatus() *cobra.Command {
	var fleet server
	var out output
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Who is in the fleet, who votes, and what it can bear",
		Long:    "Who is in the fleet, who votes, and what it can bear. 'replicator status' says what\nthe nodes do.",
		Example: "  replicator fleet status",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var m api.Members
			if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/fleet", nil, &m); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), m, func(t *table) { drawMembers(t, m, time.Now()) })
		},
	}
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func drawMembers(t *table, m api.Members, now time.Time) {
	t.row("NODE", "ROLE", "STATE", "BEHIND", "CERTIFICATE", "VERSION", "PEER", "API", "DISK")
	for _, n := range m.Nodes {
		state := "silent"
		if n.Answers {
			state = "answers"
		}
		if n.Name == m.Leader {
			state += ", leads"
		}
		if n.LogFull {
			state += ", disk full"
		}
		certificate := "?"
		if n.CertificateUntil != nil {
			certificate = several(int(n.CertificateUntil.Sub(now).Hours()/24), "day")
		}
		t.row(n.Name, n.Role, state, records(n.Behind), certificate, or(n.Version), n.PeerAddress, or(n.Address), n.Disk)
	}
	for _, n := range m.Nodes {
		drawReason(t, n.Name, n.Reason, "")
		if n.LogFull {
			drawReason(t, n.Name, "the disk of its raft log is full: it cannot lead", "free some space in its data folder")
		}
	}
	t.line("")
	t.line(fmt.Sprintf("fleet %s, term %d, revision %d, state %.16s", m.ID, m.Term, m.Revision, m.Hash))
	switch {
	case m.Tolerates < 0:
		t.line(fmt.Sprintf("%s, no majority answers: nothing can be changed, and what was assigned stops", several(m.Voters, "voter")))
	case m.Tolerates == 0:
		t.line(fmt.Sprintf("%s: none may fail", several(m.Voters, "voter")))
	default:
		t.line(fmt.Sprintf("%s: %d more may fail", several(m.Voters, "voter"), m.Tolerates))
	}
}

func fleetToken() *cobra.Command {
	return family(&cobra.Command{
		Use:     "token",
		Short:   "Tokens that let nodes in",
		Example: "  replicator fleet token create --ttl 10m\n  replicator fleet token list",
	}, tokenCreate(), tokenList(), tokenDelete())
}

func tokenCreate() *cobra.Command {
	var fleet server
	var ttl time.Duration
	var worker bool
	var file string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token that lets one node in, once",
		Long: `Make a token that lets one node in, once.

It is printed here and kept nowhere. Put it into a file that only the new node reads,
and name that in the node's peer.tokenFile. Who has it before the node can join in the
node's place: the fleet then refuses the node, and says who used the token.`,
		Example: "  replicator fleet token create --out r2.token\n  replicator fleet token create --worker --ttl 10m",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{"ttlSeconds": {strconv.FormatInt(int64(ttl/time.Second), 10)}, "worker": {strconv.FormatBool(worker)}}
			var t api.JoinToken
			if err := fleet.call(cmd.Context(), http.MethodPost, "/api/v1/fleet/tokens?"+query.Encode(), nil, &t); err != nil {
				return err
			}
			if file == "" {
				fmt.Fprintln(cmd.OutOrStdout(), t.Token)
			} else if err := writeFile(file, []byte(t.Token+"\n")); err != nil {
				return fmt.Errorf("write the token: %w", err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "token %s lets one node in until %s\n", t.ID, t.Expires.Local().Format(time.DateTime))
			return nil
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, fmt.Sprintf("how long it can be used, from %s to %s", cluster.MinTokenTTL, cluster.MaxTokenTTL))
	cmd.Flags().BoolVar(&worker, "worker", false, "for a node that never votes and cannot let others in")
	cmd.Flags().StringVar(&file, "out", "", "write it to a file that only you can read, instead of printing it")
	fleet.flags(cmd)
	return cmd
}

func tokenList() *cobra.Command {
	var fleet server
	var out output
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Join tokens of the last day, without their secrets",
		Example: "  replicator fleet token list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list api.TokenList
			if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/fleet/tokens", nil, &list); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), list.Tokens, func(t *table) {
				t.row("TOKEN", "FOR", "EXPIRES", "USED-BY")
				for _, token := range list.Tokens {
					what := "any node"
					if token.Worker {
						what = "a worker"
					}
					t.row(token.ID, what, token.Expires.Local().Format(time.DateTime), or(token.UsedBy))
				}
			})
		},
	}
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func tokenDelete() *cobra.Command {
	var fleet server
	cmd := &cobra.Command{
		Use:     "delete TOKEN-ID",
		Short:   "Take a token back before it is used",
		Example: "  replicator fleet token delete 0123456789abcdef",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return fleet.call(cmd.Context(), http.MethodDelete, "/api/v1/fleet/tokens/"+url.PathEscape(args[0]), nil, nil)
		},
	}
	fleet.flags(cmd)
	return cmd
}

func fleetRemove() *cobra.Command {
	var fleet server
	var disk string
	var force bool
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node out of the fleet for good, dead or alive",
		Long: `Take a node out of the fleet for good, dead or alive.

One that lives hands its work over first, then its process ends. To use its name
again, remove its data folder and let it join with a new token.

It is about the node that has the name when the command is given, not about one that
joins under it meanwhile. A command that may be repeated should say on which disk the
node is ('replicator fleet status'): then it never removes another one.`,
		Example: "  replicator fleet remove r2\n  replicator fleet remove r2 --disk 5f1c0a7e9b3d2468",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{"force": {strconv.FormatBool(force)}}
			if disk != "" {
				query.Set("disk", disk)
			}
			if err := fleet.call(cmd.Context(), http.MethodDelete, "/api/v1/fleet/nodes/"+url.PathEscape(args[0])+"?"+query.Encode(), nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is no member any more\n", args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&disk, "disk", "", "only if the node is on this disk, which 'fleet status' shows")
	cmd.Flags().BoolVar(&force, "force", false, "at once, whatever it still does, and even if the rest then has no majority")
	fleet.flags(cmd)
	return cmd
}

func fleetTransfer() *cobra.Command {
	var fleet server
	cmd := &cobra.Command{
		Use:     "transfer [NODE]",
		Short:   "Hand raft's leadership to another node",
		Example: "  replicator fleet transfer r2",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{"to": {strings.Join(args, "")}}
			return fleet.call(cmd.Context(), http.MethodPost, "/api/v1/fleet/transfer?"+query.Encode(), nil, nil)
		},
	}
	fleet.flags(cmd)
	return cmd
}

func fleetJoin() *cobra.Command {
	var config, token string
	var logs logging
	cmd := &cobra.Command{
		Use:   "join --config FILE --token-file FILE",
		Short: "Get this node its certificate from the fleet, before it is first served",
		Long: `Get this node its certificate from the fleet, before it is first served.

'replicator serve' does the same by itself if the node's file has peer.tokenFile. With
this, the token does not have to stay on the node.`,
		Example: "  replicator fleet join --config r2.yaml --token-file r2.token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, _, err := loadNode(config)
			if err != nil {
				return err
			}
			f.Peer.TokenFile = token
			node, err := openFleet(f, "", nil, logs.logger(cmd.ErrOrStderr()), nil)
			if err != nil {
				return err
			}
			defer node.Close()
			if node.Enrolled() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s has a certificate already\n", f.Name)
				return nil
			}
			if err := node.Enrol(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s has a certificate of fleet %s: start it with 'replicator serve --config %s'\n", f.Name, node.GroupID(), config)
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the node's YAML file (see docs/fleet.md)")
	cmd.Flags().StringVar(&token, "token-file", "", "file with a token of 'replicator fleet token create'")
	_ = cmd.MarkFlagRequired("config")     // fails only if the flag is missing
	_ = cmd.MarkFlagRequired("token-file") // fails only if the flag is missing
	logs.flags(cmd)
	return cmd
}

func fleetBackup() *cobra.Command {
	var fleet server
	var file string
	cmd := &cobra.Command{
		Use:   "backup --out FILE",
		Short: "Save the fleet's state: what is declared, how far runbooks are, which lanes to fence",
		Long: `Save the fleet's state: what is declared, how far runbooks are, which lanes to fence.

It has no secrets in it. What was copied is not in it either: that is in the ledgers.`,
		Example: "  replicator fleet backup --out fleet.backup",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := fleet.fetch(cmd.Context(), http.MethodGet, "/api/v1/fleet/backup", nil, "")
			if err != nil {
				return err
			}
			b, _, err := cluster.ReadBackup(raw)
			if err != nil {
				return fmt.Errorf("what the fleet sent: %w", err)
			}
			if file == "-" {
				_, err = cmd.OutOrStdout().Write(raw)
			} else {
				err = writeFile(file, raw)
			}
			if err != nil {
				return fmt.Errorf("write backup: %w", err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "fleet %s at revision %d, state %.16s, %s bytes\n", b.FleetID, b.Revision, b.Hash, count(int64(len(raw))))
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "out", "", "file to write, - for standard output")
	_ = cmd.MarkFlagRequired("out") // fails only if the flag is missing
	fleet.flags(cmd)
	return cmd
}

func fleetRestore() *cobra.Command {
	var config, file string
	var force, check bool
	var logs logging
	cmd := &cobra.Command{
		Use:   "restore --config FILE --from FILE",
		Short: "Begin a fleet anew on this node, from a backup",
		Long: `Begin a fleet anew on this node, from a backup. No node may be running.

The node becomes the first of a new fleet that has the state of the old one. The others
join it with tokens, with empty data folders. Nodes of the old fleet are refused by the
new one, and all lanes of the old one are fenced at a destination before anything is
copied to it, also those that were opened after the backup: the destination is asked for
them, by the name of the fleet. Stop what is left of the old fleet even so: while it has
a majority, its nodes open lanes again, and lanes of at-least-once flows cannot be fenced.
Revisions, epochs and incarnations begin far beyond those of the old fleet.`,
		Example: "  replicator fleet restore --config r1.yaml --from fleet.backup --force",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := readBounded(file, cluster.MaxBackup)
			if err != nil {
				return withCode(exitInvalid, fmt.Errorf("backup: %w", err))
			}
			b, state, err := cluster.ReadBackup(raw)
			if err != nil {
				return withCode(exitInvalid, fmt.Errorf("%s: %w", file, err))
			}
			if check {
				fmt.Fprintf(cmd.OutOrStdout(), "fleet %s at revision %d, taken %s on %s: %s, %s, %s\n", b.FleetID, b.Revision, b.Taken.Local().Format(time.DateTime), b.Node,
					several(len(state.Objects), "object"), several(len(state.Flows), "flow"), several(len(state.Executions), "run")+" of runbooks")
				return nil
			}
			f, _, err := loadNode(config)
			if err != nil {
				return err
			}
			conf, err := fleetConfig(f, "", nil, logs.logger(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			r, err := restore(conf, auditDir(f), raw, force)
			for _, aside := range r.aside {
				fmt.Fprintf(cmd.OutOrStdout(), "what was there before is in %s\n", aside)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "the state of fleet %s at revision %d is that of a new fleet now, which begins at revision %d\n", b.FleetID, b.Revision, r.Revision)
			fmt.Fprintf(cmd.OutOrStdout(), "start it with 'replicator serve --config %s', then let the others join with new tokens and empty data folders\n", config)
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the node's YAML file")
	cmd.Flags().StringVar(&file, "from", "", "a file of 'replicator fleet backup'")
	cmd.Flags().BoolVar(&force, "force", false, "although the node has a state: it is moved aside")
	cmd.Flags().BoolVar(&check, "check", false, "only say what is in the backup")
	_ = cmd.MarkFlagRequired("from") // fails only if the flag is missing
	cmd.MarkFlagsOneRequired("config", "check")
	logs.flags(cmd)
	return cmd
}

// restored is what a restore has done, as far as it came.
type restored struct {
	cluster.Restored
	aside []string // the folders that hold what was there
}

// restore begins a fleet anew from a backup, and sets the old one's state and trail
// aside. Its errors have the command's exit codes.
func restore(conf cluster.Config, audit string, backup []byte, force bool) (restored, error) {
	var r restored
	var err error
	r.Restored, err = cluster.Restore(conf, backup, force)
	switch {
	case errors.Is(err, raftnode.ErrRefused) && !force:
		return r, &codedError{err, exitConflict, "with --force the state that is there is moved aside; see 'replicator fleet restore --help'"}
	case errors.Is(err, raftnode.ErrRefused): // a node runs there
		return r, withCode(exitConflict, err)
	case err != nil:
		return r, err
	}
	trail, err := setChangesAside(audit, time.Now())
	for _, aside := range []string{r.Aside, trail} {
		if aside != "" {
			r.aside = append(r.aside, aside)
		}
	}
	if err != nil {
		return r, fmt.Errorf("the state is restored, but the old fleet's audit trail cannot be moved aside: do that before you start the node: %w", err)
	}
	return r, nil
}

// readBounded reads a file of a bounded size.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %s bytes", path, count(most))
	}
	if err == nil && !json.Valid(b) {
		err = fmt.Errorf("%s is not a whole backup", path)
	}
	return b, err
}
