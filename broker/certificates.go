package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/waybillhq/waybill/broker/auth"
)

// startTLS shakes hands and returns the principal that the client's certificate
// stands for.
func (c *conn) startTLS(ctx context.Context) (string, error) {
	tc := tls.Server(c.nc, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.ln.tls.config(c.log), nil },
		// A ticket would outlive a change of authorities and a revocation.
		SessionTicketsDisabled: true,
	})
	if err := tc.HandshakeContext(ctx); err != nil {
		return "", err
	}
	c.nc = tc
	chains := tc.ConnectionState().VerifiedChains
	if len(chains) == 0 {
		return anonymous, nil
	}
	c.session.certificate = c.ln.tls.watch(chains, c.log)
	if c.ln.Protocol != TLS {
		return anonymous, nil // SASL says who it is, as in Kafka
	}
	dn, err := auth.DistinguishedName(chains[0][0].RawSubject)
	if err != nil {
		return "", fmt.Errorf("%w: %w", auth.ErrFailed, err)
	}
	user, err := c.ln.principals.Name(dn)
	if err != nil {
		return "", fmt.Errorf("%w: %w", auth.ErrFailed, err)
	}
	return "User:" + user, nil
}

// certCheck is how often a listener looks whether its files have changed.
const certCheck = 5 * time.Second

// certificates hands out the listener's TLS configuration and reloads its files
// when they change. Connections that are open are judged by the newest list of
// revoked certificates, and by the certificates that they showed.
type certificates struct {
	files ListenerTLS

	mu      sync.Mutex
	current *loadedTLS
	stamp   string // of the files that were last tried
	checked time.Time
}

// loadedTLS is what the files said.
type loadedTLS struct {
	config  *tls.Config
	revoked []*revocations
	// expires is the end of the server's own certificate.
	expires time.Time
}

func loadCertificates(files ListenerTLS) (*certificates, error) {
	c := &certificates{files: files, checked: time.Now()}
	var err error
	if c.stamp, err = c.stamps(); err != nil {
		return nil, err
	}
	c.current, err = c.load()
	return c, err
}

// config is the configuration for the next handshake.
func (c *certificates) config(log *slog.Logger) *tls.Config { return c.fresh(log).config }

// fresh is what the files say. New files that do not load are reported once and
// leave the last good ones in use.
func (c *certificates) fresh(log *slog.Logger) *loadedTLS {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < certCheck {
		return c.current
	}
	c.checked = time.Now()
	stamp, err := c.stamps()
	if err == nil && stamp == c.stamp {
		return c.current
	}
	var next *loadedTLS
	if err == nil {
		c.stamp = stamp
		next, err = c.load()
	}
	if err != nil {
		log.Error("reload certificates: the last good ones stay in use", "err", err)
		return c.current
	}
	log.Info("certificates reloaded", "certificate", c.files.CertFile, "expires", next.expires)
	c.current = next
	return next
}

func (c *certificates) stamps() (string, error) {
	var s string
	for _, name := range []string{c.files.CertFile, c.files.KeyFile, c.files.ClientCAFile, c.files.CRLFile} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return "", fmt.Errorf("certificate files: %w", err)
		}
		s += fmt.Sprintf("%s %d %d\n", name, info.Size(), info.ModTime().UnixNano())
	}
	return s, nil
}

func (c *certificates) load() (*loadedTLS, error) {
	pair, err := tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	l := &loadedTLS{
		config: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: c.files.clientAuth(), SessionTicketsDisabled: true,
		},
		expires: pair.Leaf.NotAfter,
	}
	if c.files.ClientCAFile != "" {
		authorities, err := os.ReadFile(c.files.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("load client ca: %w", err)
		}
		l.config.ClientCAs = x509.NewCertPool()
		if !l.config.ClientCAs.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("load client ca: no certificate in %s", c.files.ClientCAFile)
		}
	}
	if c.files.CRLFile != "" {
		if l.revoked, err = loadRevocations(c.files.CRLFile); err != nil {
			return nil, err
		}
		l.config.VerifyConnection = func(state tls.ConnectionState) error {
			if len(state.VerifiedChains) == 0 {
				return nil // no certificate was asked for, or none shown
			}
			return l.checkRevocation(state.VerifiedChains, time.Now())
		}
	}
	return l, nil
}

// checkRevocation wants one chain of which every certificate is on no list of
// its issuer, and of whose issuers each has a list that is not out of date: like
// Java and OpenSSL, what cannot be told is not trusted.
func (l *loadedTLS) checkRevocation(chains [][]*x509.Certificate, now time.Time) error {
	var errs []error
	for _, chain := range chains {
		err := l.checkChain(chain, now)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (l *loadedTLS) checkChain(chain []*x509.Certificate, now time.Time) error {
	for i := range len(chain) - 1 {
		cert, issuer := chain[i], chain[i+1]
		fresh := false
		for _, list := range l.revoked {
			if !bytes.Equal(list.RawIssuer, issuer.RawSubject) || list.CheckSignatureFrom(issuer) != nil {
				continue
			}
			current := list.NextUpdate.IsZero() || now.Before(list.NextUpdate)
			fresh = fresh || current && list.scope.covers(cert)
			for _, entry := range list.RevokedCertificateEntries {
				if entry.SerialNumber.Cmp(cert.SerialNumber) == 0 {
					return fmt.Errorf("certificate %x of %q is revoked", cert.SerialNumber, cert.Subject)
				}
			}
		}
		if !fresh {
			return fmt.Errorf("no revocation list of %q, or it is out of date", issuer.Subject)
		}
	}
	return nil
}

// watch returns what says why a client's certificate is not good any more. The
// chain was verified when the connection was made; authorities that were taken out
// since then end new connections only. Lists of revocations are looked at now and
// then, for a look checks their signatures.
func (c *certificates) watch(chains [][]*x509.Certificate, log *slog.Logger) func(now time.Time) error {
	end, looked := chainEnd(chains), time.Now()
	return func(now time.Time) error {
		switch {
		case now.After(end):
			return fmt.Errorf("client certificate ended %v", end)
		case c.files.CRLFile == "" || now.Sub(looked) < certCheck:
			return nil
		}
		looked = now
		return c.fresh(log).checkRevocation(chains, now)
	}
}

// chainEnd is when the last chain stops being valid.
func chainEnd(chains [][]*x509.Certificate) time.Time {
	var last time.Time
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, cert := range chain[1:] {
			if cert.NotAfter.Before(end) {
				end = cert.NotAfter
			}
		}
		if end.After(last) {
			last = end
		}
	}
	return last
}
