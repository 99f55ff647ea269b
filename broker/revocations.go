package broker

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// revocations is a list of revoked certificates and of which certificates it tells: one
// that is not about a certificate says nothing of it by not naming it.
type revocations struct {
	*x509.RevocationList
	scope crlScope
}

// crlScope is an issuing distribution point (RFC 5280, 5.2.5). The zero value is a list
// of all certificates of an issuer.
type crlScope struct {
	DistributionPoint  asn1.RawValue  `asn1:"optional,tag:0"`
	OnlyUsers          bool           `asn1:"optional,tag:1"`
	OnlyAuthorities    bool           `asn1:"optional,tag:2"`
	OnlySomeReasons    asn1.BitString `asn1:"optional,tag:3"`
	Indirect           bool           `asn1:"optional,tag:4"`
	OnlyAttributeCerts bool           `asn1:"optional,tag:5"`
}

var (
	crlNumber = asn1.ObjectIdentifier{2, 5, 29, 20}
	crlDelta  = asn1.ObjectIdentifier{2, 5, 29, 27}
	crlIssued = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// covers says whether a list of this scope names a certificate if it is revoked.
func (s crlScope) covers(cert *x509.Certificate) bool {
	switch {
	case s.OnlyAttributeCerts, s.OnlyUsers && cert.IsCA, s.OnlyAuthorities && !cert.IsCA:
		return false
	}
	return true
}

// loadRevocations reads lists of PEM, or one of DER.
func loadRevocations(file string) ([]*revocations, error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("load crl: %w", err)
	}
	var blocks [][]byte
	if !bytes.Contains(rest, []byte("-----BEGIN")) {
		blocks = [][]byte{rest} // DER
	}
	for len(blocks) == 0 || len(rest) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "X509 CRL" {
			blocks = append(blocks, block.Bytes)
		}
	}
	var lists []*revocations
	for _, der := range blocks {
		list, err := parseRevocations(der)
		if err != nil {
			return nil, fmt.Errorf("load crl %s: %w", file, err)
		}
		lists = append(lists, list)
	}
	if len(lists) == 0 {
		return nil, fmt.Errorf("load crl: no list in %s", file)
	}
	return lists, nil
}

// parseRevocations refuses what it would misunderstand: changes to another list, lists
// of other issuers' certificates or of some reasons only, and critical extensions that
// it does not know (RFC 5280, 5.2).
func parseRevocations(der []byte) (*revocations, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	r := &revocations{RevocationList: list}
	for _, e := range list.Extensions {
		switch {
		case e.Id.Equal(crlDelta):
			return nil, errors.New("it is a delta, of changes to another list: name a complete one")
		case e.Id.Equal(crlIssued):
			err = r.scope.read(e)
		case e.Critical && !e.Id.Equal(crlNumber):
			err = fmt.Errorf("critical extension %s is not known", e.Id)
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (s *crlScope) read(e pkix.Extension) error {
	rest, err := asn1.Unmarshal(e.Value, s)
	switch {
	case err != nil || len(rest) > 0:
		return errors.Join(errors.New("its issuing distribution point cannot be read"), err)
	case s.Indirect:
		return errors.New("it is of other issuers' certificates too: name a list for each issuer")
	case s.OnlySomeReasons.BitLength > 0:
		return errors.New("it has some reasons for a revocation only: name a complete list")
	}
	return nil
}
