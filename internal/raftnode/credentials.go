package raftnode

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// The protocols that ALPN chooses between.
const (
	protoRaft = "waybill-raft"
	protoPeer = "waybill-peer"
	// protoEnrol is for nodes that have no certificate yet.
	protoEnrol = "waybill-enrol"
)

// Credentials are a member's certificate and key, and the authority that it
// trusts. Safe for concurrent use.
type Credentials struct {
	files [3]string // CA, certificate, key; empty if parsed from memory
	// own: the authority is the group's and signs for nobody else. Its certificates
	// are bound to names and disks, not to host names.
	own bool

	mu      sync.Mutex
	checked time.Time
	stamps  [3]time.Time
	current material
	err     error // of the last attempt to read changed files
}

type material struct {
	roots *x509.CertPool
	cert  tls.Certificate
}

// recheck is how often handshakes look whether the files have changed.
const recheck = time.Second

// LoadCredentials reads PEM files. They are read again when one of them has
// changed; until all three fit together, the previous ones stay in use.
func LoadCredentials(caFile, certFile, keyFile string) (*Credentials, error) {
	c := &Credentials{files: [3]string{caFile, certFile, keyFile}}
	stamps, err := c.stat()
	if err != nil {
		return nil, err
	}
	if c.current, err = c.read(); err != nil {
		return nil, err
	}
	c.stamps, c.checked = stamps, time.Now()
	return c, nil
}

// ParseCredentials takes PEM from memory.
func ParseCredentials(caPEM, certPEM, keyPEM []byte) (*Credentials, error) {
	m, err := parseMaterial(caPEM, certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	return &Credentials{current: m}, nil
}

// Err returns why changed files could not be taken into use, or nil.
func (c *Credentials) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func parseMaterial(caPEM, certPEM, keyPEM []byte) (material, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return material{}, errors.New("no certificate among the authority's PEM")
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return material{}, fmt.Errorf("parse certificate and key: %w", err)
	}
	return material{roots: roots, cert: cert}, nil
}

func (c *Credentials) stat() (stamps [3]time.Time, err error) {
	for i, f := range c.files {
		info, err := os.Stat(f)
		if err != nil {
			return stamps, fmt.Errorf("look at credentials: %w", err)
		}
		stamps[i] = info.ModTime()
	}
	return stamps, nil
}

func (c *Credentials) read() (material, error) {
	var pem [3][]byte
	for i, f := range c.files {
		b, err := os.ReadFile(f)
		if err != nil {
			return material{}, fmt.Errorf("read credentials: %w", err)
		}
		pem[i] = b
	}
	m, err := parseMaterial(pem[0], pem[1], pem[2])
	if err != nil {
		return material{}, fmt.Errorf("credentials %s: %w", strings.Join(c.files[:], ", "), err)
	}
	return m, nil
}

// set takes other credentials into use.
func (c *Credentials) set(m material) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = m
}

func (c *Credentials) get() material {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files[0] == "" || time.Since(c.checked) < recheck {
		return c.current
	}
	c.checked = time.Now()
	stamps, err := c.stat()
	if err == nil && stamps == c.stamps {
		return c.current
	}
	var m material
	if err == nil {
		m, err = c.read()
	}
	if c.err = err; err == nil {
		c.current, c.stamps = m, stamps
	}
	return c.current
}

// server is a configuration that takes the current files at each handshake.
func (c *Credentials) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			m := c.get()
			if c.own && slices.Equal(hello.SupportedProtos, []string{protoEnrol}) {
				return &tls.Config{
					MinVersion:             tls.VersionTLS13,
					Certificates:           []tls.Certificate{m.cert},
					NextProtos:             []string{protoEnrol},
					SessionTicketsDisabled: true,
				}, nil
			}
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				Certificates: []tls.Certificate{m.cert},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    m.roots,
				NextProtos:   []string{protoRaft, protoPeer},
				// A resumed session would skip the check against changed files.
				SessionTicketsDisabled: true,
			}, nil
		},
	}
}

func (c *Credentials) client(host, proto string) *tls.Config {
	m := c.get()
	conf := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.cert},
		RootCAs:      m.roots,
		ServerName:   host,
		NextProtos:   []string{proto},
	}
	if c.own {
		conf.InsecureSkipVerify = true // VerifyConnection does it, without the host name
		conf.VerifyConnection = func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: m.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			return err
		}
	}
	return conf
}

type peerKey struct{}

// withPeer notes who is at the other end of a connection.
func withPeer(ctx context.Context, cert *x509.Certificate) context.Context {
	return context.WithValue(ctx, peerKey{}, cert)
}

// PeerIs reports whether the certificate behind a peer request names the member
// id. ctx is that of a request to Config.Handler.
func PeerIs(ctx context.Context, id string) bool {
	cert, _ := ctx.Value(peerKey{}).(*x509.Certificate)
	return cert != nil && names(cert, id)
}

// CheckIdentity returns an error if the certificate does not name the member id:
// its peers would refuse it.
func (c *Credentials) CheckIdentity(id string) error {
	m := c.get()
	if m.cert.Leaf == nil || !names(m.cert.Leaf, id) {
		return fmt.Errorf("certificate does not name %q, neither as common name nor as DNS name", id)
	}
	return nil
}

func names(cert *x509.Certificate, id string) bool {
	return cert.Subject.CommonName == id || cert.VerifyHostname(id) == nil
}

// workerUnit is the organizational unit of workers' certificates.
const workerUnit = "worker"

func isWorker(cert *x509.Certificate) bool {
	return slices.Contains(cert.Subject.OrganizationalUnit, workerUnit)
}

// onDisk reports whether a certificate may be used on a disk: one that the group
// has issued itself is bound to one, others are not.
func onDisk(cert *x509.Certificate, disk string) bool {
	for _, u := range cert.URIs {
		if u.Scheme == diskScheme {
			return u.Opaque == disk
		}
	}
	return true
}

// diskScheme is that of the URI which binds a certificate to a disk.
const diskScheme = "waybill-disk"
