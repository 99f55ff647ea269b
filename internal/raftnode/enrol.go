package raftnode

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"slices"
	"time"
)

// A node without a certificate asks for one with a token:
//
//	POST /enrol {token, secret, id, disk, request} -> {certificate, authority, key}
//
// over TLS in a protocol of its own ("waybill-enrol"), in which only the member
// shows a certificate; the token says of which authority. 403 is a refusal, 421
// names members to ask instead, 503 is worth another try.

// enrolRequest is what a stranger sends. It is all that he may send.
type enrolRequest struct {
	Token  string `json:"token"`  // id
	Secret []byte `json:"secret"` // of the token
	ID     string `json:"id"`     // the node's name
	Disk   string `json:"disk"`
	// Request is a PKCS #10 certificate request: it shows that the node has the key.
	Request []byte `json:"request"`
}

// enrolAnswer is what he gets: DER, and the authority's key in PKCS #8 unless the
// node is to be a worker.
type enrolAnswer struct {
	Certificate []byte `json:"certificate"`
	Authority   []byte `json:"authority"`
	Key         []byte `json:"key,omitempty"`
	// Worker says that the token was for one.
	Worker bool `json:"worker,omitempty"`
}

const maxEnrol = 8 << 10

// Admission is a stranger's request to become a member.
type Admission struct {
	Token        string // id of a token
	SecretDigest string // of the secret that was shown
	ID, Disk     string // of the node that showed it
	Remote       string // host that it called from
}

// Enrolled reports whether the node has a certificate.
func (n *Node) Enrolled() bool { return n.token == (Token{}) || n.identity.Load() != nil }

// Enrol gets the node a certificate, if it needs one: it asks the addresses in
// Config.Join until one of them answers or ctx ends. ErrRefused says that the token
// is of no use.
func (n *Node) Enrol(ctx context.Context) error {
	if n.Enrolled() {
		return nil
	}
	warned := ""
	for {
		err := n.tryEnrol(ctx)
		switch {
		case err == nil, errors.Is(err, ErrRefused):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("join the fleet: %w", err)
		case err.Error() != warned:
			warned = err.Error()
			n.log.Warn("ask for a certificate; trying again", "error", err)
		}
		select {
		case <-time.After(joinDelay):
		case <-ctx.Done():
			return fmt.Errorf("join the fleet: %w", err)
		}
	}
}

func (n *Node) tryEnrol(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generate key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: n.cfg.ID}}, key)
	if err != nil {
		return fmt.Errorf("make certificate request: %w", err)
	}
	d := n.diskNow()
	body, err := json.Marshal(enrolRequest{Token: n.token.ID, Secret: n.token.Secret[:], ID: n.cfg.ID, Disk: d.id, Request: csr})
	if err != nil {
		return err
	}
	var errs []error
	ask, asked := slices.Clone(n.cfg.Join), map[string]bool{n.Addr(): true}
	for len(ask) > 0 {
		addr := ask[0]
		ask = ask[1:]
		if asked[addr] {
			continue
		}
		asked[addr] = true
		answer, others, err := n.enrolAt(ctx, addr, body)
		if err == nil {
			return n.enrolled(answer, key)
		}
		if errors.Is(err, ErrRefused) {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
		ask = append(ask, others...)
	}
	return errors.Join(errs...)
}

// enrolled takes what a member has answered.
func (n *Node) enrolled(a enrolAnswer, key *ecdsa.PrivateKey) error {
	i := &identity{key: key}
	var err error
	if i.cert, err = x509.ParseCertificate(a.Certificate); err != nil {
		return fmt.Errorf("certificate in answer: %w", err)
	}
	if i.authority, err = x509.ParseCertificate(a.Authority); err != nil {
		return fmt.Errorf("authority in answer: %w", err)
	}
	if sha256.Sum256(i.authority.Raw) != n.token.Authority {
		return errors.New("the authority in the answer is not that of the token")
	}
	if len(a.Key) > 0 {
		if i.signer, err = parseKey(a.Key); err != nil {
			return fmt.Errorf("authority's key in answer: %w", err)
		}
	}
	if err := i.check(n.cfg.ID, n.diskNow().id); err != nil {
		return fmt.Errorf("identity in answer: %w", err)
	}
	if err := n.setGroup(n.token.Group); err != nil {
		return err
	}
	if err := i.save(n.cfg.Dir); err != nil {
		return err
	}
	n.log.Info("the fleet has given this node a certificate", "until", i.cert.NotAfter)
	return n.adopt(i)
}

