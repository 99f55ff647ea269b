package lineage

import "time"

// Address names an event, or a topic where Partition and Offset do not matter.
type Address struct {
	Cluster   string `json:"cluster"` // name or cluster.id
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	// TopicID asks for one life of the topic; empty is the present one.
	TopicID string `json:"topicId,omitempty"`
}

// Answer is everything that is known of one event: the places where it lies, and
// the copies that brought it there. Nodes[0] is the place that was asked about.
type Answer struct {
	Nodes []Node `json:"nodes"`
	Edges []Edge `json:"edges"`
	// Truncated says what bound cut the walk off, if one did.
	Truncated string `json:"truncated,omitempty"`
}

// Node is one place where the event lies. A redacted node has nothing but that:
// the caller may not see its topic.
type Node struct {
	Redacted  bool   `json:"redacted,omitempty"`
	Cluster   string `json:"cluster,omitempty"` // name, or cluster.id where there is none
	ClusterID string `json:"clusterId,omitempty"`
	Topic     string `json:"topic,omitempty"`
	TopicID   string `json:"topicId,omitempty"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`

	// Origin says that no copy brought the event here: it was produced here.
	Origin      bool `json:"origin,omitempty"`
	EarlierLife bool `json:"earlierLife,omitempty"` // the topic was recreated since
	// SourceLost says that a copy brought the event here and that its source has lost
	// it since, by an unclean election.
	SourceLost bool `json:"sourceLost,omitempty"`

	Produced  []Deed      `json:"produced,omitempty"`
	Accesses  []Deed      `json:"accesses,omitempty"` // in order of time
	More      bool        `json:"more,omitempty"`     // than the limit of the two above
	NotCopied []NotCopied `json:"notCopied,omitempty"`
	Stored    *Stored     `json:"stored,omitempty" doc:"What the record itself says, if it was read: headers says where it is"`
	// Unknown lists what cannot be said, and why.
	Unknown []string `json:"unknown,omitempty"`
}

// Edge is one copying of the event, from one node to another. Where one of them
// is redacted, so is everything but that it took place.
type Edge struct {
	From        int        `json:"from"` // indices of nodes
	To          int        `json:"to"`
	Flow        string     `json:"flow,omitempty"`
	Fleet       string     `json:"fleet,omitempty"`
	ReplicaNode string     `json:"node,omitempty"` // of the fleet, that copied it
	Epoch       uint64     `json:"epoch,omitempty"`
	At          *time.Time `json:"at,omitempty"`
	// Since is given where hops were folded: it was copied at some time from then to At.
	Since *time.Time `json:"since,omitempty"`
	Path  string     `json:"path,omitempty"` // raw, re-encoded or altered; not known where hops were folded
	// Uncertain is why the ledger may have taken the copying back.
	Uncertain string `json:"uncertain,omitempty"`
}

// NotCopied says that a flow has no copy of the event.
type NotCopied struct {
	Redacted bool   `json:"redacted,omitempty"`
	Flow     string `json:"flow,omitempty"`
	Cluster  string `json:"cluster,omitempty"` // the destination
	Topic    string `json:"topic,omitempty"`
	// Reason is a gap's, or "pending", "before-start", "ended" (the topic was deleted
	// before the copy came to the event) or "unknown".
	Reason string `json:"reason,omitempty"`
	Why    string `json:"why,omitempty"`
}

// Deed is a production, or an access, of Offsets offsets from First to Last by one
// client: fewer than lie between them if others took turns with it. Of others'
// deeds, callers without Describe on the cluster see only that and when they took
// place.
type Deed struct {
	Redacted  bool      `json:"redacted,omitempty"`
	Kind      string    `json:"kind" doc:"produced, fetched (sent, not yet read) or committed; of the basis committed-offsets also found (first seen there), leapt (went forward, and no reading is known), reset (went back) or gone"`
	Basis     string    `json:"basis,omitempty" doc:"committed-offsets: the cluster records no accesses, and a node saw where the group's committed offset was; absent: the cluster has recorded it"`
	Principal string    `json:"principal,omitempty"`
	ClientID  string    `json:"clientId,omitempty"`
	Software  string    `json:"software,omitempty"`
	Address   string    `json:"address,omitempty"`
	Group     string    `json:"group,omitempty"`
	Partition int32     `json:"partition"`
	First     int64     `json:"first"`
	Last      int64     `json:"last"`
	Offsets   int64     `json:"offsets"`
	FirstAt   time.Time `json:"firstAt"`
	At        time.Time `json:"at"`
}

