// Package mirrormaker writes the topics that MirrorMaker 2 leaves for its clients and
// for dashboards (KIP-382), so that RemoteClusterUtils, MirrorClient and Apache Kafka's
// formatters read of a flow what they read of a MirrorMaker:
//
//	heartbeats                        at both ends, once a second
//	SOURCE.heartbeats                 at the destination: the source's, read there and copied
//	SOURCE.checkpoints.internal       at the destination: where each group lies
//	mm2-offset-syncs.ALIAS.internal   at the source, or at the destination: pairs of offsets
//
// What a checkpoint says is the exact translation of package offsets, not MirrorMaker's
// estimate. Only what has changed is written; the topics are compacted, as MirrorMaker
// makes them.
//
// The one path is [Writer.Run]: make the topics, then look and write each second until
// the context ends. A topic that is deleted meanwhile is made again, and has again what
// it had. It owns one more goroutine, which copies the source's heartbeats.
// Two Writers of one flow, for a moment, write the same.
//
// The layouts (layout.go) are those of Apache Kafka's classes OffsetSync, Checkpoint and
// Heartbeat in connect/mirror and connect/mirror-client.
package mirrormaker
