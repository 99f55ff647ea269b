package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
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
type brokerFile struct {
	DataDir          string           `json:"dataDir,omitempty"` // or --dir
	ClusterID        string           `json:"clusterId,omitempty"`
	NodeID           int32            `json:"nodeId,omitempty"`
	Listeners        []brokerListener `json:"listeners"`
	AllowPlaintext   bool             `json:"allowPlaintext,omitempty"`
	Authorizer       bool             `json:"authorizer,omitempty"`
	AllowIfNoACL     bool             `json:"allowEveryoneIfNoAcl,omitempty"`
	SuperUsers       []string         `json:"superUsers,omitempty"`
	Tokens           *brokerTokens    `json:"tokens,omitempty"`
	CutChangedUsers  bool             `json:"cutChangedUsers,omitempty"`
	Limits           brokerLimits     `json:"limits,omitzero"`
	Users            []brokerUser     `json:"users,omitempty"`
	ACLs             []string         `json:"acls,omitempty"`
	AutoCreateTopics *bool            `json:"autoCreateTopics,omitempty"`
	Partitions       int32            `json:"defaultPartitions,omitempty"`
	RebalanceDelay   *flow.Duration   `json:"groupInitialRebalanceDelay,omitempty"`
	SessionTimeout   *flow.Duration   `json:"groupConsumerSessionTimeout,omitempty"`
	BeatInterval     *flow.Duration   `json:"groupConsumerHeartbeatInterval,omitempty"`
	Migration        string           `json:"groupConsumerMigrationPolicy,omitempty"`
	OffsetsRetention *flow.Duration   `json:"offsetsRetention,omitempty"`
	Provenance       brokerProvenance `json:"provenance,omitzero"`
	Metrics          brokerAddress    `json:"metrics,omitzero"`
}

type brokerAddress struct {
	Address string `json:"address,omitempty"`
}

