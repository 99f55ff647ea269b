package demo

import "time"

// Report is every figure of a demonstration, as -o json prints it.
type Report struct {
	OK       bool     `json:"ok"`
	Failures []string `json:"failures"` // checks that did not hold, in words

	Produced   int `json:"produced"` // records acknowledged at the source
	Mirrored   int `json:"mirrored"` // of them, found at the destination by a reader
	Missing    int `json:"missing"`
	Duplicated int `json:"duplicated"`
	Reordered  int `json:"reordered"`
	Mismatched int `json:"mismatched"`
	Phantom    int `json:"phantom"`

	Groups []GroupReport `json:"groups"`

	LoadPerSecond   int     `json:"load_per_second"` // acknowledged while the owner was killed
	Killed          string  `json:"killed"`
	CopiesMoved     int     `json:"copies_moved"`
	FailoverSeconds float64 `json:"failover_seconds"` // from the kill to the first hop of the last moved copy

	Lineage LineageReport `json:"lineage"`
	Runbook RunbookReport `json:"runbook"`

	Seconds     float64     `json:"seconds"`
	Connections Connections `json:"connections"`
}

// GroupReport is a consumer group that read a part in one datacenter and the
// rest in the other.
type GroupReport struct {
	Group             string `json:"group"`
	ReadAtSource      int    `json:"read_at_source"`
	ReadAtDestination int    `json:"read_at_destination"`
	Reread            int    `json:"reread"`
	Skipped           int    `json:"skipped"`
	// Exact: every event once over both sides, in order and unaltered.
	Exact bool `json:"exact"`
}

// LineageReport is what the lineage API said of one event.
type LineageReport struct {
	Event      string `json:"event"` // cluster/topic/partition/offset
	ProducedBy string `json:"produced_by"`
	ClientID   string `json:"client_id"`
	// ProducedAt and CopiedAt are when, by the clocks of the broker and of the node
	// that did it.
	ProducedAt *time.Time `json:"produced_at,omitempty"`
	CopiedAt   *time.Time `json:"copied_at,omitempty"`
	CopiedFrom string     `json:"copied_from"`
	CopiedTo   string     `json:"copied_to"`
	Flow       string     `json:"flow"`
	ReadBy     string     `json:"read_by"` // consumer group
	Millis     float64    `json:"millis"`
	Curl       string     `json:"curl"`
	// Unknown is what cannot be said, and why: who produced and who read is
	// written down only by clusters that do so, such as the bundled broker.
	Unknown []string `json:"unknown,omitempty"`
}

// RunbookReport is the planned failover.
type RunbookReport struct {
	Name    string   `json:"name"`
	State   string   `json:"state"`
	Steps   []string `json:"steps"`
	Seconds float64  `json:"seconds"`
}

// Connections let any other client check what the demonstration claims.
type Connections struct {
	Dir     string              `json:"dir"`
	Objects string              `json:"objects"` // YAML of the clusters and the flow
	US      ClusterConnection   `json:"us"`
	EU      ClusterConnection   `json:"eu"`
	Fleet   []ReplicatorAddress `json:"fleet"`
	// TokenFile holds the API token of an administrator.
	TokenFile string `json:"token_file"`
}

// ClusterConnection reaches one datacenter.
type ClusterConnection struct {
	BootstrapServers string            `json:"bootstrap_servers"`
	SecurityProtocol string            `json:"security_protocol"` // as Kafka's clients call it
	SASLMechanism    string            `json:"sasl_mechanism"`
	CAFile           string            `json:"ca_file"`
	PasswordFiles    map[string]string `json:"password_files"` // by user
}

// ReplicatorAddress is one node of the fleet.
type ReplicatorAddress struct {
	Name string `json:"name"`
	API  string `json:"api"`
	PID  int    `json:"pid"`
}

func (d *datacenter) connection() ClusterConnection {
	c := ClusterConnection{
		BootstrapServers: d.address, SecurityProtocol: "SASL_SSL", SASLMechanism: "SCRAM-SHA-512",
		CAFile: d.ca(), PasswordFiles: map[string]string{},
	}
	for _, u := range users {
		c.PasswordFiles[u] = d.passwordFile(u)
	}
	return c
}

func (r *Report) add(v Verdict) {
	r.Missing += v.Missing
	r.Duplicated += v.Duplicated
	r.Reordered += v.Reordered
	r.Mismatched += v.Mismatched
	r.Phantom += v.Phantom
}
