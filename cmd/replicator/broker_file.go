package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// brokerFile is the plain file that 'replicator broker --config' reads. Its
// keys are documented in docs/broker.md; those without omitempty must be there.
// What is not written is the default: see [newBrokerFile].
type brokerFile struct {
	DataDir           string           `json:"dataDir,omitempty"` // or --dir
	ClusterID         string           `json:"clusterId,omitempty"`
	NodeID            int32            `json:"nodeId,omitempty"`
	Listeners         []brokerListener `json:"listeners"`
	AllowPlaintext    bool             `json:"allowPlaintext,omitempty"`
	Authorizer        bool             `json:"authorizer,omitempty"`
	AllowIfNoACL      bool             `json:"allowEveryoneIfNoAcl,omitempty"`
	SuperUsers        []string         `json:"superUsers,omitempty"`
	Tokens            *brokerTokens    `json:"tokens,omitempty"`
	CutChangedUsers   bool             `json:"cutChangedUsers,omitempty"`
	Limits            brokerLimits     `json:"limits,omitzero"`
	Users             []brokerUser     `json:"users,omitempty"`
	ACLs              []string         `json:"acls,omitempty"`
	AutoCreateTopics  bool             `json:"autoCreateTopics,omitempty"`
	Partitions        int32            `json:"defaultPartitions,omitempty"`
	Internal          brokerInternal   `json:"internalTopics,omitzero"`
	RebalanceDelay    flow.Duration    `json:"groupInitialRebalanceDelay,omitempty"`
	SessionTimeout    flow.Duration    `json:"groupConsumerSessionTimeout,omitempty"`
	BeatInterval      flow.Duration    `json:"groupConsumerHeartbeatInterval,omitempty"`
	Migration         group.Migration  `json:"groupConsumerMigrationPolicy,omitempty"`
	OffsetsRetention  flow.Duration    `json:"offsetsRetention,omitempty"`
	RetentionInterval flow.Duration    `json:"retentionInterval,omitempty"`
	Cleaner           brokerCleaner    `json:"cleaner,omitzero"`
	Provenance        brokerProvenance `json:"provenance,omitzero"`
	Metrics           brokerAddress    `json:"metrics,omitzero"`
}

type brokerAddress struct {
	Address string `json:"address,omitempty"`
}

type brokerProvenance struct {
	Off      bool          `json:"off,omitempty"`
	Exempt   []string      `json:"exempt,omitempty"`
	Interval flow.Duration `json:"interval,omitempty"`
}

// brokerInternal are the broker's own topics, when they are made.
type brokerInternal struct {
	Offsets      int32 `json:"offsetsPartitions,omitempty"`
	Transactions int32 `json:"transactionsPartitions,omitempty"`
}

// brokerCleaner is compaction.
type brokerCleaner struct {
	Memory         int64         `json:"memory,omitempty"`
	BytesPerSecond int64         `json:"bytesPerSecond,omitempty"`
	Interval       flow.Duration `json:"interval,omitempty"`
}

type brokerListener struct {
	Name       string `json:"name"`
	Address    string `json:"address"`
	Protocol   string `json:"protocol"`
	Advertised string `json:"advertised,omitempty"`
	CertFile   string `json:"certFile,omitempty"`
	KeyFile    string `json:"keyFile,omitempty"`
	ClientCA   string `json:"clientCaFile,omitempty"`
	ClientAuth string `json:"clientAuth,omitempty"`
	CRLFile    string `json:"crlFile,omitempty"`
	// PrincipalRules are Kafka's ssl.principal.mapping.rules, one a line.
	PrincipalRules []string       `json:"principalMappingRules,omitempty"`
	Mechanisms     []string       `json:"mechanisms,omitempty"`
	MaxReauth      *flow.Duration `json:"maxReauth,omitempty"`
	MaxConnections int            `json:"maxConnections,omitempty"`
}

// brokerTokens is what OAUTHBEARER takes.
type brokerTokens struct {
	JWKSFile       string         `json:"jwksFile,omitempty"`
	JWKSURL        string         `json:"jwksUrl,omitempty"`
	AllowedHosts   []string       `json:"allowedHosts,omitempty"`
	JWKSCAFile     string         `json:"jwksCaFile,omitempty"`
	JWKSRefresh    *flow.Duration `json:"jwksRefresh,omitempty"`
	Issuer         string         `json:"issuer,omitempty"`
	Audiences      []string       `json:"audiences,omitempty"`
	SubjectClaim   string         `json:"subjectClaim,omitempty"`
	ScopeClaim     string         `json:"scopeClaim,omitempty"`
	RequiredScopes []string       `json:"requiredScopes,omitempty"`
	ClockSkew      *flow.Duration `json:"clockSkew,omitempty"`
	Algorithms     []string       `json:"algorithms,omitempty"`
	Unsecured      bool           `json:"unsecuredForDevelopment,omitempty"`
}

