package raftnode

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/test/address"
)

func leaf(t *testing.T, certPEM []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestPeerIs(t *testing.T) {
	ca, err := GenerateCA("fleet", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := ca.Issue("node-1", time.Hour, "node-1.example.org", "10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	ctx := withPeer(t.Context(), leaf(t, cert))
	for id, want := range map[string]bool{"node-1": true, "node-1.example.org": true, "node-2": false, "": false} {
		if got := PeerIs(ctx, id); got != want {
			t.Errorf("PeerIs(%q) = %v, want %v", id, got, want)
		}
	}
	if PeerIs(t.Context(), "node-1") {
		t.Error("a request without a certificate was taken for node-1's")
	}
}

func TestNodeNeedsItsOwnCertificate(t *testing.T) {
	g := newGroup(t, NewMemoryNetwork())
	c := g.config("a", "", nil)
	c.Credentials = g.credentials("b")
	if _, err := g.open(c); err == nil || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("got %v, want that the certificate does not name a", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	g := newGroup(t, nil)
	a := g.start(g.config("a", "", nil))
	g.apply(a, "one")
	stranger := newGroup(t, nil)
	cert, key, err := stranger.ca.Issue("a", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	member := g.credentials("b").client("127.0.0.1", protoRaft)
	for name, conf := range map[string]*tls.Config{
		"no certificate":     {InsecureSkipVerify: true, NextProtos: []string{protoRaft}},
		"other authority":    {InsecureSkipVerify: true, NextProtos: []string{protoRaft}, Certificates: []tls.Certificate{pair}},
		"no protocol":        {RootCAs: member.RootCAs, ServerName: "127.0.0.1", Certificates: member.Certificates},
		"another protocol":   {RootCAs: member.RootCAs, ServerName: "127.0.0.1", Certificates: member.Certificates, NextProtos: []string{"h2"}},
		"older TLS versions": {InsecureSkipVerify: true, NextProtos: []string{protoRaft}, Certificates: member.Certificates, MaxVersion: tls.VersionTLS12},
	} {
		t.Run(name, func(t *testing.T) {
			d := tls.Dialer{Config: conf}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			conn, err := d.DialContext(ctx, "tcp", a.Addr())
			if err != nil {
				return
			}
			defer conn.Close()
			// TLS 1.3 tells the client with its first read.
			if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection stays open: read %d, %v", n, err)
			}
		})
	}
	t.Run("joining in another's name", func(t *testing.T) {
		b := g.start(g.config("b", "", a))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, _, err := b.post(ctx, a.Addr(), "join", []byte(`{"id":"c","place":"`+address.Reserve(t)+`#`+b.diskNow().id+`"}`))
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), `does not fit "c"`) {
			t.Errorf("got %v, want ErrRefused", err)
		}
	})
	g.apply(a, "two")
}

func TestCredentialsFollowTheirFiles(t *testing.T) {
	ca, err := GenerateCA("fleet", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := [3]string{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	age := time.Now().Add(-time.Hour)
	write := func(contents ...[]byte) {
		t.Helper()
		age = age.Add(time.Minute)
		for i, b := range contents {
			if b == nil {
				continue
			}
			if err := os.WriteFile(files[i], b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(files[i], age, age); err != nil {
				t.Fatal(err)
			}
		}
	}
	issue := func(id string) (cert, key []byte) {
		t.Helper()
		cert, key, err := ca.Issue(id, 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	cert, key := issue("a")
	write(ca.CertPEM, cert, key)
	c, err := LoadCredentials(files[0], files[1], files[2])
	if err != nil {
		t.Fatal(err)
	}
	// The clock of the files is real, that of the handshakes is not.
	synctest.Test(t, func(t *testing.T) {
		c.checked = time.Now()
		expect := func(when, id string, failing bool) {
			t.Helper()
			time.Sleep(recheck)
			if err := c.CheckIdentity(id); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			if got := c.Err() != nil; got != failing {
				t.Errorf("%s: Err() = %v", when, c.Err())
			}
		}
		expect("at first", "a", false)
		cert, key := issue("b")
		write(nil, cert, nil)
		expect("with a key that does not fit yet", "a", true)
		write(nil, nil, key)
		expect("when both have been replaced", "b", false)
	})
}
