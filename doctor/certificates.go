package doctor

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// A certificate is worth a warning a month before its end: renewing takes people.
// In the last week it is a fault.
const (
	renewSoon = 30 * 24 * time.Hour
	renewNow  = 7 * 24 * time.Hour
)

// lifetime judges the certificate of a chain that ends first.
func lifetime(where, renew string, chain []*x509.Certificate, now time.Time) Finding {
	if len(chain) == 0 {
		return found(TLS, where, Unknown, "no certificate was shown")
	}
	first := chain[0]
	for _, c := range chain {
		if c.NotAfter.Before(first.NotAfter) {
			first = c
		}
		if now.Before(c.NotBefore) {
			return found(TLS, where, Error, "%s is not valid before %s", named(c), c.NotBefore.UTC().Format(time.RFC3339)).todo("correct the clock of this machine, or wait")
		}
	}
	left := first.NotAfter.Sub(now)
	text := fmt.Sprintf("%s: %d certificates, the first to end is %s on %s", named(chain[0]), len(chain), named(first), first.NotAfter.UTC().Format("2006-01-02"))
	switch {
	case left <= 0:
		return found(TLS, where, Error, "%s: it has ended", text).todo("%s", renew)
	case left < renewNow:
		return found(TLS, where, Error, "%s: %s left", text, days(left)).todo("%s now", renew)
	case left < renewSoon:
		return found(TLS, where, Warning, "%s: %s left", text, days(left)).todo("%s", renew)
	}
	return found(TLS, where, OK, "%s: %s left", text, days(left))
}

func days(d time.Duration) string {
	if n := int(d / (24 * time.Hour)); n != 1 {
		return fmt.Sprintf("%d days", n)
	}
	return "1 day"
}

func named(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	return c.Subject.String()
}

// CertificateFile looks at a certificate file of this machine, and at whether its
// key fits. name is one that it must be valid for, empty for any.
func CertificateFile(where, certFile, keyFile, name string, now time.Time) []Finding {
	const renew = "put a new certificate and key into the files: they are read again with the next connection"
	if certFile == "" {
		return nil
	}
	chain, err := readChain(certFile)
	if err != nil {
		return []Finding{found(TLS, where, Error, "%s: %v", certFile, err).todo("put the file in place, readable for the replicator")}
	}
	all := []Finding{lifetime(where+": "+certFile, renew, chain, now)}
	if keyFile != "" {
		if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
			all = append(all, found(TLS, where, Error, "%s and %s: %v", certFile, keyFile, err).todo("give the key that the certificate was made with"))
		}
	}
	if name != "" && chain[0].VerifyHostname(name) != nil && chain[0].Subject.CommonName != name {
		all = append(all, found(TLS, where, Error, "%s is for %s, not for %s", certFile, strings.Join(append(chain[0].DNSNames, chain[0].Subject.CommonName), ", "), name).todo("issue one for this name"))
	}
	return all
}

func readChain(file string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return chain, nil
}

// verified says why a chain that a server has shown is not to be trusted.
func verified(state tls.ConnectionState, conf *tls.Config, host string) error {
	name := conf.ServerName
	if name == "" {
		name = host
	}
	options := x509.VerifyOptions{Roots: conf.RootCAs, DNSName: name, Intermediates: x509.NewCertPool()}
	if len(state.PeerCertificates) == 0 {
		return errors.New("no certificate was shown")
	}
	for _, c := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(options)
	return err
}
