package flow

import "fmt"

// APIVersion is the version of the objects in this package.
const APIVersion = "waybill/v1"

// Kind is the kind of an object.
type Kind string

// The kinds.
const (
	KindCluster         Kind = "Cluster"
	KindReplicationFlow Kind = "ReplicationFlow"
	KindRunbook         Kind = "Runbook"
)

// Metadata is what every object has.
type Metadata struct {
	// Name is lower case letters, digits, "-" and ".", at most 63 bytes; it
	// identifies the object among those of its kind.
	Name        string            `yaml:"name" json:"name"`
	Labels      map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty" json:"annotations,omitempty"`
}

// Cluster is a Kafka-protocol cluster and how to reach it.
type Cluster struct {
	Metadata Metadata    `yaml:"metadata" json:"metadata"`
	Spec     ClusterSpec `yaml:"spec" json:"spec"`
}

// ClusterSpec says how to reach a cluster.
type ClusterSpec struct {
	BootstrapServers []string `yaml:"bootstrapServers" json:"bootstrapServers"`
	// ClusterID, if set, is the only cluster.id that may answer there.
	ClusterID string `yaml:"clusterId,omitempty" json:"clusterId,omitempty"`
	// Region and Rack are where its brokers are; nodes near it are preferred for
	// flows into it.
	Region string `yaml:"region,omitempty" json:"region,omitempty"`
	Rack   string `yaml:"rack,omitempty" json:"rack,omitempty"`
	TLS    *TLS   `yaml:"tls,omitempty" json:"tls,omitempty"`
	SASL   *SASL  `yaml:"sasl,omitempty" json:"sasl,omitempty"`
}

// Connection is what matters to who connects: not where the cluster is.
func (s ClusterSpec) Connection() ClusterSpec {
	s.Region, s.Rack = "", ""
	return s
}

// TLS is the client's side of TLS. An empty TLS trusts the system's roots.
// Files are read by each node that connects, again when they change.
type TLS struct {
	CAFile     string `yaml:"caFile,omitempty" json:"caFile,omitempty"`
	CertFile   string `yaml:"certFile,omitempty" json:"certFile,omitempty"`
	KeyFile    string `yaml:"keyFile,omitempty" json:"keyFile,omitempty"`
	ServerName string `yaml:"serverName,omitempty" json:"serverName,omitempty"`
}

// SASL is the client's side of authentication.
type SASL struct {
	Mechanism string `yaml:"mechanism" json:"mechanism"` // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
	Username  string `yaml:"username" json:"username"`
	Password  Secret `yaml:"password" json:"password"`
}

// ReplicationFlow is one direction between two clusters.
type ReplicationFlow struct {
	Metadata Metadata `yaml:"metadata" json:"metadata"`
	Spec     FlowSpec `yaml:"spec" json:"spec"`
}

// FlowSpec says what a flow copies, and how.
type FlowSpec struct { //nolint:revive // Spec alone would hide that clusters and runbooks have one too
	Source      string         `yaml:"source" json:"source"`           // name of a Cluster
	Destination string         `yaml:"destination" json:"destination"` // name of a Cluster
	Paused      bool           `yaml:"paused,omitempty" json:"paused,omitempty"`
	Topics      TopicSelector  `yaml:"topics" json:"topics"`
	Groups      *GroupSelector `yaml:"groups,omitempty" json:"groups,omitempty"`
	// Offsets is [OffsetsTranslate], or [OffsetsPreserve] where the destination has
	// mirror topics, or [OffsetsAuto]: preserve where it can be had.
	Offsets string `yaml:"offsets,omitempty" json:"offsets,omitempty"`
	// Start is where a copy without history begins.
	Start Start `yaml:"start,omitempty" json:"start,omitempty"`
	// Delivery is [DeliveryExactlyOnce], or [DeliveryAtLeastOnce] into a destination
	// that has no transactions to give.
	Delivery string `yaml:"delivery,omitempty" json:"delivery,omitempty"`
	// Origin is [OriginAny] or [OriginLocal]: whether records are copied that came to
	// the source from elsewhere, too.
	Origin string `yaml:"origin,omitempty" json:"origin,omitempty"`
	// Policies say what becomes of copies when a cluster changes under them.
	Policies FlowPolicies `yaml:"policies,omitempty" json:"policies,omitzero"`
	// Records is nil where they are copied as they are.
	Records *Records `yaml:"records,omitempty" json:"records,omitempty"`
	// Placement is nil where any node may run the flow.
	Placement *Placement `yaml:"placement,omitempty" json:"placement,omitempty"`
	// Limits may change while the flow's copies run.
	Limits FlowLimits `yaml:"limits,omitempty" json:"limits,omitzero"`
	// Verify, if set, has both sides compared again and again.
	Verify *FlowVerify `yaml:"verify,omitempty" json:"verify,omitempty"`
	// MirrorMaker2, if set, has the topics written that MirrorMaker 2's clients look for.
	MirrorMaker2 *MirrorMaker2 `yaml:"mirrorMaker2,omitempty" json:"mirrorMaker2,omitempty"`
}

