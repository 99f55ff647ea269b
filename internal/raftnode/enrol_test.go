package raftnode

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// door admits the holders of tokens, once each.
type door struct {
	mu     sync.Mutex
	tokens map[string]bool // digests of secrets, and whether they are for workers
}

func (d *door) admit(_ context.Context, a Admission) (worker bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	worker, ok := d.tokens[a.SecretDigest]
	if !ok {
		return false, fmt.Errorf("%w: no such token", ErrRefused)
	}
	delete(d.tokens, a.SecretDigest)
	return worker, nil
}

func (d *door) issue(t *testing.T, n *testNode, worker bool) string {
	t.Helper()
	token, err := n.NewToken()
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tokens[token.SecretDigest()] = worker
	return token.String()
}

// ownGroup makes nodes of a group with an authority of its own.
func ownGroup(t *testing.T) (*group, *door) {
	g, d := newGroup(t, NewMemoryNetwork()), &door{tokens: map[string]bool{}}
	g.edit = func(c *Config) { c.Credentials, c.Admit = nil, d.admit }
	return g, d
}

func (g *group) withToken(id, dir string, first *testNode, token string) Config {
	c := g.config(id, dir, first)
	c.Token = token
	return c
}

func TestJoinByToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, d := ownGroup(t)
		dirs := map[string]string{"a": t.TempDir(), "b": t.TempDir(), "c": t.TempDir(), "w": t.TempDir()}
		a := g.start(g.config("a", dirs["a"], nil))
		g.apply(a, "one")
		b := g.start(g.withToken("b", dirs["b"], a, d.issue(t, a, false)))
		g.await("b to vote", func() bool { return g.voters(a) == 2 })
		// Any voter lets others in, a worker sends them on.
		w := g.start(g.withToken("w", dirs["w"], b, d.issue(t, b, true)))
		g.await("the worker", func() bool { return g.roles(a)["w"] == Worker })
		c := g.start(g.withToken("c", dirs["c"], w, d.issue(t, w, false)))
		nodes := []*testNode{a, b, c, w}
		g.await("c to vote", func() bool { return g.voters(nodes...) == 3 })
		for i, n := range nodes {
			g.apply(n, fmt.Sprint("from ", i))
			if n.Group() != a.Group() {
				t.Errorf("%s belongs to group %q, a to %q", n.ID(), n.Group(), a.Group())
			}
		}
		for id, dir := range dirs {
			b, err := os.ReadFile(filepath.Join(dir, identityFile))
			if err != nil {
				t.Fatal(err)
			}
			if has := bytes.Contains(b, []byte(blockAuthority)); has != (id != "w") {
				t.Errorf("%s has the authority's key: %v", id, has)
			}
			if info, err := os.Stat(filepath.Join(dir, identityFile)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("identity of %s has the mode %v (%v)", id, info.Mode(), err)
			}
		}
		// They come back without a token.
		for _, n := range []*testNode{w, b} {
			if err := n.end(); err != nil {
				t.Fatal(err)
			}
			again := g.start(g.withToken(n.ID(), dirs[n.ID()], a, ""))
			g.apply(again, "again "+n.ID())
		}
	})
}

func TestTokensThatAreOfNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, d := ownGroup(t)
		a := g.start(g.config("a", "", nil))
		g.apply(a, "one")
		g.net.Host("z")
		z := g.start(g.config("z", "", nil)) // another fleet
		used := d.issue(t, a, false)
		b := g.start(g.withToken("b", "", a, used))
		g.await("b to vote", func() bool { return g.voters(a, b) == 2 })
		unknown, err := a.NewToken()
		if err != nil {
			t.Fatal(err)
		}
		foreign := d.issue(t, z, false)
		before := a.Status().LastIndex
		for name, c := range map[string]struct{ token, want string }{
			"used":           {used, "no such token"},
			"never issued":   {unknown.String(), "no such token"},
			"of another one": {foreign, "belongs to another fleet"},
		} {
			n := g.start(g.withToken("c", "", a, c.token))
			<-n.done
			if !errors.Is(n.err, ErrRefused) || !strings.Contains(n.err.Error(), c.want) {
				t.Errorf("%s: Run ended with %v, want ErrRefused with %q", name, n.err, c.want)
			}
		}
		other := "A"
		if used[60:61] == other {
			other = "B"
		}
		for name, token := range map[string]string{"cut": used[:50], "changed": used[:60] + other + used[61:], "something else": "hunter2"} {
			if _, err := g.open(g.withToken("c", "", a, token)); err == nil || !strings.Contains(err.Error(), "token") {
				t.Errorf("%s: Open returned %v", name, err)
			}
		}
		if got := g.roles(a); len(got) != 2 || a.Status().LastIndex != before {
			t.Errorf("members %v, log at %d, was %d: refusals left something", got, a.Status().LastIndex, before)
		}
	})
}

