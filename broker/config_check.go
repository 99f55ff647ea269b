package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/broker/group"
)

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	// Path names the value as the keys of a configuration file do (docs/broker.md).
	Path    string
	Problem string
	Fix     string // empty if the problem says it
}

func (f Fault) Error() string {
	if f.Fix == "" {
		return f.Path + ": " + f.Problem
	}
	return f.Path + ": " + f.Problem + "; " + f.Fix
}

// faults collects.
type faults []Fault

func (f *faults) add(path, problem, fix string) { *f = append(*f, Fault{path, problem, fix}) }

func (f *faults) positive(path string, n int64) {
	if n <= 0 {
		f.add(path, "is not above 0", "")
	}
}

func (f *faults) between(path string, n, least, most int64) {
	if n < least || n > most {
		f.add(path, fmt.Sprintf("is not between %d and %d", least, most), "")
	}
}

func (f *faults) address(path, addr string) {
	if _, _, err := splitHostPort(addr); err != nil {
		f.add(path, fmt.Sprintf("%q is not an address", addr), "write host:port")
	}
}

func (f *faults) principals(path string, list []string) {
	for i, p := range list {
		if !validPrincipal(p) {
			f.add(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%q is not a principal", p), "write User:name")
		}
	}
}

func validPrincipal(p string) bool { return len(p) > len("User:") && strings.HasPrefix(p, "User:") }

// Validate says everything that is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	for _, f := range c.Faults() {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

// clusterID is what every program takes for one, in names of mirror sources too.
var clusterID = regexp.MustCompile(`^[0-9A-Za-z._-]{1,255}$`)

// Faults are everything that is wrong with the configuration, for who knows where
// each value comes from.
func (c *Config) Faults() []Fault {
	var f faults
	if c.Dir == "" {
		f.add("dataDir", "is missing", "")
	} else if c.Dir != filepath.Clean(c.Dir) {
		f.add("dataDir", fmt.Sprintf("%q is not clean", c.Dir), "write "+filepath.Clean(c.Dir))
	}
	if c.NodeID < 0 {
		f.add("nodeId", "is negative", "")
	}
	if c.ClusterID != "" && !clusterID.MatchString(c.ClusterID) {
		f.add("clusterId", fmt.Sprintf("%q is not a cluster.id", c.ClusterID), "use letters, digits, '.', '_' and '-', 255 of them at the most, or remove the key")
	}
	c.checkListeners(&f)
	c.checkTokens(&f)
	f.principals("superUsers", c.SuperUsers)
	f.principals("provenance.exempt", c.ProvenanceExempt)
	if c.AllowEveryoneIfNoACL && !c.Authorizer {
		f.add("allowEveryoneIfNoAcl", "is judged by nobody", "set authorizer: true, or remove it")
	}
	c.checkGroups(&f)
	f.between("defaultPartitions", int64(c.DefaultPartitions), 1, MaxTopicPartitions)
	f.between("internalTopics.offsetsPartitions", int64(c.OffsetsPartitions), 1, MaxTopicPartitions)
	f.between("internalTopics.transactionsPartitions", int64(c.TransactionsPartitions), 1, MaxTopicPartitions)
	f.positive("provenance.interval", int64(c.ProvenanceInterval))
	f.positive("retentionInterval", int64(c.RetentionInterval))
	f.positive("cleaner.interval", int64(c.CleanerInterval))
	if c.CleanerMemory < minCleanerMemory {
		f.add("cleaner.memory", fmt.Sprintf("is less than %d bytes", minCleanerMemory), "more keys than it holds take more passes over a log")
	}
	if c.CleanerBytesPerSecond < 0 {
		f.add("cleaner.bytesPerSecond", "is negative", "0 is no bound")
	}
	c.Limits.check(&f)
	return f
}

// minCleanerMemory has room for the keys of a few large batches.
const minCleanerMemory = 1 << 20

func (c *Config) checkGroups(f *faults) {
	if c.GroupInitialRebalanceDelay < 0 {
		f.add("groupInitialRebalanceDelay", "is negative", "0s rebalances at once")
	}
	f.positive("groupConsumerSessionTimeout", int64(c.GroupConsumerSessionTimeout))
	f.positive("groupConsumerHeartbeatInterval", int64(c.GroupConsumerHeartbeatInterval))
	f.positive("offsetsRetention", int64(c.OffsetsRetention))
	if session := c.GroupConsumerSessionTimeout; session > 0 && c.GroupConsumerHeartbeatInterval >= session {
		f.add("groupConsumerHeartbeatInterval", fmt.Sprintf("%s is not below groupConsumerSessionTimeout, which is %s", c.GroupConsumerHeartbeatInterval, session),
			"a third of it lets one beat be lost")
	}
	if !slices.Contains(group.Migrations(), c.GroupMigration) {
		f.add("groupConsumerMigrationPolicy", fmt.Sprintf("%q is no policy", string(c.GroupMigration)), fmt.Sprintf("write one of %v", group.Migrations()))
	}
}

func (l *Limits) check(f *faults) {
	if l.MaxConnectionsPerHost < 0 {
		f.add("limits.maxConnectionsPerHost", "is negative", "0 is as many as maxConnections")
	}
	if l.MaxFetchSessions < 0 {
		f.add("limits.maxFetchSessions", "is negative", "0 remembers none")
	}
	for _, v := range []struct {
		key string
		n   int64
	}{
		{"maxPartitions", int64(l.MaxPartitions)},
		{"maxConnections", int64(l.MaxConnections)},
		{"maxInFlightBytes", l.MaxInFlightBytes},
		{"maxAnswerBytes", l.MaxAnswerBytes},
		{"fetchMaxBytes", int64(l.FetchMaxBytes)},
		{"handshakeTimeout", int64(l.HandshakeTimeout)},
		{"idleTimeout", int64(l.IdleTimeout)},
		{"writeTimeout", int64(l.WriteTimeout)},
		{"drainTimeout", int64(l.DrainTimeout)},
	} {
		f.positive("limits."+v.key, v.n)
	}
	if l.MaxRequestBytes < minRequestBytes {
		f.add("limits.maxRequestBytes", fmt.Sprintf("is less than %d", minRequestBytes), "clients send batches of a megabyte without being told")
	}
	if l.MaxInFlightBytes > 0 && int64(l.MaxRequestBytes) > l.MaxInFlightBytes {
		f.add("limits.maxInFlightBytes", fmt.Sprintf("has no room for one request of %d bytes", l.MaxRequestBytes), "raise it, or lower maxRequestBytes")
	}
}

// minRequestBytes is twice what producers fill a request with by default.
const minRequestBytes = 2 << 20

func (c *Config) checkListeners(f *faults) {
	if len(c.Listeners) == 0 {
		f.add("listeners", "is empty", "add one with name, address and protocol")
	}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		at := fmt.Sprintf("listeners[%d].", i)
		if l.Name == "" {
			f.add(at+"name", "is empty", "")
		}
		for _, other := range c.Listeners[:i] {
			if l.Name != "" && other.Name == l.Name {
				f.add(at+"name", fmt.Sprintf("%q is the name of two listeners", l.Name), "")
			}
			if sameAddress(other.Addr, l.Addr) {
				f.add(at+"address", fmt.Sprintf("%s is that of listener %q", l.Addr, other.Name), "give each a port of its own")
			}
		}
		l.check(f, at, c.AllowPlaintext)
		l.checkClients(f, at)
		l.checkSASL(f, at, c.Tokens)
	}
}

