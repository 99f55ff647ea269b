package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func newLedger() *cobra.Command {
	return family(&cobra.Command{
		Use:   "ledger",
		Short: "The ledgers of the clusters; 'replicator status' says how they are",
		Example: `  replicator status
  replicator ledger waive eu/3/1041 --reason CHG-1042`,
	}, ledgerWaive())
}

func ledgerWaive() *cobra.Command {
	var fleet server
	var reason string
	cmd := &cobra.Command{
		Use:   "waive CLUSTER/PARTITION/OFFSET",
		Short: "Say that what may be lost of a ledger partition does not matter",
		Long: `Say that what may be lost of a ledger partition does not matter.

Copies that were uncertain because of it go on from what the rest of the ledger
says. If the lost pages were of such a copy, it copies again what they stood for.
Compare both sides first; name the offset that 'replicator status' shows.`,
		Example: "  replicator ledger waive eu/3/1041 --reason CHG-1042",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			parts := strings.Split(args[0], "/")
			if len(parts) != 3 {
				return withCode(exitInvalid, fmt.Errorf("%q is not CLUSTER/PARTITION/OFFSET", args[0]))
			}
			for _, number := range parts[1:] {
				if _, err := strconv.ParseUint(number, 10, 63); err != nil {
					return withCode(exitInvalid, fmt.Errorf("%q: %q is not a number", args[0], number))
				}
			}
			path := fmt.Sprintf("/api/v1/ledgers/%s/%s/%s/waive?reason=%s", url.PathEscape(parts[0]), parts[1], parts[2], url.QueryEscape(reason))
			if err := fleet.call(cmd.Context(), http.MethodPost, path, nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "what may be lost of partition %s of the ledger of %s up to offset %s is waived\n", parts[1], parts[0], parts[2])
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "is remembered")
	fleet.flags(cmd)
	return cmd
}
