package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/broker"
)

// write puts files into a folder, which becomes the working directory: faults
// then name files as the test wrote them.
func write(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, content := range files {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// certificates are files of a certificate of its own authority.
func certificates(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "r1"}, DNSNames: []string{"r1"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", pkcs8)
}

// configFault is a broken configuration and what is said about it.
type configFault struct {
	name, text string
	want       []string
}

func (c configFault) check(t *testing.T, verb string) {
	t.Helper()
	if err := os.WriteFile("x.yaml", []byte(c.text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "replicator: configuration: " + several(len(c.want), "fault") + ":\n" + strings.Join(c.want, "\n") + "\n"
	if got := replicator(t, "", verb, "--config", "x.yaml"); got.code != exitInvalid || got.stderr != want || got.stdout != "" {
		t.Errorf("%s %s: got %d\n%s\nwant %d\n%s", verb, c.name, got.code, got.stderr, exitInvalid, want)
	}
}

const goodNode = `name: r1
fleet: main
dataDir: data
peer:
  address: 127.0.0.1:7071
  caFile: ca.pem
  certFile: cert.pem
  keyFile: key.pem
  bootstrap: true
api:
  address: 127.0.0.1:8080
  users:
    - name: ops
      role: admin
      token: ${file:token}
`

func TestNodeConfiguration(t *testing.T) {
	write(t, map[string]string{"ca.pem": "x", "cert.pem": "x", "key.pem": "x", "token": "0123456789abcdef\n", "other": "fedcba9876543210", "short": "123", "node.yaml": goodNode})
	f, users, err := loadNode("node.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if f.Name != "r1" || !f.Peer.Bootstrap || !reflect.DeepEqual(users, []api.User{{Name: "ops", Token: "0123456789abcdef", Role: api.Admin}}) {
		t.Errorf("got %+v with users %+v", f, users)
	}

	swap := strings.NewReplacer
	for _, c := range []configFault{
		{"empty", "", []string{`x.yaml: has nothing in it`}},
		{"bare", "name: r1\n", []string{
			`x.yaml:1:1: fleet: is missing`, `x.yaml:1:1: dataDir: is missing`, `x.yaml:1:1: peer: is missing`, `x.yaml:1:1: api: is missing`,
		}},
		{"unknown keys", swap("dataDir", "datadir", "role", "rol").Replace(goodNode), []string{
			`x.yaml:1:1: dataDir: is missing`,
			`x.yaml:3:1: datadir: unknown key; did you mean "dataDir"?`,
			`x.yaml:13:7: api.users[0].role: is missing`,
			`x.yaml:14:7: api.users[0].rol: unknown key; did you mean "role"?`,
		}},
		{"values", swap("r1", "R1", "main", "Main_", "data\n", "''\n", "127.0.0.1:7071", "7071", "ca.pem", "no.pem", "admin", "root", "${file:token}", "${file:short}").Replace(goodNode), []string{
			`x.yaml:1:7: name: "R1" is not the name of a node; use up to 63 lower case letters, digits, dashes and dots`,
			`x.yaml:2:8: fleet: "Main_" is not the name of a fleet; use up to 32 lower case letters, digits and dashes`,
			`x.yaml:3:10: dataDir: is empty`,
			`x.yaml:5:12: peer.address: "7071" is not an address; write host:port`,
			`x.yaml:6:11: peer.caFile: cannot be read: open no.pem: no such file or directory`,
			`x.yaml:14:13: api.users[0].role: "root" is not a role; write admin or viewer`,
			`x.yaml:15:14: api.users[0].token: has less than 16 characters; make one that cannot be guessed: openssl rand -base64 24`,
		}},
		{"neither first nor joining", swap("  bootstrap: true\n", "").Replace(goodNode), []string{
			`x.yaml:5:3: peer: neither begins a fleet nor joins one; write bootstrap: true on the very first node, join: ["host:port"] with addresses of others on the rest`,
		}},
		{"whom to ask before it begins a fleet", swap("bootstrap: true", "bootstrap: true\n  join: [r2]").Replace(goodNode), []string{
			`x.yaml:10:10: peer.join[0]: "r2" is not an address; write host:port`,
		}},
		{"half of the certificate files", swap("  keyFile: key.pem\n", "").Replace(goodNode), []string{
			`x.yaml:5:3: peer.keyFile: is missing; give all three of caFile, certFile and keyFile, or none: then the fleet makes its own certificates`,
		}},
		{"a token that is not needed", swap("  bootstrap: true\n", "  join: [\"r2:1\"]\n  tokenFile: t\n").Replace(goodNode), []string{
			`x.yaml:10:14: peer.tokenFile: goes not with certificate files; a node with a certificate of the fleet's authority may join with that: remove one of the two`,
		}},
		{"a token for the first", swap("  caFile: ca.pem\n  certFile: cert.pem\n  keyFile: key.pem\n", "  tokenFile: t\n").Replace(goodNode), []string{
			`x.yaml:6:14: peer.tokenFile: goes not with bootstrap; a node begins a fleet, or joins one: remove one of the two`,
		}},
		{"a worker by its own word", swap("  caFile: ca.pem\n  certFile: cert.pem\n  keyFile: key.pem\n  bootstrap: true\n", "  join: [\"r2:1\"]\n  worker: true\n").Replace(goodNode), []string{
			`x.yaml:7:11: peer.worker: is for nodes with certificate files; make its token with 'replicator fleet token create --worker'`,
		}},
		{"open to all", swap("127.0.0.1:8080", "0.0.0.0:8080").Replace(goodNode), []string{
			`x.yaml:11:12: api.address: 0.0.0.0:8080 is not loopback; set api.certFile and api.keyFile: tokens must not travel in the clear`,
		}},
		{"half a pair", swap("127.0.0.1:8080", "0.0.0.0:8080\n  certFile: cert.pem").Replace(goodNode), []string{
			`x.yaml:11:3: api.keyFile: is missing; a certificate needs its key`,
		}},
		{"a pair that does not fit", swap("127.0.0.1:8080", "0.0.0.0:8080\n  certFile: cert.pem\n  keyFile: key.pem").Replace(goodNode), []string{
			`x.yaml:12:13: api.certFile: cannot be used: tls: failed to find any PEM data in certificate input`,
		}},
		{"nobody", goodNode[:strings.Index(goodNode, "users")] + "users: []\n", []string{
			`x.yaml:12:10: api.users: is empty; nobody could call the API: add a user`,
		}},
		{"secrets", swap("${file:token}", "hunter2hunter2hunter2").Replace(goodNode) + "    - {name: a, role: viewer, token: \"${file:none}\"}\n    - {name: b, role: viewer, token: \"${env:NOT_SET_ANYWHERE}\"}\n", []string{
			`x.yaml:15:14: api.users[0].token: is not a reference to a secret; write ${env:NAME} or ${file:PATH}, never the secret itself`,
			`x.yaml:16:38: api.users[1].token: secret ${file:none}: open none: no such file or directory`,
			`x.yaml:17:38: api.users[2].token: secret ${env:NOT_SET_ANYWHERE}: environment variable is not set`,
		}},
		{"twice", goodNode + "    - {name: ops, role: viewer, token: \"${file:other}\"}\n    - {name: vera, role: viewer, token: \"${file:token}\"}\n", []string{
			`x.yaml:16:14: api.users[1].name: "ops" is the name of two users`,
			`x.yaml:17:41: api.users[2].token: is that of ops too; who did what could not be told: give each user a token of his own`,
		}},
		{"labels", goodNode + "region: eu west\nrack: \"-\"\nlabels: {node: r1, \"a b\": c, disk: \"\"}\n", []string{
			`x.yaml:16:9: region: "eu west" cannot be compared with those of clusters; use up to 63 letters, digits, "-", "_", "." and "/", not at the ends`,
			`x.yaml:17:7: rack: "-" cannot be compared with those of clusters; use up to 63 letters, digits, "-", "_", "." and "/", not at the ends`,
			`x.yaml:18:9: labels: "a b" is not a label; use up to 63 letters, digits, "-", "_", "." and "/", not at the ends`,
			`x.yaml:18:16: labels.node: is a label that every node has by itself; its value is that of name, region or rack: remove it`,
			`x.yaml:18:36: labels.disk: "" is not a label's value; use up to 63 letters, digits, "-", "_", "." and "/", not at the ends`,
		}},
		{"principals", goodNode + "      principals: {us: ops, eu: \"User:ops\"}\n", []string{
			`x.yaml:16:24: api.users[0].principals.us: "ops" is not a principal; write User:name`,
		}},
	} {
		c.check(t, "serve")
	}
	if got := replicator(t, "", "serve", "--config", "none.yaml"); got.code != exitInvalid || got.stderr != "replicator: configuration: open none.yaml: no such file or directory\n" {
		t.Errorf("no file: got %+v", got)
	}
}

const goodBroker = `dataDir: data/
listeners:
  - {name: client, address: "0.0.0.0:9093", protocol: SASL_TLS, certFile: cert.pem, keyFile: key.pem}
authorizer: true
users:
  - {name: shop, password: "${env:SHOP_PASSWORD}"}
acls:
  - "User:shop Allow Write Topic:orders"
`

func TestBrokerConfiguration(t *testing.T) {
	t.Setenv("SHOP_PASSWORD", "secret")
	cert, key := certificates(t)
	write(t, map[string]string{"cert.pem": cert, "key.pem": key, "broker.yaml": goodBroker, "tuned.yaml": goodBroker + `limits:
  {maxConnections: 2, maxConnectionsPerHost: 3, maxRequestBytes: 4000000, maxInFlightBytes: 5000000, maxAnswerBytes: 6, handshakeTimeout: 7s,
  idleTimeout: 8s, writeTimeout: 9s, drainTimeout: 10s, maxPartitions: 11, fetchMaxBytes: 12, maxFetchSessions: 0}
internalTopics: {offsetsPartitions: 13, transactionsPartitions: 14}
cleaner: {memory: 15000000, bytesPerSecond: 0, interval: 16s}
retentionInterval: 17s
provenance: {interval: 18s}
autoCreateTopics: false
`})
	conf, err := brokerConfig("broker.yaml", &brokerFlags{}, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	want := broker.DefaultConfig()
	want.Dir, want.Authorizer = "data", true
	want.Listeners = []broker.Listener{{Name: "client", Addr: "0.0.0.0:9093", Protocol: broker.SASLTLS, TLS: broker.ListenerTLS{CertFile: "cert.pem", KeyFile: "key.pem"}}}
	want.BootstrapUsers = map[string]string{"shop": "secret"}
	want.BootstrapACLs = conf.BootstrapACLs
	if len(conf.BootstrapACLs) != 1 || !reflect.DeepEqual(conf.Config, want) {
		t.Errorf("got  %+v\nwant %+v", conf.Config, want)
	}

	tuned, err := brokerConfig("tuned.yaml", &brokerFlags{}, func(string) bool { return false })
	want.Limits = broker.Limits{
		MaxConnections: 2, MaxConnectionsPerHost: 3, MaxRequestBytes: 4e6, MaxInFlightBytes: 5e6, MaxAnswerBytes: 6, HandshakeTimeout: 7 * time.Second,
		IdleTimeout: 8 * time.Second, WriteTimeout: 9 * time.Second, DrainTimeout: 10 * time.Second, MaxPartitions: 11, FetchMaxBytes: 12,
	}
	want.OffsetsPartitions, want.TransactionsPartitions = 13, 14
	want.CleanerMemory, want.CleanerBytesPerSecond, want.CleanerInterval = 15e6, 0, 16*time.Second
	want.RetentionInterval, want.ProvenanceInterval, want.AutoCreateTopics = 17*time.Second, 18*time.Second, false
	if err != nil || !reflect.DeepEqual(tuned.Config, want) {
		t.Errorf("%v, got\n%+v\nwant\n%+v", err, tuned.Config, want)
	}

	swap := strings.NewReplacer
	for _, c := range []configFault{
		{"nothing set", "nodeId: 1\n", []string{
			`x.yaml:1:1: listeners: is missing`, `x.yaml:1:1: dataDir: is missing; set it, or use --dir`,
		}},
		{"numbers", goodBroker + "nodeId: -1\ndefaultPartitions: 10001\ngroupInitialRebalanceDelay: 3\n", []string{
			`x.yaml:9:9: nodeId: is negative`,
			`x.yaml:10:20: defaultPartitions: is not between 1 and 10000`,
			`x.yaml:11:29: groupInitialRebalanceDelay: "3" is not a duration; write it like 30s, 5m or 1h30m`,
		}},
		{"groups", goodBroker + "groupConsumerSessionTimeout: 0s\ngroupConsumerMigrationPolicy: never\n", []string{
			`x.yaml:9:30: groupConsumerSessionTimeout: is not above 0`,
			`x.yaml:10:31: groupConsumerMigrationPolicy: "never" is no policy; write one of [bidirectional upgrade downgrade disabled]`,
		}},
		{"a beat that is no shorter than the session", goodBroker + "groupConsumerSessionTimeout: 5s\n", []string{
			`x.yaml:1:1: groupConsumerHeartbeatInterval: 5s is not below groupConsumerSessionTimeout, which is 5s; a third of it lets one beat be lost`,
		}},
		{"a beat", goodBroker + "groupConsumerHeartbeatInterval: 1m\nclusterId: a b\n", []string{
			`x.yaml:9:33: groupConsumerHeartbeatInterval: 1m0s is not below groupConsumerSessionTimeout, which is 45s; a third of it lets one beat be lost`,
			`x.yaml:10:12: clusterId: "a b" is not a cluster.id; use letters, digits, '.', '_' and '-', 255 of them at the most, or remove the key`,
		}},
		{"one address for two", swap("authorizer", `  - {name: b, address: "127.0.0.1:9093", protocol: PLAINTEXT}`+"\nauthorizer").Replace(goodBroker), []string{
			`x.yaml:4:24: listeners[1].address: 127.0.0.1:9093 is that of listener "client"; give each a port of its own`,
		}},
		{"limits", goodBroker + `limits: {maxRequestBytes: 1000, writeTimeout: 0s, fetchMaxBytes: -1, maxFetchSessions: -1, maxAnswerBytes: 0}
cleaner: {memory: 1000, bytesPerSecond: -1, interval: 0s}
internalTopics: {offsetsPartitions: 0, transactionsPartitions: 10001}
retentionInterval: 0s
provenance: {interval: 0s}
`, []string{
			`x.yaml:9:27: limits.maxRequestBytes: is less than 2097152; clients send batches of a megabyte without being told`,
			`x.yaml:9:47: limits.writeTimeout: is not above 0`,
			`x.yaml:9:66: limits.fetchMaxBytes: is not above 0`,
			`x.yaml:9:88: limits.maxFetchSessions: is negative; 0 remembers none`,
			`x.yaml:9:108: limits.maxAnswerBytes: is not above 0`,
			`x.yaml:10:19: cleaner.memory: is less than 1048576 bytes; more keys than it holds take more passes over a log`,
			`x.yaml:10:41: cleaner.bytesPerSecond: is negative; 0 is no bound`,
			`x.yaml:10:55: cleaner.interval: is not above 0`,
			`x.yaml:11:37: internalTopics.offsetsPartitions: is not between 1 and 10000`,
			`x.yaml:11:64: internalTopics.transactionsPartitions: is not between 1 and 10000`,
			`x.yaml:12:20: retentionInterval: is not above 0`,
			`x.yaml:13:24: provenance.interval: is not above 0`,
		}},
		{"requests in flight", goodBroker + "limits: {maxInFlightBytes: 2097152}\n", []string{
			`x.yaml:9:28: limits.maxInFlightBytes: has no room for one request of 104857600 bytes; raise it, or lower maxRequestBytes`,
		}},
		{"no TLS", swap("SASL_TLS, certFile: cert.pem, keyFile: key.pem", "SASL_PLAINTEXT").Replace(goodBroker), []string{
			`x.yaml:3:29: listeners[0].address: 0.0.0.0:9093 is not loopback; use TLS or SASL_TLS, or set allowPlaintext: true if that network is trusted`,
		}},
		{"certificates", swap("certFile: cert.pem, keyFile: key.pem", "clientCaFile: no.pem").Replace(goodBroker), []string{
			`x.yaml:3:5: listeners[0].certFile: is missing; SASL_TLS needs certFile and keyFile`,
			`x.yaml:3:79: listeners[0].clientCaFile: cannot be read: open no.pem: no such file or directory`,
		}},
		{"protocols", swap("SASL_TLS", "SASL_SSL").Replace(goodBroker), []string{
			`x.yaml:3:55: listeners[0].protocol: "SASL_SSL" is not a protocol; write PLAINTEXT, TLS, SASL_PLAINTEXT or SASL_TLS`,
		}},
		{"certificates without TLS", swap("SASL_TLS", "PLAINTEXT").Replace(goodBroker), []string{
			`x.yaml:3:55: listeners[0].protocol: PLAINTEXT uses no certificate; write TLS or SASL_TLS, or remove the files`,
		}},
		{"twice", swap("authorizer", `  - {name: client, address: "127.0.0.1", advertised: "x:y", protocol: PLAINTEXT}`+"\nauthorizer", "acls", `  - {name: shop, password: "${env:SHOP_PASSWORD}"}`+"\nacls").Replace(goodBroker), []string{
			`x.yaml:4:12: listeners[1].name: "client" is the name of two listeners`,
			`x.yaml:4:29: listeners[1].address: "127.0.0.1" is not an address; write host:port`,
			`x.yaml:4:54: listeners[1].advertised: "x:y" is not an address; write host:port`,
			`x.yaml:8:12: users[1].name: "shop" is the name of two users`,
		}},
		{"rules", swap("Allow", "allows", "Write", "Wite").Replace(goodBroker) + "superUsers: [admin]\nprovenance: {exempt: [replicator]}\n", []string{
			`x.yaml:8:5: acls[0]: rule "User:shop allows Wite Topic:orders": invalid acl: "allows" is not a known permission`,
			`x.yaml:9:14: superUsers[0]: "admin" is not a principal; write User:name`,
			`x.yaml:10:23: provenance.exempt[0]: "replicator" is not a principal; write User:name`,
		}},
		{"rules without a judge", swap("authorizer: true\n", "").Replace(goodBroker), []string{
			`x.yaml:7:3: acls: are judged by nobody; set authorizer: true, or remove them`,
		}},
		{"clients", `dataDir: d
listeners:
  - {name: a, address: "127.0.0.1:0", protocol: TLS, certFile: cert.pem, keyFile: key.pem, clientAuth: maybe, mechanisms: [PLAIN]}
  - {name: b, address: "127.0.0.1:0", protocol: TLS, certFile: cert.pem, keyFile: key.pem, clientAuth: required, crlFile: cert.pem}
  - {name: c, address: "127.0.0.1:0", protocol: TLS, certFile: cert.pem, keyFile: key.pem, clientCaFile: cert.pem, principalMappingRules: [x], maxConnections: -1}
  - {name: d, address: "127.0.0.1:0", protocol: SASL_PLAINTEXT, mechanisms: [GSSAPI, OAUTHBEARER], maxReauth: 1ms}
limits: {maxConnectionsPerHost: -1, idleTimeout: 0s, maxPartitions: -1}
allowEveryoneIfNoAcl: true
metrics: {address: "9404"}
`, []string{
			`x.yaml:3:49: listeners[0].protocol: TLS has no SASL; write SASL_PLAINTEXT or SASL_TLS, or remove mechanisms and maxReauth`,
			`x.yaml:3:104: listeners[0].clientAuth: "maybe" is unknown; write required, requested or none`,
			`x.yaml:4:104: listeners[1].clientAuth: needs an authority; set clientCaFile`,
			`x.yaml:4:123: listeners[1].crlFile: is of no use without clientCaFile, or with clientAuth: none`,
			`x.yaml:5:139: listeners[2].principalMappingRules: rule "x": write RULE:pattern/replacement/, with L or U after it, or DEFAULT`,
			`x.yaml:5:160: listeners[2].maxConnections: is negative`,
			`x.yaml:6:77: listeners[3].mechanisms: OAUTHBEARER needs to know which tokens to take; add a section tokens`,
			`x.yaml:6:78: listeners[3].mechanisms[0]: "GSSAPI" is not a mechanism; write SCRAM-SHA-512, SCRAM-SHA-256, PLAIN or OAUTHBEARER`,
			`x.yaml:6:111: listeners[3].maxReauth: is less than a second; an hour is usual`,
			`x.yaml:7:33: limits.maxConnectionsPerHost: is negative; 0 is as many as maxConnections`,
			`x.yaml:7:50: limits.idleTimeout: is not above 0`,
			`x.yaml:7:69: limits.maxPartitions: is not above 0`,
			`x.yaml:8:23: allowEveryoneIfNoAcl: is judged by nobody; set authorizer: true, or remove it`,
			`x.yaml:9:20: metrics.address: "9404" is not an address; write host:port`,
		}},
		{"tokens", swap("authorizer", "tokens: {unsecuredForDevelopment: true, jwksFile: none.json, algorithms: [HS256]}\nauthorizer", "keyFile: key.pem", "keyFile: key.pem, mechanisms: [OAUTHBEARER]").Replace(goodBroker), []string{
			`x.yaml:3:29: listeners[0].address: 0.0.0.0:9093 is not loopback; tokens that nobody signed are taken on loopback only: remove tokens.unsecuredForDevelopment`,
			`x.yaml:4:9: tokens: unsecured tokens need no keys: remove one of the two; signature algorithm "HS256": use some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA`,
			`x.yaml:4:51: tokens.jwksFile: cannot be read: open none.json: no such file or directory`,
		}},
		{"tokens that nobody takes", swap("authorizer", "tokens: {jwksUrl: \"http://a/keys\"}\nauthorizer").Replace(goodBroker), []string{
			`x.yaml:4:9: tokens: jwks url: "http://a/keys" is not https`,
		}},
		{"users", swap("${env:SHOP_PASSWORD}", "secret").Replace(goodBroker) + "  - Nobody\n", []string{
			`x.yaml:6:28: users[0].password: is not a reference to a secret; write ${env:NAME} or ${file:PATH}, never the secret itself`,
			`x.yaml:9:5: acls[1]: rule "Nobody": invalid acl: want <principal> Allow|Deny <operation> <type>:<pattern> from <host>`,
		}},
	} {
		c.check(t, "broker")
	}
}

func TestBrokerWithoutAFile(t *testing.T) {
	cert, key := certificates(t)
	write(t, map[string]string{"cert.pem": cert, "key.pem": key, "admin.pw": "secret\n"})
	good := brokerFlags{dir: "./data/", listen: "127.0.0.1:0", metrics: "127.0.0.1:0"}
	conf, err := good.config()
	if err != nil || conf.Dir != "data" || conf.Listeners[0].Addr != "127.0.0.1:0" || conf.Listeners[0].Protocol != broker.Plaintext || conf.Authorizer || conf.metrics != "127.0.0.1:0" {
		t.Errorf("got %+v %v", conf, err)
	}
	secure := brokerFlags{
		dir: "data", listen: "0.0.0.0:9093", advertise: "kafka.us:9093", cert: "cert.pem", key: "key.pem", clientCA: "cert.pem", users: []string{"admin=${file:admin.pw}"},
	}
	conf, err = secure.config()
	l := conf.Listeners[0]
	if err != nil || l.Protocol != broker.SASLTLS || l.Advertised != "kafka.us:9093" || l.TLS.ClientCAFile != "cert.pem" || conf.BootstrapUsers["admin"] != "secret" {
		t.Errorf("got %+v %v", conf, err)
	}
	for name, c := range map[string]struct {
		flags brokerFlags
		want  []string
	}{
		"plaintext beyond loopback": {brokerFlags{dir: "data", listen: "0.0.0.0:9092"}, []string{"--listen: 0.0.0.0:9092 is not loopback; use --tls-cert and --tls-key, or say --allow-plaintext"}},
		"half a certificate":        {brokerFlags{dir: "data", listen: "x", cert: "cert.pem"}, []string{`--listen: "x" is not an address`, "--tls-key: is missing"}},
		"all at once": {
			brokerFlags{listen: "127.0.0.1:0", clientCA: "cert.pem", users: []string{"admin=secret", "bob=${file:admin.pw}", "bob=${file:admin.pw}"}},
			[]string{"--dir FOLDER", "--tls-client-ca needs", "--user admin: secret is not a reference", "--user bob: the name is empty or taken"},
		},
	} {
		_, err := c.flags.config()
		for _, want := range c.want {
			if err == nil || exitCode(t.Context(), err) != exitInvalid || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", name, err, want)
			}
		}
	}
	// A file has keys for these: none of them is ignored beside one.
	write(t, map[string]string{"broker.yaml": "dataDir: d\nlisteners: [{name: c, address: \"127.0.0.1:0\", protocol: PLAINTEXT}]\n"})
	if got := replicator(t, "", "broker", "--config", "broker.yaml", "--listen", "127.0.0.1:1"); got.code != exitInvalid || !strings.Contains(got.stderr, "--listen is for a broker without a file") {
		t.Errorf("got %+v", got)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	for _, text := range []string{"first", "second"} {
		if err := writeFile(file, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != text {
			t.Errorf("got %q %v", got, err)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v %v: others could read it", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("got %v %v: something was left behind", left, err)
	}
	if err := writeFile(filepath.Join(dir, "none", "f"), nil); err == nil {
		t.Error("a folder that is not there: want an error")
	}
}
