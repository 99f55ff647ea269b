package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sasl"
	kgoscram "github.com/twmb/franz-go/pkg/sasl/scram"
)

// rawClient is a client whose messages are in the test's hands.
type rawClient struct {
	mechanism                   Mechanism
	salted                      Credential
	clientKey                   []byte
	gs2, user, nonce, extension string
}

func newRawClient(t testing.TB, a *Authenticator, user string) *rawClient {
	t.Helper()
	c, _ := a.lookup(ScramSHA256, user)
	h := hashOf(ScramSHA256)
	return &rawClient{
		mechanism: ScramSHA256, salted: c, clientKey: mac(h, saltedPassword(t, c, "geheim"), "Client Key"),
		gs2: "n,,", user: user, nonce: "rOprNGfwEbeRWgbNEkqO",
	}
}

func saltedPassword(t testing.TB, c Credential, password string) []byte {
	t.Helper()
	salted, err := pbkdf2.Key(sha256.New, password, c.Salt, c.Iterations, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	return salted
}

func (c *rawClient) first() string {
	return c.gs2 + "n=" + c.user + ",r=" + c.nonce + c.extension
}

// final signs whatever the caller says that the nonce and the channel are.
func (c *rawClient) final(serverFirst, binding, nonce string) string {
	without := "c=" + binding + ",r=" + nonce
	message := strings.TrimPrefix(c.first(), c.gs2) + "," + serverFirst + "," + without
	proof := mac(hashOf(c.mechanism), c.salted.StoredKey, message)
	for i := range proof {
		proof[i] ^= c.clientKey[i]
	}
	return without + ",p=" + base64.StdEncoding.EncodeToString(proof)
}

func TestScramFinalNonce(t *testing.T) {
	a := newTestAuth(t)
	earlier := ""
	for _, c := range []struct {
		name  string
		nonce func(client, whole string) string
		ok    bool
	}{
		{"as sent", func(_, whole string) string { earlier = whole; return whole }, true},
		{"client's part twice, as librdkafka before 2.6.1", func(client, whole string) string { return client + whole }, true},
		{"of an earlier exchange", func(string, string) string { return earlier }, false},
		{"of an earlier exchange, doubled", func(client, _ string) string { return client + earlier }, false},
		{"client's alone", func(client, _ string) string { return client }, false},
		{"client's alone, doubled", func(client, _ string) string { return client + client }, false},
		{"last byte cut", func(_, whole string) string { return whole[:len(whole)-1] }, false},
		{"first byte cut", func(_, whole string) string { return whole[1:] }, false},
		{"a byte more", func(_, whole string) string { return whole + "x" }, false},
		{"another beginning", func(_, whole string) string { return "x" + whole }, false},
		{"server's part only", func(client, whole string) string { return strings.TrimPrefix(whole, client) }, false},
		{"server's part of another after the client's", func(client, whole string) string { return client + whole[1:] }, false},
		{"other case", func(_, whole string) string { return swapCase(whole) }, false},
		{"empty", func(string, string) string { return "" }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := newRawClient(t, a, "alice")
			s, _ := a.Start(ScramSHA256, "10.0.0.1")
			serverFirst, done, err := s.Step([]byte(client.first()))
			if err != nil || done {
				t.Fatal(done, err)
			}
			whole, _, _ := strings.Cut(strings.TrimPrefix(string(serverFirst), "r="), ",")
			final := client.final(string(serverFirst), "biws", c.nonce(client.nonce, whole))
			reply, done, err := s.Step([]byte(final))
			if done != c.ok || (err == nil) != c.ok || (s.User() == "alice") != c.ok {
				t.Fatalf("done %v, user %q, %v", done, s.User(), err)
			}
			if !c.ok {
				if !errors.Is(err, ErrFailed) || reply != nil {
					t.Errorf("got %q, %v, want ErrFailed and nothing", reply, err)
				}
				return
			}
			message := strings.TrimPrefix(client.first(), "n,,") + "," + string(serverFirst) + "," + final[:strings.LastIndexByte(final, ',')]
			want := "v=" + base64.StdEncoding.EncodeToString(mac(hashOf(ScramSHA256), client.salted.ServerKey, message))
			if !hmac.Equal(reply, []byte(want)) {
				t.Errorf("got %q, want %q", reply, want)
			}
			if _, _, err := s.Step([]byte(final)); !errors.Is(err, ErrFailed) {
				t.Errorf("the same message again: %v", err)
			}
		})
	}
}