type brokerProvenance struct {
	Off    bool     `json:"off,omitempty"`
	Exempt []string `json:"exempt,omitempty"`
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

// brokerLimits are those that depend on where a broker stands.
type brokerLimits struct {
	MaxConnections        int            `json:"maxConnections,omitempty"`
	MaxConnectionsPerHost int            `json:"maxConnectionsPerHost,omitempty"`
	HandshakeTimeout      *flow.Duration `json:"handshakeTimeout,omitempty"`
	IdleTimeout           *flow.Duration `json:"idleTimeout,omitempty"`
	MaxPartitions         int            `json:"maxPartitions,omitempty"`
	DrainTimeout          *flow.Duration `json:"drainTimeout,omitempty"`
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
	f := brokerFile{NodeID: conf.NodeID, Partitions: conf.DefaultPartitions}
	f.Limits.MaxPartitions = conf.Limits.MaxPartitions
	f.Limits.MaxConnections = conf.Limits.MaxConnections
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
	f.check(c)
	f.into(&conf.Config)
	conf.metrics = f.Metrics.Address
	conf.BootstrapUsers = f.users(c)
	conf.BootstrapACLs = f.acls(c)
	if err := c.err(); err != nil {
		return conf, err
	}
	if err := conf.Validate(); err != nil {
		return conf, withCode(exitInvalid, fmt.Errorf("configuration: %s: %w", file, err))
	}
	return conf, nil
}

// check says everything that is wrong with the values.
func (f *brokerFile) check(c config) {
	if f.DataDir == "" {
		c.Fault("dataDir", "is missing", "set it, or use --dir")
	}
	if f.NodeID < 0 {
		c.Fault("nodeId", "is negative", "")
	}
	if f.Partitions < 1 || f.Partitions > broker.MaxTopicPartitions {
		c.Fault("defaultPartitions", fmt.Sprintf("is not between 1 and %d", broker.MaxTopicPartitions), "")
	}
	if f.RebalanceDelay != nil && *f.RebalanceDelay < 0 {
		c.Fault("groupInitialRebalanceDelay", "is negative", "0s rebalances at once")
	}
	for key, d := range map[string]*flow.Duration{
		"groupConsumerSessionTimeout": f.SessionTimeout, "groupConsumerHeartbeatInterval": f.BeatInterval, "offsetsRetention": f.OffsetsRetention,
	} {
		if d != nil && *d <= 0 {
			c.Fault(key, "is not above 0", "")
		}
	}
	if f.Migration != "" && !slices.Contains(group.Migrations(), group.Migration(f.Migration)) {
		c.Fault("groupConsumerMigrationPolicy", fmt.Sprintf("%q is no policy", f.Migration), fmt.Sprintf("write one of %v", group.Migrations()))
	}
	if len(f.Listeners) == 0 {
		c.Fault("listeners", "is empty", "add one with name, address and protocol")
	}
	for i := range f.Listeners {
		f.Listeners[i].check(c, fmt.Sprintf("listeners[%d]", i), f.AllowPlaintext)
		for _, other := range f.Listeners[:i] {
			if other.Name == f.Listeners[i].Name {
				c.Fault(fmt.Sprintf("listeners[%d].name", i), fmt.Sprintf("%q is the name of two listeners", other.Name), "")
			}
		}
	}
	if f.AllowIfNoACL && !f.Authorizer {
		c.Fault("allowEveryoneIfNoAcl", "is judged by nobody", "set authorizer: true, or remove it")
	}
	c.address("metrics.address", f.Metrics.Address)
	f.Tokens.check(c, f.Listeners)
	f.Limits.check(c)
	for path, list := range map[string][]string{"superUsers": f.SuperUsers, "provenance.exempt": f.Provenance.Exempt} {
		for i, p := range list {
			if !validPrincipal.MatchString(p) {
				c.Fault(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%q is not a principal", p), "write User:name")
			}
		}
	}
}

var protocols = []broker.Protocol{broker.Plaintext, broker.TLS, broker.SASLPlaintext, broker.SASLTLS}

func (l *brokerListener) check(c config, at string, allowPlaintext bool) {
	if l.Name == "" {
		c.Fault(at+".name", "is empty", "")
	}
	if l.Address == "" {
		c.Fault(at+".address", "is empty", "write host:port")
	}
	c.address(at+".address", l.Address)
	c.address(at+".advertised", l.Advertised)
	c.pair(at, l.CertFile, l.KeyFile)
	c.file(at+".clientCaFile", l.ClientCA)
	c.file(at+".crlFile", l.CRLFile)
	l.checkClients(c, at)
	protocol := broker.Protocol(l.Protocol)
	secure := protocol == broker.TLS || protocol == broker.SASLTLS
	switch {
	case !slices.Contains(protocols, protocol):
		c.Fault(at+".protocol", fmt.Sprintf("%q is not a protocol", l.Protocol), "write PLAINTEXT, TLS, SASL_PLAINTEXT or SASL_TLS")
	case secure && l.CertFile == "" && l.KeyFile == "":
		c.Fault(at+".certFile", "is missing", l.Protocol+" needs certFile and keyFile")
	case !secure && (l.CertFile != "" || l.ClientCA != ""):
		c.Fault(at+".protocol", l.Protocol+" uses no certificate", "write TLS or SASL_TLS, or remove the files")
	case !secure && !allowPlaintext && !loopback(l.Address):
		c.Fault(at+".address", fmt.Sprintf("%s is not loopback", l.Address), "use TLS or SASL_TLS, or set allowPlaintext: true if that network is trusted")
	}
}

// checkClients says what is wrong about how clients prove who they are.
func (l *brokerListener) checkClients(c config, at string) {
	sasl := broker.Protocol(l.Protocol) == broker.SASLPlaintext || broker.Protocol(l.Protocol) == broker.SASLTLS
	asked := l.ClientAuth == string(broker.ClientAuthRequested) || l.ClientAuth == string(broker.ClientAuthRequired)
	switch {
	case l.ClientAuth != "" && l.ClientAuth != string(broker.ClientAuthNone) && !asked:
		c.Fault(at+".clientAuth", fmt.Sprintf("%q is unknown", l.ClientAuth), "write required, requested or none")
	case asked && l.ClientCA == "":
		c.Fault(at+".clientAuth", "needs an authority", "set clientCaFile")
	}
	if l.CRLFile != "" && l.ClientCA == "" {
		c.Fault(at+".crlFile", "is of no use without clientCaFile", "")
	}
	if len(l.PrincipalRules) > 0 && (l.ClientCA == "" || sasl) {
		c.Fault(at+".principalMappingRules", "are of no use: no certificate says who a client is", "they are for TLS with clientCaFile")
	}
	if _, err := auth.ParsePrincipalMapping(l.PrincipalRules); err != nil {
		c.Fault(at+".principalMappingRules", err.Error(), "")
	}
	if !sasl && (len(l.Mechanisms) > 0 || l.MaxReauth != nil) {
		c.Fault(at+".protocol", l.Protocol+" has no SASL", "write SASL_PLAINTEXT or SASL_TLS, or remove mechanisms and maxReauth")
	}
	for i, m := range l.Mechanisms {
		if !slices.Contains(mechanisms, auth.Mechanism(m)) {
			c.Fault(fmt.Sprintf("%s.mechanisms[%d]", at, i), fmt.Sprintf("%q is not a mechanism", m), "write SCRAM-SHA-512, SCRAM-SHA-256, PLAIN or OAUTHBEARER")
		}
	}
	if l.MaxReauth != nil && l.MaxReauth.Std() < time.Second {
		c.Fault(at+".maxReauth", "is less than a second", "an hour is usual")
	}
	if l.MaxConnections < 0 {
		c.Fault(at+".maxConnections", "is negative", "")
	}
}

var mechanisms = []auth.Mechanism{auth.ScramSHA512, auth.ScramSHA256, auth.Plain, auth.OAuthBearer}

// check says what is wrong with the tokens; nil is that none are taken.
func (t *brokerTokens) check(c config, listeners []brokerListener) {
	offered := false
	for i, l := range listeners {
		if !slices.Contains(l.Mechanisms, string(auth.OAuthBearer)) {
			continue
		}
		offered = true
		switch at := fmt.Sprintf("listeners[%d]", i); {
		case t == nil:
			c.Fault(at+".mechanisms", "OAUTHBEARER needs to know which tokens to take", "add a section tokens")
		case t.Unsecured && !loopback(l.Address):
			c.Fault(at+".address", l.Address+" is not loopback", "tokens that nobody signed are taken on loopback only: remove tokens.unsecuredForDevelopment")
		}
	}
	if t == nil {
		return
	}
	c.file("tokens.jwksFile", t.JWKSFile)
	c.file("tokens.jwksCaFile", t.JWKSCAFile)
	conf := t.config()
	if err := conf.Validate(); err != nil {
		c.Fault("tokens", strings.ReplaceAll(err.Error(), "\n", "; "), "")
	} else if !offered {
		c.Fault("tokens", "are taken by no listener", "add OAUTHBEARER to a listener's mechanisms")
	}
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

func (l *brokerLimits) check(c config) {
	if l.MaxConnections < 1 {
		c.Fault("limits.maxConnections", "is less than 1", "")
	}
	if l.MaxPartitions < 1 {
		c.Fault("limits.maxPartitions", "is less than 1", "")
	}
	if l.MaxConnectionsPerHost < 0 {
		c.Fault("limits.maxConnectionsPerHost", "is negative", "0 is as many as maxConnections")
	}
	for path, d := range map[string]*flow.Duration{"handshakeTimeout": l.HandshakeTimeout, "idleTimeout": l.IdleTimeout, "drainTimeout": l.DrainTimeout} {
		if d != nil && *d <= 0 {
			c.Fault("limits."+path, "is not positive", "")
		}
	}
}

func (l *brokerLimits) into(conf *broker.Limits) {
	conf.MaxPartitions = l.MaxPartitions
	conf.MaxConnections, conf.MaxConnectionsPerHost = l.MaxConnections, l.MaxConnectionsPerHost
	setDuration(&conf.HandshakeTimeout, l.HandshakeTimeout)
	setDuration(&conf.IdleTimeout, l.IdleTimeout)
	setDuration(&conf.DrainTimeout, l.DrainTimeout)
}

// into is the file as the broker knows it, without what has to be resolved.
func (f *brokerFile) into(conf *broker.Config) {
	if f.DataDir != "" {
		conf.Dir = filepath.Clean(f.DataDir)
	}
	conf.ClusterID, conf.NodeID = f.ClusterID, f.NodeID
	conf.AllowPlaintext, conf.Authorizer = f.AllowPlaintext, f.Authorizer
	conf.SuperUsers, conf.DefaultPartitions = f.SuperUsers, f.Partitions
	conf.Provenance, conf.ProvenanceExempt = !f.Provenance.Off, f.Provenance.Exempt
	if f.AutoCreateTopics != nil {
		conf.AutoCreateTopics = *f.AutoCreateTopics
	}
	setDuration(&conf.GroupInitialRebalanceDelay, f.RebalanceDelay)
	setDuration(&conf.GroupConsumerSessionTimeout, f.SessionTimeout)
	setDuration(&conf.GroupConsumerHeartbeatInterval, f.BeatInterval)
	setDuration(&conf.OffsetsRetention, f.OffsetsRetention)
	if f.Migration != "" {
		conf.GroupMigration = group.Migration(f.Migration)
	}
	conf.AllowEveryoneIfNoACL, conf.CutChangedUsers = f.AllowIfNoACL, f.CutChangedUsers
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
