package broker

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/internal/vfs"
)

// Protocol is how a listener secures its connections, by Kafka's ideas and
// shorter names.
type Protocol string

// The protocols of a listener.
const (
	Plaintext     Protocol = "PLAINTEXT"
	TLS           Protocol = "TLS" // Kafka's SSL
	SASLPlaintext Protocol = "SASL_PLAINTEXT"
	SASLTLS       Protocol = "SASL_TLS" // Kafka's SASL_SSL
)

func (p Protocol) tls() bool  { return p == TLS || p == SASLTLS }
func (p Protocol) sasl() bool { return p == SASLPlaintext || p == SASLTLS }

// Listener is one address that the broker accepts clients on.
type Listener struct {
	// Name tells listeners apart; clients that come in through a listener are
	// sent to that listener's advertised addresses.
	Name string
	// Addr is host:port to bind. Port 0 picks a free one: see [Broker.Addr].
	Addr string
	// Socket is bound to Addr already, by who started the process; nil binds it.
	// The broker closes it.
	Socket   net.Listener
	Protocol Protocol
	// Advertised is the host:port that Metadata tells clients; empty means the
	// bound address.
	Advertised string
	TLS        ListenerTLS

	// Mechanisms are those of SASL that the listener offers
	// (sasl.enabled.mechanisms). Empty is SCRAM-SHA-512, SCRAM-SHA-256 and, where
	// there is TLS, PLAIN. OAUTHBEARER needs Config.Tokens.
	Mechanisms []auth.Mechanism
	// MaxReauth is how long a SASL session lasts before the client must have
	// proven again who it is (connections.max.reauth.ms, KIP-368); 0 is for good.
	// A token's end ends its session whatever this says.
	MaxReauth time.Duration
	// MaxConnections bounds the connections of this listener, below those of
	// Limits (max.connections); 0 is no bound of its own. With it, an internal
	// listener keeps room when a public one is full.
	MaxConnections int
}

// ListenerTLS is the server's side of TLS. The files are read when the broker
// is made and again when they change; a pair that does not load leaves the last
// good one in use.
type ListenerTLS struct {
	CertFile, KeyFile string
	// ClientCAFile are the authorities of clients. On a TLS listener the subject
	// of a client's certificate is its principal.
	ClientCAFile string
	// ClientAuth says whether clients show a certificate (ssl.client.auth); empty
	// is required with a ClientCAFile, and none without.
	ClientAuth ClientAuth
	// CRLFile has revocation lists of the authorities, PEM or DER. With it, a
	// client whose issuer has no list that is up to date is refused.
	CRLFile string
	// PrincipalMapping makes names of subjects (ssl.principal.mapping.rules), by
	// the rules of [auth.PrincipalMapping]; empty is the subject as it is.
	PrincipalMapping []string
}

// ClientAuth is whether clients show a certificate, in Kafka's words.
type ClientAuth string

// The ways of client authentication by TLS. Requested lets those without a
// certificate in as User:ANONYMOUS; a certificate that is not good is refused.
const (
	ClientAuthNone      ClientAuth = "none"
	ClientAuthRequested ClientAuth = "requested"
	ClientAuthRequired  ClientAuth = "required"
)

func (t *ListenerTLS) clientAuth() tls.ClientAuthType {
	switch {
	case t.ClientAuth == ClientAuthRequested:
		return tls.VerifyClientCertIfGiven
	case t.ClientAuth == ClientAuthRequired, t.ClientAuth == "" && t.ClientCAFile != "":
		return tls.RequireAndVerifyClientCert
	}
	return tls.NoClientCert
}

// Config is what a Broker is made of. Start from [DefaultConfig].
type Config struct {
	// Dir holds everything the broker stores. One process at a time.
	Dir string
	// ClusterID names the cluster for good when the store is created; empty
	// generates one. A store that has another id refuses to open.
	ClusterID string
	NodeID    int32

	Listeners []Listener
	// AllowPlaintext permits PLAINTEXT and SASL_PLAINTEXT on addresses other
	// than loopback.
	AllowPlaintext bool

	// BootstrapUsers (name to password) and BootstrapACLs are written when the
	// store is created and never looked at again. Passwords are stored as SCRAM
	// keys only.
	BootstrapUsers map[string]string
	BootstrapACLs  []acl.Rule
	// Authorizer turns ACLs on: what no rule allows is denied. Without it every
	// client that authenticated may do everything.
	Authorizer bool
	// SuperUsers ("User:name", matched exactly) are not subject to ACLs.
	SuperUsers []string
	// AllowEveryoneIfNoACL allows everything on resources that no rule is about
	// (allow.everyone.if.no.acl.found). It is for moving to ACLs step by step.
	AllowEveryoneIfNoACL bool
	// Tokens say what OAUTHBEARER takes; nil is no OAUTHBEARER.
	Tokens *auth.TokenConfig
	// CutChangedUsers ends the sessions of users whose credential is changed, at
	// their next request. Those of deleted users always end so; Kafka keeps both.
	CutChangedUsers bool

	// AutoCreateTopics lets Metadata requests create topics, as Kafka does.
	AutoCreateTopics  bool
	DefaultPartitions int32
	// OffsetsPartitions and TransactionsPartitions are the partition counts of
	// __consumer_offsets and __transaction_state, which must not change later.
	OffsetsPartitions      int32
	TransactionsPartitions int32
	// GroupInitialRebalanceDelay is how long the first rebalance of an empty
	// group waits for more members.
	GroupInitialRebalanceDelay time.Duration
	// GroupConsumerSessionTimeout ends a silent member of the consumer protocol
	// (KIP-848), GroupConsumerHeartbeatInterval is how often members are told to
	// beat.
	GroupConsumerSessionTimeout    time.Duration
	GroupConsumerHeartbeatInterval time.Duration
	// GroupMigration says which groups may change between the classic and the
	// consumer protocol while they have members.
	GroupMigration group.Migration
	// OffsetsRetention is how long committed offsets outlive the members of their
	// group.
	OffsetsRetention time.Duration

	// Provenance makes the broker record who produced and who fetched what in
	// its own ledger.
	Provenance bool
	// ProvenanceExempt are principals ("User:name") that leave no such records:
	// the replicators, whose work the ledger has as hops.
	ProvenanceExempt []string
	// ProvenanceInterval is how long a run may grow before it is written.
	ProvenanceInterval time.Duration

	// RetentionInterval is how often old segments are looked for
	// (log.retention.check.interval.ms).
	RetentionInterval time.Duration

	// CleanerInterval is how long compaction rests when there is nothing to do
	// (log.cleaner.backoff.ms), CleanerMemory the bytes of its map of keys
	// (log.cleaner.dedupe.buffer.size), CleanerBytesPerSecond what it reads and
	// writes at most, 0 without a bound (log.cleaner.io.max.bytes.per.second).
	CleanerInterval       time.Duration
	CleanerMemory         int64
	CleanerBytesPerSecond int64

	Limits Limits

	// FS is where Dir is; nil is the operating system's.
	FS vfs.FS
	// Log receives what an operator should know. Nil is replaced by a logger
	// that discards.
	Log *slog.Logger
}