func swapCase(s string) string {
	if up := strings.ToUpper(s); up != s {
		return up
	}
	return strings.ToLower(s)
}

// A whole exchange that somebody listened to is worth nothing.
func TestScramReplay(t *testing.T) {
	a := newTestAuth(t)
	client := newRawClient(t, a, "alice")
	s, _ := a.Start(ScramSHA256, "10.0.0.1")
	serverFirst, _, err := s.Step([]byte(client.first()))
	if err != nil {
		t.Fatal(err)
	}
	whole, _, _ := strings.Cut(strings.TrimPrefix(string(serverFirst), "r="), ",")
	for _, nonce := range []string{whole, client.nonce + whole} {
		final := client.final(string(serverFirst), "biws", nonce)
		again, _ := a.Start(ScramSHA256, "10.0.0.1")
		if _, _, err := again.Step([]byte(client.first())); err != nil {
			t.Fatal(err)
		}
		if _, done, err := again.Step([]byte(final)); done || !errors.Is(err, ErrFailed) || again.User() != "" {
			t.Errorf("replayed: done %v, user %q, %v", done, again.User(), err)
		}
	}
}

func TestScramNothingFollowsAnError(t *testing.T) {
	a := newTestAuth(t)
	client := newRawClient(t, a, "alice")
	s, _ := a.Start(ScramSHA256, "10.0.0.1")
	serverFirst, _, err := s.Step([]byte(client.first()))
	if err != nil {
		t.Fatal(err)
	}
	whole, _, _ := strings.Cut(strings.TrimPrefix(string(serverFirst), "r="), ",")
	final := client.final(string(serverFirst), "biws", whole)
	for _, token := range []string{"nonsense", final, client.first(), final} {
		if _, done, err := s.Step([]byte(token)); done || !errors.Is(err, ErrFailed) || s.User() != "" {
			t.Errorf("%q: done %v, user %q, %v", token, done, s.User(), err)
		}
	}
	late, _ := a.Start(ScramSHA256, "10.0.0.1")
	if _, _, err := late.Step([]byte("n,,n=")); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	if _, _, err := late.Step([]byte(client.first())); !errors.Is(err, ErrFailed) {
		t.Errorf("a first message after a refused one: %v", err)
	}
}