// sameAddress says whether two addresses cannot both be bound.
func sameAddress(a, b string) bool {
	hostA, portA, errA := splitHostPort(a)
	hostB, portB, errB := splitHostPort(b)
	everywhere := func(host string) bool {
		ip := net.ParseIP(host)
		return host == "" || ip != nil && ip.IsUnspecified()
	}
	return errA == nil && errB == nil && portA == portB && portA != 0 && (hostA == hostB || everywhere(hostA) || everywhere(hostB))
}

func (l *Listener) check(f *faults, at string, allowPlaintext bool) {
	if l.Addr == "" {
		f.add(at+"address", "is empty", "write host:port")
	}
	f.address(at+"address", l.Addr)
	if l.Advertised != "" {
		f.address(at+"advertised", l.Advertised)
	}
	host, _, err := net.SplitHostPort(l.Addr)
	switch {
	case !slices.Contains([]Protocol{Plaintext, TLS, SASLPlaintext, SASLTLS}, l.Protocol):
		f.add(at+"protocol", fmt.Sprintf("%q is not a protocol", string(l.Protocol)), "write PLAINTEXT, TLS, SASL_PLAINTEXT or SASL_TLS")
	case l.Protocol.tls():
		for key, file := range map[string]string{"certFile": l.TLS.CertFile, "keyFile": l.TLS.KeyFile} {
			if file == "" && (key == "certFile" || l.TLS.CertFile != "") { // one fault if both are missing
				f.add(at+key, "is missing", string(l.Protocol)+" needs certFile and keyFile")
			}
		}
	case l.TLS.CertFile != "" || l.TLS.KeyFile != "" || l.TLS.ClientCAFile != "":
		f.add(at+"protocol", string(l.Protocol)+" uses no certificate", "write TLS or SASL_TLS, or remove the files")
	case !allowPlaintext && err == nil && !isLoopback(host):
		f.add(at+"address", l.Addr+" is not loopback", "use TLS or SASL_TLS, or set allowPlaintext: true if that network is trusted")
	}
	if l.MaxConnections < 0 {
		f.add(at+"maxConnections", "is negative", "")
	}
}

