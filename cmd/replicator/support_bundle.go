package main

import (
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
)

func newSupportBundle() *cobra.Command {
	var fleet server
	var dir string
	var all bool
	cmd := &cobra.Command{
		Use:   "support-bundle",
		Short: "Collect what is needed to understand a node from afar, without secrets",
		Long: `Collect what is needed to understand a node from afar, without secrets: status,
state, configuration, metrics, profiles, the end of the log and what doctor finds, in
one tar.gz for each node.

Secrets are named and not resolved, and what the node uses as a secret is taken out of
every text. Names of topics, groups, users and hosts are in it: look through it before
you pass it on.`,
		Example: `  replicator support-bundle
  replicator support-bundle --all --dir /tmp`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			nodes := []string{fleet.node}
			if all {
				var status api.Status
				if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/status", nil, &status); err != nil {
					return err
				}
				nodes = nil
				for _, n := range status.Fleet.Nodes {
					nodes = append(nodes, n.Name)
				}
			}
			var failed error
			for _, node := range nodes {
				path := "/api/v1/support-bundle"
				name := node
				if node == "" {
					name = "node"
				} else {
					path += "?node=" + url.QueryEscape(node)
				}
				content, err := fleet.fetch(cmd.Context(), http.MethodGet, path, nil, "")
				if err != nil {
					failed = err
					fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", name, err)
					continue
				}
				file := filepath.Join(dir, fmt.Sprintf("waybill-%s-%s.tar.gz", name, time.Now().UTC().Format("20060102-150405")))
				if err := writeFile(file, content); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s (%s bytes)\n", file, count(int64(len(content))))
			}
			return failed
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", ".", "folder to write to")
	f.StringVar(&fleet.node, "node", "", "another node than the one that is asked")
	f.BoolVar(&all, "all", false, "one of each node")
	cmd.MarkFlagsMutuallyExclusive("node", "all")
	fleet.flags(cmd)
	cmd.Flags().Lookup("timeout").DefValue = "2m0s"
	fleet.timeout = 2 * time.Minute
	return cmd
}
