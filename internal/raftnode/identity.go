package raftnode

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/waybillhq/waybill/internal/vfs"
)

// A group without certificates from outside has an authority of its own. Its key is
// on the disk of every member that may vote, and nowhere else: not in the log, not
// in a backup, not on workers. So any of them can let a node in, and the death of
// none stops that. What a node has is one file, readable by its owner only:
//
//	CERTIFICATE            the node's, bound to its disk
//	CERTIFICATE            the authority's
//	PRIVATE KEY            the node's
//	AUTHORITY PRIVATE KEY  the authority's, unless the node is a worker
const (
	identityFile   = "identity.pem"
	blockCert      = "CERTIFICATE"
	blockKey       = "PRIVATE KEY"
	blockAuthority = "AUTHORITY PRIVATE KEY"
)

// The authority outlives the machines; a node's certificate is renewed when a third
// of its time is left.
const (
	authorityValidFor = 20 * 365 * 24 * time.Hour
	issuedValidFor    = 90 * 24 * time.Hour
)

// identity is a node's certificate of the group's own authority. It is not changed
// once it is in use.
type identity struct {
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
	authority *x509.Certificate
	signer    *ecdsa.PrivateKey // the authority's key, nil on workers
}

// newAuthority begins a group's authority, with the identity of its first node.
func newAuthority(group, id, disk string) (*identity, error) {
	ca, err := GenerateCA("waybill fleet "+group[:8], authorityValidFor)
	if err != nil {
		return nil, err
	}
	i := new(identity)
	if i.authority, i.signer, err = ca.parse(); err != nil {
		return nil, err
	}
	if i.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("generate key of %s: %w", id, err)
	}
	if i.cert, err = i.issue(id, disk, false, i.key.Public()); err != nil {
		return nil, err
	}
	return i, nil
}

// issue signs a certificate for a node on a disk.
func (i *identity) issue(id, disk string, worker bool, key any) (*x509.Certificate, error) {
	if i.signer == nil {
		return nil, ErrNoAuthority
	}
	tmpl, err := certificate(id, issuedValidFor)
	if err != nil {
		return nil, err
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	tmpl.DNSNames = []string{id}
	if worker {
		tmpl.Subject.OrganizationalUnit = []string{workerUnit}
	}
	tmpl.URIs = []*url.URL{{Scheme: diskScheme, Opaque: disk}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, i.authority, key, i.signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", id, err)
	}
	return x509.ParseCertificate(der)
}

// expiring reports whether it is time for another certificate.
func (i *identity) expiring(now time.Time) bool {
	return now.After(i.cert.NotAfter.Add(-issuedValidFor / 3))
}

func (i *identity) material() material {
	roots := x509.NewCertPool()
	roots.AddCert(i.authority)
	return material{roots: roots, cert: tls.Certificate{
		Certificate: [][]byte{i.cert.Raw, i.authority.Raw}, PrivateKey: i.key, Leaf: i.cert,
	}}
}

// check finds an identity that cannot be this node's.
func (i *identity) check(id, disk string) error {
	roots := x509.NewCertPool()
	roots.AddCert(i.authority)
	_, err := i.cert.Verify(x509.VerifyOptions{
		Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		CurrentTime: i.cert.NotBefore.Add(time.Second), // whether it has expired is another question
	})
	switch {
	case err != nil:
		return fmt.Errorf("its certificate is not of its authority: %w", err)
	case !names(i.cert, id):
		return fmt.Errorf("its certificate is that of %q, not of %q", i.cert.Subject.CommonName, id)
	case !onDisk(i.cert, disk):
		return errors.New("its certificate is bound to another disk: the rest of the directory was wiped or exchanged")
	case !i.key.PublicKey.Equal(i.cert.PublicKey):
		return errors.New("its key is not that of its certificate")
	case isWorker(i.cert) == (i.signer != nil):
		return errors.New("a worker has not the authority's key, and only a worker has not")
	case i.signer != nil && !i.signer.PublicKey.Equal(i.authority.PublicKey):
		return errors.New("its authority's key is not that of the authority's certificate")
	}
	return nil
}

func (i *identity) encode() ([]byte, error) {
	key, err := encodeKey(i.key)
	if err != nil {
		return nil, err
	}
	b := bytes.Join([][]byte{encodeCert(i.cert.Raw), encodeCert(i.authority.Raw), key}, nil)
	if i.signer != nil {
		der, err := x509.MarshalPKCS8PrivateKey(i.signer)
		if err != nil {
			return nil, fmt.Errorf("encode authority's key: %w", err)
		}
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: blockAuthority, Bytes: der})...)
	}
	return b, nil
}

