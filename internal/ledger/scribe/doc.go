// Package scribe writes entries that belong to no copy and no transaction into the ledger
// of a cluster, over the wire.
//
// A [Writer] writes pages of a chain of its own for each ledger partition, and returns when
// all in-sync replicas have them. A page whose fate is not known, because the cluster
// answered with an error or not in time, ends the chain and the client: what comes next is
// of another chain, and nothing of the old client is sent any more. The page may be there
// for all that, so who writes again what it said has to read the ledger first.
//
// It makes no topic: a cluster without a ledger has [ErrNoLedger].
//
// Goroutines: those of its Kafka client, which Close and each failure end.
package scribe
