package broker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
)

// authority signs certificates of a test.
type authority struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	serial int64
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.serial = 1
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// issue makes a certificate for a client or for 127.0.0.1.
func (a *authority) issue(subject pkix.Name, lasts time.Duration) tls.Certificate {
	a.t.Helper()
	a.serial++
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lasts),
		KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) crl(until time.Duration, revoked ...tls.Certificate) []byte {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(until)}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func writeTo(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// mtls is a broker with a TLS listener "mtls" whose clients a CA signs.
type mtls struct {
	*testBroker
	ca              *authority
	caFile, crlFile string
	rights          *recorder
}

func startMTLS(t *testing.T, change func(l *Listener, m *mtls)) *mtls {
	t.Helper()
	dir := t.TempDir()
	m := &mtls{ca: newAuthority(t, "clients"), caFile: filepath.Join(dir, "ca.pem"), crlFile: filepath.Join(dir, "crl.pem"), rights: &recorder{allow: true}}
	writeTo(t, m.caFile, m.ca.pem())
	m.testBroker = startPrepared(t, func(c *Config) {
		l := Listener{Name: "mtls", Addr: "127.0.0.1:0", Protocol: TLS, TLS: c.Listeners[1].TLS}
		l.TLS.ClientCAFile = m.caFile
		if change != nil {
			change(&l, m)
		}
		c.Listeners = append(c.Listeners, l)
	}, m.rights.install)
	return m
}

// dialTLS connects with a certificate, or without.
func (m *mtls) dialTLS(t *testing.T, certs ...tls.Certificate) net.Conn {
	t.Helper()
	nc := tls.Client(dial(t, m.Addr("mtls")), &tls.Config{RootCAs: m.pool, ServerName: "127.0.0.1", Certificates: certs})
	t.Cleanup(func() { nc.Close() })
	return nc
}

// reload makes the listener look at its files with the next handshake or request.
func (m *mtls) reload() {
	c := m.listeners["mtls"].tls
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked, c.stamp = time.Time{}, ""
}

// principalOf is who the broker takes a connection for; "" if it is not answered.
func (m *mtls) principalOf(t *testing.T, nc net.Conn) string {
	t.Helper()
	q := kmsg.NewPtrMetadataRequest()
	q.Topics = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("t")}}
	if _, err := askOver(t, nc, q, 4, kmsg.NewPtrMetadataResponse()); err != nil {
		return ""
	}
	asked := m.rights.taken()
	return asked[len(asked)-1].principal
}

// asked is a question that a broker asked its authorizer.
type asked struct {
	principal string
	op        acl.Operation
	rt        acl.ResourceType
	name      string // "" for any
}

// recorder answers every question alike and keeps them.
type recorder struct {
	mu    sync.Mutex
	allow bool
	all   []asked
}

func (r *recorder) Allowed(principal, _ string, op acl.Operation, rt acl.ResourceType, name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, asked{principal, op, rt, name})
	return r.allow
}

func (r *recorder) AllowedOnAny(principal, host string, op acl.Operation, rt acl.ResourceType) bool {
	return r.Allowed(principal, host, op, rt, "")
}

func (r *recorder) setAllow(allow bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allow = allow
}