// MirrorMaker2 says how the topics are named that MirrorMaker 2 leaves for its clients:
// heartbeats, checkpoints, offset syncs (KIP-382).
type MirrorMaker2 struct {
	// SourceAlias and DestinationAlias are what MirrorMaker would call the clusters; the
	// names of the Clusters if they are empty.
	SourceAlias      string `yaml:"sourceAlias,omitempty" json:"sourceAlias,omitempty"`
	DestinationAlias string `yaml:"destinationAlias,omitempty" json:"destinationAlias,omitempty"`
	// OffsetSyncs is the cluster that gets them: [OffsetSyncsSource],
	// [OffsetSyncsDestination] or [OffsetSyncsNone].
	OffsetSyncs string `yaml:"offsetSyncs,omitempty" json:"offsetSyncs,omitempty"`
}

// FlowVerify says how both sides of a flow are compared in the background.
type FlowVerify struct { //nolint:revive // Verify alone would be a verb
	// Interval from the beginning of one comparison to that of the next. One that
	// takes longer is finished first.
	Interval Duration `yaml:"interval,omitempty" json:"interval,omitempty"`
	// BytesPerSecond that are read of both sides together.
	BytesPerSecond Size `yaml:"bytesPerSecond,omitempty" json:"bytesPerSecond,omitempty"`
	// From is [VerifyFromStart] or [VerifyFromVerified].
	From string `yaml:"from,omitempty" json:"from,omitempty"`
}

// FlowLimits bound what a flow takes of the clusters and of the way between them.
type FlowLimits struct { //nolint:revive // Limits alone would be anybody's
	// BytesPerSecond that are fetched, as they are on the wire, by all nodes
	// together; 0 is no limit.
	BytesPerSecond Size `yaml:"bytesPerSecond,omitempty" json:"bytesPerSecond,omitempty"`
	// Lanes are transactions that may be under way at once on each node; 0 leaves it
	// to the node. A change starts the flow's copies anew.
	Lanes int `yaml:"lanes,omitempty" json:"lanes,omitempty"`
	// CommitInterval is how long a transaction collects data, at least; 0 leaves it to the
	// node. A change starts the flow's copies anew.
	CommitInterval Duration `yaml:"commitInterval,omitempty" json:"commitInterval,omitempty"`
}

// TopicSelector picks topics and says how they are named and made.
type TopicSelector struct {
	Selector `yaml:",inline"`
	Rename   Naming      `yaml:"rename,omitempty" json:"rename,omitzero"`
	Create   TopicCreate `yaml:"create,omitempty" json:"create,omitzero"`
	Configs  ConfigSync  `yaml:"configs,omitempty" json:"configs,omitzero"`
	// Paused are patterns of picked topics that are not copied for now.
	Paused []string `yaml:"paused,omitempty" json:"paused,omitempty"`
}

