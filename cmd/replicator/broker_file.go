package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker"
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
	SuperUsers       []string         `json:"superUsers,omitempty"`
	Users            []brokerUser     `json:"users,omitempty"`
	ACLs             []string         `json:"acls,omitempty"`
	AutoCreateTopics *bool            `json:"autoCreateTopics,omitempty"`
	Partitions       int32            `json:"defaultPartitions,omitempty"`
	RebalanceDelay   *flow.Duration   `json:"groupInitialRebalanceDelay,omitempty"`
	Provenance       brokerProvenance `json:"provenance,omitzero"`
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
}

type brokerUser struct {
	Name     string      `json:"name"`
	Password flow.Secret `json:"password"`
}

// brokerConfig is the file, or the defaults for loopback, and the flags.
func brokerConfig(file, dir, addr string) (broker.Config, error) {
	conf := broker.DefaultConfig()
	if file == "" {
		conf.Listeners[0].Addr = addr
		if dir == "" {
			return conf, withCode(exitInvalid, errors.New("say where to store: --dir FOLDER, or --config FILE"))
		}
		conf.Dir = filepath.Clean(dir)
		return conf, withCode(exitInvalid, conf.Validate())
	}
	f := brokerFile{NodeID: conf.NodeID, Partitions: conf.DefaultPartitions}
	c, err := loadConfig(file, &f)
	if err != nil {
		return conf, err
	}
	if dir != "" {
		f.DataDir = dir
	}
	f.check(c)
	f.into(&conf)
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
	if f.Partitions < 1 {
		c.Fault("defaultPartitions", "is less than 1", "")
	}
	if f.RebalanceDelay != nil && *f.RebalanceDelay < 0 {
		c.Fault("groupInitialRebalanceDelay", "is negative", "0s rebalances at once")
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
	if f.RebalanceDelay != nil {
		conf.GroupInitialRebalanceDelay = f.RebalanceDelay.Std()
	}
	conf.Listeners = nil
	for _, l := range f.Listeners {
		conf.Listeners = append(conf.Listeners, broker.Listener{
			Name: l.Name, Addr: l.Address, Protocol: broker.Protocol(l.Protocol), Advertised: l.Advertised,
			TLS: broker.ListenerTLS{CertFile: l.CertFile, KeyFile: l.KeyFile, ClientCAFile: l.ClientCA},
		})
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
