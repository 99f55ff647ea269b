package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
)

func fleetDrain() *cobra.Command {
	var fleet server
	var reason string
	var wait, force bool
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Move all work of a node to others, for maintenance",
		Long: `Move all work of a node to others, for maintenance.

Each copy moves after its last transaction, so nothing is copied twice and nothing
is left out. The node stays a member and votes; it gets no work, also after it was
started again, until 'replicator fleet undrain'.`,
		Example: "  replicator fleet drain r2 --wait --reason \"new disk\"",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if force {
				query.Set("force", "true")
			}
			if err := setDraining(cmd.Context(), &fleet, args[0], "drain", reason, query); err != nil {
				return err
			}
			if !wait {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is draining: 'replicator status' says what it still owns\n", args[0])
				return nil
			}
			return waitUntilDrained(cmd.Context(), &fleet, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "stands in the audit trail")
	cmd.Flags().BoolVar(&wait, "wait", false, "until the node owns nothing")
	cmd.Flags().BoolVar(&force, "force", false, "also the last node that can be given work: its copies stop then")
	fleet.flags(cmd)
	return cmd
}

func fleetUndrain() *cobra.Command {
	var fleet server
	var reason string
	cmd := &cobra.Command{
		Use:     "undrain NODE",
		Short:   "Let a drained node be given work again",
		Long:    "Let a drained node be given work again. Copies move to it as far as balance needs,\na few at a time.",
		Example: "  replicator fleet undrain r2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := setDraining(cmd.Context(), &fleet, args[0], "undrain", reason, url.Values{}); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s may be given work again\n", args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "stands in the audit trail")
	fleet.flags(cmd)
	return cmd
}

func setDraining(ctx context.Context, fleet *server, node, verb, reason string, query url.Values) error {
	if reason != "" {
		query.Set("reason", reason)
	}
	path := "/api/v1/fleet/nodes/" + url.PathEscape(node) + "/" + verb
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return fleet.call(ctx, http.MethodPost, path, nil, nil)
}

// waitUntilDrained tells on progress what is left each time it has changed.
func waitUntilDrained(ctx context.Context, fleet *server, node string, out, progress io.Writer) error {
	told := -1
	for {
		var status api.Status
		if err := fleet.call(ctx, http.MethodGet, "/api/v1/status", nil, &status); err != nil {
			return err
		}
		i := slices.IndexFunc(status.Fleet.Nodes, func(n api.NodeStatus) bool { return n.Name == node })
		switch {
		case i < 0:
			fmt.Fprintf(out, "%s is no member any more\n", node)
			return nil
		case !status.Fleet.Nodes[i].Draining:
			return withCode(exitConflict, fmt.Errorf("%s is not draining any more: somebody has undrained it", node))
		case status.Fleet.Nodes[i].Works == 0:
			fmt.Fprintf(out, "%s owns nothing\n", node)
			return nil
		}
		if left := status.Fleet.Nodes[i].Works; left != told {
			fmt.Fprintf(progress, "%s still owns %s\n", node, several(left, "piece")+" of work")
			told = left
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}