// Limits bound what clients can make the broker hold.
type Limits struct {
	MaxConnections        int // over all listeners
	MaxConnectionsPerHost int // 0: as many as MaxConnections
	// MaxRequestBytes bounds a Produce request; all others are held to 16 MiB,
	// since decoding takes many times the bytes of a frame.
	MaxRequestBytes int
	// MaxInFlightBytes bounds what was received of large requests, of all
	// connections together; beyond it connections are not read.
	MaxInFlightBytes int64
	// MaxAnswerBytes bounds what decoded requests and answers that are not written
	// yet take, of all connections together, without records.
	MaxAnswerBytes int64
	// HandshakeTimeout bounds TLS and SASL together.
	HandshakeTimeout time.Duration
	// IdleTimeout closes connections that have sent nothing and wait for
	// nothing.
	IdleTimeout time.Duration
	// WriteTimeout closes connections that do not take an answer.
	WriteTimeout time.Duration
	// DrainTimeout is how long a stop waits for answers to what was read.
	DrainTimeout time.Duration
	// MaxPartitions bounds the partitions of all topics that are made; those that
	// there are stay.
	MaxPartitions int
	// FetchMaxBytes bounds one Fetch answer whatever the client asks for.
	FetchMaxBytes int32
	// MaxFetchSessions bounds the clients whose partitions are remembered between
	// their Fetch requests; 0 remembers none.
	MaxFetchSessions int
}

// DefaultConfig is a single node on loopback, except for Dir.
func DefaultConfig() Config {
	return Config{
		NodeID:                         1,
		Listeners:                      []Listener{{Name: "client", Addr: "127.0.0.1:9092", Protocol: Plaintext}},
		AutoCreateTopics:               true, // Kafka's default; kcat and kafkajs rely on it
		DefaultPartitions:              1,    // Kafka's num.partitions
		OffsetsPartitions:              8,    // Kafka's 50 is for many brokers; one group lives in one partition
		TransactionsPartitions:         8,
		GroupInitialRebalanceDelay:     3 * time.Second,
		GroupConsumerSessionTimeout:    45 * time.Second,
		GroupConsumerHeartbeatInterval: 5 * time.Second,
		GroupMigration:                 group.MigrateBoth,
		OffsetsRetention:               7 * 24 * time.Hour,
		Provenance:                     true,
		ProvenanceInterval:             500 * time.Millisecond,
		RetentionInterval:              30 * time.Second, // Kafka looks every 5 minutes; a look costs next to nothing
		CleanerInterval:                15 * time.Second,
		CleanerMemory:                  32 << 20, // 1.2 million keys a pass, and only while one runs
		CleanerBytesPerSecond:          50 << 20, // half of what a slow disk does
		Limits:                         DefaultLimits(),
	}
}

// DefaultLimits are Kafka's where Kafka has them.
func DefaultLimits() Limits {
	return Limits{
		MaxConnections:        10_000,           // three goroutines and a buffer of 4 KiB each: 200 MB
		MaxConnectionsPerHost: 0,                // behind a proxy all clients have one address
		MaxRequestBytes:       100 << 20,        // socket.request.max.bytes
		MaxInFlightBytes:      256 << 20,        // two of the largest requests and room for others
		MaxAnswerBytes:        128 << 20,        // three hundred answers about 10,000 partitions
		HandshakeTimeout:      15 * time.Second, // a SCRAM exchange is four round trips
		IdleTimeout:           10 * time.Minute, // connections.max.idle.ms
		WriteTimeout:          60 * time.Second, // a client that takes 50 MiB at 1 MB/s
		DrainTimeout:          5 * time.Second,  // a sync of a slow disk; supervisors kill after 10 s
		MaxPartitions:         20_000,           // 60 KB of memory each
		FetchMaxBytes:         55 << 20,         // fetch.max.bytes
		MaxFetchSessions:      1000,             // max.incremental.fetch.session.cache.slots
	}
}

// isLoopback is about what a host says, not what it resolves to: only localhost
// and loopback addresses count.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func splitHostPort(addr string) (string, int32, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q: %w", port, err)
	}
	return host, int32(n), nil
}

func joinHostPort(host string, port int32) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