// checkClients says what is wrong about how certificates say who clients are.
func (l *Listener) checkClients(f *faults, at string) {
	t := &l.TLS
	switch t.ClientAuth {
	case "", ClientAuthNone:
	case ClientAuthRequested, ClientAuthRequired:
		if t.ClientCAFile == "" {
			f.add(at+"clientAuth", "needs an authority", "set clientCaFile")
		}
	default:
		f.add(at+"clientAuth", fmt.Sprintf("%q is unknown", string(t.ClientAuth)), "write required, requested or none")
	}
	shown := t.ClientCAFile != "" && t.clientAuth() != tls.NoClientCert
	if t.CRLFile != "" && !shown {
		f.add(at+"crlFile", "is of no use without clientCaFile, or with clientAuth: none", "")
	}
	if len(t.PrincipalMapping) > 0 && (!shown || l.Protocol.sasl()) {
		f.add(at+"principalMappingRules", "are of no use: no certificate says who a client is", "they are for TLS with clientCaFile")
	} else if _, err := auth.ParsePrincipalMapping(t.PrincipalMapping); err != nil {
		f.add(at+"principalMappingRules", err.Error(), "")
	}
}

// checkSASL says what is wrong about mechanisms and sessions.
func (l *Listener) checkSASL(f *faults, at string, tokens *auth.TokenConfig) {
	if !l.Protocol.sasl() && (len(l.Mechanisms) > 0 || l.MaxReauth != 0) {
		f.add(at+"protocol", string(l.Protocol)+" has no SASL", "write SASL_PLAINTEXT or SASL_TLS, or remove mechanisms and maxReauth")
	}
	if l.MaxReauth < 0 || l.MaxReauth > 0 && l.MaxReauth < minReauth {
		f.add(at+"maxReauth", "is less than a second", "an hour is usual")
	}
	host, _, err := net.SplitHostPort(l.Addr)
	for i, m := range l.Mechanisms {
		switch {
		case !slices.Contains([]auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512, auth.Plain, auth.OAuthBearer}, m):
			f.add(at+"mechanisms["+strconv.Itoa(i)+"]", fmt.Sprintf("%q is not a mechanism", string(m)), "write SCRAM-SHA-512, SCRAM-SHA-256, PLAIN or OAUTHBEARER")
		case m == auth.OAuthBearer && tokens == nil:
			f.add(at+"mechanisms", "OAUTHBEARER needs to know which tokens to take", "add a section tokens")
		case m == auth.OAuthBearer && tokens.Unsecured && (err != nil || !isLoopback(host)):
			f.add(at+"address", l.Addr+" is not loopback", "tokens that nobody signed are taken on loopback only: remove tokens.unsecuredForDevelopment")
		}
	}
}

// minReauth keeps clients from doing nothing else. Java's re-authenticate at 85
// to 95 percent of a session, and not twice in a second.
const minReauth = time.Second

func (c *Config) checkTokens(f *faults) {
	if c.Tokens == nil {
		return
	}
	offered := func(l Listener) bool { return slices.Contains(l.Mechanisms, auth.OAuthBearer) }
	if err := c.Tokens.Validate(); err != nil {
		f.add("tokens", strings.ReplaceAll(err.Error(), "\n", "; "), "")
	} else if !slices.ContainsFunc(c.Listeners, offered) {
		f.add("tokens", "are taken by no listener", "add OAUTHBEARER to a listener's mechanisms")
	}
}