// A certificate of the group's own authority is bound to its disk.
func TestIdentityOfAnotherDiskIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := ownGroup(t)
		dir := t.TempDir()
		a := g.start(g.config("a", dir, nil))
		g.apply(a, "one")
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(filepath.Join(dir, logFile)), os.RemoveAll(filepath.Join(dir, "snapshots"))); err != nil {
			t.Fatal(err)
		}
		if _, err := g.open(g.config("a", dir, nil)); err == nil || !strings.Contains(err.Error(), "bound to another disk") {
			t.Errorf("without its log: got %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g, _ := ownGroup(t)
		dir := t.TempDir()
		a := g.start(g.config("a", dir, nil))
		g.apply(a, "one")
		if err := errors.Join(a.end(), os.Remove(filepath.Join(dir, identityFile))); err != nil {
			t.Fatal(err)
		}
		if _, err := g.open(g.config("a", dir, nil)); err == nil || !strings.Contains(err.Error(), "is missing") {
			t.Errorf("without its identity: got %v", err)
		}
	})
}

func TestCertificatesAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, d := ownGroup(t)
		a := g.start(g.config("a", "", nil))
		g.apply(a, "one")
		w := g.start(g.withToken("w", "", a, d.issue(t, a, true)))
		g.await("the worker", func() bool { return g.roles(a)["w"] == Worker })
		for _, n := range []*testNode{a, w} {
			old, now := n.identity.Load(), time.Now()
			if old.expiring(now) || old.expiring(now.Add(issuedValidFor*2/3-time.Hour)) || !old.expiring(now.Add(issuedValidFor*2/3+time.Hour)) {
				t.Errorf("%s wants another certificate too soon or too late", n.ID())
			}
			aged, cert := *old, *old.cert
			cert.NotAfter = now.Add(time.Hour)
			aged.cert = &cert
			if err := n.renew(t.Context(), &aged); err != nil {
				t.Fatal(err)
			}
			got := n.identity.Load()
			if got.expiring(now) || got.cert.SerialNumber.Cmp(old.cert.SerialNumber) == 0 || isWorker(got.cert) != (n == w) || (got.signer == nil) != (n == w) {
				t.Errorf("%s renewed %v to %v", n.ID(), old.cert.Subject, got.cert.Subject)
			}
			g.apply(n, "renewed "+n.ID())
		}
	})
}

// A node may have its own address in Join, so that all nodes have the same list. It
// cannot answer itself before it has a certificate.
func TestNodeAsksNotItselfToBeEnrolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, d := ownGroup(t)
		a := g.start(g.config("a", "", nil))
		g.apply(a, "one")
		conf := g.withToken("b", "", a, d.issue(t, a, false))
		conf.Join = []string{conf.Listen, a.Addr()}
		began := time.Now()
		b := g.start(conf)
		g.await("a certificate", b.Enrolled)
		if took := time.Since(began); took >= enrolTimeout { // of the synthetic clock
			t.Errorf("it took %s: the node has waited for its own answer", took)
		}
	})
}

// A member that takes a request and never answers does not hold up who asks: the
// steward, or the renewal of a certificate that others could sign too.
func TestSilentMemberIsNotWaitedFor(t *testing.T) {
	g := newGroup(t, nil)
	g.edit = func(c *Config) { c.RPCTimeout = 100 * time.Millisecond }
	a := g.start(g.config("a", "", nil))
	g.apply(a, "one")
	a.replica.marks.mu.Lock() // its digests are not had
	defer a.replica.marks.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, _, err := a.post(ctx, a.Addr(), "digests", nil); !errors.Is(err, ErrUnclear) || ctx.Err() != nil {
		t.Errorf("got %v (%v), want ErrUnclear before the caller's time is up", err, ctx.Err())
	}
}

func TestWorkerCannotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, d := ownGroup(t)
		a := g.start(g.config("a", "", nil))
		g.apply(a, "one")
		w := g.start(g.withToken("w", "", a, d.issue(t, a, true)))
		g.await("the worker", func() bool { return g.roles(a)["w"] == Worker })
		request := memberRequest{ID: "w", Place: place{addr: w.Addr(), disk: w.diskNow().id}.String(), Group: w.Group()}
		body, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.post(t.Context(), a.Addr(), "join", body); !errors.Is(err, ErrRefused) {
			t.Errorf("a worker asks for a vote: got %v, want ErrRefused", err)
		}
		if got := g.roles(a)["w"]; got != Worker {
			t.Errorf("it is a %s now", got)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	t := Token{Group: strings.Repeat("0a", 16), ID: strings.Repeat("1b", 8)}
	f.Add(t.String())
	f.Add(" " + t.String()[:60] + "\n")
	f.Add(tokenPrefix)
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err == nil && token.String() != strings.TrimSpace(s) {
			t.Fatalf("%q was read as %q", s, token)
		}
	})
}

func FuzzDecodeEnrol(f *testing.F) {
	f.Add([]byte(`{"token":"0011223344556677","secret":"AAECAwQFBgcICQoLDA0ODw==","id":"b","disk":"0011223344556677","request":"MA=="}`))
	f.Add([]byte(`{"id":"B"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if er, key, err := decodeEnrol(bytes.NewReader(b)); err == nil && (key == nil || !validID.MatchString(er.ID) || !tokenID.MatchString(er.Token)) {
			t.Fatalf("took %+v", er)
		}
	})
}

// The id of a token gets into logs and the audit trail, whoever wrote it.
func TestDecodeEnrolTakesNoTextForAToken(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "b"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]bool{"0011223344556677": true, "\x1b[2J\x1b[H123456789": false, "00112233445566": false, "001122334455667G": false} {
		b, err := json.Marshal(enrolRequest{Token: token, Secret: make([]byte, 16), ID: "b", Disk: "0011223344556677", Request: csr})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := decodeEnrol(bytes.NewReader(b)); (err == nil) != want {
			t.Errorf("token %q: got %v", token, err)
		}
	}
}

func FuzzDecodeIdentity(f *testing.F) {
	i, err := newAuthority(strings.Repeat("a", 32), "a", "0011223344556677")
	if err != nil {
		f.Fatal(err)
	}
	b, err := i.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if i, err := decodeIdentity(b); err == nil {
			_ = i.check("a", "0011223344556677") // must return
		}
	})
}

// What strangers do on the port harms nobody: they cannot get past the handshake,
// or past the one question that they may ask.
func TestStrangersOnThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, d := ownGroup(t)
		a := g.start(g.config("a", "", nil))
		g.apply(a, "one")
		host := g.net.Host("stranger")
		token, err := ParseToken(d.issue(t, a, false))
		if err != nil {
			t.Fatal(err)
		}
		before := a.Status()
		// Silent ones, more than there is room for, and garbage.
		for i := range 3 * maxHandshakes {
			c, err := host.Dial(t.Context(), a.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if i%3 == 0 {
				go func() { _, _ = c.Write(bytes.Repeat([]byte{0x16, 3, 1, 0xff, 0xff, 'x'}, 1000)) }()
			}
		}
		// Those who may ask, but send slowly, too much, or nonsense.
		for _, body := range []io.Reader{
			strings.NewReader("{"), bytes.NewReader(make([]byte, 1<<20)), slow{}, strings.NewReader(`{"id":"c"}`),
		} {
			if code := g.enrolBy(host, a, token, body); code == 200 {
				t.Errorf("a stranger was answered %d", code)
			}
		}
		if now := a.Status(); now.Term != before.Term || now.LastIndex != before.LastIndex || len(g.roles(a)) != 1 {
			t.Errorf("%+v with members %v, was %+v: strangers left something", now, g.roles(a), before)
		}
		b := g.start(g.withToken("b", "", a, token.String()))
		g.await("an honest node", func() bool { return g.voters(a, b) == 2 })
		g.apply(b, "two")
		time.Sleep(10 * time.Second) // the slow one notices that nobody listens
	})
}
