package flow

import (
	"fmt"
	"time"
)

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
	Name        string            `yaml:"name" json:"name"`
	Labels      map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty" json:"annotations,omitempty"`
}

// Object is one declared object. Exactly the pointer that Kind names is set.
type Object struct {
	Kind    Kind
	Cluster *Cluster
	Flow    *ReplicationFlow
	Runbook *Runbook
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
	TLS       *TLS   `yaml:"tls,omitempty" json:"tls,omitempty"`
	SASL      *SASL  `yaml:"sasl,omitempty" json:"sasl,omitempty"`
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
	Mechanism string `yaml:"mechanism" json:"mechanism"` // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512
	Username  string `yaml:"username" json:"username"`
	Password  Secret `yaml:"password" json:"password"`
}

// Secret is a reference to a secret: ${env:NAME} or ${file:PATH}. A literal is
// refused when it is parsed, so an object never holds a secret.
type Secret string

// ReplicationFlow is one direction between two clusters.
type ReplicationFlow struct {
	Metadata Metadata `yaml:"metadata" json:"metadata"`
	Spec     FlowSpec `yaml:"spec" json:"spec"`
}

// FlowSpec says what a flow copies, and how.
type FlowSpec struct {
	Source      string         `yaml:"source" json:"source"`           // name of a Cluster
	Destination string         `yaml:"destination" json:"destination"` // name of a Cluster
	Paused      bool           `yaml:"paused,omitempty" json:"paused,omitempty"`
	Topics      TopicSelector  `yaml:"topics" json:"topics"`
	Groups      *GroupSelector `yaml:"groups,omitempty" json:"groups,omitempty"`
	// Offsets is "translate": preserve needs mirror topics, which the parser
	// refuses until they exist.
	Offsets string `yaml:"offsets,omitempty" json:"offsets,omitempty"`
	// Start is where a copy without history begins: earliest or latest.
	Start string `yaml:"start,omitempty" json:"start,omitempty"`
}

// Selector picks names: globs, or a regular expression between slashes. Exclude
// wins. Internal topics (names that begin with "__") are never picked.
type Selector struct {
	Include []string `yaml:"include" json:"include"`
	Exclude []string `yaml:"exclude,omitempty" json:"exclude,omitempty"`
}

// TopicSelector picks topics and says how they are named and made.
type TopicSelector struct {
	Selector `yaml:",inline"`
	Rename   Naming      `yaml:"rename,omitempty" json:"rename,omitzero"`
	Create   TopicCreate `yaml:"create,omitempty" json:"create,omitzero"`
}

// Naming maps a source topic's name to the destination's. The zero Naming keeps
// names.
type Naming struct {
	Prefix string `yaml:"prefix,omitempty" json:"prefix,omitempty"`
}

// TopicCreate says how missing destination topics are made.
type TopicCreate struct {
	// ReplicationFactor of new topics; 0 leaves it to the destination's default.
	ReplicationFactor int16 `yaml:"replicationFactor,omitempty" json:"replicationFactor,omitempty"`
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

// Step is one step of a runbook. Exactly one verb is set.
type Step struct {
	ID string `yaml:"id" json:"id"`

	Check  string      `yaml:"check,omitempty" json:"check,omitempty"` // preflight, groups or verify
	Wait   *WaitStep   `yaml:"wait,omitempty" json:"wait,omitempty"`
	Fence  *FenceStep  `yaml:"fence,omitempty" json:"fence,omitempty"`
	Apply  string      `yaml:"apply,omitempty" json:"apply,omitempty"` // groupOffsets
	Gate   *GateStep   `yaml:"gate,omitempty" json:"gate,omitempty"`
	Switch *SwitchStep `yaml:"switch,omitempty" json:"switch,omitempty"`
	Report *ReportStep `yaml:"report,omitempty" json:"report,omitempty"`

	// Timeout fails the step; 0 is the default of its verb.
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`
}

// WaitStep waits for the flow's lag to come down.
type WaitStep struct {
	LagRecords int64    `yaml:"lagRecords" json:"lagRecords"` // at most
	StableFor  Duration `yaml:"stableFor,omitempty" json:"stableFor,omitempty"`
}

// FenceStep denies writes to the flow's topics at the source by ACL, and proves
// it: the log ends must stand still for Watch.
type FenceStep struct {
	Principals []string `yaml:"principals" json:"principals"` // e.g. User:orders-app; "*" is everybody
	Watch      Duration `yaml:"watch,omitempty" json:"watch,omitempty"`
}

// GateStep waits for a person.
type GateStep struct {
	Approvals int `yaml:"approvals" json:"approvals"`
}

// SwitchStep is where clients move: pause the flow, then wait for a person to
// confirm, or go on at once when Confirm is false.
type SwitchStep struct {
	Confirm bool `yaml:"confirm,omitempty" json:"confirm,omitempty"`
}

// ReportStep ends a runbook with a report of all evidence.
type ReportStep struct{}

// Duration is a time.Duration that reads and prints as "1m30s".
type Duration time.Duration

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

func (tp TopicPartition) String() string { return fmt.Sprintf("%s/%d", tp.Topic, tp.Partition) }