// enrolAt asks one member.
func (n *Node) enrolAt(ctx context.Context, addr string, body []byte) (a enrolAnswer, others []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			raw, err := n.cfg.Network.Dial(ctx, addr)
			if err != nil {
				return nil, err
			}
			secure := tls.Client(raw, pinned(n.token.Authority))
			if err := secure.HandshakeContext(ctx); err != nil {
				return nil, errors.Join(err, raw.Close())
			}
			return plainConn{secure}, nil
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+"/enrol", bytes.NewReader(body))
	if err != nil {
		return a, nil, err
	}
	resp, err := client.Do(req)
	if errors.Is(err, errOtherAuthority) {
		return a, nil, fmt.Errorf("%w: %s belongs to another fleet than the token", ErrRefused, addr)
	}
	if err != nil {
		return a, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 2*maxEnrol))
	if err != nil {
		return a, nil, fmt.Errorf("read answer: %w", err)
	}
	text := bytes.TrimSpace(b[:min(len(b), 512)])
	switch resp.StatusCode {
	case http.StatusOK:
		return a, nil, json.Unmarshal(b, &a)
	case http.StatusMisdirectedRequest:
		if err := json.Unmarshal(b, &others); err != nil {
			return a, nil, fmt.Errorf("answer: %w", err)
		}
		return a, others, errors.New("it has not the authority's key: asking others")
	case http.StatusForbidden:
		return a, nil, fmt.Errorf("%w: %s", ErrRefused, bytes.TrimPrefix(text, []byte(ErrRefused.Error()+": ")))
	}
	return a, nil, fmt.Errorf("%s: %s", resp.Status, text)
}

// plainConn hides that it is a *tls.Conn from net/http, which would refuse a
// protocol it does not know.
type plainConn struct{ net.Conn }

var errOtherAuthority = errors.New("the certificate is not of the token's authority")

// pinned trusts one authority, known by the digest of its certificate.
func pinned(authority [sha256.Size]byte) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{protoEnrol},
		InsecureSkipVerify: true, // VerifyConnection does it, without a host name
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, c := range s.PeerCertificates {
				if sha256.Sum256(c.Raw) == authority && c.IsCA {
					return verifyChain(s.PeerCertificates[0], c, x509.ExtKeyUsageServerAuth)
				}
			}
			return errOtherAuthority
		},
	}
}

func verifyChain(cert, authority *x509.Certificate, usage x509.ExtKeyUsage) error {
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// enrolTimeout bounds the whole of one request: it waits for a commit.
const enrolTimeout = 10 * time.Second

// newEnrolServer serves strangers. The port bounds how many at once.
func (n *Node) newEnrolServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /enrol", n.serveEnrol)
	s := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 2 * time.Second,
		ReadTimeout:       3 * time.Second,
		WriteTimeout:      enrolTimeout + 2*time.Second,
		MaxHeaderBytes:    4 << 10,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug), // what strangers do wrong
	}
	s.SetKeepAlivesEnabled(false)
	return s
}

func (n *Node) serveEnrol(w http.ResponseWriter, req *http.Request) {
	er, key, err := decodeEnrol(http.MaxBytesReader(w, req.Body, maxEnrol))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	i := n.identity.Load()
	if i == nil || n.cfg.Admit == nil {
		http.Error(w, "this fleet takes no tokens", http.StatusForbidden)
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), enrolTimeout)
	defer cancel()
	admission := Admission{Token: er.Token, SecretDigest: secretDigest(er.Secret), ID: er.ID, Disk: er.Disk, Remote: remoteHost(req)}
	if i.signer == nil { // others have the key; they will look at the token
		writeJSON(w, http.StatusMisdirectedRequest, n.voterAddresses())
		return
	}
	worker, err := n.cfg.Admit(ctx, admission)
	switch {
	case errors.Is(err, ErrRefused):
		n.log.Warn("join token refused", "name", er.ID, "remote", req.RemoteAddr, "error", err)
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	a := enrolAnswer{Authority: i.authority.Raw, Worker: worker}
	cert, err := i.issue(er.ID, er.Disk, worker, key)
	if err == nil {
		a.Certificate = cert.Raw
		if !worker {
			a.Key, err = x509.MarshalPKCS8PrivateKey(i.signer)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	n.log.Info("certificate issued", "name", er.ID, "disk", er.Disk, "worker", worker, "remote", req.RemoteAddr)
	writeJSON(w, http.StatusOK, a)
}

// tokenID is the form of a [Token.ID]. It goes into logs and the audit trail.
var tokenID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// decodeEnrol reads what a stranger has sent, and returns the key that he has shown
// to have.
func decodeEnrol(r io.Reader) (er enrolRequest, key any, err error) {
	if err := json.NewDecoder(r).Decode(&er); err != nil {
		return er, nil, fmt.Errorf("decode request: %w", err)
	}
	if !validID.MatchString(er.ID) {
		return er, nil, fmt.Errorf("%q is not the name of a node", er.ID)
	}
	if err := (place{addr: "x:1", disk: er.Disk}).check(); err != nil {
		return er, nil, fmt.Errorf("disk: %w", err)
	}
	if !tokenID.MatchString(er.Token) || len(er.Secret) != 16 {
		return er, nil, errors.New("token or secret have a wrong form")
	}
	csr, err := x509.ParseCertificateRequest(er.Request)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return er, nil, fmt.Errorf("certificate request: %w", err)
	}
	public, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() || csr.Subject.CommonName != er.ID {
		return er, nil, errors.New("the certificate request wants a P-256 key and the node's name")
	}
	return er, public, nil
}

// voterAddresses are where the authority's key is.
func (n *Node) voterAddresses() []string {
	addrs := []string{}
	for _, p := range members(n.raft.GetConfiguration().Configuration()) {
		if !p.worker && p.addr != n.Addr() {
			addrs = append(addrs, p.addr)
		}
	}
	return addrs
}
