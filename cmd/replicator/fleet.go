package main

import "github.com/spf13/cobra"

func newFleet() *cobra.Command {
	return family(&cobra.Command{
		Use:   "fleet",
		Short: "The nodes of the fleet: who is in, who votes, letting in and taking out, backups",
		Example: `  replicator fleet status
  replicator fleet token create --out r2.token
  replicator fleet drain r2 --wait --reason "new disk"
  replicator fleet undrain r2`,
	}, fleetStatus(), fleetToken(), fleetJoin(), fleetDrain(), fleetUndrain(), fleetRemove(), fleetTransfer(), fleetBackup(), fleetRestore())
}
