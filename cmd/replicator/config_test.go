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
		{"both", swap("bootstrap: true", "bootstrap: true\n  join: [r2]").Replace(goodNode), []string{
			`x.yaml:10:9: peer.join: goes not with bootstrap; a node begins a fleet, or joins one: remove one of the two`,
			`x.yaml:10:10: peer.join[0]: "r2" is not an address; write host:port`,
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
	write(t, map[string]string{"cert.pem": cert, "key.pem": key, "broker.yaml": goodBroker})
	conf, err := brokerConfig("broker.yaml", "", "")
	if err != nil {
		t.Fatal(err)
	}
	want := broker.DefaultConfig()
	want.Dir, want.Authorizer = "data", true
	want.Listeners = []broker.Listener{{Name: "client", Addr: "0.0.0.0:9093", Protocol: broker.SASLTLS, TLS: broker.ListenerTLS{CertFile: "cert.pem", KeyFile: "key.pem"}}}
	want.BootstrapUsers = map[string]string{"shop": "secret"}
	want.BootstrapACLs = conf.BootstrapACLs
	if len(conf.BootstrapACLs) != 1 || !reflect.DeepEqual(conf, want) {
		t.Errorf("got  %+v\nwant %+v", conf, want)
	}

	swap := strings.NewReplacer
	for _, c := range []configFault{
		{"nothing set", "nodeId: 1\n", []string{
			`x.yaml:1:1: listeners: is missing`, `x.yaml:1:1: dataDir: is missing; set it, or use --dir`,
		}},
		{"numbers", goodBroker + "nodeId: -1\ndefaultPartitions: 0\ngroupInitialRebalanceDelay: 3\n", []string{
			`x.yaml:9:9: nodeId: is negative`,
			`x.yaml:10:20: defaultPartitions: is less than 1`,
			`x.yaml:11:29: groupInitialRebalanceDelay: "3" is not a duration; write it like 30s, 5m or 1h30m`,
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
		{"users", swap("${env:SHOP_PASSWORD}", "secret").Replace(goodBroker) + "  - Nobody\n", []string{
			`x.yaml:6:28: users[0].password: is not a reference to a secret; write ${env:NAME} or ${file:PATH}, never the secret itself`,
			`x.yaml:9:5: acls[1]: rule "Nobody": invalid acl: want <principal> Allow|Deny <operation> <type>:<pattern> from <host>`,
		}},
	} {
		c.check(t, "broker")
	}
}

func TestBrokerWithoutAFile(t *testing.T) {
	conf, err := brokerConfig("", "./data/", "127.0.0.1:0")
	if err != nil || conf.Dir != "data" || conf.Listeners[0].Addr != "127.0.0.1:0" || conf.Authorizer {
		t.Errorf("got %+v %v", conf, err)
	}
	if _, err = brokerConfig("", "data", "0.0.0.0:9092"); err == nil || exitCode(t.Context(), err) != exitInvalid {
		t.Errorf("plaintext beyond loopback: got %v", err)
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