// Graph is a topic and everything that it is copied from and to, over any number
// of clusters. Topics[0] is the one that was asked about.
type Graph struct {
	Topics    []TopicNode `json:"topics"`
	Copies    []TopicCopy `json:"copies"`
	Clients   []Client    `json:"clients"` // of the topic that was asked about
	More      bool        `json:"more,omitempty"`
	Unknown   []string    `json:"unknown,omitempty"`
	Truncated string      `json:"truncated,omitempty"`
}

// TopicNode is one life of a topic.
type TopicNode struct {
	Redacted    bool   `json:"redacted,omitempty"`
	Cluster     string `json:"cluster,omitempty"`
	ClusterID   string `json:"clusterId,omitempty"`
	Topic       string `json:"topic,omitempty"`
	TopicID     string `json:"topicId,omitempty"`
	EarlierLife bool   `json:"earlierLife,omitempty"`
}

// TopicCopy is the copying of one topic to another.
type TopicCopy struct {
	From       int             `json:"from"` // indices of topics
	To         int             `json:"to"`
	Flow       string          `json:"flow,omitempty"`
	Fleet      string          `json:"fleet,omitempty"`
	Pace       *Pace           `json:"pace,omitempty"`
	Partitions []PartitionCopy `json:"partitions,omitempty"`
}

// PartitionCopy is the copying of one partition.
type PartitionCopy struct {
	Source          int32            `json:"source"` // partitions
	Destination     int32            `json:"destination"`
	Start           int64            `json:"start"` // source offsets, Next exclusive
	Next            int64            `json:"next"`
	DestinationNext int64            `json:"destinationNext"` // -1 if nothing was copied
	Records         int64            `json:"records"`
	Bytes           int64            `json:"bytes"`
	Gaps            map[string]int64 `json:"gaps,omitempty"` // offsets by reason
	Epoch           uint64           `json:"epoch"`
	LastAt          time.Time        `json:"lastAt"`
	Pace            *Pace            `json:"pace,omitempty" doc:"If it is asked for"`
}

// Client is what one client did to one topic altogether.
type Client struct {
	Redacted  bool      `json:"redacted,omitempty"`
	Kind      string    `json:"kind"` // produced, fetched or committed
	Basis     string    `json:"basis,omitempty" doc:"committed-offsets: known from the group's committed offsets only; absent: the cluster has recorded it"`
	Principal string    `json:"principal,omitempty"`
	ClientID  string    `json:"clientId,omitempty"`
	Software  string    `json:"software,omitempty"`
	Address   string    `json:"address,omitempty"`
	Group     string    `json:"group,omitempty"`
	Offsets   int64     `json:"offsets"` // some may count twice
	FirstAt   time.Time `json:"firstAt"`
	At        time.Time `json:"at"`
}

// Gap is a run of source offsets without a copy.
type Gap struct {
	Flow    string `json:"flow"`
	Cluster string `json:"cluster"` // the destination
	Topic   string `json:"topic"`
	Source  int64  `json:"source"`
	Count   int64  `json:"count"`
	Reason  string `json:"reason"`
	Why     string `json:"why,omitempty"`
}

// Limits bound an answer.
type Limits struct {
	Nodes int // places of one event, or topics of one graph; 0 is 256
	Depth int // hops from the place asked about; 0 is 32
	Deeds int // productions, accesses, clients or gaps each; 0 is 500
	Looks int // hops, seeks and parts of ranges together in one walk of ranges; 0 is 20,000
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		v  *int
		to int
	}{{&l.Nodes, 256}, {&l.Depth, 32}, {&l.Deeds, 500}, {&l.Looks, 20_000}} {
		if *d.v <= 0 {
			*d.v = d.to
		}
	}
	return l
}
