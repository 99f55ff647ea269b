package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// Flows answers how the fleet and its flows are doing.
type Flows interface {
	Status(ctx context.Context) (Status, error)
}

// Status is the fleet, the declared clusters and the flows at one moment.
type Status struct {
	Fleet    FleetStatus     `json:"fleet"`
	Clusters []ClusterStatus `json:"clusters" doc:"As the node that answers sees them"`
	Flows    []FlowStatus    `json:"flows"`
}

// ClusterStatus is one declared cluster as one node sees it.
type ClusterStatus struct {
	Name   string       `json:"name"`
	ID     string       `json:"id,omitempty" doc:"Its cluster.id, once it has answered"`
	State  string       `json:"state" enum:"connecting,reachable,unreachable"`
	Reason string       `json:"reason,omitempty"`
	ToDo   string       `json:"toDo,omitempty" doc:"What the operator can do about it"`
	Ledger LedgerStatus `json:"ledger"`
}

// LedgerStatus is the ledger of a cluster, as one node reads it.
type LedgerStatus struct {
	State  string `json:"state" enum:"connecting,absent,reading,missing,stopped" doc:"absent: the cluster has none; missing: it shows the one that it had no more; stopped: it is not the one that it was. Without it nothing is copied into the cluster"`
	Reason string `json:"reason,omitempty"`
	ToDo   string `json:"toDo,omitempty"`
	Behind int64  `json:"behind" doc:"Ledger offsets that are not read yet"`
	// Damaged counts all damage since the node started, Damage holds the first
	// hundred.
	Damaged int            `json:"damaged" doc:"Records that cannot be right, since the node started"`
	Damage  []LedgerDamage `json:"damage,omitempty" doc:"The first hundred of them"`
	Doubts  []LedgerDoubt  `json:"doubts,omitempty" doc:"What may be lost, by partition"`
}

// LedgerDamage is a place in a ledger that cannot be right.
type LedgerDamage struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Reason    string `json:"reason"`
	Harmless  bool   `json:"harmless" doc:"No page of the ledger is lost with it"`
}

// LedgerDoubt is the last place of a ledger partition at which pages may be
// lost. What is not waived keeps copies from starting that cannot show that they
// have missed nothing, and offsets near it from being translated.
type LedgerDoubt struct {
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Reason    string `json:"reason"`
	Copies    int    `json:"copies" doc:"Known copies that are uncertain because of it"`
	WaivedBy  string `json:"waivedBy,omitempty" doc:"Who has said that it does not matter"`
}

// FleetStatus is the nodes.
type FleetStatus struct {
	Leader   string       `json:"leader" doc:"Name of the raft leader, empty while there is none"`
	Revision uint64       `json:"revision"`
	Nodes    []NodeStatus `json:"nodes"`
}

// NodeStatus is one node.
type NodeStatus struct {
	Name        string `json:"name"`
	Address     string `json:"address" doc:"Of its HTTP API"`
	Alive       bool   `json:"alive"`
	Incarnation uint64 `json:"incarnation,omitempty" doc:"0 while it owns nothing"`
	Draining    bool   `json:"draining,omitempty" doc:"An operator wants it to own nothing"`
	Stopping    bool   `json:"stopping,omitempty" doc:"Its process ends as soon as its work has moved"`
	Copies      int    `json:"copies" doc:"Partitions that it is to copy"`
	Works       int    `json:"works" doc:"All work that it owns: copies, duties of flows, runbooks"`

	BytesPerSecond float64           `json:"bytesPerSecond" doc:"Of its copies together, as the assignment weighs them: smoothed, and known to the leader"`
	Region         string            `json:"region,omitempty"`
	Rack           string            `json:"rack,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Version        string            `json:"version,omitempty"`
}

// FlowStatus sums up a flow; its state is the worst of its topics'.
type FlowStatus struct {
	Name        string `json:"name"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Delivery    string `json:"delivery" doc:"exactly-once or at-least-once, as the flow declares it; what the destination cannot give fails and is never weakened"`
	State       string `json:"state"`
	Reason      string `json:"reason,omitempty"`
	ToDo        string `json:"toDo,omitempty" doc:"What the operator can do about it"`
	Progress
	Topics []TopicStatus `json:"topics"`
}

// Progress is how far copying has come: a flow's and a topic's are those of their
// partitions together, and not known where that of one is not.
type Progress struct {
	LagRecords int64   `json:"lagRecords" doc:"Source offsets not copied yet; -1 if not known"`
	LagBytes   int64   `json:"lagBytes" doc:"Those, at the mean size of what was copied; -1 if not known"`
	LagSeconds float64 `json:"lagSeconds" doc:"For how long the oldest of them has been at the source; -1 if not known"`
	// What a person waits for, and what it rests on.
	ETASeconds float64 `json:"etaSeconds" doc:"Until nothing is missing, at the rates that etaBasis names; -1 if not known, or never at these rates"`
	ETABasis   string  `json:"etaBasis,omitempty"`
	RPOSeconds float64 `json:"rpoSeconds" doc:"Recovery point: if the source were lost now, what it acknowledged during this time would be missing, lagRecords at least; -1 if not known"`

	RecordsPerSecond float64 `json:"recordsPerSecond" doc:"Copied, over the last ten seconds"`
	BytesPerSecond   float64 `json:"bytesPerSecond" doc:"Of batches as written, likewise"`
	Records          int64   `json:"records" doc:"Copied since the present owners started"`
	Bytes            int64   `json:"bytes" doc:"Of batches as written, likewise"`
}

// TopicStatus is one topic of a flow.
type TopicStatus struct {
	SourceTopic      string `json:"sourceTopic"`
	DestinationTopic string `json:"destinationTopic"`
	Offsets          string `json:"offsets" doc:"preserve where the destination is a mirror topic, which has the source's offsets; else translate"`
	State            string `json:"state"`
	Reason           string `json:"reason,omitempty"`
	ToDo             string `json:"toDo,omitempty"`
	Progress
	Partitions []CopyStatus `json:"partitions"`
}

// CopyStatus is one partition of a topic.
type CopyStatus struct {
	Partition      int32  `json:"partition"`
	Node           string `json:"node,omitempty" doc:"Its owner"`
	Epoch          uint64 `json:"epoch,omitempty" doc:"Of that ownership"`
	State          string `json:"state"`
	Reason         string `json:"reason,omitempty"`
	ToDo           string `json:"toDo,omitempty"`
	Position       int64  `json:"position" doc:"Next source offset to copy; -1 if not known"`
	SourceEnd      int64  `json:"sourceEnd" doc:"The source's high watermark; -1 if not known"`
	ForeignRecords int64  `json:"foreignRecords,omitempty" doc:"Records that others have written to the destination partition between those of the copy, since the present owner started"`
	// Of copies that are at least once.
	MayBeDoubled int64 `json:"mayBeDoubled,omitempty" doc:"Records that may be at the destination twice, since the present owner started: found behind the last hop and not matched with the source's"`
	Progress
}

func registerFlows(h huma.API, f Flows) {
	register(h, operation(http.MethodGet, "/api/v1/status", "status", "The fleet and its flows"),
		func(ctx context.Context, _ *struct{}) (*statusOutput, error) {
			s, err := f.Status(ctx)
			return &statusOutput{Body: s}, err
		})
}

type statusOutput struct {
	Body Status
}