// taken returns the questions since the last time.
func (r *recorder) taken() []asked {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

func (r *recorder) install(b *Broker) { b.authorizer = func() authorizer { return r } }

func TestPrincipalsOfCertificates(t *testing.T) {
	duke := pkix.Name{CommonName: "Duke", Organization: []string{"Org"}, Country: []string{"US"}}
	for name, c := range map[string]struct {
		change func(l *Listener)
		cert   bool
		want   string // "" is not let in
	}{
		"the subject":                 {nil, true, "User:CN=Duke,O=Org,C=US"},
		"mapped":                      {func(l *Listener) { l.TLS.PrincipalMapping = []string{"RULE:^CN=(.*?),.*$/$1/L"} }, true, "User:duke"},
		"no rule applies":             {func(l *Listener) { l.TLS.PrincipalMapping = []string{"RULE:^OU=(.*?),.*$/$1/L"} }, true, ""},
		"none, required":              {nil, false, ""},
		"none, requested":             {func(l *Listener) { l.TLS.ClientAuth = ClientAuthRequested }, false, "User:ANONYMOUS"},
		"one, requested":              {func(l *Listener) { l.TLS.ClientAuth = ClientAuthRequested }, true, "User:CN=Duke,O=Org,C=US"},
		"one, though none is wanted":  {func(l *Listener) { l.TLS.ClientAuth = ClientAuthNone }, true, "User:ANONYMOUS"},
		"sasl over it says who it is": {func(l *Listener) { l.Protocol = SASLTLS }, true, "User:alice"},
		"sasl without it":             {func(l *Listener) { l.Protocol = SASLTLS }, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := startMTLS(t, func(l *Listener, _ *mtls) {
				if c.change != nil {
					c.change(l)
				}
			})
			var certs []tls.Certificate
			if c.cert {
				certs = append(certs, m.ca.issue(duke, time.Hour))
			}
			nc := m.dialTLS(t, certs...)
			if m.cfg.Listeners[2].Protocol == SASLTLS {
				if _, err := login(t, nc, scram256("alice", "geheim")); err != nil && c.want != "" {
					t.Fatal(err)
				}
			}
			if got := m.principalOf(t, nc); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestStrangersCertificatesAreRefused(t *testing.T) {
	m := startMTLS(t, func(l *Listener, _ *mtls) { l.TLS.ClientAuth = ClientAuthRequested })
	alice := pkix.Name{CommonName: "alice"}
	for name, cert := range map[string]tls.Certificate{
		"another authority's": newAuthority(t, "clients").issue(alice, time.Hour),
		"expired":             m.ca.issue(alice, -time.Minute),
	} {
		if got := m.principalOf(t, m.dialTLS(t, cert)); got != "" {
			t.Errorf("%s: let in as %q", name, got)
		}
	}
}

func TestAuthoritiesOfClientsRotate(t *testing.T) {
	m := startMTLS(t, nil)
	old, fresh := m.ca, newAuthority(t, "clients 2")
	alice := pkix.Name{CommonName: "alice"}
	oldCert, freshCert := old.issue(alice, time.Hour), fresh.issue(alice, time.Hour)
	check := func(step string, wantOld, wantFresh bool) {
		t.Helper()
		if got := m.principalOf(t, m.dialTLS(t, oldCert)) != ""; got != wantOld {
			t.Errorf("%s: the old authority's client is let in: %v", step, got)
		}
		if got := m.principalOf(t, m.dialTLS(t, freshCert)) != ""; got != wantFresh {
			t.Errorf("%s: the new authority's client is let in: %v", step, got)
		}
	}
	check("before", true, false)
	writeTo(t, m.caFile, append(old.pem(), fresh.pem()...))
	m.reload()
	check("both", true, true)
	writeTo(t, m.caFile, []byte("not a certificate"))
	m.reload()
	check("a file that does not load", true, true)
	writeTo(t, m.caFile, fresh.pem())
	m.reload()
	check("after", false, true)
}

func TestRevokedCertificatesAreCut(t *testing.T) {
	var alice, bob tls.Certificate
	m := startMTLS(t, func(l *Listener, m *mtls) {
		alice, bob = m.ca.issue(pkix.Name{CommonName: "alice"}, time.Hour), m.ca.issue(pkix.Name{CommonName: "bob"}, time.Hour)
		writeTo(t, m.crlFile, m.ca.crl(time.Hour, bob))
		l.TLS.CRLFile = m.crlFile
	})
	nc := m.dialTLS(t, alice)
	if got := m.principalOf(t, nc); got != "User:CN=alice" {
		t.Errorf("alice is %q", got)
	}
	if got := m.principalOf(t, m.dialTLS(t, bob)); got != "" {
		t.Errorf("bob is revoked, and let in as %q", got)
	}
	writeTo(t, m.crlFile, m.ca.crl(time.Hour, alice))
	m.reload()
	if got := m.principalOf(t, m.dialTLS(t, alice)); got != "" {
		t.Errorf("alice is revoked, and let in as %q", got)
	}
	if got := m.principalOf(t, m.dialTLS(t, bob)); got != "User:CN=bob" {
		t.Errorf("bob is %q", got)
	}
	// A list that is out of date, or another authority's, says nothing.
	writeTo(t, m.crlFile, m.ca.crl(-time.Minute))
	m.reload()
	if got := m.principalOf(t, m.dialTLS(t, bob)); got != "" {
		t.Errorf("let in as %q by an old list", got)
	}
	writeTo(t, m.crlFile, newAuthority(t, "clients").crl(time.Hour))
	m.reload()
	if got := m.principalOf(t, m.dialTLS(t, bob)); got != "" {
		t.Errorf("let in as %q by a stranger's list", got)
	}
}

// TestOpenConnectionsAreWatched: what a connection showed is judged again later.
func TestOpenConnectionsAreWatched(t *testing.T) {
	ca := newAuthority(t, "clients")
	leaf := ca.issue(pkix.Name{CommonName: "alice"}, time.Hour)
	server := newAuthority(t, "servers").issue(pkix.Name{CommonName: "broker"}, time.Hour)
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := ListenerTLS{
		CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key"), ClientCAFile: filepath.Join(dir, "ca"), CRLFile: filepath.Join(dir, "crl"),
	}
	writeTo(t, files.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate[0]}))
	writeTo(t, files.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	writeTo(t, files.ClientCAFile, ca.pem())
	writeTo(t, files.CRLFile, ca.crl(3*time.Hour))
	c, err := loadCertificates(files)
	if err != nil {
		t.Fatal(err)
	}
	check := c.watch([][]*x509.Certificate{{leaf.Leaf, ca.cert}}, slog.New(slog.DiscardHandler))
	now := time.Now()
	if err := check(now); err != nil {
		t.Error(err)
	}
	writeTo(t, files.CRLFile, ca.crl(3*time.Hour, leaf))
	c.checked, c.stamp = time.Time{}, ""
	if err := check(now.Add(certCheck + time.Second)); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("revoked: %v", err)
	}
	if err := check(now.Add(61 * time.Minute)); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("over its end: %v", err)
	}
}

// TestEndedCertificatesAreCutAtTheNextRequest, on a connection that began when
// they were good.
func TestEndedCertificatesAreCutAtTheNextRequest(t *testing.T) {
	m := startMTLS(t, nil)
	var (
		cert tls.Certificate
		nc   net.Conn
	)
	// One of two seconds, of which whole ones are stored. A slow test needs a longer one.
	for lasts, in := 2*time.Second, ""; in == ""; lasts *= 2 {
		if lasts > time.Minute {
			t.Fatal("not let in")
		}
		cert = m.ca.issue(pkix.Name{CommonName: "alice"}, lasts)
		nc = m.dialTLS(t, cert)
		in = m.principalOf(t, nc)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for m.principalOf(t, nc) != "" {
		<-tick.C
	}
	if now := time.Now(); now.Before(cert.Leaf.NotAfter) || now.After(cert.Leaf.NotAfter.Add(20*time.Second)) {
		t.Errorf("cut at %v, ends %v", now, cert.Leaf.NotAfter)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	m := startMTLS(t, nil)
	nc := tls.Client(dial(t, m.Addr("mtls")), &tls.Config{RootCAs: m.pool, ServerName: "127.0.0.1", MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}) //nolint:gosec // to be refused
	if err := nc.HandshakeContext(context.Background()); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}
