package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// signers are the keys of an identity provider of the tests, by id.
type signers map[string]crypto.Signer

func newSigners(t testing.TB) signers {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signers{"rsa": rsaKey, "ec": ecKey, "ed": edKey}
}

// jwks is what a provider publishes, with more keys that are of no use.
func (s signers) jwks(t testing.TB, more ...string) []byte {
	t.Helper()
	keys := []json.RawMessage{}
	for id, key := range s {
		b, err := (&jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig"}).MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, b)
	}
	for _, one := range more {
		keys = append(keys, json.RawMessage(one))
	}
	b, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s signers) file(t testing.TB, more ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(name, s.jwks(t, more...), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, id string, claims map[string]any) string {
	t.Helper()
	opts := &jose.SignerOptions{}
	if id != "" {
		opts = opts.WithHeader("kid", id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// goodClaims is a token's body as a provider makes it; change may spoil it.
func goodClaims(change map[string]any) map[string]any {
	now := time.Now()
	claims := map[string]any{
		"iss": "https://login.example", "aud": []string{"kafka", "other"}, "sub": "alice", "scope": "kafka:write kafka:read",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for k, v := range change {
		if v == nil {
			delete(claims, k)
			continue
		}
		claims[k] = v
	}
	return claims
}

func unsecured(t testing.TB, header string, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(body) + "."
}

func newTokens(t testing.TB, change func(*TokenConfig)) *Tokens {
	t.Helper()
	cfg := DefaultTokenConfig()
	cfg.Issuer, cfg.Audiences, cfg.RequiredScopes = "https://login.example", []string{"kafka"}, []string{"kafka:write"}
	change(&cfg)
	tokens, warning, err := NewTokens(context.Background(), cfg)
	if err != nil || warning != nil {
		t.Fatal(err, warning)
	}
	return tokens
}

// TestTokens is every way in which a token can be wrong: the validator that took
// any of them is CVE-2026-33557.
func TestTokens(t *testing.T) {
	keys := newSigners(t)
	stranger := newSigners(t)
	tokens := newTokens(t, func(c *TokenConfig) { c.JWKSFile = keys.file(t) })
	rs := func(change map[string]any) string { return sign(t, jose.RS256, keys["rsa"], "rsa", goodClaims(change)) }
	now := time.Now()
	public := x509.MarshalPKCS1PublicKey(keys["rsa"].Public().(*rsa.PublicKey))
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: public})
	good := rs(nil)
	parts := strings.Split(good, ".")
	forged, err := json.Marshal(goodClaims(map[string]any{"sub": "admin"}))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		token string
		user  string // "" is a refusal
	}{
		"RS256":                         {good, "alice"},
		"PS384":                         {sign(t, jose.PS384, keys["rsa"], "rsa", goodClaims(nil)), "alice"},
		"ES256":                         {sign(t, jose.ES256, keys["ec"], "ec", goodClaims(nil)), "alice"},
		"EdDSA":                         {sign(t, jose.EdDSA, keys["ed"], "ed", goodClaims(nil)), "alice"},
		"one audience, as a string":     {rs(map[string]any{"aud": "kafka"}), "alice"},
		"scopes as a list":              {rs(map[string]any{"scope": []string{"kafka:write"}}), "alice"},
		"expired within the skew":       {rs(map[string]any{"iat": now.Add(-time.Hour).Unix(), "exp": now.Add(-10 * time.Second).Unix()}), "alice"},
		"nobody signed it":              {unsecured(t, `{"alg":"none"}`, goodClaims(nil)), ""},
		"nobody signed it, in capitals": {unsecured(t, `{"alg":"NONE"}`, goodClaims(nil)), ""},
		"signature cut off":             {parts[0] + "." + parts[1] + ".", ""},
		"another's claims":              {parts[0] + "." + base64.RawURLEncoding.EncodeToString(forged) + "." + parts[2], ""},
		"HMAC with the public key":      {sign(t, jose.HS256, publicPEM, "rsa", goodClaims(nil)), ""},
		"a stranger's key":              {sign(t, jose.RS256, stranger["rsa"], "rsa", goodClaims(nil)), ""},
		"a key that nobody knows":       {sign(t, jose.RS256, keys["rsa"], "new", goodClaims(nil)), ""},
		"no key named, of three":        {sign(t, jose.RS256, keys["rsa"], "", goodClaims(nil)), ""},
		"another algorithm's key":       {sign(t, jose.ES256, keys["ec"], "rsa", goodClaims(nil)), ""},
		"another issuer":                {rs(map[string]any{"iss": "https://evil.example"}), ""},
		"no issuer":                     {rs(map[string]any{"iss": nil}), ""},
		"another audience":              {rs(map[string]any{"aud": "other"}), ""},
		"no audience":                   {rs(map[string]any{"aud": nil}), ""},
		"expired":                       {rs(map[string]any{"iat": now.Add(-time.Hour).Unix(), "exp": now.Add(-time.Minute).Unix()}), ""},
		"no end":                        {rs(map[string]any{"exp": nil}), ""},
		"not yet valid":                 {rs(map[string]any{"nbf": now.Add(time.Minute).Unix()}), ""},
		"issued in the future":          {rs(map[string]any{"iat": now.Add(time.Minute).Unix()}), ""},
		"issued at no time":             {rs(map[string]any{"iat": nil}), ""},
		"ends before it begins":         {rs(map[string]any{"exp": now.Unix(), "iat": now.Add(10 * time.Second).Unix()}), ""},
		"no subject":                    {rs(map[string]any{"sub": nil}), ""},
		"an empty subject":              {rs(map[string]any{"sub": " "}), ""},
		"a subject that is a number":    {rs(map[string]any{"sub": 7}), ""},
		"a subject with a line break":   {rs(map[string]any{"sub": "alice\nadmin"}), ""},
		"a scope is missing":            {rs(map[string]any{"scope": "kafka:read"}), ""},
		"a scope that begins alike":     {rs(map[string]any{"scope": "kafka:writer"}), ""},
		"no scope":                      {rs(map[string]any{"scope": nil}), ""},
		"scopes that are none":          {rs(map[string]any{"scope": 7}), ""},
		"no token":                      {"", ""},
		"dots":                          {"..", ""},
	} {
		got, err := tokens.verify(c.token, now)
		if got.user != c.user || (err == nil) != (c.user != "") {
			t.Errorf("%s: got %q, %v; want %q", name, got.user, err, c.user)
		}
	}
}

func TestUnsecuredTokensNeedTheSwitch(t *testing.T) {
	cfg := DefaultTokenConfig()
	cfg.Unsecured = true
	tokens, _, err := NewTokens(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tokens.verify(unsecured(t, `{"alg":"none"}`, goodClaims(nil)), time.Now()); err != nil || got.user != "alice" {
		t.Errorf("got %+v, %v", got, err)
	}
	keys := newSigners(t)
	for name, token := range map[string]string{
		"signed":      sign(t, jose.RS256, keys["rsa"], "rsa", goodClaims(nil)),
		"expired":     unsecured(t, `{"alg":"none"}`, goodClaims(map[string]any{"iat": 1, "exp": 2})),
		"not a token": "a.b.c",
	} {
		if got, err := tokens.verify(token, time.Now()); err == nil {
			t.Errorf("%s: taken for %+v", name, got)
		}
	}
}

// TestNoKeysNoTokens: without keys nothing starts (CVE-2026-110985), and keys come
// from nowhere but where the operator allowed (CVE-2024-31141, CVE-2025-27817).
func TestNoKeysNoTokens(t *testing.T) {
	keys := newSigners(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // to be refused
	if err != nil {
		t.Fatal(err)
	}
	weak, err := (&jose.JSONWebKey{Key: small.Public(), KeyID: "weak"}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	secret := `{"kty":"oct","kid":"s","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}`
	private, err := (&jose.JSONWebKey{Key: keys["rsa"], KeyID: "p"}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"login.example"}
	for name, c := range map[string]struct {
		change func(*TokenConfig)
		want   string
	}{
		"neither file nor URL": {func(*TokenConfig) {}, "set one of the two"},
		"both":                 {func(c *TokenConfig) { c.JWKSFile, c.JWKSURL, c.AllowedHosts = "f", "https://login.example/k", allowed }, "set one of the two"},
		"keys and unsecured":   {func(c *TokenConfig) { c.JWKSFile, c.Unsecured = keys.file(t), true }, "remove one"},
		"a missing file":       {func(c *TokenConfig) { c.JWKSFile = filepath.Join(t.TempDir(), "none") }, "no such file"},
		"no key in the file":   {func(c *TokenConfig) { c.JWKSFile = signers{}.file(t) }, "none of 0 keys"},
		"only keys of no use": {func(c *TokenConfig) {
			c.JWKSFile = signers{}.file(t, secret, string(weak), string(private), `{"kty":"XYZ"}`)
		}, "none of 4 keys"},
		"file://":                  {func(c *TokenConfig) { c.JWKSURL, c.AllowedHosts = "file:///etc/passwd", allowed }, "not https"},
		"http":                     {func(c *TokenConfig) { c.JWKSURL, c.AllowedHosts = "http://login.example/k", allowed }, "not https"},
		"another host":             {func(c *TokenConfig) { c.JWKSURL, c.AllowedHosts = "https://169.254.169.254/k", allowed }, "allowed hosts"},
		"no host allowed":          {func(c *TokenConfig) { c.JWKSURL = "https://login.example/k" }, "allowed hosts"},
		"a host that begins alike": {func(c *TokenConfig) { c.JWKSURL, c.AllowedHosts = "https://login.example.evil.example/k", allowed }, "allowed hosts"},
		"a user in the URL":        {func(c *TokenConfig) { c.JWKSURL, c.AllowedHosts = "https://u:p@login.example/k", allowed }, "user in it"},
		"none as an algorithm":     {func(c *TokenConfig) { c.JWKSFile, c.Algorithms = keys.file(t), []string{"none"} }, `"none"`},
		"HMAC as an algorithm":     {func(c *TokenConfig) { c.JWKSFile, c.Algorithms = keys.file(t), []string{"HS256"} }, `"HS256"`},
		"no algorithm":             {func(c *TokenConfig) { c.JWKSFile, c.Algorithms = keys.file(t), nil }, "no signature algorithm"},
		"a skew of a day":          {func(c *TokenConfig) { c.JWKSFile, c.ClockSkew = keys.file(t), 24*time.Hour }, "clock skew"},
		"refresh all the time":     {func(c *TokenConfig) { c.JWKSURL, c.AllowedHosts, c.JWKSRefresh = "https://login.example/k", allowed, 1 }, "refresh"},
	} {
		cfg := DefaultTokenConfig()
		c.change(&cfg)
		if _, _, err := NewTokens(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestKeysFromAURL(t *testing.T) {
	keys := newSigners(t)
	var answer atomic.Pointer[func(w http.ResponseWriter, r *http.Request)]
	set := func(f func(w http.ResponseWriter, r *http.Request)) { answer.Store(&f) }
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*answer.Load())(w, r) }))
	defer server.Close()
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultTokenConfig()
	cfg.JWKSURL, cfg.AllowedHosts, cfg.JWKSCAFile = server.URL+"/keys", []string{u.Hostname()}, caFile
	token := sign(t, jose.RS256, keys["rsa"], "rsa", goodClaims(nil))

	for name, bad := range map[string]func(w http.ResponseWriter, r *http.Request){
		"an error":              func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"no keys":               func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"keys":[]}`)) },
		"no JSON":               func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`<html>`)) },
		"more than anybody has": func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, maxKeys+1)) },
		"redirect elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://169.254.169.254/keys", http.StatusFound)
		},
		"redirect to http": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+u.Host+"/keys", http.StatusFound)
		},
	} {
		set(bad)
		tokens, warning, err := NewTokens(context.Background(), cfg)
		if err != nil || warning == nil {
			t.Fatalf("%s: %v, warning %v: want a start with a warning", name, err, warning)
		}
		if _, err := tokens.verify(token, time.Now()); err == nil {
			t.Errorf("%s: a token is taken without keys", name)
		}
	}

	set(func(w http.ResponseWriter, _ *http.Request) { w.Write(keys.jwks(t)) })
	tokens, warning, err := NewTokens(context.Background(), cfg)
	if err != nil || warning != nil {
		t.Fatal(err, warning)
	}
	if _, err := tokens.verify(token, time.Now()); err != nil {
		t.Errorf("with keys: %v", err)
	}
	// The provider fails: what was good stays good. Then it changes its keys.
	set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	if err := tokens.keys.refresh(context.Background()); err == nil {
		t.Error("a failure is none")
	}
	if _, err := tokens.verify(token, time.Now()); err != nil {
		t.Errorf("after a failed refresh: %v", err)
	}
	next := newSigners(t)
	set(func(w http.ResponseWriter, _ *http.Request) { w.Write(next.jwks(t)) })
	if err := tokens.keys.refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.verify(token, time.Now()); err == nil {
		t.Error("a token of a key that was withdrawn is taken")
	}
}

// TestKeysAreLookedForAgain: a file that changed within seconds, and no more often
// than that for tokens that name unknown keys.
func TestKeysAreLookedForAgain(t *testing.T) {
	keys, next := newSigners(t), newSigners(t)
	file := keys.file(t)
	synctest.Test(t, func(t *testing.T) {
		tokens := newTokens(t, func(c *TokenConfig) { c.JWKSFile = file })
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- tokens.Run(ctx, slog.New(slog.DiscardHandler)) }()
		if err := os.WriteFile(file, next.jwks(t), 0o600); err != nil {
			t.Fatal(err)
		}
		token := sign(t, jose.RS256, next["rsa"], "rsa", goodClaims(nil))
		if _, err := tokens.verify(token, time.Now()); err == nil {
			t.Error("the new key is known at once")
		}
		time.Sleep(2*keysAgain + time.Second) // of the bubble's clock
		synctest.Wait()
		if _, err := tokens.verify(token, time.Now()); err != nil {
			t.Errorf("the new key is not known after a while: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOAuthBearerExchange(t *testing.T) {
	keys := newSigners(t)
	tokens := newTokens(t, func(c *TokenConfig) { c.JWKSFile = keys.file(t) })
	good := sign(t, jose.RS256, keys["rsa"], "rsa", goodClaims(nil))
	bad := sign(t, jose.RS256, keys["rsa"], "rsa", goodClaims(map[string]any{"aud": "other"}))
	a := New(users{}, []byte("k"), tokens)
	for name, c := range map[string]struct {
		message string
		user    string
		reply   string
	}{
		"good":                       {"n,,\x01auth=Bearer " + good + "\x01\x01", "alice", ""},
		"scheme in small letters":    {"n,,\x01auth=bearer " + good + "\x01\x01", "alice", ""},
		"with extensions":            {"n,,\x01auth=Bearer " + good + "\x01traceId=123\x01\x01", "alice", ""},
		"own authorisation id":       {"n,a=alice,\x01auth=Bearer " + good + "\x01\x01", "alice", ""},
		"another's (CVE-2017-12610)": {"n,a=admin,\x01auth=Bearer " + good + "\x01\x01", "", ""},
		"a bad token":                {"n,,\x01auth=Bearer " + bad + "\x01\x01", "", `{"status":"invalid_token","scope":"kafka:write"}`},
		"two tokens":                 {"n,,\x01auth=Bearer " + bad + "\x01auth=Bearer " + good + "\x01\x01", "", ""},
		"no token":                   {"n,,\x01\x01", "", ""},
		"another scheme":             {"n,,\x01auth=Basic " + good + "\x01\x01", "", ""},
		"channel binding":            {"p=tls-unique,,\x01auth=Bearer " + good + "\x01\x01", "", ""},
		"cut off":                    {"n,,\x01auth=Bearer " + good + "\x01", "", ""},
		"an extension without name":  {"n,,\x01auth=Bearer " + good + "\x01=x\x01\x01", "", ""},
		"empty":                      {"", "", ""},
	} {
		s, ok := a.Start(OAuthBearer, "10.0.0.1")
		if !ok {
			t.Fatal("OAUTHBEARER is unknown")
		}
		reply, done, err := s.Step([]byte(c.message))
		if string(reply) != c.reply || s.User() != c.user || done != (c.user != "") || (err == nil) != (c.user != "" || c.reply != "") {
			t.Errorf("%s: got %q, user %q, done %v, %v", name, reply, s.User(), done, err)
		}
		if c.user != "" && time.Until(s.Expires()) > time.Hour {
			t.Errorf("%s: expires %v", name, s.Expires())
		}
		// The acknowledgement of a refusal ends in the same error, and nothing
		// that comes then helps (one exchange, one token).
		for _, more := range []string{"\x01", "n,,\x01auth=Bearer " + good + "\x01\x01"} {
			_, done, err := s.Step([]byte(more))
			if done || !errors.Is(err, ErrFailed) {
				t.Errorf("%s: then %q: done %v, %v", name, more, done, err)
			}
			if more == "\x01" && c.reply != "" && Told(err) != c.reply {
				t.Errorf("%s: told %q", name, Told(err))
			}
		}
	}
	if _, ok := New(users{}, []byte("k"), nil).Start(OAuthBearer, "10.0.0.1"); ok {
		t.Error("OAUTHBEARER without keys")
	}
}

func FuzzTokenMessage(f *testing.F) {
	keys := newSigners(f)
	tokens := newTokens(f, func(c *TokenConfig) { c.JWKSFile = keys.file(f) })
	stranger := newSigners(f)
	f.Add("n,,\x01auth=Bearer " + sign(f, jose.RS256, stranger["rsa"], "rsa", goodClaims(nil)) + "\x01\x01")
	f.Add("n,a=al=2Cice,\x01auth=Bearer a.b.c\x01x=y\x01\x01")
	f.Add("n,,\x01auth=Bearer " + unsecured(f, `{"alg":"none"}`, goodClaims(nil)) + "\x01\x01")
	f.Fuzz(func(t *testing.T, in string) {
		s, _ := New(users{}, []byte("k"), tokens).Start(OAuthBearer, "10.0.0.1")
		if _, done, _ := s.Step([]byte(in)); done || s.User() != "" {
			t.Fatalf("%q proves to be %q", in, s.User())
		}
	})
}
