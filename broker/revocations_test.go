package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAListThatIsNotAboutACertificateSaysNothingOfIt: a certificate that a list does not
// name is good only if the list would name it.
func TestAListThatIsNotAboutACertificateSaysNothingOfIt(t *testing.T) {
	ca := newAuthority(t, "clients")
	client := ca.issue(pkix.Name{CommonName: "alice"}, time.Hour)
	chains := [][]*x509.Certificate{{client.Leaf, ca.cert}}
	scope := func(s crlScope) pkix.Extension {
		value, err := asn1.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return pkix.Extension{Id: crlIssued, Critical: true, Value: value}
	}
	place := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: []byte{0xa0, 0}}
	file := filepath.Join(t.TempDir(), "crl")
	for _, c := range []struct {
		what    string
		ext     []pkix.Extension
		revoked bool
		load    string // what a fault says
		good    bool
	}{
		{what: "a complete list", good: true},
		{what: "a complete list that names it", revoked: true},
		{what: "of one place", ext: []pkix.Extension{scope(crlScope{DistributionPoint: place})}, good: true},
		{what: "of users", ext: []pkix.Extension{scope(crlScope{OnlyUsers: true})}, good: true},
		{what: "of users, one that names it", ext: []pkix.Extension{scope(crlScope{OnlyUsers: true})}, revoked: true},
		{what: "of authorities", ext: []pkix.Extension{scope(crlScope{OnlyAuthorities: true})}},
		{what: "of attribute certificates", ext: []pkix.Extension{scope(crlScope{OnlyAttributeCerts: true})}},
		{what: "of several issuers", ext: []pkix.Extension{scope(crlScope{Indirect: true})}, load: "other issuers"},
		{what: "of some reasons", ext: []pkix.Extension{scope(crlScope{OnlySomeReasons: asn1.BitString{Bytes: []byte{0x40}, BitLength: 2}})}, load: "reasons"},
		{what: "a delta", ext: []pkix.Extension{{Id: crlDelta, Critical: true, Value: []byte{2, 1, 1}}}, load: "delta"},
		{what: "of a scope that is none", ext: []pkix.Extension{{Id: crlIssued, Critical: true, Value: []byte{4, 1, 1}}}, load: "distribution point"},
		{what: "of a kind to come", ext: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}, load: "1.2.3"},
		{what: "with a remark", ext: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}, good: true},
	} {
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour), ExtraExtensions: c.ext}
		if c.revoked {
			list.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: client.Leaf.SerialNumber, RevocationTime: time.Now()}}
		}
		der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
		if err != nil {
			t.Fatal(err)
		}
		writeTo(t, file, der)
		lists, err := loadRevocations(file)
		if c.load != "" {
			if err == nil || !strings.Contains(err.Error(), c.load) {
				t.Errorf("%s: got %v, want a fault of %q", c.what, err, c.load)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if err := (&loadedTLS{revoked: lists}).checkRevocation(chains, time.Now()); (err == nil) != c.good {
			t.Errorf("%s: got %v, want it good: %v", c.what, err, c.good)
		}
	}
}

func FuzzParseRevocations(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "clients"}, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	for _, ext := range [][]pkix.Extension{nil, {{Id: crlIssued, Critical: true, Value: []byte{0x30, 3, 0x81, 1, 0xff}}}} {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), NextUpdate: time.Now(), ExtraExtensions: ext}, issuer, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(_ *testing.T, der []byte) {
		if r, err := parseRevocations(der); err == nil {
			r.scope.covers(issuer)
		}
	})
}