func decodeIdentity(b []byte) (*identity, error) {
	i := new(identity)
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		b = rest
		var err error
		switch {
		case block.Type == blockCert && i.cert == nil:
			i.cert, err = x509.ParseCertificate(block.Bytes)
		case block.Type == blockCert && i.authority == nil:
			i.authority, err = x509.ParseCertificate(block.Bytes)
		case block.Type == blockKey && i.key == nil:
			i.key, err = parseKey(block.Bytes)
		case block.Type == blockAuthority && i.signer == nil:
			i.signer, err = parseKey(block.Bytes)
		default:
			err = errors.New("one too many")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", block.Type, err)
		}
	}
	if i.cert == nil || i.authority == nil || i.key == nil {
		return nil, errors.New("a certificate or the key is missing")
	}
	return i, nil
}

func parseKey(der []byte) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T, want ECDSA", parsed)
	}
	return key, nil
}

// save writes the identity into a directory, whole or not at all; with none it is
// kept in memory only.
func (i *identity) save(dir string) error {
	if dir == "" {
		return nil
	}
	b, err := i.encode()
	if err != nil {
		return err
	}
	if err := vfs.WriteFileBeside(vfs.Private{}, filepath.Join(dir, identityFile), b); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

// openIdentity finds the node's identity, or begins the group's authority if the
// node is the first. A node that is to join with a token has none yet.
func (n *Node) openIdentity() error {
	d := n.diskNow()
	path := filepath.Join(n.cfg.Dir, identityFile)
	var b []byte
	err := os.ErrNotExist
	if n.cfg.Dir != "" {
		b, err = os.ReadFile(path)
	}
	switch {
	case err == nil:
		i, err := decodeIdentity(b)
		if err == nil {
			err = i.check(n.cfg.ID, d.id)
		}
		if err != nil {
			return fmt.Errorf("identity %s: %w", path, err)
		}
		return n.adopt(i)
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read identity: %w", err)
	case !n.fresh && n.cfg.Dir != "":
		return fmt.Errorf("identity %s is missing, and no certificate files are given", path)
	case n.cfg.Bootstrap:
		i, err := newAuthority(d.group, n.cfg.ID, d.id)
		if err == nil {
			err = i.save(n.cfg.Dir)
		}
		if err != nil {
			return err
		}
		return n.adopt(i)
	case n.cfg.Token == "":
		return errors.New("a node that joins needs certificate files or a join token")
	}
	n.token, err = ParseToken(n.cfg.Token)
	return err
}

// adopt takes an identity into use; one that is about to expire is renewed first if
// the node can do that itself.
func (n *Node) adopt(i *identity) error {
	if i.expiring(time.Now()) && i.signer != nil {
		next := *i
		var err error
		if next.cert, err = i.issue(n.cfg.ID, n.diskNow().id, false, i.key.Public()); err != nil {
			return err
		}
		if err := next.save(n.cfg.Dir); err != nil {
			return err
		}
		i = &next
		n.log.Info("certificate renewed", "until", i.cert.NotAfter)
	}
	n.identity.Store(i)
	n.cfg.Credentials.set(i.material())
	return nil
}

// renewals keeps the node's certificate from expiring, until ctx ends.
func (n *Node) renewals(ctx context.Context) error {
	const look = time.Hour // of the month that is left
	for {
		if i := n.identity.Load(); i != nil && i.expiring(time.Now()) {
			if err := n.renew(ctx, i); err != nil {
				n.log.Warn("renew the certificate; trying again", "until", i.cert.NotAfter, "error", err)
			}
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return nil
		}
	}
}

// renew gets another certificate for the same key: from itself, or for a worker
// from a member with the authority's key.
func (n *Node) renew(ctx context.Context, i *identity) error {
	if i.signer != nil {
		return n.adopt(i)
	}
	var errs []error
	for _, addr := range n.voterAddresses() {
		_, der, err := n.post(ctx, addr, "renew", nil)
		if err == nil {
			next := *i
			if next.cert, err = x509.ParseCertificate(der); err == nil {
				err = next.check(n.cfg.ID, n.diskNow().id)
			}
			if err == nil {
				err = next.save(n.cfg.Dir)
			}
			if err == nil {
				n.log.Info("certificate renewed", "until", next.cert.NotAfter)
				return n.adopt(&next)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// serveRenew signs what a member has now for some more time: same name, disk, key
// and rank.
func (n *Node) serveRenew(w http.ResponseWriter, req *http.Request) {
	i := n.identity.Load()
	id, from, old, err := caller(req)
	if i == nil || err != nil {
		http.Error(w, "this group's certificates are not its own", http.StatusUnprocessableEntity)
		return
	}
	cert, err := i.issue(id, from.disk, isWorker(old), old.PublicKey)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	_, _ = w.Write(cert.Raw) // to a caller that may have gone
}