// TopicCreate says how missing destination topics are made.
type TopicCreate struct {
	// ReplicationFactor of new topics; 0 leaves it to the destination's default.
	ReplicationFactor ReplicationFactor `yaml:"replicationFactor,omitempty" json:"replicationFactor,omitempty"`
	// Configs of new topics, over what the source's topic has. What stands here does
	// not follow the source later.
	Configs map[string]string `yaml:"configs,omitempty" json:"configs,omitempty"`
}

// ConfigSync says which settings of destination topics follow the source's.
type ConfigSync struct {
	// Sync is nil only in objects that were not parsed; they follow.
	Sync *bool `yaml:"sync,omitempty" json:"sync,omitempty"`
	// Include and Exclude are globs of keys; without Include those follow that say
	// what becomes of records: cleanup.policy, retention, and such.
	Include []string `yaml:"include,omitempty" json:"include,omitempty"`
	Exclude []string `yaml:"exclude,omitempty" json:"exclude,omitempty"`
	// OnDrift is what becomes of a value at the destination that is neither the
	// source's nor the last that the flow wrote: [DriftReport] or [DriftOverwrite].
	OnDrift string `yaml:"onDrift,omitempty" json:"onDrift,omitempty"`
}

// On reports whether settings follow.
func (c ConfigSync) On() bool { return c.Sync == nil || *c.Sync }

// FlowPolicies say what becomes of copies when a cluster changes under them.
type FlowPolicies struct { //nolint:revive // Policies alone would be anybody's
	// OnDelete is what becomes of the copy of a topic that was deleted at the
	// source: [DeleteKeep] or [DeleteCopy], after DeleteAfter.
	OnDelete    string   `yaml:"onDelete,omitempty" json:"onDelete,omitempty"`
	DeleteAfter Duration `yaml:"deleteAfter,omitempty" json:"deleteAfter,omitempty"`
	// OnRecreate is what becomes of a topic that was deleted at the source and
	// created again: [RecreateStop] or [RecreateNewGeneration].
	OnRecreate string `yaml:"onRecreate,omitempty" json:"onRecreate,omitempty"`
	// OnGap is what becomes of a copy whose next records the source has deleted
	// already: [GapContinue] or [GapStop].
	OnGap string `yaml:"onGap,omitempty" json:"onGap,omitempty"`
	// OnTruncate is what becomes of a copy when the source has lost records that were
	// copied: [TruncateStop] or [TruncateRetract].
	OnTruncate string `yaml:"onTruncate,omitempty" json:"onTruncate,omitempty"`
	// OnLoss is what becomes of a copy when the destination has lost records that
	// were copied: [LossRecopy] or [LossStop].
	OnLoss string `yaml:"onLoss,omitempty" json:"onLoss,omitempty"`
	// OnRefusal is what becomes of a copy when the destination has no room for what is
	// copied, on its disks, in a quota or in enough replicas: [RefusalWait], or
	// [RefusalStop] after RefusalAfter.
	OnRefusal    string   `yaml:"onRefusal,omitempty" json:"onRefusal,omitempty"`
	RefusalAfter Duration `yaml:"refusalAfter,omitempty" json:"refusalAfter,omitempty"`
}

// GroupSelector picks consumer groups whose offsets follow their data.
type GroupSelector struct {
	Selector `yaml:",inline"`
	// Interval between synchronisations.
	Interval Duration `yaml:"interval,omitempty" json:"interval,omitempty"`
}

// Runbook is a planned migration or failover as ordered steps.
type Runbook struct {
	Metadata Metadata    `yaml:"metadata" json:"metadata"`
	Spec     RunbookSpec `yaml:"spec" json:"spec"`
}

// RunbookSpec is the flow that a runbook is about and its steps, in order.
type RunbookSpec struct {
	Flow  string `yaml:"flow" json:"flow"` // name of a ReplicationFlow
	Steps []Step `yaml:"steps" json:"steps"`
}

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}

func (tp TopicPartition) String() string { return fmt.Sprintf("%s/%d", tp.Topic, tp.Partition) }
