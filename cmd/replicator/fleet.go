package main

import "github.com/spf13/cobra"

func newFleet() *cobra.Command {
	return family(&cobra.Command{
		Use:   "fleet",
		Short: "The nodes of the fleet; 'replicator status' says how they are",
		Example: `  replicator status
  replicator fleet drain r2 --wait --reason "new disk"
  replicator fleet undrain r2`,
	}, fleetDrain(), fleetUndrain())
}