func TestScramServerNonces(t *testing.T) {
	a := newTestAuth(t)
	seen := map[string]bool{}
	for range 100 {
		s, _ := a.Start(ScramSHA512, "10.0.0.1")
		reply, _, err := s.Step([]byte("n,,n=alice,r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		nonce, _, _ := strings.Cut(strings.TrimPrefix(string(reply), "r=abc"), ",")
		random, err := base64.StdEncoding.DecodeString(nonce)
		if err != nil || len(random) < 18 || seen[nonce] {
			t.Fatalf("nonce %q: %v, seen %v", nonce, err, seen[nonce])
		}
		seen[nonce] = true
	}
}

func TestParseClientFirst(t *testing.T) {
	for _, c := range []struct {
		in   string
		want clientFirst
		ok   bool
	}{
		{"n,,n=user,r=abc", clientFirst{gs2Header: "n,,", bare: "n=user,r=abc", user: "user", nonce: "abc"}, true},
		{"n,a=user,n=user,r=abc", clientFirst{gs2Header: "n,a=user,", bare: "n=user,r=abc", authzID: "user", user: "user", nonce: "abc"}, true},
		{"n,,n=a=2Cb=3Dc=3D2C,r=abc", clientFirst{gs2Header: "n,,", bare: "n=a=2Cb=3Dc=3D2C,r=abc", user: "a,b=c=2C", nonce: "abc"}, true},
		{"n,,n=jürgen,r=abc", clientFirst{gs2Header: "n,,", bare: "n=jürgen,r=abc", user: "jürgen", nonce: "abc"}, true},
		{"n,,n=user,r=a=b", clientFirst{gs2Header: "n,,", bare: "n=user,r=a=b", user: "user", nonce: "a=b"}, true},
		{"n,,n=user,r=abc,tokenauth=true", clientFirst{gs2Header: "n,,", bare: "n=user,r=abc,tokenauth=true", user: "user", nonce: "abc"}, true},
		{in: ""},
		{in: "n,,"},
		{in: "n,,n=user"},
		{in: "y,,n=user,r=abc"},
		{in: "p=tls-unique,,n=user,r=abc"},
		{in: "p=tls-exporter,,n=user,r=abc"},
		{in: "n,user,n=user,r=abc"},
		{in: "n,a=,n=user,r=abc"},
		{in: "n,a=us=er,n=user,r=abc"},
		{in: "n,,m=x,n=user,r=abc"},
		{in: "n,,n=,r=abc"},
		{in: "n,,n=us=er,r=abc"},
		{in: "n,,n=us=2cer,r=abc"},
		{in: "n,,n=user=,r=abc"},
		{in: "n,,n=us\x00er,r=abc"},
		{in: "n,,n=us\xffer,r=abc"},
		{in: "n,,n=user,r="},
		{in: "n,,n=user,r=a c"},
		{in: "n,,n=user,r=ä"},
		{in: "n,,n=user,r=abc\n"},
		{in: "n,,r=abc,n=user"},
		{in: "n,,n=user,r=abc,"},
		{in: "n,,n=user,r=abc,x"},
		{in: "n,,n=user,r=abc,m=x"},
		{in: "n,,n=user,r=abc,x1=y"},
	} {
		got, err := parseClientFirst(c.in)
		if got != c.want || (err == nil) != c.ok || (err != nil && !errors.Is(err, errMalformed)) {
			t.Errorf("%q: got %+v, %v", c.in, got, err)
		}
	}
}

func TestParseClientFinal(t *testing.T) {
	for _, c := range []struct {
		in string
		ok bool
	}{
		{"c=biws,r=abc,p=AAAA", true},
		{"c=biws,r=abc,x=1,p=AAAA", true},
		{"", false},
		{"c=biws,r=abc", false},
		{"c=biws,p=AAAA", false},
		{"r=abc,c=biws,p=AAAA", false},
		{"c=biw,r=abc,p=AAAA", false},
		{"c=biws,r=,p=AAAA", false},
		{"c=biws,r=abc,p=AAA", false},
		{"c=biws,r=abc,p=AAB=", false}, // bits after the end
		{"c=biws,r=abc,p=AA\nAA", false},
		{"c=biws,r=abc,p=AAAA,x=1", false},
		{"c=biws,r=abc,m=1,p=AAAA", false},
		{"c=biws,r=abc,,p=AAAA", false},
		{"c=biws,r=abc,p=\xff", false},
	} {
		if got, err := parseClientFinal(c.in); (err == nil) != c.ok || (err != nil && !errors.Is(err, errMalformed)) {
			t.Errorf("%q: got %+v, %v", c.in, got, err)
		}
	}
}

func TestScramChannelBinding(t *testing.T) {
	a := newTestAuth(t)
	b64 := base64.StdEncoding.EncodeToString
	for _, c := range []struct {
		gs2, binding string
		ok           bool
	}{
		{"n,,", "biws", true},
		{"n,a=alice,", b64([]byte("n,a=alice,")), true},
		{"n,a=alice,", "biws", true}, // what franz-go sends
		{"n,,", b64([]byte("n,a=alice,")), false},
		{"n,,", b64([]byte("y,,")), false},
		{"n,,", b64([]byte("n,,more")), false},
		{"n,,", "", false},
	} {
		client := newRawClient(t, a, "alice")
		client.gs2 = c.gs2
		s, _ := a.Start(ScramSHA256, "10.0.0.1")
		serverFirst, _, err := s.Step([]byte(client.first()))
		if err != nil {
			t.Fatal(err)
		}
		whole, _, _ := strings.Cut(strings.TrimPrefix(string(serverFirst), "r="), ",")
		if _, done, err := s.Step([]byte(client.final(string(serverFirst), c.binding, whole))); done != c.ok {
			t.Errorf("%q then %q: done %v, %v", c.gs2, c.binding, done, err)
		}
	}
}

// A user of any name that Kafka allows meets both clients.
func TestScramNames(t *testing.T) {
	for _, name := range []string{"alice", "a,b", "a=b", "=2C", "=", "jürgen", "an e-mail@example.org", strings.Repeat("x", maxName)} {
		for _, m := range []Mechanism{ScramSHA256, ScramSHA512} {
			c, err := NewCredential(m, "pass,wörd=", DefaultIterations)
			if err != nil {
				t.Fatal(err)
			}
			a := New(users{string(m) + "/" + name: c}, []byte("k"), nil)
			same := func(s string) string { return s }
			if user, err := exchange(a, m, clientFor(t, m, name, "pass,wörd=", name), same); err != nil || user != name {
				t.Errorf("%s %q: got %q, %v", m, name, user, err)
			}
			for _, zid := range []string{"", name} {
				if user, err := exchangeFranz(a, m, kgoscram.Auth{User: name, Pass: "pass,wörd=", Zid: zid}); err != nil || user != name {
					t.Errorf("%s %q: franz-go: got %q, %v", m, name, user, err)
				}
			}
			if user, err := exchangeFranz(a, m, kgoscram.Auth{User: name, Pass: "password"}); !errors.Is(err, ErrFailed) || user != "" {
				t.Errorf("%s %q: wrong password: got %q, %v", m, name, user, err)
			}
		}
	}
}

// exchangeFranz runs a whole exchange with franz-go's client.
func exchangeFranz(a *Authenticator, m Mechanism, auth kgoscram.Auth) (string, error) {
	mechanism := map[Mechanism]func() sasl.Mechanism{
		ScramSHA256: auth.AsSha256Mechanism, ScramSHA512: auth.AsSha512Mechanism,
	}[m]()
	client, token, err := mechanism.Authenticate(context.Background(), "")
	if err != nil {
		return "", err
	}
	s, _ := a.Start(m, "10.0.0.1")
	for {
		reply, done, err := s.Step(token)
		if err != nil {
			return s.User(), err
		}
		clientDone, next, err := client.Challenge(reply)
		if err != nil || clientDone != done {
			return "", fmt.Errorf("client: done %v, server: done %v: %w", clientDone, done, err)
		}
		if done {
			return s.User(), nil
		}
		token = next
	}
}

func FuzzClientFirst(f *testing.F) {
	f.Add("n,,n=alice,r=abc")
	f.Add("n,a=a=2Cb,n=a=2Cb,r=abc,tokenauth=true")
	f.Add("p=tls-unique,,n=alice,r=abc")
	f.Fuzz(func(t *testing.T, in string) {
		a := New(users{}, []byte("k"), nil) // one that remembers no failures
		m, err := parseClientFirst(in)
		s, _ := a.Start(ScramSHA256, "10.0.0.1")
		reply, done, stepErr := s.Step([]byte(in))
		if done || s.User() != "" {
			t.Fatal("done after one step")
		}
		if err != nil {
			if m != (clientFirst{}) || stepErr == nil {
				t.Fatalf("got %+v and %v of a malformed message", m, stepErr)
			}
			return
		}
		if m.gs2Header+m.bare != in {
			t.Fatalf("%q is not %q and %q", in, m.gs2Header, m.bare)
		}
		escape := strings.NewReplacer("=", "=3D", ",", "=2C").Replace
		if !strings.HasPrefix(m.bare+",", "n="+escape(m.user)+",r="+m.nonce+",") {
			t.Fatalf("user %q, nonce %q of %q", m.user, m.nonce, m.bare)
		}
		if refused := m.authzID != "" && m.authzID != m.user; refused != (stepErr != nil) {
			t.Fatalf("authorisation id %q of user %q: %v", m.authzID, m.user, stepErr)
		}
		if stepErr == nil && !bytes.HasPrefix(reply, []byte("r="+m.nonce)) {
			t.Fatalf("answer %q to nonce %q", reply, m.nonce)
		}
	})
}

func FuzzClientFinal(f *testing.F) {
	c, err := NewCredential(ScramSHA256, "geheim", MinIterations)
	if err != nil {
		f.Fatal(err)
	}
	known := users{"SCRAM-SHA-256/alice": c}
	client := newRawClient(f, New(known, []byte("k"), nil), "alice")
	// NONCE stands for what the server has sent; the proof is of the right size.
	f.Add("c=biws,r=NONCE,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	f.Add("c=biws,r=rOprNGfwEbeRWgbNEkqONONCE,x=y,p=AAAA")
	f.Add("c=biws")
	f.Fuzz(func(t *testing.T, in string) {
		a := New(known, []byte("k"), nil) // one that remembers no failures
		s, _ := a.Start(ScramSHA256, "10.0.0.1")
		serverFirst, _, err := s.Step([]byte(client.first()))
		if err != nil {
			t.Fatal(err)
		}
		whole, _, _ := strings.Cut(strings.TrimPrefix(string(serverFirst), "r="), ",")
		in = strings.ReplaceAll(in, "NONCE", whole)
		if m, err := parseClientFinal(in); err == nil {
			if m.withoutProof+",p="+base64.StdEncoding.EncodeToString(m.proof) != in {
				t.Fatalf("%q is not %q and a proof", in, m.withoutProof)
			}
		}
		if reply, done, err := s.Step([]byte(in)); done || reply != nil || !errors.Is(err, ErrFailed) || s.User() != "" {
			t.Fatalf("authenticated by chance: %q, %v, %v", reply, done, err)
		}
	})
}