// brokerLimits are [broker.Limits].
type brokerLimits struct {
	MaxConnections        int           `json:"maxConnections,omitempty"`
	MaxConnectionsPerHost int           `json:"maxConnectionsPerHost,omitempty"`
	MaxRequestBytes       int           `json:"maxRequestBytes,omitempty"`
	MaxInFlightBytes      int64         `json:"maxInFlightBytes,omitempty"`
	MaxAnswerBytes        int64         `json:"maxAnswerBytes,omitempty"`
	HandshakeTimeout      flow.Duration `json:"handshakeTimeout,omitempty"`
	IdleTimeout           flow.Duration `json:"idleTimeout,omitempty"`
	WriteTimeout          flow.Duration `json:"writeTimeout,omitempty"`
	DrainTimeout          flow.Duration `json:"drainTimeout,omitempty"`
	MaxPartitions         int           `json:"maxPartitions,omitempty"`
	FetchMaxBytes         int32         `json:"fetchMaxBytes,omitempty"`
	MaxFetchSessions      int           `json:"maxFetchSessions,omitempty"`
}

type brokerUser struct {
	Name     string      `json:"name"`
	Password flow.Secret `json:"password"`
}

// brokerConfig is the file, with the flags that go with one.
func brokerConfig(file string, flags *brokerFlags, changed func(flag string) bool) (brokerProcess, error) {
	conf := brokerProcess{Config: broker.DefaultConfig()}
	if err := besideFile(changed); err != nil {
		return conf, err
	}
	f := newBrokerFile(&conf.Config)
	c, err := loadConfig(file, &f)
	if err != nil {
		return conf, err
	}
	if flags.dir != "" {
		f.DataDir = flags.dir
	}
	if flags.metrics != "" {
		f.Metrics.Address = flags.metrics
	}
	f.into(&conf.Config)
	conf.metrics = f.Metrics.Address
	conf.BootstrapUsers = f.users(c)
	conf.BootstrapACLs = f.acls(c)
	f.check(c)
	for _, fault := range conf.Faults() {
		if fault.Path == "dataDir" && fault.Fix == "" {
			fault.Fix = "set it, or use --dir"
		}
		c.Fault(fault.Path, fault.Problem, fault.Fix)
	}
	return conf, c.err()
}

// check says what is wrong with what only the file has: other files that it names,
// and the process's own address.
func (f *brokerFile) check(c config) {
	for i, l := range f.Listeners {
		at := fmt.Sprintf("listeners[%d]", i)
		c.pair(at, l.CertFile, l.KeyFile)
		c.file(at+".clientCaFile", l.ClientCA)
		c.file(at+".crlFile", l.CRLFile)
	}
	if t := f.Tokens; t != nil {
		c.file("tokens.jwksFile", t.JWKSFile)
		c.file("tokens.jwksCaFile", t.JWKSCAFile)
	}
	c.address("metrics.address", f.Metrics.Address)
}

func (t *brokerTokens) config() auth.TokenConfig {
	conf := auth.DefaultTokenConfig()
	conf.JWKSFile, conf.JWKSURL, conf.AllowedHosts, conf.JWKSCAFile = t.JWKSFile, t.JWKSURL, t.AllowedHosts, t.JWKSCAFile
	conf.Issuer, conf.Audiences, conf.RequiredScopes, conf.Unsecured = t.Issuer, t.Audiences, t.RequiredScopes, t.Unsecured
	setDuration(&conf.JWKSRefresh, t.JWKSRefresh)
	setDuration(&conf.ClockSkew, t.ClockSkew)
	if t.SubjectClaim != "" {
		conf.SubjectClaim = t.SubjectClaim
	}
	if t.ScopeClaim != "" {
		conf.ScopeClaim = t.ScopeClaim
	}
	if len(t.Algorithms) > 0 {
		conf.Algorithms = t.Algorithms
	}
	return conf
}

func setDuration(into *time.Duration, d *flow.Duration) {
	if d != nil {
		*into = d.Std()
	}
}

// newBrokerFile is a file that says nothing but the defaults.
func newBrokerFile(conf *broker.Config) brokerFile {
	d := func(d time.Duration) flow.Duration { return flow.Duration(d) }
	l := &conf.Limits
	return brokerFile{
		NodeID:           conf.NodeID,
		AutoCreateTopics: conf.AutoCreateTopics, Partitions: conf.DefaultPartitions,
		Internal:       brokerInternal{conf.OffsetsPartitions, conf.TransactionsPartitions},
		RebalanceDelay: d(conf.GroupInitialRebalanceDelay),
		SessionTimeout: d(conf.GroupConsumerSessionTimeout), BeatInterval: d(conf.GroupConsumerHeartbeatInterval),
		Migration: conf.GroupMigration, OffsetsRetention: d(conf.OffsetsRetention),
		RetentionInterval: d(conf.RetentionInterval),
		Cleaner:           brokerCleaner{conf.CleanerMemory, conf.CleanerBytesPerSecond, d(conf.CleanerInterval)},
		Provenance:        brokerProvenance{Off: !conf.Provenance, Interval: d(conf.ProvenanceInterval)},
		Limits: brokerLimits{
			MaxConnections: l.MaxConnections, MaxConnectionsPerHost: l.MaxConnectionsPerHost, MaxPartitions: l.MaxPartitions,
			MaxRequestBytes: l.MaxRequestBytes, MaxInFlightBytes: l.MaxInFlightBytes, MaxAnswerBytes: l.MaxAnswerBytes,
			HandshakeTimeout: d(l.HandshakeTimeout), IdleTimeout: d(l.IdleTimeout), WriteTimeout: d(l.WriteTimeout), DrainTimeout: d(l.DrainTimeout),
			FetchMaxBytes: l.FetchMaxBytes, MaxFetchSessions: l.MaxFetchSessions,
		},
	}
}

func (l *brokerLimits) into(conf *broker.Limits) {
	conf.MaxConnections, conf.MaxConnectionsPerHost, conf.MaxPartitions = l.MaxConnections, l.MaxConnectionsPerHost, l.MaxPartitions
	conf.MaxRequestBytes, conf.MaxInFlightBytes, conf.MaxAnswerBytes = l.MaxRequestBytes, l.MaxInFlightBytes, l.MaxAnswerBytes
	conf.HandshakeTimeout, conf.IdleTimeout = l.HandshakeTimeout.Std(), l.IdleTimeout.Std()
	conf.WriteTimeout, conf.DrainTimeout = l.WriteTimeout.Std(), l.DrainTimeout.Std()
	conf.FetchMaxBytes, conf.MaxFetchSessions = l.FetchMaxBytes, l.MaxFetchSessions
}

// into is the file as the broker knows it, without what has to be resolved.
func (f *brokerFile) into(conf *broker.Config) {
	if f.DataDir != "" {
		conf.Dir = filepath.Clean(f.DataDir)
	}
	conf.ClusterID, conf.NodeID = f.ClusterID, f.NodeID
	conf.AllowPlaintext, conf.Authorizer = f.AllowPlaintext, f.Authorizer
	conf.SuperUsers, conf.AllowEveryoneIfNoACL, conf.CutChangedUsers = f.SuperUsers, f.AllowIfNoACL, f.CutChangedUsers
	conf.AutoCreateTopics, conf.DefaultPartitions = f.AutoCreateTopics, f.Partitions
	conf.OffsetsPartitions, conf.TransactionsPartitions = f.Internal.Offsets, f.Internal.Transactions
	conf.GroupInitialRebalanceDelay = f.RebalanceDelay.Std()
	conf.GroupConsumerSessionTimeout, conf.GroupConsumerHeartbeatInterval = f.SessionTimeout.Std(), f.BeatInterval.Std()
	conf.GroupMigration, conf.OffsetsRetention = f.Migration, f.OffsetsRetention.Std()
	conf.RetentionInterval = f.RetentionInterval.Std()
	conf.CleanerMemory, conf.CleanerBytesPerSecond, conf.CleanerInterval = f.Cleaner.Memory, f.Cleaner.BytesPerSecond, f.Cleaner.Interval.Std()
	conf.Provenance, conf.ProvenanceExempt, conf.ProvenanceInterval = !f.Provenance.Off, f.Provenance.Exempt, f.Provenance.Interval.Std()
	if f.Tokens != nil {
		tokens := f.Tokens.config()
		conf.Tokens = &tokens
	}
	f.Limits.into(&conf.Limits)
	conf.Listeners = nil
	for _, l := range f.Listeners {
		next := broker.Listener{
			Name: l.Name, Addr: l.Address, Protocol: broker.Protocol(l.Protocol), Advertised: l.Advertised, MaxConnections: l.MaxConnections,
			TLS: broker.ListenerTLS{
				CertFile: l.CertFile, KeyFile: l.KeyFile, ClientCAFile: l.ClientCA,
				ClientAuth: broker.ClientAuth(l.ClientAuth), CRLFile: l.CRLFile, PrincipalMapping: l.PrincipalRules,
			},
		}
		for _, m := range l.Mechanisms {
			next.Mechanisms = append(next.Mechanisms, auth.Mechanism(m))
		}
		setDuration(&next.MaxReauth, l.MaxReauth)
		conf.Listeners = append(conf.Listeners, next)
	}
}

func (f *brokerFile) users(c config) map[string]string {
	users := map[string]string{}
	for i, u := range f.Users {
		at := fmt.Sprintf("users[%d]", i)
		password, err := kafka.ResolveSecret(u.Password)
		_, taken := users[u.Name]
		switch {
		case err != nil:
			c.Fault(at+".password", err.Error(), "")
		case password == "":
			c.Fault(at+".password", "is empty", "")
		case u.Name == "":
			c.Fault(at+".name", "is empty", "")
		case taken:
			c.Fault(at+".name", fmt.Sprintf("%q is the name of two users", u.Name), "")
		}
		users[u.Name] = password
	}
	return users
}

func (f *brokerFile) acls(c config) []acl.Rule {
	var rules []acl.Rule
	for i, text := range f.ACLs {
		rule, err := acl.ParseRule(text)
		if err != nil {
			c.Fault(fmt.Sprintf("acls[%d]", i), err.Error(), "")
			continue
		}
		rules = append(rules, rule)
	}
	if len(rules) > 0 && !f.Authorizer {
		c.Fault("acls", "are judged by nobody", "set authorizer: true, or remove them")
	}
	return rules
}
